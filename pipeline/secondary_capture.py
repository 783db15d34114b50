"""A synthesized stack as DICOM: one Secondary Capture Image per slice, one series per contrast
and one for the support map.

The only module that builds SC objects (PS3.3 A.8.1). Every attribute says what the object is, an
AI-made picture in the space of a CT, and none claims MR physics: Modality is OT and no setting
changes that. Nothing here reads a clock or draws a UID, so the same arguments give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pydicom.valuerep import format_number_as_ds

from pipeline import labeling
from pipeline.contrast import SeriesKind
from pipeline.geometry import Float32, Float64, Grid
from pipeline.headers import lossy_history
from pipeline.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pipeline.patient import check_characters, copy_identity
from pipeline.provenance import JobIdentity, derive_uid

PRODUCT = "pseudomri"

# Timezone Offset From UTC (0008,0201), PS3.3 C.12.1.1.7; no clock is further ahead than 14 hours.
_OFFSET = re.compile(r"(?P<sign>[+-])(?P<hours>0\d|1[0-4])(?P<minutes>[0-5]\d)")

WARNING = (
    "AI SYNTHETIC - NOT AN MRI. Computed from CT by a generative model; no magnetic resonance was "
    "measured. For research, not for diagnosis."
)

# Center and width in stored values. T2 shows cord (0.4), fat (0.7) and CSF (1.0) apart; STIR ends
# at CSF, since nothing but fluid is that bright there. The support map is drawn over the T2.
_WINDOWS = {
    SeriesKind.T2: (1100, 2200),
    SeriesKind.STIR: (1000, 2000),
    SeriesKind.SUPPORT: (1100, 2200),
}
_SUPPORT_EXPLAINED = (
    "Support map: hatched where the interval around the signal, calibrated on phantoms, is so wide"
    " that the CT does not support what is drawn."
)
_SCANNER = (
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)
# A direction that leans less than this toward an axis is not worth a letter.
_LEAST_LEAN = float(np.sin(np.deg2rad(10)))


@dataclass(frozen=True)
class Equipment:
    """The node that writes the objects (PS3.3 C.7.5.1).

    Args:
        software: Name and version of what computed the result, as
            `pipeline.provenance.software_versions` gives it; must have ``"pseudomri"``.
        station_name: (0008,1010), at most 16 ASCII characters; empty when unknown.
        time_zone: Of the clock on the site's wall, for CT that do not tell theirs; None for that
            of this host.
    """

    software: Mapping[str, str]
    station_name: str = ""
    time_zone: tzinfo | None = None

    def __post_init__(self) -> None:
        if PRODUCT not in self.software:
            raise ValueError(f"the software versions must name {PRODUCT}")
        if len(self.station_name) > 16 or not self.station_name.isascii():
            raise ValueError("a station name has at most 16 ASCII characters")


def build_series(
    values: Float32,
    grid: Grid,
    frame_of_reference_uid: str,
    kind: SeriesKind,
    headers: Sequence[Dataset],
    identity: JobIdentity,
    created_at: datetime,
    equipment: Equipment,
    side_notes: Sequence[tuple[int, str]] = (),
    foot_notes: Sequence[str] = (),
) -> list[Dataset]:
    """One series of a job as SC datasets, in slice order, ready to be saved.

    Args:
        values: Signal relative to CSF, ``(slice, row, column)``; for the support map as
            `pipeline.support.hatched` draws it.
        grid: Where the values are, LPS mm of the CT's frame of reference; orthogonal.
        frame_of_reference_uid: (0020,0052) of the CT.
        kind: The support map, or one of the job's contrasts.
        headers: All CT slices that were used, without pixel data, in a fixed order.
        identity: What made the result.
        created_at: When it was made, on record with the job, since it is part of the bytes; with
            its time zone. Written in that of the CT, or else of the equipment.
        equipment: Who made it.
        side_notes: As `pipeline.labeling.mark` takes them.
        foot_notes: Likewise; they go into Image Comments (0020,4000) too.

    Returns:
        Explicit VR Little Endian datasets with file meta information.

    Raises:
        Declined: As `pipeline.patient.copy_identity`.
        ValueError: When the arguments contradict each other.
    """
    _check(values, grid, frame_of_reference_uid, kind, headers, identity)
    pixels = labeling.mark(labeling.to_pixels(values), kind, side_notes, foot_notes)
    marked_grid = labeling.marked_grid(grid)
    when = _local_time(created_at, headers[0], equipment.time_zone)
    # Hundreds of items, the same in every slice: made once, they halve the time it takes to build.
    sources, references = _sources(headers), _references(headers)
    series = []
    for index in range(grid.shape[0]):
        ds = Dataset()
        copy_identity(headers, ds)
        _add_series(ds, kind, identity, when, equipment)
        ds.SourceImageSequence, ds.ReferencedSeriesSequence = sources, references
        _add_contributors(ds, headers[0], identity, equipment)
        _add_kind(ds, kind, identity, foot_notes)
        _add_lossy_history(ds, headers)
        _add_instance(ds, index, kind, identity)
        _add_plane(ds, marked_grid, index)
        _add_pixels(ds, pixels[index], kind)
        ds.file_meta = _file_meta(ds)
        series.append(ds)
    return series


def _check(
    values: Float32,
    grid: Grid,
    frame_of_reference_uid: str,
    kind: SeriesKind,
    headers: Sequence[Dataset],
    identity: JobIdentity,
) -> None:
    if not headers:
        raise ValueError("a result needs the headers of the CT it came from")
    if values.shape != grid.shape:
        raise ValueError(f"values are {values.shape}, the grid is {grid.shape}")
    row, column, step = grid.directions[1], grid.directions[2], grid.directions[0]
    if grid.is_sheared or abs(float(row @ column)) > 1e-4 or float(step @ grid.slice_normal) < 0:
        raise ValueError("SC slices need a right-handed orthogonal grid along the slice normal")
    if kind is not SeriesKind.SUPPORT and kind not in [str(one) for one in identity.contrasts]:
        raise ValueError(f"{kind} is not a contrast of this job")
    if str(headers[0].get("FrameOfReferenceUID", "")) != frame_of_reference_uid:
        raise ValueError("the result must lie in the frame of reference of its CT")


def _local_time(created_at: datetime, header: Dataset, zone: tzinfo | None) -> datetime:
    """The time on the clock that the CT's own dates and times go by (PS3.3 C.12.1.1.7)."""
    if created_at.tzinfo is None:
        raise ValueError("expected the moment of a job with its time zone, found none")
    told = _OFFSET.fullmatch(str(header.get("TimezoneOffsetFromUTC") or "").strip())
    if told is not None:
        ahead = timedelta(hours=int(told["hours"]), minutes=int(told["minutes"]))
        zone = timezone(-ahead if told["sign"] == "-" else ahead)
    return created_at.astimezone(zone)


def _add_series(
    ds: Dataset, kind: SeriesKind, identity: JobIdentity, when: datetime, equipment: Equipment
) -> None:
    """General Series, General Equipment and SC Equipment (PS3.3 C.7.3.1, C.7.5.1, C.8.6.1)."""
    ds.Modality = "OT"
    ds.SeriesInstanceUID = derive_uid(identity.job_id, kind)
    ds.SeriesNumber = kind.series_number
    ds.SeriesDescription = f"AI SYNTH NOT MRI {kind} from CT"
    # Without a body part that has no sides, Laterality would be asked for.
    ds.BodyPartExamined = "CSPINE"
    ds.ConversionType = "SYN"
    ds.Manufacturer = PRODUCT
    ds.ManufacturerModelName = PRODUCT
    ds.SoftwareVersions = equipment.software[PRODUCT]
    if equipment.station_name:
        ds.StationName = equipment.station_name
    for what in ("Series", "Content", "InstanceCreation"):
        setattr(ds, f"{what}Date", when.strftime("%Y%m%d"))
        setattr(ds, f"{what}Time", when.strftime("%H%M%S.%f"))
    ds.DateOfSecondaryCapture = ds.ContentDate
    ds.TimeOfSecondaryCapture = ds.ContentTime


def _sources(headers: Sequence[Dataset]) -> list[Dataset]:
    """Source Image Sequence (0008,2112): every CT slice went into every slice of ours."""
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    sources = [_reference(header) for header in headers]
    for source in sources:
        source.PurposeOfReferenceCodeSequence = [_coded(purpose)]
        source.SpatialLocationsPreserved = "YES"
    return sources


def _references(headers: Sequence[Dataset]) -> list[Dataset]:
    """Referenced Series Sequence (0008,1115) of Common Instance Reference (PS3.3 C.12.2)."""
    series = Dataset()
    series.SeriesInstanceUID = str(headers[0].SeriesInstanceUID)
    series.ReferencedInstanceSequence = [_reference(header) for header in headers]
    return [series]


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = str(header.SOPClassUID)
    item.ReferencedSOPInstanceUID = str(header.SOPInstanceUID)
    return item


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _add_contributors(
    ds: Dataset, header: Dataset, identity: JobIdentity, equipment: Equipment
) -> None:
    """Who had a part in it (PS3.3 C.12.1.1.5): this node, and the scanner."""
    node = Dataset()
    node.PurposeOfReferenceCodeSequence = [_coded(codes.DCM.SynthesizingEquipment)]
    node.Manufacturer = PRODUCT
    node.ManufacturerModelName = PRODUCT
    if equipment.station_name:
        node.StationName = equipment.station_name
    node.SoftwareVersions = [f"{name} {version}" for name, version in equipment.software.items()]
    node.ContributionDescription = (
        f"Generative synthesis from CT, model {identity.model_name} {identity.model_version}"
    )
    scanner = Dataset()
    scanner.PurposeOfReferenceCodeSequence = [_coded(codes.DCM.AcquisitionEquipment)]
    check_characters(header, _SCANNER)
    for keyword in _SCANNER:
        if header.get(keyword):
            setattr(scanner, keyword, header.get(keyword))
    if "Manufacturer" not in scanner:
        scanner.Manufacturer = "UNKNOWN"  # type 2 in the CT, type 1 here
    ds.ContributingEquipmentSequence = [node, scanner]


def _add_kind(
    ds: Dataset, kind: SeriesKind, identity: JobIdentity, foot_notes: Sequence[str]
) -> None:
    """What the object is: derived, synthetic, for research (PS3.3 C.7.6.1, C.12.1)."""
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER", "AI_SYNTHETIC", str(kind)]
    ds.SyntheticData = "YES"
    ds.ContentQualification = "RESEARCH"
    ds.BurnedInAnnotation = "NO"  # it asks for identity and date; the mark has neither
    made_by = (
        f"Model {identity.model_name} {identity.model_version}, weights SHA-256 "
        f"{identity.model_digest}, seed {identity.seed}, job {identity.job_id}."
    )
    explained = f" {_SUPPORT_EXPLAINED}" if kind is SeriesKind.SUPPORT else ""
    ds.DerivationDescription = f"{WARNING}{explained} {made_by}"
    ds.ImageComments = " ".join((f"{WARNING}{explained} {made_by}", "; ".join(foot_notes)))
    ds.DerivationCodeSequence = [
        _coded(codes.DCM.MultiplanarReformatting),
        _coded(codes.DCM.SpatialResampling),
    ]


def _add_lossy_history(ds: Dataset, headers: Sequence[Dataset]) -> None:
    """Once lossy, always lossy, in derived images too (PS3.3 C.7.6.1.1.5)."""
    history = lossy_history(headers)
    ds.LossyImageCompression = "00" if history is None else "01"
    if history is not None and history.ratios:
        ds.LossyImageCompressionRatio = [_decimal(ratio) for ratio in history.ratios]
    if history is not None and history.methods:
        ds.LossyImageCompressionMethod = list(history.methods)


def _add_instance(ds: Dataset, index: int, kind: SeriesKind, identity: JobIdentity) -> None:
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = derive_uid(identity.job_id, kind, index)
    ds.InstanceNumber = index + 1


def _add_plane(ds: Dataset, grid: Grid, index: int) -> None:
    """Image Plane (PS3.3 C.7.6.2), for the marked slice: its first pixel is in the margin."""
    between_slices, between_rows, between_columns = grid.spacing_mm
    position = grid.image_position(index)
    ds.ImagePositionPatient = [_decimal(value) for value in position]
    ds.ImageOrientationPatient = [_decimal(value) for value in grid.image_orientation]
    ds.PatientOrientation = [_letters(grid.directions[2]), _letters(grid.directions[1])]
    ds.PixelSpacing = [_decimal(between_rows), _decimal(between_columns)]
    # A slice is the mean of a slab as thick as the step (`pipeline.reformat`).
    ds.SliceThickness = _decimal(between_slices)
    ds.SpacingBetweenSlices = _decimal(between_slices)
    ds.SliceLocation = _decimal(float(position @ grid.slice_normal))


def _letters(direction: Float64) -> str:
    """Patient Orientation (0020,0020) of a direction, its strongest axis first."""
    names = [("L", "R"), ("P", "A"), ("H", "F")]
    axes = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(
        names[axis][int(direction[axis] < 0)] for axis in axes if abs(direction[axis]) > _LEAST_LEAN
    )


def _add_pixels(ds: Dataset, pixels: labeling.UInt16, kind: SeriesKind) -> None:
    """Image Pixel and VOI LUT (PS3.3 C.7.6.3, C.11.2): 12 of 16 bits, no rescale."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = 16
    ds.BitsStored = 12
    ds.HighBit = 11
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = _WINDOWS[kind]
    ds.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    ds["PixelData"].VR = "OW"


def _file_meta(ds: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _decimal(value: float) -> str:
    """A DS value: as many digits as its 16 characters hold, and no negative zero."""
    return format_number_as_ds(float(value) + 0.0)
