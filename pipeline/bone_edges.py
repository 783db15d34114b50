"""Is the bone where the CT has it? The dark rim of the pseudo-T2 against the cortex of the CT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.geometry import Float32
from pipeline.places import Places

Mask = NDArray[np.bool_]
Pixels = TypeVar("Pixels", Float32, NDArray[np.bool_])

SMOOTH_PX = 0.6
BONE_HU = 250.0
RIDGE_HU = 100.0
"""Cortex stands out from what lies 3 pixels to both sides of it; uneven marrow does not so much."""

DARK_SIGNAL, RIDGE_SIGNAL = 0.28, 0.06
"""Cortex is below 0.1 of CSF, mixed with marrow and muscle in a thick slice below 0.28."""

ACROSS_PX = 3
NEAR_PX = 2
"""A dark line so close to bone is taken for cortex; fasciae lie farther away."""

TOLERANCE_PX = 1.01
LARGEST_PX = 8.0
"""A rim that is absent counts as this far away, so that the mean stays a number."""

FEWEST_PIXELS = 60

CHANCE_MM = 4.0
"""So far up, down, to the front and back the dark lines are moved to see how well edges agree by
chance: farther than a model's error, less far than the next end-plate."""

LEAST_CHANCE = 0.05
"""A share below which chance does not go, so that a ratio to it stays a number."""


@dataclass(frozen=True)
class EdgeAgreement:
    """How well both edges agree around one vertebra.

    Args:
        dice: Surface Dice: share of both edges that has the other within a pixel (Nikolov et al.
            2021, arXiv 1809.04430).
        assd_mm: Average symmetric distance of the edges.
        chance: Mean of the surface Dice with the dark lines moved by `CHANCE_MM`.
    """

    dice: float
    assd_mm: float
    chance: float

    @property
    def gain(self) -> float:
        """How many times better the edges agree than by chance; about 1 for a picture of another
        neck, whatever its bone looks like."""
        return self.dice / max(self.chance, LEAST_CHANCE)


def edge_agreement(
    ct: Float32, t2: Float32, places: Places, pixel_mm: float
) -> dict[str, EdgeAgreement]:
    """Compare the edges vertebra by vertebra; one with hardly any bone is left out.

    Args:
        ct: HU, ``(slice, row, column)``.
        t2: Signal relative to CSF, same shape.
        places: Of the same stack.
        pixel_mm: Size of a pixel in the plane.
    """
    box = _box(places)
    smooth_ct, smooth_t2 = (
        ndimage.gaussian_filter(v[box], (0, SMOOTH_PX, SMOOTH_PX)) for v in (ct, t2)
    )
    bone = smooth_ct > BONE_HU
    cortex = bone & _ridges(smooth_ct, RIDGE_HU)
    dark, near_bone = (smooth_t2 < DARK_SIGNAL) & _ridges(-smooth_t2, RIDGE_SIGNAL), _grown(bone)
    rim, to_cortex = dark & near_bone, _distance_px(cortex)
    to_rim = _distance_px(rim)
    step = max(1, round(CHANCE_MM / pixel_mm))
    moved = [
        _moved(dark, way, count) & near_bone for way in ((1, 0), (0, 1)) for count in (step, -step)
    ]
    to_moved = [_distance_px(one) for one in moved]
    found = {}
    for name in places.names:
        near = places.vertebra(name)[box]
        ours, theirs = near & cortex, near & rim
        if ours.sum() < FEWEST_PIXELS:
            continue
        away = np.concatenate((to_rim[ours], to_cortex[theirs]))
        by_chance = [
            _dice(np.concatenate((to_one[ours], to_cortex[near & one])))
            for one, to_one in zip(moved, to_moved, strict=True)
        ]
        found[name] = EdgeAgreement(
            dice=_dice(away),
            assd_mm=float(away.mean()) * pixel_mm,
            chance=float(np.mean(by_chance)),
        )
    return found


def _dice(away_px: Float32) -> float:
    return float((away_px <= TOLERANCE_PX).mean())


def _box(places: Places) -> tuple[slice, ...]:
    """The part of the stack around the vertebrae; all of it when there are none."""
    found = ndimage.find_objects((places.vertebrae > 0).astype(np.uint8))
    return found[0] if found else (slice(None),) * 3


def _ridges(values: Float32, height: float) -> Mask:
    """Pixels that are highest across a line in the plane, by so much over both its sides."""
    found = np.zeros(values.shape, dtype=np.bool_)
    for step in ((1, 0), (0, 1), (1, 1), (1, -1)):
        # A diagonal step is 1.4 pixels long.
        far = ACROSS_PX if 0 in step else ACROSS_PX - 1
        beside = [_moved(values, step, way) for way in (1, -1)]
        flanks = [_moved(values, step, way * far) for way in (1, -1)]
        found |= (values >= np.maximum(*beside)) & (values > np.maximum(*flanks) + height)
    return found


def _moved(values: Pixels, step: tuple[int, int], count: int) -> Pixels:
    return np.roll(values, (step[0] * count, step[1] * count), axis=(1, 2))


def _grown(mask: Mask) -> Mask:
    cross = ndimage.generate_binary_structure(2, 1)[np.newaxis]
    return np.asarray(ndimage.binary_dilation(mask, cross, iterations=NEAR_PX))


def _distance_px(mask: Mask) -> Float32:
    """Distance of every pixel to the mask in its own slice, at most `LARGEST_PX`."""
    out = np.full(mask.shape, LARGEST_PX, dtype=np.float32)
    for number, one in enumerate(mask):
        if one.any():
            out[number] = ndimage.distance_transform_edt(~one)
    return np.minimum(out, np.float32(LARGEST_PX))
