"""What can be measured without a truth: the same on a real neck and on phantoms.

Tissues are told from the CT alone, by HU and by their place beside the canal, so that a phantom's
figures and a real neck's mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, minimum_filter

from pipeline.canal_rows import read_rows
from pipeline.contrast import Contrast
from pipeline.course import Course
from pipeline.geometry import Float32

Mask = NDArray[np.bool_]

FRONT_MM, BACK_MM = 32.0, 45.0
"""The corridor of the spine around the middle of the canal."""

BONE_HU = 250.0
DARK_SIGNAL = 0.2
MARROW_HU = (120.0, 500.0)
MUSCLE_HU = (30.0, 100.0)
BODY_MM = (10.0, 30.0)
"""Where the front of the vertebral bodies is looked for, before the middle of the canal."""

STRIP_MM = (1.5, 4.5)
"""Soft tissue before the vertebral bodies."""

NOISE_HU = 20.0
SKIN_HU = -300.0


@dataclass(frozen=True)
class ReferenceFree:
    """Measures of one neck.

    Args:
        rows: Points of the canal, half a millimeter apart, from C1 to T3 within the stack.
        resolved: Share that shows cord in CSF (bright, dark, bright) on T2.
        csf_peak: Median of the mean of both CSF columns' peaks on T2.
        csf_p95: 95th percentile of T2 inside the canal.
        dark_edges: Share of bone-edge pixels of the CT with a dark T2 pixel beside it.
        dark_soft: The same in soft tissue of the corridor: what chance gives.
        edge_signal: Mean T2 at the bone edges, the darkest of 3 x 3 pixels.
        stir_p99: 99th percentile of STIR in what the CT shows as marrow, muscle and prevertebral
            soft tissue.
        change: Mean absolute change of each contrast in the body under added noise; empty when
            not measured.
    """

    rows: int
    resolved: float
    csf_peak: float
    csf_p95: float
    dark_edges: float
    dark_soft: float
    edge_signal: float
    stir_p99: Mapping[str, float]
    change: Mapping[Contrast, float]


def measure(ct: Float32, images: Mapping[Contrast, Float32], course: Course) -> ReferenceFree:
    """Measure one stack; the change under noise is `noise_change`.

    Args:
        ct: HU, ``(slice, row, column)``.
        images: Of the same shape.
        course: Of the canal, roughly; its walls are found in the CT.
    """
    t2, stir = images[Contrast.T2], images[Contrast.STIR]
    course = course.between_walls(ct)
    rows = read_rows(t2, course)
    inside = course.within(ct.shape, course.half_mm - 0.5, course.half_mm - 0.5)
    corridor = course.within(ct.shape, FRONT_MM, BACK_MM)
    bone = ct > BONE_HU
    edges = corridor & bone & ~_eroded(bone)
    soft = corridor & (ct > -30) & (ct < 150)
    darkest = minimum_filter(t2, (1, 3, 3))
    return ReferenceFree(
        rows=len(course.index),
        resolved=rows.resolved,
        csf_peak=float(np.median(rows.csf)),
        csf_p95=float(np.percentile(t2[inside], 95)),
        dark_edges=float((darkest[edges] < DARK_SIGNAL).mean()),
        dark_soft=float((darkest[soft] < DARK_SIGNAL).mean()),
        edge_signal=float(darkest[edges].mean()),
        stir_p99={
            name: float(np.percentile(stir[mask], 99))
            for name, mask in tissues(ct, course).items()
            if mask.any()
        },
        change={},
    )


def tissues(ct: Float32, course: Course) -> dict[str, Mask]:
    """Marrow, muscle and prevertebral soft tissue as the CT shows them."""
    smooth = gaussian_filter(ct, (0, 1.0, 1.0))
    bodies = course.within(ct.shape, FRONT_MM, -course.half_mm - 1.5)
    behind = course.within(ct.shape, -22.0, BACK_MM)
    is_marrow = _eroded((smooth > MARROW_HU[0]) & (smooth < MARROW_HU[1]))
    is_muscle = _eroded(_eroded((smooth > MUSCLE_HU[0]) & (smooth < MUSCLE_HU[1])))
    return {
        "marrow": is_marrow & bodies,
        "muscle": is_muscle & behind,
        "prevertebral": _strip(smooth, course),
    }


def _strip(smooth: Float32, course: Course) -> Mask:
    """Soft tissue just before the last bone in front of the canal."""
    steps = np.arange(*BODY_MM, 0.5)
    rows, columns = course.points(steps)
    slices = np.rint(course.index[:, 0]).astype(np.intp)
    rows, columns = _inside(rows, columns, smooth.shape)
    hu = smooth[slices[:, None], rows, columns]
    is_bone = hu > 150
    last = steps[is_bone.shape[1] - 1 - is_bone[:, ::-1].argmax(axis=1)]
    mask = np.zeros(smooth.shape, dtype=bool)
    has_bone = is_bone.any(axis=1)
    for offset in np.arange(*STRIP_MM, 0.5):
        rows, columns = _inside(*course.points(last[:, None] + offset), smooth.shape)
        mask[slices[has_bone], rows[has_bone, 0], columns[has_bone, 0]] = True
    return mask & (smooth > 10) & (smooth < MUSCLE_HU[1] + 10)


def _inside(
    rows: NDArray[np.intp], columns: NDArray[np.intp], shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return rows.clip(0, shape[1] - 1), columns.clip(0, shape[2] - 1)


def noise_change(
    ct: Float32,
    images: Mapping[Contrast, Float32],
    method: Callable[[Float32], Mapping[Contrast, Float32]],
    seed: int = 3,
) -> dict[Contrast, float]:
    """Mean absolute change in the body when `NOISE_HU` of a soft kernel's noise is added."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(ct.shape), (0, 0.6, 0.6))
    changed = method((ct + NOISE_HU * noise / noise.std()).astype(np.float32))
    body = ct > SKIN_HU
    return {c: float(np.abs(changed[c] - images[c])[body].mean()) for c in images}


def _eroded(mask: Mask) -> Mask:
    """One pixel less all around, slice by slice."""
    cross = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], dtype=bool)
    out: Mask = binary_erosion(mask, cross)
    return out
