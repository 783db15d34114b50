"""Are injuries found by a threshold on a region's signal or the canal's shape, are others spared.

Regions come from the patient's uninjured twin, so that they do not give away where the injury is;
only a translation stays in the twin, since it moves the bones. Thresholds are chosen on other
phantoms than those that are judged. Levels of one patient are not independent: the limits, which
take them so, are a little too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, rankdata

from pipeline.canal_rows import read_rows
from pipeline.course import Course
from pipeline.evaluation.shapes import lost_csf, wall_step_mm
from pipeline.geometry import Float32, Float64, Grid
from pipeline.phantom import LEVELS, Finding, Patient, Tissue, TrainingPair, patient, render
from pipeline.phantom.frame import Coordinates

AROUND = 3
"""Slices on both sides of the canal's: findings lie near the midline."""

FOUND_BY_SIGNAL = (
    Finding.PREVERTEBRAL_HAEMATOMA,
    Finding.DISC_INJURY,
    Finding.CORD_OEDEMA,
    Finding.INTERSPINOUS_INJURY,
    Finding.VERTEBRAL_FRACTURE,
)

FOUND_BY_SHAPE = (Finding.CANAL_STENOSIS, Finding.TRANSLATION)
"""Without a signal of their own (`pipeline.evaluation.shapes`)."""

CHANGES_SHAPE = (
    *FOUND_BY_SHAPE,
    Finding.FACET_DISLOCATION,
    Finding.VERTEBRAL_FRACTURE,
    Finding.CORD_OEDEMA,
)
"""One of these at a level, or at the next, and the canal there is neither sound nor what is looked
for: a piece of bone or a swollen cord takes the CSF as well."""

LESION: Mapping[Finding, tuple[Tissue, ...]] = {
    Finding.PREVERTEBRAL_HAEMATOMA: (Tissue.HAEMATOMA,),
    Finding.DISC_INJURY: (Tissue.DISC_INJURY,),
    Finding.CORD_OEDEMA: (Tissue.CORD_OEDEMA,),
    Finding.INTERSPINOUS_INJURY: (Tissue.INTERSPINOUS_OEDEMA,),
    Finding.VERTEBRAL_FRACTURE: (Tissue.MARROW_OEDEMA, Tissue.FRACTURE_LINE),
}
NOT_PREVERTEBRAL = (
    Tissue.AIR,
    Tissue.CORTEX,
    Tissue.MARROW,
    Tissue.CARTILAGE,
    Tissue.MUCOSA,
    Tissue.OESOPHAGUS,
)
SMALLEST_PIXELS = 12


@dataclass(frozen=True)
class Sample:
    """One level of one patient in one image.

    Args:
        finding: Looked for.
        is_injured: Whether it is there.
        ct_visible: Whether the CT shows it; of no meaning at a healthy level.
        values: By image and statistic, such as ``("STIR", "p95")`` or ``("STIR", "step, mm")``.
    """

    finding: Finding
    is_injured: bool
    ct_visible: bool
    values: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Detection:
    """How one finding is told from health in one image.

    Args:
        finding: Which.
        image: ``"STIR"``, ``"T2"``, or the truth's as the ceiling.
        statistic: Of the region, chosen with the threshold; or of the shape.
        threshold: Chosen on the tuning phantoms.
        sensitivity_visible: Found, of those with a CT sign; with 95% limits and count.
        sensitivity_occult: Found, of those without.
        specificity: Healthy levels left alone.
        auc_visible: Of those with a CT sign against healthy levels; does not need the threshold.
        auc_occult: Of those without; 0.5 is guessing.
    """

    finding: Finding
    image: str
    statistic: str
    threshold: float
    sensitivity_visible: Share
    sensitivity_occult: Share
    specificity: Share
    auc_visible: float
    auc_occult: float


@dataclass(frozen=True)
class Share:
    """A proportion with exact 95% limits (Clopper and Pearson 1934)."""

    hits: int
    of: int
    value: float
    low: float
    high: float

    @classmethod
    def count(cls, hits: int, of: int) -> Share:
        """From counts; NaN and 0..1 when there is nothing to count."""
        if of == 0:
            return cls(0, 0, float("nan"), 0.0, 1.0)
        low = float(beta.ppf(0.025, hits, of - hits + 1)) if hits else 0.0
        high = float(beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0
        return cls(hits, of, hits / of, low, high)


def samples_of(
    images: Mapping[str, Float32], pair: TrainingPair, person: Patient, course: Course, grid: Grid
) -> list[Sample]:
    """Every level of one phantom, for every finding.

    Args:
        images: ``(slice, row, column)`` by name.
        pair: The truth.
        person: Of the pair.
        course: Of the person's canal in the pair's grid.
        grid: Of the pair.
    """
    middle = course.middle_slice
    first, last = max(0, middle - AROUND), min(grid.shape[0], middle + AROUND + 1)
    part = _slices(grid, first, last)
    labels = _twin_labels(person, part) if person.findings else pair.labels[first:last]
    truth = pair.labels[first:last]
    at = _coordinates(person, part)
    out = []
    for number in range(len(LEVELS)):
        for finding, region in _regions(person, number, labels, at).items():
            lesion = np.isin(truth[region], LESION[finding])
            injury = person.injuries.get(finding)
            is_here = injury is not None and number == person.injuries.level
            # an injury that reaches into a neighboring level makes that neither sick nor healthy
            if region.sum() < SMALLEST_PIXELS or (lesion.any() and not is_here):
                continue
            values = {
                (name, statistic): value
                for name, image in images.items()
                for statistic, value in _statistics(image[first:last][region]).items()
            }
            visible = injury is not None and injury.ct_visible
            out.append(Sample(finding, is_here, visible, values))
    return out + list(shape_samples(images, person, course, grid))


def shape_samples(
    images: Mapping[str, Float32], person: Patient, course: Course, grid: Grid
) -> Iterator[Sample]:
    """Every level whose canal can be measured in all images, for each finding of a shape.

    Args:
        images: ``(slice, row, column)`` by name; only the slices through the canal count.
        person: Whose they are.
        course: Of the person's canal in the grid.
        grid: Of the images.
    """
    read = {name: read_rows(image, course) for name, image in images.items()}
    for number, level in enumerate(person.spine.levels[: len(LEVELS)]):
        disc = person.frame.position_mm(level.disc_middle)
        values: dict[Finding, dict[tuple[str, str], float]] = {
            Finding.CANAL_STENOSIS: {
                (name, "lost CSF"): lost_csf(rows, course, disc) for name, rows in read.items()
            },
            Finding.TRANSLATION: {
                (name, "step, mm"): wall_step_mm(rows, course, disc, grid.spacing_mm[1])
                for name, rows in read.items()
            },
        }
        is_near = abs(number - person.injuries.level) <= 1
        is_disturbed = is_near and any(person.injuries.visible(f) for f in CHANGES_SHAPE)
        for finding, measured in values.items():
            injury = person.injuries.get(finding)
            is_here = injury is not None and number == person.injuries.level
            if (is_disturbed and not is_here) or not np.isfinite(list(measured.values())).all():
                continue
            visible = injury is not None and injury.ct_visible
            yield Sample(finding, is_here, visible, measured)


def _statistics(values: Float32) -> dict[str, float]:
    return {"mean": float(values.mean()), "p95": float(np.percentile(values, 95))}


def _slices(grid: Grid, first: int, last: int) -> Grid:
    origin = grid.to_mm(np.array([first, 0, 0], dtype=np.float64))
    return Grid.from_steps((last - first, *grid.shape[1:]), origin, grid.steps_mm)


def _twin_labels(person: Patient, grid: Grid) -> NDArray[np.uint8]:
    """The same patient without the injury; bones that slipped stay where they are."""
    moving = (Finding.TRANSLATION, Finding.FACET_DISLOCATION)
    slipped = [one for one in moving if person.injuries.visible(one)]
    twin = patient(person.seed, slipped, person.variation)
    return render(twin, grid, supersample=1).labels


def _coordinates(person: Patient, grid: Grid) -> Coordinates:
    index = np.indices(grid.shape).reshape(3, -1).T.astype(np.float64)
    x, y, z = grid.to_mm(index).astype(np.float32).T
    return person.frame.locate(x, y, z)


def _regions(
    person: Patient, number: int, labels: NDArray[np.uint8], at: Coordinates
) -> dict[Finding, NDArray[np.bool_]]:
    """Where each finding of a level would be, from the healthy twin's labels."""
    level = person.spine.levels[number]
    shape = labels.shape
    along, normal = at.along.reshape(shape), at.normal.reshape(shape)
    aside = np.abs(at.lateral.reshape(shape))
    from_disc = along - level.disc_middle
    ahead = normal - person.spine.front()(along)
    behind = np.clip(-normal - person.canal.width(along), 0, None)
    interspinous = from_disc - 3 - level.spinous[3] * np.clip(behind, 0, level.spinous[0])
    is_disc = np.isin(labels, (Tissue.NUCLEUS, Tissue.ANNULUS))
    is_cord = np.isin(labels, (Tissue.CORD, Tissue.CORD_GRAY))
    is_soft = np.isin(labels, NOT_PREVERTEBRAL, invert=True)
    is_marrow = labels == Tissue.MARROW
    is_between = labels == Tissue.INTERSPINOUS
    in_body = (along > level.top) & (along < level.bottom) & (normal > 1.0)
    return {
        Finding.PREVERTEBRAL_HAEMATOMA: (
            is_soft & (ahead > 0.5) & (ahead < 5) & (np.abs(from_disc) < 9) & (aside < 9)
        ),
        Finding.DISC_INJURY: is_disc & (np.abs(from_disc) < 6) & (normal > 0) & (aside < 8),
        Finding.CORD_OEDEMA: is_cord & (np.abs(from_disc) < 8) & (aside < 5),
        Finding.INTERSPINOUS_INJURY: (
            is_between & (np.abs(interspinous) < 5) & (behind > 2) & (aside < 6)
        ),
        Finding.VERTEBRAL_FRACTURE: is_marrow & in_body & (aside < 8),
    }


def detect(tuning: Sequence[Sample], judged: Sequence[Sample]) -> list[Detection]:
    """Choose statistic and threshold on some phantoms, judge others with them.

    Args:
        tuning: Of other patients than the judged.
        judged: With the same images.
    """
    images = list(dict.fromkeys(name for s in judged for name, _ in s.values))
    rows = []
    for finding in FOUND_BY_SIGNAL + FOUND_BY_SHAPE:
        for image in images:
            chosen = _choose(tuning, finding, image)
            if chosen is not None:
                rows.append(_judge(judged, finding, image, *chosen))
    return rows


def _choose(tuning: Sequence[Sample], finding: Finding, image: str) -> tuple[str, float] | None:
    """Statistic with the best AUC, threshold with the best sum of sensitivity and specificity."""
    best: tuple[float, str, float] | None = None
    measured = (key for s in tuning if s.finding == finding for key in s.values)
    for statistic in dict.fromkeys(statistic for name, statistic in measured if name == image):
        sick, well, _ = _split(tuning, finding, (image, statistic))
        if not sick.size or not well.size:
            return None
        edges = np.unique(np.concatenate((sick, well)))
        between = (edges[1:] + edges[:-1]) / 2 if len(edges) > 1 else edges
        gain = [(sick > t).mean() + (well <= t).mean() for t in between]
        # among equals the middle one: the widest margin to both sides
        equal = np.flatnonzero(np.isclose(gain, max(gain)))
        threshold = float(between[equal[len(equal) // 2]])
        area = auc(sick, well)
        if best is None or area > best[0]:
            best = (area, statistic, threshold)
    return None if best is None else best[1:]


def _split(
    samples: Iterable[Sample], finding: Finding, key: tuple[str, str]
) -> tuple[Float64, Float64, Float64]:
    """Values of injured levels with a CT sign, of healthy ones, and of occult ones."""
    seen: list[float] = []
    well: list[float] = []
    occult: list[float] = []
    for s in samples:
        if s.finding == finding:
            group = well if not s.is_injured else seen if s.ct_visible else occult
            group.append(s.values[key])
    return np.array(seen), np.array(well), np.array(occult)


def _judge(
    judged: Sequence[Sample], finding: Finding, image: str, statistic: str, threshold: float
) -> Detection:
    seen, well, occult = _split(judged, finding, (image, statistic))
    return Detection(
        finding=finding,
        image=image,
        statistic=statistic,
        threshold=threshold,
        sensitivity_visible=Share.count(int((seen > threshold).sum()), seen.size),
        sensitivity_occult=Share.count(int((occult > threshold).sum()), occult.size),
        specificity=Share.count(int((well <= threshold).sum()), well.size),
        auc_visible=auc(seen, well),
        auc_occult=auc(occult, well),
    )


def auc(sick: Float64, well: Float64) -> float:
    """Area under the ROC curve, by ranks; NaN when a group is empty."""
    if not sick.size or not well.size:
        return float("nan")
    ranks = rankdata(np.concatenate((sick, well)))
    over = float(ranks[: sick.size].sum()) - sick.size * (sick.size + 1) / 2
    return over / (sick.size * well.size)
