"""Headers: good, cut off, and hostile. Whatever comes, the answer is a header or a refusal."""

from __future__ import annotations

import random
import zlib
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from node import header
from node.header import Header, Unidentified, Unreadable, read_header
from node.summary import InstanceSummary, Pixels, summarize
from tests.node.samples import PATIENT, SERIES_UID, STUDY_UID, ct, encapsulated, encode, enhanced_ct

WORDS = ("trauma",)

# The receiver switches pydicom's validation off, since it quotes values.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def summary_of(content: bytes, syntax: str = ExplicitVRLittleEndian) -> InstanceSummary:
    found = read(content, syntax)
    return summarize(found.dataset, found.pixels, WORDS)


def read(content: bytes, syntax: str) -> Header:
    return read_header(BytesIO(content), syntax)


def deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_header_is_read_in_every_encoding(syntax: str) -> None:
    found = read(encode(ct(7), syntax), syntax)
    assert (found.study_uid, found.series_uid) == (STUDY_UID, SERIES_UID)
    assert found.sop_instance_uid == f"{SERIES_UID}.7"
    assert found.pixels is Pixels.PRESENT
    assert "PixelData" not in found.dataset


def test_a_deflated_header_is_read() -> None:
    content = deflate(encode(ct(7)))
    assert read(content, DeflatedExplicitVRLittleEndian).pixels is Pixels.PRESENT


def test_what_inflates_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "INFLATED_BYTES", 1000)
    with pytest.raises(Unreadable, match="inflates"):
        read(deflate(bytes(100_000)), DeflatedExplicitVRLittleEndian)
    with pytest.raises(Unreadable):
        read(b"no deflate stream", DeflatedExplicitVRLittleEndian)


def test_a_summary_has_what_completion_and_selection_need() -> None:
    summary = summary_of(encode(ct(7)))
    (one,) = summary.slices
    assert one.position_mm == (-4.0, -4.0, 7.0)
    assert one.pixel_mm == (0.5, 0.5)
    assert one.thickness_mm == 1.0
    assert summary.kernel == "BR40F"
    assert summary.body_part == "CSPINE"
    assert summary.is_trauma
    assert summary.refusal is None
    assert InstanceSummary.from_json(summary.to_json()) == summary


def test_an_enhanced_ct_has_a_slice_per_frame() -> None:
    summary = summary_of(encode(enhanced_ct(5)))
    assert [one.position_mm[2] for one in summary.slices] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert summary.refusal is None
    assert InstanceSummary.from_json(summary.to_json()) == summary


def test_a_summary_names_no_patient() -> None:
    for ds in (ct(7), ct(7, Modality="MR"), ct(7, ImagePositionPatient=None), enhanced_ct(2)):
        text = str(summary_of(encode(ds)).to_json())
        assert not [word for word in PATIENT if word in text]
        assert "Sturz" not in text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Modality": "MR"}, "series.class"),
        ({"SamplesPerPixel": 3}, "pixels.color"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "series.localizer"),
        ({"ImagePositionPatient": None}, "slices.geometry"),
        ({"PixelSpacing": [0, 0]}, "slices.geometry"),
    ],
)
def test_what_the_pipeline_would_refuse_is_noted(changes: dict[str, object], code: str) -> None:
    summary = summary_of(encode(ct(7, **changes)))
    assert summary.slices == ()
    assert summary.refusal is not None
    assert summary.refusal.code == code


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("uid", [None, "", "../../etc", "1..2", "1" * 65])
def test_a_data_set_without_its_uids_is_refused(keyword: str, uid: str | None) -> None:
    with pytest.raises(Unidentified, match=keyword):
        read(encode(ct(7, **{keyword: uid})), ExplicitVRLittleEndian)


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"GIF89a" * 50, b"\x08\x00\x16\x00UI"])
def test_what_is_no_data_set_is_refused(content: bytes) -> None:
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        with pytest.raises((Unreadable, Unidentified)):
            read(content, syntax)


def test_missing_and_empty_pixel_data_is_absent() -> None:
    for ds in (ct(7, PixelData=None), ct(7, PixelData=b"")):
        assert read(encode(ds), ExplicitVRLittleEndian).pixels is Pixels.ABSENT


def test_pixel_data_shorter_than_the_image_is_truncated() -> None:
    ds = ct(7, PixelData=bytes(100))
    assert read(encode(ds), ExplicitVRLittleEndian).pixels is Pixels.TRUNCATED
    frames = ct(7, NumberOfFrames=2)
    assert read(encode(frames), ExplicitVRLittleEndian).pixels is Pixels.TRUNCATED


def test_encapsulated_pixel_data_is_walked_to_its_end() -> None:
    content = encode(encapsulated(ct(7)))
    assert read(content, JPEG2000Lossless).pixels is Pixels.PRESENT
    assert read(content[:-8], JPEG2000Lossless).pixels is Pixels.TRUNCATED
    assert read(content[:-20], JPEG2000Lossless).pixels is Pixels.TRUNCATED
    frames = encode(encapsulated(ct(7, NumberOfFrames=2)))
    assert read(frames, JPEG2000Lossless).pixels is Pixels.TRUNCATED


def test_wherever_it_is_cut_it_is_never_taken_for_whole() -> None:
    content = encode(ct(7))
    for end in range(0, len(content), 3):
        try:
            pixels = read(content[:end], ExplicitVRLittleEndian).pixels
        except (Unreadable, Unidentified):
            continue
        assert pixels is not Pixels.PRESENT


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
def test_flipped_bytes_give_a_summary_or_a_refusal(seed: int, syntax: str) -> None:
    rng = random.Random(seed)
    content = bytearray(encode(ct(7), syntax))
    for _ in range(rng.randrange(1, 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    try:
        summary = summary_of(bytes(content), syntax)
    except (Unreadable, Unidentified):
        return
    assert InstanceSummary.from_json(summary.to_json()) == summary
