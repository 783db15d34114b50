"""Noise levels and noise: which are used, and where they come from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor

from pipeline.model.denoiser import TIMESTEPS


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Euler steps along the straight path of flow matching, levels unshifted."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=1.0)


def set_sigmas(scheduler: FlowMatchEulerDiscreteScheduler, sigmas: Sequence[float]) -> None:
    """Give the scheduler its noise levels by hand; it appends the final 0.

    Its own ``set_timesteps(2)`` gives 1, 0.001, 0 in diffusers 0.42.1: the second step would
    do nothing at a level the network was never trained on.

    Raises:
        ValueError: When the levels do not fall strictly within (0, 1].
    """
    levels = list(sigmas)
    falling = all(a > b for a, b in itertools.pairwise(levels))
    if not levels or not falling or levels[0] > 1 or levels[-1] <= 0:
        raise ValueError(f"noise levels must fall strictly within (0, 1], found {levels}")
    scheduler.set_timesteps(sigmas=levels)


def noise_fields(
    count: int,
    shape: tuple[int, int, int],
    generator: Generator,
    octaves: int = 4,
    persistence: float = 0.8,
) -> Tensor:
    """Fields of noise with unit variance and structure at several scales.

    White noise averages out over a few pixels: a network reads a blurred image straight through
    it, and would never doubt anything larger than a pixel. Summing octaves puts as much doubt into
    structures of a vertebra's size (multi-resolution noise, as used by Marigold, Ke et al. 2024,
    arXiv 2312.02145).

    Args:
        count: Of the fields.
        shape: ``(channel, row, column)`` of the latent.
        generator: Gives the fields their device; one on the CPU means the same on every device.
        octaves: Scales, each half the resolution of the one before.
        persistence: Weight of an octave relative to the one before.

    Returns:
        ``(field, channel, row, column)``.
    """
    total = torch.zeros((count, *shape), device=generator.device)
    for octave in range(octaves):
        size = [max(1, n >> octave) for n in shape[1:]]
        white = torch.randn((count, shape[0], *size), generator=generator, device=generator.device)
        total += persistence**octave * torch.nn.functional.interpolate(
            white, shape[1:], mode="bilinear", align_corners=False
        )
    return total / total.std(dim=(1, 2, 3), keepdim=True)
