"""Workers: who is alive, whose work is to be taken up, and by whom.

A life begins with a row and ends in state `over`, by its own hand or because another worker saw no
beat of it for too long. Its id is never used again: what is left under it can be taken up any
number of times without harm to the next life of the same process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session, aliased

from node.audit import Kind
from node.ledger.database import Database, move
from node.records import WorkerRecord
from node.states import WORKER_MOVES, WorkerState


@dataclass(frozen=True)
class Life:
    """One life of a worker process.

    Args:
        id: Of its row; counted up, never used again.
        name: Of the process, the same in its next life.
        version: Of the workflows it runs.
    """

    id: int
    name: str
    version: str

    @property
    def executor_id(self) -> str:
        """What the workflow engine calls it."""
        return f"{self.name}#{self.id}"


class Workers:
    """Every verb of the worker table."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def begin(self, name: str, host: str, pid: int, version: str) -> Life:
        """Put a new life on record; what this process was before is over.

        Args:
            name: Stable and its own: whoever calls this holds the lock of that name, so no earlier
                life is left.
            host: For people.
            pid: For people.
            version: Of the workflows it runs.
        """
        with self._database.transaction() as session:
            for row in session.scalars(
                select(WorkerRecord).filter_by(name=name, state=str(WorkerState.ALIVE))
            ).all():
                self._end(session, row, Kind.WORKER_PRESUMED_DEAD, name, "the process began anew")
            now = self._database.now()
            row = WorkerRecord(
                name=name,
                host=host,
                pid=pid,
                version=version,
                state=str(WorkerState.ALIVE),
                beats=0,
                started_at=now,
                last_beat_at=now,
            )
            session.add(row)
            session.flush()
            life = _life(row)
            detail = {"host": host, "pid": pid, "workflow_version": version}
            self._database.append_audit(
                session, Kind.WORKER_STARTED, life.executor_id, name, detail
            )
            return life

    def beat(self, life: Life) -> None:
        """Tell that this life goes on."""
        with self._database.transaction() as session:
            session.execute(
                update(WorkerRecord)
                .filter_by(id=life.id, state=str(WorkerState.ALIVE))
                .values(beats=WorkerRecord.beats + 1, last_beat_at=self._database.now())
            )

    def beats(self) -> Mapping[int, int]:
        """How often each living worker has beaten."""
        with self._database.reading() as session:
            query = select(WorkerRecord.id, WorkerRecord.beats)
            rows = session.execute(query.filter_by(state=str(WorkerState.ALIVE)))
            return {row.id: row.beats for row in rows}

    def is_eldest(self, life: Life) -> bool:
        """Whether this is the first of the living workers."""
        return life.id == min(self.beats(), default=None)

    def versions(self) -> frozenset[str]:
        """The workflow versions that living workers run."""
        with self._database.reading() as session:
            query = select(WorkerRecord.version).filter_by(state=str(WorkerState.ALIVE))
            return frozenset(session.scalars(query))

    def end(self, life: Life) -> None:
        """End this life in order; what it left is for the others to take up at once."""
        with self._database.transaction() as session:
            row = session.get_one(WorkerRecord, life.id)
            self._end(session, row, Kind.WORKER_ENDED, life.name, "it ended")

    def presume_dead(self, worker: int, beats: int, by: Life) -> bool:
        """Declare a life over that was seen silent; False when it has beaten since."""
        with self._database.transaction() as session:
            row = session.get_one(WorkerRecord, worker)
            if row.state != WorkerState.ALIVE or row.beats != beats:
                return False
            why = f"no beat since {row.last_beat_at}"
            self._end(session, row, Kind.WORKER_PRESUMED_DEAD, by.name, why)
            return True

    def take(self, by: Life) -> tuple[Life, ...]:
        """Claim the work of all lives that are over, each for one living worker alone.

        A claim whose holder is over itself is open again; a claim of one's own still stands.
        """
        with self._database.transaction() as session:
            holder = aliased(WorkerRecord)
            rows = session.scalars(
                select(WorkerRecord)
                .outerjoin(holder, holder.id == WorkerRecord.taken_by)
                .where(
                    WorkerRecord.state == str(WorkerState.OVER),
                    or_(
                        holder.id.is_(None),
                        holder.id == by.id,
                        holder.state != str(WorkerState.ALIVE),
                    ),
                )
            ).all()
            for row in rows:
                seen = {"id": row.id, "taken_by": row.taken_by}
                _move(session, seen, WorkerState.OVER, WorkerState.OVER, taken_by=by.id)
            return tuple(_life(row) for row in rows)

    def recovered(self, life: Life, by: Life) -> None:
        """Note that nothing is left under this id.

        Raises:
            LostRace: When another worker has claimed it since.
        """
        with self._database.transaction() as session:
            seen = {"id": life.id, "taken_by": by.id}
            _move(session, seen, WorkerState.OVER, WorkerState.RECOVERED)
            self._database.append_audit(session, Kind.WORKER_RECOVERED, life.executor_id, by.name)

    def _end(self, session: Session, row: WorkerRecord, kind: Kind, actor: str, why: str) -> None:
        seen = {"id": row.id, "beats": row.beats}
        _move(session, seen, WorkerState.ALIVE, WorkerState.OVER)
        detail = {"reason": why, "host": row.host, "pid": row.pid}
        self._database.append_audit(session, kind, _life(row).executor_id, actor, detail)


def _move(
    session: Session,
    seen: Mapping[str, object],
    source: WorkerState,
    target: WorkerState,
    **values: object,
) -> None:
    move(session, WorkerRecord, seen, WORKER_MOVES, source, target, values)


def _life(row: WorkerRecord) -> Life:
    return Life(row.id, row.name, row.version)
