"""The Storage SCP: who may send, what is negotiated, and one durable answer per instance.

pynetdicom speaks the protocol (PS3.8 associations, PS3.7 C-STORE); `node.streaming` under it passes
data sets on while they arrive. What is kept of an instance, and which status that has, is decided
by `node.intake`.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, cast

import pydicom.config
import pynetdicom
import structlog
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContextTuple
from pynetdicom.transport import ThreadedAssociationServer

from config.settings import Settings
from node import announcement, commitment, tls
from node.archive import Archive
from node.clock import utc_now
from node.errors import Refuse, Retry, Stop
from node.intake import Answer, Intake, Offer, Reception, Response, Sender, printable
from node.ledger import Ledger
from node.ledger.announcements import Announced
from node.ledger.proofs import AE_PREFIX
from node.ledger.receiving import Ending
from node.listener import Door, listen
from node.logs import describe
from node.parts import process_name
from node.refusals import Refusal, Refusals
from node.seats import Seats
from node.streaming import StoreRequest, StoreStatus
from pipeline.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

log = structlog.get_logger(__name__)

STORAGE_CLASSES: Final = (CTImageStorage, EnhancedCTImageStorage)
"""All else is refused in negotiation, so that a sender sees at once that we take CT only."""

UNCOMPRESSED: Final = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)

TRANSFER_SYNTAXES: Final = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
)
"""What an instance may be encoded in; it is stored as it comes."""

UNKNOWN_AE: Final = "unknown"
"""On record for a peer that did not get as far as telling its AE title."""

UNKNOWN_ADDRESS: Final = "unknown"

VERIFICATION: Final = UID("1.2.840.10008.1.1")

# PS3.8 9.3.4: rejected permanently, by the service user.
_CALLING_AE_NOT_RECOGNIZED: Final = (0x01, 0x01, 0x03)
_CALLED_AE_NOT_RECOGNIZED: Final = (0x01, 0x01, 0x07)
# Rejected for now, by the service provider (presentation).
_TEMPORARY_CONGESTION: Final = (0x02, 0x03, 0x01)
_LOCAL_LIMIT_EXCEEDED: Final = (0x02, 0x03, 0x02)
# Connections, for each association there may be. A storm hears that it should come later instead of
# nothing; until it has sent a data set, a connection costs a thread and little more.
_CONNECTIONS_PER_ASSOCIATION: Final = 10


@dataclass
class _Guest:
    """A peer that has a place.

    Args:
        sender: Who it is.
        seat: The number of its place.
        association_id: The ledger's, once an instance came.
    """

    sender: Sender
    seat: int
    association_id: int | None = None


class Sink:
    """An instance on its way in, as `node.streaming` sees it.

    Args:
        reception: Takes its data set.
        take: Keeps it, and answers.
    """

    def __init__(self, reception: Reception, take: Callable[[Reception], StoreStatus]) -> None:
        self.write: Final = reception.write
        self.complete: Final = partial(take, reception)
        self.close: Final = reception.close


class Receiver:
    """One listening Storage SCP.

    Args:
        settings: Of the node; `node` and `receive` are used, and the trauma words of `selection`.
        ledger: Where instances go on record.
        archive: Where they lie; its owner should be `process`.
        process: The stable name of this acceptor. Its next life closes the associations that this
            one left open.
        port: A listening socket that several acceptors share; None for one of our own.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        archive: Archive,
        process: str = "receive-0",
        port: socket.socket | None = None,
    ) -> None:
        self._node: Final = settings.node
        self._tls: Final = settings.tls
        self._settings: Final = settings.receive
        self._receiving: Final = ledger.receiving
        self._proofs: Final = ledger.proofs
        self._commitments: Final = ledger.commitments
        self._announcements: Final = ledger.announcements
        self._fetches_announced: Final = settings.retrieve.fetch_announced
        self._archive: Final = archive
        self._intake: Final = Intake(settings, ledger, archive)
        self._process: Final = process
        self._port: Final = port
        self._lock: Final = threading.Lock()
        self._seats: Final = Seats(
            settings.node.data_folder / process_name(settings, "seats"),
            settings.receive.maximum_associations,
            settings.receive.maximum_associations_per_peer,
        )
        self._refusals: Final = Refusals()
        # Who has a place; those that are gone stay until the next comes.
        self._guests: dict[Association, _Guest] = {}
        self._server: ThreadedAssociationServer | None = None
        # Held while an association goes on record, so that it is not taken for one that is gone.
        self._opening: Final = threading.Lock()
        # Whether the record may hold associations open that are not.
        self._has_gone: Final = threading.Event()

    @property
    def port(self) -> int:
        """The TCP port we listen on; the real one when the settings say 0.

        Raises:
            Stop: When not started.
        """
        if self._server is None:
            raise Stop("the receiver has not been started")
        return int(self._server.server_address[1])

    @property
    def open_associations(self) -> int:
        """How many peers have an association, or a connection that may become one."""
        return len(self._server.active_associations) if self._server else 0

    def start(self) -> None:
        """Tidy up after an earlier life, then listen; returns at once.

        Raises:
            Stop: When the port cannot be had, or TLS is wanted and a file of it is wrong.
            Retry: When the ledger does not answer.
        """
        keep_libraries_quiet()
        swept = self._archive.sweep()
        orphans = self._receiving.close_orphans(self._process)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_N_EVENT_REPORT, lambda event: commitment.respond(event, self._on_report)),
            (evt.EVT_N_CREATE, lambda event: announcement.respond(event, self._on_announced)),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
        ]
        address = (self._node.bind_address, self._node.port)
        door = self._door()
        try:
            self._server = listen(
                self._entity(), address, handlers, door, self._begin, self._on_end, self._port
            )
        except OSError as error:
            raise Stop(
                f"node.port: expected a free port, {address[0]}:{address[1]} is not to be had: "
                f"{error.strerror}"
            ) from error
        log.info("receiver started", port=self.port, swept_files=swept, orphans=orphans)

    def stop(self, grace_s: float) -> None:
        """Take no new association, let the open ones finish for `grace_s`, abort the rest."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        deadline = time.monotonic() + grace_s
        for association in server.active_associations:
            association.join(max(0.0, deadline - time.monotonic()))
        cut_off = server.active_associations
        for association in cut_off:
            association.abort()
            association.join(self._settings.network_timeout_s)
        self._put_on_record(self._refusals.rest())
        log.info("receiver stopped", aborted_associations=len(cut_off))

    def _door(self) -> Door:
        contexts = tls.ServerContexts(self._tls, utc_now) if self._settings.tls else None
        return Door(
            None if contexts is None else contexts.current,
            timeout_s=self._settings.network_timeout_s,
            maximum_connections=_CONNECTIONS_PER_ASSOCIATION * self._settings.maximum_associations,
            on_failure=self._on_failed_connection,
        )

    def _on_failed_connection(self, address: str, reason: str, is_tls: bool) -> None:
        """A connection that never became an association; one that TLS refused goes on record."""
        sender = Sender(UNKNOWN_AE, self._node.ae_title, _plain_address(address))
        if is_tls:
            self._record_rejection(sender, reason)
        else:
            log.warning("connection refused", peer_address=sender.address, reason=reason)

    def _entity(self) -> AE:
        entity = AE(ae_title=self._node.ae_title)
        entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        # Counted by `Seats`.
        entity.maximum_associations = sys.maxsize
        entity.maximum_pdu_size = self._settings.maximum_pdu_bytes
        entity.network_timeout = self._settings.network_timeout_s
        entity.acse_timeout = self._settings.network_timeout_s
        entity.add_supported_context(announcement.SOP_CLASS, list(UNCOMPRESSED))
        entity.add_supported_context(VERIFICATION, list(UNCOMPRESSED))
        for storage_class in STORAGE_CLASSES:
            entity.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        # A destination reports as SCP of an association it requested (PS3.7 D.3.3.4).
        entity.add_supported_context(
            commitment.SOP_CLASS, list(UNCOMPRESSED), scu_role=False, scp_role=True
        )
        return entity

    def _on_requested(self, event: evt.Event) -> None:
        """Turn away a peer that may not come in, or of which that cannot be told now.

        pynetdicom goes on to accept when this raises.
        """
        sender = Sender(UNKNOWN_AE, self._node.ae_title, UNKNOWN_ADDRESS)
        try:
            sender = _sender_of(event.assoc)
            refusal = self._refusal(event.assoc, sender)
        except Exception as error:
            # By its class: what a peer says of itself may stand in the message.
            log.error("cannot tell who may come in", error=type(error).__name__)
            refusal = _TEMPORARY_CONGESTION, "cannot tell now whether it may come in"
        if refusal is not None:
            self._reject(event.assoc, sender, *refusal)

    def _refusal(
        self, association: Association, sender: Sender
    ) -> tuple[tuple[int, int, int], str] | None:
        """How and why a peer is turned away; None for one that now has a place."""
        if sender.called_ae != self._node.ae_title:
            return _CALLED_AE_NOT_RECOGNIZED, "called AE is not ours"
        if not self._is_allowed(sender):
            return _CALLING_AE_NOT_RECOGNIZED, "not among receive.peers"
        try:
            self._seat(association, sender)
        except Refuse as error:
            return _LOCAL_LIMIT_EXCEEDED, str(error)
        return None

    def _on_released(self, event: evt.Event) -> None:
        self._close(event.assoc, Ending.RELEASED)

    def _on_aborted(self, event: evt.Event) -> None:
        is_silent = event.assoc.dul.idle_timer_expired()
        self._close(event.assoc, Ending.TIMED_OUT if is_silent else Ending.ABORTED)

    def _begin(
        self, association: Association, request: StoreRequest, context: PresentationContextTuple
    ) -> Sink:
        """Where the data set of a C-STORE request goes."""
        guest = self._guests[association]
        offer = Offer(
            request.sop_class_uid,
            request.sop_instance_uid,
            context.abstract_syntax,
            context.transfer_syntax,
            guest.sender,
        )
        return Sink(self._intake.begin(offer), partial(self._take, guest))

    def _take(self, guest: _Guest, reception: Reception) -> StoreStatus:
        """Answer a C-STORE request whose data set is complete; never raises."""
        try:
            association_id = self._association_id(guest)
            response = self._intake.take(reception, association_id)
        except Retry as error:
            log.error("association is not on record", reason=str(error))
            response = Response(Answer.OUT_OF_RESOURCES, str(error))
        except Exception as error:
            log.error("association is not on record", reason=describe(error))
            response = Response(Answer.PROCESSING_FAILURE, describe(error))
        return status_of(response)

    def _on_report(self, report: commitment.Report, ae_title: str) -> None:
        """A destination tells whether it takes responsibility for what we sent it."""
        state = self._commitments.report(
            report.transaction_uid, report.committed, report.failures, printable(ae_title, 16)
        )
        log.info("commitment reported", transaction=report.transaction_uid, state=str(state))

    def _on_announced(self, announced: tuple[Announced, ...], ae_title: str) -> None:
        """A PACS tells what it has."""
        self._announcements.note(announced, printable(ae_title, 16), self._fetches_announced)

    def _is_allowed(self, sender: Sender) -> bool:
        return (
            self._settings.allow_any_peer
            or any(
                allowed.ae_title == sender.calling_ae and _is_at(sender.address, allowed.address)
                for allowed in self._settings.peers
            )
            or self._is_proof(sender)
        )

    def _is_proof(self, sender: Sender) -> bool:
        """Whether it is the prover of this node (`node.proof`), by a title that it made up."""
        return sender.calling_ae.startswith(AE_PREFIX) and self._proofs.is_expected(
            sender.calling_ae
        )

    def _seat(self, association: Association, sender: Sender) -> None:
        """Give a peer one of the places of the node.

        Connections that have not asked for an association take no place, nor do those that are
        turned away: pynetdicom counts both, and a storm would have it turn away everybody.

        Raises:
            Refuse: When there is none for it.
        """
        seat = self._seats.take(sender.address)
        with self._lock:
            self._guests = {one: at for one, at in self._guests.items() if one.is_alive()}
            self._guests[association] = _Guest(sender, seat)

    def _on_end(self, association: Association) -> None:
        """A connection is over, however it ended."""
        if (guest := self._guests.get(association)) is not None:
            self._seats.give_back(guest.seat)

    def _reject(
        self, association: Association, sender: Sender, reason: tuple[int, int, int], text: str
    ) -> None:
        association.acse.send_reject(*reason)
        # The answer leaves with this; the ledger may be busy, above all when many are turned away.
        association.kill()
        self._record_rejection(sender, text)

    def _record_rejection(self, sender: Sender, reason: str) -> None:
        log.warning(
            "association refused",
            calling_ae=sender.calling_ae,
            called_ae=sender.called_ae,
            peer_address=sender.address,
            reason=reason,
        )
        self._put_on_record(self._refusals.add(sender, reason, time.monotonic()))

    def _put_on_record(self, refusals: Iterable[Refusal]) -> None:
        try:
            for one in refusals:
                sender = one.sender
                self._receiving.refuse_association(
                    sender.calling_ae, sender.called_ae, sender.address, one.reason, one.count
                )
        except Retry as error:
            log.error("refusal is not on record", reason=str(error))

    def _association_id(self, guest: _Guest) -> int:
        """The ledger's id of an association, which goes on record with its first instance: one
        that only verifies leaves no row, however often a monitor asks."""
        # Only the association's own thread comes here for it.
        if guest.association_id is None:
            sender = guest.sender
            with self._opening, self._gone_if_unknown():
                guest.association_id = self._receiving.open_association(
                    self._process, sender.calling_ae, sender.called_ae, sender.address
                )
        return guest.association_id

    @contextmanager
    def _gone_if_unknown(self) -> Iterator[None]:
        """When the ledger does not answer, or fails, nobody knows whether it has done it."""
        try:
            yield
        except Exception:
            self._has_gone.set()
            raise

    def close_gone(self) -> int:
        """Close on record what ended, or never began, while the ledger did not answer; how many.

        Raises:
            Retry: When it still does not.
        """
        if not self._has_gone.is_set():
            return 0
        self._has_gone.clear()
        with self._opening, self._gone_if_unknown():
            known = [guest.association_id for guest in list(self._guests.values())]
            here = frozenset(number for number in known if number is not None)
            return self._receiving.close_orphans(self._process, here)

    def _close(self, association: Association, ending: Ending) -> None:
        guest = self._guests.get(association)
        if guest is None or guest.association_id is None:
            return
        known, guest.association_id = guest.association_id, None
        try:
            with self._gone_if_unknown():
                self._receiving.close_association(known, ending)
        except Exception as error:
            # Until `close_gone`; completion counts it as gone after `completion.abandoned_s`.
            reason = describe(error)
            log.error("association stays open on record", association=known, reason=reason)
        log.info("association closed", association=known, ending=str(ending))


def _sender_of(association: Association) -> Sender:
    request = cast(A_ASSOCIATE, association.requestor.primitive)
    return Sender(
        calling_ae=printable(str(request.calling_ae_title), 16),
        called_ae=printable(str(request.called_ae_title), 16),
        address=_plain_address(str(association.requestor.address)),
    )


def _is_at(address: str, allowed: IPv4Network | IPv6Network | str) -> bool:
    """Whether a numeric address is the allowed one or in the allowed network."""
    if isinstance(allowed, str):
        return True
    return ipaddress.ip_address(address) in allowed


def _plain_address(address: str) -> str:
    """An IPv4 peer of an IPv6 socket is written as the settings write it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return printable(address, 64)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def status_of(response: Response) -> StoreStatus:
    """What intake decided, as it is sent."""
    return StoreStatus(response.answer.value.code, response.comment)


def keep_libraries_quiet() -> None:
    """Nothing of a data set may reach a log through pynetdicom or pydicom.

    These switches are theirs and global, so every process of ours that receives sets them.
    """
    settings = pynetdicom._config
    settings.LOG_HANDLER_LEVEL = "none"
    settings.LOG_REQUEST_IDENTIFIERS = False
    settings.LOG_RESPONSE_IDENTIFIERS = False
    settings.UNRESTRICTED_STORAGE_SERVICE = False
    # Validation quotes the offending value in a warning.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
