"""The model as one thing: codec, denoiser and scheduler, saved and loaded together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch import Generator, Tensor

from pipeline.intensity import condition, with_neighbors
from pipeline.model.codec import PixelUnshuffleCodec
from pipeline.model.denoiser import interpolate, predict
from pipeline.model.scheduler import noise_fields, set_sigmas

BATCH = 5
"""Slices at once: more gains nothing on a processor and costs memory."""

SIGNAL_RANGE = (0.0, 1.2)
"""Signal relative to CSF = 1; nothing in the neck is brighter than 1.2."""


class PseudoMRIPipeline(DiffusionPipeline):  # type: ignore[misc]
    """CT stack in, T2 and STIR out, both from one pass so that one anatomy drives both.

    Args:
        codec: Signal to latent and back.
        denoiser: Predicts the clean latent from the CT and a noisy latent.
        scheduler: Steps from one noise level to the next.
        name: What the weights are called.
        version: Which training run they are from.
        spread_sigma: Noise level from which the samples of the spread are drawn; the denoiser was
            trained on it.
    """

    def __init__(
        self,
        codec: PixelUnshuffleCodec,
        denoiser: UNet2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        name: str = "unnamed",
        version: str = "0",
        spread_sigma: float = 0.5,
    ) -> None:
        super().__init__()
        self.register_modules(codec=codec, denoiser=denoiser, scheduler=scheduler)
        self.register_to_config(name=name, version=version, spread_sigma=spread_sigma)

    @torch.inference_mode()
    def __call__(
        self,
        stack_hu: Tensor,
        *,
        sigmas: Sequence[float] = (1.0,),
        start: Tensor | None = None,
        noise: Tensor | None = None,
        on_slices: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Signal of every slice.

        With the defaults the latent starts at exactly 0 at noise level 1 and takes one step: a
        deterministic image that comes from the CT alone.

        Args:
            stack_hu: ``(slice, row, column)`` in HU; rows and columns divisible by 16.
            sigmas: Falling noise levels within (0, 1], one step each.
            start: ``(slice, contrast, row, column)`` signal to renoise; needed when the first
                level is below 1.
            noise: ``(latent channel, row / factor, column / factor)``, one field shared by all
                slices, so that doubt moves the stack as a whole; none means zeros.
            on_slices: Told the number of slices done after each batch.

        Returns:
            ``(slice, contrast, row, column)`` float32 on the CPU, within `SIGNAL_RANGE`.

        Raises:
            ValueError: When levels are not falling, or start is missing where it is needed.
        """
        if sigmas[0] < 1 and start is None:
            raise ValueError(f"starting at noise level {sigmas[0]} needs an image to start from")
        stack = with_neighbors(stack_hu.float())
        out = []
        for first in range(0, len(stack), BATCH):
            part = slice(first, first + BATCH)
            begin = None if start is None else start[part]
            out.append(self._denoise(stack[part], sigmas, begin, noise).float().cpu())
            if on_slices is not None:
                on_slices(len(out[-1]))
        return torch.cat(out).clamp(*SIGNAL_RANGE)

    @torch.inference_mode()
    def image(
        self, stack_hu: Tensor, *, on_slices: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The deterministic image, as the defaults of a call give it, and the doubt about it.

        Args:
            stack_hu: ``(slice, row, column)`` in HU; rows and columns divisible by 16.
            on_slices: Told the number of slices done after each batch.

        Returns:
            Signal, and the quantile of its absolute error that the network expects, in the same
            unit: each ``(slice, contrast, row, column)`` float32 on the CPU.
        """
        stack = with_neighbors(stack_hu.float())
        factor, channels = self.codec.block, self.codec.latent_channels
        signals, doubts = [], []
        for first in range(0, len(stack), BATCH):
            conditioning = condition(stack[first : first + BATCH].to(self.device))
            batch, _, rows, columns = conditioning.shape
            blank = torch.zeros((batch, channels, rows // factor, columns // factor))
            s = torch.ones(batch, device=self.device)
            x0, doubt = predict(self.denoiser, conditioning, blank.to(self.device), s, factor)
            signals.append(self.codec.decode(x0.float()).cpu())
            doubts.append(self.codec.decode_width(doubt.float()).cpu())
            if on_slices is not None:
                on_slices(batch)
        return torch.cat(signals).clamp(*SIGNAL_RANGE), torch.cat(doubts)

    def _denoise(
        self,
        slices_hu: Tensor,
        sigmas: Sequence[float],
        start: Tensor | None,
        noise: Tensor | None,
    ) -> Tensor:
        """One batch, from the first noise level to 0."""
        factor = self.codec.block
        conditioning = condition(slices_hu.to(self.device))
        batch, _, rows, columns = conditioning.shape
        shape = (self.codec.latent_channels, rows // factor, columns // factor)
        eps = torch.zeros(shape) if noise is None else noise
        x0 = torch.zeros((batch, *shape)).to(self.device)
        if start is not None:
            x0 = self.codec.encode(start.to(self.device).float())
        set_sigmas(self.scheduler, sigmas)
        x = interpolate(x0, eps.to(self.device).expand(batch, -1, -1, -1), float(sigmas[0]))
        for sigma, timestep in zip(sigmas, self.scheduler.timesteps, strict=True):
            s = torch.full((batch,), float(sigma), device=self.device)
            x0 = predict(self.denoiser, conditioning, x, s, factor)[0].float()
            # the scheduler steps along the velocity v = (x_s - x0) / s
            x = self.scheduler.step((x - x0) / float(sigma), timestep, x, return_dict=False)[0]
        signal: Tensor = self.codec.decode(x)
        return signal

    def noise(self, rows: int, columns: int, generator: Generator) -> Tensor:
        """A noise field that fits a stack of this size."""
        factor = self.codec.block
        shape = (self.codec.latent_channels, rows // factor, columns // factor)
        return noise_fields(1, shape, generator)[0]

    def sample(self, stack_hu: Tensor, start: Tensor, generator: Generator, **kw: Any) -> Tensor:
        """One member of the ensemble: the image renoised to `spread_sigma` and cleaned again.

        Where the CT decides, every member comes back to the same value; where it does not, the
        denoiser follows the noise, and the members differ.

        Args:
            stack_hu: ``(slice, row, column)`` in HU.
            start: ``(slice, contrast, row, column)``, the deterministic image.
            generator: Seeded; draws one noise field.
            **kw: Passed on (``on_slices``).

        Returns:
            ``(slice, contrast, row, column)``.
        """
        field = self.noise(stack_hu.shape[1], stack_hu.shape[2], generator)
        out: Tensor = self(
            stack_hu, sigmas=(self.config.spread_sigma,), start=start, noise=field, **kw
        )
        return out
