"""A patient as DICOM: CT Image instances, the true MRI beside them, and what is broken as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from pipeline.phantom.acquisition import TRUTH_CONTRASTS, Artifact, ct_series, truth
from pipeline.phantom.injuries import CT_VISIBLE
from pipeline.phantom.instances import ACQUIRED, ct_datasets, mr_datasets, save
from pipeline.phantom.landmarks import discs_mm
from pipeline.phantom.person import Patient
from pipeline.phantom.variants import Variant, write_variant


@dataclass(frozen=True)
class Written:
    """What `write` left in the folder; paths in slice order, none where there is no truth."""

    ct: tuple[Path, ...]
    t2: tuple[Path, ...]
    stir: tuple[Path, ...]
    findings: Path


def write(
    person: Patient,
    folder: Path,
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 0.6, 0.6),
    acquired: datetime = ACQUIRED,
    variant: Variant | None = None,
    artifacts: Collection[Artifact] = (),
) -> Written:
    """Write ``CT/``, ``T2/``, ``STIR/`` and ``findings.json`` into a folder.

    Args:
        person: Whose.
        folder: Made when it is not there.
        spacing_mm: Of the CT: slice, row, column.
        acquired: Study, series and acquisition date and time.
        variant: Spoil the CT in this way; no truth is written beside a spoiled series.
        artifacts: What disturbs the scan of the CT; the truth stays what it is.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    findings = folder / "findings.json"
    findings.write_text(json.dumps(findings_record(person), indent=2) + "\n", encoding="utf-8")
    if variant is not None:
        spoiled = write_variant(person, folder, variant, spacing_mm=spacing_mm, acquired=acquired)
        return Written(spoiled, (), (), findings)
    volume = ct_series(person, spacing_mm=spacing_mm, artifacts=artifacts)
    ct = save(ct_datasets(person, volume, acquired), folder / "CT")
    t2, stir = (
        save(mr_datasets(person, volume, contrast, acquired), folder / contrast)
        for contrast, volume in zip(TRUTH_CONTRASTS, truth(person), strict=True)
    )
    return Written(ct, t2, stir, findings)


def findings_record(person: Patient) -> dict[str, object]:
    """What is broken, where, and whether the CT shows it; JSON-ready.

    ``position_mm`` and ``discs_mm`` are on the front wall of the canal behind the discs, LPS in
    the frame of reference of the series. ``ct_visible_probability`` is the assumption the phantom
    was drawn with.
    """
    discs = {name: np.round(at, 2).tolist() for name, at in discs_mm(person).items()}
    return {
        "seed": person.seed,
        "injured_level": person.injured_level,
        "position_mm": discs[person.injured_level] if person.injured_level else None,
        "findings": [
            {
                "finding": injury.finding.value,
                "ct_visible": injury.ct_visible,
                "severity": round(injury.severity, 3),
            }
            for injury in person.findings
        ],
        "discs_mm": discs,
        "ct_visible_probability": {finding.value: p for finding, p in CT_VISIBLE.items()},
    }
