"""Where the parts of the spine lie in a sagittal stack, from the CT and the gate's anatomy alone.

No truth goes in, so a patient's figures and a phantom's mean the same. The places are coarse:
boxes along the canal, narrowed by HU. They say where to look, they are no segmentation.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from pipeline.geometry import Float32, Float64, Volume

Mask = NDArray[np.bool_]
UInt8 = NDArray[np.uint8]

ABOVE_MM = 15.0
"""Above C2/3: the body of C2. The dens has neither disc nor canal walls as the others have."""

CANAL_MM, CANAL_ASIDE_MM = 5.0, 6.5
"""Half of the canal front to back without its walls, and half of the cord's width."""

WALL_MM = 4.0
"""From there to the bodies and discs: the canal's wall lies 7 mm before its middle, give or take
two."""

SOFT_HU = (-50.0, 150.0)
DISC_MM, DISC_ALONG_MM, DISC_ASIDE_MM = 7.0, 2.6, 6.5
DISC_HU = (20.0, 170.0)
BONE_HU = 160.0
BODY_FRONT_MM = (8.0, 34.0)
"""Where the front of the vertebral bodies is looked for, before the middle of the canal."""

FRONT_ALONG_MM = 7
"""The front of a body is carried so far over the disc beside it."""

STRIP_MM = (0.8, 5.0)
"""Soft tissue before the vertebral bodies: longitudinal ligament and what swells with it."""

STRIP_HU = (0.0, 110.0)
BEHIND_MM = (9.0, 30.0)
"""Behind the middle of the canal: ligamentum flavum, between the spinous processes."""

BEHIND_ASIDE_MM = 3.5
BEHIND_HU = (-60.0, 120.0)
VERTEBRA_MM, VERTEBRA_ASIDE_MM = 32.0, 9.5
BODY_ASIDE_MM = 8.0
"""Half of a body's width, short of the foramina of the vertebral arteries."""


class Region(StrEnum):
    """Where a reader of a trauma MRI looks; the canal stands for the cord in it."""

    CANAL = "canal"
    DISCS = "discs"
    PREVERTEBRAL = "prevertebral"
    INTERSPINOUS = "interspinous"
    BODIES = "bodies"


LIGAMENTS = (Region.PREVERTEBRAL, Region.INTERSPINOUS)


@dataclass(frozen=True, eq=False)
class Places:
    """Labelled pixels of a stack, ``(slice, row, column)`` uint8; 0 is elsewhere.

    Args:
        regions: 1 + the place of a `Region` in its enumeration.
        vertebrae: 1 + the index of a vertebra in `names`.
        names: Of the vertebrae, such as ``"C3"``, from the head down.

    Raises:
        ValueError: When the two do not have one shape.
    """

    regions: UInt8
    vertebrae: UInt8
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.regions.shape != self.vertebrae.shape:
            raise ValueError(f"{self.regions.shape} regions, {self.vertebrae.shape} vertebrae")

    def region(self, region: Region) -> Mask:
        """The pixels of a region."""
        return np.asarray(self.regions == 1 + list(Region).index(region))

    def vertebra(self, name: str) -> Mask:
        """The surroundings of a vertebra."""
        return np.asarray(self.vertebrae == 1 + self.names.index(name))


@dataclass(frozen=True, eq=False)
class _Along:
    """Every pixel's place beside the canal, mm.

    Args:
        arc: Along the canal from its first point, ``(1, row, column)``.
        front: To the front of the middle of the canal, ``(1, row, column)``.
        aside: From the middle of the canal, ``(slice, row, column)``, at least 0.
    """

    arc: Float64
    front: Float64
    aside: Float64


def find_places(stack: Volume, centerline_mm: Float64, discs_mm: Mapping[str, Float64]) -> Places:
    """Find the places.

    Args:
        stack: CT in HU, ``(slice, row, column)``, sagittal.
        centerline_mm: ``(n, 3)`` LPS, the middle of the canal, cranial to caudal.
        discs_mm: A point in each disc, ``(3,)`` LPS, by name, cranial to caudal from ``"C2/3"``.
    """
    path = _path(stack, centerline_mm)
    along = _along(stack, path)
    arcs = {name: _arc_of(stack, path, point) for name, point in discs_mm.items()}
    smooth = np.asarray(ndimage.gaussian_filter(stack.values, (0, 0.8, 0.8)), dtype=np.float32)
    regions = np.zeros(stack.values.shape, dtype=np.uint8)
    for number, region in enumerate(Region, start=1):
        # What is canal stays canal; the regions hardly touch.
        regions[_region(region, smooth, along, arcs) & (regions == 0)] = number
    names = _vertebrae(tuple(arcs))
    vertebrae = np.zeros(regions.shape, dtype=np.uint8)
    near = (along.aside <= VERTEBRA_ASIDE_MM) & (np.abs(along.front) <= VERTEBRA_MM)
    for number, (top, bottom) in enumerate(itertools.pairwise(arcs.values()), start=1):
        vertebrae[near & (along.arc > top) & (along.arc <= bottom)] = number
    return Places(regions, vertebrae, names)


def _vertebrae(discs: tuple[str, ...]) -> tuple[str, ...]:
    """The vertebrae between discs: ``("C2/3", "C3/4")`` have C3 between them."""
    return tuple(disc.split("/")[0] for disc in discs[1:])


def _path(stack: Volume, centerline_mm: Float64) -> Float64:
    """The canal's middle in the stack, ``(n, 3)`` mm along slice, row and column, smooth."""
    index = stack.grid.to_index(centerline_mm) * np.array(stack.grid.spacing_mm)
    arc = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(index, axis=0), axis=1))))
    at = np.arange(0.0, arc[-1], 1.0)
    path = np.stack([np.interp(at, arc, axis) for axis in index.T], axis=1)
    return np.asarray(ndimage.gaussian_filter1d(path, 4.0, axis=0, mode="nearest"))


def _along(stack: Volume, path: Float64) -> _Along:
    slices, rows, columns = stack.grid.shape
    between_slices, between_rows, between_columns = stack.grid.spacing_mm
    r, c = np.indices((rows, columns), dtype=np.float64)
    pixels = np.stack((r * between_rows, c * between_columns), axis=-1).reshape(-1, 2)
    _, nearest = cKDTree(path[:, 1:]).query(pixels)
    tangent = np.gradient(path[:, 1:], axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    forward = np.stack((tangent[:, 1], -tangent[:, 0]), axis=1)
    front = np.einsum("ij,ij->i", pixels - path[nearest, 1:], forward[nearest])
    # Between two points of the path, so that the arc is not in steps; beyond its ends it goes on.
    arc = nearest + np.einsum("ij,ij->i", pixels - path[nearest, 1:], tangent[nearest])
    aside = np.arange(slices)[:, None] * between_slices - path[nearest, 0]
    shape = (1, rows, columns)
    return _Along(
        arc.reshape(shape), front.reshape(shape), np.abs(aside).reshape(slices, rows, columns)
    )


def _arc_of(stack: Volume, path: Float64, point_mm: Float64) -> float:
    point = stack.grid.to_index(point_mm) * np.array(stack.grid.spacing_mm)
    return float(np.linalg.norm(path[:, 1:] - point[1:], axis=1).argmin())


def _region(region: Region, smooth: Float32, along: _Along, arcs: Mapping[str, float]) -> Mask:
    first, last = min(arcs.values()), max(arcs.values())
    in_neck = (along.arc >= first - ABOVE_MM) & (along.arc <= last)
    if region is Region.CANAL:
        inside = (np.abs(along.front) <= CANAL_MM) & (along.aside <= CANAL_ASIDE_MM)
        return np.asarray(in_neck & inside & _between(smooth, SOFT_HU))
    if region is Region.DISCS:
        return _discs(smooth, along, arcs)
    if region is Region.PREVERTEBRAL:
        before = along.front - _body_front(smooth, along)
        inside = (before >= STRIP_MM[0]) & (before <= STRIP_MM[1])
        inside = inside & (along.aside <= DISC_ASIDE_MM)
        return np.asarray(in_neck & inside & _between(smooth, STRIP_HU))
    if region is Region.BODIES:
        front = _body_front(smooth, along)
        inside = (along.front >= CANAL_MM + WALL_MM) & (along.front <= front) & np.isfinite(front)
        return np.asarray(in_neck & inside & (along.aside <= BODY_ASIDE_MM))
    behind = (along.front <= -BEHIND_MM[0]) & (along.front >= -BEHIND_MM[1])
    inside = behind & (along.aside <= BEHIND_ASIDE_MM)
    return np.asarray(in_neck & inside & _between(smooth, BEHIND_HU))


def _discs(smooth: Float32, along: _Along, arcs: Mapping[str, float]) -> Mask:
    """Between the end-plates, in front of the canal and behind the front of the bodies."""
    at_disc = np.zeros(along.arc.shape, dtype=np.bool_)
    for arc in arcs.values():
        at_disc |= np.abs(along.arc - arc) <= DISC_ALONG_MM
    depth = np.abs(along.front - (CANAL_MM + WALL_MM + DISC_MM)) <= DISC_MM
    inside = at_disc & depth & (along.aside <= DISC_ASIDE_MM)
    return np.asarray(inside & _between(smooth, DISC_HU))


def _body_front(smooth: Float32, along: _Along) -> Float64:
    """How far in front of the canal the bodies end, ``(slice, row, column)``; infinite if nowhere.

    The foremost bone at each millimeter of the canal, carried over the discs.
    """
    inside = (along.front >= BODY_FRONT_MM[0]) & (along.front <= BODY_FRONT_MM[1])
    bins = np.clip(np.rint(along.arc), 0, None).astype(np.intp)
    count = int(bins.max()) + 1
    reach = np.full((len(smooth), count), -np.inf)
    for number, values in enumerate(smooth):
        bone = inside[0] & (values > BONE_HU)
        np.maximum.at(reach[number], bins[0][bone], along.front[0][bone])
    carried = ndimage.maximum_filter1d(reach, FRONT_ALONG_MM, axis=1)
    carried[~np.isfinite(carried)] = np.inf
    return np.asarray(carried[:, bins[0]])


def _between(smooth: Float32, hu: tuple[float, float]) -> Mask:
    return np.asarray((smooth > hu[0]) & (smooth < hu[1]))
