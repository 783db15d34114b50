"""What the ledger tells people: counts, jobs, dead letters, and the whole story of one UID.

Everything here is JSON-ready and only reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from node.audit import Event
from node.errors import Refuse
from node.ledger.database import Database
from node.ledger.presence import removed_at
from node.records import (
    AnnouncementRecord,
    AssociationRecord,
    AuditEventRecord,
    CommitmentRecord,
    DeliveredInstanceRecord,
    DeliveryAttemptRecord,
    DeliveryRecord,
    InstanceRecord,
    OutputRecord,
    QuarantineRecord,
    Record,
    SelectionRecord,
    SeriesRecord,
    SynthesisRecord,
    WorkerRecord,
)
from node.states import SynthesisState, WorkerState
from node.status import is_accepted

Story = dict[str, Any]


class Reports:
    """Every question about the ledger as a whole."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def status(self) -> Story:
        """How much of what lies where: counts by state, and what needs a person."""
        with self._database.reading() as session:
            return {
                "series": _by_state(session, SeriesRecord.state),
                "syntheses": _by_state(session, SynthesisRecord.state),
                "deliveries": _by_state(session, DeliveryRecord.state),
                "announcements": _by_state(session, AnnouncementRecord.state),
                "instances": session.scalar(select(func.count()).select_from(InstanceRecord)),
                "quarantined": session.scalar(select(func.count()).select_from(QuarantineRecord)),
                "open_associations": session.scalar(
                    select(func.count()).select_from(AssociationRecord).filter_by(closed_at=None)
                ),
                "last_event_at": session.scalar(select(func.max(AuditEventRecord.at))),
                "workers": [
                    {"name": row.name, "host": row.host, "last_beat_at": row.last_beat_at}
                    for row in session.scalars(
                        select(WorkerRecord)
                        .filter_by(state=str(WorkerState.ALIVE))
                        .order_by(WorkerRecord.id)
                    )
                ],
            }

    def jobs(self, states: tuple[SynthesisState, ...] = (), limit: int = 50) -> list[Story]:
        """The latest syntheses with their deliveries, newest first."""
        query = select(SynthesisRecord).order_by(SynthesisRecord.created_at.desc()).limit(limit)
        if states:
            query = query.where(SynthesisRecord.state.in_([str(state) for state in states]))
        with self._database.reading() as session:
            return [_line(session, row) for row in session.scalars(query)]

    def dead_letters(self) -> list[Story]:
        """Everything that will not move again unless a person acts."""
        return self.jobs((SynthesisState.FAILED,), limit=1000)

    def find_job(self, text: str) -> str:
        """The job id that `text` is the beginning of.

        Raises:
            Refuse: When no job id begins so, or more than one.
        """
        query = select(SynthesisRecord.job_id).where(
            SynthesisRecord.job_id.startswith(text, autoescape=True)
        )
        with self._database.reading() as session:
            found = list(session.scalars(query.limit(2)))
        if len(found) != 1:
            how = "none" if not found else "several"
            raise Refuse(
                f"expected the beginning of one job id, found {how} for {text!r};"
                " `pseudomri jobs` lists them"
            )
        return found[0]

    def show(self, uid: str) -> Story:
        """Everything on record about a study, series, instance, job or output.

        Raises:
            Refuse: When the UID is not on record.
        """
        with self._database.reading() as session:
            if instance := session.get(InstanceRecord, uid):
                return {"kind": "instance", **_instance(session, instance)}
            if output := session.get(OutputRecord, uid):
                return {"kind": "output", **_output(session, output)}
            if series := session.get(SeriesRecord, uid):
                return {"kind": "series", **_series(session, series)}
            produced = session.scalars(select(OutputRecord).filter_by(series_uid=uid)).first()
            if produced:
                return {"kind": "output series", **_job(session, produced.job_id)}
            study = list(session.scalars(select(SeriesRecord).filter_by(study_uid=uid)))
            if study:
                return {
                    "kind": "study",
                    "study_uid": uid,
                    "series": [_series(session, row) for row in study],
                }
            query = select(SynthesisRecord.job_id).where(
                SynthesisRecord.job_id.startswith(uid, autoescape=True)
            )
            jobs = list(session.scalars(query.limit(2)))
            if len(jobs) == 1:
                return {"kind": "synthesis", **_job(session, jobs[0])}
        raise Refuse(
            f"expected the UID of a study, series, instance or output, or a job id, on record;"
            f" found nothing for {uid!r}"
        )

    def events(self, after: int = 0) -> Iterator[Event]:
        """The audit chain, from the first event on, or from the one after that sequence."""
        with self._database.reading() as session:
            query = select(AuditEventRecord).order_by(AuditEventRecord.sequence)
            query = query.where(AuditEventRecord.sequence > after)
            for row in session.scalars(query.execution_options(yield_per=1000)):
                yield _event(row)


def _by_state(session: Session, column: Any) -> dict[str, int]:
    counts = session.execute(select(column, func.count()).group_by(column))
    return {row[0]: row[1] for row in counts}


def _fields(row: Record, *leave_out: str) -> Story:
    names = [column.key for column in row.__mapper__.column_attrs if column.key not in leave_out]
    return {name: getattr(row, name) for name in names}


def _line(session: Session, row: SynthesisRecord) -> Story:
    story = _fields(row, "sources", "software", "measurements", "parameters")
    deliveries = session.scalars(select(DeliveryRecord).filter_by(job_id=row.job_id))
    story["deliveries"] = [_delivery(session, delivery) for delivery in deliveries]
    return story


def _delivery(session: Session, row: DeliveryRecord) -> Story:
    attempts = list(
        session.scalars(
            select(DeliveryAttemptRecord)
            .filter_by(delivery_id=row.id)
            .order_by(DeliveryAttemptRecord.id)
        )
    )
    statuses = list(
        session.scalars(select(DeliveredInstanceRecord.status).filter_by(delivery_id=row.id))
    )
    story = _fields(row, "job_id")
    story["attempts"] = [_fields(attempt, "delivery_id") for attempt in attempts]
    commitments = session.scalars(
        select(CommitmentRecord)
        .filter_by(delivery_id=row.id)
        .order_by(CommitmentRecord.requested_at)
    )
    story["commitments"] = [_fields(one, "delivery_id") for one in commitments]
    story["accepted"] = sum(is_accepted(status) for status in statuses)
    story["answers"] = {
        f"0x{status:04X}": statuses.count(status) for status in sorted(set(statuses))
    }
    return story


def _instance(session: Session, row: InstanceRecord) -> Story:
    story = _fields(row)
    association = session.get(AssociationRecord, row.association_id)
    story["association"] = _fields(association) if association else None
    story["series"] = _fields(session.get_one(SeriesRecord, row.series_uid))
    jobs = session.scalars(select(SynthesisRecord).filter_by(series_uid=row.series_uid))
    story["used_by"] = [job.job_id for job in jobs if row.sop_instance_uid in job.sources]
    story["removed_at"] = removed_at(session, row.path)
    story["events"] = _events_about(session, row.sop_instance_uid)
    return story


def _series(session: Session, row: SeriesRecord) -> Story:
    story = _fields(row)
    instances = select(func.count()).select_from(InstanceRecord)
    story["instances"] = session.scalar(instances.filter_by(series_uid=row.series_uid))
    decisions = session.scalars(
        select(SelectionRecord)
        .filter_by(series_uid=row.series_uid)
        .order_by(SelectionRecord.version)
    )
    story["decisions"] = [_fields(decision, "series_uid") for decision in decisions]
    jobs = session.scalars(
        select(SynthesisRecord.job_id)
        .filter_by(series_uid=row.series_uid)
        .order_by(SynthesisRecord.created_at)
    )
    story["syntheses"] = [_job(session, job_id) for job_id in jobs]
    story["events"] = _events_about(session, row.series_uid)
    return story


def _job(session: Session, job_id: str) -> Story:
    row = session.get_one(SynthesisRecord, job_id)
    story = _fields(row)
    outputs = session.scalars(
        select(OutputRecord)
        .filter_by(job_id=job_id)
        .order_by(OutputRecord.contrast, OutputRecord.slice_index)
    )
    story["outputs"] = [_fields(output, "job_id") for output in outputs]
    deliveries = session.scalars(select(DeliveryRecord).filter_by(job_id=job_id))
    story["deliveries"] = [_delivery(session, delivery) for delivery in deliveries]
    story["events"] = _events_about(session, job_id)
    return story


def _output(session: Session, row: OutputRecord) -> Story:
    story = _fields(row)
    story["removed_at"] = removed_at(session, row.path)
    answers = session.execute(
        select(DeliveryRecord.destination, DeliveredInstanceRecord)
        .join(DeliveredInstanceRecord, DeliveredInstanceRecord.delivery_id == DeliveryRecord.id)
        .where(DeliveredInstanceRecord.sop_instance_uid == row.sop_instance_uid)
    )
    story["answers"] = [
        {"destination": destination, "status": f"0x{a.status:04X}", "at": a.answered_at}
        for destination, a in answers
    ]
    story["synthesis"] = _job(session, row.job_id)
    return story


def _events_about(session: Session, subject: str) -> list[Story]:
    rows = session.scalars(
        select(AuditEventRecord).filter_by(subject=subject).order_by(AuditEventRecord.sequence)
    )
    return [_fields(row, "previous_hash", "subject") for row in rows]


def _event(row: AuditEventRecord) -> Event:
    return Event(
        row.sequence,
        row.at,
        row.kind,
        row.subject,
        row.actor,
        row.detail,
        row.previous_hash,
        row.hash,
    )
