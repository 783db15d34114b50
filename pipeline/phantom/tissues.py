"""What each tissue looks like on CT, T2 and STIR.

Starting values are plausible readings of clinical pictures, not measurements: HU at 120 kV, MRI
signal relative to CSF = 1. Real patients and scanners differ, so `Palette.draw` spreads them; the
nervous system, the one thing a network must not recognize by its absolute HU, is spread widest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np

from pipeline.geometry import Float32


class Tissue(IntEnum):
    """Value of a voxel in a label map (uint8)."""

    AIR = 0
    FAT = auto()
    MUSCLE = auto()
    LONGUS = auto()
    SKIN = auto()
    CSF = auto()
    CORD = auto()
    CORD_GRAY = auto()
    NERVE = auto()
    DURA = auto()
    EPIDURAL_FAT = auto()
    CORTEX = auto()
    MARROW = auto()
    SKULL_MARROW = auto()
    TOOTH = auto()
    NUCLEUS = auto()
    ANNULUS = auto()
    LIGAMENT = auto()
    FLAVUM = auto()
    INTERSPINOUS = auto()
    CARTILAGE = auto()
    ARTERY = auto()
    VEIN = auto()
    SINUS = auto()
    MUCOSA = auto()
    TONGUE = auto()
    GLAND = auto()
    THYROID = auto()
    OESOPHAGUS = auto()
    NODE = auto()
    BRAINSTEM = auto()
    BRAIN_WHITE = auto()
    BRAIN_GRAY = auto()
    CEREBELLUM = auto()
    TENTORIUM = auto()
    LUNG = auto()
    TABLE = auto()
    FOAM = auto()
    HAEMATOMA = auto()
    INTERSPINOUS_OEDEMA = auto()
    CORD_OEDEMA = auto()
    MARROW_OEDEMA = auto()
    DISC_INJURY = auto()
    FRACTURE_LINE = auto()


@dataclass(frozen=True)
class TissueRow:
    """One row of the table.

    Args:
        hu: Mean over patients, HU.
        hu_spread: Standard deviation between patients, HU.
        hu_texture: Standard deviation inside one patient, HU.
        t2: Mean T2 signal, CSF = 1.
        stir: Mean STIR signal, CSF = 1.
        mr_spread: Relative standard deviation of both signals between patients.
        mr_texture: Standard deviation of the T2 signal inside one patient; STIR takes 0.7 of it.
    """

    hu: float
    hu_spread: float
    hu_texture: float
    t2: float
    stir: float
    mr_spread: float
    mr_texture: float


TABLE: dict[Tissue, TissueRow] = {
    Tissue.AIR: TissueRow(-1000, 0, 0, 0.01, 0.01, 0, 0),
    Tissue.FAT: TissueRow(-105, 6, 8, 0.70, 0.07, 0.10, 0.035),
    Tissue.MUSCLE: TissueRow(55, 9, 7, 0.20, 0.23, 0.15, 0.022),
    Tissue.LONGUS: TissueRow(55, 9, 6, 0.20, 0.23, 0.15, 0.018),
    Tissue.SKIN: TissueRow(35, 20, 10, 0.32, 0.24, 0.15, 0.02),
    Tissue.CSF: TissueRow(10, 4, 1, 1.00, 1.00, 0, 0.012),
    Tissue.CORD: TissueRow(38, 10, 2, 0.40, 0.38, 0.08, 0.012),
    Tissue.CORD_GRAY: TissueRow(40, 10, 2, 0.50, 0.48, 0.07, 0.01),
    Tissue.NERVE: TissueRow(40, 8, 4, 0.45, 0.45, 0.10, 0.02),
    Tissue.DURA: TissueRow(50, 8, 3, 0.12, 0.10, 0.10, 0.01),
    Tissue.EPIDURAL_FAT: TissueRow(-75, 20, 9, 0.66, 0.10, 0.10, 0.03),
    Tissue.CORTEX: TissueRow(1050, 180, 80, 0.05, 0.03, 0.20, 0.008),
    Tissue.MARROW: TissueRow(270, 90, 60, 0.37, 0.15, 0.18, 0.03),
    Tissue.SKULL_MARROW: TissueRow(330, 150, 90, 0.42, 0.12, 0.20, 0.04),
    Tissue.TOOTH: TissueRow(2200, 300, 60, 0.03, 0.02, 0, 0),
    Tissue.NUCLEUS: TissueRow(85, 12, 7, 0.66, 0.52, 0.10, 0.03),
    Tissue.ANNULUS: TissueRow(105, 14, 7, 0.13, 0.10, 0.15, 0.015),
    Tissue.LIGAMENT: TissueRow(70, 12, 7, 0.08, 0.08, 0.15, 0.01),
    Tissue.FLAVUM: TissueRow(62, 10, 6, 0.14, 0.12, 0.15, 0.012),
    Tissue.INTERSPINOUS: TissueRow(5, 25, 14, 0.42, 0.16, 0.18, 0.05),
    Tissue.CARTILAGE: TissueRow(120, 50, 40, 0.24, 0.20, 0.15, 0.03),
    Tissue.ARTERY: TissueRow(48, 8, 3, 0.05, 0.05, 0.20, 0.01),
    Tissue.VEIN: TissueRow(52, 10, 4, 0.42, 0.48, 0.30, 0.03),
    Tissue.SINUS: TissueRow(58, 10, 4, 0.10, 0.10, 0.30, 0.01),
    Tissue.MUCOSA: TissueRow(45, 10, 7, 0.60, 0.60, 0.12, 0.03),
    Tissue.TONGUE: TissueRow(55, 8, 8, 0.30, 0.28, 0.15, 0.03),
    Tissue.GLAND: TissueRow(45, 20, 10, 0.45, 0.40, 0.15, 0.03),
    Tissue.THYROID: TissueRow(110, 25, 9, 0.45, 0.45, 0.15, 0.025),
    Tissue.OESOPHAGUS: TissueRow(42, 8, 6, 0.34, 0.36, 0.12, 0.03),
    Tissue.NODE: TissueRow(55, 12, 5, 0.45, 0.52, 0.12, 0.02),
    Tissue.BRAINSTEM: TissueRow(34, 9, 2, 0.40, 0.37, 0.07, 0.018),
    Tissue.BRAIN_WHITE: TissueRow(31, 9, 2, 0.36, 0.34, 0.07, 0.018),
    Tissue.BRAIN_GRAY: TissueRow(38, 9, 2, 0.50, 0.48, 0.07, 0.02),
    Tissue.CEREBELLUM: TissueRow(37, 9, 2, 0.47, 0.45, 0.07, 0.018),
    Tissue.TENTORIUM: TissueRow(58, 10, 4, 0.14, 0.12, 0.15, 0.01),
    Tissue.LUNG: TissueRow(-850, 40, 25, 0.03, 0.03, 0.20, 0.01),
    Tissue.TABLE: TissueRow(-80, 100, 8, 0.01, 0.01, 0, 0),
    Tissue.FOAM: TissueRow(-930, 25, 6, 0.01, 0.01, 0, 0),
    Tissue.HAEMATOMA: TissueRow(60, 7, 5, 0.58, 0.74, 0.10, 0.05),
    Tissue.INTERSPINOUS_OEDEMA: TissueRow(38, 9, 8, 0.66, 0.72, 0.10, 0.06),
    Tissue.CORD_OEDEMA: TissueRow(38, 10, 2, 0.70, 0.68, 0.08, 0.03),
    Tissue.MARROW_OEDEMA: TissueRow(285, 90, 45, 0.50, 0.58, 0.10, 0.04),
    Tissue.DISC_INJURY: TissueRow(80, 12, 8, 0.66, 0.70, 0.10, 0.05),
    Tissue.FRACTURE_LINE: TissueRow(70, 25, 10, 0.55, 0.62, 0.15, 0.03),
}
NERVOUS = (
    Tissue.CORD,
    Tissue.CORD_GRAY,
    Tissue.CORD_OEDEMA,
    Tissue.BRAINSTEM,
    Tissue.BRAIN_WHITE,
    Tissue.BRAIN_GRAY,
)


@dataclass(frozen=True, eq=False)
class Palette:
    """The table as one patient has it; arrays of shape ``(tissue,)`` indexed by `Tissue`."""

    hu: Float32
    hu_texture: Float32
    t2: Float32
    stir: Float32
    mr_texture: Float32
    is_enhanced: bool
    cord_csf_gap_hu: float

    @classmethod
    def draw(cls, rng: np.random.Generator, gap_hu: float | None = None) -> Palette:
        """Draw a patient's values; about 60% of patients have contrast agent in their vessels.

        Args:
            rng: The palette's own stream.
            gap_hu: Cord minus CSF, in place of a drawn one.
        """
        rows = [TABLE[tissue] for tissue in Tissue]
        normal = rng.standard_normal((4, len(rows))).clip(-2.5, 2.5)
        hu = np.array([r.hu for r in rows]) + normal[0] * [r.hu_spread for r in rows]
        spread = np.array([r.mr_spread for r in rows])
        # what makes a tissue bright on T2 mostly makes it bright on STIR
        t2 = np.array([r.t2 for r in rows]) * (1 + spread * normal[1])
        stir = np.array([r.stir for r in rows]) * (1 + spread * (0.7 * normal[1] + 0.7 * normal[2]))
        texture = np.array([r.hu_texture for r in rows]) * rng.uniform(0.5, 1.5)
        mr_texture = np.array([r.mr_texture for r in rows]) * rng.uniform(0.6, 1.4)
        enhanced = bool(rng.random() < 0.6)
        gap = _set_nervous_system(hu, rng, enhanced, gap_hu)
        if enhanced:
            _enhance(hu, rng)
        hu[Tissue.LONGUS] = hu[Tissue.MUSCLE] + rng.normal(0, 2)
        hu[Tissue.HAEMATOMA] = hu[Tissue.MUSCLE] + rng.normal(5, 5)
        hu[Tissue.MARROW_OEDEMA] = hu[Tissue.MARROW] + rng.uniform(-20, 50)
        hu[Tissue.CORTEX] = max(hu[Tissue.CORTEX], 2.2 * hu[Tissue.MARROW] + 100)
        return cls(
            hu=_f32(hu),
            hu_texture=_f32(texture),
            t2=_f32(t2),
            stir=_f32(stir),
            mr_texture=_f32(mr_texture),
            is_enhanced=enhanced,
            cord_csf_gap_hu=gap,
        )


def _f32(values: np.ndarray) -> Float32:
    out = values.astype(np.float32)
    out.setflags(write=False)
    return out


def _set_nervous_system(
    hu: np.ndarray, rng: np.random.Generator, enhanced: bool, gap_hu: float | None
) -> float:
    """Tie brain, cord and CSF together; returns cord minus CSF in HU, 0 to 30."""
    cord = rng.normal(38, 9) + (rng.uniform(0, 14) if enhanced else 0)
    drawn = float(rng.uniform(0, 30) if rng.random() < 0.9 else 0.0)
    gap = drawn if gap_hu is None else gap_hu
    hu[Tissue.CORD] = hu[Tissue.CORD_OEDEMA] = cord
    hu[Tissue.CORD_GRAY] = cord + rng.uniform(0, 4)
    hu[Tissue.NERVE] = cord - gap * rng.uniform(0.2, 0.8)
    hu[Tissue.CSF] = cord - gap
    hu[Tissue.BRAINSTEM] = cord + rng.normal(-2, 2)
    hu[Tissue.BRAIN_WHITE] = hu[Tissue.BRAINSTEM] + rng.normal(-1, 1.5)
    hu[Tissue.BRAIN_GRAY] = hu[Tissue.BRAIN_WHITE] + rng.uniform(4, 9)
    hu[Tissue.CEREBELLUM] = hu[Tissue.BRAIN_GRAY] + rng.normal(-1, 1.5)
    hu[Tissue.TENTORIUM] = cord + rng.uniform(8, 25)
    hu[Tissue.DURA] = cord + rng.uniform(2, 18)
    return gap


def _enhance(hu: np.ndarray, rng: np.random.Generator) -> None:
    """Iodine: vessels first, then what is fed well by them."""
    hu[Tissue.ARTERY] = rng.uniform(100, 380)
    venous = rng.uniform(0.15, 1.0) * rng.uniform(90, 330)
    hu[Tissue.VEIN] = max(hu[Tissue.VEIN], venous)
    hu[Tissue.SINUS] = max(hu[Tissue.SINUS], 0.8 * venous)
    hu[Tissue.THYROID] += rng.uniform(10, 80)
    hu[Tissue.MUCOSA] += rng.uniform(0, 50)
    hu[Tissue.GLAND] += rng.uniform(10, 45)
    hu[Tissue.NODE] += rng.uniform(5, 40)
    hu[Tissue.MUSCLE] += rng.uniform(0, 10)
    hu[Tissue.DURA] += rng.uniform(0, 20)
