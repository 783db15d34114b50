"""The quick look at a data set says what the real reader says, or leaves it to that."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from node import identity, words
from node.archive import HEAD_BYTES, Archive, Encoding
from node.errors import Refuse
from node.header import read_header
from node.identity import Identity, identify
from node.reader import HeaderReader
from node.summary import UNREAD, Pixels, modality_of
from tests.node.samples import SERIES_UID, Clock, ct, encode, enhanced_ct, new_ledger, record, store

# The receiver switches pydicom's validation off, since it quotes values.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


def slowly(content: bytes, syntax: str) -> Identity | type[Exception]:
    try:
        header = read_header(BytesIO(content), syntax)
    except Refuse as error:
        return type(error)
    return Identity(
        header.sop_class_uid,
        header.sop_instance_uid,
        header.study_uid,
        header.series_uid,
        modality_of(header.dataset),
    )


def who(content: bytes, syntax: str) -> Identity:
    return identify(content[:HEAD_BYTES], lambda: BytesIO(content), syntax)


def quickly(content: bytes, syntax: str) -> Identity | None:
    return identity._look_up(content, UID(syntax))


@pytest.mark.parametrize("syntax", PLAIN)
def test_a_plain_data_set_is_known_at_a_glance(syntax: str) -> None:
    for ds in (ct(7), enhanced_ct(3), ct(7, Modality=None), ct(7, Modality="Zebrowska")):
        content = encode(ds, syntax)
        assert quickly(content, syntax) == slowly(content, syntax)
    assert quickly(encode(ct(7, Modality="Zebrowska")), PLAIN[0]).modality == words.OTHER  # type: ignore[union-attr]


@pytest.mark.parametrize("syntax", [*PLAIN, ExplicitVRBigEndian, JPEG2000Lossless])
def test_all_encodings_are_known(syntax: str) -> None:
    content = encode(ct(7), syntax)
    assert who(content, syntax) == slowly(content, syntax)


def unusual(**changes: Any) -> Dataset:
    ds = ct(7, **changes)
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    ds.ReferencedImageSequence = [item]
    ds["ReferencedImageSequence"].is_undefined_length = True
    return ds


def test_what_is_unusual_is_left_to_the_real_reader() -> None:
    content = encode(unusual())
    assert quickly(content, ExplicitVRLittleEndian) is None
    found = who(content, ExplicitVRLittleEndian)
    assert found == slowly(content, ExplicitVRLittleEndian)


@settings(max_examples=300)
@given(
    st.sampled_from(PLAIN),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4),
    st.integers(0, 900),
)
def test_a_broken_header_is_never_known_as_another(
    syntax: str, changes: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(encode(ct(7), syntax))
    for place, value in changes:
        content[place] = value
    content = content[: 200 + length]
    quick = quickly(bytes(content), syntax)
    slow = slowly(bytes(content), syntax)
    assert quick is None or quick == slow or isinstance(slow, type)
    if isinstance(slow, Identity):
        assert who(bytes(content), syntax) == slow


def test_headers_are_read_once_from_what_is_archived(tmp_path: Any) -> None:
    ledger = new_ledger(tmp_path, Clock())
    archive = Archive(tmp_path / "archive", "receive-0")
    association = ledger.receiving.open_association("receive-0", "CT1", "US", "127.0.0.1")
    for number in (1, 2):
        ds = ct(number)
        encoding = Encoding(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian, "CT1")
        kept = store(archive, SERIES_UID, encoding, encode(ds))
        record(ledger, number, association, path=kept.path, summary=None)
    record(ledger, 3, association, path="instances/gone.dcm", summary=None)
    assert ledger.series.summaries(SERIES_UID) == (UNREAD,) * 3
    reader = HeaderReader(ledger, archive, ["trauma"])
    assert reader.read(SERIES_UID) == 3
    assert reader.read(SERIES_UID) == 0
    first, second, gone = ledger.series.summaries(SERIES_UID)
    assert (first.pixels, first.is_trauma) == (Pixels.PRESENT, True)
    assert [one.slices[0].position_mm[2] for one in (first, second)] == [1.0, 2.0]
    assert gone.refusal is not None
    assert gone.refusal.code == "header.unreadable"
    ledger.close()
