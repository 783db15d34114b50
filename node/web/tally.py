"""What the audit chain adds up to: counters that are right across processes and restarts.

The chain is the one record that only grows, written by all processes in the transaction of what it
tells. Whoever adds it up from its first event has the same totals as everybody else.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from node.audit import Broken, Event, Kind, Walk
from node.clock import Clock, from_text
from node.errors import Retry
from node.ledger.reports import Reports

STAGE_BUCKETS_S: Final = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0)
"""From a synthesis on an accelerator (seconds) to a night in which the PACS was down."""

FIRST_READ_S: Final = 5.0
"""How long whoever wants totals waits for the first of them: a scrape may take 10 s."""

# Which event ends which stage, and which stage it begins.
_STAGES: Final = {
    Kind.SYNTHESIS_QUEUED: (None, "waiting"),
    Kind.SYNTHESIS_STARTED: ("waiting", "computing"),
    Kind.SYNTHESIS_PACKAGED: ("computing", "delivering"),
    Kind.SYNTHESIS_DELIVERED: ("delivering", None),
    Kind.SYNTHESIS_POSTPONED: ("computing", "waiting"),
    Kind.SYNTHESIS_RETRIED: (None, "waiting"),
    # What failed or was declined says nothing about how long it takes.
    Kind.SYNTHESIS_DECLINED: (None, None),
    Kind.SYNTHESIS_FAILED: (None, None),
}


@dataclass
class Histogram:
    """Durations in seconds; `counts` per bucket, the last one for all that are longer."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(STAGE_BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(STAGE_BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


class Tally:
    """Totals over the events taken so far.

    Labels come from us or from the settings, never from strangers, so that their number is bounded.
    """

    def __init__(self) -> None:
        self.kinds: Final[Counter[str]] = Counter()
        self.answers: Final[Counter[str]] = Counter()
        self.received_bytes = 0
        self.refused_associations: Final[Counter[str]] = Counter()
        self.attempts: Final[Counter[tuple[str, str]]] = Counter()
        self.delivered: Final[Counter[tuple[str, str]]] = Counter()
        self.stages: Final = {
            name: Histogram() for name in ("waiting", "computing", "delivering", "whole")
        }
        # Jobs on their way: the stage they are in since when, and when they were queued.
        self._jobs: Final[dict[str, tuple[str, datetime, datetime]]] = {}

    def add(self, event: Event) -> None:
        """One more event, in the order of the chain."""
        self.kinds[event.kind] += 1
        detail = event.detail
        if event.kind in (Kind.INSTANCE_RECEIVED, Kind.INSTANCE_DUPLICATE):
            self.answers["0x0000"] += 1
            self.received_bytes += int(detail.get("size_bytes", 0))
        elif event.kind == Kind.INSTANCE_REFUSED:
            self.answers[str(detail["status"])] += 1
        elif event.kind == Kind.ASSOCIATION_REFUSED:
            self.refused_associations[str(detail["reason"])] += int(detail.get("count", 1))
        elif event.kind == Kind.DELIVERY_ATTEMPTED:
            destination = str(detail["destination"])
            self.attempts[destination, str(detail["outcome"])] += 1
            for status, count in detail["answers"].items():
                self.delivered[destination, status] += count
        elif event.kind in _STAGES:
            self._time(event)

    def _time(self, event: Event) -> None:
        ended, begun = _STAGES[Kind(event.kind)]
        at = from_text(event.at)
        stage, since, queued = self._jobs.pop(event.subject, ("", at, at))
        if ended is not None and ended == stage:
            self.stages[ended].add((at - since).total_seconds())
            if begun is None:
                self.stages["whole"].add((at - queued).total_seconds())
        if begun is not None:
            self._jobs[event.subject] = (begun, at, at if begun == "waiting" else queued)


class Chain:
    """Follows the audit chain as it grows, adds it up, and checks every link.

    The whole of it is read beside those who ask: a million events take a minute.

    Args:
        reports: Where the chain is read.
        clock: Tells UTC moments.
        verify_every_s: How often the whole of it is read again: a change in what was read before
            shows only then.
    """

    def __init__(self, reports: Reports, clock: Clock, verify_every_s: float) -> None:
        self._reports: Final = reports
        self._clock: Final = clock
        self._verify_every_s: Final = verify_every_s
        # Held for what is new, never for the whole.
        self._lock: Final = threading.Lock()
        self._read: Final = threading.Event()
        self._walk = Walk()
        self._tally = Tally()
        self.broken: Broken | None = None
        self.verified_at: datetime | None = None

    @property
    def events(self) -> int:
        """How many events were read and held."""
        return self._walk.sequence

    @property
    def head(self) -> str:
        """The hash of the last of them."""
        return self._walk.head

    @property
    def was_read(self) -> bool:
        """Whether the whole of it was read once, so that there are totals."""
        return self._read.is_set()

    def read_on(self) -> Tally:
        """Take in what is new; the totals of all there is.

        Raises:
            Retry: When the ledger does not answer, or the whole is still read for the first time.
        """
        if not self._read.wait(FIRST_READ_S):
            raise Retry("the audit chain is read for the first time; totals follow")
        with self._lock:
            new = self._reports.events(after=self._walk.sequence)
            self.broken = _take(new, self._walk, self._tally) or self.broken
            return self._tally

    def verify_if_due(self) -> None:
        """Read the whole of it when that is due, while others read on.

        Raises:
            Retry: When the ledger does not answer.
        """
        if not self._is_due():
            return
        began, walk, tally = self._clock(), Walk(), Tally()
        broken = _take(self._reports.events(), walk, tally)
        # Whatever came meanwhile is read on by the next who asks.
        with self._lock:
            self._walk, self._tally, self.broken, self.verified_at = walk, tally, broken, began
        self._read.set()

    def _is_due(self) -> bool:
        if self.verified_at is None:
            return True
        return (self._clock() - self.verified_at).total_seconds() >= self._verify_every_s


def _take(events: Iterator[Event], walk: Walk, tally: Tally) -> Broken | None:
    """Add up the events up to the first break, and tell that."""
    for event in events:
        broken = walk.take(event)
        if broken is not None:
            return broken
        tally.add(event)
    return None
