"""A power cut after any operation takes nothing that was acknowledged; without any one of the three
syncs that this rests on, the same check finds a loss."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.crash import powerloss_work
from tests.crash.powerloss import Disk, losses, record
from tests.crash.strace import Call

INSTANCES = 6


def lost_without(dropped: str, folder: Path) -> dict[str, str]:
    assert shutil.which("strace"), "strace is missing: run `make peers` (Debian package strace)"
    lost, cuts = losses(*record(folder, INSTANCES, dropped))
    assert cuts > 10 * INSTANCES
    return {one.sop_instance_uid: one.reason for one in lost}


def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    assert lost_without("", tmp_path) == {}


@pytest.mark.parametrize(
    ("dropped", "reason"),
    [("file", "a file without its content"), ("folder", "no file"), ("ledger", "no row")],
)
def test_without_a_sync_the_same_check_finds_a_loss(
    tmp_path: Path, dropped: str, reason: str
) -> None:
    assert reason in lost_without(dropped, tmp_path).values()


@pytest.mark.parametrize(
    ("dropped", "reasons"),
    [
        ("", set()),
        ("file", {"a file without its content"}),
        ("folder", {"no file"}),
        ("ledger", {"sent, and no row"}),
    ],
)
def test_a_power_cut_takes_no_output_and_no_step_that_was_done(
    tmp_path: Path, dropped: str, reasons: set[str]
) -> None:
    """As it is; and without any one of the three syncs the same check finds a loss."""
    lost, cuts = powerloss_work.losses(*powerloss_work.record(tmp_path, dropped))
    assert {one.reason for one in lost} == reasons
    assert cuts > 30


class Written:
    """A disk, and the operations on it one by one."""

    def __init__(self) -> None:
        self.disk = Disk(Path("/d"))

    def do(self, name: str, arguments: str, result: int = 0, opened: str = "") -> None:
        call = Call(1, name, f"({arguments})", result, opened)
        self.disk.begin(call)
        self.disk.end(call)

    def left_of(self, path: str) -> set[bytes | None]:
        return {inode and inode.durable for inode in self.disk.survivors(path)}


def text(word: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"'


def test_the_model_loses_what_a_disk_may_lose() -> None:
    """Temporary file, fsync, rename, fsync of the folder: what is left after each of them."""
    on = Written()
    on.do("openat", f"AT_FDCWD, {text('/d/a.tmp')}, O_WRONLY|O_CREAT", 3, "/d/a.tmp")
    on.do("write", f"3</d/a.tmp>, {text('new')}, 3", 3)
    assert on.left_of("a.tmp") == {None, b""}
    on.do("fsync", "3</d/a.tmp>")
    assert on.left_of("a.tmp") == {None, b"new"}
    on.do("rename", f"{text('/d/a.tmp')}, {text('/d/a')}")
    assert on.left_of("a") == {None, b"new"}
    on.do("fsync", "4</d>")
    assert on.left_of("a") == {b"new"}
    assert on.left_of("a.tmp") == {None}
    # A file of which a part was written after its fsync, put over the first.
    on.do("openat", f"AT_FDCWD, {text('/d/b.tmp')}, O_WRONLY|O_CREAT", 3, "/d/b.tmp")
    on.do("fsync", "3</d/b.tmp>")
    on.do("write", f"3</d/b.tmp>, {text('newer')}, 5", 5)
    on.do("rename", f"{text('/d/b.tmp')}, {text('/d/a')}")
    assert on.left_of("a") == {b"new", b""}


@pytest.mark.parametrize("order", [(2, 1), (1, 2)])
def test_of_two_syncs_that_overlap_each_is_good_for_what_came_before_it(
    order: tuple[int, int],
) -> None:
    on = Written()
    on.do("openat", f"AT_FDCWD, {text('/d/a')}, O_WRONLY|O_CREAT", 3, "/d/a")
    syncs = {thread: Call(thread, "fsync", "(4</d>)", 0) for thread in (1, 2)}
    contents = {thread: Call(thread + 2, "fsync", "(3</d/a>)", 0) for thread in (1, 2)}
    on.do("write", f"3</d/a>, {text('one')}, 3", 3)
    on.disk.begin(syncs[1])
    on.disk.begin(contents[1])
    on.do("openat", f"AT_FDCWD, {text('/d/b')}, O_WRONLY|O_CREAT", 5, "/d/b")
    on.do("write", f"3</d/a>, {text('two')}, 3", 3)
    on.disk.begin(syncs[2])
    on.disk.begin(contents[2])
    on.do("write", f"3</d/a>, {text('three')}, 5", 5)
    for thread in order:
        on.disk.end(syncs[thread])
        on.disk.end(contents[thread])
    assert on.left_of("b") == {b""}
    assert on.left_of("a") == {b"onetwo"}
    assert on.disk.survivors("a")[0].pending == [(6, b"three")]  # type: ignore[union-attr]
