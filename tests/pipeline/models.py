"""A tiny model with random weights: the real parts, a hundredth of the size."""

from pathlib import Path

import torch

from pipeline.model.codec import PixelUnshuffleCodec
from pipeline.model.denoiser import build_denoiser
from pipeline.model.pipeline import PseudoMRIPipeline
from pipeline.model.scheduler import build_scheduler

# networks this small are slower on two threads than on one
torch.set_num_threads(1)

# Attention costs a square of what it sees: behind three halvings a whole neck takes half a second.
TINY_WIDTHS = (8, 8, 8, 8)


def tiny_pipeline(seed: int = 0) -> PseudoMRIPipeline:
    torch.manual_seed(seed)
    codec = PixelUnshuffleCodec()
    denoiser = build_denoiser(codec, TINY_WIDTHS)
    return PseudoMRIPipeline(
        codec, denoiser, build_scheduler(), name="tiny", version="0.1", spread_sigma=0.8
    )


def save_tiny(folder: Path, seed: int = 0) -> Path:
    tiny_pipeline(seed).save_pretrained(folder, safe_serialization=True)
    return folder


def phantom_like_stack(slices: int = 5, size: int = 64, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 40 + 200 * torch.randn((slices, size, size), generator=generator)
