"""Is a series complete? A pure rule, and the loop that asks it.

DICOM has no "that was all": a node can only infer it. The rule here takes what it can see instead
of one long timeout: whether the senders are gone, whether they left in order, and whether the
geometry shows a gap. A slice that comes later still opens the series again, in
`node.ledger.receiving`, so a short wait costs nothing but a second version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from config.settings import CompletionSettings
from node.errors import LostRace
from node.found import FoundStudy
from node.ledger import Ledger
from node.ledger.series import IncomingSeries
from node.logs import describe
from node.summary import InstanceSummary
from pipeline.slices import ORIENTATION_TOLERANCE, gaps

log = structlog.get_logger(__name__)

ACTOR: Final = "completion"


@dataclass(frozen=True)
class SeriesStatus:
    """What is known of a series that is coming in.

    Args:
        last_instance_at: When its latest instance was on record.
        open_associations: Associations that brought instances of it and are still open.
        was_cut_off: The last of them ended by abort, timeout or a crash of ours.
        is_gapless: No slice is missing between the outermost ones.
        has_more: The archive that is asked has more instances of it than we.
    """

    last_instance_at: datetime
    open_associations: int
    was_cut_off: bool
    is_gapless: bool
    has_more: bool = False


@dataclass(frozen=True)
class Wait:
    """Not complete before `until`, unless something changes."""

    reason: str
    until: datetime


@dataclass(frozen=True)
class Complete:
    """Complete, and why we think so."""

    reason: str


@dataclass(frozen=True)
class _Hindrance:
    """Something that speaks against completeness, for so many seconds after the last instance."""

    is_present: bool
    patience_s: float
    while_waiting: str
    when_over: str


def judge(status: SeriesStatus, now: datetime, settings: CompletionSettings) -> Complete | Wait:
    """Whether a series is complete.

    In this order: a sender that is still there may go on; one that released a moment ago may come
    back with the next association, as archives do that open one per instance; one that was cut
    off, or left a gap, has reason to come back and is waited for longer. Whoever stays silent
    beyond that is not coming: selection then judges what is there.

    Args:
        status: Of the series.
        now: The present moment.
        settings: How long each of these waits lasts.
    """

    hindrances = (
        _Hindrance(
            status.open_associations > 0,
            settings.abandoned_s,
            "an association of it is open",
            "its sender went silent with the association open",
        ),
        _Hindrance(
            True,
            settings.quiet_s,
            "its last instance came a moment ago",
            "its sender released and no slice is missing",
        ),
        _Hindrance(
            status.was_cut_off,
            settings.gap_patience_s,
            "its sender was cut off",
            "its sender was cut off and did not come back",
        ),
        _Hindrance(
            not status.is_gapless,
            settings.gap_patience_s,
            "slices are missing",
            "the slices missing did not come",
        ),
        _Hindrance(
            status.has_more,
            settings.gap_patience_s,
            "the archive has more of it",
            "what the archive has more of it did not come",
        ),
    )
    present = [hindrance for hindrance in hindrances if hindrance.is_present]
    for hindrance in present:
        until = status.last_instance_at + timedelta(seconds=hindrance.patience_s)
        if now < until:
            return Wait(hindrance.while_waiting, until)
    # Being quiet is always among them and says least.
    telling = [hindrance for hindrance in present if hindrance is not hindrances[1]]
    return Complete((telling or present)[-1].when_over)


def is_gapless(summaries: Sequence[InstanceSummary]) -> bool:
    """Whether the slices of a series leave no gap between the outermost two.

    Slices that do not lie in parallel are no stack, and waiting would not make them one.
    """
    slices = [one for summary in summaries for one in summary.slices]
    if not slices:
        return True
    first = slices[0].orientation
    for other in slices[1:]:
        pairs = zip(first, other.orientation, strict=True)
        if max(abs(a - b) for a, b in pairs) > ORIENTATION_TOLERANCE:
            return True
    return gaps([one.along_normal_mm for one in slices]).is_gapless


class CompletionLoop:
    """Asks the rule about every incoming series, then hands on the studies with news.

    Args:
        ledger: Where series are.
        settings: Of completion.
        on_complete: Called with the Study Instance UID of each study that has a complete series
            nobody has decided about; must be safe to repeat. What it raises is logged, and the
            study is offered again at the next turn.
        count: Given a study UID, what the archive has of it; None where no archive is asked.
        read_headers: Given a series UID, summarizes those of its instances that nobody has.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: CompletionSettings,
        on_complete: Callable[[str], None],
        count: Callable[[str], FoundStudy | None] | None = None,
        read_headers: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._series: Final = ledger.series
        self._settings: Final = settings
        self._on_complete: Final = on_complete
        self._count: Final = count
        self._read_headers: Final = read_headers

    def run_once(self, now: datetime) -> int:
        """One turn; returns how many series were completed.

        Raises:
            Retry: When the ledger does not answer; the next turn may.
        """
        completed = sum(self._try(incoming, now) for incoming in self._series.incoming())
        # From the ledger and not from this turn: a crash after completing must not strand a study.
        for study_uid in self._series.undecided_studies():
            try:
                self._on_complete(study_uid)
            except Exception as error:
                # One study that cannot be decided must not hold up the others.
                log.error("study stays undecided", study_uid=study_uid, reason=describe(error))
        return completed

    def _try(self, incoming: IncomingSeries, now: datetime) -> bool:
        try:
            return self._judge(incoming, now)
        except Exception as error:
            # One series that cannot be judged must not hold up the others.
            log.error("series unjudged", series_uid=incoming.series_uid, reason=describe(error))
            return False

    def _judge(self, incoming: IncomingSeries, now: datetime) -> bool:
        """Complete the series if the rule says so."""
        there: FoundStudy | None = None
        verdict = judge(_status(incoming, is_gapless=True), now, self._settings)
        if isinstance(verdict, Complete) or not incoming.open_associations:
            # As soon as the senders are gone: the wait for silence has time for it.
            self._read_headers(incoming.series_uid)
        if isinstance(verdict, Complete):
            # Only now is it worth reading the geometry of all instances.
            summaries = self._series.summaries(incoming.series_uid)
            status = _status(incoming, is_gapless(summaries))
            verdict = judge(status, now, self._settings)
            if isinstance(verdict, Complete) and self._count is not None:
                there = self._count(incoming.study_uid)
                count = None if there is None else there.count(incoming.series_uid)
                has_more = count is not None and count > len(summaries)
                verdict = judge(replace(status, has_more=has_more), now, self._settings)
        if isinstance(verdict, Wait):
            return False
        lacks = {} if there is None else self._lacks(incoming, there)
        try:
            self._series.complete(incoming, verdict.reason, ACTOR, lacks)
        except LostRace:
            # A slice came in between; the next turn sees it.
            return False
        log.info(
            "series complete",
            series_uid=incoming.series_uid,
            version=incoming.version,
            reason=verdict.reason,
        )
        if lacks:
            log.warning("the archive has more of the study", study_uid=incoming.study_uid, **lacks)
        return True

    def _lacks(self, incoming: IncomingSeries, there: FoundStudy) -> dict[str, Any]:
        """What the archive has of the study and we have not, or do not know; JSON.

        What is coming in is told when it is complete.
        """
        coming = {one.series_uid for one in self._series.incoming()} - {incoming.series_uid}
        missing = [
            vars(one)
            for one in there.missing(self._series.counts(incoming.study_uid))
            if one.series_uid not in coming
        ]
        lacks = {"missing": missing, "unlisted": there.unlisted}
        return {name: value for name, value in lacks.items() if value}


def _status(incoming: IncomingSeries, is_gapless: bool) -> SeriesStatus:
    return SeriesStatus(
        last_instance_at=incoming.last_instance_at,
        open_associations=incoming.open_associations,
        was_cut_off=incoming.was_cut_off,
        is_gapless=is_gapless,
    )
