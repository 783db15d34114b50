"""The canal and what is in it: epidural fat, dura, CSF, cord, roots.

Where the cord lies in the canal is drawn independently at knots along the spine, and wider than in
health: a network must read it from the CT wherever the CT shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.phantom.canvas import Canvas, Region, capsule, inside_all
from pipeline.phantom.injuries import Finding, Injuries
from pipeline.phantom.noise import Array, Field, Profile
from pipeline.phantom.spine import Spine
from pipeline.phantom.tissues import Tissue

CORD_KNOTS_MM = (-14.0, 2.0, 20.0, 38.0, 56.0, 74.0, 92.0, 110.0, 130.0, 155.0, 200.0)
CORD_CENTER_LIMITS = (0.28, 0.70)
"""Center of the cord as a fraction of the canal's AP diameter, from its front wall; the sac may
stop it before."""


@dataclass(frozen=True, eq=False)
class Canal:
    """The canal's walls and its content; profiles run along the spine in mm.

    Args:
        width: AP diameter between bone and bone.
        half_side: Half the transverse diameter.
        cord_center: Fraction of the diameter behind the front wall.
        cord_depth: AP diameter of the cord.
        cord_half_side: Half its transverse diameter.
        back_fat: Posterior epidural fat.
        front_gap: Anterior epidural space.
        premedullary_mm: Most CSF before the medulla, from the basion down to the dens.
        dura: Thickness of the dark rim.
        flow: Field that darkens moving CSF a little.
        root: Field that places rootlets.
        shift_mm: How far behind its drawn place the cord lies, from C2 down.
    """

    size: float
    width: Profile
    half_side: Profile
    cord_center: Profile
    cord_depth: Profile
    cord_half_side: Profile
    back_fat: Profile
    front_gap: float
    premedullary_mm: float
    dura: float
    flow: Field
    root: Field
    shift_mm: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, spine: Spine) -> Canal:
        """Draw a canal of 10.4 to 16.1 mm at C2, with wear narrowing it at the discs."""
        size, uniform = spine.size, rng.uniform
        base = uniform(10.4, 16.1)
        knots = np.array([-16, -7, 4, 14, 28, 45, 80, 100, 125, 160, 260]) * size
        ratio = [34, 31, *(base * np.array([1.49, 1.34, 1.14, 1, 0.98, 1.04, 1.08, 1.09, 1.10]))]
        width = Profile(knots, np.array(ratio) * size)
        knots_cord = np.array(CORD_KNOTS_MM) * size
        center = uniform(0.40, 0.55) + rng.normal(0, 0.06, len(knots_cord))
        center[0] = 0.46 + uniform(-0.05, 0.05)
        depth = np.interp(CORD_KNOTS_MM, [-14, 2, 20, 40, 60, 92, 120, 200], _CORD_DEPTH_MM)
        side = np.interp(CORD_KNOTS_MM, [-14, 2, 20, 40, 60, 92, 120, 200], _CORD_SIDE_MM)
        fat_knots, fat = _back_fat(rng, spine)
        return cls(
            size=size,
            width=width,
            half_side=Profile(
                np.array([-14, -5, 5, 20, 45, 85, 105, 125, 150, 180, 260]) * size,
                np.array([17, 16.4, 14.9, 13.2, 13.3, 13.5, 12.8, 11.8, 10.3, 9.6, 9.4])
                * size
                * uniform(0.93, 1.07),
            ),
            cord_center=Profile(knots_cord, np.clip(center, *CORD_CENTER_LIMITS)),
            cord_depth=Profile(knots_cord, depth * size * uniform(0.82, 1.08)),
            cord_half_side=Profile(knots_cord, side / 2 * size * uniform(0.93, 1.07)),
            back_fat=Profile(fat_knots, fat),
            front_gap=uniform(0.1, 0.55),
            premedullary_mm=uniform(2.5, 7.0),
            dura=uniform(0.35, 0.7),
            flow=Field(rng, (9.0, 4.0, 9.0)),
            root=Field(rng, (2.5, 3.0, 12.0)),
        )

    def sac(self, at: Array, squeeze: Profile, buckle: Profile) -> tuple[Array, Array]:
        """Normal of the dural sac's front and back wall in the midline."""
        front = -self.front_gap - squeeze(at)
        # above the dens the front wall leans to the basion
        front = front + np.clip(6 - at, 0, 16) * 0.35
        back = -self.width(at) + self.back_fat(at) + buckle(at)
        return front.astype(np.float32), np.minimum(back, front - 3).astype(np.float32)

    def cord(self, at: Array, front: Array, back: Array) -> tuple[Array, Array]:
        """Normal of the cord's center and its AP diameter, kept inside the sac."""
        room = front - back
        depth = np.minimum(self.cord_depth(at), room - 0.6)
        # the medulla stays where the brain holds it
        shift = self.shift_mm * np.clip((at / self.size - 5) / 20, 0, 1)
        wanted = -self.cord_center(at) * self.width(at) - shift
        # the medulla lies close behind the clivus; the room at the foramen magnum is behind it
        nearest = front - depth / 2 - self.premedullary_mm
        high_up = np.clip((16 - at / self.size) / 16, 0, 1)
        wanted = wanted + high_up * np.maximum(nearest - wanted, 0)
        low, high = back + depth / 2 + 0.3, front - depth / 2 - 0.3
        return np.clip(wanted, low, np.maximum(high, low)).astype(np.float32), depth


def cord_normal(canal: Canal, spine: Spine, injuries: Injuries, along: float) -> float:
    """Normal of the cord's center at one position along the spine, mm."""
    at = np.array([along], dtype=np.float32)
    center, _ = canal.cord(at, *canal.sac(at, *narrowing(spine, injuries)))
    return float(center[0])


_CORD_DEPTH_MM = (11.5, 9.0, 8.2, 7.8, 7.6, 7.5, 7.2, 7.0)
_CORD_SIDE_MM = (14.0, 12.0, 11.5, 12.2, 12.9, 12.6, 10.4, 9.6)


def _back_fat(rng: np.random.Generator, spine: Spine) -> tuple[list[float], list[float]]:
    """Fat behind the dura: little in the neck, pads between the laminae, more in the thorax."""
    base, pad = rng.uniform(0.2, 0.9), rng.uniform(0.3, 1.4)
    knots, fat = [-12.0, 8.0, 26.0 * spine.size], [1.0, 1.6, 0.8]
    for number, level in enumerate(spine.levels):
        deep = base + (rng.uniform(0.4, 1.6) if number >= 4 else 0)
        knots += [level.disc_middle + 4, level.middle + 5]
        fat += [deep, deep + pad]
    return knots, fat


def narrowing(spine: Spine, injuries: Injuries) -> tuple[Profile, Profile]:
    """What discs and flavum take from the canal, in mm: from the front and from behind."""
    knots, front, back = [-20.0, 30.0 * spine.size], [0.0, 0.0], [0.0, 0.0]
    stenosis = injuries.get(Finding.CANAL_STENOSIS)
    torn = injuries.visible(Finding.DISC_INJURY)
    fracture = injuries.visible(Finding.VERTEBRAL_FRACTURE)
    for number, level in enumerate(spine.levels):
        bulge = level.bulge[0]
        buckle = 0.4 * level.wear
        push = 0.0
        if number == injuries.level:
            if stenosis:
                bulge += 1.5 + 2.5 * stenosis.severity
                buckle += 0.8 + 1.6 * stenosis.shape[1]
            if torn:
                bulge += 1.5 * torn.shape[0]
            if fracture:
                push = fracture.retropulsion_mm
        mid, half = level.disc_middle, (level.top - level.disc_top) / 2
        rear = level.top + 0.22 * (level.bottom - level.top)
        knots += [mid - half - 2, mid, rear, level.bottom - 3]
        front += [0.1 * bulge, bulge, max(push, 0.15 * bulge), 0.0]
        back += [0.2 * buckle, buckle, 0.3 * buckle, 0.0]
    order = np.argsort(knots, kind="stable")
    at = np.array(knots)[order] + 1e-3 * np.arange(len(knots))
    return Profile(at, np.array(front)[order]), Profile(at, np.array(back)[order])


def paint_canal(canvas: Canvas, canal: Canal, spine: Spine, injuries: Injuries) -> None:
    """Fill the bony canal; vertebrae and discs are painted on top of it later."""
    stenosis = injuries.get(Finding.CANAL_STENOSIS)
    if stenosis is None or stenosis.ct_visible:
        _fill_canal(canvas, canal, spine, injuries)
        return
    _fill_canal(canvas, canal, spine, injuries.on_ct)
    with canvas.without_ct():
        _fill_canal(canvas, canal, spine, injuries)


def _fill_canal(canvas: Canvas, canal: Canal, spine: Spine, injuries: Injuries) -> None:
    box = canvas.between((-15 * canal.size, spine.levels[-1].bottom), (-48, 9), 24)
    if not len(box.index):
        return
    squeeze, buckle = narrowing(spine, injuries)
    front, back = canal.sac(box.s, squeeze, buckle)
    width, half_side = canal.width(box.s), canal.half_side(box.s)
    top = box.s + 1 * canal.size
    bony_front = np.clip(6 - box.s, 0, 16) * 0.35
    box.paint(
        Tissue.EPIDURAL_FAT, inside_all(_tube(box, bony_front, -width, half_side, canal.size), top)
    )
    _paint_vein_plexus(box, front, top)
    sac = _tube(box, front, back, half_side - 0.8, canal.size)
    box.paint(Tissue.DURA, inside_all(sac + canal.dura, top + 1))
    # a dome, so that the tube does not cut into the cerebellum
    crown = top + 11 * canal.size - 0.5 * np.abs(box.n + 0.48 * width)
    moving = 1 - 0.05 * np.clip(canal.flow.smooth(box.at.x, box.at.y, box.at.z), 0, 3)
    palette = canvas.palette
    box.paint(
        Tissue.CSF,
        inside_all(sac, crown),
        t2=(palette.t2[Tissue.CSF] * moving).astype(np.float32),
    )
    _paint_cord(box, canal, spine, injuries, front, back, sac)


def _tube(box: Region, front: Array, back: Array, half_side: Array, size: float) -> Array:
    """Signed distance to a canal, positive inside."""
    half = np.maximum((front - back) / 2, 1.0)
    n = (box.n - (front + back) / 2) / half
    return ((1 - section(n, box.x / half_side, box.s / size)) * half).astype(np.float32)


def section(n: Array, x: Array, along: Array) -> Array:
    """Relative radius in the canal's section, 1 on its wall; docs/phantom.md.

    A rounded triangle, broad in front, in the neck; rounder at the atlas, and in the thorax, where
    it narrows to the front as well.

    Args:
        n: From -1, the back wall, to 1, the front wall.
        x: To the side, in half transverse diameters.
        along: Along the spine in mm of a patient of size 1.
    """
    thoracic = np.clip((along - 80) / 75, 0, 1)
    lean = 0.5 - 0.35 * thoracic - 0.35 * np.clip((18 - along) / 20, 0, 1)
    wide = (1 + lean * np.clip(n, -1, 1)) / (1 + 0.225 * lean * (1 - 0.8 * thoracic))
    fore, aside = 2.4 - 0.8 * thoracic, 2.2 - 0.5 * thoracic
    out: Array = (np.abs(n) ** fore + np.abs(x / wide) ** aside) ** (2 / (fore + aside))
    return out


def outside_canal(n: Array, x: Array, along: Array, size: float, canal: Canal) -> Array:
    """Distance from the bony canal's wall to the outside, mm; negative in the canal.

    Args:
        n: In front of the canal's front wall, mm.
        x: To the side, mm.
        along: Along the spine, mm.
        size: Of the body.
        canal: Whose walls.
    """
    half = canal.width(along) / 2
    ring = section((n + half) / half, x / canal.half_side(along), along / size)
    return ((ring - 1) * 7.2 * size).astype(np.float32)


def _paint_vein_plexus(box: Region, front: Array, top: Array) -> None:
    """Epidural veins beside the midline in front of the sac."""
    side = np.abs(box.x)
    vein = inside_all(1.2 - np.abs(box.n - front - 0.4), 2.4 - np.abs(side - 7.5), top - 20)
    box.paint(Tissue.VEIN, vein)


def _paint_cord(
    box: Region,
    canal: Canal,
    spine: Spine,
    injuries: Injuries,
    front: Array,
    back: Array,
    sac: Array,
) -> None:
    center, depth = canal.cord(box.s, front, back)
    half_side = canal.cord_half_side(box.s)
    oedema = injuries.get(Finding.CORD_OEDEMA)
    middle = spine.levels[injuries.level].disc_middle
    if oedema and oedema.ct_visible:
        swell = 1 + (0.08 + 0.14 * oedema.severity) * np.exp(-(((box.s - middle) / 14) ** 2))
        depth = np.minimum(depth * swell, front - back - 0.4)
        half_side = (half_side * swell).astype(np.float32)
    n, x = box.n - center, box.x
    half = depth / 2
    ring = np.sqrt((n / half) ** 2 + (x / half_side) ** 2)
    cord = inside_all(((1 - ring) * half).astype(np.float32), box.s + 13 * canal.size)
    _paint_rootlets(box, canal, sac, cord, n)
    box.paint(Tissue.CORD, inside_all(cord, sac + 0.6))
    horn = np.hypot((np.abs(x) - 0.26 * half_side) / (0.20 * half_side), n / (0.58 * half))
    commissure = np.hypot(x / (0.35 * half_side), n / (0.16 * half))
    gray = (1 - np.minimum(horn, commissure)) * 1.2
    box.paint(Tissue.CORD_GRAY, inside_all(gray, cord - 0.8))
    if oedema:
        # a swollen cord may be a little darker on CT; an occult oedema leaves the CT as it is
        darker = np.float32(6 * oedema.shape[1])
        long = 5 + 15 * oedema.severity
        shift = 6 * (oedema.shape[0] - 0.5)
        inner = (0.85 - ring) * half
        ends = long - np.abs(box.s - middle - shift)
        spot = inside_all(inner, 0.35 * ends).astype(np.float32)
        # an injured cord has no sharp border
        soft = np.clip(spot / 2.0, 0, 1) - 0.5
        box.paint(
            Tissue.CORD_OEDEMA,
            (soft * box.canvas.edge_mm).astype(np.float32),
            hu=box.canvas.ct[box.index] - darker,
            is_hidden_on_ct=not oedema.ct_visible,
        )


def _paint_rootlets(box: Region, canal: Canal, sac: Array, cord: Array, n: Array) -> None:
    """Faint threads beside the cord, in front of and behind the dentate ligament."""
    side = np.abs(box.x)
    where = (cord < 0.3) & (sac > 0.3) & (side > 2.0) & (side < 10) & (box.s > 4)
    part = box.where(where)
    if not len(part.index):
        return
    thread = canal.root.smooth(part.at.x, part.n, part.s)
    part.paint(Tissue.NERVE, (0.9 * (thread - 1.4)).astype(np.float32))


def paint_roots(canvas: Canvas, canal: Canal, spine: Spine) -> None:
    """Nerve roots in the foramina, with the fat around them left bright."""
    low, high = float(canvas.at.along[0]), float(canvas.at.along[-1])
    for level in spine.levels:
        at = level.disc_middle
        if not low - 10 < at < high + 10:
            continue
        box = canvas.between((at - 12, at + 9), (-canal.width.at(at), 5), 30)
        free = np.isin(
            box.labels_on_ct,
            (Tissue.EPIDURAL_FAT, Tissue.FAT, Tissue.MUSCLE, Tissue.CSF, Tissue.DURA),
        )
        box = box.where(free)
        if not len(box.index):
            continue
        root = capsule(
            (np.abs(box.x), box.n, box.s),
            (8.0, -0.5 * canal.width.at(at), at - 5),
            (24.0, -3.0, at + 3),
            1.4 * canal.size,
        )
        box.paint(Tissue.NERVE, root)
