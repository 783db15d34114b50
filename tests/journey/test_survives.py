"""Killed and cut off: nothing acknowledged is lost, every synthesis is delivered exactly once."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from node.archive import Archive
from node.deliver import read_header, send
from node.errors import Retry
from node.ledger.entries import Destination
from node.loopback import LOOPBACK, LocalNode, local_node
from tests.journey import observing
from tests.journey.conftest import ImagesOnly, PhantomFolder
from tests.peers import ScriptedPeer, dcmsend, free_port, is_listening, wait_until

pytestmark = pytest.mark.journey

SEED = 1


def assert_delivered_once(node: LocalNode, pacs: ScriptedPeer, uid: str) -> None:
    journey = observing.wait_until_over(node, [uid])[uid]
    assert journey.state == "committed", journey.reason
    assert journey.job_id is not None
    outputs = set(observing.outputs(node.ledger, journey.job_id))
    accepted = pacs.accepted()
    assert set(accepted) == outputs
    assert {len(digests) for digests in accepted.values()} == {1}
    assert observing.chain_is_whole(node.ledger)


def acknowledged_before(node: LocalNode, folder: Path, count: int) -> set[str]:
    """Send until `count` instances are acknowledged, then kill the receiver in mid-stream."""
    instances = [read_header(path) for path in sorted(folder.glob("*.dcm"))]
    to = Destination("node", node.service.ae_title, LOOPBACK, node.service.port)
    held = set()
    try:
        for answer in send(instances, to, "SCANNER", 10.0):
            assert answer.status == 0x0000
            held.add(answer.sop_instance_uid)
            if len(held) == count:
                observing.kill(node, "receive")
    except Retry:
        pass
    return held


def test_receiver_killed_in_mid_study_and_worker_in_mid_synthesis(
    phantom_ct: PhantomFolder, images_only: ImagesOnly, tmp_path: Path
) -> None:
    folder = phantom_ct(SEED)
    (uid,) = observing.series_uids(folder)
    # The port must outlive the receiver: its successor binds it again.
    port = free_port()
    changes = {"node": {"port": port}, **images_only}
    with ScriptedPeer() as pacs:
        target = [observing.destination(pacs.port, ae_title="PEER")]
        with local_node(tmp_path / "node", target, changes) as node:
            held = acknowledged_before(node, folder, 40)
            assert 40 <= len(held) < len(list(folder.glob("*.dcm")))
            wait_until(lambda: is_listening(port), 60, "the receiver to come back")
            archive = Archive(node.settings.node.data_folder / "archive", "tests")
            for sop_uid in held:
                story = observing.story(node.ledger, sop_uid)
                stored = archive.read_data_set(story["path"])
                assert hashlib.sha256(stored).hexdigest() == story["digest"]
            assert dcmsend(folder, port).returncode == 0

            def running() -> bool:
                story = observing.story(node.ledger, uid)
                return any(one["state"] == "running" for one in story["syntheses"])

            wait_until(running, 120, "the synthesis to run")
            observing.kill(node, "work")
            assert_delivered_once(node, pacs, uid)


def test_destination_down_for_a_while(
    phantom_ct: PhantomFolder, images_only: ImagesOnly, tmp_path: Path
) -> None:
    folder = phantom_ct(SEED)
    (uid,) = observing.series_uids(folder)
    port = free_port()
    target = [observing.destination(port, ae_title="PEER")]
    stubborn = {"delivery": {"first_retry_s": 0.5, "longest_retry_s": 1.0}, **images_only}
    with local_node(tmp_path / "node", target, stubborn) as node:
        assert dcmsend(folder, node.service.port).returncode == 0

        def failed_twice() -> bool:
            jobs = observing.story(node.ledger, uid)["syntheses"]
            attempts = [a for job in jobs for d in job["deliveries"] for a in d["attempts"]]
            return sum(1 for attempt in attempts if attempt["reason"]) >= 2

        wait_until(failed_twice, observing.ARRIVAL_S, "two failed attempts", observing.PAUSE_S)
        with ScriptedPeer(port=port) as pacs:
            assert_delivered_once(node, pacs, uid)


def test_sigterm_ends_in_time_and_loses_nothing(
    phantom_ct: PhantomFolder, images_only: ImagesOnly, tmp_path: Path
) -> None:
    """Ended while a synthesis runs; started again on the same folder, it goes on by itself."""
    folder = phantom_ct(SEED)
    (uid,) = observing.series_uids(folder)
    with ScriptedPeer() as pacs:
        target = [observing.destination(pacs.port, ae_title="PEER")]
        with local_node(tmp_path / "node", target, images_only) as node:
            assert dcmsend(folder, node.service.port).returncode == 0
            wait_until(lambda: observing.story(node.ledger, uid)["syntheses"], 60, "a synthesis")
            node.service.process.terminate()
            try:
                assert node.service.process.wait(40) == 0
            except subprocess.TimeoutExpired:
                pytest.fail("the node did not end within 40 s of SIGTERM")
        with local_node(tmp_path / "node", target, images_only) as node:
            assert_delivered_once(node, pacs, uid)
