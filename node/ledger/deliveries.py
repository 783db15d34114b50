"""The life of a delivery: pending, sending, delivered or failed; one per synthesis and destination.

A synthesis is delivered when its last delivery is, and fails with its first failed one; both happen
in the transaction of the delivery they follow from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from node.audit import Kind
from node.errors import IllegalMove, Refuse
from node.ledger.database import Database, move
from node.ledger.entries import Attempt, DeliveryEntry, Destination, Output
from node.ledger.syntheses import (
    find,
    find_run,
    move_synthesis,
    outputs_of,
    reopen_failed,
)
from node.records import (
    DeliveredInstanceRecord,
    DeliveryAttemptRecord,
    DeliveryRecord,
    SynthesisRecord,
)
from node.states import (
    DELIVERY_MOVES,
    FINAL,
    OPEN_DELIVERIES,
    DeliveryState,
    SynthesisState,
)
from node.status import is_accepted

_DONE: Final = (str(DeliveryState.DELIVERED), str(DeliveryState.COMMITTED))


class Deliveries:
    """Every verb of the delivery tables."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def begin(
        self, job_id: str, run: int, destinations: Sequence[Destination], actor: str
    ) -> tuple[DeliveryEntry, ...]:
        """Start delivering a packaged synthesis: one delivery per destination, made once.

        On a later run a destination that is not done gets the address it has now, since a wrong
        address may be what the operator has put right. What failed since that run was asked for,
        while it waited for its turn, is tried again with it: else nothing would, and the synthesis
        could never be called delivered. A run comes here once, so that has an end.

        Returns:
            The deliveries that wait for their next attempt.

        Raises:
            LostRace: When another run was begun since.
        """
        with self._database.transaction() as session:
            synthesis = find_run(session, job_id, run)
            if synthesis.state == SynthesisState.PACKAGED:
                move_synthesis(self._database, session, synthesis, SynthesisState.DELIVERING)
                reopen_failed(self._database, session, job_id, actor)
                for destination in destinations:
                    self._direct(session, job_id, destination, actor)
                self._close(session, synthesis, actor)
            pending = session.scalars(
                select(DeliveryRecord)
                .filter_by(job_id=job_id, state=str(DeliveryState.PENDING))
                .order_by(DeliveryRecord.id)
            )
            return tuple(self.entry(session, row) for row in list(pending))

    def get(self, delivery_id: int) -> DeliveryEntry:
        """The row of a delivery.

        Raises:
            Refuse: When there is none.
        """
        with self._database.reading() as session:
            return self.entry(session, _row(session, delivery_id))

    def settled(self, delivery_ids: Iterable[int]) -> frozenset[int]:
        """Which of these belong to jobs that nothing will ever take up again."""
        with self._database.reading() as session:
            query = select(DeliveryRecord.id).where(DeliveryRecord.id.in_(set(delivery_ids)))
            query = query.join(SynthesisRecord, SynthesisRecord.job_id == DeliveryRecord.job_id)
            return frozenset(session.scalars(query.where(SynthesisRecord.state.in_(FINAL))))

    def open_of(self, job_id: str) -> tuple[int, ...]:
        """The deliveries of a job that have not ended."""
        with self._database.reading() as session:
            return tuple(
                session.scalars(
                    select(DeliveryRecord.id)
                    .where(
                        DeliveryRecord.job_id == job_id, DeliveryRecord.state.in_(OPEN_DELIVERIES)
                    )
                    .order_by(DeliveryRecord.id)
                )
            )

    def wants_attempt(self, delivery_id: int) -> bool:
        """Whether a delivery has not ended, or is to be taken up again."""
        with self._database.reading() as session:
            return _wants_attempt(session, _row(session, delivery_id))

    def begin_attempt(self, delivery_id: int, actor: str) -> Attempt | None:
        """Begin a try, or begin again after a worker died in one; None when there is none to make.

        An attempt that was left open is ended as interrupted: its answers count, and are told. A
        delivery that was done and whose destination would not commit to all of it is taken up
        again.
        """
        with self._database.transaction() as session:
            row = _row(session, delivery_id)
            if not _wants_attempt(session, row):
                return None
            synthesis = find(session, row.job_id)
            if synthesis.state == SynthesisState.DELIVERED:
                move_synthesis(self._database, session, synthesis, SynthesisState.DELIVERING)
            self._interrupt(session, row, "the worker died", actor)
            now = self._database.now()
            # Taken up again, it is open from now on; another attempt changes nothing about that.
            since = {"opened_at": now} if row.state == DeliveryState.DELIVERED else {}
            self._move(session, row, DeliveryState.SENDING, **since)
            inserted = session.execute(
                insert(DeliveryAttemptRecord)
                .values(delivery_id=delivery_id, started_at=now)
                .returning(DeliveryAttemptRecord.id)
            )
            return Attempt(
                inserted.scalar_one(), delivery_id, _destination(row), remaining_of(session, row)
            )

    def note_lost_attempt(self, delivery_id: int, number: int, reason: str) -> int:
        """Record that attempt `number` ended before it began; harmless when it is counted.

        Attempts are counted to name workflows: without this the next one would have the name of
        one that is dead.

        Returns:
            How many attempts there have been.
        """
        with self._database.transaction() as session:
            made = self.entry(session, _row(session, delivery_id)).attempts
            if made >= number:
                return made
            now = self._database.now()
            session.execute(
                insert(DeliveryAttemptRecord).values(
                    delivery_id=delivery_id,
                    started_at=now,
                    ended_at=now,
                    outcome="interrupted",
                    reason=reason,
                )
            )
            return made + 1

    def answer(self, attempt: Attempt, sop_instance_uid: str, status: int) -> None:
        """Write down the peer's status of one instance; the latest one counts."""
        with self._database.transaction() as session:
            session.merge(
                DeliveredInstanceRecord(
                    delivery_id=attempt.delivery_id,
                    sop_instance_uid=sop_instance_uid,
                    attempt_id=attempt.id,
                    status=status,
                    answered_at=self._database.now(),
                )
            )

    def delivered(self, attempt: Attempt, actor: str) -> None:
        """End an attempt after which the destination has everything.

        Raises:
            IllegalMove: When an instance was not accepted; nothing changes.
        """
        with self._database.transaction() as session:
            row = _row(session, attempt.delivery_id)
            missing = remaining_of(session, row)
            if missing:
                raise IllegalMove(
                    f"delivery {row.id}: expected every instance accepted, {len(missing)} are not"
                )
            self._end(session, row, attempt.id, "delivered", None, actor)
            self._move(session, row, DeliveryState.DELIVERED)
            detail = {"delivery": row.id, "destination": row.destination}
            self._database.append_audit(session, Kind.DELIVERY_DELIVERED, row.job_id, actor, detail)
            self._close(session, find(session, row.job_id), actor)

    def postpone(self, attempt: Attempt, reason: str, actor: str) -> None:
        """End an attempt that another one will follow."""
        with self._database.transaction() as session:
            row = _row(session, attempt.delivery_id)
            self._end(session, row, attempt.id, "postponed", reason, actor)
            self._move(session, row, DeliveryState.PENDING)

    def fail(self, attempt: Attempt, reason: str, actor: str) -> None:
        """End the last attempt: the delivery is on the dead-letter list, and its synthesis."""
        with self._database.transaction() as session:
            row = _row(session, attempt.delivery_id)
            self._end(session, row, attempt.id, "failed", reason, actor)
            self._fail(session, row, reason, actor)

    def abandon(self, delivery_id: int, reason: str, actor: str) -> None:
        """Fail a delivery whose workflow is gone; harmless when it has ended."""
        with self._database.transaction() as session:
            row = _row(session, delivery_id)
            if _wants_attempt(session, row):
                self._interrupt(session, row, reason, actor)
                self._fail(session, row, reason, actor)

    def _fail(self, session: Session, row: DeliveryRecord, reason: str, actor: str) -> None:
        self._move(session, row, DeliveryState.FAILED)
        detail = {"delivery": row.id, "destination": row.destination, "reason": reason}
        self._database.append_audit(session, Kind.DELIVERY_FAILED, row.job_id, actor, detail)
        synthesis = find(session, row.job_id)
        # A sibling failed it before, or a retry is on its way, which will reopen this one.
        if synthesis.state in (SynthesisState.DELIVERING, SynthesisState.DELIVERED):
            why = f"delivery to {row.destination} failed: {reason}"
            move_synthesis(self._database, session, synthesis, SynthesisState.FAILED, reason=why)
            self._database.append_audit(
                session,
                Kind.SYNTHESIS_FAILED,
                row.job_id,
                actor,
                {"run": synthesis.run, "reason": why},
            )

    def _direct(self, session: Session, job_id: str, destination: Destination, actor: str) -> None:
        address = {
            "ae_title": destination.ae_title,
            "host": destination.host,
            "port": destination.port,
        }
        now = self._database.now()
        known = session.scalars(
            select(DeliveryRecord).filter_by(job_id=job_id, destination=destination.name)
        ).one_or_none()
        if known is None:
            session.execute(
                insert(DeliveryRecord).values(
                    job_id=job_id,
                    destination=destination.name,
                    state=str(DeliveryState.PENDING),
                    created_at=now,
                    updated_at=now,
                    opened_at=now,
                    **address,
                )
            )
            self._database.append_audit(
                session,
                Kind.DELIVERY_CREATED,
                job_id,
                actor,
                {"destination": destination.name, **address},
            )
        elif known.state == DeliveryState.PENDING:
            session.execute(
                update(DeliveryRecord).filter_by(id=known.id).values(updated_at=now, **address)
            )
            session.refresh(known)

    def _close(self, session: Session, synthesis: SynthesisRecord, actor: str) -> None:
        """Call the synthesis delivered when no delivery of it is left."""
        open_deliveries = session.scalar(
            select(func.count())
            .select_from(DeliveryRecord)
            .where(
                DeliveryRecord.job_id == synthesis.job_id,
                DeliveryRecord.state.not_in(_DONE),
            )
        )
        if synthesis.state == SynthesisState.DELIVERING and not open_deliveries:
            move_synthesis(self._database, session, synthesis, SynthesisState.DELIVERED)
            self._database.append_audit(session, Kind.SYNTHESIS_DELIVERED, synthesis.job_id, actor)

    def _interrupt(self, session: Session, row: DeliveryRecord, reason: str, actor: str) -> None:
        """End what a worker that is gone has left open of a delivery."""
        left = select(DeliveryAttemptRecord.id).filter_by(delivery_id=row.id, ended_at=None)
        for attempt_id in list(session.scalars(left.order_by(DeliveryAttemptRecord.id))):
            self._end(session, row, attempt_id, "interrupted", reason, actor)

    def _end(
        self,
        session: Session,
        row: DeliveryRecord,
        attempt_id: int,
        outcome: str,
        reason: str | None,
        actor: str,
    ) -> None:
        session.execute(
            update(DeliveryAttemptRecord)
            .filter_by(id=attempt_id)
            .values(ended_at=self._database.now(), outcome=outcome, reason=reason)
        )
        statuses = session.scalars(
            select(DeliveredInstanceRecord.status).filter_by(attempt_id=attempt_id)
        )
        self._database.append_audit(
            session,
            Kind.DELIVERY_ATTEMPTED,
            row.job_id,
            actor,
            {
                "delivery": row.id,
                "destination": row.destination,
                "attempt": attempt_id,
                "outcome": outcome,
                "reason": reason,
                "answers": {f"0x{s:04X}": n for s, n in sorted(Counter(statuses).items())},
            },
        )

    def _move(
        self, session: Session, row: DeliveryRecord, target: DeliveryState, **values: object
    ) -> None:
        source = DeliveryState(row.state)
        changes = {"updated_at": self._database.now(), **values}
        move(session, DeliveryRecord, {"id": row.id}, DELIVERY_MOVES, source, target, changes)
        session.refresh(row)

    def entry(self, session: Session, row: DeliveryRecord) -> DeliveryEntry:
        """A row as others see it, inside the caller's transaction."""
        attempts = session.scalar(
            select(func.count()).select_from(DeliveryAttemptRecord).filter_by(delivery_id=row.id)
        )
        return DeliveryEntry(
            id=row.id,
            job_id=row.job_id,
            destination=_destination(row),
            state=DeliveryState(row.state),
            priority=find(session, row.job_id).priority,
            attempts=attempts or 0,
            created_at=row.created_at,
        )


def remaining_of(session: Session, row: DeliveryRecord) -> tuple[Output, ...]:
    """The outputs that a destination has not accepted, inside the caller's transaction."""
    answers = session.scalars(select(DeliveredInstanceRecord).filter_by(delivery_id=row.id))
    accepted = {a.sop_instance_uid for a in answers if is_accepted(a.status)}
    return tuple(
        output
        for output in outputs_of(session, row.job_id)
        if output.sop_instance_uid not in accepted
    )


def _wants_attempt(session: Session, row: DeliveryRecord) -> bool:
    """Open, or done by a destination that would not commit to all of it."""
    is_again = row.state == DeliveryState.DELIVERED and remaining_of(session, row)
    return row.state in OPEN_DELIVERIES or bool(is_again)


def _row(session: Session, delivery_id: int) -> DeliveryRecord:
    row = session.get(DeliveryRecord, delivery_id)
    if row is None:
        raise Refuse(f"no delivery {delivery_id} on record")
    return row


def _destination(row: DeliveryRecord) -> Destination:
    return Destination(row.destination, row.ae_title, row.host, row.port)
