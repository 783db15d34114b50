"""The life of a synthesis: queued, running, packaged, delivering, delivered, committed.

Every verb is safe to repeat: a worker that died after its transaction and before the workflow
engine heard of it comes back and says the same thing again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from node.audit import Kind
from node.clock import from_text, to_text
from node.errors import IllegalMove, LostRace, Refuse
from node.ledger.database import Database, move
from node.ledger.entries import Dispatch, NewSynthesis, Output, Packaged, SynthesisEntry
from node.ledger.presence import claim, is_going
from node.records import DeliveryRecord, OutputRecord, SynthesisRecord
from node.states import (
    DELIVERY_MOVES,
    FINAL,
    OPEN_DELIVERIES,
    SYNTHESIS_MOVES,
    DeliveryState,
    SynthesisState,
)

POSTPONED_S: Final = 15.0
"""How long a run that found the disk full rests before it is offered again: somebody has to make
room, and each try writes as much as there is."""


class Syntheses:
    """Every verb of the synthesis table and its outputs."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def create(self, new: NewSynthesis, actor: str) -> bool:
        """Queue a synthesis; False when this very synthesis is on record already."""
        with self._database.transaction() as session:
            if session.get(SynthesisRecord, new.job_id) is not None:
                return False
            now = self._database.now()
            session.execute(
                insert(SynthesisRecord).values(
                    job_id=new.job_id,
                    series_uid=new.series_uid,
                    series_version=new.series_version,
                    study_uid=new.study_uid,
                    state=str(SynthesisState.QUEUED),
                    run=1,
                    priority=new.priority,
                    contrasts=list(new.contrasts),
                    sources=dict(new.sources),
                    seed=new.seed,
                    model_name=new.model_name,
                    model_version=new.model_version,
                    model_digest=new.model_digest,
                    parameters=dict(new.parameters),
                    created_at=now,
                    updated_at=now,
                    queued_at=now,
                )
            )
            detail = {
                "series_uid": new.series_uid,
                "series_version": new.series_version,
                "contrasts": list(new.contrasts),
                "instances": len(new.sources),
                "model_digest": new.model_digest,
            }
            self._database.append_audit(session, Kind.SYNTHESIS_QUEUED, new.job_id, actor, detail)
        return True

    def get(self, job_id: str) -> SynthesisEntry:
        """The row of a job.

        Raises:
            Refuse: When there is none.
        """
        with self._database.reading() as session:
            return _entry(find(session, job_id))

    def settled(self, job_ids: Iterable[str]) -> frozenset[str]:
        """Which of these jobs nothing will ever take up again."""
        with self._database.reading() as session:
            query = select(SynthesisRecord.job_id).where(SynthesisRecord.job_id.in_(set(job_ids)))
            return frozenset(session.scalars(query.where(SynthesisRecord.state.in_(FINAL))))

    def outputs(self, job_id: str) -> tuple[Output, ...]:
        """What a job has produced, by contrast and slice; empty before it is packaged."""
        with self._database.reading() as session:
            return tuple(outputs_of(session, job_id))

    def undispatched(self, limit: int = 100) -> tuple[Dispatch, ...]:
        """Queued runs that the workflow engine does not have yet, most urgent first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(SynthesisRecord)
                .filter_by(state=str(SynthesisState.QUEUED), dispatched_at=None)
                .where(func.coalesce(SynthesisRecord.waits_until, "") <= self._database.now())
                .order_by(SynthesisRecord.priority, SynthesisRecord.created_at)
                .limit(limit)
            )
            return tuple(Dispatch(row.job_id, row.run, row.priority) for row in rows)

    def unfinished(self) -> tuple[SynthesisEntry, ...]:
        """Every synthesis that the workflow engine should be working on."""
        states = [
            str(state)
            for state in (
                SynthesisState.RUNNING,
                SynthesisState.PACKAGED,
                SynthesisState.DELIVERING,
            )
        ]
        with self._database.reading() as session:
            rows = session.scalars(
                select(SynthesisRecord).where(
                    SynthesisRecord.state.in_(states)
                    | (
                        (SynthesisRecord.state == str(SynthesisState.QUEUED))
                        & SynthesisRecord.dispatched_at.is_not(None)
                    )
                )
            )
            return tuple(_entry(row) for row in rows)

    def mark_dispatched(self, job_id: str, run: int) -> None:
        """Note that the engine has this run; harmless when it was noted before."""
        with self._database.transaction() as session:
            session.execute(
                update(SynthesisRecord)
                .filter_by(job_id=job_id, run=run, dispatched_at=None)
                .values(dispatched_at=self._database.now())
            )

    def mark_lost(self, job_id: str, run: int) -> None:
        """Offer a queued run again: the engine does not know it any more."""
        with self._database.transaction() as session:
            session.execute(
                update(SynthesisRecord)
                .filter_by(job_id=job_id, run=run, state=str(SynthesisState.QUEUED))
                .values(dispatched_at=None)
            )

    def start(self, job_id: str, run: int, actor: str) -> SynthesisEntry:
        """Begin a run, or begin it again after a worker died.

        Raises:
            IllegalMove: When the job is past running.
            LostRace: When another run was begun since.
        """
        with self._database.transaction() as session:
            row = find_run(session, job_id, run)
            self._move(session, row, SynthesisState.RUNNING)
            self._database.append_audit(
                session, Kind.SYNTHESIS_STARTED, job_id, actor, {"run": run}
            )
            return _entry(row)

    def package(self, job_id: str, run: int, packaged: Packaged, actor: str) -> None:
        """Record the outputs, whose files are durable, and what they were made with.

        Raises:
            Refuse: When the job has outputs of other content on record: a UID never gets other
                pixels.
            LostRace: When another run was begun since.
        """
        with self._database.transaction() as session:
            row = find_run(session, job_id, run)
            known = {output.sop_instance_uid: output for output in outputs_of(session, job_id)}
            made = {output.sop_instance_uid: output for output in packaged.outputs}
            if known and known != made:
                raise Refuse(
                    f"synthesis {job_id}: expected the outputs on record again, found other"
                    " content; they were made on another device or by another program version"
                )
            if row.state == SynthesisState.PACKAGED:
                return
            if not known:
                plain = self._database.plain(session)
                for one in packaged.outputs:
                    # An earlier run may have left this very file to be swept. This one wrote it
                    # after its start, and nothing of a job that runs is swept: so it is there.
                    claim(self._database, plain, one.path, actor, is_there=True)
                session.execute(
                    insert(OutputRecord), [{"job_id": job_id, **vars(o)} for o in packaged.outputs]
                )
            self._move(session, row, SynthesisState.PACKAGED, **_evidence(packaged))
            detail = {
                "outputs": {o.sop_instance_uid: o.pixel_digest for o in packaged.outputs},
                "software": dict(packaged.software),
                "device": packaged.device,
            }
            self._database.append_audit(session, Kind.SYNTHESIS_PACKAGED, job_id, actor, detail)

    def package_again(self, job_id: str, run: int, actor: str) -> None:
        """Go on with the outputs of an earlier run; the caller has checked their files.

        Raises:
            Refuse: When there are none.
            LostRace: When another run was begun since.
        """
        with self._database.transaction() as session:
            row = find_run(session, job_id, run)
            if row.state == SynthesisState.PACKAGED:
                return
            outputs = outputs_of(session, job_id)
            if not outputs:
                raise Refuse(f"synthesis {job_id}: expected outputs of an earlier run, found none")
            self._move(session, row, SynthesisState.PACKAGED)
            detail = {"kept_outputs": len(outputs), "run": run}
            self._database.append_audit(session, Kind.SYNTHESIS_PACKAGED, job_id, actor, detail)

    def decline(
        self,
        job_id: str,
        run: int,
        code: str,
        reason: str,
        warnings: Sequence[str],
        actor: str,
    ) -> None:
        """End a run without a result: the input is readable but must not be synthesized.

        Raises:
            LostRace: When another run was begun since.
        """
        with self._database.transaction() as session:
            row = find_run(session, job_id, run)
            if row.state == SynthesisState.DECLINED:
                return
            self._move(
                session, row, SynthesisState.DECLINED, reason=reason, warnings=list(warnings)
            )
            self._database.append_audit(
                session, Kind.SYNTHESIS_DECLINED, job_id, actor, {"code": code, "reason": reason}
            )

    def fail(self, job_id: str, run: int, reason: str, actor: str) -> None:
        """Put a run on the dead-letter list; harmless when it is there or a later run began.

        Args:
            reason: Ours to show to anybody: nothing of the patient.
        """
        with self._database.transaction() as session:
            row = find(session, job_id)
            is_over = row.state in (SynthesisState.FAILED, SynthesisState.DISMISSED)
            if is_over or row.run != run:
                return
            self._move(session, row, SynthesisState.FAILED, reason=reason)
            self._database.append_audit(
                session, Kind.SYNTHESIS_FAILED, job_id, actor, {"run": run, "reason": reason}
            )

    def postpone(self, job_id: str, run: int, reason: str, actor: str) -> int:
        """Put a run that could not go on for now back into the queue, for `POSTPONED_S` at least.

        Returns:
            The number of the run that follows.

        Raises:
            LostRace: When another run was begun since.
        """
        with self._database.transaction() as session:
            row = find_run(session, job_id, run)
            following = run + 1
            until = from_text(self._database.now()) + timedelta(seconds=POSTPONED_S)
            self._move(
                session,
                row,
                SynthesisState.QUEUED,
                run=following,
                dispatched_at=None,
                waits_until=to_text(until),
                reason=reason,
            )
            detail = {"run": following, "reason": reason}
            self._database.append_audit(session, Kind.SYNTHESIS_POSTPONED, job_id, actor, detail)
            return following

    def waiting(self, priority: int) -> int:
        """How many syntheses wait that are at least as urgent as this."""
        with self._database.reading() as session:
            query = select(func.count()).select_from(SynthesisRecord)
            state = SynthesisRecord.state == str(SynthesisState.QUEUED)
            return session.scalar(query.where(state, SynthesisRecord.priority <= priority)) or 0

    def commit(self, job_id: str, actor: str) -> None:
        """Close a synthesis that every destination has; harmless when it is closed."""
        with self._database.transaction() as session:
            row = find(session, job_id)
            if row.state == SynthesisState.COMMITTED:
                return
            self._move(session, row, SynthesisState.COMMITTED)
            self._database.append_audit(session, Kind.SYNTHESIS_COMMITTED, job_id, actor)

    def dismiss(self, job_id: str, reason: str, actor: str) -> None:
        """Take a failed synthesis from the dead-letter list for good: nobody will mend its cause.

        Args:
            reason: For the record alone; nothing of the patient.

        Raises:
            IllegalMove: When it has not failed.
            Refuse: When one of its deliveries has not ended.
        """
        with self._database.transaction() as session:
            row = find(session, job_id)
            deliveries = select(DeliveryRecord.id).where(
                DeliveryRecord.job_id == job_id, DeliveryRecord.state.in_(OPEN_DELIVERIES)
            )
            if session.scalar(deliveries.limit(1)) is not None:
                raise Refuse(f"job {job_id[:12]}: a delivery of it is under way; wait for its end")
            self._move(session, row, SynthesisState.DISMISSED)
            detail = {"run": row.run, "reason": reason}
            self._database.append_audit(session, Kind.SYNTHESIS_DISMISSED, job_id, actor, detail)

    def retry(self, job_id: str, actor: str) -> int:
        """Queue a failed synthesis for another run, and its failed deliveries with it.

        Returns:
            The number of the new run.

        Raises:
            IllegalMove: When it has not failed.
            Refuse: When it was dismissed, and retention has deleted files of it since.
        """
        with self._database.transaction() as session:
            row = find(session, job_id)
            # Other states go back to queued too, but by the worker's own doing.
            if row.state not in (SynthesisState.FAILED, SynthesisState.DISMISSED):
                raise IllegalMove(f"{job_id}: {row.state} -> queued is no retry; failed is")
            is_dismissed = row.state == SynthesisState.DISMISSED
            if is_dismissed and is_going(session, (row.series_uid, job_id)):
                raise Refuse(
                    f"job {job_id[:12]} was dismissed, and files of it are deleted or about to be;"
                    " retention went by its rules. Send the CT again first"
                )
            run, now = row.run + 1, self._database.now()
            self._move(
                session,
                row,
                SynthesisState.QUEUED,
                run=run,
                dispatched_at=None,
                reason=None,
                queued_at=now,
            )
            self._database.append_audit(
                session, Kind.SYNTHESIS_RETRIED, job_id, actor, {"run": run}
            )
            reopen_failed(self._database, session, job_id, actor)
            return run

    def _move(
        self, session: Session, row: SynthesisRecord, target: SynthesisState, **values: object
    ) -> None:
        move_synthesis(self._database, session, row, target, **values)


def move_synthesis(
    database: Database,
    session: Session,
    row: SynthesisRecord,
    target: SynthesisState,
    **values: object,
) -> None:
    """Move a synthesis that was read in this transaction, and stamp it."""
    source = SynthesisState(row.state)
    changes = {"updated_at": database.now(), **values}
    move(session, SynthesisRecord, {"job_id": row.job_id}, SYNTHESIS_MOVES, source, target, changes)
    session.refresh(row)


def reopen_failed(database: Database, session: Session, job_id: str, actor: str) -> None:
    """Let the failed deliveries of a job wait for an attempt again, from now on."""
    now = database.now()
    failed = session.scalars(
        select(DeliveryRecord).filter_by(job_id=job_id, state=str(DeliveryState.FAILED))
    )
    for delivery in list(failed):
        move(
            session,
            DeliveryRecord,
            {"id": delivery.id},
            DELIVERY_MOVES,
            DeliveryState.FAILED,
            DeliveryState.PENDING,
            {"updated_at": now, "opened_at": now},
        )
        session.refresh(delivery)
        detail = {"delivery": delivery.id, "destination": delivery.destination}
        database.append_audit(session, Kind.DELIVERY_RETRIED, job_id, actor, detail)


def find(session: Session, job_id: str) -> SynthesisRecord:
    """The row of a job, inside the caller's transaction.

    Raises:
        Refuse: When there is none.
    """
    row = session.get(SynthesisRecord, job_id)
    if row is None:
        raise Refuse(f"no synthesis {job_id} on record; `pseudomri jobs` lists those there are")
    return row


def find_run(session: Session, job_id: str, run: int) -> SynthesisRecord:
    """As `find`, for a worker that is at this run of the job.

    Raises:
        LostRace: When another run was begun since.
    """
    row = find(session, job_id)
    if row.run != run:
        raise LostRace(f"synthesis {job_id}: expected run {run}, found run {row.run}")
    return row


def outputs_of(session: Session, job_id: str) -> list[Output]:
    """What a job has produced, by contrast and slice, inside the caller's transaction."""
    rows = session.scalars(
        select(OutputRecord)
        .filter_by(job_id=job_id)
        .order_by(OutputRecord.contrast, OutputRecord.slice_index)
    )
    return [_output(row) for row in rows]


def _output(row: OutputRecord) -> Output:
    return Output(
        row.sop_instance_uid,
        row.series_uid,
        row.contrast,
        row.slice_index,
        row.pixel_digest,
        row.digest,
        row.path,
    )


def _evidence(packaged: Packaged) -> dict[str, Any]:
    return {
        "software": dict(packaged.software),
        "device": packaged.device,
        "timings_s": dict(packaged.timings_s),
        "measurements": dict(packaged.measurements),
        "warnings": list(packaged.warnings),
        "reason": None,
    }


def _entry(row: SynthesisRecord) -> SynthesisEntry:
    return SynthesisEntry(
        job_id=row.job_id,
        series_uid=row.series_uid,
        series_version=row.series_version,
        study_uid=row.study_uid,
        state=SynthesisState(row.state),
        run=row.run,
        priority=row.priority,
        contrasts=tuple(row.contrasts),
        sources=dict(row.sources),
        seed=row.seed,
        model_name=row.model_name,
        model_version=row.model_version,
        model_digest=row.model_digest,
        parameters=dict(row.parameters),
        reason=row.reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
