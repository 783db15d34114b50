"""One patient's volumes as DICOM datasets: CT Image and MR Image instances.

Nothing reads the clock or draws a random number here: the same patient gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from pipeline.geometry import Float64, Volume
from pipeline.phantom.identity import patient_name, uid
from pipeline.phantom.person import Patient

ACQUIRED = datetime(2024, 1, 1, 8, 0)
"""When every phantom was scanned, unless told otherwise."""

SIGNAL_SCALE = 2000.0
"""Stored value of signal 1 (CSF) in the true MRI, as in the pseudo-MRI."""

RESCALE_INTERCEPT = -1024


def save(datasets: Iterable[Dataset], folder: Path) -> tuple[Path, ...]:
    """Write datasets as ``0000.dcm``, ``0001.dcm`` and so on, Explicit VR Little Endian."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(datasets):
        path = folder / f"{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return tuple(paths)


def ct_datasets(
    person: Patient, volume: Volume, acquired: datetime = ACQUIRED, *, name: str = "CT"
) -> list[Dataset]:
    """CT Image instances of a volume in HU, one for each slice.

    Args:
        person: Whose identity they carry.
        volume: HU.
        acquired: Date and time.
        name: Distinguishes the UIDs of several CT series of one patient.
    """
    stored = np.clip(np.rint(volume.values - RESCALE_INTERCEPT), 0, 4095).astype(np.uint16)
    datasets = []
    for index, pixels in enumerate(stored):
        ds = _instance(person, volume, index, pixels, name, acquired)
        ds.SOPClassUID = CTImageStorage
        ds.Modality = "CT"
        ds.SeriesNumber = 2
        ds.SeriesDescription = f"NECK {volume.grid.spacing_mm[0]:.1f} SOFT PHANTOM"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PatientPosition = "HFS"
        ds.KVP = "120"
        ds.XRayTubeCurrent = "200"
        ds.ExposureTime = "800"
        ds.ConvolutionKernel = "SOFT"
        ds.GantryDetectorTilt = "0"
        ds.RescaleIntercept = str(RESCALE_INTERCEPT)
        ds.RescaleSlope = "1"
        ds.RescaleType = "HU"
        ds.WindowCenter, ds.WindowWidth = "40", "350"
        datasets.append(_with_meta(ds))
    return datasets


def mr_datasets(
    person: Patient, volume: Volume, contrast: str, acquired: datetime = ACQUIRED
) -> list[Dataset]:
    """The true MRI as MR Image instances; the description says that it is a phantom's truth."""
    stored = np.clip(np.rint(volume.values * SIGNAL_SCALE), 0, 4095).astype(np.uint16)
    is_stir = contrast == "STIR"
    datasets = []
    for index, pixels in enumerate(stored):
        ds = _instance(person, volume, index, pixels, contrast, acquired)
        ds.SOPClassUID = MRImageStorage
        ds.Modality = "MR"
        ds.SeriesNumber = 12 if is_stir else 11
        ds.SeriesDescription = f"PHANTOM TRUTH {contrast} SAG"
        ds.ImageComments = "Procedural phantom, not a patient: the truth beside its CT"
        ds.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
        ds.PatientPosition = "HFS"
        ds.ScanningSequence = ["SE", "IR"] if is_stir else "SE"
        ds.SequenceVariant = "SK"
        ds.ScanOptions = ""
        ds.MRAcquisitionType = "2D"
        ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "4000", "102", "16"
        ds.MagneticFieldStrength = "1.5"
        if is_stir:
            ds.InversionTime = "160"
        ds.WindowCenter, ds.WindowWidth = "1000", "2000"
        datasets.append(_with_meta(ds))
    return datasets


def _with_meta(ds: Dataset) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(uid(0, "implementation"))
    meta.ImplementationVersionName = "PSEUDOMRI"
    ds.file_meta = meta
    return ds


def _instance(
    person: Patient,
    volume: Volume,
    index: int,
    pixels: NDArray[np.uint16],
    series: str,
    acquired: datetime,
) -> Dataset:
    """What CT and MR have in common: identity, plane, pixels."""
    ds = _identity(person, series, index, acquired)
    ds.FrameOfReferenceUID = volume.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    grid = volume.grid
    ds.ImagePositionPatient = _decimals(grid.image_position(index))
    ds.ImageOrientationPatient = _decimals(grid.image_orientation)
    ds.SliceThickness = f"{grid.spacing_mm[0]:.6g}"
    ds.SpacingBetweenSlices = f"{grid.spacing_mm[0]:.6g}"
    ds.SliceLocation = f"{float(grid.image_position(index) @ grid.slice_normal):.4f}"
    ds.PixelSpacing = [f"{grid.spacing_mm[1]:.6g}", f"{grid.spacing_mm[2]:.6g}"]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.PixelData = pixels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _identity(person: Patient, series: str, index: int, acquired: datetime) -> Dataset:
    """Patient, study, series and equipment."""
    seed = person.seed
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SyntheticData = "YES"
    ds.SOPInstanceUID = uid(seed, series, index)
    date, time = acquired.strftime("%Y%m%d"), acquired.strftime("%H%M%S")
    ds.InstanceCreationDate, ds.InstanceCreationTime = date, time
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.AccessionNumber = f"PH{seed:08d}"
    ds.Manufacturer = "pseudomri"
    ds.ManufacturerModelName = "phantom"
    ds.InstitutionName = "PHANTOM"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "PHANTOM CT NECK"
    ds.PatientName = patient_name(seed)
    ds.PatientID = f"PHANTOM-{seed}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.BodyPartExamined = "CSPINE"
    ds.StudyInstanceUID = uid(seed, "study")
    ds.SeriesInstanceUID = uid(seed, series)
    ds.StudyID = str(seed)
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = index + 1
    return ds


def _decimals(values: Float64) -> list[str]:
    """Decimal strings of at most 16 characters (PS3.5 6.2)."""
    return [f"{value:.8f}"[:16] for value in values + 0.0]
