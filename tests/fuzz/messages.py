"""DIMSE messages that nobody should send (PS3.7 E.1, 6.3), within a good association."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from random import Random

from tests.fuzz import data_sets, notices
from tests.fuzz.pdus import (
    AVAILABILITY,
    COMMITMENT,
    CT_IMAGE,
    RELEASE_RQ,
    Connection,
    associate,
    data,
)
from tests.node.samples import ct, encode

C_STORE_RQ, C_ECHO_RQ, C_FIND_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0020, 0x0FFF
N_EVENT_REPORT_RQ, N_CREATE_RQ = 0x0100, 0x0140
NO_DATA_SET = 0x0101
UIDS = (*data_sets.HOSTILE_TEXTS, CT_IMAGE, b"1.2.3.4")


def make(random: Random, kind: str | None = None) -> Connection:
    """One association with a few messages, of a kind by chance or of the one that is named."""
    kind = kind or random.choice(sorted(KINDS))
    messages = [KINDS[kind](random) for _ in range(random.randint(1, 3))]
    return Connection(
        kind.replace("_", " "),
        (associate(), *(part for message in messages for part in message), RELEASE_RQ),
        is_associated=True,
    )


def element(number: int, value: bytes, length: int | None = None) -> bytes:
    """A command element, Implicit VR Little Endian."""
    said = len(value) if length is None else length
    return struct.pack("<HHI", 0, number, said & 0xFFFFFFFF) + value


def number_of(value: int) -> bytes:
    return struct.pack("<H", value & 0xFFFF)


def even(text: bytes) -> bytes:
    return text + b"\0" * (len(text) % 2)


def command(elements: dict[int, bytes], length: int | None = None) -> bytes:
    """A command set with its group length, true or not."""
    body = b"".join(element(number, value) for number, value in sorted(elements.items()))
    return element(0, struct.pack("<I", len(body) if length is None else length)) + body


def store_request(uid: bytes = b"1.2.3.4", **changes: bytes) -> dict[int, bytes]:
    elements = {
        0x0002: even(CT_IMAGE),
        0x0100: number_of(C_STORE_RQ),
        0x0110: number_of(1),
        0x0700: number_of(2),
        0x0800: number_of(0),
        0x1000: even(uid),
    }
    return elements | {int(number[1:], 16): value for number, value in changes.items()}


def _fragments(random: Random, content: bytes, control: int, context: int = 1) -> list[bytes]:
    """The bytes in some data values, the last of which says so."""
    cuts = sorted(random.randrange(len(content) + 1) for _ in range(random.randrange(3)))
    edges = [0, *cuts, len(content)]
    pieces = [content[a:b] for a, b in pairwise(edges)]
    last = len(pieces) - 1
    return [data(context, control | (2 if n == last else 0), one) for n, one in enumerate(pieces)]


def _data_set(random: Random) -> tuple[str, list[bytes]]:
    given = data_sets.make(random)
    return given.sop_instance_uid, _fragments(random, given.content or b"\0\0", 0)


def stored(random: Random) -> list[bytes]:
    """A C-STORE as it should be, of a data set that should not."""
    uid, fragments = _data_set(random)
    request = store_request(uid.encode("latin-1")[:64])
    return _fragments(random, command(request), 1) + fragments


def good(random: Random) -> list[bytes]:
    """A C-STORE that is to be taken."""
    number = random.randint(1, 6)
    ds = ct(number)
    request = store_request(str(ds.SOPInstanceUID).encode())
    return _fragments(random, command(request), 1) + _fragments(random, encode(ds), 0)


def missing_element(random: Random) -> list[bytes]:
    """A request that lacks what it must have."""
    request = store_request()
    for number in random.sample(sorted(request), random.randint(1, 3)):
        del request[number]
    return _fragments(random, command(request), 1) + _data_set(random)[1]


def wrong_element(random: Random) -> list[bytes]:
    """Values of the wrong length or meaning, unknown elements, a UID that is none."""
    request = store_request()
    for _ in range(random.randint(1, 3)):
        at = random.choice((*request, 0x0120, 0x0900, 0x1030, 0x1031, 0x0600, 0x4242))
        request[at] = random.choice(
            (b"", b"\1", number_of(random.randrange(65536)), random.choice(UIDS)[:300], bytes(8))
        )
    group_length = random.choice((None, None, 0, 1, 0xFFFFFFFF))
    return _fragments(random, command(request, group_length), 1) + _data_set(random)[1]


def huge_element(random: Random) -> list[bytes]:
    """A command element whose length goes beyond all there is."""
    said = random.choice((0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x10000, 3))
    content = command(store_request()) + element(0x1031, b"XY", said)
    return _fragments(random, content, 1) + _data_set(random)[1]


def data_set_alone(random: Random) -> list[bytes]:
    """A data set that no command announced, or a command that denies the one that follows."""
    if random.random() < 0.5:
        return _data_set(random)[1]
    request = store_request(x0800=number_of(NO_DATA_SET))
    return _fragments(random, command(request), 1) + _data_set(random)[1]


def other_service(random: Random) -> list[bytes]:
    """Requests that this node does not serve, responses to what nobody asked, unknown commands."""
    field = random.choice(
        (C_ECHO_RQ, C_FIND_RQ, C_CANCEL_RQ, 0x0010, 0x0021, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140,
         0x0150, 0x8001, 0x8030, 0x8110, 0x0000, 0xFFFF)
    )  # fmt: skip
    elements = {
        0x0002: even(random.choice(UIDS)[:100]),
        0x0100: number_of(field),
        0x0110: number_of(7),
        0x0120: number_of(7),
        0x0800: number_of(random.choice((NO_DATA_SET, 0))),
        0x0900: number_of(random.randrange(65536)),
    }
    return _fragments(random, command(elements), 1)


def report(event_type: int = 2) -> dict[int, bytes]:
    """The request of a storage commitment report (PS3.7 10.3.1)."""
    return {
        0x0002: even(COMMITMENT),
        0x0100: number_of(N_EVENT_REPORT_RQ),
        0x0110: number_of(7),
        0x0800: number_of(0),
        0x1000: even(b"1.2.840.10008.1.20.1.1"),
        0x1002: number_of(event_type),
    }


def notification() -> dict[int, bytes]:
    """The request of an instance availability notification (PS3.7 10.3.5)."""
    return {
        0x0002: even(AVAILABILITY),
        0x0100: number_of(N_CREATE_RQ),
        0x0110: number_of(7),
        0x0800: number_of(0),
        0x1000: even(b"1.2.3.4"),
    }


def reported(random: Random) -> list[bytes]:
    """A report that makes little sense."""
    return _noticed(random, report(random.choice((1, 2, 2, 3))), 5)


def announced(random: Random) -> list[bytes]:
    """A notification that makes little sense."""
    return _noticed(random, notification(), 7)


def _noticed(random: Random, elements: dict[int, bytes], context: int) -> list[bytes]:
    told = notices.make(random) or b"\0\0"
    return _fragments(random, command(elements), 1, context) + _fragments(random, told, 0, context)


def mismatched(random: Random) -> list[bytes]:
    """The request names another instance or class than the data set does."""
    ds = ct(1)
    request = store_request(random.choice(UIDS)[:64], x0002=even(random.choice(UIDS)[:64]))
    return _fragments(random, command(request), 1) + _fragments(random, encode(ds), 0)


def garbled_command(random: Random) -> list[bytes]:
    content = bytearray(command(store_request()))
    for _ in range(random.randint(1, 5)):
        content[random.randrange(len(content))] = random.randrange(256)
    return _fragments(random, bytes(content), 1) + _data_set(random)[1]


KINDS: dict[str, Callable[[Random], list[bytes]]] = {
    maker.__name__: maker
    for maker in (
        stored, good, missing_element, wrong_element, huge_element, data_set_alone, other_service,
        mismatched, garbled_command, reported, announced,
    )
}  # fmt: skip
