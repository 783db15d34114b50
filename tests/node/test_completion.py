"""The rule as a table, and the loop around it with a clock that is moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.settings import CompletionSettings
from node.completion import Complete, CompletionLoop, SeriesStatus, Wait, is_gapless, judge
from node.found import FoundSeries, FoundStudy
from node.ledger.receiving import Ending
from node.states import SeriesState
from tests.node.samples import (
    REFUSAL,
    SERIES_UID,
    STUDY_UID,
    Clock,
    instance,
    new_ledger,
    record,
)

SETTINGS = CompletionSettings(quiet_s=3, gap_patience_s=60, abandoned_s=120, poll_s=0.5)
START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)

# silent for s, open associations, cut off, gapless -> reason of a Wait and its end, or Complete
TABLE: list[tuple[float, int, bool, bool, str | None, float]] = [
    (0, 0, False, True, "a moment ago", 3),
    (2.99, 0, False, True, "a moment ago", 3),
    (3, 0, False, True, None, 0),
    (1000, 0, False, True, None, 0),
    # an open association
    (0, 1, False, True, "open", 120),
    (119.9, 2, False, True, "open", 120),
    (120, 1, False, True, None, 0),
    (119.9, 1, True, False, "open", 120),
    # a gap
    (0, 0, False, False, "a moment ago", 3),
    (3, 0, False, False, "missing", 60),
    (59.9, 0, False, False, "missing", 60),
    (60, 0, False, False, None, 0),
    # a sender cut off
    (3, 0, True, True, "cut off", 60),
    (59.9, 0, True, False, "cut off", 60),
    (60, 0, True, True, None, 0),
    (60, 0, True, False, None, 0),
    # all at once
    (120, 1, True, False, None, 0),
]


@pytest.mark.parametrize(("silent_s", "open_", "cut_off", "gapless", "waits_for", "until_s"), TABLE)
def test_the_rule(
    silent_s: float, open_: int, cut_off: bool, gapless: bool, waits_for: str | None, until_s: float
) -> None:
    status = SeriesStatus(START, open_, cut_off, gapless)
    verdict = judge(status, START + timedelta(seconds=silent_s), SETTINGS)
    if waits_for is None:
        assert isinstance(verdict, Complete)
    else:
        assert isinstance(verdict, Wait)
        assert waits_for in verdict.reason
        assert verdict.until == START + timedelta(seconds=until_s)


@pytest.mark.parametrize(
    ("open_", "cut_off", "gapless", "reason"),
    [
        (0, False, True, "released and no slice is missing"),
        (0, False, False, "missing did not come"),
        (0, True, True, "did not come back"),
        (1, False, True, "with the association open"),
    ],
)
def test_completing_tells_why(open_: int, cut_off: bool, gapless: bool, reason: str) -> None:
    status = SeriesStatus(START, open_, cut_off, gapless)
    verdict = judge(status, START + timedelta(seconds=500), SETTINGS)
    assert isinstance(verdict, Complete)
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([], True),
        ([1.0], True),
        ([1.0, 2.0], True),
        ([3.0, 1.0, 2.0], True),
        ([1.0, 2.0, 4.0], False),
        ([1.0, 2.0, 3.5], False),
        ([0.0, 1.25, 2.5, 5.0], False),
        ([1.0, 1.0, 2.0, 3.0], True),
    ],
)
def test_gaps(heights: list[float], expected: bool) -> None:
    assert is_gapless([instance(z) for z in heights]) is expected


def test_what_is_no_stack_is_not_waited_for() -> None:
    coronal = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    scout = [instance(0.0, orientation=coronal), instance(1.0), instance(9.0), instance(10.0)]
    assert is_gapless(scout)
    assert is_gapless([instance(refusal=REFUSAL), instance(refusal=REFUSAL)])


class Bench:
    """A ledger, a clock, and a loop that notes which studies it hands on."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.ledger = new_ledger(folder, self.clock)
        self.handed_on: list[str] = []
        self.loop = CompletionLoop(self.ledger, SETTINGS, self.hand_on)
        self.association = self.open()

    def hand_on(self, study_uid: str) -> None:
        self.handed_on.append(study_uid)

    def open(self) -> int:
        return self.ledger.receiving.open_association("receive-0", "CT1", "US", "10.0.0.5")

    def receive(self, *numbers: int) -> None:
        for number in numbers:
            record(self.ledger, number, self.association)

    def close(self, ending: Ending = Ending.RELEASED) -> None:
        self.ledger.receiving.close_association(self.association, ending)

    def turn(self, seconds: float) -> int:
        return self.loop.run_once(self.clock.advance(seconds))

    def state(self) -> tuple[SeriesState, int]:
        held = self.ledger.series.get(SERIES_UID)
        assert held is not None
        return held.state, held.version


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    bench = Bench(tmp_path)
    yield bench
    bench.ledger.close()


def test_a_released_whole_series_completes_after_the_quiet_period(bench: Bench) -> None:
    bench.receive(1, 2, 3)
    assert bench.turn(10) == 0  # the association is open
    bench.close()
    assert bench.turn(0.5) == 1  # its last instance is long ago
    assert bench.state() == (SeriesState.COMPLETE, 1)
    assert bench.handed_on == [STUDY_UID]


def test_a_gap_is_waited_for_and_filled(bench: Bench) -> None:
    bench.receive(1, 2, 5)
    bench.close()
    assert bench.turn(10) == 0
    bench.receive(3, 4)
    assert bench.turn(3) == 1
    assert bench.state() == (SeriesState.COMPLETE, 1)


def test_a_gap_that_stays_ends_the_waiting(bench: Bench) -> None:
    bench.receive(1, 2, 5)
    bench.close()
    assert bench.turn(59) == 0
    assert bench.turn(1) == 1
    assert list(bench.ledger.reports.events())[-1].detail["reason"] == (
        "the slices missing did not come"
    )


def test_an_archive_with_more_is_waited_for(bench: Bench) -> None:
    answers: list[int | None] = [4, 4, 3, None]
    asked: list[str] = []

    def count(study_uid: str) -> FoundStudy:
        asked.append(study_uid)
        series = FoundSeries(study_uid, SERIES_UID, answers[len(asked) - 1])
        return FoundStudy(study_uid, (series,))

    bench.loop = CompletionLoop(bench.ledger, SETTINGS, bench.hand_on, count)
    bench.receive(1, 2, 3)
    bench.close()
    assert bench.turn(2) == 0
    # Nobody is asked while the rule waits for another reason.
    assert asked == []
    assert bench.turn(2) == 0
    assert bench.turn(56) == 1
    detail = list(bench.ledger.reports.events())[-1].detail
    assert detail["reason"] == "what the archive has more of it did not come"
    missing = {"series_uid": SERIES_UID, "expected": 4, "found": 3}
    assert detail["archive"] == {"missing": [missing]}
    for more in (4, 5):
        # It has no more than we, or does not tell: nothing to wait for.
        bench.receive(more)
        assert bench.turn(4) == 1
        assert "archive" not in list(bench.ledger.reports.events())[-1].detail
    assert asked == [STUDY_UID] * 4


def test_what_is_coming_in_is_not_missing(bench: Bench) -> None:
    """The series that is complete last tells what is missing of the study."""
    other = f"{STUDY_UID}.2"
    found = FoundStudy(
        STUDY_UID,
        (FoundSeries(STUDY_UID, SERIES_UID, 2), FoundSeries(STUDY_UID, other, 3)),
        listed_series=2,
        counted_series=3,
    )
    bench.loop = CompletionLoop(bench.ledger, SETTINGS, bench.hand_on, lambda _: found)
    bench.receive(1, 2)
    bench.close()
    bench.association = bench.open()
    uid = f"{other}.1"
    record(bench.ledger, 1, bench.association, series_uid=other, sop_instance_uid=uid)
    unlisted = f"expected 3 series in study {STUDY_UID}, found 2 listed"
    assert bench.turn(4) == 1
    assert list(bench.ledger.reports.events())[-1].detail["archive"] == {"unlisted": unlisted}
    bench.close()
    assert bench.turn(60) == 1
    missing = {"series_uid": other, "expected": 3, "found": 1}
    detail = list(bench.ledger.reports.events())[-1].detail
    assert detail["archive"] == {"missing": [missing], "unlisted": unlisted}


def test_an_association_left_open_is_given_up(bench: Bench) -> None:
    bench.receive(1, 2)
    assert bench.turn(119) == 0
    assert bench.turn(1) == 1


def test_an_aborted_sender_is_waited_for(bench: Bench) -> None:
    bench.receive(1, 2)
    bench.close(Ending.ABORTED)
    assert bench.turn(10) == 0
    bench.association = bench.open()
    bench.receive(3)
    bench.close()
    assert bench.turn(3) == 1


def test_a_late_slice_completes_again_as_the_next_version(bench: Bench) -> None:
    bench.receive(1, 2)
    bench.close()
    assert bench.turn(3) == 1
    bench.receive(3)
    assert bench.state() == (SeriesState.RECEIVING, 2)
    assert bench.turn(3) == 1
    assert bench.state() == (SeriesState.COMPLETE, 2)


def test_an_undecided_study_is_offered_until_it_is_decided(bench: Bench) -> None:
    bench.receive(1, 2)
    bench.close()
    bench.turn(3)
    # A new loop: the one before crashed between completing and deciding.
    later = CompletionLoop(bench.ledger, SETTINGS, bench.hand_on)
    later.run_once(bench.clock())
    assert bench.handed_on == [STUDY_UID] * 2
    bench.ledger.series.decide(SERIES_UID, 1, SeriesState.DECLINED, "x.y", "z", {}, "test")
    later.run_once(bench.clock())
    assert bench.handed_on == [STUDY_UID] * 2


def test_a_study_that_cannot_be_decided_does_not_hold_up_the_loop(bench: Bench) -> None:
    def fail(study_uid: str) -> None:
        raise RuntimeError(study_uid)

    bench.receive(1, 2)
    bench.close()
    assert CompletionLoop(bench.ledger, SETTINGS, fail).run_once(bench.clock.advance(3)) == 1
    assert bench.turn(0.5) == 0
    assert bench.handed_on == [STUDY_UID]


def test_a_series_that_cannot_be_judged_does_not_hold_up_the_others(bench: Bench) -> None:
    def fail(study_uid: str) -> FoundStudy | None:
        raise RuntimeError(study_uid)

    bench.receive(1, 2)
    bench.close()
    loop = CompletionLoop(bench.ledger, SETTINGS, bench.hand_on, fail)
    assert loop.run_once(bench.clock.advance(3)) == 0
    assert bench.turn(0.5) == 1
