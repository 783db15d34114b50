"""The transport connection: one large receive buffer, and one wait for all that may happen."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
from typing import TYPE_CHECKING, Final, cast

from pynetdicom.transport import AssociationSocket

if TYPE_CHECKING:
    from node.streaming.association import StreamingAssociation

RECEIVE_BYTES: Final = 256 * 1024
"""Two of DCMTK's largest PDUs; larger ones gained nothing and stay out of the processor's cache."""


class Closed(ConnectionError):
    """The peer is gone."""


class StreamSocket(AssociationSocket):
    """An accepted connection whose bytes are read in large steps and looked at in place.

    Args:
        association: The acceptor.
        connection: Accepted; TLS or not.
    """

    def __init__(self, association: StreamingAssociation, connection: socket.socket) -> None:
        super().__init__(association, client_socket=connection)
        # Accepted sockets have no time limit of their own: a half-open peer would hold us for ever.
        connection.settimeout(association.network_timeout)
        with contextlib.suppress(OSError):  # gone already; the first read will tell
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer: Final = memoryview(bytearray(RECEIVE_BYTES))
        self._start = self._end = 0
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._poll: Final = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._ear, select.POLLIN)

    @property
    def buffered(self) -> int:
        """How many bytes have been received and not been taken."""
        return self._end - self._start

    @property
    def ready(self) -> bool:
        """Whether reading gets something at once: bytes, or word that the peer has closed."""
        return self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Wait until something can be read or somebody rings, at most so long.

        Returns:
            Whether something can be read.
        """
        return bool(self.buffered) or self._wait_for_more(seconds)

    def ring(self) -> None:
        """Make the thread that waits look up. May be called from any thread, at any time."""
        # A full pipe has rung already; a closed one has nobody left to listen.
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    def fill(self, seconds: float) -> bool:
        """Receive what there is, waiting for it at most so long; the buffer must have been emptied,
        but for the few bytes of a head.

        Returns:
            Whether something came.

        Raises:
            Closed: When nothing will come any more.
        """
        if self.socket is None:
            raise Closed
        left = self.buffered
        self._buffer[:left] = self._buffer[self._start : self._end].tobytes()
        self._start, self._end = 0, left
        count = self._receive(self._buffer[left:])
        if count is None:
            if not self._wait_for_more(seconds):
                return False
            count = self._receive(self._buffer[left:])
        if count == 0:
            raise Closed
        self._end += count or 0
        return bool(count)

    def peek(self, count: int) -> bytes:
        """The next bytes, left where they are."""
        return self._buffer[self._start : self._start + count].tobytes()

    def take(self, most: int) -> memoryview:
        """The next bytes, as many as are buffered, at most so many; good until the next `fill`."""
        view = self._buffer[self._start : min(self._end, self._start + most)]
        self._start += len(view)
        return view

    def dispose(self) -> None:
        """Give back what does not belong to the connection."""
        self._bell.close()
        self._ear.close()

    def _receive(self, into: memoryview) -> int | None:
        """Receive what is there; None for nothing, 0 for the end."""
        connection = self.socket
        try:
            if isinstance(connection, ssl.SSLSocket):
                return connection.recv_into(into) if self._wait_for_more(0) else None
            # A socket with a time limit does not block; its own methods would poll it first.
            return os.readv(cast(socket.socket, connection).fileno(), [into])
        except BlockingIOError:
            return None

    def _wait_for_more(self, seconds: float) -> bool:
        if self.socket is None:
            return False
        # TLS may hold bytes that the system does not know of (pynetdicom's issue 528).
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        events = dict(self._poll.poll(seconds * 1000))
        if events.pop(self._ear.fileno(), None):
            self._ear.recv(4096)
        return bool(events)
