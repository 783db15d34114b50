"""Storage Commitment Push Model (PS3.4 annex J), as SCU: ask a destination, read its report.

The destination answers the request (N-ACTION) at once and reports later (N-EVENT-REPORT), on the
same association if that is still there, or on one that it opens with us. Both come through `read`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, cast

from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import evt
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from node.association import Rejected, Unreachable, associate, named
from node.errors import Refuse
from node.faults import Point, reach
from node.ledger.entries import Destination
from node.status import (
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_EVENT_TYPE,
    PROCESSING_FAILURE,
    SUCCESS,
    is_permanent,
)
from node.structure import refuse_too_many

SOP_CLASS: Final = UID("1.2.840.10008.1.20.1")
# PS3.4 J.3.1: the class has this one instance, known to all.
_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
# PS3.4 J.3.2: the one action there is.
_REQUEST: Final = 1
# PS3.4 J.3.3: all is committed, or some is not.
_COMPLETE, _FAILURES_EXIST = 1, 2

REPORT_STATUSES: Final = (
    (SUCCESS, "The report is durable, or was before"),
    (PROCESSING_FAILURE, "A fault of this node; it may be reported again"),
    (NO_SUCH_EVENT_TYPE, "The Event Type ID is neither 1 nor 2"),
    (
        INVALID_ARGUMENT_VALUE,
        "It makes no sense, or its Transaction UID is absent or not ours",
    ),
)
"""Every status we answer a report with. The conformance statement prints this."""


@dataclass(frozen=True)
class Report:
    """What a destination says about one transaction.

    Args:
        committed: SOP Instance UIDs it takes responsibility for.
        failures: SOP Instance UID to Failure Reason (0008,1197).
    """

    transaction_uid: str
    committed: frozenset[str]
    failures: Mapping[str, int]


OnReport = Callable[[Report, str], None]
"""Told a report and the AE title it came from; raises `Refuse` for a transaction of nobody."""


def request(
    sop_instance_uids: Collection[str],
    destination: Destination,
    calling_ae: str,
    transaction_uid: str,
    timeout_s: float,
    stay_s: float,
    on_report: OnReport,
) -> None:
    """Ask a destination to commit to secondary captures that it has.

    Args:
        sop_instance_uids: Of all instances.
        destination: The peer.
        calling_ae: Our AE title; the report goes to the address that the peer has for it.
        transaction_uid: Names the request in the report.
        timeout_s: Longest wait for the association and the answer.
        stay_s: How long to leave the association open for the report.
        on_report: Told when the report comes on this association.

    Raises:
        Unreachable: When it cannot be asked now.
        Rejected: When it has no storage commitment or refuses the request for good.
    """
    answer = _Answer(on_report)
    contexts = [(SOP_CLASS, ImplicitVRLittleEndian)]
    handlers = [
        (evt.EVT_N_EVENT_REPORT, answer.report),
        (evt.EVT_DIMSE_SENT, answer.message),
        (evt.EVT_PDU_SENT, answer.pdu),
    ]
    assoc = associate(contexts, destination, calling_ae, timeout_s, handlers)
    try:
        status, _ = assoc.send_n_action(
            _action(transaction_uid, sop_instance_uids),
            _REQUEST,
            SOP_CLASS,
            _INSTANCE,
        )
        _check(status, destination)
        answer.wait(stay_s, timeout_s)
    finally:
        if assoc.is_established:
            assoc.release()


class _Answer:
    """Our answer to a report on the association that we opened, and when it is on its way.

    A release before that would overtake the answer (pynetdicom tells of a message before it is
    in the queue to the peer): the association would break and the report seem lost.
    """

    def __init__(self, on_report: OnReport):
        self._on_report = on_report
        self._came, self._made, self._sent = (threading.Event() for _ in range(3))

    def report(self, event: evt.Event) -> tuple[int, Dataset | None]:
        self._came.set()
        return respond(event, self._on_report)

    def message(self, event: evt.Event) -> None:
        if isinstance(event.message, N_EVENT_REPORT_RSP):
            self._made.set()

    def pdu(self, event: evt.Event) -> None:
        # It fits into one PDU, and nothing else is sent meanwhile.
        if self._made.is_set():
            self._sent.set()

    def wait(self, stay_s: float, timeout_s: float) -> None:
        """Until the answer is sent; without a report, as long as we stay."""
        if not self._sent.wait(stay_s) and self._came.is_set():
            self._sent.wait(timeout_s)


def respond(event: evt.Event, on_report: OnReport) -> tuple[int, Dataset | None]:
    """Answer an N-EVENT-REPORT request, on whichever association it comes.

    Returns:
        The status (PS3.7 10.1.1.1.8) and no reply. Never raises.
    """
    try:
        request = cast(N_EVENT_REPORT, event.request)
        refuse_too_many(request.EventInformation, event.context.transfer_syntax)
        report = read(event.event_information, event.event_type or 0)
    except UnknownEvent:
        return NO_SUCH_EVENT_TYPE, None
    except Exception:
        # It names nothing, or makes no sense; pydicom tells that in many ways.
        return INVALID_ARGUMENT_VALUE, None
    try:
        on_report(report, str(event.assoc.requestor.ae_title))
        reach(Point.COMMITMENT_REPORTED)
    except Refuse:
        # What it names is not ours.
        return INVALID_ARGUMENT_VALUE, None
    except Exception:
        # The ledger is away: the destination may report again, and we ask again.
        return PROCESSING_FAILURE, None
    return SUCCESS, None


class UnknownEvent(Refuse):
    """A report of an event that storage commitment does not have."""


def read(information: Dataset, event_type: int) -> Report:
    """The Event Information (PS3.4 table J.3-2).

    Raises:
        UnknownEvent: When the type is neither of the two.
        AttributeError: When the transaction is not named.
    """
    if event_type not in (_COMPLETE, _FAILURES_EXIST):
        raise UnknownEvent(f"expected event type 1 or 2, found {event_type}")
    committed = {
        str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence", [])
    }
    failures = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason", PROCESSING_FAILURE))
        for item in information.get("FailedSOPSequence", [])
    }
    return Report(str(information.TransactionUID), frozenset(committed), failures)


def _action(transaction_uid: str, sop_instance_uids: Collection[str]) -> Dataset:
    """The Action Information (PS3.4 table J.3-1)."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = []
    for uid in sop_instance_uids:
        item = Dataset()
        item.ReferencedSOPClassUID = SecondaryCaptureImageStorage
        item.ReferencedSOPInstanceUID = uid
        ds.ReferencedSOPSequence.append(item)
    return ds


def _check(response: Dataset, destination: Destination) -> None:
    if "Status" not in response:
        raise Unreachable(f"{named(destination)} aborted or fell silent during an N-ACTION")
    status = int(response.Status)
    if status == SUCCESS:
        return
    message = f"{named(destination)} answered the commitment request with 0x{status:04X}"
    raise Rejected(message) if is_permanent(status) else Unreachable(message)
