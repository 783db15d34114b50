"""What a model has to reach to be worth showing, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.contrast import ALL_CONTRASTS
from pipeline.evaluation.canal import CanalScore
from pipeline.evaluation.effaced import Effaced
from pipeline.evaluation.injuries import Detection, Share
from pipeline.evaluation.reference_free import ReferenceFree
from pipeline.evaluation.scores import Score

CANAL_AP_MM = 0.5
"""Between pseudo-T2 and true T2. An MRI does not show where the bone begins: measured against bone
a true T2 is off by more than this, and no synthesis can be asked to be nearer than an MRI."""

CORD_CENTER_MM = 0.7
DETECTION = 0.9
FALSE_CSF = 0.1
"""A rim of CSF where there is none hides a compression: no oftener than other findings are missed
or invented."""

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
"""Tissues of an uninjured spine. The flaval ligament is scored nowhere: few pixels wide, and its
border to the laminae is drawn, not known."""

LESIONS = ("CORD_OEDEMA", "DISC_INJURY", "MARROW_OEDEMA", "HAEMATOMA", "INTERSPINOUS_OEDEMA")
GROUPS: Mapping[str, tuple[str, ...]] = {"tissues of the spine": SPINE, "lesions": LESIONS}


@dataclass(frozen=True)
class Target:
    """One figure against its limit.

    Args:
        name: What is measured.
        value: Measured; NaN when there was nothing to measure.
        limit: To reach.
        at_most: Whether the value must not exceed the limit; else it must not fall below.
        note: What stands in the way, or what the figure depends on.
        share: The counts behind the value, where it is a share. Few of them prove little, whichever
            side of the limit they are on.
    """

    name: str
    value: float
    limit: float
    at_most: bool
    note: str = ""
    share: Share | None = None

    @property
    def is_reached(self) -> bool:
        """By the measured value alone; not for one that could not be measured."""
        if math.isnan(self.value):
            return False
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    @property
    def verdict(self) -> str:
        """In words, with the exact limit that the counts leave open, such as `yes (n = 8, at least
        0.63)`."""
        word = "yes" if self.is_reached else "**no**"
        if self.share is None or not self.share.of:
            return word
        open_to = (
            f"at most {self.share.high:.2f}" if self.at_most else (f"at least {self.share.low:.2f}")
        )
        return f"{word} (n = {self.share.of}, {open_to})"


def baseline_targets(scores: Mapping[str, Sequence[Score]], model: str) -> Iterator[Target]:
    """For each baseline: in how many tissues and contrasts it is at least as good, of the sound
    spine, and of lesions.

    Args:
        scores: By method; the model among them.
        model: Its name.
    """
    for group, tissues in GROUPS.items():
        own = {(s.contrast, s.tissue): s.mae for s in scores[model] if s.tissue in tissues}
        for name, rows in scores.items():
            if name in (model, "codec only") or not own:
                continue
            lost = [
                f"{s.tissue.lower().replace('_', ' ')} {s.contrast.value}"
                for s in rows
                if (s.contrast, s.tissue) in own and s.mae <= own[s.contrast, s.tissue]
            ]
            yield Target(
                f"{group}, of {len(own)}, where {name} has no larger error",
                float(len(lost)),
                0.0,
                at_most=True,
                note=", ".join(lost),
            )


def canal_targets(canal: CanalScore, effaced: Effaced) -> Iterator[Target]:
    """Canal and cord, and the CSF that is drawn where the truth has none."""
    yield Target("canal AP, mm from the true T2, worst level",
                 max(canal.ap_error_like_truth_mm.values()), CANAL_AP_MM, True)  # fmt: skip
    yield Target("canal AP, mm further from bone than the true T2, worst level", _further(canal),
                 0.0, True)  # fmt: skip
    yield Target("cord center error, mm, where the CT shows it", canal.cord_error_mm["shown"],
                 CORD_CENTER_MM, True)  # fmt: skip
    shown = effaced.false_csf
    yield Target("CSF drawn on both sides of the cord, of the rows where the true T2 shows none on"
                 " one", shown.value, FALSE_CSF, True,
                 f"{shown.hits} of {shown.of} rows, {effaced.phantoms} phantoms")  # fmt: skip
    told = effaced.false_csf_shown
    yield Target("the same where the CT tells cord from CSF", told.value, FALSE_CSF, True,
                 f"{told.hits} of {told.of} rows")  # fmt: skip
    bare = effaced.unmarked
    yield Target("of all these rows, CSF drawn on both sides and not hatched as faint", bare.value,
                 FALSE_CSF, True, f"{bare.hits} of {bare.of} rows")  # fmt: skip


def _further(canal: CanalScore) -> float:
    """How much further from the bony diameter the pseudo-T2 is than the true T2, measured alike."""
    return max(error - canal.truth_ap_error_mm[n] for n, error in canal.ap_error_mm.items())


def detection_targets(detections: Sequence[Detection], image: str = "STIR") -> Iterator[Target]:
    """Sensitivity to findings with a CT sign, and specificity, on the pseudo-STIR."""
    for found in detections:
        if found.image != image:
            continue
        name = found.finding.value.replace("_", " ")
        seen, spared = found.sensitivity_visible, found.specificity
        yield Target(f"sensitivity, {name} with a CT sign", seen.value, DETECTION, False,
                     f"{seen.hits} of {seen.of}", seen)  # fmt: skip
        yield Target(f"specificity, {name}", spared.value, DETECTION, False,
                     f"{spared.hits} of {spared.of}", spared)  # fmt: skip


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
