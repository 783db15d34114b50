"""Two hosts, of which one is cut off: a namespace with its own address and its own name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.clock import utc_now
from node.errors import Retry
from node.ledger import migrate, open_ledger, patience
from tests.namespaces import Host, second_host
from tests.node.journeys import FENCED, MODEL_DIGEST, WorkerProcess
from tests.node.test_several_workers import DEADLINE_S, Site
from tests.peers import ScriptedPeer, wait_until
from tests.postgresql import USER, start_pair, start_postgresql


@pytest.fixture
def other() -> Iterator[Host]:
    with second_host() as host:
        yield host


def test_a_worker_that_was_cut_off_writes_nothing_when_the_link_is_back(
    tmp_path: Path, other: Host
) -> None:
    """It computes on meanwhile, into the folder that both hosts share."""
    point = "before-synthesize"
    with start_postgresql(other.ours) as cluster, ScriptedPeer() as pacs:
        url = cluster.new_database()
        site = Site(tmp_path, url, pacs)
        (job,) = site.queue(1)
        site.url = f"postgresql://{USER}@{other.ours}/{url.split('/')[3].split('?')[0]}"
        far = site.settings_of("far")
        site.url = url
        stalling = (far, site.marks, f"stall-{point}", MODEL_DIGEST, False, other.name)
        with WorkerProcess(*stalling) as cut_off:
            assert site.stalled(point) == cut_off.pid
            other.cut()
            with site.worker("near", f"stall-{point}") as near:
                assert site.wait_for_all(1) == [job]
                (site.marks.folder / "go-on").touch()
                wait_until(lambda: site.marks.count("ended-stalling"), DEADLINE_S)
                assert cut_off.poll() is None
                other.mend()
                assert cut_off.wait(DEADLINE_S) == FENCED
                assert near.poll() is None
                site.check([job])
        hosts = {event.detail["host"] for event in events(site, "worker.started")}
        assert other.name in hosts
        assert len(hosts) == 2
        site.ledger.close()


def test_a_database_host_that_vanishes_is_given_up(
    other: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No packet says that it is gone. The figures are smaller than the node's, for a short test."""
    quick = {"tcp_user_timeout": "2000", "connect_timeout": "2"}
    monkeypatch.setattr(patience, "_PATIENCE", patience._PATIENCE | quick)
    with start_pair(other) as pair:
        migrate(pair.url)
        ledger = open_ledger(pair.url, utc_now)

        def write() -> bool:
            try:
                ledger.receiving.open_association("receive-0", "CT1", "US", "127.0.0.1")
            except Retry:
                return False
            return True

        assert write()
        other.cut()
        told: list[bool] = []
        sender = threading.Thread(target=lambda: told.append(write()), daemon=True)
        sender.start()
        sender.join(patience.TURN_S - 1)
        assert told == [False]
        pair.standby.promote()
        assert write()
        ledger.close()


def events(site: Site, kind: str) -> list[object]:
    return [event for event in site.ledger.reports.events() if event.kind == kind]
