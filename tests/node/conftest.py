"""The databases that the ledger runs on, and what a test of a fault tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.ledger import migrate, sqlite_url
from tests.faults import PROPERTY, Tried
from tests.postgresql import PostgreSQL, start_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A cluster for the session."""
    with start_postgresql() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with nothing in it, once of each kind."""
    if request.param == "postgresql":
        cluster: PostgreSQL = request.getfixturevalue("postgresql")
        return cluster.new_database()
    return sqlite_url(tmp_path / "node.sqlite")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database without a row, once of each kind."""
    if request.param == "postgresql":
        cluster: PostgreSQL = request.getfixturevalue("postgresql")
        return cluster.empty_ledger()
    url = sqlite_url(tmp_path / "node.sqlite")
    migrate(url)
    return url


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Tried:
    """For `python -m tests.faults`."""
    return lambda fault, happened: record_property(PROPERTY, (fault, happened))
