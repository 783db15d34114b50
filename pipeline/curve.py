"""A curve through the patient that carries a frame: down the spine, to the front, to the right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pipeline.geometry import Float64

# LPS: x to the left, so the patient's right is -x, the front is -y.
RIGHT = np.array([-1.0, 0.0, 0.0])
# Tangents follow the lordosis, not the voxel steps: a vertebra is about 16 mm high.
TANGENT_SIGMA_MM = 8.0


@dataclass(frozen=True, eq=False)
class SpinalCurve:
    """Points from cranial to caudal at an even step, each with a right-handed frame.

    Args:
        point_mm: ``(n, 3)`` LPS.
        arc_mm: ``(n,)`` length along the curve; 0 where the canal was first found, negative above.
        down: ``(n, 3)`` unit tangent to the feet.
        front: ``(n, 3)`` unit vector to anterior, perpendicular to `down`.
        right: ``(n, 3)`` unit vector to the patient's right, ``down x front``.
    """

    point_mm: Float64
    arc_mm: Float64
    down: Float64
    front: Float64
    right: Float64

    @classmethod
    def through(
        cls, point_mm: Float64, step_mm: float, arc_start_mm: float = 0.0, right: Float64 = RIGHT
    ) -> SpinalCurve:
        """A curve through points ordered cranial to caudal, resampled to an even step.

        Args:
            point_mm: ``(m, 3)``, at least two distinct points.
            step_mm: Distance between the resulting points.
            arc_start_mm: Arc length given to the first point.
            right: The patient's right, ``(3,)``: the normal of the mid-sagittal plane if known.
        """
        points = resample(point_mm, step_mm)
        down = _tangents(points, TANGENT_SIGMA_MM / step_mm)
        front = np.cross(right, down)
        front /= np.linalg.norm(front, axis=1, keepdims=True)
        arc = arc_start_mm + step_mm * np.arange(len(points), dtype=np.float64)
        return cls(points, arc, down, front, np.cross(down, front))

    def extended_up(self, length_mm: float) -> Float64:
        """Points of the curve with a straight piece above it, ``(m, 3)``, cranial to caudal.

        The piece follows the mean direction of the first 20 mm: one vertebra and a half, so that
        the bend of the last few points does not decide.
        """
        reach = min(len(self.point_mm) - 1, round(20 / self._step_mm))
        up = self.point_mm[0] - self.point_mm[reach]
        up /= np.linalg.norm(up)
        distances = np.arange(round(length_mm / self._step_mm), 0, -1) * self._step_mm
        return np.concatenate((self.point_mm[0] + distances[:, None] * up, self.point_mm))

    def at(self, arc_mm: float) -> Float64:
        """LPS position ``(3,)`` at an arc length, linear between points."""
        return np.array([np.interp(arc_mm, self.arc_mm, self.point_mm[:, k]) for k in range(3)])

    def moved(self, front_mm: Float64, right_mm: Float64) -> Float64:
        """Points displaced by ``(n,)`` millimeters to the front and to the right."""
        return self.point_mm + front_mm[:, None] * self.front + right_mm[:, None] * self.right

    def between(self, low_mm: float, high_mm: float) -> SpinalCurve:
        """The piece between two arc lengths, frames kept; may be empty."""
        kept = (self.arc_mm >= low_mm) & (self.arc_mm <= high_mm)
        return SpinalCurve(
            self.point_mm[kept],
            self.arc_mm[kept],
            self.down[kept],
            self.front[kept],
            self.right[kept],
        )

    @property
    def length_mm(self) -> float:
        """From the first to the last point along the curve."""
        return float(self.arc_mm[-1] - self.arc_mm[0])

    @property
    def _step_mm(self) -> float:
        return float(self.arc_mm[1] - self.arc_mm[0])


def resample(point_mm: Float64, step_mm: float) -> Float64:
    """Points at an even distance along the polyline through ``(m, 3)`` points."""
    lengths = np.linalg.norm(np.diff(point_mm, axis=0), axis=1)
    kept = np.concatenate(([True], lengths > 1e-6))
    along = np.concatenate(([0.0], np.cumsum(lengths)))[kept]
    wanted = np.arange(0.0, along[-1] + 1e-9, step_mm)
    return np.stack([np.interp(wanted, along, point_mm[kept, k]) for k in range(3)], axis=1)


def smooth(values: Float64, sigma: float) -> Float64:
    """Gaussian along the first axis, ends held."""
    return np.asarray(ndimage.gaussian_filter1d(values, sigma, axis=0, mode="nearest"))


def _tangents(points: Float64, sigma: float) -> Float64:
    slope = np.gradient(smooth(points, sigma), axis=0)
    unit: Float64 = slope / np.linalg.norm(slope, axis=1, keepdims=True)
    return unit
