"""Where a phantom's canal truly is, for comparison with what images show."""

from __future__ import annotations

import numpy as np

from pipeline.course import Course, course_along
from pipeline.geometry import Grid
from pipeline.phantom import Patient
from pipeline.phantom.landmarks import canal_ap_mm, centerline_mm


def phantom_course(person: Patient, grid: Grid) -> Course:
    """Where the phantom's canal truly is."""
    last = next(level for level in person.spine.levels if level.name == "T3").bottom
    points = centerline_mm(person)
    # the first point lies at 8 mm below the tip of the dens, points are 3 mm apart
    points = points[: max(2, int((last - 8 * person.size) / 3.0))]
    widths = canal_ap_mm(person)
    middles = np.array([v.middle for v in person.spine.levels])
    along = 8 * person.size + 3.0 * np.arange(len(points))
    half = np.interp(along, middles, [widths[v.name] / 2 for v in person.spine.levels])
    return course_along(points, half, grid)
