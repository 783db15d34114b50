"""C-FIND (PS3.4 C.4.1) in the Study Root model: what does a PACS have?

Answers are UIDs and counts. Nothing else is asked for, so that nothing of a patient comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association

from node.association import Rejected, Unreachable, associate, named, trouble_of
from node.audit import Kind
from node.found import FoundSeries, FoundStudy
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

    def study(self, study_uid: str) -> FoundStudy:
        """A study as the PACS counts it and as it lists it.

        Raises:
            Unreachable, Rejected: As `find`.
        """
        # Counted first: what comes to the PACS in between is no reason to miss anything.
        counted = self._counted(study_uid)
        listed = self._listed(study_uid, "", "")
        counts = [_number(ds, "NumberOfSeriesRelatedInstances") for ds in listed]
        known = [one for one in counts if one is not None]
        return FoundStudy(
            study_uid,
            _ct_of(listed, study_uid),
            listed_series=len(listed),
            listed_instances=sum(known) if len(known) == len(counts) else None,
            counted_series=_number(counted, "NumberOfStudyRelatedSeries"),
            counted_instances=_number(counted, "NumberOfStudyRelatedInstances"),
        )

    def series(self, study_uid: str, series_uid: str) -> tuple[FoundSeries, ...]:
        """A series, if it is CT.

        Args:
            study_uid: Empty where the study is not known; not every PACS allows that.

        Raises:
            Unreachable, Rejected: As `find`.
        """
        return _ct_of(self._listed(study_uid, series_uid, "CT"), study_uid)

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

    def _counted(self, study_uid: str) -> Dataset:
        """What the PACS counts in a study; empty where it does not."""
        keys = {
            "StudyInstanceUID": study_uid,
            "NumberOfStudyRelatedSeries": "",
            "NumberOfStudyRelatedInstances": "",
        }
        # Both keys are optional (PS3.4 C.6.2.1.2): who will not be asked for them may still list.
        with suppress(Rejected):
            matches = list(self.find("STUDY", keys))
            return matches[0] if matches else Dataset()
        return Dataset()

    def _listed(self, study_uid: str, series_uid: str, modality: str) -> list[Dataset]:
        keys = {
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": series_uid,
            "Modality": modality,
            "NumberOfSeriesRelatedInstances": "",
        }
        return list(self.find("SERIES", keys))


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
            if trouble := trouble_of(assoc):
                raise Unreachable(f"{named(peer)} {trouble}")
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


def _ct_of(listed: list[Dataset], study_uid: str) -> tuple[FoundSeries, ...]:
    return tuple(
        FoundSeries(
            str(ds.get("StudyInstanceUID") or study_uid),
            str(ds.SeriesInstanceUID),
            _number(ds, "NumberOfSeriesRelatedInstances"),
        )
        for ds in listed
        # A PACS may ignore a key that it does not match on.
        if ds.get("Modality", "CT") in ("CT", "", None)
    )


def _number(ds: Dataset, keyword: str) -> int | None:
    value = ds.get(keyword)
    return None if value in (None, "") else int(value)
