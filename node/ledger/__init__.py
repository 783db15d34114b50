"""The ledger: every database verb of the node, one noun per module.

`database` (transactions, the audit chain's lock, moves), `schema` (versions), then in the order of
the journey: `receiving`, `announcements`, `series`, `syntheses`, `deliveries`, `commitments`,
`retention` (with `presence`: is a file still there?, and `holdings`: all that are); `workers` for
who is alive, `copying` for the ledger as a whole, and `reports` for those who only read. SQLAlchemy
is imported here, in `node.records` and in `node.migrations`, nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.clock import Clock
from node.ledger import schema
from node.ledger.announcements import Announcements
from node.ledger.commitments import Commitments
from node.ledger.database import Database, sqlite_url
from node.ledger.deliveries import Deliveries
from node.ledger.figures import Figures
from node.ledger.holdings import Holdings
from node.ledger.outbox import Outbox
from node.ledger.proofs import Proofs
from node.ledger.receiving import Receiving
from node.ledger.reports import Reports
from node.ledger.retention import Retention
from node.ledger.schema import migrate
from node.ledger.series import Series
from node.ledger.syntheses import Syntheses
from node.ledger.workers import Workers

__all__ = ["Ledger", "migrate", "open_ledger", "sqlite_url"]


@dataclass(frozen=True)
class Ledger:
    """All verbs, by noun. Safe to use from many threads; one per process."""

    receiving: Receiving
    series: Series
    syntheses: Syntheses
    deliveries: Deliveries
    commitments: Commitments
    announcements: Announcements
    reports: Reports
    figures: Figures
    retention: Retention
    outbox: Outbox
    proofs: Proofs
    holdings: Holdings
    workers: Workers
    database: Database

    def close(self) -> None:
        """Give the database connections back."""
        self.database.close()


def open_ledger(url: str, clock: Clock) -> Ledger:
    """The ledger at `url`, whose schema must be ours; `migrate` brings it there.

    Args:
        url: ``sqlite:///...`` (see `sqlite_url`) or ``postgresql://...``.
        clock: Tells UTC moments.

    Raises:
        Stop: When the schema is of another version or the URL is none.
    """
    database = Database(url, clock)
    try:
        schema.check(database.engine)
    except BaseException:
        database.close()
        raise
    return Ledger(
        receiving=Receiving(database),
        series=Series(database),
        syntheses=Syntheses(database),
        deliveries=(deliveries := Deliveries(database)),
        commitments=Commitments(database, deliveries),
        announcements=Announcements(database),
        reports=Reports(database),
        figures=Figures(database),
        retention=Retention(database),
        outbox=Outbox(database),
        proofs=Proofs(database),
        holdings=Holdings(database),
        workers=Workers(database),
        database=database,
    )
