"""What a scanner makes of a patient: the sagittal stack of the model, the axial CT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Float32, Float64, Grid
from pipeline.phantom.patient import Patient, Stream, patient, stream
from pipeline.phantom.render import Rendered, render

STACK_SHAPE = (15, 256, 256)
STACK_SPACING_MM = (3.0, 0.75, 0.75)


@dataclass(frozen=True, eq=False)
class TrainingPair:
    """A CT stack with its true MRI, all ``(15, 256, 256)``.

    Args:
        ct: HU, float32, without acquisition noise.
        t2: Signal relative to CSF, float32.
        stir: Signal relative to CSF, float32.
        labels: `pipeline.phantom.tissues.Tissue`, uint8.
    """

    ct: Float32
    t2: Float32
    stir: Float32
    labels: NDArray[np.uint8]


def stack_grid(
    person: Patient,
    *,
    shape: tuple[int, int, int] = STACK_SHAPE,
    spacing_mm: tuple[float, float, float] = STACK_SPACING_MM,
) -> Grid:
    """A sagittal stack as a reformat along the canal would lie, a little off the midline.

    Column to posterior, row to the feet, slice to the patient's right.
    """
    rng = stream(person.seed, Stream.STACK)
    size = person.size
    extent = np.array(shape) * spacing_mm
    column = rng.uniform(0.42, 0.60) * extent[2]
    lowest = min(80.0, 188.0 - 118.0 * size)
    top = rng.uniform(min(42.0, lowest - 4), lowest)
    aside = rng.uniform(-3.0, 3.0)
    yaw, roll = np.deg2rad(rng.normal(0, 1.5, 2).clip(-3.5, 3.5))
    canal_y = 7.0
    tip_z = person.frame.point_mm(0.0)[1]
    directions = _turned(yaw, roll)
    steps = directions * np.asarray(spacing_mm)[:, None]
    center_of_first = np.array([aside, canal_y - column, tip_z + top])
    half = (shape[0] - 1) / 2
    # turning happens about the canal in the middle of the neck
    pivot = np.array([aside, canal_y, 0.0])
    level = np.diag([-1.0, 1.0, -1.0])
    offset = level @ (center_of_first - pivot)
    return Grid.from_steps(shape, pivot + offset @ directions - half * steps[0], steps)


def _turned(yaw: float, roll: float) -> Float64:
    """Unit steps of slice, row and column."""
    cy, sy, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array(
        [[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]]
    )
    base = np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    return base @ turn.T


def training_pair(seed: int) -> TrainingPair:
    """The stack of one patient for training: 45% injured, everything drawn from the seed."""
    person = patient(seed)
    done: Rendered = render(person, stack_grid(person), supersample=2)
    return TrainingPair(done.ct, done.t2, done.stir, done.labels)
