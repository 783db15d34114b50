"""One procedural patient: every random number is drawn here, once, from the seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from pipeline.phantom.canal import Canal
from pipeline.phantom.craniovertebral import Craniovertebral
from pipeline.phantom.degeneration import draw_degeneration
from pipeline.phantom.frame import FACET_ASIDE_MM, Frame, Posture
from pipeline.phantom.head import Head
from pipeline.phantom.injuries import LEVELS, Finding, Injuries, Injury
from pipeline.phantom.neck import Neck
from pipeline.phantom.noise import Field
from pipeline.phantom.spine import Spine
from pipeline.phantom.tissues import Palette


class Stream(IntEnum):
    """Random streams, one for each part, so that changing one part leaves the others as they are.

    The numbers are part of a seed's identity: never renumber.
    """

    SIZE = 0
    POSTURE = 1
    SPINE = 2
    CANAL = 3
    CRANIOVERTEBRAL = 4
    HEAD = 5
    NECK = 6
    PALETTE = 7
    INJURIES = 8
    SURROUNDINGS = 9
    TEXTURE = 10
    STACK = 11
    NOISE = 12
    IDENTITY = 13
    MR = 14
    ARTIFACTS = 15
    DEGENERATION = 16


def stream(seed: int, number: Stream) -> np.random.Generator:
    """The generator of one part of one patient."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(int(number),)))


@dataclass(frozen=True)
class Variation:
    """What a caller may fix; None leaves it to the seed.

    Args:
        size: Body size, 0.85 to 1.15.
        wear: Degeneration of the discs, 0 young to 1 old.
        level: Injured level, one of `LEVELS`.
        ct_visible: Whether findings that can be occult show on the CT.
        is_face_blanked: Whether the face was removed from the CT.
        cord_shift_mm: How far the cord lies behind where the seed puts it, as far as the sac lets
            it; nothing else moves, and the truth moves with the CT.
        cord_csf_gap_hu: Cord minus CSF on CT.
    """

    size: float | None = None
    wear: float | None = None
    level: str | None = None
    ct_visible: bool | None = None
    is_face_blanked: bool | None = None
    cord_shift_mm: float | None = None
    cord_csf_gap_hu: float | None = None


@dataclass(frozen=True)
class Surroundings:
    """What is around the patient.

    Args:
        table_mm: Behind the origin; None without a table.
        foam_mm: Thickness of the pad on it.
        blank: Face removed in front of this many mm before the basion, above this height; or None.
    """

    table_mm: float | None
    foam_mm: float
    blank: tuple[float, float] | None

    @classmethod
    def draw(cls, rng: np.random.Generator, is_face_blanked: bool | None) -> Surroundings:
        """Draw table, pad and removed face."""
        has_table, blanked = rng.random(2)
        table, foam, cut, height = rng.uniform((95, 5, 48, -85), (160, 30, 90, -30))
        shown = blanked < 0.4 if is_face_blanked is None else is_face_blanked
        return cls(
            table_mm=float(table) if has_table < 0.6 else None,
            foam_mm=float(foam),
            blank=(float(cut), float(height)) if shown else None,
        )


@dataclass(frozen=True, eq=False)
class Textures:
    """Fields inside the tissues: fine grain, middle, and broad patches."""

    fine: Field
    middle: Field
    patch: Field
    drift: Field

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Textures:
        """Place the fields."""
        scales = (1.8, 4.0, 9.0, 40.0)
        return cls(*(Field(rng, (s, s, s)) for s in scales))


@dataclass(frozen=True, eq=False)
class Patient:
    """A neck as implicit shapes; `pipeline.phantom.rendering` puts it on a grid.

    Patient space is LPS mm with its origin on the front wall of the canal in the middle of the
    neck.
    """

    seed: int
    variation: Variation
    size: float
    injuries: Injuries
    frame: Frame
    spine: Spine
    canal: Canal
    craniovertebral: Craniovertebral
    head: Head
    neck: Neck
    palette: Palette
    surroundings: Surroundings
    textures: Textures

    @property
    def findings(self) -> tuple[Injury, ...]:
        """What is broken, with whether the CT shows it."""
        return self.injuries.found

    @property
    def injured_level(self) -> str | None:
        """Such as ``"C5/6"``; None for a sound neck."""
        return LEVELS[self.injuries.level] if self.injuries.found else None


def patient(
    seed: int, findings: Iterable[Finding] | None = None, variation: Variation | None = None
) -> Patient:
    """Draw a patient.

    Args:
        seed: Identity: the same seed is the same patient for ever, injured or not.
        findings: Exactly these injuries (none, when empty); None injures about 45% at random.
        variation: What to fix instead of drawing it.
    """
    fixed = variation or Variation()
    size = float(stream(seed, Stream.SIZE).uniform(0.86, 1.14))
    size = size if fixed.size is None else fixed.size
    injuries = Injuries.draw(
        stream(seed, Stream.INJURIES),
        findings,
        fixed.ct_visible,
        None if fixed.level is None else LEVELS.index(fixed.level),
    )
    spine = Spine.draw(stream(seed, Stream.SPINE), size, fixed.wear)
    worn = draw_degeneration(
        stream(seed, Stream.DEGENERATION), (level.wear for level in spine.levels)
    )
    spine = replace(spine, degeneration=worn)
    posture = Posture.draw(stream(seed, Stream.POSTURE), size)
    return Patient(
        seed=seed,
        variation=fixed,
        size=size,
        injuries=injuries,
        frame=displaced(posture, spine, injuries),
        spine=spine,
        canal=replace(
            Canal.draw(stream(seed, Stream.CANAL), spine), shift_mm=fixed.cord_shift_mm or 0.0
        ),
        craniovertebral=Craniovertebral.draw(stream(seed, Stream.CRANIOVERTEBRAL), size),
        head=Head.draw(stream(seed, Stream.HEAD), size),
        neck=Neck.draw(stream(seed, Stream.NECK), size),
        palette=Palette.draw(stream(seed, Stream.PALETTE), fixed.cord_csf_gap_hu),
        surroundings=Surroundings.draw(stream(seed, Stream.SURROUNDINGS), fixed.is_face_blanked),
        textures=Textures.draw(stream(seed, Stream.TEXTURE)),
    )


def displaced(posture: Posture, spine: Spine, injuries: Injuries) -> Frame:
    """The frame, with the column above the injured disc moved when it slipped."""
    middle = spine.levels[injuries.level].disc_middle
    step = 0.0
    if translation := injuries.visible(Finding.TRANSLATION):
        # one in five slips to behind
        sign = 1.0 if translation.shape[0] < 0.8 else -1.0
        step = sign * (1.8 + 3.2 * translation.severity)
    dislocated = injuries.visible(Finding.FACET_DISLOCATION)
    if dislocated is None:
        return Frame(posture, middle, step) if step else Frame(posture)
    side = dislocated.turned_side
    if not side:
        return Frame(posture, middle, step + 5 + 3 * dislocated.severity, is_along_joints=True)
    turn = float(np.deg2rad(8 + 8 * dislocated.severity))
    # about the joint of the other side, which carries the middle to the front
    step += FACET_ASIDE_MM * posture.size * float(np.sin(turn))
    return Frame(posture, middle, step, side * turn, is_along_joints=True)
