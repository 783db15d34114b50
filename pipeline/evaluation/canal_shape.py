"""The shape of canal and cord in label masks, the same for annotated CTs and for phantoms.

Sections are axial; diameters are reduced to the section perpendicular to the canal's own axis by
the cosine of its tilt, which is exact for a straight tube.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from pipeline.geometry import Float64

Mask = NDArray[np.bool_]

AXIS_SMOOTHING_MM = 8.0
"""Of the canal's centers before the tilt is taken: a slice of 2.5 mm jumps by half a voxel."""

DEPTHS = (0.15, 0.5, 0.85)
"""Where in the canal, from its front wall to its back wall, its width is read."""


@dataclass(frozen=True, eq=False)
class Sections:
    """Sections from head to feet, arrays ``(section,)``; NaN where a section has no cord.

    Args:
        along_mm: Along the canal's axis from its first section.
        canal_ap_mm: AP diameter of the canal behind and before the cord's center.
        canal_side_mm: Largest transverse diameter of the canal.
        cord_ap_mm: AP diameter of the cord.
        cord_side_mm: Transverse diameter of the cord.
        cord_center: Center of the cord as a fraction of the canal's AP, from its front wall.
        taper: Width of the canal at `DEPTHS` as a share of the largest, ``(section, 3)``.
    """

    along_mm: Float64
    canal_ap_mm: Float64
    canal_side_mm: Float64
    cord_ap_mm: Float64
    cord_side_mm: Float64
    cord_center: Float64
    taper: Float64


def sections(canal: Mask, cord: Mask, spacing_mm: tuple[float, float, float]) -> Sections:
    """Measure every axial section that has a canal.

    Args:
        canal: ``(slice, row, column)``: slices from head to feet, rows to posterior.
        cord: The same shape, within the canal.
        spacing_mm: Of slices, rows and columns.

    Raises:
        ValueError: When the shapes differ or fewer than eight slices have a canal.
    """
    if canal.shape != cord.shape:
        raise ValueError(f"canal {canal.shape} and cord {cord.shape} must have one shape")
    slices = np.flatnonzero(canal.any(axis=(1, 2)))
    if len(slices) < 8:
        raise ValueError(f"a course needs at least 8 slices with a canal, found {len(slices)}")
    centers = np.array([_centroid(canal[z]) for z in slices]) * spacing_mm[1:]
    smooth = gaussian_filter1d(centers, AXIS_SMOOTHING_MM / spacing_mm[0], axis=0, mode="nearest")
    slope = np.gradient(smooth, spacing_mm[0], axis=0)
    step = np.sqrt(1 + (slope**2).sum(axis=1)) * spacing_mm[0]
    cos_ap, cos_side = 1 / np.sqrt(1 + slope.T**2)
    rows = np.array([_section(canal[z], cord[z], spacing_mm[1:]) for z in slices])
    return Sections(
        along_mm=np.concatenate(([0.0], np.cumsum(step[1:]))),
        canal_ap_mm=rows[:, 0] * cos_ap,
        canal_side_mm=rows[:, 1] * cos_side,
        cord_ap_mm=rows[:, 2] * cos_ap,
        cord_side_mm=rows[:, 3] * cos_side,
        cord_center=rows[:, 4],
        taper=rows[:, 5:],
    )


def _centroid(mask: Mask) -> tuple[float, float]:
    row, column = np.nonzero(mask)
    return float(row.mean()), float(column.mean())


def _section(canal: Mask, cord: Mask, spacing_mm: tuple[float, ...]) -> list[float]:
    """Axial diameters of canal and cord, mm; the cord's center; `DEPTHS` of the taper."""
    row_mm, column_mm = spacing_mm
    has_cord = bool(cord.any())
    middle = round(_centroid(cord if has_cord else canal)[1])
    strip = slice(max(middle - 1, 0), middle + 2)
    walls, inner = canal[:, strip], cord[:, strip]
    ap = float(walls.sum(axis=0).mean()) * row_mm
    side = float(canal.sum(axis=1).max()) * column_mm
    if not has_cord or not inner.any() or ap == 0:
        return [ap, side, np.nan, np.nan, np.nan, *_taper(canal)]
    front = float(walls[:, walls.any(axis=0)].argmax(axis=0).mean()) - 0.5
    center = float((np.nonzero(inner)[0].mean() - front) * row_mm / ap)
    cord_ap = float(inner.sum(axis=0).mean()) * row_mm
    return [ap, side, cord_ap, float(cord.sum(axis=1).max()) * column_mm, center, *_taper(canal)]


def _taper(canal: Mask) -> list[float]:
    """Width at `DEPTHS` as a share of the largest width."""
    width = canal.sum(axis=1)[np.flatnonzero(canal.any(axis=1))]
    depth = (np.arange(len(width)) + 0.5) / len(width)
    shares: list[float] = np.interp(DEPTHS, depth, width / width.max()).tolist()
    return shares
