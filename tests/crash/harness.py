"""Puts node, senders, PACS and killer together, and lets things settle before counting."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.settings import load
from node import faults, loopback
from node.archive import Archive
from node.clock import utc_now
from node.faults import Point
from node.journey import look
from node.ledger import Ledger, open_ledger
from node.loopback import LOOPBACK, Service
from node.parts import ledger_url
from node.retention import Keeper
from tests.crash.counting import findings
from tests.crash.killer import RECEIVE, TARGETS, Killer, Kills
from tests.crash.pacs import SLOW, UnreliablePacs
from tests.crash.scanner import Scanner, Work
from tests.peers import free_port

SENDERS = 3
# Beside those that the PACS takes over late.
AHEAD = 5 + SLOW
# So long may nothing come to its end: a busy machine takes its time, a stuck node takes it all.
STUCK_S = 300.0
DAY_S = 86_400.0

Tell = Callable[[str], None]


@dataclass
class Outcome:
    """What a run was and what it found; no findings is what is wanted."""

    seed: int
    kills: Kills
    seconds: float
    instances: int
    series: int
    syntheses: int
    delivered: int
    repeated: int
    outages: int
    removed: int
    retried: int
    statuses: Counter[int]
    findings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        fields = {key: value for key, value in vars(self).items() if key != "kills"}
        fields["statuses"] = {f"0x{code:04X}": n for code, n in sorted(self.statuses.items())}
        return {
            **fields,
            "kills": self.kills.total,
            "at_points": dict(sorted(self.kills.at_points.items())),
            "at_random": dict(sorted(self.kills.at_random.items())),
            "missed_points": dict(sorted(self.kills.missed.items())),
        }


class Bench:
    """A node on a folder, started again whenever its supervisor was killed."""

    def __init__(self, folder: Path, pacs_port: int, database_url: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self.config = folder / "site.toml"
        site = _site(folder / "data", self.port, pacs_port, database_url)
        self.config.write_text(loopback._toml(site))
        self.settings = load(self.config)
        self._stack = contextlib.ExitStack()
        self._lives = itertools.count(1)
        self.service: Service
        self.start()
        self.ledger: Ledger = open_ledger(ledger_url(self.settings), utc_now)
        self.archive = Archive(self.settings.node.data_folder / "archive", "harness")

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.crash.node", "serve", "--config", str(self.config)]
        os.environ[faults.VARIABLE] = str(self.faults)
        log = self.folder / f"node-{next(self._lives):03}.log"
        self.service = self._stack.enter_context(loopback._service(command, log))

    def restart_if_dead(self) -> None:
        if self.service.process.poll() is not None:
            self._stack.close()
            self.start()

    def stop(self) -> int:
        """End it in order; its exit code."""
        process = self.service.process
        process.terminate()
        code = process.wait(60)
        self._stack.close()
        return code


def run(
    kills: int,
    seed: int,
    folder: Path,
    tell: Tell,
    targets: Sequence[tuple[Point, str]] = TARGETS,
    database_url: str = "",
) -> Outcome:
    """Kill so many times, then count.

    Args:
        kills: In all.
        seed: Of everything that is random.
        folder: Of data, settings and logs; made when missing.
        tell: Told how far it is.
        targets: Points and the roles that are to die there, in turn.
        database_url: An empty PostgreSQL; none for SQLite in the folder.
    """

    def trouble(bench: Bench, killer: Killer, watch: Watch) -> None:
        _kill(kills, targets, bench, killer, watch, tell)

    return rehearse(trouble, seed, folder, tell, database_url)


def rehearse(
    trouble: Callable[[Bench, Killer, Watch], None],
    seed: int,
    folder: Path,
    tell: Tell,
    database_url: str = "",
    is_pacs_kind: bool = False,
) -> Outcome:
    """Have senders send and a PACS take while there is trouble, let it settle, then count.

    Args:
        trouble: Ends when there is none any more.
        seed: Of everything that is random.
        folder: Of data, settings and logs; made when missing.
        tell: Told how far it is.
        database_url: An empty PostgreSQL; none for SQLite in the folder.
        is_pacs_kind: From the beginning, not only when it settles.
    """
    began = time.monotonic()
    pacs = UnreliablePacs(seed)
    if is_pacs_kind:
        pacs.is_kind.set()
    pacs.start()
    bench = Bench(folder, pacs.port, database_url)
    pacs.node_port = bench.port
    work = Work(AHEAD)
    scanners = [Scanner(f"CT{n}", bench.port, work, seed + n) for n in range(1, SENDERS + 1)]
    for scanner in scanners:
        scanner.start()
    watch = Watch(bench.ledger, work)
    killer = Killer(bench.faults, bench.settings.node.data_folder / "locks", seed)
    try:
        trouble(bench, killer, watch)
        tell("letting it settle")
        for scanner in scanners:
            scanner.stop.set()
        pacs.is_kind.set()
        found = list(_settled(bench, scanners, watch))
    finally:
        code = bench.stop()
        pacs.stop.set()
        pacs.join()
        pacs.peer.stop()
    if code != 0:
        found.append(f"the node ended with {code}")
    data = bench.settings.node.data_folder
    # The end of the node may come between a mark and its deletion: the next turn takes it up.
    Keeper(bench.settings, bench.ledger, bench.archive).run_once(utc_now())
    found += findings(bench.ledger, bench.archive, data, work, pacs.peer, pacs.committed)
    found += watch.surprises
    status = bench.ledger.reports.status()
    times = Counter(uid for uid, _, answer in pacs.peer.heard if answer == 0x0000)
    outcome = Outcome(
        seed=seed,
        kills=killer.kills,
        seconds=round(time.monotonic() - began, 1),
        instances=len(work.acknowledged),
        series=len(work.series),
        syntheses=sum(status["syntheses"].values()),
        delivered=len(times),
        repeated=sum(1 for count in times.values() if count > 1),
        outages=pacs.outages,
        removed=sum(e.kind == "file.removed" for e in bench.ledger.reports.events()),
        retried=watch.retried,
        statuses=work.statuses,
        findings=found,
    )
    bench.ledger.close()
    return outcome


class Watch:
    """Looks on: how many series are through; retries what died too often, as an operator would."""

    def __init__(self, ledger: Ledger, work: Work) -> None:
        self.retried = 0
        self.surprises: list[str] = []
        self._ledger = ledger
        self.work = work
        self._over: set[str] = set()

    def look(self) -> bool:
        """Whether all series that were begun are through."""
        for letter in self._ledger.reports.dead_letters():
            if "too often" not in letter["reason"]:
                self.surprises.append(f"dead letter {letter['job_id'][:12]}: {letter['reason']}")
            self._ledger.syntheses.retry(letter["job_id"], "harness")
            self.retried += 1
        for uid in list(self.work.series):
            if uid not in self._over and (seen := look(self._ledger, uid)) and seen.is_over:
                self._over.add(uid)
        self.work.finished = len(self._over)
        return len(self._over) == len(self.work.series)

    def forget(self) -> None:
        """Look at every series again."""
        self._over.clear()


def _kill(
    kills: int,
    targets: Sequence[tuple[Point, str]],
    bench: Bench,
    killer: Killer,
    watch: Watch,
    tell: Tell,
) -> None:
    """Named points in turn; when each was met once, random moments between them."""
    turns = itertools.cycle(targets)
    for number in itertools.count():
        if killer.kills.total >= kills:
            return
        tell(f"{killer.kills.total} of {kills} kills, {len(watch._over)} series through")
        watch.look()
        bench.restart_if_dead()
        if number < len(targets) or number % 2:
            point, role = next(turns)
            # Nothing may be on its way to a point that only a sender leads to.
            watch.work.is_wanted = role == RECEIVE
            killer.at_point(point, role)
            watch.work.is_wanted = False
        else:
            killer.at_random(bench.service.process.pid)


def _settled(bench: Bench, scanners: list[Scanner], watch: Watch) -> Iterator[str]:
    """Wait until nothing more happens by itself; what does not come to an end."""
    best, end = (0, 0), time.monotonic() + STUCK_S
    was_sent = False
    while time.monotonic() < end:
        bench.restart_if_dead()
        is_sent = not any(scanner.is_alive() for scanner in scanners)
        if is_sent and not was_sent:
            # A late slice may have opened a series again that was through.
            watch.forget()
            best, end, was_sent = (0, 0), time.monotonic() + STUCK_S, True
        is_over, left = watch.look(), len(_leftovers(bench))
        if is_sent and is_over and not left:
            return
        # More series are through, or fewer files are left of those that are.
        reached = (watch.work.finished, -left)
        if reached > best:
            best, end = reached, time.monotonic() + STUCK_S
        time.sleep(0.3)
    yield f"it did not settle: nothing came to its end for {STUCK_S:g} s"


def _leftovers(bench: Bench) -> list[str]:
    """What retention has yet to sweep."""
    files = list(bench.archive.strays(time.time() + DAY_S))
    known = bench.ledger.retention.known_paths(files)
    work = list((bench.settings.node.data_folder / "work").glob("*"))
    return [path for path in files if path not in known] + [path.name for path in work]


def _site(data: Path, port: int, pacs_port: int, url: str) -> dict[str, dict[str, Any]]:
    pacs = {
        "name": "pacs",
        "ae_title": "PEER",
        "host": LOOPBACK,
        "port": pacs_port,
        "storage_commitment": True,
    }
    return {
        "node": {
            "bind_address": LOOPBACK,
            "port": port,
            "data_folder": str(data),
            "database_url": url,
        },
        "receive": {
            "allow_any_peer": True,
            "minimum_free_bytes": 100_000_000,
            "network_timeout_s": 10,
            "processes": 2,
        },
        "completion": {"quiet_s": 0.3, "gap_patience_s": 1, "abandoned_s": 2, "poll_s": 0.1},
        "selection": {"minimum_slices": 2, "minimum_coverage_mm": 0.5},
        "synthesis": {"samples": 2},
        "delivery": {
            "destinations": [pacs],
            "first_retry_s": 0.1,
            "longest_retry_s": 0.5,
            "network_timeout_s": 5,
            # A report that was lost is asked for again, for as long as it takes.
            "commitment_timeout_s": 2,
            "commitment_stay_s": 0.3,
            "commitment_tries": 1000,
        },
        "web": {"port": 0},
        # What is committed goes soon, so that retention is killed at its work too.
        "retention": {
            "received_days": 20 / DAY_S,
            "outputs_days": 10 / DAY_S,
            "leftover_hours": 10 / 3600,
            "poll_s": 2,
        },
        "logging": {"format": "json"},
    }


def as_text(outcome: Outcome) -> str:
    """The table at the end."""
    story = outcome.to_json()
    lines = [f"{'killed at':34}times"]
    lines += [f"{name:34}{count}" for name, count in story["at_points"].items()]
    lines += [f"{'any moment, ' + name:34}{count}" for name, count in story["at_random"].items()]
    lines += [
        f"{'not reached: ' + name:34} {count}" for name, count in story["missed_points"].items()
    ]
    lines += [""]
    for key in (
        "kills", "instances", "series", "syntheses", "delivered", "repeated", "outages",
        "removed", "retried", "seconds", "seed",
    ):  # fmt: skip
        lines.append(f"{key:34}{story[key]}")
    lines.append(f"{'answers':34}{json.dumps(story['statuses'])}")
    lines += ["", *(f"FOUND: {finding}" for finding in outcome.findings)]
    lines.append("nothing lost, nothing twice, nothing left" if not outcome.findings else "FAILED")
    return "\n".join(lines)
