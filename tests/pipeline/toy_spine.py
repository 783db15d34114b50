"""A straight spine of boxes: every place is known by construction, and it costs nothing to draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.course import Course, course_along
from pipeline.geometry import Float32, Grid, Volume
from pipeline.phantom import Tissue, TrainingPair
from pipeline.places import Places, find_places

SHAPE = (5, 192, 224)
STEPS_MM = np.array([[-3.0, 0, 0], [0, 0, -0.75], [0, 0.75, 0]])
CANAL_COLUMN, HALF_CANAL = 130, 9
BODY_COLUMNS = (95, 119)
"""In front of the canal; lower columns are to the front."""

FIRST_DISC, LEVEL_ROWS, DISC_ROWS = 30, 20, 5
DISCS = ("C2/3", "C3/4", "C4/5", "C5/6", "C6/7", "C7/T1", "T1/2")
HU = {
    Tissue.AIR: -1000,
    Tissue.FAT: -100,
    Tissue.MUSCLE: 55,
    Tissue.CORTEX: 800,
    Tissue.MARROW: 230,
    Tissue.ANNULUS: 95,
    Tissue.CSF: 12,
    Tissue.CORD: 36,
}
T2 = {
    Tissue.AIR: 0.0,
    Tissue.FAT: 0.75,
    Tissue.MUSCLE: 0.35,
    Tissue.CORTEX: 0.04,
    Tissue.MARROW: 0.42,
    Tissue.ANNULUS: 0.3,
    Tissue.CSF: 1.0,
    Tissue.CORD: 0.4,
}


@dataclass(frozen=True, eq=False)
class ToySpine:
    """CT, truth, places and canal of one toy."""

    stack: Volume
    pair: TrainingPair
    places: Places
    course: Course


def toy_spine(seed: int = 0, noise_hu: float = 8.0) -> ToySpine:
    """A toy with a scanner's noise, and levels that differ a little from seed to seed."""
    rng = np.random.default_rng(seed)
    labels = np.broadcast_to(_labels(int(rng.integers(0, 3))), SHAPE).copy()
    ct = _painted(labels, HU) + rng.normal(0, noise_hu, SHAPE).astype(np.float32)
    truth = _painted(labels, T2)
    stir = (truth * 0.8).astype(np.float32)
    grid = Grid.from_steps(SHAPE, np.zeros(3), STEPS_MM)
    stack = Volume(ct.astype(np.float32), grid, "2.25.7")
    return ToySpine(
        stack,
        TrainingPair(ct.astype(np.float32), truth, stir, labels, labels.copy()),
        find_places(stack, centerline_mm(grid), discs_mm(grid)),
        course_along(centerline_mm(grid), np.full(SHAPE[1], HALF_CANAL * 0.75), grid),
    )


def centerline_mm(grid: Grid) -> NDArray[np.float64]:
    return grid.to_mm(np.array([[2.0, row, CANAL_COLUMN] for row in range(SHAPE[1])]))


def discs_mm(grid: Grid) -> dict[str, NDArray[np.float64]]:
    rows = {name: FIRST_DISC + LEVEL_ROWS * number for number, name in enumerate(DISCS)}
    return {name: grid.to_mm(np.array([2.0, row, 108.0])) for name, row in rows.items()}


def _labels(wider: int) -> NDArray[np.uint8]:
    """One sagittal slice."""
    rows, columns = np.indices(SHAPE[1:])
    labels = np.full(SHAPE[1:], Tissue.MUSCLE, dtype=np.uint8)
    labels[columns < 40] = Tissue.AIR
    labels[columns >= 200] = Tissue.FAT
    away = np.abs(columns - CANAL_COLUMN)
    first, last = BODY_COLUMNS[0] - wider, BODY_COLUMNS[1]
    in_column = (columns >= first) & (columns < last)
    offset = (rows - FIRST_DISC + LEVEL_ROWS // 2) % LEVEL_ROWS
    is_disc = np.abs(offset - LEVEL_ROWS // 2) <= DISC_ROWS // 2
    bodies, arches = in_column & ~is_disc, (columns > 150) & (columns < 175) & ~is_disc
    labels[in_column & is_disc] = Tissue.ANNULUS
    for bone in (bodies, arches):
        inner = bone.copy()
        for axis in (0, 1):
            for step in (-2, -1, 1, 2):
                inner &= np.roll(bone, step, axis)
        labels[bone] = Tissue.CORTEX
        labels[inner] = Tissue.MARROW
    labels[away <= HALF_CANAL] = Tissue.CSF
    labels[away <= 5] = Tissue.CORD
    return labels


def _painted(labels: NDArray[np.uint8], table: dict[Tissue, float]) -> Float32:
    values = np.zeros(len(Tissue), dtype=np.float32)
    for tissue, value in table.items():
        values[tissue] = value
    return values[labels]
