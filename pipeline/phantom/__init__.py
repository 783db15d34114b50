"""The procedural cervical spine: the demo patient, the truth of the tests, the only teacher.

`patient` draws one neck from a seed, `render` evaluates it on any grid, `training_pair` gives the
model's stack of CT, T2, STIR and labels.
"""

from pipeline.phantom.acquisition import TrainingPair, stack_grid, training_pair
from pipeline.phantom.injuries import Finding
from pipeline.phantom.patient import Patient, Variation, patient
from pipeline.phantom.render import Rendered, render
from pipeline.phantom.tissues import Tissue

__all__ = [
    "Finding",
    "Patient",
    "Rendered",
    "Tissue",
    "TrainingPair",
    "Variation",
    "patient",
    "render",
    "stack_grid",
    "training_pair",
]
