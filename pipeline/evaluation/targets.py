"""What a model has to reach to be worth showing, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.contrast import ALL_CONTRASTS
from pipeline.evaluation.injuries import Detection
from pipeline.evaluation.reference_free import ReferenceFree
from pipeline.evaluation.scores import Score

CANAL_AP_MM = 0.5
"""Between pseudo-T2 and true T2. An MRI does not show where the bone begins: measured against bone
a true T2 is off by more than this, and no synthesis can be asked to be nearer than an MRI."""

CORD_CENTER_MM = 0.7
DETECTION = 0.9
RESOLVED = 0.95
CSF_PEAK = 0.85
NOISE_CHANGE = 0.015

SPINE = (
    "CSF",
    "CORD",
    "NUCLEUS",
    "ANNULUS",
    "MARROW",
    "CORTEX",
    "LIGAMENT",
    "INTERSPINOUS",
    "EPIDURAL_FAT",
)
"""Tissues of an uninjured spine; lesions have rows of their own under injuries."""


@dataclass(frozen=True)
class Target:
    """One figure against its limit.

    Args:
        name: What is measured.
        value: Measured; NaN when there was nothing to measure.
        limit: To reach.
        at_most: Whether the value must not exceed the limit; else it must not fall below.
        note: What stands in the way, or what the figure depends on.
    """

    name: str
    value: float
    limit: float
    at_most: bool
    note: str = ""

    @property
    def is_reached(self) -> bool:
        """Not for a value that could not be measured."""
        if math.isnan(self.value):
            return False
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def baseline_targets(scores: Mapping[str, Sequence[Score]], model: str) -> Iterator[Target]:
    """For each baseline: in how many tissues and contrasts of the spine it is at least as good.

    Args:
        scores: By method; the model among them.
        model: Its name.
    """
    own = {(s.contrast, s.tissue): s.mae for s in scores[model] if s.tissue in SPINE}
    for name, rows in scores.items():
        if name in (model, "codec only"):
            continue
        lost = [
            f"{s.tissue.lower().replace('_', ' ')} {s.contrast.value}"
            for s in rows
            if (s.contrast, s.tissue) in own and s.mae <= own[s.contrast, s.tissue]
        ]
        yield Target(
            f"tissues of the spine, of {len(own)}, where {name} has no larger error",
            float(len(lost)),
            0.0,
            at_most=True,
            note=", ".join(lost),
        )


def detection_targets(detections: Sequence[Detection], image: str = "STIR") -> Iterator[Target]:
    """Sensitivity to findings with a CT sign, and specificity, on the pseudo-STIR."""
    for found in detections:
        if found.image != image:
            continue
        name = found.finding.value.replace("_", " ")
        seen, spared = found.sensitivity_visible, found.specificity
        yield Target(f"sensitivity, {name} with a CT sign", seen.value, DETECTION, False,
                     f"{seen.hits} of {seen.of}")  # fmt: skip
        yield Target(f"specificity, {name}", spared.value, DETECTION, False,
                     f"{spared.hits} of {spared.of}")  # fmt: skip


def neck_targets(real: ReferenceFree, stir_limits: Mapping[str, float]) -> Iterator[Target]:
    """The measures that need no truth, on a real neck.

    Args:
        real: Of the neck.
        stir_limits: Brightest that each tissue is in uninjured phantoms.
    """
    yield Target("real neck: rows resolved C1 to T3", real.resolved, RESOLVED, False)
    yield Target("real neck: CSF peak", real.csf_peak, CSF_PEAK, False)
    for tissue, value in real.stir_p99.items():
        limit = stir_limits.get(tissue, float("nan"))
        yield Target(f"real neck: STIR of {tissue}, 99th percentile", value, limit, True,
                     "limit: the brightest uninjured phantom")  # fmt: skip
    for contrast in ALL_CONTRASTS:
        value = real.change.get(contrast, float("nan"))
        yield Target(f"real neck: change under 20 HU of noise, {contrast}", value, NOISE_CHANGE,
                     True)  # fmt: skip
