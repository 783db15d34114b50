"""Debian's PostgreSQL as a throwaway cluster: a socket in a temporary folder, no port, no password;
and as a pair on loopback, of which one follows the other.

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

import psutil
import psycopg
import pytest

from node.ledger import migrate
from node.records import Record
from tests.namespaces import Host
from tests.peers import LOOPBACK, free_port, wait_until

USER: Final = "pseudomri"
_LENT_TO: Final = "nobody"


@dataclass(frozen=True)
class PostgreSQL:
    """A running cluster.

    Args:
        folder: Of its socket and data.
        port: Names the socket.
    """

    folder: Path
    port: int = 5432
    _serial: itertools.count[int] = field(default_factory=itertools.count)

    def url(self, name: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{USER}@/{name}?host={self.folder}&port={self.port}"

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

    def want_password(self, user: str, password: str) -> None:
        """A user who may come in by password only; all others go on without."""
        self.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{password}'")
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text(f"local all {user} scram-sha-256\n{rules.read_text()}")
        self.execute("SELECT pg_reload_conf()")
        wait_until(lambda: self._turns_away(user), 10, "the rules to be read")

    def _turns_away(self, user: str) -> bool:
        try:
            psycopg.connect(self.url("postgres").replace(USER, user)).close()
        except psycopg.OperationalError:
            return True
        return False

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement, outside of all transactions."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def start_postgresql(address: str = "''") -> Iterator[PostgreSQL]:
    """A cluster for as long as the block runs; fails the test where it is not installed.

    Args:
        address: To listen at beside its socket.
    """
    with _folder() as folder:
        server = Server(folder / "data", f"-c listen_addresses={address}")
        server.create()
        server.start()
        try:
            yield PostgreSQL(folder)
        finally:
            server.stop()


@dataclass(frozen=True)
class Server:
    """One server of Debian's PostgreSQL, with its socket and its log beside its data.

    Args:
        data: Its folder.
        options: Of its command line.
        prefix: What its commands begin with; see `tests.namespaces.Host`.
    """

    data: Path
    options: str
    prefix: tuple[str, ...] = ()

    def create(self) -> None:
        """With nothing in it."""
        # Its own encoding and no locale: what a test sees does not depend on the machine.
        options = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--no-locale"]
        _run("initdb", "-D", str(self.data), "-U", USER, *options)
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all,replication all samenet trust\n")

    def start(self) -> None:
        """Returns when it answers."""
        folder = self.data.parent
        options = f"{self.options} -c unix_socket_directories={folder}"
        log = folder / f"{self.data.name}.log"
        where = ["-D", str(self.data), "-l", str(log), "-o", options]
        _run("pg_ctl", "-w", *where, "start", prefix=self.prefix)

    def stop(self, mode: str = "immediate") -> None:
        """Returns when it is gone; see pg_ctl(1) for the modes."""
        _run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """As when its host dies: all its processes, at once."""
        first = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        for process in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def promote(self) -> None:
        """Make a standby the primary; returns when it takes writes."""
        _run("pg_ctl", "-D", str(self.data), "-w", "promote")


@dataclass(frozen=True)
class Pair:
    """A primary and a standby that has every acknowledged commit (streaming replication)."""

    primary: Server
    standby: Server
    url: str


@contextlib.contextmanager
def start_pair(other: Host | None = None) -> Iterator[Pair]:
    """Both of them and one empty database, as a site's administrator would set them up.

    Args:
        other: Where the primary runs; beside its standby, on loopback, without.
    """
    ports = free_port(), free_port()
    addresses = (other.address, other.ours) if other else (LOOPBACK, LOOPBACK)
    with _folder() as folder, contextlib.ExitStack() as running:
        primary, standby = (
            Server(folder / name, f"-c listen_addresses={address} -c port={port}", prefix)
            for name, address, port, prefix in zip(
                ("primary", "standby"),
                addresses,
                ports,
                (other.prefix if other else (), ()),
                strict=True,
            )
        )
        primary.create()
        primary.start()
        running.callback(_stop_if_there, primary)
        local = PostgreSQL(folder, port=ports[0])
        local.execute("CREATE DATABASE site")
        copy = ["-R", "-X", "stream", "--checkpoint=fast", "--no-sync", "-D", str(standby.data)]
        _run("pg_basebackup", "-h", addresses[0], "-p", str(ports[0]), "-U", USER, *copy)
        standby.start()
        running.callback(_stop_if_there, standby)
        # Not before: the standby has a copy of the settings, and would wait for one of its own.
        local.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        local.execute("SELECT pg_reload_conf()")
        query = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: local.execute(query), 30, "the standby follows")
        hosts = "&".join(f"host={a}:{port}" for a, port in zip(addresses, ports, strict=True))
        yield Pair(primary, standby, f"postgresql://{USER}@/site?{hosts}")


def _stop_if_there(server: Server) -> None:
    with contextlib.suppress(AssertionError):
        server.stop()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    # A socket's path may have 107 characters: pytest's own folders are longer.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(folder, *_owner())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(program: str, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
    command = [str(_found(program)), *arguments]
    user, group = _owner()
    lent = {"user": user, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}
    if prefix:
        # Only root can go where the prefix leads.
        lend = ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups")
        command, lent = [*prefix, *lend, *command], {}
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
