"""Where a pseudo-T2 hints that the canal is narrowed, although it draws CSF there.

Around a cord without CSF the model draws some all the same, from habit, but fainter than elsewhere.
Its intervals do not tell, so that a support map of them alone would leave out the places that a
surgeon looks for; the drawn signal does tell (docs/adr/0023-faint-csf-is-hatched.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.canal_rows import CanalRows, read_rows
from pipeline.contrast import Contrast
from pipeline.course import STEP_MM, Course
from pipeline.geometry import Float32, Float64
from pipeline.synthesis import Synthesis

Mask = NDArray[np.bool_]

FAINT_CSF: Final = 0.8
"""Mean peak of the columns before and behind the cord, CSF = 1; below it CSF is faint. Chosen by
`python -m pipeline.evaluation.faint_csf`."""

GAP_MM, LEAST_MM = 3.0, 2.0
"""Stretches that are so near to each other are one; shorter ones are noise."""

NAMED_MM = 12.0
"""A stretch that is farther above or below all discs does not get the name of one. Half a vertebra
with its disc is 10 mm at most."""

ABOVE, BELOW = "above", "below"


@dataclass(frozen=True)
class Narrowing:
    """A stretch of the canal with faint CSF.

    Args:
        near: The discs nearest to its ends, such as ``"C5/6"`` or ``"C5/6 to T1/2"``; beyond all
            of them ``"above C2/3"`` or ``"below T1/2"``; empty when no name can be trusted.
        length_mm: Along the canal.
        csf: Lowest mean peak of both columns in it, CSF = 1.
    """

    near: str
    length_mm: float
    csf: float

    def sentence(self) -> str:
        """For those who read the result."""
        where = f"near {self.near}" if self.near else "in the canal"
        if self.near.startswith((ABOVE, BELOW)):
            where = self.near
        return (
            f"faint CSF {where}, over {self.length_mm:.0f} mm: {self.csf:.2f} of its usual signal,"
            f" expected at least {FAINT_CSF:g}. The canal may be narrowed or filled there. Look at"
            " the CT, and at an MRI where compression is the question."
        )

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {"near": self.near, "length_mm": self.length_mm, "csf": round(self.csf, 3)}


def is_faint(rows: CanalRows) -> Mask:
    """Which points of the course show faint CSF, or none, ``(n,)``."""
    if not rows.csf.size:
        return np.zeros(0, dtype=np.bool_)
    gap, least = round(GAP_MM / STEP_MM), round(LEAST_MM / STEP_MM)
    faint = rows.csf < FAINT_CSF
    padded = np.pad(faint, gap, mode="edge")
    joined = ndimage.binary_closing(padded, np.ones(gap, dtype=np.bool_))[gap:-gap]
    return np.asarray(
        ndimage.binary_opening(joined, np.ones(least, dtype=np.bool_)), dtype=np.bool_
    )


def hatch_faint(synthesis: Synthesis, course: Course) -> Synthesis:
    """The synthesis with the canal marked, wall to wall, wherever its CSF is faint.

    Args:
        synthesis: Without a support map it stays as it is.
        course: Of the canal, between its walls.
    """
    support = synthesis.support
    if support is None:
        return synthesis
    faint = faint_canal(synthesis.images[Contrast.T2], course)
    return dataclasses.replace(synthesis, support=dataclasses.replace(support, faint=faint))


def faint_canal(t2: Float32, course: Course) -> Mask:
    """The canal, wall to wall, in the stretches with faint CSF, ``(slice, row, column)``."""
    rows = is_faint(read_rows(t2, course))
    faint = course.at(rows)
    if not rows.any():
        return np.zeros(t2.shape, dtype=np.bool_)
    return faint.within(t2.shape, faint.half_mm, faint.half_mm)


def find_narrowings(
    t2: Float32, course: Course, discs_mm: Mapping[str, Sequence[float]]
) -> tuple[Narrowing, ...]:
    """The stretches with faint CSF, cranial to caudal.

    Args:
        t2: Signal relative to CSF = 1, ``(slice, row, column)``.
        course: Of the canal, between its walls.
        discs_mm: A point in each disc, LPS, by name; none when the levels cannot be trusted.
    """
    rows = read_rows(t2, course)
    faint = is_faint(rows)
    if not faint.any():
        return ()
    stretches = ndimage.find_objects(ndimage.label(faint)[0])
    discs = {name: _nearest(course, np.array(point)) for name, point in discs_mm.items()}
    return tuple(_narrowing(part, rows, discs) for (part,) in stretches)


def _narrowing(part: slice, rows: CanalRows, discs: Mapping[str, int]) -> Narrowing:
    return Narrowing(
        near=_place(part.start, part.stop - 1, discs),
        length_mm=(part.stop - part.start) * STEP_MM,
        csf=float(rows.csf[part].min()),
    )


def _place(first: int, last: int, discs: Mapping[str, int]) -> str:
    """Where the points from first to last lie, by the points of the discs."""
    if not discs:
        return ""
    highest, lowest = min(discs, key=discs.__getitem__), max(discs, key=discs.__getitem__)
    if (discs[highest] - last) * STEP_MM > NAMED_MM:
        return f"{ABOVE} {highest}"
    if (first - discs[lowest]) * STEP_MM > NAMED_MM:
        return f"{BELOW} {lowest}"
    ends = [min(discs, key=lambda name: abs(discs[name] - end)) for end in (first, last)]
    return " to ".join(dict.fromkeys(ends))


def _nearest(course: Course, point_mm: Float64) -> int:
    return int(np.linalg.norm(course.position_mm - point_mm, axis=1).argmin())
