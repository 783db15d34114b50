"""Is a file that is on record still there, or did retention delete it?

A row of an instance or output never goes; whether its file did is told by the latest row of
`removal` for its path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from node.audit import Kind
from node.ledger.database import Database, NewEvent, check_move
from node.ledger.plain import Plain, among
from node.records import (
    InstanceRecord,
    OutputRecord,
    QuarantineRecord,
    RemovalRecord,
    SeriesRecord,
    SynthesisRecord,
)
from node.states import REMOVAL_MOVES, RemovalState

_GOING: Final = (str(RemovalState.MARKED), str(RemovalState.REMOVED))
# SQLite takes 32,766 parameters in a statement.
_PATHS_AT_A_TIME: Final = 10_000


def is_live(path: Any) -> ColumnElement[bool]:
    """A condition on a column `path`: the file is neither deleted nor about to be."""
    return ~exists().where(RemovalRecord.path == path, RemovalRecord.state.in_(_GOING))


def live_paths(session: Session, paths: Iterable[str]) -> frozenset[str]:
    """Those of these paths that are on record, and whose file is to be there."""
    wanted, found = list(paths), set[str]()
    for first in range(0, len(wanted), _PATHS_AT_A_TIME):
        part = wanted[first : first + _PATHS_AT_A_TIME]
        for record in (InstanceRecord, OutputRecord, QuarantineRecord):
            query = select(record.path).where(record.path.in_(part), is_live(record.path))
            found.update(session.scalars(query))
    return frozenset(found)


def removed_at(session: Session, path: str) -> str | None:
    """When retention deleted the file, or None."""
    return session.scalar(
        select(func.max(RemovalRecord.ended_at)).filter_by(
            path=path, state=str(RemovalState.REMOVED)
        )
    )


def is_going(session: Session, units: Collection[str]) -> bool:
    """Whether any file of these units is deleted or about to be."""
    query = select(RemovalRecord.id).where(
        RemovalRecord.unit.in_(units), RemovalRecord.state.in_(_GOING)
    )
    return session.scalar(query.limit(1)) is not None


def removed_last(session: Session, kind: str, key: str) -> int:
    """How many files of a unit went by its latest mark; 0 while some of them are marked."""
    unit = {"kind": kind, "unit": key}
    marked_at = session.scalar(select(func.max(RemovalRecord.marked_at)).filter_by(**unit))
    rows = session.execute(
        select(RemovalRecord.state, func.count())
        .filter_by(**unit, marked_at=marked_at)
        .group_by(RemovalRecord.state)
    )
    counts: dict[str, int] = {state: int(count) for state, count in rows.all()}
    if str(RemovalState.MARKED) in counts:
        return 0
    return counts.get(str(RemovalState.REMOVED), 0)


def study_is_gone(session: Session, study_uid: str) -> bool:
    """Whether no file of an instance or output of a study is left; a mark deletes nothing."""
    removed = str(RemovalState.REMOVED)
    received = (
        select(InstanceRecord.path)
        .join(SeriesRecord, SeriesRecord.series_uid == InstanceRecord.series_uid)
        .where(SeriesRecord.study_uid == study_uid)
        .where(
            ~exists().where(
                RemovalRecord.path == InstanceRecord.path, RemovalRecord.state == removed
            )
        )
    )
    made = (
        select(OutputRecord.path)
        .join(SynthesisRecord, SynthesisRecord.job_id == OutputRecord.job_id)
        .where(SynthesisRecord.study_uid == study_uid)
        .where(
            ~exists().where(RemovalRecord.path == OutputRecord.path, RemovalRecord.state == removed)
        )
    )
    return not any(session.scalar(select(query.exists())) for query in (received, made))


def removed_of_series(session: Session, series_uid: str) -> dict[str, str]:
    """When retention deleted which files, by path, of the received instances of a series."""
    rows = session.execute(
        select(RemovalRecord.path, RemovalRecord.ended_at)
        .join(InstanceRecord, InstanceRecord.path == RemovalRecord.path)
        .where(
            InstanceRecord.series_uid == series_uid,
            RemovalRecord.state == str(RemovalState.REMOVED),
        )
    )
    return {path: str(ended_at) for path, ended_at in rows}


def going_paths(plain: Plain, paths: Collection[str]) -> frozenset[str]:
    """Those of these paths, few, that `claim` has to be asked about."""
    query = f"SELECT path FROM removal WHERE path IN {among(paths)} AND state IN {among(_GOING)}"
    return frozenset(path for (path,) in plain.rows(query, [*paths, *_GOING]))


def claim(database: Database, plain: Plain, path: str, actor: str, is_there: bool = False) -> bool:
    """Count on a file that was just made durable under a path that retention may have named.

    Args:
        database: Of the transaction.
        plain: Statements of a write transaction; retention deletes in one too, so never meanwhile.
        path: Of the file.
        actor: Who wrote it.
        is_there: It was found in its place after this function said False.

    Returns:
        False when retention deleted the file, and nobody knows whether before or after it was
        written. It does not do so twice, so the caller may look now.
    """
    query = f"SELECT id, state, subject FROM removal WHERE path = ? AND state IN {among(_GOING)}"
    rows = plain.rows(f"{query} ORDER BY id", [path, *_GOING])
    if rows and rows[-1][1] == RemovalState.REMOVED and not is_there:
        return False
    for number, word, subject in rows:
        state = RemovalState(word)
        is_marked = state is RemovalState.MARKED
        target = RemovalState.KEPT if is_marked else RemovalState.RESTORED
        check_move(REMOVAL_MOVES, state, target, f"removal {number}")
        plain.run("UPDATE removal SET state = ? WHERE id = ?", [str(target), number])
        kind = Kind.FILE_KEPT if is_marked else Kind.FILE_RESTORED
        detail = {"path": path, "reason": "the same bytes came again"}
        database.append_audits(plain, [NewEvent(kind, subject, actor, detail)])
    return True
