"""A newer program on an older node's data: its tables, and the work that was in flight."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, text

from node import engine
from node.app import prepare
from node.clock import utc_now
from node.errors import Stop
from node.ledger import open_ledger, schema
from node.ledger.database import connect
from node.parts import ledger_url
from node.states import SynthesisState
from tests.node.journeys import KILLED, settings_for
from tests.node.test_reconcile import attempts, reconcile
from tests.node.test_workflow import OUTPUTS, Node, to
from tests.peers import LOOPBACK, ScriptedPeer, free_port, wait_until


@pytest.fixture
def peer() -> Iterator[ScriptedPeer]:
    with ScriptedPeer() as running:
        yield running


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it makes this process run the next version of the workflows."""
    newer = str(int(engine.WORKFLOW_VERSION) + 1)
    return lambda: monkeypatch.setattr(engine, "WORKFLOW_VERSION", newer)


def finish(node: Node) -> None:
    with node.worker() as worker:
        reconcile(node)
        committer = worker.committer()

        def committed() -> bool:
            committer.run_once()
            return node.state == SynthesisState.COMMITTED

        wait_until(committed, 60, "committed")
    node.check_audit()


@pytest.mark.parametrize("where", ["step-synthesize", "within-send"])
def test_a_run_that_an_older_program_began_is_finished_by_the_newer(
    tmp_path: Path, peer: ScriptedPeer, upgrade: Callable[[], None], where: str
) -> None:
    node = Node(tmp_path, [to(peer)])
    node.dispatch()
    assert node.worker_process(where).wait(60) == KILLED
    upgrade()
    finish(node)
    # What it had computed is found, not computed again, and nobody gets it twice.
    assert node.marks.count("synthesize") == 1
    assert len(peer.accepted()) == OUTPUTS
    assert sum(peer.times(uid) - 1 for uid in peer.accepted()) <= 1


def test_what_waits_in_the_queues_of_an_older_program_is_taken_by_the_newer(
    tmp_path: Path, upgrade: Callable[[], None]
) -> None:
    port = free_port()
    down = {"name": "down", "ae_title": "PEER", "host": LOOPBACK, "port": port}
    node = Node(tmp_path, [down], first_retry_s=600, longest_retry_s=600)
    node.dispatch()
    with node.worker():
        wait_until(lambda: attempts(node) == ["postponed"])
    upgrade()
    with ScriptedPeer(port=port) as late:
        finish(node)
        assert len(late.accepted()) == OUTPUTS


def test_an_older_worker_that_lives_finishes_its_own_work(
    tmp_path: Path, upgrade: Callable[[], None]
) -> None:
    node = Node(tmp_path, [])
    node.dispatch()
    old = node.ledger.workers.begin("work-b", "host", 1, engine.WORKFLOW_VERSION)
    upgrade()
    reconcile(node)
    assert statuses(node) == {("ENQUEUED", "1")}
    node.ledger.workers.end(old)
    reconcile(node)
    assert statuses(node) == {("ENQUEUED", "2")}


def statuses(node: Node) -> set[tuple[str, str]]:
    found = connect(engine.engine_url(node.settings))
    with found.connect() as connection:
        query = text("SELECT status, application_version FROM workflow_status")
        rows = {(row[0], row[1]) for row in connection.execute(query)}
    found.dispose()
    return rows


def put_synthesis(connection: Connection, job: str, run: int, state: str) -> None:
    """As the first release had it, with a delivery that is open unless it waits for the worker."""
    connection.execute(
        text(
            "INSERT INTO series VALUES"
            " (:job, 's', 'CT', 'selected', 1, 'CT1', 'a', 'at', 'at', 'at')"
        ),
        {"job": job},
    )
    connection.execute(
        text(
            "INSERT INTO synthesis (job_id, series_uid, series_version, study_uid, state, run,"
            " priority, contrasts, sources, seed, model_name, model_version, model_digest,"
            " parameters, created_at, updated_at) VALUES (:job, :job, 1, 's', :state, :run, 5,"
            " '[]', '{}', 1, 'm', '1', 'd', '{}', 'created', 'updated')"
        ),
        {"job": job, "run": run, "state": state},
    )
    if state == "delivering":
        connection.execute(
            text(
                "INSERT INTO delivery (job_id, destination, ae_title, host, port, state,"
                " created_at, updated_at) VALUES"
                " (:job, 'pacs', 'PACS', 'h', 1, 'pending', 'created', 'updated')"
            ),
            {"job": job},
        )


def test_the_tables_of_the_first_release_become_ours_with_what_is_in_them(
    tmp_path: Path, new_url: str
) -> None:
    settings = settings_for(tmp_path / "data", [])
    if new_url.startswith("postgresql"):
        settings = settings_for(tmp_path / "data", [], {"node": {"database_url": new_url}})
    settings.node.data_folder.mkdir()
    url = ledger_url(settings)
    database = connect(url)
    configuration = schema.configuration()
    with database.begin() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "0001")
        connection.execute(
            text(
                "INSERT INTO audit_event VALUES (1, :at, 'association.refused', 'EVIL', 'EVIL',"
                " :detail, :previous, :hash)"
            ),
            {
                "at": "2026-01-01T00:00:00.000000+00:00",
                "detail": json.dumps({"reason": "not among receive.peers"}),
                "previous": "0" * 64,
                "hash": "f" * 64,
            },
        )
        for job, run, state in (("a", 1, "queued"), ("b", 3, "delivering")):
            put_synthesis(connection, job, run, state)
    with pytest.raises(Stop, match=r"found 0001.*`pseudomri serve`"):
        open_ledger(url, utc_now)
    prepare(settings)
    ledger = open_ledger(url, utc_now)
    (event,) = ledger.reports.events()
    assert (event.subject, event.detail) == ("EVIL", {"reason": "not among receive.peers"})
    assert ledger.workers.beats() == {}
    # What was retried may have waited for less than since it was created: it tells its last move.
    assert ledger.figures.queue().oldest_at == "created"
    assert ledger.figures.destinations()["pacs"].waiting_since == "updated"
    ledger.close()
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Stop, match="A newer database needs the newer program"):
        prepare(settings)
    database.dispose()
