"""The mid-sagittal plane: where mirroring the bones of the neck changes them least."""

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
LARGEST_YAW_DEG = 25.0


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


def find_plane(search: Volume, curve: SpinalCurve) -> tuple[MidsagittalPlane, float]:
    """The plane of best mirror symmetry and the correlation it reaches.

    Yaw, roll and offset are searched (Nelder-Mead) for the largest normalized cross-correlation
    between the bone around the curve and its mirror image.

    Args:
        search: Upright volume.
        curve: Centerline of the canal, 1 mm steps.

    Returns:
        The plane, and the correlation, 1 for a perfectly symmetric spine.
    """
    reach = curve.between(0.0, ARC_MM).point_mm
    bone = _bone(search, reach)
    cloud = _cloud(curve)
    own = sample(bone, cloud)
    center = reach.mean(axis=0)

    def asymmetry(parameters: Float64) -> float:
        plane = _plane(parameters, center)
        return -_correlation(own, sample(bone, plane.mirrored(cloud)))

    # A line through the curve tells the roll; yaw has no such hint and is tried in steps.
    roll = np.degrees(np.arctan(np.polyfit(reach[:, 2], reach[:, 0], 1)[0]))
    yaws = np.arange(-20.0, 21.0, 5.0)
    start = min((np.array([yaw, roll, 0.0]) for yaw in yaws), key=asymmetry)
    simplex = start + np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 3]])
    found = optimize.minimize(
        asymmetry,
        start,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 0.05, "fatol": 1e-4, "maxfev": 150},
    )
    plane = _plane(np.asarray(found.x), center)
    return plane, -float(found.fun)


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


def _cloud(curve: SpinalCurve) -> Float64:
    """Points around the curve that are compared with their mirror images, ``(n, 3)``.

    Laid out along the patient's own axes, not along a plane that is still to be found.
    """
    points = curve.between(0.0, ARC_MM).point_mm[:: int(CLOUD_STEP_MM)]
    right = np.arange(-LATERAL_MM, LATERAL_MM + 0.1, CLOUD_STEP_MM)
    front = np.arange(-BEHIND_MM, FRONT_MM + 0.1, CLOUD_STEP_MM)
    offsets = (
        right[:, None, None] * RIGHT + front[None, :, None] * np.array([0.0, -1.0, 0.0])
    ).reshape(-1, 3)
    return np.asarray(points[:, None] + offsets[None]).reshape(-1, 3)


def _correlation(one: Float32, other: Float32) -> float:
    """Normalized cross-correlation of two samples, -1 to 1; 0 for a constant one."""
    a, b = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
