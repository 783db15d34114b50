"""What a codec loses before any denoiser has done anything, tissue by tissue.

Trains the 4x `AutoencoderKL` on slices of the phantom's true T2 and STIR and compares what comes
back with what went in; the same for the lossless `PixelUnshuffleCodec`. The result and the decision
are in docs/adr/0002-codec.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor

from pipeline.contrast import ALL_CONTRASTS
from pipeline.evaluation.scores import REPORTED
from pipeline.model.codec import PixelUnshuffleCodec, compressing_codec
from pipeline.training.data import HELD_OUT_FROM, Pool, fill, load, pair_path
from pipeline.training.losses import loss_weights, reconstruction_loss

KL_WEIGHT = 1e-6
"""As in latent diffusion (Rombach et al. 2022): keeps the latent bounded, costs no sharpness."""

BATCH = 4
CROP_PX = 128


@dataclass(frozen=True)
class Reconstruction:
    """Mean absolute error of decode(encode(truth)) in one tissue, signal relative to CSF = 1."""

    tissue: str
    contrast: str
    compressing: float
    lossless: float


def train_autoencoder(
    pool: Pool, minutes: float, seed: int = 0, on_step: Callable[[int, float], None] | None = None
) -> AutoencoderKL:
    """Train the 4x autoencoder on true slices for so many minutes.

    Args:
        pool: Of training phantoms, not empty.
        minutes: Of wall clock.
        seed: Of initialization, draws and crops.
        on_step: Told step and weighted L1.
    """
    torch.manual_seed(seed)
    rng = Generator().manual_seed(seed)
    codec = compressing_codec().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-3, betas=(0.9, 0.98))
    began, step = time.monotonic(), 0
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50) * (1 - 0.98 * share)
        signal, weights = _crops(pool, rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = codec.encode(_scaled(signal)).latent_dist
            decoded = codec.decode(posterior.sample(rng)).sample
        loss, weighted = reconstruction_loss(_unscaled(decoded.float()), signal, weights)
        loss = loss + KL_WEIGHT * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        step += 1
        if on_step is not None:
            on_step(step, float(weighted.detach()))
    return codec.eval()


def _crops(pool: Pool, rng: Generator) -> tuple[Tensor, Tensor]:
    """Signal and weights of random crops, ``(batch, contrast, crop, crop)``."""
    batch = pool.draw(BATCH, rng)
    weights = loss_weights(batch.labels, batch.ct_labels[:, 1:2])[:, :1]
    spare = min(batch.signal.shape[2:]) - CROP_PX
    row, column = torch.randint(spare + 1, (2,), generator=rng).tolist()
    window = (..., slice(row, row + CROP_PX), slice(column, column + CROP_PX))
    return batch.signal[window], weights[window]


@torch.no_grad()
def measure(codec: AutoencoderKL, folder: Path, seeds: range) -> list[Reconstruction]:
    """Reconstruction error of both codecs on held-out phantoms.

    Args:
        codec: Trained.
        folder: Holds the pairs.
        seeds: Held-out.
    """
    lossless = PixelUnshuffleCodec()
    errors: dict[tuple[str, str], list[float]] = {}
    for seed in seeds:
        pair = load(pair_path(folder, seed))
        signal = torch.stack((torch.tensor(pair.t2), torch.tensor(pair.stir)), dim=1)
        latent = codec.encode(_scaled(signal)).latent_dist.mode()
        back = _unscaled(codec.decode(latent).sample)
        same = lossless.decode(lossless.encode(signal))
        for tissue in REPORTED:
            mask = torch.tensor(pair.labels == tissue)
            for channel, contrast in enumerate(ALL_CONTRASTS):
                truth = signal[:, channel][mask]
                total = errors.setdefault((tissue.name, contrast.value), [0.0, 0.0, 0])
                total[0] += float((back[:, channel][mask] - truth).abs().sum())
                total[1] += float((same[:, channel][mask] - truth).abs().sum())
                total[2] += truth.numel()
    return [Reconstruction(*key, t[0] / t[2], t[1] / t[2]) for key, t in errors.items() if t[2]]


def _scaled(signal: Tensor) -> Tensor:
    return signal * 2 - 1


def _unscaled(latent: Tensor) -> Tensor:
    return (latent + 1) / 2


def study_table(rows: list[Reconstruction]) -> str:
    """Markdown, one row per tissue and contrast."""
    lines = ["| tissue | contrast | 4x AutoencoderKL | pixel unshuffle |", "|---|---|---|---|"]
    lines += [
        f"| {r.tissue.lower().replace('_', ' ')} | {r.contrast} | {r.compressing:.4f} | "
        f"{r.lossless:.4f} |"
        for r in rows
    ]
    return "\n".join(lines)


def run_study(pool_dir: Path, seeds: range, held_out: range, minutes: float) -> str:
    """The whole study: train, measure, tabulate. Pairs must exist (`data.fill`)."""
    pool = Pool(pool_dir, seeds)
    pool.refresh()
    codec = train_autoencoder(pool, minutes)
    return study_table(measure(codec, pool_dir, held_out))


def main() -> None:
    """Print the table of the codec decision; phantoms that the pool lacks are drawn first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("pool", type=Path, help="folder of phantom pairs")
    parser.add_argument("--minutes", type=float, default=20, help="of training the autoencoder")
    parser.add_argument("--phantoms", type=int, default=181, help="to train on")
    parser.add_argument("--held-out", type=int, default=4, help="to measure on")
    asked = parser.parse_args()
    seeds = range(asked.phantoms)
    held_out = range(HELD_OUT_FROM, HELD_OUT_FROM + asked.held_out)
    for wanted in (seeds, held_out):
        fill(asked.pool, wanted)
    print(run_study(asked.pool, seeds, held_out, asked.minutes))


if __name__ == "__main__":
    main()
