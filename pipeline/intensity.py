"""HU to what the network sees: the one place where the CT's intensities are chosen and scaled.

Training and inference both come through `condition`, so that they can never drift apart. Every
constant is fixed, never fitted to the stack at hand: the same HU gives the same input in every
slice of every patient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NEIGHBORS = 3
"""Slices seen at once: the one below, the one itself, the one above (s-1, s, s+1)."""

CHANNELS = 2 * NEIGHBORS + 1
"""Three slices in two windows, and one blurred channel."""

AIR_HU = -1024.0

SOFT_CENTER_HU, SOFT_HALF_WIDTH_HU = 45.0, 110.0
"""Cord, CSF, discs, muscle and blood lie between -50 and 150 HU; fat is clipped, bone too."""

BONE_CENTER_HU, BONE_HALF_WIDTH_HU = 300.0, 1300.0
"""Air at -1000 HU to dense cortex at 1600 HU."""

CORD_CENTER_HU, CORD_HALF_WIDTH_HU = 35.0, 40.0
CORD_CLIP_HU = (-60.0, 140.0)
CORD_BLUR_PX = 1.4
"""Cord and CSF are 0 to 30 HU apart under noise of 5 to 30 HU: averaging three slices and 1 mm
in the plane brings the gap above the noise before the network spends layers on it. Clipping comes
first, or the blur would carry bone and fat into the canal."""


def condition(slices_hu: Tensor) -> Tensor:
    """Conditioning channels of a batch.

    Args:
        slices_hu: ``(batch, 3, row, column)`` in HU: slices s-1, s, s+1.

    Returns:
        ``(batch, 7, row, column)``, each channel within about -1.5..1.5: soft-tissue window of the
        three slices, bone window of the three slices, blurred mean of the three.

    Raises:
        ValueError: When the batch is not ``(batch, 3, row, column)``.
    """
    if slices_hu.ndim != 4 or slices_hu.shape[1] != NEIGHBORS:
        raise ValueError(f"expected (batch, 3, row, column), found {tuple(slices_hu.shape)}")
    soft = ((slices_hu - SOFT_CENTER_HU) / SOFT_HALF_WIDTH_HU).clamp(-1, 1)
    bone = ((slices_hu - BONE_CENTER_HU) / BONE_HALF_WIDTH_HU).clamp(-1, 1)
    mean = slices_hu.clamp(*CORD_CLIP_HU).mean(dim=1, keepdim=True)
    cord = (blur(mean, CORD_BLUR_PX) - CORD_CENTER_HU) / CORD_HALF_WIDTH_HU
    return torch.cat((soft, bone, cord.clamp(-1.5, 1.5)), dim=1)


def with_neighbors(stack_hu: Tensor) -> Tensor:
    """Each slice with the one before and after it; at the ends the slice itself stands in.

    Args:
        stack_hu: ``(slice, row, column)`` in HU.

    Returns:
        ``(slice, 3, row, column)``.
    """
    first, last = stack_hu[:1], stack_hu[-1:]
    before = torch.cat((first, stack_hu[:-1]))
    after = torch.cat((stack_hu[1:], last))
    return torch.stack((before, stack_hu, after), dim=1)


def blur(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur of ``(batch, channel, row, column)``, edges continued, cut at 3 sigma."""
    radius = max(1, round(3 * sigma_px))
    offset = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offset / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, 1, -1)
    groups = image.shape[1]
    wide = functional.pad(image, (radius, radius, radius, radius), mode="replicate")
    wide = functional.conv2d(wide, kernel, groups=groups)
    return functional.conv2d(wide, kernel.transpose(2, 3), groups=groups)
