"""Storage commitment through `pseudomri serve`: the worker asks, the receiver hears the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.loopback import LOOPBACK, local_node
from tests.journey import observing
from tests.journey.conftest import ImagesOnly, PhantomFolder
from tests.node.test_commitment import Archive
from tests.peers import dcmsend, free_port, start_orthanc

pytestmark = pytest.mark.journey


def test_orthanc_commits_and_another_archive_gets_again_what_it_refused(
    phantom_ct: PhantomFolder, images_only: ImagesOnly, tmp_path: Path
) -> None:
    folder = phantom_ct(1)
    (uid,) = observing.series_uids(folder)
    port = free_port()
    other = Archive(lambda uids, times: uids[:2] if times == 1 else [], port)
    with (
        other.peer,
        start_orthanc(tmp_path / "orthanc", {"us": ("PSEUDOMRI", LOOPBACK, port)}) as orthanc,
    ):
        asked = {"storage_commitment": True}
        targets = [
            observing.destination(orthanc.dicom_port) | asked,
            observing.destination(other.peer.port, "other", "PEER") | asked,
        ]
        # No report on the association of the request: it has to come to our port.
        changes = {**images_only, "node": {"port": port}, "delivery": {"commitment_stay_s": 0.0}}
        with local_node(tmp_path / "node", targets, changes) as node:
            assert dcmsend(folder, port).returncode == 0
            journey = observing.wait_until_over(node, [uid])[uid]
            assert journey.state == "committed", journey.reason
            assert journey.job_id is not None
            outputs = observing.outputs(node.ledger, journey.job_id)
            events = list(node.ledger.reports.events())
            assert observing.chain_is_whole(node.ledger)
        kept = observing.arrived(orthanc, observing.headers(folder)[0].StudyInstanceUID)
    told = {(one.actor, one.kind) for one in events if one.kind.startswith("commitment.")}
    assert ("ORTHANC", "commitment.committed") in told
    assert {("PEER", "commitment.refused"), ("PEER", "commitment.committed")} <= told
    kinds = [one.kind for one in events]
    assert kinds.index("synthesis.committed") > max(
        number for number, kind in enumerate(kinds) if kind == "commitment.committed"
    )
    assert sum(len(series.datasets) for series in kept.values()) == len(outputs)
    times = sorted(other.peer.times(uid) for uid in other.peer.accepted())
    assert times == [1] * (len(outputs) - 2) + [2, 2]
