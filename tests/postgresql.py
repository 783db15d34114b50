"""Debian's PostgreSQL as a throwaway cluster: a socket in a temporary folder, no port, no password.

The server refuses to run as root, so root lends it to a user who owns nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
import pytest

from node.ledger import migrate
from node.records import Record

USER: Final = "pseudomri"
_LENT_TO: Final = "nobody"


@dataclass(frozen=True)
class PostgreSQL:
    """A running cluster.

    Args:
        folder: Of its socket and data.
    """

    folder: Path
    _serial: itertools.count[int] = field(default_factory=itertools.count)

    def url(self, name: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{USER}@/{name}?host={self.folder}"

    def new_database(self) -> str:
        """The URL of a new database with nothing in it."""
        name = f"test_{next(self._serial)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def empty_ledger(self) -> str:
        """The URL of the one database with the tables of the ledger and no row in them.

        Emptying it takes a tenth of the time that making a new one does.
        """
        if not self.execute("SELECT 1 FROM pg_database WHERE datname = 'ledger'"):
            self.execute("CREATE DATABASE ledger")
            migrate(self.url("ledger"))
        tables = [table.name for table in reversed(Record.metadata.sorted_tables)]
        # Not TRUNCATE, which makes and syncs new files for every table and index.
        self.execute("; ".join(f"DELETE FROM {name}" for name in tables), "ledger")
        return self.url("ledger")

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement, outside of all transactions."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def start_postgresql() -> Iterator[PostgreSQL]:
    """A cluster for as long as the block runs; fails the test where it is not installed."""
    # A socket's path may have 107 characters: pytest's own folders are longer.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    data = folder / "data"
    if os.geteuid() == 0:
        os.chown(folder, *_owner())
    try:
        # Its own encoding and no locale: what a test sees does not depend on the machine.
        options = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--no-locale"]
        _run("initdb", "-D", str(data), "-U", USER, *options)
        settings = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        control = ["-D", str(data), "-w", "-l", str(folder / "log")]
        _run("pg_ctl", *control, "-o", settings, "start")
        try:
            yield PostgreSQL(folder)
        finally:
            _run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(program: str, *arguments: str) -> None:
    command = [str(_found(program)), *arguments]
    user, group = _owner()
    lent = {"user": user, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}
    # Not a pipe: the server inherits it and would keep it open.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command, stdout=output, stderr=output, cwd="/", timeout=60, check=False, **lent
        )
        output.seek(0)
        assert done.returncode == 0, output.read()


def _owner() -> tuple[int, int]:
    entry = pwd.getpwnam(_LENT_TO)
    return entry.pw_uid, entry.pw_gid


def _found(program: str) -> Path:
    # Debian keeps the programs of each version apart, out of the path.
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if os.access(folder / program, os.X_OK):
            return folder / program
    on_path = shutil.which(program)
    if on_path is None:
        pytest.fail(f"{program} is not installed; `make peers` installs it")
    return Path(on_path)
