"""Opening an association with a peer, for every service that we use of one.

What goes wrong is split by what the caller does about it: `Unreachable` may pass, `Rejected` is
meant.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import pynetdicom._config as pynetdicom_config
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AssociationSocket

from config.settings import CalledPeer, TlsSettings
from node import tls
from node.clock import utc_now
from node.errors import Refuse, Retry
from node.ledger.entries import Destination
from node.streaming import OpenSink, StreamingDimse, completed

# pynetdicom would log the data sets of queries, which name patients.
pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False

# Bytes of a PDU. pynetdicom gathers one in memory, so we say how long it may be, and hold the peer
# to it. DCMTK's are 128 KiB at most.
LONGEST_PDU = 1024 * 1024

# PS3.8 9.3.4, result 1 is "rejected-permanent", 2 is "rejected-transient".
REJECTED_PERMANENT = 1


class Unreachable(Retry):
    """No association, or it broke: refused connection, silence, abort, a busy peer."""


class Rejected(Refuse):
    """The peer will not talk to us or not about this: unknown AE title, no presentation context."""


def address_of(peer: CalledPeer, settings: TlsSettings) -> Destination:
    """A peer of the settings as it is called now: plain or with TLS."""
    name = None if peer.tls_name == "any" else peer.tls_name or peer.host
    secure = settings if peer.tls else None
    return Destination(peer.name, peer.ae_title, peer.host, peer.port, secure, name)


def associate(
    contexts: Iterable[tuple[UID, UID]],
    destination: Destination,
    calling_ae: str,
    timeout_s: float,
    handlers: Sequence[Any] = (),
    roles: Sequence[Any] = (),
    open_sink: OpenSink | None = None,
) -> Association:
    """Open an association with a peer.

    Args:
        contexts: Abstract and transfer syntax of every presentation context to propose.
        destination: The peer.
        calling_ae: Our AE title.
        timeout_s: Longest wait for the connection, the association and each answer, and as long
            again for an end in order; then the connection is cut.
        handlers: pynetdicom's pairs of event and function, for what the peer asks of us.
        roles: Items of the SCP/SCU role selection (PS3.7 D.3.3.4).
        open_sink: Where the data set of each instance goes that the peer sends us, and who answers.

    Raises:
        Unreachable: When there is no association.
        Retry: When our certificate files cannot be used now.
        Rejected: When the peer rejects us for good or accepts no context at all.
    """
    ae = AE(ae_title=calling_ae)
    ae.acse_timeout = timeout_s
    ae.dimse_timeout = timeout_s
    ae.network_timeout = timeout_s
    ae.connection_timeout = timeout_s
    ae.maximum_pdu_size = LONGEST_PDU
    for abstract_syntax, transfer_syntax in contexts:
        ae.add_requested_context(abstract_syntax, transfer_syntax)
    if open_sink is not None:
        handlers = [*handlers, (evt.EVT_C_STORE, partial(completed, open_sink))]
    context = None if destination.tls is None else _tls_context(destination.tls, destination)
    try:
        assoc = ae.associate(
            destination.host,
            destination.port,
            ae_title=destination.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, _prepare, [open_sink]), *handlers],
            ext_neg=list(roles),
            # Without a name pynetdicom passes None on, which is what ssl wants then.
            tls_args=None if context is None else (context, cast(str, destination.tls_name)),
        )
    except OSError as error:
        # pynetdicom resolves the name before its own error handling begins.
        raise Unreachable(f"{named(destination)}: the host name does not resolve") from error
    if not assoc.is_established:
        hear_rejection(assoc)
        raise _why_not(assoc, destination, None if context is None else context.trouble)
    return assoc


def hear_rejection(assoc: Association) -> None:
    """Take up the answer of a peer that rejected us at once.

    pynetdicom looks whether it is connected when it has sent the request; a rejection that came
    before has closed the connection by then, and is left unread as if nobody listened.
    """
    while (heard := assoc.dul.receive_pdu()) is not None:
        if isinstance(heard, A_ASSOCIATE) and heard.result:
            assoc.acceptor.primitive, assoc.is_rejected = heard, True


def _tls_context(settings: TlsSettings, destination: Destination) -> tls.ClientContext:
    return tls.client_context(settings, destination.tls_name is not None, utc_now())


def named(destination: Destination) -> str:
    """The peer as a message names it."""
    return f"{destination.ae_title} at {destination.host}:{destination.port}"


class Checkpoint(threading.Event):
    """Where the reactor of an association pauses, so that whoever sends gets the answer itself.

    pynetdicom 3.0's reactor says that it is paused, waits at an event and says that it goes on. A
    sender that comes between the last two takes it for paused; then reactor and sender both read
    what the peer answers, and where the reactor is first the answer is lost and the sender waits
    in vain. Here the reactor goes on under the lock under which a sender stops it.
    """

    def __init__(self, assoc: Association):
        super().__init__()
        self._assoc, self._lock, self._is_open = assoc, threading.Condition(), True

    def set(self) -> None:
        """The reactor may go on."""
        with self._lock:
            self._is_open = True
            self._lock.notify_all()

    def clear(self) -> None:
        """The reactor is to pause."""
        with self._lock:
            self._is_open = False

    def is_set(self) -> bool:
        """Whether the reactor may go on."""
        return self._is_open

    def wait(self, timeout: float | None = None) -> bool:
        """As the reactor calls it: pause until it may go on, or the time is over."""
        with self._lock:
            if self._lock.wait_for(lambda: self._is_open, timeout):
                self._assoc._is_paused = False
            return self._is_open


def trouble_of(assoc: Association) -> str:
    """Why we ended an association, as what the peer did; empty when we did not."""
    return cast(StreamingDimse, assoc.dimse).trouble


def drop_unanswered(assoc: Association) -> None:
    """Close the sink of an instance that was cut short, once the association is over."""
    cast(StreamingDimse, assoc.dimse).drop()


def _prepare(event: evt.Event, open_sink: OpenSink | None) -> None:
    """Before the first message."""
    assoc = event.assoc
    transport = cast(AssociationSocket, assoc.dul.socket)
    connection = cast(socket.socket, transport.socket)
    assoc.dimse = StreamingDimse(assoc, open_sink)
    transport.recv = partial(_receive, assoc.dimse, transport)  # type: ignore[method-assign]
    # pynetdicom takes the limit away once it is connected. Here a peer that falls silent within a
    # PDU, or takes nothing more, ends the association; one that is never silent meets `_kill`.
    connection.settimeout(assoc.network_timeout)
    assoc._reactor_checkpoint = Checkpoint(assoc)
    assoc.kill = partial(_kill, assoc, connection)  # type: ignore[method-assign]
    # A C-STORE ends in a small fragment; without this it waits for the peer's delayed ACK.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _receive(dimse: StreamingDimse, transport: AssociationSocket, count: int) -> bytearray:
    """As pynetdicom's, but of a PDU that is too long nothing is read."""
    if count > LONGEST_PDU:
        dimse.trouble = f"sent a PDU of {count} bytes, where we take {LONGEST_PDU}"
        _cut(cast(socket.socket, transport.socket))
        raise ConnectionAbortedError(dimse.trouble)
    return AssociationSocket.recv(transport, count)


def _kill(assoc: Association, connection: socket.socket) -> None:
    """As pynetdicom's, but cut the connection when the peer takes too long over the end.

    pynetdicom waits until the thread that reads and sends has come to the end of what it does. A
    peer that sends a byte or takes one now and then keeps it there, whatever limit each has.
    """
    cut = threading.Timer(assoc.network_timeout or 0, _cut, [connection])
    cut.daemon = True
    cut.start()
    try:
        Association.kill(assoc)
    finally:
        cut.cancel()


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Not TLS's own, which is not for another thread than that which reads. Nor is it closed:
        # its number would go to another connection under the eyes of that thread.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _why_not(
    assoc: Association, destination: Destination, trouble: str | None
) -> Unreachable | Rejected:
    """Why an association was not established, and so whether trying again can help."""
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        reason = getattr(answer, "reason_str", "no reason given")
        message = f"{named(destination)} rejected the association: {reason}"
        is_meant = getattr(answer, "result", None) == REJECTED_PERMANENT
        return Rejected(message) if is_meant else Unreachable(message)
    if assoc.rejected_contexts:
        # pynetdicom aborts an association of which no context was accepted.
        refused = ", ".join(
            sorted({UID(str(cx.abstract_syntax)).name for cx in assoc.rejected_contexts})
        )
        return Rejected(f"{named(destination)} accepts no presentation context for {refused}")
    if trouble is not None:
        # A certificate that is wrong now may be renewed while we try again.
        return Unreachable(f"{named(destination)}: {trouble}")
    return Unreachable(f"{named(destination)} gave no association: nothing listens, or it aborted")
