"""What can be broken: the findings, and how each shows on CT and MRI."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np


class Finding(StrEnum):
    """The findings of the reader study."""

    PREVERTEBRAL_HAEMATOMA = "prevertebral_haematoma"
    DISC_INJURY = "disc_injury"
    CORD_OEDEMA = "cord_oedema"
    CANAL_STENOSIS = "canal_stenosis"
    INTERSPINOUS_INJURY = "interspinous_injury"
    VERTEBRAL_FRACTURE = "vertebral_fracture"
    TRANSLATION = "translation"
    FACET_DISLOCATION = "facet_dislocation"


LEVELS = ("C2/3", "C3/4", "C4/5", "C5/6", "C6/7", "C7/T1")
"""Disc levels that can be injured; the fractured body is the one below the disc."""

INJURED_FRACTION = 0.45
"""Share of seeds with an injury when nothing is forced."""

OCCURRENCE: dict[Finding, float] = {
    Finding.PREVERTEBRAL_HAEMATOMA: 0.60,
    Finding.DISC_INJURY: 0.60,
    Finding.CORD_OEDEMA: 0.50,
    Finding.CANAL_STENOSIS: 0.30,
    Finding.INTERSPINOUS_INJURY: 0.60,
    Finding.VERTEBRAL_FRACTURE: 0.50,
    Finding.TRANSLATION: 0.25,
    # Only where it is asked for: the patients of all seeds stay those that weights have learned of.
    Finding.FACET_DISLOCATION: 0.0,
}
"""How often an injured patient has each finding."""

CT_VISIBLE: dict[Finding, float] = {
    Finding.PREVERTEBRAL_HAEMATOMA: 0.85,
    Finding.DISC_INJURY: 0.70,
    Finding.CORD_OEDEMA: 0.35,
    Finding.CANAL_STENOSIS: 1.0,
    Finding.INTERSPINOUS_INJURY: 0.75,
    Finding.VERTEBRAL_FRACTURE: 0.85,
    Finding.TRANSLATION: 1.0,
    Finding.FACET_DISLOCATION: 1.0,
}
"""How often each finding has its CT sign; otherwise it is occult: the CT is as without it.

Those of 1 are occult only where `Variation.ct_visible` asks for it.

Assumed, not measured: printed with every sensitivity that is computed on phantoms.
"""


class Morphology(StrEnum):
    """Morphology of the SLIC score (Vaccaro et al. 2007), as far as the CT shows it.

    A dislocated facet counts as translation, which the score calls "translation/rotation".
    """

    NONE = "none"
    COMPRESSION = "compression"
    BURST = "burst"
    DISTRACTION = "distraction"
    TRANSLATION = "translation"


@dataclass(frozen=True)
class Injury:
    """One finding of a patient.

    Args:
        finding: Which.
        ct_visible: Whether the CT has its sign.
        severity: 0 slight to 1 severe.
        shape: Four more numbers, uniform in 0..1, that vary its form.
    """

    finding: Finding
    ct_visible: bool
    severity: float
    shape: tuple[float, float, float, float]

    @property
    def retropulsion_mm(self) -> float:
        """Of a fracture that the CT shows: how far it is pushed into the canal."""
        return max(0.0, 4.5 * (self.severity * self.shape[0] - 0.2)) if self.ct_visible else 0.0

    @property
    def turned_side(self) -> int:
        """Of a facet dislocation: 1 or -1 for the side whose joint is out, 0 for both."""
        return 0 if self.shape[0] < 0.5 else 1 if self.shape[1] < 0.5 else -1


@dataclass(frozen=True)
class Injuries:
    """All findings of a patient, at one level.

    Args:
        level: Index into `LEVELS`.
        found: At most one `Injury` per finding, in the order of `Finding`.
    """

    level: int
    found: tuple[Injury, ...]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        findings: Iterable[Finding] | None,
        ct_visible: bool | None = None,
        level: int | None = None,
    ) -> Injuries:
        """Draw, or force, the findings; every finding consumes the same random numbers.

        Args:
            rng: The injuries' own stream.
            findings: Exactly these; None to draw them.
            ct_visible: Force the CT sign of all findings; None to draw it.
            level: Force the level; None to draw it.
        """
        drawn_level = int(rng.integers(len(LEVELS)))
        is_injured = bool(rng.random() < INJURED_FRACTION)
        chosen = None if findings is None else {Finding(f) for f in findings}
        found = []
        for finding in Finding:
            occurs, visible, severity, *shape = rng.random(7).tolist()
            if not (
                finding in chosen
                if chosen is not None
                else is_injured and occurs < OCCURRENCE[finding]
            ):
                continue
            sees = visible < CT_VISIBLE[finding]
            if ct_visible is not None:
                sees = ct_visible
            found.append(Injury(finding, sees, severity, tuple(shape)))
        return cls(drawn_level if level is None else level, tuple(found))

    @property
    def morphology(self) -> Morphology:
        """The worst that the findings amount to."""
        fracture = self.get(Finding.VERTEBRAL_FRACTURE)
        if self.visible(Finding.TRANSLATION) or self.visible(Finding.FACET_DISLOCATION):
            return Morphology.TRANSLATION
        if self.visible(Finding.DISC_INJURY) or self.visible(Finding.INTERSPINOUS_INJURY):
            return Morphology.DISTRACTION
        if fracture is None:
            return Morphology.NONE
        return Morphology.BURST if fracture.retropulsion_mm > 0 else Morphology.COMPRESSION

    @property
    def on_ct(self) -> Injuries:
        """Those that the CT shows."""
        return replace(self, found=tuple(one for one in self.found if one.ct_visible))

    def get(self, finding: Finding) -> Injury | None:
        """The injury of this kind, if the patient has it."""
        return next((i for i in self.found if i.finding == finding), None)

    def visible(self, finding: Finding) -> Injury | None:
        """The same, if the CT shows it."""
        injury = self.get(finding)
        return injury if injury is not None and injury.ct_visible else None
