"""MR signal from relaxation times by the equations of the two sequences.

What a scanner adds (chemical shift, ringing, coils, noise) is in
`pipeline.phantom.mri`. Times in ms, at 1.5 T.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp


@dataclass(frozen=True)
class TSE:
    """Turbo spin echo, as used for sagittal T2.

    Args:
        tr_ms: Repetition time.
        te_ms: Effective echo time.
    """

    tr_ms: float
    te_ms: float

    def signal(self, t1_ms: float, t2_ms: float, proton_density: float) -> float:
        """``rho (1 - exp(-TR/T1)) exp(-TE/T2)``."""
        return proton_density * (1 - exp(-self.tr_ms / t1_ms)) * exp(-self.te_ms / t2_ms)


@dataclass(frozen=True)
class STIR:
    """Short-tau inversion recovery, magnitude image (Bydder and Young 1985).

    Args:
        tr_ms: Repetition time.
        te_ms: Effective echo time.
        ti_ms: Inversion time; nulls T1 = TI / ln 2, near that of fat.
    """

    tr_ms: float
    te_ms: float
    ti_ms: float

    def signal(self, t1_ms: float, t2_ms: float, proton_density: float) -> float:
        """``rho |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)``."""
        recovered = 1 - 2 * exp(-self.ti_ms / t1_ms) + exp(-self.tr_ms / t1_ms)
        return proton_density * abs(recovered) * exp(-self.te_ms / t2_ms)


SAGITTAL_T2 = TSE(tr_ms=4000.0, te_ms=102.0)
SAGITTAL_STIR = STIR(tr_ms=4500.0, te_ms=70.0, ti_ms=160.0)
"""Common protocols of the neck; the signals that follow are relative to CSF, so that only the
ratios of a protocol matter."""

CSF_MS = (4000.0, 1800.0)
"""T1 and T2 of cerebrospinal fluid, proton density 1: signal 1 in both contrasts."""


def relative_signals(t1_ms: float, t2_ms: float, proton_density: float) -> tuple[float, float]:
    """T2 and STIR signal of a tissue, CSF = 1.

    Args:
        t1_ms: Longitudinal relaxation time.
        t2_ms: Transverse relaxation time.
        proton_density: Relative to CSF; low for what is short of mobile water.
    """
    csf = [sequence.signal(*CSF_MS, 1.0) for sequence in (SAGITTAL_T2, SAGITTAL_STIR)]
    own = [s.signal(t1_ms, t2_ms, proton_density) for s in (SAGITTAL_T2, SAGITTAL_STIR)]
    return own[0] / csf[0], own[1] / csf[1]
