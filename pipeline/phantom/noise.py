"""Smooth random fields that are functions of position, so that no grid changes the patient."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from pipeline.geometry import Float32

Array = NDArray[np.floating[Any]]
"""Values at points: float32, or float64 where a table in double precision was mixed in."""

LATTICE_NODES = 128
"""Nodes along each axis of the periodic lattice; a power of two, so that wrapping is a mask."""

NODES_PER_CORRELATION = 3.0
"""Nodes in one correlation length: enough for linear interpolation to look smooth."""


@cache
def _lattice() -> Float32:
    """The one lattice all fields are cut from: zero mean, unit variance, periodic."""
    rng = np.random.default_rng(20240117)
    nodes = rng.standard_normal((LATTICE_NODES,) * 3, dtype=np.float32)
    nodes = gaussian_filter(nodes, NODES_PER_CORRELATION / 2.0, mode="wrap")
    out: Float32 = (nodes - nodes.mean()) / nodes.std()
    out.setflags(write=False)
    return out


class Field:
    """A random field with zero mean and unit variance.

    Args:
        rng: Gives the field its place in the lattice.
        scale_mm: Correlation length along the three axes of the positions it will be asked for.
    """

    def __init__(self, rng: np.random.Generator, scale_mm: tuple[float, float, float]) -> None:
        self._per_mm = (NODES_PER_CORRELATION / np.asarray(scale_mm)).astype(np.float32)
        self._offset = rng.uniform(0, LATTICE_NODES, 3).astype(np.float32)

    def _nodes(self, axes: tuple[Array, Array, Array]) -> list[Array]:
        return [
            p * per_mm + offset
            for p, per_mm, offset in zip(axes, self._per_mm, self._offset, strict=True)
        ]

    def smooth(self, *axes: Array) -> Float32:
        """Values at positions in mm, linearly interpolated: for shapes."""
        first, second, third = axes
        nodes = np.stack(self._nodes((first, second, third)))
        out: Float32 = map_coordinates(
            _lattice(), nodes, order=1, mode="grid-wrap", output=np.float32
        )
        return out

    def rough(self, *axes: Array) -> Float32:
        """Values of the nearest node: for textures, ten times faster."""
        first, second, third = axes
        mask = LATTICE_NODES - 1
        i, j, k = (np.floor(p).astype(np.int32) & mask for p in self._nodes((first, second, third)))
        flat: NDArray[np.int32] = (i * LATTICE_NODES + j) * LATTICE_NODES + k
        return _lattice().ravel()[flat]


class Profile:
    """A smooth function of one coordinate through knots, constant outside them.

    Args:
        knots: Positions, increasing.
        values: Values there.
        step: Spacing of the table it is read from.
    """

    def __init__(self, knots: object, values: object, step: float = 0.5) -> None:
        # imported here: scipy.interpolate is slow to load and only drawing a patient needs it
        from scipy.interpolate import PchipInterpolator  # noqa: PLC0415

        x = np.asarray(knots, dtype=np.float64)
        self._start = float(x[0])
        self._per_step = 1.0 / step
        at = np.arange(x[0], x[-1] + step, step)
        curve = PchipInterpolator(x, np.asarray(values, dtype=np.float64))
        self._table = curve(np.minimum(at, x[-1])).astype(np.float32)

    def __call__(self, at: Array) -> Float32:
        """Values at ``at``, any shape."""
        node = np.clip((at - self._start) * self._per_step, 0, len(self._table) - 1.001)
        low = node.astype(np.int32)
        fraction = node - low
        table = self._table
        out: Float32 = (table[low] * (1 - fraction) + table[low + 1] * fraction).astype(np.float32)
        return out

    def at(self, position: float) -> float:
        """The value at one position."""
        return float(self(np.asarray([position], dtype=np.float32))[0])
