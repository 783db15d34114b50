"""The two command sets that pass by the hundreds a second: a C-STORE request as common senders
write it, and the response that tells success (PS3.7 6.3.1, 9.3.1).

pynetdicom makes a data set of each, element by element, which took a third of what an instance
costs. Here both are bytes. A request that is unusual in any way is not read, and any other answer
is not written here: both are left to pynetdicom.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

_UID: Final = rb"((?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*)\0?"
# Implicit VR little endian, in the order of their tags; the groups are lengths and values.
_STORE_REQUEST: Final = re.compile(
    rb"\x00\x00\x00\x00\x04\x00\x00\x00(....)"  # Command Group Length
    rb"\x00\x00\x02\x00(..)\x00\x00"
    + _UID  # Affected SOP Class UID
    + rb"\x00\x00\x00\x01\x02\x00\x00\x00\x01\x00"  # Command Field: C-STORE-RQ
    rb"\x00\x00\x10\x01\x02\x00\x00\x00(..)"  # Message ID
    rb"\x00\x00\x00\x07\x02\x00\x00\x00[\x00-\x02]\x00"  # Priority
    rb"\x00\x00\x00\x08\x02\x00\x00\x00(?!\x01\x01).."  # Command Data Set Type: there is one
    rb"\x00\x00\x00\x10(..)\x00\x00"
    + _UID  # Affected SOP Instance UID
    +
    # What a C-MOVE adds: Move Originator Application Entity Title and Message ID.
    rb"(?:\x00\x00\x30\x10(.)\x00\x00\x00([ -\[\]-~]{0,16})"
    rb"\x00\x00\x31\x10\x02\x00\x00\x00..)?",
    re.DOTALL,
)
_GROUP_LENGTH_BYTES: Final = 12
_LONGEST_UID: Final = 64
_PDU: Final = struct.Struct(">BxLLBB")
_P_DATA_TF, _LAST_OF_COMMAND = 0x04, 0x03

LONGEST_RESPONSE: Final = 256
"""Bytes of a response's PDU, at most: two UIDs of 64 bytes and 88 bytes beside them."""


class StoreRequest(NamedTuple):
    """What a C-STORE request says; a UID that is absent is an empty text."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


def read_store_request(command: bytes | memoryview) -> StoreRequest | None:
    """The request in an encoded command set, or None when it is not of the usual form.

    A request without a data set is not usual.
    """
    found = _STORE_REQUEST.fullmatch(command)
    if found is None:
        return None
    length, class_length, sop_class, message_id, uid_length, uid, ae_length, ae = found.groups()
    is_plain = (
        int.from_bytes(length, "little") == len(command) - _GROUP_LENGTH_BYTES
        and _is_length_of(class_length, sop_class)
        and _is_length_of(uid_length, uid)
        and (ae is None or (ae_length[0] == len(ae) and len(ae) % 2 == 0))
        and len(sop_class) <= _LONGEST_UID >= len(uid)
    )
    if not is_plain:
        return None
    return StoreRequest(int.from_bytes(message_id, "little"), sop_class.decode(), uid.decode())


def success(context_id: int, request: StoreRequest) -> bytes:
    """The P-DATA-TF PDU that answers `request` with status 0x0000."""
    body = (
        _uid(b"\x00\x00\x02\x00", request.sop_class_uid)
        # Command Field: C-STORE-RSP; Message ID Being Responded To.
        + b"\x00\x00\x00\x01\x02\x00\x00\x00\x01\x80\x00\x00\x20\x01\x02\x00\x00\x00"
        + request.message_id.to_bytes(2, "little")
        # Command Data Set Type: none; Status: success.
        + b"\x00\x00\x00\x08\x02\x00\x00\x00\x01\x01\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00"
        + _uid(b"\x00\x00\x00\x10", request.sop_instance_uid)
    )
    value_length = 2 + _GROUP_LENGTH_BYTES + len(body)
    head = _PDU.pack(_P_DATA_TF, 4 + value_length, value_length, context_id, _LAST_OF_COMMAND)
    return head + b"\x00\x00\x00\x00\x04\x00\x00\x00" + struct.pack("<L", len(body)) + body


def _is_length_of(told: bytes, uid: bytes) -> bool:
    """Whether a UID has this length, with the zero that makes it even."""
    return int.from_bytes(told, "little") == len(uid) + len(uid) % 2


def _uid(tag: bytes, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += bytes(len(value) % 2)
    return tag + struct.pack("<L", len(value)) + value
