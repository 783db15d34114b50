"""Where the slices of a CT series lie, and whether they make one gapless stack.

Everything here works on plain numbers (position, orientation, spacing), so that completion and
selection can ask the same questions from the ledger that `pipeline.volume` asks from datasets,
without pixel data. Positions and orientations are Image Position and Image Orientation (Patient),
PS3.3 C.7.6.2.1.1: LPS millimeters, the center of the first voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Corrupt, Declined
from pipeline.geometry import Grid

# The thinnest CT reconstruction steps are 0.2 mm; closer than a quarter of that is one place.
COINCIDENT_MM = 0.05
# Scanners that write table positions with one decimal make even intervals differ by 0.1 mm; the
# rest is for the arithmetic.
INTERVAL_TOLERANCE_MM = 0.101
# ... but never so much that a step and its neighbor could be confused.
INTERVAL_TOLERANCE_OF_STEP = 0.25
# A straight table path, written with one decimal per coordinate, stays within this of its line.
ALIGNMENT_TOLERANCE_MM = 0.2
# In direction cosines; 0.06 degree, 0.25 mm at the edge of a 500 mm field.
ORIENTATION_TOLERANCE = 1e-3
# Over 512 pixels this adds up to 0.05 mm.
PIXEL_TOLERANCE_MM = 1e-4
# CT gantries tilt by at most 30 degrees; a larger shear is a wrong header.
MAXIMUM_TILT_DEG = 31.0
# Coarser pixels lose the wall of the canal, coarser slices the disc spaces (4 to 7 mm high).
MAXIMUM_PIXEL_MM = 1.2
MAXIMUM_STEP_MM = 3.0
# Ultra-high-resolution CT has 2048 x 2048; a larger matrix is a wrong header.
MAXIMUM_MATRIX = 2048
# 4 GiB of float32: a whole body at full resolution, which nobody sends for a neck.
MAXIMUM_VOXELS = 2**30


@dataclass(frozen=True)
class SliceGeometry:
    """Where one slice is and how finely it is sampled.

    Args:
        position_mm: Image Position (Patient), the center of voxel ``(row 0, column 0)``.
        orientation: Image Orientation (Patient): direction of increasing column index, then of
            increasing row index; orthogonal unit vectors.
        pixel_mm: Pixel Spacing in DICOM's order: between rows, then between columns.
        shape: Rows, Columns.
        frame_of_reference_uid: (0020,0052); empty when absent.
        thickness_mm: Slice Thickness; `None` when absent or unreadable.

    Raises:
        Corrupt: When a value is not finite, a spacing not positive, or the orientation no
            orthonormal pair.
    """

    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    pixel_mm: tuple[float, float]
    shape: tuple[int, int]
    frame_of_reference_uid: str = ""
    thickness_mm: float | None = None

    def __post_init__(self) -> None:
        numbers = (*self.position_mm, *self.orientation, *self.pixel_mm, self.thickness_mm or 0.0)
        if not np.isfinite(numbers).all():
            raise _corrupt("slices.geometry", "a position that is no number", "finite geometry")
        if min(self.pixel_mm) <= 0:
            raise _corrupt("slices.geometry", f"pixel spacing {self.pixel_mm} mm", "above 0 mm")
        if min(self.shape) < 1 or max(self.shape) > MAXIMUM_MATRIX:
            raise _corrupt(
                "slices.geometry",
                f"{self.shape[0]} rows, {self.shape[1]} columns",
                f"1 to {MAXIMUM_MATRIX} of each",
            )
        across, down = np.reshape(self.orientation, (2, 3))
        lengths = (float(np.linalg.norm(across)), float(np.linalg.norm(down)))
        # DS has 16 characters, yet some scanners write four decimals: 1e-3 lets those pass.
        if max(abs(length - 1) for length in lengths) > 1e-3 or abs(across @ down) > 1e-3:
            raise _corrupt(
                "slices.geometry",
                f"Image Orientation (Patient) {self.orientation}",
                "two orthogonal unit vectors",
            )

    @property
    def along_normal_mm(self) -> float:
        """Distance of this slice from the frame's origin along its own normal."""
        return along_normal_mm(self.position_mm, self.orientation)


@dataclass(frozen=True)
class GapReport:
    """What the positions of a stack say about its completeness.

    Args:
        step_mm: The stack's step; 0 with fewer than two distinct positions.
        missing_mm: Positions where a slice should be and is not, ascending.
        coincident_mm: Positions held by more than one slice, ascending.
        uneven_mm: ``(position, interval)`` of every interval that is no multiple of the step.
    """

    step_mm: float
    missing_mm: tuple[float, ...]
    coincident_mm: tuple[float, ...]
    uneven_mm: tuple[tuple[float, float], ...]

    @property
    def is_gapless(self) -> bool:
        """Whether the slices lie one step apart, with none missing between the outermost two."""
        return not self.missing_mm and not self.uneven_mm


@dataclass(frozen=True)
class Arrangement:
    """Slices sorted into one even stack.

    Args:
        places: For each place of the stack, from low to high along the normal, the indices (into
            the sequence given to `arrange`) of the slices that lie there; mostly one.
        grid: The stack's grid, with the true step between slices: a tilted gantry stays a shear.
        largest_deviation_mm: How far a slice lies from its place in the grid, at most.
    """

    places: tuple[tuple[int, ...], ...]
    grid: Grid
    largest_deviation_mm: float


def along_normal_mm(position_mm: Sequence[float], orientation: Sequence[float]) -> float:
    """Image Position (Patient) projected on the slice normal, in mm; the key slices sort by."""
    across, down = np.reshape(np.asarray(orientation, dtype=np.float64), (2, 3))
    normal = np.cross(across, down)
    return float(np.asarray(position_mm, dtype=np.float64) @ normal / np.linalg.norm(normal))


def gaps(positions_mm: Sequence[float]) -> GapReport:
    """Which slices are missing between the outermost ones.

    The step is the smallest interval (averaged over all like it), so a stack whose slices arrive
    in any order shows exactly the absent ones as missing as soon as two neighbors are there.

    Args:
        positions_mm: Along the normal, in any order, as `along_normal_mm` gives them.
    """
    places, coincident = _distinct(np.sort(np.asarray(positions_mm, dtype=np.float64)))
    intervals = np.diff(places)
    if intervals.size == 0:
        return GapReport(0.0, (), coincident, ())
    smallest = float(intervals.min())
    tolerance = _interval_tolerance_mm(smallest)
    step = float(intervals[intervals <= smallest + tolerance].mean())
    missing: list[float] = []
    uneven: list[tuple[float, float]] = []
    for start, interval in zip(places[:-1], intervals, strict=True):
        steps = round(interval / step)
        if abs(interval - steps * step) > tolerance:
            uneven.append((float(start), float(interval)))
        else:
            missing += [float(start + interval * k / steps) for k in range(1, steps)]
    return GapReport(step, tuple(missing), coincident, tuple(uneven))


def arrange(slices: Sequence[SliceGeometry]) -> Arrangement:
    """Sort slices along their normal into one even stack, or say why they are none.

    Args:
        slices: In any order.

    Raises:
        Declined: ``slices.few``, ``slices.mixed``, ``slices.uneven``, ``slices.missing``,
            ``slices.shifted``, ``slices.coarse``, ``slices.too_many``.
    """
    _check_alike(slices)
    distances = np.array([one.along_normal_mm for one in slices])
    report = gaps(distances.tolist())
    if report.step_mm == 0:
        raise Declined(
            "slices.few",
            found="slices at a single position",
            expected="a stack of slices",
            remedy="Send the axial neck series, not a single slice.",
        )
    _check_gapless(report)
    order = np.argsort(distances, kind="stable")
    places: list[list[int]] = []
    previous = -np.inf
    for index in order:
        if distances[index] - previous > COINCIDENT_MM:
            places.append([])
        places[-1].append(int(index))
        previous = distances[index]
    grid, deviation = _grid(slices, places)
    check_resolution(grid.spacing_mm, max(one.thickness_mm or 0.0 for one in slices))
    return Arrangement(tuple(map(tuple, places)), grid, deviation)


def check_resolution(spacing_mm: tuple[float, float, float], thickness_mm: float = 0.0) -> None:
    """Refuse a series too coarse to show the canal's wall and the discs.

    Args:
        spacing_mm: Along slice, row and column.
        thickness_mm: Slice Thickness; thick slices at a small step are coarse as well.

    Raises:
        Declined: ``slices.coarse`` or ``pixels.coarse``.
    """
    remedy = "Send a thinner reconstruction of the neck, 1 mm if there is one."
    if spacing_mm[0] > MAXIMUM_STEP_MM + 0.01:
        raise Declined(
            "slices.coarse",
            found=f"slices {spacing_mm[0]:.2f} mm apart",
            expected=f"at most {MAXIMUM_STEP_MM:g} mm",
            remedy=remedy,
        )
    if thickness_mm > MAXIMUM_STEP_MM + 0.01:
        raise Declined(
            "slices.coarse",
            found=f"slices {thickness_mm:.2f} mm thick",
            expected=f"at most {MAXIMUM_STEP_MM:g} mm",
            remedy=remedy,
        )
    if max(spacing_mm[1:]) > MAXIMUM_PIXEL_MM:
        raise Declined(
            "pixels.coarse",
            found=f"pixels of {max(spacing_mm[1:]):.2f} mm",
            expected=f"at most {MAXIMUM_PIXEL_MM:g} mm",
            remedy="Send a reconstruction with a smaller field of view.",
        )


def _corrupt(code: str, found: str, expected: str) -> Corrupt:
    return Corrupt(
        code, found=found, expected=expected, remedy="Send the series again from its source."
    )


def _interval_tolerance_mm(step_mm: float) -> float:
    return min(INTERVAL_TOLERANCE_MM, INTERVAL_TOLERANCE_OF_STEP * step_mm)


def _distinct(ascending_mm: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """Positions with coincident ones merged, and those that were merged."""
    if ascending_mm.size == 0:
        return ascending_mm, ()
    is_new = np.concatenate(([True], np.diff(ascending_mm) > COINCIDENT_MM))
    counts = np.bincount(np.cumsum(is_new) - 1)
    places = ascending_mm[is_new]
    return places, tuple(float(place) for place in places[counts > 1])


def _check_alike(slices: Sequence[SliceGeometry]) -> None:
    if len(slices) < 2:
        raise Declined(
            "slices.few",
            found=f"{len(slices)} slice(s)",
            expected="a stack of slices",
            remedy="Send the axial neck series, not a single slice.",
        )
    first = slices[0]
    different: str | None = None
    for other in slices[1:]:
        if other.frame_of_reference_uid != first.frame_of_reference_uid:
            different = "frames of reference"
        elif other.shape != first.shape:
            different = "numbers of rows and columns"
        elif _largest_difference(other.orientation, first.orientation) > ORIENTATION_TOLERANCE:
            different = "orientations"
        elif _largest_difference(other.pixel_mm, first.pixel_mm) > PIXEL_TOLERANCE_MM:
            different = "pixel spacings"
        if different:
            raise Declined(
                "slices.mixed",
                found=f"slices of different {different} in one series",
                expected=f"one of the {different} for all slices",
                remedy="Send one reconstruction as one series.",
            )
    if len(slices) * first.shape[0] * first.shape[1] > MAXIMUM_VOXELS:
        raise Declined(
            "slices.too_many",
            found=f"{len(slices)} slices of {first.shape[0]} x {first.shape[1]}",
            expected=f"at most {MAXIMUM_VOXELS} voxels",
            remedy="Send a reconstruction of the neck alone.",
        )


def _largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _check_gapless(report: GapReport) -> None:
    if report.uneven_mm:
        position, interval = report.uneven_mm[0]
        raise Declined(
            "slices.uneven",
            found=f"an interval of {interval:.3f} mm at {position:.1f} mm in a stack with steps of "
            f"{report.step_mm:.3f} mm ({len(report.uneven_mm)} such)",
            expected=f"even steps within {_interval_tolerance_mm(report.step_mm):g} mm",
            remedy="Send one reconstruction with one slice increment as one series.",
        )
    if report.missing_mm:
        shown = ", ".join(f"{position:.1f}" for position in report.missing_mm[:5])
        raise Declined(
            "slices.missing",
            found=f"{len(report.missing_mm)} slice(s) missing, at {shown} mm along the normal",
            expected=f"a slice every {report.step_mm:.3f} mm",
            remedy="Send the series again, complete.",
        )


def _grid(slices: Sequence[SliceGeometry], places: Sequence[Sequence[int]]) -> tuple[Grid, float]:
    """The even grid through the slice positions, and the largest distance from it in mm."""
    positions = np.array([slices[place[0]].position_mm for place in places])
    count = len(positions)
    step = (positions[-1] - positions[0]) / (count - 1)
    ideal = positions[0] + np.arange(count)[:, None] * step
    deviation = float(np.linalg.norm(positions - ideal, axis=1).max())
    if deviation > ALIGNMENT_TOLERANCE_MM:
        raise Declined(
            "slices.shifted",
            found=f"a slice {deviation:.2f} mm off the line through the others",
            expected=f"at most {ALIGNMENT_TOLERANCE_MM:g} mm",
            remedy="Send a reconstruction with one field of view and no table shift.",
        )
    first = slices[places[0][0]]
    across, down = np.reshape(np.asarray(first.orientation), (2, 3))
    across, down = across / np.linalg.norm(across), down / np.linalg.norm(down)
    normal = np.cross(across, down)
    cosine = np.clip(step @ normal / (np.linalg.norm(step) * np.linalg.norm(normal)), -1, 1)
    tilt_deg = float(np.degrees(np.arccos(cosine)))
    if tilt_deg > MAXIMUM_TILT_DEG:
        raise Declined(
            "slices.shifted",
            found=f"slices that step {tilt_deg:.1f} degrees off their normal",
            expected=f"a gantry tilt of at most {MAXIMUM_TILT_DEG:g} degrees",
            remedy="Check the positions that the scanner wrote.",
        )
    steps = np.array([step, down * first.pixel_mm[0], across * first.pixel_mm[1]])
    return Grid.from_steps((count, *first.shape), positions[0], steps), deviation
