"""Which series of a study become a pseudo-MRI, and why the others do not.

Descriptions mislead, so geometry, kernel and coverage decide; a body part only ever excludes.
Nothing here reads pixels: whether the volume really shows a cervical spine is asked later, by the
worker's gate.

Series compete when they cover the same stretch of the patient: the reconstructions of one scan. The
best of them is selected, the others are declined and name it. A head and a neck scan of one study
do not compete, so that the gate, not a header, tells which is the neck.

A series that comes after a rival was selected gets a synthesis of its own only when it is clearly
better (`CLEARLY_BETTER_MM`), for instance the soft kernel after the bone kernel. Waiting for it
would cost trauma patients the minute that the rest of this node saves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from config.settings import SelectionSettings
from node.candidate import Candidate, SeriesSummary, measure
from node.errors import LostRace
from node.faults import Point, reach
from node.ledger import Ledger
from node.ledger.series import HeldSeries
from node.logs import describe
from node.states import SeriesState
from pipeline import errors

log = structlog.get_logger(__name__)

ACTOR: Final = "selection"

TRAUMA_PRIORITY: Final = 1
ROUTINE_PRIORITY: Final = 10
"""Lower runs first; the numbers between are left for a hand."""

# Reading the headers of a study that waits costs more than the seconds it may wait longer.
HELD_BACK_S: Final = 5.0

# Half a kernel step: what a radiologist would see, not what a rounding makes.
CLEARLY_BETTER_MM: Final = 0.5


@dataclass(frozen=True)
class Selected:
    """This series becomes a synthesis.

    Args:
        contrasts: Of the synthesis.
        priority: Lower runs first.
        reason: For people.
        detail: JSON: what was measured.
    """

    contrasts: tuple[str, ...]
    priority: int
    reason: str
    detail: Mapping[str, Any]
    code: str = "selection.best"


@dataclass(frozen=True)
class Declined:
    """This series does not, with what a person needs to know about it."""

    code: str
    found: str
    expected: str
    remedy: str

    @property
    def reason(self) -> str:
        """In one sentence or two."""
        return f"found {self.found}; expected {self.expected}. {self.remedy}"


def select(
    study: Sequence[SeriesSummary], settings: SelectionSettings, contrasts: tuple[str, ...]
) -> dict[str, Selected | Declined]:
    """A decision for every complete series of a study, by Series Instance UID.

    Args:
        study: All series of the study.
        settings: Limits, trauma words and trauma peers.
        contrasts: What a selected series is synthesized to.
    """
    decisions: dict[str, Selected | Declined] = {}
    candidates: list[Candidate] = []
    winners: list[Candidate] = []
    for series in study:
        if series.state not in (SeriesState.COMPLETE, SeriesState.SELECTED):
            continue
        try:
            candidate = measure(series, settings)
        except errors.Declined as reason:
            if series.state is SeriesState.COMPLETE:
                decisions[series.series_uid] = _declined(reason)
            continue
        except Exception as error:
            # Headers are hostile until proved otherwise; one of them must not strand its study.
            log.error("series not measured", series_uid=series.series_uid, reason=describe(error))
            if series.state is SeriesState.COMPLETE:
                decisions[series.series_uid] = _unmeasured(error)
            continue
        (candidates if series.state is SeriesState.COMPLETE else winners).append(candidate)
    priority = _priority(study, settings)
    for candidate in sorted(candidates, key=lambda one: (one.penalty_mm, one.series.series_uid)):
        better = _better_rival(candidate, winners)
        if better is None:
            winners.append(candidate)
            decisions[candidate.series.series_uid] = Selected(
                contrasts,
                priority,
                f"{candidate.slices} axial slices every {candidate.step_mm:.2f} mm over "
                f"{candidate.coverage_mm:.0f} mm, {candidate.kernel} kernel",
                candidate.detail(),
            )
        else:
            decisions[candidate.series.series_uid] = _outdone(candidate, better)
    return decisions


class Selector:
    """Decides about the complete series of a study, and has a synthesis made of those selected.

    Args:
        ledger: Where the series are and the decisions go; how many syntheses wait is asked there.
        settings: Of selection.
        contrasts: Of every synthesis.
        maximum_waiting: When so many syntheses wait that are as urgent as those of a study, or more
            so, the study waits too, undecided. Trauma therefore never waits for the rest.
        create: Queues the synthesis of a selected series, from exactly the instances it is given.
            It is called before the decision is on record, so that a crash in between repeats it:
            it must do nothing the second time.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: SelectionSettings,
        contrasts: tuple[str, ...],
        create: Callable[[HeldSeries, Selected], None],
        maximum_waiting: int,
    ) -> None:
        self._series: Final = ledger.series
        self._settings: Final = settings
        self._contrasts: Final = contrasts
        self._create: Final = create
        self._syntheses: Final = ledger.syntheses
        self._maximum_waiting: Final = maximum_waiting
        self._look_again: Final[dict[str, float]] = {}

    def decide(self, study_uid: str) -> None:
        """Decide about every complete series of a study; harmless when there is none, and nothing
        while too many syntheses wait.

        Raises:
            Retry: When the ledger does not answer; nothing is half-decided.
        """
        if time.monotonic() < self._look_again.get(study_uid, 0.0):
            return
        self._look_again.pop(study_uid, None)
        study = {held.series_uid: held for held in self._series.of_study(study_uid)}
        decisions = select(
            [_summary(held) for held in study.values()], self._settings, self._contrasts
        )
        urgencies = [one.priority for one in decisions.values() if isinstance(one, Selected)]
        if urgencies and self._syntheses.waiting(min(urgencies)) >= self._maximum_waiting:
            log.warning("study waits: too many syntheses do", study_uid=study_uid)
            self._look_again[study_uid] = time.monotonic() + HELD_BACK_S
            return
        for series_uid, decision in decisions.items():
            held = study[series_uid]
            if isinstance(decision, Selected):
                self._create(held, decision)
                reach(Point.SELECTION_QUEUED)
                state, detail = SeriesState.SELECTED, dict(decision.detail)
            else:
                state, detail = SeriesState.DECLINED, vars(decision)
            try:
                self._series.decide(
                    series_uid, held.version, state, decision.code, decision.reason, detail, ACTOR
                )
            except LostRace:
                # A late slice opened it again; its next version is decided in turn.
                continue
            log.info(
                "series decided", series_uid=series_uid, decision=str(state), code=decision.code
            )


def _summary(held: HeldSeries) -> SeriesSummary:
    instances = tuple(one.summary for one in held.instances)
    return SeriesSummary(held.series_uid, held.state, held.calling_ae, instances)


def _better_rival(candidate: Candidate, winners: Sequence[Candidate]) -> Candidate | None:
    """The winner that makes this candidate needless.

    Winners of this very decision are better, since candidates come best first; one that was
    selected earlier has its synthesis, and yields to a clearly better one only.
    """
    for winner in winners:
        if not candidate.is_rival_of(winner):
            continue
        is_earlier = winner.series.state is SeriesState.SELECTED
        if not is_earlier or candidate.penalty_mm > winner.penalty_mm - CLEARLY_BETTER_MM:
            return winner
    return None


def _outdone(candidate: Candidate, better: Candidate) -> Declined:
    return Declined(
        "selection.better_series",
        found=f"a better series of the same region: {better.series.series_uid}",
        expected=f"the lowest penalty of its region: {candidate.penalty_mm:.2f} mm against "
        f"{better.penalty_mm:.2f} mm",
        remedy="Nothing to do; the better one is synthesized.",
    )


def _unmeasured(error: Exception) -> Declined:
    return Declined(
        "series.unmeasured",
        found=f"headers that this program cannot measure ({describe(error)})",
        expected="the headers of one CT stack",
        remedy="Tell the maintainers of this program, with the Series Instance UID.",
    )


def _declined(reason: errors.Declined) -> Declined:
    return Declined(reason.code, reason.found, reason.expected, reason.remedy)


def _priority(study: Sequence[SeriesSummary], settings: SelectionSettings) -> int:
    """Trauma first: by a word in any description of the study, or by who sent it."""
    is_trauma = any(
        series.calling_ae in settings.trauma_peers
        or any(instance.is_trauma for instance in series.instances)
        for series in study
    )
    return TRAUMA_PRIORITY if is_trauma else ROUTINE_PRIORITY
