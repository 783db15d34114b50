"""The listening socket: each connection is secured in its own thread and never waited for.

pynetdicom's server shakes hands in the thread that accepts, so that one peer that connects and says
nothing keeps all others out. Here accepting is all that thread does.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from node import tls
from node.streaming import OnEnd, OpenSink, StreamingServer

YIELD_S: Final = 0.008
"""How long an acceptor leaves a new connection to the others, for each association that it has:
threads of one process wait for the interpreter's lock, processes do not."""

_MOST_YIELDS: Final = 2


@dataclass(frozen=True)
class Door:
    """How connections are let in.

    Args:
        context: Tells the context of TLS for the next connection; None for plain connections.
        timeout_s: Longest wait for the handshake, and for the rest of a PDU that has begun.
        maximum_connections: What is beyond that is closed at once, unheard.
        on_failure: Told the address of a peer, why it did not get through, and whether that was
            TLS; called in the connection's own thread.
    """

    context: Callable[[], ssl.SSLContext] | None
    timeout_s: float
    maximum_connections: int
    on_failure: Callable[[str, str, bool], None]


class Listener(StreamingServer):
    """An association server with a `Door`."""

    def __init__(self, *args: Any, door: Door, **options: Any) -> None:
        self._door: Final = door
        self._handshakes = 0
        self._count: Final = threading.Lock()
        super().__init__(*args, **options)
        # The accepting thread must never wait for anything but connections.
        self.daemon_threads = True

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept, and nothing more; after the acceptors that have fewer associations."""
        if self.is_shared:
            time.sleep(min(len(self.active_associations), _MOST_YIELDS) * YIELD_S)
        connection, address = cast(socket.socket, self.socket).accept()
        # A peer that stops in the middle of a PDU must not hold its reader for ever.
        connection.settimeout(self._door.timeout_s)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection."""
        del request
        if len(self.active_associations) + self._handshakes < self._door.maximum_connections:
            return True
        self._door.on_failure(str(client_address[0]), "too many connections", False)
        return False

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in this connection's thread, then begin its association."""
        if self._door.context is None:
            super().finish_request(request, client_address)
            return
        with self._count:
            self._handshakes += 1
        try:
            if not request.recv(1, socket.MSG_PEEK):
                # Not a word: somebody looked whether the port is open.
                raise ConnectionAbortedError
            secured = self._door.context().wrap_socket(request, server_side=True)
        except OSError as error:
            self.shutdown_request(request)
            address = str(client_address[0])
            self._door.on_failure(address, tls.reason_of(error), isinstance(error, ssl.SSLError))
            return
        finally:
            with self._count:
                self._handshakes -= 1
        super().finish_request(secured, client_address)


def listen(
    entity: Any,
    address: tuple[str, int],
    handlers: list[Any],
    door: Door,
    open_sink: OpenSink,
    on_end: OnEnd,
    port: socket.socket | None = None,
) -> Listener:
    """Serve `entity` at `address` in the background, as pynetdicom's own `start_server` does.

    Args:
        entity: Ours.
        address: To bind to, without `port`.
        handlers: Of pynetdicom's events.
        door: How connections are let in.
        open_sink: Asked for each C-STORE request where its data set goes.
        on_end: Told of each connection that is over.
        port: A listening socket that is shared with other processes.

    Raises:
        OSError: When the address cannot be had.
    """
    server = cast(
        Listener,
        entity.make_server(
            address,
            evt_handlers=handlers,
            server_class=Listener,
            door=door,
            open_sink=open_sink,
            on_end=on_end,
            port=port,
        ),
    )
    threading.Thread(target=server.serve_forever, name="AcceptorServer", daemon=True).start()
    # Where pynetdicom looks for its servers when it counts associations.
    entity._servers.append(server)
    return server
