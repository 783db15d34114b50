"""From MRI signal to the latent the denoiser works in, and back.

`PixelUnshuffleCodec` rearranges pixels and loses nothing. `compressing_codec` is the usual 4x
variational autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752); it was measured
against the first on thin cerebrospinal fluid and lost (docs/adr/0002-codec.md).
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional

from pipeline.contrast import ALL_CONTRASTS


class PixelUnshuffleCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A lossless codec: ``factor x factor`` pixels become channels, signal 0..1 becomes -1..1.

    The scale is fixed for all slices and patients: a slice is never stretched to its own range, so
    equal signal stays equal from slice to slice.

    Args:
        factor: Pixels along each side of the block that becomes one latent position.
        center: Signal (CSF = 1) that becomes latent 0.
        half_range: Signal distance that becomes latent distance 1.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, factor: int = 2, center: float = 0.5, half_range: float = 0.5) -> None:
        super().__init__()
        # a buffer, not two plain floats: a model without any tensor cannot be saved as safetensors
        self.register_buffer("signal_scale", torch.tensor([center, half_range]))

    @property
    def block(self) -> int:
        """Pixels along each side of the block that becomes one latent position."""
        return int(self.config.factor)

    @property
    def latent_channels(self) -> int:
        """Channels of the latent of all contrasts together."""
        return len(ALL_CONTRASTS) * self.block**2

    def encode(self, signal: Tensor) -> Tensor:
        """Signal ``(batch, contrast, row, column)`` to latent; rows and columns must divide."""
        center, half_range = self.signal_scale
        return functional.pixel_unshuffle((signal - center) / half_range, self.block)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent to signal ``(batch, contrast, row, column)``, the inverse of `encode`."""
        center, half_range = self.signal_scale
        out: Tensor = functional.pixel_shuffle(latent, self.block) * half_range + center
        return out

    def decode_width(self, latent: Tensor) -> Tensor:
        """A distance in the latent to a distance in signal: `decode` without its center."""
        _, half_range = self.signal_scale
        out: Tensor = functional.pixel_shuffle(latent, self.block) * half_range
        return out


def compressing_codec(latent_channels: int = 4) -> AutoencoderKL:
    """The 4x `AutoencoderKL` that the codec study measures: 1.6 M parameters, T2 and STIR as input.

    Width and depth are the largest that fit the time budget on a processor (SYNTHESIS: 74 ms a
    slice to decode); no attention in the middle, which costs most and sees whole-image context
    that a codec does not need.
    """
    return AutoencoderKL(
        in_channels=len(ALL_CONTRASTS),
        out_channels=len(ALL_CONTRASTS),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
