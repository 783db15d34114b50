"""A few robust numbers about a CT stack: is it like what the model was taught on?

HU of soft tissue, fat and bone, noise, sharpness, and how much of each there is, in the three
slices through the canal. Metal shows in them too: it is bone beyond all bone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.geometry import Float32

BODY_HU = -300.0
SOFT_HU = (-20.0, 120.0)
FAT_HU = (-200.0, -20.0)
BONE_HU = 180.0
METAL_HU = 2900.0
"""No bone is so dense; teeth reach 2500 HU."""

BLUR_PX = 1.0
"""Tissues are told apart in a blurred copy, so that noise does not move pixels between them."""

SMALLEST_SHARE = 1e-4
"""A dozen pixels of the slices; shares enter as logarithms, which need a floor."""

FEWEST_PIXELS = 50

SMALLEST_HU, SMALLEST_LOG = 3.0, 0.05
"""Differences that mean nothing: no feature counts as more exact than that."""

Mask = NDArray[np.bool_]


def ct_features(slices_hu: Float32) -> dict[str, float]:
    """Features of a few neighboring slices.

    Args:
        slices_hu: ``(slice, row, column)`` in HU, through the canal.
    """
    smooth = np.asarray(ndimage.gaussian_filter(slices_hu, (0, BLUR_PX, BLUR_PX)))
    body = smooth > BODY_HU
    soft = (smooth > SOFT_HU[0]) & (smooth < SOFT_HU[1])
    fat = (smooth > FAT_HU[0]) & (smooth < FAT_HU[1])
    bone = smooth > BONE_HU
    low, middle, high = _percentiles(smooth[soft], (10, 50, 90))
    bone_middle, bone_high = _percentiles(smooth[bone], (50, 95))
    return {
        "soft_hu": middle,
        "soft_range_hu": high - low,
        "fat_hu": _percentiles(smooth[fat], (50,))[0],
        "bone_hu": bone_middle,
        "bone_p95_hu": bone_high,
        "log_noise_hu": float(np.log10(_noise_hu(slices_hu, soft))),
        "log_edge_hu": float(np.log10(_edge_hu(slices_hu, bone))),
        "log_bone_share": _log_share(bone, body),
        "log_fat_share": _log_share(fat, body),
        "log_metal_share": _log_share(slices_hu > METAL_HU, body),
    }


def smallest_difference(name: str) -> float:
    """What the scatter of a feature is never believed to be below."""
    return SMALLEST_LOG if name.startswith("log_") else SMALLEST_HU


def _percentiles(values: Float32, wanted: tuple[int, ...]) -> list[float]:
    """Percentiles; 0 where there is too little to tell, which is far from anything usual."""
    if values.size < FEWEST_PIXELS:
        return [0.0] * len(wanted)
    return [float(value) for value in np.percentile(values, wanted)]


def _noise_hu(slices_hu: Float32, soft: Mask) -> float:
    """Standard deviation of neighbors' differences in soft tissue, from their median."""
    both = soft[:, :, 1:] & soft[:, :, :-1]
    steps = np.abs(np.diff(slices_hu, axis=2))[both]
    # 0.6745 of a standard deviation lies half of a normal distribution; two pixels differ.
    return max(float(np.median(steps)) / 0.6745 / 2**0.5, 0.1) if steps.size else 0.1


def _edge_hu(slices_hu: Float32, bone: Mask) -> float:
    """How steep the surface of the bones is, HU a pixel: the kernel and the slab show in it."""
    cross = ndimage.generate_binary_structure(2, 1)[np.newaxis]
    surface = bone & ~ndimage.binary_erosion(bone, cross)
    steepness = np.hypot(*np.gradient(slices_hu, axis=(1, 2)))[surface]
    return max(float(np.percentile(steepness, 75)), 1.0) if steepness.size else 1.0


def _log_share(part: Mask, whole: Mask) -> float:
    share = float(part.sum()) / max(float(whole.sum()), 1.0)
    return float(np.log10(share + SMALLEST_SHARE))
