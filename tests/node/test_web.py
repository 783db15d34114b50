"""The pages of the web role: health says what is wrong, metrics are right after a restart."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from config.settings import Destination, Settings
from node.audit import Event
from node.clock import utc_now
from node.errors import Stop
from node.ledger import Ledger, entries
from node.ledger.entries import Packaged
from node.lock import beats, forget_why, hold, tell_why
from node.parts import open_parts
from node.states import SeriesState
from node.web import tally
from node.web.server import Pages
from node.web.tally import Chain
from tests.node import journeys
from tests.node.samples import SERIES_UID, Clock, new_ledger, record, settings_for
from tests.peers import wait_until

ROOT = Path(__file__).resolve().parents[2]
PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=11112)


def node_settings(folder: Path, **changes: Any) -> Settings:
    """A site with one destination and pages on a free port."""
    base = settings_for(folder)
    web = base.web.model_copy(update={"port": 0, **changes})
    delivery = base.delivery.model_copy(update={"destinations": (PACS,)})
    return base.model_copy(update={"web": web, "delivery": delivery})


@contextmanager
def served(folder: Path, **changes: Any) -> Iterator[tuple[Pages, Ledger]]:
    settings = node_settings(folder, **changes)
    new_ledger(folder, utc_now).close()
    ledger, archive = open_parts(settings, "web")
    pages = Pages(settings, ledger, archive)
    pages.start()
    pages.verify()
    try:
        yield pages, ledger
    finally:
        pages.stop()
        ledger.close()


def ask(pages: Pages, page: str, method: str = "GET") -> tuple[int, str]:
    url = f"http://127.0.0.1:{pages.port}{page}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, method=method), timeout=20
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def health(pages: Pages) -> tuple[int, dict[str, Any]]:
    status, body = ask(pages, "/health")
    return status, json.loads(body)


def samples(pages: Pages) -> dict[tuple[str, ...], float]:
    """Every sample: name, then its label values."""
    status, body = ask(pages, "/metrics")
    assert status == 200, body
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(body)
        for one in family.samples
    }


@contextmanager
def roles_running(folder: Path) -> Iterator[None]:
    with hold(folder, "receive-0"), hold(folder, "work"):
        yield


def to_pacs() -> entries.Destination:
    return entries.Destination(PACS.name, PACS.ae_title, PACS.host, PACS.port)


def an_output(job_id: str) -> entries.Output:
    return entries.Output("2.25.9", "2.25.8", "T2", 0, "0" * 64, "1" * 64, f"outputs/{job_id}/x")


def on_record(ledger: Ledger) -> None:
    """One slice."""
    association = ledger.receiving.open_association("receive-0", "CT1", "PSEUDOMRI", "127.0.0.1")
    record(ledger, 1, association)


def live_through_a_day(ledger: Ledger) -> None:
    """Two slices, one again, one refused, a stranger, a synthesis, two attempts at its delivery."""
    receiving, syntheses, deliveries = ledger.receiving, ledger.syntheses, ledger.deliveries
    association = receiving.open_association("receive-0", "CT1", "PSEUDOMRI", "127.0.0.1")
    for number in (1, 2, 2):
        record(ledger, number, association)
    receiving.refuse_instance("1.2.3", 0xC001, "no data set", association, "CT1")
    receiving.refuse_association("STRANGER", "PSEUDOMRI", "192.0.2.9", "not among receive.peers")
    for incoming in ledger.series.incoming():
        ledger.series.complete(incoming, "test", "completion")
    ledger.series.decide(SERIES_UID, 1, SeriesState.SELECTED, "c", "r", {}, "selection")
    new = journeys.new_synthesis_of(ledger, SERIES_UID)
    syntheses.create(new, "selection")
    syntheses.mark_dispatched(new.job_id, 1)
    syntheses.start(new.job_id, 1, "work")
    output = an_output(new.job_id)
    syntheses.package(new.job_id, 1, Packaged([output], {}, "cpu", {}, {}, ()), "work")
    (waiting,) = deliveries.begin(new.job_id, 1, [to_pacs()], "work")
    attempt = deliveries.begin_attempt(waiting.id, "work")
    assert attempt is not None
    deliveries.answer(attempt, output.sop_instance_uid, 0xA700)
    deliveries.postpone(attempt, "no room", "work")
    attempt = deliveries.begin_attempt(waiting.id, "work")
    assert attempt is not None
    deliveries.answer(attempt, output.sop_instance_uid, 0)
    deliveries.delivered(attempt, "work")


def test_a_node_that_is_well_says_so(tmp_path: Path) -> None:
    with roles_running(tmp_path), served(tmp_path) as (pages, ledger):
        live_through_a_day(ledger)
        status, page = health(pages)
        assert status == 200, page
        assert page["status"] == "ok"
        checks = page["checks"]
        assert set(checks["roles"]["seconds_since_last_turn"]) == {"receive-0", "work"}
        assert checks["destinations"]["by_name"]["pacs"]["last_delivered_at"]
        assert checks["audit"]["head"] == list(ledger.reports.events())[-1].hash


def test_a_role_that_does_not_turn_is_told(tmp_path: Path) -> None:
    with served(tmp_path, role_silent_s=0.3) as (pages, _), hold(tmp_path, "receive-0"):
        with hold(tmp_path, "work") as beat:
            time.sleep(0.4)
            beat()
            status, page = health(pages)
            roles = page["checks"]["roles"]
            assert status == 503
            assert roles["wrong"] == "no good turn within 0.3 s: receive-0"
            assert "pseudomri serve" in roles["what_to_do"]
        assert set(beats(tmp_path)) == {"receive-0"}
        assert "receive-0, work" in health(pages)[1]["checks"]["roles"]["wrong"]


def test_why_a_role_ended_is_told_until_it_runs_again(tmp_path: Path) -> None:
    with roles_running(tmp_path), served(tmp_path) as (pages, _):
        tell_why(tmp_path, "work", "Retry: no driver")
        status, page = health(pages)
        assert status == 503
        assert page["checks"]["roles"]["ended"] == {"work": "Retry: no driver"}
        assert page["checks"]["roles"]["wrong"] == "work ended: Retry: no driver"
        forget_why(tmp_path, "work")
        assert health(pages)[0] == 200


def test_a_container_asks_for_the_roles_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe() -> tuple[int, str]:
        command = [sys.executable, "-m", "node.web.probe"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        return done.returncode, done.stdout.strip()

    with served(tmp_path, queue_limit_s=0.001) as (pages, ledger):
        monkeypatch.setenv("PSEUDOMRI_WEB__PORT", str(pages.port))
        on_record(ledger)
        ledger.syntheses.create(journeys.new_synthesis_of(ledger, SERIES_UID), "selection")
        with roles_running(tmp_path):
            wait_until(lambda: health(pages)[0] == 503)
            assert probe() == (0, "ok")
        assert probe() == (1, "no good turn within 60 s: receive-0, work")
    assert probe()[1].startswith("the web role does not answer")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with roles_running(tmp_path), served(tmp_path) as (pages, _):
        pages._health._settings = pages._health._settings.model_copy(  # type: ignore[misc]
            update={
                "receive": pages._settings.receive.model_copy(
                    update={"minimum_free_bytes": 1 << 60}
                )
            }
        )
        status, page = health(pages)
        assert status == 503
        assert "0xA700" in page["checks"]["disk"]["wrong"]


def test_what_waits_too_long_is_told(tmp_path: Path) -> None:
    with (
        roles_running(tmp_path),
        served(tmp_path, queue_limit_s=0.1, running_limit_s=0.1, delivery_limit_s=0.1) as (
            pages,
            ledger,
        ),
    ):
        on_record(ledger)
        new = journeys.new_synthesis_of(ledger, SERIES_UID)
        ledger.syntheses.create(new, "selection")
        time.sleep(0.3)
        status, page = health(pages)
        assert status == 503
        assert "a synthesis has waited" in page["checks"]["queue"]["wrong"]
        ledger.syntheses.start(new.job_id, 1, "work")
        time.sleep(0.3)
        status, page = health(pages)
        assert status == 503
        assert page["checks"]["queue"]["wrong"].startswith("a synthesis has run for ")
        output = an_output(new.job_id)
        ledger.syntheses.package(new.job_id, 1, Packaged([output], {}, "cpu", {}, {}, ()), "work")
        ledger.deliveries.begin(new.job_id, 1, [to_pacs()], "work")
        time.sleep(0.3)
        status, page = health(pages)
        assert status == 503
        assert "wrong" not in page["checks"]["queue"]
        assert page["checks"]["destinations"]["wrong"].endswith("pacs")


def test_a_changed_event_is_told(tmp_path: Path) -> None:
    with roles_running(tmp_path), served(tmp_path, verify_chain_s=0.1) as (pages, ledger):
        live_through_a_day(ledger)
        assert health(pages)[0] == 200
        with ledger.database.transaction() as session:
            session.execute(text("UPDATE audit_event SET actor = 'nobody' WHERE sequence = 3"))
        time.sleep(0.2)
        pages.verify()
        status, page = health(pages)
        assert status == 503
        assert page["checks"]["audit"]["wrong"].startswith("event 3: its content")
        assert samples(pages)["pseudomri_audit_chain_intact",] == 0


def test_pages_answer_while_the_whole_chain_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with roles_running(tmp_path), served(tmp_path, verify_chain_s=0.01) as (pages, ledger):
        live_through_a_day(ledger)
        pages.turn()
        begun, may_end, events = threading.Event(), threading.Event(), ledger.reports.events

        def slowly(after: int = 0) -> Iterator[Event]:
            if after == 0:
                begun.set()
                assert may_end.wait(60)
            return events(after)

        monkeypatch.setattr(ledger.reports, "events", slowly)
        time.sleep(0.02)
        with ThreadPoolExecutor(1) as beside:
            verifying = beside.submit(pages.verify)
            assert begun.wait(60)
            on_record(ledger)
            # What is new is read on, the role takes its turns.
            pages.turn()
            assert health(pages)[0] == 200
            assert samples(pages)["pseudomri_received_instances_total", "0x0000"] == 4
            may_end.set()
            verifying.result()
        assert samples(pages)["pseudomri_received_instances_total", "0x0000"] == 4


def test_a_chain_that_was_not_read_yet_is_not_wrong_and_gives_no_totals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "FIRST_READ_S", 0.01)
    with roles_running(tmp_path), served(tmp_path) as (pages, _):
        pages._chain._read.clear()
        pages.turn()
        assert health(pages)[0] == 200
        status, body = ask(pages, "/metrics")
        assert (status, "for the first time" in body) == (503, True)


def test_a_ledger_that_is_away_is_told_and_nothing_crashes(tmp_path: Path) -> None:
    with roles_running(tmp_path), served(tmp_path) as (pages, ledger):
        with ledger.database.transaction() as session:
            session.execute(text("ALTER TABLE series RENAME TO gone"))
        status, page = health(pages)
        assert status == 503
        assert "it could not be looked at" in page["checks"]["ledger"]["wrong"]
        assert "disk" in page["checks"]["ledger"]["what_to_do"]
        assert ask(pages, "/metrics")[0] in (500, 503)


def test_the_metrics_are_what_the_ledger_holds_and_survive_a_restart(tmp_path: Path) -> None:
    with roles_running(tmp_path), served(tmp_path) as (pages, ledger):
        assert samples(pages)["pseudomri_audit_events_total", "instance.received"] == 0
        live_through_a_day(ledger)
        seen = samples(pages)
    expected = {
        ("pseudomri_received_instances_total", "0x0000"): 3,
        ("pseudomri_received_instances_total", "0xC001"): 1,
        ("pseudomri_received_bytes_total",): 2000,
        ("pseudomri_refused_associations_total", "not among receive.peers"): 1,
        ("pseudomri_associations", "open"): 1,
        ("pseudomri_series", "selected"): 1,
        ("pseudomri_syntheses", "delivered"): 1,
        ("pseudomri_syntheses", "failed"): 0,
        ("pseudomri_queue_depth",): 0,
        ("pseudomri_deliveries", "pacs", "delivered"): 1,
        ("pseudomri_delivery_attempts_total", "pacs", "postponed"): 1,
        ("pseudomri_delivered_instances_total", "pacs", "0xA700"): 1,
        ("pseudomri_delivered_instances_total", "pacs", "0x0000"): 1,
        ("pseudomri_stage_duration_seconds_count", "whole"): 1,
        ("pseudomri_audit_chain_intact",): 1,
    }
    assert {key: seen[key] for key in expected} == expected
    assert ("pseudomri_role_last_turn_timestamp_seconds", "work") in seen
    with roles_running(tmp_path), served(tmp_path) as (pages, _):
        again = samples(pages)
    totals = [key for key in seen if key[0].endswith(("_total", "_count", "_sum", "_bucket"))]
    assert {key: again[key] for key in totals} == {key: seen[key] for key in totals}


def test_no_label_comes_from_a_stranger(tmp_path: Path) -> None:
    with roles_running(tmp_path), served(tmp_path) as (pages, ledger):
        live_through_a_day(ledger)
        before = set(samples(pages))
        for number in range(50):
            ledger.receiving.refuse_association(
                f"X{number}", f"Y{number}", f"192.0.2.{number}", "not among receive.peers"
            )
            ledger.receiving.refuse_instance(
                f"1.{number}", 0xC001, f"why {number}", None, f"X{number}"
            )
        assert set(samples(pages)) == before
        body = ask(pages, "/metrics")[1]
        for stranger in ("STRANGER", "192.0.2", "1.2.826", "X49"):
            assert stranger not in body


def test_durations_are_those_of_the_clock(tmp_path: Path) -> None:
    clock = Clock()
    ledger = new_ledger(tmp_path, clock)
    on_record(ledger)
    new = journeys.new_synthesis_of(ledger, SERIES_UID)
    ledger.syntheses.create(new, "selection")
    clock.advance(4)
    ledger.syntheses.start(new.job_id, 1, "work")
    clock.advance(50)
    # A worker that died and began again: the run is timed from where it began anew.
    ledger.syntheses.start(new.job_id, 1, "work")
    clock.advance(20)
    output = an_output(new.job_id)
    ledger.syntheses.package(new.job_id, 1, Packaged([output], {}, "cpu", {}, {}, ()), "work")
    ledger.deliveries.begin(new.job_id, 1, [], "work")
    chain = Chain(ledger.reports, clock, 3600)
    chain.verify_if_due()
    stages = chain.read_on().stages
    ledger.close()
    assert {name: (sum(one.counts), one.sum_s) for name, one in stages.items()} == {
        "waiting": (1, 4.0),
        "computing": (1, 20.0),
        "delivering": (1, 0.0),
        "whole": (1, 74.0),
    }


def test_a_port_that_is_taken_stops_with_a_reason(tmp_path: Path) -> None:
    with served(tmp_path) as (pages, ledger):
        taken = node_settings(tmp_path, port=pages.port)
        with pytest.raises(Stop, match=r"web\.port: expected a free port"):
            Pages(taken, ledger, pages._health._archive).start()


def test_a_stranger_learns_nothing_from_a_wrong_address(tmp_path: Path) -> None:
    with served(tmp_path) as (pages, _):
        for page in ("/docs", "/openapi.json", "/Zebrowska", "/health/../etc/passwd"):
            status, body = ask(pages, page)
            assert status == 404
            assert json.loads(body) == {"detail": "Not Found"}
        assert ask(pages, "/metrics", "POST")[0] == 405
