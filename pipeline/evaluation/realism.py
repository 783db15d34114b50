"""How far the phantom is from real necks: shapes against annotated CTs, contrasts against T2 crops.

``python -m pipeline.evaluation.realism DATA_FOLDER`` prints the table of docs/phantom.md. The data
folder is that of the tests (``canal-masks``, ``cervical-t2``); nothing of it is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from pipeline.contrast import Contrast
from pipeline.evaluation.canal_shape import DEPTHS, Sections, sections
from pipeline.evaluation.t2_contrast import contrasts
from pipeline.geometry import Float32, Float64, Grid
from pipeline.phantom.canal import outside_canal
from pipeline.phantom.mri import acquire
from pipeline.phantom.person import Patient, Stream, Variation, patient, stream
from pipeline.phantom.rendering import Rendered, render
from pipeline.phantom.tissues import Tissue

Mask = NDArray[np.bool_]
Figures = Mapping[str, float]
"""Figures of one person by name."""

ALONG_MM = (0, 20, 60, 100, 140, 180)
"""Bounds of the stretches that are compared, from the foramen magnum down: about C1, C2-C4, C4-C6,
C6-T1 and T1-T3 of an adult; the masks name no level."""

MASK_SPACING_MM = (2.5, 1.0, 1.0)
"""Of the phantom's masks, slice, row and column: as coarse as the real ones (0.94-1.27 mm)."""

CONTOUR_MM = 0.5
"""How far outside the drawn wall a phantom's contour may run: half a voxel."""

T2_SPACING_MM = (1.0, 1.0, 1.0)
"""Of the phantom's T2, as the crop ``t2``."""

CORD = (Tissue.CORD, Tissue.CORD_GRAY, Tissue.CORD_OEDEMA)
WITHIN_CANAL = (
    *CORD,
    Tissue.CSF,
    Tissue.NERVE,
    Tissue.DURA,
    Tissue.EPIDURAL_FAT,
    Tissue.VEIN,
    Tissue.LIGAMENT,
    Tissue.FLAVUM,
)
"""What an annotator of a CT takes for the canal: everything soft between its bony walls."""

CROPS = (
    ("t2.nii.gz", "t2_seg-manual.nii.gz", None),
    ("t2_fake_lesion.nii.gz", "t2_fake_lesion_sc_seg.nii.gz", "t2_fake_lesion_lesion_seg.nii.gz"),
    ("PAM50_small_t2.nii.gz", "PAM50_small_cord.nii.gz", None),
)
"""Image, cord, what is left out. PAM50 is a template, the mean of 50 people: it has no noise."""

TEMPLATE_LEVELS = (2, 8)
"""Vertebrae of the template that are measured, C2 to T1: the phantom's stretch."""

NOISE_FIGURES = ("cord_grain", "cord_step", "body_grain")
HEALTHY = Variation(wear=0.2)
"""The crops are of volunteers and of a template of volunteers: discs hardly worn."""

DEFAULT_SEEDS = range(900_000, 900_020)


@dataclass(frozen=True)
class Spread:
    """A figure over persons: mean, standard deviation, 5th and 95th percentile, and how many."""

    mean: float
    sd: float
    low: float
    high: float
    n: int

    @classmethod
    def over(cls, values: Iterable[float]) -> Spread:
        """NaN are persons without the figure; no person gives NaN and n = 0."""
        array = np.array([v for v in values if np.isfinite(v)])
        if not len(array):
            nan = float("nan")
            return cls(nan, nan, nan, nan, 0)
        low, high = np.percentile(array, (5, 95))
        sd = float(array.std(ddof=1)) if len(array) > 1 else float("nan")
        return cls(float(array.mean()), sd, float(low), float(high), len(array))


def shape_figures(found: Sections) -> dict[str, float]:
    """Mean of every diameter in each stretch of `ALONG_MM`; keys such as ``"canal AP 20-60"``."""
    columns = {
        "canal AP mm": found.canal_ap_mm,
        "canal transverse mm": found.canal_side_mm,
        "cord AP mm": found.cord_ap_mm,
        "cord transverse mm": found.cord_side_mm,
        "cord center / canal AP": found.cord_center,
        **{
            f"canal width at {depth:.0%} of its depth": found.taper[:, number]
            for number, depth in enumerate(DEPTHS)
        },
    }
    figures = {}
    for name, values in columns.items():
        for low, high in pairwise(ALONG_MM):
            part = values[(found.along_mm >= low) & (found.along_mm < high)]
            part = part[np.isfinite(part)]
            figures[f"{name}, {low}-{high}"] = float(part.mean()) if len(part) else float("nan")
    return figures


def real_shapes(folder: Path) -> list[Figures]:
    """Figures of every pair of masks in ``canal-masks``.

    Raises:
        FileNotFoundError: When there is none.
    """
    found: list[Figures] = []
    for path in sorted(Path(folder).glob("*/Spinal-Canal.nrrd")):
        canal, spacing_mm = _read(path)
        cord, _ = _read(path.with_name("Spinal-Cord.nrrd"))
        # nine in ten voxels of a head-and-neck CT are nowhere near the canal
        near = tuple(
            slice(int(at[0]), int(at[-1]) + 1)
            for at in (np.flatnonzero(canal.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
        )
        found.append(shape_figures(sections(canal[near] > 0, cord[near] > 0, spacing_mm)))
    if not found:
        raise FileNotFoundError(f"no */Spinal-Canal.nrrd in {folder}")
    return found


def real_contrasts(folder: Path) -> list[Figures]:
    """Figures of the T2 crops in ``cervical-t2``; noise is not read from the template."""
    found: list[Figures] = []
    for name, cord_name, lesion_name in CROPS:
        signal, spacing_mm = _read(Path(folder) / name)
        cord = np.asarray(_read(Path(folder) / cord_name)[0] > 0.5)
        lesion = _read(Path(folder) / lesion_name)[0] > 0 if lesion_name else None
        is_template = name.startswith("PAM50")
        if is_template:
            levels, _ = _read(Path(folder) / "PAM50_small_levels.nii.gz")
            first, last = TEMPLATE_LEVELS
            cord[~((levels >= first) & (levels <= last)).any(axis=(1, 2))] = False
        figures = asdict(contrasts(signal.astype(np.float32), cord, spacing_mm, lesion))
        if is_template:
            figures |= dict.fromkeys(NOISE_FIGURES, float("nan"))
        found.append(figures)
    return found


def _read(path: Path) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Any volume as axial slices from head to feet, rows to posterior; with its spacing, mm."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    values: NDArray[Any] = sitk.GetArrayFromImage(image)[::-1]
    column_mm, row_mm, slice_mm = image.GetSpacing()
    return values, (slice_mm, row_mm, column_mm)


def phantom_shapes(person: Patient) -> Figures:
    """The same figures of a phantom, from its labels between the foramen magnum and T4."""
    start = -5 * person.size
    grid = _axial_grid(person, (start, start + ALONG_MM[-1] + 5), MASK_SPACING_MM, 52)
    done = render(person, grid, supersample=1)
    along, normal, lateral = _spine_coordinates(person, grid)
    # what is soft goes on into the foramina; a contour of the canal does not
    outside = outside_canal(normal, lateral, along, person.size, person.canal)
    between = (outside < CONTOUR_MM) & (along > start)
    cord = np.isin(done.labels, CORD) & between
    canal = np.isin(done.labels, WITHIN_CANAL) & between
    canal[~cord.any(axis=(1, 2))] = False
    return shape_figures(sections(canal, cord, MASK_SPACING_MM))


def phantom_contrasts(person: Patient) -> tuple[Figures, Figures]:
    """The same figures of a phantom's T2 from C2 to T1: clean, and as a scanner acquires it."""
    grid = _axial_grid(person, (25 * person.size, 125 * person.size), T2_SPACING_MM, 40)
    done = render(person, grid, supersample=1)
    cord = np.isin(done.labels, CORD)
    clean, scanned = (
        asdict(contrasts(signal, cord, T2_SPACING_MM))
        for signal in (done.t2, _acquired(person, done))
    )
    return clean, scanned


def _acquired(person: Patient, done: Rendered) -> Float32:
    """An axial T2 scanned in sagittal slices, as the truth's stack is."""
    slice_mm, row_mm, column_mm = done.grid.spacing_mm
    scanned = acquire(
        done.t2.transpose(2, 0, 1),
        done.labels.transpose(2, 0, 1),
        Contrast.T2,
        (column_mm, slice_mm, row_mm),
        stream(person.seed, Stream.MR),
    )
    return np.ascontiguousarray(scanned.transpose(1, 2, 0))


def _axial_grid(
    person: Patient,
    stretch_mm: tuple[float, float],
    spacing_mm: tuple[float, float, float],
    wide_mm: float,
) -> Grid:
    """Axial slices around a stretch of the spine, 30 mm before and behind it."""
    course = np.array([person.frame.point_mm(s) for s in np.arange(*stretch_mm, 2.5)])
    (y_low, z_low), (y_high, z_high) = course.min(axis=0), course.max(axis=0)
    extent = np.array([z_high - z_low, y_high - y_low + 60, wide_mm])
    shape = np.maximum(1, extent / spacing_mm).astype(int)
    steps = np.diag(spacing_mm) @ np.array([[0, 0, -1.0], [0, 1.0, 0], [1.0, 0, 0]])
    origin = np.array([-(shape[2] - 1) / 2 * spacing_mm[2], y_low - 30, z_high])
    return Grid.from_steps((int(shape[0]), int(shape[1]), int(shape[2])), origin, steps)


def _spine_coordinates(person: Patient, grid: Grid) -> tuple[Float32, Float32, Float32]:
    """Along, normal and lateral of every voxel, mm, in the grid's shape."""
    index: Float64 = np.indices(grid.shape).reshape(3, -1).T.astype(np.float64)
    at = person.frame.locate(*grid.to_mm(index).T.astype(np.float32))
    along, normal, lateral = (v.reshape(grid.shape) for v in (at.along, at.normal, at.lateral))
    return along, normal, lateral


CONTRAST_NAMES = {
    "cord": "cord / CSF",
    "csf_ring": "median of the CSF ring / CSF",
    "csf_front": "CSF peak before the cord / CSF",
    "csf_back": "CSF peak behind the cord / CSF",
    "cord_grain": "sd within the cord / CSF",
    "cord_step": "sd of the cord from slice to slice / CSF",
    "body": "vertebral column, median / CSF",
    "body_dark": "vertebral column, 10th percentile / CSF",
    "body_bright": "vertebral column, 90th percentile / CSF",
    "body_grain": "sd within the vertebral column / CSF",
    "cord_ap_mm": "cord AP on MRI mm",
    "cord_side_mm": "cord transverse on MRI mm",
}


def table(real: Sequence[Figures], phantoms: Sequence[Figures]) -> str:
    """Markdown, one row a figure.

    Args:
        real: Of each real person, at least one.
        phantoms: Of each phantom, the same names.
    """
    lines = [
        "| figure | real mean ± sd (5-95 %, n) | phantom mean ± sd (5-95 %, n) | difference "
        "| in real sd |",
        "|---|---|---|---|---|",
    ]
    for name in real[0]:
        a, b = (Spread.over(person[name] for person in group) for group in (real, phantoms))
        off = b.mean - a.mean
        lines.append(
            f"| {CONTRAST_NAMES.get(name, name)} | {_cell(a)} | {_cell(b)} | {off:+.2f} "
            f"| {_share(off, a.sd)} |"
        )
    return "\n".join(lines)


def _cell(of: Spread) -> str:
    sd = f"{of.sd:.2f}" if np.isfinite(of.sd) else "-"
    return f"{of.mean:.2f} ± {sd} ({of.low:.2f}-{of.high:.2f}, {of.n})"


def _share(off: float, sd: float) -> str:
    return f"{off / sd:+.1f}" if np.isfinite(sd) and sd > 0 else "-"


def report(folder: Path, seeds: range) -> Iterator[str]:
    """The tables of docs/phantom.md, a piece at a time.

    Args:
        folder: Holds ``canal-masks`` and ``cervical-t2``.
        seeds: Of the phantoms, all sound, as the real ones are.
    """
    real = real_shapes(folder / "canal-masks")
    yield "Shapes; stretches in mm along the canal from the foramen magnum:\n"
    yield table(real, [phantom_shapes(patient(seed, [])) for seed in seeds])
    crops = real_contrasts(folder / "cervical-t2")
    found = [phantom_contrasts(patient(seed, [], HEALTHY)) for seed in seeds]
    for number, title in enumerate(("as it teaches, clean", "as `truth` acquires it")):
        yield f"\nT2, the phantom {title}:\n"
        yield table(crops, [both[number] for both in found])


def main() -> None:
    """Print how far the phantom is from real necks, in Markdown."""
    parser = argparse.ArgumentParser(prog="realism", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="with canal-masks and cervical-t2")
    parser.add_argument("--seeds", default=None, metavar="A:B", help="phantoms A to B - 1")
    asked = parser.parse_args()
    seeds = range(*map(int, asked.seeds.split(":"))) if asked.seeds else DEFAULT_SEEDS
    for piece in report(asked.folder, seeds):
        print(piece, flush=True)


if __name__ == "__main__":
    main()
