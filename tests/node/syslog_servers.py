"""Syslog servers for the tests: rsyslog with TLS, and one of ours that dies when it is told to."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.node.certificates import Authority, Pair
from tests.peers import LOOPBACK, _comes_up, _found, _process, free_port, is_listening


def frames(stream: bytes) -> list[bytes]:
    """The messages of an octet-counted stream (RFC 5425 4.3), the last one as far as it came."""
    found = []
    while stream:
        count, _, rest = stream.partition(b" ")
        found.append(rest[: int(count)])
        stream = rest[int(count) :]
    return found


class Listener:
    """Takes batches over TLS; the first `broken` connections it resets in the middle.

    Args:
        context: Of the server's side; None for TCP without TLS.
        broken: How many connections to break off after the first bytes.
    """

    def __init__(self, context: ssl.SSLContext | None, broken: int = 0) -> None:
        self._context, self._broken = context, broken
        self._socket = socket.create_server((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        self.batches: list[bytes] = []
        self.attempts = 0
        self.has_bytes = threading.Event()
        self.may_close = threading.Event()
        self.may_close.set()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def messages(self) -> list[bytes]:
        return [one for batch in self.batches for one in frames(batch)]

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._socket.accept()
                self.attempts += 1
                with contextlib.suppress(OSError):
                    self._take(plain)

    def _take(self, plain: socket.socket) -> None:
        taken = self._context.wrap_socket(plain, server_side=True) if self._context else plain
        with taken:
            if self._broken > 0:
                self._broken -= 1
                # Bytes of the sender are there and unread: the system resets the connection.
                select.select([taken], [], [], 10)
                return
            batch = taken.recv(100)
            self.has_bytes.set()
            while more := taken.recv(65536):
                batch += more
            self.may_close.wait(30)
            self.batches.append(batch)


@contextmanager
def rsyslog(folder: Path, authority: Authority, pair: Pair) -> Iterator[tuple[int, Path]]:
    """Debian's rsyslog with TLS and clients that must show a certificate; port and its file."""
    program = _found("rsyslogd")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "messages"
    for _ in range(3):
        port = free_port()
        (folder / "rsyslog.conf").write_text(
            f"""global(workDirectory="{folder}" maxMessageSize="64k"
  defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{authority.file}"
  defaultNetstreamDriverCertFile="{pair.certificate}" defaultNetstreamDriverKeyFile="{pair.key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1"
  streamDriver.authMode="x509/certvalid")
input(type="imtcp" port="{port}" address="{LOOPBACK}")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{log}" template="raw")
"""
        )
        command = [program, "-n", "-f", str(folder / "rsyslog.conf"), "-i", str(folder / "pid")]
        with _process(command, folder / "rsyslog.log") as running:
            if _comes_up(running, lambda port=port: is_listening(port)):
                yield port, log
                return
    raise AssertionError(f"rsyslog did not start: {(folder / 'rsyslog.log').read_text()}")
