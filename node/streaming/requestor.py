"""What a peer sends on an association that we asked for: data sets stream, all else has a limit.

pynetdicom's two threads stay. Only where it gathers a message in memory, fragment by fragment, the
data set of a C-STORE request (a sub-operation of C-GET) goes to a sink instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from node.streaming.association import OpenSink, StreamedDataSet, request_of
from node.streaming.upper_layer import LONGEST_KEPT

if TYPE_CHECKING:
    from pynetdicom.association import Association


class StreamingDimse(DIMSEServiceProvider):
    """Receives the messages of one association, each value as it arrives.

    Args:
        assoc: Requested by us.
        open_sink: Asked once for each C-STORE request; None where none is expected, and its data
            set is gathered like any other.
    """

    def __init__(self, assoc: Association, open_sink: OpenSink | None) -> None:
        super().__init__(assoc)
        self._open_sink: Final = open_sink
        self._data_set: StreamedDataSet | None = None
        self._kept = 0
        self.trouble = ""
        """Why we ended the association; empty when we did not."""

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take what one PDU holds."""
        for value in primitive.presentation_data_value_list:
            if self.trouble:
                return
            one = P_DATA()
            # One by one: where a command set ends, a sink is opened before its data set begins.
            one.presentation_data_value_list.append(value)
            self._take(one, len(value[1]))

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send; with the answer to a request its data set is done."""
        if isinstance(primitive, C_STORE):
            self.drop()
        super().send_msg(primitive, context_id)

    def drop(self) -> None:
        """Close the sink of what was not answered, when no more can come of it."""
        data_set, self._data_set = self._data_set, None
        if data_set is not None:
            data_set.close()

    def _take(self, one: P_DATA, length: int) -> None:
        is_streaming = self.message is not None and self.message.data_set is self._data_set
        if not is_streaming:
            self._kept += length
            if self._kept > LONGEST_KEPT:
                self._give_up(f"sent a message of more than {LONGEST_KEPT} bytes")
                return
        super().receive_primitive(one)
        if self.message is None:
            self._kept = 0
        elif isinstance(self.message, C_STORE_RQ) and not is_streaming:
            self._begin(self.message)

    def _begin(self, message: C_STORE_RQ) -> None:
        """A request whose data set comes next."""
        if self._open_sink is None:
            return
        if self._data_set is not None:
            # PS3.7 D.3.3.3: we did not offer to take several at a time.
            self._give_up("sent an instance before the last was answered")
            return
        context = self.assoc._accepted_cx.get(cast(int, message.context_id))
        request = request_of(message.command_set)
        sink = None if context is None else self._open_sink(self.assoc, request, context.as_tuple)
        message.data_set = self._data_set = StreamedDataSet(sink)

    def _give_up(self, reason: str) -> None:
        """Take nothing more. Whoever waits for an answer aborts, as when its time is over."""
        self.trouble = reason
        self.msg_queue.put((None, None))
