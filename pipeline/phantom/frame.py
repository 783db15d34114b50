"""The spine-aligned frame: along, normal, lateral; and the rigid frame of the head.

Every structure of the neck is written in these coordinates, so levels, canal, cord and airway stay
together under any curvature.

* along: mm from the tip of the dens to the feet, on the front wall of the canal;
* normal: mm in front (positive) or behind (negative) the front wall of the canal;
* lateral: mm to the patient's left of the spine's own midline.

The head frame has its origin at the basion: front, up, and the same lateral.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates
from scipy.spatial import cKDTree

from pipeline.geometry import Float32, Float64
from pipeline.phantom.noise import Profile

LOOKUP_STEP_MM = 1.5
LOOKUP_Y_MM = (-210.0, 210.0)
LOOKUP_Z_MM = (-330.0, 260.0)
FACET_ASIDE_MM = 18.5
"""From the midline to a joint's middle, in a patient of size 1."""
JOINT_PLANE_MM = ((-20.0, -3.0, 0.0), (8.5, -4.25, 0.0))
"""Normal, and how far below the disc's middle two vertebrae meet there: in the joints behind, which
run to the feet as they run to behind, and in the disc before."""
MID_CERVICAL_MM = 75.0
"""Along the spine from the dens to the middle of the neck: the origin of patient space."""


@dataclass(frozen=True)
class Posture:
    """How the spine is held; angles in radians, a positive tilt runs to posterior going down.

    Args:
        size: Body size.
        tilt: Of the whole neck.
        lordosis: Turn of the tilt from C2 to C7; negative is a kyphotic neck.
        kyphosis: Turn back over the upper thorax.
        wave: Amplitude, wave length (mm) and phase of what is left of irregularity.
        head_tilt: Of the head; positive looks down.
        lateral_mm: Where the midline runs, at the skull, C2, C7 and T6.
        rotation: Of the column about its own axis.
        head_rotation: Of the head about the upright axis.
    """

    size: float
    tilt: float
    lordosis: float
    kyphosis: float
    wave: tuple[float, float, float]
    head_tilt: float
    lateral_mm: tuple[float, float, float, float]
    rotation: float
    head_rotation: float

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float) -> Posture:
        """From a stiff kyphotic neck to a strongly lordotic one."""
        uniform = rng.uniform
        tilt = np.deg2rad(uniform(-6, 40))
        lordosis = np.deg2rad(np.clip(rng.normal(18, 14), -16, 45))
        return cls(
            size=size,
            tilt=float(tilt),
            lordosis=float(lordosis),
            kyphosis=float(np.deg2rad(uniform(5, 28))),
            wave=(float(uniform(0, 0.05)), float(uniform(35, 80)), float(uniform(0, 6.28))),
            head_tilt=float(0.35 * (tilt - lordosis / 2) + np.deg2rad(uniform(-14, 12))),
            lateral_mm=tuple(rng.normal(0, (1.4, 1.4, 2.2, 3.2)).clip(-6, 6).tolist()),
            rotation=float(np.deg2rad(rng.normal(0, 3))),
            head_rotation=float(np.deg2rad(rng.normal(0, 3))),
        )


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Positions in all frames, float32 arrays of one shape ``(point,)``, mm."""

    x: Float32
    y: Float32
    z: Float32
    along: Float32
    normal: Float32
    lateral: Float32
    front: Float32
    up: Float32
    head_lateral: Float32

    def take(self, index: object) -> Coordinates:
        """The same for some of the points."""
        return Coordinates(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Frame:
    """Maps patient space (LPS mm, origin at the middle of the canal's front wall) to the frames.

    Args:
        posture: The curve.
        step_along_mm: Where the column is displaced by an injury, along the spine.
        step_mm: By how much everything above is displaced to the front.
        turn: By how much everything above is turned about the column, radians.
        is_along_joints: Behind the discs the two parts meet in the facet joints, not at one height.
    """

    posture: Posture
    step_along_mm: float = 0.0
    step_mm: float = 0.0
    turn: float = 0.0
    is_along_joints: bool = False
    _curve: Float64 = field(init=False, repr=False)
    _along: Float32 = field(init=False, repr=False)
    _normal: Float32 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        curve = _curve(self.posture)
        along, normal = _lookup(curve)
        object.__setattr__(self, "_curve", curve)
        object.__setattr__(self, "_along", along)
        object.__setattr__(self, "_normal", normal)

    def point_mm(self, along: float, normal: float = 0.0) -> tuple[float, float]:
        """``(y, z)`` of a point of the midline plane (the injury's displacement left out)."""
        _, y, z, tilt = (np.interp(along, self._curve[0], row) for row in self._curve)
        return float(y - normal * np.cos(tilt)), float(z - normal * np.sin(tilt))

    def position_mm(self, along: float, normal: float = 0.0, lateral: float = 0.0) -> Float64:
        """The point of patient space with these coordinates, LPS ``(3,)``: `locate` inverted."""
        y, z = self.point_mm(along, normal)
        position = np.array([lateral, y, z])
        tilt = float(np.interp(along, self._curve[0], self._curve[3]))
        sin, cos = np.sin(tilt), np.cos(tilt)
        # the map is nearly a rotation, so walking the remaining error back converges at once
        for _ in range(8):
            at = self.locate(*(np.array([v], dtype=np.float32) for v in position))
            ds, dn = along - float(at.along[0]), normal - float(at.normal[0])
            position += (lateral - float(at.lateral[0]), ds * sin - dn * cos, -ds * cos - dn * sin)
        return position

    def head_point(self, along: float, normal: float) -> tuple[float, float]:
        """Front and up, in the head's frame, of a point of the spine's midline plane."""
        moved = normal + self.step_mm * (along < self.step_along_mm)
        y, z = (np.array([v], dtype=np.float32) for v in self.point_mm(along, moved))
        front, up, _ = self._head(np.zeros(1, np.float32), y, z)
        return float(front[0]), float(up[0])

    def locate(self, x: Float32, y: Float32, z: Float32) -> Coordinates:
        """All coordinates of points in patient space, each ``(point,)`` float32."""
        x0, (y, z) = x, _soft_warp(x, y, z, self.posture.wave)
        nodes = np.stack(
            ((y - LOOKUP_Y_MM[0]) / LOOKUP_STEP_MM, (z - LOOKUP_Z_MM[0]) / LOOKUP_STEP_MM)
        )
        along, normal = (
            map_coordinates(table, nodes, order=1, mode="nearest", output=np.float32)
            for table in (self._along, self._normal)
        )
        front, up, head_lateral = self._head(x, y, z)
        shift = Profile(
            (-70, 10, 75, 150, 260), (self.posture.lateral_mm[0], *self.posture.lateral_mm)
        )
        lateral = x - shift(along)
        rotation: Float64 | float = self.posture.rotation
        if self.step_mm:
            slip = self._slip(along, normal, lateral)
            normal = normal - (self.step_mm / (1 + np.exp(slip))).astype(np.float32)
            if self.turn:
                rotation = rotation + self.turn / (1 + np.exp(slip))
        cos, sin = np.cos(rotation), np.sin(rotation)
        pivot = normal + 8
        lateral, normal = lateral * cos + pivot * sin, pivot * cos - lateral * sin - 8
        f32 = np.float32
        return Coordinates(
            x0, y, z, along, normal.astype(f32), lateral.astype(f32), front, up, head_lateral
        )

    def _slip(self, along: Float32, normal: Float32, lateral: Float32) -> Float32:
        """How far points are below the displaced part, in widths of the passage: sharp in the
        column, spread over the soft tissue around it."""
        far = np.abs(normal + 5) - 20
        beyond = along - self.step_along_mm
        if self.is_along_joints:
            far = np.maximum(far, np.abs(lateral) - 24)
            beyond = beyond - np.interp(normal, *JOINT_PLANE_MM)
        out: Float32 = np.clip(beyond / (1.2 + 0.25 * np.clip(far, 0, 60)), -30, 30)
        return out

    def _head(self, x: Float32, y: Float32, z: Float32) -> tuple[Float32, Float32, Float32]:
        posture = self.posture
        tilt = float(np.interp(0.0, self._curve[0], self._curve[3]))
        y0, z0 = self.point_mm(-5 * posture.size, 5 * posture.size + self.step_mm)
        dy, dz = y - np.float32(y0), z - np.float32(z0)
        angle = 0.25 * tilt + posture.head_tilt
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        front, up = -dy * cos - dz * sin, -dy * sin + dz * cos
        side = x - np.float32(posture.lateral_mm[0])
        rotation = posture.head_rotation + self.turn
        c, s = np.float32(np.cos(rotation)), np.float32(np.sin(rotation))
        turned = ((front + 14) * c - side * s - 14, up, side * c + (front + 14) * s)
        return turned[0].astype(np.float32), turned[1], turned[2].astype(np.float32)


def _curve(posture: Posture) -> Float64:
    """Rows along, y, z, tilt; ``(4, point)``, half a millimeter apart."""
    size = posture.size
    s = np.arange(-90.0, 360.0, 0.5)
    cervical = np.clip((s - 15 * size) / (115 * size), 0, 1)
    thoracic = np.clip((s - 130 * size) / (110 * size), 0, 1.3)
    amplitude, period, phase = posture.wave
    tilt = posture.tilt + posture.lordosis * (cervical - 0.5) - posture.kyphosis * thoracic
    tilt = tilt + amplitude * np.sin(s / period + phase)
    tilt = gaussian_filter1d(tilt, 30)
    y, z = np.cumsum(np.sin(tilt)) * 0.5, -np.cumsum(np.cos(tilt)) * 0.5
    middle = MID_CERVICAL_MM * size
    y, z = y - np.interp(middle, s, y), z - np.interp(middle, s, z)
    return np.stack((s, y, z, tilt))


def _lookup(curve: Float64) -> tuple[Float32, Float32]:
    """Along and normal on a lattice of ``(y, z)``."""
    s, cy, cz, tilt = curve
    y = np.arange(*LOOKUP_Y_MM, LOOKUP_STEP_MM)
    z = np.arange(*LOOKUP_Z_MM, LOOKUP_STEP_MM)
    points = np.stack(np.meshgrid(y, z, indexing="ij"), axis=-1).reshape(-1, 2)
    _, nearest = cKDTree(np.stack((cy, cz), axis=1)).query(points)
    dy, dz = points[:, 0] - cy[nearest], points[:, 1] - cz[nearest]
    sin, cos = np.sin(tilt[nearest]), np.cos(tilt[nearest])
    along = s[nearest] + dy * sin - dz * cos
    normal = -dy * cos - dz * sin
    shape = (len(y), len(z))
    # beyond the center of curvature the nearest point jumps; smoothing hides the seam
    return tuple(gaussian_filter(v.reshape(shape), 0.7).astype(np.float32) for v in (along, normal))  # type: ignore[return-value]


def _soft_warp(
    x: Float32, y: Float32, z: Float32, wave: tuple[float, float, float]
) -> tuple[Float32, Float32]:
    """Gentle three-dimensional bending, so that no plane of the patient is perfectly straight."""
    phase = np.float32(wave[2])
    bend = np.sin(z / 31 + phase) * np.cos(x / 27 + 2 * phase)
    lift = np.sin(y / 37 + 3 * phase) * np.cos(x / 33 + phase)
    size = np.float32(0.4 + 14 * wave[0])
    return (y + size * bend).astype(np.float32), (z + size * lift).astype(np.float32)
