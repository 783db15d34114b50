"""Every slice as another scanner, another patient position and another dose would show it.

A network trained on the phantom's own HU keys on them: on a real scan with contrast agent it drew
cord everywhere above and CSF everywhere below. So HU are shifted, tissue by tissue and as smooth
fields; what stays reliable is shape, order and local contrast, and the network learns to use those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from pipeline.intensity import AIR_HU, blur
from pipeline.phantom.tissues import NERVOUS, Tissue
from pipeline.training.data import Batch

MAX_HU = 3071.0
MARROW_NODES = 24
"""Over the picture: patches of 8 mm, half a vertebral body."""

BODY_HU = -300.0
"""Above this a pixel belongs to the body; beam hardening needs tissue to show in."""


@dataclass(frozen=True)
class Augmentation:
    """How far each property is varied.

    Args:
        crop_px: Rows and columns cut out.
        rotation_deg: Largest turn in the plane.
        scale: Smallest and largest magnification.
        aspect: Smallest and largest ratio of the two in-plane scales.
        tissue_hu: Standard deviation of each tissue's own offset.
        nervous_hu: Standard deviation of the offset of brain, cord and CSF together.
        csf_hu: Standard deviation of CSF against cord: small, for their gap is the evidence of
            where the cord lies, and the phantom already varies it from 0 to 30 HU.
        foam_hu: Most that pillows and headrests raise the air around the patient.
        bone_loss_hu: Largest fall of the marrow; the old have 100 HU where the young have 300.
        marrow_hu: Largest standard deviation of patches within the marrow. Real marrow is uneven; a
            network that has only seen even marrow takes every patch for oedema.
        noise_hu: Smallest and largest standard deviation of the noise, drawn on a log scale.
        field_hu: Largest standard deviation of the smooth HU field.
        shoulder_hu: Largest drop between the shoulders.
    """

    crop_px: int = 176
    rotation_deg: float = 12.0
    scale: tuple[float, float] = (0.82, 1.18)
    aspect: tuple[float, float] = (0.94, 1.06)
    tissue_hu: float = 5.0
    nervous_hu: float = 8.0
    csf_hu: float = 3.0
    foam_hu: float = 350.0
    bone_loss_hu: float = 140.0
    marrow_hu: float = 60.0
    noise_hu: tuple[float, float] = (2.0, 28.0)
    field_hu: float = 10.0
    shoulder_hu: float = 35.0


def augment(
    batch: Batch, weights: Tensor, how: Augmentation, rng: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch as the network is to see it.

    Args:
        batch: Slices of the phantom.
        weights: ``(batch, 2, row, column)`` of `losses.loss_weights`, moved along with the slices.
        how: Strengths.
        rng: The one source of chance.

    Returns:
        HU ``(batch, 3, crop, crop)``, signal ``(batch, 2, crop, crop)``, weights
        ``(batch, 2, crop, crop)``.
    """
    # by what the CT shows: an occult lesion with an HU of its own would be occult no more
    shifted = batch.slices_hu + _tissue_offsets(batch.ct_labels, how, rng)
    planes = torch.cat((shifted - AIR_HU, batch.signal, weights), dim=1)
    planes = _turn_and_crop(planes, how, rng)
    slices_hu, signal, moved = torch.split(planes, [3, 2, 2], dim=1)
    scanned = [_scan(one[None], how, rng) for one in slices_hu + AIR_HU]
    # outside the phantom there is air, and little to learn
    moved = torch.where(moved == 0, float(weights.min()), moved)
    return torch.cat(scanned).clamp(AIR_HU, MAX_HU), signal, moved


def _tissue_offsets(labels: Tensor, how: Augmentation, rng: Generator) -> Tensor:
    """HU added to every pixel by its tissue, softened at the borders like partial volume."""
    batch = labels.shape[0]
    offsets = how.tissue_hu * torch.randn((batch, len(Tissue)), generator=rng)
    common = how.nervous_hu * torch.randn((batch, 1), generator=rng)
    nervous = list(NERVOUS)
    offsets[:, nervous] = common + 0.2 * offsets[:, nervous]
    offsets[:, [Tissue.CORD, Tissue.CORD_GRAY, Tissue.CORD_OEDEMA]] = common
    offsets[:, [Tissue.CSF]] = common + how.csf_hu * torch.randn((batch, 1), generator=rng)
    offsets[:, [Tissue.CEREBELLUM]] = common
    offsets[:, [Tissue.AIR]] = 0
    marrow = [Tissue.MARROW, Tissue.MARROW_OEDEMA]
    offsets[:, marrow] = -how.bone_loss_hu * _uniform(rng, -0.5, 1, batch).view(-1, 1)
    total = offsets.gather(1, labels.reshape(batch, -1).long()).reshape(labels.shape)
    size = (labels.shape[2], labels.shape[3])
    is_marrow = (labels == Tissue.MARROW) | (labels == Tissue.MARROW_OEDEMA)
    patches = how.marrow_hu * torch.rand((batch, 1, 1, 1), generator=rng)
    total = total + patches * _smooth(MARROW_NODES, size, rng, batch) * is_marrow
    foam = how.foam_hu * _uniform(rng, -1, 1, batch).clamp(min=0).view(-1, 1, 1, 1)
    padding = _smooth(6, size, rng, batch).clamp(0, 1) + 0.2 * _smooth(96, size, rng, batch)
    total = total + foam * padding * (labels == Tissue.AIR)
    return blur(total, 0.5)


def _turn_and_crop(planes: Tensor, how: Augmentation, rng: Generator) -> Tensor:
    """Rotate, scale, stretch and cut out, all in one linear interpolation; zeros come in."""
    batch, _, rows, _ = planes.shape
    share = how.crop_px / rows
    angle = math.radians(how.rotation_deg) * _uniform(rng, -1, 1, batch)
    scale = share / _uniform(rng, *how.scale, batch)
    aspect = _uniform(rng, *how.aspect, batch)
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    shift = (1 - share) * _uniform(rng, -1, 1, 2 * batch).view(batch, 2)
    top = torch.stack((cosine * aspect, -sine, shift[:, 0]), dim=1)
    bottom = torch.stack((sine * aspect, cosine, shift[:, 1]), dim=1)
    size = [batch, 1, how.crop_px, how.crop_px]
    grid = functional.affine_grid(torch.stack((top, bottom), dim=1), size, align_corners=False)
    return functional.grid_sample(planes, grid, align_corners=False)


def _scan(slices_hu: Tensor, how: Augmentation, rng: Generator) -> Tensor:
    """What scanner, dose and shoulders do to one sample ``(1, 3, row, column)``."""
    rows, columns = slices_hu.shape[2:]
    size = (rows, columns)
    # a soft kernel and the reformat leave 0.5 to 1 px; sharp kernels less
    if _chance(rng, 0.85):
        slices_hu = blur(slices_hu, _one(rng, 0.35, 1.1))
    # the shoulders begin somewhere in the lower two thirds, or below the picture
    depth = torch.linspace(0, 1, rows).view(1, 1, -1, 1)
    shoulders = torch.sigmoid((depth - _one(rng, 0.3, 1.1)) / 0.08)
    if _chance(rng, 0.5):
        drop = _one(rng, -5, how.shoulder_hu) * (1 + 0.5 * _smooth(5, size, rng))
        slices_hu = slices_hu - shoulders * drop * (slices_hu > BODY_HU)
    if _chance(rng, 0.7):
        slices_hu = slices_hu + _one(rng, 0, how.field_hu) * _smooth(4, size, rng)
    gain = 1 + 0.03 * float(torch.randn((), generator=rng))
    slices_hu = slices_hu * gain + _one(rng, -8, 8)
    return slices_hu + _noise(slices_hu, shoulders, how, rng)


def _noise(slices_hu: Tensor, shoulders: Tensor, how: Augmentation, rng: Generator) -> Tensor:
    """Quantum noise, smoothed as a kernel does, more between the shoulders; and streaks."""
    low, high = (math.log(v) for v in how.noise_hu)
    noise = torch.randn(slices_hu.shape, generator=rng)
    if _chance(rng, 0.8):
        noise = blur(noise, _one(rng, 0.35, 1.1))
        noise = noise / noise.std()
    rise = 1 + _one(rng, 0, 2.5) * shoulders
    total = math.exp(_one(rng, low, high)) * noise * rise
    if _chance(rng, 0.5):
        rows = torch.randn((*slices_hu.shape[:3], 1), generator=rng)
        patches = _smooth(5, (slices_hu.shape[2], slices_hu.shape[3]), rng)
        total = total + _one(rng, 1, 7) * rows * rise * patches
    return total


def _smooth(nodes: int, size: tuple[int, int], rng: Generator, batch: int = 1) -> Tensor:
    """Smooth random fields ``(batch, 1, row, column)`` of about unit variance."""
    coarse = torch.randn((batch, 1, nodes, nodes), generator=rng)
    return functional.interpolate(coarse, size, mode="bicubic", align_corners=False)


def _uniform(rng: Generator, low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng)


def _one(rng: Generator, low: float, high: float) -> float:
    return float(_uniform(rng, low, high, 1))


def _chance(rng: Generator, share: float) -> bool:
    return bool(torch.rand((), generator=rng) < share)
