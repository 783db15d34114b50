"""Outline and muscles of the neck, and the sizes of what lies in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.phantom.airway import Airway
from pipeline.phantom.canvas import Canvas, Region, ellipsoid, inside_all, slab
from pipeline.phantom.frame import Coordinates
from pipeline.phantom.noise import Array, Field, Profile
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
        airway: Pharynx to trachea.
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
    airway: Airway
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
        airway = Airway.draw(rng, size)
        prevertebral = _prevertebral(rng, size)
        inner = [16.5 * size + prevertebral.at(k) + airway.depth.at(k) for k in knots]
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
            airway=airway,
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

    def outline(self, at: Coordinates) -> Array:
        """Signed distance into neck, shoulders and upper chest."""
        back, front = self.back(at.along), self.front(at.along)
        half = (back + front) / 2
        n = (at.normal - (front - back) / 2) / half
        x = at.lateral / self.half_side(at.along)
        ring = (np.abs(n) ** 2.5 + np.abs(x) ** 2.5) ** np.float32(0.4)
        out: Array = ((1 - ring) * half).astype(np.float32)
        return out


def _prevertebral(rng: np.random.Generator, size: float) -> Profile:
    """Thin down to C4, then as deep as the gullet makes it; mm."""
    u = rng.uniform
    thin, low = u(2.8, 5.0), u(11, 17)
    knots = np.array([-40, -20, -5, 25, 60, 78, 98, 115, 150, 320]) * size
    return Profile(knots, [20, 11, 6, thin, thin + u(0, 1), u(5, 8), low, low + 1, u(13, 18), 15])


def paint_soft_tissue(canvas: Canvas, neck: Neck, skin_depth: Array) -> None:
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


def _paint_muscles_behind(region: Region, neck: Neck, skin_depth: Array) -> None:
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
    region: Region, neck: Neck, sheet: Array, broad: Array, muscle: Array, total: Array
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


def _paint_muscles_before(region: Region, neck: Neck, skin_depth: Array) -> None:
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
