"""Storage commitment: what was asked of which destination, and what it answered.

A delivery that is `delivered` is `committed` when its destination takes responsibility for every
instance (PS3.4 annex J). What it does not, counts as never sent: the delivery is then sent again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, exists, func, insert, select
from sqlalchemy.orm import Session

from node.audit import Kind
from node.clock import from_text
from node.errors import Refuse
from node.ledger.database import Database, move
from node.ledger.deliveries import Deliveries, remaining_of
from node.ledger.entries import DeliveryEntry, Output
from node.ledger.syntheses import find, move_synthesis, outputs_of
from node.records import CommitmentRecord, DeliveredInstanceRecord, DeliveryRecord, SynthesisRecord
from node.states import (
    COMMITMENT_MOVES,
    DELIVERY_MOVES,
    CommitmentState,
    DeliveryState,
    SynthesisState,
)

NOT_MENTIONED: Final = 0x0110
"""Our reason for an instance that a report forgot: processing failure (PS3.7 annex C)."""


@dataclass(frozen=True)
class Transaction:
    """One request for commitment as it stands in the ledger."""

    uid: str
    state: CommitmentState
    requested_at: datetime
    ended_at: datetime | None
    reason: str | None


@dataclass(frozen=True)
class Awaited:
    """A delivery whose destination got everything and has not taken responsibility for it.

    Args:
        delivered_at: Since when every destination of this run got it.
        outputs: All that it got.
        remaining: What it would not commit to and must be sent again.
        transactions: The requests of this run, in order.
        is_asked: Whether it is to commit at all; where not, something remains.
    """

    delivery: DeliveryEntry
    delivered_at: datetime
    outputs: tuple[Output, ...]
    remaining: tuple[Output, ...]
    transactions: tuple[Transaction, ...]
    is_asked: bool


class Commitments:
    """Every verb of storage commitment."""

    def __init__(self, database: Database, deliveries: Deliveries) -> None:
        self._database: Final = database
        self._deliveries: Final = deliveries

    def delivered_jobs(self) -> tuple[str, ...]:
        """Syntheses that every destination has and that are not committed."""
        with self._database.reading() as session:
            return tuple(
                session.scalars(
                    select(SynthesisRecord.job_id)
                    .filter_by(state=str(SynthesisState.DELIVERED))
                    .order_by(SynthesisRecord.updated_at)
                )
            )

    def awaited(self, job_id: str, destinations: Collection[str]) -> tuple[Awaited, ...]:
        """What these destinations, by name, have of a job and have not committed to.

        And whatever other destinations would not commit to when they were asked: what a
        destination said it does not have is sent, though nobody wants its word any more.
        """
        with self._database.reading() as session:
            synthesis = find(session, job_id)
            rows = session.scalars(
                select(DeliveryRecord)
                .filter_by(job_id=job_id, state=str(DeliveryState.DELIVERED))
                .order_by(DeliveryRecord.id)
            )
            found = [
                self._awaited(session, row, synthesis, row.destination in destinations)
                for row in list(rows)
            ]
            return tuple(one for one in found if one.is_asked or one.remaining)

    def refused_deliveries(self) -> tuple[int, ...]:
        """Deliveries of which something is to be sent again and no attempt has begun."""
        unfinished = (str(SynthesisState.DELIVERED), str(SynthesisState.DELIVERING))
        with self._database.reading() as session:
            rows = session.scalars(
                select(DeliveryRecord)
                .join(SynthesisRecord, SynthesisRecord.job_id == DeliveryRecord.job_id)
                .where(
                    SynthesisRecord.state.in_(unfinished),
                    DeliveryRecord.state == str(DeliveryState.DELIVERED),
                    exists().where(
                        CommitmentRecord.delivery_id == DeliveryRecord.id,
                        CommitmentRecord.state == str(CommitmentState.REFUSED),
                    ),
                )
                .order_by(DeliveryRecord.id)
            )
            return tuple(row.id for row in list(rows) if remaining_of(session, row))

    def request(self, awaited: Awaited, transaction_uid: str, actor: str) -> bool:
        """Put a request on record, before it is sent: its answer may come before its response.

        Returns:
            False when another worker has just asked.
        """
        delivery = awaited.delivery
        with self._database.transaction() as session:
            count = select(func.count()).select_from(CommitmentRecord)
            own = count.filter_by(delivery_id=delivery.id, run=find(session, delivery.job_id).run)
            if session.scalar(own) != len(awaited.transactions):
                return False
            session.execute(
                insert(CommitmentRecord).values(
                    transaction_uid=transaction_uid,
                    delivery_id=delivery.id,
                    run=find(session, delivery.job_id).run,
                    state=str(CommitmentState.REQUESTED),
                    requested_at=self._database.now(),
                )
            )
            detail = {"delivery": delivery.id, "destination": delivery.destination.name}
            self._audit(session, Kind.COMMITMENT_REQUESTED, transaction_uid, actor, detail)
            return True

    def end(
        self, transaction_uid: str, state: CommitmentState, reason: str | None, actor: str
    ) -> None:
        """End a request without a report; harmless when a report came after all."""
        with self._database.transaction() as session:
            row = _row(session, transaction_uid)
            if row.state != CommitmentState.REQUESTED:
                return
            self._move(session, row, state, reason=reason)
            if state is CommitmentState.UNANSWERED:
                self._audit(session, Kind.COMMITMENT_UNANSWERED, transaction_uid, actor, {})

    def report(
        self,
        transaction_uid: str,
        committed: Collection[str],
        failures: Mapping[str, int],
        actor: str,
    ) -> CommitmentState:
        """Write down what a destination reports; the same report again changes nothing.

        Args:
            transaction_uid: Ours.
            committed: SOP Instance UIDs it takes responsibility for.
            failures: SOP Instance UID to Failure Reason (0008,1197).
            actor: AE title of whoever reports.

        Raises:
            Refuse: When no such transaction is on record.
        """
        with self._database.transaction() as session:
            row = _row(session, transaction_uid)
            state = CommitmentState(row.state)
            if state in (CommitmentState.COMMITTED, CommitmentState.REFUSED):
                return state
            delivery = session.get_one(DeliveryRecord, row.delivery_id)
            ours = {output.sop_instance_uid for output in outputs_of(session, delivery.job_id)}
            missing = ours.difference(committed, failures)
            failed = dict.fromkeys(missing, NOT_MENTIONED) | {
                uid: reason for uid, reason in failures.items() if uid in ours
            }
            if failed:
                self._refused(session, row, failed, actor)
                return CommitmentState.REFUSED
            self._move(session, row, CommitmentState.COMMITTED)
            self._audit(session, Kind.COMMITMENT_COMMITTED, transaction_uid, actor, {})
            # A late success of an earlier request does not undo a refusal that came after it.
            if delivery.state == DeliveryState.DELIVERED and not remaining_of(session, delivery):
                self._move_delivery(session, delivery, DeliveryState.COMMITTED)
            return CommitmentState.COMMITTED

    def give_up(self, awaited: Awaited, reason: str, actor: str) -> None:
        """Put a delivery that is never committed to on the dead-letter list, and its synthesis."""
        with self._database.transaction() as session:
            row = session.get_one(DeliveryRecord, awaited.delivery.id)
            if row.state != DeliveryState.DELIVERED:
                return
            self._move_delivery(session, row, DeliveryState.FAILED)
            detail = {"delivery": row.id, "destination": row.destination, "reason": reason}
            self._audit(session, Kind.DELIVERY_FAILED, row.job_id, actor, detail)
            synthesis = find(session, row.job_id)
            # Delivering: another destination is sent something again.
            if synthesis.state in (SynthesisState.DELIVERED, SynthesisState.DELIVERING):
                why = f"{row.destination} did not commit: {reason}"
                move_synthesis(
                    self._database, session, synthesis, SynthesisState.FAILED, reason=why
                )
                told = {"run": synthesis.run, "reason": why}
                self._audit(session, Kind.SYNTHESIS_FAILED, row.job_id, actor, told)

    def _refused(
        self, session: Session, row: CommitmentRecord, failed: Mapping[str, int], actor: str
    ) -> None:
        counts = sorted(set(failed.values()))
        reason = ", ".join(
            f"{sum(one == code for one in failed.values())} with 0x{code:04X}" for code in counts
        )
        self._move(
            session, row, CommitmentState.REFUSED, failures=dict(failed), reason=f"refused {reason}"
        )
        # What it does not stand for it does not have: the next attempt sends it again. Once it has
        # committed there is none, and what it answered stays on record.
        delivery = session.get_one(DeliveryRecord, row.delivery_id)
        if delivery.state != DeliveryState.COMMITTED:
            session.execute(
                delete(DeliveredInstanceRecord).where(
                    DeliveredInstanceRecord.delivery_id == row.delivery_id,
                    DeliveredInstanceRecord.sop_instance_uid.in_(list(failed)),
                )
            )
        detail = {"instances": len(failed), "reason": reason}
        self._audit(session, Kind.COMMITMENT_REFUSED, row.transaction_uid, actor, detail)

    def _awaited(
        self, session: Session, row: DeliveryRecord, synthesis: SynthesisRecord, is_asked: bool
    ) -> Awaited:
        transactions = session.scalars(
            select(CommitmentRecord)
            .filter_by(delivery_id=row.id, run=synthesis.run)
            .order_by(CommitmentRecord.requested_at)
        )
        return Awaited(
            self._deliveries.entry(session, row),
            # After a retry by hand a delivery may be of an earlier run.
            from_text(max(row.updated_at, synthesis.updated_at)),
            tuple(outputs_of(session, row.job_id)),
            remaining_of(session, row),
            tuple(_transaction(one) for one in transactions),
            is_asked,
        )

    def _move(
        self,
        session: Session,
        row: CommitmentRecord,
        target: CommitmentState,
        **values: object,
    ) -> None:
        source, key = CommitmentState(row.state), {"transaction_uid": row.transaction_uid}
        changes = {"ended_at": self._database.now(), **values}
        move(session, CommitmentRecord, key, COMMITMENT_MOVES, source, target, changes)

    def _move_delivery(self, session: Session, row: DeliveryRecord, target: DeliveryState) -> None:
        source, changes = DeliveryState(row.state), {"updated_at": self._database.now()}
        move(session, DeliveryRecord, {"id": row.id}, DELIVERY_MOVES, source, target, changes)

    def _audit(
        self, session: Session, kind: Kind, subject: str, actor: str, detail: Mapping[str, object]
    ) -> None:
        self._database.append_audit(session, kind, subject, actor, detail)


def _row(session: Session, transaction_uid: str) -> CommitmentRecord:
    row = session.get(CommitmentRecord, transaction_uid)
    if row is None:
        raise Refuse("no storage commitment transaction of this UID on record")
    return row


def _transaction(row: CommitmentRecord) -> Transaction:
    return Transaction(
        row.transaction_uid,
        CommitmentState(row.state),
        from_text(row.requested_at),
        from_text(row.ended_at) if row.ended_at else None,
        row.reason,
    )
