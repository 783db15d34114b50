"""The body of one P-DATA-TF PDU, taken apart as it arrives (PS3.8 9.3.5, annex E.2).

A PDU holds presentation data values: four bytes of length, one of context, one of message control,
then a fragment of a command set or of a data set. Bytes may arrive cut at any place; a fragment is
passed on in as many pieces as it arrived in, without being copied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_HEAD: Final = struct.Struct(">IBB")
# The length of a value counts context and message control, not itself.
_COUNTED: Final = 2
_COMMAND: Final = 0b01
_LAST: Final = 0b10


class Malformed(ValueError):
    """What arrived is no PDU, or not one that may come now."""


class Piece(NamedTuple):
    """Some bytes of a fragment.

    Args:
        context_id: Presentation context.
        is_command: Of a command set; of a data set otherwise.
        is_last: With this piece the command set or data set ends.
        content: The bytes, in the buffer they arrived in; only good until the next piece.
    """

    context_id: int
    is_command: bool
    is_last: bool
    content: memoryview


class Fragments:
    """One PDU's body.

    Args:
        length: PDU length (PS3.8 table 9-22), in bytes.
    """

    def __init__(self, length: int) -> None:
        self._missing = length
        self._head = bytearray()
        self._context_id = self._control = self._open = 0

    @property
    def missing(self) -> int:
        """How many bytes of the PDU have not been fed yet."""
        return self._missing

    def feed(self, arrived: memoryview) -> Iterator[Piece]:
        """The pieces in the next bytes, which must not be more than are missing.

        Raises:
            Malformed: When a value's length does not fit its PDU.
        """
        self._missing -= len(arrived)
        while arrived:
            if not self._open:
                arrived = self._read_head(arrived)
                if len(self._head) < _HEAD.size:
                    break
                if not self._begin(len(arrived)):
                    yield self._piece(arrived[:0])
                    continue
            content, arrived = arrived[: self._open], arrived[self._open :]
            if content:
                self._open -= len(content)
                yield self._piece(content)
        if self._missing == 0 and (self._open or self._head):
            raise Malformed("a PDU ends within a presentation data value")

    def _read_head(self, arrived: memoryview) -> memoryview:
        needed = _HEAD.size - len(self._head)
        self._head += arrived[:needed]
        return arrived[needed:]

    def _begin(self, at_hand: int) -> int:
        """Begin the fragment whose head is complete; returns its length."""
        length, self._context_id, self._control = _HEAD.unpack(self._head)
        self._head.clear()
        self._open = length - _COUNTED
        if not 0 <= self._open <= at_hand + self._missing:
            raise Malformed("a presentation data value does not fit its PDU")
        return self._open

    def _piece(self, content: memoryview) -> Piece:
        is_last = not self._open and bool(self._control & _LAST)
        return Piece(self._context_id, bool(self._control & _COMMAND), is_last, content)
