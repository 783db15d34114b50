"""A finding with its CT sign is added: the output must change there, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from pipeline.contrast import Contrast
from pipeline.evaluation.counterfactual.subjects import Subject
from pipeline.evaluation.injuries import LESION, SMALLEST_PIXELS
from pipeline.evaluation.scores import NOISE_HU, Images, Method
from pipeline.phantom import Finding, Rendered, Tissue, Variation

ELSEWHERE_MM = 10.0
"""From every pixel that truly differs: farther than half a vertebra, another place to a reader."""

ELSEWHERE_PERCENTILE = 99.9
"""A mean over the neck hides a small invented lesion; this is a hundred pixels of 100 000."""


@dataclass(frozen=True)
class Visible:
    """One finding with its CT sign in one phantom, against the twin without any.

    Args:
        seed: Of the phantom.
        finding: Which.
        pixels: Of the lesion.
        true_change: Mean difference of the true STIR inside the lesion.
        change: Mean difference of the drawn STIR there.
        inside: Mean absolute difference there, both contrasts.
        elsewhere: Mean absolute difference of both contrasts more than `ELSEWHERE_MM` away from
            every pixel whose true CT or MRI differs, air left out.
        elsewhere_most: `ELSEWHERE_PERCENTILE` of the same.
    """

    seed: int
    finding: Finding
    pixels: int
    true_change: float
    change: float
    inside: float
    elsewhere: float
    elsewhere_most: float

    @property
    def response(self) -> float:
        """Share of the true difference that was drawn."""
        return self.change / self.true_change


def visible(
    subject: Subject, sound: Rendered, finding: Finding, method: Method, drawn: Images
) -> Visible | None:
    """Show a method the CT sign of a finding; None when hardly any of the lesion is in view.

    Args:
        subject: Whose.
        sound: The twin without any finding.
        finding: One whose lesion has a signal of its own.
        method: Under test.
        drawn: What the method made of the sound twin's CT with the subject's noise.
    """
    twin = subject.twin([finding], Variation(ct_visible=True))
    lesion = np.isin(twin.labels, LESION[finding])
    if lesion.sum() < SMALLEST_PIXELS:
        return None
    images = method(twin.ct + NOISE_HU * subject.noise())
    return measure(twin, sound, images, drawn, subject.person.seed, finding)


def measure(
    twin: Rendered, sound: Rendered, images: Images, drawn: Images, seed: int, finding: Finding
) -> Visible:
    """Compare two outputs with the two truths.

    Args:
        twin: With the finding.
        sound: Without.
        images: Made of the twin's CT.
        drawn: Made of the sound one's CT.
        seed: Of the phantom.
        finding: Of the twin, at least a pixel of its lesion.
    """
    lesion = np.isin(twin.labels, LESION[finding])
    differs = (twin.ct != sound.ct) | (twin.t2 != sound.t2) | (twin.stir != sound.stir)
    away = distance_transform_edt(~differs, sampling=twin.grid.spacing_mm) > ELSEWHERE_MM
    away &= sound.labels != Tissue.AIR
    change = np.mean([np.abs(images[c] - drawn[c]) for c in images], axis=0)
    stir = images[Contrast.STIR] - drawn[Contrast.STIR]
    return Visible(
        seed=seed,
        finding=finding,
        pixels=int(lesion.sum()),
        true_change=float((twin.stir - sound.stir)[lesion].mean()),
        change=float(stir[lesion].mean()),
        inside=float(change[lesion].mean()),
        elsewhere=float(change[away].mean()),
        elsewhere_most=float(np.percentile(change[away], ELSEWHERE_PERCENTILE)),
    )
