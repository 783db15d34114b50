"""Atlas, axis with dens, condyles and the ligaments between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.phantom.canvas import Canvas, Region, Value, blend, capsule, ellipsoid, inside_all
from pipeline.phantom.noise import Array, Profile
from pipeline.phantom.spine import C2_END_MM, Spine, bone
from pipeline.phantom.tissues import Tissue


@dataclass(frozen=True)
class Craniovertebral:
    """Sizes in mm.

    Args:
        dens_depth: AP diameter of the dens.
        dens_lean: Slope of the dens; positive leans to behind at the tip.
        arch: Distance of the atlas' anterior arch below the dens tip, its half height and depth.
        gap: Atlantodental interval.
        posterior_arch: Below the dens tip, half height, half depth, distance behind the canal.
        synchondrosis: Darkness of the remnant disc in the axis, 0..1.
        spinous: Length, half height and half width of the axis' spinous process.
    """

    size: float
    dens_depth: float
    dens_lean: float
    arch: tuple[float, float, float]
    gap: float
    posterior_arch: tuple[float, float, float, float]
    synchondrosis: float
    spinous: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float) -> Craniovertebral:
        """Draw the upper neck."""
        uniform = rng.uniform
        return cls(
            size=size,
            dens_depth=uniform(10.2, 12.2) * size,
            dens_lean=uniform(-0.05, 0.14),
            arch=(uniform(5.5, 9.5) * size, uniform(4.6, 6.2) * size, uniform(2.8, 3.6) * size),
            gap=uniform(0.8, 2.2),
            posterior_arch=(
                uniform(7, 12) * size,
                uniform(3.6, 5.2) * size,
                uniform(2.6, 3.8) * size,
                uniform(0.5, 2.0),
            ),
            synchondrosis=uniform(0, 1),
            spinous=(uniform(17, 23) * size, uniform(5.5, 7.5) * size, uniform(3.5, 5.5) * size),
        )


def paint_craniovertebral(
    canvas: Canvas, part: Craniovertebral, spine: Spine, canal: Profile
) -> None:
    """Ligaments and fat first, then condyles, atlas and axis."""
    size = part.size
    box = canvas.between((-16, 62 * size), (-48, 30), 34 * size)
    if not len(box.index):
        return
    rim = 0.9 * spine.cortex_mm + 0.1
    _paint_ligaments(box, part)
    _paint_axis(box, part, spine, canal, rim)
    _paint_atlas(box, part, canal, rim)


def _dens_axis(box: Region, part: Craniovertebral) -> Array:
    """Normal of the dens' axis along the spine."""
    lean = part.dens_lean * np.clip(22 * part.size - box.s, 0, 30)
    axis: Array = (1.2 + part.dens_depth / 2 - lean).astype(np.float32)
    return axis


def _paint_ligaments(box: Region, part: Craniovertebral) -> None:
    """Fat above and before the dens; cruciform ligament and tectorial membrane behind it."""
    size, axis = part.size, _dens_axis(box, part)
    half = part.dens_depth / 2
    around = inside_all(
        axis + half + 9 - box.n,
        box.n + np.clip(box.s - 2, -9, 0) * 0.35 + 0.3,
        24 * size - box.s,
        box.s + 8,
        9 - np.abs(box.x),
        ellipsoid((box.n - 10, 10.0), (box.s - 6, 14.0 * size), (box.x, 11.0)),
    )
    box.paint(Tissue.FAT, around - 0.4, hu=-60.0)
    behind = inside_all(
        slab_between(box.n, axis - half - 2.2, axis - half - 0.1),
        26 * size - box.s,
        box.s + 4,
        11 - np.abs(box.x),
    )
    box.paint(Tissue.LIGAMENT, behind)
    apical = capsule((box.s, box.n), (0.0, 5.0), (-7.0, 7.5), 1.0)
    box.paint(Tissue.LIGAMENT, inside_all(apical, 3 - np.abs(box.x)))
    membrane = capsule((box.s, box.n), (3.0, 17.0 * size), (-8.0, 9.0), 0.9)
    box.paint(Tissue.LIGAMENT, inside_all(membrane, 12 - np.abs(box.x)))
    below = capsule((box.s, box.n), (10.0, 19.0 * size), (24.0 * size, 15.5 * size), 0.9)
    box.paint(Tissue.LIGAMENT, inside_all(below, 10 - np.abs(box.x)))


def slab_between(value: Array, low: Value, high: Value) -> Array:
    """Signed distance to a layer."""
    return inside_all(value - low, high - value)


def _paint_axis(
    box: Region, part: Craniovertebral, spine: Spine, canal: Profile, rim: float
) -> None:
    size, axis = part.size, _dens_axis(box, part)
    side = np.abs(box.x)
    half = part.dens_depth / 2
    end = C2_END_MM * size
    neck = 1 - 0.10 * np.exp(-(((box.s - 15 * size) / 5) ** 2))
    section = (1 - np.hypot((box.n - axis) / (half * neck), box.x / (5.4 * size * neck))) * half
    tip = 5.5 * size
    cap = tip - np.sqrt(
        np.clip(tip - box.s, 0, 30) ** 2 + (box.n - axis) ** 2 + box.x**2
    ) * np.float32(0.98)
    dens = np.where(box.s < tip, cap, section)
    dens = inside_all(dens, 28 * size - box.s)
    depth = 15.6 * size
    front, lateral = (box.n - depth / 2) / (depth / 2), box.x / (10.5 * size)
    radius = (np.abs(front) ** 3 + np.abs(lateral) ** 3) ** (1 / 3)
    waist = 1 - 0.07 * np.sin(np.clip((box.s - 20 * size) / (end - 20 * size), 0, 1) * np.pi)
    top = box.s - 16 * size - 0.55 * np.clip(side - 4, 0, 12)
    hollow = 0.8 * (1 - np.clip(radius, 0, 1) ** 2)
    body = inside_all((1 - radius / waist) * depth / 2, end - hollow - box.s, top)
    masses = inside_all(
        ellipsoid((side - 13 * size, 8.0 * size), (box.n - 4.0, 8.5), (box.s - 21 * size, 8.0)),
        box.s - 15 * size - 0.30 * (side - 13),
    )
    width = canal(box.s)
    behind = -box.n - width
    pedicle = ellipsoid((side - 13 * size, 5.0), (box.n + 4, 7.5), (box.s - 27 * size, 5.5))
    pillar = inside_all(
        ellipsoid((box.n + 7.5 * size, 7.0 * size), (side - 18 * size, 6.0 * size)),
        slab_between(box.s - 0.75 * (-box.n - 6), 22 * size, 36 * size),
    )
    _soft_below_axis(box, part, behind)
    process = np.maximum.reduce(
        [
            blend(_axis_arch(box, part, width), _axis_spinous(box, part, behind), 3.0),
            pedicle,
            pillar,
        ]
    )
    bone(box, process, rim)
    bone(box, np.maximum.reduce([dens, body, masses]), rim)
    if part.synchondrosis > 0.35:
        line = inside_all(0.35 + 0.3 * part.synchondrosis - np.abs(box.s - 21 * size), 4 - side)
        box.paint(Tissue.CORTEX, inside_all(line, dens - 0.5), hu=600.0)


def _soft_below_axis(box: Region, part: Craniovertebral, behind: Array) -> None:
    size = part.size
    near = inside_all(box.s - 14 * size, 50 * size - box.s)
    box.paint(Tissue.FLAVUM, inside_all(near, 1.4 - np.abs(behind - 1.2), 9 - np.abs(box.x)))


def _axis_arch(box: Region, part: Craniovertebral, width: Array) -> Array:
    size = part.size
    n = (box.n + width / 2) / (width / 2)
    ring = (np.abs(n) ** 2.4 + np.abs(box.x / (12.3 * size)) ** 2.2) ** (1 / 2.3)
    outside = (ring - 1) * 7.5 * size
    shingle = box.s - 29 * size - 0.45 * (-box.n - 0.75 * width)
    return inside_all(
        outside - 0.2, 6 * size - outside, -box.n - 0.4 * width, 5.0 * size - np.abs(shingle)
    )


def _axis_spinous(box: Region, part: Craniovertebral, behind: Array) -> Array:
    length, height, thickness = part.spinous
    q = np.clip(behind, 0, length)
    center = 31 * part.size + 0.32 * q
    along = q / length
    tall = height * (0.75 + 0.35 * along)
    wide = thickness * (0.8 + 0.9 * along**2)
    r = np.hypot((box.s - center) / tall, box.x / wide)
    return inside_all(
        (1 - r) * np.minimum(tall, wide + 1),
        behind + 2,
        length - behind - 0.08 * (box.s - center) ** 2,
    )


def _paint_atlas(box: Region, part: Craniovertebral, canal: Profile, rim: float) -> None:
    size, side = part.size, np.abs(box.x)
    axis = _dens_axis(box, part)
    below, tall, deep = part.arch
    face = axis + part.dens_depth / 2 + part.gap + deep
    front = ellipsoid(
        (box.n - face + 0.022 * box.x**2, deep), (box.s - below, tall), (box.x, 15 * size)
    )
    below, tall, deep, gap = part.posterior_arch
    width = canal.at(below)
    back = ellipsoid(
        (box.n + width + gap + deep - 0.030 * box.x**2, deep),
        (box.s - below, tall),
        (box.x, 24 * size),
    )
    tubercle = ellipsoid(
        (box.n + width + gap + 1.6 * deep, deep), (box.s - below, 0.8 * tall), (box.x, 4.0)
    )
    masses = inside_all(
        ellipsoid((side - 16 * size, 7.0 * size), (box.n - 3.0, 9.5), (box.s - 7 * size, 9.5)),
        12.5 * size + 0.30 * (side - 13) - box.s,
        box.s + 1.0 * size - 0.35 * (side - 14),
    )
    transverse = capsule(
        (side, box.n, box.s), (20 * size, 0.0, 8 * size), (34 * size, -1.0, 9 * size), 3.6
    )
    condyle = inside_all(
        ellipsoid((side - 15 * size, 6.0), (box.n - 1.5, 10.0), (box.s + 5 * size, 6.0)),
        -1.0 * size + 0.35 * (side - 14) - box.s,
    )
    bone(box, np.maximum.reduce([front, back, tubercle, masses, transverse]), rim)
    bone(box, condyle, rim)
