"""The training, from top to bottom.

``train(TrainingConfig(work_dir=..., minutes=60))`` makes phantoms beside itself, trains, and leaves
a model folder that `PseudoMRIPipeline.from_pretrained` reads. Killed at any moment it goes on from
its last checkpoint when it is called again.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from pipeline.intensity import condition
from pipeline.model.codec import PixelUnshuffleCodec
from pipeline.model.denoiser import WIDTHS, build_denoiser, interpolate, predict
from pipeline.model.pipeline import PseudoMRIPipeline
from pipeline.model.scheduler import build_scheduler, noise_fields
from pipeline.phantom import PHANTOM_VERSION
from pipeline.synthesis import has_bfloat16, load_model
from pipeline.training.augment import Augmentation, augment
from pipeline.training.data import HELD_OUT_FROM, Pool, fill, fill_beside, load, pair_path
from pipeline.training.losses import (
    CONSISTENCY_SHARE,
    DOUBT_SHARE,
    TOUCHING_WEIGHT,
    consistency_loss,
    doubt_loss,
    loss_weights,
    reconstruction_loss,
)
from pipeline.training.pictures import contact_sheet

LOG_EVERY_STEPS = 25
REFRESH_EVERY_STEPS = 25
SCANS = 2
"""Of each slice in a step: the same patient under other noise (`losses.consistency_loss`)."""

POLL_S = 2.0
"""How often an empty pool is looked at."""


class CannotTrain(Exception):
    """What a run needs is not there and will not come; the message says what to do."""


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a run depends on.

    Args:
        work_dir: Holds pool, checkpoint, losses, pictures and the exported model; not in git.
        pool_dir: Holds the phantom pairs; ``work_dir / "pool"`` when not given.
        seeds: Phantoms to train on; held-out seeds begin at `data.HELD_OUT_FROM`.
        narrowed: Phantoms with a narrowed canal, `data.NARROWED_FROM` to `data.NARROWED_TO`; half
            of what is trained on is of them.
        start: Model folder whose weights the run begins with; none means chance.
        minutes: Length of the run in time spent training, or
        steps: its length in steps; exactly one of the two.
        device: ``"cpu"`` or ``"cuda"``: where it trains, and where augmentation is drawn.
        batch: Slices of one step. Each is scanned twice, with other noise.
        learning_rate: Highest; reached after `warmup_steps`, then a cosine to a fiftieth.
        weight_decay: Of AdamW.
        ema_decay: Of the moving average of the weights, which is what is exported.
        noise_sigmas: Noise levels that samples of the spread may be drawn from.
        noise_share: Share of training samples at one of them; the others are at level 1 without
            noise, which is the deterministic start.
        spread_sigma: The one of them that the exported model draws from.
        widths: Channels of the denoiser's levels.
        augmentation: Strengths.
        is_plain: Train the baseline: the same network as plain L1 regression, all pixels alike, no
            gradient term, no noisy latents.
        seed: Of initialization, draws and augmentation.
        threads: Processor threads.
        makers: Processes that make phantoms beside the training; 0 when the pool is filled.
        min_pairs: Training waits until so many exist.
        checkpoint_minutes: Between checkpoints; at most so much is lost.
        export_minutes: Between exports of the averaged weights.
        name: Of the exported model.
        version: Of the exported model.

    Raises:
        ValueError: When not exactly one of `minutes` and `steps` is given.
    """

    work_dir: Path
    pool_dir: Path | None = None
    seeds: range = range(0, 1000)
    narrowed: range = range(0)
    start: Path | None = None
    minutes: float | None = None
    steps: int | None = None
    device: str = "cpu"
    batch: int = 2
    learning_rate: float = 1.2e-3
    warmup_steps: int = 60
    weight_decay: float = 1e-3
    ema_decay: float = 0.995
    noise_sigmas: tuple[float, ...] = (0.5, 0.8)
    noise_share: float = 0.25
    spread_sigma: float = 0.8
    widths: tuple[int, ...] = WIDTHS
    augmentation: Augmentation = field(default_factory=Augmentation)
    is_plain: bool = False
    seed: int = 0
    threads: int = 1
    makers: int = 1
    min_pairs: int = 40
    checkpoint_minutes: float = 3.0
    export_minutes: float = 5.0
    name: str = "phantom-neck"
    version: str = "1"

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("give the length of the run either in minutes or in steps")
        if self.pool_dir is None:
            object.__setattr__(self, "pool_dir", self.work_dir / "pool")

    @property
    def pool(self) -> Path:
        """The folder of the phantom pairs."""
        assert self.pool_dir is not None
        return self.pool_dir

    @property
    def patients(self) -> list[int]:
        """All seeds, those with a narrowed canal in turn with the others."""
        pairs = zip_longest(self.seeds, self.narrowed)
        return [seed for pair in pairs for seed in pair if seed is not None]

    @property
    def model_dir(self) -> Path:
        """The exported model."""
        return self.work_dir / "model"

    @property
    def checkpoint(self) -> Path:
        """Everything needed to go on."""
        return self.work_dir / "checkpoint.pt"

    @property
    def pictures(self) -> Path:
        """CT, truth and prediction of a held-out phantom, one for each export."""
        return self.work_dir / "pictures"

    @property
    def losses(self) -> Path:
        """One JSON object per line and `LOG_EVERY_STEPS` steps."""
        return self.work_dir / "losses.jsonl"


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Args:
        share: Done, 0..1.
        step: Steps taken since the beginning, over all resumptions.
        elapsed_s: Time spent training, over all resumptions.
        loss: Mean weighted L1 of the last steps, in units of signal.
        pairs: Phantom pairs in use.
    """

    share: float
    step: int
    elapsed_s: float
    loss: float
    pairs: int


def for_gpu(cores: int) -> dict[str, Any]:
    """What of `TrainingConfig` differs on a GPU.

    It sees a thousand crops a second where a processor's core sees seven: what runs short are the
    phantoms, which the processor beside it draws.

    Args:
        cores: Of the processor beside it, which have to make the phantoms.
    """
    return {
        "device": "cuda",
        "batch": 96,
        "ema_decay": 0.998,
        "warmup_steps": 200,
        # one core launches the kernels, one is left to the system
        "makers": max(1, cores - 2),
        "min_pairs": 200,
    }


def train(config: TrainingConfig, on_progress: Callable[[Progress], None] = lambda _: None) -> Path:
    """Train, or go on training, until the budget is spent.

    Args:
        config: Of the run. A resumed run takes the new config's budget and rates.
        on_progress: Told every `LOG_EVERY_STEPS` steps.

    Returns:
        The folder of the exported model.

    Raises:
        CannotTrain: When the checkpoint is of the other kind of run (`TrainingConfig.is_plain`),
            the model to begin with does not fit, or the processes that make phantoms end before
            there are enough.
    """
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.benchmark = True
    config.work_dir.mkdir(parents=True, exist_ok=True)
    run = Run(config)
    pool = Pool(config.pool, config.seeds, config.device, config.narrowed)
    with _phantoms_made_beside(config) as makers:
        _wait_for(pool, config.min_pairs, makers)
        losses: list[Tensor] = []
        saved = exported = began = time.monotonic()
        spent_before = run.elapsed_s
        while run.share < 1:
            losses.append(run.take_step(pool))
            now = time.monotonic()
            run.elapsed_s = spent_before + now - began
            if run.step % LOG_EVERY_STEPS == 0:
                progress = run.report(losses, len(pool))
                losses.clear()
                on_progress(progress)
            if run.step % REFRESH_EVERY_STEPS == 0:
                pool.refresh()
            if now - saved > 60 * config.checkpoint_minutes:
                run.save()
                saved = now
            if now - exported > 60 * config.export_minutes:
                run.export()
                exported = now
    if losses:
        # the last line on record is the last step: the model card reads it
        on_progress(run.report(losses, len(pool)))
    run.save()
    run.export()
    return config.model_dir


class Run:
    """The state of a run: network, average, optimizer, chance, step and time.

    Args:
        config: Of the run; its checkpoint is read when there is one.

    Raises:
        CannotTrain: When that is of the other kind of run, or there is no model to begin with.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.step = 0
        self.elapsed_s = 0.0
        self.codec = PixelUnshuffleCodec()
        torch.manual_seed(config.seed)
        self.codec.to(config.device)
        self.denoiser = build_denoiser(self.codec, config.widths).to(
            config.device, memory_format=torch.channels_last
        )
        self.begun = "nothing"
        # a run that goes on has its weights in the checkpoint; its model may be gone
        if config.start is not None and not config.checkpoint.exists():
            self.begun = self._begin_with(config.start)
        self.average = {k: v.clone() for k, v in self.denoiser.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
        )
        self.rng = Generator().manual_seed(config.seed)
        self.device_rng = Generator(config.device).manual_seed(config.seed)
        if config.checkpoint.exists():
            self._load()
        if config.losses.exists():
            self._forget_losses()

    def _begin_with(self, folder: Path) -> str:
        """Take the weights of a model of the same shape.

        Returns:
            Which, in words for the model card; its own card says how it came about.

        Raises:
            CannotTrain: When the folder holds no such model.
        """
        try:
            model = load_model(folder)
            self.denoiser.load_state_dict(model.pipeline.denoiser.state_dict())
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise CannotTrain(
                f"expected a model of `pseudomri train` with channels {self.config.widths} in"
                f" {folder} to begin with, found another: {str(error).splitlines()[0]}"
            ) from error
        return f"{model.name} {model.version} (`{model.digest[:12]}`)"

    @property
    def share(self) -> float:
        """How much of the budget is spent, 0..1."""
        if self.config.steps is not None:
            return min(1.0, self.step / self.config.steps)
        assert self.config.minutes is not None
        return min(1.0, self.elapsed_s / (60 * self.config.minutes))

    def take_step(self, pool: Pool) -> Tensor:
        """Draw, augment, predict, correct; returns the weighted L1 in units of signal."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        batch = pool.draw(config.batch, self.rng)
        touching = TOUCHING_WEIGHT if config.narrowed else 1.0
        weights = loss_weights(batch.labels, batch.ct_labels[:, 1:2], touching)
        if config.is_plain:
            weights = torch.ones_like(weights)
        slices_hu, signal, weights = augment(
            batch, weights, config.augmentation, self.device_rng, SCANS
        )
        x_s, s = self._start(self.codec.encode(signal))
        with torch.autocast(
            config.device, dtype=torch.bfloat16, enabled=has_bfloat16(config.device)
        ):
            x0, latent_doubt = predict(
                self.denoiser, condition(slices_hu), x_s, s, self.codec.block
            )
        predicted = self.codec.decode(x0.float())
        doubt = self.codec.decode_width(latent_doubt.float())
        loss, weighted = reconstruction_loss(predicted, signal, weights[:, :1])
        if config.is_plain:
            loss = weighted
        else:
            loss = loss + CONSISTENCY_SHARE * consistency_loss(predicted, weights[:, :1])
        error = (predicted.detach() - signal).abs()
        loss = loss + DOUBT_SHARE * doubt_loss(doubt, error, weights[:, 1:])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        self.optimizer.step()
        self._follow()
        self.step += 1
        return weighted.detach()

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self.config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.share))
        return self.config.learning_rate * warm * (0.02 + 0.98 * cosine)

    def _start(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents and their levels: only levels that inference visits are trained.

        The scans of a patient start alike, so that they differ in the CT's noise alone.
        """
        count, rng = len(x0) // SCANS, self.device_rng
        share = 0.0 if self.config.is_plain else self.config.noise_share
        noisy = torch.rand(count, generator=rng, device=rng.device) < share
        levels = torch.tensor(self.config.noise_sigmas, device=rng.device)
        drawn = torch.randint(len(levels), (count,), generator=rng, device=rng.device)
        s = torch.where(noisy, levels[drawn], 1.0)
        shape = (x0.shape[1], x0.shape[2], x0.shape[3])
        eps = noise_fields(count, shape, rng) * noisy.view(-1, 1, 1, 1)
        s, eps = s.repeat(SCANS), eps.repeat(SCANS, 1, 1, 1)
        return interpolate(x0, eps, s.view(-1, 1, 1, 1)), s

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights; faster at first, when they still mean little."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        ours = list(self.denoiser.state_dict().values())
        torch._foreach_lerp_(list(self.average.values()), ours, 1 - decay)

    def report(self, losses: list[Tensor], pairs: int) -> Progress:
        """Append to the losses on disk."""
        loss = float(torch.stack(losses).mean())
        progress = Progress(self.share, self.step, self.elapsed_s, loss, pairs)
        with self.config.losses.open("a") as sink:
            line = {**asdict(progress), "phantom_version": PHANTOM_VERSION, "begun": self.begun}
            sink.write(json.dumps(line) + "\n")
        return progress

    def save(self) -> None:
        """Replace the checkpoint: the old one stays until the new one is whole and on disk."""
        state = {
            "is_plain": self.config.is_plain,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "begun": self.begun,
            "denoiser": self.denoiser.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.get_state(),
            "device_rng": self.device_rng.get_state(),
        }
        partial = self.config.checkpoint.with_suffix(".partial")
        with partial.open("wb") as sink:
            torch.save(state, sink)
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(self.config.checkpoint)

    def _load(self) -> None:
        """Go on from the checkpoint."""
        state: dict[str, Any] = torch.load(
            self.config.checkpoint, map_location="cpu", weights_only=True
        )
        if state.get("is_plain") is not self.config.is_plain:
            raise CannotTrain(
                f"expected a checkpoint with is_plain={self.config.is_plain} in"
                f" {self.config.checkpoint}, found {state.get('is_plain', 'none on record')}; a run"
                " of the other kind needs a folder of its own"
            )
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.begun = state.get("begun", "nothing")
        self.denoiser.load_state_dict(state["denoiser"])
        self.average = {k: v.to(self.config.device) for k, v in state["average"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"])
        self.device_rng.set_state(state["device_rng"])

    def _forget_losses(self) -> None:
        """Drop what was logged after the checkpoint: it comes again. Replaced as the checkpoint."""
        lines = self.config.losses.read_text().splitlines()
        kept = [line for line in lines if _step_of(line) <= self.step]
        partial = self.config.losses.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept))
        partial.replace(self.config.losses)

    def export(self) -> None:
        """Write the averaged weights as a model folder, half precision, and a picture to look at.

        The folder is replaced as a whole: a reader finds the old model or the new one.
        """
        pipeline = self.averaged()
        held_out = pair_path(self.config.pool, HELD_OUT_FROM)
        if held_out.exists():
            self.config.pictures.mkdir(exist_ok=True)
            sheet = contact_sheet(pipeline, load(held_out))
            sheet.save(self.config.pictures / f"step-{self.step:06d}.png")
        folder = self.config.model_dir
        partial, old = folder.with_suffix(".partial"), folder.with_suffix(".old")
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        pipeline.to(torch.float16).save_pretrained(partial, safe_serialization=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def averaged(self) -> PseudoMRIPipeline:
        """The model with the averaged weights, single precision."""
        denoiser = build_denoiser(self.codec, self.config.widths)
        denoiser.load_state_dict(self.average)
        pipeline = PseudoMRIPipeline(
            PixelUnshuffleCodec(),
            denoiser.eval(),
            build_scheduler(),
            name=self.config.name,
            version=self.config.version,
            spread_sigma=self.config.spread_sigma,
        )
        pipeline.to(self.config.device)
        return pipeline


def _step_of(line: str) -> float:
    """The step of a line of losses; infinite for one that a kill cut off."""
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf


@contextlib.contextmanager
def _phantoms_made_beside(config: TrainingConfig) -> Iterator[Sequence[BaseProcess]]:
    """Processes that fill the pool for as long as the training lasts."""
    if not config.makers:
        yield ()
        return
    # the one that pictures are made of; never trained on
    fill(config.pool, range(HELD_OUT_FROM, HELD_OUT_FROM + 1))
    # spawn: a forked child would inherit torch's thread pools in an unknown state
    context = multiprocessing.get_context("spawn")
    wanted = config.patients
    makers = [
        context.Process(
            target=fill_beside,
            args=(config.pool, wanted[first :: config.makers], os.getpid()),
            daemon=True,
        )
        for first in range(config.makers)
    ]
    for maker in makers:
        maker.start()
    try:
        yield makers
    finally:
        for maker in makers:
            maker.terminate()
        for maker in makers:
            maker.join()


def _wait_for(pool: Pool, pairs: int, makers: Sequence[BaseProcess]) -> None:
    """Until so many pairs exist.

    Raises:
        CannotTrain: When nobody is left who could make them.
    """
    while pool.refresh() < pairs:
        running = [maker.sentinel for maker in makers if maker.is_alive()]
        if not running:
            # they may have made the last one since it was looked
            if pool.refresh() >= pairs:
                return
            ends = [maker.exitcode for maker in makers]
            raise CannotTrain(
                f"expected {pairs} phantom pairs, found {len(pool)}, and no process that makes"
                f" more is left (exit codes {ends}); look at their errors, or give more seeds"
            )
        wait(running, POLL_S)
