"""Taking one instance in: into the archive while it arrives, durable, on record, then success.

Nothing here knows the network. Whoever receives an instance offers it with what was agreed about
it and passes on the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Final

import structlog

from config.settings import Settings
from node import words
from node.archive import Archive, Encoding, Incoming
from node.errors import Refuse, Retry
from node.faults import Point, reach
from node.header import Unidentified, Unreadable
from node.identity import Identity, identify
from node.ledger import Ledger
from node.ledger.receiving import (
    Arrival,
    Conflict,
    ConflictReason,
    Duplicate,
    Elsewhere,
    Received,
    Removed,
)
from node.logs import describe
from node.together import Together

log = structlog.get_logger(__name__)

# Error Comment (0000,0902) is an LO.
_COMMENT_LENGTH: Final = 64
# How much of a data set is written between two looks at the disk: what all associations together
# may write past receive.minimum_free_bytes is this many times their number.
_LOOK_BYTES: Final = 4 * 1024 * 1024


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
        "SOP Class or SOP Instance UID differs between the request and the data set, or SOP Class "
        "UID between the request and its presentation context",
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
        "The SOP Instance UID is held with other bytes, or in another transfer syntax; what came "
        "is in quarantine",
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
    ConflictReason.OTHER_SYNTAX: Answer.OTHER_BYTES,
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
    """One instance as a C-STORE request announces it.

    Args:
        sop_class_uid: Affected SOP Class UID (0000,0002) of the request.
        sop_instance_uid: Affected SOP Instance UID (0000,1000) of the request.
        abstract_syntax_uid: Of the presentation context.
        transfer_syntax_uid: Of the presentation context.
        sender: Who offers it.
    """

    sop_class_uid: str
    sop_instance_uid: str
    abstract_syntax_uid: str
    transfer_syntax_uid: str
    sender: Sender


@dataclass(frozen=True)
class Response:
    """What the sender hears; the comment fits Error Comment (0000,0902) and is empty on success."""

    answer: Answer
    comment: str = ""

    def __post_init__(self) -> None:
        if len(self.comment) > _COMMENT_LENGTH:
            object.__setattr__(self, "comment", self.comment[:_COMMENT_LENGTH])


class Reception:
    """One instance while its data set arrives: in the archive, or refused and dropped.

    Made by `Intake.begin`. Nothing here raises: what goes wrong is the answer.

    Args:
        offer: What was announced.
        maximum_bytes: Of the data set.
        has_room: Whether the disk may take more, or an OSError. What all associations of all
            processes have written so far counts in it, so that several large data sets cannot pass
            it together.
    """

    def __init__(self, offer: Offer, maximum_bytes: int, has_room: Callable[[], bool]) -> None:
        self.offer: Final = offer
        self._has_room: Final = has_room
        self._looked_at_bytes = 0
        self.incoming: Incoming | None = None
        self.refusal: Response | None = None
        self._maximum_bytes: Final = maximum_bytes

    def begin(self, archive: Archive) -> None:
        """Open a file for it, if there is room."""
        self._look()
        if self.refusal is not None:
            return
        offer = self.offer
        encoding = Encoding(
            offer.sop_class_uid,
            offer.sop_instance_uid,
            offer.transfer_syntax_uid,
            offer.sender.calling_ae,
        )
        try:
            self.incoming = archive.receive(encoding)
        except Refuse as error:
            self.refuse(Answer.UNIDENTIFIED, str(error))
        except OSError as error:
            self._fail(error)

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes of the data set."""
        if self.incoming is None or self.refusal is not None:
            return
        if self.incoming.size_bytes + len(fragment) > self._maximum_bytes:
            self.refuse(Answer.TOO_LONG, "data set exceeds receive.maximum_dataset_bytes")
            return
        try:
            self.incoming.write(fragment)
        except OSError as error:
            self._fail(error)
            return
        if self.incoming.size_bytes - self._looked_at_bytes >= _LOOK_BYTES:
            self._looked_at_bytes = self.incoming.size_bytes
            self._look()

    def refuse(self, answer: Answer, comment: str) -> None:
        """Answer so, and drop what came and what will come."""
        self.refusal = Response(answer, comment)
        self.close()

    def close(self) -> None:
        """Remove what is not kept."""
        if self.incoming is not None:
            self.incoming.discard()

    def _look(self) -> None:
        """Refuse it when the disk is as full as it may be, or does not tell."""
        try:
            if not self._has_room():
                comment = "free space is below the limit of this node"
                self.refuse(Answer.OUT_OF_RESOURCES, comment)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.refuse(Answer.OUT_OF_RESOURCES, f"the archive's disk refused a file: {error.strerror}")


class Intake:
    """What is kept of what is offered.

    Args:
        settings: Of the node: free space to keep, size of a data set.
        ledger: Where instances go on record.
        archive: Where they lie.
    """

    def __init__(self, settings: Settings, ledger: Ledger, archive: Archive) -> None:
        self._settings: Final = settings.receive
        self._receiving: Final = ledger.receiving
        self._archive: Final = archive
        # Bound once: to look up a logger for what is not logged took a twentieth of an instance.
        self._log: Final = log.bind()
        self._together: Final = Together(self._receiving.record_instances, common=Retry)

    def begin(self, offer: Offer) -> Reception:
        """Begin to take an instance, before any of its data set is there; never raises."""
        reception = Reception(offer, self._settings.maximum_dataset_bytes, self._has_room)
        if offer.sop_class_uid != offer.abstract_syntax_uid:
            reception.refuse(Answer.MISMATCH, "SOP Class is not that of the presentation context")
        else:
            reception.begin(self._archive)
        return reception

    def _has_room(self) -> bool:
        return self._archive.free_bytes() >= self._settings.minimum_free_bytes

    def take(self, reception: Reception, association_id: int) -> Response:
        """Take an instance whose data set is complete, or say why not.

        Anything but success goes on record too. Never raises: a sender always gets an answer.
        """
        try:
            response = self._take(reception, association_id)
        except Retry as error:
            # The ledger has no place for a refusal either, and the sender has waited long enough.
            log.error("instance refused, not on record", reason=str(error))
            return Response(Answer.OUT_OF_RESOURCES, str(error))
        except Exception as error:
            response = Response(Answer.PROCESSING_FAILURE, describe(error))
        finally:
            reception.close()
        if response.answer is not Answer.STORED:
            self._record_refusal(reception.offer, association_id, response)
        return response

    def _take(self, reception: Reception, association_id: int) -> Response:
        offer, incoming = reception.offer, reception.incoming
        if reception.refusal is not None or incoming is None:
            return reception.refusal or Response(Answer.PROCESSING_FAILURE)
        try:
            identity = identify(incoming.head, incoming.open, offer.transfer_syntax_uid)
        except Unreadable as error:
            return Response(Answer.UNREADABLE, str(error))
        except Unidentified as error:
            return Response(Answer.UNIDENTIFIED, str(error))
        if (identity.sop_class_uid, identity.sop_instance_uid) != (
            offer.sop_class_uid,
            offer.sop_instance_uid,
        ):
            return Response(Answer.MISMATCH, "UIDs of request and data set differ")
        return self._keep(identity, incoming, offer, association_id)

    def _keep(
        self, identity: Identity, incoming: Incoming, offer: Offer, association_id: int
    ) -> Response:
        """The file first, the record then: a crash between the two leaves a file that the same
        instance, sent again, replaces with itself."""
        archived = self._archive.keep(incoming, identity.series_uid)
        received = Received(
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            transfer_syntax_uid=offer.transfer_syntax_uid,
            study_uid=identity.study_uid,
            series_uid=identity.series_uid,
            modality=identity.modality,
            digest=archived.digest,
            size_bytes=archived.size_bytes,
            path=archived.path,
        )
        sender = offer.sender
        arrival = Arrival(received, association_id, sender.calling_ae, sender.address)
        outcome = self._together.do(arrival)
        if isinstance(outcome, Elsewhere):
            self._archive.move(received.path, outcome.path)
            received = replace(received, path=outcome.path)
            arrival = replace(arrival, received=received)
            outcome = self._together.do(arrival)
        if isinstance(outcome, Removed):
            self._archive.expect(received.path)
            outcome = self._together.do(replace(arrival, is_there=True))
        if isinstance(outcome, Conflict):
            return self._quarantine(received, outcome, association_id, sender)
        reach(Point.RECEIVE_ANSWERING)
        self._log.debug(
            "instance received",
            sop_instance_uid=identity.sop_instance_uid,
            association=association_id,
            is_duplicate=isinstance(outcome, Duplicate),
        )
        return Response(Answer.STORED)

    def _quarantine(
        self, received: Received, conflict: Conflict, association_id: int, sender: Sender
    ) -> Response:
        """Keep a contradicting instance apart; what is held stays as it is."""
        apart = self._archive.set_apart(received.path)
        record = partial(
            self._receiving.quarantine,
            replace(received, path=apart),
            str(conflict.reason),
            association_id,
            sender.calling_ae,
        )
        if not record():
            self._archive.expect(apart)
            record(is_there=True)
        return Response(_CONFLICTS[conflict.reason], str(conflict.reason))

    def _record_refusal(self, offer: Offer, association_id: int, response: Response) -> None:
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
                uid, status, response.comment, association_id, offer.sender.calling_ae
            )
        except Exception as error:
            # Of whatever kind: the ledger has refused the instance already, or is broken by now.
            log.error("refusal is not on record", reason=describe(error))


def printable(text: str, length: int) -> str:
    """ASCII without control characters, cut: what a peer sends must not forge a log line."""
    safe = "".join(character if " " <= character <= "~" else "?" for character in text.strip())
    return safe[:length]
