"""The same patient, scanned or spoiled otherwise; each with the way back to the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pipeline.geometry import Grid, Volume


@dataclass(frozen=True)
class Perturbed:
    """A changed CT and the rigid motion ``(4, 4)`` that was applied to the patient."""

    volume: Volume
    motion: NDArray[np.float64]

    def back(self, position_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions ``(..., 3)`` in the original patient."""
        inverse = np.linalg.inv(self.motion)
        return position_mm @ inverse[:3, :3].T + inverse[:3, 3]


def turned(ct: Volume, axis: str, degrees: float) -> Perturbed:
    """The patient turned about an axis (x pitch, y roll, z yaw) through the middle of the CT."""
    middle = ct.grid.to_mm((np.array(ct.grid.shape) - 1) / 2)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    motion[:3, 3] = middle - motion[:3, :3] @ middle
    return Perturbed(_placed(ct, ct.values, motion @ ct.grid.affine), motion)


def noisy(ct: Volume, sigma_hu: float) -> Perturbed:
    """White noise on top."""
    noise = np.random.default_rng(0).standard_normal(ct.values.shape, dtype=np.float32)
    noise *= np.float32(sigma_hu)
    return Perturbed(_placed(ct, ct.values + noise, ct.grid.affine), np.eye(4))


def thicker(ct: Volume, factor: int) -> Perturbed:
    """Slices averaged in groups."""
    count, rows, columns = ct.grid.shape
    count //= factor
    values = ct.values[: count * factor].reshape(count, factor, rows, columns).mean(axis=1)
    affine = ct.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (factor - 1) / 2
    affine[:3, 0] *= factor
    return Perturbed(_placed(ct, values, affine), np.eye(4))


def cut(
    ct: Volume,
    *,
    z_mm: tuple[float, float] = (-1e4, 1e4),
    y_mm: tuple[float, float] = (-1e4, 1e4),
    x_mm: tuple[float, float] = (-1e4, 1e4),
) -> Perturbed:
    """A smaller field of view; for axial CT with slices along z."""
    ends = np.array([[x_mm[0], y_mm[0], z_mm[0]], [x_mm[1], y_mm[1], z_mm[1]]])
    index = np.sort(ct.grid.to_index(ends), axis=0)
    low = np.clip(np.round(index[0]), 0, None).astype(int)
    high = np.minimum(np.round(index[1]), np.array(ct.grid.shape)).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = ct.grid.affine.copy()
    affine[:3, 3] = ct.grid.to_mm(low.astype(float))
    return Perturbed(_placed(ct, ct.values[box], affine), np.eye(4))


def gantry_tilted(ct: Volume, degrees: float) -> Perturbed:
    """Scanned with a tilted gantry: tilted slices, table moving along z."""
    angle = np.radians(degrees)
    count, rows, columns = 295, 345, 345
    down = 0.8 * np.array([0, np.cos(angle), np.sin(angle)])
    steps = np.array([[0, 0, 1.0], down, [0.8, 0, 0]])
    middle = ct.grid.to_mm((np.array(ct.grid.shape) - 1) / 2)
    origin = middle - (np.array([count, rows, columns]) - 1) / 2 @ steps
    grid = Grid.from_steps((count, rows, columns), origin, steps)
    return Perturbed(_resampled(ct, grid), np.eye(4))


def flipped(ct: Volume, axes: Sequence[int]) -> Perturbed:
    """Index axes reversed while the header stays: a wrong orientation."""
    return Perturbed(_placed(ct, np.flip(ct.values, axes), ct.grid.affine), np.eye(4))


def rescaled(ct: Volume, slope: float, intercept: float) -> Perturbed:
    """Values on a wrong scale."""
    return Perturbed(_placed(ct, ct.values * slope + intercept, ct.grid.affine), np.eye(4))


def screwed(ct: Volume, at_mm: NDArray[np.float64]) -> Perturbed:
    """Metal screws beside the canal at positions ``(n, 3)``, with streaks across it."""
    values = ct.values.copy()
    rows, columns = np.mgrid[: ct.grid.shape[1], : ct.grid.shape[2]]
    for position in at_mm:
        for side in (-1, 1):
            path = np.arange(-5, 20, 0.3)[:, None] * np.array([0.3 * side, -1.0, 0.0])
            screw = position + np.array([14.0 * side, 0, 0]) + path
            for z, y, x in np.round(ct.grid.to_index(screw)).astype(int):
                values[z - 2 : z + 2, y - 3 : y + 4, x - 3 : x + 4] = 3071
        z, y, x = np.round(ct.grid.to_index(position)).astype(int)
        angle, radius = np.arctan2(rows - y, columns - x), np.hypot(rows - y, columns - x)
        streaks = 400 * np.sin(9 * angle + 1) * np.exp(-radius / 60)
        values[z - 3 : z + 4] += streaks.astype(np.float32)
    return Perturbed(_placed(ct, values, ct.grid.affine), np.eye(4))


def _placed(ct: Volume, values: NDArray[np.float32], affine: NDArray[np.float64]) -> Volume:
    values = np.ascontiguousarray(values, dtype=np.float32)
    return Volume(values, Grid(values.shape, affine), ct.frame_of_reference_uid)


def _resampled(ct: Volume, grid: Grid) -> Volume:
    to_source = np.linalg.inv(ct.grid.affine) @ grid.affine
    values = ndimage.affine_transform(
        ct.values,
        to_source[:3, :3],
        offset=to_source[:3, 3],
        output_shape=grid.shape,
        order=1,
        cval=-1024.0,
        output=np.float32,
    )
    return Volume(values, grid, ct.frame_of_reference_uid)
