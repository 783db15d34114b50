"""How far the samples of a model are apart, computed in the latent, a few slices at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pipeline.intensity import condition, with_neighbors
from pipeline.model.denoiser import interpolate, predict
from pipeline.model.pipeline import BATCH, SIGNAL_RANGE, PseudoMRIPipeline


@torch.inference_mode()
def ensemble_spread(
    pipeline: PseudoMRIPipeline,
    stack_hu: Tensor,
    image: Tensor,
    generator: Generator,
    samples: int,
    on_slices: Callable[[int], None] | None = None,
) -> Tensor:
    """Standard deviation over samples as `PseudoMRIPipeline.sample` draws them.

    The codec only moves and scales pixels, so the deviation of the latents is that of the images:
    none of the samples is decoded, and none is kept.

    Args:
        pipeline: On its device.
        stack_hu: ``(slice, row, column)`` in HU.
        image: ``(slice, contrast, row, column)``, the deterministic image.
        generator: Seeded; draws one noise field a sample, shared by all slices.
        samples: At least 2.
        on_slices: Told the number of slices done after each batch of each sample.

    Returns:
        ``(slice, contrast, row, column)`` float32 on the CPU, in the unit of the signal.

    Raises:
        ValueError: For fewer than two samples.
    """
    if samples < 2:
        raise ValueError(f"a spread needs at least 2 samples, found {samples}")
    rows, columns = stack_hu.shape[1:]
    fields = [pipeline.noise(rows, columns, generator) for _ in range(samples)]
    stack = with_neighbors(stack_hu.float())
    spread = []
    for first in range(0, len(stack), BATCH):
        part = slice(first, first + BATCH)
        deviation = _latent_deviation(pipeline, stack[part], image[part], fields, on_slices)
        spread.append(pipeline.codec.decode_width(deviation).cpu())
    return torch.cat(spread)


def _latent_deviation(
    pipeline: PseudoMRIPipeline,
    slices_hu: Tensor,
    image: Tensor,
    fields: list[Tensor],
    on_slices: Callable[[int], None] | None,
) -> Tensor:
    """Standard deviation of the clean latents of one batch, over the noise fields."""
    codec, device = pipeline.codec, pipeline.device
    sigma = float(pipeline.config.spread_sigma)
    conditioning = condition(slices_hu.to(device))
    x0 = codec.encode(image.to(device).float())
    s = torch.full((len(x0),), sigma, device=device)
    center, half_range = codec.signal_scale
    low, high = ((bound - center) / half_range for bound in SIGNAL_RANGE)
    total, squares = torch.zeros_like(x0), torch.zeros_like(x0)
    for eps in fields:
        x = interpolate(x0, eps.to(device).expand_as(x0), sigma)
        # One step from sigma to 0 along the velocity ends at the predicted x0 itself.
        member = predict(pipeline.denoiser, conditioning, x, s, codec.block)[0].float()
        # Summed as distance from the image, which is near: nothing cancels.
        away = member.clamp(low, high) - x0
        total += away
        squares += away**2
        if on_slices is not None:
            on_slices(len(x0))
    count = len(fields)
    variance: Tensor = (squares - total**2 / count) / (count - 1)
    return variance.clamp(min=0).sqrt()
