"""What a T2 image of the neck looks like around its cord, the same on real crops and on phantoms.

Everything is relative to the CSF of the same slice, so that a coil's shading counts as little as
it can; what lies 2 cm before the canal still carries some of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from pipeline.evaluation.canal_shape import sections
from pipeline.geometry import Float32

Mask = NDArray[np.bool_]

RING_MM = 4.0
"""Around the cord: holds the CSF before, behind and beside it."""

CSF_PERCENTILE = 90.0
"""Of the ring: the level called CSF, little touched by partial volume and rootlets."""

CORE_MM = 1.2
"""From the cord's border inward: free of partial volume at 1 mm voxels."""

BODY_MM = (5.0, 13.0)
"""Before the front wall of the sac: vertebral bodies and discs, behind their front rim."""

WALL_SHARE = 0.3
"""Of CSF: where the signal before the cord falls below it, the sac ends."""

LEAST_CORD_VOXELS = 12


@dataclass(frozen=True)
class Contrasts:
    """Figures of one T2 volume, signal as a share of the slice's CSF level.

    Args:
        cord: Median of the cord's core.
        csf_ring: Median of the CSF ring: how narrow, how broken it is.
        csf_front: Peak before the cord in the midline.
        csf_back: Peak behind it.
        cord_grain: Standard deviation within the core of a slice: gray matter, grain and noise.
        cord_step: Standard deviation of the core's change to the next slice, over sqrt 2.
        body: Median of the vertebral column before the canal: mostly marrow.
        body_dark: Its 10th percentile along the spine: annulus, end-plates.
        body_bright: Its 90th percentile along the spine: nucleus, or the brightest marrow.
        body_grain: Standard deviation within the column of a slice.
        cord_ap_mm: AP diameter of the cord, perpendicular to its axis.
        cord_side_mm: Its transverse diameter.
    """

    cord: float
    csf_ring: float
    csf_front: float
    csf_back: float
    cord_grain: float
    cord_step: float
    body: float
    body_dark: float
    body_bright: float
    body_grain: float
    cord_ap_mm: float
    cord_side_mm: float


def contrasts(
    signal: Float32,
    cord: Mask,
    spacing_mm: tuple[float, float, float],
    left_out: Mask | None = None,
) -> Contrasts:
    """Measure a T2 volume around its cord.

    Args:
        signal: ``(slice, row, column)``, axial: slices from head to feet, rows to posterior.
        cord: The cord's mask, the same shape.
        spacing_mm: Of slices, rows and columns.
        left_out: Slices with any of this are not measured: a lesion.

    Raises:
        ValueError: When fewer than eight slices can be measured.
    """
    skipped = np.zeros(len(signal), bool) if left_out is None else left_out.any(axis=(1, 2))
    skipped |= cord.sum(axis=(1, 2)) < LEAST_CORD_VOXELS
    rows = [_slice(signal[z], cord[z], spacing_mm) for z in np.flatnonzero(~skipped)]
    if len(rows) < 8:
        raise ValueError(f"contrasts need at least 8 slices with a cord, found {len(rows)}")
    mean = np.nanmean(np.array(rows), axis=0)
    shape = sections(cord, cord, spacing_mm)
    body = np.array(rows)[:, 4]
    dark, bright = np.nanpercentile(body, (10, 90))
    return Contrasts(
        cord=float(mean[0]),
        csf_ring=float(mean[1]),
        csf_front=float(mean[2]),
        csf_back=float(mean[3]),
        cord_grain=float(mean[6]),
        cord_step=_step(signal, cord, spacing_mm, skipped),
        body=float(np.nanmedian(body)),
        body_dark=float(dark),
        body_bright=float(bright),
        body_grain=float(mean[5]),
        cord_ap_mm=float(np.nanmean(shape.cord_ap_mm)),
        cord_side_mm=float(np.nanmean(shape.cord_side_mm)),
    )


def _csf_level(plane: Float32, cord: Mask, in_plane_mm: tuple[float, ...]) -> tuple[float, Mask]:
    """The level of CSF and the ring it was read in."""
    outside = distance_transform_edt(~cord, sampling=in_plane_mm)
    ring = (outside > 0) & (outside < RING_MM)
    return float(np.percentile(plane[ring], CSF_PERCENTILE)), ring


def _slice(plane: Float32, cord: Mask, spacing_mm: tuple[float, float, float]) -> list[float]:
    row_mm, column_mm = spacing_mm[1:]
    level, ring = _csf_level(plane, cord, (row_mm, column_mm))
    inside = distance_transform_edt(cord, sampling=(row_mm, column_mm))
    core = plane[inside > CORE_MM] / level
    row, column = np.nonzero(cord)
    middle = round(float(column.mean()))
    profile = plane[:, max(middle - 1, 0) : middle + 2].mean(axis=1) / level
    reach = round(RING_MM / row_mm)
    front, back = profile[: row.min()][-reach:], profile[row.max() + 1 :][:reach]
    body = _body(plane, int(row.min()), middle, profile, (row_mm, column_mm)) / level
    return [
        float(np.median(core)) if len(core) else np.nan,
        float(np.median(plane[ring])) / level,
        float(front.max()) if len(front) else np.nan,
        float(back.max()) if len(back) else np.nan,
        float(np.median(body)) if body.size else np.nan,
        float(body.std()) if body.size else np.nan,
        float(core.std()) if len(core) else np.nan,
    ]


def _body(
    plane: Float32, front: int, middle: int, profile: Float32, in_plane_mm: tuple[float, ...]
) -> Float32:
    """The signal of the vertebral column before the sac, in the midline."""
    row_mm, column_mm = in_plane_mm
    dark = np.flatnonzero(profile[:front][::-1] < WALL_SHARE)
    wall = front - (int(dark[0]) if len(dark) else round(RING_MM / row_mm))
    near, far = (wall - round(mm / row_mm) for mm in BODY_MM)
    half = round(4 / column_mm)
    return plane[max(far, 0) : max(near, 0), max(middle - half, 0) : middle + half + 1]


def _step(
    signal: Float32, cord: Mask, spacing_mm: tuple[float, float, float], skipped: Mask
) -> float:
    """Change of the cord's core from slice to slice, over sqrt 2: an upper bound of the noise."""
    steps = []
    for z in range(len(signal) - 1):
        if skipped[z] or skipped[z + 1]:
            continue
        level, _ = _csf_level(signal[z], cord[z], spacing_mm[1:])
        both = distance_transform_edt(cord[z] & cord[z + 1], sampling=spacing_mm[1:]) > CORE_MM
        if both.sum() >= 6:
            steps.append(float((signal[z + 1][both] - signal[z][both]).std()) / level)
    return float(np.mean(steps)) / 2**0.5 if steps else float("nan")
