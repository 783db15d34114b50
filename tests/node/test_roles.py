"""The processes: what each of them imports, who starts them again, who ends them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from node import app, supervisor
from node.app import Place, Role, Turns
from node.archive import Archive
from node.clock import utc_now
from node.demo import CT, send_ct
from node.errors import Retry, Stop
from node.ledger import Ledger, open_ledger, sqlite_url
from node.lock import beats, forget_why, hold, tell_why, whys
from node.loopback import LOOPBACK, local_node
from node.records import AssociationRecord
from node.supervisor import READY
from tests.node.samples import ct, new_ledger
from tests.node.scu import associated, store
from tests.peers import wait_until

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


@contextmanager
def role_process(
    role: Role, folder: Path, *options: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    settings = {
        "PSEUDOMRI_NODE__DATA_FOLDER": str(folder),
        "PSEUDOMRI_NODE__PORT": "0",
        "PSEUDOMRI_NODE__BIND_ADDRESS": LOOPBACK,
        "PSEUDOMRI_RECEIVE__PROCESSES": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "serve", "--role", role, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **settings, **environment},
        cwd=ROOT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ready_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(READY), process.communicate()[1]
    return line


def modules_after(statement: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys\n{statement}\nprint(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


def test_help_needs_nothing() -> None:
    loaded = modules_after("import node.__main__")
    assert loaded.isdisjoint({"torch", "diffusers", "dbos", "sqlalchemy", "pynetdicom", "numpy"})


@pytest.mark.parametrize("command", ["asking", "serving", "sending", "common"])
def test_asking_needs_no_accelerator(command: str) -> None:
    loaded = modules_after(f"import node.commands.{command}, node.receive")
    assert loaded.isdisjoint({"torch", "diffusers"})


def test_receiving_loads_no_library_of_the_pipeline_but_numpy() -> None:
    """SimpleITK alone took 94 of the 250 MB that a receiver may hold."""
    loaded = modules_after("import node.app, node.receive")
    assert loaded.isdisjoint({"SimpleITK", "scipy", "highdicom", "matplotlib", "pandas"})


def broken_accelerator(folder: Path) -> Path:
    """What to put before the real packages."""
    for name in ("torch", "diffusers"):
        package = folder / "broken" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('driver mismatch')\n")
    return folder / "broken"


def test_receiving_starts_with_a_broken_accelerator_stack(tmp_path: Path) -> None:
    path = {"PYTHONPATH": str(broken_accelerator(tmp_path))}
    with role_process(Role.RECEIVE, tmp_path / "data", **path) as process:
        assert "port=" in ready_line(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_second_node_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with role_process(Role.RECEIVE, tmp_path) as first:
        ready_line(first)
        with role_process(Role.RECEIVE, tmp_path) as second:
            assert second.wait(START_S) == 2
            assert second.stderr is not None
            said = second.stderr.read()
            (acceptor,) = psutil.Process(first.pid).children()
            assert f"process {acceptor.pid} runs the receive-0 role" in said
            assert "Traceback" not in said


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    with role_process(Role.RECEIVE, tmp_path, "--supervised") as first:
        ready_line(first)
        with pytest.raises(Stop, match="to be free"), hold(tmp_path, "receive-0"):
            pass
        first.kill()
        first.wait()
        with hold(tmp_path, "receive-0"):
            pass


def test_a_role_ends_with_its_supervisor(tmp_path: Path) -> None:
    with role_process(Role.RECEIVE, tmp_path, "--supervised") as process:
        ready_line(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


def test_acceptors_count_associations_together(tmp_path: Path) -> None:
    limits = {
        "PSEUDOMRI_RECEIVE__PROCESSES": "2",
        "PSEUDOMRI_RECEIVE__ALLOW_ANY_PEER": "true",
        "PSEUDOMRI_RECEIVE__MAXIMUM_ASSOCIATIONS": "3",
    }
    with role_process(Role.RECEIVE, tmp_path, **limits) as node:
        port = int(dict(one.split("=") for one in ready_line(node).split()[1:])["port"])
        with ExitStack() as stack:
            senders = [stack.enter_context(associated(port)) for _ in range(8)]
            assert [sender.is_established for sender in senders].count(True) == 3
        with associated(port) as sender:
            assert sender.is_established


def test_acceptors_share_the_port_and_stand_in_for_each_other(tmp_path: Path) -> None:
    two = {"PSEUDOMRI_RECEIVE__PROCESSES": "2", "PSEUDOMRI_RECEIVE__ALLOW_ANY_PEER": "true"}
    with role_process(Role.RECEIVE, tmp_path, **two) as node:
        port = int(dict(one.split("=") for one in ready_line(node).split()[1:])["port"])
        ledger = open_ledger(sqlite_url(tmp_path / "node.sqlite"), utc_now)
        with ExitStack() as stack:
            senders = [stack.enter_context(associated(port)) for _ in range(9)]
            for number, sender in enumerate(senders):
                assert store(sender, ct(number))[0] == 0x0000
            with ledger.database.reading() as session:
                names = {row.process for row in session.query(AssociationRecord)}
            assert names == {"receive-0", "receive-1"}
            # Who has fewer associations is let go first: chance alone gives one of them seven or
            # more of nine in a sixth of all cases.
            counts = [open_associations(ledger, name) for name in names]
            assert min(counts) >= 3, counts
        for victim in psutil.Process(node.pid).children():
            victim.kill()
            victim.wait()
            # While one is dead the other takes all that come.
            for number in range(4):
                with associated(port) as sender:
                    assert store(sender, ct(number))[0] == 0x0000
            wait_until(lambda: len(psutil.Process(node.pid).children()) == 2, START_S)
            wait_until(lambda: not open_associations(ledger), START_S, "the new life to tidy up")
        ledger.close()


def test_what_acceptors_left_that_there_are_no_more_of_is_tidied_up(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, utc_now)
    for name in ("receive-1", "receive-3", "receive-4"):
        ledger.receiving.open_association(name, "CT1", "PSEUDOMRI", LOOPBACK)
        with hold(tmp_path, name):
            pass
    incoming = Archive(tmp_path / "archive", "test").folder / "incoming"
    for name in ("receive-1.7.1.tmp", "receive-3.7.1.tmp", "receive-4.7.1.tmp", "work.7.1.tmp"):
        (incoming / name).write_bytes(b"half")
    (tmp_path / "locks" / "receive-3.lock").write_text("7")  # it was killed
    with hold(tmp_path, "receive-4"), role_process(Role.RECEIVE, tmp_path) as node:
        ready_line(node)
        # One of them still runs.
        assert sorted(one.name for one in incoming.iterdir()) == [
            "receive-4.7.1.tmp",
            "work.7.1.tmp",
        ]
        assert open_associations(ledger) == 1
        assert "receive-3" not in beats(tmp_path)
    ledger.close()


def open_associations(ledger: Ledger, process: str | None = None) -> int:
    with ledger.database.reading() as session:
        found = session.query(AssociationRecord).filter_by(closed_at=None)
        return found.filter_by(process=process).count() if process else found.count()


def roles_of(pid: int) -> dict[str, int]:
    found = {}
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie until it is waited for
            command = child.cmdline()
            if "--role" in command:
                found[command[command.index("--role") + 1]] = child.pid
    return found


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; whoever adopted it may be slow to wait for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_the_supervisor_starts_a_dead_role_again_and_takes_all_along(tmp_path: Path) -> None:
    with local_node(tmp_path, []) as node:
        supervisor = node.service.process
        before = roles_of(supervisor.pid)
        assert set(before) == set(Role)
        os.kill(before["receive"], signal.SIGKILL)

        def restarted() -> dict[str, int] | None:
            now = roles_of(supervisor.pid)
            return now if now.get("receive", 0) not in (0, before["receive"]) else None

        after = wait_until(restarted, START_S, "the receive role to come back")
        assert after["work"] == before["work"]
        roles = {name: psutil.Process(pid) for name, pid in after.items()}
        # Without a word of farewell: the pipe to its standard input tells each role.
        supervisor.kill()
        supervisor.wait()
        wait_until(lambda: not any(map(lives, roles.values())), START_S, f"the end of {roles}")


def test_a_role_that_stands_still_is_killed_and_started_again(tmp_path: Path) -> None:
    hung = {"PSEUDOMRI_NODE__HUNG_S": "4", "PSEUDOMRI_RECEIVE__ALLOW_ANY_PEER": "true"}
    with role_process(Role.RECEIVE, tmp_path, **hung) as node:
        port = int(dict(one.split("=") for one in ready_line(node).split()[1:])["port"])
        (before,) = psutil.Process(node.pid).children()
        before.suspend()
        wait_until(lambda: not lives(before), START_S, "the end of who stood still")
        with associated(port) as sender:
            assert sender.is_established
        (after,) = psutil.Process(node.pid).children()
        assert after.pid != before.pid


def test_a_start_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_S", 0.2)
    monkeypatch.setenv("PSEUDOMRI_NODE__DATA_FOLDER", str(tmp_path))
    stop, told = threading.Event(), []
    parent = supervisor.Supervisor([Place(Role.WEB)], [], told.append, 60)
    (child,) = parent._children
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(parent.run, stop)
        wait_until(lambda: child.has_died, START_S)
        stop.set()
        running.result()
    assert (told, beats(tmp_path)) == ([], {})


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (subprocess, "Popen", BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))),
        (threading, "Thread", RuntimeError("can't start new thread")),
    ],
)
def test_a_role_that_cannot_be_started_again_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Exception
) -> None:
    role = tmp_path / "role"
    role.write_text('#!/bin/sh\ncase "$*" in *receive*) echo ready; exec cat;; *) exit 1;; esac\n')
    role.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(role))
    stop, told, turns, real = threading.Event(), [], list[str](), getattr(module, name)
    parent = supervisor.Supervisor([Place(Role.RECEIVE), Place(Role.WEB)], [], told.append, 0)
    acceptor, web = parent._children
    web.wait_s = 0.01

    def scarce(*arguments: Any, **options: Any) -> Any:
        if web.has_died:
            turns.append("again")
            if len(turns) < 3:
                raise error
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, scarce)
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(parent.run, stop)
        wait_until(lambda: running.done() or (told and len(turns) > 3), START_S)
        assert not running.done()
        assert acceptor.process is not None
        assert (acceptor.process.poll(), acceptor.has_died, told) == (None, False, [[""]])
        stop.set()
        running.result()


def test_a_turn_that_fails_does_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "TROUBLE_PAUSE_S", 0.01)
    stop, beaten, turned = threading.Event(), [], []

    def turn() -> None:
        if len(turned) > 3:
            stop.set()
        raise Retry("the database is away")

    Turns(stop, lambda: beaten.append(1), lambda: turned.append(1)).repeat(turn, 0.01)
    assert (bool(turned), beaten) == (True, [])


def test_sigterm_ends_the_node_in_time(tmp_path: Path) -> None:
    with local_node(tmp_path, []) as node:
        began = time.monotonic()
        node.service.process.terminate()
        assert node.service.process.wait(40) == 0
        assert time.monotonic() - began < 30


def test_a_wrong_model_folder_stops_the_node_with_a_reason(tmp_path: Path) -> None:
    settings = {"synthesis": {"model_folder": str(tmp_path / "none")}}
    with pytest.raises(Stop, match="expected a model"), local_node(tmp_path, [], settings):
        pass


def test_receiving_goes_on_whatever_the_other_roles_do_and_the_reasons_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_accelerator(tmp_path)))
    with socket.create_server((LOOPBACK, 0)) as taken:
        web = {"web": {"port": taken.getsockname()[1]}}
        with local_node(tmp_path, [], web) as node:
            # Ready without the two, which have died once: one may run later, one says it cannot.
            assert set(node.service.facts) == {"port", "ae"}
            with associated(node.service.port) as sender:
                assert store(sender, ct(1))[0] == 0x0000
            ended = whys(node.settings.node.data_folder)
            assert ended["work"].startswith("ImportError in node/computing.py")
            assert ended["web"].startswith("Stop: web.port: expected a free port")
            asked = [sys.executable, "-m", "node", "status", "--config", tmp_path / "site.toml"]
            said = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, check=True)
            with pytest.raises(Stop, match="the work role ended: ImportError"):
                send_ct(CT((), (), ""), node, print)
            for role, why in ended.items():
                assert f"{role} ended and is tried again: {why}" in said.stdout


def test_a_role_that_runs_apart_and_cannot_ends_its_supervisor(tmp_path: Path) -> None:
    with hold(tmp_path, "web"), role_process(Role.WEB, tmp_path) as process:
        assert process.wait(START_S) == 2


def test_a_start_is_no_beat_and_why_a_role_ended_stands_until_it_runs(tmp_path: Path) -> None:
    with contextlib.suppress(OSError), hold(tmp_path, "work"):
        raise OSError
    tell_why(tmp_path, "work", "Retry: no driver")
    os.utime(tmp_path / "locks" / "work.lock", (1000, 1000))
    with hold(tmp_path, "work") as beat:
        assert beats(tmp_path) == {"work": 1000}
        assert whys(tmp_path) == {"work": "Retry: no driver"}
        beat()
        assert beats(tmp_path)["work"] > 1000
        forget_why(tmp_path, "work")
    assert (beats(tmp_path), whys(tmp_path)) == ({}, {})
