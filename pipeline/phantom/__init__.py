"""The procedural cervical spine: the demo patient, the truth of the tests, the only teacher.

`patient` draws one neck from a seed; `render` evaluates it on any grid; `training_pair` gives the
model's stack of CT, T2, STIR and labels; `ct_series` scans it axially; `pipeline.phantom.dicom`
writes it as a study. `pipeline.phantom.landmarks` knows where things truly are.
"""

from pipeline.phantom.acquisition import (
    Artifact,
    Kernel,
    Region,
    TrainingPair,
    axial_grid,
    ct_series,
    stack_grid,
    training_pair,
    truth,
    truth_grid,
)
from pipeline.phantom.injuries import CT_VISIBLE, LEVELS, Finding, Injury, Morphology
from pipeline.phantom.person import Patient, Variation, patient
from pipeline.phantom.rendering import Rendered, render
from pipeline.phantom.tissues import Tissue
from pipeline.phantom.variants import Variant

PHANTOM_VERSION = 5
"""Goes up whenever a seed becomes another patient; part of the name of a stored pair."""

__all__ = [
    "CT_VISIBLE",
    "LEVELS",
    "PHANTOM_VERSION",
    "Artifact",
    "Finding",
    "Injury",
    "Kernel",
    "Morphology",
    "Patient",
    "Region",
    "Rendered",
    "Tissue",
    "TrainingPair",
    "Variant",
    "Variation",
    "axial_grid",
    "ct_series",
    "patient",
    "render",
    "stack_grid",
    "training_pair",
    "truth",
    "truth_grid",
]
