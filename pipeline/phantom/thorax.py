"""Ribs, lungs and shoulder girdle: what an axial CT of the neck shows at its lower end."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.canvas import Canvas, capsule, ellipsoid, inside_all
from pipeline.phantom.noise import Profile
from pipeline.phantom.spine import Spine, bone
from pipeline.phantom.tissues import Tissue

FIRST_RIB_LEVEL = 5
"""Index of T1 in the levels; the first entry of the sizes below is a rib of C7."""

RIB_HALF_WIDTH_MM = (30, 46, 60, 72, 82, 88, 92, 95, 97, 98)
RIB_DEPTH_MM = (36, 62, 78, 92, 104, 112, 118, 122, 125, 127)


def paint_thorax(canvas: Canvas, spine: Spine, front: Profile) -> None:
    """Paint lungs, then ribs as tilted rings, clavicles and shoulder blades.

    Args:
        canvas: To paint on.
        spine: Whose thoracic levels carry the ribs.
        front: Normal of the skin before the spine.
    """
    size = spine.size
    first = spine.levels[FIRST_RIB_LEVEL]
    if float(canvas.at.along[-1]) < first.disc_top - 25:
        return
    box = canvas.between((first.disc_top - 25, 360), (-75, 130), 200)
    if not len(box.index):
        return
    side = np.abs(box.x)
    apex = first.middle + 4
    # the chest wall before the lungs, rounding off to the sides
    wall = front(box.s) - 5 - 0.0012 * side**2 - box.n
    lung = inside_all(
        ellipsoid(
            (box.s - apex - 105 * size, 105 * size),
            (side - 46 * size, 38 * size),
            (box.n - 22 * size, 62 * size),
        ),
        side - 17 * size,
        wall - 10,
    )
    box.paint(Tissue.MUSCLE, lung + 4)
    box.paint(Tissue.LUNG, lung)
    first_rib = FIRST_RIB_LEVEL - spine.has_cervical_ribs
    for number, level in enumerate(spine.levels[first_rib:], start=1 - spine.has_cervical_ribs):
        half, depth = RIB_HALF_WIDTH_MM[number] * size, RIB_DEPTH_MM[number] * size
        start = -14.0 * size
        ring = np.hypot((box.n - start - depth / 2) / (depth / 2), box.x / half)
        away = (ring - 1) * min(half, depth / 2)
        drop = level.top + 1.0 + 0.50 * np.clip(box.n + 6, -12, depth)
        rib = 1 - np.hypot(away / 3.2, (box.s - drop) / 5.5)
        rib = inside_all((rib * 3.2).astype(np.float32), side - 9 * size, depth * 0.86 - box.n)
        bone(box, rib, 1.0)
    clavicle = capsule(
        (side, box.n, box.s),
        (16 * size, 68 * size, first.bottom + 42),
        (150 * size, 10.0, first.bottom + 2),
        6.0,
    )
    bone(box, np.minimum(clavicle, wall), 1.6)
    blade = inside_all(
        3.0 - np.abs(box.n + 48 - 0.25 * (side - 70)),
        side - 68,
        125 - side,
        box.s - first.bottom - 8,
    )
    bone(box, blade, 1.0)
