"""Behind the canal: laminae, joints, spinous processes and what is between them."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.canal import Canal, outside_canal
from pipeline.phantom.canvas import Canvas, Region, blend, capsule, ellipsoid, inside_all, slab
from pipeline.phantom.frame import FACET_ASIDE_MM, JOINT_PLANE_MM
from pipeline.phantom.injuries import Finding, Injuries
from pipeline.phantom.noise import Array, Field, Profile
from pipeline.phantom.spine import Level, Spine, bone
from pipeline.phantom.tissues import Tissue


def paint_arch(
    canvas: Canvas, spine: Spine, level: Level, number: int, canal: Canal, injuries: Injuries
) -> None:
    """Pedicles, articular pillars, laminae, spinous process, transverse process, flavum."""
    size = spine.size
    length, _, _, slope, _ = level.spinous
    reach = canal.width.at(level.middle) + length + 8
    start, end = level.disc_top - 8, level.bottom + 12 + slope * (length + 12)
    box = canvas.between((start, end), (-reach, 4), 46 * size if number >= 5 else 33 * size)
    if not len(box.index):
        return
    width = canal.width(box.s)
    behind = -box.n - width
    outside = outside_canal(box.n, box.x, box.s, size, canal)
    lamina = _lamina(box, level, width, outside)
    spinous = _spinous(box, level, number, behind, injuries)
    pillar = _pillar(box, level, size, injuries, number)
    side = np.abs(box.x)
    h = level.bottom - level.top
    pedicle = ellipsoid(
        (side - 12.5 * size, 5.5), (box.n + 3.5, 6.0), (box.s - level.middle + 1, h * 0.34)
    )
    transverse = _transverse(box, level, number, size)
    # blending and the root of the spinous process must not enter the canal
    arch = inside_all(blend(lamina, spinous, 2.5), outside - 0.2)
    process = np.maximum.reduce([arch, pillar, pedicle, transverse])
    bone(box, process, 0.9 * spine.cortex_mm + 0.1)
    if number == injuries.level:
        _paint_joint_fluid(box, level, size, injuries)


def paint_between(canvas: Canvas, spine: Spine, canal: Profile) -> None:
    """Flavum lining the canal's back wall; fat crossed by fibers between the spinous processes."""
    size, last = spine.size, spine.levels[-1].bottom
    box = canvas.between((30 * size, last), (-75, -4), 14)
    if not len(box.index):
        return
    behind, side = -box.n - canal(box.s), np.abs(box.x)
    knots = [30 * size, *(v.middle + v.spinous[3] * v.spinous[0] * 0.6 for v in spine.levels)]
    length = Profile(knots, [18 * size, *(v.spinous[0] for v in spine.levels)])(box.s)
    inside = inside_all(
        behind - 0.5, length + 1 - behind, spine.interspinous_mm + 0.10 * behind - side
    )
    # fibers run obliquely from process to process
    slope = spine.levels[3].spinous[3]
    fiber = spine.fiber.smooth(box.x, behind, box.s - (slope + 0.5) * behind)
    fat = np.clip(0.55 + 0.45 * fiber + spine.fat_between, 0, 1).astype(np.float32)
    palette = canvas.palette
    box.paint(
        Tissue.INTERSPINOUS,
        inside,
        hu=45 + fat * (palette.hu[Tissue.FAT] - 20),
        t2=palette.t2[Tissue.FLAVUM] + fat * (palette.t2[Tissue.FAT] - palette.t2[Tissue.FLAVUM]),
        stir=palette.stir[Tissue.FLAVUM]
        + fat * (palette.stir[Tissue.FAT] - palette.stir[Tissue.FLAVUM]),
    )
    box.paint(Tissue.FLAVUM, inside_all(slab(behind - 1.3, 1.6), 10 - side))


def _lamina(box: Region, level: Level, width: Array, outside: Array) -> Array:
    """The arch behind the canal; laminae lean like roof tiles."""
    shingle = box.s - level.middle - 0.55 * (-box.n - 0.75 * width) - 1.5
    h = level.bottom - level.top
    return inside_all(
        outside - 0.2,
        level.lamina - outside,
        -box.n - 0.45 * width,
        h * 0.36 - 0.03 * np.abs(box.x) - np.abs(shingle),
    )


def _spinous(box: Region, level: Level, number: int, behind: Array, injuries: Injuries) -> Array:
    length, height, thickness, slope, curve = level.spinous
    torn = injuries.visible(Finding.INTERSPINOUS_INJURY)
    fan = 0.0
    if torn is not None and number in (injuries.level - 1, injuries.level):
        fan = (0.10 + 0.14 * torn.severity) * (1 if number == injuries.level else -1)
    q = np.clip(behind, 0, length)
    center = level.middle + 2.0 + (slope + fan) * q + curve * q * q
    along = q / length
    tall = height * (0.85 + 0.25 * np.sin(2.6 * along))
    bifid, deviation = level.spread
    wide = thickness * (0.85 + bifid * along**2 + 0.25 * along)
    r = np.hypot((box.s - center) / tall, (box.x - deviation * along) / wide)
    end = length - behind - 0.12 * (box.s - center) ** 2
    return inside_all((1 - r) * np.minimum(tall, wide + 1.0), behind + 2.0, end)


def _pillar(box: Region, level: Level, size: float, injuries: Injuries, number: int) -> Array:
    """Articular pillars: oblique joints with a dark gap between bones."""
    oblique = box.s - level.middle + 2 - 0.75 * (-box.n - 6)
    half = (level.bottom - level.disc_top) / 2 - 0.55
    torn = injuries.visible(Finding.INTERSPINOUS_INJURY)
    if torn is not None and number in (injuries.level - 1, injuries.level):
        half -= 0.3 + 0.7 * torn.severity
    return inside_all(_pillar_section(box, size), half - np.abs(oblique))


def _pillar_section(box: Region, size: float) -> Array:
    side = np.abs(box.x)
    return ellipsoid((box.n + 7.5 * size, 7.0 * size), (side - FACET_ASIDE_MM * size, 6.2 * size))


def _paint_joint_fluid(box: Region, level: Level, size: float, injuries: Injuries) -> None:
    """In the joints of a dislocation, in its place or not; the CT tells it by the bones alone."""
    injury = injuries.get(Finding.FACET_DISLOCATION)
    if injury is None:
        return
    joint = box.s - level.disc_middle - np.interp(box.n, *JOINT_PLANE_MM)
    # in both when it went back into its place; else where it is out
    is_out = np.sign(box.x) * injury.turned_side >= 0
    wide = 0.7 + 0.7 * injury.severity
    fluid = inside_all(_pillar_section(box, size) + 1.5, slab(joint, wide))
    kept = is_out | (not injury.ct_visible)
    box.where(kept).paint(Tissue.HAEMATOMA, fluid[kept], is_hidden_on_ct=True)


def _transverse(box: Region, level: Level, number: int, size: float) -> Array:
    """Short with a foramen in the neck, long and to behind in the thorax."""
    side = np.abs(box.x)
    if number < 5:
        rod = capsule(
            (side, box.n, box.s),
            (15 * size, -3.0, level.middle),
            (25 * size, 1.0, level.middle + 3),
            3.2,
        )
        hole = 2.9 - np.hypot(side - 16.5 * size, box.n - 1.5)
        return inside_all(rod, -hole)
    return capsule(
        (side, box.n, box.s),
        (15 * size, -8.0, level.middle - 2),
        (34 * size, -20.0, level.middle - 4),
        4.5,
    )


def paint_interspinous_injury(
    canvas: Canvas, ragged: Field, spine: Spine, injuries: Injuries, canal: Profile
) -> None:
    """Fluid between and behind the spinous processes; on CT stranding of the fat there."""
    injury = injuries.get(Finding.INTERSPINOUS_INJURY)
    if injury is None:
        return
    level = spine.levels[injuries.level]
    slope = level.spinous[3]
    reach = level.spinous[0] + 6 + 10 * injury.severity
    start = level.disc_middle - 12
    box = canvas.between((start, start + 30 + slope * reach), (-70, -8), 16)
    if not len(box.index):
        return
    behind = -box.n - canal(box.s)
    q = np.clip(behind, 0, reach)
    center = level.disc_middle + 3 + slope * q
    half = 5.5 + 3.5 * injury.severity + 0.10 * q
    medium = ragged.smooth(box.at.x, box.at.y, box.at.z)
    wet = inside_all(
        half - np.abs(box.s - center) + 1.5 * medium,
        behind - 1.5,
        reach - behind + 2 * medium,
        4 + 6 * injury.severity - np.abs(box.x) + medium,
    )
    kept = np.isin(box.labels, (Tissue.CORTEX, Tissue.MARROW, Tissue.CSF, Tissue.CORD), invert=True)
    soft = (np.clip(wet / 2.5, 0, 1) - 0.5) * canvas.edge_mm
    box.where(kept).paint(
        Tissue.INTERSPINOUS_OEDEMA,
        soft[kept].astype(np.float32),
        is_hidden_on_ct=not injury.ct_visible,
    )
