"""Skull base, brain and posterior fossa, face. Coordinates: mm in front of and above the basion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.geometry import Float32
from pipeline.phantom.canvas import Canvas, Region, capsule, ellipsoid, inside_all, slab
from pipeline.phantom.frame import Coordinates
from pipeline.phantom.noise import Field, Profile
from pipeline.phantom.tissues import Tissue


@dataclass(frozen=True, eq=False)
class Head:
    """Sizes in mm for this patient; angles in radians.

    Args:
        center: Of the brain case, in front of and above the basion.
        radius: Of the brain case: front to back, up, side.
        skull: Thickness; scalp: thickness of fat and skin outside it.
        clivus: Slope against the horizontal, length, thickness at the top.
        pons: How far it bulges; its height above the basion.
        fourth: Depth of the fourth ventricle.
        magna: Size of the cisterna magna.
        prepontine: Width of the cistern before the pons.
        tentorium: Height at its hind end, slope.
        palate: Height of the hard palate, slope.
        face: How far it reaches to the front; height of the chin; slope of the jaw's lower edge.
        tongue: Center in front and above, radii.
        teeth: Whether it has them.
        sinus: Radius of the sphenoid sinus.
        folia: Folds of the cerebellum around the circle, phase.
        nose: Fraction of the nasal cavity filled by mucosa.
        adenoid: Thickness of the nasopharynx' roof.
        basilar: Side offset and radius of the basilar artery.
    """

    size: float
    center: tuple[float, float]
    radius: tuple[float, float, float]
    skull: float
    scalp: float
    clivus: tuple[float, float, float]
    pons: tuple[float, float]
    fourth: float
    magna: float
    prepontine: float
    tentorium: tuple[float, float]
    palate: tuple[float, float]
    face: tuple[float, float, float]
    tongue: tuple[float, float, float, float]
    teeth: bool
    sinus: float
    folia: tuple[float, float]
    nose: float
    adenoid: float
    basilar: tuple[float, float]
    fold: Field
    coarse: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float) -> Head:
        """Draw a head."""
        u = rng.uniform
        return cls(
            size=size,
            center=(u(-14, -4) * size, u(56, 66) * size),
            radius=(u(80, 92) * size, u(57, 66) * size, u(64, 72) * size),
            skull=u(4.5, 8),
            scalp=u(5, 11),
            clivus=(np.deg2rad(u(54, 70)), u(36, 44) * size, u(12, 18) * size),
            pons=(u(12, 15) * size, u(27, 34) * size),
            fourth=u(6, 11) * size,
            magna=u(4, 13) * size,
            prepontine=u(2, 6),
            tentorium=(u(26, 40) * size, u(0.25, 0.7)),
            palate=(u(-9, 0) * size, u(-0.10, 0.12)),
            face=(u(84, 100) * size, u(-82, -62) * size, u(-0.05, 0.25)),
            tongue=(u(46, 56) * size, u(-38, -28) * size, u(20, 27) * size, u(20, 27) * size),
            teeth=bool(rng.random() < 0.75),
            sinus=u(7, 13),
            folia=(float(rng.integers(11, 17)), u(0, 6.28)),
            nose=u(0.25, 0.6),
            adenoid=u(2, 10) * (1 if rng.random() < 0.5 else 0.4),
            basilar=(u(-3, 3), u(1.1, 1.8)),
            fold=Field(rng, (14.0, 12.0, 12.0)),
            coarse=Field(rng, (22.0, 18.0, 18.0)),
        )

    def case(self, at: Coordinates) -> Float32:
        """Signed distance into the brain case's ellipsoid (inner table)."""
        return ellipsoid(
            (at.front - self.center[0], self.radius[0]),
            (at.up - self.center[1], self.radius[1]),
            (at.head_lateral, self.radius[2]),
        )

    def outline(self, at: Coordinates) -> Float32:
        """Signed distance into scalp and face together."""
        scalp = self.case(at) + self.skull + self.scalp
        reach, chin, slope = self.face
        lower = at.up - chin + slope * (reach - 12 - at.front)
        profile = reach + 6 * np.sin(at.up / 13.0) - 0.004 * (at.up + 25) ** 2
        # cheeks round off to the sides
        side = np.abs(at.head_lateral) / (64 * self.size)
        face = inside_all(
            profile - 40 * side**2.5 - at.front,
            lower,
            at.front + 25 - 45 * side**4,
            (1 - side) * 60,
            self.center[1] + 20 - at.up,
        )
        return np.maximum(scalp, face)


def paint_head(
    canvas: Canvas, head: Head, cord: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    """Paint face, skull and brain.

    Args:
        canvas: To paint on.
        head: Sizes.
        cord: Where the cord comes from: front and up of its center at two depths, lower first.
    """
    _paint_face(canvas, head)
    box = canvas.head_box((-150, 110), (-40, 140), 95)
    if not len(box.index):
        return
    case = head.case(box.at)
    near = box.where(case > -head.skull - 2)
    case = case[case > -head.skull - 2]
    _paint_skull(near, head, case)
    within = near.where(case > -2)
    _paint_brain(within, head, case[case > -2], cord)


def _clivus(region: Region, head: Head) -> tuple[Float32, Float32]:
    """Distance behind the clivus' back face and along it from the basion."""
    angle = head.clivus[0]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    front, up = region.at.front, region.at.up
    return up * cos - front * sin, front * cos + up * sin


def _cavity(region: Region, head: Head, case: Float32) -> Float32:
    """Signed distance into the cranial cavity: brain case behind the clivus, above the sella."""
    behind, _ = _clivus(region, head)
    top = head.clivus[1] * np.sin(head.clivus[0])
    floor = np.maximum(behind, np.minimum(region.at.up - top - 4, 60))
    petrous = region.at.up - 8 - 0.3 * np.abs(region.at.head_lateral)
    # the fossa's floor rises to the side of the clivus
    side = np.where(region.at.front > -8, petrous, case)
    flat = np.where(np.abs(region.at.head_lateral) > 22, np.minimum(floor, side), floor)
    return inside_all(case, flat)


def _paint_skull(region: Region, head: Head, case: Float32) -> None:
    at = region.at
    behind, along = _clivus(region, head)
    # occipital squama is thick at the protuberance and thin between
    thick = head.skull + 4.0 * np.exp(
        -(((at.front + 82 * head.size) / 22) ** 2) - ((at.up - 26) / 14) ** 2
    ) * np.exp(-((at.head_lateral / 14) ** 2))
    thick = thick + 1.5 * np.clip(np.abs(at.head_lateral) / 40, 0, 1)
    shell = inside_all(-case, thick + case)
    base_up = head.clivus[1] * np.sin(head.clivus[0])
    shell = inside_all(shell, np.maximum(-at.front - 2, at.up - base_up - 4))
    hole = np.hypot(at.front + 15 * head.size, at.head_lateral * 1.05) - 15.5 * head.size
    shell = inside_all(shell, np.where(at.up < 14, hole, 10.0))
    wall = np.clip(along / head.clivus[1], 0, 1.2)
    depth = 4 + (head.clivus[2] - 4) * wall
    clivus = inside_all(
        -behind,
        depth + behind,
        along + 0.5,
        head.clivus[1] + 3 - along,
        15 - np.abs(at.head_lateral),
    )
    floor = inside_all(
        slab(at.up - base_up - 2, 2.0), at.front - 20, 90 - at.front, case + head.skull
    )
    petrous = inside_all(
        ellipsoid((np.abs(at.head_lateral) - 38, 24.0), (at.up - 14, 16.0), (at.front - 2, 15.0)),
        case + head.skull + 2,
    )
    bone = np.maximum.reduce([shell, clivus, floor, petrous])
    region.paint(Tissue.CORTEX, bone)
    region.paint(Tissue.SKULL_MARROW, np.maximum(shell - 1.7, clivus - 1.2))
    region.paint(Tissue.SKULL_MARROW, petrous - 4, hu=500.0)


def _stem(
    head: Head, cord: tuple[tuple[float, float], tuple[float, float]]
) -> tuple[Profile, Profile]:
    """Front and back face of the brainstem by height above the basion."""
    (low_front, low_up), (top_front, top_up) = cord
    size, slope = head.size, 1 / np.tan(head.clivus[0])
    bulge, height = head.pons
    limit = height * slope - head.prepontine
    tip = float(np.clip(limit, top_front + 5, top_front + bulge + 8))
    up = [low_up - 6, low_up, top_up, 0.55 * height, 0.72 * height, height]
    up += [1.25 * height, 1.5 * height, 1.8 * height]
    base = top_front + 0.25 * (tip - top_front - 6)
    front = [low_front + 5, low_front + 5.2, top_front + 5.8, base + 7, base + 8.5, tip]
    front += [tip - 0.5, min(tip - 4.5, base + 8), min(tip - 3, base + 9)]
    stem_back = tip - 24.5 * size
    back = [low_front - 5, low_front - 5.2, top_front - 5.8, base - 5, stem_back + 2, stem_back]
    back += [stem_back + 2, stem_back + 5, stem_back + 7]
    order = np.maximum.accumulate(np.array(up) + 1e-3 * np.arange(len(up)))
    return Profile(order, front), Profile(order, back)


def _paint_brain(
    region: Region,
    head: Head,
    case: Float32,
    cord: tuple[tuple[float, float], tuple[float, float]],
) -> None:
    cavity = _cavity(region, head, case)
    keep = cavity > -2
    region, cavity = region.where(keep), cavity[keep]
    at = region.at
    region.paint(Tissue.DURA, cavity)
    region.paint(Tissue.CSF, cavity - 0.5)
    front, back = _stem(head, cord)
    stem_front, stem_back = front(at.up), back(at.up)
    hind, slope = head.tentorium
    roof = hind + slope * (at.front + 80 * head.size)
    roof = roof - 0.10 * np.abs(at.head_lateral)
    _paint_cerebrum(region, head, cavity, roof, stem_back)
    tent = inside_all(slab(at.up - roof, 0.6), stem_back - 8 - at.front, cavity + 0.5)
    _paint_cerebellum(region, head, cavity, roof, stem_back)
    fourth = _fourth_ventricle(region, head, stem_back)
    region.paint(Tissue.CSF, fourth)
    region.paint(Tissue.TENTORIUM, tent)
    half = 7.0 + 9.5 * np.exp(-(((at.up - head.pons[1]) / 11) ** 2))
    middle, deep = (stem_front + stem_back) / 2, np.maximum((stem_front - stem_back) / 2, 2)
    ring = np.hypot((at.front - middle) / deep, at.head_lateral / half)
    stem = inside_all(
        ((1 - ring) * np.minimum(deep, half)).astype(np.float32),
        at.up - cord[0][1],
        2.3 * head.pons[1] - at.up,
    )
    region.paint(Tissue.BRAINSTEM, stem)
    peduncle = inside_all(
        ellipsoid(
            (at.up - head.pons[1], 10.0),
            (np.abs(at.head_lateral) - 16, 12.0),
            (at.front - middle + 6, 10.0),
        ),
        cavity - 2.5,
    )
    region.paint(Tissue.BRAINSTEM, peduncle)
    _paint_brain_vessels(region, head, stem_front, cavity, roof)


def _fourth_ventricle(region: Region, head: Head, stem_back: Float32) -> Float32:
    """A tent behind the pons; the aqueduct above it and the outlet below are narrow."""
    at = region.at
    height = head.pons[1]
    tall = 15.0 * head.size
    reach = head.fourth * np.clip(1 - np.abs(at.up - height + 2) / tall, 0, 1) + 0.9
    behind = stem_back - at.front
    side = 9.0 * np.clip(1 - np.abs(at.up - height + 2) / (tall + 6), 0.12, 1)
    return inside_all(
        behind + 0.6,
        reach - behind,
        side - np.abs(at.head_lateral),
        at.up - height + 22 * head.size,
        height + 30 - at.up,
    )


def _paint_cerebrum(
    region: Region, head: Head, cavity: Float32, roof: Float32, stem_back: Float32
) -> None:
    """Gray rim and white core above the tentorium and beside the basal cisterns."""
    at = region.at
    side = np.abs(at.head_lateral)
    floor = head.clivus[1] * np.sin(head.clivus[0]) + 5
    cistern = (side < 20) & (at.front < 24)
    basal = at.up - np.where(cistern, 1.6 * head.pons[1], np.where(side < 20, floor, 12.0))
    before = np.clip((at.front - stem_back + 6) / 8, 0, 1)
    above = (1 - before) * (at.up - roof) + before * basal
    keep = above > -2
    region, cavity, above = region.where(keep), cavity[keep], above[keep]
    if not len(region.index):
        return
    at = region.at
    fold = head.fold.smooth(at.head_lateral, at.front, at.up)
    coarse = head.coarse.smooth(at.head_lateral, at.front, at.up)
    lobe = inside_all(cavity - 2.0, above - 1.8, np.abs(at.head_lateral + 1.0 * coarse) - 0.5)
    region.paint(Tissue.BRAIN_GRAY, lobe)
    region.paint(Tissue.BRAIN_WHITE, lobe - 5.0 - 2.0 * fold - 1.5 * coarse)
    sulcus = inside_all(0.25 - 3.0 * np.abs(fold), 9 + 3 * coarse - lobe, lobe + 1)
    region.paint(Tissue.CSF, sulcus)


def _paint_cerebellum(
    region: Region, head: Head, cavity: Float32, roof: Float32, stem_back: Float32
) -> None:
    """Gray folds around a white tree that radiates from the roof of the fourth ventricle."""
    at = region.at
    center_up = head.pons[1] - 2
    center = stem_back - head.fourth - 3
    low = -1.0 + head.magna * np.exp(-((at.head_lateral / 9) ** 2))
    whole = inside_all(
        cavity - 1.4,
        roof - 1.6 - at.up,
        stem_back - 0.4 - at.front + 0.8 * np.clip(np.abs(at.head_lateral) - 9, 0, 24),
        at.up - low - 0.15 * (at.front + 30),
    )
    behind = center - 21 * head.size
    round_off = ellipsoid(
        (at.front - behind, 42 * head.size),
        (at.up - center_up, 37 * head.size),
        (at.head_lateral, 56 * head.size),
    )
    whole = inside_all(whole, round_off)
    keep = whole > -1
    region, whole, center = region.where(keep), whole[keep], center[keep]
    if not len(region.index):
        return
    at = region.at
    region.paint(Tissue.CEREBELLUM, whole)
    dy, dz = at.front - center, at.up - center_up
    radius = np.hypot(dy, dz)
    wobble = 0.35 * head.fold.smooth(at.head_lateral, at.front, at.up)
    count, phase = head.folia
    angle = np.arctan2(dz, -dy) + wobble * 0.35
    arms = np.cos(count * 0.5 * angle + phase)
    width = np.clip(0.9 + radius * 0.045, 0, 2.4)
    tree = inside_all((arms - 0.72) * radius * 0.25 + 0.3, whole - 2.2, width * 2)
    region.paint(Tissue.BRAIN_WHITE, np.maximum(tree, inside_all(7 - radius, whole - 1)))
    hemisphere = inside_all(
        ellipsoid((dy + 14, 17.0), (dz, 9.0), (np.abs(at.head_lateral) - 20, 14.0)), whole - 5
    )
    region.paint(Tissue.BRAIN_WHITE, hemisphere)
    fissure = inside_all((-arms - 0.955) * radius * 0.30, 13 - whole, whole + 0.5)
    region.paint(Tissue.CSF, fissure)


def _paint_brain_vessels(
    region: Region, head: Head, stem_front: Float32, cavity: Float32, roof: Float32
) -> None:
    at = region.at
    side, radius = head.basilar
    gap = at.front - stem_front - 1.2
    basilar = inside_all(
        radius - np.hypot(gap - radius * 0.4, at.head_lateral - side * np.cos(at.up / 14)),
        at.up - 0.55 * head.pons[1],
        1.4 * head.pons[1] - at.up,
    )
    region.paint(Tissue.ARTERY, basilar)
    spread = np.clip(0.62 * head.pons[1] - at.up, 0, 40) * 0.42
    vertebral = inside_all(
        1.5 - np.hypot(gap - 0.8 + 0.12 * spread, np.abs(at.head_lateral) - spread - 0.6),
        0.62 * head.pons[1] - at.up,
        at.up + 8,
    )
    region.paint(Tissue.ARTERY, vertebral)
    straight = inside_all(1.7 - np.hypot(at.up - roof - 1.0, at.head_lateral), -28 - at.front)
    region.paint(Tissue.SINUS, straight)
    transverse = inside_all(5.0 - np.hypot(cavity - 1.5, (at.up - roof) * 0.8), -45 - at.front)
    region.paint(Tissue.SINUS, transverse)


def _paint_face(canvas: Canvas, head: Head) -> None:
    """Nose, palate, tongue, jaw; the airway of the neck is painted over them later."""
    box = canvas.head_box((6, 115), (-100, 60), 62)
    if not len(box.index):
        return
    at = box.at
    size = head.size
    height, slope = head.palate
    palate = height + slope * (at.front - 30)
    side = np.abs(at.head_lateral)
    coarse = head.coarse.smooth(at.head_lateral, at.front, at.up)
    jaw = head.face[1]
    deep = inside_all(palate - 2 - at.up, at.up - jaw - 6, 86 * size - at.front, 44 - side)
    box.paint(Tissue.MUSCLE, inside_all(deep, 6 * (coarse + 0.9)))
    _paint_nose(box, head, palate, coarse)
    front, up, long, tall = head.tongue
    tongue = (
        ellipsoid((at.front - front, long), (at.up - up, tall), (at.head_lateral, 24 * size))
        + 1.2 * coarse
    )
    root = capsule(
        (at.front, at.up, at.head_lateral), (front - 4, up, 0), (front - 14, up - 22, 0), 12.0
    )
    tongue = np.maximum(tongue, root)
    box.paint(Tissue.TONGUE, tongue)
    # the fat septum and the fans of genioglossus
    fan = np.sin(11 * np.arctan2(at.up - up + 26, at.front - front - 12) + 0.5 * coarse)
    box.paint(Tissue.FAT, inside_all(4 * (fan - 0.97), tongue - 6), hu=15.0, t2=0.42, stir=0.2)
    floor = inside_all(
        slab(at.up - jaw - 9 - 0.05 * at.front, 3.5), at.front - 30, 76 * size - at.front
    )
    box.paint(Tissue.MUSCLE, inside_all(floor, 30 - side))
    gland = ellipsoid((side - 27, 8.0), (at.front - 42, 15.0), (at.up - jaw - 10, 10.0))
    box.paint(Tissue.GLAND, gland)
    _paint_jaw(box, head)


def _paint_nose(box: Region, head: Head, palate: Float32, coarse: Float32) -> None:
    at, side, size = box.at, np.abs(box.at.head_lateral), head.size
    roof = head.clivus[1] * 0.88
    room = inside_all(
        at.up - palate - 2, roof - 8 - at.up, at.front - 24, 88 * size - at.front, 20 - side
    )
    box.paint(Tissue.MUCOSA, room)
    turbinate = 0.5 + 0.5 * np.cos((at.up - palate) / 5.5 + 0.6 * coarse)
    free = inside_all(
        room - 1.2,
        (turbinate - 0.1 - head.nose) * 6,
        side - 1.2 - 0.6 * coarse,
        np.maximum(12.5 - side, 38 - at.front),
    )
    choana = inside_all(room - 1.0, 40 - at.front, at.up - palate - 3, roof - 14 - at.up)
    box.paint(Tissue.AIR, np.maximum(free, choana))
    sinus = ellipsoid(
        (at.front - 36 * size, head.sinus),
        (at.up - roof + 2, 0.85 * head.sinus),
        (at.head_lateral, 16.0),
    )
    box.paint(Tissue.CORTEX, sinus + 1.3)
    box.paint(Tissue.MUCOSA, sinus)
    box.paint(Tissue.AIR, sinus - 0.7)
    maxillary = ellipsoid((side - 28, 11.0), (at.front - 58, 16.0), (at.up - palate - 14, 14.0))
    box.paint(Tissue.CORTEX, maxillary + 1.2)
    box.paint(Tissue.AIR, maxillary)
    plate = inside_all(
        slab(at.up - palate, 1.5), at.front - 33 * size, 84 * size - at.front, 21 * size - side
    )
    box.paint(Tissue.CORTEX, plate)
    uvula = capsule(
        (at.front, at.up), (34 * size, head.palate[0]), (22 * size, head.palate[0] - 24 * size), 3.4
    )
    box.paint(Tissue.MUCOSA, inside_all(uvula, 12 - side) + 0.8)
    box.paint(Tissue.MUSCLE, inside_all(uvula, 12 - side) - 0.8)


def _paint_jaw(box: Region, head: Head) -> None:
    at, size = box.at, head.size
    side = np.abs(at.head_lateral)
    reach, chin, _ = head.face
    # the arch of the jaw: far in front in the midline, behind at the sides
    arch = reach - 13 - 0.016 * side**2
    body = inside_all(
        ellipsoid((at.front - arch, 6.0), (at.up - chin - 17, 14.0), (side * 0.0, 1e3)), 48 - side
    )
    box.paint(Tissue.CORTEX, body)
    box.paint(Tissue.SKULL_MARROW, body - 2.2)
    ramus = inside_all(
        slab(side - 46 * size, 3.5), at.front - 14, 42 - at.front, at.up - chin - 12, 12 - at.up
    )
    box.paint(Tissue.CORTEX, ramus)
    if head.teeth:
        row = 0.5 + 0.5 * np.cos(np.arctan2(at.head_lateral, at.front - 40) * 18)
        for lower, upper in ((chin + 28, chin + 42), (head.palate[0] - 16, head.palate[0] - 2)):
            tooth = inside_all(
                slab(at.front - arch + 2, 3.2),
                at.up - lower,
                upper - at.up,
                26 - side,
                row * 4 - 0.4,
            )
            box.paint(Tissue.TOOTH, tooth)
