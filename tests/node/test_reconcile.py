"""When ledger and engine part ways, nothing stays `running` for ever."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from node.engine import DELIVERY_QUEUE, engine_url, synthesis_id
from node.reconcile import Reconciler
from node.states import SynthesisState
from tests.node.journeys import KILLED
from tests.node.test_workflow import Node, to
from tests.peers import LOOPBACK, ScriptedPeer, free_port, wait_until


def reconcile(node: Node) -> int:
    reconciler = Reconciler(node.ledger, engine_url(node.settings), 60, "tests")
    try:
        return reconciler.run_once()
    finally:
        reconciler.close()


def engine(node: Node, statement: str) -> None:
    with sqlite3.connect(node.settings.node.data_folder / "workflows.sqlite") as connection:
        connection.execute(statement)


def end_workflow(node: Node, workflow_id: str, status: str) -> None:
    engine(
        node,
        f"UPDATE workflow_status SET status = '{status}' WHERE workflow_uuid = '{workflow_id}'",
    )


def test_what_is_on_its_way_is_left_alone(tmp_path: Path) -> None:
    node = Node(tmp_path, [])
    node.dispatch()
    assert reconcile(node) == 0


def test_a_run_the_engine_lost_is_offered_again(tmp_path: Path) -> None:
    node = Node(tmp_path, [])
    node.dispatch()
    engine(node, "DELETE FROM workflow_status")
    assert reconcile(node) == 1
    assert node.dispatch() == 1
    with node.worker():
        node.wait_for(SynthesisState.COMMITTED)


def test_a_run_that_kills_its_worker_becomes_a_dead_letter(tmp_path: Path) -> None:
    node = Node(tmp_path, [])
    node.dispatch()
    node.ledger.syntheses.start(node.job_id, 1, "tests")
    engine(node, "UPDATE workflow_status SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'")
    assert reconcile(node) == 1
    assert node.state == SynthesisState.FAILED
    assert "took the worker down too often" in str(node.ledger.syntheses.get(node.job_id).reason)
    node.ledger.syntheses.retry(node.job_id, "operator")
    assert node.dispatch() == 1
    with node.worker():
        node.wait_for(SynthesisState.COMMITTED)


def test_a_lost_delivery_becomes_a_dead_letter(tmp_path: Path) -> None:
    down = {"name": "down", "ae_title": "PEER", "host": LOOPBACK, "port": free_port()}
    node = Node(tmp_path, [down], first_retry_s=600, longest_retry_s=600)
    node.dispatch()
    with node.worker():
        wait_until(lambda: attempts(node) == ["postponed"])
    assert reconcile(node) == 0
    engine(node, f"DELETE FROM workflow_status WHERE queue_name = '{DELIVERY_QUEUE}'")
    assert reconcile(node) == 1
    assert node.state == SynthesisState.FAILED


def test_a_delivery_whose_run_ended_before_it_was_in_the_queue_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedPeer() as pacs:
        node = Node(tmp_path, [to(pacs)])
        node.dispatch()
        with node.worker():
            with monkeypatch.context() as patch:
                patch.setattr("node.engine.enqueue_delivery", _unable)
                wait_until(lambda: ended(node) == "ERROR")
            assert node.state == SynthesisState.DELIVERING
            assert reconcile(node) == 1
            node.wait_for(SynthesisState.COMMITTED)
            assert reconcile(node) == 0
    assert attempts(node) == ["delivered"]


def _unable(*_: object) -> None:
    raise OSError("database is locked")


def ended(node: Node) -> str:
    query = "SELECT status FROM workflow_status WHERE workflow_uuid = ?"
    with sqlite3.connect(node.settings.node.data_folder / "workflows.sqlite") as connection:
        return str(connection.execute(query, (synthesis_id(node.job_id, 1),)).fetchone()[0])


def test_a_run_that_an_absent_ledger_ended_is_queued_again(tmp_path: Path) -> None:
    node = Node(tmp_path, [])
    node.dispatch()
    node.ledger.syntheses.start(node.job_id, 1, "tests")
    engine(node, "UPDATE workflow_status SET status = 'ERROR'")
    assert reconcile(node) == 1
    entry = node.ledger.syntheses.get(node.job_id)
    assert (entry.state, entry.run) == (SynthesisState.QUEUED, 2)
    # Not at once: whatever kept the ledger away may last.
    assert node.dispatch() == 0


def test_a_delivery_that_an_absent_ledger_ended_is_tried_again(tmp_path: Path) -> None:
    down = {"name": "down", "ae_title": "PEER", "host": LOOPBACK, "port": free_port()}
    node = Node(tmp_path, [down], first_retry_s=600, longest_retry_s=600)
    node.dispatch()
    with node.worker():
        wait_until(lambda: attempts(node) == ["postponed"])
        engine(
            node,
            f"UPDATE workflow_status SET status = 'ERROR' WHERE queue_name = '{DELIVERY_QUEUE}'",
        )
        assert reconcile(node) == 1
        # In between stands the one that the engine ended, so that no number comes twice.
        wait_until(lambda: attempts(node) == ["postponed", "interrupted", "postponed"])
    assert node.state == SynthesisState.DELIVERING


def attempts(node: Node) -> list[str]:
    deliveries = node.ledger.reports.show(node.job_id)["deliveries"]
    return [a["outcome"] for d in deliveries for a in d["attempts"]]


def test_a_worker_killed_again_and_again(tmp_path: Path) -> None:
    """The real thing: four lives, each killed in the same step."""
    with ScriptedPeer() as peer:
        node = Node(tmp_path, [to(peer)])
        node.dispatch()
        for _ in range(4):
            assert node.worker_process("always").wait(60) == KILLED
        with node.worker_process("always"):
            wait_until(lambda: reconcile(node) == 1, 30, "the engine to give up")
        assert node.state == SynthesisState.FAILED
        assert peer.heard == []
