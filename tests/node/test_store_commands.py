"""Our bytes of C-STORE command sets say what pynetdicom's say, or are left to it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from node.streaming.commands import LONGEST_RESPONSE, StoreRequest, read_store_request, success

# Mutated requests have values that pydicom warns of.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

UIDS = st.from_regex(r"(0|[1-9][0-9]{0,9})(\.(0|[1-9][0-9]{0,9})){0,5}", fullmatch=True).filter(
    lambda uid: len(uid) <= 64
)
NUMBERS = st.integers(0, 0xFFFF)
LONGEST = "1." + "2" * 62


def encoded(request: StoreRequest, priority: int = 0, **more: Any) -> bytes:
    """The command set as pynetdicom writes it."""
    primitive = C_STORE()
    primitive.MessageID = request.message_id
    primitive.AffectedSOPClassUID = request.sop_class_uid
    primitive.AffectedSOPInstanceUID = request.sop_instance_uid
    primitive.Priority, primitive.DataSet = priority, BytesIO(b"x")
    for keyword, value in more.items():
        setattr(primitive, keyword, value)
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    (value,) = next(message.encode_msg(1, 0)).presentation_data_value_list
    return bytes(value[1][1:])


def decoded(command: bytes) -> StoreRequest | None:
    """What pynetdicom makes of it: a request that has a data set and can be served, or None."""
    message, primitive = DIMSEMessage(), P_DATA()
    primitive.presentation_data_value_list.append((1, b"\x03" + command))
    try:
        if message.decode_msg(primitive) or not isinstance(message, C_STORE_RQ):
            return None
        found = message.message_to_primitive()
        found.DataSet = BytesIO(b"x")
        if not found.is_valid_request:
            return None
    except Exception:
        return None
    return StoreRequest(
        found.MessageID, str(found.AffectedSOPClassUID), str(found.AffectedSOPInstanceUID)
    )


@given(st.builds(StoreRequest, NUMBERS, UIDS, UIDS), st.integers(0, 2))
@example(StoreRequest(0xFFFF, LONGEST, LONGEST), 1)
def test_a_usual_request_is_read(request: StoreRequest, priority: int) -> None:
    command = encoded(request, priority)
    assert read_store_request(command) == decoded(command) == request


@given(st.from_regex(r"[A-Z][A-Z0-9_ ]{0,14}[A-Z0-9]", fullmatch=True), NUMBERS)
def test_a_request_within_a_c_move_is_read(originator: str, number: int) -> None:
    request = StoreRequest(7, CTImageStorage, "1.2.3")
    more = {
        "MoveOriginatorApplicationEntityTitle": originator,
        "MoveOriginatorMessageID": number,
    }
    assert read_store_request(encoded(request, **more)) == request


@given(st.data())
def test_what_is_read_means_the_same_to_pynetdicom(data: st.DataObject) -> None:
    """A request in which bytes were changed, left out or put in, mostly lengths and edges."""
    more: dict[str, Any] = data.draw(
        st.sampled_from([{}, {"MoveOriginatorApplicationEntityTitle": "PACS"}])
    )
    if more:
        more["MoveOriginatorMessageID"] = 3
    request = StoreRequest(data.draw(NUMBERS), data.draw(UIDS), data.draw(UIDS))
    command = bytearray(encoded(request, **more))
    for _ in range(data.draw(st.integers(1, 3))):
        at, byte = data.draw(st.integers(0, len(command) - 1)), data.draw(st.integers(0, 255))
        old = data.draw(st.integers(0, 1))
        command[at : at + old] = bytes([byte]) * data.draw(st.integers(0, 2))
        if data.draw(st.booleans()):
            command[8:12] = (len(command) - 12).to_bytes(4, "little")
    found = read_store_request(bytes(command))
    assert found is None or found == decoded(bytes(command))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (b"\x00\x00\x00\x08\x02\x00\x00\x00\x01\x01", b"\x00\x00\x00\x08\x02\x00\x00\x00\x01\x00"),
        (b"\x00\x00\x00\x01\x02\x00\x00\x00\x30\x00", b"\x00\x00\x00\x01\x02\x00\x00\x00\x01\x00"),
        (b"\x00\x00\x00\x00\x04\x00\x00\x00\x60", b"\x00\x00\x00\x00\x04\x00\x00\x00\x58"),
        (b"1.2.03", b"1.2.30"),
        (b"1.2.3 ", b"1.2.30"),
        (b"1.2..3", b"1.2.30"),
    ],
    ids=["no data set", "a C-ECHO", "group length", "leading zero", "a space", "two dots"],
)
def test_an_unusual_request_is_left_to_pynetdicom(wrong: bytes, right: bytes) -> None:
    usual = encoded(StoreRequest(1, CTImageStorage, "1.2.30"))
    assert usual.count(right) == 1
    assert read_store_request(usual) is not None
    assert read_store_request(usual.replace(right, wrong)) is None


def test_a_uid_that_is_too_long_is_left_to_pynetdicom() -> None:
    usual = encoded(StoreRequest(1, CTImageStorage, LONGEST))
    longer = usual.replace(LONGEST.encode(), b"1." + b"2" * 64)
    longer = longer.replace(b"\x00\x10\x40\x00", b"\x00\x10\x42\x00")
    longer = longer[:8] + (len(longer) - 12).to_bytes(4, "little") + longer[12:]
    assert read_store_request(longer) is None


@given(st.builds(StoreRequest, NUMBERS, UIDS, UIDS), st.integers(0, 127).map(lambda n: 2 * n + 1))
@example(StoreRequest(0xFFFF, LONGEST, LONGEST), 255)
def test_success_is_answered_in_the_bytes_of_pynetdicom(
    request: StoreRequest, context_id: int
) -> None:
    response = C_STORE()
    response.MessageID = response.MessageIDBeingRespondedTo = request.message_id
    response.AffectedSOPClassUID = request.sop_class_uid
    response.AffectedSOPInstanceUID = request.sop_instance_uid
    response.Status = 0x0000
    message = C_STORE_RSP()
    message.primitive_to_message(response)
    (primitive,) = message.encode_msg(context_id, 0)
    found = success(context_id, request)
    assert found == P_DATA_TF(primitive).encode()
    assert len(found) <= LONGEST_RESPONSE
