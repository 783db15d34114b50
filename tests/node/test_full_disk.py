"""Real ENOSPC: on a small file system of its own, in the receiver, in the ledger, in a synthesis.

The file system is a tmpfs, which only root may mount; without that the tests are skipped, since no
other limit fails in all the places where a full disk does.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from node import engine, intake, waking
from node.clock import utc_now
from node.engine import Dispatcher, engine_url, synthesis_id
from node.ledger import syntheses
from node.reconcile import Reconciler
from node.stages import Stages
from node.states import SynthesisState
from node.workflow import Worker
from tests.faults import Tried, counted
from tests.node.journeys import fast_stages
from tests.node.samples import SERIES_UID, ct
from tests.node.scu import associated, store
from tests.node.test_receive import Station
from tests.node.test_workflow import Node, to
from tests.peers import ScriptedPeer, wait_until

SIZE = "24m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this sandbox mounts no tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Ballast:
    """A file that takes what is free."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"

    def fill(self, leave_bytes: int = 0) -> None:
        state = os.statvfs(self._path.parent)
        with self._path.open("ab") as stream:
            stream.write(bytes(max(0, state.f_bavail * state.f_frsize - leave_bytes)))
            stream.flush()

    def empty(self) -> None:
        self._path.unlink()


@contextmanager
def working(node: Node, stages: Stages) -> Iterator[tuple[Callable[[], None], Callable[[], bool]]]:
    """A worker: a turn of everything that a role does beside it, and whether it is at work."""
    worker = Worker(node.settings, node.ledger, node.archive, stages, utc_now)
    url = engine_url(node.settings)
    dispatcher = Dispatcher(node.ledger.syntheses, url)
    reconciler = Reconciler(node.ledger, url, node.settings.delivery.give_up_s, worker.actor)
    worker.launch()
    waker = worker.waker()

    def turn() -> None:
        # While the disk is full the turns fail, as they do in the role.
        with suppress(Exception):
            dispatcher.run_once()
            waker.run_once()
            reconciler.run_once()

    try:
        yield turn, lambda: worker.is_running(synthesis_id(node.job_id, 1))
    finally:
        worker.stop(0)
        reconciler.close()
        dispatcher.close()


def full_after_synthesis(node: Node, ballast: Ballast, leave_bytes: int) -> Stages:
    """Stages of which the first synthesis finds the disk full when it wants to keep its result."""
    fast = fast_stages(node.marks)

    def synthesize(*args: Any) -> Any:
        made = fast.synthesize(*args)
        if node.marks.leave("fill") == 1:
            ballast.fill(leave_bytes)
        # Large enough to need more than what was left.
        return replace(made, spread=np.zeros((2000, *made.spread.shape[1:])))

    return replace(fast, synthesize=synthesize)


def events(node: Node) -> list[str]:
    return [event.kind for event in node.ledger.reports.events()]


def committed(node: Node, turn: Callable[[], None]) -> Callable[[], bool]:
    def ask() -> bool:
        turn()
        return node.state == SynthesisState.COMMITTED

    return ask


def test_a_synthesis_that_finds_the_work_folder_full_waits_and_is_resumed(
    small_disk: Path, tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syntheses, "POSTPONED_S", 1.0)
    with ScriptedPeer() as peer:
        node = Node(small_disk, [to(peer)])
        ballast = Ballast(small_disk)
        stages = full_after_synthesis(node, ballast, 400_000)
        with working(node, stages) as (turn, _):
            turn()
            wait_until(lambda: "synthesis.postponed" in events(node), 30)
            entry = node.ledger.syntheses.get(node.job_id)
            assert (entry.state, entry.run) == (SynthesisState.QUEUED, 2)
            assert "No space left" in str(entry.reason)
            ballast.empty()
            wait_until(committed(node, turn), 60)
        # The run that follows has what the one before had kept.
        assert node.marks.count("prepare") == 1
        assert set(peer.accepted()) == {
            one.sop_instance_uid for one in node.ledger.syntheses.outputs(node.job_id)
        }
        assert "synthesis.failed" not in events(node)
        node.check_audit()
        tried(
            "ENOSPC in the work folder of a synthesis",
            f"back to `{entry.state}` as run {entry.run}; with room again `{node.state}`, prepared"
            f" {node.marks.count('prepare')} time",
        )


def test_a_disk_without_room_for_the_ledger_stops_all_and_loses_nothing(
    small_disk: Path, tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the engine can write that it cannot write: its thread dies, and is woken later."""
    monkeypatch.setattr(syntheses, "POSTPONED_S", 1.0)
    monkeypatch.setattr(waking, "IDLE_S", 1.0)
    monkeypatch.setattr(engine, "LEDGER_TRIES", 2)
    with ScriptedPeer() as peer:
        node = Node(small_disk, [to(peer)])
        ballast = Ballast(small_disk)
        stages = full_after_synthesis(node, ballast, 0)
        with working(node, stages) as (turn, is_at_work):
            turn()
            wait_until(lambda: node.marks.count("fill") == 1, 30)
            wait_until(lambda: not is_at_work(), 30)
            state = node.state
            assert state == SynthesisState.RUNNING
            ballast.empty()
            wait_until(committed(node, turn), 60)
        assert "synthesis.failed" not in events(node)
        node.check_audit()
        tried(
            "not even the engine can write",
            f"its thread dies and the job stays `{state}`; with room again the worker resumes it:"
            f" `{node.state}`",
        )


def large(number: int) -> Dataset:
    """One slice of a megabyte."""
    return ct(number, Rows=1024, Columns=512, PixelData=bytes(1024 * 1024))


def send(port: int, numbers: range) -> dict[str, int]:
    """Status by SOP Instance UID."""
    with associated(port) as association:
        return {str(ds.SOPInstanceUID): store(association, ds)[0] for ds in map(large, numbers)}


def stored(statuses: dict[str, int]) -> set[str]:
    assert set(statuses.values()) <= {0x0000, 0xA700}
    return {uid for uid, status in statuses.items() if status == 0x0000}


def test_four_senders_cannot_pass_the_guard_together(small_disk: Path, tried: Tried) -> None:
    limit = 8_000_000
    station = Station(small_disk, minimum_free_bytes=limit)
    with ThreadPoolExecutor(4) as pool:
        parts = [range(first, first + 8) for first in range(0, 32, 8)]
        statuses: dict[str, int] = {}
        for one in pool.map(partial(send, station.port), parts):
            statuses |= one
    held = stored(statuses)
    assert 0 < len(held) < len(statuses)
    assert set(station.held()) == held
    # Past it goes at most a slice of each sender, which is less than two looks, and the ledger.
    free = free_bytes(small_disk)
    assert free > limit - 4 * 1_100_000 - 1_000_000
    # It recovers by itself as soon as there is room.
    for path in sorted(station.archive.folder.rglob("*.dcm"))[:4]:
        path.unlink()
    later = send(station.port, range(100, 102))
    assert stored(later) == {f"{SERIES_UID}.{n}" for n in (100, 101)}
    station.stop()
    tried(
        "four senders at once, 8 slices of 1 MB each, `receive.minimum_free_bytes` 8 MB",
        f"{counted(statuses.values())}, {free / 1e6:.1f} MB stay free; with room again"
        f" {counted(later.values())}",
    )


def test_a_large_data_set_is_refused_in_the_middle(
    small_disk: Path, tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was room when it began: what it writes itself counts too."""
    monkeypatch.setattr(intake, "_LOOK_BYTES", 1_000_000)
    station = Station(small_disk, minimum_free_bytes=14_000_000)
    ds = ct(1, PixelData=bytes(20_000_000))
    with associated(station.port) as association:
        statuses = [store(association, one)[0] for one in (ds, large(2))]
    assert statuses == [0xA700, 0x0000]
    assert set(station.held()) == {f"{SERIES_UID}.2"}
    left = list((station.archive.folder / "incoming").iterdir())
    assert not left
    station.stop()
    tried(
        "a data set of 20 MB larger than what is left, then one of 1 MB",
        f"0x{statuses[0]:04X} in its middle, {len(left)} files left of it; then"
        f" 0x{statuses[1]:04X}",
    )


def test_without_a_guard_a_full_disk_is_told_and_nothing_is_lost(
    small_disk: Path, tried: Tried
) -> None:
    """ENOSPC in the middle of a data set, then in the write-ahead log of the ledger."""
    station = Station(small_disk, minimum_free_bytes=0)
    ballast = Ballast(small_disk)
    ballast.fill(3_500_000)
    held = stored(first := send(station.port, range(8)))
    assert 0 < len(held) < len(first)
    # Room for a file and none for its row.
    ballast.fill(40_000)
    with associated(station.port) as association:
        unwritten = store(association, ct(50))[0]
    assert unwritten == 0xA700
    ballast.empty()
    assert set(station.held()) == held
    kept = len(held)
    held |= stored(send(station.port, range(60, 63)))
    assert set(station.held()) == held
    assert len(held) >= 4
    station.stop()
    tried(
        "ENOSPC in the middle of a data set, no guard",
        f"{counted(first.values())}, {kept} held whole; with room again all goes on",
    )
    tried("ENOSPC in the ledger's write-ahead log", f"0x{unwritten:04X}")


def free_bytes(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize
