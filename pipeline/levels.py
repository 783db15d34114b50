"""Which disc is which: a chain of discs between the skull base and the first ribs.

Counting alone mislabels a fused disc, and one anchor alone cannot tell six vertebrae from seven.
So the chain is scored with four, five and six gaps between both anchors, and the names are
confirmed only when five, the number people have, fits best. Otherwise the names are a guess, and
"unconfirmed" is the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.geometry import Float64
from pipeline.straighten import StraightSpine

DISC_NAMES = ("C2/3", "C3/4", "C4/5", "C5/6", "C6/7", "C7/T1", "T1/2")
# Disc to disc along the canal, adult means (Panjabi 1991: body and disc heights).
GAP_MM = (15.5, 15.5, 15.5, 15.5, 17.5, 20.0)
GAPS_TO_T1 = 5
# Children and tall men; also bounds how far the anchors may stretch the chain.
GAP_SCALE = (0.7, 1.3)
# Either anchor may be off by some millimeters: share of their distance tried for the chain.
ANCHOR_SLACK = np.array([0.85, 0.925, 1.0, 1.075])
GAP_RANGE_MM = (8.0, 28.0)
GAP_SIGMA_MM = 2.2
# C2/3 below the foramen magnum and below the tip of the dens, along the canal, and their spread.
# Dens and body of C2 are 34 to 42 mm high, and the dens stops about 5 mm below the basion.
FORAMEN_TO_C23_MM = (44.0, 6.0)
DENS_TO_C23_MM = (38.0, 5.0)
# C7/T1 above the peak of the first rib.
RIB_TO_C7T1_MM = (-5.0, 4.0)
# Mean disc evidence (in standard deviations) below which no chain is trusted.
CONFIRM_EVIDENCE = 0.5

# Disc space in front of the canal: behind the anterior longitudinal ligament, before the wall.
DISC_DEPTH_MM = np.arange(2.0, 13.1, 1.0)
DISC_HALF_WIDTH_MM = 5.0
DISC_TILT_DEG = np.arange(-20.0, 21.0, 5.0)
# Endplates lie this far from the middle of a disc (discs are 4 to 7 mm high).
ENDPLATE_MM = (2.5, 4.5)
# Foramina open beside the canal and lie a little above their disc.
FORAMEN_LATERAL_MM = (9.5, 15.0)
FORAMEN_ABOVE_DISC_MM = 3.0
DISC_SHARE, FORAMEN_SHARE = 0.6, 0.4


@dataclass(frozen=True, eq=False)
class Level:
    """An intervertebral disc.

    Args:
        name: Such as ``"C2/3"``.
        position_mm: ``(3,)`` LPS, the middle of the canal at the height of the disc.
        disc_mm: ``(3,)`` LPS, in the disc, 8 mm in front of the canal's wall.
        arc_mm: Arc length along the centerline.
        evidence: How clearly it shows, in standard deviations of the evidence along the spine.
    """

    name: str
    position_mm: Float64
    disc_mm: Float64
    arc_mm: float
    evidence: float


@dataclass(frozen=True)
class Anchor:
    """An expected height and how far off it may be (one standard deviation)."""

    arc_mm: float
    sigma_mm: float


@dataclass(frozen=True)
class Chain:
    """The best chain of discs.

    Args:
        heights: Index of each disc along the straightened spine.
        mean_evidence: Mean over the discs.
        mean_score: Mean of evidence less the penalties of gaps and anchors.
    """

    heights: tuple[int, ...]
    mean_evidence: float
    mean_score: float


@dataclass(frozen=True)
class LevelChain:
    """Named discs and whether the names can be trusted.

    Args:
        levels: Cranial to caudal.
        is_confirmed: Both anchors seen, five gaps fit best, and the discs show clearly enough.
        scores: Score of the whole chain for each number of gaps tried.
        reason: Why the names are unconfirmed; empty when they are.
    """

    levels: tuple[Level, ...]
    is_confirmed: bool
    scores: dict[int, float]
    reason: str


def find_levels(
    spine: StraightSpine, wall_mm: Float64, upper: Anchor, lower: Anchor | None
) -> LevelChain:
    """Name the discs from C2/3 down.

    Args:
        spine: Straightened.
        wall_mm: ``(n,)`` distance of the canal's front wall (`straighten.wall_distance`).
        upper: Where C2/3 is expected.
        lower: Where C7/T1 is expected, from the first ribs; `None` when they are not seen.
    """
    evidence = disc_evidence(spine, wall_mm)
    arc = spine.arc_mm
    chains = [
        best_chain(evidence, arc, gap_mm, upper, lower, GAPS_TO_T1)
        for gap_mm in _candidate_gaps(arc, upper, lower)
    ]
    chain = max(chains, key=lambda one: one.mean_score)
    scores = _scores(evidence, arc, upper, lower)
    reason = _doubt(chain, scores, lower)
    levels = [
        _level(spine, wall_mm, name, height, float(evidence[height]))
        for name, height in zip(DISC_NAMES, chain.heights, strict=False)
    ]
    # Nothing below holds T1/2 in place: it is named only where it shows.
    if len(levels) > GAPS_TO_T1 + 1 and levels[-1].evidence < CONFIRM_EVIDENCE:
        levels.pop()
    return LevelChain(tuple(levels), not reason, scores, reason)


def disc_evidence(spine: StraightSpine, wall_mm: Float64) -> Float64:
    """How much each height looks like a disc, ``(n,)`` in standard deviations.

    A disc is dark between two bright endplates, and a foramen opens beside it.
    """
    step_mm = float(spine.arc_mm[1] - spine.arc_mm[0])
    disc = _standardized(_disc_contrast(spine, wall_mm, step_mm))
    foramen = _standardized(_foramen_gap(spine, wall_mm, step_mm))
    return DISC_SHARE * disc + FORAMEN_SHARE * foramen


def best_chain(
    evidence: Float64,
    arc_mm: Float64,
    gap_mm: Sequence[float],
    upper: Anchor,
    lower: Anchor | None,
    lower_at: int,
) -> Chain:
    """The chain of ``len(gap_mm) + 1`` discs with most evidence and least strain.

    Dynamic programming over heights. Penalties are half the squared deviation in standard
    deviations: of gaps from `gap_mm`, of disc 0 from `upper`, of disc `lower_at` from `lower`.
    """
    step_mm = float(arc_mm[1] - arc_mm[0])
    jumps = np.arange(round(GAP_RANGE_MM[0] / step_mm), round(GAP_RANGE_MM[1] / step_mm) + 1)
    total = evidence - _strain(arc_mm, upper)
    came_from: list[NDArray[np.intp]] = []
    for number, gap in enumerate(gap_mm, start=1):
        # options[k, h]: the previous disc lies jumps[k] above height h
        options = np.full((jumps.size, arc_mm.size), -np.inf)
        for k, jump in enumerate(jumps):
            cost = 0.5 * ((jump * step_mm - gap) / GAP_SIGMA_MM) ** 2
            options[k, jump:] = total[:-jump] - cost
        choice = options.argmax(axis=0)
        came_from.append(np.arange(arc_mm.size) - jumps[choice])
        total = options.max(axis=0) + evidence
        if lower is not None and number == lower_at:
            total = total - _strain(arc_mm, lower)
    heights = [int(total.argmax())]
    for previous in reversed(came_from):
        heights.append(int(previous[heights[-1]]))
    heights.reverse()
    mean_evidence = float(evidence[heights].mean())
    return Chain(tuple(heights), mean_evidence, float(total.max()) / len(heights))


def _candidate_gaps(arc_mm: Float64, upper: Anchor, lower: Anchor | None) -> list[list[float]]:
    """Gaps to try: scaled to fit both anchors, or for small to tall people when there is one."""
    shape = np.array(GAP_MM)
    expected_mm = float(shape[:GAPS_TO_T1].sum())
    if lower is None:
        scales = np.linspace(*GAP_SCALE, 7)
    else:
        total_mm = lower.arc_mm - upper.arc_mm
        scales = np.clip(total_mm / expected_mm * ANCHOR_SLACK, *GAP_SCALE)
    candidates = []
    for scale in scales:
        gap_mm = (shape * scale).tolist()
        # T1/2 is named when the CT reaches well below it.
        has_next = arc_mm[-1] > upper.arc_mm + sum(gap_mm) + 4
        candidates.append(gap_mm if has_next else gap_mm[:GAPS_TO_T1])
    return candidates


def _scores(
    evidence: Float64, arc_mm: Float64, upper: Anchor, lower: Anchor | None
) -> dict[int, float]:
    """Best score with each number of gaps between the anchors, gaps stretched to fit.

    Summed, not averaged over the discs: a chain with one disc fewer would otherwise win wherever
    one disc shows faintly, by leaving it out.
    """
    if lower is None:
        return {}
    shape = np.array(GAP_MM[:GAPS_TO_T1])
    scores = {}
    for count in (GAPS_TO_T1 - 1, GAPS_TO_T1, GAPS_TO_T1 + 1):
        relative = np.interp(np.linspace(0, GAPS_TO_T1 - 1, count), np.arange(GAPS_TO_T1), shape)
        total_mm = (lower.arc_mm - upper.arc_mm) * ANCHOR_SLACK
        mean_score = max(
            best_chain(
                evidence, arc_mm, (relative * mm / relative.sum()).tolist(), upper, lower, count
            ).mean_score
            for mm in total_mm
        )
        scores[count] = mean_score * (count + 1)
    return scores


def _doubt(chain: Chain, scores: dict[int, float], lower: Anchor | None) -> str:
    if lower is None:
        return "first ribs not seen"
    if chain.mean_evidence < CONFIRM_EVIDENCE:
        return f"discs too faint ({chain.mean_evidence:.2f} of {CONFIRM_EVIDENCE:g})"
    best = max(scores, key=lambda count: scores[count])
    if best != GAPS_TO_T1:
        return f"{best} disc gaps between skull base and first ribs fit better than {GAPS_TO_T1}"
    return ""


def _level(
    spine: StraightSpine, wall_mm: Float64, name: str, height: int, evidence: float
) -> Level:
    curve = spine.curve
    middle = curve.point_mm[height]
    disc = middle + (wall_mm[height] + 8.0) * curve.front[height]
    return Level(name, middle, disc, float(curve.arc_mm[height]), evidence)


def _strain(arc_mm: Float64, anchor: Anchor) -> Float64:
    return np.asarray(0.5 * ((arc_mm - anchor.arc_mm) / anchor.sigma_mm) ** 2)


def _standardized(values: Float64) -> Float64:
    """Zero mean, unit spread, clipped so that one bright osteophyte cannot pay for a chain."""
    spread = float(values.std())
    standardized = (values - values.mean()) / (spread if spread > 0 else 1.0)
    return np.asarray(np.clip(standardized, -1.5, 2.0))


def _disc_contrast(spine: StraightSpine, wall_mm: Float64, step_mm: float) -> Float64:
    """Darkness between endplates, ``(n,)`` HU, for the best tilt of the disc at each height."""
    heights = np.arange(spine.arc_mm.size)
    near = np.abs(spine.right_mm) <= DISC_HALF_WIDTH_MM
    # Cortical bone is clipped: an endplate counts, how dense it is does not.
    hu = np.clip(spine.values[:, :, near], -100.0, 400.0).mean(axis=2)
    column = wall_mm[:, None] + DISC_DEPTH_MM[None, :] - spine.front_mm[0]
    reach = [round(mm / step_mm) for mm in ENDPLATE_MM]
    middle = sum(reach) // 2
    best = np.full(heights.size, -np.inf)
    for tilt_deg in DISC_TILT_DEG:
        # Tilted about the middle of the disc, so that the tilt does not move it.
        rise = np.tan(np.radians(tilt_deg)) * (DISC_DEPTH_MM - DISC_DEPTH_MM.mean()) / step_mm
        sampled = ndimage.map_coordinates(
            hu, [heights[:, None] + rise[None, :], column], order=1, mode="nearest"
        )
        mean = ndimage.gaussian_filter1d(sampled.mean(axis=1).astype(np.float64), 0.5 / step_mm)
        brightest = ndimage.maximum_filter1d(mean, reach[1] - reach[0] + 1)
        endplate = np.minimum(_shifted(brightest, middle), _shifted(brightest, -middle))
        # Also darker than the neighborhood: the inside of a body is dark between endplates too.
        neighborhood = ndimage.gaussian_filter1d(mean, 8.0 / step_mm)
        contrast = np.minimum(endplate, neighborhood + 50.0) - mean
        # Discs tilt little against the canal; 6 HU per 20 degrees only breaks ties.
        best = np.maximum(best, contrast - 0.3 * abs(tilt_deg))
    return best


def _foramen_gap(spine: StraightSpine, wall_mm: Float64, step_mm: float) -> Float64:
    """Absence of bone beside the canal, ``(n,)``, moved down to the height of the disc."""
    lateral = np.abs(spine.right_mm)
    is_beside = (lateral >= FORAMEN_LATERAL_MM[0]) & (lateral <= FORAMEN_LATERAL_MM[1])
    hu = ndimage.gaussian_filter1d(spine.values[:, :, is_beside], 0.5 / step_mm, axis=0)
    depth = spine.front_mm[None, :] - wall_mm[:, None]
    in_window = (depth >= -5.0) & (depth <= 3.0)
    is_open = (hu <= 220.0).mean(axis=2)
    share = (is_open * in_window).sum(axis=1) / in_window.sum(axis=1)
    local = ndimage.gaussian_filter1d(share, 1.5 / step_mm)
    gap = local - ndimage.gaussian_filter1d(local, 8.0 / step_mm)
    return _shifted(gap, round(FORAMEN_ABOVE_DISC_MM / step_mm))


def _shifted(values: Float64, down: int) -> Float64:
    """Values moved down the spine by so many heights, ends held."""
    return values[np.clip(np.arange(values.size) - down, 0, values.size - 1)]
