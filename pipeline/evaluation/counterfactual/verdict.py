"""What is asked of a model by the counterfactual tests, and in how many cases it is reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.evaluation.canal import SHOWN_GAP_HU
from pipeline.evaluation.counterfactual.evidence import TRUTH, Condition
from pipeline.evaluation.counterfactual.run import Results
from pipeline.evaluation.counterfactual.visible import (
    ELSEWHERE_MM,
    ELSEWHERE_PERCENTILE,
    Visible,
)
from pipeline.evaluation.targets import CORD_CENTER_MM

UNSUPPORTED = 0.5
"""Share of a place that must be marked: gray in most of it, a reader sees it as gray."""

RESPONSE = 0.5
"""Share of the true change of a visible lesion: with less the picture is nearer to health."""

ELSEWHERE = 0.005
"""Mean change where nothing changed, of CSF = 1: a hundredth of what cord and CSF differ by on T2,
and a quarter of the grain within one tissue of the true image."""

ELSEWHERE_MOST = 0.05
"""At `ELSEWHERE_PERCENTILE`: twice that grain; a change of this size is seen as a change."""

FOLLOWS = 0.8
"""Response to a moved cord that is asked where the CT shows it: at 1.5 mm it is 0.3 mm short."""

SHOWN_NOISE_HU = 12.0
"""Up to which a CT of at least `SHOWN_GAP_HU` shows the cord."""

LOST = 0.5
"""Response below which more of the cord's place is habit than evidence."""


@dataclass(frozen=True)
class Verdict:
    """One demand.

    Args:
        test: To which it belongs.
        asked: In words, with its limit.
        passed: Cases that reach it.
        of: Cases that could be judged.
    """

    test: str
    asked: str
    passed: int
    of: int

    @property
    def share(self) -> float:
        """NaN when nothing could be judged."""
        return self.passed / self.of if self.of else float("nan")


def is_shown(condition: Condition) -> bool:
    """Whether the CT shows the cord."""
    return condition.gap_hu >= SHOWN_GAP_HU and condition.noise_hu <= SHOWN_NOISE_HU


def is_quiet(row: Visible) -> bool:
    """Whether the output stays as it is where nothing changed."""
    return row.elsewhere <= ELSEWHERE and row.elsewhere_most <= ELSEWHERE_MOST


def verdicts(results: Results) -> list[Verdict]:
    """All demands, test by test."""
    marked = [row.marked for row in results.occult if row.marked]
    rows = [row for row in results.evidence if row.condition != TRUTH]
    shown = [row for row in rows if is_shown(row.condition)]
    # also where no cord was drawn at all, and its response is NaN
    lost = [row for row in rows if not row.response >= LOST and row.unsupported is not None]
    quiet = (
        f"farther than {ELSEWHERE_MM:g} mm from all that differs: mean change at most"
        f" {ELSEWHERE:g}, percentile {ELSEWHERE_PERCENTILE:g} at most {ELSEWHERE_MOST:g}"
    )
    where = f"gap at least {SHOWN_GAP_HU:g} HU, noise at most {SHOWN_NOISE_HU:g} HU"
    half = f"at least {UNSUPPORTED:.0%} of"
    return [
        _verdict(
            "occult",
            "the output is the sound twin's, byte for byte",
            (row.is_identical for row in results.occult),
        ),
        _verdict(
            "occult",
            f"{half} the lesion is marked unsupported",
            (place.unsupported >= UNSUPPORTED for place in marked),
        ),
        _verdict(
            "occult",
            f"and less than {UNSUPPORTED:.0%} of the body, or the map says nothing",
            (place.unsupported_body < UNSUPPORTED <= place.unsupported for place in marked),
        ),
        _verdict(
            "visible",
            f"at least {RESPONSE:.0%} of the true STIR change is drawn",
            (row.response >= RESPONSE for row in results.visible),
        ),
        _verdict("visible", quiet, map(is_quiet, results.visible)),
        _verdict(
            "evidence",
            f"{where}: response at least {FOLLOWS:g}",
            (row.response >= FOLLOWS for row in shown),
        ),
        _verdict(
            "evidence",
            f"{where}: center error at most {CORD_CENTER_MM:g} mm",
            (row.error_mm <= CORD_CENTER_MM for row in shown),
        ),
        _verdict(
            "evidence",
            f"response below {LOST:g}, or no cord: {half} its margin is marked unsupported",
            (row.unsupported is not None and row.unsupported >= UNSUPPORTED for row in lost),
        ),
    ]


def _verdict(test: str, asked: str, reached: Iterable[bool]) -> Verdict:
    cases = list(reached)
    return Verdict(test, asked, sum(cases), len(cases))
