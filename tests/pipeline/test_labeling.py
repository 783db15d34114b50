"""The mark: it hides nothing, moves nothing, and is found in every slice and plane."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from pipeline import labeling
from pipeline.contrast import SeriesKind
from pipeline.fidelity import NARROWED, OUTLINED
from pipeline.geometry import Grid
from pipeline.labeling import (
    FOOT_LINES,
    FOOT_ROWS,
    MARGIN_COLUMNS,
    MARGIN_ROWS,
    mark,
    mark_score,
    unmarked,
)

STACK = (15, 256, 256)


def stack(seed: int = 0, shape: tuple[int, int, int] = STACK) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 4096, shape, dtype=np.uint16)


@given(
    signal=arrays(np.float32, (2, 3, 4), elements=st.floats(-4, 4, width=32)),
)
def test_pixels_are_the_signal_on_one_scale(signal: NDArray[np.float32]) -> None:
    pixels = labeling.to_pixels(signal)
    assert pixels.dtype == np.uint16
    assert pixels.max() <= 4095
    inside = (signal >= 0) & (signal <= 2)
    assert np.abs(pixels[inside] / 2000 - signal[inside]).max(initial=0) <= 0.5 / 2000 + 1e-6
    assert not pixels[signal < 0].any()


def test_a_signal_that_is_no_number_has_no_pixel() -> None:
    with pytest.raises(ValueError, match="not finite"):
        labeling.to_pixels(np.full((1, 1, 1), np.nan, dtype=np.float32))


def test_no_anatomy_is_covered() -> None:
    pixels = stack()
    marked = mark(pixels, SeriesKind.T2, [(20, "C2/3")])
    assert marked.shape == (15, 256 + 2 * MARGIN_ROWS + FOOT_ROWS, 256 + 2 * MARGIN_COLUMNS)
    np.testing.assert_array_equal(unmarked(marked), pixels)
    assert marked.max() <= 4095


@settings(max_examples=20)
@given(
    index=st.tuples(st.integers(0, 14), st.integers(0, 255), st.integers(0, 255)),
    angle=st.floats(-0.6, 0.6),
)
def test_the_anatomy_stays_where_it_is(index: tuple[int, int, int], angle: float) -> None:
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    steps = np.array([[-3.0, 0, 0], [0, 0, -0.75], [0, 0.75, 0]]) @ turn.T
    grid = Grid.from_steps(STACK, np.array([10.0, -80.0, 200.0]), steps)
    marked = labeling.marked_grid(grid)
    assert marked.shape == mark(stack(), SeriesKind.T2).shape
    shifted = np.add(index, (0, MARGIN_ROWS, MARGIN_COLUMNS))
    np.testing.assert_allclose(
        marked.to_mm(shifted.astype(float)), grid.to_mm(np.array(index, dtype=float)), atol=1e-9
    )


@pytest.mark.parametrize("kind", SeriesKind)
def test_the_mark_is_found(kind: SeriesKind) -> None:
    notes = [(20, "C2/3"), (90, "C4/5"), (240, "T1/2")]
    marked = mark(stack(), kind, notes, ["UNSUPPORTED (9003): canal 4%", "WARNING"])
    assert mark_score(marked, kind) > 0.999
    assert labeling.has_mark(marked, kind)
    for other in set(SeriesKind) - {kind}:
        assert not labeling.has_mark(marked, other), "the banner names the series"


@pytest.mark.parametrize("part", ["headline", "banner", "bottom", "frame", "side", "one slice"])
def test_a_mark_with_a_part_missing_is_not_found(part: str) -> None:
    marked = mark(stack(), SeriesKind.T2)
    where: tuple[Any, ...] = {
        "headline": np.s_[:, 5:28, 5:-5],
        "banner": np.s_[:, 29:41, 5:-5],
        "bottom": np.s_[:, -MARGIN_ROWS:, :],
        "frame": np.s_[:, :, :5],
        "side": np.s_[:, 60:-60, -27:-6],
        "one slice": np.s_[7, :, :],
    }[part]
    marked[where] = 0
    assert not labeling.has_mark(marked, SeriesKind.T2)


def test_no_mark_in_plain_pixels() -> None:
    assert not labeling.has_mark(stack(shape=(15, 420, 320)), SeriesKind.T2)
    assert not labeling.has_mark(np.zeros((15, 420, 320), dtype=np.uint16), SeriesKind.T2)
    assert not labeling.has_mark(stack(shape=(2, 40, 40)), SeriesKind.T2)


def test_the_mark_survives_mild_loss() -> None:
    """Noise of 5% of the ink, as lossy transcoding leaves behind."""
    noise = np.random.default_rng(1).normal(0, 120, (15, 420, 320))
    marked = np.clip(mark(stack(), SeriesKind.STIR) + noise, 0, 4095).astype(np.uint16)
    assert labeling.has_mark(marked, SeriesKind.STIR)


def test_the_headline_reads_in_a_thumbnail() -> None:
    """At 128 pixels the letters are still there: light strokes with dark gaps between them."""
    marked = mark(np.zeros(STACK, dtype=np.uint16), SeriesKind.T2)
    picture = Image.fromarray((np.clip(marked[7] / 2200, 0, 1) * 255).astype(np.uint8))
    picture.thumbnail((128, 128))
    headline = np.asarray(picture)[3:10, 3:-3].max(axis=0) > 110
    strokes = np.count_nonzero(np.diff(headline.astype(int)) == 1)
    assert strokes >= 8, f"{strokes} letters of AISYNTHETIC stand apart"


def test_every_cut_through_the_stack_shows_letters() -> None:
    """What an axial and a coronal reformat show, with the patient's right on the left."""
    marked = mark(np.zeros(STACK, dtype=np.uint16), SeriesKind.T2)
    letters = np.array([[char == "#" for char in line] for line in labeling._GLYPH])
    for row in (MARGIN_ROWS, 184, 420 - MARGIN_ROWS - FOOT_ROWS - 1):
        axial = marked[::-1, row, :].T > 0  # anterior on top
        for strip in (axial[8:29:3, 3:12], axial[-29:-8:3, 3:12]):
            np.testing.assert_array_equal(strip, letters)
    for column in (MARGIN_COLUMNS, 160, 320 - MARGIN_COLUMNS - 1):
        coronal = marked[::-1, :, column].T > 0  # head on top
        for strip in (coronal[41:55:2, 3:12], coronal[-55:-41:2, 3:12]):
            np.testing.assert_array_equal(strip, letters)


def test_slices_differ_in_their_frame() -> None:
    marked = mark(np.zeros(STACK, dtype=np.uint16), SeriesKind.T2)
    for one, other in itertools.pairwise(marked):
        assert (one[:5] != other[:5]).any()


@pytest.mark.parametrize("slices", [1, 3, 8, 9, 40])
def test_any_number_of_slices(slices: int) -> None:
    marked = mark(stack(shape=(slices, 192, 224)), SeriesKind.STIR)
    assert labeling.has_mark(marked, SeriesKind.STIR)


def test_notes_change_only_the_anterior_margin() -> None:
    plain, noted = mark(stack(), SeriesKind.T2), mark(stack(), SeriesKind.T2, [(100, "C3/4")])
    changed = np.argwhere(plain != noted)
    assert changed[:, 2].max() < MARGIN_COLUMNS
    assert set(changed[:, 0]) == set(range(15))
    assert abs(changed[:, 1].mean() - (100 + MARGIN_ROWS)) < 4


def test_foot_notes_stand_below_the_anatomy_and_hide_no_part_of_the_mark() -> None:
    plain = mark(stack(), SeriesKind.T2)
    notes = ["UNSUPPORTED (9003): canal 12%", NARROWED, OUTLINED, "WARNING x"]
    noted = mark(stack(), SeriesKind.T2, (), notes)
    np.testing.assert_array_equal(unmarked(noted), stack())
    changed = np.argwhere((plain != noted).all(axis=0))[:, 0]
    first = MARGIN_ROWS + 256
    assert changed.min() >= first
    assert changed.max() < first + FOOT_ROWS
    height = FOOT_ROWS // FOOT_LINES
    for line in range(FOOT_LINES):
        assert ((changed - first) // height == line).any()


@pytest.mark.parametrize("notes", [["a", "b", "c", "d", "e"], [" "], ["é"], ["far too long " * 9]])
def test_foot_notes_that_do_not_fit(notes: list[str]) -> None:
    with pytest.raises(ValueError):
        mark(stack(), SeriesKind.T2, (), notes)


@pytest.mark.parametrize("name", ["C2/3", "C6/7", "C7/T1", "T1/2", "T12/L1"])
def test_every_level_has_room_for_its_name(name: str) -> None:
    plain, noted = mark(stack(), SeriesKind.T2), mark(stack(), SeriesKind.T2, [(100, name)])
    assert (plain != noted).any()


@pytest.mark.parametrize(
    "note", [(256, "C2/3"), (-1, "C2/3"), (5, "頸椎"), (5, ""), (5, "C2/3 disc")]
)
def test_notes_that_do_not_fit(note: tuple[int, str]) -> None:
    with pytest.raises(ValueError, match="note"):
        mark(stack(), SeriesKind.T2, [note])


def test_a_slice_too_narrow_for_the_banner() -> None:
    with pytest.raises(ValueError, match="readable"):
        mark(stack(shape=(1, 64, 64)), SeriesKind.T2)


def test_the_same_bytes_every_time() -> None:
    first = mark(stack(), SeriesKind.T2).copy()
    labeling._template.cache_clear()
    np.testing.assert_array_equal(first, mark(stack(), SeriesKind.T2))
