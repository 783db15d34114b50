"""What a PACS tells us that nobody should tell: storage commitment reports (PS3.4 table J.3-2) and
instance availability notifications (PS3.4 table R.3.2-1), in Explicit VR Little Endian."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from tests.fuzz import data_sets
from tests.fuzz.data_sets import HOSTILE_TEXTS, LONG_VRS, SHORT_VRS, element
from tests.fuzz.pdus import CT_IMAGE

_ITEM = b"\xfe\xff\x00\xe0"


def make(random: Random) -> bytes:
    """Such a data set, whole or cut or garbled, or one that has nothing to do with it."""
    if random.random() < 0.2:
        return data_sets.make(random).content
    content = bytearray(_notice(random))
    for _ in range(random.choice((0, 0, 0, 1, 4))):
        if content:
            content[random.randrange(len(content))] = random.randrange(256)
    if random.random() < 0.1:
        del content[random.randrange(len(content) + 1) :]
    return bytes(content)


def _notice(random: Random) -> bytes:
    """The attributes of both; whoever reads the one passes over those of the other."""
    series = _items(random, lambda: _references(random, 3) + _attribute(random, 0x20, 0xE, b"UI"))
    most = 10_000 if random.random() < 0.02 else 3
    return b"".join(
        (
            _attribute(random, 8, 0x1115, b"SQ", series),
            _attribute(random, 8, 0x1195, b"UI"),
            _attribute(random, 8, 0x1198, b"SQ", _items(random, lambda: _item(random))),
            _references(random, most),
            _attribute(random, 0x20, 0xD, b"UI"),
        )
    )


def _references(random: Random, most: int) -> bytes:
    return _attribute(random, 8, 0x1199, b"SQ", _items(random, lambda: _item(random), most))


def _item(random: Random) -> bytes:
    """One instance, as either names it."""
    return b"".join(
        (
            _attribute(random, 8, 0x54, b"AE", random.choice((b"PACS", b"PACS\\OTHER ", b""))),
            _attribute(random, 8, 0x56, b"CS", random.choice((b"ONLINE", b"OFFLINE "))),
            _attribute(random, 8, 0x1150, b"UI", CT_IMAGE),
            _attribute(random, 8, 0x1155, b"UI"),
            _attribute(random, 8, 0x1197, b"US", struct.pack("<H", 0x0110)),
        )
    )


def _items(random: Random, make_one: Callable[[], bytes], most: int = 3) -> bytes:
    contents = [make_one() for _ in range(random.randint(0, most))]
    return b"".join(_ITEM + struct.pack("<I", len(one)) + one for one in contents)


def _attribute(
    random: Random, group: int, number: int, vr: bytes, value: bytes = b"1.2.3.4\0"
) -> bytes:
    """Mostly as it should be; else absent, empty, of another VR or of any bytes."""
    chance = random.random()
    if chance < 0.05:
        return b""
    if chance < 0.85:
        return element(group, number, vr, value)
    odd = random.choice((b"", value, random.randbytes(5), random.choice(HOSTILE_TEXTS)[:64]))
    return element(group, number, random.choice((vr, *LONG_VRS, *SHORT_VRS)), odd)
