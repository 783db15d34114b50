"""Where voxels are: one index order, one frame, one unit.

Arrays are indexed ``(slice, row, column)``; an integer index is the center of a voxel
(PS3.3 C.7.6.2.1.1). Positions are LPS millimeters of the patient's frame of reference: x to the
left, y to posterior, z to the head. An affine maps a homogeneous index column
``(slice, row, column, 1)`` to a homogeneous position, as `highdicom.Volume.affine` does;
SimpleITK's order is the reverse and is handled in one place, here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxels in the patient; steps need not be orthogonal (gantry tilt).

    Args:
        shape: Voxels along ``(slice, row, column)``, each at least 1.
        affine: ``(4, 4)`` index to LPS millimeters, invertible, last row ``0 0 0 1``.

    Raises:
        ValueError: When the shape or the affine breaks the above.
    """

    shape: tuple[int, int, int]
    affine: Float64

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid needs three sizes of at least 1, not {self.shape}")
        if affine.shape != (4, 4) or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise ValueError("a grid's affine is (4, 4) with last row 0 0 0 1")
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError("a grid's affine must be finite and invertible")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @classmethod
    def from_steps(cls, shape: tuple[int, int, int], origin_mm: Float64, steps_mm: Float64) -> Grid:
        """A grid from the first voxel's center and the step of each index.

        Args:
            shape: Voxels along ``(slice, row, column)``.
            origin_mm: ``(3,)`` LPS position of voxel ``(0, 0, 0)``.
            steps_mm: ``(3, 3)``, row *i* is the LPS step of index axis *i*.
        """
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(steps_mm, dtype=np.float64).T
        affine[:3, 3] = origin_mm
        return cls(shape, affine)

    @property
    def origin_mm(self) -> Float64:
        """LPS position of voxel ``(0, 0, 0)``, ``(3,)``."""
        return self.affine[:3, 3]

    @property
    def steps_mm(self) -> Float64:
        """``(3, 3)``, row *i* is the LPS step of index axis *i*."""
        return self.affine[:3, :3].T

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length of one step along slice, row and column."""
        lengths = np.linalg.norm(self.steps_mm, axis=1)
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))

    @property
    def directions(self) -> Float64:
        """Unit step vectors, ``(3, 3)``, row *i* for index axis *i*."""
        unit: Float64 = self.steps_mm / np.linalg.norm(self.steps_mm, axis=1, keepdims=True)
        return unit

    @property
    def image_orientation(self) -> Float64:
        """Image Orientation (Patient) (0020,0037), ``(6,)``.

        The first triple is the direction of increasing column index, the second of increasing
        row index (PS3.3 C.7.6.2.1.1).
        """
        return np.concatenate((self.directions[2], self.directions[1]))

    @property
    def slice_normal(self) -> Float64:
        """Unit normal of the slices: row direction x column direction of `image_orientation`."""
        normal = np.cross(self.directions[2], self.directions[1])
        unit: Float64 = normal / np.linalg.norm(normal)
        return unit

    @property
    def is_sheared(self) -> bool:
        """Whether the slice step leaves the slice normal by over 0.1 degree (gantry tilt)."""
        cosine = abs(float(self.directions[0] @ self.slice_normal))
        return cosine < float(np.cos(np.deg2rad(0.1)))

    def image_position(self, slice_index: int) -> Float64:
        """Image Position (Patient) (0020,0032) of a slice: its voxel ``(row 0, column 0)``."""
        return self.to_mm(np.array([slice_index, 0, 0], dtype=np.float64))

    def to_mm(self, index: Float64) -> Float64:
        """LPS positions of indices ``(..., 3)`` in ``(slice, row, column)`` order."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.origin_mm

    def to_index(self, position_mm: Float64) -> Float64:
        """Continuous ``(slice, row, column)`` indices of LPS positions ``(..., 3)``."""
        inverse = np.linalg.inv(self.affine[:3, :3])
        return (np.asarray(position_mm, dtype=np.float64) - self.origin_mm) @ inverse.T


@dataclass(frozen=True, eq=False)
class Volume:
    """Values on a grid: HU for CT, signal relative to CSF for MRI.

    Args:
        values: ``(slice, row, column)`` float32, finite.
        grid: Where they are.
        frame_of_reference_uid: (0020,0052) of the patient's space.
    """

    values: Float32
    grid: Grid
    frame_of_reference_uid: str

    def __post_init__(self) -> None:
        if self.values.shape != self.grid.shape:
            raise ValueError(f"values are {self.values.shape}, the grid is {self.grid.shape}")
        if self.values.dtype != np.float32:
            raise ValueError(f"values are {self.values.dtype}, expected float32")

    def to_sitk(self) -> Any:
        """The same volume as a `SimpleITK.Image` (LPS too, but index order column, row, slice).

        Raises:
            ValueError: For a sheared grid, which a SimpleITK image cannot hold.
        """
        # Half of what a receiving process would hold: the node asks geometry only.
        import SimpleITK as sitk  # noqa: PLC0415

        if self.grid.is_sheared:
            raise ValueError("a SimpleITK image cannot hold a sheared grid; resample it first")
        image = sitk.GetImageFromArray(self.values)
        image.SetOrigin([float(v) for v in self.grid.origin_mm])
        spacing = self.grid.spacing_mm
        image.SetSpacing([spacing[2], spacing[1], spacing[0]])
        image.SetDirection(self.grid.directions[::-1].T.ravel().tolist())
        return image
