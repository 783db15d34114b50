"""The whole ledger, copied: to a SQLite file while others write, or into another database.

A copy counts only when every table has as many rows and the audit chain, read back, is whole and
ends with the same event.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError

from node import audit
from node.errors import Refuse
from node.ledger.database import connect, read_only, sqlite_url
from node.ledger.schema import check, migrate, unanswered
from node.records import AuditEventRecord, Record

_BATCH = 1000


def snapshot(url: str, target: Path) -> None:
    """Write the ledger as it stands at one moment into a new SQLite file; nobody waits for it.

    Raises:
        Stop: When the ledger is of another schema version.
    """
    source = connect(url)
    try:
        check(source)
        if source.dialect.name == "sqlite":
            with closing(sqlite3.connect(target)) as out:
                raw: Any = source.raw_connection()
                raw.driver_connection.backup(out)
                raw.close()
        else:
            _copy_into(read_only(source), sqlite_url(target))
    finally:
        source.dispose()
    with closing(sqlite3.connect(target)) as out:
        # One file, without its companions.
        out.execute("PRAGMA journal_mode = DELETE")


def copy(source_url: str, target_url: str) -> dict[str, int]:
    """Copy a ledger that nobody writes to into an empty database, in one transaction.

    Returns:
        How many rows each table has.

    Raises:
        Refuse: When there is something in the target already, or the copy is not the same.
        Retry: When the target does not answer or does not let us in.
        Stop: When a schema is of another version.
    """
    source = connect(source_url)
    try:
        check(source)
        return _copy_into(read_only(source), target_url)
    finally:
        source.dispose()


def refuse_unless_empty(url: str) -> None:
    """Refuse a database in which a node has worked.

    Raises:
        Refuse: Naming a table that has rows, or the workflow engine's schema.
        Retry: When it does not answer or does not let us in.
    """
    engine = connect(url)
    try:
        with engine.connect() as connection:
            found = inspect(connection)
            if "dbos" in found.get_schema_names():
                raise Refuse("expected an empty database, found the schema dbos of an engine in it")
            names = set(found.get_table_names())
            for table in Record.metadata.sorted_tables:
                if table.name in names and _count(connection, table):
                    raise Refuse(f"expected an empty database, found rows in its {table.name}")
    except DBAPIError as error:
        doubt = "Is it running, was this database made, and does it know this user and password?"
        raise unanswered(error, engine.url, doubt) from error
    finally:
        engine.dispose()


def _copy_into(source: Engine, target_url: str) -> dict[str, int]:
    refuse_unless_empty(target_url)
    migrate(target_url)
    target = connect(target_url)
    try:
        with source.connect() as reading, target.begin() as writing:
            counts = {}
            for table in Record.metadata.sorted_tables:
                for rows in _batches(reading, table):
                    writing.execute(insert(table), rows)
                counts[table.name] = _count(reading, table)
                _advance(writing, table)
            _compare(reading, writing, counts)
        return counts
    finally:
        target.dispose()


def _batches(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    query = select(table).order_by(*table.primary_key.columns)
    result = connection.execute(query, execution_options={"yield_per": _BATCH})
    for part in result.mappings().partitions(_BATCH):
        yield [dict(row) for row in part]


def _advance(connection: Connection, table: Table) -> None:
    """PostgreSQL counts on from its own sequence, which does not see ids that were given."""
    column = table.autoincrement_column
    if connection.dialect.name != "postgresql" or column is None:
        return
    connection.execute(
        text(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'),"
            f" max({column.name})) FROM {table.name} HAVING max({column.name}) IS NOT NULL"
        )
    )


def _compare(source: Connection, target: Connection, counts: dict[str, int]) -> None:
    for table in Record.metadata.sorted_tables:
        if (found := _count(target, table)) != counts[table.name]:
            raise Refuse(f"{table.name}: expected {counts[table.name]} rows copied, found {found}")
    last = AuditEventRecord.__table__
    head = source.scalar(select(last.c.hash).order_by(last.c.sequence.desc()).limit(1))
    broken = audit.verify(_events(target), head)
    if broken is not None:
        raise Refuse(f"the copied audit chain breaks at event {broken.sequence}: {broken.reason}")


def _events(connection: Connection) -> Iterator[audit.Event]:
    table = AuditEventRecord.__table__
    assert isinstance(table, Table)
    for rows in _batches(connection, table):
        for row in rows:
            yield audit.Event(**row)


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0
