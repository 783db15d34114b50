"""Sizes and outline of the head. Coordinates: mm in front of and above the basion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.phantom.canvas import ellipsoid, inside_all
from pipeline.phantom.frame import Coordinates
from pipeline.phantom.noise import Array, Field


@dataclass(frozen=True, eq=False)
class Head:
    """Sizes in mm for this patient; angles in radians.

    Args:
        center: Of the brain case, in front of and above the basion.
        radius: Of the brain case: front to back, up, side.
        skull: Thickness; scalp: thickness of fat and skin outside it.
        clivus: Slope against the horizontal, length, thickness at the top.
        pons: How far it bulges; its height above the basion.
        fourth: Depth of the fourth ventricle.
        magna: Size of the cisterna magna.
        prepontine: Width of the cistern before the pons.
        tentorium: Height at its hind end, slope.
        palate: Height of the hard palate, slope.
        face: How far it reaches to the front; height of the chin; slope of the jaw's lower edge.
        tongue: Center in front and above, radii.
        teeth: Whether it has them.
        sinus: Radius of the sphenoid sinus.
        folia: Folds of the cerebellum around the circle, phase.
        nose: Fraction of the nasal cavity filled by mucosa.
        adenoid: Thickness of the nasopharynx' roof.
        basilar: Side offset and radius of the basilar artery.
    """

    size: float
    center: tuple[float, float]
    radius: tuple[float, float, float]
    skull: float
    scalp: float
    clivus: tuple[float, float, float]
    pons: tuple[float, float]
    fourth: float
    magna: float
    prepontine: float
    tentorium: tuple[float, float]
    palate: tuple[float, float]
    face: tuple[float, float, float]
    tongue: tuple[float, float, float, float]
    teeth: bool
    sinus: float
    folia: tuple[float, float]
    nose: float
    adenoid: float
    basilar: tuple[float, float]
    fold: Field
    coarse: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float) -> Head:
        """Draw a head."""
        u = rng.uniform
        return cls(
            size=size,
            center=(u(-14, -4) * size, u(56, 66) * size),
            radius=(u(80, 92) * size, u(57, 66) * size, u(64, 72) * size),
            skull=u(4.5, 8),
            scalp=u(5, 11),
            clivus=(np.deg2rad(u(54, 70)), u(36, 44) * size, u(12, 18) * size),
            pons=(u(12, 15) * size, u(27, 34) * size),
            fourth=u(6, 11) * size,
            magna=u(4, 13) * size,
            prepontine=u(2, 6),
            tentorium=(u(26, 40) * size, u(0.25, 0.7)),
            palate=(u(-9, 0) * size, u(-0.10, 0.12)),
            face=(u(84, 100) * size, u(-82, -62) * size, u(-0.05, 0.25)),
            tongue=(u(46, 56) * size, u(-38, -28) * size, u(20, 27) * size, u(20, 27) * size),
            teeth=bool(rng.random() < 0.75),
            sinus=u(7, 13),
            folia=(float(rng.integers(11, 17)), u(0, 6.28)),
            nose=u(0.25, 0.6),
            adenoid=u(2, 10) * (1 if rng.random() < 0.5 else 0.4),
            basilar=(u(-3, 3), u(1.1, 1.8)),
            fold=Field(rng, (14.0, 12.0, 12.0)),
            coarse=Field(rng, (22.0, 18.0, 18.0)),
        )

    def case(self, at: Coordinates) -> Array:
        """Signed distance into the brain case's ellipsoid (inner table)."""
        return ellipsoid(
            (at.front - self.center[0], self.radius[0]),
            (at.up - self.center[1], self.radius[1]),
            (at.head_lateral, self.radius[2]),
        )

    def outline(self, at: Coordinates) -> Array:
        """Signed distance into scalp and face together."""
        scalp = self.case(at) + self.skull + self.scalp
        reach, chin, slope = self.face
        lower = at.up - chin + slope * (reach - 12 - at.front)
        profile = reach + 6 * np.sin(at.up / 13.0) - 0.004 * (at.up + 25) ** 2
        # cheeks round off to the sides
        side = np.abs(at.head_lateral) / (64 * self.size)
        face = inside_all(
            profile - 40 * side**2.5 - at.front,
            lower,
            at.front + 25 - 45 * side**4,
            (1 - side) * 60,
            self.center[1] + 20 - at.up,
        )
        out: Array = np.maximum(scalp, face)
        return out
