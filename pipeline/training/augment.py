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

BLUR_RADIUS_PX = 4
"""Three times the largest width of a kernel, rounded up."""

THICKEST_PX = 4.0
"""3 mm, the most that the gate takes."""

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
        streak_hu: Smallest and largest strength of horizontal streaks, drawn on a log scale.
        coarse_share: Most of the noise that is coarse: what is left of streaks after the reformat.
        thick_px: Largest distance of the axial slices that the picture was cut from; they blur it
            from row to row alone. The shipped weights have not seen it: it is 0 unless asked for,
            so that the calibration does not take thick slices for known ones.
    """

    crop_px: int = 192
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
    streak_hu: tuple[float, float] = (1.0, 20.0)
    coarse_share: float = 0.4
    thick_px: float = 0.0


def augment(
    batch: Batch, weights: Tensor, how: Augmentation, rng: Generator, scans: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch as the network is to see it.

    Args:
        batch: Slices of the phantom.
        weights: ``(batch, 2, row, column)`` of `losses.loss_weights`, moved along with the slices.
        how: Strengths.
        rng: The one source of chance, on the device of the batch.
        scans: How often each patient is scanned; the scans differ in their noise alone.

    Returns:
        HU ``(scans * batch, 3, crop, crop)``, one scan of all patients after the other; signal and
        weights ``(scans * batch, 2, crop, crop)``.
    """
    # by what the CT shows: an occult lesion with an HU of its own would be occult no more
    shifted = batch.slices_hu + _tissue_offsets(batch.ct_labels, how, rng)
    planes = torch.cat((shifted - AIR_HU, batch.signal, weights), dim=1)
    planes = _turn_and_crop(planes, how, rng)
    slices_hu, signal, moved = torch.split(planes, [3, 2, 2], dim=1)
    # outside the phantom there is air, and little to learn
    moved = torch.where(moved == 0, weights.min(), moved)
    seen, shoulders = _seen(slices_hu + AIR_HU, how, rng)
    again = (scans, 1, 1, 1)
    seen = seen.repeat(again)
    scanned = seen + _noise(seen, shoulders.repeat(again), how, rng)
    return scanned.clamp(AIR_HU, MAX_HU), signal.repeat(again), moved.repeat(again)


def _tissue_offsets(labels: Tensor, how: Augmentation, rng: Generator) -> Tensor:
    """HU added to every pixel by its tissue, softened at the borders like partial volume."""
    batch = labels.shape[0]
    offsets = how.tissue_hu * _normal(rng, batch, len(Tissue))
    common = how.nervous_hu * _normal(rng, batch, 1)
    nervous = list(NERVOUS)
    offsets[:, nervous] = common + 0.2 * offsets[:, nervous]
    offsets[:, [Tissue.CORD, Tissue.CORD_GRAY, Tissue.CORD_OEDEMA]] = common
    offsets[:, [Tissue.CSF]] = common + how.csf_hu * _normal(rng, batch, 1)
    offsets[:, [Tissue.CEREBELLUM]] = common
    offsets[:, [Tissue.AIR]] = 0
    marrow = [Tissue.MARROW, Tissue.MARROW_OEDEMA]
    offsets[:, marrow] = -how.bone_loss_hu * _uniform(rng, -0.5, 1, batch).flatten(1)
    total = offsets.gather(1, labels.reshape(batch, -1).long()).reshape(labels.shape)
    size = (labels.shape[2], labels.shape[3])
    is_marrow = (labels == Tissue.MARROW) | (labels == Tissue.MARROW_OEDEMA)
    patches = how.marrow_hu * _uniform(rng, 0, 1, batch)
    total = total + patches * _smooth(MARROW_NODES, size, rng, batch) * is_marrow
    foam = how.foam_hu * _uniform(rng, -1, 1, batch).clamp(min=0)
    padding = _smooth(6, size, rng, batch).clamp(0, 1) + 0.2 * _smooth(96, size, rng, batch)
    total = total + foam * padding * (labels == Tissue.AIR)
    return blur(total, 0.5)


def _turn_and_crop(planes: Tensor, how: Augmentation, rng: Generator) -> Tensor:
    """Rotate, scale, stretch and cut out, all in one linear interpolation; zeros come in."""
    batch, _, rows, _ = planes.shape
    share = how.crop_px / rows
    angle = math.radians(how.rotation_deg) * _uniform(rng, -1, 1, batch).flatten()
    scale = share / _uniform(rng, *how.scale, batch).flatten()
    aspect = _uniform(rng, *how.aspect, batch).flatten()
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    shift = (1 - share) * _uniform(rng, -1, 1, 2 * batch).view(batch, 2)
    top = torch.stack((cosine * aspect, -sine, shift[:, 0]), dim=1)
    bottom = torch.stack((sine * aspect, cosine, shift[:, 1]), dim=1)
    size = [batch, 1, how.crop_px, how.crop_px]
    grid = functional.affine_grid(torch.stack((top, bottom), dim=1), size, align_corners=False)
    return functional.grid_sample(planes, grid, align_corners=False)


def _seen(slices_hu: Tensor, how: Augmentation, rng: Generator) -> tuple[Tensor, Tensor]:
    """What kernel and shoulders make of each sample, without noise, and where the shoulders are.

    Returns:
        ``(batch, 3, row, column)`` in HU, and 0..1 ``(batch, 1, row, 1)``.
    """
    batch, _, rows, columns = slices_hu.shape
    size = (rows, columns)
    # a soft kernel and the reformat leave 0.5 to 1 px; sharp kernels less
    kernel = _seldom(rng, 0.85, _uniform(rng, 0.35, 1.1, batch))
    down = kernel
    if how.thick_px:
        # as wide as averaging over the distance of the slices
        thickness = _seldom(rng, 0.4, _uniform(rng, 0, how.thick_px, batch)) / math.sqrt(12)
        down = torch.hypot(kernel, thickness)
    slices_hu = blur_each(slices_hu, kernel, down)
    # the shoulders begin somewhere in the lower two thirds, or below the picture
    depth = torch.linspace(0, 1, rows, device=rng.device).view(1, 1, -1, 1)
    shoulders = torch.sigmoid((depth - _uniform(rng, 0.3, 1.1, batch)) / 0.08)
    drop = _seldom(rng, 0.5, _uniform(rng, -5, how.shoulder_hu, batch))
    drop = drop * (1 + 0.5 * _smooth(5, size, rng, batch))
    slices_hu = slices_hu - shoulders * drop * (slices_hu > BODY_HU)
    field = _seldom(rng, 0.7, _uniform(rng, 0, how.field_hu, batch))
    slices_hu = slices_hu + field * _smooth(4, size, rng, batch)
    gain = 1 + 0.03 * _normal(rng, batch, 1, 1, 1)
    slices_hu = slices_hu * gain + _uniform(rng, -8, 8, batch)
    return slices_hu, shoulders


def _noise(slices_hu: Tensor, shoulders: Tensor, how: Augmentation, rng: Generator) -> Tensor:
    """Quantum noise, smoothed as a kernel does, more between the shoulders; and streaks."""
    batch, _, rows, columns = slices_hu.shape
    size = (rows, columns)
    fine = _normal(rng, *slices_hu.shape)
    fine = blur_each(fine, _seldom(rng, 0.8, _uniform(rng, 0.35, 1.1, batch)))
    fine = fine / fine.std(dim=(1, 2, 3), keepdim=True)
    coarse = _uniform(rng, 0, how.coarse_share, batch) * _smooth(rows // 6, size, rng, batch)
    rise = 1 + _uniform(rng, 0, 2.5, batch) * shoulders
    total = _log_uniform(rng, *how.noise_hu, batch) * (fine + coarse) * rise
    streaks = _seldom(rng, 0.5, _log_uniform(rng, *how.streak_hu, batch))
    lines = _normal(rng, *slices_hu.shape[:3], 1)
    return total + streaks * lines * rise * _smooth(5, size, rng, batch)


def blur_each(image: Tensor, across_px: Tensor, down_px: Tensor | None = None) -> Tensor:
    """Gaussian blur of each sample by its own widths; 0 leaves it alone.

    Args:
        image: ``(batch, channel, row, column)``.
        across_px: ``(batch, 1, 1, 1)``, from column to column.
        down_px: The same from row to row; none means as across.
    """
    batch, channels, rows, columns = image.shape
    across = _kernels(across_px, channels)
    down = across if down_px is None else _kernels(down_px, channels)
    flat = image.reshape(1, batch * channels, rows, columns)
    wide = functional.pad(flat, (BLUR_RADIUS_PX,) * 4, mode="replicate")
    wide = functional.conv2d(wide, across, groups=batch * channels)
    wide = functional.conv2d(wide, down.transpose(2, 3), groups=batch * channels)
    return wide.view(image.shape)


def _kernels(sigma_px: Tensor, channels: int) -> Tensor:
    """A Gaussian line for each channel of each sample, ``(batch * channels, 1, 1, width)``."""
    offset = torch.arange(-BLUR_RADIUS_PX, BLUR_RADIUS_PX + 1, device=sigma_px.device)
    lines = torch.exp(-0.5 * (offset / sigma_px.view(-1, 1).clamp(min=1e-2)) ** 2)
    lines = lines / lines.sum(dim=1, keepdim=True)
    return lines.repeat_interleave(channels, dim=0)[:, None, None]


def _smooth(nodes: int, size: tuple[int, int], rng: Generator, batch: int) -> Tensor:
    """Smooth random fields ``(batch, 1, row, column)`` of about unit variance."""
    coarse = _normal(rng, batch, 1, nodes, nodes)
    return functional.interpolate(coarse, size, mode="bicubic", align_corners=False)


def _normal(rng: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=rng, device=rng.device)


def _uniform(rng: Generator, low: float, high: float, count: int) -> Tensor:
    """One number a sample, ``(batch, 1, 1, 1)``."""
    return low + (high - low) * torch.rand((count, 1, 1, 1), generator=rng, device=rng.device)


def _log_uniform(rng: Generator, low: float, high: float, count: int) -> Tensor:
    return torch.exp(_uniform(rng, math.log(low), math.log(high), count))


def _seldom(rng: Generator, share: float, values: Tensor) -> Tensor:
    """This share of the values; the others become 0."""
    return values * (_uniform(rng, 0, 1, len(values)) < share)
