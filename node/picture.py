"""One picture of a result: the CT beside what was made from it, and the truth where there is one.

Every panel is the same plane of the same patient: that of the middle slice of the result. Lines lie
over the pseudo-MRI where the support map that arrived with it says that the CT does not support
what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset

from pipeline.contrast import SeriesKind
from pipeline.geometry import Float32, Float64, Grid, Volume
from pipeline.labeling import unmarked
from pipeline.sampling import sample
from pipeline.support import Mask, hatch_lines
from pipeline.volume import read_series

Gray = NDArray[np.uint8]

# From fat to spongy bone: soft tissue and fractures in one window.
_CT_WINDOW_HU = (180.0, 900.0)
_DIMMED, _LINE = 0.7, 150
_GAP = 12
_HEAD = 58
_FOOT = 34
_INK = (235, 235, 235)
_DIM = (150, 150, 150)
_PAPER = (16, 16, 18)


@dataclass(frozen=True)
class Panel:
    """A picture with its title; all panels of one picture have the same size."""

    title: str
    note: str
    pixels: Gray


def draw(
    ct_files: Sequence[Path],
    result_files: Sequence[Path],
    truth: Sequence[tuple[str, Sequence[Path]]],
    caption: str,
    path: Path,
) -> None:
    """Write the picture.

    Args:
        ct_files: Of the CT series.
        result_files: What the destination has, all contrasts.
        truth: Name and files of each true MRI series; may be empty.
        caption: One line below.
        path: Of the PNG.
    """
    results = _middle_slices(result_files)
    plane = _plane_of(results[0])
    ct = read_series([dcmread(file) for file in ct_files]).volume
    panels = [Panel("CT", "what came in", _windowed(sample(ct, plane), *_CT_WINDOW_HU))]
    unsupported = _unsupported(results)
    for ds in results:
        kind = SeriesKind(ds.ImageType[-1])
        pixels = _shown(ds, ds.pixel_array)
        if kind is SeriesKind.SUPPORT:
            panels.append(Panel("support map", "hatched: not supported by the CT", pixels))
        elif unsupported is None:
            panels.append(Panel(f"pseudo-{kind}", "synthetic, as it arrived", pixels))
        else:
            note = "synthetic; hatched: not supported"
            panels.append(Panel(f"pseudo-{kind}", note, _lined(pixels, unsupported)))
    for name, files in truth:
        panels.append(Panel(f"true {name}", "of the same patient", _truth(files, plane)))
    _compose(panels, caption).save(path)


def _unsupported(results: Sequence[Dataset]) -> Mask | None:
    """Where the support map covers the picture below it; None when none arrived.

    The map is T2 under a hatch, so the two differ where there is a hatch.
    """
    by_kind = {SeriesKind(ds.ImageType[-1]): ds.pixel_array for ds in results}
    support, below = by_kind.get(SeriesKind.SUPPORT), by_kind.get(SeriesKind.T2)
    if support is None or below is None:
        return None
    covered = np.zeros(support.shape, dtype=np.bool_)
    inner = unmarked(covered)
    inner[...] = unmarked(support) != unmarked(below)
    return covered


def _lined(pixels: Gray, unsupported: Mask) -> Gray:
    """The picture under gray lines, a little dimmed between them."""
    dimmed = np.where(unsupported, pixels * _DIMMED, pixels)
    lines = unsupported & hatch_lines(*pixels.shape)
    return np.where(lines, _LINE, dimmed).astype(np.uint8)


def _truth(files: Sequence[Path], plane: Float64) -> Gray:
    datasets = [dcmread(file) for file in files]
    stack = _stack(datasets)
    # Outside the stack `sample` gives the CT's air; here that is simply dark.
    return _shown(datasets[0], np.maximum(sample(stack, plane), 0))


def _middle_slices(files: Sequence[Path]) -> list[Dataset]:
    """The middle slice of each series: T2, STIR, support map."""
    series: dict[str, list[Dataset]] = {}
    for file in files:
        ds = dcmread(file)
        series.setdefault(str(ds.SeriesInstanceUID), []).append(ds)
    middles = [
        sorted(slices, key=lambda ds: int(ds.InstanceNumber))[len(slices) // 2]
        for slices in series.values()
    ]
    return sorted(middles, key=lambda ds: int(ds.SeriesNumber))


def _plane_of(ds: Dataset) -> Float64:
    """LPS position of every pixel of a slice, ``(row, column, 3)``."""
    along_row = np.array(ds.ImageOrientationPatient[:3], dtype=np.float64)
    along_column = np.array(ds.ImageOrientationPatient[3:], dtype=np.float64)
    between_rows, between_columns = (float(x) for x in ds.PixelSpacing)
    rows, columns = np.indices((ds.Rows, ds.Columns), dtype=np.float64)
    origin = np.array(ds.ImagePositionPatient, dtype=np.float64)
    plane: Float64 = (
        origin
        + rows[..., None] * between_rows * along_column
        + columns[..., None] * between_columns * along_row
    )
    return plane


def _stack(datasets: Sequence[Dataset]) -> Volume:
    """The slices of an MRI series as a volume of stored values."""
    first = datasets[0]
    along_row = np.array(first.ImageOrientationPatient[:3], dtype=np.float64)
    along_column = np.array(first.ImageOrientationPatient[3:], dtype=np.float64)
    normal = np.cross(along_row, along_column)

    def height(ds: Dataset) -> float:
        return float(np.array(ds.ImagePositionPatient, dtype=np.float64) @ normal)

    ordered = sorted(datasets, key=height)
    step = (height(ordered[-1]) - height(ordered[0])) / (len(ordered) - 1)
    between_rows, between_columns = (float(x) for x in first.PixelSpacing)
    steps = np.array([normal * step, along_column * between_rows, along_row * between_columns])
    values = np.stack([ds.pixel_array for ds in ordered]).astype(np.float32)
    origin = np.array(ordered[0].ImagePositionPatient, dtype=np.float64)
    grid = Grid.from_steps(values.shape, origin, steps)
    return Volume(values, grid, str(first.FrameOfReferenceUID))


def _shown(ds: Dataset, values: Float32) -> Gray:
    return _windowed(values, float(ds.WindowCenter), float(ds.WindowWidth))


def _windowed(values: Float32, center: float, width: float) -> Gray:
    """Gray values of a window, linear (PS3.3 C.11.2.1.2, without its half steps)."""
    share = (np.asarray(values, dtype=np.float32) - (center - width / 2)) / width
    return np.asarray(np.clip(share, 0, 1) * 255, dtype=np.uint8)


def _compose(panels: Sequence[Panel], caption: str) -> Image.Image:
    rows, columns = panels[0].pixels.shape
    width = len(panels) * (columns + _GAP) + _GAP
    picture = Image.new("RGB", (width, _HEAD + rows + _FOOT), _PAPER)
    pen = ImageDraw.Draw(picture)
    title, small = ImageFont.load_default(22), ImageFont.load_default(14)
    for number, panel in enumerate(panels):
        left = _GAP + number * (columns + _GAP)
        pen.text((left, 8), panel.title, _INK, font=title)
        pen.text((left, 36), panel.note, _DIM, font=small)
        picture.paste(Image.fromarray(panel.pixels), (left, _HEAD))
    pen.text((_GAP, _HEAD + rows + 9), caption, _DIM, font=small)
    return picture
