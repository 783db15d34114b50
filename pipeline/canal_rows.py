"""What each point along the canal shows on T2: cord between two columns of CSF, or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from pipeline.course import ACROSS_MM, STEP_MM, Course
from pipeline.geometry import Float32, Float64

RESOLVED_CONTRAST = 0.15
"""A row shows cord in CSF when the cord is darker than both columns by this share."""

WALL_SIGNAL = 0.35
"""Half of the epidural fat's signal: beyond the wall there is dark cortex or ligament."""


@dataclass(frozen=True, eq=False)
class CanalRows:
    """What each point of the course shows, all ``(n,)``; NaN where it cannot be told.

    Args:
        contrast: Of the cord against the fainter of both CSF columns.
        csf: Mean peak of both columns.
        cord_mm: Center of the cord, to the front of the canal's middle.
        ap_mm: Wall to wall.
        front_mm: The wall in front, to the front of the canal's middle.
    """

    contrast: Float64
    csf: Float64
    cord_mm: Float64
    ap_mm: Float64
    front_mm: Float64

    @property
    def is_resolved(self) -> NDArray[np.bool_]:
        """Which points show bright, dark, bright, ``(n,)``."""
        return self.contrast > RESOLVED_CONTRAST

    @property
    def resolved(self) -> float:
        """Share of points that do."""
        return float(self.is_resolved.mean())


def read_rows(t2: Float32, course: Course) -> CanalRows:
    """Measure every point of the course, which may have none."""
    profiles = gaussian_filter1d(course.across(t2), 1.0 / STEP_MM, axis=0)
    rows = [_row(p, half) for p, half in zip(profiles, course.half_mm, strict=True)]
    return CanalRows(*np.array(rows, dtype=np.float64).reshape(-1, 5).T)


def _row(profile: Float32, half_mm: float) -> tuple[float, float, float, float, float]:
    inside = np.flatnonzero(np.abs(ACROSS_MM) <= half_mm)
    core = np.flatnonzero(np.abs(ACROSS_MM) <= 0.55 * half_mm)
    low = int(core[profile[core].argmin()])
    behind, before = np.arange(inside[0], low + 1), np.arange(low, inside[-1] + 1)
    back = int(behind[profile[behind].argmax()])
    front = int(before[profile[before].argmax()])
    fainter = float(min(profile[back], profile[front]))
    csf = float(profile[back] + profile[front]) / 2
    contrast = (fainter - float(profile[low])) / max(csf, 1e-3)
    if contrast <= RESOLVED_CONTRAST:
        return contrast, csf, np.nan, np.nan, np.nan
    level = (fainter + float(profile[low])) / 2
    band = np.clip(level - profile[back : front + 1], 0, None)
    cord = float((band * ACROSS_MM[back : front + 1]).sum() / band.sum())
    wall = _wall_mm(profile, front, 1)
    return contrast, csf, cord, wall - _wall_mm(profile, back, -1), wall


def _wall_mm(profile: Float32, peak: int, side: int) -> float:
    """Where the signal falls below `WALL_SIGNAL`, outward from a peak; NaN when it does not."""
    out = profile[peak:] if side > 0 else profile[peak::-1]
    dark = np.flatnonzero(out < WALL_SIGNAL)
    if not len(dark) or dark[0] == 0:
        return float("nan")
    last = int(dark[0])
    part = (out[last - 1] - WALL_SIGNAL) / (out[last - 1] - out[last])
    step = float(ACROSS_MM[1] - ACROSS_MM[0])
    return float(ACROSS_MM[peak]) + side * step * float(last - 1 + part)
