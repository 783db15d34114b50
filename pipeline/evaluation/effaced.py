"""Where the true T2 shows no CSF on one side of the cord: does the pseudo-T2 draw it there?

A disc, a slipped or broken vertebra, or a swollen cord take the CSF away, and that is what a trauma
reader looks for. A model that draws a rim of CSF anyway shows a canal that is wider than it is, and
"rows resolved" alone would praise it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.canal_rows import CanalRows
from pipeline.course import ACROSS_MM, Course
from pipeline.evaluation.injuries import Share
from pipeline.geometry import Float64
from pipeline.phantom import Tissue
from pipeline.phantom.tissues import CORD_TISSUES

Mask = NDArray[np.bool_]

LEAST_CORD, LEAST_CSF = 8, 2
"""Positions across the canal, 0.25 mm apart: with less there is no cord, or no CSF on a side."""


@dataclass(frozen=True)
class Effaced:
    """Over many phantoms; rows are half a millimeter apart and not independent of each other.

    Args:
        phantoms: That have such rows.
        false_csf: Of the rows in which the true T2 shows no CSF on one side at least, those in
            which the pseudo-T2 shows it on both.
        false_csf_shown: The same in phantoms whose CT tells cord from CSF: elsewhere nothing in it
            says at which wall the cord lies.
        unmarked: Of the same rows, those in which it is on both and no stretch of faint CSF is
            hatched (`pipeline.narrowing`): what misleads a reader of the support map too.
        faint: Of the same rows, those in such a stretch.
        faint_elsewhere: Of all other rows, also in phantoms that have no such rows: what it costs.
        step_true: There, by how much the fainter column is brighter than the cord in the true T2,
            CSF = 1.
        step_drawn: The same in the pseudo-T2.
        hatched: There, mean share of the canal that the support map marks; NaN without a map.
        hatched_elsewhere: The same in the other rows of these phantoms.
        unlabeled_true: Of the rows in which the label map has no CSF on one side, those in which
            the measurement finds both columns in the true T2: what the measurement misses.
        unlabeled_drawn: The same in the pseudo-T2.
        unlabeled_step_true: As `step_true`, in these rows.
        unlabeled_step_drawn: The same in the pseudo-T2.
    """

    phantoms: int
    false_csf: Share
    false_csf_shown: Share
    unmarked: Share
    faint: Share
    faint_elsewhere: Share
    step_true: float
    step_drawn: float
    hatched: float
    hatched_elsewhere: float
    unlabeled_true: Share
    unlabeled_drawn: Share
    unlabeled_step_true: float
    unlabeled_step_drawn: float


class EffacedTally:
    """Adds up, phantom by phantom."""

    def __init__(self) -> None:
        # a line a row: is effaced in the true T2, in the labels, resolved there, in ours, hatched,
        # step there, in ours, faint in ours, whether the CT shows the cord
        self._rows: list[Float64] = []
        self._phantoms = 0

    def add(
        self,
        drawn: CanalRows,
        true: CanalRows,
        labels: NDArray[np.uint8],
        course: Course,
        faint: Mask,
        unsupported: Mask | None = None,
        *,
        is_shown: bool,
    ) -> None:
        """Take up one phantom.

        Args:
            drawn: Of the pseudo-T2, along `course`.
            true: Of the true T2.
            labels: ``(slice, row, column)``.
            course: Of the canal.
            faint: Points of `drawn` in stretches with faint CSF.
            unsupported: The support map, of the same shape; None where none was made.
            is_shown: Whether the CT tells the cord from CSF.
        """
        effaced = ~true.is_resolved
        self._phantoms += int(effaced.any())
        hatched = np.full(len(effaced), np.nan)
        if unsupported is not None and effaced.any():
            hatched = hatched_share(unsupported, course)
        columns = (
            effaced, unlabeled(labels, course), true.is_resolved, drawn.is_resolved, hatched,
            true.contrast * true.csf, drawn.contrast * drawn.csf, faint,
            np.full(len(effaced), is_shown),
        )  # fmt: skip
        self._rows.append(np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1))

    def score(self) -> Effaced:
        """Over all."""
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, 9))
        is_effaced, is_drawn, is_faint, is_shown = (rows[:, n] > 0 for n in (0, 3, 7, 8))
        here, empty = rows[is_effaced], rows[rows[:, 1] > 0]
        return Effaced(
            self._phantoms,
            Share.count(int((is_effaced & is_drawn).sum()), len(here)),
            Share.count(int((is_effaced & is_drawn & is_shown).sum()), int(here[:, 8].sum())),
            Share.count(int((is_effaced & is_drawn & ~is_faint).sum()), len(here)),
            Share.count(int((is_effaced & is_faint).sum()), len(here)),
            Share.count(int((~is_effaced & is_faint).sum()), len(rows) - len(here)),
            _mean(here[:, 5]),
            _mean(here[:, 6]),
            _mean(here[:, 4]),
            _mean(rows[~is_effaced, 4]),
            Share.count(int(empty[:, 2].sum()), len(empty)),
            Share.count(int(empty[:, 3].sum()), len(empty)),
            _mean(empty[:, 5]),
            _mean(empty[:, 6]),
        )


def unlabeled(labels: NDArray[np.uint8], course: Course) -> Mask:
    """Points of the course with a cord but without CSF before or behind it, ``(n,)``."""
    across = np.rint(course.across(labels, order=0))
    inside = np.abs(ACROSS_MM) <= course.half_mm[:, None] + 1
    cord, csf = np.isin(across, CORD_TISSUES) & inside, (across == Tissue.CSF) & inside
    count = cord.sum(axis=1)
    middle = (cord * ACROSS_MM).sum(axis=1) / np.maximum(count, 1)
    is_front = middle[:, None] < ACROSS_MM
    sides = [(csf & side).sum(axis=1) for side in (is_front, ~is_front)]
    found: Mask = (count >= LEAST_CORD) & (np.minimum(*sides) < LEAST_CSF)
    return found


def hatched_share(unsupported: Mask, course: Course) -> Float64:
    """Share of the canal, wall to wall, that is marked at each point of the course, ``(n,)``."""
    inside = np.abs(ACROSS_MM) <= course.half_mm[:, None]
    marked = course.across(unsupported, order=0) > 0.5
    share: Float64 = (marked & inside).sum(axis=1) / inside.sum(axis=1)
    return share


def _mean(values: Float64) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if kept.size else float("nan")
