"""The spine pulled straight along its canal: rows are heights, columns go to the front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.curve import SpinalCurve
from pipeline.geometry import Float32, Float64, Volume
from pipeline.sampling import sample

# Endplates are 1 to 2 mm thick: half a millimeter along the spine keeps them.
ARC_STEP_MM = 0.5
# From the spinous processes to the front of the vertebral bodies.
FRONT_MM = np.arange(-24.0, 34.1, 1.0)
# To beyond the head of the first rib.
RIGHT_MM = np.arange(-46.0, 46.1, 1.5)


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
