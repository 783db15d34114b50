"""Painting signed distances with soft edges into CT, T2, STIR and labels at once.

A structure gives its signed distance in mm, positive inside. Its edge is one pixel wide: the part
of a voxel inside it mixes HU and signal linearly, which is what partial volume does. So a cortex
of 0.6 mm stays visible at 0.75 mm without sampling the plane more finely.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.phantom.frame import Coordinates
from pipeline.phantom.noise import Array
from pipeline.phantom.tissues import Palette, Tissue

Index = NDArray[np.intp]
Value = float | Array


class Canvas:
    """Values at points that are sorted along the spine, so that a level is a slice of them.

    Args:
        coordinates: Of the points, sorted by ``along``.
        palette: What each tissue looks like.
        edge_mm: Width of a soft edge, about one pixel.
    """

    def __init__(self, coordinates: Coordinates, palette: Palette, edge_mm: float) -> None:
        self.at = coordinates
        self.palette = palette
        self.edge_mm = edge_mm
        count = len(coordinates.x)
        self.label = np.zeros(count, dtype=np.uint8)
        self.label_on_ct = self.label.copy()
        self.ct = np.full(count, palette.hu[Tissue.AIR], dtype=np.float32)
        self.t2 = np.full(count, palette.t2[Tissue.AIR], dtype=np.float32)
        self.stir = np.full(count, palette.stir[Tissue.AIR], dtype=np.float32)
        self._is_ct_kept = False

    @contextmanager
    def without_ct(self) -> Iterator[None]:
        """What is painted in this block leaves the CT as it is."""
        self._is_ct_kept = True
        try:
            yield
        finally:
            self._is_ct_kept = False

    def shows_on_ct(self, is_hidden: bool) -> bool:
        """Whether what is painted now goes onto the CT too."""
        return not (is_hidden or self._is_ct_kept)

    def everywhere(self) -> Region:
        """All points."""
        return Region(self, np.arange(len(self.label)), self.at)

    def between(
        self, along: tuple[float, float], normal: tuple[float, float], lateral: float
    ) -> Region:
        """The points in a box of the spine frame; ``lateral`` is the largest absolute value."""
        low, high = np.searchsorted(self.at.along, np.asarray(along, dtype=np.float32))
        span = slice(int(low), int(high))
        n = self.at.normal[span]
        keep = (n > normal[0]) & (n < normal[1]) & (np.abs(self.at.lateral[span]) < lateral)
        index = np.flatnonzero(keep) + span.start
        return Region(self, index, self.at.take(index))

    def head_box(
        self, front: tuple[float, float], up: tuple[float, float], lateral: float
    ) -> Region:
        """The points in a box of the head frame."""
        at = self.at
        keep = (at.up > up[0]) & (at.up < up[1]) & (at.front > front[0]) & (at.front < front[1])
        keep &= np.abs(at.head_lateral) < lateral
        index = np.flatnonzero(keep)
        return Region(self, index, at.take(index))


@dataclass(frozen=True, eq=False)
class Region:
    """Some points of a canvas: ``s`` along, ``n`` normal, ``x`` lateral."""

    canvas: Canvas
    index: Index
    at: Coordinates

    @property
    def s(self) -> Array:
        """Along the spine, mm."""
        return self.at.along

    @property
    def n(self) -> Array:
        """In front of the canal's front wall, mm."""
        return self.at.normal

    @property
    def x(self) -> Array:
        """To the left of the spine's midline, mm."""
        return self.at.lateral

    @property
    def labels(self) -> NDArray[np.uint8]:
        """What was painted here so far."""
        return self.canvas.label[self.index]

    @property
    def labels_on_ct(self) -> NDArray[np.uint8]:
        """The same, without what the CT does not show."""
        return self.canvas.label_on_ct[self.index]

    def where(self, keep: NDArray[np.bool_]) -> Region:
        """The points that ``keep`` selects."""
        chosen = np.flatnonzero(keep)
        return Region(self.canvas, self.index[chosen], self.at.take(chosen))

    def paint(
        self,
        tissue: Tissue,
        distance: Array,
        *,
        hu: Value | None = None,
        t2: Value | None = None,
        stir: Value | None = None,
        is_hidden_on_ct: bool = False,
    ) -> None:
        """Mix a tissue in where its signed distance says.

        Args:
            tissue: Gives the label and, unless overridden, the values.
            distance: ``(point,)`` mm, positive inside.
            hu: HU in place of the palette's; a number or ``(point,)``.
            t2: T2 signal in place of the palette's.
            stir: STIR signal in place of the palette's.
            is_hidden_on_ct: Leave the CT as it is (an occult finding).
        """
        if not len(self.index):
            return
        cover = np.clip(distance / self.canvas.edge_mm + 0.5, 0, 1).astype(np.float32)
        touched = np.flatnonzero(cover > 0)
        if not len(touched):
            return
        cover = cover[touched]
        index = self.index[touched]
        canvas, palette = self.canvas, self.canvas.palette
        values = [(canvas.t2, t2, palette.t2), (canvas.stir, stir, palette.stir)]
        shows_on_ct = canvas.shows_on_ct(is_hidden_on_ct)
        if shows_on_ct:
            values.append((canvas.ct, hu, palette.hu))
        for plane, own, table in values:
            value = table[tissue] if own is None else own
            if isinstance(value, np.ndarray) and value.ndim:
                value = value[touched]
            old = plane[index]
            plane[index] = old + cover * (value - old)
        filled = index[cover >= 0.5]
        canvas.label[filled] = tissue
        if shows_on_ct:
            canvas.label_on_ct[filled] = tissue


def ellipsoid(*axes: tuple[Array, float]) -> Array:
    """Signed distance (first order) to an ellipsoid; each axis is ``(offset, radius)`` in mm."""
    near = sum((offset / radius) ** 2 for offset, radius in axes)
    slope = sum((offset / radius**2) ** 2 for offset, radius in axes)
    k = np.sqrt(near)
    out: Array = (k * (1 - k) / np.sqrt(np.maximum(slope, 1e-8))).astype(np.float32)
    # at the very center the quotient is 0 / 0; any depth beyond the edge will do
    smallest = min(float(np.min(radius)) for _, radius in axes)
    return np.where(k < 0.1, np.float32(0.9 * smallest), out)


def capsule(
    point: tuple[Array, ...], start: tuple[float, ...], end: tuple[float, ...], radius: Value
) -> Array:
    """Signed distance to a rod with round ends between two points of the same frame."""
    way = np.subtract(end, start)
    length2 = float(way @ way)
    offset = [p - np.float32(a) for p, a in zip(point, start, strict=True)]
    along = np.clip(
        sum(o * np.float32(w) for o, w in zip(offset, way, strict=True)) / length2, 0, 1
    )
    far2 = sum((o - along * np.float32(w)) ** 2 for o, w in zip(offset, way, strict=True))
    return (radius - np.sqrt(far2)).astype(np.float32)


def slab(offset: Array, half_thickness: Value) -> Array:
    """Signed distance to a plate."""
    return (half_thickness - np.abs(offset)).astype(np.float32)


def inside_all(*distances: Array) -> Array:
    """Signed distance to the intersection."""
    out = distances[0]
    for other in distances[1:]:
        out = np.minimum(out, other)
    return out


def blend(first: Array, second: Array, width_mm: float) -> Array:
    """Signed distance to the union, with the groove between the two filled."""
    weight = np.clip(0.5 + 0.5 * (first - second) / width_mm, 0, 1)
    out: Array = second + (first - second) * weight + width_mm * weight * (1 - weight)
    return out
