"""The Storage SCU: instances go to one peer over one association, and every answer counts.

`send` yields the peer's own status of each instance as it comes (PS3.4 B.2.3), so that the caller
can write it down before the next instance is sent. It knows nothing of retries: an error says
whether trying again can help, and the delivery workflow decides.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association

from config.settings import SENDER, DeliverySettings, Settings
from node.association import Rejected, Unreachable, address_of, associate, named
from node.errors import Refuse
from node.ledger.entries import Destination
from node.status import SOP_CLASS_NOT_SUPPORTED, SUCCESS

VERIFICATION = UID("1.2.840.10008.1.1")
NATIVE_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
# PS3.8 7.1.1.13: a presentation context ID is an odd byte, which leaves 128 of them.
MAXIMUM_CONTEXTS = 128


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
    # A web archive has no AE title; its path is the settings' business.
    resolved += [
        Destination(d.name, "", d.url.host or "", d.url.port or 443)
        for d in settings.web_destinations
    ]
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
            known_as = address_of(known, settings.tls)
            # The address is that of the delivery, as it is on record.
            return replace(destination, tls=known_as.tls, tls_name=known_as.tls_name)
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
    assoc = associate(_contexts(instances), destination, calling_ae, timeout_s)
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
    assoc = associate([(VERIFICATION, ImplicitVRLittleEndian)], destination, calling_ae, timeout_s)
    response = assoc.send_c_echo()
    assoc.release()
    if response.get("Status") != SUCCESS:
        raise Unreachable(f"{named(destination)} did not answer a C-ECHO with success")
    return time.perf_counter() - began


def _store(
    assoc: Association, instance: OutgoingInstance, message_id: int, destination: Destination
) -> int:
    ds = dcmread(instance.path)
    if not assoc.is_established:
        raise Unreachable(f"{named(destination)} ended the association before all was sent")
    # Message ID is 16 bits and must differ from those outstanding (PS3.7 9.1.1.1.1).
    response = assoc.send_c_store(ds, msg_id=(message_id - 1) % 65535 + 1)
    if "Status" not in response:
        raise Unreachable(f"{named(destination)} aborted or fell silent during a C-STORE")
    return int(response.Status)


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
