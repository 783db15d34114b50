"""The canal's part of the evaluation alone, in minutes, and narrowed canals beside it.

``python -m pipeline.evaluation.canal_alone --pool POOL`` prints the targets and tables that
`pseudomri evaluate` prints of canal and cord and of the injuries that change its shape, and the
rows without CSF once more for phantoms whose canal is narrowed on purpose
(`Finding.CANAL_STENOSIS`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.canal_rows import read_rows
from pipeline.contrast import ALL_CONTRASTS, Contrast
from pipeline.evaluation.canal import shows_cord
from pipeline.evaluation.counterfactual.run import CORD_SLICES, model_supporter
from pipeline.evaluation.counterfactual.subjects import Subject
from pipeline.evaluation.effaced import Effaced, EffacedTally
from pipeline.evaluation.injuries import FOUND_BY_SHAPE, Detection, Sample, detect, shape_samples
from pipeline.evaluation.report import canal_parts, effaced_table, injuries_table, targets_table
from pipeline.evaluation.run import (
    JUDGED,
    TUNING,
    Canals,
    Case,
    cases,
    fill_pool,
    true_images,
)
from pipeline.evaluation.scores import NOISE_HU, Images, model_method
from pipeline.evaluation.targets import canal_targets, detection_targets
from pipeline.narrowing import faint_canal, is_faint
from pipeline.phantom import Finding, Variation, patient
from pipeline.synthesis import Model, load_model
from pipeline.training.calibrate import seed_range

NARROWED = range(97_010, 97_034)
"""Of the phantoms that are kept for counterfactual tests: nothing is trained or chosen on them."""


def judge(model: Model, pool: Path, seeds: range) -> tuple[Canals, list[Sample]]:
    """Canal and cord of held-out phantoms, and the shapes at their discs.

    Args:
        model: Under test.
        pool: Folder of phantom pairs; missing ones are drawn into it.
        seeds: Of the phantoms.
    """
    canals, shapes = Canals(model), list[Sample]()
    for case, images in _drawn(model, pool, seeds, "held-out phantoms"):
        canals.add(images[Contrast.T2], case)
        shapes += _shapes(case, images)
    return canals, shapes


def tune(model: Model, pool: Path, seeds: range) -> list[Sample]:
    """The shapes at the discs of the phantoms that thresholds are chosen on."""
    seen = _drawn(model, pool, seeds, "thresholds")
    return [sample for case, images in seen for sample in _shapes(case, images)]


def _drawn(model: Model, pool: Path, seeds: range, what: str) -> Iterator[tuple[Case, Images]]:
    """Phantoms with their pseudo-MRI, which is empty beside the slices through the canal."""
    run = model_method(model)
    fill_pool(pool, seeds, _tell)
    for case in cases(pool, seeds, what, _tell):
        images = {contrast: np.zeros_like(case.ct) for contrast in ALL_CONTRASTS}
        for contrast, made in run(case.ct[case.canal_slices]).items():
            images[contrast][case.canal_slices] = made
        yield case, images


def _shapes(case: Case, images: Images) -> Iterator[Sample]:
    named = {str(contrast): image for contrast, image in images.items()}
    named |= {f"true {contrast}": image for contrast, image in true_images(case.pair).items()}
    return shape_samples(named, case.person, case.course, case.grid)


def narrowed(model: Model, seeds: range, *, ct_visible: bool) -> Effaced:
    """The same rows in phantoms with a stenosis and nothing else.

    Args:
        model: Under test.
        seeds: Within `pipeline.evaluation.counterfactual.subjects.SEEDS`.
        ct_visible: Whether the CT shows it; otherwise the CT is that of the open canal.
    """
    run, supporter, tally = model_method(model), model_supporter(model), EffacedTally()
    for number, seed in enumerate(seeds):
        _tell("narrowed phantoms", number, len(seeds))
        subject = Subject.of(seed, CORD_SLICES)
        truth = subject.twin([Finding.CANAL_STENOSIS], Variation(ct_visible=ct_visible))
        ct = truth.ct + NOISE_HU * subject.noise()
        t2, walls = run(ct)[Contrast.T2], subject.course.between_walls(ct)
        unsupported = None
        if supporter is not None:
            unsupported = supporter(ct).unsupported | faint_canal(t2, walls)
        drawn, true = read_rows(t2, subject.course), read_rows(truth.t2, subject.course)
        faint = is_faint(read_rows(t2, walls))
        is_shown = shows_cord(subject.person)
        tally.add(drawn, true, truth.labels, subject.course, faint, unsupported, is_shown=is_shown)
    return tally.score()


def forced(model: Model, seeds: range) -> list[Sample]:
    """The shapes of phantoms with one injury that changes them, shown by the CT, and nothing else.

    Of the held-out phantoms only a few have one.

    Args:
        model: Under test.
        seeds: As for `narrowed`.
    """
    run, shapes = model_method(model), list[Sample]()
    visible = Variation(ct_visible=True)
    for finding in FOUND_BY_SHAPE:
        for number, seed in enumerate(seeds):
            _tell(f"phantoms with {finding.value}", number, len(seeds))
            subject, person = Subject.of(seed, CORD_SLICES), patient(seed, [finding], visible)
            truth = subject.twin([finding], visible)
            made = run(truth.ct + NOISE_HU * subject.noise())
            named = {str(contrast): image for contrast, image in made.items()}
            named |= {"true T2": truth.t2, "true STIR": truth.stir}
            shapes += shape_samples(named, person, subject.course_of(person), subject.grid)
    return shapes


def _tell(what: str, done: int, total: int) -> None:
    print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)


def _printed(
    canals: Canals,
    detections: list[Detection],
    alone: list[Detection],
    stenoses: Effaced,
    hidden: Effaced,
) -> Iterator[str]:
    canal, effaced = canals.canal.score(), canals.effaced.score()
    yield targets_table([*canal_targets(canal, effaced), *detection_targets(detections)])
    for title, note, text in canal_parts(canal, effaced):
        yield f"### {title}\n\n{note}\n\n{text}"
    yield "Injuries that change the canal's shape:"
    yield injuries_table(detections)
    yield "The same in phantoms that have it and nothing else, with the same thresholds:"
    yield injuries_table(alone)
    yield "Rows without CSF in phantoms with a stenosis and nothing else:"
    yield effaced_table(stenoses)
    yield "And where the CT does not show the stenosis:"
    yield effaced_table(hidden)


def main() -> None:
    """Print canal and cord of held-out phantoms."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, help="model folder; none means the built-in weights")
    parser.add_argument("--pool", type=Path, required=True, help="folder of phantom pairs")
    parser.add_argument("--seeds", type=seed_range, default=JUDGED, help="A:B")
    parser.add_argument("--narrowed", type=seed_range, default=NARROWED, help="A:B")
    asked = parser.parse_args()
    model = load_model(asked.model)
    canals, shapes = judge(model, asked.pool, asked.seeds)
    tuned = tune(model, asked.pool, TUNING)
    detections, alone = detect(tuned, shapes), detect(tuned, forced(model, asked.narrowed))
    stenoses, hidden = (
        narrowed(model, asked.narrowed, ct_visible=is_visible) for is_visible in (True, False)
    )
    print(*_printed(canals, detections, alone, stenoses, hidden), sep="\n\n")


if __name__ == "__main__":
    main()
