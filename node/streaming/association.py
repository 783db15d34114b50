"""An acceptor with one thread, and the server that makes such acceptors."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, Final, NamedTuple, Protocol, cast

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContextTuple
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from node.streaming.commands import LONGEST_RESPONSE, StoreRequest, read_store_request, success
from node.streaming.transport import StreamSocket
from node.streaming.upper_layer import StreamingProvider

LOGGER = logging.getLogger(__name__)


class StoreStatus(NamedTuple):
    """The answer to a C-STORE request: Status (0000,0900), Error Comment (0000,0902) if any."""

    code: int
    comment: str = ""

    def as_data_set(self) -> Dataset:
        """As pynetdicom takes it."""
        ds = Dataset()
        ds.Status = self.code
        if self.comment:
            ds.ErrorComment = self.comment
        return ds


class DataSetSink(Protocol):
    """Where the data set of one C-STORE request goes while it arrives.

    No method may raise: a sink that fails takes the rest in silence, and says so in its answer.
    """

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes, as encoded by the peer; the view is only good during the call."""

    def complete(self) -> StoreStatus:
        """Keep what came, which is all of it, and answer."""

    def close(self) -> None:
        """Drop what was not kept. Called once, in the end."""


OpenSink = Callable[[Association, StoreRequest, PresentationContextTuple], DataSetSink]
"""Given the association, a C-STORE request and its accepted context, before any of its data set is
passed on. It must not raise."""


OnEnd = Callable[[Association], None]
"""Told by the thread of an association that it is over, and so is its connection."""


@dataclass
class Storing:
    """A C-STORE request that pynetdicom does not hear of.

    Args:
        context: It came in.
        request: It said.
        sink: Takes its data set.
        is_complete: All of that has arrived.
    """

    context: PresentationContextTuple
    request: StoreRequest
    sink: DataSetSink
    is_complete: bool = False


class StreamedDataSet(BytesIO):
    """What pynetdicom carries as Data Set of a request whose bytes went to `sink`; holds none.

    Args:
        sink: None for a request in a context that was not accepted; pynetdicom aborts for that.
    """

    def __init__(self, sink: DataSetSink | None) -> None:
        super().__init__()
        self.sink: Final = sink

    def write(self, fragment: Any) -> int:
        """Pass on the next bytes."""
        if self.sink is not None:
            self.sink.write(fragment)
        return len(fragment)

    def close(self) -> None:
        """Close the sink."""
        if self.sink is not None and not self.closed:
            self.sink.close()
        super().close()


class StreamingAssociation(Association):
    """An acceptor that receives, serves and answers in its own thread.

    Other threads may abort it and may send responses; they cannot send requests of their own, for
    which pynetdicom would pause the reactor.

    Args:
        ae: The application entity.
        open_sink: Asked once for each C-STORE request.
        on_end: Told when it is over.
    """

    def __init__(self, ae: AE, open_sink: OpenSink, on_end: OnEnd) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self._open_sink: Final = open_sink
        self._on_end: Final = on_end
        self._provider: Final = StreamingProvider(self)
        self.dul = self._provider
        # Again, now that they set the timers of this provider.
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout

    def begin_store(self, context_id: int, command: memoryview) -> Storing | None:
        """A C-STORE request as it is usual; None for any other, and for any other command."""
        context = self._storage_contexts.get(context_id)
        request = None if context is None else read_store_request(command)
        if context is None or request is None or request.sop_class_uid != context.abstract_syntax:
            return None
        return Storing(context, request, self._open_sink(self, request, context))

    def data_set_of(self, message: C_STORE_RQ) -> StreamedDataSet:
        """Where the data set of the message that is being received goes."""
        if not isinstance(message.data_set, StreamedDataSet):
            context = self._accepted_cx.get(cast(int, message.context_id))
            sink = (
                self._open_sink(self, request_of(message.command_set), context.as_tuple)
                if context
                else None
            )
            message.data_set = StreamedDataSet(sink)
        return message.data_set

    def run_reactor(self) -> None:
        """Everything from the A-ASSOCIATE request to the end."""
        try:
            super().run_reactor()
        finally:
            self._drop_what_nobody_takes()
            cast(StreamSocket, self.dul.socket).dispose()
            self._on_end(self)

    def _run_reactor(self) -> None:
        """Serve until the association ends; pynetdicom's loop with a wait in place of its sleep."""
        while not self._kill:
            self._provider.step()
            if (storing := self._provider.take_complete()) is not None:
                self._answer(storing)
                self._provider.restart_idle_timer()
            context_id, message = self.dimse.get_msg(block=False)
            if message is not None:
                if message.is_valid_request:
                    self._serve_request(message, cast(int, context_id))
                else:
                    # pynetdicom passes over it, and its sender would wait for an answer.
                    self.abort()
                _close_data_set(message)
                self._provider.restart_idle_timer()
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released, self.is_established = True, False
                evt.trigger(self, evt.EVT_RELEASED, {})
                self.kill()
            elif self.acse.is_aborted():
                self.dul.receive_pdu(wait=False)  # so that EVT_ACSE_RECV is triggered
                self.is_aborted, self.is_established = True, False
                evt.trigger(self, evt.EVT_ABORTED, {})
                self.kill()
            elif self.dul.idle_timer_expired():
                self.abort()
            elif not self.dul.is_alive():
                self.kill()
        # Another thread may have asked for the end; only this one can bring it about.
        self.dul.stop_dul()

    @cached_property
    def _storage_contexts(self) -> dict[int, PresentationContextTuple]:
        """The accepted contexts in which instances may be stored without pynetdicom's help, by
        their numbers; none when the peer may not take our answer in one PDU."""
        if 0 < self.dimse.maximum_pdu_size < LONGEST_RESPONSE:
            return {}
        return {
            number: context.as_tuple
            for number, context in self._accepted_cx.items()
            if uid_to_service_class(str(context.abstract_syntax)) is StorageServiceClass
        }

    def _answer(self, storing: Storing) -> None:
        try:
            status = storing.sink.complete()
        except Exception as error:
            # By its class alone: a message may quote what the peer sent.
            LOGGER.error("No answer to a C-STORE (%s), aborting", type(error).__name__)
            self.abort()
            return
        finally:
            storing.sink.close()
        if not self.is_established:
            return
        if status == StoreStatus(0x0000):
            self._provider.send(success(storing.context.context_id, storing.request))
            return
        response = C_STORE()
        response.MessageID = response.MessageIDBeingRespondedTo = storing.request.message_id
        response.AffectedSOPClassUID = storing.request.sop_class_uid
        response.AffectedSOPInstanceUID = storing.request.sop_instance_uid
        StorageServiceClass(self).validate_status(status.as_data_set(), response)
        self.dimse.send_msg(response, storing.context.context_id)

    def complete(self, event: evt.Event) -> Dataset:
        """Answer a request that pynetdicom has decoded: the handler of ``EVT_C_STORE``."""
        return completed(self._open_sink, event)

    def _drop_what_nobody_takes(self) -> None:
        self._provider.drop_store()
        if self.dimse.message is not None and self.dimse.message.data_set is not None:
            self.dimse.message.data_set.close()
        while (message := self.dimse.get_msg(block=False)[1]) is not None:
            _close_data_set(message)


def completed(open_sink: OpenSink, event: evt.Event) -> Dataset:
    """The answer to a request that pynetdicom has decoded, whose data set went to a sink."""
    request = cast(C_STORE, event.request)
    if isinstance(request.DataSet, StreamedDataSet):
        # Closed with the data set; there is one, since the context was accepted.
        return cast(DataSetSink, request.DataSet.sink).complete().as_data_set()
    # A request without a data set.
    sink = open_sink(event.assoc, request_of(request), event.context)
    try:
        return sink.complete().as_data_set()
    finally:
        sink.close()


def request_of(command: Dataset | C_STORE) -> StoreRequest:
    """What a command set, or pynetdicom's primitive of it, says."""
    return StoreRequest(
        int(getattr(command, "MessageID", None) or 0),
        str(getattr(command, "AffectedSOPClassUID", None) or ""),
        str(getattr(command, "AffectedSOPInstanceUID", None) or ""),
    )


def _close_data_set(message: object) -> None:
    if isinstance(message, C_STORE) and message.DataSet is not None:
        message.DataSet.close()


class _Handler(RequestHandler):
    """Makes the acceptor of one connection; as pynetdicom's, which knows its own class only."""

    server: StreamingServer

    def _create_association(self) -> StreamingAssociation:
        association = StreamingAssociation(self.ae, self.server.open_sink, self.server.on_end)
        association._server = self.server
        # By this name pynetdicom finds the acceptors of a server.
        association.name = f"AcceptorThread@{association.name}"
        association.set_socket(StreamSocket(association, cast(socket.socket, self.request)))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = deepcopy(self.server.contexts)
        association.requestor.address_info = self.remote
        for event, handlers in self.server._handlers.items():
            bound = [handlers] if isinstance(handlers, tuple) else handlers
            for handler, arguments in bound:
                association.bind(event, handler, arguments)
        association.bind(evt.EVT_C_STORE, association.complete)
        return association


class StreamingServer(ThreadedAssociationServer):
    """Accepts connections, on a socket of its own or on one that several processes share.

    Args:
        open_sink: For each C-STORE request.
        on_end: For each connection.
        port: A listening socket of whoever started this process; None to bind one.
        arguments: Of pynetdicom's server.
    """

    # A storm of senders waits its turn instead of being turned away by the system; pynetdicom: 5.
    request_queue_size = 128

    def __init__(
        self,
        *arguments: Any,
        open_sink: OpenSink,
        on_end: OnEnd,
        port: socket.socket | None = None,
        **options: Any,
    ) -> None:
        self.open_sink: Final = open_sink
        self.on_end: Final = on_end
        self._port: Final = port
        options["request_handler"] = _Handler
        super().__init__(*arguments, **options)

    @property
    def is_shared(self) -> bool:
        """Whether other processes accept from the same socket."""
        return self._port is not None

    def server_bind(self) -> None:
        """Bind, or take over the shared socket."""
        if self._port is None:
            super().server_bind()
        else:
            cast(socket.socket, self.socket).close()
            self.socket = self._port
            self.server_address = self._port.getsockname()
        # Whoever shares the socket may be faster: then there is nothing to accept, at once.
        cast(socket.socket, self.socket).setblocking(False)

    def server_close(self) -> None:
        """Stop listening; a shared socket goes on for the others."""
        if self._port is None:
            super().server_close()
        else:
            self._port.close()
