"""What an injury does to the canal's shape, measured at a disc in a T2 or STIR image.

A stenosis takes the CSF before and behind the cord; a slipped column puts a step into the line that
the backs of the vertebral bodies form. Neither has a signal of its own that a region could show.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.canal_rows import CanalRows
from pipeline.course import STEP_MM, Course
from pipeline.geometry import Float64

DISC_MM = 6.0
"""Along the canal, from the middle of the disc: where its narrowing is looked for."""

BODY_MM = (3.5, 12.0)
"""The same for the back of a vertebral body: from the end-plate to its middle."""

LEAST_POINTS = 8
"""Half a millimeter apart: a line through fewer says little of where it leads."""


def lost_csf(rows: CanalRows, course: Course, disc_mm: Float64) -> float:
    """1 less the faintest mean peak of both columns of CSF at a disc, CSF = 1; NaN when none.

    Args:
        rows: Of the image, along `course`.
        course: Of the canal.
        disc_mm: LPS, where the disc meets the canal.
    """
    near = course.near(disc_mm, DISC_MM)
    return 1 - float(rows.csf[near].min()) if near.any() else float("nan")


def wall_step_mm(rows: CanalRows, course: Course, disc_mm: Float64, pixel_mm: float) -> float:
    """How far the body above lies before or behind the one below, NaN when it cannot be told.

    A line is laid through the back of each body, and both are compared at the disc, so that a bent
    or kyphotic spine has no step (White and Panjabi's sagittal translation).

    Args:
        rows: Of the image, along `course`.
        course: Of the canal, cranial to caudal.
        disc_mm: LPS, where the disc meets the canal.
        pixel_mm: In the slice.
    """
    away = np.linalg.norm(course.position_mm - disc_mm, axis=1)
    at = int(away.argmin())
    along_mm = (np.arange(len(away)) - at) * STEP_MM
    wall = (course.index[:, 1:] + rows.front_mm[:, None] * course.front) * pixel_mm
    around = np.abs(along_mm) <= BODY_MM[1]
    ahead = course.front[around].mean(axis=0)
    ahead /= np.linalg.norm(ahead)
    down = np.array((-ahead[1], ahead[0]))
    disc = course.index[at, 1:] * pixel_mm @ down
    lines = []
    for side in (-1, 1):
        part = side * along_mm
        kept = (part >= BODY_MM[0]) & (part <= BODY_MM[1]) & np.isfinite(rows.front_mm)
        if kept.sum() < LEAST_POINTS:
            return float("nan")
        lines.append(_line_at(disc, wall[kept] @ down, wall[kept] @ ahead))
    return abs(lines[0] - lines[1])


def _line_at(here: float, x: Float64, y: NDArray[np.float64]) -> float:
    """A line through most of the points, at one place: outliers are dropped once."""
    slope, start = np.polyfit(x, y, 1)
    off = np.abs(y - (slope * x + start))
    kept = off <= 2 * max(float(np.median(off)), 0.1)
    slope, start = np.polyfit(x[kept], y[kept], 1)
    return float(slope * here + start)
