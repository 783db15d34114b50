"""The model card: what was trained on what, how good it is, and what it must not be used for.

Written from the run and its evaluation, so that no figure is typed by hand.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.evaluation.scores import evaluate, lookup_method, model_method, table
from pipeline.phantom import PHANTOM_VERSION
from pipeline.provenance import digest_folder, software_versions
from pipeline.synthesis import has_bfloat16, load_model
from pipeline.training.augment import Augmentation
from pipeline.training.data import HELD_OUT_FROM, fill, load, pair_path, stored_seeds
from pipeline.training.loop import SCANS, TrainingConfig
from pipeline.training.losses import CONSISTENCY_SHARE

NAME = "README.md"
"""Model hubs show this file; it is no part of the model's digest."""

SLICES_APART = """\
- Slices farther apart than 1 mm blur the CT in one direction, which no training saw.
"""

HELD_OUT = 6
"""Phantoms of the card's table; `pseudomri evaluate` is the whole evaluation."""

LOOKUP_PHANTOMS = 20

INTERVALS, LIMITS = "## How far its intervals reach", "## Limits"


@dataclass(frozen=True)
class Facts:
    """What the card is written from.

    Args:
        name: Of the model.
        version: Of the model.
        digest: Of the model folder.
        parameters: Of the denoiser.
        steps: Taken.
        hours: Spent training.
        batch: Slices of one step.
        augmentation: Strengths.
        phantoms: Training phantoms, as the last line of the losses has them.
        seeds: First and last of the pool's when the card is written; the run keeps no record.
        narrowed: Those of them whose canal is narrowed, with their seeds, in words.
        begun: What the run began with, in words.
        earlier: Last step that was taken on phantoms of an earlier version, by version.
        is_plain: Whether it is the baseline, plain L1 regression.
        held_out: Phantoms of the figures.
        hardware: Of the training.
        software: Name and version.
        figures: Markdown table of `pipeline.evaluation.scores.table`.
        loss: First and last training loss.
    """

    name: str
    version: str
    digest: str
    parameters: int
    steps: int
    hours: float
    batch: int
    augmentation: Augmentation
    phantoms: int
    seeds: tuple[int, int]
    narrowed: str
    begun: str
    earlier: dict[int, int]
    is_plain: bool
    held_out: int
    hardware: str
    software: dict[str, str]
    figures: str
    loss: tuple[float, float]


def write(config: TrainingConfig) -> Facts:
    """Measure the model that a run left, and write its card into its folder.

    Args:
        config: Of the run, which must be finished.
    """
    facts = collect(config)
    (config.model_dir / NAME).write_text(card(facts))
    return facts


def collect(config: TrainingConfig) -> Facts:
    """Read the run's own record, and score the model on a few held-out phantoms."""
    model = load_model(config.model_dir)
    seeds = stored_seeds(config.pool, config.seeds)
    held_out = range(HELD_OUT_FROM, HELD_OUT_FROM + HELD_OUT)
    fill(config.pool, held_out)
    judged = [load(pair_path(config.pool, seed)) for seed in held_out]
    learned = (load(pair_path(config.pool, seed)) for seed in seeds[:LOOKUP_PHANTOMS])
    figures = table(
        {
            "model": evaluate(model_method(model), judged),
            "lookup": evaluate(lookup_method(learned), judged),
        }
    )
    lines = [json.loads(line) for line in config.losses.read_text().splitlines()]
    return Facts(
        name=model.name,
        version=model.version,
        digest=model.digest,
        parameters=sum(p.numel() for p in model.pipeline.denoiser.parameters()),
        steps=lines[-1]["step"],
        hours=lines[-1]["elapsed_s"] / 3600,
        batch=config.batch,
        augmentation=config.augmentation,
        phantoms=lines[-1]["pairs"],
        seeds=(seeds[0], seeds[-1]),
        narrowed=_narrowed(stored_seeds(config.pool, config.narrowed)),
        begun=lines[0].get("begun", "nothing"),
        earlier={
            line["phantom_version"]: line["step"]
            for line in lines
            if line["phantom_version"] != PHANTOM_VERSION
        },
        is_plain=config.is_plain,
        held_out=HELD_OUT,
        hardware=hardware(config.device, config.threads),
        software=collect_software(),
        figures=figures,
        loss=(lines[0]["loss"], lines[-1]["loss"]),
    )


def sign(folder: Path, report: str) -> None:
    """Bring a folder's card up to date after its calibration, which changes the digest.

    Args:
        folder: Of the model, with its card and calibration.
        report: What the calibration printed, Markdown; takes the place of an earlier one.

    Raises:
        ValueError: When the card names no digest or has no limits: it is not one of ours.
    """
    text = (folder / NAME).read_text()
    before, limits, after = text.partition(LIMITS)
    digest = re.search(r"(?<=SHA-256 of the folder: `)[0-9a-f]{64}", before)
    if digest is None or not limits:
        raise ValueError(f"expected a model card in {folder / NAME}, found another text")
    before = before.replace(digest[0], digest_folder(folder)).partition(INTERVALS)[0]
    (folder / NAME).write_text(f"{before}{INTERVALS}\n\n{report.strip()}\n\n{LIMITS}{after}")


def _narrowed(seeds: list[int]) -> str:
    if not seeds:
        return ""
    return f", {len(seeds)} of them with a narrowed canal ({seeds[0]} to {seeds[-1]})"


def hardware(device: str, threads: int) -> str:
    """The accelerator or the processor, in words."""
    precision = "bfloat16" if has_bfloat16(device) else "float32"
    if device == "cuda":
        return f"one {torch.cuda.get_device_name()}, {precision}"
    can = torch.cpu.get_capabilities()
    model = can.get("cpu_name") or platform.processor() or platform.machine()
    return f"{threads} thread(s) of {model}, {precision}"


def card(facts: Facts) -> str:
    """The card as Markdown."""
    software = ", ".join(f"{name} {version}" for name, version in facts.software.items())
    first, last = facts.loss
    how = facts.augmentation
    thick = f", slices up to {how.thick_px:g} px apart" if how.thick_px else ""
    apart = "" if how.thick_px else SLICES_APART
    earlier = "".join(f"; up to step {step} version {v}" for v, step in facts.earlier.items())
    loss = (
        "plain L1 regression: the baseline, not for use"
        if facts.is_plain
        else "tissue-weighted L1 plus gradient L1 of the image, occult lesions at a fifth of their"
        f" weight; {CONSISTENCY_SHARE:g} of the L1 between two noises of one slice; pinball"
        " loss of the doubt; nothing adversarial"
    )
    return f"""---
license: apache-2.0
library_name: diffusers
tags: [medical, ct, mri, image-to-image, synthetic-data]
---

# {facts.name} {facts.version}

Turns a sagittal CT stack of the neck (3 mm slices, 0.75 mm pixels) into pseudo-T2 and pseudo-STIR,
and says where it is guessing. SHA-256 of the folder: `{facts.digest}`.

**It has never seen a patient.** It was trained on procedurally drawn necks alone. It is for
research; its images are no MRI and must not be read without the CT and without their label.

## What it is

A `diffusers` pipeline of three parts: a lossless pixel-unshuffle codec, a `UNet2DModel` of
{facts.parameters / 1e6:.1f} M parameters that predicts the clean latent of both contrasts, and the
error it expects in them, from three CT slices in two windows, and a flow-matching Euler scheduler.
The image is one deterministic step from a latent of zeros; so is the expected error. The spread is
the standard deviation of eight samples, each the image renoised and cleaned again with one noise
field for the whole stack.

## How it was trained

| | |
|---|---|
| data | {facts.phantoms} phantoms, seeds {facts.seeds[0]} to {facts.seeds[1]}{facts.narrowed} (of \
the pool, when this was written), `pipeline.phantom` version {PHANTOM_VERSION}{earlier} |
| steps | {facts.steps} of {facts.batch} crops of {how.crop_px} x {how.crop_px}, each under \
{SCANS} noises, {facts.hours:.2f} h, from {facts.begun} |
| loss | {loss}; L1 part from {first:.3f} to {last:.3f} |
| augmentation | HU by tissue ({how.tissue_hu:g}, nervous system {how.nervous_hu:g}, CSF \
{how.csf_hu:g} more), fields of {how.field_hu:g} HU, shoulders {how.shoulder_hu:g} HU, noise \
{how.noise_hu[0]:g} to {how.noise_hu[1]:g} HU, streaks, blur{thick}, marrow patches, \
bone loss, turns of {how.rotation_deg:g} degrees, scale {how.scale[0]:g} to {how.scale[1]:g} |
| hardware | {facts.hardware} |
| software | {software} |

## How good it is on phantoms it has not seen

{facts.held_out} held-out phantoms, CT with 10 HU of noise; signal relative to CSF = 1. *mean* far
below *true mean* says that a tissue fades. The lookup table is the mean signal of each HU.

{facts.figures}

These figures say how well the phantom was learned. **They are no claim about patients.** The whole
evaluation, with baselines, canal, injuries and the real neck, is in docs/evaluation.md.

{LIMITS}

- What CT does not show, the model cannot know: cord oedema without swelling, ligament tears without
  widening and marrow oedema without a fracture line come out as their usual, healthy signal.
- The L1 loss predicts the median: what is rare fades, textures are smooth, noise of MRI is absent.
- The cord's place within the canal is part evidence, part prior; the lower the CT's contrast
  between cord and CSF, the more it is prior (docs/counterfactual.md says how much).
- A narrowed canal may look wider, or open: a rim of CSF is drawn around the cord where there is
  none. Do not judge compression of the cord, or the width of the canal at it, on these images. The
  support map hatches the canal where its CSF is faint, which is where most of that happens, and
  not all (docs/evaluation.md).
{apart}- Warnings are limits of single figures. Of uninjured phantoms more than one in a hundred is
  warned of (docs/adr/0008-fidelity-limits-are-measured.md).
- Metal, surgery, children, tumors and infection are not in the phantom.
- The one real CT that was looked at during development is a tuning case, not a test.
"""


def collect_software() -> dict[str, str]:
    """Versions that decide the weights."""
    wanted = ("python", "torch", "diffusers", "numpy")
    return {k: v for k, v in software_versions().items() if k in wanted}
