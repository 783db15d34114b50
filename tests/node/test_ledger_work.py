"""Syntheses and deliveries: whatever is asked in whatever order, no row moves where it must not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node import audit
from node.archive import Archive
from node.audit import Kind
from node.clock import from_text, to_text, utc_now
from node.errors import IllegalMove, LostRace, Refuse
from node.ledger import Ledger, migrate, open_ledger, sqlite_url
from node.ledger.commitments import Awaited
from node.ledger.entries import Attempt, Destination, NewSynthesis, Output, Packaged
from node.states import (
    DELIVERY_MOVES,
    OPEN_DELIVERIES,
    SYNTHESIS_MOVES,
    CommitmentState,
    DeliveryState,
    SynthesisState,
)
from tests.node.journeys import MODEL_DIGEST, new_synthesis, put_ct_on_record
from tests.node.samples import Clock

ACTOR = "tests"
HERE = Destination("pacs", "PACS", "192.0.2.1", 104)
THERE = Destination("archive", "ARCHIVE", "192.0.2.2", 104)


def open_in(folder: Path, url: str) -> Ledger:
    ledger = open_ledger(url, utc_now)
    put_ct_on_record(ledger, Archive(folder / "archive"))
    return ledger


@pytest.fixture
def ledger(tmp_path: Path, database_url: str) -> Iterator[Ledger]:
    opened = open_in(tmp_path, database_url)
    yield opened
    opened.close()


@pytest.fixture
def job(ledger: Ledger) -> NewSynthesis:
    new = new_synthesis(ledger)
    assert ledger.syntheses.create(new, ACTOR)
    return new


def packaged(job_id: str, content: str = "a") -> Packaged:
    outputs = [
        Output(f"2.25.{n}", "2.25.99", "T2", n, content * 64, content * 64, f"outputs/{job_id}/{n}")
        for n in range(1, 4)
    ]
    return Packaged(outputs, {"pseudomri": "1"}, "cpu float32", {"image": 1.0}, {}, [])


def deliver(ledger: Ledger, job_id: str, *destinations: Destination) -> list[int]:
    run = ledger.syntheses.get(job_id).run
    ledger.syntheses.start(job_id, run, ACTOR)
    ledger.syntheses.package(job_id, run, packaged(job_id), ACTOR)
    return [entry.id for entry in ledger.deliveries.begin(job_id, run, destinations, ACTOR)]


def begun(ledger: Ledger, delivery: int) -> Attempt:
    attempt = ledger.deliveries.begin_attempt(delivery, ACTOR)
    assert attempt is not None
    return attempt


def accept_all(ledger: Ledger, attempt: Attempt) -> None:
    for output in attempt.remaining:
        ledger.deliveries.answer(attempt, output.sop_instance_uid, 0x0000)
    ledger.deliveries.delivered(attempt, ACTOR)


class Life(RuleBasedStateMachine):
    """Random verbs on one synthesis with two destinations, against the tables of legal moves."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        url = sqlite_url(self.folder / "node.sqlite")
        migrate(url)
        self.ledger = open_in(self.folder, url)
        new = new_synthesis(self.ledger)
        self.ledger.syntheses.create(new, ACTOR)
        self.job_id = new.job_id
        self.attempts: list[Attempt] = []
        self.synthesis = SynthesisState.QUEUED
        self.deliveries: dict[int, DeliveryState] = {}

    def teardown(self) -> None:
        assert audit.verify(self.ledger.reports.events()) is None
        self.ledger.close()
        shutil.rmtree(self.folder)

    def ask(self, verb: Callable[[], object]) -> object:
        try:
            return verb()
        except (IllegalMove, LostRace, Refuse):
            # It changed nothing: the invariants compare.
            return None

    @rule(run=st.integers(1, 3))
    def start(self, run: int) -> None:
        self.ask(lambda: self.ledger.syntheses.start(self.job_id, run, ACTOR))

    @rule(run=st.integers(1, 3), content=st.sampled_from("ab"))
    def package(self, run: int, content: str) -> None:
        made = packaged(self.job_id, content)
        self.ask(lambda: self.ledger.syntheses.package(self.job_id, run, made, ACTOR))

    @rule(run=st.integers(1, 3))
    def package_again(self, run: int) -> None:
        self.ask(lambda: self.ledger.syntheses.package_again(self.job_id, run, ACTOR))

    @rule(run=st.integers(1, 3))
    def decline(self, run: int) -> None:
        self.ask(lambda: self.ledger.syntheses.decline(self.job_id, run, "x", "y", [], ACTOR))

    @rule(run=st.integers(1, 3))
    def fail(self, run: int) -> None:
        self.ask(lambda: self.ledger.syntheses.fail(self.job_id, run, "because", ACTOR))

    @rule()
    def retry(self) -> None:
        self.ask(lambda: self.ledger.syntheses.retry(self.job_id, ACTOR))

    @rule()
    def dismiss(self) -> None:
        self.ask(lambda: self.ledger.syntheses.dismiss(self.job_id, "hopeless", ACTOR))

    @rule(run=st.integers(1, 3), destinations=st.sampled_from([(), (HERE,), (HERE, THERE)]))
    def begin(self, run: int, destinations: tuple[Destination, ...]) -> None:
        self.ask(lambda: self.ledger.deliveries.begin(self.job_id, run, destinations, ACTOR))

    @rule(data=st.data())
    def attempt(self, data: st.DataObject) -> None:
        if self.deliveries:
            delivery = data.draw(st.sampled_from(sorted(self.deliveries)))
            attempt = self.ask(lambda: self.ledger.deliveries.begin_attempt(delivery, ACTOR))
            if isinstance(attempt, Attempt):
                self.attempts.append(attempt)

    @rule(status=st.sampled_from([0x0000, 0xB000, 0xA700, 0xC000]), data=st.data())
    def answer(self, status: int, data: st.DataObject) -> None:
        if self.attempts:
            attempt = data.draw(st.sampled_from(self.attempts))
            for output in attempt.remaining:
                self.ledger.deliveries.answer(attempt, output.sop_instance_uid, status)

    @rule(how=st.sampled_from(["delivered", "postpone", "fail"]), data=st.data())
    def end(self, how: str, data: st.DataObject) -> None:
        if self.attempts:
            attempt = data.draw(st.sampled_from(self.attempts))
            verbs = self.ledger.deliveries
            verb = {
                "delivered": lambda: verbs.delivered(attempt, ACTOR),
                "postpone": lambda: verbs.postpone(attempt, "later", ACTOR),
                "fail": lambda: verbs.fail(attempt, "never", ACTOR),
            }[how]
            self.ask(verb)

    @rule()
    def commit(self) -> None:
        self.ask(lambda: self.ledger.syntheses.commit(self.job_id, ACTOR))

    @invariant()
    def only_legal_moves(self) -> None:
        story = self.ledger.reports.show(self.job_id)
        found = SynthesisState(story["state"])
        steps = reachable(SYNTHESIS_MOVES, self.synthesis)
        assert found in steps, f"{self.synthesis} -> {found}"
        self.synthesis = found
        for delivery in story["deliveries"]:
            state = DeliveryState(delivery["state"])
            before = self.deliveries.get(delivery["id"], DeliveryState.PENDING)
            assert state == before or state in DELIVERY_MOVES[before], f"{before} -> {state}"
            self.deliveries[delivery["id"]] = state
            if state == DeliveryState.DELIVERED:
                assert delivery["accepted"] == len(story["outputs"])
        if found in (SynthesisState.DELIVERED, SynthesisState.COMMITTED):
            assert {*self.deliveries.values()} <= {DeliveryState.DELIVERED}
        if found is SynthesisState.DELIVERING:
            # Or nothing would ever move it on.
            assert DeliveryState.FAILED not in self.deliveries.values()
            assert not {*OPEN_DELIVERIES}.isdisjoint(self.deliveries.values())
        assert len({output["pixel_digest"] for output in story["outputs"]}) <= 1


def reachable(
    moves: dict[SynthesisState, frozenset[SynthesisState]], start: SynthesisState
) -> set[SynthesisState]:
    """Where one verb may lead: beginning deliveries with none to make takes two moves."""
    once = {start, *moves[start]}
    if start is SynthesisState.PACKAGED:
        once |= moves[SynthesisState.DELIVERING]
    return once


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_a_uid_never_gets_other_pixels(ledger: Ledger, job: NewSynthesis) -> None:
    ledger.syntheses.start(job.job_id, 1, ACTOR)
    ledger.syntheses.package(job.job_id, 1, packaged(job.job_id, "a"), ACTOR)
    ledger.syntheses.package(job.job_id, 1, packaged(job.job_id, "a"), ACTOR)
    with pytest.raises(Refuse, match="other content"):
        ledger.syntheses.package(job.job_id, 1, packaged(job.job_id, "b"), ACTOR)
    assert {one.pixel_digest for one in ledger.syntheses.outputs(job.job_id)} == {"a" * 64}


def test_a_stale_run_cannot_start(ledger: Ledger, job: NewSynthesis) -> None:
    ledger.syntheses.fail(job.job_id, 1, "because", ACTOR)
    assert ledger.syntheses.retry(job.job_id, ACTOR) == 2
    with pytest.raises(LostRace, match="run 1"):
        ledger.syntheses.start(job.job_id, 1, ACTOR)
    assert [one.run for one in ledger.syntheses.undispatched()] == [2]


def test_a_dead_letter_is_dismissed_for_good_reason(ledger: Ledger, job: NewSynthesis) -> None:
    with pytest.raises(IllegalMove):
        ledger.syntheses.dismiss(job.job_id, "too early", ACTOR)
    ledger.syntheses.fail(job.job_id, 1, "because", ACTOR)
    ledger.syntheses.dismiss(job.job_id, "the model is another one now", ACTOR)
    # The run that failed says so once more.
    ledger.syntheses.fail(job.job_id, 1, "because", ACTOR)
    assert ledger.syntheses.get(job.job_id).state is SynthesisState.DISMISSED
    assert not ledger.reports.dead_letters()
    event = list(ledger.reports.events())[-1]
    assert (event.kind, event.actor) == (Kind.SYNTHESIS_DISMISSED, ACTOR)
    assert event.detail == {"run": 1, "reason": "the model is another one now"}
    assert ledger.syntheses.retry(job.job_id, ACTOR) == 2


def test_a_dead_letter_with_a_delivery_under_way_is_not_dismissed(
    ledger: Ledger, job: NewSynthesis
) -> None:
    here, there = deliver(ledger, job.job_id, HERE, THERE)
    ledger.deliveries.fail(begun(ledger, here), "no", ACTOR)
    with pytest.raises(Refuse, match="under way"):
        ledger.syntheses.dismiss(job.job_id, "why not", ACTOR)
    ledger.deliveries.fail(begun(ledger, there), "no", ACTOR)
    ledger.syntheses.dismiss(job.job_id, "both are gone", ACTOR)


def test_a_stale_run_neither_packages_nor_declines(ledger: Ledger, job: NewSynthesis) -> None:
    """The worker of run 1 was taken for dead and goes on, while run 2 is at work."""
    ledger.syntheses.start(job.job_id, 1, ACTOR)
    ledger.syntheses.postpone(job.job_id, 1, "it was silent", ACTOR)
    ledger.syntheses.start(job.job_id, 2, ACTOR)
    for verb in (
        lambda: ledger.syntheses.package(job.job_id, 1, packaged(job.job_id), ACTOR),
        lambda: ledger.syntheses.decline(job.job_id, 1, "x", "y", [], ACTOR),
    ):
        with pytest.raises(LostRace, match="expected run 1, found run 2"):
            verb()
    assert ledger.syntheses.get(job.job_id).state is SynthesisState.RUNNING
    ledger.syntheses.package(job.job_id, 2, packaged(job.job_id), ACTOR)
    for verb in (
        lambda: ledger.syntheses.package_again(job.job_id, 1, ACTOR),
        lambda: ledger.deliveries.begin(job.job_id, 1, [HERE], ACTOR),
    ):
        with pytest.raises(LostRace, match="expected run 1, found run 2"):
            verb()
    assert ledger.syntheses.get(job.job_id).state is SynthesisState.PACKAGED


class Clocked:
    """A ledger with a clock of ours, and what health and metrics read in it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.clock = Clock()
        self.ledger = open_ledger(url, self.clock)
        put_ct_on_record(self.ledger, Archive(folder / "archive"))
        self.job_id = new_synthesis(self.ledger).job_id
        self.ledger.syntheses.create(new_synthesis(self.ledger), ACTOR)

    def age_s(self, at: str | None) -> float | None:
        return None if at is None else (self.clock() - from_text(at)).total_seconds()

    def queue_s(self) -> float | None:
        return self.age_s(self.ledger.figures.queue().oldest_at)

    def delivery_s(self) -> float | None:
        return self.age_s(self.ledger.figures.destinations()[HERE.name].waiting_since)


@pytest.fixture
def clocked(tmp_path: Path, database_url: str) -> Iterator[Clocked]:
    made = Clocked(tmp_path, database_url)
    yield made
    made.ledger.close()


def test_a_postponed_run_has_waited_from_the_first_time_on(clocked: Clocked) -> None:
    syntheses = clocked.ledger.syntheses
    for run in range(1, 4):
        clocked.clock.advance(600)
        syntheses.start(clocked.job_id, run, ACTOR)
        syntheses.postpone(clocked.job_id, run, "the disk is full", ACTOR)
    assert clocked.queue_s() == 1800
    syntheses.fail(clocked.job_id, 4, "because", ACTOR)
    assert clocked.queue_s() is None
    clocked.clock.advance(86_400)
    syntheses.retry(clocked.job_id, ACTOR)
    clocked.clock.advance(5)
    assert clocked.queue_s() == 5


def test_a_delivery_is_open_since_it_was_retried(clocked: Clocked) -> None:
    ledger, clock = clocked.ledger, clocked.clock
    (delivery,) = deliver(ledger, clocked.job_id, HERE)
    clock.advance(60)
    ledger.deliveries.postpone(begun(ledger, delivery), "later", ACTOR)
    assert clocked.delivery_s() == 60
    ledger.deliveries.fail(begun(ledger, delivery), "no", ACTOR)
    clock.advance(86_400)
    ledger.syntheses.retry(clocked.job_id, ACTOR)
    clock.advance(5)
    ledger.deliveries.postpone(begun(ledger, delivery), "later", ACTOR)
    assert clocked.delivery_s() == 5


def test_a_delivery_that_is_sent_again_is_open_since_then(clocked: Clocked) -> None:
    ledger, clock = clocked.ledger, clocked.clock
    (delivery,) = deliver(ledger, clocked.job_id, HERE)
    accept_all(ledger, begun(ledger, delivery))
    clock.advance(86_400)
    (waiting,) = awaited(ledger, clocked.job_id, HERE.name)
    assert ledger.commitments.request(waiting, "2.25.501", ACTOR)
    ledger.commitments.report("2.25.501", [], {}, ACTOR)
    begun(ledger, delivery)
    clock.advance(5)
    begun(ledger, delivery)
    assert clocked.delivery_s() == 5


def test_delivered_needs_every_instance(ledger: Ledger, job: NewSynthesis) -> None:
    (delivery,) = deliver(ledger, job.job_id, HERE)
    attempt = begun(ledger, delivery)
    ledger.deliveries.answer(attempt, "2.25.1", 0x0000)
    ledger.deliveries.answer(attempt, "2.25.2", 0xA700)
    with pytest.raises(IllegalMove, match="2 are not"):
        ledger.deliveries.delivered(attempt, ACTOR)
    assert ledger.deliveries.get(delivery).state is DeliveryState.SENDING


def test_an_interrupted_attempt_keeps_its_answers(ledger: Ledger, job: NewSynthesis) -> None:
    (delivery,) = deliver(ledger, job.job_id, HERE)
    ledger.deliveries.answer(begun(ledger, delivery), "2.25.1", 0x0000)
    second = begun(ledger, delivery)
    assert [one.sop_instance_uid for one in second.remaining] == ["2.25.2", "2.25.3"]
    attempts = ledger.reports.show(job.job_id)["deliveries"][0]["attempts"]
    assert [one["outcome"] for one in attempts] == ["interrupted", None]


def test_what_was_accepted_before_a_worker_died_is_in_the_audit_chain(
    ledger: Ledger, job: NewSynthesis
) -> None:
    first, second = deliver(ledger, job.job_id, HERE, THERE)
    for delivery in (first, second):
        attempt = begun(ledger, delivery)
        for output in attempt.remaining:
            ledger.deliveries.answer(attempt, output.sop_instance_uid, 0x0000)
    accept_all(ledger, begun(ledger, first))
    ledger.deliveries.abandon(second, "it took the worker down too often", ACTOR)
    told = [e.detail for e in ledger.reports.events() if e.kind == Kind.DELIVERY_ATTEMPTED]
    assert [(one["delivery"], one["outcome"], one["answers"]) for one in told] == [
        (first, "interrupted", {"0x0000": 3}),
        (first, "delivered", {}),
        (second, "interrupted", {"0x0000": 3}),
    ]
    for shown in ledger.reports.show(job.job_id)["deliveries"]:
        assert all(one["ended_at"] for one in shown["attempts"])


def test_the_last_delivery_makes_it_delivered(ledger: Ledger, job: NewSynthesis) -> None:
    first, second = deliver(ledger, job.job_id, HERE, THERE)
    accept_all(ledger, begun(ledger, first))
    assert ledger.syntheses.get(job.job_id).state is SynthesisState.DELIVERING
    accept_all(ledger, begun(ledger, second))
    assert ledger.syntheses.get(job.job_id).state is SynthesisState.DELIVERED


def test_a_failed_delivery_fails_it_at_once_and_a_retry_mends_it(
    ledger: Ledger, job: NewSynthesis
) -> None:
    first, second = deliver(ledger, job.job_id, HERE, THERE)
    ledger.deliveries.fail(begun(ledger, first), "no", ACTOR)
    assert ledger.syntheses.get(job.job_id).state is SynthesisState.FAILED
    accept_all(ledger, begun(ledger, second))
    ledger.syntheses.retry(job.job_id, ACTOR)
    ledger.syntheses.start(job.job_id, 2, ACTOR)
    ledger.syntheses.package_again(job.job_id, 2, ACTOR)
    moved = Destination("pacs", "PACS2", "192.0.2.3", 11112)
    waiting = ledger.deliveries.begin(job.job_id, 2, [moved, THERE], ACTOR)
    assert [(one.id, one.destination) for one in waiting] == [(first, moved)]
    accept_all(ledger, begun(ledger, first))
    assert ledger.syntheses.get(job.job_id).state is SynthesisState.DELIVERED


def test_a_delivery_that_failed_while_the_retried_run_waited_is_tried_with_it(
    clocked: Clocked,
) -> None:
    ledger, job_id = clocked.ledger, clocked.job_id
    first, second = deliver(ledger, job_id, HERE, THERE)
    ledger.deliveries.fail(begun(ledger, first), "no", ACTOR)
    ledger.syntheses.retry(job_id, ACTOR)
    ledger.deliveries.fail(begun(ledger, second), "silence for too long", ACTOR)
    clocked.clock.advance(86_400)
    ledger.syntheses.start(job_id, 2, ACTOR)
    ledger.syntheses.package_again(job_id, 2, ACTOR)
    # The settings do not name the second one any more: that is for its next attempt to say.
    waiting = ledger.deliveries.begin(job_id, 2, [HERE], ACTOR)
    assert [one.id for one in waiting] == [first, second]
    assert ledger.figures.destinations()[THERE.name].waiting_since == to_text(clocked.clock())
    retried = [
        e.detail["delivery"] for e in ledger.reports.events() if e.kind == Kind.DELIVERY_RETRIED
    ]
    assert retried == [first, second]
    accept_all(ledger, begun(ledger, first))
    ledger.deliveries.fail(begun(ledger, second), "silence again", ACTOR)
    assert ledger.syntheses.get(job_id).state is SynthesisState.FAILED


def test_an_ended_delivery_has_no_more_attempts(ledger: Ledger, job: NewSynthesis) -> None:
    (delivery,) = deliver(ledger, job.job_id, HERE)
    accept_all(ledger, begun(ledger, delivery))
    assert ledger.deliveries.begin_attempt(delivery, ACTOR) is None


def test_an_attempt_that_never_began_uses_up_its_number_once(
    ledger: Ledger, job: NewSynthesis
) -> None:
    (delivery,) = deliver(ledger, job.job_id, HERE)
    for _ in range(2):
        assert ledger.deliveries.note_lost_attempt(delivery, 1, "it died") == 1
    ledger.deliveries.postpone(begun(ledger, delivery), "later", ACTOR)
    assert ledger.deliveries.note_lost_attempt(delivery, 2, "it died") == 2
    attempts = ledger.reports.show(job.job_id)["deliveries"][0]["attempts"]
    assert [one["outcome"] for one in attempts] == ["interrupted", "postponed"]


def test_any_uid_tells_its_story(ledger: Ledger, job: NewSynthesis) -> None:
    deliver(ledger, job.job_id, HERE)
    kinds = {
        "2.25.3000": "instance",
        "2.25.1000": "series",
        "2.25.2000": "study",
        "2.25.1": "output",
        "2.25.99": "output series",
        job.job_id: "synthesis",
        job.job_id[:9]: "synthesis",
    }
    assert {uid: ledger.reports.show(uid)["kind"] for uid in kinds} == kinds
    assert ledger.reports.show("2.25.1")["synthesis"]["model_digest"] == MODEL_DIGEST
    with pytest.raises(Refuse, match=r"nothing for '1\.2\.3'"):
        ledger.reports.show("1.2.3")


def test_job_ids_may_be_shortened(ledger: Ledger, job: NewSynthesis) -> None:
    other = new_synthesis(ledger, version=2)
    ledger.syntheses.create(other, ACTOR)
    assert ledger.reports.find_job(job.job_id[:16]) == job.job_id
    with pytest.raises(Refuse, match="several"):
        ledger.reports.find_job("")
    with pytest.raises(Refuse, match="none"):
        ledger.reports.find_job("%")


def test_status_counts(ledger: Ledger, job: NewSynthesis) -> None:
    status = ledger.reports.status()
    assert status["syntheses"] == {"queued": 1}
    assert status["instances"] == 4
    assert status["open_associations"] == 0


def awaited(ledger: Ledger, job_id: str, *names: str) -> tuple[Awaited, ...]:
    return ledger.commitments.awaited(job_id, names)


def test_a_late_success_does_not_undo_a_refusal(ledger: Ledger, job: NewSynthesis) -> None:
    (here,) = deliver(ledger, job.job_id, HERE)
    accept_all(ledger, begun(ledger, here))
    for transaction in ("2.25.501", "2.25.502"):
        (waiting,) = awaited(ledger, job.job_id, HERE.name)
        assert ledger.commitments.request(waiting, transaction, ACTOR)
    uids = [output.sop_instance_uid for output in waiting.outputs]
    report = ledger.commitments.report
    assert report("2.25.502", uids[1:], {uids[0]: 0x0110}, ACTOR) is CommitmentState.REFUSED
    assert report("2.25.501", uids, {}, ACTOR) is CommitmentState.COMMITTED
    (waiting,) = awaited(ledger, job.job_id, HERE.name)
    assert [output.sop_instance_uid for output in waiting.remaining] == uids[:1]


def test_a_late_refusal_leaves_what_a_committed_destination_answered(
    ledger: Ledger, job: NewSynthesis
) -> None:
    (here,) = deliver(ledger, job.job_id, HERE)
    accept_all(ledger, begun(ledger, here))
    for transaction in ("2.25.501", "2.25.502"):
        (waiting,) = awaited(ledger, job.job_id, HERE.name)
        assert ledger.commitments.request(waiting, transaction, ACTOR)
    uids = [output.sop_instance_uid for output in waiting.outputs]
    ledger.commitments.report("2.25.502", uids, {}, ACTOR)
    ledger.commitments.report("2.25.501", [], dict.fromkeys(uids, 0x0110), ACTOR)
    (shown,) = ledger.reports.show(job.job_id)["deliveries"]
    assert shown["accepted"] == len(uids)


def test_a_destination_given_up_while_another_is_sent_again_fails_the_synthesis(
    ledger: Ledger, job: NewSynthesis
) -> None:
    first, second = deliver(ledger, job.job_id, HERE, THERE)
    accept_all(ledger, begun(ledger, first))
    accept_all(ledger, begun(ledger, second))
    here, there = awaited(ledger, job.job_id, HERE.name, THERE.name)
    assert ledger.commitments.request(there, "2.25.501", ACTOR)
    missing = {there.outputs[0].sop_instance_uid: 0x0110}
    ledger.commitments.report("2.25.501", [], missing, ACTOR)
    begun(ledger, second)
    assert ledger.syntheses.get(job.job_id).state is SynthesisState.DELIVERING
    ledger.commitments.give_up(here, "silence", ACTOR)
    assert ledger.syntheses.get(job.job_id).state is SynthesisState.FAILED
