"""What PostgreSQL adds: writers on other hosts, servers that forget, writers that stand still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from node.app import prepare
from node.audit import Kind, verify
from node.clock import utc_now
from node.commands.common import open_node
from node.errors import Refuse, Retry, Stop
from node.ledger import Ledger, database, migrate, open_ledger, patience
from tests.node.journeys import open_parts, put_ct_on_record, settings_for
from tests.node.samples import SERIES_UID
from tests.peers import wait_until
from tests.postgresql import PostgreSQL, start_pair

ROOT = Path(__file__).resolve().parents[2]
WRITERS, INSTANCES = 2, 30

WRITER = """
import sys
from node.clock import utc_now
from node.ledger import open_ledger
from tests.node.samples import record

url, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ledger = open_ledger(url, utc_now)
association = ledger.receiving.open_association(f"receive-{first}", "CT1", "US", "127.0.0.1")
for number in range(first, first + count):
    record(ledger, number, association)
"""

HOLDER = """
import sys, time
from node.clock import utc_now
from node.ledger import database, open_ledger
from sqlalchemy import text

database.IDLE_S = 1.0
with open_ledger(sys.argv[1], utc_now).database.transaction() as session:
    print("mine", flush=True)
    while True:
        session.execute(text("SELECT 1"))
"""


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.empty_ledger()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    opened = open_ledger(url, utc_now)
    yield opened
    opened.close()


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_writers_in_several_processes_share_one_chain_and_one_series(
    url: str, ledger: Ledger
) -> None:
    """Overlapping numbers: each process also sends what another one has sent."""
    processes = [run(WRITER, url, n * INSTANCES // 2, INSTANCES) for n in range(WRITERS)]
    assert [process.wait(60) for process in processes] == [0] * WRITERS
    held = ledger.series.get(SERIES_UID)
    assert held is not None
    distinct = (WRITERS + 1) * INSTANCES // 2
    assert len(held.instances) == distinct
    events = list(ledger.reports.events())
    assert verify(events) is None
    kinds = [event.kind for event in events]
    assert kinds.count("instance.received") == distinct
    assert kinds.count("instance.duplicate") == WRITERS * INSTANCES - distinct


def test_a_writer_that_stands_still_gives_way(url: str, ledger: Ledger) -> None:
    holder = run(HOLDER, url)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        os.kill(holder.pid, signal.SIGSTOP)
        began = time.monotonic()
        ledger.receiving.open_association("receive-0", "CT1", "US", "127.0.0.1")
        assert time.monotonic() - began < database.BUSY_S
        os.kill(holder.pid, signal.SIGCONT)
        assert holder.wait(30) != 0
    finally:
        holder.kill()
        holder.wait()


def test_a_connection_that_was_ended_asks_for_a_retry(
    postgresql: PostgreSQL, ledger: Ledger
) -> None:
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ledger'"

    def write() -> None:
        with ledger.database.transaction() as session:
            postgresql.execute(end)
            ledger.database.append_audit(session, Kind.INSTANCE_RECEIVED, "1.2", "CT1")

    with pytest.raises(Retry, match="did not answer"):
        write()
    assert list(ledger.reports.events()) == []
    ledger.receiving.open_association("receive-0", "CT1", "US", "127.0.0.1")


def test_a_server_that_takes_no_writes_any_more_asks_for_a_retry(
    postgresql: PostgreSQL, ledger: Ledger
) -> None:
    """As a primary that has become a standby, for a connection that was open before."""

    def is_refused() -> bool:
        try:
            ledger.receiving.open_association("receive-0", "CT1", "US", "127.0.0.1")
        except Retry as error:
            return "read-only" in str(error)
        return False

    assert not is_refused()
    postgresql.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    try:
        postgresql.execute("SELECT pg_reload_conf()")
        wait_until(is_refused, 10)
        with pytest.raises(Retry, match="read-only"):
            ledger.workers.begin("work", "host", 1, "1")
    finally:
        postgresql.execute("ALTER SYSTEM RESET default_transaction_read_only")
        postgresql.execute("SELECT pg_reload_conf()")
        wait_until(lambda: not is_refused(), 10)


def test_without_the_standby_nobody_is_told_success_nor_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "TURN_S", 1.0)
    monkeypatch.setattr(database, "BUSY_S", 2.0)
    with start_pair() as pair:
        migrate(pair.url)
        ledger = open_ledger(pair.url, utc_now)

        def write() -> bool:
            try:
                ledger.receiving.open_association("receive-0", "CT1", "US", "127.0.0.1")
                ledger.workers.begin("work", "host", 1, "1")
            except Retry:
                return False
            return True

        assert write()
        pair.standby.stop("fast")
        began = time.monotonic()
        # One waits for the standby, the next for that one.
        assert not write()
        assert not write()
        assert time.monotonic() - began < 15
        pair.standby.start()
        wait_until(write, 30)
        assert verify(list(ledger.reports.events())) is None
        ledger.close()


def test_a_shared_folder_that_is_not_mounted_is_told_from_a_new_one(
    url: str, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path / "data", [], {"node": {"database_url": url}})
    prepare(settings)
    ledger, archive = open_parts(settings)
    put_ct_on_record(ledger, archive)
    ledger.close()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    site = tmp_path / "site.toml"
    site.write_text(f'[node]\ndatabase_url = "{url}"\ndata_folder = "{tmp_path / "data"}"\n')
    with pytest.raises(Refuse, match="Is the shared folder mounted"):
        open_node(site)
    with pytest.raises(Retry, match="Is the shared folder mounted"):
        prepare(settings)
    assert list((tmp_path / "data").iterdir()) == []
    (tmp_path / "data").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    prepare(settings)
    _, ledger, _ = open_node(site)
    ledger.close()


def test_what_a_site_says_of_its_database_stands() -> None:
    site = "postgresql://me:s%40y@/db?host=a%3A1&host=b%3A2&connect_timeout=60"
    found = make_url(patience.with_patience(site))
    assert found.password == "s@y"
    assert found.query["host"] == ("a:1", "b:2")
    assert found.query["connect_timeout"] == "60"
    assert found.query["target_session_attrs"] == "read-write"
    assert patience.with_patience("sqlite:///x/node.sqlite") == "sqlite:///x/node.sqlite"


def test_a_commit_that_waits_for_no_standby_is_refused(postgresql: PostgreSQL, url: str) -> None:
    found: dict[str, str] = {}
    try:
        for level in ("local", "off", "remote_write", "remote_apply"):
            postgresql.execute(f"ALTER DATABASE ledger SET synchronous_commit = {level}")
            try:
                open_ledger(url, utc_now).close()
            except Stop as error:
                found[level] = str(error)
    finally:
        postgresql.execute("ALTER DATABASE ledger RESET synchronous_commit")
    assert list(found) == ["local", "off"]
    assert "synchronous_commit = on, found local" in found["local"]


@pytest.mark.parametrize("parameter", ["fsync", "synchronous_commit"])
def test_a_server_that_forgets_is_refused(postgresql: PostgreSQL, url: str, parameter: str) -> None:
    def is_refused() -> bool:
        try:
            open_ledger(url, utc_now).close()
        except Stop as error:
            return f"{parameter} = on, found off" in str(error)
        return False

    assert not is_refused()
    postgresql.execute(f"ALTER SYSTEM SET {parameter} = off")
    try:
        postgresql.execute("SELECT pg_reload_conf()")
        # The server takes a new value when it gets to it.
        wait_until(is_refused, 10)
    finally:
        postgresql.execute(f"ALTER SYSTEM RESET {parameter}")
        postgresql.execute("SELECT pg_reload_conf()")
        wait_until(lambda: not is_refused(), 10)
