"""A step of the whole neck, where it is in the patient."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipeline.geometry import Grid, Volume
from pipeline.motion import largest_jump

SHAPE, PIXEL_MM, SLICE_MM = (40, 120, 120), 1.5, 2.0
MOVED_FROM, STEP_MM = 25, 6.0


@pytest.mark.parametrize("tilt_deg", [0.0, 18.5, -18.5])
def test_a_step_is_told_at_its_height_in_the_canal(tilt_deg: float) -> None:
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE[1:]), 2.0)
    values = np.broadcast_to(1000 * texture, SHAPE).astype(np.float32)
    values[MOVED_FROM:] = np.roll(values[MOVED_FROM:], round(STEP_MM / PIXEL_MM), axis=2)
    tilt = np.radians(tilt_deg)
    down_a_row = PIXEL_MM * np.array([0.0, np.cos(tilt), np.sin(tilt)])
    steps_mm = np.array([[0.0, 0, SLICE_MM], down_a_row, [PIXEL_MM, 0, 0]])
    grid = Grid.from_steps(SHAPE, np.zeros(3), steps_mm)
    canal = np.array([[number, 60.0, 60.0] for number in range(35, 4, -1)])
    jump_mm, z_mm = largest_jump(Volume(values, grid, "1.2.3"), grid.to_mm(canal))
    assert jump_mm == pytest.approx(STEP_MM, abs=0.5)
    assert z_mm == pytest.approx(grid.to_mm(np.array([MOVED_FROM - 0.5, 60, 60]))[2], abs=1.0)
