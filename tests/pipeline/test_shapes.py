"""A narrowed canal and a slipped column are measured where they are, by as much as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import shift

from pipeline.canal_rows import read_rows
from pipeline.evaluation.shapes import lost_csf, wall_step_mm
from pipeline.geometry import Float32, Float64
from pipeline.phantom import Tissue
from tests.pipeline.toy_spine import CANAL_COLUMN, FIRST_DISC, LEVEL_ROWS, SHAPE, toy_spine

TOY = toy_spine()
ROW = FIRST_DISC + 3 * LEVEL_ROWS
"""Of C5/6."""

PIXEL_MM = 0.75
T2 = np.where(TOY.pair.labels == Tissue.MUSCLE, 0.1, TOY.pair.t2).astype(np.float32)
"""Its canal bordered by something dark, as by a ligament: muscle is as bright as a wall may be."""


def disc_mm(row: int) -> Float64:
    """Where the disc of this row meets the canal's middle."""
    return TOY.stack.grid.to_mm(np.array([2.0, row, CANAL_COLUMN]))


def slipped(values: Float32, columns: int) -> Float32:
    """All that lies above C5/6 moved to the front; lower columns are to the front."""
    out = values.copy()
    out[:, :ROW] = np.roll(out[:, :ROW], -columns, axis=2)
    return out


@pytest.mark.parametrize("columns", [0, 2, 4])
def test_the_step_between_two_bodies_is_as_large_as_the_slip(columns: int) -> None:
    course = TOY.course.between_walls(slipped(TOY.stack.values, columns))
    rows = read_rows(slipped(T2, columns), course)
    at_disc = wall_step_mm(rows, course, disc_mm(ROW), PIXEL_MM)
    assert at_disc == pytest.approx(columns * PIXEL_MM, abs=0.3)
    for other in (ROW - 2 * LEVEL_ROWS, ROW + 2 * LEVEL_ROWS):
        assert wall_step_mm(rows, course, disc_mm(other), PIXEL_MM) < 0.2


def test_a_bend_is_no_step() -> None:
    t2 = T2.copy()
    for row in range(ROW):
        t2[:, row] = shift(t2[:, row], (0, (row - ROW) * 0.1), order=1, mode="nearest")
    rows = read_rows(t2, TOY.course)
    assert wall_step_mm(rows, TOY.course, disc_mm(ROW), PIXEL_MM) < 0.4


def test_a_wall_that_cannot_be_seen_gives_no_step() -> None:
    rows = read_rows(np.full(SHAPE, 0.5, dtype=np.float32), TOY.course)
    assert math.isnan(wall_step_mm(rows, TOY.course, disc_mm(ROW), PIXEL_MM))


@pytest.mark.parametrize("csf", [0.5, 1.0])
def test_lost_csf_is_what_the_disc_has_lost(csf: float) -> None:
    t2 = TOY.pair.t2.copy()
    part = t2[:, ROW - 8 : ROW + 8]
    part[part == 1.0] = csf
    rows = read_rows(t2, TOY.course)
    assert lost_csf(rows, TOY.course, disc_mm(ROW)) == pytest.approx(1 - csf, abs=0.05)
    assert lost_csf(rows, TOY.course, disc_mm(ROW - 2 * LEVEL_ROWS)) == pytest.approx(0, abs=0.02)
    assert math.isnan(lost_csf(rows, TOY.course, disc_mm(ROW) + 100))
