"""Reads the headers of what came in, before its series is judged.

It can wait until the sender is gone, so it does: an instance is answered for its durability, and
its header tells nothing that the answer depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from node.archive import Archive
from node.errors import Refuse, Retry
from node.header import read_header
from node.ledger import Ledger
from node.ledger.series import Unread
from node.logs import describe
from node.summary import InstanceSummary, Pixels, Refusal, summarize

log = structlog.get_logger(__name__)

# So many to a transaction: a write of a few milliseconds, in between which senders get their turn.
_AT_A_TIME: Final = 50


class HeaderReader:
    """Summarizes instances from their files.

    Args:
        ledger: Where the summaries go.
        archive: Where the files lie.
        trauma_words: Of the settings.
    """

    def __init__(self, ledger: Ledger, archive: Archive, trauma_words: Sequence[str]) -> None:
        self._series: Final = ledger.series
        self._archive: Final = archive
        self._trauma_words: Final = trauma_words

    def read(self, series_uid: str) -> int:
        """Summarize what has not been; returns how many instances.

        Raises:
            Retry: When the ledger does not answer, or a file cannot be read now.
        """
        unread = self._series.unread(series_uid)
        for first in range(0, len(unread), _AT_A_TIME):
            part = unread[first : first + _AT_A_TIME]
            self._series.note_summaries({one.sop_instance_uid: self._summary(one) for one in part})
        return len(unread)

    def _summary(self, one: Unread) -> InstanceSummary:
        try:
            with self._archive.open_data_set(one.path) as stream:
                header = read_header(stream, one.transfer_syntax_uid)
        except (FileNotFoundError, Refuse) as error:
            log.warning("header unread", sop_instance_uid=one.sop_instance_uid)
            return _unreadable(type(error).__name__)
        except OSError as error:
            # It may be read later: an answer now would stand for ever.
            raise Retry(f"{one.sop_instance_uid}: {describe(error)}") from error
        return summarize(header.dataset, header.pixels, self._trauma_words)


def _unreadable(error: str) -> InstanceSummary:
    refusal = Refusal(
        "header.unreadable",
        f"a header that could not be read ({error})",
        "a CT header by PS3.3 A.3 or A.38",
        "Send the series again from its source.",
    )
    return InstanceSummary("", (), "", "", False, Pixels.ABSENT, (), refusal)
