"""What a CT header says, read once and checked: class, geometry, scale, compression history.

Nothing here touches pixel data, so the node asks these questions as soon as headers are in.
Classic CT (PS3.3 A.3) has one slice per instance; Enhanced CT (A.38) has one per frame, described
by functional groups (C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage

from pipeline.errors import Corrupt, Declined
from pipeline.slices import Arrangement, SliceGeometry, arrange

# Always lossy: JPEG baseline and extended.
_LOSSY_SYNTAXES = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
# Lossy unless the header says otherwise: JPEG-LS near-lossless, JPEG 2000, HTJ2K.
_OFTEN_LOSSY_SYNTAXES = frozenset(
    {"1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"}
)
# "US" is "unspecified"; whether such values are HU is left to the soft-tissue check of the anatomy.
_HU_TYPES = frozenset({"HU", "HU_MOD", "US", ""})


@dataclass(frozen=True)
class LossyHistory:
    """How the pixels were compressed with loss, oldest first (PS3.3 C.7.6.1.1.5).

    Args:
        ratios: Lossy Image Compression Ratio (0028,2112); the largest over the slices. Empty when
            none is readable.
        methods: Lossy Image Compression Method (0028,2114), such as ``"ISO_15444_1"``.
    """

    ratios: tuple[float, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Rescale:
    """Stored value to HU: ``HU = slope * stored + intercept`` (PS3.3 C.8.2.1.1.4)."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (np.isfinite((self.slope, self.intercept)).all() and self.slope > 0):
            raise _corrupt(
                "pixels.rescale",
                f"Rescale Slope {self.slope}, Rescale Intercept {self.intercept}",
                "a slope above 0 and a finite intercept",
            )


@dataclass(frozen=True)
class Frame:
    """One slice of an instance.

    Args:
        instance: Index into the sequence of headers.
        index: Frame index in the instance, from 0; `None` for a single-frame instance.
        geometry: Where it is.
        rescale: How its stored values become HU.
    """

    instance: int
    index: int | None
    geometry: SliceGeometry
    rescale: Rescale


def frames(headers: Sequence[Dataset]) -> tuple[Frame, ...]:
    """Every slice of a series, in the order of the headers.

    Raises:
        Declined: ``series.class``, ``series.mixed``, ``series.localizer``, ``pixels.color``,
            ``pixels.units``.
        Corrupt: When an attribute that CT requires is absent or no number.
    """
    if not headers:
        raise Declined(
            "slices.few", found="no slices", expected="a stack of slices", remedy="Send a series."
        )
    _check_one_series(headers)
    found: list[Frame] = []
    for number, header in enumerate(headers):
        _check_kind(header)
        if header.SOPClassUID == EnhancedCTImageStorage:
            found += _frames_of_enhanced(number, header)
        else:
            found.append(
                Frame(
                    number,
                    None,
                    slice_geometry(header),
                    _rescale(header, str(header.get("RescaleType") or "")),
                )
            )
    return tuple(found)


def check_headers(headers: Sequence[Dataset]) -> Arrangement:
    """Whether these headers make one CT volume fine enough to use; no pixel data needed.

    Raises:
        Declined: As `frames` and `pipeline.slices.arrange`.
        Corrupt: As `frames`.
    """
    return arrange([frame.geometry for frame in frames(headers)])


def slice_geometry(header: Dataset) -> SliceGeometry:
    """The geometry of a single-frame instance.

    Raises:
        Corrupt: When an attribute of the Image Plane module (PS3.3 C.7.6.2) is absent or wrong.
    """
    return _geometry(header, header, header, header)


def lossy_history(headers: Sequence[Dataset]) -> LossyHistory | None:
    """The compression history that a derived image must carry on; `None` when lossless throughout.

    Once lossy, always lossy (PS3.3 C.7.6.1.1.5): one lossy slice makes the series lossy.
    """
    histories = [_history(header) for header in headers if _is_lossy(header)]
    if not histories:
        return None
    methods = max((history.methods for history in histories), key=len)
    steps = max(len(history.ratios) for history in histories)
    ratios = tuple(
        max(history.ratios[step] for history in histories if len(history.ratios) > step)
        for step in range(steps)
    )
    return LossyHistory(ratios, methods)


def _corrupt(code: str, found: str, expected: str) -> Corrupt:
    return Corrupt(
        code, found=found, expected=expected, remedy="Send the series again from its source."
    )


def _check_one_series(headers: Sequence[Dataset]) -> None:
    for keyword in ("SeriesInstanceUID", "SOPClassUID"):
        values = {str(header.get(keyword, "")) for header in headers}
        if len(values) > 1:
            raise Declined(
                "series.mixed",
                found=f"{len(values)} different values of {keyword}",
                expected="one",
                remedy="Send one series of one kind at a time.",
            )


def _check_kind(header: Dataset) -> None:
    """Refuse what is not an axial-capable grayscale CT slice in HU."""
    sop_class = UID(str(header.get("SOPClassUID", "")))
    modality = str(header.get("Modality", ""))
    if sop_class not in (CTImageStorage, EnhancedCTImageStorage) or modality != "CT":
        raise Declined(
            "series.class",
            found=f"Modality {modality or 'absent'}, SOP class {sop_class.name or 'absent'}",
            expected="Modality CT, CT Image Storage or Enhanced CT Image Storage",
            remedy="Send the CT series itself.",
        )
    if "LOCALIZER" in _texts(header.get("ImageType")):
        raise Declined(
            "series.localizer",
            found="a localizer (Image Type)",
            expected="cross-sectional slices only",
            remedy="Send the axial neck series without its localizer.",
        )
    samples = header.get("SamplesPerPixel", 1)
    photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if samples != 1 or not photometric.startswith("MONOCHROME"):
        raise Declined(
            "pixels.color",
            found=f"{samples} samples per pixel, {photometric}",
            expected="grayscale (MONOCHROME2)",
            remedy="Send the CT itself, not a color rendering of it.",
        )


def _rescale(item: Dataset, units: str) -> Rescale:
    if units.strip().upper() not in _HU_TYPES:
        raise Declined(
            "pixels.units",
            found=f"Rescale Type {units}",
            expected="HU",
            remedy="Send the conventional CT reconstruction, not a derived map.",
        )
    slope = _number(item, "RescaleSlope")
    return Rescale(slope, _number(item, "RescaleIntercept"))


def _frames_of_enhanced(number: int, header: Dataset) -> list[Frame]:
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    count = int(header.get("NumberOfFrames", 0) or 0)
    if count < 1 or len(per_frame) != count:
        raise _corrupt(
            "slices.geometry",
            f"{len(per_frame)} functional groups for {count} frames",
            "one functional group per frame",
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    found = []
    for index, own in enumerate(per_frame):
        kind = _group(own, shared, "CTImageFrameTypeSequence", is_required=False)
        if "LOCALIZER" in _texts(kind.get("FrameType")):
            raise Declined(
                "series.localizer",
                found="a localizer (Frame Type)",
                expected="cross-sectional slices only",
                remedy="Send the axial neck series without its localizer.",
            )
        geometry = _geometry(
            header,
            _group(own, shared, "PlanePositionSequence"),
            _group(own, shared, "PlaneOrientationSequence"),
            _group(own, shared, "PixelMeasuresSequence"),
        )
        transform = _group(own, shared, "PixelValueTransformationSequence")
        units = str(transform.get("RescaleType") or "")
        found.append(Frame(number, index, geometry, _rescale(transform, units)))
    return found


def _group(own: Dataset, shared: Dataset, keyword: str, *, is_required: bool = True) -> Dataset:
    """The functional group macro of a frame: its own, or the shared one (PS3.3 C.7.6.16.1)."""
    for source in (own, shared):
        sequence = source.get(keyword)
        if sequence:
            item: Dataset = sequence[0]
            return item
    if is_required:
        raise _corrupt("slices.geometry", f"no {keyword}", f"{keyword} for every frame")
    return Dataset()


def _geometry(
    header: Dataset, position: Dataset, orientation: Dataset, measures: Dataset
) -> SliceGeometry:
    x, y, z = _numbers(position, "ImagePositionPatient", 3)
    cosines = _numbers(orientation, "ImageOrientationPatient", 6)
    between_rows, between_columns = _numbers(measures, "PixelSpacing", 2)
    # Optional, and written as "1,25" by some: what cannot be read is as good as absent.
    thickness_mm = optional_numbers(measures, "SliceThickness")
    return SliceGeometry(
        position_mm=(x, y, z),
        orientation=(cosines[0], cosines[1], cosines[2], cosines[3], cosines[4], cosines[5]),
        pixel_mm=(between_rows, between_columns),
        shape=(int(_number(header, "Rows")), int(_number(header, "Columns"))),
        frame_of_reference_uid=str(header.get("FrameOfReferenceUID") or ""),
        thickness_mm=thickness_mm[0] if len(thickness_mm) == 1 else None,
    )


def _number(item: Dataset, keyword: str) -> float:
    return _numbers(item, keyword, 1)[0]


def _numbers(item: Dataset, keyword: str, count: int) -> list[float]:
    """The `count` values of an attribute as floats, or `Corrupt`."""
    values = _readable(item, keyword)
    if len(values) != count:
        raise _corrupt("slices.geometry", f"{keyword} absent or unreadable", f"{count} value(s)")
    return values


def optional_numbers(item: Dataset, keyword: str) -> list[float]:
    """The values of an attribute that a CT may lack; none when one of them is unreadable."""
    values = _readable(item, keyword)
    return values if np.isfinite(values).all() else []


def _readable(item: Dataset, keyword: str) -> list[float]:
    """The values of an attribute as floats; none when it is absent or one is no number."""
    try:
        # pydicom decodes only here; a `None` fails too
        value: Any = item.get(keyword)
        return [float(one) for one in np.atleast_1d(value)]
    except (TypeError, ValueError):
        return []


def _texts(value: Any) -> tuple[str, ...]:
    """A multi-valued text attribute as a tuple, whatever its multiplicity."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(one) for one in value)


def _is_lossy(header: Dataset) -> bool:
    declared = str(header.get("LossyImageCompression") or "")
    syntax = str(getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", ""))
    if declared == "01" or syntax in _LOSSY_SYNTAXES:
        return True
    return syntax in _OFTEN_LOSSY_SYNTAXES and declared != "00"


def _history(header: Dataset) -> LossyHistory:
    ratios = optional_numbers(header, "LossyImageCompressionRatio")
    methods = _texts(header.get("LossyImageCompressionMethod"))
    return LossyHistory(tuple(ratios), methods)
