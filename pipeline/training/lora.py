"""Teach Stable Diffusion T2 and STIR of the neck with a LoRA, on pairs of CT and MRI.

``python -m pipeline.training.lora BASE OUT`` copies the folder of a Stable Diffusion 1.5 or
InstructPix2Pix and leaves in the copy what `pipeline.model.stable_diffusion` needs to run it.
Called again it goes on from what is in OUT.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.nn import functional

from pipeline.contrast import ALL_CONTRASTS
from pipeline.model.low_rank import CONV_IN, attach, restore, state_of
from pipeline.model.stable_diffusion import (
    CLASS_NAME,
    CONTRASTS_FILE,
    LORA_FILE,
    NO_PROMPT,
    ct_image,
    load_embeddings,
    load_parts,
    signal_image,
)
from pipeline.training.data import Batch, Pool, fill

TOKENS = 77
"""Of a prompt in Stable Diffusion."""

DROPPED = 0.05
"""Share of examples without the prompt, without the CT, and without both: guidance needs to know
what the network says without them (InstructPix2Pix, section 3.2.1)."""

SAVE_EVERY_STEPS = 100


@dataclass(frozen=True)
class LoraConfig:
    """Everything a run depends on.

    Args:
        base_dir: The folder to begin with; never written to.
        out_dir: Made when missing; outside the repository, it is as large as the base.
        pool_dir: Phantom pairs, `pipeline.training.data`; those missing are made.
        seeds: Of the phantoms.
        steps: To take in this call.
        batch: Slices of one step.
        rank: Of the LoRA.
        learning_rate: Of AdamW, constant.
        seed: Of the initialization, and with the step number of every draw.
    """

    base_dir: Path
    out_dir: Path
    pool_dir: Path
    seeds: range
    steps: int
    batch: int = 1
    rank: int = 8
    learning_rate: float = 1e-4
    seed: int = 0


class LoraTraining:
    """A folder on its way to knowing T2 and STIR; one call of `step` at a time.

    Args:
        folder: As `prepare` leaves it.
        rank: Of the LoRA.
        learning_rate: Of AdamW.
        seed: Of the initialization.
    """

    def __init__(self, folder: Path, rank: int, learning_rate: float, seed: int) -> None:
        self.folder = folder
        self.vae: AutoencoderKL
        self.unet: UNet2DConditionModel
        self.scheduler: DDIMScheduler
        self.vae, self.unet, self.scheduler = load_parts(folder)
        self.vae.requires_grad_(False)
        learned = attach(self.unet, rank, Generator().manual_seed(seed))
        if (folder / LORA_FILE).is_file():
            restore(self.unet, load_file(folder / LORA_FILE))
        self.embeddings = nn.Parameter(load_embeddings(folder))
        self.unet.train()
        self._optimizer = torch.optim.AdamW([*learned, self.embeddings], lr=learning_rate)

    def step(self, batch: Batch, rng: Generator) -> float:
        """One step of the optimizer; returns the loss before it."""
        found = self.loss(batch, rng)
        torch.autograd.backward(found)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(found.detach())

    def loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Mean squared error of what the network predicts (Ho et al. 2020, eq. 14).

        Args:
            batch: Slices; each is asked for one contrast, by chance.
            rng: On the CPU; draws contrast, noise, its level and what is left out.
        """
        count = len(batch.slices_hu)
        contrast = torch.randint(len(ALL_CONTRASTS), (count,), generator=rng)
        wanted = batch.signal[torch.arange(count), contrast, None]
        ct = self.vae.encode(ct_image(batch.slices_hu)).latent_dist.mode()
        clean = self.vae.encode(signal_image(wanted)).latent_dist.mode()
        clean = clean * self.vae.config.scaling_factor
        noise = torch.randn(clean.shape, generator=rng)
        levels = self.scheduler.config.num_train_timesteps
        t = torch.randint(levels, (count,), generator=rng)
        chance = torch.rand(count, generator=rng)
        prompts = self.embeddings[torch.where(chance < 2 * DROPPED, len(ALL_CONTRASTS), contrast)]
        blind = (chance >= DROPPED) & (chance < 3 * DROPPED)
        ct = torch.where(blind[:, None, None, None], 0.0, ct)
        inputs = torch.cat((self.scheduler.add_noise(clean, noise, t), ct), dim=1)
        found = self.unet(inputs, t, encoder_hidden_states=prompts, return_dict=False)[0]
        if self.scheduler.config.prediction_type == "v_prediction":
            return functional.mse_loss(found, self.scheduler.get_velocity(clean, noise, t))
        return functional.mse_loss(found, noise)

    def save(self) -> None:
        """Write LoRA and embeddings into the folder; each appears whole or not at all."""
        names = (*map(str, ALL_CONTRASTS), NO_PROMPT)
        rows = self.embeddings.detach()
        embeddings = {name: row.clone() for name, row in zip(names, rows, strict=True)}
        for name, state in ((LORA_FILE, state_of(self.unet)), (CONTRASTS_FILE, embeddings)):
            _whole(self.folder / name, partial(save_file, state))


def prepare(base: Path, folder: Path, seed: int) -> None:
    """Copy a base folder and make it one that `LoraTraining` can begin with.

    Raises:
        FileNotFoundError: When the base is not the folder of a Stable Diffusion.
        ValueError: When its UNet takes neither a latent nor a latent and a CT.
    """
    if (folder / CONTRASTS_FILE).is_file():
        return
    vae, unet, scheduler = load_parts(base)
    folder.mkdir(parents=True, exist_ok=True)
    vae.save_pretrained(folder / "vae")
    _widened(unet, vae.config.latent_channels).save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    index: dict[str, str | list[str]] = {
        "_class_name": CLASS_NAME,
        "name": base.name,
        "version": "0",
    }
    parts = (vae, unet, scheduler)
    for part, one in zip(("vae", "unet", "scheduler"), parts, strict=True):
        index[part] = ["diffusers", type(one).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    # the embeddings come last: a folder that has them is whole
    for name in (LORA_FILE, CONTRASTS_FILE):
        if (base / name).is_file():
            _whole(folder / name, partial(shutil.copyfile, base / name))
    if (folder / CONTRASTS_FILE).is_file():
        return
    generator = Generator().manual_seed(seed)
    shape = (TOKENS, unet.config.cross_attention_dim)
    names = (*map(str, ALL_CONTRASTS), NO_PROMPT)
    # unit variance, as the layer norm at the end of the text encoder leaves it
    drawn = {name: torch.randn(shape, generator=generator) for name in names}
    _whole(folder / CONTRASTS_FILE, partial(save_file, drawn))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.partial")
    write(unfinished)
    unfinished.replace(path)


def _widened(unet: UNet2DConditionModel, latent_channels: int) -> UNet2DConditionModel:
    """A UNet with room for the CT; the new weights are zero (InstructPix2Pix, section 3.2)."""
    found = unet.config.in_channels
    if found == 2 * latent_channels:
        return unet
    if found != latent_channels:
        expected = f"{latent_channels} or {2 * latent_channels}"
        raise ValueError(f"expected a UNet with {expected} input channels, found {found}")
    wide = UNet2DConditionModel.from_config({**unet.config, "in_channels": 2 * latent_channels})
    state = unet.state_dict()
    narrow = state[f"{CONV_IN}.weight"]
    state[f"{CONV_IN}.weight"] = torch.cat((narrow, torch.zeros_like(narrow)), dim=1)
    wide.load_state_dict(state)
    return wide


def train_lora(
    config: LoraConfig, on_step: Callable[[int, float], None] | None = None
) -> list[float]:
    """Train; returns the loss of every step.

    Args:
        config: What to train on what.
        on_step: Told the steps taken and the loss.
    """
    prepare(config.base_dir, config.out_dir, config.seed)
    fill(config.pool_dir, config.seeds)
    pool = Pool(config.pool_dir, config.seeds)
    pool.refresh()
    training = LoraTraining(config.out_dir, config.rank, config.learning_rate, config.seed)
    losses = []
    for step in range(config.steps):
        rng = Generator().manual_seed(config.seed + step)
        losses.append(training.step(pool.draw(config.batch, rng), rng))
        if on_step is not None:
            on_step(step + 1, losses[-1])
        if (step + 1) % SAVE_EVERY_STEPS == 0:
            training.save()
    training.save()
    return losses


def main() -> None:
    """Train a LoRA for Stable Diffusion on phantoms."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("base", type=Path, help="folder of Stable Diffusion 1.5 or InstructPix2Pix")
    parser.add_argument("out", type=Path, help="folder for `pseudomri synthesize --model`")
    parser.add_argument("--pool", type=Path, help="of phantom pairs; OUT-pool when left out")
    parser.add_argument("--phantoms", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="another one when going on")
    asked = parser.parse_args()
    pool = asked.pool or asked.out.with_name(f"{asked.out.name}-pool")
    seeds = range(asked.phantoms)
    config = LoraConfig(
        asked.base, asked.out, pool, seeds, asked.steps, asked.batch, asked.rank, seed=asked.seed
    )
    train_lora(config, lambda step, loss: print(f"step {step}: loss {loss:.4f}", flush=True))


if __name__ == "__main__":
    main()
