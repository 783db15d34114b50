"""Bright areas that read as an injury, where the CT does not support them.

A vertebral body, disc, ligament or prevertebral space that is bright on STIR is the finding a
trauma reader looks for, and the one that a generative model must not invent unseen. The support map
marks pixels, and is a series of its own that not everybody opens; an area is seen as a whole. So
each such area of which the CT does not support a fair share is outlined in every series
(docs/adr/0020-unsupported-bright-areas-are-outlined.md).

All arrays are ``(slice, row, column)``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.geometry import Float32
from pipeline.places import Places, Region

Mask = NDArray[np.bool_]
Areas = NDArray[np.int32]
"""Numbered from 1; 0 is elsewhere."""

BRIGHT: Final = 0.4
"""STIR signal, CSF = 1: above muscle (0.24), below haematoma (0.66) and oedema (0.5 to 0.6)."""

READ_AS_INJURY: Final = (
    Region.BODIES,
    Region.DISCS,
    Region.PREVERTEBRAL,
    Region.INTERSPINOUS,
)
"""Where brightness is a finding. In the canal it is CSF."""

REACH_MM, REACH_BEHIND_MM = 3.0, 15.0
"""How far an area goes on beyond the regions, which are boxes; a thyroid beside them is not taken
up whole. Behind the spine nothing else is bright, and spinous processes end beyond their box."""

LEAST_MM3: Final = 18.0
"""Of an area in those regions, 11 pixels of a stack. Smaller ones are noise, or a vein."""

LEAST_UNSUPPORTED: Final = 0.2
LEAST_CORE_MM3: Final = 60.0
"""Share of an area that the CT does not support, or size of that part, from which it is outlined.
The map's pixels lie in the core of an invented area, its rim is as narrow as the interval there;
and an invented area may have grown together with one that is supported."""

GAP_PX, LINE_PX = 1, 1
DASH_PX: Final = 3
LIGHT, DARK = 1.2, 0.0
"""Signal of the dashes by turns, so that the line is seen on fat and on bone."""

_CROSS: Final = ndimage.generate_binary_structure(2, 1)[np.newaxis]
_SQUARE: Final = np.ones((1, 3, 3), dtype=np.bool_)
# Slices are 3 mm apart: an area goes on in the next one where it lies on top of itself.
_NEIGHBORS: Final = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))]).astype(np.bool_)
_NEIGHBORS[:, 1, 1] = True


def bright_areas(stir: Float32, places: Places, spacing_mm: tuple[float, ...]) -> Areas:
    """Areas of the spine that are bright on STIR, numbered.

    Args:
        stir: Signal relative to CSF = 1.
        places: Of the stack.
        spacing_mm: Between slices, rows and columns.
    """
    regions = np.any([places.region(region) for region in READ_AS_INJURY], axis=0)
    reach = max(1, round(REACH_MM / spacing_mm[1]))
    near = ndimage.binary_dilation(regions, _CROSS, iterations=reach)
    behind = places.region(Region.INTERSPINOUS)
    near |= ndimage.binary_dilation(
        behind, _CROSS, iterations=round(REACH_BEHIND_MM / spacing_mm[1])
    )
    canal = ndimage.binary_dilation(places.region(Region.CANAL), _CROSS, iterations=reach)
    bright = np.asarray(ndimage.binary_opening((stir > BRIGHT) & near & ~canal, _CROSS))
    numbered, count = ndimage.label(bright, _NEIGHBORS)
    least = LEAST_MM3 / np.prod(spacing_mm)
    inside = ndimage.sum_labels(regions, numbered, np.arange(count + 1))
    inside[0] = 0
    kept = np.cumsum(inside >= least) * (inside >= least)
    return np.asarray(kept[numbered], dtype=np.int32)


def unsupported_areas(
    stir: Float32, unsupported: Mask, places: Places, spacing_mm: tuple[float, ...]
) -> Areas:
    """Those of `bright_areas` that the CT does not support.

    Args:
        stir: Signal relative to CSF = 1.
        unsupported: As `pipeline.support.SupportMap` has it.
        places: Of the stack.
        spacing_mm: Between slices, rows and columns.
    """
    areas = bright_areas(stir, places, spacing_mm)
    every = np.arange(int(areas.max()) + 1)
    core = ndimage.sum_labels(unsupported, areas, every)
    share = core / np.maximum(ndimage.sum_labels(areas >= 0, areas, every), 1)
    doubtful = (share >= LEAST_UNSUPPORTED) | (core >= LEAST_CORE_MM3 / np.prod(spacing_mm))
    doubtful[0] = False
    return np.asarray((np.cumsum(doubtful) * doubtful)[areas], dtype=np.int32)


def outlined(signal: Float32, areas: Areas) -> Float32:
    """The picture with a dashed line around each area, a pixel away from it.

    Args:
        signal: Relative to CSF = 1.
        areas: As `unsupported_areas` numbers them, same shape.
    """
    line = outline(areas)
    r, c = np.indices(signal.shape[1:])
    # Counted along the line: by columns where it goes on sidewards, else by rows.
    sidewards = ndimage.binary_dilation(line, [[[1, 0, 1]]])
    dashes = np.where(np.where(sidewards, c, r) // DASH_PX % 2 == 0, LIGHT, DARK)
    out: Float32 = np.where(line, dashes, signal).astype(np.float32)
    return out


def outline(areas: Areas) -> Mask:
    """Pixels of the line around the areas; none of theirs."""
    whole = ndimage.binary_closing(areas > 0, _SQUARE) | (areas > 0)
    inner = ndimage.binary_dilation(whole, _SQUARE, iterations=GAP_PX)
    outer = ndimage.binary_dilation(inner, _CROSS, iterations=LINE_PX)
    return np.asarray(outer & ~inner)


def facts_of(areas: Areas, spacing_mm: tuple[float, ...]) -> list[dict[str, float]]:
    """Each area for the record: its first and last slice, from 1 as Instance Number counts, and
    its volume."""
    voxel_mm3 = float(np.prod(spacing_mm))
    facts = []
    for number, place in enumerate(ndimage.find_objects(areas), start=1):
        slices = place[0]
        volume_mm3 = round(float((areas[place] == number).sum()) * voxel_mm3, 1)
        facts.append({"first": slices.start + 1, "last": slices.stop, "volume_mm3": volume_mm3})
    return facts
