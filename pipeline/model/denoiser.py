"""The network: from CT conditioning and a noisy latent to the clean latent of T2 and STIR.

Flow matching (Lipman et al. 2023, arXiv 2210.02747; rectified flow, Liu et al. 2023,
arXiv 2209.03003): ``x_s = (1 - s) x0 + s eps`` with ``s`` from 1 (noise) to 0 (image). The network
predicts ``x0``, from which the velocity ``v = eps - x0 = (x_s - x0) / s`` follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn import functional

from pipeline.intensity import CHANNELS
from pipeline.model.codec import PixelUnshuffleCodec

TIMESTEPS = 1000
"""The scheduler counts noise levels in 1..1000: timestep = 1000 s."""

WIDTHS = (48, 96, 144, 192)
"""8.3 M parameters: about 0.1 s for a slice on one core, and 17 MB as half floats in git."""


def build_denoiser(
    codec: PixelUnshuffleCodec, widths: Sequence[int] = WIDTHS, groups: int = 8, head: int = 32
) -> UNet2DModel:
    """A randomly initialized denoiser that fits a codec: clean latent and doubt, in that order.

    Args:
        codec: Gives the block size and the channels of the latent.
        widths: Channels of each level, from full latent resolution down; the last has attention.
        groups: Groups of the group normalization; divides every width.
        head: Channels of one attention head; divides the last width, or all of it when larger.
    """
    levels = len(widths)
    return UNet2DModel(
        in_channels=CHANNELS * codec.block**2 + codec.latent_channels,
        out_channels=2 * codec.latent_channels,
        layers_per_block=1,
        block_out_channels=tuple(widths),
        down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        norm_num_groups=groups,
        attention_head_dim=min(head, widths[-1]),
    )


def interpolate(x0: Tensor, eps: Tensor, s: Tensor | float) -> Tensor:
    """The noisy latent ``x_s = (1 - s) x0 + s eps`` (Lipman et al., eq. 22 with sigma_min = 0)."""
    return (1 - s) * x0 + s * eps


def predict(
    denoiser: UNet2DModel, conditioning: Tensor, x_s: Tensor, s: Tensor, factor: int
) -> tuple[Tensor, Tensor]:
    """The clean latent as the network sees it, and how far off it expects to be.

    Args:
        denoiser: As `build_denoiser` makes it, or one without doubt (half the output channels).
        conditioning: ``(batch, 7, row, column)`` of `pipeline.intensity.condition`. The CT goes
            into the network by pixel unshuffle, never through a lossy codec.
        x_s: ``(batch, latent channel, row / factor, column / factor)``.
        s: ``(batch,)`` noise levels in 0..1. Level 1 with ``x_s = 0`` is the deterministic start:
            there the latent holds nothing and the answer comes from the CT alone.
        factor: Block size of the codec.

    Returns:
        ``x0`` and doubt, each of the shape of ``x_s``. Doubt is in units of the latent, at least
        0; all 0 for a network without it.
    """
    inputs = torch.cat((functional.pixel_unshuffle(conditioning, factor), x_s), dim=1)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    out: Tensor = denoiser(inputs, s * TIMESTEPS).sample
    x0, doubt = out[:, : x_s.shape[1]], out[:, x_s.shape[1] :]
    if not doubt.shape[1]:
        return x0, torch.zeros_like(x0)
    return x0, functional.softplus(doubt.float())
