"""Values of a volume at positions in the patient, and coarser grids that do not alias."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.geometry import Float32, Float64, Grid, Volume

# Outside the CT there is nothing: air, as a scanner pads it.
OUTSIDE_HU = -1024.0


def sample(volume: Volume, position_mm: Float64) -> Float32:
    """Trilinear values at LPS positions ``(..., 3)``; -1024 HU outside the volume's grid.

    The affine is inverted as a whole, so tilted (sheared) and rotated grids are exact.
    """
    index = volume.grid.to_index(position_mm)
    values = ndimage.map_coordinates(
        volume.values,
        np.moveaxis(index, -1, 0),
        order=1,
        mode="constant",
        cval=OUTSIDE_HU,
        output=np.float32,
    )
    return np.asarray(values, dtype=np.float32)


def crop(volume: Volume, around_mm: Float64, margin_mm: float) -> Volume:
    """The part of a volume that holds some points, as a view; geometry kept.

    Args:
        volume: Any grid.
        around_mm: ``(n, 3)`` LPS, at least one of them inside or near the volume.
        margin_mm: Kept around them along every index axis.
    """
    index = volume.grid.to_index(around_mm)
    margin = margin_mm / np.array(volume.grid.spacing_mm)
    last = np.array(volume.grid.shape) - 1
    low = np.clip(np.floor(index.min(axis=0) - margin), 0, last).astype(int)
    high = np.clip(np.ceil(index.max(axis=0) + margin), 0, last).astype(int) + 1
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    values = volume.values[box]
    origin = volume.grid.to_mm(low.astype(np.float64))
    grid = Grid.from_steps(values.shape, origin, volume.grid.steps_mm)
    return Volume(values, grid, volume.frame_of_reference_uid)


def average_blocks(volume: Volume, factors: tuple[int, int, int]) -> Volume:
    """Mean over blocks of ``factors`` voxels along (slice, row, column).

    The cheapest anti-aliasing there is; a remainder at the far end is left out. Blocks keep their
    true centers: the new origin lies ``(factor - 1) / 2`` voxels into the old grid.
    """
    if factors == (1, 1, 1):
        return volume
    slices, rows, columns = (n // f for n, f in zip(volume.grid.shape, factors, strict=True))
    fs, fr, fc = factors
    values = np.zeros((slices, rows, columns), dtype=np.float32)
    # Strided sums touch one output-sized array; a reshape-mean would copy the whole volume.
    for i in range(fs):
        for j in range(fr):
            for k in range(fc):
                values += volume.values[
                    i : slices * fs : fs, j : rows * fr : fr, k : columns * fc : fc
                ]
    values /= np.float32(fs * fr * fc)
    origin = volume.grid.to_mm((np.array(factors, dtype=np.float64) - 1) / 2)
    steps = volume.grid.steps_mm * np.array(factors, dtype=np.float64)[:, None]
    grid = Grid.from_steps((slices, rows, columns), origin, steps)
    return Volume(values, grid, volume.frame_of_reference_uid)


def upright(volume: Volume, spacing_mm: float) -> Volume:
    """The volume on an isotropic grid along the patient's axes: (head, posterior, left).

    Covers the bounding box of the volume's voxel centers; the shear of a tilted gantry and any
    rotation are resolved by the affine. Averages to about half the new spacing first, so that
    sampling does not alias.
    """
    # A volume thinner than the new spacing becomes one block: the gate then finds no neck in it.
    factors = [
        max(1, min(size, int(0.75 * spacing_mm / own)))
        for size, own in zip(volume.grid.shape, volume.grid.spacing_mm, strict=True)
    ]
    source = average_blocks(volume, (factors[0], factors[1], factors[2]))
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(source.grid.shape) - 1)
    corners_mm = source.grid.to_mm(corners)
    low, high = corners_mm.min(axis=0), corners_mm.max(axis=0)
    size = np.maximum(1, np.floor((high - low) / spacing_mm + 1e-6).astype(int) + 1)
    steps = spacing_mm * np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    grid = Grid.from_steps((int(size[2]), int(size[1]), int(size[0])), low, steps)
    to_source = np.linalg.inv(source.grid.affine) @ grid.affine
    values = ndimage.affine_transform(
        source.values,
        to_source[:3, :3],
        offset=to_source[:3, 3],
        output_shape=grid.shape,
        order=1,
        mode="constant",
        cval=OUTSIDE_HU,
        output=np.float32,
    )
    return Volume(np.asarray(values), grid, volume.frame_of_reference_uid)
