"""A Stable Diffusion of a few channels with random weights, in the folder layout of diffusers."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file

CROSS = 8


def save_tiny_stable_diffusion(
    folder: Path, *, in_channels: int = 8, with_contrasts: bool = False
) -> Path:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=CROSS,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    # the noise schedule of Stable Diffusion
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    scheduler.save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionInstructPix2PixPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    if with_contrasts:
        drawn = {name: torch.randn(5, CROSS) for name in ("T2", "STIR", "none")}
        save_file(drawn, folder / "contrasts.safetensors")
    return folder
