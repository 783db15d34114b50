"""The axial CT, the stack and the parts of the body the gate has to refuse."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.phantom import Region, axial_grid, ct_series, patient, stack_grid, truth_grid
from pipeline.phantom.landmarks import discs_mm

COARSE_MM = (6.0, 2.5, 2.5)


def test_an_axial_ct_runs_from_head_to_feet_with_air_around() -> None:
    person = patient(7, [])
    volume = ct_series(person, spacing_mm=COARSE_MM)
    assert volume.values.shape == volume.grid.shape
    assert volume.grid.steps_mm[0, 2] < 0
    assert np.allclose(volume.grid.image_orientation, (1, 0, 0, 0, 1, 0))
    assert volume.values[:, 0, 0].max() < -900
    assert volume.values.max() > 500


def test_a_ct_is_the_same_twice_and_noisy() -> None:
    person = patient(7, [])
    first = ct_series(person, spacing_mm=(12.0, 3.0, 3.0))
    second = ct_series(patient(7, []), spacing_mm=(12.0, 3.0, 3.0))
    assert np.array_equal(first.values, second.values)
    assert first.frame_of_reference_uid == second.frame_of_reference_uid
    assert first.values[:, :4].std() > 0.1


def test_default_field_of_view_holds_ribs_and_skin() -> None:
    grid = axial_grid(patient(7, []), spacing_mm=(1.0, 0.6, 0.6))
    half_width = grid.shape[2] * grid.spacing_mm[2] / 2
    assert half_width >= 75
    positions = discs_mm(patient(7, []))
    top, bottom = grid.to_mm(np.zeros(3))[2], grid.to_mm(np.array([grid.shape[0], 0, 0]))[2]
    assert positions["C2/3"][2] + 80 < top
    assert positions["T2/3"][2] > bottom


@pytest.mark.parametrize("region", [Region.HEAD_ONLY, Region.CHEST, Region.LUMBAR])
def test_other_regions_are_scanned_too(region: Region) -> None:
    person = patient(7, [])
    volume = ct_series(person, spacing_mm=(12.0, 3.0, 3.0), region=region)
    assert (volume.values > 300).mean() > 0.005
    if region is Region.HEAD_ONLY:
        lowest = volume.grid.image_position(volume.grid.shape[0] - 1)[2]
        assert lowest > discs_mm(person)["C2/3"][2]


def test_the_stack_has_the_reformats_axes() -> None:
    for seed in range(6):
        grid = stack_grid(patient(seed, []))
        assert grid.shape == (15, 256, 256)
        assert np.allclose(grid.spacing_mm, (3.0, 0.75, 0.75))
        assert np.allclose(grid.directions, [[-1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=0.15)
        assert np.allclose(grid.slice_normal, grid.directions[0])
        middle = grid.to_index(np.array([0.0, 7.0, 0.0])) / grid.shape
        assert 0.40 < middle[1] < 0.62
        assert 0.40 < middle[2] < 0.62
        assert abs(middle[0] * 15 - 7) < 1.5


def test_the_truth_is_centered_on_the_cervical_discs() -> None:
    person = patient(4, [])
    grid, discs = truth_grid(person), discs_mm(person)
    upper, lower = grid.to_index(discs["C2/3"]), grid.to_index(discs["C7/T1"])
    assert (upper + lower)[1] / 2 == pytest.approx(127.5, abs=0.5)
    assert 0 < upper[1] < lower[1] < 255
