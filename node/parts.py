"""Where a node keeps things, and how they are opened: for its roles and for those who only ask."""

from __future__ import annotations

import re
import socket

from config.settings import Settings
from node.archive import Archive
from node.clock import utc_now
from node.ledger import Ledger, open_ledger, sqlite_url


def ledger_url(settings: Settings) -> str:
    """The ledger's database: the configured one, or a file in the data folder."""
    return settings.node.database_url or sqlite_url(
        settings.node.data_folder.absolute() / "node.sqlite"
    )


def process_name(settings: Settings, role: str) -> str:
    """The stable name of a process, which is its own among all that share the database.

    On SQLite there is one of each role: it is the name of the role, so that a second one finds the
    lock taken.
    """
    if not settings.node.database_url:
        return role
    host = settings.node.name or socket.gethostname().split(".")[0]
    return f"{role}-{re.sub('[^A-Za-z0-9_-]', '-', host)[:32]}"


def open_parts(settings: Settings, owner: str) -> tuple[Ledger, Archive]:
    """Ledger and archive of a prepared node.

    Args:
        settings: Of the node.
        owner: Stable name of the process, for what it leaves half-written.

    Raises:
        Stop: When the node was not prepared.
    """
    ledger = open_ledger(ledger_url(settings), utc_now)
    return ledger, Archive(settings.node.data_folder.absolute() / "archive", owner)
