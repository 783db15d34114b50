"""The measures of realism against shapes and signals whose figures are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from pipeline.evaluation.canal_shape import sections
from pipeline.evaluation.realism import (
    ALONG_MM,
    CONTRAST_NAMES,
    Spread,
    phantom_contrasts,
    phantom_shapes,
    real_contrasts,
    real_shapes,
    shape_figures,
    table,
)
from pipeline.evaluation.t2_contrast import contrasts
from pipeline.phantom import patient

SPACING_MM = (2.0, 0.5, 0.5)
SHAPE = (60, 160, 100)


def tube(
    ap_mm: float, side_mm: float, back_mm: float = 0.0, tilt_deg: float = 0.0
) -> NDArray[np.bool_]:
    """An elliptic tube with true diameters perpendicular to its axis, leaning to posterior."""
    z, y, x = (axis * step for axis, step in zip(np.indices(SHAPE), SPACING_MM, strict=True))
    slope = math.tan(math.radians(tilt_deg))
    y = (y - 40 - back_mm - slope * (z - 60)) * math.cos(math.radians(tilt_deg))
    inside: NDArray[np.bool_] = (2 * y / ap_mm) ** 2 + (2 * (x - 25) / side_mm) ** 2 <= 1
    return inside


@pytest.mark.parametrize("tilt_deg", [0.0, 25.0])
def test_diameters_are_those_across_the_axis(tilt_deg: float) -> None:
    canal = tube(14.0, 24.0, tilt_deg=tilt_deg)
    cord = tube(7.0, 12.0, back_mm=-1.0, tilt_deg=tilt_deg)
    found = sections(canal, cord, SPACING_MM)
    middle = slice(8, -8)
    assert found.canal_ap_mm[middle].mean() == pytest.approx(14.0, abs=0.25)
    assert found.canal_side_mm[middle].mean() == pytest.approx(24.0, abs=0.6)
    assert found.cord_ap_mm[middle].mean() == pytest.approx(7.0, abs=0.25)
    assert found.cord_side_mm[middle].mean() == pytest.approx(12.0, abs=0.6)
    shift = 1.0 * math.cos(math.radians(tilt_deg))
    assert found.cord_center[middle].mean() == pytest.approx((7 - shift) / 14, abs=0.015)
    length = (SHAPE[0] - 1) * SPACING_MM[0] / math.cos(math.radians(tilt_deg))
    assert found.along_mm[-1] == pytest.approx(length, rel=0.02)


def test_a_triangle_is_broad_in_front_and_an_ellipse_is_not() -> None:
    round_canal = sections(tube(14, 24), tube(7, 12), SPACING_MM).taper.mean(axis=0)
    assert round_canal[0] == pytest.approx(round_canal[2], abs=0.02)
    assert round_canal[1] == pytest.approx(1.0, abs=0.01)
    rows = np.arange(SHAPE[1])[:, None]
    columns = np.abs(np.arange(SHAPE[2]) - 50)[None]
    triangle = (rows >= 60) & (columns < (100 - rows) * 0.8)
    canal = np.broadcast_to(triangle, SHAPE).copy()
    taper = sections(canal, canal & tube(4, 4), SPACING_MM).taper.mean(axis=0)
    assert taper == pytest.approx([0.85, 0.5, 0.15], abs=0.03)


def test_stretches_are_cut_along_the_spine() -> None:
    figures = shape_figures(sections(tube(14, 24), tube(7, 12), SPACING_MM))
    assert figures["canal AP mm, 20-60"] == pytest.approx(14, abs=0.25)
    assert math.isnan(figures[f"canal AP mm, {ALONG_MM[-2]}-{ALONG_MM[-1]}"])


def test_sections_refuse_what_has_no_course() -> None:
    canal = np.zeros((20, 30, 30), bool)
    canal[:5, 10:20, 10:20] = True
    with pytest.raises(ValueError, match="at least 8"):
        sections(canal, canal, SPACING_MM)
    with pytest.raises(ValueError, match="one shape"):
        sections(canal, canal[:-1], SPACING_MM)


def test_contrasts_are_those_painted() -> None:
    """Column 0.3, dark wall, CSF 1, cord 0.4 with noise of known size; a lesion is left out."""
    rng = np.random.default_rng(3)
    canal, cord = tube(14, 24), tube(7, 12)
    signal = np.full(SHAPE, 0.05, np.float32)
    signal[:, 30:64] = 0.3
    signal[canal], signal[cord] = 1.0, 0.4
    signal += rng.normal(0, 0.02, SHAPE).astype(np.float32)
    signal[:, 64:67][~canal[:, 64:67]] = 0.05
    lesion = np.zeros(SHAPE, bool)
    lesion[20:24, 78:82, 48:52] = True
    signal[lesion] = 9.0
    found = contrasts(2000 * signal, cord, SPACING_MM, lesion)
    level = 1.0 + 0.02 * 1.28
    assert found.cord == pytest.approx(0.4 / level, abs=0.01)
    assert found.csf_front == pytest.approx(1.0, abs=0.05)
    assert found.body == pytest.approx(0.3 / level, abs=0.01)
    assert found.cord_grain == pytest.approx(0.02 / level, rel=0.1)
    assert found.cord_step == pytest.approx(0.02 / level, rel=0.1)
    assert found.cord_ap_mm == pytest.approx(7.0, abs=0.25)


def test_the_table_states_the_difference_in_real_standard_deviations() -> None:
    real = [{"cord": 0.2, "x": 1.0}, {"cord": 0.4, "x": math.nan}]
    text = table(real, [{"cord": 0.5, "x": 2.0}])
    cord, other = text.splitlines()[2:]
    assert cord.endswith("| +0.20 | +1.4 |")
    assert cord.startswith("| cord / CSF | 0.30 ± 0.14 (0.21-0.39, 2) | 0.50 ± - ")
    assert other.endswith("| +1.00 | - |")
    assert Spread.over([math.nan]).n == 0


def test_masks_and_crops_are_read_in_their_own_orientation(tmp_path: Path) -> None:
    """Feet-first storage, as NRRD and NIfTI have it, gives the same figures as head-first."""
    (tmp_path / "one").mkdir()
    for name, mask in (("Canal", tube(14, 24)), ("Cord", tube(7, 12, back_mm=-1))):
        image = sitk.GetImageFromArray(mask[::-1].astype(np.uint8))
        image.SetSpacing(SPACING_MM[::-1])
        sitk.WriteImage(image, str(tmp_path / "one" / f"Spinal-{name}.nrrd"))
    (figures,) = real_shapes(tmp_path)
    expected = shape_figures(sections(tube(14, 24), tube(7, 12, back_mm=-1), SPACING_MM))
    assert figures == pytest.approx(expected, nan_ok=True)
    with pytest.raises(FileNotFoundError):
        real_shapes(tmp_path / "one")


def test_a_phantom_is_measured_near_its_own_parameters() -> None:
    person = patient(3, [])
    figures = phantom_shapes(person)
    along = np.arange(20, 60, 1.0) - 5 * person.size
    assert figures["canal AP mm, 20-60"] == pytest.approx(
        float(np.mean(person.canal.width(along))), abs=1.0
    )
    assert figures["cord transverse mm, 20-60"] == pytest.approx(
        2 * float(np.mean(person.canal.cord_half_side(along))), abs=1.0
    )
    clean, scanned = phantom_contrasts(person)
    assert scanned["cord_step"] > clean["cord_step"]
    assert scanned["cord"] == pytest.approx(clean["cord"], abs=0.05)


def test_the_docs_have_a_row_for_every_figure() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "phantom.md").read_text("utf-8")
    shapes = shape_figures(sections(tube(14, 24), tube(7, 12), SPACING_MM))
    for name in (*shapes, *CONTRAST_NAMES.values()):
        assert f"| {name} | " in page


@pytest.mark.data
def test_real_necks_are_anatomically_plausible(shared_data: Path, tmp_path: Path) -> None:
    masks = [path for path in sorted((shared_data / "canal-masks").iterdir()) if path.is_dir()]
    assert len(masks) == 24
    for folder in masks[:2]:
        (tmp_path / folder.name).symlink_to(folder)
    shapes = real_shapes(tmp_path)
    assert len(shapes) == 2
    assert all(10 < s["canal AP mm, 60-100"] < 20 for s in shapes)
    assert all(0.35 < s["cord center / canal AP, 60-100"] < 0.6 for s in shapes)
    crops = real_contrasts(shared_data / "cervical-t2")
    assert len(crops) == 3
    assert all(0.15 < crop["cord"] < 0.6 < crop["csf_front"] for crop in crops)
