"""Vertebral bodies, discs, foramina and the long ligaments."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.arch import paint_arch
from pipeline.phantom.canal import Canal, outside_canal
from pipeline.phantom.canvas import Canvas, Region, ellipsoid, inside_all, slab
from pipeline.phantom.degeneration import paint_changed_marrow, paint_island
from pipeline.phantom.injuries import Finding, Injuries
from pipeline.phantom.noise import Array
from pipeline.phantom.spine import Level, Spine, bone
from pipeline.phantom.tissues import Tissue

CHIP_SEVERITY = 0.45
"""Disc injuries from here on tear a flake off the end-plate."""


def paint_column(canvas: Canvas, spine: Spine, canal: Canal, injuries: Injuries) -> None:
    """Paint soft parts first, then bone, then discs.

    Args:
        canvas: To paint on.
        spine: The column.
        canal: Whose walls the arches follow.
        injuries: Whose bony and discal signs are painted too.
    """
    last = spine.levels[-1].bottom
    low, high = float(canvas.at.along[0]), float(canvas.at.along[-1])
    _paint_foramina(canvas, spine, canal, last)
    for number, level in enumerate(spine.levels):
        if level.disc_top - 25 > high or level.bottom + 45 < low:
            continue
        paint_arch(canvas, spine, level, number, canal, injuries)
    for number, level in enumerate(spine.levels):
        if level.disc_top - 10 > high or level.bottom + 10 < low:
            continue
        _paint_disc(canvas, spine, level, number, injuries)
        _paint_body(canvas, spine, level, number, injuries)
    _paint_long_ligaments(canvas, spine, last)
    _paint_loose_ligaments(canvas, spine, injuries)


def _paint_foramina(canvas: Canvas, spine: Spine, canal: Canal, last: float) -> None:
    """Fat beside the canal; roots are added by the canal."""
    size = spine.size
    box = canvas.between((28 * size, last), (-8.5, 0.5), 20)
    outside = outside_canal(box.n, box.x, box.s, size, canal)
    # a thoracic canal leaves room at its front corners
    beside = np.abs(box.x) - np.where(box.s > 85 * size, 5, 9) * size
    box.paint(Tissue.EPIDURAL_FAT, inside_all(outside, beside, 20 * size - np.abs(box.x)))


def _body_radius(region: Region, level: Level) -> tuple[Array, Array, Array]:
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
    narrows = 1.5 + 2.5 * stenosis.severity if stenosis else 0.0
    disc_injury = injuries.get(Finding.DISC_INJURY) if here else None
    if disc_injury and disc_injury.ct_visible:
        back += 1.5 * disc_injury.shape[0]
    across = box.s + level.end_tilt * (box.n - 8) - level.disc_middle
    half = (level.top - level.disc_top) / 2 + level.hollow + 0.8

    def as_far_as(behind: float) -> Array:
        bulge = np.where(front < 0, behind * np.exp(-((box.x / 8) ** 2)), level.bulge[1])
        depth = (1 - radius) * level.depth / 2 + bulge * (np.abs(front) > 0.3)
        return inside_all(depth, half - np.abs(across))

    is_seen = stenosis is None or stenosis.ct_visible
    disc = as_far_as(back + narrows if is_seen else back)
    if level.is_fused:
        bone(box, disc, spine.cortex_mm)
        if spine.degeneration and spine.degeneration[number].has_remnant:
            # bridged in front and at the sides; what is left of the disc is dark
            left = inside_all(disc - 0.8, (0.7 - radius) * level.depth / 2, 1.2 - np.abs(across))
            dark = float(0.7 * canvas.palette.t2[Tissue.ANNULUS])
            box.paint(Tissue.ANNULUS, left, t2=dark, stir=dark)
        return
    box.paint(Tissue.ANNULUS, disc)
    if not is_seen:
        box.paint(Tissue.ANNULUS, as_far_as(back + narrows), is_hidden_on_ct=True)
    _paint_nucleus(box, level, front, side, across)
    if disc_injury:
        _paint_torn_disc(box, level, disc_injury.severity, disc_injury.ct_visible, front, disc)


def _paint_nucleus(box: Region, level: Level, front: Array, side: Array, across: Array) -> None:
    """Bright lens; with age it darkens, becomes as dense as the annulus, and at last holds gas."""
    palette = box.canvas.palette
    half = 0.33 * (level.top - level.disc_top) + 0.6 * level.hollow + 0.3
    ring = np.sqrt((front + 0.06) ** 2 / 0.66 + side**2 / 0.72 + (across / half) ** 2)
    # it passes into the annulus without a sharp border
    lens = (0.6 * (1 - ring) * half).astype(np.float32)
    young = np.float32(np.clip(1.2 - 1.4 * level.wear, 0.05, 1.0))
    t2 = palette.t2[Tissue.ANNULUS] + young * (
        palette.t2[Tissue.NUCLEUS] - palette.t2[Tissue.ANNULUS]
    )
    stir = palette.stir[Tissue.ANNULUS] + young * (
        palette.stir[Tissue.NUCLEUS] - palette.stir[Tissue.ANNULUS]
    )
    hu = palette.hu[Tissue.ANNULUS] + young * (
        palette.hu[Tissue.NUCLEUS] - palette.hu[Tissue.ANNULUS]
    )
    box.paint(Tissue.NUCLEUS, lens, hu=float(hu), t2=float(t2), stir=float(stir))
    # the dark intranuclear cleft of the adult disc
    cleft = inside_all(0.3 - np.abs(across), (0.5 - np.abs(front)) * level.depth / 2, lens)
    box.paint(Tissue.NUCLEUS, cleft - 0.1, hu=float(hu), t2=float(0.8 * t2), stir=float(0.8 * stir))
    if level.wear > 0.88 and level.spread[1] > 0.4:
        box.paint(Tissue.AIR, inside_all(lens - 0.8, 0.6 - np.abs(across)))


def _paint_torn_disc(
    box: Region, level: Level, severity: float, visible: bool, front: Array, disc: Array
) -> None:
    """Fluid in the disc, most in the torn front; the CT shows it only when the disc gapes."""
    reach = 0.4 + 1.4 * severity
    torn = inside_all(disc - 0.5, (front + reach - 0.4) * level.depth / 2)
    box.paint(Tissue.DISC_INJURY, torn, is_hidden_on_ct=not visible)
    if visible and severity > CHIP_SEVERITY:
        # a flake of the end-plate that the anterior ligament took along
        chip = ellipsoid(
            (front * level.depth / 2 - level.depth / 2 - 0.8, 1.6), (box.s - level.disc_top, 2.4)
        )
        box.paint(Tissue.CORTEX, inside_all(chip, 4.5 - np.abs(box.x)), hu=700.0)


def _end_plates(box: Region, level: Level, number: int, radius: Array) -> tuple[Array, Array]:
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
    spur = level.spur / (level.depth / 2) * np.clip(np.abs(at) - 0.5, 0, 0.6) ** 1.5
    flare += spur * 2.0 * np.where(front > 0, 1.0, 0.35)
    mean_radius = (level.depth + level.width) / 4
    wall = (1 - radius / flare) * mean_radius
    edge, below_top = _collapse(injuries, number, level, box, front, at, wall, below_top)
    inside = inside_all(below_top, above_bottom, edge)
    # worn end-plates are sclerotic
    below = spine.levels[min(number + 1, len(spine.levels) - 1)].wear
    beside = np.where(at < 0, level.wear, below)
    rim = spine.shell_mm * (1 + 1.3 * beside * (np.abs(at) > 0.6)).astype(np.float32)
    marrow_hu = canvas.palette.hu[Tissue.MARROW] * level.density
    box.paint(Tissue.CORTEX, inside)
    box.paint(Tissue.MARROW, inside - rim, hu=float(marrow_hu))
    vein = inside_all(slab(at, 0.09) * half, 1.9 * spine.vein - np.abs(box.x), -front * 7 - 1.5)
    box.paint(Tissue.VEIN, inside_all(vein, inside + 1.5), hu=float(0.5 * marrow_hu + 30))
    _paint_degeneration(spine, number, level, box, (below_top, above_bottom, inside - rim))
    _paint_fracture(injuries, number, level, box, front, (at, below_top, inside, rim))


def _paint_degeneration(
    spine: Spine, number: int, level: Level, box: Region, within: tuple[Array, Array, Array]
) -> None:
    """What wear made of the marrow: ``within`` the body, mm from its end-plates and its cortex."""
    below_top, above_bottom, marrow = within
    front = (box.n - level.depth / 2) / (level.depth / 2)
    own = spine.degeneration[number : number + 2]
    for one, away, side in zip(own, (below_top, above_bottom), (1, 0), strict=False):
        if one.change is not None:
            depth_mm = one.change.depth_mm[side]
            paint_changed_marrow(box, one.change, depth_mm, away, front, marrow)
    if own and own[0].island is not None:
        along, fore, aside = own[0].island.at
        at = (
            box.s - level.middle - along * (level.bottom - level.top) / 2,
            box.n - (1 + fore) * level.depth / 2,
            box.x - aside * level.width / 2,
        )
        paint_island(box, own[0].island, at, marrow)


def _gape(
    injuries: Injuries, number: int, front: Array, top: Array, bottom: Array
) -> tuple[Array, Array]:
    """A torn disc that gapes: both end-plates give way, most in front."""
    torn = injuries.visible(Finding.DISC_INJURY)
    if torn is None or number not in (injuries.level - 1, injuries.level):
        return top, bottom
    opening = (0.7 + 1.3 * torn.severity) * (0.6 + 0.4 * np.clip(front + 0.4, 0, 1.4))
    return (top - opening, bottom) if number == injuries.level else (top, bottom - opening)


def _collapse(
    injuries: Injuries,
    number: int,
    level: Level,
    box: Region,
    front: Array,
    at: Array,
    edge: Array,
    below_top: Array,
) -> tuple[Array, Array]:
    """Height loss in front, and the upper back corner pushed into the canal."""
    fracture = injuries.visible(Finding.VERTEBRAL_FRACTURE)
    if fracture is None or number != injuries.level:
        return edge, below_top
    loss = (0.10 + 0.27 * fracture.severity) * (level.bottom - level.top)
    wedge = loss * np.clip(0.6 + 0.7 * front, 0, 1.3)
    behind = fracture.retropulsion_mm * np.clip(-front, 0, 1) * np.exp(-((at + 0.55) ** 2) / 0.18)
    bulged = edge + behind * np.exp(-((box.x / 7) ** 2)) + 0.06 * loss
    return bulged.astype(np.float32), (below_top - wedge).astype(np.float32)


def _paint_fracture(
    injuries: Injuries,
    number: int,
    level: Level,
    box: Region,
    front: Array,
    within: tuple[Array, Array, Array, Array],
) -> None:
    """Oedema around the line; the CT shows the line and trabeculae pressed together beside it.

    ``within`` the body: relative height, mm below the end-plate, distance inside, the cortex.
    """
    at, below_top, inside, rim = within
    fracture = injuries.get(Finding.VERTEBRAL_FRACTURE)
    if fracture is None or number != injuries.level:
        return
    slope, place = 1.8 * fracture.shape[1] - 0.9, 0.8 * fracture.shape[2] - 0.6
    away = at - slope * front - place
    wave = 0.12 * np.sin(box.x / 3.0 + 6 * fracture.shape[3]) + 0.10 * np.sin(4 * front)
    reach = 0.5 + 1.2 * fracture.severity
    swollen: Array = (reach - np.abs(away)) * 6
    if fracture.ct_visible:
        swollen = np.maximum(swollen, 4.5 - below_top)
    swollen = inside_all(inside - rim, swollen)
    palette, half = box.canvas.palette, (level.bottom - level.top) / 2
    pressed = (90 + 130 * fracture.severity) * np.exp(-(((away + wave) * half / 2.5) ** 2))
    # most of the height is lost under the upper end-plate: a dense band of impacted trabeculae
    band, thick = 60 + 100 * fracture.shape[3], 1.5 + 1.5 * fracture.severity
    pressed += band * np.exp(-(((below_top - 2.5) / thick) ** 2)) * np.clip(0.7 + 0.5 * front, 0, 1)
    box.paint(
        Tissue.MARROW_OEDEMA,
        swollen,
        hu=(palette.hu[Tissue.MARROW_OEDEMA] * level.density + pressed).astype(np.float32),
        is_hidden_on_ct=not fracture.ct_visible,
    )
    if fracture.ct_visible:
        gap = 0.5 + 0.8 * fracture.severity
        box.paint(Tissue.FRACTURE_LINE, inside_all(inside, slab((away + wave) * 6, gap)))


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


def _paint_loose_ligaments(canvas: Canvas, spine: Spine, injuries: Injuries) -> None:
    """What is left of a slip that went back into its place: fluid along both long ligaments."""
    slip = injuries.get(Finding.TRANSLATION)
    if slip is None or slip.ct_visible:
        return
    at, reach = spine.levels[injuries.level].disc_middle, 7 + 8 * slip.severity
    front = spine.front()
    for normal, aside, thick in (((8, 34), 9, 1.1), ((-4, 3), 6, 0.8)):
        box = canvas.between((at - reach - 3, at + reach + 3), normal, aside + 2)
        wall = front(box.s) + 1.6 if normal[0] > 0 else np.float32(-0.9)
        spread = thick * np.exp(-(((box.s - at) / reach) ** 2))
        layer = inside_all(slab(box.n - wall, spread), reach - np.abs(box.s - at))
        solid = (Tissue.CORTEX, Tissue.MARROW, Tissue.CORD, Tissue.CORD_GRAY, Tissue.AIR)
        kept = np.isin(box.labels, solid, invert=True) & (np.abs(box.x) < aside)
        box.where(kept).paint(Tissue.HAEMATOMA, layer[kept], is_hidden_on_ct=True)
