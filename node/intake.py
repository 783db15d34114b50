"""Taking one instance in: durable in the archive, then on record, and only then success.

Nothing here knows the network. Whoever receives an instance offers it with what was agreed about
it and passes on the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

import structlog

from config.settings import Settings
from node import words
from node.archive import Archive, Encoded
from node.errors import Retry
from node.header import Header, Unidentified, Unreadable, read_header
from node.ledger import Ledger
from node.ledger.receiving import Conflict, ConflictReason, Duplicate, Received, Removed
from node.logs import describe
from node.summary import summarize

log = structlog.get_logger(__name__)

# Error Comment (0000,0902) is an LO.
_COMMENT_LENGTH: Final = 64


@dataclass(frozen=True)
class Status:
    """One answer to a C-STORE request.

    Args:
        code: Status (0000,0900).
        meaning: Its class in PS3.4 table B.2-1 or PS3.7 annex C.
        cause: When we give it. The conformance statement prints this.
    """

    code: int
    meaning: str
    cause: str


class Answer(Enum):
    """Every status we answer a C-STORE request with; the comment sent along tells the detail.

    A UID held with other bytes is no 0x0111 (duplicate SOP instance): PS3.7 9.1.1.1.9 does not
    list that for C-STORE, and senders exist that count it as delivered.
    """

    STORED = Status(
        0x0000, "Success", "The instance is durable; or the very same bytes were held already"
    )
    PROCESSING_FAILURE = Status(
        0x0110, "Processing failure", "A fault of this node; the instance is not on record"
    )
    OUT_OF_RESOURCES = Status(
        0xA700,
        "Out of resources",
        "Free space is below receive.minimum_free_bytes, or the disk or the database did not take "
        "the instance in time; it may be sent again later",
    )
    TOO_LONG = Status(
        0xA701,
        "Out of resources",
        "The data set is longer than receive.maximum_dataset_bytes; it would be refused again",
    )
    MISMATCH = Status(
        0xA900,
        "Data set does not match SOP class",
        "SOP Class or SOP Instance UID differs between the request and the data set",
    )
    UNREADABLE = Status(
        0xC001, "Cannot understand", "The data set cannot be parsed in its transfer syntax"
    )
    UNIDENTIFIED = Status(
        0xC002,
        "Cannot understand",
        "SOP Class, SOP Instance, Study or Series Instance UID is absent or malformed",
    )
    OTHER_BYTES = Status(
        0xC003,
        "Cannot understand",
        "The SOP Instance UID is held with other bytes; the new ones are in quarantine",
    )
    OTHER_STUDY = Status(
        0xC004,
        "Cannot understand",
        "The Series Instance UID is held in another study; the instance is in quarantine",
    )


STATUSES: Final = tuple(answer.value for answer in Answer)
"""For the conformance statement."""

_CONFLICTS: Final = {
    ConflictReason.OTHER_BYTES: Answer.OTHER_BYTES,
    ConflictReason.OTHER_STUDY: Answer.OTHER_STUDY,
}


@dataclass(frozen=True)
class Sender:
    """The requestor of an association, in characters that are safe to log and store."""

    calling_ae: str
    called_ae: str
    address: str


@dataclass(frozen=True)
class Offer:
    """One instance as a C-STORE request brings it.

    Args:
        sop_class_uid: Affected SOP Class UID (0000,0002) of the request.
        sop_instance_uid: Affected SOP Instance UID (0000,1000) of the request.
        transfer_syntax_uid: Of the presentation context.
        content: The data set as it was encoded.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content: bytes


@dataclass(frozen=True)
class Response:
    """What the sender hears; the comment fits Error Comment (0000,0902) and is empty on success."""

    answer: Answer
    comment: str = ""

    def __post_init__(self) -> None:
        if len(self.comment) > _COMMENT_LENGTH:
            object.__setattr__(self, "comment", self.comment[:_COMMENT_LENGTH])


class Intake:
    """What is kept of what is offered.

    Args:
        settings: Of the node: free space to keep, trauma words.
        ledger: Where instances go on record.
        archive: Where they lie.
    """

    def __init__(self, settings: Settings, ledger: Ledger, archive: Archive) -> None:
        self._minimum_free_bytes: Final = settings.receive.minimum_free_bytes
        self._maximum_dataset_bytes: Final = settings.receive.maximum_dataset_bytes
        self._trauma_words: Final = settings.selection.trauma_words
        self._receiving: Final = ledger.receiving
        self._archive: Final = archive

    def take(self, offer: Offer, sender: Sender, association_id: int) -> Response:
        """Take one instance, or say why not; anything but success goes on record too.

        Never raises: a sender always gets an answer.
        """
        try:
            response = self._take(offer, sender, association_id)
        except Retry as error:
            response = Response(Answer.OUT_OF_RESOURCES, str(error))
        except Exception as error:
            response = Response(Answer.PROCESSING_FAILURE, describe(error))
        if response.answer is not Answer.STORED:
            self._record_refusal(offer, sender, association_id, response)
        return response

    def _take(self, offer: Offer, sender: Sender, association_id: int) -> Response:
        if len(offer.content) > self._maximum_dataset_bytes:
            return Response(Answer.TOO_LONG, "data set exceeds receive.maximum_dataset_bytes")
        free_bytes = self._archive.free_bytes() - len(offer.content)
        if free_bytes < self._minimum_free_bytes:
            return Response(Answer.OUT_OF_RESOURCES, "free space is below the limit of this node")
        try:
            header = read_header(offer.content, offer.transfer_syntax_uid)
        except Unreadable as error:
            return Response(Answer.UNREADABLE, str(error))
        except Unidentified as error:
            return Response(Answer.UNIDENTIFIED, str(error))
        if (header.sop_class_uid, header.sop_instance_uid) != (
            offer.sop_class_uid,
            offer.sop_instance_uid,
        ):
            return Response(Answer.MISMATCH, "UIDs of request and data set differ")
        encoded = Encoded(
            header.sop_class_uid,
            header.sop_instance_uid,
            offer.transfer_syntax_uid,
            sender.calling_ae,
            offer.content,
        )
        return self._keep(header, encoded, sender, association_id)

    def _keep(
        self, header: Header, encoded: Encoded, sender: Sender, association_id: int
    ) -> Response:
        """The file first, the record then: a crash between the two leaves a file that the same
        instance, sent again, replaces with itself."""
        summary = summarize(header.dataset, header.pixels, self._trauma_words)
        archived = self._archive.store(header.series_uid, encoded)
        received = Received(
            sop_instance_uid=header.sop_instance_uid,
            sop_class_uid=header.sop_class_uid,
            transfer_syntax_uid=encoded.transfer_syntax_uid,
            study_uid=header.study_uid,
            series_uid=header.series_uid,
            modality=summary.modality,
            digest=archived.digest,
            size_bytes=archived.size_bytes,
            path=archived.path,
            summary=summary.to_json(),
        )
        record = partial(
            self._receiving.record_instance,
            received,
            association_id,
            sender.calling_ae,
            sender.address,
        )
        outcome = record()
        if isinstance(outcome, Removed):
            self._archive.expect(archived.path)
            outcome = record(is_there=True)
        if isinstance(outcome, Conflict):
            return self._quarantine(encoded, archived.path, outcome, association_id)
        log.debug(
            "instance received",
            sop_instance_uid=header.sop_instance_uid,
            association=association_id,
            is_duplicate=isinstance(outcome, Duplicate),
        )
        return Response(Answer.STORED)

    def _quarantine(
        self, encoded: Encoded, path: str, conflict: Conflict, association_id: int
    ) -> Response:
        """Keep a contradicting instance apart; what is held stays as it is."""
        apart = self._archive.quarantine(encoded)
        record = partial(
            self._receiving.quarantine,
            encoded.sop_instance_uid,
            apart.digest,
            apart.path,
            str(conflict.reason),
            association_id,
            encoded.calling_ae,
        )
        if not record():
            self._archive.expect(apart.path)
            record(is_there=True)
        self._archive.discard(path)
        return Response(_CONFLICTS[conflict.reason], str(conflict.reason))

    def _record_refusal(
        self, offer: Offer, sender: Sender, association_id: int, response: Response
    ) -> None:
        status = response.answer.value.code
        # Whatever stood there instead of a UID is not for the record.
        uid = words.uid(offer.sop_instance_uid)
        log.warning(
            "instance refused",
            sop_instance_uid=uid,
            status=f"0x{status:04X}",
            reason=response.comment,
        )
        try:
            self._receiving.refuse_instance(
                uid, status, response.comment, association_id, sender.calling_ae
            )
        except Retry as error:
            log.error("refusal is not on record", reason=str(error))


def printable(text: str, length: int) -> str:
    """ASCII without control characters, cut: what a peer sends must not forge a log line."""
    safe = "".join(character if " " <= character <= "~" else "?" for character in text.strip())
    return safe[:length]
