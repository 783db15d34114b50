"""How long a PostgreSQL is waited for that dies, hands over to another one, or does not answer."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from sqlalchemy.engine import make_url

TURN_S: Final = 15.0
"""How long a writer waits for the end of its turn. A primary whose synchronous standby is gone lets
a commit wait for ever, and `statement_timeout` would turn that into a success."""

_PATIENCE: Final = {
    # Of several hosts the one that takes writes: a standby answers as well.
    "target_session_attrs": "read-write",
    # For each host. Without it two minutes, and senders are not that patient.
    "connect_timeout": "5",
    # A host that is gone without a word: else TCP asks for a quarter of an hour whether what we
    # sent has come, and begins to ask after two hours whether an answer will.
    "tcp_user_timeout": "10000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}
"""Of libpq (PostgreSQL, 34.1.2); each wait is shorter than that of a writer for its turn."""


def with_patience(url: str) -> str:
    """The URL of a PostgreSQL, with libpq's parameters for a server that dies or hands over; what
    the site has set itself stands. Any other URL is left as it is."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return url
    ours = {key: value for key, value in _PATIENCE.items() if key not in parsed.query}
    return parsed.update_query_dict(ours).render_as_string(hide_password=False)


class Limit:
    """Cuts off the connection of a writer whose turn does not end.

    Whether it was committed is unknown then, as it is when a server dies: nobody is told success,
    and whoever does it again finds what there is.

    Args:
        is_served: Whether there is a server; a file has no connection.
    """

    def __init__(self, is_served: bool) -> None:
        self._is_served: Final = is_served
        self._timer: threading.Timer | None = None
        self._held: socket.socket | None = None

    def begin(self, connection: Any) -> None:
        """Count from now on.

        Args:
            connection: Of the driver.
        """
        if not self._is_served:
            return
        # Of our own: the driver's may be closed, and its number another's, when time is up.
        self._held = socket.socket(fileno=os.dup(connection.fileno()))
        self._timer = threading.Timer(TURN_S, _cut, [self._held])
        self._timer.daemon = True
        self._timer.start()

    @contextmanager
    def held(self) -> Iterator[Limit]:
        """Until the block ends."""
        try:
            yield self
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._held is not None:
                self._held.close()


def _cut(held: socket.socket) -> None:
    # Closed in the last moment, by its writer or by the server.
    with suppress(OSError):
        held.shutdown(socket.SHUT_RDWR)
