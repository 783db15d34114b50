"""The same patient on every grid, with and without injury."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.geometry import Grid
from pipeline.phantom import Finding, Rendered, Tissue, Variation, patient, render, training_pair
from pipeline.phantom.frame import FACET_ASIDE_MM
from pipeline.phantom.injuries import Injuries, Injury
from pipeline.phantom.landmarks import canal_ap_mm, centerline_mm, cord_center_mm, discs_mm
from pipeline.phantom.person import displaced
from tests.pipeline.phantom.grids import AXIAL, SAGITTAL, coordinates, sagittal

SEED = 42
PLANES = ("labels", "ct", "t2", "stir")
MOVING = (Finding.TRANSLATION, Finding.FACET_DISLOCATION)
"""With their CT sign all that is above the injury lies elsewhere."""


def _rendered(
    findings: list[Finding], *, ct_visible: bool | None = None, slices: int = 1
) -> Rendered:
    person = patient(SEED, findings, Variation(ct_visible=ct_visible, level="C4/5"))
    return render(person, sagittal(person, slices=slices), supersample=1)


@pytest.fixture(scope="module")
def sound() -> Rendered:
    return _rendered([])


def test_rendering_twice_gives_the_same_bytes(sound: Rendered) -> None:
    again = _rendered([])
    for plane in PLANES:
        assert np.array_equal(getattr(sound, plane), getattr(again, plane)), plane


def test_sagittal_and_axial_grids_show_the_same_patient() -> None:
    person = patient(7, [])
    corner, count, step = np.array([6.0, -30.0, 24.0]), 24, 1.5
    along = Grid.from_steps((count,) * 3, corner, SAGITTAL * step)
    # the same lattice of points, walked in the order of an axial series
    across = Grid.from_steps(
        (count,) * 3, corner - np.array([(count - 1) * step, 0, 0]), AXIAL * step
    )
    first = render(person, along, supersample=1)
    second = render(person, across, supersample=1)
    for plane in PLANES:
        # (slice right, row feet, column back) to (slice feet, row back, column left)
        turned = getattr(first, plane).transpose(1, 2, 0)[:, :, ::-1]
        assert np.allclose(turned, getattr(second, plane), atol=2e-2), plane


def test_chunks_of_slices_do_not_change_the_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    person = patient(7, [])
    grid = sagittal(person, size=60, spacing_mm=2.5, slices=3)
    whole = render(person, grid, supersample=2)
    monkeypatch.setattr("pipeline.phantom.rendering.POINTS_AT_ONCE", 60 * 60 * 2)
    parts = render(person, grid, supersample=2)
    for plane in PLANES:
        assert np.array_equal(getattr(whole, plane), getattr(parts, plane)), plane


@pytest.mark.parametrize("finding", Finding)
def test_an_occult_finding_leaves_the_ct_identical(finding: Finding, sound: Rendered) -> None:
    # joints lie 18 mm aside
    slices = 13 if finding is Finding.FACET_DISLOCATION else 1
    sound = sound if slices == 1 else _rendered([], slices=slices)
    occult = _rendered([finding], ct_visible=False, slices=slices)
    assert np.array_equal(occult.ct, sound.ct)
    assert np.abs(occult.stir - sound.stir).max() > 0.1


@pytest.mark.parametrize("finding", Finding)
def test_a_visible_finding_changes_the_ct(finding: Finding, sound: Rendered) -> None:
    visible = _rendered([finding], ct_visible=True)
    if finding is Finding.CORD_OEDEMA:
        # the cord swells against CSF: no more contrast than the two have
        assert not np.array_equal(visible.ct, sound.ct)
    else:
        assert np.abs(visible.ct - sound.ct).max() > 25


def test_what_the_ct_shows_of_a_cord_oedema_is_in_its_labels() -> None:
    seen = _rendered([Finding.CORD_OEDEMA], ct_visible=True)
    hidden = _rendered([Finding.CORD_OEDEMA], ct_visible=False)
    assert (seen.labels == Tissue.CORD_OEDEMA).sum() > 20
    assert np.array_equal(seen.ct_labels, seen.labels)
    assert not (hidden.ct_labels == Tissue.CORD_OEDEMA).any()


@pytest.mark.parametrize("severity", [0.05, 0.95])
def test_a_visible_fracture_lowers_the_front_and_packs_bone(severity: float) -> None:
    person = patient(SEED, [Finding.VERTEBRAL_FRACTURE], Variation(ct_visible=True, level="C4/5"))
    injury = replace(person.findings[0], severity=severity)
    broken = replace(person, injuries=replace(person.injuries, found=(injury,)))
    grid = sagittal(person, size=160, spacing_mm=0.4)
    at, level = coordinates(person, grid), person.spine.levels[2]
    front = (at.normal > 0.75 * level.depth) & (at.normal < 0.9 * level.depth)
    front &= (at.along > level.disc_middle) & (at.along < level.bottom)
    before, after = (
        render(one, grid, supersample=1) for one in (patient(SEED, [], person.variation), broken)
    )
    bony = (Tissue.CORTEX, Tissue.MARROW, Tissue.MARROW_OEDEMA, Tissue.FRACTURE_LINE)
    height = [np.isin(r.labels.ravel()[front], bony).sum() for r in (before, after)]
    assert height[1] < 0.95 * height[0]
    # what is left of the marrow is denser
    bone = [r.ct.ravel()[front & np.isin(r.labels.ravel(), bony[1:3])] for r in (before, after)]
    assert np.percentile(bone[1], 75) > np.percentile(bone[0], 75) + 40


@pytest.mark.parametrize("finding", [f for f in Finding if f not in MOVING])
def test_nothing_changes_away_from_the_injury(finding: Finding, sound: Rendered) -> None:
    injured = _rendered([finding], ct_visible=True)
    person = patient(SEED, [])
    at = coordinates(person, sound.grid)
    disc = person.spine.levels[2].disc_middle
    if finding is Finding.PREVERTEBRAL_HAEMATOMA:
        away = at.normal < 0
    elif finding is Finding.INTERSPINOUS_INJURY:
        away = at.normal > 5
    else:
        away = np.abs(at.along - disc) > 45
    for plane in PLANES:
        before, after = (getattr(r, plane).ravel()[away] for r in (sound, injured))
        # tails of smooth bumps reach far, but below anything that could be seen
        assert np.allclose(before, after, atol=0.05), plane


@pytest.mark.parametrize("finding", MOVING)
def test_a_slip_moves_what_is_above_and_nothing_below(finding: Finding, sound: Rendered) -> None:
    slipped = _rendered([finding])
    at = coordinates(patient(SEED, []), sound.grid)
    disc = patient(SEED, []).spine.levels[2].disc_middle
    below = (at.along > disc + 30) & (np.abs(at.normal) < 20)
    above = (at.along < disc - 10) & (np.abs(at.normal) < 20)
    change = np.abs(slipped.ct - sound.ct).ravel()
    assert change[below].max() < 1
    assert np.median(change[above]) > 1


def test_an_occult_stenosis_narrows_the_mri_as_a_visible_one_does(sound: Rendered) -> None:
    hidden = _rendered([Finding.CANAL_STENOSIS], ct_visible=False)
    seen = _rendered([Finding.CANAL_STENOSIS], ct_visible=True)
    csf = [int((one.labels == Tissue.CSF).sum()) for one in (sound, hidden, seen)]
    assert csf[1] < 0.98 * csf[0]
    assert csf[1] == pytest.approx(csf[2], rel=0.002)
    assert np.array_equal(hidden.ct_labels, sound.ct_labels)


@pytest.mark.parametrize(("shape", "side"), [((0.2, 0.5), 0), ((0.8, 0.2), 1), ((0.8, 0.8), -1)])
def test_joints_are_out_on_both_sides_or_on_one(shape: tuple[float, float], side: int) -> None:
    injury = Injury(Finding.FACET_DISLOCATION, True, 0.5, (*shape, 0.5, 0.5))
    person = patient(SEED, [], Variation(level="C4/5"))
    hurt = displaced(person.frame.posture, person.spine, Injuries(2, (injury,)))
    level, moved_mm = person.spine.levels[2], []
    for lateral in (-FACET_ASIDE_MM, FACET_ASIDE_MM):
        # the middle of the pillar above, where it was and where it is
        at = (level.disc_middle - 12, -7.5, lateral * person.size)
        moved_mm.append(person.frame.position_mm(*at)[1] - hurt.position_mm(*at)[1])
    right, left = moved_mm
    assert injury.turned_side == side
    if side:
        out, held = (left, right) if side > 0 else (right, left)
        assert 5 < out < 12
        assert abs(held) < 1.5
    else:
        assert right == pytest.approx(6.5, abs=1) == left


def test_values_are_in_range(sound: Rendered) -> None:
    assert sound.labels.dtype == np.uint8
    assert sound.labels.max() <= max(Tissue)
    for plane in (sound.ct, sound.t2, sound.stir):
        assert plane.dtype == np.float32
        assert np.isfinite(plane).all()
    assert -1100 < sound.ct.min() < -950
    assert 600 < sound.ct.max() < 3500
    for plane in (sound.t2, sound.stir):
        assert plane.min() >= 0
        assert 0.9 < plane.max() <= 1.2


def test_tissues_have_their_signal(sound: Rendered) -> None:
    def median(tissue: Tissue, plane: np.ndarray) -> float:
        return float(np.median(plane[sound.labels == tissue]))

    assert median(Tissue.CSF, sound.t2) > 0.9
    assert median(Tissue.CSF, sound.stir) > 0.9
    assert 0.25 < median(Tissue.CORD, sound.t2) < 0.55
    assert median(Tissue.CORTEX, sound.t2) < 0.3
    assert median(Tissue.FAT, sound.t2) > 0.5
    assert median(Tissue.FAT, sound.stir) < 0.15
    assert median(Tissue.FAT, sound.ct) < -70
    assert median(Tissue.AIR, sound.ct) < -950


def test_arteries_are_flow_voids_on_mri_even_when_they_enhance_on_ct() -> None:
    people = (patient(seed, []) for seed in range(40))
    person = next(p for p in people if p.palette.is_enhanced)
    grid = Grid.from_steps(
        (12, 90, 60), np.array([36.0, -45.0, 55.0]), SAGITTAL * [[1], [1.2], [1]]
    )
    done = render(person, grid, supersample=1)
    inside = done.labels == Tissue.ARTERY
    assert inside.sum() > 50
    assert np.median(done.ct[inside]) > 90
    assert np.median(done.t2[inside]) < 0.15


def test_landmarks_lie_where_the_rendering_has_them() -> None:
    person = patient(SEED, [], Variation(wear=0.1))
    levels = person.spine.levels[:6]
    for level, (name, front_wall) in zip(levels, discs_mm(person).items(), strict=False):
        if level.is_fused:
            continue
        middle = person.frame.position_mm(_along(person, front_wall), 8.0)
        assert _label_at(person, middle) in (Tissue.ANNULUS, Tissue.NUCLEUS), name
    for along in (50.0, 80.0, 110.0):
        assert _label_at(person, cord_center_mm(person, along)) in (Tissue.CORD, Tissue.CORD_GRAY)
    line = centerline_mm(person)
    assert (np.diff(line[:, 2]) < 0).all(), "head first"
    assert all(10 < ap < 20 for ap in canal_ap_mm(person).values())


def _along(person: object, position: np.ndarray) -> float:
    point = (np.array([v], np.float32) for v in position)
    return float(person.frame.locate(*point).along[0])  # type: ignore[attr-defined]


def _label_at(person: object, position: np.ndarray) -> int:
    grid = Grid.from_steps((1, 1, 1), position, SAGITTAL * 0.5)
    return int(render(person, grid, supersample=1).labels[0, 0, 0])  # type: ignore[arg-type]


def test_a_training_pair_has_the_shape_of_the_stack() -> None:
    pair = training_pair(1)
    for plane in (pair.ct, pair.t2, pair.stir, pair.labels):
        assert plane.shape == (15, 256, 256)
    middle = pair.labels[7]
    column = np.nonzero(middle == Tissue.CORD)[1].mean() / 256
    assert 0.3 < column < 0.7
    assert (middle == Tissue.CORD).any(axis=1).sum() > 150, "the cord runs through most rows"
