"""The model card: what was trained on what, how good it is, and what it must not be used for.

Written from the run and its evaluation, so that no figure is typed by hand.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.provenance import digest_folder, software_versions

NAME = "README.md"
"""Model hubs show this file; it is no part of the model's digest."""


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
        crop_px: Side of a training crop.
        phantoms: Training phantoms.
        seeds: First and last of their seeds.
        phantom_version: Of the code that drew them, such as a commit.
        held_out: Phantoms of the evaluation.
        hardware: Of the training.
        software: Name and version.
        figures: Markdown table of `pipeline.evaluation.scores.table`.
        loss: First and last training loss.
        notes: What a reader should know about this very run; goes under the limits.
    """

    name: str
    version: str
    digest: str
    parameters: int
    steps: int
    hours: float
    batch: int
    crop_px: int
    phantoms: int
    seeds: tuple[int, int]
    phantom_version: str
    held_out: int
    hardware: str
    software: dict[str, str]
    figures: str
    loss: tuple[float, float]
    notes: tuple[str, ...] = ()


def hardware(threads: int) -> str:
    """The processor, in words."""
    can = torch.cpu.get_capabilities()
    model = can.get("cpu_name") or platform.processor() or platform.machine()
    return f"{threads} thread(s) of {model}, bfloat16"


def loss_ends(losses: Path) -> tuple[float, float]:
    """First and last loss of a run."""
    lines = losses.read_text().splitlines()
    return json.loads(lines[0])["loss"], json.loads(lines[-1])["loss"]


def write(folder: Path, facts: Facts) -> Path:
    """Write the card into the model's folder."""
    if facts.digest != digest_folder(folder):
        raise ValueError(f"the card is for {facts.digest[:12]}, the folder holds another model")
    path = folder / NAME
    path.write_text(card(facts))
    return path


def card(facts: Facts) -> str:
    """The card as Markdown."""
    software = ", ".join(f"{name} {version}" for name, version in facts.software.items())
    first, last = facts.loss
    notes = "".join(f"- {note}\n" for note in facts.notes)
    return f"""---
license: apache-2.0
library_name: diffusers
tags: [medical, ct, mri, image-to-image, synthetic-data]
---

# {facts.name} {facts.version}

Turns a sagittal CT stack of the neck (3 mm slices, 0.75 mm pixels) into pseudo-T2 and pseudo-STIR,
and draws a map of where it was guessing. SHA-256 of the folder: `{facts.digest}`.

**It has never seen a patient.** It was trained on procedurally drawn necks alone. It is for
research; its images are no MRI and must not be read without the CT and without their label.

## What it is

A `diffusers` pipeline of three parts: a lossless pixel-unshuffle codec, a `UNet2DModel` of
{facts.parameters / 1e6:.1f} M parameters that predicts the clean latent of both contrasts from
three CT slices in two windows, and a flow-matching Euler scheduler. The image is one deterministic
step from a latent of zeros. The spread is the standard deviation of eight samples, each the image
renoised and cleaned again with one noise field for the whole stack.

## How it was trained

| | |
|---|---|
| data | {facts.phantoms} phantoms, seeds {facts.seeds[0]} to {facts.seeds[1]}, \
`pipeline.phantom` at {facts.phantom_version} |
| steps | {facts.steps} of {facts.batch} crops of {facts.crop_px} x {facts.crop_px}, \
{facts.hours:.2f} h |
| loss | tissue-weighted L1 plus 0.3 gradient L1, nothing adversarial; L1 part from {first:.3f} \
to {last:.3f} |
| augmentation | HU shifts by tissue, fields, beam hardening, noise 2 to 28 HU, streaks, blur, \
rotation, scale |
| hardware | {facts.hardware} |
| software | {software} |

## How good it is on phantoms it has not seen

{facts.held_out} held-out phantoms, CT with 10 HU of noise; signal relative to CSF = 1. *mean* far
below *true mean* says that a tissue fades. The lookup table is the mean signal of each HU.

{facts.figures}

These figures say how well the phantom was learned. **They are no claim about patients.**

## Limits

- What CT does not show, the model cannot know: cord oedema without swelling, ligament tears without
  widening and marrow oedema without a fracture line come out as their usual, healthy signal.
- The L1 loss predicts the median: what is rare fades, textures are smooth, noise of MRI is absent.
- The cord's place within the canal is part evidence, part prior; the lower the CT's contrast
  between cord and CSF, the more it is prior.
- Metal, surgery, children, tumors and infection are not in the phantom.
- The one real CT that was looked at during development is a tuning case, not a test.
{notes}"""


def collect_software() -> dict[str, str]:
    """Versions that decide the weights."""
    wanted = ("python", "torch", "diffusers", "numpy")
    return {k: v for k, v in software_versions().items() if k in wanted}
