"""Small grids on a phantom, so that a test takes a fraction of a second."""

from __future__ import annotations

import numpy as np

from pipeline.geometry import Grid
from pipeline.phantom import Patient
from pipeline.phantom.frame import Coordinates

SAGITTAL = np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
AXIAL = np.array([[0, 0, -1.0], [0, 1.0, 0], [1.0, 0, 0]])


def sagittal(person: Patient, *, size: int = 110, spacing_mm: float = 1.5, slices: int = 1) -> Grid:
    """Slices through the midline, the middle of the neck in their center."""
    steps = SAGITTAL * np.array([[3.0], [spacing_mm], [spacing_mm]])
    half = np.array([slices - 1, size - 1, size - 1]) / 2
    return Grid.from_steps((slices, size, size), -half @ steps, steps)


def coordinates(person: Patient, grid: Grid) -> Coordinates:
    """The frames' coordinates of every voxel, ``(point,)`` in index order."""
    index = np.stack(np.indices(grid.shape), axis=-1).reshape(-1, 3)
    x, y, z = grid.to_mm(index.astype(np.float64)).T.astype(np.float32)
    return person.frame.locate(x, y, z)
