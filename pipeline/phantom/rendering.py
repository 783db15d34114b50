"""A patient on a grid: labels, CT, T2 and STIR from the same shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Float32, Grid
from pipeline.phantom.arch import paint_between, paint_interspinous_injury
from pipeline.phantom.brain import CordEntry, paint_brain
from pipeline.phantom.canal import cord_normal, paint_canal, paint_roots
from pipeline.phantom.canvas import Canvas
from pipeline.phantom.craniovertebral import paint_craniovertebral
from pipeline.phantom.face import paint_face
from pipeline.phantom.frame import Coordinates
from pipeline.phantom.neck import paint_soft_tissue
from pipeline.phantom.person import Patient
from pipeline.phantom.skull import paint_skull
from pipeline.phantom.thorax import paint_thorax
from pipeline.phantom.throat import paint_throat
from pipeline.phantom.tissues import Tissue
from pipeline.phantom.vertebra import paint_column

POINTS_AT_ONCE = 2_200_000
"""Bounds memory: about 200 bytes a point while painting."""


@dataclass(frozen=True, eq=False)
class Rendered:
    """Arrays on one grid, all ``(slice, row, column)``.

    Args:
        grid: Where.
        labels: `Tissue` values, uint8, of the middle of each slice.
        ct: HU, float32, without noise.
        t2: Signal relative to CSF, float32.
        stir: Signal relative to CSF, float32.
        ct_labels: The same as far as the CT shows it: without occult lesions, uint8.
    """

    grid: Grid
    labels: NDArray[np.uint8]
    ct: Float32
    t2: Float32
    stir: Float32
    ct_labels: NDArray[np.uint8]

    @property
    def occult(self) -> NDArray[np.bool_]:
        """Where the MRI shows a lesion that the CT does not, bool."""
        return np.asarray(self.labels != self.ct_labels)


def render(patient: Patient, grid: Grid, *, supersample: int) -> Rendered:
    """Evaluate the anatomy at the voxels of any grid.

    Args:
        patient: Whose.
        grid: In patient space (LPS mm).
        supersample: Samples across each slice's thickness; their mean is the slice.
    """
    slices, rows, columns = grid.shape
    ct, t2, stir = (np.empty(grid.shape, np.float32) for _ in range(3))
    labels, ct_labels = (np.zeros(grid.shape, np.uint8) for _ in range(2))
    out = Rendered(grid, labels, ct, t2, stir, ct_labels)
    step = max(1, POINTS_AT_ONCE // (rows * columns * supersample))
    for first in range(0, slices, step):
        last = min(first + step, slices)
        drawn, drawn_on_ct, values = _render_slices(patient, grid, first, last, supersample)
        shape = (last - first, supersample, rows, columns)
        out.labels[first:last] = drawn.reshape(shape)[:, supersample // 2]
        out.ct_labels[first:last] = drawn_on_ct.reshape(shape)[:, supersample // 2]
        for plane, value in zip((out.ct, out.t2, out.stir), values, strict=True):
            plane[first:last] = value.reshape(shape).mean(axis=1)
    return out


def _positions(grid: Grid, first: int, last: int, supersample: int) -> list[Float32]:
    """x, y, z of all sub-slices' voxels, ``(point,)`` each."""
    _, rows, columns = grid.shape
    offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
    at = (np.arange(first, last)[:, None] + offsets).reshape(-1, 1, 1)
    row, column = np.arange(rows)[None, :, None], np.arange(columns)[None, None, :]
    origin, steps = grid.origin_mm, grid.steps_mm
    return [
        (
            (origin[i] + at * steps[0, i]).astype(np.float32)
            + (row * steps[1, i]).astype(np.float32)
            + (column * steps[2, i]).astype(np.float32)
        ).ravel()
        for i in range(3)
    ]


def _render_slices(
    patient: Patient, grid: Grid, first: int, last: int, supersample: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[Float32]]:
    x, y, z = _positions(grid, first, last, supersample)
    coordinates = patient.frame.locate(x, y, z)
    depth = _outline(patient, coordinates)
    labels, ct, t2, stir = _outside(patient, y, depth)
    ct_labels = labels.copy()
    kept = np.flatnonzero(depth > -1)
    if len(kept):
        kept = kept[np.argsort(coordinates.along[kept], kind="stable")]
        canvas = Canvas(coordinates.take(kept), patient.palette, min(grid.spacing_mm[1:]))
        canvas.ct[:], canvas.label[:], canvas.label_on_ct[:] = ct[kept], labels[kept], labels[kept]
        _paint(canvas, patient, depth[kept])
        _add_texture(canvas, patient)
        labels[kept], ct[kept] = canvas.label, canvas.ct
        t2[kept], stir[kept] = canvas.t2, canvas.stir
        ct_labels[kept] = canvas.label_on_ct
    return labels, ct_labels, [ct, t2, stir]


def _outline(patient: Patient, at: Coordinates) -> Float32:
    """Signed distance into the body."""
    neck = np.minimum(patient.neck.outline(at), 24 - at.up)
    depth = np.maximum(neck, patient.head.outline(at))
    blank = patient.surroundings.blank
    if blank is not None:
        cut, height = blank
        depth = np.minimum(depth, np.maximum(cut - at.front, height - at.up))
    return depth.astype(np.float32)


def _outside(
    patient: Patient, y: Float32, depth: Float32
) -> tuple[NDArray[np.uint8], Float32, Float32, Float32]:
    """Air, table and pad."""
    palette, around = patient.palette, patient.surroundings
    labels = np.full(y.shape, Tissue.AIR, np.uint8)
    if around.table_mm is not None:
        behind = y - around.table_mm
        labels[np.abs(behind) < 1.2] = Tissue.TABLE
        labels[(behind < -1.2) & (behind > -around.foam_mm) & (depth < -3)] = Tissue.FOAM
    return labels, palette.hu[labels], palette.t2[labels], palette.stir[labels]


def _paint(canvas: Canvas, patient: Patient, depth: Float32) -> None:
    """The body from outside in; later structures cover earlier ones."""
    spine, canal, neck, injuries = patient.spine, patient.canal, patient.neck, patient.injuries
    paint_soft_tissue(canvas, neck, depth)
    paint_face(canvas, patient.head)
    paint_skull(canvas, patient.head)
    paint_brain(canvas, patient.head, _cord_entry(patient))
    paint_thorax(canvas, spine, neck.front)
    paint_throat(canvas, neck, spine, injuries)
    paint_canal(canvas, canal, spine, injuries)
    paint_between(canvas, spine, canal.width)
    paint_craniovertebral(canvas, patient.craniovertebral, spine, canal.width)
    paint_column(canvas, spine, canal, injuries)
    paint_roots(canvas, canal, spine)
    paint_interspinous_injury(canvas, neck.medium, spine, injuries, canal.width)


def _cord_entry(patient: Patient) -> CordEntry:
    """Center of the cord below and in the foramen magnum, in the head's frame."""
    points = []
    for along in (-4.0 * patient.size, -10.0 * patient.size):
        normal = cord_normal(patient.canal, patient.spine, patient.injuries, along)
        points.append(patient.frame.head_point(along, normal))
    return points[0], points[1]


def _add_texture(canvas: Canvas, patient: Patient) -> None:
    """Grain within tissues, broader patches within marrow."""
    at, palette, fields = canvas.at, canvas.palette, patient.textures
    axes = (at.x, at.y, at.z)
    fine, middle = fields.fine.rough(*axes), fields.middle.rough(*axes)
    label, on_ct = canvas.label, canvas.label_on_ct
    canvas.ct += palette.hu_texture[on_ct] * (0.6 * fine + 0.6 * middle)
    grain = palette.mr_texture[label] * (0.45 * fine + 0.75 * middle)
    canvas.t2 += grain
    canvas.stir += 0.7 * grain
    bony = np.flatnonzero(np.isin(on_ct, (Tissue.MARROW, Tissue.MARROW_OEDEMA)))
    patch = fields.patch.rough(*(a[bony] for a in axes))
    # where bone is porous there is more fat: bright on T2 and dark on STIR
    canvas.ct[bony] -= 28 * patch
    canvas.t2[bony] += 0.03 * patch
    canvas.stir[bony] -= 0.008 * patch
    soft = np.flatnonzero(label != Tissue.AIR)
    drift = fields.drift.rough(*(a[soft] for a in axes))
    canvas.t2[soft] *= 1 + 0.03 * drift
    canvas.stir[soft] *= 1 + 0.03 * drift
    np.clip(canvas.t2, 0.0, 1.2, out=canvas.t2)
    np.clip(canvas.stir, 0.0, 1.2, out=canvas.stir)
