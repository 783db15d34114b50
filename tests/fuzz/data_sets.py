"""Encoded data sets that nobody should send: mutated, malformed, bombs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.node.samples import ct, encode, enhanced_ct

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
LONG_VRS = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"OF")
SHORT_VRS = (
    b"AE",
    b"CS",
    b"DA",
    b"DS",
    b"FD",
    b"IS",
    b"LO",
    b"PN",
    b"SH",
    b"SS",
    b"UI",
    b"US",
    b"ZZ",
)
UNDEFINED = 0xFFFFFFFF
_ANY_UID = "1.2.826.0.1.77.100000000"
HOSTILE_TEXTS = (
    b"../../../../tmp/fuzzed",
    b"/tmp/fuzzed",
    b"..",
    b".",
    b"",
    b"1.2.\x00/../3",
    b"1.2.3\n4",
    b"1..2",
    b"1.2.",
    b".1.2",
    b"01.02",
    b"1.2\\1.3",
    b"1" * 65,
    b"1." * 5000 + b"1",
    b"A" * 70000,
    "1.２.3".encode(),
    b"\xff\xfe\xfd",
    b"%s%n{0}${x}",
    b"'; DROP TABLE instance; --",
    b"C:\\x\\..\\y",
    b"-1.2",
    b"1.2.3 ; rm",
)


@dataclass(frozen=True)
class DataSetInput:
    """One data set to offer; the UIDs are those that the request announces."""

    kind: str
    syntax: UID
    content: bytes
    sop_class_uid: str = str(CTImageStorage)
    sop_instance_uid: str = _ANY_UID


def make(random: Random, kind: str | None = None) -> DataSetInput:
    """One input, of a kind by chance or of the one that is named."""
    kind = kind or random.choice(sorted(KINDS))
    given = KINDS[kind](random)
    # A UID of its own, or nearly all would be held with other bytes and none would be kept.
    old, own = _ANY_UID.encode(), f"{_ANY_UID[:-9]}{random.randrange(10**9):09d}"
    if given.sop_instance_uid != _ANY_UID or given.syntax.is_deflated:
        return given
    content = given.content.replace(old, own.encode())
    return replace(given, content=content, sop_instance_uid=own)


@cache
def _good(number: int, syntax: UID) -> bytes:
    return encode(ct(number, SOPInstanceUID=f"{_ANY_UID[:-1]}{number}"), syntax)


@cache
def _good_enhanced(syntax: UID) -> bytes:
    ds = enhanced_ct(3)
    ds.SOPInstanceUID = _ANY_UID
    return encode(ds, syntax)


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element in Explicit VR Little Endian, with a length of its own if wanted."""
    said = len(value) if length is None else length
    if vr in LONG_VRS:
        return struct.pack("<HH2sHI", group, number, vr, 0, said & UNDEFINED) + value
    return struct.pack("<HH2sH", group, number, vr, said & 0xFFFF) + value


def _uids(instance: bytes = _ANY_UID.encode(), **others: bytes) -> bytes:
    """The elements before all others: class, instance; study and series follow in `_tail`."""
    sop_class = others.get("sop_class", str(CTImageStorage).encode())
    return element(8, 0x16, b"UI", sop_class) + element(8, 0x18, b"UI", instance)


def _tail(study: bytes = b"1.2.3", series: bytes = b"1.2.3.4") -> bytes:
    return element(0x20, 0xD, b"UI", study) + element(0x20, 0xE, b"UI", series)


def mutated(random: Random) -> DataSetInput:
    syntax = random.choice(NATIVE)
    source = _good_enhanced(syntax) if random.random() < 0.2 else _good(0, syntax)
    content = bytearray(source)
    # The header is what is read; the pixels are only counted.
    reach = len(content) - 512
    for _ in range(random.randint(1, 8)):
        at = random.randrange(reach)
        change = random.randrange(5)
        if change == 0:
            content[at] = random.randrange(256)
        elif change == 1:
            content[at : at + random.randint(1, 16)] = b""
        elif change == 2:
            content[at:at] = random.randbytes(random.randint(1, 16))
        elif change == 3:
            block = content[at : at + random.randint(1, 64)]
            where = random.randrange(reach)
            content[where : where + len(block)] = block
        else:
            content[at : at + 4] = struct.pack(
                "<I", random.choice((0, 1, 7, 0x7FFFFFFF, UNDEFINED))
            )
        reach = max(1, min(reach, len(content) - 1))
    return DataSetInput("mutated", syntax, bytes(content))


def truncated(random: Random) -> DataSetInput:
    syntax = random.choice(NATIVE)
    content = _good(0, syntax)
    return DataSetInput("truncated", syntax, content[: random.randrange(len(content))])


def noise(random: Random) -> DataSetInput:
    syntax = random.choice((*NATIVE, DeflatedExplicitVRLittleEndian))
    return DataSetInput("noise", syntax, random.randbytes(random.randrange(400)))


def huge_length(random: Random) -> DataSetInput:
    said = random.choice((UNDEFINED, UNDEFINED - 1, 0x80000000, 0x7FFFFFFF, 0xFFFF, 1, 3))
    vr = random.choice((*LONG_VRS, *SHORT_VRS))
    odd = element(0x10, random.randrange(0x10000), vr, random.randbytes(6), said)
    return DataSetInput("huge length", ExplicitVRLittleEndian, _uids() + odd + _tail())


def wrong_vr(random: Random) -> DataSetInput:
    """Geometry, counts and words, each with a VR that is not its own and any bytes."""
    tags = ((8, 8), (8, 5), (8, 0x60), (0x18, 0x15), (0x18, 0x50), (0x18, 0x1210), (0x20, 0x32))
    tags += ((0x20, 0x37), (0x20, 0x52), (0x28, 2), (0x28, 4), (0x28, 8), (0x28, 0x10))
    tags += ((0x28, 0x11), (0x28, 0x30), (0x28, 0x100), (0x28, 0x1052), (0x28, 0x1053))
    tags += ((0x5200, 0x9229), (0x5200, 0x9230))
    body = {(0x20, 0xD): element(0x20, 0xD, b"UI", b"1.2.3")}
    body[(0x20, 0xE)] = element(0x20, 0xE, b"UI", b"1.2.3.4")
    for tag in random.sample(tags, random.randint(1, 8)):
        vr = random.choice((*LONG_VRS, *SHORT_VRS))
        value = random.choice(
            (random.randbytes(random.randrange(20)), b"1e999", b"nan", b"-1", b"9" * 40, b"1\\2\\x")
        )
        body[tag] = element(*tag, vr, value)
    content = _uids() + b"".join(body[tag] for tag in sorted(body))
    return DataSetInput("wrong VR", ExplicitVRLittleEndian, content)


def nested(random: Random) -> DataSetInput:
    """Sequences within sequences, ended or not."""
    depth = int(10 ** random.uniform(0, 3.5))
    start = (
        struct.pack("<HH2sHI", 0x40, 0x275, b"SQ", 0, UNDEFINED)
        + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    )
    end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    closed = random.choice((depth, depth // 2, 0))
    return DataSetInput(
        "nested", ExplicitVRLittleEndian, _uids() + _tail() + start * depth + end * closed
    )


def wide(random: Random) -> DataSetInput:
    """A sequence of many empty items, of known or unknown length."""
    count = int(10 ** random.uniform(0, 4))
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * count
    if random.random() < 0.5:
        sequence = element(0x5200, 0x9230, b"SQ", items)
    else:
        sequence = element(0x5200, 0x9230, b"SQ", items, UNDEFINED) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return DataSetInput("wide", ExplicitVRLittleEndian, _uids() + _tail() + sequence)


def hostile_uid(random: Random) -> DataSetInput:
    """Path characters, NUL, other alphabets and great length where a UID belongs."""
    text = random.choice(HOSTILE_TEXTS)
    which = random.randrange(4)
    parts = {
        0: _uids(sop_class=text) + _tail(),
        1: _uids(instance=text) + _tail(),
        2: _uids() + _tail(study=text),
        3: _uids() + _tail(series=text),
    }
    announced = text.decode("latin-1") if which == 1 else _ANY_UID
    announced_class = text.decode("latin-1") if which == 0 else str(CTImageStorage)
    return DataSetInput(
        "hostile UID", ExplicitVRLittleEndian, parts[which], announced_class, announced
    )


def characters(random: Random) -> DataSetInput:
    """Character sets that do not exist, and escape sequences without an end."""
    said = random.choice(
        (b"ISO_IR 13", b"ISO 2022 IR 87\\ISO 2022 IR 149", b"GB18030", b"\\ISO 2022 IR 87",
         b"utf-7", b"zlib", b"hex", b"rot13", b"idna", b"undefined", b"ISO_IR 192\\" * 50,
         random.randbytes(9))
    )  # fmt: skip
    name = b"".join(
        random.choice((b"\x1b$B", b"\x1b(J", b"\x1b", b"^", b"=", random.randbytes(3)))
        for _ in range(random.randrange(12))
    )
    content = element(8, 5, b"CS", said) + _uids() + element(8, 0x1030, b"LO", name)
    content += element(8, 0x103E, b"LO", name) + element(0x10, 0x10, b"PN", name) + _tail()
    return DataSetInput("characters", ExplicitVRLittleEndian, content)


def odd_tags(random: Random) -> DataSetInput:
    """Tags out of order, twice, of groups that do not belong here, private without a creator."""
    parts = [_uids(), _tail()]
    groups = (0, 2, 1, 9, 0x11, 0x20, 0x5400, 0x7FE0, 0xFFFE, 0xFFFF, 0xFFFC)
    for _ in range(random.randint(1, 12)):
        vr = random.choice((*LONG_VRS, *SHORT_VRS))
        value = random.randbytes(random.choice((0, 1, 2, 7, 8)))
        parts.append(element(random.choice(groups), random.randrange(0x10000), vr, value))
    random.shuffle(parts)
    return DataSetInput("odd tags", ExplicitVRLittleEndian, b"".join(parts))


def deflated(random: Random) -> DataSetInput:
    """Good, cut, garbled, with something behind, and a bomb (zeros pack a thousandfold)."""
    plain = _good(0, ExplicitVRLittleEndian)
    how = random.randrange(5)
    if how == 4:
        plain += bytes(int(10 ** random.uniform(4, 7)))
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(plain) + packer.flush()
    if how == 1:
        packed = packed[: random.randrange(len(packed))]
    elif how == 2:
        at = random.randrange(len(packed))
        packed = packed[:at] + random.randbytes(4) + packed[at + 4 :]
    elif how == 3:
        packed += random.randbytes(9)
    return DataSetInput("deflated", DeflatedExplicitVRLittleEndian, packed)


def absurd_pixels(random: Random) -> DataSetInput:
    """Rows, columns, frames and bits that no memory holds, before little or broken pixel data."""
    frames = random.choice(
        (b"0", b"-1", b"1", b"2147483647", b"99999999999999999999", b"1e9", b"x")
    )
    size = [random.choice((0, 1, 512, 65535)) for _ in range(2)]
    header = _uids() + element(8, 0x60, b"CS", b"CT") + _tail()
    header += element(0x28, 2, b"US", struct.pack("<H", random.choice((0, 1, 3, 65535))))
    header += element(0x28, 8, b"IS", frames)
    header += element(0x28, 0x10, b"US", struct.pack("<H", size[0]))
    header += element(0x28, 0x11, b"US", struct.pack("<H", size[1]))
    header += element(0x28, 0x100, b"US", struct.pack("<H", random.choice((0, 1, 16, 65535))))
    syntax = random.choice((ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit))
    if syntax == ExplicitVRLittleEndian:
        pixels = element(0x7FE0, 0x10, b"OW", bytes(64), random.choice((64, 0, UNDEFINED - 1)))
    else:
        pixels = element(0x7FE0, 0x10, b"OB", _fragments(random), UNDEFINED)
    return DataSetInput("absurd pixels", syntax, header + pixels)


def _fragments(random: Random) -> bytes:
    """Items of encapsulated pixel data, each with a length that may lie, ended or not."""
    parts = []
    for _ in range(random.randrange(5)):
        value = random.choice((b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x01", bytes(64)))
        said = random.choice((len(value), 0, UNDEFINED, 3))
        parts.append(b"\xfe\xff\x00\xe0" + struct.pack("<I", said) + value)
    if random.random() < 0.5:
        parts.append(b"\xfe\xff\xdd\xe0\0\0\0\0")
    return b"".join(parts)


def good(random: Random) -> DataSetInput:
    """What should be taken, now and then, so that the way to the archive is walked too."""
    syntax = random.choice(NATIVE)
    number = random.randint(0, 8)
    return DataSetInput(
        "good", syntax, _good(number, syntax), sop_instance_uid=f"{_ANY_UID[:-1]}{number}"
    )


KINDS: dict[str, Callable[[Random], DataSetInput]] = {
    maker.__name__: maker
    for maker in (
        mutated, truncated, noise, huge_length, wrong_vr, nested, wide, hostile_uid, characters,
        odd_tags, deflated, absurd_pixels, good,
    )
}  # fmt: skip
