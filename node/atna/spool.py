"""The spool: audit events go to the syslog server in their order, at least once.

The audit chain is the spool's content; all that is kept beside it is how far the server has it.
That is moved on after a batch was received, so a crash at any moment sends some again and skips
none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from config.settings import Settings
from node.archive import Archive
from node.atna import syslog
from node.atna.telling import Telling
from node.audit import Event
from node.clock import from_text
from node.errors import LostRace, Refuse, Retry, Stop
from node.ledger import Ledger
from node.lock import alone
from node.logs import describe

NAME: Final = "atna"
# Thousands of instances in a minute are thousands of events of which few are told.
EVENTS_AT_A_TIME: Final = 1000
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
STOP_S: Final = 5.0

log = structlog.get_logger(__name__)


class Spool:
    """Sends what the server does not have yet.

    Args:
        settings: Of the node.
        ledger: Whose audit events are told.
        archive: Where patients' numbers are read.
    """

    def __init__(self, settings: Settings, ledger: Ledger, archive: Archive) -> None:
        self._settings: Final = settings
        self._reports: Final = ledger.reports
        self._outbox: Final = ledger.outbox
        self._telling: Final = Telling(settings, ledger.outbox, archive)

    def run_once(self) -> int:
        """Send one batch; how many events it moved on.

        Raises:
            Retry: When the server or the ledger is away; nothing was moved on.
        """
        position = self._outbox.position(NAME)
        events = list(islice(self._reports.events(after=position), EVENTS_AT_A_TIME))
        if not events:
            return 0
        lines = list(self._lines(events))
        if lines:
            syslog.send(lines, self._settings.atna, self._settings.tls)
        try:
            self._outbox.move_on(NAME, position, events[-1].sequence)
        except LostRace:
            # Another sender was at it too, without the lock; it was sent twice, which is allowed.
            return 0
        return len(events)

    def _lines(self, events: list[Event]) -> Iterator[bytes]:
        for event in events:
            xml = self._telling.tell(event)
            if xml is not None:
                yield syslog.line(xml, from_text(event.at), event.sequence)


class Sender:
    """The spool's thread, so that a server that is away holds up nothing else.

    Of several nodes on one data folder one sends, whichever took the lock first; when its process
    ends, however it ends, another one goes on from the same position.

    Args:
        spool: What is sent.
        data_folder: Of the node, where the lock is.
        poll_s: Between two looks.
    """

    def __init__(self, spool: Spool, data_folder: Path, poll_s: float) -> None:
        self._spool: Final = spool
        self._data_folder: Final = data_folder
        self._poll_s: Final = poll_s
        self._stop: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="atna", daemon=True)

    def start(self) -> None:
        """Begin to send; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Send no further batch."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with alone(self._data_folder, NAME):
                    self._send()
            except Stop:
                self._stop.wait(self._poll_s)

    def _send(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stop.is_set():
            try:
                rest_s = 0.0 if self._spool.run_once() else self._poll_s
                wait_s = FIRST_WAIT_S
            except (Retry, Refuse) as error:
                log.warning("audit messages wait", reason=str(error), wait_s=wait_s)
                rest_s, wait_s = wait_s, min(2 * wait_s, LONGEST_WAIT_S)
            except Exception as error:
                log.error("audit messages wait", reason=describe(error), wait_s=wait_s)
                rest_s, wait_s = wait_s, min(2 * wait_s, LONGEST_WAIT_S)
            self._stop.wait(rest_s)
