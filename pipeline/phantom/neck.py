"""Outline and muscles of the neck; airway, larynx, gullet, thyroid; vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.geometry import Float32
from pipeline.phantom.canvas import Canvas, Region, capsule, ellipsoid, inside_all, slab
from pipeline.phantom.frame import Coordinates
from pipeline.phantom.injuries import Finding, Injuries
from pipeline.phantom.noise import Field, Profile
from pipeline.phantom.spine import Spine
from pipeline.phantom.tissues import Tissue


@dataclass(frozen=True, eq=False)
class Neck:
    """Sizes in mm; profiles run along the spine.

    Args:
        back: Skin behind the canal's front wall.
        front: Skin before it.
        half_side: Half the width of neck and shoulders.
        fat: Subcutaneous fat behind; skin: its thickness.
        planes: Where fat planes lie, as fractions of the muscles' depth; their thickness.
        nuchal: Half width of the midline fat behind; nuchal_band: half that of the ligament.
        suboccipital: Amount of fat between the short neck muscles, 0..1.
        marbling: Fat inside the muscles, 0..1.
        prevertebral: Soft tissue before the column.
        airway: Its depth; gap: how far its back wall stays off the prevertebral tissue;
            airway_side: half its width; drift: to one side at the bottom.
        hyoid: Along the spine, distance before the airway.
        epiglottis: Lean and length.
        gullet: Half width, gas in it.
        thyroid: Enlargement, along the spine, asymmetry.
        carotid: Lateral, normal, radius of artery and vein.
        strands: Extra vessels as (normal, lateral, wave length, phase, radius).
        blobs: Nodes and glands as (along, normal ahead, lateral, radius).
    """

    size: float
    back: Profile
    front: Profile
    half_side: Profile
    fat: float
    skin: float
    planes: tuple[tuple[float, float], ...]
    nuchal: float
    nuchal_band: float
    suboccipital: float
    marbling: float
    prevertebral: Profile
    airway: Profile
    gap: Profile
    airway_side: Profile
    drift: float
    hyoid: tuple[float, float]
    epiglottis: tuple[float, float]
    gullet: tuple[float, bool]
    thyroid: tuple[float, float, float]
    carotid: tuple[float, float, float, float]
    strands: tuple[tuple[float, float, float, float, float], ...]
    blobs: tuple[tuple[float, float, float, float], ...]
    broad: Field
    sheet: Field
    medium: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float) -> Neck:
        """Draw a neck, thin to stout."""
        u = rng.uniform
        stout = u(0.85, 1.25)
        fat = u(3, 16)
        knots = np.array([-60, -30, 0, 30, 70, 110, 150, 230, 320]) * size
        back = np.array([70, 68, 62, 56, 58, 66, 68, 66, 66]) * size * stout + fat - 6
        front = np.array([60, 50, 40, 42, u(38, 62), u(40, 60), u(42, 60), 62, 78])
        throat = _draw_airway(rng, size)
        prevertebral = _prevertebral(rng, size)
        inner = [16.5 * size + prevertebral.at(k) + throat["airway"].at(k) for k in knots]
        # room for strap muscles, thyroid and skin before the airway
        least = np.where(
            knots > 60 * size, np.array(inner) + u(7, 14) + u(0, 16) * u(0, 1) + 0.4 * fat, 0
        )
        front = np.maximum(front * size * u(0.92, 1.15) + 0.5 * fat, least)
        goitre = u(1.2, 3.0) if rng.random() < 0.3 else u(0.8, 1.1)
        return cls(
            size=size,
            back=Profile(knots, back),
            front=Profile(knots, front),
            half_side=Profile(
                np.array([-60, 0, 60, 100, 125, 150, 180, 240]) * size,
                np.array([70, 64, 58, 64, 88, 135, 175, 190]) * stout**0.5,
            ),
            fat=fat,
            skin=u(1.2, 2.4),
            planes=tuple(
                (f + u(-0.05, 0.05), u(0.1, 1.0) * (2.2 if rng.random() < 0.3 else 1.0))
                for f in (0.22, 0.45, 0.66, 0.84)
            ),
            nuchal=u(1.0, 4.5),
            nuchal_band=u(0.5, 1.2),
            suboccipital=u(0.2, 1.0),
            marbling=float(rng.beta(1, 2.5)),
            prevertebral=prevertebral,
            **throat,
            thyroid=(goitre, u(100, 122) * size, u(0.7, 1.4)),
            carotid=(u(20, 27) * size, u(6, 16), u(2.6, 3.6), u(3.2, 6.5)),
            strands=tuple(
                (u(10, 45), u(-24, 24), u(15, 40), u(0, 6), u(0.9, 2.2))
                for _ in range(int(rng.integers(2, 7)))
            ),
            blobs=tuple(
                (u(10, 170) * size, u(8, 40), u(-30, 30), u(2.5, 8))
                for _ in range(int(rng.integers(0, 7)))
            ),
            broad=Field(rng, (26.0, 24.0, 45.0)),
            sheet=Field(rng, (16.0, 11.0, 55.0)),
            medium=Field(rng, (9.0, 9.0, 9.0)),
        )

    def outline(self, at: Coordinates) -> Float32:
        """Signed distance into neck, shoulders and upper chest."""
        back, front = self.back(at.along), self.front(at.along)
        half = (back + front) / 2
        n = (at.normal - (front - back) / 2) / half
        x = at.lateral / self.half_side(at.along)
        ring = (np.abs(n) ** 2.5 + np.abs(x) ** 2.5) ** np.float32(0.4)
        return ((1 - ring) * half).astype(np.float32)


def _prevertebral(rng: np.random.Generator, size: float) -> Profile:
    """Thin down to C4, then as deep as the gullet makes it; mm."""
    u = rng.uniform
    thin, low = u(2.8, 5.0), u(11, 17)
    knots = np.array([-40, -20, -5, 25, 60, 78, 98, 115, 150, 320]) * size
    return Profile(knots, [20, 11, 6, thin, thin + u(0, 1), u(5, 8), low, low + 1, u(13, 18), 15])


def _draw_airway(rng: np.random.Generator, size: float) -> dict[str, object]:
    u = rng.uniform
    knots = np.array([-22, -14, 0, 25, 48, 62, 72, 80, 88, 98, 112, 320]) * size
    depth = [6, 14, u(7, 16), u(4, 15), u(4, 16), u(6, 18), u(5, 13), u(3, 9), u(8, 16)]
    depth += [u(13, 18), u(14, 19), u(14, 18)]
    return {
        "airway": Profile(knots, np.array(depth) * size),
        "gap": Profile(
            np.array([0, 55, 80, 105, 300]) * size, [0, u(0, 2), u(1, 6), u(0, 3), u(-1, 3)]
        ),
        "airway_side": Profile(
            np.array([-20, 0, 40, 62, 80, 95, 300]) * size,
            np.array([13, u(10, 15), u(9, 16), u(10, 15), u(3.5, 8), 9, 9]) * size,
        ),
        "drift": u(-3, 3) + (u(-8, 8) if rng.random() < 0.25 else 0),
        "hyoid": (u(60, 74) * size, u(5, 11)),
        "epiglottis": (u(0.15, 0.45), u(15, 24)),
        "gullet": (u(6, 9), bool(rng.random() < 0.35)),
    }


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

    ahead: Float32
    soft: Float32
    swollen: Float32

    def take(self, keep: object) -> _Ahead:
        return _Ahead(self.ahead[keep], self.soft[keep], self.swollen[keep])


def _ahead(region: Region, neck: Neck, spine: Spine, injuries: Injuries) -> _Ahead:
    center, thick, extent = swelling(spine, injuries)
    swollen = thick * np.exp(-(((region.s - center) / extent) ** 2))
    swollen = swollen.astype(np.float32)
    ahead = region.n - spine.front()(region.s)
    return _Ahead(ahead, neck.prevertebral(region.s) + swollen, swollen)


def paint_soft_tissue(canvas: Canvas, neck: Neck, skin_depth: Float32) -> None:
    """Fill the body: skin, fat, muscles in layers.

    Args:
        canvas: To paint on.
        neck: Sizes.
        skin_depth: ``(point,)`` signed distance into the body, mm.
    """
    region = canvas.everywhere()
    region.paint(Tissue.SKIN, skin_depth)
    region.paint(Tissue.FAT, skin_depth - neck.skin)
    keep = (skin_depth > neck.skin + 1) & (region.n < 34) & (region.at.up < 30)
    behind = region.where(keep)
    _paint_muscles_behind(behind, neck, skin_depth[keep])
    keep = (skin_depth > neck.skin + 1) & (region.n >= 8) & (region.s > -10)
    _paint_muscles_before(region.where(keep), neck, skin_depth[keep])


def _paint_muscles_behind(region: Region, neck: Neck, skin_depth: Float32) -> None:
    """Multifidus to trapezius, with fat planes between that follow the back's contour."""
    broad = neck.broad.smooth(region.x, region.n, region.s)
    sheet = neck.sheet.smooth(region.x, region.n, region.s)
    side = np.abs(region.x)
    cover = neck.fat + 1.5 * broad
    total = neck.back(region.s) - cover - 17
    depth = (-region.n - 17 + 0.004 * side**2) / np.maximum(total, 8)
    muscle = inside_all(skin_depth - cover * 0.9, 19 + 6 * broad - region.n)
    region.paint(Tissue.MUSCLE, muscle)
    fraction = depth + 0.06 * broad + 0.03 * sheet
    for plane, thick in neck.planes:
        gap = thick * (0.8 + 0.9 * sheet) * np.clip(0.2 + side / 18 + neck.marbling, 0, 1.2)
        away = np.abs(fraction - plane + 0.0012 * (region.s - 60) * (plane - 0.4)) * total
        region.paint(Tissue.FAT, inside_all(gap - away, muscle))
    seam = neck.marbling * 1.3 - 0.35 - 5 * np.abs(sheet - 0.3)
    region.paint(Tissue.FAT, inside_all(seam, muscle, -region.n - 20))
    _paint_nuchal(region, neck, sheet, broad, muscle, total)


def _paint_nuchal(
    region: Region, neck: Neck, sheet: Float32, broad: Float32, muscle: Float32, total: Float32
) -> None:
    """Midline fat with the nuchal ligament; fat between the suboccipital muscles."""
    size, side = neck.size, np.abs(region.x)
    behind = -region.n
    length = inside_all(region.s + 14, 150 * size - region.s)
    width = neck.nuchal * (0.6 + 0.5 * sheet) + 1.2 * np.clip(1 - np.abs(region.s - 55) / 70, 0, 1)
    width = width * np.clip(length / 25, 0, 1)
    region.paint(Tissue.FAT, inside_all(width - side, length, behind - 24, muscle))
    deep = inside_all(
        5 * (broad * 0.8 + 0.5 * sheet + 1.6 * neck.suboccipital - 0.6),
        ellipsoid((region.s - 16 * size, 25 * size), (behind - 34, 17.0), (side, 19.0)) + 5 * sheet,
    )
    region.paint(Tissue.FAT, inside_all(deep, muscle))
    band = neck.nuchal_band * (0.9 + 0.2 * sheet)
    region.paint(Tissue.LIGAMENT, inside_all(band - side, length, behind - 38, muscle + 1))


def _paint_muscles_before(region: Region, neck: Neck, skin_depth: Float32) -> None:
    """Strap, scalene and sternocleidomastoid muscles with fat between them."""
    sheet = neck.sheet.smooth(region.x, region.n, region.s)
    broad = neck.broad.smooth(region.x, region.n, region.s)
    side = np.abs(region.x)
    deep = inside_all(skin_depth - 0.7 * neck.fat - 2, 5 * (broad + 0.5 * sheet + 0.35))
    region.paint(Tissue.MUSCLE, deep)
    strap = inside_all(
        slab(skin_depth - 0.55 * neck.fat - 4.5, 1.6), 26 - side, region.s - 72 * neck.size
    )
    region.paint(Tissue.MUSCLE, strap)
    lean = np.clip((region.s - 10) / (140 * neck.size), 0, 1)
    mastoid = ellipsoid(
        (side - 52 + 34 * lean, 7.5), (region.n - 2 - 38 * lean, 14.0), (region.s * 0, 1e3)
    )
    region.paint(Tissue.MUSCLE, inside_all(mastoid, skin_depth - 2.5, region.s - 5))
    seam = 0.4 + neck.marbling - 6 * np.abs(sheet)
    region.paint(Tissue.FAT, inside_all(seam, deep))


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
    drift = neck.drift * np.clip((part.s - 70) / 50, 0, 1)
    x = (part.x - drift).astype(np.float32)
    _paint_thyroid(part, neck, ahead, x, medium)
    _paint_airway(part, neck, ahead, x, medium)
    _paint_haematoma(part, neck, spine, injuries, ahead)


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


def _paint_thyroid(part: Region, neck: Neck, before: _Ahead, x: Float32, medium: Float32) -> None:
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
    front = before.soft + neck.gap(part.s) + neck.airway(part.s) + 2 + 1.5 * large
    isthmus = ellipsoid(
        (before.ahead - front, 2.2 * large), (x, 15.0), (part.s - along - 2, 7.0 * large)
    )
    part.paint(Tissue.THYROID, isthmus)


def _paint_airway(part: Region, neck: Neck, before: _Ahead, x: Float32, medium: Float32) -> None:
    size = neck.size
    depth, side = neck.airway(part.s), neck.airway_side(part.s)
    wall = before.soft + neck.gap(part.s)
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
    x: Float32,
    tube: Float32,
    wall: Float32,
    depth: Float32,
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
    along, ahead = neck.hyoid
    body = capsule(
        (part.s, before.ahead - wall - depth + 0.030 * side**2, np.maximum(side - 16, 0)),
        (along, ahead, 0.0),
        (along + 1.0, ahead + 2, 0.0),
        3.2,
    )
    part.paint(Tissue.CORTEX, body, hu=600.0)
    part.paint(Tissue.MARROW, body - 1.4)
    lean, long = neck.epiglottis
    bottom = 76 * size
    leaf = before.ahead - wall - 0.85 * depth + lean * (bottom - part.s)
    leaf = leaf + 0.02 * side**2
    flap = inside_all(slab(leaf, 1.1), bottom - part.s, part.s - bottom + long, 9 - side)
    part.paint(Tissue.MUCOSA, flap + 0.4)
    part.paint(Tissue.CARTILAGE, flap - 0.4, hu=70.0)


def _paint_gullet(part: Region, neck: Neck, before: _Ahead, x: Float32) -> None:
    half, has_gas = neck.gullet
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


def paint_interspinous_injury(
    canvas: Canvas, neck: Neck, spine: Spine, injuries: Injuries, canal: Profile
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
    medium = neck.medium.smooth(box.at.x, box.at.y, box.at.z)
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
