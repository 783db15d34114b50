"""What does the archive have of a study? Asked for completion, which must not wait.

A hint and no more: an archive that does not answer, or knows nothing of the study yet, changes
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from config.settings import Settings
from node.association import address_of
from node.fetching import source_named
from node.found import FoundStudy
from node.ledger import Ledger
from node.logs import describe
from node.query import Query, on_record

# A study that is waited for is asked about so often, not at every turn of completion.
ASK_AGAIN_S: Final = 5.0
# After a silence nobody waits for the archive for so long: trauma does not.
SILENCE_S: Final = 60.0

log = structlog.get_logger()

Count = Callable[[str], FoundStudy | None]
"""Given a study UID, what the archive has of it; None when that is not known."""


class ArchiveCount:
    """Asks one archive, seldom.

    Args:
        query: Of the archive, with a short timeout.
        monotonic: Tells seconds.
    """

    def __init__(self, query: Query, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._query: Final = query
        self._monotonic: Final = monotonic
        self._known: Final[dict[str, tuple[float, FoundStudy | None]]] = {}
        self._silent_until = 0.0

    def __call__(self, study_uid: str) -> FoundStudy | None:
        """What it has, at most `ASK_AGAIN_S` old. Never raises."""
        now = self._monotonic()
        for uid in [uid for uid, (at, _) in self._known.items() if now - at >= ASK_AGAIN_S]:
            del self._known[uid]
        if study_uid in self._known:
            return self._known[study_uid][1]
        if now < self._silent_until:
            return None
        found = None
        try:
            found = self._query.study(study_uid)
        except Exception as error:
            # Our certificate, its answer, the network: a hint must not stop what asks for it.
            log.warning("the archive does not tell counts", reason=describe(error))
            self._silent_until = self._monotonic() + SILENCE_S
        self._known[study_uid] = (now, found)
        return found


def archive_count(settings: Settings, ledger: Ledger) -> Count | None:
    """What completion asks, when the settings want it to ask; each question goes on record."""
    name = settings.retrieve.count_source
    if not name:
        return None
    peer = address_of(source_named(settings, name), settings.tls)
    timeout_s = settings.retrieve.count_timeout_s
    return ArchiveCount(
        Query(peer, settings.node.ae_title, timeout_s, on_record(ledger, "completion"))
    )
