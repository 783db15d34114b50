"""A series as a candidate for synthesis: measured from its headers, or declined with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from config.settings import SelectionSettings
from node.kernel import Sharpness, sharpness
from node.states import SeriesState
from node.summary import InstanceSummary, Pixels
from pipeline.errors import Declined
from pipeline.slices import arrange

# Cosine of 37 degrees: gantries tilt by up to 30, and coronal is far.
_AXIAL_COSINE: Final = 0.8
# A sharp kernel costs as much as slices one millimeter thicker: a bone kernel at 0.75 mm loses
# against a soft one at 1.5 mm and wins against one at 2 mm.
_KERNEL_PENALTY_MM: Final = {Sharpness.SOFT: 0.0, Sharpness.UNKNOWN: 0.5, Sharpness.SHARP: 1.0}
# Skull base to T3; what covers less may lack levels, at 1 mm of penalty per 100 mm missing.
_FULL_COVERAGE_MM: Final = 200.0
# Less than half of the shorter one in common: two scans, not two reconstructions of one.
_RIVAL_OVERLAP: Final = 0.5

# What a workstation paints instead of reconstructing: its values are no attenuation.
_RENDERINGS: Final = frozenset({"MIP", "MINIP", "VRT", "SSD", "PROJECTION IMAGE", "VOLREN"})
# Body parts (PS3.16 annex L) that exclude the neck. HEADNECK, SPINE, WHOLEBODY and the like do not.
_ELSEWHERE: Final = frozenset(
    {
        *("HEAD", "BRAIN", "SKULL"),
        *("TSPINE", "LSPINE", "LSSPINE"),
        *("CHEST", "THORAX", "LUNG", "HEART", "BREAST", "CHESTABDOMEN", "CHESTABDPELVIS"),
        *("ABDOMEN", "ABDOMENPELVIS", "PELVIS"),
        *("SHOULDER", "ARM", "HUMERUS", "ELBOW", "FOREARM", "WRIST", "HAND"),
        *("HIP", "FEMUR", "THIGH", "LEG", "KNEE", "CALF", "TIBIA", "ANKLE", "FOOT", "EXTREMITY"),
    }
)


@dataclass(frozen=True)
class SeriesSummary:
    """A series as selection sees it.

    Args:
        state: `COMPLETE` is to be decided; `SELECTED` competes as a rival; the rest is left out.
        instances: What their headers say.
    """

    series_uid: str
    state: SeriesState
    calling_ae: str
    instances: tuple[InstanceSummary, ...]


@dataclass(frozen=True)
class Candidate:
    """A series that could be used, measured.

    Args:
        low_mm: Where its lowest slice lies along the patient's axis (LPS z).
        high_mm: Where its highest slice lies.
    """

    series: SeriesSummary
    slices: int
    step_mm: float
    thickness_mm: float
    pixel_mm: float
    coverage_mm: float
    low_mm: float
    high_mm: float
    kernel: Sharpness

    @property
    def penalty_mm(self) -> float:
        """What speaks against it, in millimeters of slice step; lower is better."""
        short_mm = max(0.0, _FULL_COVERAGE_MM - self.coverage_mm)
        thickest_mm = max(self.step_mm, self.thickness_mm)
        return thickest_mm + self.pixel_mm + short_mm / 100 + _KERNEL_PENALTY_MM[self.kernel]

    def is_rival_of(self, other: Candidate) -> bool:
        """Whether both cover the same stretch of the patient.

        Frames of reference are not compared: some scanners give every series its own, in the same
        table coordinates.
        """
        common_mm = min(self.high_mm, other.high_mm) - max(self.low_mm, other.low_mm)
        shorter_mm = min(self.high_mm - self.low_mm, other.high_mm - other.low_mm)
        return common_mm >= _RIVAL_OVERLAP * shorter_mm

    def detail(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "slices": self.slices,
            "step_mm": round(self.step_mm, 3),
            "thickness_mm": round(self.thickness_mm, 3),
            "pixel_mm": round(self.pixel_mm, 3),
            "coverage_mm": round(self.coverage_mm, 1),
            "kernel": str(self.kernel),
            "penalty_mm": round(self.penalty_mm, 3),
        }


def measure(series: SeriesSummary, settings: SelectionSettings) -> Candidate:
    """The series as a candidate.

    Raises:
        Declined: When it cannot be used, with the first reason, the most telling ones first.
    """
    instances = series.instances
    _check_kind(instances)
    _check_pixels(instances)
    for instance in instances:
        if instance.refusal:
            raise Declined(**vars(instance.refusal))
    _check_content(instances)
    slices = [one for instance in instances for one in instance.slices]
    for one in slices:
        if abs(_normal_z(one.orientation)) < _AXIAL_COSINE:
            raise Declined(
                "series.orientation",
                found="slices that are not axial",
                expected="axial slices, tilted by 30 degrees at most",
                remedy="Send the axial reconstruction, not a sagittal or coronal one.",
            )
    if len(slices) < settings.minimum_slices:
        raise Declined(
            "slices.few",
            found=f"{len(slices)} slice(s)",
            expected=f"at least {settings.minimum_slices}",
            remedy="Send the thin axial series of the neck.",
        )
    grid = arrange(slices).grid
    heights = [one.position_mm[2] for one in slices]
    candidate = Candidate(
        series=series,
        slices=len(slices),
        step_mm=grid.spacing_mm[0],
        thickness_mm=max(one.thickness_mm or 0.0 for one in slices),
        pixel_mm=max(grid.spacing_mm[1:]),
        coverage_mm=grid.spacing_mm[0] * grid.shape[0],
        low_mm=min(heights),
        high_mm=max(heights),
        kernel=sharpness(instances[0].kernel),
    )
    _check_limits(candidate, settings)
    return candidate


def _check_kind(instances: Sequence[InstanceSummary]) -> None:
    """What the series is, before anything about its quality."""
    for instance in instances:
        refusal = instance.refusal
        if refusal and (refusal.code.startswith("series.") or refusal.code == "pixels.color"):
            raise Declined(**vars(refusal))


def _check_pixels(instances: Sequence[InstanceSummary]) -> None:
    counts = Counter(instance.pixels for instance in instances)
    for pixels, code in ((Pixels.TRUNCATED, "pixels.truncated"), (Pixels.ABSENT, "pixels.absent")):
        if counts[pixels]:
            raise Declined(
                code,
                found=f"pixel data {pixels} in {counts[pixels]} of {len(instances)} instance(s)",
                expected="every instance with its whole pixel data",
                remedy="Send the series again from its source.",
            )


def _check_content(instances: Sequence[InstanceSummary]) -> None:
    """Derived images and other regions of the body, as far as the header says so."""
    for instance in instances:
        kinds = set(instance.image_type)
        if {"DERIVED", "SECONDARY"} <= kinds or kinds & _RENDERINGS:
            raise Declined(
                "series.derived",
                found=f"Image Type {'/'.join(instance.image_type)}",
                expected="slices that the scanner reconstructed (ORIGINAL or PRIMARY)",
                remedy="Send the original axial reconstruction.",
            )
        if instance.body_part in _ELSEWHERE:
            raise Declined(
                "series.body_part",
                found=f"Body Part Examined {instance.body_part}",
                expected="a neck, or a body part that does not exclude it",
                remedy="Send the neck series; if this is one, correct its body part.",
            )


def _check_limits(candidate: Candidate, settings: SelectionSettings) -> None:
    # A hundredth of a millimeter for scanners that write 3.0 as 3.0001.
    coarsest_mm = max(candidate.step_mm, candidate.thickness_mm)
    if coarsest_mm > settings.maximum_slice_step_mm + 0.01:
        raise Declined(
            "slices.coarse",
            found=f"slices every {candidate.step_mm:.2f} mm, {candidate.thickness_mm:.2f} mm thick",
            expected=f"at most {settings.maximum_slice_step_mm:g} mm",
            remedy="Send a thinner reconstruction of the neck, 1 mm if there is one.",
        )
    if candidate.pixel_mm > settings.maximum_pixel_mm:
        raise Declined(
            "pixels.coarse",
            found=f"pixels of {candidate.pixel_mm:.2f} mm",
            expected=f"at most {settings.maximum_pixel_mm:g} mm",
            remedy="Send a reconstruction with a smaller field of view.",
        )
    if candidate.coverage_mm < settings.minimum_coverage_mm:
        raise Declined(
            "slices.short",
            found=f"{candidate.coverage_mm:.0f} mm along the patient",
            expected=f"at least {settings.minimum_coverage_mm:g} mm",
            remedy="Send the series that covers the neck from skull base to T1.",
        )


def _normal_z(orientation: Sequence[float]) -> float:
    """The patient's axis in the slice normal: 1 for an axial slice."""
    return orientation[0] * orientation[4] - orientation[1] * orientation[3]
