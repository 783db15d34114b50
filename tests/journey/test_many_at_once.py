"""Two phantoms and the real CT at once over four associations: nothing mixed, nothing lost."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.loopback import local_node
from pipeline.contrast import Contrast
from tests.journey import observing
from tests.journey.conftest import ImagesOnly, PhantomFolder
from tests.label_contract import assert_label_contract
from tests.peers import dcmsend, start_orthanc

pytestmark = [pytest.mark.journey, pytest.mark.data]


def halves(folder: Path, into: Path) -> tuple[Path, Path]:
    """The same series in two folders, every other instance in each."""
    parts = (into / "even", into / "odd")
    for part in parts:
        part.mkdir(parents=True)
    for index, path in enumerate(sorted(folder.glob("*.dcm"))):
        shutil.copy(path, parts[index % 2])
    return parts


def test_four_associations_at_once(
    neck_ct: Path, phantom_ct: PhantomFolder, images_only: ImagesOnly, tmp_path: Path
) -> None:
    one, two = phantom_ct(1), phantom_ct(2)
    senders = [one, two, *halves(neck_ct, tmp_path / "halves")]
    sources = {
        uid: folder for folder in (one, two, neck_ct) for uid in observing.series_uids(folder)
    }
    with (
        start_orthanc(tmp_path / "orthanc") as orthanc,
        local_node(
            tmp_path / "node", [observing.destination(orthanc.dicom_port)], images_only
        ) as node,
    ):
        with ThreadPoolExecutor(4) as pool:
            sent = list(pool.map(lambda folder: dcmsend(folder, node.service.port), senders))
        assert [one.returncode for one in sent] == [0, 0, 0, 0]
        journeys = observing.wait_until_over(node, sources)
        assert {j.state for j in journeys.values()} == {"committed"}, journeys
        for uid, folder in sources.items():
            story = observing.story(node.ledger, uid)
            headers = observing.headers(folder)
            assert story["instances"] == len(headers)
            last = story["syntheses"][-1]
            assert set(last["sources"]) == {str(ds.SOPInstanceUID) for ds in headers}
            series = observing.arrived(orthanc, story["study_uid"])
            assert sorted(series) == sorted(Contrast)
            for contrast in series.values():
                assert_label_contract(contrast.datasets, headers)
        assert observing.chain_is_whole(node.ledger)
