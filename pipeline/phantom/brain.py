"""Brainstem, cerebellum, cisterns, tentorium and the vessels between them."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.canvas import Canvas, Region, ellipsoid, inside_all, slab
from pipeline.phantom.head import Head
from pipeline.phantom.noise import Array, Profile
from pipeline.phantom.skull import cavity_depth, near_skull
from pipeline.phantom.tissues import Tissue

CordEntry = tuple[tuple[float, float], tuple[float, float]]
"""Front and up, in the head's frame, of the cord's center at two depths, the lower one first."""


def paint_brain(canvas: Canvas, head: Head, cord: CordEntry) -> None:
    """Fill the cranial cavity with CSF, then paint the brain into it.

    Args:
        canvas: To paint on.
        head: Sizes.
        cord: Where the cord comes from.
    """
    near, case = near_skull(canvas, head)
    region = near.where(case > -2)
    cavity = cavity_depth(region, head, case[case > -2])
    keep = cavity > -2
    region, cavity = region.where(keep), cavity[keep]
    at = region.at
    region.paint(Tissue.DURA, cavity)
    cistern_hu = canvas.palette.cistern_hu
    region.paint(Tissue.CSF, cavity - 0.5, hu=cistern_hu)
    front, back = _stem(head, cord)
    stem_front, stem_back = front(at.up), back(at.up)
    hind, slope = head.tentorium
    roof = hind + slope * (at.front + 80 * head.size)
    roof = roof - 0.10 * np.abs(at.head_lateral)
    _paint_cerebrum(region, head, cavity, roof, stem_back)
    tent = inside_all(slab(at.up - roof, 0.6), stem_back - 8 - at.front, cavity + 0.5)
    _paint_cerebellum(region, head, cavity, roof, stem_back)
    fourth = _fourth_ventricle(region, head, stem_back)
    region.paint(Tissue.CSF, fourth, hu=cistern_hu)
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


def _stem(head: Head, cord: CordEntry) -> tuple[Profile, Profile]:
    """Front and back face of the brainstem by height above the basion."""
    (low_front, low_up), (top_front, top_up) = cord
    size, slope = head.size, 1 / np.tan(head.clivus[0])
    bulge, height = head.pons
    limit = height * slope - head.prepontine
    tip = float(np.clip(limit, top_front + 5, top_front + bulge + 8))
    up = [low_up - 6, low_up, top_up, 0.55 * height, 0.72 * height, height]
    up += [1.25 * height, 1.5 * height, 1.8 * height]
    base = top_front + 0.25 * (tip - top_front - 6)
    # the medulla too lies a few millimeters behind the clivus
    near = [min(share * limit - 1, tip - 3) for share in (0.55, 0.72)]
    medulla = [max(base + 7, near[0]), max(base + 8.5, near[1])]
    front = [low_front + 5, low_front + 5.2, top_front + 5.8, *medulla, tip]
    front += [tip - 0.5, min(tip - 4.5, base + 8), min(tip - 3, base + 9)]
    stem_back = tip - 24.5 * size
    back = [low_front - 5, low_front - 5.2, top_front - 5.8, base - 5, stem_back + 2, stem_back]
    back += [stem_back + 2, stem_back + 5, stem_back + 7]
    order = np.maximum.accumulate(np.array(up) + 1e-3 * np.arange(len(up)))
    return Profile(order, front), Profile(order, back)


def _fourth_ventricle(region: Region, head: Head, stem_back: Array) -> Array:
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
    region: Region, head: Head, cavity: Array, roof: Array, stem_back: Array
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
    region.paint(Tissue.CSF, sulcus, hu=region.canvas.palette.cistern_hu)


def _paint_cerebellum(
    region: Region, head: Head, cavity: Array, roof: Array, stem_back: Array
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
    region.paint(Tissue.CSF, fissure, hu=region.canvas.palette.cistern_hu)


def _paint_brain_vessels(
    region: Region, head: Head, stem_front: Array, cavity: Array, roof: Array
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
