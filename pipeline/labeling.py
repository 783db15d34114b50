"""The mark in the pixels: whoever sees a slice, or a cut through the stack, sees what it is.

The mark stands in a margin that is added around each slice, so it hides no anatomy and can be
large; `marked_grid` moves the origin with it, so the anatomy stays where it is in the patient.
From the edge inwards, the margin holds

- a hatched frame, shifted from slice to slice, so that any cut across the stack is hatched too;
- a headline (``AI SYNTHETIC`` above, ``NOT AN MRI`` below) that reads in a 128-pixel thumbnail;
- the banner with the kind of series, which reads at full size;
- a strip in which each slice holds one stroke of the letters ``AI``: bars in the slice itself,
  upright letters in every axial cut (at both sides) and coronal cut (above and below);
- below the anatomy, four lines for what the CT does not support, and for a warning.

Arrays are ``(slice, row, column)``, slices as `pipeline.reformat` orders them: column to
posterior, row to the feet, slice to the patient's right.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.contrast import SeriesKind
from pipeline.geometry import Float32, Grid

UInt16 = NDArray[np.uint16]
Scalar = TypeVar("Scalar", bound=np.generic)

# CSF (signal 1) at 2000 leaves room for twice its signal in 12 bits, at half a per mille a step.
SIGNAL_SCALE = 2000
HIGHEST_PIXEL = 4095

# The least that holds the parts of the mark; with 256 x 256 the result is 420 x 320.
MARGIN_ROWS = 56
MARGIN_COLUMNS = 32
# Four lines of text below the anatomy, before the margin proper.
FOOT_ROWS = 52
FOOT_LINES = 4

# White in the window that the series opens with, yet not so high that a viewer which windows
# from lowest to highest pixel would darken the anatomy.
_INK = 2400
# Hatching, and the bars beside the anatomy, which must not dazzle a reader of dark tissue.
_FRAME_INK = 1400
_BAR_INK = 1000
_FRAME = 5
_NOTE_SIZE = 10
_SMALLEST_FONT = 7
# Survives mild lossy transcoding; the banner of another series scores below 0.1.
_SCORE_THRESHOLD = 0.9

_HEADLINES = ("AI SYNTHETIC", "NOT AN MRI")
# The letters A and I, one character per slice, one line per step along the strip.
_GLYPH = (
    "..#...###",
    ".#.#...#.",
    "#...#..#.",
    "#...#..#.",
    "#####..#.",
    "#...#..#.",
    "#...#.###",
)


class _Box(NamedTuple):
    """Rows and columns of a part of the mark, in the marked slice."""

    rows: slice
    columns: slice


class _Layout(NamedTuple):
    """Where the parts of the mark are, for one size of the marked slice."""

    headlines: tuple[_Box, _Box]
    banners: tuple[_Box, _Box]
    strips_coronal: tuple[_Box, _Box]
    strips_axial: tuple[_Box, _Box]


def banner(kind: SeriesKind) -> str:
    """The sentence in every slice."""
    return f"AI SYNTHETIC - NOT AN MRI - from CT - {kind} - research"


def to_pixels(signal: Float32) -> UInt16:
    """Signal relative to CSF as 12-bit pixels, one scale for all series: 2000 is CSF.

    Args:
        signal: ``(slice, row, column)``, finite.

    Returns:
        ``round(signal * SIGNAL_SCALE)`` clipped to 0..4095, same shape.

    Raises:
        ValueError: When a value is not finite: it has no pixel.
    """
    if not np.isfinite(signal).all():
        raise ValueError("the signal has values that are not finite")
    scaled = np.rint(np.asarray(signal, dtype=np.float64) * SIGNAL_SCALE)
    return np.clip(scaled, 0, HIGHEST_PIXEL).astype(np.uint16)


def marked_grid(grid: Grid) -> Grid:
    """The grid of the marked slices: the same lattice, begun a margin earlier."""
    slices, rows, columns = grid.shape
    shape = (slices, rows + 2 * MARGIN_ROWS + FOOT_ROWS, columns + 2 * MARGIN_COLUMNS)
    origin_mm = grid.to_mm(np.array([0, -MARGIN_ROWS, -MARGIN_COLUMNS], dtype=np.float64))
    return Grid.from_steps(shape, origin_mm, grid.steps_mm)


def mark(
    pixels: UInt16,
    kind: SeriesKind,
    side_notes: Sequence[tuple[int, str]] = (),
    foot_notes: Sequence[str] = (),
) -> UInt16:
    """The slices with the margin and its mark around them.

    Args:
        pixels: ``(slice, row, column)``, 12 bits.
        kind: Of the series; named in the banner.
        side_notes: ``(row, text)`` of short ASCII notes, such as level names, for the anterior
            margin; the row is that of `pixels`.
        foot_notes: At most `FOOT_LINES` lines of ASCII text below the anatomy.

    Returns:
        ``(slice, row + 2 * MARGIN_ROWS + FOOT_ROWS, column + 2 * MARGIN_COLUMNS)``; `unmarked`
        gives `pixels` back.

    Raises:
        ValueError: When a note does not fit or a slice is too narrow for a readable banner.
    """
    slices, rows, columns = pixels.shape
    marked = _template(kind, slices, rows, columns).copy()
    for row, text in side_notes:
        if not 0 <= row < rows:
            raise ValueError(f"a side note lies on row {row} of {rows}")
        _draw_note(marked, row + MARGIN_ROWS, text)
    if len(foot_notes) > FOOT_LINES:
        raise ValueError(f"expected at most {FOOT_LINES} foot notes, found {len(foot_notes)}")
    for line, text in enumerate(foot_notes):
        _draw_foot(marked, line, text)
    unmarked(marked)[...] = pixels
    return marked


def unmarked(pixels: NDArray[Scalar]) -> NDArray[Scalar]:
    """The middle of marked slices ``(..., row, column)``, without the margin; a view."""
    bottom = MARGIN_ROWS + FOOT_ROWS
    return pixels[..., MARGIN_ROWS:-bottom, MARGIN_COLUMNS:-MARGIN_COLUMNS]


def mark_score(pixels: UInt16, kind: SeriesKind) -> float:
    """How well the mark is preserved in slices that came back: 1 exact, 0 or less absent.

    The lowest correlation of any part of the mark with what `mark` draws, over all slices; side
    and foot notes are left out.

    Args:
        pixels: ``(slice, row, column)``, all slices of a series, in order.
        kind: Which the series claims to be.
    """
    slices, rows, columns = pixels.shape
    inner = (rows - 2 * MARGIN_ROWS - FOOT_ROWS, columns - 2 * MARGIN_COLUMNS)
    if min(inner) < 1:
        return 0.0
    expected = _template(kind, slices, *inner)
    layout = _layout(rows, columns)
    scores = [
        _correlation(pixels[index, box.rows, box.columns], expected[index, box.rows, box.columns])
        for box in (*layout.headlines, *layout.banners)
        for index in range(slices)
    ]
    frame = _frame_mask(rows, columns)
    scores += [_correlation(pixels[i][frame], expected[i][frame]) for i in range(slices)]
    # The anterior strip may hold notes; the letters are only there over all slices.
    scores += [
        _correlation(pixels[:, box.rows, box.columns], expected[:, box.rows, box.columns])
        for box in (*layout.strips_coronal, layout.strips_axial[1])
    ]
    return min(scores)


def has_mark(pixels: UInt16, kind: SeriesKind) -> bool:
    """Whether all slices of a series ``(slice, row, column)`` carry the mark of its kind."""
    return mark_score(pixels, kind) >= _SCORE_THRESHOLD


def _correlation(one: UInt16, other: UInt16) -> float:
    a = one.astype(np.float64).ravel()
    b = other.astype(np.float64).ravel()
    a -= a.mean()
    b -= b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0


def _layout(rows: int, columns: int) -> _Layout:
    """The parts from the edge inwards, with a dark gap between them; mirrored below."""

    def band(start: int, stop: int, sides: slice) -> tuple[_Box, _Box]:
        return _Box(slice(start, stop), sides), _Box(slice(rows - stop, rows - start), sides)

    inside = slice(_FRAME + 3, columns - _FRAME - 3)
    inner_rows = slice(MARGIN_ROWS, rows - MARGIN_ROWS - FOOT_ROWS)
    inner_columns = slice(MARGIN_COLUMNS, columns - MARGIN_COLUMNS)
    axial = slice(_FRAME + 3, _FRAME + 3 + 3 * len(_GLYPH))
    mirrored = slice(columns - axial.stop, columns - axial.start)
    return _Layout(
        headlines=band(_FRAME + 2, _FRAME + 24, inside),
        banners=band(_FRAME + 25, _FRAME + 35, inside),
        strips_coronal=band(_FRAME + 36, _FRAME + 36 + 2 * len(_GLYPH), inner_columns),
        strips_axial=(_Box(inner_rows, axial), _Box(inner_rows, mirrored)),
    )


@lru_cache(maxsize=4)
def _template(kind: SeriesKind, slices: int, rows: int, columns: int) -> UInt16:
    """The marked slices with nothing in the middle; read-only, one for many calls."""
    rows, columns = rows + 2 * MARGIN_ROWS + FOOT_ROWS, columns + 2 * MARGIN_COLUMNS
    template = np.zeros((slices, rows, columns), dtype=np.uint16)
    layout = _layout(rows, columns)
    for box, text in zip(layout.headlines, _HEADLINES, strict=True):
        template[:, box.rows, box.columns] = _text_in(box, text)
    for box in layout.banners:
        template[:, box.rows, box.columns] = _text_in(box, banner(kind))
    strokes = _strokes(slices)
    for box in layout.strips_coronal:
        template[:, box.rows, box.columns] = np.repeat(strokes, 2, axis=1)[:, :, np.newaxis]
    for box in layout.strips_axial:
        template[:, box.rows, box.columns] = np.repeat(strokes, 3, axis=1)[:, np.newaxis, :]
    s, r, c = np.indices(template.shape, sparse=True)
    hatch = np.where((r + c + 2 * s) // 4 % 2 == 0, _FRAME_INK, 0).astype(np.uint16)
    frame = _frame_mask(rows, columns)
    template[:, frame] = hatch[:, frame]
    template.setflags(write=False)
    return template


def _frame_mask(rows: int, columns: int) -> NDArray[np.bool_]:
    mask = np.ones((rows, columns), dtype=np.bool_)
    mask[_FRAME:-_FRAME, _FRAME:-_FRAME] = False
    return mask


def _strokes(slices: int) -> UInt16:
    """Which steps of a strip are bright in which slice, ``(slice, step)``.

    Read with the patient's right (the last slice) on the left, as radiologists look at axial and
    coronal planes. A stack too thin for letters gets dashes.
    """
    letters = np.array([[char == "#" for char in line] for line in _GLYPH])
    steps, width = letters.shape
    lit = np.zeros((slices, steps), dtype=np.bool_)
    if slices < width:
        lit[:, ::2] = True
    else:
        last = slices - 1 - (slices - width) // 2
        lit[last - width + 1 : last + 1] = letters.T[::-1]
    return np.where(lit, _BAR_INK, 0).astype(np.uint16)


def _text_in(box: _Box, text: str) -> UInt16:
    """The text as large as the box allows, centered, ``(row, column)`` of the box."""
    height, width = box.rows.stop - box.rows.start, box.columns.stop - box.columns.start
    for size in range(2 * height, _SMALLEST_FONT - 1, -1):
        ink = _rendered(text, size)
        if ink.shape[0] <= height and ink.shape[1] <= width:
            break
    else:
        raise ValueError(f"a slice {width} pixels wide has no room for a readable line: {text!r}")
    drawn = np.zeros((height, width), dtype=np.uint16)
    top, left = (height - ink.shape[0]) // 2, (width - ink.shape[1]) // 2
    drawn[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return drawn


def _rendered(text: str, size: int) -> UInt16:
    """The text in ink on black, cut to its edges, in the font that Pillow brings along.

    A font of the system would give other bytes on other hosts.
    """
    font = ImageFont.load_default(size=size)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    picture = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(picture).text((-left, -top), text, fill=255, font=font)
    gray = np.asarray(picture, dtype=np.uint32)
    return (gray * _INK // 255).astype(np.uint16)


def _draw_note(marked: UInt16, row: int, text: str) -> None:
    """Write a note into the anterior margin of all slices, on black, inside the frame."""
    if not text.isascii() or not text.strip():
        raise ValueError("a side note is short ASCII text")
    room = MARGIN_COLUMNS - _FRAME - 1
    sizes = range(_NOTE_SIZE, _SMALLEST_FONT - 1, -1)
    # C7/T1 is wider than C2/3: it is set a size smaller rather than refused.
    inks = (_rendered(text, size) for size in sizes)
    ink = next((ink for ink in inks if ink.shape[1] <= room), None)
    if ink is None:
        raise ValueError(f"side note {text!r} is wider than the {room} pixels of the margin")
    height, width = ink.shape
    left, top = _FRAME + 1, row - height // 2
    marked[:, top - 1 : top + height + 1, _FRAME:MARGIN_COLUMNS] = 0
    marked[:, top : top + height, left : left + width] = ink


def _draw_foot(marked: UInt16, line: int, text: str) -> None:
    """Write a line below the anatomy of all slices."""
    if not text.isascii() or not text.strip():
        raise ValueError("a foot note is ASCII text")
    rows, columns = marked.shape[1:]
    height = FOOT_ROWS // FOOT_LINES
    top = rows - MARGIN_ROWS - FOOT_ROWS + line * height
    inside = slice(_FRAME + 3, columns - _FRAME - 3)
    box = _Box(slice(top + 2, top + height - 1), inside)
    marked[:, box.rows, box.columns] = _text_in(box, text)
