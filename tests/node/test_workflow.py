"""The durable workflows on a real engine and a real ledger; the worker is killed at every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from node import audit
from node.archive import Archive
from node.clock import utc_now
from node.engine import Dispatcher, engine_url
from node.errors import Refuse
from node.intact import intact_output
from node.ledger import Ledger
from node.stages import PackagedInstance, Stages
from node.states import SynthesisState
from node.workflow import Worker
from pipeline.errors import Declined
from tests.node.journeys import (
    KILLED,
    MODEL_DIGEST,
    SLICES,
    Marks,
    WorkerProcess,
    fast_stages,
    new_synthesis,
    open_parts,
    prepare_node,
    put_ct_on_record,
    settings_for,
)
from tests.peers import LOOPBACK, ScriptedPeer, free_port, wait_until

OUTPUTS = 2 * SLICES
KILL_POINTS = (
    "before-prepare",
    "after-prepare",
    "step-read",
    "before-synthesize",
    "after-synthesize",
    "step-synthesize",
    "within-package",
    "step-package",
    "step-begin",
    "before-send",
    "within-send",
    "after-send",
    "step-_attempt_step",
    "step-commit",
)


class Node:
    """A prepared data folder with a queued synthesis in it."""

    def __init__(self, folder: Path, destinations: list[dict[str, Any]], **delivery: Any) -> None:
        self.folder = folder
        self.settings: Settings = settings_for(folder / "data", destinations, **delivery)
        prepare_node(self.settings)
        self.marks = Marks(folder / "marks")
        self.ledger: Ledger
        self.archive: Archive
        self.ledger, self.archive = open_parts(self.settings)
        put_ct_on_record(self.ledger, self.archive)
        new = new_synthesis(self.ledger)
        self.job_id = new.job_id
        assert self.ledger.syntheses.create(new, "tests")
        assert not self.ledger.syntheses.create(new, "tests")

    def dispatch(self) -> int:
        dispatcher = Dispatcher(self.ledger.syntheses, engine_url(self.settings))
        try:
            return dispatcher.run_once()
        finally:
            dispatcher.close()

    @property
    def state(self) -> SynthesisState:
        return self.ledger.syntheses.get(self.job_id).state

    def wait_for(self, state: SynthesisState, deadline_s: float = 40) -> None:
        wait_until(lambda: self.state == state, deadline_s, f"{state}, found {self.state}")

    @contextmanager
    def worker(self, stages: Stages | None = None) -> Iterator[Worker]:
        """A worker in this process, with a ledger of its own, which is fenced with its life."""
        ledger, archive = open_parts(self.settings, "work")
        stages = stages or fast_stages(self.marks)
        worker = Worker(self.settings, ledger, archive, stages, utc_now)
        worker.launch()
        try:
            yield worker
        finally:
            worker.stop(0)

    def worker_process(self, where: str) -> WorkerProcess:
        return WorkerProcess(self.settings, self.marks, where)

    def check_audit(self) -> None:
        assert audit.verify(self.ledger.reports.events()) is None


def to(peer: ScriptedPeer, name: str = "pacs") -> dict[str, Any]:
    return {"name": name, "ae_title": "PEER", "host": LOOPBACK, "port": peer.port}


@pytest.fixture
def peer() -> Iterator[ScriptedPeer]:
    with ScriptedPeer() as running:
        yield running


def test_a_queued_synthesis_is_made_delivered_and_committed(
    tmp_path: Path, peer: ScriptedPeer
) -> None:
    node = Node(tmp_path, [to(peer)])
    assert node.dispatch() == 1
    assert node.dispatch() == 0
    with node.worker():
        node.wait_for(SynthesisState.COMMITTED)
    outputs = node.ledger.syntheses.outputs(node.job_id)
    assert len(outputs) == OUTPUTS
    assert set(peer.accepted()) == {output.sop_instance_uid for output in outputs}
    assert all(peer.times(output.sop_instance_uid) == 1 for output in outputs)
    assert not list((node.settings.node.data_folder / "work").glob("*"))
    node.check_audit()


@pytest.mark.parametrize("where", KILL_POINTS)
def test_a_killed_worker_goes_on_where_it_was(
    tmp_path: Path, peer: ScriptedPeer, where: str
) -> None:
    node = Node(tmp_path, [to(peer)])
    node.dispatch()
    assert node.worker_process(where).wait(60) == KILLED
    assert node.marks.count(f"death-{where}") == 1
    accepted_before = peer.accepted()
    recorded = {uid for uid in accepted_before if where not in ("within-send", "after-send")}
    with node.worker_process(where):
        node.wait_for(SynthesisState.COMMITTED)
    outputs = node.ledger.syntheses.outputs(node.job_id)
    assert len(outputs) == OUTPUTS
    accepted = peer.accepted()
    assert set(accepted) == {output.sop_instance_uid for output in outputs}
    # Same bytes, whenever an instance came twice; never twice once its answer was on record.
    assert all(len(digests) == 1 for digests in accepted.values())
    assert all(peer.times(uid) == 1 for uid in recorded)
    assert sum(peer.times(uid) > 1 for uid in accepted) <= 1
    node.check_audit()


def test_finished_steps_are_not_repeated(tmp_path: Path, peer: ScriptedPeer) -> None:
    node = Node(tmp_path, [to(peer)])
    node.dispatch()
    assert node.worker_process("within-package").wait(60) == KILLED
    with node.worker_process("within-package"):
        node.wait_for(SynthesisState.COMMITTED)
    assert node.marks.count("prepare") == 1
    assert node.marks.count("synthesize") == 1
    assert node.marks.count("package") == 2


def test_what_the_gate_declines_is_not_sent(tmp_path: Path, peer: ScriptedPeer) -> None:
    def decline(paths: object) -> Any:
        raise Declined("canal.short", found="40 mm", expected="112 mm", remedy="Scan more.")

    node = Node(tmp_path, [to(peer)])
    node.dispatch()
    stages = fast_stages(node.marks)
    with node.worker(Stages(MODEL_DIGEST, decline, stages.synthesize, stages.package)):
        node.wait_for(SynthesisState.DECLINED)
    assert peer.heard == []
    assert "canal.short: found 40 mm" in str(node.ledger.syntheses.get(node.job_id).reason)
    node.check_audit()


def test_an_accident_is_a_dead_letter_without_its_words(tmp_path: Path, peer: ScriptedPeer) -> None:
    def explode(paths: object) -> Any:
        raise ZeroDivisionError("Phantom^Secret")

    node = Node(tmp_path, [to(peer)])
    node.dispatch()
    stages = fast_stages(node.marks)
    with node.worker(Stages(MODEL_DIGEST, explode, stages.synthesize, stages.package)):
        node.wait_for(SynthesisState.FAILED)
    reason = str(node.ledger.syntheses.get(node.job_id).reason)
    assert reason.startswith("ZeroDivisionError in ")
    for path in node.settings.node.data_folder.glob("*.sqlite*"):
        assert b"Secret" not in path.read_bytes()
    assert [line["job_id"] for line in node.ledger.reports.dead_letters()] == [node.job_id]
    assert node.ledger.syntheses.retry(node.job_id, "operator") == 2
    node.dispatch()
    with node.worker():
        node.wait_for(SynthesisState.COMMITTED)
    assert len(peer.accepted()) == OUTPUTS
    node.check_audit()


def test_another_model_fails_with_what_to_do(tmp_path: Path, peer: ScriptedPeer) -> None:
    node = Node(tmp_path, [to(peer)])
    node.dispatch()
    with node.worker(fast_stages(node.marks, model_digest="cd" * 32)):
        node.wait_for(SynthesisState.FAILED)
    reason = str(node.ledger.syntheses.get(node.job_id).reason)
    assert "expected model abababababab" in reason
    assert "cdcdcdcdcdcd" in reason


def test_a_changed_file_fails_the_run(tmp_path: Path, peer: ScriptedPeer) -> None:
    node = Node(tmp_path, [to(peer)])
    path = next((node.archive.folder / "instances").rglob("*.dcm"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    node.dispatch()
    with node.worker():
        node.wait_for(SynthesisState.FAILED)
    assert "has changed" in str(node.ledger.syntheses.get(node.job_id).reason)


@pytest.mark.parametrize("is_same_run", [True, False])
def test_a_worker_that_was_overtaken_overwrites_nothing(
    tmp_path: Path, peer: ScriptedPeer, is_same_run: bool
) -> None:
    """It was silent while it packaged; another worker, on another device, has done it since."""
    node = Node(tmp_path, [to(peer)])
    fast = fast_stages(node.marks)
    other = Worker(node.settings, node.ledger, node.archive, fast, utc_now)
    run = 1 if is_same_run else 2

    def overtaken(*args: Any) -> Iterator[PackagedInstance]:
        if not is_same_run:
            node.ledger.syntheses.postpone(node.job_id, 1, "it was silent", "tests")
        for step in (other.read, other.synthesize, other.package):
            step(node.job_id, run)
        for instance in fast.package(*args):
            yield replace(instance, content=instance.content + b"\0\0")

    stages = replace(fast, package=overtaken)
    worker = Worker(node.settings, node.ledger, node.archive, stages, utc_now)
    worker.read(node.job_id, 1)
    worker.synthesize(node.job_id, 1)
    # An engine would be told "stale" or hear nothing; what counts is that nothing changed.
    with pytest.raises(Refuse):
        worker.package(node.job_id, 1)
    outputs = node.ledger.syntheses.outputs(node.job_id)
    assert len(outputs) == OUTPUTS
    for output in outputs:
        intact_output(node.archive, output.path, output.digest)
    if not is_same_run:
        assert worker._guard(worker.package, node.job_id, 1) == "stale"
    assert node.state == SynthesisState.PACKAGED


def test_a_decline_of_a_stale_run_changes_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, [])

    def decline(paths: object) -> Any:
        node.ledger.syntheses.postpone(node.job_id, 1, "it was silent", "tests")
        node.ledger.syntheses.start(node.job_id, 2, "tests")
        raise Declined("canal.short", found="40 mm", expected="112 mm", remedy="Scan more.")

    stages = replace(fast_stages(node.marks), prepare=decline)
    worker = Worker(node.settings, node.ledger, node.archive, stages, utc_now)
    assert worker._guard(worker.read, node.job_id, 1) == "stale"
    assert node.state == SynthesisState.RUNNING


def test_a_full_peer_gets_it_later(tmp_path: Path) -> None:
    with ScriptedPeer(answer=lambda uid, times: 0xA700 if times < 3 else 0) as peer:
        node = Node(tmp_path, [to(peer)])
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.COMMITTED)
        assert len(peer.accepted()) == OUTPUTS
    node.check_audit()


def test_only_what_was_refused_is_sent_again(tmp_path: Path) -> None:
    refused: list[str] = []

    def answer(uid: str, times: int) -> int:
        if len(refused) < 2 and uid not in refused:
            refused.append(uid)
            return 0x0110
        return 0

    with ScriptedPeer(answer=answer) as peer:
        node = Node(tmp_path, [to(peer)])
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.COMMITTED)
        assert sorted(peer.times(uid) for uid in peer.accepted()) == [1] * (OUTPUTS - 2) + [2, 2]


def test_a_refusal_that_is_meant_is_a_dead_letter(tmp_path: Path) -> None:
    bad: list[str] = []

    def answer(uid: str, times: int) -> int:
        if not bad:
            bad.append(uid)
        return 0xA900 if uid == bad[0] else 0

    with ScriptedPeer(answer=answer) as peer:
        node = Node(tmp_path, [to(peer)])
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.FAILED)
        assert peer.times(bad[0]) == 3
        assert len(peer.accepted()) == OUTPUTS - 1
        assert "0xA900" in str(node.ledger.syntheses.get(node.job_id).reason)
        # The peer was put right: what it has is not sent again.
        peer.answer = lambda uid, times: 0
        node.ledger.syntheses.retry(node.job_id, "operator")
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.COMMITTED)
        assert [uid for uid in peer.accepted() if peer.times(uid) > 1] == bad
        assert node.marks.count("synthesize") == 1
    node.check_audit()


def test_a_peer_that_is_down_holds_up_nobody(tmp_path: Path, peer: ScriptedPeer) -> None:
    port = free_port()
    down = {"name": "down", "ae_title": "PEER", "host": LOOPBACK, "port": port}
    node = Node(tmp_path, [down, to(peer)])
    node.dispatch()
    with node.worker():
        wait_until(lambda: len(peer.accepted()) == OUTPUTS)
        assert node.state == SynthesisState.DELIVERING
        with ScriptedPeer(port=port) as late:
            node.wait_for(SynthesisState.COMMITTED)
            assert len(late.accepted()) == OUTPUTS
    assert all(peer.times(uid) == 1 for uid in peer.accepted())


def test_a_retry_leaves_a_waiting_sibling_alone(tmp_path: Path, peer: ScriptedPeer) -> None:
    """One destination is down and waits, the other refuses and is put right by a retry."""
    port = free_port()
    down = {"name": "down", "ae_title": "PEER", "host": LOOPBACK, "port": port}
    peer.answer = lambda uid, times: 0xA900
    node = Node(tmp_path, [down, to(peer)], longest_retry_s=2.0)
    node.dispatch()
    with node.worker():
        node.wait_for(SynthesisState.FAILED)
        peer.answer = lambda uid, times: 0
        node.ledger.syntheses.retry(node.job_id, "operator")
        node.dispatch()
        wait_until(lambda: len(peer.accepted()) == OUTPUTS)
        with ScriptedPeer(port=port) as late:
            node.wait_for(SynthesisState.COMMITTED)
            assert all(late.times(uid) == 1 for uid in late.accepted())
            assert len(late.accepted()) == OUTPUTS
    node.check_audit()


def test_a_kept_result_survives_a_crash(tmp_path: Path, peer: ScriptedPeer) -> None:
    """Retried after it was packaged; the worker dies before the engine knows of the short cut."""
    node = Node(tmp_path, [to(peer)])
    peer.answer = lambda uid, times: 0xA900
    node.dispatch()
    with node.worker():
        node.wait_for(SynthesisState.FAILED)
    peer.answer = lambda uid, times: 0
    node.ledger.syntheses.retry(node.job_id, "operator")
    node.dispatch()
    assert node.worker_process("step-read").wait(60) == KILLED
    with node.worker():
        node.wait_for(SynthesisState.COMMITTED)
    assert node.marks.count("synthesize") == 1


def test_an_attempt_that_comes_too_late_leaves_its_number_to_nobody(tmp_path: Path) -> None:
    """The delivery was given up while the attempt waited in the queue; then somebody retries."""
    down = {"name": "down", "ae_title": "PEER", "host": LOOPBACK, "port": free_port()}
    node = Node(tmp_path, [down])
    stages = fast_stages(node.marks)
    worker = Worker(node.settings, node.ledger, node.archive, stages, utc_now)
    for step in (worker.read, worker.synthesize, worker.package):
        step(node.job_id, 1)
    (waiting,) = worker._shipping.begin(node.job_id, 1)
    node.ledger.deliveries.abandon(waiting["delivery"], "because", "tests")
    assert worker._shipping._attempt_step(waiting)["ended"] == "failed"
    node.ledger.syntheses.retry(node.job_id, "operator")
    worker.read(node.job_id, 2)
    (again,) = worker._shipping.begin(node.job_id, 2)
    assert again["number"] == waiting["number"] + 1


def test_giving_up_is_a_dead_letter(tmp_path: Path) -> None:
    down = {"name": "down", "ae_title": "PEER", "host": LOOPBACK, "port": free_port()}
    node = Node(tmp_path, [down], give_up_s=0.3)
    node.dispatch()
    with node.worker():
        node.wait_for(SynthesisState.FAILED)
    assert "delivery to down failed: Unreachable" in str(
        node.ledger.syntheses.get(node.job_id).reason
    )


def test_without_a_destination_it_is_closed(tmp_path: Path) -> None:
    node = Node(tmp_path, [])
    node.dispatch()
    with node.worker():
        node.wait_for(SynthesisState.COMMITTED)


def test_the_sender_gets_the_result_back(tmp_path: Path) -> None:
    with ScriptedPeer(ae_title="CT1", require_called=True) as sender:
        node = Node(tmp_path, [], back_to_sender=True, sender_port=sender.port)
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.COMMITTED)
        assert len(sender.accepted()) == OUTPUTS
