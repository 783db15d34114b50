"""What a power cut could leave of a synthesis: its outputs, and what a run keeps between its steps.

A worker runs under strace, from a queued synthesis to a committed one. Its log is replayed into
the model of `powerloss`. Before every fsync, which is when most is pending, and whenever an
instance goes out, in each ledger and each engine's database that could be left:

- every output on record has its file, with its bytes;
- what was sent to the PACS is on record: it would otherwise be made again by somebody who does not
  know that it is there;
- what the model made is whole in the work folder while the engine calls that step done: nobody
  would make it again.

    python -m tests.crash.powerloss_work [--drop file|folder|ledger]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.crash.powerloss import ROOT, TRACED, Disk, databases, names
from tests.crash.strace import Call, calls
from tests.peers import ScriptedPeer

START_S = 240
_OUTPUTS = "SELECT sop_instance_uid, path, digest FROM output"
_STEPS = "SELECT workflow_uuid, function_name FROM operation_outputs"
# Command Field (0000,0100) of a C-STORE request, in the implicit little endian of command sets.
_REQUEST = b"\x00\x00\x00\x01\x02\x00\x00\x00\x01\x00"


@dataclass(frozen=True)
class Loss:
    """Something that a power cut could take."""

    operation: int
    what: str
    reason: str


def losses(log: Path, root: Path, outputs: frozenset[str]) -> tuple[list[Loss], int]:
    """What could be lost by a cut, each thing once, and at how many moments the power was cut.

    Args:
        log: Of strace.
        root: The data folder.
        outputs: SOP Instance UIDs of all that was made.
    """
    disk, dice = Disk(root), random.Random(1)
    lost: dict[tuple[str, str], Loss] = {}
    sent: set[str] = set()
    cuts, seen = 0, -1
    for number, (call, has_ended) in enumerate(calls(log)):
        if has_ended:
            disk.end(call)
            continue
        leaving = set(_leaving(call, outputs))
        sent |= leaving
        is_pending = call.name in ("fsync", "fdatasync") and disk.revision != seen
        if disk.folder(str(root / "work")) is not None and (leaving or is_pending):
            cuts, seen = cuts + 1, disk.revision
            for what, reason in _missing(disk, sent, dice):
                lost.setdefault((what, reason), Loss(number, what, reason))
        disk.begin(call)
    if sent != outputs:
        raise AssertionError(f"expected {len(outputs)} instances to leave, found {len(sent)}")
    return list(lost.values()), cuts


def _leaving(call: Call, outputs: frozenset[str]) -> Iterator[str]:
    """The instances whose C-STORE request goes out with this call."""
    is_sent = not call.is_file and call.name in ("write", "sendto", "sendmsg", "writev")
    if is_sent and _REQUEST in call.data:
        yield from (uid for uid in outputs if names(call.data, uid))


def _missing(disk: Disk, sent: set[str], dice: random.Random) -> Iterator[tuple[str, str]]:
    for rows in databases(disk, "node.sqlite", _OUTPUTS, dice):
        for uid in sent - {row[0] for row in rows}:
            yield uid, "sent, and no row"
        for uid, path, digest in rows:
            for inode in disk.survivors(f"archive/{path}"):
                if inode is None:
                    yield uid, "no file"
                elif hashlib.sha256(inode.durable).hexdigest() != digest:
                    yield uid, "a file without its content"
    for steps in databases(disk, "workflows.sqlite", _STEPS, dice):
        done = set(steps)
        for run, name in done:
            if name != "synthesize" or (run, "package") in done:
                continue
            for inode in disk.survivors(f"work/{run}/synthesis.npz"):
                if inode is None:
                    yield "what the model made", "no file"
                elif inode.durable != inode.content:
                    yield "what the model made", "a file without its content"


def record(folder: Path, dropped: str = "") -> tuple[Path, Path, frozenset[str]]:
    """Run a worker under strace until its synthesis is committed; the log, its data folder, what
    the PACS got."""
    data, log = folder / "data", folder / "strace.log"
    data.mkdir(parents=True)
    trace = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "262144", "-e", f"trace={TRACED}"]
    with ScriptedPeer() as pacs:
        command = [sys.executable, "-m", "tests.crash.recorded_worker", str(data), str(pacs.port)]
        command += [dropped] if dropped else []
        with subprocess.Popen(
            [*trace, "-o", str(log), *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                assert select.select([process.stdout], [], [], START_S)[0], "it takes too long"
                assert process.stdout.readline() == "committed\n"
            finally:
                # strace goes with the process it traces.
                for traced in psutil.Process(process.pid).children():
                    traced.kill()
        return log, data, frozenset(pacs.accepted())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.powerloss_work")
    parser.add_argument("--drop", choices=["file", "folder", "ledger"], default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recorded = record(Path(folder), options.drop)
        lost, cuts = losses(*recorded)
    for one in lost:
        print(f"LOST at operation {one.operation}: {one.what}, {one.reason}")
    print(f"{cuts} power cuts, {len(recorded[2])} outputs, {len(lost)} things could be lost")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
