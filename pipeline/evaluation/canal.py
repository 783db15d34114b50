"""Canal and cord, measured in the pseudo-T2 alone, against where they truly are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.canal_rows import read_rows
from pipeline.course import ACROSS_MM, Course
from pipeline.geometry import Float32, Float64, Grid
from pipeline.phantom import Patient, TrainingPair
from pipeline.phantom.landmarks import canal_ap_mm
from pipeline.phantom.tissues import CORD_TISSUES

LEVEL_REACH_MM = 4.0
SHOWN_GAP_HU = 15.0
"""Cord minus CSF from which the CT shows the cord (at 12 HU of noise or less)."""

VERTEBRAE = ("C3", "C4", "C5", "C6", "C7", "T1")


def shows_cord(person: Patient) -> bool:
    """Whether the CT of a phantom tells its cord from CSF."""
    return person.palette.cord_csf_gap_hu >= SHOWN_GAP_HU


def true_cord_mm(pair: TrainingPair, course: Course) -> Float64:
    """Center of the cord in the label map along the same lines, ``(n,)``."""
    is_cord = np.isin(np.rint(course.across(pair.labels, order=0)), CORD_TISSUES)
    is_cord &= np.abs(ACROSS_MM) <= course.half_mm[:, None] + 1
    count = is_cord.sum(axis=1)
    total = (is_cord * ACROSS_MM).sum(axis=1)
    return np.where(count >= 8, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class CanalScore:
    """Canal and cord over many phantoms.

    Args:
        ap_error_mm: By vertebra, mean absolute difference to the bony diameter of the phantom.
        ap_error_like_truth_mm: The same against the same measurement on the true T2: what the
            model adds.
        truth_ap_error_mm: The same measurement on the true T2 against the phantom: what the
            measurement itself is off.
        ap_measured: Share of level measurements that could be made in the pseudo-T2; the others
            count in no error.
        cord_error_mm: Mean absolute, where the CT shows the cord and where not; over the rows in
            which the pseudo-T2 shows cord in CSF.
        cord_error_p95_mm: 95th percentile of the same.
        middle_error_mm: Of guessing the middle of the canal instead, for comparison; over all rows
            with a cord, as one can guess in all of them.
        resolved: Share of rows with cord in CSF, of those where the true T2 shows it, by the same
            split. What is drawn in the others is `pipeline.evaluation.effaced`.
        resolved_truth: Share of all rows in the true T2.
        phantoms: By the same split.
    """

    ap_error_mm: Mapping[str, float]
    ap_error_like_truth_mm: Mapping[str, float]
    truth_ap_error_mm: Mapping[str, float]
    ap_measured: float
    cord_error_mm: Mapping[str, float]
    cord_error_p95_mm: Mapping[str, float]
    middle_error_mm: Mapping[str, float]
    resolved: Mapping[str, float]
    resolved_truth: float
    phantoms: Mapping[str, int]


class CanalTally:
    """Adds up canal and cord, phantom by phantom."""

    def __init__(self) -> None:
        self._ap: dict[str, list[tuple[float, float, float]]] = {v: [] for v in VERTEBRAE}
        self._cord: dict[str, list[Float64]] = {"shown": [], "hidden": []}
        self._resolved: dict[str, list[float]] = {"shown": [], "hidden": []}
        self._truth: list[float] = []

    def add(
        self, t2: Float32, pair: TrainingPair, person: Patient, course: Course, grid: Grid
    ) -> None:
        """Measure one phantom."""
        rows, true_rows = read_rows(t2, course), read_rows(pair.t2, course)
        widths = canal_ap_mm(person)
        for level in person.spine.levels:
            if level.name not in self._ap:
                continue
            at = person.frame.position_mm(level.middle, -widths[level.name] / 2)
            near = course.near(at, LEVEL_REACH_MM)
            measured, like_truth = _median(rows.ap_mm[near]), _median(true_rows.ap_mm[near])
            if near.any():
                self._ap[level.name].append((measured, like_truth, widths[level.name]))
        key = "shown" if shows_cord(person) else "hidden"
        self._cord[key].append(np.stack((rows.cord_mm, true_cord_mm(pair, course))))
        if true_rows.is_resolved.any():
            self._resolved[key].append(float(rows.is_resolved[true_rows.is_resolved].mean()))
        self._truth.append(true_rows.resolved)

    def score(self) -> CanalScore:
        """Means over all."""
        ap = {name: np.array(v).reshape(-1, 3) for name, v in self._ap.items()}
        cord = {key: _joined(parts) for key, parts in self._cord.items()}
        every = np.concatenate(list(ap.values()))
        return CanalScore(
            ap_error_mm={n: _mean(np.abs(v[:, 0] - v[:, 2])) for n, v in ap.items()},
            ap_error_like_truth_mm={n: _mean(np.abs(v[:, 0] - v[:, 1])) for n, v in ap.items()},
            truth_ap_error_mm={n: _mean(np.abs(v[:, 1] - v[:, 2])) for n, v in ap.items()},
            ap_measured=_mean(np.isfinite(every[:, 0]).astype(np.float64)),
            cord_error_mm={k: _mean(np.abs(v[0] - v[1])) for k, v in cord.items()},
            cord_error_p95_mm={k: _p95(np.abs(v[0] - v[1])) for k, v in cord.items()},
            middle_error_mm={k: _mean(np.abs(v[1])) for k, v in cord.items()},
            resolved={k: _mean(np.array(v)) for k, v in self._resolved.items()},
            resolved_truth=_mean(np.array(self._truth)),
            phantoms={k: len(v) for k, v in self._cord.items()},
        )


def _joined(parts: Sequence[Float64]) -> Float64:
    return np.concatenate(parts, axis=1) if parts else np.empty((2, 0))


def _finite(values: Float64) -> Float64:
    return values[np.isfinite(values)]


def _mean(values: Float64) -> float:
    kept = _finite(values)
    return float(kept.mean()) if kept.size else float("nan")


def _median(values: Float64) -> float:
    kept = _finite(values)
    return float(np.median(kept)) if kept.size else float("nan")


def _p95(values: Float64) -> float:
    kept = _finite(values)
    return float(np.percentile(kept, 95)) if kept.size else float("nan")
