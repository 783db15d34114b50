"""How large an image a JPEG-family codestream says it holds, told before a decoder believes it.

A decoder makes room for what the codestream announces, whatever Rows and Columns say: 600 bytes
that announce 40,000 x 40,000 keep one busy for minutes and want gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.uid import UID, RLELossless

from pipeline.errors import Corrupt

# ISO 10918-1 table B.1: every frame header, and that of JPEG-LS (14495-1 C.2.2); 0xC4, C8 and CC
# are no frame headers.
_FRAME_HEADERS: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_START, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"


def check_codestreams(datasets: Iterable[Dataset]) -> None:
    """Refuse a codestream of another size than its header's.

    Raises:
        Corrupt: ``pixels.size``, with both sizes.
    """
    for ds in datasets:
        syntax = UID(ds.file_meta.TransferSyntaxUID)
        if not syntax.is_encapsulated or syntax == RLELossless or not ds.get("PixelData"):
            continue
        expected = (int(ds.Rows), int(ds.Columns))
        for fragment in generate_fragments(ds.PixelData):
            size = size_of(fragment)
            if size is not None and size != expected:
                raise Corrupt(
                    "pixels.size",
                    found=f"a codestream of {size[0]} x {size[1]}",
                    expected=f"{expected[0]} rows, {expected[1]} columns",
                    remedy="Send the series again from its source.",
                )


def size_of(codestream: bytes) -> tuple[int, int] | None:
    """Rows and columns that a codestream announces; None when it does not begin one."""
    if codestream[:4] == _JPEG_2000 and len(codestream) >= 24:
        width, height, left, top = struct.unpack(">4L", codestream[8:24])
        return height - top, width - left
    if codestream[:2] != _START:
        return None
    at = 2
    while at + 9 <= len(codestream):
        marker, length = codestream[at + 1], int.from_bytes(codestream[at + 2 : at + 4], "big")
        if codestream[at] != 0xFF:
            return None
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _FRAME_HEADERS:
            height, width = struct.unpack(">2H", codestream[at + 5 : at + 9])
            return height, width
        else:
            at += 2 + length
    return None
