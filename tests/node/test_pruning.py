"""The engine forgets what is settled, and nothing that may be taken up again."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from node.clock import utc_now
from node.engine import delivery_of, engine_url, job_of, synthesis_id
from node.pruning import Pruner
from node.states import SynthesisState
from tests.node.test_reconcile import reconcile
from tests.node.test_workflow import Node, to
from tests.peers import LOOPBACK, ScriptedPeer, free_port, wait_until

MONTH = timedelta(days=30)
TABLES = ("workflow_status", "workflow_input", "workflow_output", "operation_outputs")


def prune(node: Node, later: timedelta) -> int:
    with contextlib.closing(Pruner(node.ledger, engine_url(node.settings), MONTH)) as pruner:
        return pruner.run_once(utc_now() + later)


def rows(node: Node) -> int:
    database = node.settings.node.data_folder / "workflows.sqlite"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return sum(connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in TABLES)


def test_ids_tell_whose_they_are() -> None:
    assert job_of(synthesis_id("ab", 2)) == "ab"
    assert (delivery_of("delivery-17-3"), delivery_of("ab-2")) == (17, None)


def test_what_is_settled_goes_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.pruning.BATCH", 1)
    with ScriptedPeer() as pacs:
        node = Node(tmp_path, [to(pacs)])
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.COMMITTED)
    assert prune(node, MONTH - timedelta(days=1)) == 0
    # The run and its one attempt.
    assert prune(node, MONTH + timedelta(days=1)) == 2
    assert rows(node) == 0
    assert (reconcile(node), node.dispatch()) == (0, 0)
    node.check_audit()


def test_what_may_be_taken_up_again_stays_however_old(tmp_path: Path) -> None:
    down = {"name": "down", "ae_title": "PEER", "host": LOOPBACK, "port": free_port()}
    node = Node(tmp_path, [down], first_retry_s=600, longest_retry_s=600)
    node.dispatch()
    with node.worker():
        wait_until(lambda: node.state == SynthesisState.DELIVERING)
        wait_until(lambda: len(node.ledger.deliveries.open_of(node.job_id)) == 1)
    before = rows(node)
    assert prune(node, 2 * MONTH) == 0
    assert (rows(node), reconcile(node)) == (before, 0)
