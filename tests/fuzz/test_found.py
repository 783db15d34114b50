"""What fuzzing found, each as the smallest input that showed it; docs/fuzzing.md tells more."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO

import psutil
import pytest
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.header import Unreadable, read_header
from node.structure import ITEM_WEIGHT, MAXIMUM_ELEMENTS, TooManyElements, count_elements
from node.summary import Pixels
from tests.fuzz import messages
from tests.fuzz.data_sets import UNDEFINED, _tail, _uids, element
from tests.fuzz.pdus import RELEASE_RQ, Connection, associate, data
from tests.fuzz.talk import talk
from tests.fuzz.target import ReceiverProcess, scratch
from tests.node.samples import ct, encode, enhanced_ct

ITEM, OPEN_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
ITEM_END, SEQUENCE_END = b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
MANY = 1_000_000


def test_an_empty_last_element_of_an_unknown_vr() -> None:
    """pydicom cannot convert it; the instance was refused as a fault of ours (0x0110)."""
    content = _uids() + _tail() + element(0x21, 1, b"ZZ", b"")
    header = read_header(BytesIO(content), ExplicitVRLittleEndian)
    assert header.pixels is Pixels.ABSENT


def sequence(
    content: bytes, is_open: bool = True, tag: tuple[int, int] = (0x5200, 0x9230)
) -> bytes:
    said = UNDEFINED if is_open else None
    return element(*tag, b"SQ", content, said) + (SEQUENCE_END if is_open else b"")


def tiny_elements() -> bytes:
    head = struct.Struct("<HH2sH")
    return b"".join(head.pack(0x21 + 2 * (n >> 16), n & 0xFFFF, b"CS", 0) for n in range(MANY))


@pytest.mark.parametrize(
    "make",
    [
        lambda: sequence(ITEM * MANY),
        lambda: sequence(ITEM * MANY, is_open=False),
        lambda: sequence(ITEM * MANY, tag=(0x21, 0x1001)),
        lambda: sequence(OPEN_ITEM + tiny_elements() + ITEM_END),
        tiny_elements,
        lambda: (element(0x40, 0x275, b"SQ", OPEN_ITEM, UNDEFINED)) * 200_000,
        lambda: element(0x21, 0x1001, b"UN", ITEM * MANY, UNDEFINED) + SEQUENCE_END,
    ],
    ids=["open", "closed", "private", "in an item", "at the top", "deep", "unknown"],
)
def test_eight_megabytes_do_not_become_hundreds(make: Callable[[], bytes]) -> None:
    """A million items took 660 MB and 13 seconds, within which nobody else got an answer."""
    content = _uids() + _tail() + make()
    before, began = psutil.Process().memory_info().rss, time.process_time()
    with pytest.raises(Unreadable, match="more than 300000 elements"):
        read_header(BytesIO(content), ExplicitVRLittleEndian)
    assert psutil.Process().memory_info().rss - before < 50 << 20
    assert time.process_time() - began < 3


def test_a_bomb_is_not_unpacked() -> None:
    """A megabyte became two gigabytes."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    head = _uids() + _tail() + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 1 << 30)
    pieces = [packer.compress(head), *(packer.compress(bytes(1 << 20)) for _ in range(100))]
    bomb = b"".join([*pieces, packer.flush()])
    with pytest.raises(Unreadable, match="inflates more than a hundredfold"):
        read_header(BytesIO(bomb), DeflatedExplicitVRLittleEndian)


def test_a_large_deflated_data_set_is_read_without_being_kept() -> None:
    ds = enhanced_ct(40)
    ds.Rows = ds.Columns = 512
    ds.PixelData = bytes(range(256)) * (2 * 512 * 512 * 40 // 256)
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(encode(ds)) + packer.flush()
    header = read_header(BytesIO(packed), DeflatedExplicitVRLittleEndian)
    assert header.pixels is Pixels.PRESENT
    cut = read_header(BytesIO(packed[: len(packed) // 2]), DeflatedExplicitVRLittleEndian)
    assert cut.pixels is Pixels.TRUNCATED


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_elements_are_counted_as_the_parser_finds_them(syntax: UID) -> None:
    ds = enhanced_ct(5)
    del ds.PixelData
    expected = sum(1 for _ in ds.iterall())
    items = sum(len(one.value) for one in ds.iterall() if one.VR == "SQ")
    stream = BytesIO(b"before" + encode(ds, syntax))
    stream.seek(6)
    counted = count_elements(stream, syntax.is_implicit_VR, syntax.is_little_endian)
    assert counted == expected + ITEM_WEIGHT * items
    assert stream.tell() == 6


def test_counting_stops_at_the_limit_and_at_the_pixels() -> None:
    pixels = element(0x7FE0, 0x10, b"OB", ITEM * MAXIMUM_ELEMENTS, UNDEFINED)
    assert count_elements(BytesIO(_uids() + pixels), False, True) == 3
    with pytest.raises(TooManyElements):
        count_elements(BytesIO(sequence(ITEM * MAXIMUM_ELEMENTS)), False, True)
    assert count_elements(BytesIO(encode(ct(1))), False, True) < 60


@pytest.fixture(scope="module")
def receiver() -> Iterator[ReceiverProcess]:
    with scratch() as folder:
        receiver = ReceiverProcess(folder)
        yield receiver
        receiver.assert_well()
        receiver.close()


@pytest.mark.parametrize(
    "command",
    [
        {0x0110: b""},
        {0x0100: messages.number_of(0x4242)},
        {0x0100: b""},
        {0x0800: b"\x01"},
    ],
    ids=["no message id", "unknown command", "no command", "half a number"],
)
def test_a_command_that_makes_no_sense_is_answered_by_an_abort(
    receiver: ReceiverProcess, command: dict[int, bytes]
) -> None:
    """The thread died of it, and the peer waited for its own timeout."""
    request = messages.store_request() | command
    given = Connection(
        "found", (associate(), data(1, 3, messages.command(request)), data(1, 2, b"\0\0")), True
    )
    assert talk(receiver.port, given) == "aborted"


def test_a_message_after_such_a_one_is_taken(receiver: ReceiverProcess) -> None:
    ds = ct(1)
    request = messages.store_request(str(ds.SOPInstanceUID).encode())
    parts = (associate(), data(1, 3, messages.command(request)), data(1, 2, encode(ds)), RELEASE_RQ)
    assert talk(receiver.port, Connection("found", parts, True)).startswith("0x0000")


STUDY = element(0x20, 0xD, b"UI", b"1.2")


@pytest.mark.parametrize(
    ("ask", "content", "status"),
    [
        (messages.report, element(8, 0x1195, b"UI", b"1.2") + bytes(7), "0x0115"),
        (messages.report, element(8, 0x1195, b"FD", b"1.2"), "0x0115"),
        (messages.notification, element(0x20, 0xD, b"FD", b"1.2"), "0x0106"),
        (messages.notification, element(0x20, 0xD, b"ZZ", b"1.2"), "0x0106"),
        (messages.notification, STUDY, "0x0120"),
        (messages.notification, STUDY + element(8, 0x1115, b"US", b""), "0x0120"),
    ],
)
def test_a_notice_that_makes_no_sense_is_no_accident_of_ours(
    receiver: ReceiverProcess, ask: Callable[[], dict[int, bytes]], content: bytes, status: str
) -> None:
    """It was answered 0x0110, as if it might be told again."""
    assert talk(receiver.port, notice(ask, content)) == f"{status}, waits"


@pytest.mark.parametrize("ask", [messages.report, messages.notification])
def test_a_notice_of_a_million_items_is_not_parsed(
    receiver: ReceiverProcess, ask: Callable[[], dict[int, bytes]]
) -> None:
    """Four MB of them kept the receiver busy for more than 20 s; it is well, says `receiver`."""
    items = sequence(ITEM * 500_000, is_open=True, tag=(8, 0x1199)) + STUDY
    assert "0x0000" not in talk(receiver.port, notice(ask, items))


def notice(ask: Callable[[], dict[int, bytes]], content: bytes) -> Connection:
    """One that a PACS gives us, in the context that it has for it."""
    context = 5 if ask is messages.report else 7
    parts = (associate(), data(context, 3, messages.command(ask())), data(context, 2, content))
    return Connection("found", parts, True)
