"""Phantom pairs on disk, made by one process and read by another.

Rendering a pair takes seconds, a training step takes less than one: pairs are made once, kept in a
folder outside the repository, and the training takes up new ones as they appear.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from pipeline.geometry import Grid
from pipeline.intensity import NEIGHBORS
from pipeline.phantom import (
    PHANTOM_VERSION,
    Finding,
    Patient,
    TrainingPair,
    Variation,
    patient,
    render,
    stack_grid,
)

SIGNAL_STEPS = 2000
"""Signals are stored as whole numbers of 1/2000 of CSF, HU as whole HU: a quarter of the size."""

HELD_OUT_FROM = 100_000
"""Seeds from here on are never trained on; evaluation takes its phantoms from them."""

NARROWED_FROM, NARROWED_TO = 50_000, 90_000
"""Seeds between are patients whose canal is narrowed: among all patients they are too few to teach
that a cord may lie at a wall."""

NARROWING = (Finding.CANAL_STENOSIS, Finding.FACET_DISLOCATION, Finding.TRANSLATION)
NARROWING_ODDS = (0.6, 0.25, 0.15)
BESIDE_ODDS = 0.3
"""Of a fracture, or of a swollen cord, beside the narrowing."""

OCCULT_ODDS = 0.15
"""Of a narrowing that the CT does not show: the doubt has to learn of it."""

HIGHEST_MM = 36.0
"""How far up a stack may lie. `pipeline.reformat` centers between C2/3 and C7/T1, so a long neck
brings the cerebellum into the picture, and a short one the arch of the aorta."""

OFF_CENTER_SHARE = 0.5
"""Slices beyond the canal are drawn half as often as those through it: they are the easy part."""

CT, T2, STIR, LABELS, CT_LABELS = range(5)
PlanesInt16 = NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Batch:
    """A few slices with their truth.

    Args:
        slices_hu: ``(batch, 3, row, column)`` float32, slices s-1, s, s+1.
        signal: ``(batch, 2, row, column)`` float32, T2 and STIR of slice s.
        labels: ``(batch, 1, row, column)`` uint8, `pipeline.phantom.tissues.Tissue` of slice s.
        ct_labels: ``(batch, 3, row, column)`` uint8, of all three as far as the CT shows it.
    """

    slices_hu: Tensor
    signal: Tensor
    labels: Tensor
    ct_labels: Tensor


def training_patient(seed: int) -> Patient:
    """Who a seed is in training: the phantom's own patient, or one with a narrowed canal."""
    if not NARROWED_FROM <= seed < NARROWED_TO:
        return patient(seed)
    rng = np.random.default_rng(seed)
    findings = [Finding(rng.choice(NARROWING, p=NARROWING_ODDS))]
    for other in (Finding.VERTEBRAL_FRACTURE, Finding.CORD_OEDEMA):
        if rng.random() < BESIDE_ODDS:
            findings.append(other)
    return patient(seed, findings, Variation(ct_visible=bool(rng.random() >= OCCULT_ODDS)))


def make_pair(seed: int) -> TrainingPair:
    """The stack of one phantom on its `pair_grid`."""
    person = training_patient(seed)
    done = render(person, pair_grid(person), supersample=2)
    return TrainingPair(done.ct, done.t2, done.stir, done.labels, done.ct_labels)


def pair_grid(person: Patient) -> Grid:
    """Up to `HIGHEST_MM` above where the phantom itself puts its stack."""
    grid = stack_grid(person)
    up_mm = np.random.default_rng(person.seed).uniform(0, HIGHEST_MM)
    origin = grid.origin_mm - up_mm * grid.directions[1]
    return Grid.from_steps(grid.shape, origin, grid.steps_mm)


def store(path: Path, pair: TrainingPair) -> None:
    """Write a pair as one ``(5, slice, row, column)`` int16 array; it appears whole or not at all.

    One plain array, not an archive: it is mapped into memory and only the slices drawn are read.
    """
    signals = (np.rint(np.clip(s, 0, 16) * SIGNAL_STEPS) for s in (pair.t2, pair.stir))
    planes = np.stack([np.rint(pair.ct), *signals, pair.labels, pair.ct_labels]).astype(np.int16)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as sink:
        np.save(sink, planes)
    partial.replace(path)


def load(path: Path) -> TrainingPair:
    """A stored pair."""
    planes: PlanesInt16 = np.load(path)
    t2, stir = (planes[i].astype(np.float32) / SIGNAL_STEPS for i in (T2, STIR))
    return TrainingPair(
        planes[CT].astype(np.float32),
        t2,
        stir,
        planes[LABELS].astype(np.uint8),
        planes[CT_LABELS].astype(np.uint8),
    )


def pair_path(folder: Path, seed: int) -> Path:
    """Where the pair of a seed is kept; another phantom's patient of that seed is another."""
    return folder / f"{seed:06d}.v{PHANTOM_VERSION}.npy"


def stored_seeds(folder: Path, seeds: range) -> list[int]:
    """Which of these seeds have a pair in the folder, rising."""
    found = (int(path.name.split(".")[0]) for path in folder.glob(f"*.v{PHANTOM_VERSION}.npy"))
    return sorted(seed for seed in found if seed in seeds)


def fill(
    folder: Path, seeds: Sequence[int], should_stop: Callable[[], bool] = lambda: False
) -> None:
    """Make every pair that is not there yet, in the order of the seeds.

    Args:
        folder: Made when missing.
        seeds: Of the phantoms.
        should_stop: Asked before each pair.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        if should_stop():
            return
        path = pair_path(folder, seed)
        if not path.exists():
            store(path, make_pair(seed))


def fill_beside(folder: Path, seeds: Sequence[int], parent: int) -> None:
    """`fill` in a process of its own: with one thread, politely, and gone when its parent is."""
    os.nice(5)
    torch.set_num_threads(1)
    fill(folder, seeds, should_stop=lambda: os.getppid() != parent)


class Pool:
    """The pairs of a folder, as far as they exist.

    On the CPU they stay on disk, mapped into memory; for another device they are copied there once:
    10 MB each, so that 3,000 take 30 GB.

    Args:
        folder: Where `fill` puts them.
        seeds: Only these are used.
        device: Of the batches.
        narrowed: Seeds of patients with a narrowed canal; where some are there, half of what is
            drawn is of them.
    """

    def __init__(
        self, folder: Path, seeds: range, device: str = "cpu", narrowed: range = range(0)
    ) -> None:
        self._folder = folder
        self._cohorts = (seeds, narrowed)
        self._device = device
        self._planes: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._planes)

    def refresh(self) -> int:
        """Take up pairs that have appeared; returns how many there are."""
        for seed in chain(*(stored_seeds(self._folder, seeds) for seeds in self._cohorts)):
            if seed not in self._planes:
                # copy on write: torch has no read-only tensors, and nothing here writes
                planes = np.load(pair_path(self._folder, seed), mmap_mode="c")
                self._planes[seed] = torch.from_numpy(planes).to(self._device)
        return len(self._planes)

    def draw(self, count: int, rng: Generator) -> Batch:
        """Slices of random phantoms; half of them as the mirror image, left for right.

        Args:
            count: Of the slices.
            rng: On the CPU, wherever the pairs are.

        Raises:
            LookupError: When the pool is empty.
        """
        if not self._planes:
            raise LookupError(f"no phantom pairs of seeds {self._cohorts[0]} in {self._folder}")
        cohorts = [sorted(set(seeds) & set(self._planes)) for seeds in self._cohorts]
        cohorts = [seeds for seeds in cohorts if seeds]
        chosen: list[Tensor] = []
        for pick in torch.randint(1 << 30, (count,), generator=rng).tolist():
            seeds = cohorts[pick % len(cohorts)]
            seed = seeds[pick // len(cohorts) % len(seeds)]
            chosen += _with_neighbors(self._planes[seed], rng)
        flat = torch.stack(chosen)
        stacked = flat.view(count, NEIGHBORS, *flat.shape[1:]).transpose(1, 2)
        signal = stacked[:, [T2, STIR], 1].float() / SIGNAL_STEPS
        labels, ct_labels = stacked[:, LABELS, 1:2], stacked[:, CT_LABELS]
        return Batch(
            stacked[:, CT].float(), signal, labels.to(torch.uint8), ct_labels.to(torch.uint8)
        )


def _with_neighbors(planes: Tensor, rng: Generator) -> list[Tensor]:
    """One slice of a phantom between its neighbors, each ``(5, row, column)``."""
    slices = planes.shape[1]
    center = (torch.arange(slices) - (slices - 1) / 2).abs() <= slices * 0.27
    weights = torch.where(center, 1.0, OFF_CENTER_SHARE)
    index = int(torch.multinomial(weights, 1, generator=rng))
    order = [index - 1, index, index + 1]
    if torch.rand((), generator=rng) < 0.5:
        order.reverse()
    return [planes[:, min(max(i, 0), slices - 1)] for i in order]
