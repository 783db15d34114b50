"""Senders that do as scanners do: every instance again until it is acknowledged."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import threading
import time
from collections import Counter
from typing import Any

from pydicom.dataset import Dataset

from tests.node.samples import ct, encode
from tests.node.scu import associated, store

ROOT = "1.2.826.0.1.77.5"
ANSWER_S = 5.0
OTHER_BYTES = 0xC003
OUT_OF_RESOURCES = 0xA700


class Work:
    """What all senders have sent, and what was promised to them.

    Args:
        ahead: So many series may be on their way; the next one waits.
    """

    def __init__(self, ahead: int) -> None:
        self.acknowledged: dict[str, str] = {}
        self.series: dict[str, set[str]] = {}
        self.finished = 0
        self.is_wanted = False
        self.statuses: Counter[int] = Counter()
        self._ahead = ahead
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def next_series(self) -> int | None:
        """The number of the next series; None while enough are on their way."""
        with self._lock:
            if len(self.series) - self.finished >= self._ahead and not self.is_wanted:
                return None
            number = next(self._numbers)
            self.series[f"{ROOT}.{number}.1"] = set()
            return number

    def promise(self, ds: Dataset, digest: str) -> None:
        """An instance was answered with success."""
        with self._lock:
            self.acknowledged[str(ds.SOPInstanceUID)] = digest
            self.series[str(ds.SeriesInstanceUID)].add(str(ds.SOPInstanceUID))


class Scanner(threading.Thread):
    """One sender.

    Args:
        name: Its AE title.
        port: Of the node.
        work: Shared by all.
        seed: Of what it does at random.
    """

    def __init__(self, name: str, port: int, work: Work, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.stop = threading.Event()
        self._port = port
        self._work = work
        self._random = random.Random(seed)

    def run(self) -> None:
        while not self.stop.is_set():
            number = self._work.next_series()
            if number is None:
                self.stop.wait(0.1)
            else:
                self._send(number)

    def _send(self, number: int) -> None:
        """A series, until all of it is acknowledged, however often the node dies."""
        count = self._random.randint(6, 10)
        pending = [slice_of(number, index) for index in range(count)]
        while pending:
            # The node may die at any moment, and so may the connection to it.
            with contextlib.suppress(Exception), associated(self._port, calling_ae=self.name) as a:
                if a.is_established:
                    # It would wait for a dead node's answer as long as for a slow one's.
                    a.dimse_timeout = ANSWER_S
                    self._store_all(a, pending)
            if pending:
                time.sleep(self._random.uniform(0.05, 0.3))

    def _store_all(self, association: Any, pending: list[Dataset]) -> None:
        while pending:
            ds = pending[0]
            status, _ = store(association, ds)
            self._work.statuses[status] += 1
            if status != 0x0000:
                if status != OUT_OF_RESOURCES:
                    raise AssertionError(f"0x{status:04X}")
                time.sleep(0.2)
                continue
            self._work.promise(ds, hashlib.sha256(encode(ds)).hexdigest())
            self._misbehave(association, ds)
            pending.pop(0)

    def _misbehave(self, association: Any, ds: Dataset) -> None:
        """Now and then: the same again, the same UID with other bytes, an abort."""
        kind = self._random.random()
        if kind < 0.05:
            self._work.statuses[store(association, ds)[0]] += 1
        elif kind < 0.08:
            other = ct(1, **{key: ds[key].value for key in _IDENTITY}, ImageComments="other")
            status, _ = store(association, other)
            self._work.statuses[status] += 1
            assert status in (OTHER_BYTES, OUT_OF_RESOURCES), hex(status)
        elif kind < 0.10:
            association.abort()


_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def slice_of(number: int, index: int) -> Dataset:
    """One slice of the series of this number, each in a study of its own."""
    series = f"{ROOT}.{number}.1"
    return ct(
        index,
        StudyInstanceUID=f"{ROOT}.{number}",
        SeriesInstanceUID=series,
        SOPInstanceUID=f"{series}.{index + 1}",
    )
