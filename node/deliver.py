"""The Storage SCU: instances go to one peer over one association, and every answer counts.

`send` yields the peer's own status of each instance as it comes (PS3.4 B.2.3), so that the caller
can write it down before the next instance is sent. It knows nothing of retries: an error says
whether trying again can help, and the delivery workflow decides.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pynetdicom._config as pynetdicom_config
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association

from config.settings import DeliverySettings, Settings, TlsSettings
from node import tls
from node.clock import utc_now
from node.errors import Refuse, Retry
from node.ledger.entries import Destination
from node.status import SOP_CLASS_NOT_SUPPORTED, SUCCESS

# pynetdicom would log the data sets of queries, which name patients.
pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False

SENDER = "sender"
"""The destination that is whoever sent the CT."""

VERIFICATION = UID("1.2.840.10008.1.1")
NATIVE_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
# PS3.8 7.1.1.13: a presentation context ID is an odd byte, which leaves 128 of them.
MAXIMUM_CONTEXTS = 128
# PS3.8 9.3.4, result 1 is "rejected-permanent", 2 is "rejected-transient".
REJECTED_PERMANENT = 1


class Unreachable(Retry):
    """No association, or it broke: refused connection, silence, abort, a busy peer."""


class Rejected(Refuse):
    """The peer will not talk to us or not about this: unknown AE title, no presentation context."""


@dataclass(frozen=True)
class OutgoingInstance:
    """One DICOM file on its way out."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: Path


@dataclass(frozen=True)
class Answer:
    """The C-STORE response for one instance."""

    sop_instance_uid: str
    status: int


def resolve(
    settings: DeliverySettings, sender_ae: str | None, sender_address: str | None
) -> tuple[Destination, ...]:
    """Where the results of one series go.

    Args:
        settings: The configured destinations, and whether the sender gets a copy.
        sender_ae: Calling AE title of the association that brought the CT.
        sender_address: Peer address of that association.
    """
    resolved = [Destination(d.name, d.ae_title, d.host, d.port) for d in settings.destinations]
    if settings.back_to_sender and sender_ae and sender_address:
        resolved.append(Destination(SENDER, sender_ae, sender_address, settings.sender_port))
    return tuple(resolved)


def secured(destination: Destination, settings: Settings) -> Destination:
    """The destination as the settings want it called now: plain or with TLS.

    Raises:
        Rejected: When the settings do not name it any more; nothing would be known of its TLS.
    """
    delivery = settings.delivery
    if destination.name == SENDER and delivery.back_to_sender:
        # It is known by its address only, and certificates of scanners carry none.
        return replace(destination, tls=settings.tls if delivery.sender_tls else None)
    for known in delivery.destinations:
        if known.name == destination.name:
            name = None if known.tls_name == "any" else known.tls_name or known.host
            return replace(destination, tls=settings.tls if known.tls else None, tls_name=name)
    raise Rejected(
        f"destination {destination.name} is not among delivery.destinations any more; put it back,"
        " then retry"
    )


def read_header(path: Path) -> OutgoingInstance:
    """What must be known of a file before an association is proposed.

    Raises:
        Refuse: When it is not a DICOM file with a SOP class and instance.
    """
    keywords = ["SOPClassUID", "SOPInstanceUID"]
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=keywords)
        return OutgoingInstance(
            str(ds.SOPClassUID),
            str(ds.SOPInstanceUID),
            str(ds.file_meta.TransferSyntaxUID),
            path,
        )
    except (InvalidDicomError, AttributeError) as error:
        raise Refuse(
            f"{path.name}: expected a DICOM file with SOP Class and Instance UID, found none;"
            " leave it out of the folder"
        ) from error


def send(
    instances: Sequence[OutgoingInstance],
    destination: Destination,
    calling_ae: str,
    timeout_s: float,
) -> Iterator[Answer]:
    """Store the instances with one peer, one at a time, over one association.

    Args:
        instances: What to send; a file is read when its turn comes.
        destination: The peer.
        calling_ae: Our AE title.
        timeout_s: Longest wait for the connection, the association and each answer.

    Yields:
        One answer an instance, in order; 0x0122 for one whose SOP class or transfer syntax the
        peer did not accept, though it accepted others.

    Raises:
        Unreachable: When there is no association or it breaks; what was yielded stays valid.
        Rejected: When the peer rejects us for good or accepts no context at all.
    """
    if not instances:
        return
    assoc = _associate(_contexts(instances), destination, calling_ae, timeout_s)
    try:
        accepted = {(cx.abstract_syntax, cx.transfer_syntax[0]) for cx in assoc.accepted_contexts}
        for message_id, instance in enumerate(instances, start=1):
            status = SOP_CLASS_NOT_SUPPORTED
            if _is_usable(instance, accepted):
                status = _store(assoc, instance, message_id, destination)
            yield Answer(instance.sop_instance_uid, status)
    finally:
        if assoc.is_established:
            assoc.release()


def echo(destination: Destination, calling_ae: str, timeout_s: float) -> float:
    """C-ECHO (PS3.7 9.1.5): seconds that the peer took, association included.

    Raises:
        Unreachable: When there is no association or no success.
        Rejected: When the peer rejects us for good.
    """
    began = time.perf_counter()
    assoc = _associate([(VERIFICATION, ImplicitVRLittleEndian)], destination, calling_ae, timeout_s)
    response = assoc.send_c_echo()
    assoc.release()
    if response.get("Status") != SUCCESS:
        raise Unreachable(f"{_named(destination)} did not answer a C-ECHO with success")
    return time.perf_counter() - began


def _store(
    assoc: Association, instance: OutgoingInstance, message_id: int, destination: Destination
) -> int:
    ds = dcmread(instance.path)
    if not assoc.is_established:
        raise Unreachable(f"{_named(destination)} ended the association before all was sent")
    # Message ID is 16 bits and must differ from those outstanding (PS3.7 9.1.1.1.1).
    response = assoc.send_c_store(ds, msg_id=(message_id - 1) % 65535 + 1)
    if "Status" not in response:
        raise Unreachable(f"{_named(destination)} aborted or fell silent during a C-STORE")
    return int(response.Status)


def _associate(
    contexts: Iterable[tuple[UID, UID]],
    destination: Destination,
    calling_ae: str,
    timeout_s: float,
) -> Association:
    ae = AE(ae_title=calling_ae)
    ae.acse_timeout = timeout_s
    ae.dimse_timeout = timeout_s
    ae.network_timeout = timeout_s
    ae.connection_timeout = timeout_s
    ae.maximum_pdu_size = 0
    for abstract_syntax, transfer_syntax in contexts:
        ae.add_requested_context(abstract_syntax, transfer_syntax)
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, _switch_off_nagle)]
    context = None if destination.tls is None else _tls_context(destination.tls, destination)
    try:
        assoc = ae.associate(
            destination.host,
            destination.port,
            ae_title=destination.ae_title,
            evt_handlers=handlers,
            # Without a name pynetdicom passes None on, which is what ssl wants then.
            tls_args=None if context is None else (context, cast(str, destination.tls_name)),
        )
    except OSError as error:
        # pynetdicom resolves the name before its own error handling begins.
        raise Unreachable(f"{_named(destination)}: the host name does not resolve") from error
    if assoc.is_established:
        return assoc
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        reason = getattr(answer, "reason_str", "no reason given")
        message = f"{_named(destination)} rejected the association: {reason}"
        if getattr(answer, "result", None) == REJECTED_PERMANENT:
            raise Rejected(message)
        raise Unreachable(message)
    if assoc.rejected_contexts:
        # pynetdicom aborts an association of which no context was accepted.
        refused = ", ".join(
            sorted({UID(str(cx.abstract_syntax)).name for cx in assoc.rejected_contexts})
        )
        raise Rejected(f"{_named(destination)} accepts no presentation context for {refused}")
    if context is not None and context.trouble is not None:
        # A certificate that is wrong now may be renewed while we try again.
        raise Unreachable(f"{_named(destination)}: {context.trouble}")
    raise Unreachable(f"{_named(destination)} gave no association: nothing listens, or it aborted")


def _tls_context(settings: TlsSettings, destination: Destination) -> tls.ClientContext:
    return tls.client_context(settings, destination.tls_name is not None, utc_now())


def _contexts(instances: Iterable[OutgoingInstance]) -> list[tuple[UID, UID]]:
    """Abstract and transfer syntax of every context to propose.

    One context per transfer syntax, so that the peer's choice is visible; uncompressed instances
    are offered in both native syntaxes, since the implicit one is every peer's duty (PS3.5 10.1).
    """
    wanted: dict[tuple[UID, UID], None] = {}
    for instance in instances:
        abstract_syntax, own = UID(instance.sop_class_uid), UID(instance.transfer_syntax_uid)
        wanted[(abstract_syntax, own)] = None
        if own in NATIVE_SYNTAXES:
            wanted.update(((abstract_syntax, native), None) for native in NATIVE_SYNTAXES)
    if len(wanted) > MAXIMUM_CONTEXTS:
        raise Refuse(
            f"expected at most {MAXIMUM_CONTEXTS} pairs of SOP class and transfer syntax, found"
            f" {len(wanted)}; send fewer kinds of instance at a time"
        )
    return list(wanted)


def _is_usable(instance: OutgoingInstance, accepted: Collection[tuple[Any, Any]]) -> bool:
    """Whether an accepted context takes the instance, converted between the native syntaxes."""
    own = UID(instance.transfer_syntax_uid)
    syntaxes = NATIVE_SYNTAXES if own in NATIVE_SYNTAXES else (own,)
    return any((instance.sop_class_uid, syntax) in accepted for syntax in syntaxes)


def _switch_off_nagle(event: evt.Event) -> None:
    # A C-STORE ends in a small fragment; without this it waits for the peer's delayed ACK.
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _named(destination: Destination) -> str:
    return f"{destination.ae_title} at {destination.host}:{destination.port}"
