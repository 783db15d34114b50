"""Nose, palate, tongue and jaw."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.canvas import Canvas, Region, capsule, ellipsoid, inside_all, slab
from pipeline.phantom.head import Head
from pipeline.phantom.noise import Array
from pipeline.phantom.tissues import Tissue


def paint_face(canvas: Canvas, head: Head) -> None:
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


def _paint_nose(box: Region, head: Head, palate: Array, coarse: Array) -> None:
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
