"""A plain lumbar spine: large bodies, wide canal, no skull, no ribs. For testing the gate."""

from __future__ import annotations

import numpy as np

from pipeline.geometry import Float32, Grid
from pipeline.phantom.canvas import ellipsoid, inside_all, slab

PITCH_MM = 38.0
"""From one vertebra to the next."""


def render_lumbar(grid: Grid, rng: np.random.Generator) -> Float32:
    """HU ``(slice, row, column)`` of L1 to L5 in an abdomen, axis along z."""
    hu = np.empty(grid.shape, np.float32)
    phase = rng.uniform(0, 6.28)
    origin = grid.origin_mm
    rows = origin[1] + np.arange(grid.shape[1]) * grid.steps_mm[1, 1]
    columns = origin[0] + np.arange(grid.shape[2]) * grid.steps_mm[2, 0]
    x = np.broadcast_to(columns, grid.shape[1:]).astype(np.float32)
    for number in range(grid.shape[0]):
        z = float(origin[2] + number * grid.steps_mm[0, 2])
        y = (rows[:, None] - 10 * np.sin(z / 70 + 0.3 * phase)).astype(np.float32)
        hu[number] = _slice(x, np.broadcast_to(y, x.shape).astype(np.float32), z, phase)
    return hu


def _slice(x: Float32, y: Float32, z: float, phase: float) -> Float32:
    """One axial slice; canal at y = 25."""
    side = np.abs(x)
    body = ellipsoid((x, 165.0), (y + 15, 105.0))
    hu = np.where(body > 0, -105.0, -1000.0)
    muscle = ellipsoid((side - 32, 30.0), (y - 52, 22.0))
    psoas = ellipsoid((side - 42, 18.0), (y - 2, 20.0))
    bowel = ellipsoid((x, 110.0), (y + 60, 48.0))
    for shape, value in ((muscle, 52.0), (psoas, 55.0), (bowel, 25 + 15 * np.sin(z / 9 + phase))):
        hu = np.where(shape > 0, value, hu)
    hu = np.where(ellipsoid((x + 12, 10.0), (y + 24, 10.0)) > 0, 48.0, hu)
    along = (z + PITCH_MM / 2) % PITCH_MM - PITCH_MM / 2
    section = ellipsoid((x, 24.0), (y + 4, 17.0))
    vertebra = inside_all(section, np.full_like(x, 14.0 - abs(along)))
    hu = np.where(section > 0, 90.0, hu)
    canal = ellipsoid((x, 12.0), (y - 24, 9.0))
    arch = inside_all(canal + 7, -canal, y - 18) if abs(along + 6) < 9 else np.full_like(x, -1.0)
    spinous = inside_all(slab(x, 3.5), y - 30, 62 - y)
    spinous = spinous if abs(along + 10) < 10 else np.full_like(x, -1.0)
    pedicle = inside_all(slab(side - 14, 4.5), y - 8, 26 - y)
    pedicle = pedicle if abs(along - 4) < 7 else np.full_like(x, -1.0)
    bone = np.maximum.reduce([vertebra, arch, spinous, pedicle])
    hu = np.where(bone > 0, 700.0, hu)
    hu = np.where(bone > 1.4, 190.0, hu)
    hu = np.where(inside_all(canal, -bone) > 0, 12.0, hu)
    out: Float32 = hu.astype(np.float32)
    return out
