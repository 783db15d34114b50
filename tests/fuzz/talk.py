"""One connection to a listening receiver: write what was made, read what comes, say the end."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from tests.fuzz.pdus import Connection

# Far beyond what any answer takes; whoever is silent for so long hangs.
HANG_S = 20.0
# An answer takes milliseconds; a peer that waits for more is told after this that there is none.
PAUSE_S = 0.2
_LAST = ("rejected", "released", "aborted")
_ANSWERS = {2: "accepted", 3: "rejected", 6: "released", 7: "aborted"}


class Hang(AssertionError):
    """The receiver neither answered nor closed."""


def talk(port: int, given: Connection) -> str:
    """How the receiver took it: its last word, or the status of its last C-STORE response.

    It "waits" when it kept the connection open for more, and closed it when we did.

    Raises:
        Hang: When the connection stays open and silent after we have closed our side.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        heard, is_closed = b"", False
        with contextlib.suppress(OSError):
            for number, part in enumerate(given.parts):
                connection.sendall(part)
                if number == 0 and given.is_associated:
                    heard += _read_pdu(connection)
            # Closing at once would cut off what it is still at.
            more, is_closed = _read_while_it_speaks(connection)
            heard += more
            if not is_closed:
                connection.shutdown(socket.SHUT_WR)
        if not is_closed:
            heard += _read_all(connection, given)
    word = _last_word(heard)
    # After its last word the receiver leaves it to us to close (PS3.8 9.2.3, Sta13).
    return word if is_closed or word in _LAST else f"{word}, waits"


def _read_pdu(connection: socket.socket) -> bytes:
    head = _exactly(connection, 6)
    return head + _exactly(connection, struct.unpack(">I", head[2:6])[0])


def _exactly(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        more = connection.recv(count - len(content))
        if not more:
            raise ConnectionError("closed")
        content += more
    return content


def _read_while_it_speaks(connection: socket.socket) -> tuple[bytes, bool]:
    """What comes until it closes or has been silent for a while, and whether it closed."""
    content = b""
    connection.settimeout(PAUSE_S)
    try:
        while more := connection.recv(65536):
            content += more
    except TimeoutError:
        return content, False
    except ConnectionError:
        return content, True
    finally:
        connection.settimeout(HANG_S)
    return content, True


def _read_all(connection: socket.socket, given: Connection) -> bytes:
    content, end = b"", time.monotonic() + HANG_S
    while True:
        try:
            more = connection.recv(65536)
        except ConnectionError:
            return content
        except TimeoutError:
            more = b"" if time.monotonic() < end else None  # type: ignore[assignment]
            if more is None:
                raise Hang(f"silent for {HANG_S} s after {given}") from None
            continue
        if not more:
            return content
        content += more


def _last_word(heard: bytes) -> str:
    word, at = "closed", 0
    while at + 6 <= len(heard):
        kind, length = heard[at], struct.unpack(">I", heard[at + 2 : at + 6])[0]
        body = heard[at + 6 : at + 6 + length]
        if kind == 4:
            word = _status(body)
        elif not (kind == 6 and word.startswith("0x")):
            word = _ANSWERS.get(kind, f"PDU {kind}")
        at += 6 + length
    return word


def _status(body: bytes) -> str:
    """Status (0000,0900) of a response."""
    at = body.find(struct.pack("<HHI", 0, 0x0900, 2))
    return "no status" if at < 0 else f"0x{struct.unpack('<H', body[at + 8 : at + 10])[0]:04X}"
