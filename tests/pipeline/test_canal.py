"""The centerline on drawn canals whose middle is known."""

from __future__ import annotations

import numpy as np

from pipeline.canal import EXTENSION_MM, CanalPath, center_on_ring
from pipeline.geometry import Float64, Grid, Volume

STEP_MM = 1.5
SHAPE = (100, 64, 64)
RADIUS_MM = 8.0


def canal(middle_y_mm: Float64, with_gaps: bool) -> Volume:
    """A bony tube around x = 0 at ``middle_y_mm`` ``(slice,)``; slices and rows step by 1.5 mm.

    Args:
        middle_y_mm: LPS y of the middle, by slice.
        with_gaps: Open in front for 6 of every 16 mm (discs), and to the sides for 8 (foramina).
    """
    half_mm = STEP_MM * (SHAPE[1] - 1) / 2
    origin = np.array([-half_mm, -half_mm, 0.0])
    grid = Grid.from_steps(SHAPE, origin, STEP_MM * np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]))
    index = np.moveaxis(np.indices(SHAPE, dtype=np.float64), 0, -1)
    z_mm, y_mm, x_mm = np.moveaxis(grid.to_mm(index), -1, 0)[::-1]
    front_mm = middle_y_mm[:, None, None] - y_mm
    radius = np.hypot(front_mm, x_mm)
    is_bone = (radius >= RADIUS_MM) & (radius < RADIUS_MM + 4)
    if with_gaps:
        is_front = front_mm > np.abs(x_mm)
        is_side = (np.abs(x_mm) > np.abs(front_mm)) & (front_mm > -3)
        is_bone &= ~(is_front & (z_mm % 16 < 6)) & ~(is_side & (z_mm % 16 < 8))
        # What the rays meet behind the gaps must not count: the jaw, the ribs.
        is_bone |= (front_mm > 18) & (front_mm < 22)
    values = np.where(is_bone, 700.0, 40.0).astype(np.float32)
    return Volume(values, grid, "1.2.3")


def path(volume: Volume, middle_y_mm: Float64, below: int, aside_mm: float) -> CanalPath:
    """As the search finds it: up to slice ``below``, cranial to caudal, beside the middle."""
    z_mm = volume.grid.origin_mm[2] + STEP_MM * np.arange(SHAPE[0])
    points = np.stack((np.zeros_like(z_mm), middle_y_mm + aside_mm, z_mm), axis=1)
    return CanalPath(points[:below][::-1], 0.9)


def test_discs_and_foramina_do_not_pull_the_line_forward() -> None:
    middle_y_mm = np.zeros(SHAPE[0])
    volume = canal(middle_y_mm, with_gaps=True)
    curve = center_on_ring(volume, path(volume, middle_y_mm, 70, 2.0)).between(0.0, np.inf)
    assert np.abs(curve.point_mm[5:-5, :2]).max() <= 1.0


def test_above_its_beginning_the_line_follows_the_canal() -> None:
    """The canal leans forward by 30 degrees up to slice 60, and stands upright above it."""
    middle_y_mm = -np.minimum(np.arange(SHAPE[0]), 60.0) * STEP_MM * np.tan(np.radians(30)) + 26
    volume = canal(middle_y_mm, with_gaps=False)
    curve = center_on_ring(volume, path(volume, middle_y_mm, 58, 0.0))
    above = curve.between(-EXTENSION_MM, 0.0).point_mm
    slices = above[:, 2] / STEP_MM
    assert slices.max() > 75
    assert np.abs(above[:, 1] - np.interp(slices, np.arange(SHAPE[0]), middle_y_mm)).max() <= 2.5
