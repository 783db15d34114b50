"""PDUs that nobody should send (PS3.8 9.3), as the bytes of one connection."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from random import Random

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
VERIFICATION, CT_IMAGE = b"1.2.840.10008.1.1", b"1.2.840.10008.5.1.4.1.1.2"
COMMITMENT, AVAILABILITY = b"1.2.840.10008.1.20.1", b"1.2.840.10008.5.1.4.33"
IMPLICIT, EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
RELEASE_RQ = b"\x05\0\0\0\0\x04\0\0\0\0"
ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"


@dataclass(frozen=True)
class Connection:
    """What is written to one connection, cut where a peer might have cut it.

    Args:
        is_associated: The first part is a good A-ASSOCIATE-RQ, whose answer is awaited.
    """

    kind: str
    parts: tuple[bytes, ...]
    is_associated: bool = False


def make(random: Random, kind: str | None = None) -> Connection:
    """One connection, of a kind by chance or of the one that is named."""
    kind = kind or random.choice(sorted(KINDS))
    given = KINDS[kind](random)
    return given if random.random() < 0.7 else _cut(random, given)


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    return (
        struct.pack(">BBI", kind, 0, (len(body) if length is None else length) & 0xFFFFFFFF) + body
    )


def item(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", kind, 0, (len(body) if length is None else length) & 0xFFFF) + body


def context(number: int, abstract: bytes, *transfer: bytes) -> bytes:
    syntaxes = b"".join(item(0x40, one) for one in transfer)
    return item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract) + syntaxes)


def user_information(maximum: int = 16384, extra: bytes = b"") -> bytes:
    known = item(0x51, struct.pack(">I", maximum)) + item(0x52, b"1.2.3") + item(0x55, b"FUZZ")
    return item(0x50, known + extra)


def associate(
    items: bytes | None = None,
    called: bytes = b"PSEUDOMRI",
    calling: bytes = b"FUZZ",
    version: int = 1,
) -> bytes:
    """An A-ASSOCIATE-RQ; a good one with CT in context 1 when nothing is said."""
    if items is None:
        items = item(0x10, APPLICATION_CONTEXT) + context(1, CT_IMAGE, EXPLICIT)
        items += context(3, VERIFICATION, IMPLICIT) + context(5, COMMITMENT, EXPLICIT)
        # PS3.7 D.3.3.4: a PACS reports as SCP of an association that it requested.
        role = struct.pack(">H", len(COMMITMENT)) + COMMITMENT + b"\0\1"
        items += context(7, AVAILABILITY, EXPLICIT) + user_information(extra=item(0x54, role))
    head = struct.pack(">HH", version, 0) + called.ljust(16)[:16] + calling.ljust(16)[:16]
    return pdu(0x01, head + bytes(32) + items)


def data(context_id: int, control: int, fragment: bytes, length: int | None = None) -> bytes:
    """A P-DATA-TF PDU with one presentation data value."""
    value = bytes((context_id, control)) + fragment
    said = len(value) if length is None else length
    return pdu(0x04, struct.pack(">I", said & 0xFFFFFFFF) + value)


def _cut(random: Random, given: Connection) -> Connection:
    """The same bytes in other parts, or only some of them."""
    first, rest = (given.parts[:1], given.parts[1:]) if given.is_associated else ((), given.parts)
    whole = b"".join(rest)
    if random.random() < 0.5:
        whole = whole[: random.randrange(len(whole) + 1)]
    cuts = sorted(random.randrange(len(whole) + 1) for _ in range(random.randrange(5)))
    edges = [0, *cuts, len(whole)]
    parts = tuple(whole[a:b] for a, b in pairwise(edges))
    return Connection(given.kind, first + parts, given.is_associated)


def noise(random: Random) -> Connection:
    return Connection("noise", (random.randbytes(random.randrange(1, 300)),))


def unknown_type(random: Random) -> Connection:
    kind = random.choice((0, 8, 9, 0x16, 0x47, 0x80, 0xFF))
    return Connection("unknown type", (pdu(kind, random.randbytes(random.randrange(60))),))


def wrong_length(random: Random) -> Connection:
    """A PDU that says it is longer or shorter than it is, up to 4 GiB."""
    said = random.choice((0, 1, 4, 67, 68, 0x7FFFFFFF, 0xFFFFFFFF, random.randrange(500)))
    body = associate()[6:]
    return Connection("wrong length", (pdu(random.randint(1, 7), body, said), RELEASE_RQ))


def too_soon(random: Random) -> Connection:
    """What may only come later, or from the other side."""
    wrong = (RELEASE_RQ, ABORT, data(1, 3, b"x"), pdu(2, associate()[6:]), pdu(3, b"\0\1\1\1"))
    wrong += (pdu(6, bytes(4)),)
    parts = tuple(random.choice(wrong) for _ in range(random.randint(1, 4)))
    return Connection("too soon", parts)


def hostile_items(random: Random) -> Connection:
    """An A-ASSOCIATE-RQ with items that contradict themselves, each other or the standard."""
    text = random.choice(
        (b"", b"1.2", b"A" * 300, b"\xff\xfe\0", b"1." * 300, b"../../x", bytes(64))
    )
    number = random.choice((0, 1, 2, 255))
    sub = (
        item(0x51, random.randbytes(random.randrange(8))),
        item(0x51, struct.pack(">I", random.choice((0, 1, 5, 6, 7, 0xFFFFFFFF)))),
        item(0x53, struct.pack(">HH", 0, 0xFFFF)),
        item(0x54, struct.pack(">H", 999) + CT_IMAGE + b"\1\1"),
        item(0x56, struct.pack(">H", len(CT_IMAGE)) + CT_IMAGE + random.randbytes(9)),
        item(0x57, struct.pack(">H", 5) + b"1.2.3" + struct.pack(">H", 0xFFFF)),
        item(0x58, b"\x02\x01" + struct.pack(">H", 4) + b"user" + struct.pack(">H", 9) + b"pass"),
        item(0x58, random.randbytes(random.randrange(12))),
        item(random.randrange(256), text, random.choice((None, 0xFFFF, 0, 1))),
    )
    choices = (
        item(0x10, text),
        item(0x10, APPLICATION_CONTEXT),
        context(number, text, EXPLICIT),
        context(number, CT_IMAGE, text),
        context(number, CT_IMAGE),
        context(number, CT_IMAGE, *([EXPLICIT] * 60)),
        b"".join(context(2 * n % 256 + 1, CT_IMAGE, EXPLICIT) for n in range(200)),
        item(0x20, random.randbytes(random.randrange(12)), random.choice((None, 3, 0xFFFF))),
        item(0x21, bytes((1, 0, 0, 0)) + item(0x40, EXPLICIT)),
        user_information(extra=b"".join(random.sample(sub, random.randint(1, 4)))),
        item(0x50, text, random.choice((None, 0xFFFF))),
        item(random.randrange(256), text, random.choice((None, 0, 0xFFFF))),
    )
    parts = [random.choice(choices) for _ in range(random.randint(1, 6))]
    if random.random() < 0.5:
        parts = [item(0x10, APPLICATION_CONTEXT), context(1, CT_IMAGE, EXPLICIT), *parts]
    title = random.choice((b"PSEUDOMRI", b"", b"\0" * 16, b"\xff" * 16, b"A\\B", b"\x1b[31m\r\n"))
    return Connection(
        "hostile items",
        (
            associate(
                b"".join(parts),
                called=random.choice((b"PSEUDOMRI", title)),
                calling=title,
                version=random.choice((1, 1, 1, 0, 0xFFFF)),
            ),
            data(1, 3, random.randbytes(20)),
            RELEASE_RQ,
        ),
    )


def mutated(random: Random) -> Connection:
    """A good association, a few bytes of which are others."""
    content = bytearray(associate())
    for _ in range(random.randint(1, 6)):
        content[random.randrange(len(content))] = random.randrange(256)
    return Connection("mutated", (bytes(content), RELEASE_RQ))


def odd_fragments(random: Random) -> Connection:
    """Presentation data values in any order, of any context and length, never the last."""
    parts = [associate()]
    for _ in range(random.randint(1, 10)):
        parts.append(
            data(
                random.choice((1, 1, 1, 3, 0, 2, 5, 255)),
                random.choice((0, 1, 2, 3, 4, 0xFF)),
                random.randbytes(random.choice((0, 1, 2, 30, 2000))),
                random.choice((None, None, None, 0, 1, 2, 3, 0xFFFFFFFF)),
            )
        )
    parts.append(random.choice((RELEASE_RQ, ABORT, pdu(4, b""), pdu(4, b"\0\0\0"))))
    return Connection("odd fragments", tuple(parts), is_associated=True)


def after_the_end(random: Random) -> Connection:
    """Once released or aborted, it goes on; or it associates twice."""
    parts = [associate(), random.choice((RELEASE_RQ, ABORT, associate()))]
    parts += [random.choice((data(1, 3, b"\0" * 30), RELEASE_RQ, associate(), ABORT))] * 3
    return Connection("after the end", tuple(parts), is_associated=True)


KINDS: dict[str, Callable[[Random], Connection]] = {
    maker.__name__: maker
    for maker in (
        noise, unknown_type, wrong_length, too_soon, hostile_items, mutated, odd_fragments,
        after_the_end,
    )
}  # fmt: skip
