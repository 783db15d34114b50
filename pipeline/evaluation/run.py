"""The whole evaluation in one run: model, codec and baselines on the same phantoms, a real neck.

Every image is made once and measured in all ways. Phantoms come from a pool folder, so that a run
that was stopped does not draw them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Generator

from pipeline.anatomy import Anatomy
from pipeline.canal_rows import read_rows
from pipeline.contrast import ALL_CONTRASTS, Contrast
from pipeline.course import Course, anatomy_course
from pipeline.evaluation.canal import VERTEBRAE, CanalScore, CanalTally, shows_cord
from pipeline.evaluation.counterfactual.run import model_supporter
from pipeline.evaluation.counterfactual.subjects import Supporter
from pipeline.evaluation.course import phantom_course
from pipeline.evaluation.effaced import Effaced, EffacedTally, Mask
from pipeline.evaluation.injuries import Detection, Sample, detect, samples_of
from pipeline.evaluation.reference_free import ReferenceFree, measure, noise_change
from pipeline.evaluation.scores import (
    Images,
    Method,
    Score,
    Tally,
    lookup_method,
    model_method,
    noisy,
)
from pipeline.geometry import Float32, Float64, Grid, Volume
from pipeline.narrowing import faint_canal, hatch_faint, is_faint
from pipeline.phantom import Patient, Tissue, TrainingPair, patient
from pipeline.support import SupportMap
from pipeline.synthesis import Model, synthesize
from pipeline.training.data import HELD_OUT_FROM, fill, load, pair_grid, pair_path

JUDGED = range(HELD_OUT_FROM, HELD_OUT_FROM + 50)
TUNING = range(99_500, 99_550)
"""Phantoms that thresholds are chosen on; in no training set either, which begins at 0."""

LOOKUP = range(120, 140)
"""Training phantoms that the lookup table learns from."""

STEPS = 50
STEPS_UNFAIR = (
    "The baseline is no fair one: the network was trained at noise levels 0.5 and 0.8 and, at level"
    " 1, on a latent of zeros, so that a start from noise and nearly all of the 50 levels between"
    " are new to it. A fair one needs a training on all levels. It runs on these few slices alone,"
    " not on all phantoms"
)
"""What must stand beside the column (`pipeline.training.loop.TrainingConfig.noise_sigmas`)."""

STEPPED_PHANTOMS = 5
STEPPED_SLICES = 4
"""The many-step baseline costs as much a slice as fifty of ours: a few slices of a few phantoms."""

PICTURED = 6
"""Phantoms whose pictures the report shows."""

NORMALIZATION = "signal relative to CSF = 1, as the phantom and the model have it; no rescaling"
MASK = (
    "pixels of each tissue in the phantom's label map, all slices of the stack; body: everything"
    " but air"
)
NOISE = "CT with 10 HU of noise, correlated like a soft kernel's; the same noise for every method"

Tell = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Plan:
    """What to evaluate.

    Args:
        pool: Folder of phantom pairs; missing ones are drawn into it.
        judged: Seeds of the held-out phantoms.
        tuning: Seeds that injury thresholds are chosen on; apart from the judged ones.
        lookup: Seeds that the lookup table learns from.
        steps: Of the many-step baseline; 0 leaves it out.

    Raises:
        ValueError: When a judged phantom is among the tuning or training ones, or none is judged.
    """

    pool: Path
    judged: range = JUDGED
    tuning: range = TUNING
    lookup: range = LOOKUP
    steps: int = STEPS

    def __post_init__(self) -> None:
        if not len(self.judged) or self.judged.start < HELD_OUT_FROM:
            raise ValueError(f"expected held-out seeds from {HELD_OUT_FROM}, found {self.judged}")
        if set(self.judged) & set(self.tuning):
            raise ValueError("thresholds must not be chosen on the phantoms they are judged on")


@dataclass(frozen=True, eq=False)
class Pictures:
    """One slice of one phantom: CT, truth and every method's images."""

    seed: int
    findings: str
    ct: Float32
    truth: Images
    images: Mapping[str, Images]


@dataclass(frozen=True, eq=False)
class RealNeck:
    """A real CT with what was made of it.

    Args:
        measures: Without a truth.
        stack: HU, ``(slice, row, column)``.
        images: Of the model.
        support: Where the CT does not support them; None for a model that is not calibrated.
    """

    measures: ReferenceFree
    stack: Float32
    images: Images
    support: SupportMap | None = None


@dataclass(frozen=True)
class Continuity:
    """From slice to slice and from level to level, predicted against true.

    Args:
        step_ratio: Mean absolute difference of neighboring slices in the body, predicted over
            true; below 1 is smoother than the truth.
        level_order: Median rank correlation (Spearman) of the marrow's brightness C3 to T1.
    """

    step_ratio: Mapping[Contrast, float]
    level_order: Mapping[Contrast, float]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All results; `pipeline.evaluation.report` writes them.

    Args:
        model: Name, version and digest.
        facts: Mask, normalization, noise, seeds, seconds: what the figures depend on.
        scores: By method, all held-out phantoms.
        stepped: Model and many-step baseline on the same slices of a few phantoms; may be empty.
        canal: Of the model.
        effaced: Of the model, where the true T2 shows no CSF on both sides of the cord.
        continuity: Of the model.
        detections: Of the model and, as ceiling, of the truth.
        uninjured: Reference-free measures of the model on uninjured phantoms.
        real: Of the real neck.
        pictures: For the report.
    """

    model: Mapping[str, str]
    facts: Mapping[str, object]
    scores: Mapping[str, list[Score]]
    stepped: Mapping[str, list[Score]]
    canal: CanalScore
    effaced: Effaced
    continuity: Continuity
    detections: list[Detection]
    uninjured: list[ReferenceFree]
    real: RealNeck | None
    pictures: list[Pictures] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Case:
    """One phantom, ready to be measured.

    Args:
        person: Who it is.
        pair: The truth.
        grid: Of the pair.
        course: Of the canal in it.
        ct: HU with a scanner's noise, ``(slice, row, column)``.
    """

    person: Patient
    pair: TrainingPair
    grid: Grid
    course: Course
    ct: Float32

    @property
    def canal_slices(self) -> slice:
        """Those through the canal, with the neighbors that the model sees with them."""
        through = np.rint(self.course.index[:, 0]).astype(int)
        return slice(max(0, through.min() - 1), int(through.max()) + 2)


class Canals:
    """Measures canal and cord of one phantom after the other.

    Args:
        model: Under test; its support map is made only where the true T2 lacks CSF.
    """

    def __init__(self, model: Model) -> None:
        self.canal, self.effaced = CanalTally(), EffacedTally()
        self._supporter = model_supporter(model)

    def add(self, t2: Float32, case: Case) -> None:
        """Take up the pseudo-T2 of one phantom, which may be empty beside its `canal_slices`."""
        pair, course = case.pair, case.course
        self.canal.add(t2, pair, case.person, course, case.grid)
        drawn, true = read_rows(t2, course), read_rows(pair.t2, course)
        walls = course.between_walls(case.ct)
        unsupported = None
        if self._supporter is not None and not true.is_resolved.all():
            unsupported = _canal_map(self._supporter, case) | faint_canal(t2, walls)
        faint = is_faint(read_rows(t2, walls))
        self.effaced.add(
            drawn, true, pair.labels, course, faint, unsupported, is_shown=shows_cord(case.person)
        )


def _canal_map(supporter: Supporter, case: Case) -> Mask:
    """The support map of the slices through the canal; nothing is marked beside them."""
    unsupported = np.zeros(case.ct.shape, dtype=np.bool_)
    unsupported[case.canal_slices] = supporter(case.ct[case.canal_slices]).unsupported
    return unsupported


class _Following:
    """Adds up continuity and the order of the levels."""

    def __init__(self) -> None:
        self._steps: dict[Contrast, list[tuple[float, float]]] = {c: [] for c in ALL_CONTRASTS}
        self._order: dict[Contrast, list[float]] = {c: [] for c in ALL_CONTRASTS}

    def add(self, images: Images, case: Case) -> None:
        body = (case.pair.labels[1:] != Tissue.AIR) & (case.pair.labels[:-1] != Tissue.AIR)
        marrow = case.pair.labels == Tissue.MARROW
        levels = [v for v in case.person.spine.levels if v.name in VERTEBRAE]
        points = [case.person.frame.position_mm(v.middle, v.depth / 2) for v in levels]
        for contrast, truth in true_images(case.pair).items():
            made = images[contrast]
            steps = tuple(float(np.abs(np.diff(v, axis=0))[body].mean()) for v in (made, truth))
            self._steps[contrast].append((steps[0], steps[1]))
            means = [_around(p, case.grid, marrow, (made, truth)) for p in points]
            pairs = np.array([m for m in means if m is not None])
            if len(pairs) > 3:
                self._order[contrast].append(float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic))

    def result(self) -> Continuity:
        ratio = {c: np.array(v).sum(axis=0) for c, v in self._steps.items()}
        return Continuity(
            {c: float(made / true) for c, (made, true) in ratio.items()},
            {c: float(np.nanmedian(v)) if v else float("nan") for c, v in self._order.items()},
        )


def _around(
    point_mm: Float64, grid: Grid, mask: NDArray[np.bool_], values: Sequence[Float32]
) -> list[float] | None:
    """Means over the masked pixels within 5 mm in the point's slice; None when there are few."""
    s, r, c = np.rint(grid.to_index(point_mm)).astype(int)
    if not (0 <= s < grid.shape[0] and 7 <= r < grid.shape[1] - 7 and 7 <= c < grid.shape[2] - 7):
        return None
    box = (s, slice(r - 6, r + 7), slice(c - 6, c + 7))
    kept = mask[box]
    return [float(v[box][kept].mean()) for v in values] if kept.sum() > 20 else None


def evaluate_all(
    plan: Plan,
    model: Model,
    *,
    regression: Model | None = None,
    real: tuple[Volume, Anatomy] | None = None,
    tell: Tell = lambda *_: None,
) -> Evaluation:
    """Run everything.

    Args:
        plan: Which phantoms.
        model: Under test.
        regression: The same network trained as plain regression.
        real: Sagittal CT stack and anatomy of a real neck.
        tell: For a progress bar.
    """
    began = time.perf_counter()
    fill_pool(plan.pool, [*plan.judged, *plan.tuning, *plan.lookup], tell)
    judging = _Judging(plan, model, regression)
    tuned: list[Sample] = []
    for case in cases(plan.pool, plan.tuning, "thresholds", tell):
        tuned += _samples(judging.run(case.ct), case)
    for case in cases(plan.pool, plan.judged, "held-out phantoms", tell):
        judging.add(case)
    neck = None if real is None else _real(judging.run, model, *real, tell)
    return Evaluation(
        model={"name": model.name, "version": model.version, "digest": model.digest},
        facts=_facts(plan, model) | {"seconds": round(time.perf_counter() - began, 1)},
        scores={name: tally.scores() for name, tally in judging.tallies.items()},
        stepped={name: t.scores() for name, t in judging.stepped.items() if t.scores()},
        canal=judging.canals.canal.score(),
        effaced=judging.canals.effaced.score(),
        continuity=judging.following.result(),
        detections=detect(tuned, judging.samples),
        uninjured=judging.uninjured,
        real=neck,
        pictures=judging.pictures,
    )


class _Judging:
    """Makes every image of a held-out phantom once and measures it in all ways.

    Args:
        plan: Of the evaluation.
        model: Under test.
        regression: The same network trained as plain regression.
    """

    def __init__(self, plan: Plan, model: Model, regression: Model | None) -> None:
        self.run = model_method(model)
        self.steps_name = f"{plan.steps} steps from noise"
        self._plan, self._model = plan, model
        self._others = _baselines(plan, regression)
        self.tallies = {name: Tally() for name in ("model", *self._others, "codec only")}
        self.stepped = {name: Tally() for name in ("model", self.steps_name)}
        self.canals, self.following = Canals(model), _Following()
        self.samples: list[Sample] = []
        self.uninjured: list[ReferenceFree] = []
        self.pictures: list[Pictures] = []
        self._count = 0

    def add(self, case: Case) -> None:
        """Judge one phantom; the first few by many steps too, and with a picture."""
        ours = self.run(case.ct)
        made: dict[str, Images] = {"model": ours}
        made |= {name: method(case.ct) for name, method in self._others.items()}
        # the codec alone is no method on CT: it is shown the truth
        made["codec only"] = _coded(self._model, case.pair)
        for name, images in made.items():
            self.tallies[name].add(images, case.pair)
        self.canals.add(ours[Contrast.T2], case)
        self.following.add(ours, case)
        self.samples += _samples(ours, case)
        if not case.person.findings:
            self.uninjured.append(measure(case.ct, ours, case.course))
        steps = self._plan.steps
        if steps and self._count < STEPPED_PHANTOMS:
            made[self.steps_name] = _stepped(self.run, self._model, steps, case, self.stepped)
        if len(self.pictures) < PICTURED:
            self.pictures.append(_picture(case, made))
        self._count += 1


def _facts(plan: Plan, model: Model) -> dict[str, object]:
    """What the figures depend on."""
    return {
        "normalization": NORMALIZATION,
        "mask": MASK,
        "noise": NOISE,
        "judged": [plan.judged.start, plan.judged.stop],
        "tuning": [plan.tuning.start, plan.tuning.stop],
        "lookup": [plan.lookup.start, plan.lookup.stop],
        "stepped": f"{STEPPED_SLICES} slices through the canal of the first"
        f" {min(STEPPED_PHANTOMS, len(plan.judged))} phantoms; model and baseline are given"
        f" these slices alone. {STEPS_UNFAIR}",
        "device": f"{model.device} {model.dtype}, {torch.get_num_threads()} thread(s)",
    }


def fill_pool(pool: Path, seeds: Iterable[int], tell: Tell) -> None:
    """Draw the phantoms that the pool lacks."""
    missing = [s for s in seeds if not pair_path(pool, s).exists()]
    for number, seed in enumerate(missing):
        tell("drawing phantoms", number, len(missing))
        fill(pool, range(seed, seed + 1))


def cases(pool: Path, seeds: range, what: str, tell: Tell) -> Iterator[Case]:
    """The phantoms of these seeds, each with its own noise."""
    for number, seed in enumerate(seeds):
        tell(what, number, len(seeds))
        person, pair = patient(seed), load(pair_path(pool, seed))
        grid = pair_grid(person)
        ct = noisy(pair.ct, np.random.default_rng(seed))
        yield Case(person, pair, grid, phantom_course(person, grid), ct)


def _baselines(plan: Plan, regression: Model | None) -> dict[str, Method]:
    pairs = (load(pair_path(plan.pool, seed)) for seed in plan.lookup)
    methods: dict[str, Method] = {"lookup": lookup_method(pairs)}
    if regression is not None:
        methods["regression"] = model_method(regression)
    return methods


def _coded(model: Model, pair: TrainingPair) -> Images:
    """The truth through the codec and back: the error that no denoiser can undo."""
    codec = model.pipeline.codec
    signal = torch.tensor(np.stack((pair.t2, pair.stir), axis=1))
    with torch.no_grad():
        back = codec.decode(codec.encode(signal.to(model.device))).float().cpu().numpy()
    return {c: back[:, i] for i, c in enumerate(ALL_CONTRASTS)}


def many_steps(model: Model, ct: Float32, steps: int, seed: int = 0) -> Images:
    """The same network from pure noise in many Euler (DDIM) steps, one noise field per stack.

    Args:
        model: Under test.
        ct: HU, ``(slice, row, column)``.
        steps: Evenly spaced noise levels from 1 down.
        seed: Of the noise field.
    """
    _, rows, columns = ct.shape
    start = model.pipeline.noise(rows, columns, Generator().manual_seed(seed))
    sigmas = [1 - i / steps for i in range(steps)]
    half = model.dtype == "bfloat16"
    with torch.autocast(model.device, dtype=torch.bfloat16, enabled=half):
        out = model.pipeline(torch.tensor(ct), sigmas=sigmas, noise=start).numpy()
    return {c: out[:, i] for i, c in enumerate(ALL_CONTRASTS)}


def true_images(pair: TrainingPair) -> dict[Contrast, Float32]:
    """T2 and STIR of a phantom."""
    return {Contrast.T2: pair.t2, Contrast.STIR: pair.stir}


def _samples(images: Images, case: Case) -> list[Sample]:
    truth = true_images(case.pair)
    named = {str(c): images[c] for c in ALL_CONTRASTS}
    named |= {f"true {c}": truth[c] for c in ALL_CONTRASTS}
    return samples_of(named, case.pair, case.person, case.course, case.grid)


def _stepped(
    run: Method, model: Model, steps: int, case: Case, tallies: Mapping[str, Tally]
) -> Images:
    """Score model and many steps on the same few slices; the latter's images in a whole stack."""
    part = _part(case)
    pair = case.pair
    few = TrainingPair(
        case.ct[part], pair.t2[part], pair.stir[part], pair.labels[part], pair.ct_labels[part]
    )
    slow = many_steps(model, few.ct, steps)
    for tally, images in zip(tallies.values(), (run(few.ct), slow), strict=True):
        tally.add(images, few)
    around = ((part.start, len(case.ct) - part.stop), (0, 0), (0, 0))
    return {contrast: np.pad(values, around) for contrast, values in slow.items()}


def _part(case: Case) -> slice:
    first = min(max(0, case.course.middle_slice - 2), len(case.ct) - STEPPED_SLICES)
    return slice(max(0, first), first + STEPPED_SLICES)


def _picture(case: Case, made: Mapping[str, Images]) -> Pictures:
    k = case.course.middle_slice
    names = ", ".join(
        f"{i.finding.value}{'' if i.ct_visible else ' (occult)'}" for i in case.person.findings
    )
    return Pictures(
        case.person.seed,
        f"{case.person.injured_level}: {names}" if names else "no injury",
        case.ct[k],
        {c: v[k] for c, v in true_images(case.pair).items()},
        {name: {c: v[k] for c, v in images.items()} for name, images in made.items()},
    )


def _real(run: Method, model: Model, stack: Volume, anatomy: Anatomy, tell: Tell) -> RealNeck:
    tell("real neck", 0, 1)
    images = run(stack.values)
    course = anatomy_course(anatomy, stack.grid)
    found = measure(stack.values, images, course)
    change = noise_change(stack.values, images, run)
    samples = 0 if model.calibration is None else model.calibration.samples
    made = hatch_faint(
        synthesize(stack, model, samples=samples), course.between_walls(stack.values)
    )
    return RealNeck(replace(found, change=change), stack.values, images, made.support)
