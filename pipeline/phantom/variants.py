"""CT series that must be declined, each for one reason: for testing the gate."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TypedDict

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from pipeline.geometry import Grid, Volume
from pipeline.phantom.acquisition import Region, ct_series
from pipeline.phantom.instances import ACQUIRED, ct_datasets, save
from pipeline.phantom.person import Patient

MISSING_BLOCK = 5
"""Slices taken out of the middle of an incomplete series."""


class Variant(StrEnum):
    """What is wrong with a series."""

    LOCALIZER = "localizer"
    HEAD_ONLY = "head_only"
    LUMBAR = "lumbar"
    CHEST = "chest"
    THICK_SLICES = "thick_slices"
    MISSING_SLICES = "missing_slices"
    RGB = "rgb"
    MR = "mr"
    NO_PIXEL_DATA = "no_pixel_data"
    TRUNCATED = "truncated"


def write_variant(
    person: Patient,
    folder: Path,
    variant: Variant,
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 0.6, 0.6),
    acquired: datetime = ACQUIRED,
) -> tuple[Path, ...]:
    """Write a spoiled CT series into ``folder/CT``; the paths in slice order."""
    paths = save(
        variant_datasets(person, variant, spacing_mm=spacing_mm, acquired=acquired),
        Path(folder) / "CT",
    )
    if variant is Variant.TRUNCATED:
        truncate(paths[len(paths) // 2])
    return paths


def variant_datasets(
    person: Patient,
    variant: Variant,
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 0.6, 0.6),
    acquired: datetime = ACQUIRED,
) -> list[Dataset]:
    """The instances of a spoiled series; `Variant.TRUNCATED` is spoiled only once written."""
    volume = ct_series(person, **scan_of(variant, spacing_mm))
    return spoiled_datasets(person, volume, variant, acquired)


class Scan(TypedDict):
    """What `ct_series` is told."""

    spacing_mm: tuple[float, float, float]
    region: Region


def scan_of(variant: Variant, spacing_mm: tuple[float, float, float]) -> Scan:
    """The scan that a spoiled series is made from; many variants share one."""
    regions = {region.value: region for region in Region}
    if variant is Variant.THICK_SLICES:
        spacing_mm = (8.0, *spacing_mm[1:])
    return Scan(spacing_mm=spacing_mm, region=regions.get(variant.value, Region.NECK))


def spoiled_datasets(
    person: Patient, volume: Volume, variant: Variant, acquired: datetime = ACQUIRED
) -> list[Dataset]:
    """The instances of a spoiled series, from a `scan_of` the person."""
    if variant is Variant.LOCALIZER:
        volume = _scout(volume)
    datasets = ct_datasets(person, volume, acquired, name=f"CT {variant.value}")
    if variant is Variant.MISSING_SLICES:
        middle = len(datasets) // 2
        return datasets[:middle] + datasets[middle + MISSING_BLOCK :]
    for ds in datasets:
        _spoil(ds, variant)
    return datasets


def truncate(path: Path) -> None:
    """Cut a file off in the middle of its pixel data."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])


def _scout(volume: Volume) -> Volume:
    """One coronal projection: columns to the left, rows to the feet."""
    grid = volume.grid
    steps = grid.steps_mm
    projected = volume.values.mean(axis=1)[None].astype(np.float32)
    depth = grid.shape[1] * steps[1]
    coronal = Grid.from_steps(
        (1, grid.shape[0], grid.shape[2]),
        grid.origin_mm + depth / 2,
        np.stack((depth, steps[0], steps[2])),
    )
    return Volume(projected, coronal, volume.frame_of_reference_uid)


def _spoil(ds: Dataset, variant: Variant) -> None:
    if variant is Variant.LOCALIZER:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.SeriesNumber = 1
        ds.SeriesDescription = "SCOUT PHANTOM"
        del ds.RescaleType
    elif variant is Variant.LUMBAR:
        ds.BodyPartExamined, ds.SeriesDescription = "LSPINE", "LUMBAR SOFT PHANTOM"
    elif variant is Variant.CHEST:
        ds.BodyPartExamined, ds.SeriesDescription = "CHEST", "CHEST SOFT PHANTOM"
    elif variant is Variant.HEAD_ONLY:
        ds.BodyPartExamined, ds.SeriesDescription = "HEAD", "HEAD SOFT PHANTOM"
    elif variant is Variant.NO_PIXEL_DATA:
        del ds.PixelData
    elif variant is Variant.RGB:
        _colour(ds)
    elif variant is Variant.MR:
        _as_mr(ds)


def _colour(ds: Dataset) -> None:
    """A colored rendering, as workstations store them into CT series."""
    gray = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    byte = (np.clip((gray.astype(np.float32) - 889) / 350, 0, 1) * 255).astype(np.uint8)
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = np.stack((byte, byte, byte // 2), axis=-1).tobytes()
    ds["PixelData"].VR = "OB"
    for keyword in (
        "RescaleIntercept",
        "RescaleSlope",
        "RescaleType",
        "WindowCenter",
        "WindowWidth",
    ):
        delattr(ds, keyword)


def _as_mr(ds: Dataset) -> None:
    """An axial MR series with the same pixels."""
    for keyword in (
        "KVP",
        "XRayTubeCurrent",
        "ExposureTime",
        "ConvolutionKernel",
        "GantryDetectorTilt",
        "RescaleIntercept",
        "RescaleSlope",
        "RescaleType",
    ):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.Modality, ds.SeriesDescription = "MR", "AX T2 PHANTOM"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "SE", "SK", ""
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "4000", "100", "16"
