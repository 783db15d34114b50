"""From the CT's grid to the model's: an oblique mid-sagittal stack.

Index order ``(slice, row, column)``: slices step to the patient's right, rows to the feet, columns
to posterior. That is the right-handed frame of an upright patient's sagittal series, Image
Orientation (Patient) ``0\\1\\0\\0\\0\\-1`` (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.anatomy import Anatomy
from pipeline.errors import Declined
from pipeline.geometry import Float64, Grid, Volume
from pipeline.sampling import OUTSIDE_HU, crop, sample
from pipeline.symmetry import MidsagittalPlane

STACK_SHAPE = (15, 256, 256)
STACK_SPACING_MM = (3.0, 0.75, 0.75)
# A slice is the mean of its 3 mm slab; four sub-slices are 0.75 mm apart, as fine as the pixels.
SUB_SLICES = 4
# Full width at half maximum over the standard deviation of a Gaussian.
FWHM_PER_SIGMA = 2.355
# Below this many voxels a Gaussian has no effect worth its time.
SMALLEST_SIGMA = 0.1


def sagittal_stack(ct: Volume, anatomy: Anatomy) -> Volume:
    """Sample the stack from the CT, -1024 HU outside it.

    Args:
        ct: HU on any grid, tilted ones too: it is sampled through its own affine.
        anatomy: Of the same CT.

    Returns:
        `STACK_SHAPE` at `STACK_SPACING_MM` in the CT's frame of reference.

    Raises:
        Declined: ``stack.outside`` when the CT does not hold the spine's part of the stack.
    """
    grid = stack_grid(anatomy)
    _check_inside(ct, grid, anatomy)
    source = _antialiased(_around(ct, grid))
    slab_mm = STACK_SPACING_MM[0]
    offsets = (np.arange(SUB_SLICES) + 0.5) / SUB_SLICES - 0.5  # in slices, within the slab
    values = np.zeros(grid.shape, dtype=np.float32)
    rows, columns = np.indices(grid.shape[1:], dtype=np.float64)
    right = grid.directions[0] * slab_mm
    for number in range(grid.shape[0]):
        plane = grid.to_mm(np.stack((np.full_like(rows, number), rows, columns), axis=-1))
        for offset in offsets:
            values[number] += sample(source, plane + offset * right)
    values /= np.float32(SUB_SLICES)
    return Volume(values, grid, ct.frame_of_reference_uid)


def stack_grid(anatomy: Anatomy) -> Grid:
    """Where the stack lies: in the plane's direction, centered between C2/3 and C7/T1.

    That is 192 mm from the clivus to about T3. Rows run to the feet within the plane, as close to
    the patient's long axis as the plane allows.
    """
    right, down, posterior = _axes(anatomy.plane)
    discs = np.array([level.position_mm for level in anatomy.levels if level.name != "T1/2"])
    # Halfway along and halfway across: a flexed neck keeps both its ends in the picture.
    along, across = discs @ down, discs @ posterior
    plane_point = anatomy.plane.point_mm
    center = (
        (plane_point @ right) * right
        + (along.min() + along.max()) / 2 * down
        + (across.min() + across.max()) / 2 * posterior
    )
    steps = np.array([right, down, posterior]) * np.array(STACK_SPACING_MM)[:, None]
    origin = center - (np.array(STACK_SHAPE) - 1) / 2 @ steps
    return Grid.from_steps(STACK_SHAPE, origin, steps)


def _axes(plane: MidsagittalPlane) -> tuple[Float64, Float64, Float64]:
    """Unit steps of slice, row and column: right, down, posterior; right-handed."""
    right = plane.normal
    feet = np.array([0.0, 0.0, -1.0])
    down = feet - (feet @ right) * right
    down /= np.linalg.norm(down)
    return right, down, np.cross(down, right)


def _check_inside(ct: Volume, grid: Grid, anatomy: Anatomy) -> None:
    """The discs of the neck and half the stack's width beside them must lie in the CT."""
    half_mm = (STACK_SHAPE[0] - 1) / 2 * STACK_SPACING_MM[0]
    discs = np.array([level.disc_mm for level in anatomy.levels if level.name != "T1/2"])
    ends = np.concatenate([discs + side * half_mm * grid.directions[0] for side in (-1, 0, 1)])
    index = ct.grid.to_index(ends)
    is_inside = ((index >= 0) & (index <= np.array(ct.grid.shape) - 1)).all(axis=1)
    if not is_inside.all():
        raise Declined(
            "stack.outside",
            found=f"{(~is_inside).sum()} of {is_inside.size} points around the discs outside the "
            "CT",
            expected=f"all discs and {half_mm:g} mm on both sides inside",
            remedy="Send a reconstruction whose field of view holds the whole cervical spine.",
        )


def _around(ct: Volume, grid: Grid) -> Volume:
    """The part of the CT that the stack touches, so that only that is smoothed."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(grid.shape) - 1)
    corners_mm = grid.to_mm(corners.astype(np.float64))
    # Half a slab beside the outermost slices, and a few voxels for the smoothing.
    return crop(ct, corners_mm, STACK_SPACING_MM[0] / 2 + 2 * max(ct.grid.spacing_mm))


def _antialiased(part: Volume) -> Volume:
    """Blurred to the stack's pixel where the CT is finer than that.

    A Gaussian whose width at half maximum, added in squares to the CT's own pixel, gives the
    stack's.
    """
    values = part.values
    for axis, spacing_mm in enumerate(part.grid.spacing_mm):
        wanted = max(STACK_SPACING_MM[1] ** 2 - spacing_mm**2, 0.0) ** 0.5
        sigma = wanted / FWHM_PER_SIGMA / spacing_mm
        if sigma > SMALLEST_SIGMA:
            values = ndimage.gaussian_filter1d(
                values, sigma, axis=axis, mode="constant", cval=OUTSIDE_HU
            )
    return Volume(np.asarray(values, dtype=np.float32), part.grid, part.frame_of_reference_uid)
