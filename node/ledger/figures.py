"""Figures for health and metrics: cheap to ask for, whole tables at most by an indexed state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select

from node.ledger.database import Database
from node.records import (
    AssociationRecord,
    AuditEventRecord,
    DeliveryRecord,
    OutboxRecord,
    SeriesRecord,
    SynthesisRecord,
)
from node.states import DeliveryState, SynthesisState

_WAITING: Final = (str(DeliveryState.PENDING), str(DeliveryState.SENDING))
_DONE: Final = (str(DeliveryState.DELIVERED), str(DeliveryState.COMMITTED))


@dataclass(frozen=True)
class Queue:
    """What waits for the worker.

    Args:
        depth: Syntheses in state `queued`.
        oldest_at: Since when the one waits that waits longest, as the ledger writes it. A run
            that was postponed waits on; one that was retried by hand waits anew.
        running: Syntheses in state `running`.
        longest_running_at: When the one that runs longest began.
    """

    depth: int
    oldest_at: str | None
    running: int
    longest_running_at: str | None


@dataclass(frozen=True)
class DestinationFigures:
    """How it goes with one destination.

    Args:
        states: Deliveries by state.
        last_delivered_at: When it last had a whole delivery.
        waiting_since: Since when the delivery that is open for longest is: created, retried, or
            refused by a destination that had it.
    """

    states: dict[str, int]
    last_delivered_at: str | None
    waiting_since: str | None


@dataclass(frozen=True)
class Backlog:
    """Audit events that a receiver of them, such as the syslog server, has not been told.

    Args:
        events: How many.
        oldest_at: Of the first of them, as the ledger writes it; None when there is none.
    """

    events: int
    oldest_at: str | None


class Figures:
    """Every question of health and metrics."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def states(self) -> dict[str, dict[str, int]]:
        """Series and syntheses by state."""
        with self._database.reading() as session:
            return {
                "series": _counts(session, SeriesRecord.state),
                "syntheses": _counts(session, SynthesisRecord.state),
            }

    def associations(self) -> dict[str, int]:
        """Associations that brought an instance, by their ending; `open` are not closed yet."""
        with self._database.reading() as session:
            return _counts(session, func.coalesce(AssociationRecord.ending, "open"))

    def queue(self) -> Queue:
        """What waits for the worker, and what it is at."""
        with self._database.reading() as session:

            def of(state: SynthesisState, since: Any) -> tuple[int, str | None]:
                query = select(func.count(), func.min(since)).select_from(SynthesisRecord)
                row = session.execute(query.where(SynthesisRecord.state == str(state))).one()
                return row[0], row[1]

            depth, oldest_at = of(SynthesisState.QUEUED, SynthesisRecord.queued_at)
            running, longest_at = of(SynthesisState.RUNNING, SynthesisRecord.updated_at)
            return Queue(depth, oldest_at, running, longest_at)

    def backlog(self, receiver: str) -> Backlog:
        """What the receiver of this name has not been told yet."""
        told = select(OutboxRecord.sequence).filter_by(name=receiver).scalar_subquery()
        query = select(func.count(), func.min(AuditEventRecord.at))
        with self._database.reading() as session:
            after = AuditEventRecord.sequence > func.coalesce(told, 0)
            count, oldest_at = session.execute(query.where(after)).one()
            return Backlog(count, oldest_at)

    def destinations(self) -> dict[str, DestinationFigures]:
        """Every destination that ever had a delivery, by name."""
        query = select(
            DeliveryRecord.destination,
            DeliveryRecord.state,
            func.count(),
            func.min(DeliveryRecord.opened_at),
            func.max(DeliveryRecord.updated_at),
        ).group_by(DeliveryRecord.destination, DeliveryRecord.state)
        with self._database.reading() as session:
            rows = session.execute(query).all()
        found: dict[str, DestinationFigures] = {}
        for name in sorted({row[0] for row in rows}):
            own = [row for row in rows if row[0] == name]
            waiting = [row[3] for row in own if row[1] in _WAITING]
            delivered = [row[4] for row in own if row[1] in _DONE]
            found[name] = DestinationFigures(
                {row[1]: row[2] for row in own},
                max(delivered, default=None),
                min(waiting, default=None),
            )
        return found


def _counts(session: Any, column: Any) -> dict[str, int]:
    rows = session.execute(select(column, func.count()).group_by(column))
    return {row[0]: row[1] for row in rows}
