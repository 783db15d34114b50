"""The schema equals the sum of its migrations, and any other schema is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from node.clock import utc_now
from node.errors import Stop
from node.ledger import migrate, open_ledger, sqlite_url
from node.ledger.database import connect
from node.ledger.schema import check, expected_version
from node.records import Record


def test_the_migrations_make_exactly_the_tables_of_the_records(new_url: str) -> None:
    migrate(new_url)
    engine = connect(new_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Record.metadata) == []
        # Alembic does not compare names of primary keys; ours must be known to later migrations.
        for table in Record.metadata.sorted_tables:
            found = inspect(connection).get_pk_constraint(table.name)["name"]
            assert found == f"pk_{table.name}"
    engine.dispose()


def test_migrating_again_and_by_many_at_once_is_harmless(new_url: str) -> None:
    url = new_url
    failures: list[BaseException] = []

    def run() -> None:
        try:
            migrate(url)
        except BaseException as error:
            failures.append(error)

    connect(url).connect().close()  # WAL is on before they start
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    migrate(url)
    open_ledger(url, utc_now).close()


def test_an_empty_database_is_refused_with_the_remedy(new_url: str) -> None:
    with pytest.raises(Stop, match=r"expected version \d+, found none"):
        open_ledger(new_url, utc_now)


def test_a_newer_schema_is_refused_and_left_alone(new_url: str) -> None:
    url = new_url
    migrate(url)
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Stop, match="found 9999"):
        migrate(url)
    with pytest.raises(Stop, match=f"expected version {expected_version()}, found 9999"):
        check(engine)
    engine.dispose()


@pytest.mark.parametrize("url", ["no url", "mysql://x/y", "oracle://x/y"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(Stop, match="database_url"):
        connect(url)


def test_a_commit_is_durable_on_sqlite(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "node.sqlite")
    migrate(url)
    with connect(url).connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
