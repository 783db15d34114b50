"""Calibrate what a model may promise: intervals, support map and the limits of fidelity.

``python -m pipeline.training.calibrate MODEL --pool POOL`` runs the model on phantoms that no
training saw, writes ``calibration.json`` beside its weights and prints what the intervals cover,
on those phantoms and on others. The promise is about phantoms: a real patient is not one of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from pipeline.contrast import ALL_CONTRASTS, Contrast
from pipeline.course import Course
from pipeline.ct_features import ct_features, smallest_difference
from pipeline.evaluation.course import phantom_course
from pipeline.evaluation.injuries import Share
from pipeline.evaluation.scores import noisy
from pipeline.fidelity import ACCEPTED, is_low_bad, measure_fidelity
from pipeline.geometry import Float32, Float64, Grid, Volume
from pipeline.narrowing import hatch_faint
from pipeline.phantom import Patient, Tissue, TrainingPair, patient
from pipeline.phantom.landmarks import centerline_mm, discs_mm
from pipeline.places import Places, Region, find_places
from pipeline.reference import Limit, Reference
from pipeline.support import (
    ALPHA,
    DELTA,
    LAMBDAS,
    LIMIT,
    Calibration,
    raw_half_width,
    risks,
    smallest_lambda,
    support_map,
)
from pipeline.synthesis import SAMPLES, Model, Synthesis, load_model, synthesize
from pipeline.training import card
from pipeline.training.augment import Augmentation, augment
from pipeline.training.data import Batch, fill, load, pair_grid, pair_path

SEEDS = range(98_000, 98_040)
CHECKED = range(98_040, 98_050)
"""Both above what training takes (from 0) and below what evaluation judges (from 100 000)."""

SCANS = 4
"""Scanners, doses and tissue HU drawn for each phantom, as the training draws them."""

DISC_DEPTH_MM = 8.0
DISCS = ("C2/3", "C3/4", "C4/5", "C5/6", "C6/7", "C7/T1", "T1/2")
"""As the gate finds them (`pipeline.levels`)."""

NO_BODY = (Tissue.AIR, Tissue.TABLE, Tissue.FOAM)
STRUCTURES: Mapping[str, tuple[Tissue, ...]] = {
    "cord": (Tissue.CORD, Tissue.CORD_GRAY),
    "CSF": (Tissue.CSF,),
    "discs": (Tissue.NUCLEUS, Tissue.ANNULUS),
    "marrow": (Tissue.MARROW,),
    "cortex": (Tissue.CORTEX,),
    "ligaments": (Tissue.LIGAMENT, Tissue.FLAVUM),
    "interspinous": (Tissue.INTERSPINOUS,),
    "muscle": (Tissue.MUSCLE, Tissue.LONGUS),
    "fat": (Tissue.FAT, Tissue.EPIDURAL_FAT),
    "injuries": (
        Tissue.HAEMATOMA,
        Tissue.INTERSPINOUS_OEDEMA,
        Tissue.CORD_OEDEMA,
        Tissue.MARROW_OEDEMA,
        Tissue.DISC_INJURY,
    ),
}
BODY, OCCULT = "body", "occult injuries"

Mask = NDArray[np.bool_]
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Seen:
    """A calibration phantom with what the model made of it."""

    stack: Volume
    places: Places
    course: Course
    pair: TrainingPair
    synthesis: Synthesis
    is_injured: bool


@dataclass(frozen=True)
class Verdict:
    """What the fidelity record says of one phantom, in words."""

    seed: int
    is_injured: bool
    words: str

    def __str__(self) -> str:
        kind = "injured" if self.is_injured else "uninjured"
        return f"phantom {self.seed} ({kind}): {self.words}"


@dataclass
class Tally:
    """Adds up, phantom by phantom, what intervals would cover; by contrast and structure.

    Args:
        pixels: Of each phantom that has the structure.
        curves: `pipeline.support.risks` of each.
        raw: Sum of the raw half widths.
        unsupported: Pixels that the support map marks.
    """

    pixels: dict[tuple[Contrast, str], list[int]] = field(default_factory=dict)
    curves: dict[tuple[Contrast, str], list[Float64]] = field(default_factory=dict)
    raw: dict[tuple[Contrast, str], float] = field(default_factory=dict)
    unsupported: dict[str, int] = field(default_factory=dict)

    def add(self, seen: Seen) -> None:
        """Take up errors and raw half widths of a phantom."""
        truth = {Contrast.T2: seen.pair.t2, Contrast.STIR: seen.pair.stir}
        masks = structures(seen.pair)
        for contrast in ALL_CONTRASTS:
            error = np.abs(seen.synthesis.images[contrast] - truth[contrast])
            raw = _raw(seen.synthesis, contrast)
            for name, mask in masks.items():
                key = (contrast, name)
                self.pixels.setdefault(key, []).append(int(mask.sum()))
                self.curves.setdefault(key, []).append(risks(error, raw, mask))
                self.raw[key] = self.raw.get(key, 0.0) + float(raw[mask].sum())

    def add_map(self, pair: TrainingPair, unsupported: Mask) -> None:
        """Take up the support map of a phantom."""
        for name, mask in structures(pair).items():
            found = int((mask & unsupported).sum())
            self.unsupported[name] = self.unsupported.get(name, 0) + found

    def lambdas(self) -> dict[Contrast, float]:
        """The smallest ones that keep the promise on the body."""
        return {c: smallest_lambda(self.curves[c, BODY]) for c in ALL_CONTRASTS}

    def coverage(self, contrast: Contrast, name: str, scale: float) -> float:
        """Share of all pixels of a structure inside their interval."""
        at = int(np.searchsorted(LAMBDAS, scale))
        pixels = np.array(self.pixels[contrast, name], dtype=np.float64)
        outside = np.array([curve[at] for curve in self.curves[contrast, name]])
        return 1 - float((outside * pixels).sum() / pixels.sum())

    def names(self) -> list[str]:
        """Structures that were there."""
        return [name for contrast, name in self.pixels if contrast is Contrast.T2]


def structures(pair: TrainingPair) -> dict[str, Mask]:
    """Pixels of every structure that a phantom has."""
    masks = {BODY: ~np.isin(pair.labels, NO_BODY)}
    masks |= {name: np.isin(pair.labels, tissues) for name, tissues in STRUCTURES.items()}
    masks["injuries"] &= ~pair.occult
    masks[OCCULT] = pair.occult
    return {name: mask for name, mask in masks.items() if mask.any()}


def _raw(synthesis: Synthesis, contrast: Contrast) -> Float32:
    return raw_half_width(synthesis.spread[contrast], synthesis.doubt[contrast])


def calibrate(
    model: Model,
    pool: Path,
    seeds: range,
    samples: int = SAMPLES,
    slices: int | None = None,
    tell: Tell | None = None,
) -> tuple[Calibration, Tally]:
    """Run the model on calibration phantoms and choose what it may promise.

    Args:
        model: Whose calibration, if it has one, plays no part.
        pool: Folder of phantom pairs; missing ones are drawn into it.
        seeds: Of the phantoms, never trained on; at least 22.
        samples: Of the ensemble.
        slices: As `run` takes them.
        tell: Told how far it is.

    Returns:
        The calibration and what it rests on.

    Raises:
        ValueError: When the phantoms do not suffice for the promise.
    """
    plain = dataclasses.replace(model, calibration=None)
    tally, rows, uninjured = Tally(), list[dict[str, float]](), list[Seen]()
    for seen in run(plain, pool, seeds, samples, slices, tell):
        tally.add(seen)
        rows += scans(seen, SCANS)
        if not seen.is_injured:
            uninjured.append(seen)
    lambdas = tally.lambdas()
    bare = Calibration(
        seeds=tuple(seeds),
        alpha=ALPHA,
        delta=DELTA,
        limit=LIMIT,
        lambdas=lambdas,
        coverage={
            c: {name: round(tally.coverage(c, name, lambdas[c]), 4) for name in tally.names()}
            for c in ALL_CONTRASTS
        },
        samples=samples,
        slices=slices,
    )
    reference = _reference(bare, rows, uninjured)
    return dataclasses.replace(bare, reference=reference), tally


def run(
    model: Model,
    pool: Path,
    seeds: range,
    samples: int,
    slices: int | None = None,
    tell: Tell | None = None,
) -> Iterable[Seen]:
    """Every phantom with a scanner's noise on its CT, synthesized.

    Args:
        model: As `load_model` gives it.
        pool: Folder of phantom pairs; missing ones are drawn into it.
        seeds: Of the phantoms.
        samples: Of the ensemble.
        slices: So many around the canal, where a trauma reader looks and which cost less; all of
            them when None.
        tell: Told how far it is.
    """
    fill(pool, seeds)
    for number, seed in enumerate(seeds, start=1):
        person = patient(seed)
        grid = pair_grid(person)
        line = centerline_mm(person)
        part = _around(grid, line, slices)
        pair = _cut(load(pair_path(pool, seed)), part)
        own = Grid.from_steps(pair.ct.shape, grid.image_position(part.start), grid.steps_mm)
        stack = Volume(noisy(pair.ct, np.random.default_rng(seed)), own, "2.25.1")
        places = phantom_places(person, stack)
        course = phantom_course(person, own).between_walls(stack.values)
        synthesis = synthesize(stack, model, seed=seed, samples=samples)
        yield Seen(stack, places, course, pair, synthesis, bool(person.findings))
        if tell is not None:
            tell(f"phantom {seed}, {number} of {len(seeds)}")


def _around(grid: Grid, line_mm: Float64, slices: int | None) -> slice:
    """So many slices of a stack around the canal."""
    count = grid.shape[0]
    wanted = count if slices is None else min(slices, count)
    middle = float(np.median(grid.to_index(line_mm)[:, 0]))
    first = min(max(round(middle - (wanted - 1) / 2), 0), count - wanted)
    return slice(first, first + wanted)


def _cut(pair: TrainingPair, part: slice) -> TrainingPair:
    return TrainingPair(
        pair.ct[part], pair.t2[part], pair.stir[part], pair.labels[part], pair.ct_labels[part]
    )


def scans(seen: Seen, count: int) -> list[dict[str, float]]:
    """CT features of the slices through the canal as other scanners would show them."""
    canal = np.flatnonzero(seen.places.region(Region.CANAL).any(axis=(1, 2)))
    middle = round(float(canal.mean()))
    part = slice(middle - 1, middle + 2)
    rows, columns = seen.pair.ct.shape[1:]
    batch = Batch(
        torch.tensor(seen.pair.ct[None, part]),
        torch.zeros((1, 2, rows, columns)),
        torch.tensor(seen.pair.labels[None, middle : middle + 1]),
        torch.tensor(seen.pair.ct_labels[None, part]),
    )
    still = Augmentation(crop_px=rows, rotation_deg=0.0, scale=(1.0, 1.0), aspect=(1.0, 1.0))
    rng = Generator().manual_seed(seen.synthesis.seed)
    weights = torch.ones((1, 2, rows, columns))
    return [ct_features(augment(batch, weights, still, rng)[0][0].numpy()) for _ in range(count)]


def _reference(
    calibration: Calibration, rows: list[dict[str, float]], uninjured: list[Seen]
) -> Reference:
    """Features of all scans; limits from uninjured phantoms, for injuries are no failure."""
    smallest = {name: smallest_difference(name) for name in rows[0]}
    reference = Reference.measured(rows, smallest, {}, len(uninjured))
    figures: dict[str, list[float]] = {"distance": [reference.distance(row) for row in rows]}
    for seen in uninjured:
        made = with_support(seen, calibration)
        found = measure_fidelity(seen.stack, made, seen.places, None).figures
        for name, value in found.items():
            figures.setdefault(name, []).append(value)
    limits = {name: Limit.of(v, is_low_bad=is_low_bad(name)) for name, v in figures.items()}
    return dataclasses.replace(reference, limits=limits)


def with_support(seen: Seen, calibration: Calibration) -> Synthesis:
    """The synthesis with the support map that a calibration makes of it, as patients get it."""
    support = support_map(seen.synthesis.spread, seen.synthesis.doubt, calibration)
    return hatch_faint(dataclasses.replace(seen.synthesis, support=support), seen.course)


def check(
    model: Model, calibration: Calibration, pool: Path, seeds: range, tell: Tell | None = None
) -> tuple[Tally, list[Verdict]]:
    """What the promise comes to on other phantoms, and the verdict on each of them."""
    tally, verdicts = Tally(), list[Verdict]()
    plain = dataclasses.replace(model, calibration=None)
    phantoms = run(plain, pool, seeds, calibration.samples, calibration.slices, tell)
    for seed, seen in zip(seeds, phantoms, strict=True):
        made = with_support(seen, calibration)
        tally.add(seen)
        if made.support is not None:
            tally.add_map(seen.pair, made.support.marked)
        found = measure_fidelity(seen.stack, made, seen.places, calibration.reference)
        verdicts.append(Verdict(seed, seen.is_injured, found.verdict))
    return tally, verdicts


def false_alarms(verdicts: Iterable[Verdict]) -> Share:
    """Uninjured phantoms with a warning, in whatever figure: what the limits of all of them come
    to together."""
    sound = [verdict for verdict in verdicts if not verdict.is_injured]
    return Share.count(sum(verdict.words != ACCEPTED for verdict in sound), len(sound))


def table(calibration: Calibration, tally: Tally) -> str:
    """Markdown: what the intervals cover, structure by structure."""
    lines = [
        "| structure | pixels | T2 covered | STIR covered | T2 half width | STIR half width"
        " | unsupported |",
        "|" + "---|" * 7,
    ]
    for name in tally.names():
        total = sum(tally.pixels[Contrast.T2, name])
        covered = [tally.coverage(c, name, calibration.lambdas[c]) for c in ALL_CONTRASTS]
        widths = [calibration.lambdas[c] * tally.raw[c, name] / total for c in ALL_CONTRASTS]
        share = f"{tally.unsupported[name] / total:.1%}" if tally.unsupported else "-"
        lines.append(
            f"| {name} | {total} | {covered[0]:.1%} | {covered[1]:.1%} | {widths[0]:.3f} |"
            f" {widths[1]:.3f} | {share} |"
        )
    return "\n".join(lines)


def phantom_places(person: Patient, stack: Volume) -> Places:
    """The places of a phantom, from its own landmarks in place of the gate's.

    Args:
        person: Who it is.
        stack: Its CT, or a part of it.
    """
    into_disc = -DISC_DEPTH_MM * stack.grid.directions[2]
    walls = discs_mm(person)
    discs = {name: walls[name] + into_disc for name in DISCS}
    return find_places(stack, centerline_mm(person), discs)


def seed_range(text: str) -> range:
    """``A:B`` of a command line."""
    first, last = (int(part) for part in text.split(":"))
    return range(first, last)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Calibrate a model folder and print what its intervals cover."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path, help="model folder; calibration.json goes into it")
    parser.add_argument("--pool", type=Path, required=True, help="folder of phantom pairs")
    parser.add_argument("--seeds", type=seed_range, default=SEEDS, help="A:B, never trained on")
    parser.add_argument("--check", type=seed_range, default=CHECKED, help="A:B, other phantoms")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of the ensemble")
    parser.add_argument("--slices", type=int, help="around the canal alone, which is quicker")
    parser.add_argument("--keep", action="store_true", help="check the calibration that is there")
    asked = parser.parse_args()
    model = load_model(asked.model)
    if asked.keep:
        if model.calibration is None:
            parser.error(f"expected a calibrated model, found none in {asked.model}")
        print(*_checked(model, model.calibration, asked.pool, asked.check), sep="\n\n")
        return
    calibration, tally = calibrate(
        model, asked.pool, asked.seeds, asked.samples, asked.slices, _tell
    )
    calibration.save(asked.model)
    lambdas = ", ".join(f"{c} {scale:.3f}" for c, scale in calibration.lambdas.items())
    said = [f"Lambda: {lambdas}.", f"{len(asked.seeds)} calibration phantoms:"]
    said.append(table(calibration, tally))
    if calibration.reference is not None:
        limits = calibration.reference.limits.items()
        said.append("Limits of the fidelity record:")
        said.append("\n".join(f"- {k}: median {x.median:.3f}, warning {x.warning:.3f}"
                              for k, x in limits))  # fmt: skip
    said += _checked(model, calibration, asked.pool, asked.check)
    report = "\n\n".join(said)
    print(report)
    if (asked.model / card.NAME).exists():
        card.sign(asked.model, report)


def _checked(model: Model, calibration: Calibration, pool: Path, seeds: range) -> list[str]:
    """Paragraphs on other phantoms; none without them."""
    if not len(seeds):
        return []
    others, verdicts = check(model, calibration, pool, seeds, _tell)
    alarms = false_alarms(verdicts)
    return [
        f"{len(seeds)} other phantoms:",
        table(calibration, others),
        f"Warned of, in any figure: {alarms.hits} of {alarms.of} uninjured phantoms (exact 95%"
        f" limits {alarms.low:.2f} to {alarms.high:.2f}).",
        "\n".join(f"- {verdict}" for verdict in verdicts),
    ]


if __name__ == "__main__":
    main()
