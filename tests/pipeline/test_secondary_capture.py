"""The SC series: the label contract, the checkers, two independent readers, the patient's bytes."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline import labeling, provenance, secondary_capture
from pipeline.contrast import ALL_CONTRASTS, Contrast, SeriesKind
from pipeline.errors import Corrupt, Declined
from pipeline.geometry import Grid
from pipeline.secondary_capture import Equipment, build_series
from tests.label_contract import assert_label_contract, stored_bytes

BIN = Path(sys.executable).parent
CREATED_AT = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=UTC)
EQUIPMENT = Equipment({"pseudomri": "0.1.0", "numpy": "2.4.6"}, station_name="NODE1", time_zone=UTC)
KANJI = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
# Escapes into the set that is already active: legal, and lost by decoding and encoding.
KANJI_STUDY = b"\x1b$B3[\x1b$BDG\x1b(B CT "


def ct_headers(count: int = 4, **changes: Any) -> list[Dataset]:
    """Headers of a small axial CT, enough for dciodvfy."""
    headers = []
    for index in range(count):
        ds = Dataset()
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.7.{index + 1}"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PatientName, ds.PatientID = "Doe^Jane", "P-1"
        ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19600102", "F", "065Y"
        ds.PatientSize, ds.PatientWeight = "1.62", "58.50"
        ds.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.5"
        ds.StudyDate, ds.StudyTime, ds.StudyID = "20260304", "050000", "42"
        ds.StudyDescription, ds.AccessionNumber = "CT CERVICAL SPINE TRAUMA", "A1"
        ds.ReferringPhysicianName = "Roe^Richard"
        ds.Modality, ds.SeriesNumber = "CT", 2
        ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.6"
        ds.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.8"
        ds.PositionReferenceIndicator = ""
        ds.Manufacturer, ds.ManufacturerModelName = "ACME", "Ring 1"
        ds.InstanceNumber, ds.AcquisitionNumber = index + 1, 1
        ds.ImagePositionPatient = [-100, -120, 100 + index]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [0.5, 0.5], 1
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
        headers.append(ds)
    return headers


def without(headers: list[Dataset], *keywords: str) -> list[Dataset]:
    for ds in headers:
        for keyword in keywords:
            del ds[keyword]
    return headers


def with_bytes(headers: list[Dataset], **contents: bytes) -> list[Dataset]:
    """The headers as pydicom would have read them with these undecoded values."""
    for ds in headers:
        for keyword, content in contents.items():
            tag = Tag(keyword)
            vr = pydicom.datadict.dictionary_VR(tag)
            ds[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)
        ds.set_original_encoding(False, True, ds._character_set)
    return headers


def identity_of(headers: Sequence[Dataset]) -> provenance.JobIdentity:
    job = provenance.job_id(
        headers[0].SeriesInstanceUID,
        1,
        {header.SOPInstanceUID: "c" * 64 for header in headers},
        "b" * 64,
        ALL_CONTRASTS,
        {},
    )
    return provenance.JobIdentity(
        job, ALL_CONTRASTS, provenance.seed_of(job), "pseudomri-cervical", "1.0.0", "b" * 64, {}
    )


def oblique_grid(shape: tuple[int, int, int]) -> Grid:
    """A sagittal stack turned by 7 degrees about z and 4 about x: digits in every attribute."""
    a, b = np.deg2rad(7), np.deg2rad(4)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    steps = np.array([[-3.0, 0, 0], [0, 0, -0.75], [0, 0.75, 0]]) @ (about_z @ about_x).T
    return Grid.from_steps(shape, np.array([21.123456, -101.7654321, 312.3333333]), steps)


def signal(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 1.2, shape).astype(np.float32)


SHAPE = (5, 192, 224)
GRID = oblique_grid(SHAPE)


SHEARED = Grid.from_steps(SHAPE, np.zeros(3), np.array([[-3, 1, 0], [0, 0, -1], [0, 1, 0]]))
LEFT_HANDED = Grid.from_steps(SHAPE, np.zeros(3), np.array([[3, 0, 0], [0, 0, -1], [0, 1, 0]]))


def build(
    headers: Sequence[Dataset], kind: SeriesKind = SeriesKind.T2, **changes: Any
) -> list[Dataset]:
    arguments: dict[str, Any] = {
        "values": signal(SHAPE),
        "grid": GRID,
        "kind": kind,
        "headers": headers,
        "created_at": CREATED_AT,
        "equipment": EQUIPMENT,
    }
    if headers:
        arguments["frame_of_reference_uid"] = headers[0].get("FrameOfReferenceUID", "")
        arguments["identity"] = identity_of(headers)
    return build_series(**{**arguments, **changes})


def save(datasets: Sequence[Dataset], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{ds.SOPInstanceUID}.dcm" for ds in datasets]
    for ds, path in zip(datasets, paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    return paths


def through_files(datasets: Sequence[Dataset], folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in save(datasets, folder)]


def save_ct(
    headers: Sequence[Dataset], folder: Path, syntax: str = ExplicitVRLittleEndian
) -> list[Path]:
    for ds in headers:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(syntax)
    return save(headers, folder)


def complaints(path: Path) -> list[str]:
    """What dciodvfy objects to; its exit status says nothing."""
    ran = subprocess.run([BIN / "dciodvfy", path], capture_output=True, text=True, check=False)
    assert "SCImage" in ran.stderr, f"dciodvfy did not look at it: {ran.stderr}"
    return re.findall(r"^(?:Error|Warning).*", ran.stderr, flags=re.MULTILINE)


def disagreements(paths: Sequence[Path]) -> str:
    """What dcentvfy finds different between objects of one patient, study or series."""
    ran = subprocess.run([BIN / "dcentvfy", *paths], capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("kind", SeriesKind)
def test_contract_and_checkers(kind: SeriesKind, tmp_path: Path) -> None:
    headers = ct_headers()
    ct_paths = save_ct(headers, tmp_path / "ct")
    notes = ("UNSUPPORTED (9003): canal 4%", "WARNING canal uncertain")
    series = build(headers, kind, side_notes=[(50, "C2/3")], foot_notes=notes)
    paths = save(series, tmp_path / "sc")
    assert str(series[0].ImageComments).endswith("; ".join(notes))
    assert_label_contract([pydicom.dcmread(path) for path in paths], headers)
    for path in paths:
        assert complaints(path) == []
    assert disagreements([*ct_paths, *paths]) == ""


def test_all_series_of_a_job(tmp_path: Path) -> None:
    headers = ct_headers()
    results = [ds for kind in SeriesKind for ds in build(headers, kind)]
    arrived = through_files(results, tmp_path)
    assert_label_contract(arrived, headers)
    assert len({ds.SeriesInstanceUID for ds in arrived}) == 3


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    one = save(build(ct_headers()), tmp_path / "one")
    other = save(build(ct_headers()), tmp_path / "other")
    for a, b in zip(one, other, strict=True):
        assert a.name == b.name
        assert a.read_bytes() == b.read_bytes()


def test_file_meta_is_ours(tmp_path: Path) -> None:
    (arrived, *_) = through_files(build(ct_headers()), tmp_path)
    meta = arrived.file_meta
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.ImplementationClassUID == secondary_capture.IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationClassUID.startswith("2.25.")
    assert meta.ImplementationVersionName == "PSEUDOMRI_0_1"
    assert meta.MediaStorageSOPInstanceUID == arrived.SOPInstanceUID


def test_pixels_and_comments_are_those_of_the_job(tmp_path: Path) -> None:
    headers = ct_headers()
    identity = identity_of(headers)
    for index, ds in enumerate(through_files(build(headers), tmp_path)):
        expected = labeling.to_pixels(signal(SHAPE))[index]
        np.testing.assert_array_equal(labeling.unmarked(ds.pixel_array), expected)
        for text in (ds.ImageComments, ds.DerivationDescription):
            for part in (identity.job_id, identity.model_digest, str(identity.seed)):
                assert part in text


# --- where it lies ---------------------------------------------------------------------------


def test_simpleitk_reads_our_geometry(tmp_path: Path) -> None:
    paths = save(build(ct_headers()), tmp_path)
    image = SimpleITK.ReadImage([str(path) for path in paths])
    marked = labeling.marked_grid(GRID)
    for index in ((0, 0, 0), (4, 0, 0), (0, marked.shape[1] - 1, 0), (2, 100, 280)):
        read_mm = image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index[::-1]])
        expected_mm = marked.to_mm(np.array(index, dtype=np.float64))
        np.testing.assert_allclose(read_mm, expected_mm, atol=1e-4)
    assert image.GetSize() == marked.shape[::-1]
    np.testing.assert_allclose(image.GetSpacing(), marked.spacing_mm[::-1], atol=1e-6)
    # The first pixel of the anatomy, in the index of the file.
    inner = image.TransformPhysicalPointToIndex([float(v) for v in GRID.origin_mm])
    assert inner == (labeling.MARGIN_COLUMNS, labeling.MARGIN_ROWS, 0)


def test_simpleitk_sorts_the_series(tmp_path: Path) -> None:
    paths = save(build(ct_headers()), tmp_path)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    assert [Path(name).name for name in names] in (
        [path.name for path in paths],
        [path.name for path in reversed(paths)],
    )


def test_highdicom_reads_our_geometry(tmp_path: Path) -> None:
    arrived = through_files(build(ct_headers()), tmp_path)
    volume = highdicom.get_volume_from_series(arrived)
    marked = labeling.marked_grid(GRID)
    assert volume.frame_of_reference_uid == ct_headers()[0].FrameOfReferenceUID
    ours = volume
    if np.dot(volume.affine[:3, 0], GRID.steps_mm[0]) < 0:
        ours = volume.flip_spatial(0)  # it may count slices the other way
    np.testing.assert_allclose(ours.affine, marked.affine, atol=1e-4)
    pixels = np.stack([ds.pixel_array for ds in arrived])
    np.testing.assert_array_equal(ours.array, pixels)


def test_patient_orientation_follows_the_stack() -> None:
    straight = Grid.from_steps(
        SHAPE, np.zeros(3), np.array([[-3.0, 0, 0], [0, 0, -0.75], [0, 0.75, 0]])
    )
    assert list(build(ct_headers(), grid=straight)[0].PatientOrientation) == ["P", "F"]
    # Turned by 30 degrees: columns run to posterior and left.
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turned = Grid.from_steps(SHAPE, np.zeros(3), np.array([[-c, s, 0], [0, 0, -1], [s, c, 0]]))
    assert list(build(ct_headers(), grid=turned)[0].PatientOrientation) == ["PL", "F"]


# --- whose it is -----------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("was_looked_at", [False, True])
def test_japanese_names_keep_their_bytes(syntax: str, was_looked_at: bool, tmp_path: Path) -> None:
    source = with_bytes(ct_headers(SpecificCharacterSet=["", "ISO 2022 IR 87"]), PatientName=KANJI)
    paths = save_ct(source, tmp_path / "ct", syntax)
    headers = [pydicom.dcmread(path) for path in paths]
    if was_looked_at:
        assert str(headers[0].PatientName).split("=")[1] == "山田^太郎"
    results = build(headers)
    assert str(results[1].PatientName).split("=")[1] == "山田^太郎"
    result_paths = save(results, tmp_path / "sc")
    for path in result_paths:
        assert KANJI in path.read_bytes()
        assert b"\\ISO 2022 IR 87" in path.read_bytes()
        assert complaints(path) == []
    assert disagreements([*paths, *result_paths]) == ""
    assert_label_contract([pydicom.dcmread(path) for path in result_paths], headers)


def test_bytes_that_decoding_would_change_are_kept(tmp_path: Path) -> None:
    source = with_bytes(
        ct_headers(SpecificCharacterSet=["", "ISO 2022 IR 87"]),
        StudyDescription=KANJI_STUDY,
        PatientID=b" P-1  ",
        PatientWeight=b"58.50 ",
    )
    headers = [pydicom.dcmread(path) for path in save_ct(source, tmp_path / "ct")]
    for path in save(build(headers), tmp_path / "sc"):
        arrived = pydicom.dcmread(path)
        assert arrived.get_item("StudyDescription").value == KANJI_STUDY
        assert arrived.get_item("PatientID").value == b" P-1  "
        assert arrived.get_item("PatientWeight").value == b"58.50 "


def test_utf8_and_latin1(tmp_path: Path) -> None:
    for name, charset in (("Müller^Jörg", "ISO_IR 100"), ("山田^太郎", "ISO_IR 192")):
        headers = ct_headers(SpecificCharacterSet=charset, PatientName=name)
        arrived = through_files(build(headers), tmp_path / charset)
        assert arrived[0].PatientName == name
        assert_label_contract(arrived, headers)


@pytest.mark.parametrize("charset", [None, "", "ISO_IR 6"])
@pytest.mark.parametrize("keyword", ["PatientName", "StudyDescription", "InstitutionName"])
def test_characters_nobody_declared_are_declined(charset: str | None, keyword: str) -> None:
    headers = ct_headers()
    if charset is not None:
        for ds in headers:
            ds.SpecificCharacterSet = charset
    with_bytes(headers, **{keyword: KANJI})
    with pytest.raises(Declined) as declined:
        build(headers)
    assert declined.value.code == "charset.absent"
    assert keyword in declined.value.found
    assert "Yamada" not in str(declined.value)


def test_declared_scanner_texts_may_be_japanese(tmp_path: Path) -> None:
    headers = ct_headers(SpecificCharacterSet=["", "ISO 2022 IR 87"], InstitutionName="救急病院")
    (path, *_) = save(build(headers), tmp_path)
    scanner = pydicom.dcmread(path).ContributingEquipmentSequence[1]
    assert scanner.InstitutionName == "救急病院"
    assert complaints(path) == []


def test_two_patients_in_one_series_are_declined() -> None:
    headers = ct_headers()
    headers[2].PatientID = "P-2"
    with pytest.raises(Declined) as declined:
        build(headers)
    assert declined.value.code == "patient.mixed"
    assert "P-2" not in str(declined.value)


def test_a_bare_ct_gives_a_valid_result(tmp_path: Path) -> None:
    """Type 2 attributes absent altogether, no manufacturer, nothing optional."""
    bare = (
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "PatientAge",
        "StudyID",
        "StudyTime",
        "StudyDescription",
        "AccessionNumber",
        "ReferringPhysicianName",
        "Manufacturer",
        "ManufacturerModelName",
        "PositionReferenceIndicator",
    )
    headers = without(ct_headers(), *bare)
    paths = save(build(headers), tmp_path)
    # What the CT does not say is left empty, not invented, whatever a DICOMDIR would like.
    assert all("needed to build DICOMDIR - Study" in line for line in complaints(paths[0]))
    assert_label_contract([pydicom.dcmread(path) for path in paths], headers)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_without_a_study_or_a_space_there_is_no_result(keyword: str) -> None:
    with pytest.raises(Corrupt, match=keyword):
        build(without(ct_headers(), keyword))


def test_deidentified_stays_deidentified(tmp_path: Path) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = "113100", "DCM"
    item.CodeMeaning = "Basic Application Confidentiality Profile"
    item.add_new(0x00091001, "LO", "private")
    headers = ct_headers(PatientIdentityRemoved="YES", DeidentificationMethodCodeSequence=[item])
    arrived = through_files(build(headers), tmp_path)
    assert arrived[0].PatientIdentityRemoved == "YES"
    assert arrived[0].DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert_label_contract(arrived, headers)
    assert 0x00091001 in item, "the header itself is left alone"


# --- history and time ------------------------------------------------------------------------


def test_one_lossy_slice_makes_the_result_lossy(tmp_path: Path) -> None:
    headers = ct_headers()
    headers[2].LossyImageCompression = "01"
    headers[2].LossyImageCompressionRatio = "12.5"
    headers[2].LossyImageCompressionMethod = "ISO_15444_1"
    paths = save(build(headers), tmp_path)
    arrived = [pydicom.dcmread(path) for path in paths]
    assert_label_contract(arrived, headers)
    assert arrived[0].LossyImageCompressionRatio == 12.5
    assert arrived[0].LossyImageCompressionMethod == "ISO_15444_1"
    assert complaints(paths[0]) == []


def test_times_are_the_argument_in_the_time_of_the_ct() -> None:
    ds = build(ct_headers())[0]
    assert (ds.ContentDate, ds.ContentTime) == ("20260304", "050607.000890")
    assert ds.InstanceCreationTime == ds.SeriesTime == ds.TimeOfSecondaryCapture == ds.ContentTime
    utc = datetime(2026, 3, 4, 20, 0, tzinfo=UTC)
    ds = build(ct_headers(TimezoneOffsetFromUTC="+0900"), created_at=utc)[0]
    assert (ds.ContentDate, ds.ContentTime) == ("20260305", "050000.000000")
    assert ds.TimezoneOffsetFromUTC == "+0900"


@pytest.mark.parametrize("offset", [None, "+9:00", "JST", "-9900"])
def test_times_are_the_sites_where_the_ct_does_not_tell_its_time_zone(offset: str | None) -> None:
    """Else the result of a night in Tokyo would be older than its study."""
    headers = ct_headers() if offset is None else ct_headers(TimezoneOffsetFromUTC=offset)
    tokyo = dataclasses.replace(EQUIPMENT, time_zone=ZoneInfo("Asia/Tokyo"))
    utc = datetime(2026, 3, 4, 18, 0, tzinfo=UTC)
    ds = build(headers, created_at=utc, equipment=tokyo)[0]
    assert (ds.SeriesDate, ds.SeriesTime) == ("20260305", "030000.000000")


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        build(ct_headers(), created_at=datetime(2026, 3, 4))


@pytest.mark.parametrize(
    "changes",
    [
        {"values": signal((4, 192, 224))},
        {"frame_of_reference_uid": "1.2.3"},
        {"grid": SHEARED},
        {"grid": LEFT_HANDED},
        {"values": np.full(SHAPE, np.inf, dtype=np.float32)},
    ],
)
def test_arguments_that_contradict_each_other(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        build(ct_headers(), **changes)


def test_a_contrast_of_another_job() -> None:
    headers = ct_headers()
    identity = dataclasses.replace(identity_of(headers), contrasts=(Contrast.T2,))
    with pytest.raises(ValueError, match="not a contrast of this job"):
        build(headers, SeriesKind.STIR, identity=identity)


def test_no_headers() -> None:
    identity = identity_of(ct_headers())
    with pytest.raises(ValueError, match="headers of the CT"):
        build([], frame_of_reference_uid="1.2.3", identity=identity)


def test_equipment_is_valid_or_is_not() -> None:
    for software, station in (({}, ""), ({"pseudomri": "1"}, "a name beyond sixteen")):
        with pytest.raises(ValueError):
            Equipment(software, station)


# --- the contract itself ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return through_files(build(ct_headers()), tmp_path_factory.mktemp("sound"))


def _set(keyword: str, value: Any) -> Callable[[Dataset], None]:
    return lambda ds: setattr(ds, keyword, value)


def _drop(keyword: str) -> Callable[[Dataset], None]:
    return lambda ds: delattr(ds, keyword)


def _unmark(ds: Dataset) -> None:
    pixels = ds.pixel_array.copy()
    pixels[: labeling.MARGIN_ROWS] = 0
    ds.PixelData = pixels.tobytes()


def _forget_a_source(ds: Dataset) -> None:
    del ds.SourceImageSequence[0]


def _add_private(ds: Dataset) -> None:
    ds.SourceImageSequence[0].add_new(0x00091001, "LO", "private")


KIND = ["DERIVED", "SECONDARY", "OTHER", "AI_SYNTHETIC", "T2"]
MUTATIONS: dict[str, Callable[[Dataset], None]] = {
    "Modality MR": _set("Modality", "MR"),
    "Image Type ORIGINAL": _set(
        "ImageType", ["ORIGINAL", "PRIMARY", "OTHER", "AI_SYNTHETIC", "T2"]
    ),
    "Image Type short": _set("ImageType", KIND[:3]),
    "contrast STIR": _set("ImageType", [*KIND[:4], "STIR"]),
    "kind SUPPORT": _set("ImageType", [*KIND[:4], "SUPPORT"]),
    "Conversion Type DI": _set("ConversionType", "DI"),
    "Synthetic Data MAYBE": _set("SyntheticData", "MAYBE"),
    "no Synthetic Data": _drop("SyntheticData"),
    "Content Qualification PRODUCT": _set("ContentQualification", "PRODUCT"),
    "burned in YES": _set("BurnedInAnnotation", "YES"),
    "a plain description": _set("SeriesDescription", "T2 SAG"),
    "series number 3": _set("SeriesNumber", 3),
    "no comments": _drop("ImageComments"),
    "an innocent comment": _set("ImageComments", "T2 TSE sagittal"),
    "no derivation": _drop("DerivationDescription"),
    "no derivation code": _drop("DerivationCodeSequence"),
    "no equipment": _drop("ContributingEquipmentSequence"),
    "no sources": _drop("SourceImageSequence"),
    "one source less": _forget_a_source,
    "no referenced series": _drop("ReferencedSeriesSequence"),
    "another space": _set("FrameOfReferenceUID", "1.2.3"),
    "no slice location": _drop("SliceLocation"),
    "a moved slice": _set("ImagePositionPatient", [0, 0, 0]),
    "no body part": _drop("BodyPartExamined"),
    "another patient": _set("PatientID", "P-2"),
    "another name": _set("PatientName", "Doe^John"),
    "another study": _set("StudyInstanceUID", "1.2.3"),
    "no study description": _drop("StudyDescription"),
    "a foreign UID": _set("SOPInstanceUID", "1.2.3"),
    "16 bits stored": _set("BitsStored", 16),
    "a rescale": _set("RescaleSlope", 2),
    "a dark window": _set("WindowCenter", 20000),
    "an echo time": _set("EchoTime", 90),
    "private tags": _add_private,
    "no mark": _unmark,
}


def test_the_contract_holds_for_the_sound(sound: list[Dataset]) -> None:
    assert_label_contract(sound, ct_headers())


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize("of", ["one slice", "every slice"])
def test_the_contract_notices(name: str, of: str, sound: list[Dataset]) -> None:
    datasets = copy.deepcopy(sound)
    for ds in datasets if of == "every slice" else datasets[2:3]:
        MUTATIONS[name](ds)
    with pytest.raises(AssertionError):
        assert_label_contract(datasets, ct_headers())


def test_the_contract_notices_a_forgotten_loss(sound: list[Dataset]) -> None:
    headers = ct_headers(LossyImageCompression="01", LossyImageCompressionRatio="9")
    with pytest.raises(AssertionError, match="lossy"):
        assert_label_contract(sound, headers)


def test_the_contract_notices_slices_twice_or_none(sound: list[Dataset]) -> None:
    with pytest.raises(AssertionError, match="twice"):
        assert_label_contract([*sound, sound[0]], ct_headers())
    with pytest.raises(AssertionError):
        assert_label_contract(sound[1:], ct_headers())
    with pytest.raises(AssertionError, match="nothing"):
        assert_label_contract([], ct_headers())


# --- a real CT -------------------------------------------------------------------------------


@pytest.mark.data
def test_with_the_headers_of_a_real_ct(tmp_path: Path) -> None:
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("PSEUDOMRI_TEST_DATA") or default) / "neck-ct"
    if not folder.is_dir():
        pytest.skip("no neck-ct: set PSEUDOMRI_TEST_DATA to the folder of the reference data")
    ct_paths = sorted(folder.glob("*.dcm"))
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in ct_paths]
    results = [ds for kind in SeriesKind for ds in build(headers, kind)]
    paths = save(results, tmp_path)
    arrived = [pydicom.dcmread(path) for path in paths]
    assert_label_contract(arrived, headers)
    assert stored_bytes(arrived[0], "LossyImageCompression") == b"01"
    for path in paths:
        assert complaints(path) == []
    assert disagreements([*ct_paths, *paths]) == ""
