"""Receiving: associations, instances and what was refused of them.

An instance's row, its series and its audit event are of one transaction, which it may share with
others that came at the same time. When `record_instances` returns, they are durable, and so were
the files before it was called: only then may the peers hear success.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import Table, insert, select, update

from node.audit import Kind
from node.ledger.database import Database, NewEvent, check_move
from node.ledger.plain import Plain, among, insertion
from node.ledger.presence import claim, going_paths
from node.records import AssociationRecord, InstanceRecord, QuarantineRecord, SeriesRecord
from node.states import SERIES_MOVES, SeriesState

# Instances come by the hundreds a second: their rows are never objects.
_SERIES: Final = cast(Table, SeriesRecord.__table__)
_SERIES_COLUMNS: Final = tuple(column.name for column in _SERIES.columns)
_NEW_INSTANCE: Final = insertion(cast(Table, InstanceRecord.__table__))
_NEW_SERIES: Final = insertion(_SERIES)
_MOVED: Final = ("state", "version", "last_instance_at", "completed_at")
_SAME_SERIES: Final = (
    f"UPDATE series SET {', '.join(f'{name} = ?' for name in _MOVED)} WHERE series_uid = ?"
)


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
        summary: JSON of `node.summary.InstanceSummary`; None to have it read later.
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
    summary: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Arrival:
    """One instance and the association that brought it.

    Args:
        received: What came.
        association_id: From `Receiving.open_association`.
        calling_ae: Of the peer, for the series and the audit event.
        peer_address: Of the peer, numeric.
        is_there: The file was found in its place after the answer `Removed`.
    """

    received: Received
    association_id: int
    calling_ae: str
    peer_address: str
    is_there: bool = False


@dataclass(frozen=True)
class Stored:
    """The instance is on record; it opened its series again when `is_reopening`."""

    version: int
    is_reopening: bool


@dataclass(frozen=True)
class Duplicate:
    """The very same bytes were on record already; nothing was written but an audit event."""


@dataclass(frozen=True)
class Elsewhere:
    """The very same bytes are on record under a path of an earlier version, which named files
    otherwise. The caller moves its file there and asks again with that path. Nothing changed."""

    path: str


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
    OTHER_SYNTAX = "this SOP Instance UID is held in another transfer syntax"
    OTHER_STUDY = "this Series Instance UID is held in another study"


Outcome = Stored | Duplicate | Elsewhere | Removed | Conflict
"""What became of an instance."""


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

    def close_orphans(self, process: str, here: Set[int] = frozenset()) -> int:
        """Close what this process, or an earlier life of it, left open; how many there were.

        Args:
            process: Whose associations.
            here: The ids of those that it still has.
        """
        with self._database.transaction() as session:
            rows = list(
                session.scalars(
                    select(AssociationRecord).filter_by(process=process, closed_at=None)
                )
            )
            orphans = [row for row in rows if row.id not in here]
            for row in orphans:
                row.closed_at = self._database.now()
                row.ending = str(Ending.ORPHANED)
                self._database.append_audit(
                    session,
                    Kind.ASSOCIATION_ORPHANED,
                    str(row.id),
                    process,
                    {"calling_ae": row.calling_ae, "peer_address": row.peer_address},
                )
            return len(orphans)

    def refuse_association(
        self, calling_ae: str, called_ae: str, peer_address: str, reason: str, count: int = 1
    ) -> None:
        """Put on record that a peer was turned away, `count` times by now."""
        with self._database.transaction() as session:
            detail = {
                "called_ae": called_ae,
                "peer_address": peer_address,
                "reason": reason,
                "count": count,
            }
            self._database.append_audit(
                session, Kind.ASSOCIATION_REFUSED, calling_ae, calling_ae, detail
            )

    def record_instances(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """Put instances, whose files are durable, on record in one transaction.

        A new slice opens a series that was complete, selected or declined again, as its next
        version. The same bytes again change nothing.

        Returns:
            What became of each, in their order.
        """
        with self._database.writing() as plain:
            page = _Page(self._database, plain, [one.received for one in arrivals])
            outcomes = [page.enter(arrival) for arrival in arrivals]
            page.write()
            return outcomes

    def quarantine(
        self,
        received: Received,
        reason: str,
        association_id: int,
        calling_ae: str,
        is_there: bool = False,
    ) -> bool:
        """Put on record that an instance lies apart, under its `path`, and why.

        Returns:
            False when retention deleted the file meanwhile, as `Removed` says it of an instance.
        """
        with self._database.transaction() as session:
            plain = self._database.plain(session)
            if not claim(self._database, plain, received.path, calling_ae, is_there):
                return False
            session.execute(
                insert(QuarantineRecord).values(
                    sop_instance_uid=received.sop_instance_uid,
                    association_id=association_id,
                    digest=received.digest,
                    path=received.path,
                    reason=reason,
                    received_at=self._database.now(),
                    series_uid=received.series_uid,
                    study_uid=received.study_uid,
                )
            )
            self._database.append_audit(
                session,
                Kind.INSTANCE_QUARANTINED,
                received.sop_instance_uid,
                calling_ae,
                {"association": association_id, "digest": received.digest, "reason": reason},
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


class _Held(NamedTuple):
    """Of an instance on record, what must be the same when it comes again."""

    digest: str
    transfer_syntax_uid: str
    path: str

    @classmethod
    def of(cls, received: Received) -> _Held:
        return cls(received.digest, received.transfer_syntax_uid, received.path)


class _Page:
    """What one transaction adds: read once, decided instance by instance, written once."""

    def __init__(self, database: Database, plain: Plain, received: Sequence[Received]) -> None:
        self._database: Final = database
        self._plain: Final = plain
        self._now: Final = database.now()
        self._going: Final = going_paths(plain, {one.path for one in received})
        self._held: Final = _held_instances(plain, {one.sop_instance_uid for one in received})
        self._series: Final = _held_series(plain, {one.series_uid for one in received})
        self._known: Final = frozenset(self._series)
        self._touched: Final[set[str]] = set()
        self._instances: Final[list[tuple[object, ...]]] = []
        self._events: Final[list[NewEvent]] = []

    def enter(self, arrival: Arrival) -> Outcome:
        """Decide what becomes of one instance."""
        received = arrival.received
        uid, came = received.sop_instance_uid, _Held.of(received)
        held = self._held.get(uid)
        if held is not None and held != came:
            return _difference(held, came)
        if not self._claim(arrival):
            return Removed()
        detail: dict[str, Any] = {"association": arrival.association_id, "digest": received.digest}
        if held is not None:
            self._note(Kind.INSTANCE_DUPLICATE, uid, arrival, detail)
            return Duplicate()
        series = self._series.get(received.series_uid)
        if series is not None and series["study_uid"] != received.study_uid:
            return Conflict(ConflictReason.OTHER_STUDY)
        self._touched.add(received.series_uid)
        stored = self._begin(arrival) if series is None else self._continue(series, arrival)
        self._held[uid] = came
        self._instances.append(_instance_row(received, arrival.association_id, self._now))
        detail |= {"series_uid": received.series_uid, "size_bytes": received.size_bytes}
        self._note(Kind.INSTANCE_RECEIVED, uid, arrival, detail)
        return stored

    def write(self) -> None:
        """Write all that was decided."""
        for uid in sorted(self._touched):
            row = self._series[uid]
            if uid in self._known:
                # Nobody moved it since: this transaction was alone from its first statement on.
                self._plain.run(_SAME_SERIES, [*(row[name] for name in _MOVED), uid])
            else:
                self._plain.run(_NEW_SERIES, [row[name] for name in _SERIES_COLUMNS])
        if self._instances:
            self._plain.run_all(_NEW_INSTANCE, self._instances)
        self._database.append_audits(self._plain, self._events)

    def _claim(self, arrival: Arrival) -> bool:
        path, actor = arrival.received.path, arrival.calling_ae
        if path not in self._going:
            return True
        return claim(self._database, self._plain, path, actor, arrival.is_there)

    def _begin(self, arrival: Arrival) -> Stored:
        received = arrival.received
        self._series[received.series_uid] = {
            "series_uid": received.series_uid,
            "study_uid": received.study_uid,
            "modality": received.modality,
            "state": str(SeriesState.RECEIVING),
            "version": 1,
            "calling_ae": arrival.calling_ae,
            "peer_address": arrival.peer_address,
            "first_instance_at": self._now,
            "last_instance_at": self._now,
            "completed_at": None,
        }
        return Stored(version=1, is_reopening=False)

    def _continue(self, series: dict[str, Any], arrival: Arrival) -> Stored:
        """One more slice of a series that we know."""
        series["last_instance_at"] = self._now
        if series["state"] == SeriesState.RECEIVING:
            return Stored(series["version"], is_reopening=False)
        was = SeriesState(series["state"])
        check_move(SERIES_MOVES, was, SeriesState.RECEIVING, f"series {series['series_uid']}")
        series |= {
            "state": str(SeriesState.RECEIVING),
            "version": series["version"] + 1,
            "completed_at": None,
        }
        detail = {"version": series["version"], "was": str(was)}
        self._note(Kind.SERIES_REOPENED, series["series_uid"], arrival, detail)
        return Stored(series["version"], is_reopening=True)

    def _note(self, kind: Kind, subject: str, arrival: Arrival, detail: dict[str, Any]) -> None:
        self._events.append(NewEvent(kind, subject, arrival.calling_ae, detail))


def _difference(held: _Held, came: _Held) -> Conflict | Elsewhere:
    if held.digest != came.digest:
        return Conflict(ConflictReason.OTHER_BYTES)
    if held.transfer_syntax_uid != came.transfer_syntax_uid:
        return Conflict(ConflictReason.OTHER_SYNTAX)
    return Elsewhere(held.path)


def _held_instances(plain: Plain, uids: Collection[str]) -> dict[str, _Held]:
    """Those instances that are on record, by SOP Instance UID."""
    columns = ", ".join(("sop_instance_uid", *_Held._fields))
    query = f"SELECT {columns} FROM instance WHERE sop_instance_uid IN {among(uids)}"
    return {uid: _Held(*held) for uid, *held in plain.rows(query, [*uids])}


def _held_series(plain: Plain, uids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Of those series that are on record, UID to columns."""
    query = f"SELECT {', '.join(_SERIES_COLUMNS)} FROM series WHERE series_uid IN {among(uids)}"
    rows = (dict(zip(_SERIES_COLUMNS, row, strict=True)) for row in plain.rows(query, [*uids]))
    return {row["series_uid"]: row for row in rows}


def _instance_row(received: Received, association_id: int, now: str) -> tuple[object, ...]:
    """The columns of `InstanceRecord`, in their order."""
    summary = None if received.summary is None else dict(received.summary)
    return (
        received.sop_instance_uid,
        received.series_uid,
        association_id,
        received.sop_class_uid,
        received.transfer_syntax_uid,
        received.digest,
        received.size_bytes,
        received.path,
        now,
        json.dumps(summary),
    )
