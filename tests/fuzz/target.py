"""What is fuzzed: the taking of a data set in this process, and a receiver in one of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psutil
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node.clock import utc_now
from node.errors import NodeError
from node.intake import Answer, Intake, Offer, Response, Sender
from tests.fuzz.data_sets import DataSetInput
from tests.node.samples import ct, encode, new_archive, new_ledger, settings_for
from tests.node.scu import associated, store_bytes
from tests.peers import wait_until

SENDER = Sender("FUZZ", "PSEUDOMRI", "127.0.0.1")
# Beside an idle receiver: 4 data sets of 16 MiB in flight and what Python keeps.
_ROOM = {"maximum_associations": 100, "maximum_associations_per_peer": 100}
FRAGMENT_BYTES = 16384
GROWTH_BYTES = 150 << 20
_INSTANCE = re.compile(r"instances/[0-9a-f]{2}/[0-9.]{1,64}/[0-9.]{1,64}-[0-9a-f]{16}\.dcm")
_APART = re.compile(r"quarantine/[0-9.]{1,64}-[0-9a-f]{16}\.dcm")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of syncs are not what is tested here."""
    shared = Path("/dev/shm")
    parent = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent, prefix="pseudomri-fuzz-") as name:
        (Path(name) / "node").mkdir()
        yield Path(name) / "node"


def assert_nothing_outside(folder: Path) -> None:
    """Every file lies where the archive puts it, or is the ledger's."""
    strangers = []
    for path in sorted(folder.parent.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder.parent).as_posix()
        if name in ("log", "node/seats"):
            continue
        inner = name.removeprefix("node/archive/")
        if not (
            name.startswith("node/node.sqlite")
            or _INSTANCE.fullmatch(inner)
            or _APART.fullmatch(inner)
        ):
            strangers.append(name)
    assert strangers == []
    assert not Path("/tmp/fuzzed").exists()
    assert not Path("fuzzed").exists()


class InProcess:
    """The intake with an archive and a ledger of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = new_ledger(folder, utc_now)
        self.archive = new_archive(folder)
        self._intake = Intake(settings_for(folder), self.ledger, self.archive)
        self.association = self.ledger.receiving.open_association(
            "receive-0", "FUZZ", "PSEUDOMRI", "127.0.0.1"
        )

    def take(self, given: DataSetInput) -> Response:
        """Offer it as the receiver does; what comes back is never an exception."""
        reception = self._intake.begin(
            Offer(
                given.sop_class_uid,
                given.sop_instance_uid,
                str(CTImageStorage),
                str(given.syntax),
                SENDER,
            )
        )
        for at in range(0, len(given.content), FRAGMENT_BYTES):
            reception.write(memoryview(given.content[at : at + FRAGMENT_BYTES]))
        return self._intake.take(reception, self.association)

    def assert_a_good_series_is_taken(self, seed: int) -> None:
        """Twelve slices of a new series, each as it was sent."""
        for number in range(12):
            ds = ct(number)
            ds.StudyInstanceUID = f"1.2.826.0.1.78.{seed}"
            ds.SeriesInstanceUID = f"1.2.826.0.1.78.{seed}.1"
            ds.SOPInstanceUID = f"1.2.826.0.1.78.{seed}.1.{number}"
            content = encode(ds)
            given = DataSetInput(
                "good", ExplicitVRLittleEndian, content, str(CTImageStorage), ds.SOPInstanceUID
            )
            assert self.take(given).answer is Answer.STORED
        series = self.ledger.series.get(f"1.2.826.0.1.78.{seed}.1")
        assert series is not None
        for one in series.instances:
            stored = self.archive.read_data_set(one.path)
            assert hashlib.sha256(stored).hexdigest() == one.digest

    def close(self) -> None:
        self.ledger.close()


class ReceiverProcess:
    """A receiver that can die without taking us along."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = (folder.parent / "log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.node.receiver_process", str(folder), json.dumps(_ROOM)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._seen = psutil.Process(self._process.pid)
        self.assert_a_good_series_is_taken(0)
        self._idle_bytes = self.rss_bytes()
        self._idle_threads = self._seen.num_threads()

    def rss_bytes(self) -> int:
        return int(self._seen.memory_info().rss)

    def peak_rss_bytes(self) -> int:
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise NodeError("no VmHWM in /proc")

    def assert_well(self) -> None:
        """Alive, no thread left hanging, no more memory than an idle one may keep."""
        assert self._process.poll() is None, self.log()[-3000:]
        wait_until(
            lambda: self._seen.num_threads() <= self._idle_threads, 30, "associations to end"
        )
        assert self.peak_rss_bytes() - self._idle_bytes < GROWTH_BYTES

    def assert_a_good_series_is_taken(self, seed: int) -> None:
        with associated(self.port) as association:
            for number in range(12):
                ds = ct(number)
                ds.StudyInstanceUID = f"1.2.826.0.1.79.{seed}"
                ds.SeriesInstanceUID = f"1.2.826.0.1.79.{seed}.1"
                ds.SOPInstanceUID = f"1.2.826.0.1.79.{seed}.1.{number}"
                content = encode(ds)
                uid = str(ds.SOPInstanceUID)
                assert store_bytes(association, content, CTImageStorage, uid) == (0, "")

    def log(self) -> str:
        self._log.flush()
        return (self.folder.parent / "log").read_text(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def timed(action: object) -> tuple[object, float]:
    """What a call gives and the seconds it took."""
    began = time.process_time()
    given = action()  # type: ignore[operator]
    return given, time.process_time() - began


def randoms(seed: int, count: int) -> Iterator[tuple[int, Random]]:
    """One generator per input, so that any input can be made again alone."""
    for number in range(count):
        yield number, Random(f"{seed}-{number}")
