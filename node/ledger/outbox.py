"""What other systems have been told of the audit chain, and what an event is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from node.audit import Kind
from node.errors import LostRace
from node.ledger.database import Database, updates_one
from node.ledger.entries import Destination
from node.ledger.presence import is_live
from node.records import (
    DeliveryRecord,
    InstanceRecord,
    OutboxRecord,
    OutputRecord,
    SeriesRecord,
    SynthesisRecord,
)


@dataclass(frozen=True)
class About:
    """The series that an event is about.

    Args:
        sop_class_uid: Of its first instance.
        header_path: Of an instance or output of it that is there, or of its first instance;
            relative to the archive.
    """

    study_uid: str
    peer_ae: str
    peer_address: str
    sop_class_uid: str
    header_path: str


class Outbox:
    """How far each receiver of audit events has been told."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def position(self, name: str) -> int:
        """The sequence of the last event that the receiver of this name has; 0 at the beginning."""
        with self._database.reading() as session:
            row = session.get(OutboxRecord, name)
            return 0 if row is None else row.sequence

    def move_on(self, name: str, before: int, after: int) -> None:
        """Note that a receiver has all events up to `after`.

        Raises:
            LostRace: When somebody else moved it on from `before`.
        """
        with self._database.transaction() as session:
            values = {"sequence": after, "moved_at": self._database.now()}
            if session.get(OutboxRecord, name) is None and before == 0:
                session.execute(insert(OutboxRecord).values(name=name, **values))
                return
            statement = update(OutboxRecord).filter_by(name=name, sequence=before).values(**values)
            if not updates_one(session, statement):
                raise LostRace(f"outbox {name}: somebody else moved it on from {before}")

    def note(self, kind: Kind, subject: str, actor: str, detail: Mapping[str, Any]) -> None:
        """An event that changes no other row, such as the start of a role."""
        with self._database.transaction() as session:
            self._database.append_audit(session, kind, subject, actor, detail)

    def about_series(self, series_uid: str) -> About | None:
        """What is known of a series; None when it is not on record."""
        with self._database.reading() as session:
            return _about(session, series_uid)

    def about_job(self, job_id: str) -> About | None:
        """What is known of the series that a job was made from."""
        with self._database.reading() as session:
            row = session.get(SynthesisRecord, job_id)
            return None if row is None else _about(session, row.series_uid)

    def destination(self, delivery_id: int) -> Destination | None:
        """Where a delivery goes."""
        with self._database.reading() as session:
            row = session.get(DeliveryRecord, delivery_id)
            if row is None:
                return None
            return Destination(row.destination, row.ae_title, row.host, row.port)


def _about(session: Session, series_uid: str) -> About | None:
    query = (
        select(SeriesRecord, InstanceRecord.sop_class_uid, InstanceRecord.path)
        .join(InstanceRecord, InstanceRecord.series_uid == SeriesRecord.series_uid)
        .where(SeriesRecord.series_uid == series_uid)
        .order_by(InstanceRecord.sop_instance_uid)
        .limit(1)
    )
    found = session.execute(query).first()
    if found is None:
        return None
    series, sop_class_uid, path = found
    path = _live_path(session, series_uid) or path
    return About(series.study_uid, series.calling_ae, series.peer_address, sop_class_uid, path)


def _live_path(session: Session, series_uid: str) -> str | None:
    """A file with the patient of a series in it that retention has not deleted."""
    received = select(InstanceRecord.path).filter_by(series_uid=series_uid)
    made = (
        select(OutputRecord.path)
        .join(SynthesisRecord, SynthesisRecord.job_id == OutputRecord.job_id)
        .where(SynthesisRecord.series_uid == series_uid)
    )
    for query, path in ((received, InstanceRecord.path), (made, OutputRecord.path)):
        found = session.scalar(query.where(is_live(path)).order_by(path).limit(1))
        if found is not None:
            return found
    return None
