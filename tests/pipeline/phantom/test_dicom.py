"""Phantoms on disk: valid DICOM, the same bytes twice, variants spoiled in one way each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.phantom import Finding, Variant, Variation, ct_series, patient
from pipeline.phantom.dicom import Written, write
from pipeline.phantom.instances import ct_datasets, save
from pipeline.phantom.variants import MISSING_BLOCK, variant_datasets, write_variant

SEED = 7
COARSE_MM = (12.0, 3.0, 3.0)
DCIODVFY = Path(sys.executable).parent / "dciodvfy"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    person = patient(SEED, [Finding.DISC_INJURY], Variation(level="C5/6", ct_visible=True))
    return write(person, tmp_path_factory.mktemp("phantom"), spacing_mm=COARSE_MM)


def _errors(path: Path) -> list[str]:
    """What dciodvfy calls an error; it can exit 0 all the same."""
    ran = subprocess.run([DCIODVFY, "-new", path], capture_output=True, text=True, check=False)
    assert "Image" in ran.stderr, f"dciodvfy did not look at it: {ran.stderr}"
    return [line for line in ran.stderr.splitlines() if line.startswith("Error")]


def test_dciodvfy_finds_no_error(written: Written) -> None:
    for path in (written.ct[0], written.ct[-1], written.t2[7], written.stir[7]):
        assert _errors(path) == []


def test_layout(written: Written) -> None:
    folder = written.findings.parent
    assert sorted(p.name for p in folder.iterdir()) == ["CT", "STIR", "T2", "findings.json"]
    assert len(written.t2) == len(written.stir) == 15
    assert {p.parent.name for p in written.ct} == {"CT"}


def test_ct_values_and_geometry_survive_the_disk(written: Written) -> None:
    person = patient(SEED, [Finding.DISC_INJURY], Variation(level="C5/6", ct_visible=True))
    volume = ct_series(person, spacing_mm=COARSE_MM)
    for index in (0, len(written.ct) - 1):
        ds = pydicom.dcmread(written.ct[index])
        hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        assert np.abs(hu - volume.values[index].clip(-1024, 3071)).max() <= 0.5 + 1e-3
        position = np.array(ds.ImagePositionPatient, dtype=float)
        assert np.allclose(position, volume.grid.image_position(index), atol=1e-5)
        assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
        assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert str(ds.PatientName) == "PHANTOM^SEED 7"


def test_the_truth_shares_study_and_space_and_says_what_it_is(written: Written) -> None:
    ct, t2, stir = (pydicom.dcmread(p[7]) for p in (written.ct, written.t2, written.stir))
    assert {ds.SyntheticData for ds in (ct, t2, stir)} == {"YES"}
    for truth, contrast in ((t2, "T2"), (stir, "STIR")):
        assert truth.StudyInstanceUID == ct.StudyInstanceUID
        assert truth.FrameOfReferenceUID == ct.FrameOfReferenceUID
        assert truth.SeriesInstanceUID != ct.SeriesInstanceUID
        assert truth.SeriesDescription.startswith(f"PHANTOM TRUTH {contrast}")
        assert truth.pixel_array.max() > 1800


def test_findings_are_on_record(written: Written) -> None:
    record = json.loads(written.findings.read_text(encoding="utf-8"))
    assert record["seed"] == SEED
    assert record["injured_level"] == "C5/6"
    assert [f["finding"] for f in record["findings"]] == ["disc_injury"]
    assert record["findings"][0]["ct_visible"] is True
    assert record["position_mm"] == record["discs_mm"]["C5/6"]
    assert set(record["ct_visible_probability"]) == {f.value for f in Finding}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        person = patient(3, [])
        save(ct_datasets(person, ct_series(person, spacing_mm=(30.0, 6.0, 6.0))), tmp_path / name)
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert len(first) == len(second) > 3
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_instance_uids_are_unique(written: Written) -> None:
    paths = written.ct + written.t2 + written.stir
    uids = {pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in paths}
    assert len(uids) == len(paths)


def _spoiled(variant: Variant) -> list[pydicom.Dataset]:
    return list(variant_datasets(patient(SEED, []), variant, spacing_mm=COARSE_MM))


def test_a_localizer_is_one_coronal_image() -> None:
    (ds,) = _spoiled(Variant.LOCALIZER)
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    assert np.allclose(np.array(ds.ImageOrientationPatient, dtype=float), (1, 0, 0, 0, 0, -1))


def test_thick_and_missing_slices() -> None:
    thick = _spoiled(Variant.THICK_SLICES)
    assert {float(ds.SliceThickness) for ds in thick} == {8.0}
    gappy = _spoiled(Variant.MISSING_SLICES)
    z = np.array([float(ds.ImagePositionPatient[2]) for ds in gappy])
    steps = np.abs(np.diff(z))
    assert steps.max() == pytest.approx((MISSING_BLOCK + 1) * COARSE_MM[0])
    assert np.median(steps) == pytest.approx(COARSE_MM[0])


def test_color_mr_and_missing_pixels() -> None:
    assert _spoiled(Variant.RGB)[0].pixel_array.shape[-1] == 3
    assert {ds.Modality for ds in _spoiled(Variant.MR)} == {"MR"}
    assert all("PixelData" not in ds for ds in _spoiled(Variant.NO_PIXEL_DATA))


@pytest.mark.parametrize("variant", [Variant.HEAD_ONLY, Variant.LUMBAR, Variant.CHEST])
def test_other_regions_say_so(variant: Variant) -> None:
    assert {ds.BodyPartExamined for ds in _spoiled(variant)}.isdisjoint({"CSPINE"})


def test_a_truncated_instance_cannot_be_decoded(tmp_path: Path) -> None:
    paths = write_variant(patient(SEED, []), tmp_path, Variant.TRUNCATED, spacing_mm=COARSE_MM)
    pydicom.dcmread(paths[0]).pixel_array  # noqa: B018
    with pytest.raises(Exception, match=r"pixel|EOF|end|length|PixelData"):
        pydicom.dcmread(paths[len(paths) // 2]).pixel_array  # noqa: B018


def test_write_takes_a_variant(tmp_path: Path) -> None:
    done = write(patient(SEED, []), tmp_path, spacing_mm=COARSE_MM, variant=Variant.LUMBAR)
    assert done.ct
    assert done.t2 == done.stir == ()
