"""A codestream is asked for its size before a decoder believes it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from node.codestream import check_codestreams, size_of
from pipeline.errors import Corrupt
from tests.node.samples import ct, with_meta

ROWS, COLUMNS = 16, 24
PIXELS = np.arange(ROWS * COLUMNS, dtype=np.uint8).reshape(ROWS, COLUMNS)


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, "JPEG")
    return content.getvalue()


def jpeg_2000() -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, "JPEG2000", no_jp2=True)
    return content.getvalue()


def jpeg_ls() -> bytes:
    import jpeg_ls as codec

    return bytes(codec.encode_array(PIXELS))


CODECS = {
    "JPEG": (jpeg, JPEGBaseline8Bit, b"\xff\xc0", 5, ">2H"),
    "JPEG 2000": (jpeg_2000, JPEG2000Lossless, b"\xff\x51", 6, ">2L"),
    "JPEG-LS": (jpeg_ls, JPEGLSLossless, b"\xff\xf7", 5, ">2H"),
}


def compressed(code: bytes, syntax: UID) -> Dataset:
    ds = with_meta(ct(1, Rows=ROWS, Columns=COLUMNS), syntax)
    ds.PixelData = encapsulate([code])
    return ds


@pytest.mark.parametrize("name", CODECS)
def test_the_size_is_read_from_what_encoders_write(name: str) -> None:
    encode, syntax, *_ = CODECS[name]
    assert size_of(encode()) == (ROWS, COLUMNS)
    check_codestreams([compressed(encode(), syntax)])


@pytest.mark.parametrize("name", CODECS)
def test_a_bomb_is_refused_before_it_is_decoded(name: str) -> None:
    encode, syntax, marker, offset, format_ = CODECS[name]
    code = bytearray(encode())
    at = code.index(marker) + offset
    code[at : at + struct.calcsize(format_)] = struct.pack(format_, 40_000, 40_000)
    with pytest.raises(
        Corrupt, match="a codestream of 40000 x 40000; expected 16 rows, 24 columns"
    ):
        check_codestreams([compressed(bytes(code), syntax)])


def test_what_begins_no_codestream_is_left_to_the_decoder() -> None:
    for content in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xe0\0\0", bytes(50), jpeg()[2:]):
        assert size_of(content) is None
    check_codestreams([compressed(jpeg(), RLELossless), with_meta(ct(1))])
