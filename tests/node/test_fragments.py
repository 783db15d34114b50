"""P-DATA-TF bodies, cut at any byte, give back what was put in; wrong ones are refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.streaming.fragments import Fragments, Malformed, Piece

Value = tuple[int, int, bytes]
VALUES = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40)), max_size=6
)


def body(values: list[Value]) -> bytes:
    return b"".join(
        struct.pack(">IBB", len(content) + 2, context, control) + content
        for context, control, content in values
    )


def cut(content: bytes, places: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    return (content[start:end] for start, end in pairwise(edges))


def read(content: bytes, places: list[int]) -> list[Piece]:
    fragments = Fragments(len(content))
    pieces = [
        piece._replace(content=piece.content.tobytes())  # type: ignore[arg-type]
        for part in cut(content, places)
        for piece in fragments.feed(memoryview(part))
    ]
    assert fragments.missing == 0
    return pieces


@given(VALUES, st.lists(st.integers(0, 10_000), max_size=12))
def test_what_was_put_in_comes_out_however_it_is_cut(
    values: list[Value], places: list[int]
) -> None:
    pieces = read(body(values), places)
    flags = [(context, bool(control & 1)) for context, control, _ in values]
    joined: dict[int, bytes] = {}
    number = 0
    # Pieces of a fragment are told apart by counting bytes: a fragment is over when it is full.
    for piece in pieces:
        while len(joined.get(number, b"")) == len(values[number][2]) and number in joined:
            number += 1
        joined[number] = joined.get(number, b"") + bytes(piece.content)
        assert (piece.context_id, piece.is_command) == flags[number]
        is_full = len(joined[number]) == len(values[number][2])
        assert piece.is_last == (is_full and bool(values[number][1] & 2))
    assert [joined[n] for n in sorted(joined)] == [content for _, _, content in values]


@given(st.binary(max_size=60), st.lists(st.integers(0, 100), max_size=5))
def test_any_bytes_are_read_or_refused_and_never_made_up(content: bytes, places: list[int]) -> None:
    try:
        pieces = read(content, places)
    except Malformed:
        return
    assert sum(len(piece.content) + 6 for piece in pieces) >= len(content)
    assert all(bytes(piece.content) in content for piece in pieces)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack(">IBB", 3, 1, 0),  # a byte short
        struct.pack(">IBB", 1, 1, 0),  # shorter than what it must hold
        struct.pack(">IBB", 0xFFFFFFFF, 1, 0) + bytes(10),
        struct.pack(">IBB", 2, 1, 3) + bytes(5),  # ends within a head
    ],
)
def test_a_value_that_does_not_fit_is_refused(content: bytes) -> None:
    for places in ([], list(range(len(content)))):
        with pytest.raises(Malformed):
            read(content, places)
