"""Receiving: associations, instances and what was refused of them.

An instance is one transaction: its row, its series, its audit event. When `record_instance`
returns, they are durable, and so was the file before it was called: only then may the peer hear
success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from node.audit import Kind
from node.ledger.database import Database, move, updates_one
from node.ledger.presence import claim
from node.records import AssociationRecord, InstanceRecord, QuarantineRecord, SeriesRecord
from node.states import SERIES_MOVES, SeriesState


class Ending(StrEnum):
    """How an association ended."""

    RELEASED = "released"
    ABORTED = "aborted"
    TIMED_OUT = "timed out"
    ORPHANED = "orphaned"


@dataclass(frozen=True)
class Received:
    """One instance whose file is durable.

    Args:
        digest: SHA-256, in hex, of the data set as the peer encoded it.
        path: Relative to the archive, as the archive gave it.
        summary: JSON of `node.summary.InstanceSummary`.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    modality: str
    digest: str
    size_bytes: int
    path: str
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """The instance is on record; it opened its series again when `is_reopening`."""

    version: int
    is_reopening: bool


@dataclass(frozen=True)
class Duplicate:
    """The very same bytes were on record already; nothing was written but an audit event."""


@dataclass(frozen=True)
class Removed:
    """Retention deleted a file of this path, perhaps after the caller wrote it. It will not do so
    again: the caller looks, and asks again with `is_there`. Nothing changed."""


@dataclass(frozen=True)
class Conflict:
    """The instance contradicts the record, which stays as it is. The caller quarantines it."""

    reason: ConflictReason


class ConflictReason(StrEnum):
    """In which way an instance contradicts what we hold."""

    OTHER_BYTES = "this SOP Instance UID is held with other bytes"
    OTHER_STUDY = "this Series Instance UID is held in another study"


class Receiving:
    """Every verb of the Storage SCP."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def open_association(
        self, process: str, calling_ae: str, called_ae: str, peer_address: str
    ) -> int:
        """Put an association on record and return its id.

        Args:
            process: The stable name of the receiving process, so that its next life finds what
                it left open.
            calling_ae: Of the requestor.
            called_ae: Ours.
            peer_address: Numeric, without port.
        """
        with self._database.transaction() as session:
            statement = insert(AssociationRecord).values(
                process=process,
                calling_ae=calling_ae,
                called_ae=called_ae,
                peer_address=peer_address,
                opened_at=self._database.now(),
            )
            found = session.execute(statement.returning(AssociationRecord.id))
            return int(found.scalar_one())

    def close_association(self, association_id: int, ending: Ending) -> None:
        """Note how an association ended; harmless when it is closed already."""
        with self._database.transaction() as session:
            session.execute(
                update(AssociationRecord)
                .filter_by(id=association_id, closed_at=None)
                .values(closed_at=self._database.now(), ending=str(ending))
            )

    def close_orphans(self, process: str) -> int:
        """Close what an earlier life of this process left open; returns how many there were."""
        with self._database.transaction() as session:
            rows = list(
                session.scalars(
                    select(AssociationRecord).filter_by(process=process, closed_at=None)
                )
            )
            for row in rows:
                row.closed_at = self._database.now()
                row.ending = str(Ending.ORPHANED)
                self._database.append_audit(
                    session,
                    Kind.ASSOCIATION_ORPHANED,
                    str(row.id),
                    process,
                    {"calling_ae": row.calling_ae, "peer_address": row.peer_address},
                )
            return len(rows)

    def refuse_association(
        self, calling_ae: str, called_ae: str, peer_address: str, reason: str
    ) -> None:
        """Put on record that a peer was turned away."""
        with self._database.transaction() as session:
            detail = {"called_ae": called_ae, "peer_address": peer_address, "reason": reason}
            self._database.append_audit(
                session, Kind.ASSOCIATION_REFUSED, calling_ae, calling_ae, detail
            )

    def record_instance(
        self,
        received: Received,
        association_id: int,
        calling_ae: str,
        peer_address: str,
        is_there: bool = False,
    ) -> Stored | Duplicate | Conflict | Removed:
        """Put an instance, whose file is durable, on record.

        A new slice opens a series that was complete, selected or declined again, as its next
        version. The same bytes again change nothing.

        Args:
            received: What came.
            association_id: From `open_association`.
            calling_ae: Of the peer, for the series and the audit event.
            peer_address: Of the peer, numeric.
            is_there: The file was found in its place after the answer `Removed`.
        """
        with self._database.transaction() as session:
            held = _digest_of(session, received.sop_instance_uid)
            if held is not None and held != received.digest:
                return Conflict(ConflictReason.OTHER_BYTES)
            if not claim(self._database, session, received.path, calling_ae, is_there):
                return Removed()
            if held is not None:
                self._database.append_audit(
                    session,
                    Kind.INSTANCE_DUPLICATE,
                    received.sop_instance_uid,
                    calling_ae,
                    {"association": association_id, "digest": held},
                )
                return Duplicate()
            now = self._database.now()
            row = session.get(SeriesRecord, received.series_uid)
            if row is not None and row.study_uid != received.study_uid:
                return Conflict(ConflictReason.OTHER_STUDY)
            if row is None:
                session.execute(_new_series(received, calling_ae, peer_address, now))
                stored = Stored(version=1, is_reopening=False)
            else:
                stored = self._continue(session, row, calling_ae, now)
            session.execute(_new_instance(received, association_id, now))
            detail = {
                "series_uid": received.series_uid,
                "association": association_id,
                "digest": received.digest,
                "size_bytes": received.size_bytes,
            }
            self._database.append_audit(
                session, Kind.INSTANCE_RECEIVED, received.sop_instance_uid, calling_ae, detail
            )
            return stored

    def quarantine(
        self,
        sop_instance_uid: str,
        digest: str,
        path: str,
        reason: str,
        association_id: int,
        calling_ae: str,
        is_there: bool = False,
    ) -> bool:
        """Put on record that an instance lies apart, under `path`, and why.

        Returns:
            False when retention deleted the file meanwhile, as `Removed` says it of an instance.
        """
        with self._database.transaction() as session:
            if not claim(self._database, session, path, calling_ae, is_there):
                return False
            session.execute(
                insert(QuarantineRecord).values(
                    sop_instance_uid=sop_instance_uid,
                    association_id=association_id,
                    digest=digest,
                    path=path,
                    reason=reason,
                    received_at=self._database.now(),
                )
            )
            self._database.append_audit(
                session,
                Kind.INSTANCE_QUARANTINED,
                sop_instance_uid,
                calling_ae,
                {"association": association_id, "digest": digest, "reason": reason},
            )
            return True

    def refuse_instance(
        self,
        sop_instance_uid: str,
        status: int,
        reason: str,
        association_id: int | None,
        calling_ae: str,
    ) -> None:
        """Put on record that an instance was answered with a failure and not kept."""
        with self._database.transaction() as session:
            self._database.append_audit(
                session,
                Kind.INSTANCE_REFUSED,
                sop_instance_uid,
                calling_ae,
                {"association": association_id, "status": f"0x{status:04X}", "reason": reason},
            )

    def _continue(self, session: Session, row: SeriesRecord, calling_ae: str, now: str) -> Stored:
        """One more slice of a series that we know."""
        key = {"series_uid": row.series_uid, "version": row.version}
        if row.state == SeriesState.RECEIVING:
            statement = update(SeriesRecord).filter_by(**key).values(last_instance_at=now)
            assert updates_one(session, statement)  # read in this very transaction
            return Stored(row.version, is_reopening=False)
        version = row.version + 1
        source = SeriesState(row.state)
        values = {"version": version, "last_instance_at": now, "completed_at": None}
        move(session, SeriesRecord, key, SERIES_MOVES, source, SeriesState.RECEIVING, values)
        self._database.append_audit(
            session,
            Kind.SERIES_REOPENED,
            row.series_uid,
            calling_ae,
            {"version": version, "was": str(source)},
        )
        return Stored(version, is_reopening=True)


def _digest_of(session: Session, sop_instance_uid: str) -> str | None:
    return session.scalar(
        select(InstanceRecord.digest).filter_by(sop_instance_uid=sop_instance_uid)
    )


def _new_series(received: Received, calling_ae: str, peer_address: str, now: str) -> Any:
    return insert(SeriesRecord).values(
        series_uid=received.series_uid,
        study_uid=received.study_uid,
        modality=received.modality,
        state=str(SeriesState.RECEIVING),
        version=1,
        calling_ae=calling_ae,
        peer_address=peer_address,
        first_instance_at=now,
        last_instance_at=now,
    )


def _new_instance(received: Received, association_id: int, now: str) -> Any:
    return insert(InstanceRecord).values(
        sop_instance_uid=received.sop_instance_uid,
        series_uid=received.series_uid,
        association_id=association_id,
        sop_class_uid=received.sop_class_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        digest=received.digest,
        size_bytes=received.size_bytes,
        path=received.path,
        received_at=now,
        summary=dict(received.summary),
    )
