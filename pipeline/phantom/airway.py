"""Sizes of pharynx, larynx, trachea and gullet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.phantom.noise import Profile


@dataclass(frozen=True, eq=False)
class Airway:
    """Sizes in mm; profiles run along the spine.

    Args:
        depth: Front to back.
        gap: How far the back wall stays off the prevertebral tissue.
        half_side: Half the width.
        drift: To one side at the bottom.
        hyoid: Along the spine, distance before the airway.
        epiglottis: Lean and length.
        gullet: Half width of the gullet, whether it holds gas.
    """

    depth: Profile
    gap: Profile
    half_side: Profile
    drift: float
    hyoid: tuple[float, float]
    epiglottis: tuple[float, float]
    gullet: tuple[float, bool]

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float) -> Airway:
        """From nasopharynx to trachea, narrowest at the glottis."""
        u = rng.uniform
        knots = np.array([-22, -14, 0, 25, 48, 62, 72, 80, 88, 98, 112, 320]) * size
        depth = [6, 14, u(7, 16), u(4, 15), u(4, 16), u(6, 18), u(5, 13), u(3, 9), u(8, 16)]
        depth += [u(13, 18), u(14, 19), u(14, 18)]
        return cls(
            depth=Profile(knots, np.array(depth) * size),
            gap=Profile(
                np.array([0, 55, 80, 105, 300]) * size, [0, u(0, 2), u(1, 6), u(0, 3), u(-1, 3)]
            ),
            half_side=Profile(
                np.array([-20, 0, 40, 62, 80, 95, 300]) * size,
                np.array([13, u(10, 15), u(9, 16), u(10, 15), u(3.5, 8), 9, 9]) * size,
            ),
            drift=u(-3, 3) + (u(-8, 8) if rng.random() < 0.25 else 0),
            hyoid=(u(60, 74) * size, u(5, 11)),
            epiglottis=(u(0.15, 0.45), u(15, 24)),
            gullet=(u(6, 9), bool(rng.random() < 0.35)),
        )
