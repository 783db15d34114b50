"""The database of the ledger: transactions, the audit chain's lock, moves of a state.

SQLite by default, PostgreSQL by URL; the verbs beside this module are the same for both. There is
one writer at a time on either: every write appends to the audit chain, and two writers that read
the same end of it would fork it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Engine, Table, create_engine, event
from sqlalchemy import update as sql_update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import Update

from node import audit
from node.clock import Clock, to_text
from node.errors import Fenced, IllegalMove, LostRace, Retry, Stop
from node.faults import Point, reach
from node.ledger.patience import Limit, with_patience
from node.ledger.plain import Plain, Writer, insertion, within
from node.records import AuditEventRecord, Record
from node.states import WorkerState

BUSY_S: Final = 20.0
"""How long a writer waits for its turn. Below the DIMSE timeouts of common senders (30 s), so that
a sender hears 0xA700 instead of giving up on us."""

IDLE_S: Final = 10.0
"""How long PostgreSQL lets a writer hold its turn without a word: a process that was stopped, or
whose host is gone, must not keep the others from theirs. Below `BUSY_S`; a transaction of ours
takes milliseconds."""

_CHAIN_LOCK: Final = 0x70736575
"""The key of PostgreSQL's advisory lock; any constant that nothing else in that database uses."""

LOOK_S: Final = 0.0005
"""How often a process looks whether it is its turn to write to SQLite. A transaction of received
instances takes about a millisecond; SQLite's own waiting sleeps 1, 2, 5, 10 and up to 100 ms
between two looks, so that acceptors waited longer for each other than for the disk."""

_READING: Final = "pseudomri_reading"
# SQLite's result codes carry details above these bits.
_PRIMARY: Final = 0xFF

State = TypeVar("State", bound=str)

_LAST_EVENT: Final = "SELECT sequence, hash FROM audit_event ORDER BY sequence DESC LIMIT 1"
_NEW_EVENT: Final = insertion(cast(Table, AuditEventRecord.__table__))


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"


def connect(url: str) -> Engine:
    """An engine whose write transactions wait for each other from their first statement on.

    Raises:
        Stop: When `url` is not a database URL or names a database that is not supported.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # Without the error's own words: they may quote a part of the password.
        raise Stop(
            "database_url: expected postgresql://USER@HOST:PORT/NAME, found something else;"
            " signs such as / : @ in a name or password are written %2F %3A %40"
        ) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": BUSY_S}, pool_timeout=BUSY_S)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if backend == "postgresql":
        options = f"-c lock_timeout={int(BUSY_S * 1000)}"
        engine = create_engine(
            with_patience(url),
            connect_args={"options": options},
            pool_timeout=BUSY_S,
            pool_pre_ping=True,
        )
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "begin", _begin_postgresql)
        return engine
    raise Stop(f"database_url: expected sqlite or postgresql, found {backend}")


@dataclass(frozen=True)
class NewEvent:
    """An audit event that is to be appended; see `Database.append_audit`."""

    kind: audit.Kind
    subject: str
    actor: str
    detail: Mapping[str, Any]


def read_only(engine: Engine) -> Engine:
    """The same engine for transactions that see one moment and never wait for a writer."""
    return engine.execution_options(**{_READING: True})


class Database:
    """The tables, one writer at a time, and the clock that stamps their rows.

    Args:
        url: ``sqlite:///...`` or ``postgresql://...``; the schema is checked by `schema.check`.
        clock: Tells UTC moments.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self.engine: Final = connect(url)
        self._readers: Final = read_only(self.engine)
        self._clock: Final = clock
        self._plain_writer: Final = Writer(self.engine, _BEGIN[self.engine.dialect.name])
        self._is_served: Final = self.engine.dialect.name == "postgresql"
        self._driver: Final = cast(Any, self.engine.dialect.loaded_dbapi)
        # SQLite's own waiting polls and is unfair; threads of one process queue here instead.
        self._writer: Final = threading.Lock()
        self._worker: int | None = None

    def now(self) -> str:
        """The present moment as the ledger writes it."""
        return to_text(self._clock())

    def fence(self, worker: int) -> None:
        """From now on write only while this life of a worker is not declared over."""
        self._worker = worker

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A write transaction: all of it is durable when the block ends, or none of it happened.

        Raises:
            Retry: When the database is busy, full or away; nothing was written.
            Fenced: When this process is a worker whose life was declared over.
        """
        with (
            self._turn() as limit,
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            # Take the turn now, not at the first statement: what is read must stay true.
            plain = self.plain(session)
            limit.begin(plain.connection)
            self._check_fence(plain)
            yield session
            reach(Point.LEDGER_COMMITTING)

    @contextmanager
    def writing(self) -> Iterator[Plain]:
        """As `transaction`, in plain SQL; see `node.ledger.plain`."""
        with self._turn() as limit, self._plain_writer.begun() as plain:
            limit.begin(plain.connection)
            self._check_fence(plain)
            yield plain
            reach(Point.LEDGER_COMMITTING)

    def plain(self, session: Session) -> Plain:
        """Plain statements within the transaction of `session`."""
        return within(session.connection(), self.engine)

    @contextmanager
    def _turn(self) -> Iterator[Limit]:
        if not self._writer.acquire(timeout=BUSY_S):
            raise Retry(f"the ledger was busy for {BUSY_S:g} s; nothing was written")
        try:
            with self._as_retry(), Limit(self._is_served).held() as limit:
                yield limit
            reach(Point.LEDGER_COMMITTED)
        finally:
            self._writer.release()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent view of the tables; never waits for a writer.

        Raises:
            Retry: When the database is away.
        """
        with self._as_retry(), Session(self._readers, expire_on_commit=False) as session:
            yield session

    def append_audit(
        self,
        session: Session,
        kind: audit.Kind,
        subject: str,
        actor: str,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event to the end of the chain, inside the transaction of `session`.

        Args:
            session: From `transaction`; the event becomes durable with the change it describes.
            kind: What happened.
            subject: The UID, job id or delivery it happened to.
            actor: The AE title, process or command that did it.
            detail: JSON. UIDs, digests, counts and reasons only, nothing that names a patient.
        """
        new = NewEvent(kind, subject, actor, detail or {})
        self.append_audits(self.plain(session), [new])

    def append_audits(self, plain: Plain, events: Sequence[NewEvent]) -> None:
        """Add several events, in their order, with statements of a write transaction."""
        if not events:
            return
        before, previous = next(iter(plain.rows(_LAST_EVENT)), (0, audit.GENESIS))
        at, rows = self.now(), []
        for sequence, new in enumerate(events, start=before + 1):
            kind, detail = str(new.kind), dict(new.detail)
            digest = audit.event_hash(previous, sequence, at, kind, new.subject, new.actor, detail)
            text = json.dumps(detail)
            rows.append((sequence, at, kind, new.subject, new.actor, text, previous, digest))
            previous = digest
        plain.run_all(_NEW_EVENT, rows)

    def _check_fence(self, plain: Plain) -> None:
        if self._worker is None:
            return
        # Declaring a life over is a transaction as well: it came before this one, or it will see
        # all that this one writes.
        query = "SELECT state FROM worker WHERE id = ?"
        if plain.rows(query, [self._worker]) != [(WorkerState.ALIVE,)]:
            raise Fenced(
                f"expected worker {self._worker} to be alive, found that it was declared dead;"
                " another one has its work. Was this process stopped, or its host asleep?"
            )

    @contextmanager
    def _as_retry(self) -> Iterator[None]:
        """Say `Retry` when the database could not do it now; let our own mistakes through."""
        try:
            yield
        except PoolTimeoutError as error:
            raise Retry(f"the ledger's database did not answer: {error}") from error
        except DBAPIError as error:
            # Internal: the server takes no writes, or ended the connection of a silent writer.
            is_away = isinstance(error, OperationalError | InterfaceError | InternalError)
            if not (is_away or error.connection_invalidated):
                raise
            # The message of the driver alone: SQLAlchemy's own would quote the parameters.
            raise Retry(f"the ledger's database did not answer: {error.orig}") from error
        except self._driver.Error as error:  # of a plain statement
            away = (
                self._driver.OperationalError,
                self._driver.InterfaceError,
                self._driver.InternalError,
            )
            if not isinstance(error, away):
                raise
            raise Retry(f"the ledger's database did not answer: {error}") from error

    def close(self) -> None:
        """Give the connections back."""
        self._plain_writer.close()
        self.engine.dispose()


def move(
    session: Session,
    record: type[Record],
    key: Mapping[str, object],
    moves: Mapping[State, frozenset[State]],
    source: State,
    target: State,
    values: Mapping[str, object] | None = None,
) -> None:
    """Move one row from state `source` to `target`, if it is still in `source`.

    Args:
        session: From `Database.transaction`.
        record: The table; it has a column `state`.
        key: Column names and values that single out the row (and its version).
        moves: The table of legal moves, from `node.states`.
        source: The state the caller saw.
        target: The state to move to.
        values: Further columns to set in the same statement.

    Raises:
        IllegalMove: When `moves` does not lead from `source` to `target`.
        LostRace: When no row has this key and state any more.
    """
    name = f"{record.__tablename__} {', '.join(str(value) for value in key.values())}"
    check_move(moves, source, target, name)
    statement = sql_update(record).filter_by(**key, state=str(source))
    if not updates_one(session, statement.values(state=str(target), **(values or {}))):
        raise LostRace(f"{name}: expected state {source}; somebody else moved it first")


def check_move(
    moves: Mapping[State, frozenset[State]], source: State, target: State, name: str
) -> None:
    """Whether `moves` leads from `source` to `target`.

    Raises:
        IllegalMove: When it does not, saying of what (`name`).
    """
    if target not in moves[source]:
        legal = ", ".join(sorted(moves[source])) or "none"
        raise IllegalMove(f"{name}: {source} -> {target} is not a move; from {source}: {legal}")


def updates_one(session: Session, statement: Update) -> bool:
    """Whether a conditional UPDATE found its row; no row means that another one was faster."""
    statement = statement.execution_options(synchronize_session=False)
    result = cast("CursorResult[Any]", session.execute(statement))
    return result.rowcount == 1


def _prepare_sqlite(connection: Any, _: object) -> None:
    """Make a commit durable before it returns, and enforce the foreign keys."""
    # sqlite3 would otherwise begin on its own, and late: transactions are begun by `_begin_sqlite`.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get(_READING, False):
        connection.exec_driver_sql("BEGIN")
    else:
        _begin_writing_sqlite(connection.connection.cursor())


def _begin_writing_sqlite(cursor: Any) -> None:
    """Wait for this process's turn, looking often."""
    deadline = time.monotonic() + BUSY_S
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                cursor.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & _PRIMARY == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > deadline:
                    raise
            time.sleep(LOOK_S)
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")


def _prepare_postgresql(connection: Any, _: object) -> None:
    """Refuse a server whose commit does not mean that the change will outlive a power cut, nor
    that the standby which the server waits for has it.

    Raises:
        Stop: Naming the parameter of the server, what it is and what it must be.
    """
    for parameter in ("fsync", "synchronous_commit"):
        found = connection.execute(f"SHOW {parameter}").fetchone()[0]
        # `local` waits for no standby; the other values do, and for our own disk as well.
        if found in ("off", "local"):
            raise Stop(
                f"database_url: expected a PostgreSQL with {parameter} = on, found {found}; the"
                " node answers success for what is durable only. Set it in postgresql.conf, and"
                " for this database and user where they have their own"
            )
    # The pool takes no connection that is inside a transaction.
    connection.commit()


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get(_READING, False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    else:
        _begin_writing_postgresql(connection.connection.cursor())


def _begin_writing_postgresql(cursor: Any) -> None:
    cursor.execute(
        f"SET LOCAL idle_in_transaction_session_timeout = {int(IDLE_S * 1000)};"
        f"SELECT pg_advisory_xact_lock({_CHAIN_LOCK})"
    )


_BEGIN: Final = {"sqlite": _begin_writing_sqlite, "postgresql": _begin_writing_postgresql}
"""Begins a write transaction with a cursor of the driver, waiting for those before it."""
