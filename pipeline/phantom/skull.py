"""Skull base and brain case."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.canvas import Canvas, Region, ellipsoid, inside_all, slab
from pipeline.phantom.head import Head
from pipeline.phantom.noise import Array
from pipeline.phantom.tissues import Tissue


def near_skull(canvas: Canvas, head: Head) -> tuple[Region, Array]:
    """The points in and around the brain case, with their signed distance into it."""
    box = canvas.head_box((-150, 110), (-40, 140), 95)
    case = head.case(box.at)
    keep = case > -head.skull - 2
    return box.where(keep), case[keep]


def _clivus(region: Region, head: Head) -> tuple[Array, Array]:
    """Distance behind the clivus' back face and along it from the basion."""
    angle = head.clivus[0]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    front, up = region.at.front, region.at.up
    return up * cos - front * sin, front * cos + up * sin


def cavity_depth(region: Region, head: Head, case: Array) -> Array:
    """Signed distance into the cranial cavity: brain case behind the clivus, above the sella."""
    behind, _ = _clivus(region, head)
    top = head.clivus[1] * np.sin(head.clivus[0])
    floor = np.maximum(behind, np.minimum(region.at.up - top - 4, 60))
    petrous = region.at.up - 8 - 0.3 * np.abs(region.at.head_lateral)
    # the fossa's floor rises to the side of the clivus
    side = np.where(region.at.front > -8, petrous, case)
    flat = np.where(np.abs(region.at.head_lateral) > 22, np.minimum(floor, side), floor)
    return inside_all(case, flat)


def paint_skull(canvas: Canvas, head: Head) -> None:
    """Vault, clivus, floor of the anterior fossa, petrous bones."""
    region, case = near_skull(canvas, head)
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
