"""Where a node keeps things, and how they are opened: for its roles and for those who only ask."""

from __future__ import annotations

from config.settings import Settings
from node.archive import Archive
from node.clock import utc_now
from node.ledger import Ledger, open_ledger, sqlite_url


def ledger_url(settings: Settings) -> str:
    """The ledger's database: the configured one, or a file in the data folder."""
    return settings.node.database_url or sqlite_url(
        settings.node.data_folder.absolute() / "node.sqlite"
    )


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
