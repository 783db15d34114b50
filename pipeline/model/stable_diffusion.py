"""Stable Diffusion in place of the built-in model: a folder that the site names.

The method is InstructPix2Pix (Brooks et al. 2023, arXiv 2211.09800): the latent of the CT stands
beside the noisy latent in the first convolution, and guidance weighs the prompt and the CT apart.
The folder is that of diffusers' ``StableDiffusionInstructPix2PixPipeline``. Why that one, and why
its text encoder is not run, is in docs/adr/0009-stable-diffusion.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Generator, Tensor
from torch.nn import functional

from pipeline.contrast import ALL_CONTRASTS
from pipeline.intensity import NEIGHBORS, condition, with_neighbors
from pipeline.model.low_rank import merge
from pipeline.model.pipeline import SIGNAL_RANGE

CLASS_NAME = "StableDiffusionInstructPix2PixPipeline"
"""In the ``model_index.json`` of the folder."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""diffusers' own name for it; left out where the UNet was trained as a whole."""

CONTRASTS_FILE = "contrasts.safetensors"
"""One text embedding ``(token, channel)`` for each contrast, and one named `NO_PROMPT`."""

NO_PROMPT = "none"

ENLARGED = 2
"""Pixels a side for one of the stack: 256 x 256 becomes 512 x 512, for which the model was made."""

IMAGE_SEED = 0
"""Of the noise that the image begins with: the image depends on the CT and the weights alone."""

SIGNAL_CENTER = 0.5
"""Signal 0..1 becomes -1..1, the same for every slice and patient."""

RGB = (1, NEIGHBORS + 1, 2 * NEIGHBORS)
"""The slice itself in the soft-tissue, the bone and the blurred window, of `condition`."""


@dataclass(frozen=True)
class Sampling:
    """How the latent is cleaned; what ``sampling`` in ``model_index.json`` sets for a folder.

    Args:
        steps: Of DDIM; each evaluates the network three times.
        guidance: Weight of the prompt; diffusers' default.
        image_guidance: Weight of the CT; diffusers' default.
    """

    steps: int = 25
    guidance: float = 7.5
    image_guidance: float = 1.5


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """The parts of a folder on one device; called like `pipeline.model.pipeline.PseudoMRIPipeline`.

    Args:
        vae: Between images of -1..1 with three channels and latents.
        unet: Twice the latent channels in, once out.
        scheduler: Without noise of its own, so that a seed is all there is to chance.
        embeddings: ``(contrast + 1, token, channel)``, `ALL_CONTRASTS` and then no prompt.
        sampling: Steps and guidance.
        name: Of the weights.
        version: Of the weights.
    """

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    embeddings: Tensor
    sampling: Sampling = Sampling()
    name: str = "stable-diffusion"
    version: str = "0"

    def image(
        self, stack_hu: Tensor, *, on_slices: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Signal of every slice from one fixed noise field, and a doubt of zeros: it has none.

        Args:
            stack_hu: ``(slice, row, column)`` in HU; rows and columns divisible by 16.
            on_slices: Told the number of slices done after each one.

        Returns:
            Each ``(slice, contrast, row, column)`` float32 on the CPU.
        """
        generator = Generator().manual_seed(IMAGE_SEED)
        signal = self.sample(stack_hu, generator, on_slices=on_slices)
        return signal, torch.zeros_like(signal)

    @torch.inference_mode()
    def sample(
        self,
        stack_hu: Tensor,
        generator: Generator,
        *,
        on_slices: Callable[[int], None] | None = None,
    ) -> Tensor:
        """One sample; all slices and contrasts begin with the same noise.

        Args:
            stack_hu: ``(slice, row, column)`` in HU.
            generator: Seeded, on the CPU; draws one noise field.
            on_slices: Told the number of slices done after each one.

        Returns:
            ``(slice, contrast, row, column)`` float32 on the CPU, within `SIGNAL_RANGE`.
        """
        noise = self.noise(stack_hu.shape[1], stack_hu.shape[2], generator)
        out = []
        # one slice at a time: three evaluations of it fill a processor, and memory stays flat
        for slice_hu in with_neighbors(stack_hu.float()):
            ct = self.encode(ct_image(slice_hu[None]))
            contrasts = range(len(ALL_CONTRASTS))
            latents = [self.denoise(ct, contrast, noise) for contrast in contrasts]
            out.append(torch.cat([self.decode(latent) for latent in latents], dim=1))
            if on_slices is not None:
                on_slices(1)
        return torch.cat(out)

    def spread(
        self,
        stack_hu: Tensor,
        generator: Generator,
        samples: int,
        on_slices: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Standard deviation over samples, ``(slice, contrast, row, column)`` float32.

        Raises:
            ValueError: For fewer than two samples.
        """
        if samples < 2:
            raise ValueError(f"a spread needs at least 2 samples, found {samples}")
        members = [self.sample(stack_hu, generator, on_slices=on_slices) for _ in range(samples)]
        return torch.stack(members).std(dim=0)

    def noise(self, rows: int, columns: int, generator: Generator) -> Tensor:
        """``(1, channel, row, column)`` of the latent of a slice of so many rows and columns."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        size = (rows * ENLARGED // factor, columns * ENLARGED // factor)
        return torch.randn((1, self.vae.config.latent_channels, *size), generator=generator)

    def encode(self, image: Tensor) -> Tensor:
        """Latent of images ``(batch, 3, row, column)``, unscaled: the most likely, not a draw."""
        latent: Tensor = self.vae.encode(
            image.to(self.vae.device, self.vae.dtype)
        ).latent_dist.mode()
        return latent

    def denoise(self, ct: Tensor, contrast: int, noise: Tensor) -> Tensor:
        """The sampling of InstructPix2Pix (eq. 3 of the paper), as in diffusers' pipeline.

        Args:
            ct: ``(batch, channel, row, column)``, of `encode`.
            contrast: Index into `ALL_CONTRASTS`.
            noise: ``(1, channel, row, column)``, of `noise`.

        Returns:
            The clean latent, scaled as the network sees it.
        """
        batch = len(ct)
        of_contrast, of_none = self.embeddings[contrast], self.embeddings[-1]
        prompts = torch.stack((of_contrast, of_none, of_none)).repeat_interleave(batch, dim=0)
        beside = torch.cat((ct, ct, torch.zeros_like(ct)))
        self.scheduler.set_timesteps(self.sampling.steps)
        x: Tensor = noise.to(ct).expand_as(ct) * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            inputs = self.scheduler.scale_model_input(torch.cat((x, x, x)), t)
            inputs = torch.cat((inputs, beside), dim=1)
            found = self.unet(inputs, t, encoder_hidden_states=prompts, return_dict=False)[0]
            with_prompt, with_ct, without = found.chunk(3)
            eps = (
                without
                + self.sampling.guidance * (with_prompt - with_ct)
                + self.sampling.image_guidance * (with_ct - without)
            )
            x = self.scheduler.step(eps, t, x, return_dict=False)[0]
        return x

    def decode(self, latent: Tensor) -> Tensor:
        """Signal ``(batch, 1, row, column)`` float32 on the CPU, at the resolution of the stack."""
        scaled = latent.to(self.vae.dtype) / self.vae.config.scaling_factor
        image = self.vae.decode(scaled, return_dict=False)[0].float().mean(dim=1, keepdim=True)
        signal: Tensor = functional.avg_pool2d(image, ENLARGED) * SIGNAL_CENTER + SIGNAL_CENTER
        return signal.clamp(*SIGNAL_RANGE).cpu()


def is_stable_diffusion(folder: Path) -> bool:
    """Whether `load_stable_diffusion` reads this model folder."""
    return bool(_index(folder).get("_class_name") == CLASS_NAME)


def load_stable_diffusion(folder: Path, device: str, dtype: torch.dtype) -> StableDiffusion:
    """Load a folder as `pipeline.training.lora` leaves it.

    Args:
        folder: With ``unet``, ``vae``, ``scheduler``, `CONTRASTS_FILE`, perhaps `LORA_FILE`.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: Of weights and arithmetic.

    Raises:
        FileNotFoundError: When a part is missing.
        ValueError: When the parts do not fit each other, or ``sampling`` is not a `Sampling`.
    """
    if not (folder / CONTRASTS_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} holds Stable Diffusion without {CONTRASTS_FILE}: it does not know T2 and"
            " STIR yet; train it with `python -m pipeline.training.lora`"
        )
    vae, unet, scheduler = load_parts(folder, dtype)
    if (folder / LORA_FILE).is_file():
        merge(unet, load_file(folder / LORA_FILE))
    embeddings = load_embeddings(folder)
    expected = (2 * vae.config.latent_channels, unet.config.cross_attention_dim)
    if (unet.config.in_channels, embeddings.shape[-1]) != expected:
        raise ValueError(
            f"expected a UNet with {expected[0]} input channels and embeddings of {expected[1]},"
            f" found {unet.config.in_channels} and {embeddings.shape[-1]}"
        )
    index = _index(folder)
    return StableDiffusion(
        # channels last as for the built-in denoiser, half again as fast on a processor
        vae=vae.to(device).eval().to(memory_format=torch.channels_last),
        unet=unet.to(device).eval().to(memory_format=torch.channels_last),
        scheduler=scheduler,
        embeddings=embeddings.to(device, dtype),
        sampling=_sampling(index),
        name=index.get("name", "stable-diffusion"),
        version=index.get("version", "0"),
    )


def load_parts(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[AutoencoderKL, UNet2DConditionModel, DDIMScheduler]:
    """Autoencoder, network and noise schedule of a folder; a LoRA is not applied.

    Whatever scheduler the folder names, its schedule is walked by DDIM, which draws nothing.

    Raises:
        FileNotFoundError: When a part is missing.
    """
    for part in ("vae", "unet", "scheduler"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"no folder {part} in {folder}; expected a {CLASS_NAME}")
    # Weights that the digest of the folder covers, and no pickles.
    how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    how |= {"dtype": dtype, "low_cpu_mem_usage": False}
    return (
        AutoencoderKL.from_pretrained(folder / "vae", **how),
        UNet2DConditionModel.from_pretrained(folder / "unet", **how),
        DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False),
    )


def load_embeddings(folder: Path) -> Tensor:
    """``(contrast + 1, token, channel)`` of a folder's `CONTRASTS_FILE`."""
    saved = load_file(folder / CONTRASTS_FILE)
    return torch.stack([saved[name] for name in (*map(str, ALL_CONTRASTS), NO_PROMPT)])


def ct_image(slices_hu: Tensor) -> Tensor:
    """What the autoencoder sees of a CT: three windows as colors.

    Args:
        slices_hu: ``(batch, 3, row, column)`` in HU: slices s-1, s, s+1.

    Returns:
        ``(batch, 3, ENLARGED * row, ENLARGED * column)`` within -1..1.
    """
    return enlarge(condition(slices_hu)[:, RGB].clamp(-1, 1))


def signal_image(signal: Tensor) -> Tensor:
    """Signal ``(batch, 1, row, column)`` as the gray image whose latent the network learns."""
    gray = (signal - SIGNAL_CENTER) / SIGNAL_CENTER
    return enlarge(gray).expand(-1, 3, -1, -1)


def enlarge(image: Tensor) -> Tensor:
    """`ENLARGED` times as many rows and columns, linear between pixel centers."""
    return functional.interpolate(
        image, scale_factor=ENLARGED, mode="bilinear", align_corners=False
    )


def _sampling(index: dict[str, Any]) -> Sampling:
    try:
        return Sampling(**index.get("sampling", {}))
    except TypeError as error:
        names = ", ".join(field.name for field in fields(Sampling))
        raise ValueError(
            f"model_index.json: expected sampling with some of {names}, found {index['sampling']}"
        ) from error


def _index(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return index
