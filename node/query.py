"""C-FIND (PS3.4 C.4.1) in the Study Root model: what does a PACS have?

Answers are UIDs and counts. Nothing else is asked for, so that nothing of a patient comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association

from node.association import Rejected, Unreachable, associate, named
from node.audit import Kind
from node.ledger import Ledger
from node.ledger.entries import Destination
from node.status import CANCELED, SUCCESS, is_pending, is_permanent

FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")
NATIVE: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
# PS3.4 C.4.1.1.4: more would be a query that went wrong, and nobody wants to wait for it.
MAXIMUM_MATCHES: Final = 20_000
# Other keys name a request, and so somebody: an accession number.
_TOLD_KEYS: Final = frozenset(
    {"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality"}
    | {"NumberOfSeriesRelatedInstances"}
)
NOT_TOLD: Final = "not disclosed"

OnQuery = Callable[[Destination, str, Mapping[str, str]], None]
"""Told of a query that is about to go out: to whom, its level, its keys by keyword."""


def on_record(ledger: Ledger, actor: str) -> OnQuery:
    """Puts each query on record, as far as it names nobody.

    Args:
        ledger: Where.
        actor: Who asks.
    """

    def note(peer: Destination, level: str, keys: Mapping[str, str]) -> None:
        told = {
            keyword: value if keyword in _TOLD_KEYS or not value else NOT_TOLD
            for keyword, value in keys.items()
        }
        detail: dict[str, Any] = {"host": peer.host, "level": level, "keys": told}
        ledger.outbox.note(Kind.QUERY_ISSUED, peer.ae_title, actor, detail)

    return note


@dataclass(frozen=True)
class FoundSeries:
    """One CT series that a PACS has.

    Args:
        count: Number of Series Related Instances (0020,1209); None where the PACS does not tell.
    """

    study_uid: str
    series_uid: str
    count: int | None


class Query:
    """What one PACS is asked, an association a question.

    Args:
        peer: The PACS, with its TLS.
        calling_ae: Our AE title.
        timeout_s: Longest wait for the association and for each answer.
        on_query: Told of each query once there is an association for it.
    """

    def __init__(
        self, peer: Destination, calling_ae: str, timeout_s: float, on_query: OnQuery
    ) -> None:
        self._peer: Final = peer
        self._calling_ae: Final = calling_ae
        self._timeout_s: Final = timeout_s
        self._on_query: Final = on_query

    def studies(self, accession_number: str) -> tuple[str, ...]:
        """Study Instance UIDs of an accession number.

        Raises:
            Unreachable, Rejected: As `find`.
        """
        keys = {"AccessionNumber": accession_number, "StudyInstanceUID": ""}
        return tuple(str(ds.StudyInstanceUID) for ds in self.find("STUDY", keys))

    def series(self, study_uid: str, series_uid: str = "") -> tuple[FoundSeries, ...]:
        """The CT series of a study, or one of them.

        Args:
            study_uid: Empty for a series whose study is not known; not every PACS allows that.
            series_uid: Empty for all.

        Raises:
            Unreachable, Rejected: As `find`.
        """
        keys = {
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": series_uid,
            "Modality": "CT",
            "NumberOfSeriesRelatedInstances": "",
        }
        return tuple(
            _series(ds, study_uid)
            for ds in self.find("SERIES", keys)
            # A PACS may ignore a key that it does not match on.
            if ds.get("Modality", "CT") in ("CT", "")
        )

    def instances(self, study_uid: str, series_uid: str) -> tuple[str, ...]:
        """SOP Instance UIDs of a series.

        Raises:
            Unreachable, Rejected: As `find`.
        """
        keys = {
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": series_uid,
            "SOPInstanceUID": "",
        }
        return tuple(str(ds.SOPInstanceUID) for ds in self.find("IMAGE", keys))

    def find(self, level: str, keys: dict[str, str]) -> Iterator[Dataset]:
        """The matches of one query.

        Args:
            level: STUDY, SERIES or IMAGE, with the unique keys of the levels above in `keys`.
            keys: By keyword; what is empty is asked for.

        Raises:
            Unreachable: When there is no association, or no answer, or none now.
            Rejected: When the PACS has no C-FIND or refuses the query for good.
            Retry: When the query could not be put on record; it was not sent.
        """
        ds = Dataset()
        ds.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(ds, keyword, value or None)
        contexts = [(FIND, syntax) for syntax in NATIVE]
        assoc = associate(contexts, self._peer, self._calling_ae, self._timeout_s)
        try:
            self._on_query(self._peer, level, keys)
        except BaseException:
            assoc.abort()
            raise
        responses = followed(assoc, assoc.send_c_find(ds, FIND), self._peer, "C-FIND")
        for number, (_, match) in enumerate(responses):
            if number >= MAXIMUM_MATCHES:
                raise Rejected(
                    f"{named(self._peer)} found more than {MAXIMUM_MATCHES} matches; ask for less"
                )
            if match is not None:
                yield match


Response = tuple[Dataset, Dataset | None]


def followed(
    assoc: Association, responses: Iterator[Response], peer: Destination, service: str
) -> Iterator[Response]:
    """The responses to one request, each checked; the association ends with them.

    Raises:
        Unreachable, Rejected: As `check`.
    """
    is_over = False
    try:
        for status, identifier in responses:
            is_over = not is_pending(status.get("Status", CANCELED))
            check(status, peer, service)
            yield status, identifier
    finally:
        # In the middle of the responses an orderly end would have to wait for all of them.
        if assoc.is_established:
            (assoc.release if is_over else assoc.abort)()


def check(response: Dataset, peer: Destination, service: str) -> None:
    """Pass a response that says that the peer does it, or did it.

    Raises:
        Unreachable: When there is none, or the peer could not do it now.
        Rejected: When it will not.
    """
    if "Status" not in response:
        raise Unreachable(f"{named(peer)} aborted or fell silent during a {service}")
    status = int(response.Status)
    # Bxxx: done, with failures that the counts of the response tell.
    if is_pending(status) or status in (SUCCESS, CANCELED) or status & 0xF000 == 0xB000:
        return
    message = f"{named(peer)} answered the {service} with 0x{status:04X}"
    raise Rejected(message) if is_permanent(status) else Unreachable(message)


def _series(ds: Dataset, study_uid: str) -> FoundSeries:
    count = ds.get("NumberOfSeriesRelatedInstances")
    return FoundSeries(
        str(ds.get("StudyInstanceUID") or study_uid),
        str(ds.SeriesInstanceUID),
        None if count in (None, "") else int(count),
    )
