"""Is this a neck, where is its canal, and which way is its middle: the gate and the plane.

Every refusal names what was measured, the limit and what to do. The limits come from trials on
few necks (see docs); they are wide on purpose, since a decline costs a patient the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from pipeline.canal import (
    BONE_HU,
    POROUS_BONE_HU,
    RING_RAYS,
    center_on_ring,
    find_path,
    ring_radii,
    search_volume,
)
from pipeline.canal_width import CanalWidths, measure_widths
from pipeline.curve import SpinalCurve
from pipeline.errors import Declined
from pipeline.geometry import Float64, Volume
from pipeline.landmarks import (
    find_cranial_opening,
    find_dens,
    find_first_ribs,
)
from pipeline.levels import (
    DENS_TO_C23_MM,
    FORAMEN_TO_C23_MM,
    RIB_TO_C7T1_MM,
    Anchor,
    Level,
    LevelChain,
    find_levels,
)
from pipeline.motion import largest_jump
from pipeline.slices import check_resolution
from pipeline.straighten import ARC_STEP_MM, StraightSpine, straighten, wall_distance
from pipeline.symmetry import ARC_MM, MidsagittalPlane, find_plane

# Muscle and brain: 30 to 70 HU, a little more with contrast. Raw units or a density map miss it.
SOFT_TISSUE_HU = (15.0, 80.0)
# Soft tissue is a third of a neck's field of view, a tenth of a head's in air.
SOFT_TISSUE_SHARE = 0.03
# The airway and what is around the patient; unscaled or halved values have no air.
AIR_PERCENTILE = 0.5
HIGHEST_AIR_HU = -700.0
# C2 to C5; a head CT ends before.
SHORTEST_CANAL_MM = 70.0
# Foramen magnum to T1 of a small adult.
SHORTEST_BELOW_SKULL_MM = 112.0
# From a stenotic (front to back) or a small child's (side to side) canal to that of a tall man.
RING_AP_MM = (9.0, 24.0)
RING_LR_MM = (11.0, 38.0)
# Before the canal, end-plates at least are seen at two thirds of the places, in porous bone too; so
# far behind it is muscle beside the spinous processes. Of a neck on its side, half on each side.
BODY_HU = 150.0
BODY_SHARE = 0.5
BEHIND_OF_BODY_SHARE = 0.6
BODY_DEPTH_MM = (6.5, 10.0)
BODY_ASIDE_MM = 7.0
# Half the height from one end-plate to the next.
HALF_BODY_MM = 8.0
# Correlation of the bones with their mirror image; random bone gives under 0.3.
LOWEST_SYMMETRY = 0.5
# A step in the bones: of the size of a subluxation that matters, or what thick slices feign.
LARGEST_JUMP_MM = 1.5
LARGEST_JUMP_OF_STEP = 1.1
# The middle slice leaves the cord (12 to 15 mm wide): the reader follows it to other slices.
OFF_PLANE_MM = 6.0
# The stack is 22.5 mm wide on either side, half the canal 9 to 12: beyond, its wall is left out.
STACK_HOLDS_MM = 12.5
# From the clivus, above the foramen magnum, to T4.
STRAIGHT_ABOVE_MM = 25.0
STRAIGHT_BELOW_MM = 200.0
# Two standard deviations of the difference of what either says.
ANCHOR_AGREEMENT_MM = 15.0
# C2/3 to C7/T1 of adults; outside, the names are doubtful.
CERVICAL_MM = (55.0, 108.0)


@dataclass(frozen=True)
class Coverage:
    """How much of the spine the CT shows.

    Args:
        canal_mm: Length of the canal found.
        below_skull_mm: Length of canal below the foramen magnum (found, or reckoned from the
            dens).
        upper_anchor: What C2/3 was reckoned from.
    """

    canal_mm: float
    below_skull_mm: float
    upper_anchor: str


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What is known about the neck in a CT that passed the gate.

    Args:
        centerline_mm: ``(n, 3)`` LPS, middle of the canal, cranial to caudal, 1 mm apart.
        plane: Mid-sagittal plane of the cervical spine.
        levels: Discs, C2/3 first.
        levels_confirmed: Whether the names can be trusted; if not, show them as unconfirmed.
        canal_ap_mm: Anteroposterior diameter by vertebra; a withheld one is absent.
        canal_ap_withheld: By vertebra, why there is no diameter.
        coverage: How much of the spine there is.
        warnings: What a reader should know.
        measurements: Every number the gate judged, for the record.
    """

    centerline_mm: Float64
    plane: MidsagittalPlane
    levels: tuple[Level, ...]
    levels_confirmed: bool
    canal_ap_mm: Mapping[str, float]
    canal_ap_withheld: Mapping[str, str]
    coverage: Coverage
    warnings: tuple[str, ...]
    measurements: Mapping[str, float]


def find_anatomy(volume: Volume) -> Anatomy:
    """Find the cervical spine of a CT, or say why there is none to work with.

    Args:
        volume: HU on any grid; a tilted or rotated one is resampled upright by its affine.

    Raises:
        Declined: ``slices.coarse``, ``pixels.coarse``, ``hu.scale``, ``canal.absent``,
            ``canal.short``, ``motion``, ``canal.ring``, ``skull.caudal``, ``canal.bodies``,
            ``canal.symmetry``, ``canal.bent``, ``coverage.no_anchor``, ``coverage.short``.
    """
    check_resolution(volume.grid.spacing_mm)
    measured: dict[str, float] = {}
    search = search_volume(volume)
    _check_hu_scale(search, measured)
    curve = _canal(search, measured)
    plane = _plane(search, curve, measured)
    curve = SpinalCurve.through(curve.point_mm, 1.0, float(curve.arc_mm[0]), plane.normal)
    _check_ring(search, curve, measured)
    cranial_mm = _cranial_opening(search, curve, measured)
    spine = _straight(volume, curve, plane, cranial_mm)
    wall_mm = wall_distance(spine, 1)
    _check_bodies(spine, measured)
    _check_symmetry(measured)
    _check_bend(measured)
    _check_motion(volume, curve, measured)
    upper, source = _upper_anchor(spine, wall_mm, cranial_mm, measured)
    coverage = _coverage(curve, upper, source, measured)
    lower = _lower_anchor(spine, upper, measured)
    chain = find_levels(spine, wall_mm, upper, lower)
    widths = measure_widths(volume, search, curve, chain.levels)
    for count, score in chain.scores.items():
        measured[f"chain_score_{count}_gaps"] = score
    confirmed, warnings = _warnings(chain, widths, measured)
    return Anatomy(
        # Above the foramen magnum, or above the canal that was found, there is no canal.
        centerline_mm=curve.between(min(0.0, cranial_mm or 0.0), np.inf).point_mm,
        plane=plane,
        levels=chain.levels,
        levels_confirmed=confirmed,
        canal_ap_mm=widths.ap_mm,
        canal_ap_withheld=widths.withheld,
        coverage=coverage,
        warnings=warnings,
        measurements=MappingProxyType(measured),
    )


def _check_hu_scale(search: Volume, measured: dict[str, float]) -> None:
    """The commonest value between fat and bone must be that of soft tissue, and there is air."""
    lowest = float(np.percentile(search.values, AIR_PERCENTILE))
    inside = search.values[(search.values > -50) & (search.values < 250)]
    counts, edges = np.histogram(inside, bins=60, range=(-50, 250))
    smoothed = ndimage.gaussian_filter1d(counts.astype(np.float64), 1.0)
    mode = float(edges[smoothed.argmax()]) + 2.5
    share = float(counts.sum()) / search.values.size
    measured["soft_tissue_hu"], measured["lowest_hu"] = mode, lowest
    measured["soft_tissue_share"] = share
    has_soft_tissue = share >= SOFT_TISSUE_SHARE
    is_scaled = SOFT_TISSUE_HU[0] <= mode <= SOFT_TISSUE_HU[1] and lowest < HIGHEST_AIR_HU
    if not (has_soft_tissue and is_scaled):
        where = f"soft tissue at {mode:.0f} HU" if has_soft_tissue else "no soft tissue"
        raise Declined(
            "hu.scale",
            found=f"{where} ({share:.1%} of values at -50 to 250 HU), the lowest values at "
            f"{lowest:.0f} HU",
            expected=f"{SOFT_TISSUE_HU[0]:g} to {SOFT_TISSUE_HU[1]:g} HU (at least "
            f"{SOFT_TISSUE_SHARE:.0%}), and air below {HIGHEST_AIR_HU:g} HU",
            remedy="Check the rescale of the series; send the conventional reconstruction.",
        )


def _canal(search: Volume, measured: dict[str, float]) -> SpinalCurve:
    path, bone_hu = find_path(search), BONE_HU
    if path is None or path.height_mm < SHORTEST_BELOW_SKULL_MM:
        porous = find_path(search, POROUS_BONE_HU)
        if porous is not None and (path is None or porous.height_mm > path.height_mm):
            path, bone_hu = porous, POROUS_BONE_HU
    length_mm = 0.0 if path is None else path.height_mm
    measured["canal_height_mm"], measured["bone_hu"] = length_mm, bone_hu
    if path is None or length_mm < SHORTEST_CANAL_MM:
        raise Declined(
            "canal.short" if path is not None else "canal.absent",
            found=f"{length_mm:.0f} mm of continuous bony canal",
            expected=f"at least {SHORTEST_CANAL_MM:g} mm",
            remedy="Send a CT that covers the cervical spine.",
        )
    measured["canal_score"] = path.mean_score
    curve = center_on_ring(search, path, bone_hu)
    measured["canal_mm"] = float(curve.arc_mm[-1])
    return curve


def _check_ring(search: Volume, curve: SpinalCurve, measured: dict[str, float]) -> None:
    """Median bony diameters of the canal below the atlas."""
    # The atlas is wider than any canal below it, the thoracic canal narrower.
    radii = ring_radii(search, curve.between(20.0, 110.0), bone_hu=measured["bone_hu"])
    quarter = RING_RAYS // 4

    def wall(ray: int) -> Float64:
        fan = radii[:, [(ray + k) % RING_RAYS for k in (-1, 0, 1)]]
        return fan[np.isfinite(fan)]

    sides = [wall(ray * quarter) for ray in range(4)]
    front, right, back, left = (float(np.median(w)) if w.size else np.nan for w in sides)
    measured["ring_ap_mm"], measured["ring_lr_mm"] = front + back, right + left
    for name, value, limits in (
        ("front to back", front + back, RING_AP_MM),
        ("side to side", right + left, RING_LR_MM),
    ):
        if not limits[0] <= value <= limits[1]:
            raise Declined(
                "canal.ring",
                found=f"a canal {value:.1f} mm wide {name}",
                expected=f"{limits[0]:g} to {limits[1]:g} mm",
                remedy="Send a CT of the cervical spine in a standard orientation.",
            )


def _cranial_opening(
    search: Volume, curve: SpinalCurve, measured: dict[str, float]
) -> float | None:
    """Arc length of the foramen magnum; refuses a skull at the wrong end."""
    opening = find_cranial_opening(search, curve, measured["bone_hu"])
    if opening is not None:
        measured["foramen_magnum_mm"] = opening.arc_mm
        measured["cranial_cavity_mm"] = opening.cavity_mm
        return opening.arc_mm
    upside_down = SpinalCurve.through(curve.between(0.0, np.inf).point_mm[::-1], 1.0)
    wrong = find_cranial_opening(search, upside_down)
    if wrong is not None:
        raise Declined(
            "skull.caudal",
            found=f"{wrong.cavity_mm:.0f} mm of cranial cavity at the caudal end",
            expected="the skull at the cranial end",
            remedy="Correct Image Position or Image Orientation (Patient) at the source.",
        )
    return None


def _straight(
    volume: Volume, curve: SpinalCurve, plane: MidsagittalPlane, cranial_mm: float | None
) -> StraightSpine:
    top_mm = 0.0 if cranial_mm is None else cranial_mm
    start_mm = max(float(curve.arc_mm[0]), top_mm - STRAIGHT_ABOVE_MM)
    points = curve.between(start_mm, top_mm + STRAIGHT_BELOW_MM).point_mm
    return straighten(volume, SpinalCurve.through(points, ARC_STEP_MM, start_mm, plane.normal))


def _check_bodies(spine: StraightSpine, measured: dict[str, float]) -> None:
    """Vertebral bodies lie before a spine's canal, not behind: catches flips and hip bones."""
    below_atlas = spine.arc_mm > 20
    beside = np.abs(np.abs(spine.right_mm) - BODY_ASIDE_MM) <= 1.0
    # The mean over the columns and a millimeter of height, against noise.
    hu = ndimage.gaussian_filter1d(spine.values[:, :, beside].mean(axis=2), 1 / ARC_STEP_MM, axis=0)
    heights = round(2 * HALF_BODY_MM / ARC_STEP_MM) + 1
    in_reach = ndimage.maximum_filter1d(hu > BODY_HU, heights, axis=0)
    shares = []
    for side in (1, -1):
        depth = side * spine.front_mm[None, :] - wall_distance(spine, side)[:, None]
        in_body = (depth >= BODY_DEPTH_MM[0]) & (depth <= BODY_DEPTH_MM[1])
        places = in_reach[below_atlas][in_body[below_atlas]]
        shares.append(float(places.mean()) if places.size else 0.0)
    measured["bone_in_front"], measured["bone_behind"] = shares
    if shares[0] < BODY_SHARE or shares[1] > BEHIND_OF_BODY_SHARE * shares[0]:
        raise Declined(
            "canal.bodies",
            found=f"bone at {shares[0]:.0%} of the places before the canal, at {shares[1]:.0%} "
            "behind it",
            expected=f"at least {BODY_SHARE:.0%} in front, and behind at most "
            f"{BEHIND_OF_BODY_SHARE:.0%} of that",
            remedy="Check the orientation in the header; send a CT of the cervical spine.",
        )


def _plane(search: Volume, curve: SpinalCurve, measured: dict[str, float]) -> MidsagittalPlane:
    found = find_plane(search, curve)
    measured["symmetry"] = found.match
    measured["symmetry_of_plane"] = found.plane_match
    measured["yaw_deg"], measured["roll_deg"] = found.plane.yaw_deg, found.plane.roll_deg
    aside_mm = found.plane.distance_mm(curve.between(0.0, ARC_MM).point_mm)
    measured["off_plane_mm"] = float(np.abs(aside_mm).max())
    return found.plane


def _check_symmetry(measured: dict[str, float]) -> None:
    if measured["symmetry"] < LOWEST_SYMMETRY:
        raise Declined(
            "canal.symmetry",
            found=f"bones that match their mirror image by {measured['symmetry']:.2f}",
            expected=f"at least {LOWEST_SYMMETRY:g}, in a plane or along the canal",
            remedy="The neck is too twisted, or this is no spine; reformat by hand.",
        )


def _check_motion(volume: Volume, curve: SpinalCurve, measured: dict[str, float]) -> None:
    jump_mm, z_mm = largest_jump(volume, curve.between(0.0, ARC_MM).point_mm)
    measured["jump_mm"], measured["jump_z_mm"] = jump_mm, z_mm
    limit_mm = max(LARGEST_JUMP_MM, LARGEST_JUMP_OF_STEP * volume.grid.spacing_mm[0])
    if jump_mm > limit_mm:
        raise Declined(
            "motion",
            found=f"a step of {jump_mm:.1f} mm between two slices at z = {z_mm:.0f} mm",
            expected=f"at most {limit_mm:.1f} mm",
            remedy="The patient moved, or slices are out of place; send another acquisition.",
        )


def _check_bend(measured: dict[str, float]) -> None:
    """The flat stack must hold the whole canal of a neck bent to the side."""
    if measured["off_plane_mm"] > STACK_HOLDS_MM:
        raise Declined(
            "canal.bent",
            found=f"a canal up to {measured['off_plane_mm']:.1f} mm beside the best plane",
            expected=f"at most {STACK_HOLDS_MM:g} mm, to lie within the slices",
            remedy="Repeat the CT with the neck straight if that is safe, or reformat by hand.",
        )


def _upper_anchor(
    spine: StraightSpine, wall_mm: Float64, cranial_mm: float | None, measured: dict[str, float]
) -> tuple[Anchor, str]:
    """Where C2/3 is expected, and from what."""
    dens_mm = find_dens(spine, wall_mm, cranial_mm, measured["bone_hu"])
    if dens_mm is not None:
        measured["dens_mm"] = dens_mm
    from_dens = None if dens_mm is None else dens_mm + DENS_TO_C23_MM[0]
    from_skull = None if cranial_mm is None else cranial_mm + FORAMEN_TO_C23_MM[0]
    if from_skull is not None and from_dens is not None:
        mean = (from_skull + from_dens) / 2
        return Anchor(mean, FORAMEN_TO_C23_MM[1]), "foramen magnum and dens"
    if from_skull is not None:
        return Anchor(from_skull, FORAMEN_TO_C23_MM[1]), "foramen magnum"
    if from_dens is not None:
        return Anchor(from_dens, DENS_TO_C23_MM[1]), "dens"
    raise Declined(
        "coverage.no_anchor",
        found="neither foramen magnum nor dens",
        expected="at least one of them, to count vertebrae from",
        remedy="Send a CT that begins at the skull base.",
    )


def _coverage(
    curve: SpinalCurve, upper: Anchor, source: str, measured: dict[str, float]
) -> Coverage:
    skull_mm = upper.arc_mm - FORAMEN_TO_C23_MM[0]
    below_mm = float(curve.arc_mm[-1]) - skull_mm
    measured["below_skull_mm"] = below_mm
    if below_mm < SHORTEST_BELOW_SKULL_MM:
        raise Declined(
            "coverage.short",
            found=f"{below_mm:.0f} mm of canal below the foramen magnum",
            expected=f"at least {SHORTEST_BELOW_SKULL_MM:g} mm, down to T1",
            remedy="Send a CT that covers the whole cervical spine; a small child's neck may be "
            "too short for this model, which has learned from adults.",
        )
    return Coverage(measured["canal_mm"], below_mm, source)


def _lower_anchor(spine: StraightSpine, upper: Anchor, measured: dict[str, float]) -> Anchor | None:
    # C7/T1 lies 55 to 108 mm below C2/3, which may lie 10 mm lower than it is expected.
    between = (upper.arc_mm + CERVICAL_MM[0], upper.arc_mm + CERVICAL_MM[1] + 15)
    rib_mm = find_first_ribs(spine, between, measured["bone_hu"])
    if rib_mm is None:
        return None
    measured["first_rib_mm"] = rib_mm
    return Anchor(rib_mm + RIB_TO_C7T1_MM[0], RIB_TO_C7T1_MM[1])


def _anchors_disagree(measured: Mapping[str, float]) -> str:
    """Why skull base and dens cannot both be right; empty when they can, or one is missing."""
    if "foramen_magnum_mm" not in measured or "dens_mm" not in measured:
        return ""
    from_skull = measured["foramen_magnum_mm"] + FORAMEN_TO_C23_MM[0]
    apart_mm = abs(from_skull - measured["dens_mm"] - DENS_TO_C23_MM[0])
    if apart_mm <= ANCHOR_AGREEMENT_MM:
        return ""
    return f"foramen magnum and dens place C2/3 {apart_mm:.0f} mm apart"


def _warnings(
    chain: LevelChain, widths: CanalWidths, measured: Mapping[str, float]
) -> tuple[bool, tuple[str, ...]]:
    """Whether the names stand, and what to tell the reader."""
    warnings = []
    reason = chain.reason or _anchors_disagree(measured)
    arcs = {level.name: level.arc_mm for level in chain.levels}
    cervical_mm = arcs["C7/T1"] - arcs["C2/3"]
    if not reason and not CERVICAL_MM[0] <= cervical_mm <= CERVICAL_MM[1]:
        reason = (
            f"C2/3 to C7/T1 spans {cervical_mm:.0f} mm, of adults, the only ones the model has "
            f"learned from, {CERVICAL_MM[0]:g} to {CERVICAL_MM[1]:g} mm"
        )
    if reason:
        warnings.append(f"levels unconfirmed: {reason}")
    if widths.withheld:
        causes = "; ".join(f"{name}: {why}" for name, why in widths.withheld.items())
        warnings.append(f"canal diameter withheld ({causes})")
    if measured["off_plane_mm"] > OFF_PLANE_MM:
        warnings.append(
            f"neck bent: the canal leaves the middle slice by {measured['off_plane_mm']:.0f} mm; "
            "follow it through the slices"
        )
    return not reason, tuple(warnings)
