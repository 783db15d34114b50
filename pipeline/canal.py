"""The spinal canal: the column of soft tissue with bone all around it.

A classical search, no learned weights: score every soft voxel by the bone that rays meet around
it, find the best column by dynamic programming from feet to head, then center it on the ring of
bone in planes perpendicular to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.curve import SpinalCurve, smooth
from pipeline.geometry import Float32, Float64, Volume
from pipeline.sampling import sample, upright

# Working grid of the search: eight voxels across a 12 mm canal, 7 million for a whole neck.
SEARCH_SPACING_MM = 1.5
# Cancellous bone starts near here; contrast in vessels stays mostly above it but is not a ring.
BONE_HU = 220.0
# Of the old, thin walls on thick slices stay under that. Tried second: between the two lie contrast
# in veins and noise, which make rings that are none.
POROUS_BONE_HU = 160.0
AIR_HU = -250.0
# Cord, cerebrospinal fluid and epidural fat, smoothed.
SOFT_HU = (-40.0, 150.0)
# From here on soft tissue may be the marrow of porous bone, which has a bony ring around it too:
# the score falls by this much up to the end of the range. Canals stay below 85 HU.
MARROW_HU = 80.0
MARROW_COST = 0.5
# Smoothing in voxels of the search grid: holds against 100 HU of noise.
SMOOTHING_SIGMA = 0.7
# The widest cervical canals are about 36 mm across; a ray sees just over half of that.
RAY_MM = 21.0
RAYS = 16
# Wall to opposite wall: the narrowest stenotic to the widest (foramen magnum side) canal.
OPPOSING_MM = (8.0, 36.0)
# A center has this much room on all sides; more does not make it more of a canal.
CLEARANCE_MM = 6.0
# Share of the score from: rays that hit, opposing hits at canal width, clearance.
WEIGHTS = (0.45, 0.35, 0.20)
# A voxel scoring this much neither helps nor harms a path.
NEUTRAL_SCORE = 0.62
# A canal has at least this much room around its middle; marrow between cortices often has less.
LEAST_CLEARANCE_MM = 2.9
# What a voxel without a score costs a path: soft tissue in a gap of the ring may be crossed. Bone
# costs more than a vertebra's marrow can earn, or the path would run through bodies or facets.
OFF_PATH_COST = 0.45
BONE_COST = 1.5
# A slice with metal says little about where the canal is, so that it must not end a path there:
# dental streaks would cut the skull base off.
METAL_HU = 2200.0
METAL_SLICE_COST = 0.1
# Sideways steps per slice, and the cost of a step of one voxel: the canal bends up to 45 degrees.
MAXIMUM_SHIFT = 2
SHIFT_COST = 0.03
# Canal to the middle of a body is 15 mm; the bends of real and phantom canals reach 9 mm.
SIDESTEP_HEIGHT_MM = 18.0
SIDESTEP_MM = 11.0
# From the top of a path that ends at C3 to the foramen magnum.
EXTENSION_MM = 40.0
GROWTH_MM = 8
# Rays of the ring in the plane perpendicular to the curve.
RING_RAYS = 48
RING_STEP_MM = 0.5
RING_MM = 22.0
# A vertebra and its disc. For a third of that height bone closes the canal in each direction but
# those of the foramina.
BRIDGE_MM = 30
USUAL_PERCENTILE = 15.0
# The wall itself comes and goes by this much.
LEAK_SHARE = 1.1


@dataclass(frozen=True, eq=False)
class CanalPath:
    """The best column of the search grid, before centering.

    Args:
        point_mm: ``(n, 3)`` LPS, cranial to caudal.
        mean_score: Mean score over the path, 0 to 1.
    """

    point_mm: Float64
    mean_score: float

    @property
    def height_mm(self) -> float:
        """From its lowest slice to its highest."""
        return (len(self.point_mm) - 1) * SEARCH_SPACING_MM


def search_volume(ct: Volume) -> Volume:
    """The CT on the upright grid of the search, smoothed against noise."""
    coarse = upright(ct, SEARCH_SPACING_MM)
    values = ndimage.gaussian_filter(coarse.values, SMOOTHING_SIGMA)
    return Volume(values, coarse.grid, ct.frame_of_reference_uid)


def find_path(search: Volume, bone_hu: float = BONE_HU) -> CanalPath | None:
    """The best canal-like column of an upright volume; `None` when nothing scores at all.

    Args:
        search: From `search_volume`.
        bone_hu: What counts as bone.
    """
    score = _score(search.values, search.grid.spacing_mm[1], bone_hu)
    hits = np.nonzero(score)
    if hits[0].size == 0:
        return None
    margin = MAXIMUM_SHIFT
    low = [max(0, int(axis.min()) - margin) for axis in hits]
    box = tuple(
        slice(start, int(axis.max()) + 1 + margin) for start, axis in zip(low, hits, strict=True)
    )
    gain = np.where(score > 0, score - np.float32(NEUTRAL_SCORE), np.float32(-OFF_PATH_COST))
    gain[search.values > bone_hu] = -BONE_COST
    has_metal = search.values.max(axis=(1, 2)) > METAL_HU
    gain[has_metal] = np.maximum(gain[has_metal], np.float32(-METAL_SLICE_COST))
    path = _best_column(gain[box])
    index = _without_sidestep(path) + np.array(low)
    mean_score = float(score[tuple(index.T)].mean())
    return CanalPath(search.grid.to_mm(index[::-1].astype(np.float64)), mean_score)


def center_on_ring(search: Volume, path: CanalPath, bone_hu: float = BONE_HU) -> SpinalCurve:
    """The path smoothed and moved to the middle of the ring of bone, at 1 mm steps.

    Arc length 0 is where the path begins. The atlas and C2 are too open for the path's score, but
    not for centering, so the curve begins `EXTENSION_MM` above, at a negative arc length; whether
    that is canal, skull or nothing is for the landmarks to say.
    """
    points = _grown_up(search, smooth(path.point_mm, 3.0), bone_hu)
    for _ in range(2):  # the second pass sees the ring in the planes of the first
        curve = SpinalCurve.through(points, 1.0)
        front_mm, right_mm = _ring_centers(ring_radii(search, curve, bone_hu=bone_hu))
        # The median bridges the gaps between laminae, the Gaussian the step between vertebrae.
        offsets = [
            smooth(ndimage.median_filter(offset, 11, mode="nearest"), 6.0)
            for offset in (front_mm, right_mm)
        ]
        points = smooth(curve.moved(*offsets), 4.0)
    return SpinalCurve.through(points, 1.0, -EXTENSION_MM)


def _grown_up(search: Volume, point_mm: Float64, bone_hu: float) -> Float64:
    """Points with `EXTENSION_MM` more above them, ``(n, 3)``, each piece centered in its turn.

    A lordotic canal leans forward where its path begins and stands upright at the dens: straight on
    it would run into the body of C2.
    """
    for _ in range(round(EXTENSION_MM / GROWTH_MM)):
        points = SpinalCurve.through(point_mm, 1.0).extended_up(GROWTH_MM)
        # With a vertebra's height of the canal below, so that the ring is seen whole.
        top = SpinalCurve.through(points[: GROWTH_MM + BRIDGE_MM], 1.0)
        front_mm, right_mm = (
            smooth(offset, 4.0)
            for offset in _ring_centers(ring_radii(search, top, bone_hu=bone_hu))
        )
        moves = np.clip(1 - top.arc_mm / (2 * GROWTH_MM), 0, 1)
        point_mm = np.concatenate(
            (top.moved(moves * front_mm, moves * right_mm), points[GROWTH_MM + BRIDGE_MM :])
        )
    return point_mm


def ring_radii(
    volume: Volume, curve: SpinalCurve, reach_mm: float = RING_MM, bone_hu: float = BONE_HU
) -> Float64:
    """Distance to the first bone along rays perpendicular to the curve.

    Args:
        volume: Where to look.
        curve: ``n`` points with frames.
        reach_mm: Length of the rays.
        bone_hu: What counts as bone.

    Returns:
        ``(n, RING_RAYS)`` mm, linear between samples, NaN where no bone is met. Ray 0 points to
        the front, ray ``RING_RAYS / 4`` to the right.
    """
    profiles = ring_profiles(volume, curve, reach_mm)
    is_bone = profiles > bone_hu
    first = is_bone.argmax(axis=2)
    before = np.maximum(first - 1, 0)
    value = np.take_along_axis(profiles, first[..., None], 2)[..., 0]
    previous = np.take_along_axis(profiles, before[..., None], 2)[..., 0]
    rise = np.where(value > previous, value - previous, 1.0)
    fraction = np.where(first > 0, np.clip((bone_hu - previous) / rise, 0, 1), 0)
    return np.where(is_bone.any(axis=2), (before + fraction) * RING_STEP_MM, np.nan)


def ring_profiles(volume: Volume, curve: SpinalCurve, reach_mm: float) -> Float32:
    """HU along rays perpendicular to the curve, ``(n, RING_RAYS, reach / RING_STEP_MM)``."""
    angle = np.arange(RING_RAYS) * 2 * np.pi / RING_RAYS
    rays = (
        np.cos(angle)[None, :, None] * curve.front[:, None]
        + np.sin(angle)[None, :, None] * curve.right[:, None]
    )
    distance = np.arange(0.0, reach_mm, RING_STEP_MM)
    points = curve.point_mm[:, None, None] + rays[:, :, None] * distance[None, None, :, None]
    return sample(volume, points)


def _score(values: Float32, spacing_mm: float, bone_hu: float) -> Float32:
    """How much each voxel looks like the middle of a bony ring in its axial plane, 0 to 1."""
    bone, air = values > bone_hu, values < AIR_HU
    soft = (values > SOFT_HU[0]) & (values < SOFT_HU[1])
    reach = round(RAY_MM / spacing_mm)
    candidates = np.nonzero(soft & _has_bone_both_sides(bone, reach))
    score = np.zeros(values.shape, dtype=np.float32)
    distance_mm = _ray_distances(bone, air, candidates, reach) * np.float32(spacing_mm)
    is_hit = np.isfinite(distance_mm)
    half = RAYS // 2
    across_mm = distance_mm[:half] + distance_mm[half:]
    is_pair = (across_mm >= OPPOSING_MM[0]) & (across_mm <= OPPOSING_MM[1])
    nearest_mm = np.minimum(distance_mm.min(axis=0), CLEARANCE_MM)
    marrow = (values[candidates] - MARROW_HU) / (SOFT_HU[1] - MARROW_HU)
    ring = (
        WEIGHTS[0] * is_hit.mean(axis=0)
        + WEIGHTS[1] * is_pair.mean(axis=0)
        + WEIGHTS[2] * nearest_mm / CLEARANCE_MM
        - MARROW_COST * np.clip(marrow, 0.0, 1.0)
    )
    score[candidates] = np.where(nearest_mm >= LEAST_CLEARANCE_MM, np.maximum(ring, 0.0), 0.0)
    return score


def _has_bone_both_sides(bone: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Whether there is bone within reach to the left and to the right: cheap, spares most rays."""
    columns = bone.shape[2]
    count = np.zeros((*bone.shape[:2], columns + 1), dtype=np.int16)
    np.cumsum(bone, axis=2, out=count[..., 1:])
    here = np.arange(columns)
    above = count[..., np.minimum(here + reach + 1, columns)] > count[..., here + 1]
    below = count[..., here] > count[..., np.maximum(here - reach, 0)]
    both: NDArray[np.bool_] = above & below
    return both


def _ray_distances(
    bone: NDArray[np.bool_],
    air: NDArray[np.bool_],
    candidates: tuple[NDArray[np.intp], ...],
    reach: int,
) -> Float32:
    """Voxels to the first bone along in-plane rays, ``(RAYS, n)``; infinite when air comes first.

    Gathers only at the candidates, from a padded map, so that no ray leaves it.
    """
    kind = np.pad(bone + 2 * air.astype(np.uint8), ((0, 0), (reach, reach), (reach, reach)))
    width = kind.shape[2]
    start = np.ravel_multi_index(
        (candidates[0], candidates[1] + reach, candidates[2] + reach), kind.shape
    )
    flat = kind.ravel()
    distances = np.full((RAYS, start.size), np.inf, dtype=np.float32)
    for ray in range(RAYS):
        angle = 2 * np.pi * ray / RAYS
        pending = np.arange(start.size)
        for step in range(1, reach + 1):
            shift = round(step * np.sin(angle)) * width + round(step * np.cos(angle))
            seen = flat[start[pending] + shift]
            distances[ray, pending[seen == 1]] = step
            pending = pending[seen == 0]
    return distances


def _best_column(gain: Float32) -> NDArray[np.intp]:
    """The path of one voxel per slice with the largest sum, ``(n, 3)`` indices, slice ascending.

    Dynamic programming over slices; a path may begin and end anywhere, and a bad beginning is
    dropped as soon as starting afresh is better.
    """
    m = MAXIMUM_SHIFT
    shifts = [(dy, dx) for dy in range(-m, m + 1) for dx in range(-m, m + 1)]
    slices, rows, columns = gain.shape
    came_from = np.full(gain.shape, -1, dtype=np.int8)
    total = gain[0]
    best_end, best_total = _peak(0, total)
    for z in range(1, slices):
        padded = np.pad(total, m, constant_values=-np.inf)
        best = np.zeros((rows, columns), dtype=np.float32)
        for number, (dy, dx) in enumerate(shifts):
            reached = padded[m + dy : m + dy + rows, m + dx : m + dx + columns]
            reached = reached - np.float32(SHIFT_COST * (dy * dy + dx * dx))
            better = reached > best
            best[better] = reached[better]
            came_from[z][better] = number
        total = best + gain[z]
        end, end_total = _peak(z, total)
        if end_total > best_total:
            best_end, best_total = end, end_total
    path = [best_end]
    while came_from[path[-1]] >= 0:
        z, y, x = path[-1]
        dy, dx = shifts[came_from[path[-1]]]
        path.append((z - 1, y + dy, x + dx))
    return np.array(path[::-1], dtype=np.intp)


def _without_sidestep(path: NDArray[np.intp]) -> NDArray[np.intp]:
    """The longest piece of a path without a side step, ``(n, 3)``.

    In porous bone a path may slip through a disc into the marrow of a body. It then moves over
    between two pieces that run on in parallel; a flexed neck bends, but keeps its direction.
    """
    steady = smooth(path.astype(np.float64), 3.0)
    reach = round(SIDESTEP_HEIGHT_MM / SEARCH_SPACING_MM)
    moved = steady[reach:, 1:] - steady[:-reach, 1:]
    if len(moved) <= 2 * reach:
        return path
    around = (moved[2 * reach :] + moved[: -2 * reach]) / 2
    aside_mm = np.linalg.norm(moved[reach:-reach] - around, axis=1) * SEARCH_SPACING_MM
    if aside_mm.max() < SIDESTEP_MM:
        return path
    # The step itself goes too: its direction would lead the extension into the body.
    cut = int(aside_mm.argmax()) + reach
    return max(path[:cut], path[cut + reach :], key=len)


def _peak(z: int, total: Float32) -> tuple[tuple[int, int, int], float]:
    """Index and value of the largest total of a slice."""
    y, x = np.unravel_index(int(total.argmax()), total.shape)
    return (z, int(y), int(x)), float(total[y, x])


def _ring_centers(radii_mm: Float64) -> tuple[Float64, Float64]:
    """Centroid of the ring's area per point, ``(n,)`` mm to the front and to the right.

    A ring with under 40 % hits stays where it is. At most 4 mm at once, so that one odd ring cannot
    throw the curve.
    """
    angle = np.arange(radii_mm.shape[1]) * 2 * np.pi / radii_mm.shape[1]
    is_ring = np.isfinite(radii_mm).mean(axis=1) >= 0.4
    # A center inside bone has radius 0 all around; a millimeter keeps its centroid defined.
    radii = np.maximum(_bridged(radii_mm), 1.0)
    area = (radii**2).sum(axis=1)
    # The centroid of a thin triangle lies two thirds of the way out.
    front = (2 / 3) * (radii**3 * np.cos(angle)).sum(axis=1) / area
    right = (2 / 3) * (radii**3 * np.sin(angle)).sum(axis=1) / area
    return (
        np.where(is_ring, np.clip(front, -4, 4), 0.0),
        np.where(is_ring, np.clip(right, -4, 4), 0.0),
    )


def _bridged(radii_mm: Float64) -> Float64:
    """Radii without the rays that leave the canal through a disc, a foramen or between laminae.

    They would pull the center after them. Where a ray goes much farther than the same ray does at
    the heights around, it ends there.
    """
    reached = np.where(np.isfinite(radii_mm), radii_mm, np.inf)
    usual = ndimage.percentile_filter(reached, USUAL_PERCENTILE, (BRIDGE_MM + 1, 1), mode="nearest")
    found = np.isfinite(usual)
    middle = np.median(usual[found]) if found.any() else 1.0
    return np.minimum(reached, LEAK_SHARE * np.where(found, usual, middle))
