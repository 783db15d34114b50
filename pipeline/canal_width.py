"""How wide the canal is from front to back at each vertebra, and where that cannot be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from pipeline.canal import BONE_HU, METAL_HU
from pipeline.curve import SpinalCurve
from pipeline.geometry import Float32, Float64, Volume
from pipeline.levels import DISC_NAMES, Level
from pipeline.sampling import sample

# Three rays to the front and three to the back, 7.5 degrees apart: their median skips one vein.
FAN_DEG = np.array([-7.5, 0.0, 7.5])
RAY_MM = 16.0
RAY_STEP_MM = 0.25
# The wall's peak lies within the cortex, 1 to 3 mm behind its inner face.
CORTEX_MM = 3.0
# Around mid-body; the basivertebral vein opens the front wall there, so the narrow end counts.
HALF_HEIGHT_MM = 4.0
NARROW_PERCENTILE = 10.0
# The middle of C2 above the C2/3 disc.
C2_ABOVE_DISC_MM = 8.0
# Streaks: metal anywhere near, or a canal that is not one tissue.
METAL_REACH_MM = 30.0
CANAL_SPREAD_HU = 100.0
CANAL_CORE_MM = 4.0
# C2 has a quarter more than the others; a wall missed through porous bone gives a half, or twice.
OUTLIER_SHARES = (0.6, 1.5)
FEWEST_TO_COMPARE = 3


@dataclass(frozen=True)
class CanalWidths:
    """Anteroposterior diameters and the vertebrae without one.

    Args:
        ap_mm: By vertebra, ``"C2"`` to ``"T1"``, bone to bone.
        withheld: By vertebra, why there is no value.
    """

    ap_mm: Mapping[str, float]
    withheld: Mapping[str, str]


def measure_widths(
    ct: Volume, search: Volume, curve: SpinalCurve, levels: Sequence[Level]
) -> CanalWidths:
    """Diameter at the middle of each vertebra between the named discs.

    Args:
        ct: On its own grid: the wall is a fraction of a millimeter.
        search: Smoothed volume, for metal and streaks.
        curve: With frames of the mid-sagittal plane.
        levels: From `pipeline.levels.find_levels`.
    """
    ap_mm: dict[str, float] = {}
    withheld: dict[str, str] = {}
    for vertebra, arc_mm in mid_vertebrae(levels).items():
        near = curve.between(arc_mm - HALF_HEIGHT_MM, arc_mm + HALF_HEIGHT_MM)
        reason = _streaks(search, near)
        width = None if reason else _width(ct, near)
        if width is None:
            withheld[vertebra] = reason or "no continuous wall"
        else:
            ap_mm[vertebra] = width
    _withhold_outliers(ap_mm, withheld)
    return CanalWidths(MappingProxyType(ap_mm), MappingProxyType(withheld))


def _withhold_outliers(ap_mm: dict[str, float], withheld: dict[str, str]) -> None:
    """Behind the middle of a body even a narrow canal is about as wide as behind the next."""
    if len(ap_mm) < FEWEST_TO_COMPARE:
        return
    usual = float(np.median(list(ap_mm.values())))
    for vertebra, width in list(ap_mm.items()):
        if not OUTLIER_SHARES[0] <= width / usual <= OUTLIER_SHARES[1]:
            withheld[vertebra] = f"{width:.1f} mm, the others {usual:.1f} mm: look at the CT"
            del ap_mm[vertebra]


def mid_vertebrae(levels: Sequence[Level]) -> dict[str, float]:
    """Arc length of the middle of each vertebra, ``C2`` to the one above the last disc."""
    arcs = {level.name: level.arc_mm for level in levels}
    middles = {"C2": arcs[DISC_NAMES[0]] - C2_ABOVE_DISC_MM}
    for above, below in pairwise(DISC_NAMES):
        if above in arcs and below in arcs:
            middles[below.split("/")[0]] = (arcs[above] + arcs[below]) / 2
    return middles


def _width(ct: Volume, near: SpinalCurve) -> float | None:
    front, back = (_wall_mm(ct, near, side_deg) for side_deg in (0.0, 180.0))
    across = front + back
    across = across[np.isfinite(across)]
    # Half the heights must show both walls.
    if across.size * 2 < len(near.arc_mm) or across.size == 0:
        return None
    return float(np.percentile(across, NARROW_PERCENTILE))


def _wall_mm(ct: Volume, near: SpinalCurve, side_deg: float) -> Float64:
    """Distance to the wall at half its height, ``(n,)`` mm; NaN without one."""
    angle = np.radians(side_deg + FAN_DEG)
    rays = (
        np.cos(angle)[None, :, None] * near.front[:, None]
        + np.sin(angle)[None, :, None] * near.right[:, None]
    )
    distance = np.arange(0.0, RAY_MM, RAY_STEP_MM)
    points = near.point_mm[:, None, None] + rays[:, :, None] * distance[:, None]
    walls = np.apply_along_axis(_half_maximum_mm, 2, sample(ct, points))
    walls = np.where(np.isfinite(walls).sum(axis=1, keepdims=True) >= 2, walls, np.nan)
    middle = np.full(len(near.arc_mm), np.nan)
    seen = np.isfinite(walls).any(axis=1)
    middle[seen] = np.nanmedian(walls[seen], axis=1)
    return np.asarray(ndimage.median_filter(middle, 3, mode="nearest"))


def _half_maximum_mm(profile: Float32) -> float:
    """Where a ray rises to half between the canal's HU and the wall's peak; NaN without bone."""
    is_bone = profile > BONE_HU
    if not is_bone.any():
        return float("nan")
    first = int(is_bone.argmax())
    if first == 0:
        return float("nan")
    peak = float(profile[first : first + round(CORTEX_MM / RAY_STEP_MM) + 1].max())
    half = (peak + float(np.median(profile[: max(1, first // 2)]))) / 2
    # Half of a thin wall is less than bone, and noise in the canal reaches it: only what rises to
    # the bone without a break is wall. Before it there is a place below half, as the median is.
    inner = int(np.flatnonzero(profile[:first] < half)[-1])
    rising = inner + 1 + int((profile[inner + 1 :] >= half).argmax())
    before, after = float(profile[rising - 1]), float(profile[rising])
    return (rising - 1 + (half - before) / (after - before)) * RAY_STEP_MM


def _streaks(search: Volume, near: SpinalCurve) -> str:
    """Why no diameter can be trusted here; empty when it can."""
    if len(near.arc_mm) == 0:
        return "outside the canal that was found"
    offsets = np.arange(-METAL_REACH_MM, METAL_REACH_MM + 0.1, 2.0)
    plane = (
        offsets[:, None, None] * near.front[:, None, None]
        + offsets[None, :, None] * near.right[:, None, None]
    )
    hu = sample(search, near.point_mm[:, None, None] + plane)
    largest = float(hu.max())
    if largest > METAL_HU:
        return f"metal ({largest:.0f} HU within {METAL_REACH_MM:g} mm)"
    core = np.abs(offsets) <= CANAL_CORE_MM
    spread = float(hu[:, core][:, :, core].std())
    if spread > CANAL_SPREAD_HU:
        return f"streaks (standard deviation {spread:.0f} HU in the canal)"
    return ""
