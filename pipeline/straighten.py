"""The spine pulled straight along its canal: rows are heights, columns go to the front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pipeline.curve import SpinalCurve
from pipeline.geometry import Float32, Float64, Volume
from pipeline.sampling import sample

# Endplates are 1 to 2 mm thick: half a millimeter along the spine keeps them.
ARC_STEP_MM = 0.5
# From the spinous processes to the front of the vertebral bodies.
FRONT_MM = np.arange(-24.0, 34.1, 1.0)
# To beyond the head of the first rib.
RIGHT_MM = np.arange(-46.0, 46.1, 1.5)

# The canal's wall, smoothed over 7 mm across; real canals have it 4 to 12 mm from their middle.
WALL_HU = 230.0
WALL_RANGE_MM = (4.0, 12.0)
USUAL_WALL_MM = 8.0


@dataclass(frozen=True, eq=False)
class StraightSpine:
    """HU on a lattice that follows the curve.

    Args:
        curve: One point per height, cranial to caudal.
        values: ``(height, front, right)`` HU.
        front_mm: Offsets of the second axis, ascending to anterior.
        right_mm: Offsets of the third axis, ascending to the patient's right.
    """

    curve: SpinalCurve
    values: Float32
    front_mm: Float64
    right_mm: Float64

    @property
    def arc_mm(self) -> Float64:
        """Arc length of each height."""
        return self.curve.arc_mm


def straighten(ct: Volume, curve: SpinalCurve) -> StraightSpine:
    """Sample the CT around a curve, at the curve's own step.

    Args:
        ct: On its own grid, whatever its tilt.
        curve: With frames of the mid-sagittal plane.
    """
    values = np.empty((len(curve.arc_mm), FRONT_MM.size, RIGHT_MM.size), dtype=np.float32)
    offsets = FRONT_MM[:, None, None], RIGHT_MM[None, :, None]
    for height in range(len(curve.arc_mm)):  # one plane at a time: a few KiB instead of 150 MiB
        points = (
            curve.point_mm[height]
            + offsets[0] * curve.front[height]
            + offsets[1] * curve.right[height]
        )
        values[height] = sample(ct, points)
    return StraightSpine(curve, values, FRONT_MM, RIGHT_MM)


def wall_distance(spine: StraightSpine, side: int) -> Float64:
    """Distance from the canal's middle to its wall, ``(n,)`` mm, smoothed.

    A median over 20 mm bridges the discs and the gaps between laminae, which are no bone.

    Args:
        spine: Straightened.
        side: 1 for the wall in front, -1 for the wall behind.
    """
    step_mm = float(spine.arc_mm[1] - spine.arc_mm[0])
    near = np.abs(spine.right_mm) <= 3.1
    outward = np.argsort(side * spine.front_mm)
    outward = outward[side * spine.front_mm[outward] >= 2.0]
    is_bone = spine.values[:, :, near].mean(axis=2)[:, outward] > WALL_HU
    first_mm = side * spine.front_mm[outward][is_bone.argmax(axis=1)]
    distance = np.where(is_bone.any(axis=1), first_mm, USUAL_WALL_MM)
    steady = np.clip(ndimage.median_filter(distance, round(20 / step_mm) + 1), *WALL_RANGE_MM)
    return np.asarray(ndimage.gaussian_filter1d(steady, 4.0 / step_mm))
