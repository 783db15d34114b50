"""What each tissue looks like on CT, T2 and STIR.

HU at 120 kV are plausible readings of clinical pictures, not measurements. MRI signal follows from
relaxation times by `pipeline.phantom.sequences`; they lie within what is published for 1.5 T, and
were chosen there so that the contrasts look as they do in clinical pictures. Real patients and
scanners differ, so `Palette.draw` spreads them; the nervous system, the one thing a network must
not recognize by its absolute HU, is spread widest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np

from pipeline.geometry import Float32
from pipeline.phantom.sequences import relative_signals


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
        t1_ms: Longitudinal relaxation time at 1.5 T.
        t2_ms: Transverse relaxation time.
        proton_density: Relative to CSF; for flowing blood what its flow void leaves.
        mr_spread: Relative standard deviation of both signals between patients.
        mr_texture: Standard deviation of the T2 signal inside one patient; STIR takes 0.7 of it.
    """

    hu: float
    hu_spread: float
    hu_texture: float
    t1_ms: float
    t2_ms: float
    proton_density: float
    mr_spread: float
    mr_texture: float

    @property
    def t2(self) -> float:
        """Mean T2 signal, CSF = 1."""
        return relative_signals(self.t1_ms, self.t2_ms, self.proton_density)[0]

    @property
    def stir(self) -> float:
        """Mean STIR signal, CSF = 1."""
        return relative_signals(self.t1_ms, self.t2_ms, self.proton_density)[1]


TABLE: dict[Tissue, TissueRow] = {
    Tissue.AIR: TissueRow(-1000, 0, 0, 1000, 1000, 0.006, 0, 0),
    Tissue.FAT: TissueRow(-105, 6, 8, 262, 132, 0.95, 0.10, 0.035),
    Tissue.MUSCLE: TissueRow(55, 9, 7, 1000, 45, 0.95, 0.15, 0.022),
    Tissue.LONGUS: TissueRow(55, 9, 6, 1000, 45, 0.95, 0.15, 0.018),
    Tissue.SKIN: TissueRow(35, 20, 10, 600, 66, 0.75, 0.15, 0.02),
    Tissue.CSF: TissueRow(10, 4, 1, 4000, 1800, 1, 0, 0.012),
    Tissue.CORD: TissueRow(38, 10, 2, 850, 75, 0.8, 0.08, 0.012),
    Tissue.CORD_GRAY: TissueRow(40, 10, 2, 950, 84, 0.86, 0.07, 0.01),
    Tissue.NERVE: TissueRow(40, 8, 4, 1000, 84, 0.8, 0.10, 0.02),
    Tissue.DURA: TissueRow(50, 8, 3, 900, 50, 0.45, 0.10, 0.01),
    Tissue.EPIDURAL_FAT: TissueRow(-75, 20, 9, 268, 128, 0.93, 0.10, 0.03),
    Tissue.CORTEX: TissueRow(1020, 180, 80, 600, 48, 0.2, 0.20, 0.008),
    Tissue.MARROW: TissueRow(200, 75, 38, 400, 70, 0.56, 0.22, 0.035),
    Tissue.SKULL_MARROW: TissueRow(330, 150, 70, 310, 81, 0.75, 0.20, 0.04),
    Tissue.TOOTH: TissueRow(2200, 300, 60, 600, 53, 0.1, 0, 0),
    Tissue.NUCLEUS: TissueRow(85, 12, 7, 1000, 100, 0.88, 0.10, 0.03),
    Tissue.ANNULUS: TissueRow(105, 14, 7, 800, 49, 0.5, 0.15, 0.015),
    Tissue.LIGAMENT: TissueRow(70, 12, 7, 800, 43, 0.4, 0.15, 0.01),
    Tissue.FLAVUM: TissueRow(62, 10, 6, 800, 51, 0.5, 0.15, 0.012),
    Tissue.INTERSPINOUS: TissueRow(5, 25, 14, 400, 77, 0.8, 0.18, 0.05),
    Tissue.CARTILAGE: TissueRow(120, 50, 40, 900, 56, 0.75, 0.15, 0.03),
    Tissue.ARTERY: TissueRow(48, 8, 3, 1550, 143, 0.06, 0.20, 0.01),
    Tissue.VEIN: TissueRow(52, 10, 4, 1550, 115, 0.62, 0.30, 0.03),
    Tissue.SINUS: TissueRow(58, 10, 4, 1550, 116, 0.14, 0.30, 0.01),
    Tissue.MUCOSA: TissueRow(45, 10, 7, 1300, 97, 0.95, 0.12, 0.03),
    Tissue.TONGUE: TissueRow(55, 8, 8, 900, 58, 0.88, 0.15, 0.03),
    Tissue.GLAND: TissueRow(45, 20, 10, 800, 75, 0.9, 0.15, 0.03),
    Tissue.THYROID: TissueRow(110, 25, 9, 1000, 76, 0.9, 0.15, 0.025),
    Tissue.OESOPHAGUS: TissueRow(42, 8, 6, 1000, 64, 0.85, 0.12, 0.03),
    Tissue.NODE: TissueRow(55, 12, 5, 1200, 84, 0.9, 0.12, 0.02),
    Tissue.BRAINSTEM: TissueRow(34, 9, 2, 820, 76, 0.8, 0.07, 0.018),
    Tissue.BRAIN_WHITE: TissueRow(31, 9, 2, 770, 73, 0.76, 0.07, 0.018),
    Tissue.BRAIN_GRAY: TissueRow(38, 9, 2, 1100, 87, 0.86, 0.07, 0.02),
    Tissue.CEREBELLUM: TissueRow(37, 9, 2, 1000, 83, 0.84, 0.07, 0.018),
    Tissue.TENTORIUM: TissueRow(58, 10, 4, 900, 55, 0.45, 0.15, 0.01),
    Tissue.LUNG: TissueRow(-850, 40, 25, 1200, 63, 0.08, 0.20, 0.01),
    Tissue.TABLE: TissueRow(-80, 100, 8, 1000, 1000, 0.006, 0, 0),
    Tissue.FOAM: TissueRow(-930, 25, 6, 1000, 1000, 0.006, 0, 0),
    Tissue.HAEMATOMA: TissueRow(60, 7, 5, 1600, 108, 0.98, 0.10, 0.05),
    Tissue.INTERSPINOUS_OEDEMA: TissueRow(38, 9, 8, 1350, 105, 1, 0.10, 0.06),
    Tissue.CORD_OEDEMA: TissueRow(38, 10, 2, 1300, 130, 0.88, 0.08, 0.03),
    Tissue.MARROW_OEDEMA: TissueRow(210, 75, 35, 1250, 88, 0.92, 0.10, 0.04),
    Tissue.DISC_INJURY: TissueRow(62, 10, 8, 1400, 112, 0.98, 0.10, 0.05),
    Tissue.FRACTURE_LINE: TissueRow(70, 25, 10, 1350, 97, 0.92, 0.15, 0.03),
}
CORD_TISSUES = (Tissue.CORD, Tissue.CORD_GRAY, Tissue.CORD_OEDEMA)
NERVOUS = (*CORD_TISSUES, Tissue.BRAINSTEM, Tissue.BRAIN_WHITE, Tissue.BRAIN_GRAY)


@dataclass(frozen=True, eq=False)
class Palette:
    """The table as one patient has it; arrays of shape ``(tissue,)`` indexed by `Tissue`.

    CSF in the skull has an HU of its own: there a scanner tells it from brain in everyone, while
    between the shoulders of some it does not.
    """

    hu: Float32
    hu_texture: Float32
    t2: Float32
    stir: Float32
    mr_texture: Float32
    is_enhanced: bool
    cord_csf_gap_hu: float
    cistern_hu: float

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
        oedema = rng.uniform(-20, 50)
        # the young have 350 HU where the old have 110
        hu[Tissue.MARROW] = np.clip(hu[Tissue.MARROW], 110, 420)
        hu[Tissue.MARROW_OEDEMA] = hu[Tissue.MARROW] + oedema
        # porous bone holds more fat
        fat = (420 - hu[Tissue.MARROW]) / 310
        t2[Tissue.MARROW] *= 0.92 + 0.16 * fat
        stir[Tissue.MARROW] *= 1.12 - 0.24 * fat
        hu[Tissue.CORTEX] = max(hu[Tissue.CORTEX], hu[Tissue.MARROW] + 350)
        return cls(
            hu=_f32(hu),
            hu_texture=_f32(texture),
            t2=_f32(t2),
            stir=_f32(stir),
            mr_texture=_f32(mr_texture),
            is_enhanced=enhanced,
            cord_csf_gap_hu=gap,
            cistern_hu=float(hu[Tissue.BRAINSTEM]) - max(rng.uniform(12, 26), 0.8 * gap),
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
