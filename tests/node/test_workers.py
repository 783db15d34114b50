"""Who is alive, and who takes up whose work: the rule, and the ledger's verbs on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from config.settings import load
from node import audit
from node.clock import utc_now
from node.errors import Fenced, LostRace, Retry
from node.heartbeat import Heartbeat, Watch
from node.ledger import Ledger, open_ledger
from node.ledger.workers import Life


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    opened = open_ledger(database_url, utc_now)
    yield opened
    assert audit.verify(opened.reports.events()) is None
    opened.close()


def begin(ledger: Ledger, name: str) -> Life:
    return ledger.workers.begin(name, "host", 1, "1")


def test_silence_is_judged_by_beats_that_do_not_change() -> None:
    watch = Watch(silent_s=10)
    assert watch.silent(0, {1: 5, 2: 5}) == {}
    assert watch.silent(4, {1: 6, 2: 5}) == {}
    assert watch.silent(8, {1: 7, 2: 5, 3: 0}) == {}
    assert watch.silent(10, {1: 8, 2: 5, 3: 0}) == {2: 5}
    assert watch.silent(14, {1: 9, 2: 6, 3: 0}) == {}
    assert watch.silent(18, {1: 10, 2: 7, 3: 0}) == {3: 0}


def test_whoever_could_not_look_cannot_judge() -> None:
    """The database was away for a minute, or this very process stood still."""
    watch = Watch(silent_s=10)
    watch.silent(0, {1: 5})
    assert watch.silent(60, {1: 5}) == {}
    assert watch.silent(64, {1: 5}) == {}
    assert watch.silent(68, {1: 5}) == {}
    assert watch.silent(70, {1: 5}) == {1: 5}


def test_a_beat_in_the_last_moment_saves_a_worker(ledger: Ledger) -> None:
    slow, other = begin(ledger, "a"), begin(ledger, "b")
    seen = ledger.workers.beats()
    ledger.workers.beat(slow)
    assert not ledger.workers.presume_dead(slow.id, seen[slow.id], other)
    assert ledger.workers.take(other) == ()
    assert ledger.workers.presume_dead(slow.id, seen[slow.id] + 1, other)
    assert not ledger.workers.presume_dead(slow.id, seen[slow.id] + 1, other)
    assert set(ledger.workers.beats()) == {other.id}
    assert [one["name"] for one in ledger.reports.status()["workers"]] == ["b"]


def test_a_worker_declared_dead_writes_nothing_any_more(ledger: Ledger, database_url: str) -> None:
    own = open_ledger(database_url, utc_now)
    life = begin(own, "a")
    own.database.fence(life.id)
    own.receiving.open_association("x", "CT1", "US", "127.0.0.1")
    other = begin(ledger, "b")
    ledger.workers.presume_dead(life.id, 0, other)
    before = ledger.reports.status()
    for write in (
        lambda: own.workers.beat(life),
        lambda: own.workers.end(life),
        lambda: own.workers.take(life),
        lambda: own.receiving.open_association("x", "CT1", "US", "127.0.0.1"),
    ):
        with pytest.raises(Fenced, match="declared dead"):
            write()
    assert ledger.reports.status() == before
    own.close()


def test_work_is_taken_by_one_and_again_when_that_one_dies(ledger: Ledger) -> None:
    dead, first, second = (begin(ledger, name) for name in "abc")
    ledger.workers.end(dead)
    assert ledger.workers.take(first) == (dead,)
    assert ledger.workers.take(second) == ()
    assert ledger.workers.presume_dead(first.id, 0, second)
    assert set(ledger.workers.take(second)) == {dead, first}
    with pytest.raises(LostRace):
        ledger.workers.recovered(dead, first)
    ledger.workers.recovered(dead, second)
    assert ledger.workers.take(second) == (first,)
    of_the_dead = [e.kind for e in ledger.reports.events() if e.subject == dead.executor_id]
    assert of_the_dead == [
        audit.Kind.WORKER_STARTED,
        audit.Kind.WORKER_ENDED,
        audit.Kind.WORKER_RECOVERED,
    ]


def test_a_new_life_ends_the_one_before_and_shares_nothing_with_it(ledger: Ledger) -> None:
    first = begin(ledger, "a")
    second = begin(ledger, "a")
    assert first.executor_id != second.executor_id
    assert ledger.workers.take(second) == (first,)


def test_a_recovery_that_fails_is_tried_again(ledger: Ledger) -> None:
    dead, living = begin(ledger, "a"), begin(ledger, "b")
    ledger.workers.end(dead)
    asked: list[str] = []

    def recover(executor_id: str) -> None:
        asked.append(executor_id)
        if len(asked) == 1:
            raise Retry("the engine was away")

    beat = Heartbeat(ledger.workers, living, load().work, recover, lambda: None)
    with pytest.raises(Retry):
        beat.turn(0.0)
    beat.turn(1.0)
    beat.turn(2.0)
    assert asked == [dead.executor_id] * 2
