"""The cord moves within the canal of the CT: how much of that does the output follow?

A network that draws the cord where cords usually lie is right on average and wrong in this patient.
Moving the cord alone, by known millimeters, tells evidence from habit: the response is the slope of
the measured center on the true one, point by point of the canal, so that neither the shape of the
canal nor a constant error counts. 1 is evidence, 0 is habit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, generate_binary_structure

from pipeline.canal_rows import read_rows
from pipeline.contrast import Contrast
from pipeline.course import Course
from pipeline.evaluation.canal import true_cord_mm
from pipeline.evaluation.counterfactual.subjects import Subject, Supporter
from pipeline.evaluation.scores import Method
from pipeline.geometry import Float32, Float64
from pipeline.phantom import Rendered, TrainingPair, Variation
from pipeline.phantom.tissues import CORD_TISSUES

SHIFTS_MM = (-1.5, 0.0, 1.5)
"""To the back; the sac of a usual canal leaves the cord about as much room."""

GAPS_HU = (0.0, 5.0, 10.0, 15.0, 25.0)
"""Cord minus CSF on the CT, from nothing to nearly the widest that the phantom draws (30)."""

NOISES_HU = (4.0, 8.0, 12.0, 20.0)
"""Standard deviation, correlated as in `Subject.noise`: from a good dose to the shoulders."""

LEAST_SPREAD_MM = 0.2
"""Standard deviation of the true center over the shifts from which a point counts; at less the
sac held the cord, and what is left is the rounding of pixels."""

MARGIN_REACH_MM = 9.0
"""Half of the widest canal: margins of the cord farther from its middle belong to the brain."""

Draw = Callable[[float, float], Rendered]
"""From shift in mm and gap in HU to the phantom on a fixed grid."""


@dataclass(frozen=True)
class Condition:
    """What the CT offers.

    Args:
        gap_hu: Cord minus CSF.
        noise_hu: Standard deviation.
    """

    gap_hu: float
    noise_hu: float


CONDITIONS = tuple(Condition(gap, noise) for gap in GAPS_HU for noise in NOISES_HU)
TRUTH = Condition(float("inf"), 0.0)
"""In place of a condition: the same measurement on the true T2. No ceiling: where the cord touches
a wall the measurement fails, and a picture with a rim of CSF that is not there does better."""


@dataclass(frozen=True)
class Following:
    """How one phantom's drawn cord follows its true one under one condition.

    Args:
        seed: Of the phantom.
        condition: Of its CT.
        response: Slope of the measured center on the true one.
        error_mm: Mean absolute error of the center where the output shows cord in CSF.
        resolved: Share of points where it does.
        unsupported: Share of the cord's margin that the support map marks with the cord in its
            place; None where no map was made.
    """

    seed: int
    condition: Condition
    response: float
    error_mm: float
    resolved: float
    unsupported: float | None


def drawing(subject: Subject) -> Draw:
    """Draw an uninjured phantom with its cord moved and its gap fixed."""

    def draw(shift_mm: float, gap_hu: float) -> Rendered:
        moved = Variation(cord_shift_mm=shift_mm, cord_csf_gap_hu=gap_hu)
        return subject.twin(variation=moved)

    return draw


def evidence(
    seed: int,
    draw: Draw,
    course: Course,
    noise: Float32,
    method: Method,
    supporter: Supporter | None = None,
    conditions: Sequence[Condition] = CONDITIONS,
) -> Iterator[Following]:
    """All conditions of one phantom, and `TRUTH` first.

    Args:
        seed: Of the phantom.
        draw: The phantom.
        course: Of its canal on the grid that is drawn on.
        noise: Of standard deviation 1, on that grid; the same for all shifts and conditions.
        method: Under test.
        supporter: Its support map; None leaves that out.
        conditions: Which, at least one.
    """
    first = True
    for gap in dict.fromkeys(condition.gap_hu for condition in conditions):
        scenes = [draw(shift, gap) for shift in SHIFTS_MM]
        true = np.array([_true_mm(scene, course) for scene in scenes])
        if first:
            yield _following(seed, TRUTH, true, [s.t2 for s in scenes], course, None)
            first = False
        still = scenes[SHIFTS_MM.index(0.0)]
        for condition in conditions:
            if condition.gap_hu != gap:
                continue
            added = condition.noise_hu * noise
            drawn = [method(scene.ct + added)[Contrast.T2] for scene in scenes]
            share = None
            if supporter is not None:
                marked = supporter(still.ct + added).unsupported
                share = float(marked[cord_margin(still, course)].mean())
            yield _following(seed, condition, true, drawn, course, share)


def _true_mm(scene: Rendered, course: Course) -> Float64:
    pair = TrainingPair(scene.ct, scene.t2, scene.stir, scene.labels, scene.ct_labels)
    return true_cord_mm(pair, course)


def _following(
    seed: int,
    condition: Condition,
    true: Float64,
    t2: Sequence[Float32],
    course: Course,
    unsupported: float | None,
) -> Following:
    measured = np.array([read_rows(image, course).cord_mm for image in t2])
    there = np.isfinite(true)
    resolved = np.isfinite(measured) & there
    error = np.abs(measured - true)[resolved]
    return Following(
        seed,
        condition,
        response(true, measured),
        float(error.mean()) if error.size else float("nan"),
        float(resolved.sum() / max(there.sum(), 1)),
        unsupported,
    )


def response(true_mm: Float64, measured_mm: Float64) -> float:
    """Common slope of the measured center on the true one, each point with its own intercept.

    Args:
        true_mm: ``(shift, point)``; NaN where there is no cord.
        measured_mm: The same; NaN where none is seen.

    Returns:
        NaN when no point is seen with its cord in two places.
    """
    seen = np.isfinite(true_mm) & np.isfinite(measured_mm)
    count = np.maximum(seen.sum(axis=0), 1)
    x, y = (np.where(seen, values, 0.0) for values in (true_mm, measured_mm))
    x, y = (np.where(seen, v - v.sum(axis=0) / count, 0.0) for v in (x, y))
    kept = (x**2).sum(axis=0) / count >= LEAST_SPREAD_MM**2
    if not kept.any():
        return float("nan")
    return float((x * y)[:, kept].sum() / (x**2)[:, kept].sum())


def cord_margin(scene: Rendered, course: Course) -> NDArray[np.bool_]:
    """The pixel on both sides of the cord's border, in the slice and the stretch of the course."""
    cord = np.isin(scene.labels, CORD_TISSUES)
    cross = generate_binary_structure(2, 1)[np.newaxis]
    margin = binary_dilation(cord, cross) & ~binary_erosion(cord, cross)
    near = course.within(scene.labels.shape, MARGIN_REACH_MM, MARGIN_REACH_MM)
    only = np.zeros_like(near)
    only[course.middle_slice] = True
    return np.asarray(margin & near & only)


@dataclass(frozen=True)
class Answer:
    """`Following` of all phantoms under one condition.

    Args:
        condition: Of their CT.
        phantoms: How many.
        response: Mean over the phantoms.
        least: Of them.
        most: Of them.
        error_mm: Mean over the phantoms.
        resolved: Mean.
        unsupported: Mean over those that a support map was made of; None when it was of none.
    """

    condition: Condition
    phantoms: int
    response: float
    least: float
    most: float
    error_mm: float
    resolved: float
    unsupported: float | None


def answers(rows: Iterable[Following]) -> list[Answer]:
    """One for each condition, in their order; NaN where no phantom could be measured."""
    by_condition: dict[Condition, list[Following]] = {}
    for row in rows:
        by_condition.setdefault(row.condition, []).append(row)
    return [_answer(condition, group) for condition, group in by_condition.items()]


def _answer(condition: Condition, rows: Sequence[Following]) -> Answer:
    responses = [row.response for row in rows if np.isfinite(row.response)] or [float("nan")]
    errors = [row.error_mm for row in rows if np.isfinite(row.error_mm)] or [float("nan")]
    marked = [row.unsupported for row in rows if row.unsupported is not None]
    return Answer(
        condition,
        len(rows),
        response=float(np.mean(responses)),
        least=min(responses),
        most=max(responses),
        error_mm=float(np.mean(errors)),
        resolved=float(np.mean([row.resolved for row in rows])),
        unsupported=float(np.mean(marked)) if marked else None,
    )
