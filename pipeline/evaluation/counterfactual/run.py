"""All three tests in one run, with any method from a CT to images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.evaluation.counterfactual.evidence import (
    CONDITIONS,
    Condition,
    Following,
    drawing,
    evidence,
)
from pipeline.evaluation.counterfactual.occult import Occult, occult
from pipeline.evaluation.counterfactual.subjects import SEEDS, WHOLE, Subject, Supporter
from pipeline.evaluation.counterfactual.visible import Visible, visible
from pipeline.evaluation.injuries import FOUND_BY_SIGNAL
from pipeline.evaluation.scores import NOISE_HU, Method
from pipeline.geometry import Float32, Volume
from pipeline.phantom import Finding, patient, stack_grid
from pipeline.support import SupportMap
from pipeline.synthesis import Model, synthesize

LESION_SLICES = 5
"""Lesions lie near the midline: 15 mm hold them, and are one batch of the model."""

CORD_SLICES = 3
"""The slice that is measured, with both the neighbors that the model sees with it."""

MAPPED = 2
"""Phantoms whose cord margin is looked up in a support map: a map costs eight images more, and
hardly differs between phantoms under the same condition."""

Tell = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Plan:
    """What to test.

    Args:
        seeds: Of the phantoms, within `SEEDS`.
        findings: Looked at one by one.
        conditions: Under which the cord is moved.
        size: Rows and columns of the stacks, divisible by 16.
        mapped: As `MAPPED`.

    Raises:
        ValueError: When there is no phantom, or one that something else uses.
    """

    seeds: range
    findings: tuple[Finding, ...] = FOUND_BY_SIGNAL
    conditions: tuple[Condition, ...] = CONDITIONS
    size: tuple[int, int] = WHOLE
    mapped: int = MAPPED

    def __post_init__(self) -> None:
        if not len(self.seeds) or self.seeds[0] not in SEEDS or self.seeds[-1] not in SEEDS:
            raise ValueError(
                f"expected seeds within {SEEDS.start}:{SEEDS.stop}, which nothing else uses, found"
                f" {self.seeds.start}:{self.seeds.stop}"
            )


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Args:
        plan: That was followed.
        occult: A row for each phantom and finding.
        visible: The same.
        evidence: A row for each phantom and condition.
        is_calibrated: Whether there was a support map to ask.
        seconds: That it took.
    """

    plan: Plan
    occult: tuple[Occult, ...]
    visible: tuple[Visible, ...]
    evidence: tuple[Following, ...]
    is_calibrated: bool
    seconds: float


def counterfactuals(
    plan: Plan,
    method: Method,
    supporter: Supporter | None = None,
    tell: Tell = lambda *_: None,
) -> Results:
    """Run all tests.

    Args:
        plan: Which phantoms and conditions.
        method: Under test.
        supporter: Its support map; None when it has none.
        tell: For a progress bar.

    Raises:
        ValueError: When the CT shows an occult finding.
    """
    began = time.perf_counter()
    hidden: list[Occult] = []
    shown: list[Visible] = []
    followed: list[Following] = []
    for number, seed in enumerate(plan.seeds):
        tell("lesions", number, len(plan.seeds))
        here, there = _lesions(seed, plan, method, supporter)
        hidden += here
        shown += there
    steps = len(plan.seeds) * (1 + len(plan.conditions))
    for number, seed in enumerate(plan.seeds):
        subject = Subject.of(seed, CORD_SLICES, plan.size)
        for row in evidence(
            seed,
            drawing(subject),
            subject.course,
            subject.noise(),
            method,
            supporter if number < plan.mapped else None,
            plan.conditions,
        ):
            followed.append(row)
            tell("moving the cord", len(followed), steps)
    return Results(
        plan,
        tuple(hidden),
        tuple(shown),
        tuple(followed),
        supporter is not None,
        round(time.perf_counter() - began, 1),
    )


def _lesions(
    seed: int, plan: Plan, method: Method, supporter: Supporter | None
) -> tuple[list[Occult], list[Visible]]:
    """Both tests of one phantom; they share its sound twin."""
    subject = Subject.of(seed, LESION_SLICES, plan.size)
    sound = subject.twin()
    ct = sound.ct + NOISE_HU * subject.noise()
    drawn, support = method(ct), None if supporter is None else supporter(ct)
    hidden = (occult(subject, sound, f, method, drawn, support) for f in plan.findings)
    shown = (visible(subject, sound, f, method, drawn) for f in plan.findings)
    return [row for row in hidden if row], [row for row in shown if row]


def model_supporter(model: Model) -> Supporter | None:
    """The model's support map; None when it is not calibrated."""
    calibration = model.calibration
    if calibration is None:
        return None

    def run(ct: Float32) -> SupportMap:
        # only pixels are compared: where the stack lies is of no meaning here
        stack = Volume(ct, stack_grid(patient(0), shape=ct.shape), "2.25.1")
        support = synthesize(stack, model, samples=calibration.samples).support
        if support is None:
            raise ValueError(f"expected a support map of {model.name}, which is calibrated")
        return support

    return run
