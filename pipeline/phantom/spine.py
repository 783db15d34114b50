"""The column from C3 down: levels, vertebrae, discs, ligaments between them.

Sizes are those of adult anatomy texts, in mm for a patient of size 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.geometry import Float32
from pipeline.phantom.canvas import Canvas, Region, blend, capsule, ellipsoid, inside_all, slab
from pipeline.phantom.injuries import Finding, Injuries
from pipeline.phantom.noise import Field, Profile
from pipeline.phantom.tissues import Tissue

NAMES = ("C3", "C4", "C5", "C6", "C7", "T1", "T2", "T3", "T4", "T5", "T6")
C2_END_MM = 38.0
"""Lower end-plate of C2 below the tip of the dens."""

SPINOUS_LENGTH_MM = (15, 15, 18, 23, 33, 35, 35, 34, 33, 33, 33)
SPINOUS_HEIGHT_MM = (3.4, 3.5, 3.9, 4.6, 5.4, 5.4, 5.2, 5.0, 5.0, 5.0, 5.0)
"""Half the height at the base."""


@dataclass(frozen=True)
class Level:
    """A vertebra and the disc above it; positions along the spine in mm.

    Args:
        name: Of the vertebra, C3 to T6.
        disc_top: Lower end-plate of the vertebra above.
        top: Upper end-plate.
        bottom: Lower end-plate.
        depth: Of the body, front to back.
        width: Of the body.
        wear: 0 young disc to 1 collapsed.
        is_fused: Whether bone bridges the disc.
        end_tilt: Slope of the end-plates.
        waist: How much the body narrows, as a fraction.
        hollow: Depth of the end-plates' concavity, mm.
        spur: Length of osteophytes, mm.
        bulge: Of the disc to behind and to the front, mm.
        spinous: Length, half height, half width, slope, curvature of the spinous process.
        spread: Bifid spreading of its tip; deviation to one side, mm.
        lamina: Thickness, mm.
    """

    name: str
    disc_top: float
    top: float
    bottom: float
    depth: float
    width: float
    wear: float
    is_fused: bool
    end_tilt: float
    waist: float
    hollow: float
    spur: float
    bulge: tuple[float, float]
    spinous: tuple[float, float, float, float, float]
    spread: tuple[float, float]
    lamina: float

    @property
    def middle(self) -> float:
        """Middle of the body."""
        return (self.top + self.bottom) / 2

    @property
    def disc_middle(self) -> float:
        """Middle of the disc above."""
        return (self.disc_top + self.top) / 2


@dataclass(frozen=True, eq=False)
class Spine:
    """The levels and what they share."""

    size: float
    levels: tuple[Level, ...]
    cortex_mm: float
    vein: float
    ligament_mm: tuple[float, float]
    interspinous_mm: float
    fat_between: float
    fiber: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float, wear: float | None = None) -> Spine:
        """Draw a column; ``wear`` forces the overall degeneration, 0 young to 1 old."""
        overall = float(np.clip(rng.beta(1.2, 1.5) if wear is None else wear, 0, 1))
        fused = int(rng.integers(0, 5)) if rng.random() < 0.12 else -1
        shared = _Shared.draw(rng, size, overall)
        levels, disc_top = [], C2_END_MM * size
        for number, name in enumerate(NAMES):
            level = _draw_level(rng, shared, number, name, disc_top, number == fused)
            levels.append(level)
            disc_top = level.bottom
        return cls(
            size=size,
            levels=tuple(levels),
            cortex_mm=float(rng.uniform(0.6, 1.15)),
            vein=float(rng.uniform(0.5, 1.3)),
            ligament_mm=(float(rng.uniform(0.7, 1.5)), float(rng.uniform(0.5, 1.2))),
            interspinous_mm=float(rng.uniform(1.5, 4.0)),
            fat_between=float(rng.uniform(-0.35, 0.25)),
            fiber=Field(rng, (4.0, 11.0, 4.0)),
        )

    def front(self) -> Profile:
        """Normal of the front of the column along the spine."""
        size = self.size
        knots = [-40, -8, 2, 16 * size, 30 * size, *(v.middle for v in self.levels)]
        values = [7, 9, 15 * size, 15.5 * size, 15 * size, *(v.depth for v in self.levels)]
        return Profile(knots, values)


@dataclass(frozen=True)
class _Shared:
    size: float
    wear: float
    height: float
    slope: float
    hollow: float

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float, wear: float) -> _Shared:
        uniform = rng.uniform
        return cls(size, wear, uniform(11.8, 14.6), uniform(0.35, 0.85), uniform(0.5, 1.5))


def _draw_level(
    rng: np.random.Generator, shared: _Shared, number: int, name: str, disc_top: float, fused: bool
) -> Level:
    size, uniform = shared.size, rng.uniform
    is_thoracic = number >= 5
    often = 0.18 if name in ("C5", "C6", "C7") else -0.08
    wear = float(np.clip(shared.wear + rng.normal(0, 0.2) + often, 0, 1))
    disc = uniform(4.8, 7.0) if not is_thoracic else uniform(3.8, 5.6)
    disc *= size * (1 - 0.5 * wear * uniform(0.5, 1.0)) * (0.7 if fused else 1.0)
    height = size * (shared.height + uniform(-0.7, 0.7) + 1.0 * (number == 4))
    height += size * max(0, number - 4) * 1.0
    length = SPINOUS_LENGTH_MM[number] * uniform(0.85, 1.15) * size
    thickness = uniform(2.0, 3.2) * (1.2 if number > 3 else 1.0)
    slope = shared.slope + uniform(-0.08, 0.08) + (0.15 if number > 3 else 0)
    top = disc_top + disc
    return Level(
        name=name,
        disc_top=disc_top,
        top=top,
        bottom=top + height,
        depth=(uniform(14.6, 16.6) + 0.4 * number) * size,
        width=(uniform(20, 23) + (1.0 * number)) * size,
        wear=wear,
        is_fused=fused,
        end_tilt=float(rng.normal(0.03, 0.04)),
        waist=uniform(0.03, 0.10),
        hollow=shared.hollow * uniform(0.7, 1.3) * (1 - 0.5 * wear),
        spur=wear**2 * uniform(0, 3.2),
        bulge=(uniform(0, 0.9) + wear * uniform(0, 2.0) * (rng.random() < 0.7), uniform(0, 1.3)),
        spinous=(
            length,
            SPINOUS_HEIGHT_MM[number] * uniform(0.85, 1.15) * size,
            thickness,
            slope,
            uniform(-0.004, 0.006),
        ),
        spread=(uniform(0, 1.3) if number < 4 else uniform(0, 0.3), uniform(-1.5, 1.5)),
        lamina=uniform(4.0, 6.0) * size,
    )


def paint_column(canvas: Canvas, spine: Spine, canal: Profile, injuries: Injuries) -> None:
    """Paint soft parts first, then bone, then discs.

    Args:
        canvas: To paint on.
        spine: The column.
        canal: AP diameter of the bony canal along the spine, mm.
        injuries: Whose bony and discal signs are painted too.
    """
    last = spine.levels[-1].bottom
    low, high = float(canvas.at.along[0]), float(canvas.at.along[-1])
    _paint_foramina(canvas, spine, last)
    for number, level in enumerate(spine.levels):
        if level.disc_top - 25 > high or level.bottom + 45 < low:
            continue
        _paint_arch(canvas, spine, level, number, canal, injuries)
    for number, level in enumerate(spine.levels):
        if level.disc_top - 10 > high or level.bottom + 10 < low:
            continue
        _paint_disc(canvas, spine, level, number, injuries)
        _paint_body(canvas, spine, level, number, injuries)
    _paint_long_ligaments(canvas, spine, last)


def bone(
    region: Region, distance: Float32, rim: float | Float32, tissue: Tissue = Tissue.MARROW
) -> None:
    """A bone with its rim: dark cortex outside, marrow inside."""
    region.paint(Tissue.CORTEX, distance)
    region.paint(tissue, distance - rim)


def _paint_foramina(canvas: Canvas, spine: Spine, last: float) -> None:
    """Fat beside the canal; roots are added by the canal."""
    size = spine.size
    box = canvas.between((28 * size, last), (-8.5, 0.5), 20)
    box.paint(Tissue.EPIDURAL_FAT, inside_all(np.abs(box.x) - 9 * size, 20 * size - np.abs(box.x)))


def _body_radius(region: Region, level: Level) -> tuple[Float32, Float32, Float32]:
    """Relative radius of the body's cross-section, and the relative normal and lateral."""
    front = (region.n - level.depth / 2) / (level.depth / 2)
    side = region.x / (level.width / 2)
    # flatter behind than in front: a kidney-like section
    power = 3.0
    radius = (np.abs(front) ** power + np.abs(side) ** power) ** (1 / power)
    return radius.astype(np.float32), front, side


def _paint_disc(
    canvas: Canvas, spine: Spine, level: Level, number: int, injuries: Injuries
) -> None:
    margin = (level.disc_top - 3.5, level.top + 3.5)
    box = canvas.between(margin, (-8, level.depth + 6), level.width / 2 + 4)
    radius, front, side = _body_radius(box, level)
    here = number == injuries.level
    back = level.bulge[0]
    stenosis = injuries.get(Finding.CANAL_STENOSIS) if here else None
    if stenosis:
        back += 1.5 + 2.5 * stenosis.severity
    disc_injury = injuries.get(Finding.DISC_INJURY) if here else None
    if disc_injury and disc_injury.ct_visible:
        back += 1.5 * disc_injury.shape[0]
    bulge = np.where(front < 0, back * np.exp(-((box.x / 8) ** 2)), level.bulge[1])
    depth = (1 - radius) * level.depth / 2 + bulge * (np.abs(front) > 0.3)
    across = box.s + level.end_tilt * (box.n - 8) - level.disc_middle
    half = (level.top - level.disc_top) / 2 + level.hollow + 0.8
    disc = inside_all(depth, half - np.abs(across))
    if level.is_fused:
        bone(box, disc, spine.cortex_mm)
        return
    box.paint(Tissue.ANNULUS, disc)
    _paint_nucleus(box, level, front, side, across)
    if disc_injury:
        _paint_torn_disc(box, level, disc_injury.severity, disc_injury.ct_visible, front, disc)


def _paint_nucleus(
    box: Region, level: Level, front: Float32, side: Float32, across: Float32
) -> None:
    """Bright lens; with age it darkens, cracks, and at last holds gas."""
    palette = box.canvas.palette
    half = 0.36 * (level.top - level.disc_top) + 0.6 * level.hollow + 0.3
    ring = np.sqrt((front + 0.06) ** 2 / 0.66 + side**2 / 0.72 + (across / half) ** 2)
    lens = ((1 - ring) * half).astype(np.float32)
    young = np.float32(np.clip(1.15 - 1.2 * level.wear, 0.06, 1.0))
    t2 = palette.t2[Tissue.ANNULUS] + young * (
        palette.t2[Tissue.NUCLEUS] - palette.t2[Tissue.ANNULUS]
    )
    stir = palette.stir[Tissue.ANNULUS] + young * (
        palette.stir[Tissue.NUCLEUS] - palette.stir[Tissue.ANNULUS]
    )
    box.paint(Tissue.NUCLEUS, lens, t2=float(t2), stir=float(stir))
    # the dark intranuclear cleft of the adult disc
    cleft = inside_all(0.3 - np.abs(across), (0.5 - np.abs(front)) * level.depth / 2, lens)
    box.paint(Tissue.NUCLEUS, cleft - 0.1, t2=float(0.8 * t2), stir=float(0.8 * stir))
    if level.wear > 0.88 and level.spread[1] > 0.4:
        box.paint(Tissue.AIR, inside_all(lens - 0.8, 0.6 - np.abs(across)))


def _paint_torn_disc(
    box: Region, level: Level, severity: float, visible: bool, front: Float32, disc: Float32
) -> None:
    """Fluid in the disc, most in the torn front; the CT shows it only when the disc gapes."""
    reach = 0.4 + 1.4 * severity
    torn = inside_all(disc - 0.5, (front + reach - 0.4) * level.depth / 2)
    box.paint(Tissue.DISC_INJURY, torn, is_hidden_on_ct=not visible)


def _end_plates(box: Region, level: Level, number: int, radius: Float32) -> tuple[Float32, Float32]:
    """Distances below the upper and above the lower end-plate."""
    s = box.s + level.end_tilt * (box.n - 8)
    hollow = level.hollow * (1 - np.clip(radius, 0, 1) ** 2)
    side = np.abs(box.x) / (level.width / 2)
    # uncinate processes: the lateral rim of C3-T1 stands up
    hook = np.clip(side - 0.72, 0, 0.35) * (14 if number < 6 else 0)
    return s - (level.top + hollow - hook), level.bottom - 0.7 * hollow - s


def _paint_body(
    canvas: Canvas, spine: Spine, level: Level, number: int, injuries: Injuries
) -> None:
    box = canvas.between(
        (level.disc_top - 4, level.bottom + 4), (-8, level.depth + 8), level.width / 2 + 6
    )
    if not len(box.index):
        return
    radius, front, _ = _body_radius(box, level)
    below_top, above_bottom = _end_plates(box, level, number, radius)
    below_top, above_bottom = _gape(injuries, number, front, below_top, above_bottom)
    half = (level.bottom - level.top) / 2
    at = (box.s + level.end_tilt * (box.n - 8) - level.middle) / half
    flare = 1 - level.waist * (1 - np.clip(at**2, 0, 1))
    flare += (
        level.spur
        / (level.depth / 2)
        * np.clip(np.abs(at) - 0.5, 0, 0.6) ** 1.5
        * 2.0
        * (np.where(front > 0, 1.0, 0.35))
    )
    mean_radius = (level.depth + level.width) / 4
    edge = (1 - radius / flare) * mean_radius
    edge, below_top = _collapse(injuries, number, level, box, front, at, edge, below_top)
    inside = inside_all(below_top, above_bottom, edge)
    rim = spine.cortex_mm * (1 + 0.5 * level.wear * (np.abs(at) > 0.6)).astype(np.float32)
    marrow_hu = canvas.palette.hu[Tissue.MARROW] * (1.0 + 0.05 * np.sin(3.0 * number))
    box.paint(Tissue.CORTEX, inside)
    box.paint(Tissue.MARROW, inside - rim, hu=float(marrow_hu))
    vein = inside_all(slab(at, 0.09) * half, 1.9 * spine.vein - np.abs(box.x), -front * 7 - 1.5)
    box.paint(Tissue.VEIN, inside_all(vein, inside + 1.5), hu=float(0.5 * marrow_hu + 30))
    _paint_fracture(injuries, number, box, at, front, inside, rim)


def _gape(
    injuries: Injuries, number: int, front: Float32, top: Float32, bottom: Float32
) -> tuple[Float32, Float32]:
    """A torn disc that gapes: both end-plates give way, most in front."""
    torn = injuries.visible(Finding.DISC_INJURY)
    if torn is None or number not in (injuries.level - 1, injuries.level):
        return top, bottom
    opening = (0.5 + 0.9 * torn.severity) * (0.6 + 0.4 * np.clip(front + 0.4, 0, 1.4))
    return (top - opening, bottom) if number == injuries.level else (top, bottom - opening)


def _collapse(
    injuries: Injuries,
    number: int,
    level: Level,
    box: Region,
    front: Float32,
    at: Float32,
    edge: Float32,
    below_top: Float32,
) -> tuple[Float32, Float32]:
    """Height loss in front, and the upper back corner pushed into the canal."""
    fracture = injuries.visible(Finding.VERTEBRAL_FRACTURE)
    if fracture is None or number != injuries.level:
        return edge, below_top
    loss = (0.08 + 0.27 * fracture.severity) * (level.bottom - level.top)
    wedge = loss * np.clip(0.6 + 0.7 * front, 0, 1.3)
    push = max(0.0, 4.5 * (fracture.severity * fracture.shape[0] - 0.2))
    behind = push * np.clip(-front, 0, 1) * np.exp(-((at + 0.55) ** 2) / 0.18)
    bulged = edge + behind * np.exp(-((box.x / 7) ** 2)) + 0.06 * loss
    return bulged.astype(np.float32), (below_top - wedge).astype(np.float32)


def _paint_fracture(
    injuries: Injuries,
    number: int,
    box: Region,
    at: Float32,
    front: Float32,
    inside: Float32,
    rim: Float32,
) -> None:
    fracture = injuries.get(Finding.VERTEBRAL_FRACTURE)
    if fracture is None or number != injuries.level:
        return
    slope, place = 1.8 * fracture.shape[1] - 0.9, 0.8 * fracture.shape[2] - 0.6
    away = at - slope * front - place
    wave = 0.12 * np.sin(box.x / 3.0 + 6 * fracture.shape[3]) + 0.10 * np.sin(4 * front)
    reach = 0.5 + 1.2 * fracture.severity
    swollen = inside_all(inside - rim, (reach - np.abs(away)) * 6)
    box.paint(Tissue.MARROW_OEDEMA, swollen, is_hidden_on_ct=not fracture.ct_visible)
    if fracture.ct_visible:
        gap = 0.35 + 0.6 * fracture.severity
        box.paint(Tissue.FRACTURE_LINE, inside_all(inside, slab((away + wave) * 6, gap)))


def _paint_arch(
    canvas: Canvas, spine: Spine, level: Level, number: int, canal: Profile, injuries: Injuries
) -> None:
    """Pedicles, articular pillars, laminae, spinous process, transverse process, flavum."""
    size = spine.size
    length, _, _, slope, _ = level.spinous
    reach = canal.at(level.middle) + length + 8
    start, end = level.disc_top - 8, level.bottom + 12 + slope * (length + 12)
    box = canvas.between((start, end), (-reach, 4), 46 * size if number >= 5 else 33 * size)
    if not len(box.index):
        return
    width = canal(box.s)
    behind = -box.n - width
    lamina = _lamina(box, level, width, size)
    spinous = _spinous(box, level, number, behind, injuries)
    pillar = _pillar(box, level, size, injuries, number)
    side = np.abs(box.x)
    h = level.bottom - level.top
    pedicle = ellipsoid(
        (side - 12.5 * size, 5.5), (box.n + 3.5, 6.0), (box.s - level.middle + 1, h * 0.34)
    )
    transverse = _transverse(box, level, number, size)
    arch = blend(lamina, spinous, 2.5)
    process = np.maximum.reduce([arch, pillar, pedicle, transverse])
    bone(box, process, 0.9 * spine.cortex_mm + 0.1)


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


def _lamina(box: Region, level: Level, width: Float32, size: float) -> Float32:
    """The arch behind the canal; laminae lean like roof tiles."""
    half = 12.0 * size
    n = (box.n + width / 2) / (width / 2)
    ring = (np.abs(n) ** 2.4 + np.abs(box.x / half) ** 2.2) ** (1 / 2.3)
    outside = (ring - 1) * 7.2 * size
    shingle = box.s - level.middle - 0.55 * (-box.n - 0.75 * width) - 1.5
    h = level.bottom - level.top
    return inside_all(
        outside - 0.2,
        level.lamina - outside,
        -box.n - 0.45 * width,
        h * 0.36 - 0.03 * np.abs(box.x) - np.abs(shingle),
    )


def _spinous(
    box: Region, level: Level, number: int, behind: Float32, injuries: Injuries
) -> Float32:
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


def _pillar(box: Region, level: Level, size: float, injuries: Injuries, number: int) -> Float32:
    """Articular pillars: oblique joints with a dark gap between bones."""
    side = np.abs(box.x)
    oblique = box.s - level.middle + 2 - 0.75 * (-box.n - 6)
    half = (level.bottom - level.disc_top) / 2 - 0.55
    torn = injuries.visible(Finding.INTERSPINOUS_INJURY)
    if torn is not None and number in (injuries.level - 1, injuries.level):
        half -= 0.3 + 0.7 * torn.severity
    section = ellipsoid((box.n + 7.5 * size, 7.0 * size), (side - 18.5 * size, 6.2 * size))
    return inside_all(section, half - np.abs(oblique))


def _transverse(box: Region, level: Level, number: int, size: float) -> Float32:
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
        return np.minimum(rod, -hole)
    return capsule(
        (side, box.n, box.s),
        (15 * size, -8.0, level.middle - 2),
        (34 * size, -20.0, level.middle - 4),
        4.5,
    )


def _paint_long_ligaments(canvas: Canvas, spine: Spine, last: float) -> None:
    """Anterior and posterior longitudinal ligament: dark lines on the column."""
    size = spine.size
    front = spine.front()
    box = canvas.between((22 * size, last), (9, 34), 10)
    line = slab(box.n - front(box.s) - 0.9, spine.ligament_mm[0] / 2)
    soft = np.isin(box.labels, (Tissue.MARROW, Tissue.CORTEX, Tissue.MARROW_OEDEMA), invert=True)
    box.where(soft).paint(Tissue.LIGAMENT, line[soft])
    box = canvas.between((12 * size, last), (-3, 2), 7)
    line = slab(box.n + 0.1, spine.ligament_mm[1] / 2 + 0.1)
    box.paint(Tissue.LIGAMENT, line)
