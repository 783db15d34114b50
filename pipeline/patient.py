"""Whose images these are: the patient and study of the CT, copied byte for byte.

A PACS files by these values. Decoding and encoding them again can change bytes that mean the same
(escape sequences of ISO 2022, trailing spaces), and then one patient becomes two. So values go
from one dataset to the other as they were read, under the same Specific Character Set (0008,0005).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag

from pipeline.errors import Corrupt, Declined

# Type 2 (PS3.3 C.7.1.1, C.7.2.1, C.7.4.1): present in every result, empty when the CT has none.
REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
# Copied when the CT has them: Patient, Clinical de-identification, Study, Patient Study, time zone.
OPTIONAL = (
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "PatientBirthTime",
    "OtherPatientNames",
    "OtherPatientIDs",
    "EthnicGroup",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "AdmittingDiagnosesDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "Occupation",
    "AdditionalPatientHistory",
    "AdmissionID",
    "TimezoneOffsetFromUTC",
)
SEQUENCES = (
    "IssuerOfPatientIDQualifiersSequence",
    "IssuerOfAccessionNumberSequence",
    "DeidentificationMethodCodeSequence",
)
# What must not differ between the slices of one series.
_SAME_IN_ALL = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "FrameOfReferenceUID")
# ISO_IR 6 and no character set at all are the same: ASCII (PS3.5 6.1.2).
_ASCII_ONLY = frozenset({b"", b"ISO_IR 6", b"ISO 2022 IR 6"})


class _Value(NamedTuple):
    tag: BaseTag
    vr: str
    content: bytes


def copy_identity(headers: Sequence[Dataset], target: Dataset) -> None:
    """Copy character set, patient, study and frame of reference of a CT series.

    Args:
        headers: Of all CT slices, best untouched since they were read: then every byte is kept.
        target: Gets the elements; it is afterwards an Explicit VR Little Endian dataset.

    Raises:
        Declined: ``patient.mixed`` when slices disagree about whose they are;
            ``charset.absent`` when a text has other than ASCII bytes and nothing says which
            characters they mean.
        Corrupt: ``identity.absent`` without a Study Instance UID or a Frame of Reference UID.
    """
    _check_same(headers)
    source = headers[0]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not _bytes(source, keyword):
            raise Corrupt(
                "identity.absent",
                found=f"no {keyword}",
                expected=f"{keyword} in every slice",
                remedy="Send the series again from its source.",
            )
    values = [_value(source, keyword) for keyword in REQUIRED]
    values += [
        _value(source, keyword)
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", *OPTIONAL)
        if keyword in source
    ]
    check_characters(source, (*REQUIRED, *OPTIONAL))
    character_set = source.get("SpecificCharacterSet")
    if character_set:
        target.SpecificCharacterSet = copy.deepcopy(character_set)
    for tag, vr, content in values:
        # `RawDataElement` is what pydicom writes without looking into it.
        target[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)
    for keyword in SEQUENCES:
        if keyword in source:
            target[keyword] = copy.deepcopy(source[keyword])
            for item in target[keyword].value:
                item.remove_private_tags()
    # Says that the raw values are already encoded as the target will be; else pydicom would
    # decode and encode them after all.
    encodings = convert_encodings(character_set) if character_set else None
    target.set_original_encoding(False, True, encodings)


def check_characters(source: Dataset, keywords: Sequence[str]) -> None:
    """Refuse texts beyond ASCII when Specific Character Set does not say what they are.

    Raises:
        Declined: ``charset.absent``.
    """
    if _bytes(source, "SpecificCharacterSet") not in _ASCII_ONLY:
        return
    for keyword in keywords:
        content = _value(source, keyword).content
        if not content.isascii() or b"\x1b" in content:
            raise Declined(
                "charset.absent",
                found=f"other than ASCII characters in {keyword} without Specific Character Set",
                expected="Specific Character Set (0008,0005), such as ISO 2022 IR 87",
                remedy="Have the sender declare its character set, then send again.",
            )


def _check_same(headers: Sequence[Dataset]) -> None:
    if not headers:
        raise ValueError("identity is copied from at least one header")
    for keyword in _SAME_IN_ALL:
        values = {_bytes(header, keyword) for header in headers}
        if len(values) > 1:
            raise Declined(
                "patient.mixed",
                found=f"{len(values)} different values of {keyword} in one series",
                expected="one",
                remedy="Correct the series in the PACS, then send it again.",
            )


def _value(source: Dataset, keyword: str) -> _Value:
    tag = Tag(keyword)
    element = source.get_item(tag) if tag in source else None
    vr = dictionary_VR(tag)
    if element is None:
        return _Value(tag, vr, b"")
    if isinstance(element, RawDataElement):
        return _Value(tag, vr, element.value or b"")
    return _Value(tag, vr, _encoded(element, source))


def _bytes(source: Dataset, keyword: str) -> bytes:
    """The value without its padding (PS3.5 6.2: a space, for UIDs a zero byte)."""
    return _value(source, keyword).content.rstrip(b" \0")


def _encoded(element: DataElement, source: Dataset) -> bytes:
    """The bytes of an element that was decoded already; names remember theirs."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_data_element(buffer, element, source.get("SpecificCharacterSet") or "ISO_IR 6")
    return buffer.getvalue()[8:]  # after tag and length
