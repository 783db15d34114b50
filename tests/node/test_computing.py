"""What stands on the border of the slices beside the mark."""

from __future__ import annotations

import numpy as np

from node.computing import side_notes
from pipeline import labeling
from pipeline.anatomy import Anatomy, Coverage
from pipeline.contrast import Contrast
from pipeline.levels import Level
from pipeline.reformat import STACK_SHAPE, stack_grid
from pipeline.symmetry import MidsagittalPlane

NAMES = ("C2/3", "C3/4", "C4/5", "C5/6", "C6/7", "C7/T1", "T1/2")


def anatomy(is_confirmed: bool) -> Anatomy:
    plane = MidsagittalPlane(np.zeros(3), np.array([-1.0, 0, 0]))
    levels = tuple(
        Level(name, np.array([0.0, 0, z]), np.array([0.0, -15, z]), 40.0 - z, 1.0)
        for name, z in zip(NAMES, np.linspace(40, -56, 7), strict=True)
    )
    line = np.zeros((120, 3))
    return Anatomy(line, plane, levels, is_confirmed, {}, {}, Coverage(120, 120, "dens"), (), {})


def test_confirmed_levels_are_named_where_they_are() -> None:
    found = anatomy(True)
    grid = stack_grid(found)
    notes = side_notes(found, grid)
    assert [name for _, name in notes] == list(NAMES)
    for (row, _), level in zip(notes, found.levels, strict=True):
        assert abs(grid.to_index(level.disc_mm)[1] - row) <= 0.5


def test_unconfirmed_levels_are_not_named_but_said_to_be_so_on_every_slice() -> None:
    found = anatomy(False)
    notes = side_notes(found, stack_grid(found))
    assert "".join(text for _, text in notes) == "levelsuncon-firmed"
    pixels = np.zeros(STACK_SHAPE, dtype=np.uint16)
    marked = labeling.mark(pixels, Contrast.T2, notes)
    plain = labeling.mark(pixels, Contrast.T2)
    assert all((one != other).any() for one, other in zip(marked, plain, strict=True))
    assert labeling.has_mark(marked, Contrast.T2)
