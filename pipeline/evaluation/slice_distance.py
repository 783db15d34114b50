"""What slices farther apart do to a real neck: the table of docs/evaluation.md.

``python -m pipeline.evaluation.slice_distance CT_FOLDER`` averages the slices of one CT in groups
and measures each as `pseudomri evaluate --ct` does. Training blurs phantoms alike in all directions
of the sagittal plane; slices that are farther apart blur one of them, which it never saw.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread

from pipeline.anatomy import Anatomy, find_anatomy
from pipeline.course import anatomy_course
from pipeline.evaluation import perturbed
from pipeline.evaluation.pages import Row, markdown_table
from pipeline.evaluation.reference_free import measure
from pipeline.fidelity import measure_fidelity
from pipeline.geometry import Volume
from pipeline.places import find_places
from pipeline.reformat import sagittal_stack
from pipeline.sampling import average_blocks
from pipeline.synthesis import Model, load_model, synthesize
from pipeline.volume import read_series

GROUPS = (1, 2, 3)
"""Slices averaged; what is farther apart than 3 mm the gate declines."""


def rows(ct: Volume, anatomy: Anatomy, model: Model) -> Iterator[Row]:
    """One line for each of `GROUPS`.

    Args:
        ct: Axial.
        anatomy: Of `ct`, as it is; what the gate finds in thicker slices is in docs/gate.md.
        model: Under test.
    """
    reference = None if model.calibration is None else model.calibration.reference
    discs = {level.name: level.disc_mm for level in anatomy.levels}
    for group in GROUPS:
        thick = perturbed.thicker(ct, group).volume
        stack = sagittal_stack(thick, anatomy)
        made = synthesize(stack, model, samples=0)
        found = measure(stack.values, made.images, anatomy_course(anatomy, stack.grid))
        places = find_places(stack, anatomy.centerline_mm, discs)
        distance = measure_fidelity(stack, made, places, reference).distance
        yield (
            f"{thick.grid.spacing_mm[0]:.1f}",
            f"{found.resolved:.3f}",
            f"{found.csf_peak:.3f}",
            f"{found.dark_edges:.3f}",
            "" if distance is None else f"{distance:.2f}",
        )


def main() -> None:
    """Print the table of one CT."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("ct_folder", type=Path, help="DICOM of one axial neck CT")
    parser.add_argument("--model", type=Path, help="model folder; none means the built-in weights")
    asked = parser.parse_args()
    series = read_series([dcmread(path) for path in sorted(asked.ct_folder.glob("*.dcm"))])
    # as for the gate's table: a third of the time
    ct = average_blocks(series.volume, (1, 2, 2))
    head = ("slices, mm", "rows resolved", "CSF peak", "dark bone edges", "distance of the CT")
    model = load_model(asked.model)
    print(markdown_table(head, rows(ct, find_anatomy(ct), model)))
    if model.calibration is not None and model.calibration.reference is not None:
        limit = model.calibration.reference.limits["distance"].warning
        print(f"\nA warning comes beyond a distance of {limit:.2f}.")


if __name__ == "__main__":
    main()
