"""What wear does to bone: changed marrow along worn end-plates, islands of fat, bridged discs.

Frequencies and sizes are assumptions. Modic types 2 (fat) and 3 (sclerosis) are drawn; type 1,
which looks like the oedema of an injury without one, is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.phantom.canvas import Region, ellipsoid, inside_all
from pipeline.phantom.noise import Array
from pipeline.phantom.tissues import Tissue

CHANGED_AT_MOST = 0.45
"""Share of fully worn discs with changed marrow beside them."""

SCLEROTIC = 0.3
"""Share of these that are dense; the others are fat."""

ISLANDS = 0.15
"""Share of bodies with an island of fat (a haemangioma looks alike)."""

REMNANTS = 0.6
"""Share of fused levels whose disc is bridged but not gone."""


@dataclass(frozen=True)
class EndPlateChange:
    """Changed marrow beside one disc.

    Args:
        is_dense: Sclerosis (type 3), otherwise fat (type 2).
        depth_mm: Into the bodies above and below.
        place: Its middle from -1, the back wall, to 1, the front.
        strength: Share of pure fat, or of the densest bone.
    """

    is_dense: bool
    depth_mm: tuple[float, float]
    place: float
    strength: float


@dataclass(frozen=True)
class Island:
    """Fat in a body, between a few thick trabeculae.

    Args:
        radius_mm: Of the island.
        at: Its middle along the spine, to the front and to the side, in half diameters of the body.
        strength: Share of fat.
    """

    radius_mm: float
    at: tuple[float, float, float]
    strength: float


@dataclass(frozen=True)
class Degeneration:
    """Of one level: the body, and the disc above it."""

    change: EndPlateChange | None
    island: Island | None
    has_remnant: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, wear: float) -> Degeneration:
        """Draw; every level takes the same numbers, whatever it has."""
        changed, dense, strength, has_island, fat, remnant = rng.random(6)
        above, below, place = rng.uniform((0.0, 0.0, -0.7), (7.0, 7.0, 0.8))
        radius, *at = rng.uniform((2.0, -0.5, -0.5, -0.6), (4.5, 0.5, 0.6, 0.6))
        change = EndPlateChange(
            is_dense=bool(dense < SCLEROTIC),
            depth_mm=(float(above), float(below)),
            place=float(place),
            strength=float(0.4 + 0.6 * strength),
        )
        island = Island(float(radius), (at[0], at[1], at[2]), float(0.3 + 0.6 * fat))
        return cls(
            change if changed < CHANGED_AT_MOST * np.clip((wear - 0.35) / 0.65, 0, 1) else None,
            island if has_island < ISLANDS else None,
            bool(remnant < REMNANTS),
        )


def draw_degeneration(rng: np.random.Generator, wears: Iterable[float]) -> tuple[Degeneration, ...]:
    """One for each level from C3 down."""
    return tuple(Degeneration.draw(rng, wear) for wear in wears)


def paint_changed_marrow(
    box: Region, change: EndPlateChange, depth_mm: float, away: Array, front: Array, marrow: Array
) -> None:
    """Fat or dense bone along an end-plate, thickest at its place.

    Args:
        box: Around the body.
        change: What.
        depth_mm: How deep here.
        away: From the end-plate into the body, mm.
        front: From -1, the back wall, to 1, the front.
        marrow: Signed distance into the marrow, mm.
    """
    deep = depth_mm * (1.1 - 0.9 * np.clip((front - change.place) ** 2, 0, 2)) - away
    _mix(box, inside_all(deep, marrow), change.strength, is_dense=change.is_dense)


def paint_island(box: Region, island: Island, at: tuple[Array, ...], marrow: Array) -> None:
    """A round island of fat in the marrow.

    Args:
        box: Around the body.
        island: What.
        at: Along, to the front and to the side of the body's middle, mm.
        marrow: Signed distance into the marrow, mm.
    """
    ball = ellipsoid(*((v, island.radius_mm) for v in at))
    _mix(box, inside_all(ball, marrow), island.strength, is_dense=False)


def _mix(box: Region, distance: Array, strength: float, *, is_dense: bool) -> None:
    """Turn marrow into fat or into dense bone, with a border of 2 mm."""
    canvas, palette = box.canvas, box.canvas.palette
    share = np.clip(distance / 2 + 0.3, 0, 1) * strength
    touched = np.flatnonzero((share > 0) & (box.labels == Tissue.MARROW))
    share, index = share[touched].astype(np.float32), box.index[touched]
    if is_dense:
        goal = (0.8 * palette.hu[Tissue.CORTEX], 0.08, 0.07)
    else:
        # fat between trabeculae: on CT thin bone, not fat alone
        goal = (-20.0, 0.85 * palette.t2[Tissue.FAT], palette.stir[Tissue.FAT])
    for plane, value in zip((canvas.ct, canvas.t2, canvas.stir), goal, strict=True):
        plane[index] += share * (np.float32(value) - plane[index])
