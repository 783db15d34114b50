"""Fetching what a PACS announced, as `pseudomri fetch` does, until it is here or failed often."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Final

import structlog

from config.settings import Settings, Source
from node.archive import Archive
from node.clock import Clock
from node.errors import LostRace, Stop
from node.fetching import PROCESS, Fetcher
from node.ledger import Ledger
from node.ledger.announcements import Announced, PendingAnnouncement
from node.logs import describe

# Counted times the tries so far: a PACS announces before the last slice is on its disk.
RETRY_S: Final = 30.0

log = structlog.get_logger()


class AnnouncedSeries:
    """Fetches what is announced.

    Args:
        settings: Of the node.
        ledger: Where announcements are, and instances go.
        archive: Where those lie; its owner should be `fetching.PROCESS`.
        clock: Tells UTC moments.
    """

    def __init__(self, settings: Settings, ledger: Ledger, archive: Archive, clock: Clock) -> None:
        self._settings: Final = settings
        self._ledger: Final = ledger
        self._archive: Final = archive
        self._clock: Final = clock

    def run_once(self) -> int:
        """One turn; how many series were tried.

        Raises:
            Retry: When the ledger does not answer.
        """
        due = self._ledger.announcements.due()
        for pending in due:
            # Tried by another process meanwhile, or announced anew: the next turn sees it.
            with suppress(LostRace):
                self._try(pending)
        return len(due)

    def _try(self, pending: PendingAnnouncement) -> None:
        announcements, announced = self._ledger.announcements, pending.announced
        try:
            reason = self._fetch(announced)
        except Stop:
            # Somebody fetches already; this one's turn comes.
            return
        except Exception as error:
            # The archive's fault or ours: the announcements behind it must not wait for it.
            reason = describe(error)
        if reason is None:
            announcements.fetched(pending, PROCESS)
        elif pending.tries + 1 >= self._settings.retrieve.fetch_tries:
            log.error("announced series not fetched", series_uid=announced.series_uid, why=reason)
            announcements.fail(pending, reason, PROCESS)
        else:
            due_at = self._clock() + timedelta(seconds=RETRY_S * (pending.tries + 1))
            announcements.postpone(pending, due_at, reason)

    def _fetch(self, announced: Announced) -> str | None:
        """Fetch a series; why it is not all here, if so."""
        source = self._source(announced.retrieve_ae)
        if source is None:
            return f"expected a source of AE title {announced.retrieve_ae}, found none"
        fetcher = Fetcher(self._settings, source, self._ledger, self._archive)
        with fetcher.alone():
            results = [
                fetcher.fetch(found)
                for study in fetcher.find("", announced.study_uid, announced.series_uid)
                for found in study.series
            ]
        held = sum(one.held for one in results)
        if held >= announced.instances and all(one.is_complete for one in results):
            return None
        troubles = [one.trouble for one in results if one.trouble]
        return "; ".join([f"expected {announced.instances} instances, found {held}", *troubles])

    def _source(self, ae_title: str) -> Source | None:
        sources = self._settings.retrieve.sources
        return next((one for one in sources if one.ae_title == ae_title), None)
