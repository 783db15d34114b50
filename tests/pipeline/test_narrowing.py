"""Faint CSF around the cord: where it is, that the canal is hatched there, and what is said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.contrast import Contrast
from pipeline.course import Course
from pipeline.geometry import Float32
from pipeline.narrowing import FAINT_CSF, faint_canal, find_narrowings, hatch_faint
from pipeline.phantom import Tissue
from pipeline.places import Region
from tests.pipeline.test_fidelity import synthesis
from tests.pipeline.toy_spine import (
    CANAL_COLUMN,
    FIRST_DISC,
    LEVEL_ROWS,
    SHAPE,
    discs_mm,
    toy_spine,
)

TOY = toy_spine()
LEVELS = {name: list(point) for name, point in discs_mm(TOY.stack.grid).items()}
ROW = FIRST_DISC + 3 * LEVEL_ROWS
"""Of C5/6."""


def faded(first: int, last: int, csf: float, *, one_side: bool = False) -> Float32:
    """The toy's T2 with other CSF in some rows."""
    t2 = TOY.pair.t2.copy()
    part = t2[:, first:last]
    where = TOY.pair.labels[:, first:last] == Tissue.CSF
    if one_side:
        where &= np.arange(SHAPE[2]) < CANAL_COLUMN
    part[where] = csf
    return t2


@pytest.mark.parametrize("one_side", [False, True])
def test_faint_csf_is_found_where_it_is_and_named_after_the_nearest_disc(one_side: bool) -> None:
    csf = 0.3 if one_side else FAINT_CSF - 0.1
    t2 = faded(ROW - 6, ROW + 6, csf, one_side=one_side)
    (found,) = find_narrowings(t2, TOY.course, LEVELS)
    assert found.near == "C5/6"
    assert found.length_mm == pytest.approx(12 * 0.75, abs=2)
    assert found.csf < FAINT_CSF
    assert "near C5/6" in found.sentence()
    assert found.to_json() == {
        "near": "C5/6", "length_mm": found.length_mm, "csf": round(found.csf, 3),
    }  # fmt: skip
    rows = np.flatnonzero(faint_canal(t2, TOY.course).any(axis=(0, 2)))
    assert abs(rows.min() - (ROW - 6)) <= 2
    assert abs(rows.max() - (ROW + 5)) <= 2


@pytest.mark.parametrize(
    ("first", "last", "kept", "near"),
    [
        (20, 28, slice(2, None), "above C4/5"),
        (56, 64, slice(2, None), "C4/5"),
        (20, 64, slice(2, None), "C4/5"),
        (118, 126, slice(0, 4), "below C5/6"),
        (93, 126, slice(0, 4), "C5/6"),
        (20, 126, slice(2, 4), "C4/5 to C5/6"),
    ],
)
def test_a_stretch_beyond_the_discs_does_not_get_their_name(
    first: int, last: int, kept: slice, near: str
) -> None:
    """C4/5 is on row 70, C5/6 on row 90; 12 mm are 16 rows."""
    known = dict(list(LEVELS.items())[kept])
    (found,) = find_narrowings(faded(first, last, 0.2), TOY.course, known)
    assert found.near == near
    said = near if near.startswith(("above", "below")) else f"near {near}"
    assert found.sentence().startswith(f"faint CSF {said}, over")


def test_bright_csf_and_single_rows_are_nothing() -> None:
    assert find_narrowings(TOY.pair.t2, TOY.course, LEVELS) == ()
    assert find_narrowings(faded(ROW, ROW + 1, 0.5), TOY.course, LEVELS) == ()
    assert not faint_canal(TOY.pair.t2, TOY.course).any()


def test_without_trusted_levels_nothing_is_named() -> None:
    (found,) = find_narrowings(faded(ROW - 6, ROW + 6, 0.2), TOY.course, {})
    assert found.near == ""
    assert "in the canal" in found.sentence()


def test_the_canal_is_unsupported_there_from_wall_to_wall_and_nowhere_else() -> None:
    narrow = synthesis(0.01, faded(ROW - 6, ROW + 6, 0.5))
    sound = synthesis(0.01)
    hatched, same = hatch_faint(narrow, TOY.course), hatch_faint(sound, TOY.course)
    assert narrow.support is not None
    assert hatched.support is not None
    assert same.support is not None
    added = hatched.support.marked & ~narrow.support.unsupported
    canal = TOY.places.region(Region.CANAL)
    middle = np.zeros_like(canal)
    middle[:, ROW - 3 : ROW + 3] = True
    assert added[canal & middle].mean() > 0.95
    assert np.isin(TOY.pair.labels[added], (Tissue.CSF, Tissue.CORD)).mean() > 0.85
    np.testing.assert_array_equal(hatched.images[Contrast.T2], narrow.images[Contrast.T2])
    assert not same.support.marked.any()
    np.testing.assert_array_equal(hatched.support.unsupported, narrow.support.unsupported)


def test_without_a_support_map_there_is_nothing_to_hatch() -> None:
    bare = dataclasses.replace(synthesis(0.01, faded(ROW - 6, ROW + 6, 0.5)), support=None)
    assert hatch_faint(bare, TOY.course) is bare


def test_a_stack_without_a_canal_has_no_narrowing() -> None:
    nowhere = Course(np.empty((0, 3)), np.empty((0, 2)), np.empty(0), np.empty((0, 3)))
    assert find_narrowings(TOY.pair.t2, nowhere, LEVELS) == ()
    assert not faint_canal(TOY.pair.t2, nowhere).any()
    assert len(nowhere.between_walls(TOY.stack.values).index) == 0
