"""What goes wrong in a CT scan, by its physics: metal, arms at the sides, a patient who moves.

Beam hardening and photon starvation are made where they arise, in the line integrals: the patient
is rendered once more on a wide, coarse grid, projected in parallel beams through water, bone and
metal at three energies, corrected for water as scanners do, made noisy by counting photons, and
reconstructed by filtered backprojection (Kak and Slaney 1988, chapter 3). What is added to the fine
CT is the difference to the ideal projections' reconstruction, so that sharp anatomy stays sharp.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, shift
from torch import Tensor
from torch.nn import functional

from pipeline.geometry import Float32, Float64, Grid
from pipeline.phantom.acquisition import Artifact
from pipeline.phantom.canvas import capsule
from pipeline.phantom.frame import Coordinates
from pipeline.phantom.person import Patient
from pipeline.phantom.rendering import render

WEIGHTS = (0.3, 0.4, 0.3)
"""Share of the photons at 50, 70 and 100 keV, about a 120 kV beam."""

PER_MM = {
    "water": (0.0227, 0.0193, 0.0171),
    "bone": (0.0814, 0.0500, 0.0356),
    "titanium": (0.546, 0.246, 0.1226),
    "amalgam": (7.0, 3.3, 1.4),
}
"""Attenuation at these energies, 1/mm: mass attenuation of the NIST tables at usual densities."""

BONE_HU = (150.0, 1590.0)
"""Water alone up to the first, cortical bone alone (as 70 keV sees it) at the second."""

PHOTONS = 1.2e5
"""Of one ray before the patient; few enough for arms to starve the detector."""

VIEWS = 160
PIXELS = 200
METAL_FIELD_MM, ARMS_FIELD_MM = 260.0, 500.0
ARM_MM = (215.0, 48.0, 12.0)
"""Distance of the humerus from the midline, radius of the arm and of its bone."""

METAL_HU = 3071.0


@dataclass(frozen=True, eq=False)
class _Field:
    """The patient on a wide grid, materials in thickness fractions ``(slice, row, column)``."""

    grid: Grid
    water: Tensor
    bone: Tensor
    metal: Tensor
    metal_per_mm: tuple[float, ...]


def disturb(
    hu: Float32,
    grid: Grid,
    person: Patient,
    artifacts: Collection[Artifact],
    rng: np.random.Generator,
) -> None:
    """Add artifacts to an axial CT, in place.

    Args:
        hu: ``(slice, row, column)``, HU.
        grid: Of `hu`, slices along z.
        person: Whose CT.
        artifacts: Which.
        rng: Of photons and movement.

    Raises:
        ValueError: For fillings of a patient whose face was removed from the CT.
    """
    if Artifact.DENTAL in artifacts and person.surroundings.blank is not None:
        raise ValueError(
            f"expected a patient with a face to have fillings, phantom {person.seed} has it"
            " removed; draw it with Variation(is_face_blanked=False)"
        )
    if Artifact.MOTION in artifacts:
        _move(hu, grid, person, rng)
    for artifact in (Artifact.SCREWS, Artifact.DENTAL, Artifact.ARMS):
        if artifact not in artifacts:
            continue
        slices = _affected(grid, person, artifact)
        if not len(slices):
            continue
        field = _field(grid, slices, person, artifact)
        error = _reconstruct(_measured(field, rng) - _ideal(field))
        part = hu[slices]
        part += 1000 / PER_MM["water"][1] * _onto(error, field.grid, grid, slices)
        hu[slices] = np.clip(part, -1024, METAL_HU)


def _affected(grid: Grid, person: Patient, artifact: Artifact) -> NDArray[np.int64]:
    """The slices with metal, or with arms beside them."""
    heights = grid.origin_mm[2] + np.arange(grid.shape[0]) * grid.steps_mm[0, 2]
    if artifact is Artifact.ARMS:
        # the heads of the humeri lie about at T1, what is below is beside the arms
        shoulder = float(person.frame.position_mm(person.spine.levels[4].middle)[2])
        return np.flatnonzero(heights < shoulder)
    if artifact is Artifact.SCREWS:
        ends = [person.frame.position_mm(person.spine.levels[i].middle)[2] for i in (1, 3)]
        return np.flatnonzero((heights < max(ends) + 12) & (heights > min(ends) - 12))
    bite = person.frame.point_mm(0)[1] + person.head.palate[0]
    return np.flatnonzero(np.abs(heights - bite) < 40)


def _field(grid: Grid, slices: NDArray[np.int64], person: Patient, artifact: Artifact) -> _Field:
    side = ARMS_FIELD_MM if artifact is Artifact.ARMS else METAL_FIELD_MM
    pixel = side / PIXELS
    middle = grid.to_mm(np.array([slices[0], (grid.shape[1] - 1) / 2, (grid.shape[2] - 1) / 2]))
    corner = middle - np.array([side / 2, side / 2, 0.0])
    steps = np.array([grid.steps_mm[0], [0, pixel, 0], [pixel, 0, 0]])
    wide = Grid.from_steps((len(slices), PIXELS, PIXELS), corner, steps)
    hu = render(person, wide, supersample=1).ct
    at = _coordinates(person, wide)
    if artifact is Artifact.ARMS:
        hu = _with_arms(hu, at, wide.shape)
    bone = np.clip((hu - BONE_HU[0]) / (BONE_HU[1] - BONE_HU[0]), 0, 1)
    total = PER_MM["water"][1] * (1 + hu / 1000)
    water = np.clip((total - bone * PER_MM["bone"][1]) / PER_MM["water"][1], 0, None)
    metal = _metal(person, at, artifact, wide.shape)
    kind = "amalgam" if artifact is Artifact.DENTAL else "titanium"
    free = 1 - metal
    parts = [torch.from_numpy(a.astype(np.float32)) for a in (water * free, bone * free, metal)]
    return _Field(wide, parts[0], parts[1], parts[2], PER_MM[kind])


def _coordinates(person: Patient, grid: Grid) -> Coordinates:
    index = np.indices(grid.shape).reshape(3, -1).T
    points = grid.to_mm(index.astype(np.float64)).astype(np.float32)
    return person.frame.locate(points[:, 0], points[:, 1], points[:, 2])


def _with_arms(hu: Float32, at: Coordinates, shape: tuple[int, int, int]) -> Float32:
    """Two arms beside the body, muscle around bone."""
    away, radius, bone = ARM_MM
    near = np.hypot(np.abs(at.x) - away, at.y - 10).reshape(shape)
    out = np.where(near < radius, np.maximum(hu, 50), hu)
    return np.where(near < bone, 900.0, out).astype(np.float32)


def _metal(
    person: Patient, at: Coordinates, artifact: Artifact, shape: tuple[int, int, int]
) -> Float64:
    """Fraction of metal: lateral mass screws C4 to C6 with their rods, or fillings of the teeth."""
    inside = np.full(at.x.shape, -10.0, np.float32)
    side, size = np.abs(at.lateral), person.size
    if artifact is Artifact.SCREWS:
        middles = [person.spine.levels[i].middle for i in (1, 2, 3)]
        back = -22.0 * size
        for middle in middles:
            screw = capsule(
                (side, at.normal, at.along),
                (15 * size, back, middle + 4),
                (19 * size, -5.0, middle - 3),
                1.9,
            )
            inside = np.maximum(inside, screw)
        ends = (15 * size, back - 1, middles[0] + 4), (15 * size, back - 1, middles[-1] + 4)
        inside = np.maximum(inside, capsule((side, at.normal, at.along), *ends, 1.8))
    elif artifact is Artifact.DENTAL:
        # two molars on each side, in the teeth's own arch (`pipeline.phantom.face`)
        height, reach = person.head.palate[0] - 9, person.head.face[0]
        for lateral in (25.0, 21.0):
            front = reach - 15 - 0.016 * lateral**2
            near = np.hypot(at.front - front, np.abs(at.head_lateral) - lateral)
            inside = np.maximum(inside, 3.0 - np.hypot(near, at.up - height))
    fraction: Float64 = np.clip(inside.reshape(shape) / 1.3 + 0.5, 0, 1).astype(np.float64)
    return fraction


def _rotation(angle: float) -> Tensor:
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.tensor([[[cosine, -sine, 0.0], [sine, cosine, 0.0]]])


def _project(planes: Tensor, pixel_mm: float) -> Tensor:
    """Line integrals ``(view, slice, detector)`` of ``(slice, row, column)`` in parallel beams."""
    size = [1, len(planes), PIXELS, PIXELS]
    views = []
    for number in range(VIEWS):
        turn = functional.affine_grid(
            _rotation(math.pi * number / VIEWS), size, align_corners=False
        )
        turned = functional.grid_sample(planes[None], turn, align_corners=False)
        views.append(turned[0].sum(dim=1) * pixel_mm)
    return torch.stack(views)


def _ideal(field: _Field) -> Tensor:
    """What a scanner of one energy, without metal and with endless photons, would see, in mm."""
    alone = field.water + field.bone * (PER_MM["bone"][1] / PER_MM["water"][1])
    return _project(alone, field.grid.spacing_mm[1]) * PER_MM["water"][1]


def _measured(field: _Field, rng: np.random.Generator) -> Tensor:
    """Of many energies and few photons, linearized for water; `VIEWS` line integrals."""
    pixel = field.grid.spacing_mm[1]
    water, bone, metal = (_project(t, pixel) for t in (field.water, field.bone, field.metal))
    kept = sum(
        weight * torch.exp(-(w * water + b * bone + m * metal))
        for weight, w, b, m in zip(
            WEIGHTS, PER_MM["water"], PER_MM["bone"], field.metal_per_mm, strict=True
        )
    )
    assert isinstance(kept, Tensor)
    counted = torch.from_numpy(rng.poisson((PHOTONS * kept).numpy().astype(np.float64)))
    seen = -torch.log(counted.clamp(min=0.5) / PHOTONS).float()
    return _linear_in_water(seen)


def _linear_in_water(seen: Tensor) -> Tensor:
    """The scanner's own correction: as long as it is water, the integral is that of 70 keV."""
    length = np.linspace(0, 1500, 3000)
    kept = sum(w * np.exp(-mu * length) for w, mu in zip(WEIGHTS, PER_MM["water"], strict=True))
    corrected = np.interp(seen.numpy(), -np.log(kept), PER_MM["water"][1] * length)
    return torch.from_numpy(corrected.astype(np.float32))


def _reconstruct(integrals: Tensor) -> Tensor:
    """Filtered backprojection ``(slice, row, column)`` in units of the integrals per pixel."""
    padded = 2 * PIXELS
    frequency = torch.fft.rfftfreq(padded)
    window = frequency * (0.5 + 0.5 * torch.cos(2 * math.pi * frequency))
    spectrum = torch.fft.rfft(integrals, n=padded) * window
    filtered = torch.fft.irfft(spectrum, n=padded)[..., :PIXELS]
    views, slices, _ = integrals.shape
    out = torch.zeros(1, slices, PIXELS, PIXELS)
    size = [1, slices, PIXELS, PIXELS]
    for number in range(views):
        back = functional.affine_grid(
            _rotation(-math.pi * number / views), size, align_corners=False
        )
        back[..., 1] = 0
        out += functional.grid_sample(filtered[number][None, :, None], back, align_corners=False)
    return out[0] * (math.pi / views)


def _onto(error: Tensor, wide: Grid, grid: Grid, slices: NDArray[np.int64]) -> Float32:
    """The coarse difference on the fine grid, per mm."""
    rows, columns = np.indices(grid.shape[1:])
    index = np.stack([np.full(rows.shape, slices[0]), rows, columns], axis=-1)
    at = wide.to_index(grid.to_mm(index.reshape(-1, 3).astype(np.float64)))[:, 1:].T
    per_mm = error.numpy() / wide.spacing_mm[1]
    planes = [map_coordinates(plane, at, order=1).reshape(rows.shape) for plane in per_mm]
    return np.stack(planes).astype(np.float32)


def _move(hu: Float32, grid: Grid, person: Patient, rng: np.random.Generator) -> None:
    """A jerk somewhere in the neck: the slices after it lie elsewhere, by 2 to 6 mm."""
    size, angle = rng.uniform(2.0, 6.0), rng.uniform(0, 2 * math.pi)
    along = rng.uniform(60, 110) * person.size
    height = float(person.frame.position_mm(along)[2])
    heights = grid.origin_mm[2] + np.arange(grid.shape[0]) * grid.steps_mm[0, 2]
    offset = size * np.array([math.sin(angle), math.cos(angle)]) / grid.spacing_mm[1:]
    for number in np.flatnonzero(heights < height):
        hu[number] = shift(hu[number], offset, order=1, cval=-1024.0)
