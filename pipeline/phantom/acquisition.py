"""What a scanner makes of a patient: the sagittal stack of the model, the axial CT."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.contrast import Contrast
from pipeline.geometry import Float32, Float64, Grid, Volume
from pipeline.phantom.frame import MID_CERVICAL_MM
from pipeline.phantom.identity import frame_of_reference_uid
from pipeline.phantom.landmarks import discs_mm
from pipeline.phantom.lumbar import render_lumbar
from pipeline.phantom.mri import acquire
from pipeline.phantom.person import Patient, Stream, patient, stream
from pipeline.phantom.rendering import Rendered, render

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
        ct_labels: The same as far as the CT shows it: without occult lesions, uint8.
    """

    ct: Float32
    t2: Float32
    stir: Float32
    labels: NDArray[np.uint8]
    ct_labels: NDArray[np.uint8]

    @property
    def occult(self) -> NDArray[np.bool_]:
        """Where the MRI shows a lesion that the CT does not, bool."""
        return np.asarray(self.labels != self.ct_labels)


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
    extent = np.array(shape) * spacing_mm
    # where in the picture the canal is, in the middle of the neck
    row, column = rng.uniform(0.42, 0.60, 2) * extent[1:]
    aside = rng.uniform(-3.0, 3.0)
    yaw, roll = np.deg2rad(rng.normal(0, 1.5, 2).clip(-3.5, 3.5))
    directions = _turned(yaw, roll)
    canal = np.array([aside, person.canal.width.at(MID_CERVICAL_MM * person.size) / 2, 0.0])
    to_canal = np.array([(shape[0] - 1) / 2 * spacing_mm[0], row, column])
    steps = directions * np.asarray(spacing_mm)[:, None]
    return Grid.from_steps(shape, canal - to_canal @ directions, steps)


def _turned(yaw: float, roll: float) -> Float64:
    """Unit steps of slice, row and column."""
    cy, sy, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array(
        [[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]]
    )
    base = np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    directions: Float64 = base @ turn.T
    return directions


def training_pair(seed: int) -> TrainingPair:
    """The stack of one patient for training: 45% injured, everything drawn from the seed."""
    person = patient(seed)
    done: Rendered = render(person, stack_grid(person), supersample=2)
    return TrainingPair(done.ct, done.t2, done.stir, done.labels, done.ct_labels)


class Region(StrEnum):
    """Which part of the body an axial CT covers."""

    NECK = "neck"
    HEAD_ONLY = "head_only"
    CHEST = "chest"
    LUMBAR = "lumbar"


class Kernel(StrEnum):
    """How the CT is reconstructed: smooth for soft tissue, or sharp and noisy for bone."""

    SOFT = "soft"
    BONE = "bone"


_KERNELS = {Kernel.SOFT: (0.45, 0.9, 1.0), Kernel.BONE: (0.2, 0.45, 3.5)}
"""Blur in mm, grain of the noise in pixels, noise relative to the soft kernel's."""


class Artifact(StrEnum):
    """What disturbs the scan."""

    SCREWS = "screws"
    DENTAL = "dental"
    ARMS = "arms"
    MOTION = "motion"


FIELD_OF_VIEW_MM = {
    Region.NECK: (192.0, 234.0),
    Region.HEAD_ONLY: (192.0, 240.0),
    Region.CHEST: (264.0, 234.0),
    Region.LUMBAR: (240.0, 204.0),
}
"""Left to right and front to back."""


def ct_series(
    person: Patient,
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 0.6, 0.6),
    region: Region = Region.NECK,
    kernel: Kernel = Kernel.SOFT,
    artifacts: Collection[Artifact] = (),
) -> Volume:
    """An axial CT with a kernel's blur and noise, head first, HU.

    Args:
        person: Whose.
        spacing_mm: Slice, row, column.
        region: The neck from skull base to T4; other parts are for testing what declines them.
        kernel: Of the reconstruction.
        artifacts: What disturbs the scan (`pipeline.phantom.physics`); of a neck.
    """
    grid = axial_grid(person, spacing_mm=spacing_mm, region=region)
    if region is Region.LUMBAR:
        hu = render_lumbar(grid, stream(person.seed, Stream.TEXTURE))
    else:
        hu = render(person, grid, supersample=max(1, round(spacing_mm[0] / 1.5))).ct
    if artifacts:
        # torch, which an undisturbed phantom does not need
        from pipeline.phantom.physics import disturb  # noqa: PLC0415

        disturb(hu, grid, person, artifacts, stream(person.seed, Stream.ARTIFACTS))
    _scan(hu, spacing_mm, kernel, stream(person.seed, Stream.NOISE))
    return Volume(hu, grid, frame_of_reference_uid(person.seed))


def axial_grid(
    person: Patient, *, spacing_mm: tuple[float, float, float], region: Region = Region.NECK
) -> Grid:
    """Slices from head to feet, rows to posterior, columns to the patient's left."""
    side, deep = FIELD_OF_VIEW_MM[region]
    top, bottom = _extent_mm(person, region)
    middle_y = {Region.NECK: -6.0, Region.HEAD_ONLY: -10.0}.get(region, 0.0)
    if region is Region.CHEST:
        middle_y = person.frame.point_mm(190 * person.size)[0] - 30
    shape = (
        max(1, round((top - bottom) / spacing_mm[0])),
        round(deep / spacing_mm[1]),
        round(side / spacing_mm[2]),
    )
    origin = np.array([-side / 2, middle_y - deep / 2, top])
    steps = np.array([[0, 0, -1.0], [0, 1.0, 0], [1.0, 0, 0]]) * np.asarray(spacing_mm)[:, None]
    return Grid.from_steps(shape, origin, steps)


def _extent_mm(person: Patient, region: Region) -> tuple[float, float]:
    """Highest and lowest z."""
    size = person.size

    def height(along: float) -> float:
        return person.frame.point_mm(along * size)[1]

    if region is Region.NECK:
        return height(0) + 62 * size, height(205)
    if region is Region.HEAD_ONLY:
        return height(0) + 110 * size, height(12)
    if region is Region.CHEST:
        return height(145), height(230)
    return 85.0, -85.0


def _scan(
    hu: Float32, spacing_mm: tuple[float, float, float], kernel: Kernel, rng: np.random.Generator
) -> None:
    """Blur and noise of a kernel, in place, slice by slice; worst through the shoulders."""
    blur_mm, grain, gain = _KERNELS[kernel]
    sigma = blur_mm / spacing_mm[1]
    level = gain * rng.uniform(7, 13) * (1.0 / spacing_mm[0]) ** 0.5
    dense = (hu > -300).mean(axis=(1, 2))
    # quantum noise grows with what the beam has to cross
    worse = np.exp(1.1 * (dense / max(float(np.median(dense)), 1e-3) - 1)).clip(0.7, 2.5)
    for number, plane in enumerate(hu):
        noise = gaussian_filter(rng.standard_normal(plane.shape, dtype=np.float32), grain)
        noise *= level * worse[number] / noise.std()
        plane[:] = np.maximum(gaussian_filter(plane, sigma) + noise, -1024)


TRUTH_CONTRASTS = ("T2", "STIR")


def truth_grid(person: Patient) -> Grid:
    """The sagittal stack in the midline, halfway between C2/3 and C7/T1."""
    discs = discs_mm(person)
    center = (discs["C2/3"] + discs["C7/T1"]) / 2
    steps = np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    steps = steps * np.asarray(STACK_SPACING_MM)[:, None]
    return Grid.from_steps(STACK_SHAPE, center - (np.array(STACK_SHAPE) - 1) / 2 @ steps, steps)


def truth(person: Patient) -> tuple[Volume, Volume]:
    """True T2 and STIR on `truth_grid`, signal relative to CSF, as a scanner acquires them.

    With the artifacts of `pipeline.phantom.mri`; what trains and what evaluates is clean.
    """
    done = render(person, truth_grid(person), supersample=2)
    frame = frame_of_reference_uid(person.seed)
    rng = stream(person.seed, Stream.MR)
    t2, stir = (
        acquire(signal, done.labels, contrast, STACK_SPACING_MM, rng)
        for contrast, signal in ((Contrast.T2, done.t2), (Contrast.STIR, done.stir))
    )
    return Volume(t2, done.grid, frame), Volume(stir, done.grid, frame)
