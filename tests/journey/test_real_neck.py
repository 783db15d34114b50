"""The real neck CT, sent by DCMTK, and its result in Orthanc."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000

from node.journey import Journey
from node.loopback import LocalNode, local_node
from pipeline.contrast import SeriesKind
from pipeline.hyperintensity import DARK, LIGHT
from pipeline.labeling import mark_score, to_pixels, unmarked
from tests.journey import observing
from tests.journey.conftest import QUICK
from tests.journey.observing import Arrived
from tests.label_contract import assert_label_contract
from tests.peers import Orthanc, dcmsend, start_orthanc

pytestmark = [pytest.mark.journey, pytest.mark.data]

OUTLINE_PIXELS = to_pixels(np.array([DARK, LIGHT], dtype=np.float32))


@dataclass(frozen=True)
class Visit:
    """What came of one journey of the neck CT through a fresh node."""

    journey: Journey
    study_uid: str
    outputs: dict[str, str]
    series: dict[str, Arrived]


@dataclass(frozen=True)
class FirstVisit(Visit):
    """One that is looked at from all sides."""

    story: dict[str, Any]
    syntaxes: set[str]
    chain_is_whole: bool
    cli_story: dict[str, Any]


@contextmanager
def node_with_pacs(folder: Path) -> Iterator[tuple[LocalNode, Orthanc]]:
    with (
        start_orthanc(folder / "orthanc") as orthanc,
        local_node(folder / "node", [observing.destination(orthanc.dicom_port)], QUICK) as node,
    ):
        yield node, orthanc


def through(node: LocalNode, orthanc: Orthanc, ct: Path) -> Visit:
    """Send the CT to the node; what there is to see when all is over."""
    (uid,) = observing.series_uids(ct)
    sent = dcmsend(ct, node.service.port)
    assert sent.returncode == 0, sent.stderr[-2000:]
    journey = observing.wait_until_over(node, [uid])[uid]
    assert journey.state == "committed", journey.reason
    assert journey.job_id is not None
    study_uid = observing.story(node.ledger, uid)["study_uid"]
    outputs = observing.outputs(node.ledger, journey.job_id)
    return Visit(journey, study_uid, outputs, observing.arrived(orthanc, study_uid))


@pytest.fixture(scope="module")
def first(neck_ct: Path, tmp_path_factory: pytest.TempPathFactory) -> FirstVisit:
    folder = tmp_path_factory.mktemp("first")
    (uid,) = observing.series_uids(neck_ct)
    with node_with_pacs(folder) as (node, orthanc):
        # The PACS has the CT before the result comes, as in a hospital.
        assert dcmsend(neck_ct, orthanc.dicom_port, called="ORTHANC").returncode == 0
        visit = through(node, orthanc, neck_ct)
        story = observing.story(node.ledger, uid)
        command = [sys.executable, "-m", "node", "audit", "show", uid, "--config"]
        shown = subprocess.run(
            [*command, str(folder / "node" / "site.toml")],
            capture_output=True,
            text=True,
            check=True,
        )
        return FirstVisit(
            **vars(visit),
            story=story,
            syntaxes={
                observing.story(node.ledger, source)["transfer_syntax_uid"]
                for source in story["syntheses"][0]["sources"]
            },
            chain_is_whole=observing.chain_is_whole(node.ledger),
            cli_story=json.loads(shown.stdout),
        )


@pytest.fixture(scope="module")
def ct_headers(neck_ct: Path) -> list[Dataset]:
    return observing.headers(neck_ct)


def test_it_was_sent_and_kept_as_jpeg_2000(first: FirstVisit) -> None:
    assert first.story["instances"] == 295
    assert first.syntaxes == {JPEG2000}


def test_every_series_arrives_in_the_study_of_the_ct(first: FirstVisit) -> None:
    assert sorted(first.series) == sorted(observing.expected_kinds())
    for contrast, series in first.series.items():
        assert len(series.datasets) == 15
        assert {str(ds.StudyInstanceUID) for ds in series.datasets} == {first.study_uid}
        assert series.description.startswith("AI SYNTH NOT MRI")
        assert contrast in series.description


def test_what_arrived_keeps_the_label_contract(
    first: FirstVisit, ct_headers: list[Dataset]
) -> None:
    for contrast, series in first.series.items():
        assert_label_contract(series.datasets, ct_headers)
        pixels = np.stack([ds.pixel_array for ds in series.datasets])
        assert mark_score(pixels, SeriesKind(contrast)) > 0.9


def test_what_arrived_is_what_is_on_record(first: FirstVisit) -> None:
    uids = {str(ds.SOPInstanceUID) for s in first.series.values() for ds in s.datasets}
    assert uids == set(first.outputs)
    (job,) = first.story["syntheses"]
    assert len(job["sources"]) == 295
    assert job["model_digest"]
    assert job["device"]
    assert job["software"]["torch"]
    assert {one["state"] for one in job["deliveries"]} == {"delivered"}
    fidelity = job["measurements"]["synthesis"]["fidelity"]
    assert fidelity["verdict"]
    assert set(fidelity["regions"]) == {
        "canal", "cord", "discs", "prevertebral", "interspinous", "bodies",
    }  # fmt: skip
    # thin CSF above the nearly fused C4/5, and noise between the shoulders
    narrowed = job["measurements"]["synthesis"]["narrowed"]
    assert [one["near"].split(" ")[0] for one in narrowed][:1] == ["C3/4"]
    assert any(one["near"].startswith("C5/6 to") for one in narrowed)
    assert first.chain_is_whole
    assert first.cli_story["syntheses"][0]["job_id"] == job["job_id"]


def test_readers_agree_on_the_geometry(first: FirstVisit, tmp_path: Path) -> None:
    for contrast, series in first.series.items():
        folder = tmp_path / contrast
        folder.mkdir()
        for ds in series.datasets:
            ds.save_as(folder / f"{int(ds.InstanceNumber):04d}.dcm")
        ours = affine_of(series.datasets)
        volume = highdicom.get_volume_from_series(series.datasets)
        np.testing.assert_allclose(aligned(volume.affine, ours), ours, atol=1e-4)
        np.testing.assert_allclose(aligned(sitk_affine(folder), ours), ours, atol=1e-4)
        for ds, tags in zip(series.datasets, series.tags, strict=True):
            told = [float(v) for v in tags["ImagePositionPatient"].split("\\")]
            np.testing.assert_allclose(told, ds.ImagePositionPatient, atol=1e-4)


def test_the_same_ct_gives_the_same_objects(
    first: FirstVisit, neck_ct: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with node_with_pacs(tmp_path_factory.mktemp("again")) as (node, orthanc):
        again = through(node, orthanc, neck_ct)
    assert again.journey.job_id == first.journey.job_id
    assert again.outputs == first.outputs


def test_the_decompressed_ct_gives_the_same_pixels(
    first: FirstVisit,
    neck_ct: Path,
    ct_headers: list[Dataset],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Other bytes are another input with UIDs of their own, but the same HU.

    The images follow from the HU alone. The ensemble takes its seed from the job, so that the
    support map, the shares that the margins name and the outlines may differ a little.
    """
    folder = tmp_path_factory.mktemp("decompressed")
    (folder / "ct").mkdir()
    for path in sorted(neck_ct.glob("*.dcm")):
        ds = dcmread(path)
        ds.decompress(generate_instance_uid=False)
        ds.save_as(folder / "ct" / path.name)
    with node_with_pacs(folder) as (node, orthanc):
        plain = through(node, orthanc, folder / "ct")
    shutil.rmtree(folder / "ct")
    assert plain.journey.job_id != first.journey.job_id
    assert set(plain.outputs).isdisjoint(first.outputs)
    for kind, series in plain.series.items():
        ours, theirs = (
            unmarked(np.stack([ds.pixel_array for ds in one.datasets]))
            for one in (series, first.series[kind])
        )
        differing = ours != theirs
        assert differing.mean() < (0.02 if kind == SeriesKind.SUPPORT else 0.005), kind
        if kind != SeriesKind.SUPPORT:
            drawn = np.isin(ours, OUTLINE_PIXELS) | np.isin(theirs, OUTLINE_PIXELS)
            assert not (differing & ~drawn).any(), kind
        assert_label_contract(series.datasets, ct_headers)


def affine_of(datasets: list[Dataset]) -> np.ndarray:
    """(slice, row, column) to LPS mm, by hand from the attributes (PS3.3 C.7.6.2.1.1)."""
    first, last = datasets[0], datasets[-1]
    orientation = np.array(first.ImageOrientationPatient, float)
    origin = np.array(first.ImagePositionPatient, float)
    step = (np.array(last.ImagePositionPatient, float) - origin) / (len(datasets) - 1)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = orientation[3:] * float(first.PixelSpacing[0])
    affine[:3, 2] = orientation[:3] * float(first.PixelSpacing[1])
    affine[:3, 3] = origin
    return affine


def sitk_affine(folder: Path) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = direction[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return affine


def aligned(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Their affine with our slice order: a reader may count the slices from the other end."""
    if theirs[:3, 0] @ ours[:3, 0] > 0:
        return theirs
    flipped = theirs.copy()
    flipped[:3, 0] *= -1
    flipped[:3, 3] += theirs[:3, 0] * 14
    return flipped
