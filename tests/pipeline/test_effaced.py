"""A rim of CSF that is drawn where the truth has none is counted, and so is what the map says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.canal_rows import read_rows
from pipeline.evaluation.effaced import Effaced, EffacedTally, unlabeled
from pipeline.evaluation.report import effaced_table
from pipeline.geometry import Float32
from pipeline.phantom import Rendered
from tests.pipeline.test_counterfactual import drawn_canal, straight_course

OPEN, NARROW = drawn_canal(0.0, 20.0), drawn_canal(3.6, 20.0)


def scored(
    t2: Float32,
    truth: Rendered,
    share: float | None = None,
    *,
    is_faint: bool = False,
    is_shown: bool = True,
) -> Effaced:
    course, tally = straight_course(), EffacedTally()
    unsupported = None
    if share is not None:
        unsupported = np.zeros(t2.shape, dtype=bool)
        unsupported[:, : round(share * t2.shape[1])] = True
    rows = read_rows(t2, course), read_rows(truth.t2, course)
    faint = np.full(len(course.index), is_faint)
    tally.add(*rows, truth.labels, course, faint, unsupported, is_shown=is_shown)
    return tally.score()


def test_csf_before_a_cord_that_touches_the_wall_is_false() -> None:
    points = len(straight_course().index)
    habit = scored(OPEN.t2, NARROW)
    assert (habit.phantoms, habit.false_csf.hits, habit.false_csf.of) == (1, points, points)
    assert habit.step_drawn > 0.4
    assert habit.step_true < 0.1
    assert math.isnan(habit.hatched)
    assert (habit.false_csf_shown.hits, habit.false_csf_shown.of) == (points, points)
    hidden = scored(OPEN.t2, NARROW, is_shown=False)
    assert (hidden.false_csf.hits, hidden.false_csf_shown.of) == (points, 0)
    same = scored(NARROW.t2, NARROW)
    assert (same.false_csf.hits, same.false_csf.of) == (0, points)
    assert same.step_drawn == same.step_true


def test_where_the_truth_shows_csf_there_is_nothing_to_count() -> None:
    none = scored(NARROW.t2, OPEN, share=1.0)
    assert (none.phantoms, none.false_csf.of) == (0, 0)
    assert math.isnan(none.false_csf.value)
    assert "| CSF on both sides (0 phantoms) | no rows | none |" in effaced_table(none)


def test_rows_of_faint_csf_are_counted_here_and_elsewhere() -> None:
    points = len(straight_course().index)
    habit = scored(OPEN.t2, NARROW)
    assert (habit.unmarked.hits, habit.unmarked.of) == (points, points)
    assert (habit.faint.hits, habit.faint_elsewhere.of) == (0, 0)
    marked = scored(OPEN.t2, NARROW, is_faint=True)
    assert (marked.unmarked.hits, marked.faint.hits, marked.faint.of) == (0, points, points)
    sound = scored(OPEN.t2, OPEN, is_faint=True)
    assert (sound.faint.of, sound.faint_elsewhere.hits) == (0, points)
    assert f"| hatched as faint | 100%, {points} of {points} rows |  |" in effaced_table(marked)


def test_the_map_is_looked_up_in_the_canal_of_these_rows() -> None:
    # the course runs from row 16 to row 80 of 96
    assert scored(OPEN.t2, NARROW, share=0.5).hatched == pytest.approx(0.5, abs=0.02)
    assert scored(OPEN.t2, NARROW, share=1.0).hatched == 1


def test_the_label_map_tells_a_side_without_csf_by_itself() -> None:
    course = straight_course()
    assert unlabeled(NARROW.labels, course).all()
    assert not unlabeled(OPEN.labels, course).any()
    narrow = scored(OPEN.t2, NARROW)
    assert (narrow.unlabeled_true.value, narrow.unlabeled_drawn.value) == (0, 1)
    assert narrow.unlabeled_step_drawn == narrow.step_drawn
