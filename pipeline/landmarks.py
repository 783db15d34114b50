"""What tells one neck vertebra from another: the foramen magnum, the dens and the first ribs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, signal

from pipeline.canal import AIR_HU, BONE_HU, RING_STEP_MM, ring_profiles
from pipeline.curve import SpinalCurve
from pipeline.geometry import Float64, Volume
from pipeline.straighten import StraightSpine

# The skull opens above the canal: cervical rings have a median radius of 6 to 14 mm.
CRANIAL_RADIUS_MM = 18.0
CRANIAL_HEIGHT_MM = 8.0
# Half the skull's width; longer rays would leave it through the face.
CRANIAL_RAY_MM = 80.0
# Share of rays that end in bone before air, inside a skull whose top and sides may be cut off; in
# the soft tissue of a neck none do.
CRANIAL_ENCLOSED = 0.6
# The foramen magnum is looked for from above the curve's beginning to below the path's.
LOOK_UP_MM = 50.0
LOOK_DOWN_MM = 60.0
# The dens begins within this of the canal's cranial end.
DENS_BELOW_MM = 45.0
DENS_FREE_MM = 2.5
# ... and may reach this far into the foramen magnum before it is a basilar invagination.
DENS_ABOVE_SKULL_MM = 3.0
# The first rib passes here: lateral to every cervical transverse process (half-width 28 to 35 mm).
RIB_LATERAL_MM = (33.0, 45.0)
RIB_FRONT_MM = (-14.0, 20.0)
# Share of the window filled with bone on both sides at the peak; the rib's section is 5 to 10 %.
RIB_PROMINENCE = 0.012


@dataclass(frozen=True)
class CranialOpening:
    """Where the canal opens into the skull.

    Args:
        arc_mm: Arc length of the foramen magnum.
        cavity_mm: Height of cranial cavity seen above it, at least `CRANIAL_HEIGHT_MM`.
    """

    arc_mm: float
    cavity_mm: float


def find_cranial_opening(
    search: Volume, curve: SpinalCurve, bone_hu: float = BONE_HU
) -> CranialOpening | None:
    """The foramen magnum: the lowest height from which the rings stay wide and closed.

    Args:
        search: From `pipeline.canal.search_volume`.
        curve: Cranial to caudal at 1 mm; it is continued straight up for `LOOK_UP_MM`.
        bone_hu: What counts as bone.
    """
    beginning = curve.between(-np.inf, LOOK_DOWN_MM)
    start_mm = float(curve.arc_mm[0]) - LOOK_UP_MM
    upper = SpinalCurve.through(beginning.extended_up(LOOK_UP_MM), 1.0, start_mm)
    profiles = ring_profiles(search, upper, CRANIAL_RAY_MM)
    is_bone, is_air = profiles > bone_hu, profiles < AIR_HU
    never = profiles.shape[2]
    bone_at = np.where(is_bone.any(axis=2), is_bone.argmax(axis=2), never)
    air_at = np.where(is_air.any(axis=2), is_air.argmax(axis=2), never)
    enclosed = (bone_at < air_at).mean(axis=1)
    radius_mm = np.median(np.minimum(bone_at, air_at), axis=1) * RING_STEP_MM
    is_skull = (radius_mm >= CRANIAL_RADIUS_MM) & (enclosed >= CRANIAL_ENCLOSED)
    needed = int(CRANIAL_HEIGHT_MM)
    for lowest in range(len(is_skull) - 1, needed - 2, -1):
        if is_skull[lowest - needed + 1 : lowest + 1].all():
            above = is_skull[: lowest + 1][::-1]
            cavity_mm = float(above.size if above.all() else above.argmin())
            return CranialOpening(float(upper.arc_mm[lowest]), cavity_mm)
    return None


def find_dens(
    spine: StraightSpine,
    wall_mm: Float64,
    cranial_mm: float | None,
    bone_hu: float = BONE_HU,
) -> float | None:
    """Arc length of the tip of the dens: the first bone in front of the canal below the skull.

    There must be tissue without bone right above it: bone at the very edge of the CT, or bone that
    goes on from the clivus, is no tip.

    Args:
        spine: Straightened, beginning above the canal.
        wall_mm: ``(n,)`` distance of the canal's front wall.
        cranial_mm: Arc length of the foramen magnum if known; the clivus lies above it.
        bone_hu: What counts as bone.
    """
    step_mm = float(spine.arc_mm[1] - spine.arc_mm[0])
    near = np.abs(spine.right_mm) <= 3.1
    depth = spine.front_mm[None, :] - wall_mm[:, None]
    in_front = (depth >= 3.5) & (depth <= 10.5)
    hu = spine.values[:, :, near].mean(axis=2)
    share = ((hu > bone_hu) & in_front).sum(axis=1) / in_front.sum(axis=1)
    share = ndimage.gaussian_filter1d(share.astype(np.float64), 1.0 / step_mm)
    is_free = (share < 0.4) & (np.where(in_front, hu, np.inf).min(axis=1) > -900)
    is_reached = spine.arc_mm <= DENS_BELOW_MM
    if cranial_mm is not None:
        is_reached &= spine.arc_mm >= cranial_mm - DENS_ABOVE_SKULL_MM
    bone = np.nonzero((share > 0.5) & is_reached)[0]
    # The lower end of the clivus may reach into the range: go on behind it.
    above_bone = [h for h in bone if not share[h - 1] > 0.5] if cranial_mm is not None else bone[:1]
    fifteen_mm, eight_mm = round(15 / step_mm), round(8 / step_mm)
    for height in above_bone:
        is_long = share[height : height + fifteen_mm].mean() > 0.5
        free_mm = is_free[max(0, height - eight_mm) : height].sum() * step_mm
        if is_long and free_mm >= DENS_FREE_MM:
            return float(spine.arc_mm[height])
    return None


def find_first_ribs(
    spine: StraightSpine, between_mm: tuple[float, float], bone_hu: float = BONE_HU
) -> float | None:
    """Arc length of the most cranial bilateral rib within a range of heights.

    Args:
        spine: Straightened.
        between_mm: Arc lengths to look between.
        bone_hu: What counts as bone.
    """
    step_mm = float(spine.arc_mm[1] - spine.arc_mm[0])
    is_front = (spine.front_mm >= RIB_FRONT_MM[0]) & (spine.front_mm <= RIB_FRONT_MM[1])
    sides = []
    for sign in (-1, 1):
        lateral = sign * spine.right_mm
        is_side = (lateral >= RIB_LATERAL_MM[0]) & (lateral <= RIB_LATERAL_MM[1])
        window = spine.values[:, is_front][:, :, is_side]
        sides.append((window > bone_hu - 20).mean(axis=(1, 2)))
    both = ndimage.gaussian_filter1d(np.minimum(*sides).astype(np.float64), 2.0 / step_mm)
    peaks, _ = signal.find_peaks(both, prominence=RIB_PROMINENCE)
    inside = [p for p in peaks if between_mm[0] < spine.arc_mm[p] < between_mm[1]]
    return float(spine.arc_mm[inside[0]]) if inside else None
