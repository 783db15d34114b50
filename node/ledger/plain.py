"""Statements in plain SQL, straight to the driver: for what is written by the hundreds a second.

SQLAlchemy takes 50 microseconds for a statement that takes SQLite two, and 150 for a transaction.
The statements here are those that both databases understand; `?` marks a value on either.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Connection, Engine, PoolProxiedConnection, Table

_MARKERS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s"}


class Plain:
    """The statements of one transaction.

    Args:
        connection: Of the driver.
        engine: It is of.
    """

    def __init__(self, connection: Any, engine: Engine) -> None:
        self.connection: Final = connection
        self._cursor: Final = connection.cursor()
        self._marker: Final = _MARKERS[engine.dialect.paramstyle]

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """What a query finds."""
        self._execute(statement, values)
        return list(self._cursor.fetchall())

    def run(self, statement: str, values: Sequence[object] = ()) -> int:
        """Run a statement; returns how many rows it changed."""
        self._execute(statement, values)
        return int(self._cursor.rowcount)

    def _execute(self, statement: str, values: Sequence[object]) -> None:
        self._cursor.execute(_marked(statement, self._marker), values)

    def run_all(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run a statement for each of these rows."""
        self._cursor.executemany(_marked(statement, self._marker), rows)


class Writer:
    """Write transactions in plain SQL, one after the other.

    A connection to SQLite is kept between them, with the pages it knows: the pool takes as long as
    the transaction. A server may be gone since, so there the pool is asked, which looks first.

    Args:
        engine: Of the database.
        begin: Begins a write transaction with a cursor of the driver.
    """

    def __init__(self, engine: Engine, begin: Callable[[Any], None]) -> None:
        self._engine: Final = engine
        self._begin: Final = begin
        self._keeps: Final = engine.dialect.name == "sqlite"
        self._kept: PoolProxiedConnection | None = None

    @contextmanager
    def begun(self) -> Iterator[Plain]:
        """A transaction, which commits when the block ends and is rolled back when it raises.

        Of one thread at a time.
        """
        connection, self._kept = self._kept or self._engine.raw_connection(), None
        try:
            self._begin(connection.cursor())
            yield Plain(connection, self._engine)
            connection.commit()
        except BaseException:
            connection.close()
            raise
        if self._keeps:
            self._kept = connection
        else:
            connection.close()

    def close(self) -> None:
        """Give back what is kept."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def within(connection: Connection, engine: Engine) -> Plain:
    """Plain statements within a transaction of SQLAlchemy's."""
    return Plain(connection.connection, engine)


def insertion(table: Table) -> str:
    """The statement that inserts rows with all columns of a table, in their order."""
    names = [column.name for column in table.columns]
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {among(names)}"


def among(values: Collection[object]) -> str:
    """The marks of so many values, in parentheses."""
    return f"({', '.join('?' * len(values))})"


@lru_cache
def _marked(statement: str, marker: str) -> str:
    return statement if marker == "?" else statement.replace("?", marker)
