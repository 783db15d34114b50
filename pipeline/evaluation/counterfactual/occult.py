"""The same CT with and without a lesion in the MRI: nothing may change, and the map must say so.

No method can know of a lesion that the CT does not show, nor doubt more there than in the rest of
the same tissue. What a support map can do is to be wide wherever a tissue may hide a lesion; so the
place is compared with the rest of its tissue, and both are reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.contrast import Contrast
from pipeline.evaluation.counterfactual.subjects import Subject, is_same
from pipeline.evaluation.injuries import SMALLEST_PIXELS
from pipeline.evaluation.scores import NOISE_HU, Images, Method
from pipeline.geometry import Float32
from pipeline.phantom import Finding, Rendered, Tissue, Variation
from pipeline.support import SupportMap

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Marked:
    """What the support map says of an occult lesion's place, all about the STIR but the mask.

    Args:
        half_width: Mean over the lesion, of CSF = 1.
        half_width_rest: Mean over the rest of the same tissues, weighted as the lesion has them.
        outside: Share of the lesion whose true signal lies outside its interval.
        beyond: By how much, mean over those pixels; 0 when there is none.
        unsupported: Share of the lesion that the map marks.
        unsupported_rest: Of the rest of the same tissues, weighted alike.
        unsupported_body: Of everything but air: a map that marks all passes and says nothing.
    """

    half_width: float
    half_width_rest: float
    outside: float
    beyond: float
    unsupported: float
    unsupported_rest: float
    unsupported_body: float


@dataclass(frozen=True)
class Occult:
    """One occult finding of one phantom.

    Args:
        seed: Of the phantom.
        finding: Which.
        pixels: Of the lesion.
        is_identical: Whether the output is, byte for byte, that of the sound twin.
        true_stir: Mean true STIR of the lesion.
        drawn_stir: Mean of what was drawn there.
        marked: None when there is no calibrated support map.
    """

    seed: int
    finding: Finding
    pixels: int
    is_identical: bool
    true_stir: float
    drawn_stir: float
    marked: Marked | None


def occult(
    subject: Subject,
    sound: Rendered,
    finding: Finding,
    method: Method,
    drawn: Images,
    support: SupportMap | None,
) -> Occult | None:
    """Show a method the CT of an occult finding; None when hardly any of the lesion is in view.

    Args:
        subject: Whose.
        sound: The twin without any finding.
        finding: One that can be occult.
        method: Under test.
        drawn: What the method made of the sound twin's CT with the subject's noise.
        support: Of the same CT.

    Raises:
        ValueError: When the CTs of the twins differ: then the phantom is wrong, not the method.
    """
    twin = subject.twin([finding], Variation(ct_visible=False))
    if twin.ct.tobytes() != sound.ct.tobytes():
        raise ValueError(f"phantom {subject.person.seed}: the CT shows an occult {finding}")
    lesion = twin.occult
    if lesion.sum() < SMALLEST_PIXELS:
        return None
    again = method(twin.ct + NOISE_HU * subject.noise())
    return Occult(
        subject.person.seed,
        finding,
        int(lesion.sum()),
        is_same(again, drawn),
        float(twin.stir[lesion].mean()),
        float(drawn[Contrast.STIR][lesion].mean()),
        None if support is None else _marked(twin, drawn[Contrast.STIR], support),
    )


def _marked(twin: Rendered, stir: Float32, support: SupportMap) -> Marked:
    lesion, half_width = twin.occult, support.half_width[Contrast.STIR]
    excess = np.abs(twin.stir - stir)[lesion] - half_width[lesion]
    outside = excess > 0
    marked = support.unsupported.astype(np.float32)
    return Marked(
        half_width=float(half_width[lesion].mean()),
        half_width_rest=_rest(half_width, twin.ct_labels, lesion),
        outside=float(outside.mean()),
        beyond=float(excess[outside].mean()) if outside.any() else 0.0,
        unsupported=float(marked[lesion].mean()),
        unsupported_rest=_rest(marked, twin.ct_labels, lesion),
        unsupported_body=float(marked[twin.labels != Tissue.AIR].mean()),
    )


def _rest(values: Float32, tissues: NDArray[np.uint8], lesion: Mask) -> float:
    """Mean outside the lesion over the tissues that it lies in, each with its share of it."""
    total = weight = 0.0
    for tissue, count in zip(*np.unique(tissues[lesion], return_counts=True), strict=True):
        rest = (tissues == tissue) & ~lesion
        if rest.any():
            total += float(count) * float(values[rest].mean())
            weight += float(count)
    return total / weight if weight else float("nan")
