"""The canal's diameter in a drawn tube of bone whose width is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipeline.canal_width import RAY_STEP_MM, _half_maximum_mm, measure_widths
from pipeline.curve import SpinalCurve
from pipeline.geometry import Float32, Grid, Volume
from pipeline.levels import DISC_NAMES, Level

RADIUS_MM, PIXEL_MM, SLICE_MM = 7.0, 0.5, 1.0
WALL_MM, WALL_HU = 2.0, 300.0
SHAPE = (80, 65, 65)


def tube(noise_hu: float) -> Volume:
    """Thin, porous walls around x = y = 0, along z, drawn with soft edges as a scanner's."""
    half_mm = PIXEL_MM * (SHAPE[1] - 1) / 2
    steps = np.array([[0.0, 0, SLICE_MM], [0, PIXEL_MM, 0], [PIXEL_MM, 0, 0]])
    grid = Grid.from_steps(SHAPE, np.array([-half_mm, -half_mm, 0.0]), steps)
    x_mm, y_mm, _ = np.moveaxis(grid.to_mm(np.moveaxis(np.indices(SHAPE, float), 0, -1)), -1, 0)
    radius = np.hypot(x_mm, y_mm)
    hu = np.where((radius >= RADIUS_MM) & (radius < RADIUS_MM + WALL_MM), WALL_HU, 40.0)
    hu = ndimage.gaussian_filter(hu, (0, 1, 1))
    hu += np.random.default_rng(0).normal(0, noise_hu, SHAPE)
    return Volume(hu.astype(np.float32), grid, "1.2.3")


@pytest.mark.parametrize("noise_hu", [0.0, 60.0])
def test_noise_in_the_canal_is_no_wall(noise_hu: float) -> None:
    ct = tube(noise_hu)
    top_mm = (SHAPE[0] - 1) * SLICE_MM
    line = np.array([[0.0, 0, top_mm], [0, 0, 0]])
    curve = SpinalCurve.through(line, 1.0)
    levels = [
        Level(name, np.zeros(3), np.zeros(3), 12.0 + 16 * number, 1.0)
        for number, name in enumerate(DISC_NAMES[:4])
    ]
    search = Volume(ndimage.gaussian_filter(ct.values, 2), ct.grid, "1.2.3")
    found = measure_widths(ct, search, curve, levels)
    assert found.ap_mm.keys() == {"C2", "C3", "C4", "C5"}
    for ap_mm in found.ap_mm.values():
        assert ap_mm == pytest.approx(2 * RADIUS_MM, abs=0.7)


def ray(*hu: float) -> Float32:
    return np.array(hu, dtype=np.float32)


def test_the_wall_begins_where_the_ray_rises_to_its_first_bone() -> None:
    """A thin wall's half is below what counts as bone, and noise in the canal reaches it."""
    assert _half_maximum_mm(ray(0, 0, 200, 0, 0, 0, 0, 0, 300, 100)) == 7.5 * RAY_STEP_MM


def test_marrow_between_two_layers_of_bone_is_wall() -> None:
    """As in C7 of the real neck, whose rays are brightest behind the marrow."""
    found_mm = _half_maximum_mm(ray(0, 0, 0, 0, 250, 100, 300, 100))
    assert found_mm == pytest.approx(3.6 * RAY_STEP_MM)


def test_a_ray_may_begin_in_noise() -> None:
    assert _half_maximum_mm(ray(200, 0, 0, 0, 0, 0, 0, 0, 300, 100)) == 7.5 * RAY_STEP_MM
    assert _half_maximum_mm(ray(200, 0, 0, 0, 0, 0, 0, 0, 300, 200)) == 7.5 * RAY_STEP_MM
