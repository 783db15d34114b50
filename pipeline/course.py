"""Follow the canal through a sagittal stack: along it and, at every half millimeter, across it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, map_coordinates, median_filter

from pipeline.anatomy import Anatomy
from pipeline.geometry import Float32, Float64, Grid

STEP_MM = 0.5
ACROSS_MM = np.arange(-16.0, 16.01, 0.25)
"""Positions across the canal; positive is to the front."""

C1_ABOVE_DISC_MM = 36.0
"""Arch of the atlas above the disc C2/3."""

T3_BELOW_DISC_MM = 38.0
"""Lower end-plate of T3 below the disc T1/2."""

TOUCHED_SLICES = 2
"""Slices on both sides of the canal's that `Course.within` takes: the vertebral bodies."""

WALL_HU = 200.0
WALL_MM = (3.0, 12.0)
"""Where a wall is believed, from the first estimate of the middle."""

HALF_AP_MM = 7.0
"""Half of a usual canal, where the CT's diameter was withheld."""


@dataclass(frozen=True, eq=False)
class Course:
    """The middle of the canal from C1 to T3, as far as it lies in the stack.

    Args:
        index: ``(n, 3)`` slice, row, column; `STEP_MM` apart.
        front: ``(n, 2)`` row and column of a step of 1 mm to the front.
        half_mm: ``(n,)`` half of the canal's AP diameter.
        position_mm: ``(n, 3)`` LPS, of the middle as it was first known.
    """

    index: Float64
    front: Float64
    half_mm: Float64
    position_mm: Float64

    @property
    def middle_slice(self) -> int:
        """The slice that holds most of the canal."""
        return int(np.median(np.rint(self.index[:, 0])))

    def across(self, values: NDArray[Any], order: Literal[0, 1] = 1) -> Float32:
        """Values across the canal, ``(n, position)``, in the slice nearest to its middle.

        Args:
            values: ``(slice, row, column)``.
            order: Of the interpolation; 0 for labels.
        """
        rows = self.index[:, 1, None] + ACROSS_MM * self.front[:, 0, None]
        columns = self.index[:, 2, None] + ACROSS_MM * self.front[:, 1, None]
        slices = np.broadcast_to(np.rint(self.index[:, 0, None]), rows.shape)
        where = np.stack((slices, rows, columns))
        out: Float32 = map_coordinates(
            values.astype(np.float32), where, order=order, mode="nearest"
        )
        return out

    def at(self, kept: NDArray[np.bool_]) -> Course:
        """Those of its points alone that are kept, ``(n,)``."""
        return Course(
            self.index[kept], self.front[kept], self.half_mm[kept], self.position_mm[kept]
        )

    def points(self, offsets_mm: Float64) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Nearest row and column at distances to the front of the canal's middle.

        Args:
            offsets_mm: ``(position,)``, or ``(n, position)`` for other ones at each point.
        """
        rows = self.index[:, 1, None] + offsets_mm * self.front[:, 0, None]
        columns = self.index[:, 2, None] + offsets_mm * self.front[:, 1, None]
        return np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp)

    def within(
        self, shape: tuple[int, ...], front_mm: float | Float64, back_mm: float | Float64
    ) -> NDArray[np.bool_]:
        """Pixels of a band along the canal, in the slices through the vertebral bodies.

        Args:
            shape: Of the stack.
            front_mm: How far the band reaches in front of the canal's middle, also ``(n,)``.
            back_mm: How far behind it; negative starts the band in front of the middle.
        """
        low, high = (
            np.broadcast_to(-np.asarray(back_mm), len(self.index)),
            np.broadcast_to(np.asarray(front_mm), len(self.index)),
        )
        offsets = np.arange(low.min(), high.max() + 0.1, 0.4)
        rows, columns = self.points(offsets)
        kept = (offsets >= low[:, None]) & (offsets <= high[:, None])
        kept &= (rows >= 0) & (rows < shape[1]) & (columns >= 0) & (columns < shape[2])
        slices = np.rint(self.index[:, 0]).astype(np.intp)
        mask = np.zeros(shape, dtype=bool)
        for aside in range(-TOUCHED_SLICES, TOUCHED_SLICES + 1):
            at = np.broadcast_to(np.clip(slices + aside, 0, shape[0] - 1)[:, None], kept.shape)
            mask[at[kept], rows[kept], columns[kept]] = True
        return mask

    def between_walls(self, ct: Float32) -> Course:
        """The same between the canal's bony walls in the CT of this very slice.

        The gate's centerline is the middle of a ring of bone, which in a tilted or worn canal lies
        a few millimeters off the middle of the slice's canal.

        Args:
            ct: HU, ``(slice, row, column)``.
        """
        if not len(self.index):
            return self
        profiles = gaussian_filter1d(self.across(ct), 1.0 / STEP_MM, axis=0)
        front = _wall_mm(profiles[:, ACROSS_MM >= 0])
        back = -_wall_mm(profiles[:, ACROSS_MM <= 0][:, ::-1])
        middle, half = (front + back) / 2, (front - back) / 2
        index = self.index.copy()
        index[:, 1:] += middle[:, None] * self.front
        return Course(index, self.front, half, self.position_mm)

    def near(self, position_mm: Float64, reach_mm: float) -> NDArray[np.bool_]:
        """Which points lie within a distance of the point nearest to a position."""
        away = np.linalg.norm(self.position_mm - position_mm, axis=1)
        points = np.arange(len(away)) * STEP_MM
        near: NDArray[np.bool_] = np.abs(points - points[away.argmin()]) <= reach_mm
        return near & bool(away.min() < 12.0)


def _wall_mm(profiles: Float32) -> Float64:
    """Distance from the middle to the wall, ``(n,)``; where there is none, from its neighbors."""
    is_bone = profiles > WALL_HU
    first = is_bone.argmax(axis=1) * float(ACROSS_MM[1] - ACROSS_MM[0])
    at = np.arange(len(profiles))
    seen = is_bone.any(axis=1) & (first >= WALL_MM[0]) & (first <= WALL_MM[1])
    if not seen.any():
        return np.full(len(profiles), HALF_AP_MM)
    walls = median_filter(np.interp(at, at[seen], first[seen]), round(9 / STEP_MM), mode="nearest")
    out: Float64 = gaussian_filter1d(walls, 2 / STEP_MM, mode="nearest")
    return out


def anatomy_course(anatomy: Anatomy, grid: Grid) -> Course:
    """Where the gate found a real patient's canal, from C1 to T3 by its levels."""
    points = anatomy.centerline_mm
    arc = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))))
    discs = {
        level.name: float(arc[np.linalg.norm(points - level.position_mm, axis=1).argmin()])
        for level in anatomy.levels
    }
    first = discs["C2/3"] - C1_ABOVE_DISC_MM
    last = max(discs.values()) + T3_BELOW_DISC_MM
    kept = (arc >= first) & (arc <= last)
    middles = np.array([at + 8.0 for at in discs.values()])
    names = ("C3", "C4", "C5", "C6", "C7", "T1", "T2")
    widths = [anatomy.canal_ap_mm.get(name, 2 * HALF_AP_MM) / 2 for name in names[: len(middles)]]
    return course_along(points[kept], np.interp(arc[kept], middles, widths), grid)


def course_along(points_mm: Float64, half_mm: Float64, grid: Grid) -> Course:
    """Along points of the canal's middle, resampled to `STEP_MM` and cut to the stack.

    Args:
        points_mm: ``(n, 3)`` LPS, cranial to caudal.
        half_mm: ``(n,)`` half of the canal's AP diameter.
        grid: Of the stack.
    """
    arc = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(points_mm, axis=0), axis=1))))
    at = np.arange(0, arc[-1], STEP_MM)
    points = np.stack([np.interp(at, arc, axis) for axis in points_mm.T], axis=1)
    half = np.interp(at, arc, half_mm)
    index = grid.to_index(points)
    pixel_mm = grid.spacing_mm[1]
    along = np.gradient(
        gaussian_filter1d(index[:, 1:], 4 / STEP_MM, axis=0, mode="nearest"), axis=0
    )
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    front = np.stack((along[:, 1], -along[:, 0]), axis=1) / pixel_mm
    reach = ACROSS_MM.max() * np.abs(front)
    room = np.array(grid.shape[1:]) - 1
    inside = ((index[:, 1:] >= reach) & (index[:, 1:] <= room - reach)).all(axis=1)
    inside &= (index[:, 0] > -0.5) & (index[:, 0] < grid.shape[0] - 0.5)
    return Course(index[inside], front[inside], half[inside], points[inside])
