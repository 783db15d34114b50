"""A few slices of one phantom, drawn in as many variants as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.course import Course
from pipeline.evaluation.course import phantom_course
from pipeline.evaluation.scores import Images
from pipeline.geometry import Float32, Grid
from pipeline.phantom import Finding, Patient, Rendered, Variation, patient, render
from pipeline.support import SupportMap
from pipeline.training.data import pair_grid

Supporter = Callable[[Float32], SupportMap]
"""From a CT stack in HU to its support map."""

SEEDS = range(97_000, 98_000)
"""Held out for these tests alone: training takes seeds from 0, calibration from 98 000, thresholds
from 99 500, evaluation from 100 000."""

WHOLE = (256, 256)
"""Rows and columns of the model's stack."""

GRAIN_PX = 0.6
"""Blur of the noise in the plane, as `pipeline.evaluation.scores.noisy` has it."""


@dataclass(frozen=True, eq=False)
class Subject:
    """Where in one phantom is looked; without an injury unless one is asked for.

    Args:
        person: Uninjured.
        grid: Sagittal, ``(slice, row, column)``, the canal in its middle slice.
        course: Of the canal, as far as that slice holds it.
    """

    person: Patient
    grid: Grid
    course: Course

    @classmethod
    def of(cls, seed: int, slices: int, size: tuple[int, int] = WHOLE) -> Subject:
        """Slices around the canal, in the place where a training pair of the seed lies.

        Args:
            seed: Of the phantom.
            slices: Odd.
            size: Rows and columns, divisible by 16, at most `WHOLE`; less is cut around the canal.
        """
        person = patient(seed, [])
        whole = pair_grid(person)
        course = phantom_course(person, whole)
        row, column = course.index[:, 1:].mean(axis=0)
        half = slices // 2
        first = np.array(
            (
                np.clip(course.middle_slice, half, whole.shape[0] - 1 - half) - half,
                np.clip(round(row) - size[0] // 2, 0, whole.shape[1] - size[0]),
                np.clip(round(column) - size[1] // 2, 0, whole.shape[2] - size[1]),
            ),
            dtype=np.float64,
        )
        grid = Grid.from_steps((slices, *size), whole.to_mm(first), whole.steps_mm)
        return cls(person, grid, _in_slice(phantom_course(person, grid), half))

    def twin(
        self, findings: Iterable[Finding] = (), variation: Variation | None = None
    ) -> Rendered:
        """The same patient with these findings and this variation, on the same grid."""
        return render(patient(self.person.seed, findings, variation), self.grid, supersample=2)

    def course_of(self, person: Patient) -> Course:
        """The canal of a twin, which a slipped column moves, in the middle slice."""
        return _in_slice(phantom_course(person, self.grid), self.grid.shape[0] // 2)

    def noise(self) -> Float32:
        """One field for all twins, ``(slice, row, column)``: standard deviation 1, like a CT's."""
        rng = np.random.default_rng(self.person.seed)
        noise = gaussian_filter(rng.standard_normal(self.grid.shape), (0, GRAIN_PX, GRAIN_PX))
        out: Float32 = (noise / noise.std()).astype(np.float32)
        return out


def _in_slice(course: Course, number: int) -> Course:
    """The points that lie in one slice: a method sees that one with both its neighbors."""
    kept = np.rint(course.index[:, 0]) == number
    return Course(
        course.index[kept], course.front[kept], course.half_mm[kept], course.position_mm[kept]
    )


def is_same(one: Images, other: Images) -> bool:
    """Whether two outputs are the same bytes."""
    return one.keys() == other.keys() and all(
        values.tobytes() == other[contrast].tobytes() for contrast, values in one.items()
    )
