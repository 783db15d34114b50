"""Fetching: what a PACS has of a study and we have not, brought in as if it were sent to us.

C-GET brings instances through the same intake as the Storage SCP, so success means the same: the
file is durable and on record. C-MOVE has them sent to the running node's port. In both cases the
ledger, not the PACS, says in the end what is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContextTuple

from config.settings import Settings, Source
from node import retrieve
from node.archive import Archive
from node.association import Rejected, Unreachable, address_of
from node.errors import Refuse
from node.found import FoundSeries, FoundStudy
from node.intake import Intake, Offer, Reception, Sender, printable
from node.ledger import Ledger
from node.ledger.receiving import Ending
from node.lock import alone
from node.query import Query, on_record
from node.receive import STORAGE_CLASSES, TRANSFER_SYNTAXES, Sink, keep_libraries_quiet, status_of
from node.retrieve import Progress, Wanted
from node.streaming import OpenSink, StoreRequest, StoreStatus

PROCESS: Final = "fetch"
# UI is at most 64 KiB in Explicit VR (PS3.5 7.1.2), a UID with its backslash 65 bytes.
UIDS_A_REQUEST: Final = 500

log = structlog.get_logger()


@dataclass(frozen=True)
class Fetched:
    """What came of one series.

    Args:
        wanted: Instances that the PACS has.
        held_before: How many of them were here.
        held: How many of them are here now.
        trouble: Why the PACS did not send all, as far as it says.
    """

    study_uid: str
    series_uid: str
    wanted: int
    held_before: int
    held: int
    trouble: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether everything is here."""
        return self.held == self.wanted


OnProgress = Callable[[Progress], None]


class Fetcher:
    """Fetches from one source.

    Args:
        settings: Of the node.
        source: The PACS, and how it is asked to send.
        ledger: Where instances go on record.
        archive: Where they lie; its owner should be `PROCESS`.
    """

    def __init__(
        self, settings: Settings, source: Source, ledger: Ledger, archive: Archive
    ) -> None:
        self._settings: Final = settings
        self._source: Final = source
        self._ledger: Final = ledger
        self._archive: Final = archive
        self._peer: Final = address_of(source, settings.tls)
        self._timeout_s: Final = settings.retrieve.network_timeout_s
        self._query: Final = Query(
            self._peer, settings.node.ae_title, self._timeout_s, on_record(ledger, PROCESS)
        )
        keep_libraries_quiet()

    def find(
        self, accession_number: str = "", study_uid: str = "", series_uid: str = ""
    ) -> tuple[FoundStudy, ...]:
        """The studies that are meant, with the CT series that are meant of them.

        Args:
            accession_number: Of one or more studies.
            study_uid: Of one study; needed for a series unless the series is on record here.
            series_uid: Of one series.

        Raises:
            Unreachable, Rejected: As `node.query.Query.find`.
        """
        if accession_number:
            studies = self._query.studies(accession_number)
            return tuple(self._query.study(study) for study in studies)
        if not series_uid:
            return (self._query.study(study_uid),)
        if not study_uid:
            held = self._ledger.series.get(series_uid)
            study_uid = held.study_uid if held else ""
        found = self._query.series(study_uid, series_uid)
        return tuple(FoundStudy(one.study_uid, (one,)) for one in found)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Tidy up after an earlier life, and keep others out meanwhile.

        Raises:
            Stop: When another process is fetching.
        """
        with alone(self._settings.node.data_folder, PROCESS):
            self._archive.sweep()
            self._ledger.receiving.close_orphans(PROCESS)
            yield

    def fetch(self, found: FoundSeries, on_progress: OnProgress = lambda _: None) -> Fetched:
        """Have sent what is missing of a series; call it inside `alone`.

        Args:
            found: As `find` gave it.
            on_progress: Told how far the PACS is.

        Raises:
            Unreachable, Rejected: When the PACS does not tell what it has.
        """
        there = frozenset(self._query.instances(found.study_uid, found.series_uid))
        before = self._held(found.series_uid) & there
        missing = sorted(there - before)
        log.info("fetching", series_uid=found.series_uid, there=len(there), missing=len(missing))
        parts = [
            tuple(missing[first : first + UIDS_A_REQUEST])
            for first in range(0, len(missing), UIDS_A_REQUEST)
        ]
        if not before and missing:
            # All of it: not every PACS takes lists of instances.
            parts = [()]
        trouble = ""
        try:
            for part in parts:
                self._retrieve(Wanted(found.study_uid, found.series_uid, part), on_progress)
        except (Unreachable, Rejected) as error:
            # What came before is here all the same.
            trouble = str(error)
            log.warning("fetching ended early", series_uid=found.series_uid, reason=trouble)
        after = self._held(found.series_uid) & there
        # What it counts beyond its own list has not come either.
        wanted = max(len(there), found.count or 0)
        if wanted > len(there) and not trouble:
            trouble = f"expected {wanted} instances, as the PACS counts, found {len(there)} listed"
        return Fetched(found.study_uid, found.series_uid, wanted, len(before), len(after), trouble)

    def _retrieve(self, wanted: Wanted, on_progress: OnProgress) -> None:
        if self._source.method == "move":
            ae_title = self._settings.node.ae_title
            for progress in retrieve.move(wanted, self._peer, ae_title, self._timeout_s):
                on_progress(progress)
            return
        contexts = [(one, syntax) for one in STORAGE_CLASSES for syntax in TRANSFER_SYNTAXES]
        with self._taking() as open_sink:
            for progress in retrieve.get(
                wanted,
                self._peer,
                self._settings.node.ae_title,
                self._timeout_s,
                contexts,
                open_sink,
            ):
                on_progress(progress)

    @contextmanager
    def _taking(self) -> Iterator[OpenSink]:
        """Where the PACS' instances go, on an association that is on record."""
        intake = Intake(self._settings, self._ledger, self._archive)
        # A host name may be longer than an address is on record.
        host = printable(self._source.host, 64)
        sender = Sender(self._source.ae_title, self._settings.node.ae_title, host)
        association = self._ledger.receiving.open_association(
            PROCESS, sender.calling_ae, sender.called_ae, sender.address
        )

        def take(reception: Reception) -> StoreStatus:
            return status_of(intake.take(reception, association))

        def open_sink(
            _: Association, request: StoreRequest, context: PresentationContextTuple
        ) -> Sink:
            offer = Offer(
                request.sop_class_uid,
                request.sop_instance_uid,
                context.abstract_syntax,
                context.transfer_syntax,
                sender,
            )
            return Sink(intake.begin(offer), take)

        ending = Ending.ABORTED
        try:
            yield open_sink
            ending = Ending.RELEASED
        finally:
            self._ledger.receiving.close_association(association, ending)

    def _held(self, series_uid: str) -> frozenset[str]:
        series = self._ledger.series.get(series_uid)
        instances = series.instances if series else ()
        return frozenset(one.sop_instance_uid for one in instances if one.removed_at is None)


def source_named(settings: Settings, name: str) -> Source:
    """A source of the settings.

    Raises:
        Refuse: When there is none of this name.
    """
    for source in settings.retrieve.sources:
        if source.name == name:
            return source
    known = ", ".join(source.name for source in settings.retrieve.sources) or "none"
    raise Refuse(f"expected a source among retrieve.sources ({known}), found {name!r}")
