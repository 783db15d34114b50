"""Retention: what may go, what is held, and what was deleted by which rule.

A file goes in two transactions. The first marks it, the second deletes it and says so: whoever dies
between them leaves a mark, which the next turn takes up. What speaks against the deletion is asked
again inside the second one, and no other writer is at work while the file is unlinked, so a hold or
a late slice is never overtaken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from sqlalchemy import Select, func, insert, or_, select, update
from sqlalchemy.orm import Session

from node.audit import Kind
from node.errors import Refuse
from node.faults import Point, reach
from node.ledger.database import Database, move
from node.ledger.presence import is_live, live_paths, removed_last, study_is_gone
from node.records import (
    HoldRecord,
    InstanceRecord,
    OutputRecord,
    QuarantineRecord,
    RemovalRecord,
    SeriesRecord,
    SynthesisRecord,
)
from node.states import REMOVAL_MOVES, RemovalState, SeriesState, SynthesisState

# So many files go in one transaction: a receiver waits for it no longer than for a busy sender.
BATCH: Final = 32


class UnitKind(StrEnum):
    """What a rule judges as one."""

    RECEIVED = "received"
    OUTPUTS = "outputs"
    QUARANTINE = "quarantine"
    WORK = "work"
    STRAY = "stray"


@dataclass(frozen=True)
class Standing:
    """What is known about a unit that may speak for keeping it.

    Args:
        is_held: It, or anything it belongs to, is under audit hold.
        series_state: Of the series, for received instances.
        syntheses: States of the syntheses that need it.
        is_expected: A stray that is on record by now, or that its job will put there.
    """

    is_held: bool = False
    series_state: SeriesState | None = None
    syntheses: frozenset[SynthesisState] = frozenset()
    is_expected: bool = False


class Shelf(Protocol):
    """Where marked files lie."""

    def has(self, one: Marked) -> bool:
        """Whether it is there."""

    def delete(self, those: Sequence[Marked]) -> None:
        """Delete them, durably; harmless for those that are gone."""


Judge = Callable[[Standing], str | None]
"""Why something must stay, or None."""


@dataclass(frozen=True)
class Unit:
    """What goes or stays as one: a series' instances, a job's outputs, one file, one work folder.

    Args:
        key: Series UID, job id, `JOB_ID-RUN`, or the path.
        since: From when its age counts: the last thing that happened to it.
        files: How many there are.
        size_bytes: Of all of them; 0 where only the file system knows.
    """

    kind: UnitKind
    key: str
    since: str
    files: int
    size_bytes: int
    standing: Standing


@dataclass(frozen=True)
class Marked:
    """One file that is to be deleted; `path` is relative to the archive, or to the work folder."""

    id: int
    kind: UnitKind
    unit: str
    subject: str
    path: str
    digest: str | None
    rule: str


@dataclass(frozen=True)
class Hold:
    """A hold that stands."""

    uid: str
    reason: str
    placed_at: str
    placed_by: str


class Retention:
    """Every verb of holds and removals."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def place_hold(self, uid: str, reason: str, actor: str) -> int:
        """Keep everything that belongs to a UID until the hold is released.

        Args:
            uid: Of a study, series, instance or output, or a job id.
            reason: For people; nothing of the patient.
            actor: Who asks.

        Returns:
            How many files of it retention had deleted before.

        Raises:
            Refuse: When the UID is not on record, or is held already.
        """
        with self._database.transaction() as session:
            series = _series_of(session, {uid})
            named = (
                QuarantineRecord.sop_instance_uid,
                QuarantineRecord.series_uid,
                QuarantineRecord.study_uid,
            )
            quarantined = session.scalar(
                select(QuarantineRecord.path).where(or_(*(name == uid for name in named))).limit(1)
            )
            if not series and quarantined is None:
                raise Refuse(
                    "expected the UID of a study, series, instance or output, or a whole job id, on"
                    f" record; found nothing for {uid!r}"
                )
            if session.scalar(select(_open_holds().where(HoldRecord.uid == uid).exists())):
                raise Refuse(f"{uid} is under audit hold already; `audit holds` tells why")
            now = self._database.now()
            session.execute(
                insert(HoldRecord).values(uid=uid, reason=reason, placed_at=now, placed_by=actor)
            )
            gone = _removed_of(session, series)
            detail = {"reason": reason, "series": sorted(series), "deleted_before": gone}
            self._database.append_audit(session, Kind.HOLD_PLACED, uid, actor, detail)
            return gone

    def release_hold(self, uid: str, actor: str) -> None:
        """End a hold; the rules apply again.

        Raises:
            Refuse: When there is none.
        """
        with self._database.transaction() as session:
            open_hold = update(HoldRecord).filter_by(uid=uid, released_at=None)
            released = session.execute(
                open_hold.values(released_at=self._database.now()).returning(HoldRecord.id)
            ).all()
            if not released:
                raise Refuse(f"expected a hold on {uid!r}, found none; `audit holds` lists them")
            self._database.append_audit(session, Kind.HOLD_RELEASED, uid, actor)

    def holds(self) -> tuple[Hold, ...]:
        """The holds that stand, oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(_open_holds().order_by(HoldRecord.id))
            return tuple(Hold(r.uid, r.reason, r.placed_at, r.placed_by) for r in rows)

    def units(self) -> tuple[Unit, ...]:
        """Received instances, outputs and quarantine that are there, each with its standing."""
        with self._database.reading() as session:
            held = _held_series(session)
            return (
                *_received(session, held),
                *_outputs(session, held),
                *_quarantined(session, held),
            )

    def standing(self, kind: UnitKind, key: str) -> Standing:
        """What is known about a unit, now."""
        with self._database.reading() as session:
            return _standing(session, kind, key, _held_series(session))

    def known_paths(self, paths: Iterable[str]) -> frozenset[str]:
        """Those of these paths of the archive that are on record and not deleted."""
        with self._database.reading() as session:
            return live_paths(session, paths)

    def mark(self, kind: UnitKind, key: str, rule: str, judge: Judge, actor: str) -> int:
        """Name the files of a unit for deletion, unless something speaks against it by now.

        Returns:
            How many files were marked.
        """
        with self._database.transaction() as session:
            if judge(_standing(session, kind, key, _held_series(session))) is not None:
                return 0
            files = _files(session, kind, key)
            if not files:
                return 0
            now = self._database.now()
            common = {"kind": str(kind), "unit": key, "rule": rule, "marked_at": now}
            state = {"state": str(RemovalState.MARKED)}
            session.execute(insert(RemovalRecord), [{**common, **state, **file} for file in files])
            detail = {"unit": str(kind), "files": len(files), "rule": rule}
            self._database.append_audit(
                session, Kind.RETENTION_MARKED, _subject(key), actor, detail
            )
            return len(files)

    def marked(self) -> tuple[Marked, ...]:
        """Everything that is to be deleted, oldest mark first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(RemovalRecord)
                .filter_by(state=str(RemovalState.MARKED))
                .order_by(RemovalRecord.id)
            )
            return tuple(
                Marked(r.id, UnitKind(r.kind), r.unit, r.subject, r.path, r.digest, r.rule)
                for r in rows
            )

    def remove(self, batch: Iterable[Marked], judge: Judge, shelf: Shelf, actor: str) -> int:
        """Delete marked files and say so, in one transaction; returns how many are gone.

        What has come up since the mark keeps a file, unless an earlier life deleted it before it
        could say so.
        """
        going: list[Marked] = []
        with self._database.transaction() as session:
            held, ended = _held_series(session), list[Marked]()
            for one in batch:
                if session.get_one(RemovalRecord, one.id).state != RemovalState.MARKED:
                    continue
                ended.append(one)
                reason = judge(_standing(session, one.kind, one.unit, held))
                if reason is not None and shelf.has(one):
                    self._end(session, one, RemovalState.KEPT, Kind.FILE_KEPT, actor, reason)
                else:
                    going.append(one)
            shelf.delete(going)
            if going:
                reach(Point.RETENTION_UNLINKED)
            for one in going:
                self._end(session, one, RemovalState.REMOVED, Kind.FILE_REMOVED, actor, one.rule)
            for kind, key in dict.fromkeys((one.kind, one.unit) for one in ended):
                self._sum_up(session, kind, key, actor)
        return len(going)

    def _sum_up(self, session: Session, kind: UnitKind, key: str, actor: str) -> None:
        """One event for all that went of a unit, once its last mark is gone."""
        series_uid = _series_behind(session, kind, key)
        if series_uid is None or not (files := removed_last(session, str(kind), key)):
            return
        study_uid = session.get_one(SeriesRecord, series_uid).study_uid
        detail = {
            "unit": str(kind),
            "files": files,
            "series_uid": series_uid,
            "study_uid": study_uid,
            "is_study_gone": kind is not UnitKind.QUARANTINE and study_is_gone(session, study_uid),
        }
        self._database.append_audit(session, Kind.RETENTION_REMOVED, _subject(key), actor, detail)

    def _end(
        self,
        session: Session,
        one: Marked,
        target: RemovalState,
        kind: Kind,
        actor: str,
        reason: str,
    ) -> None:
        values = {"ended_at": self._database.now()}
        source = RemovalState.MARKED
        move(session, RemovalRecord, {"id": one.id}, REMOVAL_MOVES, source, target, values)
        detail = {"unit": str(one.kind), "path": one.path, "digest": one.digest, "reason": reason}
        self._database.append_audit(session, kind, one.subject, actor, detail)


def _open_holds() -> Select[HoldRecord]:
    return select(HoldRecord).filter_by(released_at=None)


def _held_series(session: Session) -> frozenset[str]:
    """Every series that a hold reaches, and the UIDs of the holds themselves."""
    uids = {hold.uid for hold in session.scalars(_open_holds())}
    return frozenset(_series_of(session, uids) | uids)


def _series_of(session: Session, uids: set[str]) -> set[str]:
    """The series that these UIDs of anything belong to: what made an output is held with it."""
    if not uids:
        return set()
    queries = (
        select(SeriesRecord.series_uid).where(
            or_(SeriesRecord.series_uid.in_(uids), SeriesRecord.study_uid.in_(uids))
        ),
        select(InstanceRecord.series_uid).where(InstanceRecord.sop_instance_uid.in_(uids)),
        select(SynthesisRecord.series_uid).where(SynthesisRecord.job_id.in_(uids)),
        select(SynthesisRecord.series_uid)
        .join(OutputRecord, OutputRecord.job_id == SynthesisRecord.job_id)
        .where(or_(OutputRecord.sop_instance_uid.in_(uids), OutputRecord.series_uid.in_(uids))),
    )
    return {uid for query in queries for uid in session.scalars(query)}


def _removed_of(session: Session, series: set[str]) -> int:
    """How many instances of these series retention has deleted."""
    query = (
        select(func.count())
        .select_from(RemovalRecord)
        .where(
            RemovalRecord.kind == str(UnitKind.RECEIVED),
            RemovalRecord.unit.in_(series),
            RemovalRecord.state == str(RemovalState.REMOVED),
        )
    )
    return session.scalar(query) or 0


def _series_behind(session: Session, kind: UnitKind, key: str) -> str | None:
    """The series that a unit of instances belongs to; None for what holds none."""
    if kind is UnitKind.RECEIVED:
        return key
    if kind is UnitKind.OUTPUTS:
        return session.get_one(SynthesisRecord, key).series_uid
    if kind is UnitKind.QUARANTINE:
        uids = set(session.scalars(select(QuarantineRecord.sop_instance_uid).filter_by(path=key)))
        return next(iter(sorted(_series_of(session, uids))), None)
    return None


def _received(session: Session, held: frozenset[str]) -> Iterator[Unit]:
    # Two statements, however many series there are.
    made: defaultdict[str, list[tuple[SynthesisState, str]]] = defaultdict(list)
    columns = (SynthesisRecord.series_uid, SynthesisRecord.state, SynthesisRecord.updated_at)
    for uid, state, updated_at in session.execute(select(*columns)):
        made[uid].append((SynthesisState(state), updated_at))
    rows = session.execute(
        select(
            SeriesRecord.series_uid,
            SeriesRecord.state,
            SeriesRecord.last_instance_at,
            func.count(),
            func.sum(InstanceRecord.size_bytes),
        )
        .join(InstanceRecord, InstanceRecord.series_uid == SeriesRecord.series_uid)
        .where(is_live(InstanceRecord.path))
        .group_by(SeriesRecord.series_uid, SeriesRecord.state, SeriesRecord.last_instance_at)
    )
    for uid, state, last_at, files, size_bytes in rows.all():
        states = frozenset(state for state, _ in made[uid])
        standing = Standing(uid in held, SeriesState(state), states)
        since = max([last_at, *(updated_at for _, updated_at in made[uid])])
        yield Unit(UnitKind.RECEIVED, uid, since, files, int(size_bytes), standing)


def _outputs(session: Session, held: frozenset[str]) -> Iterator[Unit]:
    rows = session.execute(
        select(
            SynthesisRecord.job_id,
            SynthesisRecord.series_uid,
            SynthesisRecord.state,
            SynthesisRecord.updated_at,
            func.count(),
        )
        .join(OutputRecord, OutputRecord.job_id == SynthesisRecord.job_id)
        .where(is_live(OutputRecord.path))
        .group_by(
            SynthesisRecord.job_id,
            SynthesisRecord.series_uid,
            SynthesisRecord.state,
            SynthesisRecord.updated_at,
        )
    )
    for job_id, series_uid, state, updated_at, files in rows.all():
        standing = Standing(series_uid in held, None, frozenset({SynthesisState(state)}))
        yield Unit(UnitKind.OUTPUTS, job_id, updated_at, files, 0, standing)


def _quarantined(session: Session, held: frozenset[str]) -> Iterator[Unit]:
    # The same bytes quarantined twice are one file.
    rows = session.execute(
        select(QuarantineRecord.path, func.max(QuarantineRecord.received_at))
        .where(is_live(QuarantineRecord.path))
        .group_by(QuarantineRecord.path)
    )
    for path, received_at in rows.all():
        standing = _standing(session, UnitKind.QUARANTINE, path, held)
        yield Unit(UnitKind.QUARANTINE, path, received_at, 1, 0, standing)


def _standing(session: Session, kind: UnitKind, key: str, held: frozenset[str]) -> Standing:
    if kind is UnitKind.RECEIVED:
        states = session.scalars(select(SynthesisRecord.state).filter_by(series_uid=key))
        syntheses = frozenset(map(SynthesisState, states))
        state = session.get_one(SeriesRecord, key).state
        return Standing(key in held, SeriesState(state), syntheses)
    if kind is UnitKind.QUARANTINE:
        rows = list(session.scalars(select(QuarantineRecord).filter_by(path=key)))
        uids = {row.sop_instance_uid for row in rows}
        # The instance that it contradicts lies in the series that may be held.
        named = uids | {uid for row in rows for uid in (row.series_uid, row.study_uid) if uid}
        is_unknown = any(row.study_uid is None for row in rows)
        return Standing(bool(held & (named | _series_of(session, uids)) or (held and is_unknown)))
    job_id = _job_of(kind, key)
    job = session.get(SynthesisRecord, job_id) if job_id else None
    is_expected = kind is UnitKind.STRAY and bool(live_paths(session, [key]))
    if job is None:
        return Standing(is_expected=is_expected)
    state = SynthesisState(job.state)
    is_stale = kind is UnitKind.WORK and key != f"{job.job_id}-{job.run}"
    syntheses = frozenset() if is_stale else frozenset({state})
    return Standing(job.series_uid in held, None, syntheses, is_expected)


def _job_of(kind: UnitKind, key: str) -> str | None:
    """The job that outputs, a work folder or a stray output belong to."""
    if kind is UnitKind.OUTPUTS:
        return key
    if kind is UnitKind.WORK:
        return key.rpartition("-")[0]
    folder, _, rest = key.partition("/")
    return rest.partition("/")[0] if folder == "outputs" else None


def _files(session: Session, kind: UnitKind, key: str) -> list[dict[str, Any]]:
    """Subject, path and digest of the files of a unit that are not going already."""
    if kind is UnitKind.RECEIVED:
        return _rows(session, InstanceRecord, InstanceRecord.series_uid == key)
    if kind is UnitKind.OUTPUTS:
        return _rows(session, OutputRecord, OutputRecord.job_id == key)
    if kind is UnitKind.QUARANTINE:
        return _rows(session, QuarantineRecord, QuarantineRecord.path == key)[:1]
    # Only the file system knows these; a mark that stands is not made twice.
    marked = select(RemovalRecord.id).filter_by(path=key, state=str(RemovalState.MARKED))
    if session.scalar(marked) is not None:
        return []
    return [{"subject": _subject(key), "path": key, "digest": None}]


def _rows(session: Session, record: Any, condition: Any) -> list[dict[str, Any]]:
    query = select(record.sop_instance_uid, record.path, record.digest)
    rows = session.execute(query.where(condition, is_live(record.path)))
    return [{"subject": uid, "path": path, "digest": digest} for uid, path, digest in rows]


def _subject(key: str) -> str:
    """What an audit event is about: a UID, a run, or the name of a file."""
    return key.rpartition("/")[2]
