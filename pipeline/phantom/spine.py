"""The column from C3 down: levels and their sizes.

Sizes are those of adult anatomy texts, in mm for a patient of size 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.phantom.canvas import Region
from pipeline.phantom.degeneration import Degeneration
from pipeline.phantom.noise import Array, Field, Profile
from pipeline.phantom.tissues import Tissue

NAMES = ("C3", "C4", "C5", "C6", "C7", *(f"T{number}" for number in range(1, 10)))
CERVICAL_RIBS = 0.04
"""Share of patients; published figures go from 0.5 to 6%."""

C2_END_MM = 38.0
"""Lower end-plate of C2 below the tip of the dens."""

SPINOUS_LENGTH_MM = (15, 15, 18, 23, 33, 35, 35, 34, *(33,) * 6)
SPINOUS_HEIGHT_MM = (3.4, 3.5, 3.9, 4.6, 5.4, 5.4, 5.2, *(5.0,) * 7)
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
        density: Of the marrow, relative to the patient's own.
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
    density: float

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
    """The levels and what they share.

    Args:
        size: Of the body.
        levels: From C3 down.
        cortex_mm: Of arches and processes.
        shell_mm: Cortex of the bodies: thin, so that partial volume leaves it at 350 to 600 HU.
        vein: Size of the basivertebral veins.
        ligament_mm: Anterior and posterior longitudinal ligament.
        interspinous_mm: Half thickness of the interspinous ligaments.
        fat_between: Fat in them.
        fiber: Field of their fibers.
        has_cervical_ribs: Whether C7 carries ribs, short ones.
        degeneration: Of each level; none until it is drawn.
    """

    size: float
    levels: tuple[Level, ...]
    cortex_mm: float
    shell_mm: float
    vein: float
    ligament_mm: tuple[float, float]
    interspinous_mm: float
    fat_between: float
    fiber: Field
    has_cervical_ribs: bool
    degeneration: tuple[Degeneration, ...] = ()

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
            shell_mm=float(rng.uniform(0.22, 0.7)),
            vein=float(rng.uniform(0.5, 1.3)),
            ligament_mm=(float(rng.uniform(0.7, 1.5)), float(rng.uniform(0.5, 1.2))),
            interspinous_mm=float(rng.uniform(1.5, 4.0)),
            fat_between=float(rng.uniform(-0.35, 0.25)),
            fiber=Field(rng, (4.0, 11.0, 4.0)),
            has_cervical_ribs=bool(rng.random() < CERVICAL_RIBS),
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
    disc: float
    thoracic_density: float

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float, wear: float) -> _Shared:
        uniform = rng.uniform
        return cls(
            size,
            wear,
            height=uniform(9.8, 14.4),
            slope=uniform(0.35, 0.85),
            hollow=uniform(0.5, 1.5),
            disc=uniform(4.0, 6.6),
            # thoracic bone is less dense than cervical, in some by more than a third
            thoracic_density=uniform(0.6, 1.0),
        )


def _draw_level(
    rng: np.random.Generator, shared: _Shared, number: int, name: str, disc_top: float, fused: bool
) -> Level:
    size, uniform = shared.size, rng.uniform
    is_thoracic = number >= 5
    often = 0.18 if name in ("C5", "C6", "C7") else -0.08
    wear = float(np.clip(shared.wear + rng.normal(0, 0.2) + often, 0, 1))
    disc = shared.disc * uniform(0.88, 1.12) * (0.8 if is_thoracic else 1.0)
    disc *= size * (1 - 0.55 * wear * uniform(0.7, 1.0)) * (0.7 if fused else 1.0)
    height = size * (shared.height + uniform(-0.7, 0.7) + 1.0 * (number == 4))
    height += size * min(max(0, number - 4), 6) * 1.0
    length = SPINOUS_LENGTH_MM[number] * uniform(0.85, 1.15) * size
    thickness = uniform(2.0, 3.2) * (1.2 if number > 3 else 1.0)
    slope = shared.slope + uniform(-0.08, 0.08) + (0.15 if number > 3 else 0)
    top = disc_top + disc
    return Level(
        name=name,
        disc_top=disc_top,
        top=top,
        bottom=top + height,
        depth=(uniform(13.8, 16.6) + 0.4 * min(number, 10)) * size,
        width=(uniform(20, 23) + 1.0 * min(number, 10)) * size,
        wear=wear,
        is_fused=fused,
        end_tilt=float(rng.normal(0.03, 0.04)),
        waist=uniform(0.03, 0.10),
        hollow=shared.hollow * uniform(0.7, 1.3) * (1 - 0.5 * wear),
        spur=wear**2 * uniform(0.6, 3.4),
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
        density=uniform(0.9, 1.1) * np.interp(number, (3, 7), (1.0, shared.thoracic_density)),
    )


def bone(
    region: Region, distance: Array, rim: float | Array, tissue: Tissue = Tissue.MARROW
) -> None:
    """A bone with its rim: dark cortex outside, marrow inside."""
    region.paint(Tissue.CORTEX, distance)
    region.paint(tissue, distance - rim)
