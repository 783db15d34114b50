"""The label contract: every row of the table of what leaves the node, asserted on what arrived.

No checker does this: dciodvfy is silent on a Modality of MR or a missing reference. Give
`assert_label_contract` datasets as a reader gets them, from a folder or from a PACS.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from pipeline import labeling
from pipeline.contrast import SeriesKind

SERIES_NUMBERS = {"T2": 9001, "STIR": 9002, "SUPPORT": 9003}
# Copied byte for byte; a type 2 attribute that the CT lacks is present and empty.
IDENTITY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "IssuerOfPatientID",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "SpecificCharacterSet",
)
MADE_BY = re.compile(r"Model \S.* \S+, weights SHA-256 [0-9a-f]{64}, seed \d+, job [0-9a-f]{64}\.")
# Any of these would claim that magnetic resonance was measured.
MR_PHYSICS = (
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "MagneticFieldStrength",
    "ImagingFrequency",
    "SequenceName",
    "PulseSequenceName",
    "ScanningSequence",
    "SequenceVariant",
    "MRAcquisitionType",
    "EchoTrainLength",
)
RESCALE = (
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "PixelPaddingValue",
)


def assert_label_contract(datasets: Sequence[Dataset], source_headers: Sequence[Dataset]) -> None:
    """Assert that these results, of one or more series of one CT, are labelled as they must be.

    Args:
        datasets: All instances that arrived, with pixel data, in any order.
        source_headers: All CT instances that were used.

    Raises:
        AssertionError: At the first row that does not hold.
    """
    assert datasets, "nothing arrived"
    uids = [ds.SOPInstanceUID for ds in datasets]
    assert len(set(uids)) == len(uids), "an instance UID is used twice"
    series: dict[str, list[Dataset]] = {}
    for ds in datasets:
        series.setdefault(str(ds.SeriesInstanceUID), []).append(ds)
    source_series = {str(header.SeriesInstanceUID) for header in source_headers}
    assert not source_series & series.keys(), "the result is in the series of the CT"
    numbers = [int(members[0].SeriesNumber) for members in series.values()]
    assert len(set(numbers)) == len(numbers), f"series numbers {numbers} are not unique"
    for members in series.values():
        try:
            _assert_series(sorted(members, key=lambda ds: int(ds.InstanceNumber)), source_headers)
        except (AttributeError, KeyError) as absent:
            raise AssertionError(f"an attribute is absent: {absent}") from absent


def _assert_series(series: Sequence[Dataset], source_headers: Sequence[Dataset]) -> None:
    for ds in series:
        _assert_kind(ds)
        _assert_texts(ds)
        _assert_coded(ds)
        _assert_references(ds, source_headers)
        _assert_identity(ds, source_headers[0])
        _assert_pixel_format(ds)
        _assert_lossy(ds, source_headers)
        assert not _private_tags(ds)
    constant = (
        "ImageType",
        "SeriesNumber",
        "SeriesDescription",
        "Rows",
        "Columns",
        "PixelSpacing",
        "ImageOrientationPatient",
        "ImageComments",
        "WindowCenter",
    )
    for keyword in constant:
        assert len({str(ds[keyword].value) for ds in series}) == 1, f"{keyword} differs"
    assert [int(ds.InstanceNumber) for ds in series] == list(range(1, len(series) + 1))
    _assert_geometry(series)
    pixels = np.stack([_pixels(ds) for ds in series])
    kind = SeriesKind(series[0].ImageType[4])
    score = labeling.mark_score(pixels, kind)
    assert labeling.has_mark(pixels, kind), f"the mark is not in the pixels: {score:.3f}"
    assert labeling.unmarked(pixels).any(), "nothing but the mark"


def _assert_kind(ds: Dataset) -> None:
    assert ds.SOPClassUID == SecondaryCaptureImageStorage
    assert "NumberOfFrames" not in ds
    assert ds.Modality == "OT"
    for keyword in MR_PHYSICS:
        assert keyword not in ds, f"{keyword} claims a measurement"
    assert list(ds.ImageType[:4]) == ["DERIVED", "SECONDARY", "OTHER", "AI_SYNTHETIC"]
    assert len(ds.ImageType) == 5
    assert ds.ConversionType == "SYN"
    assert ds.get("SyntheticData") == "YES"
    assert ds.get("ContentQualification") == "RESEARCH"
    assert ds.get("BurnedInAnnotation") == "NO"
    assert ds.get("BodyPartExamined") == "CSPINE"
    assert ds.SeriesNumber == SERIES_NUMBERS[ds.ImageType[4]]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        number = ds[keyword].value.removeprefix("2.25.")
        assert number.isdigit(), f"{keyword} is not under 2.25."
        assert not number.startswith("0")
        assert int(number) < 1 << 128


def _assert_texts(ds: Dataset) -> None:
    kind = ds.ImageType[4]
    description = str(ds.SeriesDescription)
    assert description.startswith(f"AI SYNTH NOT MRI {kind}"), description
    assert description.isascii()
    assert len(description) <= 32
    for keyword in ("ImageComments", "DerivationDescription"):
        text = str(ds[keyword].value)
        assert text.startswith("AI SYNTHETIC - NOT AN MRI"), f"{keyword} lacks the warning"
        assert MADE_BY.search(text), f"{keyword} lacks model, weights digest, seed or job id"
    assert len(str(ds.DerivationDescription)) <= 1024
    if kind == "SUPPORT":
        assert "hatched where" in ds.ImageComments, "nothing says what the support map shows"


def _assert_coded(ds: Dataset) -> None:
    codes = [_code(item) for item in ds.get("DerivationCodeSequence", [])]
    assert codes == [("113072", "DCM"), ("113085", "DCM")]
    contributors = {
        _code(item.PurposeOfReferenceCodeSequence[0]): item
        for item in ds.get("ContributingEquipmentSequence", [])
    }
    assert set(contributors) == {("109100", "DCM"), ("109101", "DCM")}
    versions = [str(version) for version in contributors["109100", "DCM"].SoftwareVersions]
    assert any(version.startswith("pseudomri ") for version in versions), versions
    assert contributors["109101", "DCM"].Manufacturer


def _assert_references(ds: Dataset, source_headers: Sequence[Dataset]) -> None:
    expected = sorted(str(header.SOPInstanceUID) for header in source_headers)
    sources = ds.get("SourceImageSequence", [])
    assert sorted(str(item.ReferencedSOPInstanceUID) for item in sources) == expected
    classes = {str(header.SOPInstanceUID): header.SOPClassUID for header in source_headers}
    for item in sources:
        assert item.ReferencedSOPClassUID == classes[item.ReferencedSOPInstanceUID]
        assert _code(item.PurposeOfReferenceCodeSequence[0]) == ("121322", "DCM")
        assert item.SpatialLocationsPreserved == "YES"
    (series,) = ds.get("ReferencedSeriesSequence", [Dataset()])
    assert series.SeriesInstanceUID == source_headers[0].SeriesInstanceUID
    members = [str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence]
    assert sorted(members) == expected


def _assert_identity(ds: Dataset, header: Dataset) -> None:
    for keyword in IDENTITY:
        assert stored_bytes(ds, keyword) == stored_bytes(header, keyword), f"{keyword} differs"
    for keyword in IDENTITY[:4]:
        assert keyword in ds, f"{keyword} is absent"


def _assert_geometry(series: Sequence[Dataset]) -> None:
    positions = np.array([ds.ImagePositionPatient for ds in series], dtype=np.float64)
    column, row = np.array(series[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    normal = np.cross(column, row)
    assert np.allclose([column @ column, row @ row, column @ row], [1, 1, 0], atol=1e-6)
    for ds in series:
        for keyword in ("SliceThickness", "SpacingBetweenSlices", "SliceLocation", "PixelSpacing"):
            assert keyword in ds, f"{keyword} is absent"
    locations = np.array([float(ds.SliceLocation) for ds in series])
    assert np.allclose(locations, positions @ normal, atol=1e-4)
    for one, other in itertools.pairwise(positions):
        expected = normal * float(series[0].SpacingBetweenSlices)
        assert np.allclose(other - one, expected, atol=1e-4), "slices are uneven"


def _assert_pixel_format(ds: Dataset) -> None:
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    expected = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
    }
    for keyword, value in expected.items():
        assert ds[keyword].value == value, f"{keyword} is {ds[keyword].value}"
    for keyword in RESCALE:
        assert keyword not in ds, f"{keyword} changes what pixels mean"
    # Signal 0 to CSF must be inside the window.
    low = float(ds.WindowCenter) - float(ds.WindowWidth) / 2
    high = float(ds.WindowCenter) + float(ds.WindowWidth) / 2
    assert low <= 200
    assert labeling.SIGNAL_SCALE <= high <= labeling.HIGHEST_PIXEL
    assert _pixels(ds).max() <= labeling.HIGHEST_PIXEL


def _assert_lossy(ds: Dataset, source_headers: Sequence[Dataset]) -> None:
    lossy = [header for header in source_headers if header.get("LossyImageCompression") == "01"]
    if not lossy:
        return
    assert ds.get("LossyImageCompression") == "01", "a lossy CT gives lossy results"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if any(header.get(keyword) for header in lossy):
            assert ds.get(keyword), f"{keyword} is absent"


def _private_tags(ds: Dataset) -> list[BaseTag]:
    """Private tags at any depth; texts stay undecoded, so their bytes can still be compared."""
    found = [tag for tag in ds.keys() if tag.is_private]  # noqa: SIM118  iterating decodes
    for tag in ds.keys():  # noqa: SIM118
        if not tag.is_private and dictionary_VR(tag) == "SQ":
            found += [inner for item in ds[tag].value for inner in _private_tags(item)]
    return found


def _code(item: Dataset) -> tuple[str, str]:
    return str(item.CodeValue), str(item.CodingSchemeDesignator)


def _pixels(ds: Dataset) -> NDArray[np.uint16]:
    return np.frombuffer(ds.PixelData, dtype="<u2").reshape(ds.Rows, ds.Columns)


def stored_bytes(ds: Dataset, keyword: str) -> bytes:
    """The value as it is in the dataset's file, without padding; empty when absent."""
    tag = Tag(keyword)
    element = ds.get_item(tag) if tag in ds else None
    if element is None:
        return b""
    if isinstance(element, RawDataElement):
        return (element.value or b"").rstrip(b" \0")
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_data_element(buffer, element, ds.get("SpecificCharacterSet") or "ISO_IR 6")
    return buffer.getvalue()[8:].rstrip(b" \0")
