"""Kills processes of the node: at named points, and at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from node.faults import Point

RECEIVE, WORK = "receive", "work"
# Where the roles pass; a retention point is passed by the worker.
RECEIVING = (
    Point.QUARANTINE_MOVED,
    Point.RECEIVE_ANSWERING,
    Point.SELECTION_QUEUED,
    Point.DISPATCH_OFFERED,
)
# Of a command, which is killed in its own test (tests/node/test_backup.py).
COMMANDS = (Point.BACKUP_COPIED,)
SHARED = (
    # A report comes on the association of the request, or on one that the PACS opens.
    Point.COMMITMENT_REPORTED,
    Point.ARCHIVE_WRITTEN,
    Point.ARCHIVE_SYNCED,
    Point.ARCHIVE_RENAMED,
    Point.ARCHIVE_DURABLE,
    Point.LEDGER_COMMITTING,
    Point.LEDGER_COMMITTED,
)
TARGETS = tuple(
    (point, role)
    for point in Point
    for role in (RECEIVE, WORK)
    if point not in COMMANDS and (point in SHARED or (role == RECEIVE) == (point in RECEIVING))
)
# How long a point may take to be passed on a busy machine.
PASSED_S = 60.0
SUPERVISOR = "supervisor"


@dataclass
class Kills:
    """What was killed where.

    Args:
        at_points: `POINT@ROLE` to how often.
        at_random: Process to how often.
        missed: Points nobody came to in time.
    """

    at_points: Counter[str] = field(default_factory=Counter)
    at_random: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.at_points.total() + self.at_random.total()


class Killer:
    """Arms points and kills processes.

    Args:
        faults: The folder of `node.faults`.
        locks: The folder in which the roles' process ids are.
        seed: Of the moments.
    """

    def __init__(self, faults: Path, locks: Path, seed: int) -> None:
        faults.mkdir(parents=True, exist_ok=True)
        self.kills = Kills()
        self._faults = faults
        self._locks = locks
        self._random = random.Random(seed)

    def at_point(self, point: Point, role: str) -> bool:
        """Have the next process of a role that comes to a point die there."""
        name = f"{point}@{role}"
        armed = self._faults / name
        armed.touch()
        end = time.monotonic() + PASSED_S
        while armed.exists() and time.monotonic() < end:
            time.sleep(0.02)
        try:
            armed.unlink()
        except FileNotFoundError:
            self.kills.at_points[name] += 1
            return True
        self.kills.missed[name] += 1
        return False

    def at_random(self, supervisor: int) -> bool:
        """Kill any process; tells whether it was the supervisor."""
        time.sleep(self._random.uniform(0.0, 2.0))
        while not (found := self._processes()):
            time.sleep(0.05)
        name, pid = self._random.choice([*found, *found, *found, (SUPERVISOR, supervisor)])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.kills.at_random[name] += 1
        return name == SUPERVISOR

    def _processes(self) -> list[tuple[str, int]]:
        found = []
        for path in self._locks.glob("*.lock"):
            text = path.read_text()
            if text.isdigit() and psutil.pid_exists(int(text)):
                found.append((path.stem, int(text)))
        return sorted(found)
