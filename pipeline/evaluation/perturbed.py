"""The same patient, scanned or spoiled otherwise; each with the way back to the original.

Made of a real CT or a phantom's, for the table of the gate (`pipeline.evaluation.gate`) and its
tests. They are crude: a shape is changed or a value, not the physics of a scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pipeline.geometry import Float32, Float64, Grid, Volume


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A changed CT and what was done to the patient.

    Args:
        volume: The changed CT.
        motion: ``(4, 4)``, rigid or scaling, from the original patient to this one.
        undo: From positions ``(..., 3)`` in a bent or twisted patient to the original's.
    """

    volume: Volume
    motion: Float64
    undo: Callable[[Float64], Float64] | None = None

    def back(self, position_mm: Float64) -> Float64:
        """Positions ``(..., 3)`` in the original patient."""
        inverse = np.linalg.inv(self.motion)
        original: Float64 = position_mm @ inverse[:3, :3].T + inverse[:3, 3]
        return original if self.undo is None else self.undo(original)


def turned(ct: Volume, axis: str, degrees: float) -> Perturbed:
    """The patient turned about an axis (x pitch, y roll, z yaw) through the middle of the CT."""
    middle = ct.grid.to_mm((np.array(ct.grid.shape) - 1) / 2)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    motion[:3, 3] = middle - motion[:3, :3] @ middle
    return Perturbed(_placed(ct, ct.values, motion @ ct.grid.affine), motion)


def scaled(ct: Volume, factor: float) -> Perturbed:
    """A smaller or larger patient, all sizes alike; a child's canal is wider than that."""
    motion = np.diag([factor, factor, factor, 1.0])
    return Perturbed(_placed(ct, ct.values, motion @ ct.grid.affine), motion)


def reordered(ct: Volume, axes: Sequence[int]) -> Perturbed:
    """Index axes reversed in values and header alike: scanned prone, or feet first."""
    steps, last = ct.grid.steps_mm.copy(), np.zeros(3)
    for axis in axes:
        steps[axis] *= -1
        last[axis] = ct.grid.shape[axis] - 1
    grid = Grid.from_steps(ct.grid.shape, ct.grid.to_mm(last), steps)
    return Perturbed(_placed(ct, np.flip(ct.values, tuple(axes)), grid.affine), np.eye(4))


def bent(ct: Volume, lateral_mm: float, at_mm: Float64) -> Perturbed:
    """A neck bowed to the left, most in the middle; vertebrae tilt with the bow.

    Args:
        ct: Axial, slices along z.
        lateral_mm: How far the middle lies beside the straight line through both ends.
        at_mm: ``(2, 3)`` LPS, upper and lower end of the bow.
    """
    top, bottom = at_mm[0, 2], at_mm[1, 2]

    def share(z_mm: Float64) -> Float64:
        return np.asarray(np.clip((z_mm - bottom) / (top - bottom), 0, 1))

    def bend_mm(z_mm: Float64) -> Float64:
        return np.asarray(lateral_mm * np.sin(np.pi * share(z_mm)) ** 2)

    def slope(z_mm: Float64) -> Float64:
        return np.asarray(lateral_mm * np.pi / (top - bottom) * np.sin(2 * np.pi * share(z_mm)))

    middle_mm = at_mm[:, 0].mean()

    def source_mm(x_mm: Float64, z_mm: Float64) -> tuple[Float64, Float64]:
        source_z = z_mm
        for _ in range(3):  # the height a vertebra came from, as it tilts about the bowed line
            aside = x_mm - middle_mm - bend_mm(source_z)
            source_z = z_mm + slope(source_z) * aside / (1 + slope(source_z) ** 2)
        return middle_mm + aside * np.sqrt(1 + slope(source_z) ** 2), source_z

    def undo(position_mm: Float64) -> Float64:
        x_mm, z_mm = source_mm(position_mm[..., 0], position_mm[..., 2])
        return np.stack([x_mm, np.asarray(position_mm[..., 1]), z_mm], axis=-1)

    z_mm, _, x_mm = (one[:, 0, :] for one in _positions_mm(ct))
    source_x, source_z = source_mm(x_mm, z_mm)
    slices = (source_z - ct.grid.origin_mm[2]) / ct.grid.steps_mm[0, 2]
    columns = (source_x - ct.grid.origin_mm[0]) / ct.grid.steps_mm[2, 0]
    values = np.empty_like(ct.values)
    for row in range(ct.grid.shape[1]):
        ndimage.map_coordinates(
            ct.values[:, row], [slices, columns], order=1, cval=-1024.0, output=values[:, row]
        )
    return Perturbed(_placed(ct, values, ct.grid.affine), np.eye(4), undo)


def twisted(ct: Volume, degrees: float, at_mm: Float64) -> Perturbed:
    """Slices turned about the line through two points, from no turn at the lower to all of it.

    Args:
        ct: Axial, slices along z.
        degrees: Of the head against the chest.
        at_mm: ``(2, 3)`` LPS, upper and lower point of the axis.
    """
    upper, lower = at_mm

    def source_mm(position_mm: Float64) -> Float64:
        share = np.clip((position_mm[..., 2] - lower[2]) / (upper[2] - lower[2]), 0, 1)
        axis_mm = lower + share[..., None] * (upper - lower)
        x_mm, y_mm = np.moveaxis((position_mm - axis_mm)[..., :2], -1, 0)
        turn = np.radians(degrees) * share
        turned_x = np.cos(turn) * x_mm + np.sin(turn) * y_mm
        turned_y = np.cos(turn) * y_mm - np.sin(turn) * x_mm
        sideways = np.stack((turned_x, turned_y), axis=-1) + axis_mm[..., :2]
        return np.concatenate((sideways, position_mm[..., 2:]), axis=-1)

    values = np.empty_like(ct.values)
    for number, z_mm in enumerate(_heights_mm(ct)):
        share = float(np.clip((z_mm - lower[2]) / (upper[2] - lower[2]), 0, 1))
        axis = ct.grid.to_index(lower + share * (upper - lower))[1:]
        turn = np.radians(degrees) * share
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        ndimage.affine_transform(
            ct.values[number],
            matrix,
            offset=axis - matrix @ axis,
            order=1,
            cval=-1024.0,
            output=values[number],
        )
    return Perturbed(_placed(ct, values, ct.grid.affine), np.eye(4), source_mm)


def moved(ct: Volume, lateral_mm: float, z_mm: tuple[float, float]) -> Perturbed:
    """The patient moved to the left for a block of slices and back; for axial CT."""
    heights = _heights_mm(ct)
    is_moved = (heights >= z_mm[0]) & (heights < z_mm[1])
    return Perturbed(_slid(ct, np.where(is_moved, lateral_mm, 0.0)), np.eye(4))


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
    return Perturbed(_placed(ct, np.flip(ct.values, tuple(axes)), ct.grid.affine), np.eye(4))


def rescaled(ct: Volume, slope: float, intercept: float) -> Perturbed:
    """Values on a wrong scale."""
    return Perturbed(_placed(ct, ct.values * slope + intercept, ct.grid.affine), np.eye(4))


def screwed(ct: Volume, at_mm: Float64) -> Perturbed:
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


def filled(ct: Volume, at_mm: Float64) -> Perturbed:
    """Dental metal at positions ``(n, 3)``, with streaks in their slices."""
    values = ct.values.copy()
    rows, columns = np.mgrid[: ct.grid.shape[1], : ct.grid.shape[2]]
    for position in at_mm:
        z, y, x = np.round(ct.grid.to_index(position)).astype(int)
        angle, radius = np.arctan2(rows - y, columns - x), np.hypot(rows - y, columns - x)
        streaks = 600 * np.sin(11 * angle) * np.exp(-radius / 150)
        values[z - 4 : z + 5] += streaks.astype(np.float32)
        values[z - 4 : z + 5, y - 6 : y + 7, x - 6 : x + 7] = 3071
    return Perturbed(_placed(ct, values, ct.grid.affine), np.eye(4))


def _heights_mm(ct: Volume) -> Float64:
    """LPS z of every slice of an axial CT, ``(slice,)``."""
    return np.asarray(ct.grid.origin_mm[2] + ct.grid.steps_mm[0, 2] * np.arange(ct.grid.shape[0]))


def _positions_mm(ct: Volume) -> tuple[Float64, Float64, Float64]:
    """LPS z, y and x of the voxels of an axial CT, each ``(slice, row, column)``, a view."""
    axes = [
        ct.grid.origin_mm[2 - axis] + ct.grid.steps_mm[axis, 2 - axis] * np.arange(size)
        for axis, size in enumerate(ct.grid.shape)
    ]
    z_mm, y_mm, x_mm = np.broadcast_arrays(*np.ix_(*axes))
    return z_mm, y_mm, x_mm


def _slid(ct: Volume, lateral_mm: Float64) -> Volume:
    """Every slice moved to the left by its own distance; columns run to the left."""
    values = np.empty_like(ct.values)
    for number, columns in enumerate(lateral_mm / ct.grid.steps_mm[2, 0]):
        ndimage.shift(ct.values[number], (0, columns), order=1, cval=-1024.0, output=values[number])
    return _placed(ct, values, ct.grid.affine)


def _placed(ct: Volume, values: Float32, affine: Float64) -> Volume:
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
