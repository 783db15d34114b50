"""Small CT series as a scanner would send them, for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)


@dataclass(frozen=True)
class Scan:
    """How a small CT is taken."""

    slices: int = 5
    rows: int = 40
    columns: int = 36
    step_mm: float = 1.25
    pixel_mm: tuple[float, float] = (0.7, 0.5)
    origin_mm: tuple[float, float, float] = (-20.0, -30.0, 100.0)
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    # What the table moves per slice; `None`: along the slice normal.
    table_mm: tuple[float, float, float] | None = None

    @property
    def step_vector_mm(self) -> NDArray[np.float64]:
        across, down = np.reshape(self.orientation, (2, 3))
        normal = self.step_mm * np.cross(across, down)
        return normal if self.table_mm is None else np.array(self.table_mm)

    def position_mm(self, number: int) -> NDArray[np.float64]:
        return np.array(self.origin_mm) + number * self.step_vector_mm

    @property
    def stored(self) -> NDArray[np.int16]:
        """Stored values, HU + 1024 with slope 1."""
        rng = np.random.default_rng(7)
        return rng.integers(0, 3000, (self.slices, self.rows, self.columns)).astype(np.int16)

    @property
    def hu(self) -> NDArray[np.float32]:
        return (self.stored - 1024).astype(np.float32)


def tilted_orientation(degrees: float) -> tuple[float, ...]:
    """Slices tilted about the patient's left-right axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (1.0, 0.0, 0.0, 0.0, float(c), float(s))


def classic(scan: Scan) -> list[Dataset]:
    """One instance per slice, Explicit VR Little Endian, complete in memory."""
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    return [
        _slice(scan, number, stored, (study, series, frame))
        for number, stored in enumerate(scan.stored)
    ]


def enhanced(scan: Scan, order: Sequence[int] | None = None) -> Dataset:
    """The same scan as one Enhanced CT instance, frames in the given order."""
    order = list(range(scan.slices)) if order is None else list(order)
    ds = _base(EnhancedCTImageStorage, (generate_uid(), generate_uid(), generate_uid()), scan)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(order)
    shared, orientation, measures, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(scan.orientation)
    measures.PixelSpacing = list(scan.pixel_mm)
    measures.SliceThickness = scan.step_mm
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [rescale]
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number in order:
        own, position = Dataset(), Dataset()
        position.ImagePositionPatient = _ds(scan.position_mm(number))
        own.PlanePositionSequence = [position]
        groups.append(own)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.PixelData = scan.stored[order].astype("<i2").tobytes()
    return ds


def sent(ds: Dataset) -> Dataset:
    """The dataset after a trip through a Part 10 stream."""
    return pydicom.dcmread(io.BytesIO(written(ds)))


def written(ds: Dataset) -> bytes:
    """The dataset as a Part 10 file."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def _slice(scan: Scan, number: int, stored: NDArray[np.int16], uids: tuple[str, ...]) -> Dataset:
    ds = _base(CTImageStorage, uids, scan)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImagePositionPatient = _ds(scan.position_mm(number))
    ds.ImageOrientationPatient = list(scan.orientation)
    ds.PixelSpacing = list(scan.pixel_mm)
    ds.SliceThickness = scan.step_mm
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.InstanceNumber = number + 1
    ds.PixelData = stored.astype("<i2").tobytes()
    return ds


def _base(sop_class: str, uids: tuple[str, ...], scan: Scan) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uids
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Test^Neck", "T1", "", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260101", "120000", "1", ""
    ds.ReferringPhysicianName, ds.Manufacturer, ds.SeriesNumber = "", "", 1
    ds.PositionReferenceIndicator, ds.KVP = "", 120
    ds.Rows, ds.Columns = scan.rows, scan.columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    return ds


def _ds(values: NDArray[np.float64]) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [f"{value:.8f}"[:16] for value in values]
