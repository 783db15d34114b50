"""How many elements an encoded data set has, told without making any of them.

A parser makes an object of every element and of every item: a hundred bytes and more for eight that
were sent, and a microsecond each. Eight megabytes of empty items cost it 660 MB and 13 seconds. So
what is large is counted first, flat: whatever holds elements is entered, whatever does not is
skipped, and nothing is kept.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.uid import UID

from node.errors import Refuse

MAXIMUM_ELEMENTS: Final = 300_000
"""An Enhanced CT of 2,000 slices has about 120,000; an item counts as several."""

ITEM_WEIGHT: Final = 3
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_PIXEL_TAG: Final = 0x7FE00008
LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""PS3.5 table 7.1-1: these have two reserved bytes and a length of four."""


class TooManyElements(Refuse):
    """A data set that nobody should parse."""


def count_elements(body: BinaryIO, is_implicit_vr: bool, is_little_endian: bool) -> int:
    """The elements before the pixel data, those within sequences too, each item as `ITEM_WEIGHT`.

    What is malformed ends the count: the parser will find the same place.

    Args:
        body: At the beginning of the data set; left there again.
        is_implicit_vr: Of the transfer syntax.
        is_little_endian: Of the transfer syntax.

    Raises:
        TooManyElements: Beyond `MAXIMUM_ELEMENTS`.
    """
    start = body.tell()
    try:
        return _count(body, is_implicit_vr, "<" if is_little_endian else ">")
    finally:
        body.seek(start)


def refuse_too_many(body: BinaryIO | None, syntax: UID) -> None:
    """Pass a data set that may be parsed, or none at all.

    Raises:
        TooManyElements: As `count_elements`.
    """
    if body is not None:
        # pynetdicom leaves it where it stopped writing.
        body.seek(0)
        count_elements(body, syntax.is_implicit_VR, syntax.is_little_endian)


def _count(body: BinaryIO, is_implicit_vr: bool, order: str) -> int:
    tag_of = struct.Struct(f"{order}HH")
    short, long = struct.Struct(f"{order}H"), struct.Struct(f"{order}L")
    count = 0
    # Within a UN of undefined length all is implicit (PS3.5 6.2.2): how deep we are in one.
    unknown_depth = 0
    while len(head := body.read(8)) == 8:
        group, element = tag_of.unpack_from(head)
        tag = group << 16 | element
        count += ITEM_WEIGHT if tag == _ITEM else 1
        if count > MAXIMUM_ELEMENTS:
            raise TooManyElements(f"more than {MAXIMUM_ELEMENTS} elements before the pixel data")
        if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
            unknown_depth -= tag == _SEQUENCE_END and unknown_depth > 0
            continue
        if tag >= _FIRST_PIXEL_TAG and not unknown_depth:
            break
        vr = head[4:6]
        if is_implicit_vr or unknown_depth:
            vr, length = _known_vr(tag), long.unpack_from(head, 4)[0]
        elif vr in LONG_VRS:
            more = body.read(4)
            if len(more) < 4:
                break
            length = long.unpack(more)[0]
        else:
            length = short.unpack_from(head, 6)[0]
        if length == _UNDEFINED:
            unknown_depth += bool(unknown_depth) or (vr == b"UN" and not is_implicit_vr)
        elif vr != b"SQ":
            body.seek(length, 1)
    return count


def _known_vr(tag: int) -> bytes:
    return dictionary_VR(tag).encode("ascii") if dictionary_has_tag(tag) else b"UN"
