"""The mid-sagittal plane: where mirroring the bones of the neck changes them least.

A bent neck has no such plane. There the bones are mirrored in a surface that follows the canal to
the side, which tells a bent spine from what is no spine; the plane is then the one the canal
leaves least (docs/adr/0006-bent-necks.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize

from pipeline.curve import RIGHT, SpinalCurve
from pipeline.geometry import Float32, Float64, Volume
from pipeline.sampling import crop, sample

# Only bone is compared: clipped below (soft tissue is one value) and above (teeth and metal).
CLIP_HU = (150.0, 800.0)
# Beside the canal: the lateral masses and pedicles, not the shoulders or the jaw.
LATERAL_MM = 32.0
FRONT_MM = 30.0
BEHIND_MM = 40.0
CLOUD_STEP_MM = 2.5
# The cervical spine below the skull base; the head may be turned against it.
ARC_MM = 130.0
# Heads lie turned in their collar; beyond this a technician repositions.
LARGEST_YAW_DEG = 40.0
YAW_STEP_DEG = 5.0
# Straight necks match their image in a plane by 0.64 to 0.9: below this, a bend is looked for.
STRAIGHT_SYMMETRY = 0.6


@dataclass(frozen=True, eq=False)
class MidsagittalPlane:
    """A plane through the spine that halves it.

    Args:
        point_mm: ``(3,)`` LPS, on the plane, near the middle of the cervical canal.
        normal: ``(3,)`` unit vector to the patient's right.
    """

    point_mm: Float64
    normal: Float64

    def __post_init__(self) -> None:
        if self.point_mm.shape != (3,) or self.normal.shape != (3,):
            raise ValueError("a plane is a point (3,) and a normal (3,)")
        if abs(float(np.linalg.norm(self.normal)) - 1) > 1e-6 or self.normal[0] >= 0:
            raise ValueError(f"the normal {self.normal} is no unit vector to the patient's right")

    @property
    def yaw_deg(self) -> float:
        """Turn about the patient's long axis; 0 when the normal points straight to the right."""
        return float(np.degrees(np.arctan2(self.normal[1], -self.normal[0])))

    @property
    def roll_deg(self) -> float:
        """Bend to a side; 0 when the normal is horizontal."""
        return float(np.degrees(np.arcsin(self.normal[2])))

    def distance_mm(self, position_mm: Float64) -> Float64:
        """Signed distance of ``(..., 3)`` positions, positive to the patient's right."""
        return np.asarray((position_mm - self.point_mm) @ self.normal, dtype=np.float64)

    def mirrored(self, position_mm: Float64) -> Float64:
        """Mirror images of ``(..., 3)`` positions."""
        mirrored: Float64 = position_mm - 2 * self.distance_mm(position_mm)[..., None] * self.normal
        return mirrored


@dataclass(frozen=True)
class Symmetry:
    """The plane and how well the bones match their mirror images, 1 for perfectly.

    Args:
        plane: Best mirror plane; of a bent neck, the plane that its canal leaves least.
        plane_match: Correlation with the image in the best mirror plane.
        surface_match: Correlation with the image in the surface along the canal; NaN when a plane
            was good enough.
    """

    plane: MidsagittalPlane
    plane_match: float
    surface_match: float

    @property
    def match(self) -> float:
        """The better of both."""
        return float(np.fmax(self.plane_match, self.surface_match))


def find_plane(search: Volume, curve: SpinalCurve) -> Symmetry:
    """The plane that halves the neck.

    Yaw, roll and offset are searched (Nelder-Mead) for the largest normalized cross-correlation
    between the bone around the curve and its mirror image.

    Args:
        search: Upright volume.
        curve: Centerline of the canal, 1 mm steps.
    """
    reach = curve.between(0.0, ARC_MM)
    bone = _bone(search, reach.point_mm)
    cloud = _cloud(reach)
    own = sample(bone, cloud)
    center = reach.point_mm.mean(axis=0)

    def asymmetry(parameters: Float64) -> float:
        plane = _plane(parameters, center)
        return -_correlation(own, sample(bone, plane.mirrored(cloud)))

    # A line through the curve tells the roll; yaw has no such hint and is tried in steps.
    roll = np.degrees(np.arctan(np.polyfit(reach.point_mm[:, 2], reach.point_mm[:, 0], 1)[0]))
    yaws = np.arange(-LARGEST_YAW_DEG + YAW_STEP_DEG, LARGEST_YAW_DEG, YAW_STEP_DEG)
    start = min((np.array([yaw, roll, 0.0]) for yaw in yaws), key=asymmetry)
    simplex = start + np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 3]])
    found = optimize.minimize(
        asymmetry,
        start,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 0.05, "fatol": 1e-4, "maxfev": 150},
    )
    plane, match = _plane(np.asarray(found.x), center), -float(found.fun)
    if match >= STRAIGHT_SYMMETRY:
        return Symmetry(plane, match, float("nan"))
    yaw_deg, surface_match = _surface_yaw(bone, reach)
    if surface_match > match:
        plane = _plane_along(reach.point_mm, yaw_deg)
    return Symmetry(plane, match, surface_match)


def _surface_yaw(bone: Volume, reach: SpinalCurve) -> tuple[float, float]:
    """Turn in degrees that halves the spine best along its own curve, and the match."""
    points, down = (values[:: int(CLOUD_STEP_MM)] for values in (reach.point_mm, reach.down))
    offsets = _offsets()
    own = sample(bone, points[:, None] + offsets)
    yaws = np.arange(-LARGEST_YAW_DEG, LARGEST_YAW_DEG + 0.1, YAW_STEP_DEG)
    matches = np.empty(yaws.size)
    for number, yaw in enumerate(np.radians(yaws)):
        normal = np.array([-np.cos(yaw), np.sin(yaw), 0.0])
        normals = normal - (down @ normal)[:, None] * down
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        across = offsets @ normals.T
        image = points[:, None] + offsets - 2 * across.T[:, :, None] * normals[:, None]
        matches[number] = _correlation(own, sample(bone, image))
    best = int(matches.argmax())
    if not 0 < best < yaws.size - 1:
        return float(yaws[best]), float(matches[best])
    # The top of the parabola through the best step and its neighbors.
    before, top, after = matches[best - 1 : best + 2]
    shift = (before - after) / (2 * (before - 2 * top + after))
    return float(yaws[best] + shift * YAW_STEP_DEG), float(top)


def _plane_along(point_mm: Float64, yaw_deg: float) -> MidsagittalPlane:
    """The plane of a given yaw along a curve, as far from it on one side as on the other."""
    yaw = np.radians(yaw_deg)
    right_mm = point_mm @ np.array([-np.cos(yaw), np.sin(yaw), 0.0])
    roll_deg = -np.degrees(np.arctan(np.polyfit(point_mm[:, 2], right_mm, 1)[0]))
    through = _plane(np.array([yaw_deg, roll_deg, 0.0]), point_mm.mean(axis=0))
    aside_mm = through.distance_mm(point_mm)
    middle = (float(aside_mm.min()) + float(aside_mm.max())) / 2
    return MidsagittalPlane(through.point_mm + middle * through.normal, through.normal)


def _plane(parameters: Float64, center_mm: Float64) -> MidsagittalPlane:
    """Plane from yaw and roll in degrees and an offset in mm from the middle of the curve."""
    yaw = np.radians(np.clip(parameters[0], -LARGEST_YAW_DEG, LARGEST_YAW_DEG))
    roll = np.radians(np.clip(parameters[1], -45.0, 45.0))
    normal = np.array([-np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
    return MidsagittalPlane(center_mm + parameters[2] * normal, normal)


def _bone(search: Volume, around_mm: Float64) -> Volume:
    """The part of the volume around some points, clipped to bone."""
    # Twice the cloud's reach: a mirror image may lie outside the cloud.
    part = crop(search, around_mm, 2 * BEHIND_MM)
    return Volume(np.clip(part.values, *CLIP_HU), part.grid, part.frame_of_reference_uid)


def _cloud(reach: SpinalCurve) -> Float64:
    """Points around the curve that are compared with their mirror images, ``(n, 3)``."""
    points = reach.point_mm[:: int(CLOUD_STEP_MM)]
    return np.asarray(points[:, None] + _offsets()).reshape(-1, 3)


def _offsets() -> Float64:
    """Where bone is compared around a point of the curve, ``(n, 3)`` mm.

    Laid out along the patient's own axes, not along a plane that is still to be found.
    """
    right = np.arange(-LATERAL_MM, LATERAL_MM + 0.1, CLOUD_STEP_MM)
    front = np.arange(-BEHIND_MM, FRONT_MM + 0.1, CLOUD_STEP_MM)
    offsets = right[:, None, None] * RIGHT + front[None, :, None] * np.array([0.0, -1.0, 0.0])
    return np.asarray(offsets).reshape(-1, 3)


def _correlation(one: Float32, other: Float32) -> float:
    """Normalized cross-correlation of two samples, -1 to 1; 0 for a constant one."""
    a, b = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
