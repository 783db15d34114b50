"""The header of one encoded data set: read once, up to the pixel data, which stays untouched.

Reading tells apart three things that the sender must hear apart: a text that is no data set, one
without the UIDs that a CT image must have, and a readable one whose pixel data is missing or cut
off (that one is stored, and declined on record).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import SEEK_END, BytesIO
from typing import BinaryIO, Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from node.archive import checked_uid
from node.errors import Refuse
from node.structure import TooManyElements, count_elements
from node.summary import Pixels

_PIXEL_DATA: Final = 0x7FE00010
# Float, double float and integer pixel data (PS3.3 C.7.6.24, C.7.6.25, C.7.6.3).
_PIXEL_DATA_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, _PIXEL_DATA})
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_ITEM: Final = b"\xfe\xff\x00\xe0"
_SEQUENCE_DELIMITER: Final = b"\xfe\xff\xdd\xe0"
# A larger one is counted before it is parsed; a CT slice of 512 x 512 is smaller.
_TRUSTED_BYTES: Final = 1 << 20
# A slice of zeros packs a thousandfold and is small; what is large and packs so is a trap.
INFLATED_BYTES: Final = 64 << 20
INFLATED_RATIO: Final = 100
# All that is kept of an inflated data set: the header of 2,000 slices is a third of it.
_KEPT_BYTES: Final = 16 << 20
_PIECE_BYTES: Final = 1 << 20


class Unreadable(Refuse):
    """The bytes are no data set in the transfer syntax that was agreed."""


class Unidentified(Refuse):
    """The data set lacks a UID that it must have, or holds one that is none."""


@dataclass(frozen=True)
class Header:
    """What stands before the pixel data, and whether that is there in full."""

    dataset: Dataset
    pixels: Pixels
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str


def read_header(stream: BinaryIO, transfer_syntax_uid: str) -> Header:
    """Read an encoded data set up to its pixel data.

    Args:
        stream: At the beginning of the data set, as it came in the C-STORE request: without
            preamble, deflated if so agreed. It ends where the data set does.
        transfer_syntax_uid: Of the presentation context.

    Raises:
        Unreadable: When no data set can be read from it.
        Unidentified: When one of its four UIDs is absent or none.
    """
    syntax = UID(transfer_syntax_uid)
    body = _inflate(stream) if syntax.is_deflated else stream
    _check_size(body, syntax)
    found: list[tuple[int, int, int]] = []

    def is_at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in _PIXEL_DATA_TAGS:
            found.append((int(tag), body.tell(), length))
        return bool(found)

    try:
        dataset = read_dataset(
            body, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=is_at_pixels
        )
    except Exception as error:
        raise Unreadable(f"no data set in {syntax.name} ({type(error).__name__})") from None
    if not any(keyword in dataset for keyword in _UIDS):
        # Any bytes make elements of some kind; without a single UID they are no composite instance.
        raise Unreadable(f"no data set in {syntax.name}")
    if found:
        pixels = _look_at_pixels(body, *found[0], dataset, syntax)
    else:
        pixels = Pixels.TRUNCATED if _is_cut_off(dataset, body) else Pixels.ABSENT
    return Header(
        dataset=dataset,
        pixels=pixels,
        sop_class_uid=_uid(dataset, "SOPClassUID"),
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        study_uid=_uid(dataset, "StudyInstanceUID"),
        series_uid=_uid(dataset, "SeriesInstanceUID"),
    )


def _check_size(body: BinaryIO, syntax: UID) -> None:
    start = body.tell()
    is_large = _end(body) - start > _TRUSTED_BYTES
    body.seek(start)
    if is_large:
        try:
            count_elements(body, syntax.is_implicit_VR, syntax.is_little_endian)
        except TooManyElements as error:
            raise Unreadable(str(error)) from None


class _Inflated(BytesIO):
    """The beginning of an inflated data set; `length` is that of the whole."""

    length = 0


def _inflate(stream: BinaryIO) -> _Inflated:
    """Deflated Explicit VR Little Endian is a raw deflate stream (PS3.5 A.5).

    Only what can hold the header is kept; of the pixel data the length is all that is asked.
    """
    inflater, body, packed_bytes = zlib.decompressobj(-zlib.MAX_WBITS), _Inflated(), 0
    try:
        while packed := stream.read(_PIECE_BYTES):
            packed_bytes += len(packed)
            while packed:
                piece = inflater.decompress(packed, _PIECE_BYTES)
                packed = inflater.unconsumed_tail
                body.length += len(piece)
                body.write(piece[: max(0, _KEPT_BYTES - body.tell())])
                if body.length > max(INFLATED_BYTES, INFLATED_RATIO * packed_bytes):
                    raise Unreadable("a data set that inflates more than a hundredfold")
    except zlib.error:
        raise Unreadable("no deflated data set") from None
    body.seek(0)
    return body


def _uid(dataset: Dataset, keyword: str) -> str:
    try:
        # Some senders fill up with a space where PS3.5 9.1 asks for a null.
        return checked_uid(str(dataset.get(keyword) or "").rstrip(" \0"))
    except Exception:
        raise Unidentified(f"{keyword} is absent or no UID") from None


def _look_at_pixels(
    body: BinaryIO, tag: int, start: int, length: int, dataset: Dataset, syntax: UID
) -> Pixels:
    """Whether the value that begins at `start` is as long as it and the header say."""
    if tag != _PIXEL_DATA or length == 0:
        return Pixels.ABSENT
    frames = _count(dataset, "NumberOfFrames")
    if length == _UNDEFINED_LENGTH:
        fragments = _whole_fragments(body, start)
        # The first item is the Basic Offset Table (PS3.5 A.4).
        return Pixels.PRESENT if fragments > frames else Pixels.TRUNCATED
    expected = length
    if not syntax.is_encapsulated:
        values = frames * _count(dataset, "Rows") * _count(dataset, "Columns")
        bits = _count(dataset, "SamplesPerPixel") * _count(dataset, "BitsAllocated")
        expected = max(length, values * bits // 8)
    return Pixels.PRESENT if _end(body) - start >= expected else Pixels.TRUNCATED


def _whole_fragments(body: BinaryIO, start: int) -> int:
    """How many items of encapsulated pixel data there are; 0 when their end is missing."""
    count = 0
    while True:
        body.seek(start)
        head = body.read(8)
        if head[:4] != _ITEM or len(head) < 8:
            return count if head[:4] == _SEQUENCE_DELIMITER else 0
        start += 8 + int.from_bytes(head[4:], "little")
        count += 1


def _count(dataset: Dataset, keyword: str) -> int:
    """A positive number of the header; 1 when it says nothing usable."""
    try:
        return max(1, int(dataset.get(keyword) or 1))
    except Exception:
        return 1


def _is_cut_off(dataset: Dataset, body: BinaryIO) -> bool:
    """Whether a data set without pixel data ends inside an element."""
    # Raw: converting an empty value of an unknown VR raises.
    last = dataset.get_item(max(dataset.keys()), keep_deferred=True)
    return isinstance(last, RawDataElement) and last.value_tell + last.length != _end(body)


def _end(body: BinaryIO) -> int:
    """Where the data set ends."""
    return body.length if isinstance(body, _Inflated) else body.seek(0, SEEK_END)
