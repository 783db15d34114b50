"""What the gate does with disturbed necks and with what is no neck: the table of docs/gate.md.

``python -m pipeline.evaluation.gate CT_FOLDER --phantoms 20`` prints it. Deviations are from the
analysis of the undisturbed CT: they say how repeatable the gate is, not how right. How right it is
only phantoms can say, and they are no patients.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydicom import dcmread
from scipy.spatial import cKDTree

from pipeline.anatomy import Anatomy, find_anatomy
from pipeline.errors import Declined
from pipeline.evaluation import perturbed
from pipeline.evaluation.perturbed import Perturbed
from pipeline.geometry import Float64, Volume
from pipeline.phantom import Artifact, Region, Variation, ct_series, patient
from pipeline.phantom.landmarks import canal_ap_mm, centerline_mm, discs_mm
from pipeline.sampling import average_blocks
from pipeline.volume import read_series

Case = Callable[[], Perturbed]

# C1 to T2, where the comparison is; the ends of the line are only as long as the CT.
COMPARED = slice(20, 130)
# As coarse as the gate takes: finer ones take minutes each to draw.
PHANTOM_SPACING_MM = (2.0, 1.2, 1.2)
# The phantom's discs are as near as this to a found one or they are another disc.
SAME_DISC_MM = 8.0


@dataclass(frozen=True)
class Deviation:
    """How far an analysis is from that of the undisturbed CT, in the undisturbed patient.

    Args:
        line_mm: Mean distance of the centerline, C1 to T2.
        plane_deg: Angle between the mid-sagittal planes.
        disc_mm: Largest distance of a disc from its namesake.
        ap_mm: Largest difference of a canal diameter; NaN when all are withheld.
    """

    line_mm: float
    plane_deg: float
    disc_mm: float
    ap_mm: float


def cases(ct: Volume, anatomy: Anatomy, fine: Volume | None = None) -> dict[str, Case]:
    """Disturbances of an axial CT whose anatomy is known, each made when it is called.

    Args:
        ct: Slices along z.
        anatomy: Of `ct`.
        fine: The same with smaller pixels, which stand enlarging.
    """
    fine = fine or ct
    disc = {level.name: level.position_mm for level in anatomy.levels}
    line = anatomy.centerline_mm
    skull_z, c23_z = float(line[0, 2]), float(disc["C2/3"][2])
    ends = np.array([line[0], line[np.abs(line[:, 2] - disc["T1/2"][2] + 10).argmin()]])
    block = (float(disc["C6/7"][2]) - 5, float(disc["C4/5"][2]) - 5)
    screws = np.array([disc[name] for name in ("C3/4", "C4/5", "C5/6", "C6/7")])
    teeth = disc["C2/3"] + np.array([[25.0, -45, 10], [-25, -45, 10]])
    front, back = disc["C2/3"][1] - 59, disc["C7/T1"][1] + 78
    middle = float(disc["C5/6"][0])
    return {
        **{
            f"turned {degrees:+d}° about {axis}": partial(perturbed.turned, ct, axis, degrees)
            for axis in "xyz"
            for degrees in (-30, -15, -10, 10, 15, 30)
        },
        "lying on the side": partial(perturbed.turned, ct, "z", 90),
        "100 HU of noise": partial(perturbed.noisy, ct, 100),
        "2 mm slices": partial(perturbed.thicker, ct, 2),
        "3 mm slices": partial(perturbed.thicker, ct, 3),
        "5 mm slices": partial(perturbed.thicker, ct, 5),
        "spine only": partial(
            perturbed.cut, ct, x_mm=(middle - 53, middle + 47), y_mm=(front, back)
        ),
        "gantry tilt +18.5°": partial(perturbed.gantry_tilted, ct, 18.5),
        "gantry tilt -18.5°": partial(perturbed.gantry_tilted, ct, -18.5),
        "scanned prone": partial(perturbed.reordered, ct, [1, 2]),
        "scanned feet first": partial(perturbed.reordered, ct, [0]),
        "header: left for right": partial(perturbed.flipped, ct, [2]),
        "header: front for back": partial(perturbed.flipped, ct, [1]),
        "header: supine for prone": partial(perturbed.flipped, ct, [1, 2]),
        "header: head for feet": partial(perturbed.flipped, ct, [0]),
        "HU without intercept": partial(perturbed.rescaled, ct, 1, 1024),
        "HU 1000 too low": partial(perturbed.rescaled, ct, 1, -1000),
        "HU halved": partial(perturbed.rescaled, ct, 0.5, 0),
        "HU doubled": partial(perturbed.rescaled, ct, 2, 0),
        "size 0.5": partial(perturbed.scaled, ct, 0.5),
        "size 0.7 (child)": partial(perturbed.scaled, ct, 0.7),
        "size 0.85": partial(perturbed.scaled, ct, 0.85),
        "size 1.15": partial(perturbed.scaled, fine, 1.15),
        "size 2": partial(perturbed.scaled, fine, 2.0),
        **{f"bent by {mm} mm": partial(perturbed.bent, ct, mm, ends) for mm in (5, 10, 15, 20, 30)},
        **{
            f"twisted by {degrees}°": partial(perturbed.twisted, ct, degrees, ends)
            for degrees in (15, 30, 45)
        },
        "bent by 15 mm, twisted by 30°": lambda: _both(
            perturbed.bent(ct, 15, ends), lambda bent: perturbed.twisted(bent, 30, ends)
        ),
        **{f"moved by {mm} mm": partial(perturbed.moved, ct, mm, block) for mm in (1, 2, 4, 8)},
        "screws C4 to C7": partial(perturbed.screwed, ct, screws),
        "dental metal": partial(perturbed.filled, ct, teeth),
        "without skull": partial(perturbed.cut, ct, z_mm=(-1e4, skull_z)),
        "without ribs": partial(perturbed.cut, ct, z_mm=(float(disc["T1/2"][2]) + 1, 1e4)),
        "head alone": partial(perturbed.cut, ct, z_mm=(skull_z, 1e4)),
        "head to C5": partial(perturbed.cut, ct, z_mm=(float(disc["C4/5"][2]) - 10, 1e4)),
        "from C2 down": partial(perturbed.cut, ct, z_mm=(-1e4, c23_z + 25)),
        "from C3 down": partial(perturbed.cut, ct, z_mm=(-1e4, c23_z)),
        "from T1 down": partial(perturbed.cut, ct, z_mm=(-1e4, float(disc["C7/T1"][2]) + 3)),
    }


def deviation(found: Anatomy, change: Perturbed, original: Anatomy) -> Deviation:
    """What the disturbance did to the analysis."""
    size = float(np.cbrt(np.linalg.det(change.motion[:3, :3])))
    line_mm, _ = cKDTree(change.back(found.centerline_mm)).query(original.centerline_mm[COMPARED])
    normal = np.linalg.inv(change.motion)[:3, :3] @ found.plane.normal * size
    cosine = float(np.clip(normal @ original.plane.normal, -1, 1))
    where = {level.name: level.position_mm for level in original.levels}
    discs_apart = [
        float(np.linalg.norm(change.back(level.position_mm) - where[level.name]))
        for level in found.levels
        if level.name in where
    ]
    widths_apart = [
        abs(mm / size - original.canal_ap_mm[name])
        for name, mm in found.canal_ap_mm.items()
        if name in original.canal_ap_mm
    ]
    return Deviation(
        float(np.mean(line_mm)),
        float(np.degrees(np.arccos(cosine))),
        max(discs_apart),
        max(widths_apart, default=float("nan")),
    )


def disturbed_rows(ct: Volume, anatomy: Anatomy, fine: Volume | None = None) -> Iterator[str]:
    """The table of one CT, a Markdown line for each of its `cases`."""
    for name, case in cases(ct, anatomy, fine).items():
        change = case()
        try:
            found = find_anatomy(change.volume)
        except Declined as declined:
            yield _line(name, declined)
            continue
        apart = deviation(found, change, anatomy)
        is_wrong = found.levels_confirmed and apart.disc_mm > SAME_DISC_MM
        yield (
            f"| {name} | accepted | {'WRONG' if is_wrong else _levels(found)} | "
            f"{apart.line_mm:.1f} | {apart.plane_deg:.1f} | {apart.disc_mm:.1f} | "
            f"{_number(apart.ap_mm)} | {'; '.join(found.warnings)} |"
        )


def other_rows() -> Iterator[str]:
    """The same for parts of a phantom that are no neck."""
    for region in (Region.HEAD_ONLY, Region.CHEST, Region.LUMBAR):
        ct = ct_series(patient(0), spacing_mm=PHANTOM_SPACING_MM, region=region)
        name = f"phantom, {region.value.replace('_', ' ')}"
        try:
            yield f"| {name} | ACCEPTED | {_levels(find_anatomy(ct))} | | | | | |"
        except Declined as declined:
            yield _line(name, declined)


def scanned_rows(seed: int) -> Iterator[str]:
    """The same for one phantom's neck, disturbed by the physics of the scan."""
    person = patient(seed, (), Variation(is_face_blanked=False))
    for artifacts in ((), *((artifact,) for artifact in Artifact)):
        name = f"phantom {seed}, {artifacts[0].value if artifacts else 'undisturbed'}"
        try:
            found = find_anatomy(
                ct_series(person, spacing_mm=PHANTOM_SPACING_MM, artifacts=artifacts)
            )
        except Declined as declined:
            yield _line(name, declined)
            continue
        yield f"| {name} | accepted | {_levels(found)} | | | | | {'; '.join(found.warnings)} |"


@dataclass(frozen=True)
class PhantomResult:
    """The gate against the truth of one phantom.

    Args:
        seed: Which.
        declined: Code of the decline; empty when accepted.
        is_confirmed: Whether the names were confirmed.
        disc_mm: By name, how far below the true disc along the canal.
        line_mm: Median distance of the found centerline from the true one.
        ap_mm: By vertebra, diameter less the true one.
    """

    seed: int
    declined: str
    is_confirmed: bool
    disc_mm: Mapping[str, float]
    line_mm: float
    ap_mm: Mapping[str, float]

    @property
    def is_right(self) -> bool:
        """Whether every named disc is the true disc of that name."""
        return all(abs(mm) <= SAME_DISC_MM for mm in self.disc_mm.values())


def on_phantom(
    seed: int, spacing_mm: tuple[float, float, float] = PHANTOM_SPACING_MM
) -> PhantomResult:
    """Judge the CT of one phantom and compare with what it was made of."""
    person = patient(seed)
    try:
        found = find_anatomy(ct_series(person, spacing_mm=spacing_mm))
    except Declined as declined:
        return PhantomResult(seed, str(declined), False, {}, float("nan"), {})
    tree = cKDTree(found.centerline_mm)
    truth, widths = discs_mm(person), canal_ap_mm(person)
    line_mm, _ = cKDTree(centerline_mm(person, 1.0)).query(found.centerline_mm[40:])
    return PhantomResult(
        seed,
        "",
        found.levels_confirmed,
        {x.name: _height_apart_mm(tree, x.position_mm, truth[x.name]) for x in found.levels},
        float(np.median(line_mm)),
        {k: mm - widths[k] for k, mm in found.canal_ap_mm.items() if k in widths},
    )


def summary(results: Sequence[PhantomResult]) -> list[str]:
    """Shares and errors over phantoms, in Markdown."""
    taken = [one for one in results if not one.declined]
    sure = [one for one in taken if one.is_confirmed]
    discs = np.abs([mm for one in sure for mm in one.disc_mm.values()])
    widths = np.array([mm for one in taken for mm in one.ap_mm.values()])
    lines = [
        f"- accepted: {len(taken)} of {len(results)}",
        f"- levels confirmed: {len(sure)} of {len(taken)} accepted",
        f"- all names right: {sum(one.is_right for one in sure)} of {len(sure)} confirmed, "
        f"{sum(one.is_right for one in taken if not one.is_confirmed)} of "
        f"{len(taken) - len(sure)} unconfirmed",
        f"- disc height, confirmed: mean error {_of(np.mean, discs)} mm, "
        f"largest {_of(np.max, discs)} mm",
        f"- canal AP less the truth: mean {_of(np.mean, widths)} mm, mean size of the error "
        f"{_of(np.mean, np.abs(widths))} mm, largest {_of(np.max, np.abs(widths))} mm",
        f"- centerline: largest median error {_of(np.max, np.array([x.line_mm for x in taken]))} "
        "mm",
    ]
    return lines + [f"- seed {one.seed}: {one.declined}" for one in results if one.declined]


def _both(first: Perturbed, second: Callable[[Volume], Perturbed]) -> Perturbed:
    """One change after another."""
    then = second(first.volume)
    return Perturbed(then.volume, then.motion @ first.motion, lambda mm: first.back(then.back(mm)))


def _height_apart_mm(tree: cKDTree, one: Float64, other: Float64) -> float:
    """Difference of heights along a line of points 1 mm apart."""
    return float(tree.query(one)[1]) - float(tree.query(other)[1])


def _line(name: str, declined: Declined) -> str:
    return (
        f"| {name} | {declined.code} | | | | | | {declined.found}; expected {declined.expected} |"
    )


def _levels(found: Anatomy) -> str:
    return "confirmed" if found.levels_confirmed else "unconfirmed"


def _number(value: float) -> str:
    return "withheld" if np.isnan(value) else f"{value:.1f}"


def _of(statistic: Callable[[Float64], object], values: Float64) -> str:
    return f"{statistic(values):.1f}" if values.size else "-"


def main() -> None:
    """Print the tables of docs/gate.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ct_folder", type=Path, help="DICOM of one axial neck CT")
    parser.add_argument("--phantoms", type=int, default=20, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=200000, help="seed of the first phantom")
    parser.add_argument("--scanned", type=int, default=5, help="seed of the disturbed phantom")
    arguments = parser.parse_args()
    series = read_series([dcmread(path) for path in sorted(arguments.ct_folder.glob("*.dcm"))])
    # A third of the time, and about as coarse as the gate takes it; the findings are the same.
    ct = average_blocks(series.volume, (1, 2, 2))
    anatomy = find_anatomy(ct)
    print("| CT | gate | levels | line mm | plane ° | disc mm | AP mm | measured |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    seeds = range(arguments.first, arguments.first + arguments.phantoms)
    rows = (
        disturbed_rows(ct, anatomy, series.volume),
        other_rows(),
        scanned_rows(arguments.scanned),
    )
    for row in itertools.chain(*rows):
        print(row, flush=True)
    print("", *summary([on_phantom(seed) for seed in seeds]), sep="\n")


if __name__ == "__main__":
    main()
