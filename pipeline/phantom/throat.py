"""Before the column: prevertebral tissue, vessels, thyroid, airway, larynx, gullet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.phantom.canvas import Canvas, Region, capsule, ellipsoid, inside_all, slab
from pipeline.phantom.injuries import Finding, Injuries
from pipeline.phantom.neck import Neck
from pipeline.phantom.noise import Array
from pipeline.phantom.spine import Spine
from pipeline.phantom.tissues import Tissue


def paint_throat(canvas: Canvas, neck: Neck, spine: Spine, injuries: Injuries) -> None:
    """Everything between column and skin in front, in the order of depth."""
    box = canvas.between((-34 * neck.size, 330), (0, 75), 48)
    if not len(box.index):
        return
    before = _ahead(box, neck, spine, injuries)
    medium = neck.medium.smooth(box.at.x, box.at.y, box.at.z)
    _paint_prevertebral(box, neck, spine, injuries, before)
    _paint_great_vessels(box, neck, before)
    near = np.abs(box.x) < 40
    part, ahead, medium = box.where(near), before.take(near), medium[near]
    drift = neck.airway.drift * np.clip((part.s - 70) / 50, 0, 1)
    x = (part.x - drift).astype(np.float32)
    _paint_thyroid(part, neck, ahead, x, medium)
    _paint_airway(part, neck, ahead, x, medium)
    _paint_haematoma(part, neck, spine, injuries, ahead)


def swelling(spine: Spine, injuries: Injuries) -> tuple[float, float, float]:
    """Prevertebral swelling: center along the spine, thickness, extent; mm."""
    injury = injuries.get(Finding.PREVERTEBRAL_HAEMATOMA)
    level = spine.levels[injuries.level]
    if injury is None:
        return level.disc_middle, 0.0, 1.0
    thick = 2.5 + 6.5 * injury.severity
    return (
        level.disc_middle + 16 * (injury.shape[0] - 0.5),
        thick if injury.ct_visible else 0.0,
        14 + 26 * injury.shape[1],
    )


@dataclass(frozen=True, eq=False)
class _Ahead:
    """Distances before the column: ``ahead`` of it, ``soft`` the prevertebral tissue's depth."""

    ahead: Array
    soft: Array
    swollen: Array

    def take(self, keep: NDArray[np.bool_]) -> _Ahead:
        return _Ahead(self.ahead[keep], self.soft[keep], self.swollen[keep])


def _ahead(region: Region, neck: Neck, spine: Spine, injuries: Injuries) -> _Ahead:
    center, thick, extent = swelling(spine, injuries)
    swollen = thick * np.exp(-(((region.s - center) / extent) ** 2))
    swollen = swollen.astype(np.float32)
    ahead = region.n - spine.front()(region.s)
    return _Ahead(ahead, neck.prevertebral(region.s) + swollen, swollen)


def _paint_prevertebral(
    box: Region, neck: Neck, spine: Spine, injuries: Injuries, before: _Ahead
) -> None:
    side = np.abs(box.x)
    ahead, soft = before.ahead, before.soft
    sheet = inside_all(ahead, soft - ahead, 19 - side, box.s + 4)
    box.paint(Tissue.MUSCLE, sheet)
    longus = inside_all(
        ahead - 0.4,
        0.62 * (soft - before.swollen) + before.swollen + 1.5 - ahead,
        14 - side,
        side - 1.2,
    )
    box.paint(Tissue.LONGUS, inside_all(longus, box.s - 2))
    # the thin fat stripe between longus and pharynx
    stripe = slab(ahead - 0.75 * soft, 0.35 + 0.25 * neck.marbling)
    box.paint(Tissue.FAT, inside_all(stripe, 15 - side, box.s - 8), hu=-40.0)


def _paint_great_vessels(box: Region, neck: Neck, before: _Ahead) -> None:
    lateral, normal, artery, vein = neck.carotid
    side = np.abs(box.x)
    sway = 2.5 * np.sin(box.s / 27 + 0.4 * np.sign(box.x))
    lift = np.clip((box.s - 90) / 60, 0, 1) * 6
    place = lateral + np.clip((60 - box.s) / 60, -1, 1) * 3
    tube = artery - np.hypot(side - place - 0.5 * sway, before.ahead - normal + 10 - sway - lift)
    box.paint(Tissue.FAT, inside_all(tube + vein + 4, box.s), hu=-70.0)
    box.paint(
        Tissue.VEIN, vein - np.hypot(side - place - 7 + sway, before.ahead - normal + 12 - lift)
    )
    box.paint(Tissue.ARTERY, tube)
    vertebral = 1.9 - np.hypot(side - 16.5 * neck.size - 0.4 * sway, box.n - 1.5)
    box.paint(Tissue.ARTERY, inside_all(vertebral, box.s - 12 * neck.size, 138 * neck.size - box.s))
    for normal_at, lateral_at, wave, phase, radius in neck.strands:
        wobble = 4 * np.sin(box.s / wave + phase)
        thread = radius - np.hypot(
            before.ahead - normal_at - wobble, box.x - lateral_at - 0.6 * wobble
        )
        box.paint(Tissue.VEIN, inside_all(thread, before.ahead - before.soft - 2))
    for along, ahead_at, lateral_at, radius in neck.blobs:
        blob = ellipsoid(
            (box.s - along, 1.5 * radius),
            (before.ahead - ahead_at, radius),
            (box.x - lateral_at, radius),
        )
        box.paint(
            Tissue.NODE if radius < 5 else Tissue.GLAND,
            inside_all(blob, before.ahead - before.soft),
        )


def _paint_thyroid(part: Region, neck: Neck, before: _Ahead, x: Array, medium: Array) -> None:
    large, along, uneven = neck.thyroid
    base = before.soft + 6
    for sign, scale in ((-1.0, 1.0), (1.0, uneven)):
        r = large * scale
        lobe = ellipsoid(
            (before.ahead - base, 8 * r),
            (x - sign * (11 + 3 * r), 6.5 * r),
            (part.s - along, 19 * r),
        )
        part.paint(Tissue.THYROID, inside_all(lobe + 0.4 * medium, before.ahead - 2))
        if r > 1.4:
            nodule = ellipsoid(
                (before.ahead - base - 2, 3.6 * r),
                (x - sign * 17, 3.0 * r),
                (part.s - along - 3, 5.0 * r),
            )
            hu = float(part.canvas.palette.hu[Tissue.THYROID]) - 40
            part.paint(Tissue.THYROID, nodule, hu=hu, t2=0.6, stir=0.62)
    front = before.soft + neck.airway.gap(part.s) + neck.airway.depth(part.s) + 2 + 1.5 * large
    isthmus = ellipsoid(
        (before.ahead - front, 2.2 * large), (x, 15.0), (part.s - along - 2, 7.0 * large)
    )
    part.paint(Tissue.THYROID, isthmus)


def _paint_airway(part: Region, neck: Neck, before: _Ahead, x: Array, medium: Array) -> None:
    size = neck.size
    depth, side = neck.airway.depth(part.s), neck.airway.half_side(part.s)
    wall = before.soft + neck.airway.gap(part.s)
    middle = wall + depth / 2
    soft_edge = 0.10 * medium * np.clip((85 * size - part.s) / 20, 0, 1)
    ring = np.hypot((before.ahead - middle) / (depth / 2), x / side) + soft_edge
    tube = ((1 - ring) * np.minimum(depth / 2, side)).astype(np.float32)
    top = part.s + 17 * size
    _paint_gullet(part, neck, before, x)
    box_of_voice = inside_all(
        tube + 6.0, part.s - 64 * size, 100 * size - part.s, before.ahead - before.soft + 1
    )
    part.paint(Tissue.MUSCLE, box_of_voice)
    fat = ellipsoid((before.ahead - wall - depth - 4, 4.0), (part.s - 66 * size, 12.0), (x, 12.0))
    part.paint(Tissue.FAT, fat)
    part.paint(Tissue.MUCOSA, inside_all(tube + 2.0, top, 104 * size - part.s))
    trachea = inside_all(tube + 2.4, part.s - 98 * size)
    rings = 0.5 + 0.5 * np.cos((part.s - 98 * size) * 1.25)
    part.paint(Tissue.MUSCLE, trachea)
    hoop = inside_all(trachea - 0.3, (rings - 0.4) * 2, before.ahead - wall - 3)
    part.paint(Tissue.CARTILAGE, hoop)
    part.paint(Tissue.MUCOSA, inside_all(tube + 0.9, trachea))
    part.paint(Tissue.AIR, inside_all(tube, top, before.ahead - 1.5))
    _paint_larynx(part, neck, before, x, tube, wall, depth)


def _paint_larynx(
    part: Region,
    neck: Neck,
    before: _Ahead,
    x: Array,
    tube: Array,
    wall: Array,
    depth: Array,
) -> None:
    size, side = neck.size, np.abs(x)
    plate = inside_all(
        slab(tube + 5.5, 1.3),
        part.s - 74 * size - 0.25 * side,
        94 * size - part.s,
        before.ahead - wall - 0.35 * depth,
    )
    part.paint(Tissue.CARTILAGE, plate)
    cricoid = inside_all(
        slab(tube + 2.6, 1.4), 99 * size - part.s, part.s - 91 * size - 0.25 * (before.ahead - wall)
    )
    part.paint(Tissue.CARTILAGE, cricoid)
    along, ahead = neck.airway.hyoid
    body = capsule(
        (part.s, before.ahead - wall - depth + 0.030 * side**2, np.maximum(side - 16, 0)),
        (along, ahead, 0.0),
        (along + 1.0, ahead + 2, 0.0),
        3.2,
    )
    part.paint(Tissue.CORTEX, body, hu=600.0)
    part.paint(Tissue.MARROW, body - 1.4)
    lean, long = neck.airway.epiglottis
    bottom = 76 * size
    leaf = before.ahead - wall - 0.85 * depth + lean * (bottom - part.s)
    leaf = leaf + 0.02 * side**2
    flap = inside_all(slab(leaf, 1.1), bottom - part.s, part.s - bottom + long, 9 - side)
    part.paint(Tissue.MUCOSA, flap + 0.4)
    part.paint(Tissue.CARTILAGE, flap - 0.4, hu=70.0)


def _paint_gullet(part: Region, neck: Neck, before: _Ahead, x: Array) -> None:
    half, has_gas = neck.airway.gullet
    center, radius = 0.52 * before.soft + 0.4 * before.swollen, np.maximum(0.30 * before.soft, 1.5)
    ring = np.hypot((before.ahead - center) / radius, (x + 2) / half)
    gullet = inside_all(((1 - ring) * radius).astype(np.float32), part.s - 96 * neck.size)
    part.paint(Tissue.OESOPHAGUS, gullet)
    part.paint(Tissue.MUCOSA, gullet - 0.62 * radius)
    if has_gas:
        part.paint(Tissue.AIR, inside_all(gullet - 0.7 * radius, part.s - 120 * neck.size))


def _paint_haematoma(
    part: Region, neck: Neck, spine: Spine, injuries: Injuries, before: _Ahead
) -> None:
    """Blood before the ligament; occult: fluid in tissue that is not thickened."""
    injury = injuries.get(Finding.PREVERTEBRAL_HAEMATOMA)
    if injury is None:
        return
    center, _, extent = swelling(spine, injuries)
    profile = np.exp(-(((part.s - center) / extent) ** 2))
    if injury.ct_visible:
        thick = before.swollen * 1.05 + 0.6
    else:
        thick = (0.25 + 0.3 * injury.severity) * before.soft * profile
    layer = inside_all(
        before.ahead - 0.9, thick - before.ahead + 0.9, (profile - 0.12) * 20, 15 - np.abs(part.x)
    )
    kept = np.isin(
        part.labels,
        (Tissue.AIR, Tissue.CORTEX, Tissue.MARROW, Tissue.CARTILAGE, Tissue.MUCOSA),
        invert=True,
    )
    part.where(kept).paint(Tissue.HAEMATOMA, layer[kept], is_hidden_on_ct=not injury.ct_visible)
