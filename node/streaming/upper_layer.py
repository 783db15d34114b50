"""The DUL service provider without a thread of its own (PS3.8 9.2): its association's drives it."""

from __future__ import annotations

import contextlib
import logging
import math
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast

from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT, P_DATA

from node.streaming.fragments import Fragments, Malformed, Piece
from node.streaming.transport import Closed, StreamSocket

if TYPE_CHECKING:
    from pynetdicom.pdu_primitives import _PDUPrimitiveType

    from node.streaming.association import Storing, StreamingAssociation

LOGGER = logging.getLogger(__name__)

TURN_S: Final = 0.25
"""How long a turn waits at most: this late a timer's end may be noticed."""

LONGEST_KEPT: Final = 4 * 1024 * 1024
"""Bytes. All but data sets of C-STORE requests is gathered in memory: negotiation and commands are
a few hundred bytes, a storage commitment of 10,000 instances is 2 MB."""

SLOWEST_BYTES_PER_S: Final = 10_000
"""What a peer must send of a message on average, once it has had `network_timeout` to begin with: a
slice then takes a minute. A peer that trickles bytes is never silent, and would keep its place for
ever."""

_HEADER: Final = struct.Struct(">BxL")
_P_DATA_TF: Final = 0x04
# A-ABORT by the service provider, reason not specified.
_ABORT: Final = bytes((0x07, 0, 0, 0, 0, 4, 0, 0, 2, 0))
_DATA_TRANSFER: Final = "Sta6"
_CLOSING: Final = "Sta13"


class _Interrupted(Exception):
    """Reading was given up within a PDU; what follows on the connection makes no sense."""


class StreamingProvider(DULServiceProvider):
    """Reads PDUs, moves the state machine, and passes data sets on while they arrive.

    Args:
        association: The acceptor; its thread alone calls `step`.
    """

    def __init__(self, association: StreamingAssociation) -> None:
        super().__init__(association)
        self._association: Final = association
        self._is_running = False
        # Reading stopped within a PDU, so nothing more is read but to be dropped.
        self._is_out_of_step = False
        self._kept = 0
        self._storing: Storing | None = None
        self._is_too_slow = False
        self._message_began, self._message_bytes = 0.0, 0

    def start(self) -> None:
        """Begin to serve; there is no thread to start."""
        self._idle_timer.start()
        self._is_running = True
        self._association._dul_ready.set()

    def is_alive(self) -> bool:
        """Whether there is an association to drive."""
        return self._is_running

    def step(self, wait_s: float = TURN_S) -> None:
        """Send one primitive or receive one PDU, and let the state machine act on it."""
        try:
            if not self._kill_thread:
                self._take_turn(wait_s)
        except Exception as error:
            # By its class alone: a message may quote what the peer sent.
            LOGGER.error("Upper layer failed (%s), aborting association", type(error).__name__)
            self._break_off()
        if self._kill_thread:
            self._is_running = False

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:
        """As pynetdicom's, but what is waited for comes by our own doing."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while wait and self.is_alive() and self.to_user_queue.empty():
            if deadline is not None and time.monotonic() > deadline:
                break
            self.step()
        return super().receive_pdu(wait=False)

    def send_pdu(self, primitive: _PDUPrimitiveType) -> None:
        """As pynetdicom's; the association's thread sends it in its next turn."""
        super().send_pdu(primitive)
        if threading.current_thread() is not self._association:
            self._stream.ring()

    def stop_dul(self) -> bool:
        """Bring the association to its end (Sta1); whether that is done.

        Another thread only asks for it.
        """
        if threading.current_thread() is not self._association:
            self._stream.ring()
            return False
        deadline = time.monotonic() + (self.network_timeout or 0)
        while self.is_alive():
            if time.monotonic() > deadline:
                self._break_off()
            self.step()
        return True

    def take_complete(self) -> Storing | None:
        """The C-STORE request whose data set is complete, to be answered; each once."""
        if self._storing is None or not self._storing.is_complete:
            return None
        storing, self._storing = self._storing, None
        return storing

    def drop_store(self) -> None:
        """Close the sink of a request that will not be completed."""
        if self._storing is not None:
            self._storing.sink.close()

    def send(self, pdu: bytes) -> None:
        """Send a P-DATA-TF PDU, from the association's thread; nothing else waits to be sent."""
        self._stream.send(pdu)

    def restart_idle_timer(self) -> None:
        """The peer was not silent: it was waiting for us."""
        self._idle_timer.restart()

    @property
    def _stream(self) -> StreamSocket:
        return cast(StreamSocket, self.socket)

    def _take_turn(self, wait_s: float) -> None:
        if self.event_queue.empty():
            if self.artim_timer.expired:
                self.event_queue.put("Evt18")
            elif not self._process_recv_primitive():
                is_readable = self._stream.wait(wait_s)
                if self.state_machine.current_state == _CLOSING:
                    self._is_transport_event()
                elif is_readable:
                    self._read_pdu_data()
        while not self.event_queue.empty() and not self._kill_thread:
            self.state_machine.do_action(self.event_queue.get(block=False))

    def _read_pdu_data(self) -> None:
        """Read one PDU; what it means to the state machine is put on the event queue."""
        if self._is_out_of_step:
            self._drop()
            return
        try:
            self._read_pdu()
            # The rest of a data set that has arrived: there is nothing to look at in between.
            while self._is_storing and self._stream.buffered and not self.to_provider_queue.queue:
                self._read_pdu()
        except (OSError, Closed):
            self.event_queue.put("Evt17")
        except _Interrupted:
            self._is_out_of_step = True
        except Exception as error:
            LOGGER.error("Invalid PDU received (%s)", type(error).__name__)
            self._is_out_of_step = True
            if self._kill_thread:
                # The state machine gives up without a word when DIMSE cannot decode a command set.
                self._break_off()
            else:
                self.event_queue.put("Evt19")

    def idle_timer_expired(self) -> bool:
        """Whether the peer was silent for too long, or as good as silent."""
        return self._is_too_slow or bool(super().idle_timer_expired())

    @property
    def _is_storing(self) -> bool:
        return self._storing is not None and not self._storing.is_complete

    def _read_pdu(self) -> None:
        if self._storing is None and self._association.dimse.message is None:
            self._message_began, self._message_bytes = time.monotonic(), 0
        while self._stream.buffered < _HEADER.size:
            self._fill()
        header = bytes(self._stream.take(_HEADER.size))
        kind, length = _HEADER.unpack(header)
        if kind == _P_DATA_TF and self.state_machine.current_state == _DATA_TRANSFER:
            self._pass_on(length)
            return
        if not 0x01 <= kind <= 0x07 or length > LONGEST_KEPT:
            raise Malformed("no PDU, or one that is too long")
        received = bytearray(header)
        while missing := _HEADER.size + length - len(received):
            if not self._stream.buffered:
                self._fill()
            received += self._stream.take(missing)
        pdu, event = self._decode_pdu(received)
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)

    def _pass_on(self, length: int) -> None:
        """Pass on what a P-DATA-TF PDU holds, while it arrives."""
        # As we said in the negotiation; 0 is no limit. The head of the PDU is not counted.
        if 0 < cast(int, self._association.acceptor.maximum_length) < length:
            raise Malformed("a PDU that is longer than we take")
        fragments = Fragments(length)
        while fragments.missing:
            if not self._stream.buffered:
                self._fill()
            for piece in fragments.feed(self._stream.take(fragments.missing)):
                self._indicate(piece)

    def _indicate(self, piece: Piece) -> None:
        """P-DATA indication: a data set that is stored goes to its sink, all else to DIMSE.

        PS3.7 6.3.1: a message is a whole command set, then its data set, in one context.
        """
        if self._storing is not None:
            self._store(self._storing, piece)
            return
        message = self._association.dimse.message
        has_command = message is not None and type(message) is not DIMSEMessage
        if piece.is_command is has_command:
            raise Malformed("a command set within a message, or a data set without one")
        if message is None and not self._association.dimse.msg_queue.empty():
            raise Malformed("another message in the PDU of one that is not answered")
        if message is None and piece.is_last:
            self._storing = self._association.begin_store(piece.context_id, piece.content)
            if self._storing is not None:
                return
        if isinstance(message, C_STORE_RQ):
            if piece.context_id != message.context_id:
                raise Malformed("a data set in another context than its command set")
            self._association.data_set_of(message).write(piece.content)
            if not piece.is_last:
                return
            # Its end is all that DIMSE sees of this data set.
            piece = piece._replace(content=piece.content[:0])
        self._keep(piece)

    def _store(self, storing: Storing, piece: Piece) -> None:
        """A piece of the data set of a request that pynetdicom does not hear of."""
        if storing.is_complete:
            raise Malformed("another message in the PDU of one that is not answered")
        if piece.is_command:
            raise Malformed("a command set within a message")
        if piece.context_id != storing.context.context_id:
            raise Malformed("a data set in another context than its command set")
        storing.sink.write(piece.content)
        storing.is_complete = piece.is_last

    def _keep(self, piece: Piece) -> None:
        self._kept += len(piece.content)
        if self._kept > LONGEST_KEPT:
            raise Malformed("a message that is too long to be kept in memory")
        control = bytes([piece.is_command | piece.is_last << 1])
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((piece.context_id, control + piece.content))
        self._recv_pdu.put(P_DATA_TF(primitive))
        self.state_machine.do_action("Evt10")
        if not self.event_queue.empty():  # DIMSE could not make sense of it: Evt19
            raise _Interrupted
        if self._association.dimse.message is None:
            self._kept = 0

    def _fill(self) -> None:
        """Wait for more of the present PDU.

        Raises:
            _Interrupted: When the time for it is over, or the association is to end.
            Closed: When the peer is gone.
        """
        while not self._stream.fill(TURN_S):
            is_aborting = any(
                isinstance(one, A_ABORT | A_P_ABORT) for one in list(self.to_provider_queue.queue)
            )
            if is_aborting or self.idle_timer_expired() or self.artim_timer.expired:
                raise _Interrupted
        self._idle_timer.restart()
        self._message_bytes += self._stream.buffered
        spare_s = time.monotonic() - self._message_began - (self.network_timeout or math.inf)
        if self._message_bytes < spare_s * SLOWEST_BYTES_PER_S:
            self._is_too_slow = True
            raise _Interrupted

    def _drop(self) -> None:
        """Drop what a peer still sends until it closes: it may be about to read our A-ABORT."""
        self._stream.take(self._stream.buffered)
        try:
            self._stream.fill(0)
        except OSError:
            self.event_queue.put("Evt17")

    def _break_off(self) -> None:
        """End the association without the state machine, which is of no use any more."""
        with contextlib.suppress(OSError):
            # What the peer sent made no sense, but it shall hear so (PS3.8 9.3.8).
            self._stream.send(_ABORT)
        self._stream._shutdown_socket()
        self.to_user_queue.put(A_P_ABORT())
        self._kill_thread = True
