"""`bench ingest`: how fast CT slices are taken in, beside Orthanc and DCMTK's storescp."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from rich.status import Status

from node import rivals
from node.commands.common import err, out, print_json, settings_of, table
from node.errors import Stop
from node.rivals import Rival

ASSOCIATIONS: Final = (1, 4)
TARGETS: Final = {"orthanc": 1.5, "storescp": 0.5}
"""Our rate with four associations, as a multiple of theirs."""
TARGET_BYTES: Final = 250e6
"""Peak memory of a receiving process."""

_SIDE: Final = 512
_WARM_SLICES: Final = 4
# A root of our own for what never leaves this machine (PS3.5 B.2: 2.25 and a number).
_ROOT: Final = "2.25.77"

Start = Callable[[Path], AbstractContextManager[Rival]]


def ingest(
    slices: int,
    repeats: int,
    memory_slices: int,
    processes: int | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Measure all three in turns, several times, and say how far apart they are."""
    rivals.require()
    acceptors = processes or settings_of(None).receive.processes
    starts: dict[str, Start] = {
        "ours": partial(rivals.ours, processes=acceptors),
        "orthanc": rivals.orthanc,
        "storescp": rivals.storescp,
    }
    with (
        tempfile.TemporaryDirectory(prefix="pseudomri-bench-", dir=folder) as name,
        err.status("writing slices") as words,
    ):
        rates, processor_ms = _race(Path(name), starts, slices, repeats, words)
        peak_bytes = _peak(Path(name), starts["ours"], memory_slices, words)
    report = report_of(rates, processor_ms, peak_bytes)
    report |= {"slices": slices, "repeats": repeats, "memory_slices": memory_slices}
    report |= {"processes": acceptors, "processors": len(os.sched_getaffinity(0))}
    report |= {"load_average": round(os.getloadavg()[0], 2)}
    if as_json:
        print_json(report)
    else:
        _tell(report)


Figures = dict[str, dict[int, list[float]]]
"""Receiver, associations, a figure of each repeat."""


def report_of(rates: Figures, processor_ms: Figures, peak_bytes: int | None) -> dict[str, Any]:
    """Medians, and the ratios of ours to each rival, repeat by repeat; what the targets say.

    Args:
        rates: Instances a second.
        processor_ms: Of the receiver, for each instance.
        peak_bytes: Of memory; None when it was not measured.
    """
    ratios = {
        name: {
            str(count): _spread(
                [ours / theirs for ours, theirs in zip(mine, of[count], strict=True)]
            )
            for count, mine in rates["ours"].items()
        }
        for name, of in rates.items()
        if name != "ours"
    }
    most = str(max(ASSOCIATIONS))
    targets: dict[str, bool] = {
        f"{least:g} times {name}": ratios[name][most]["median"] >= least
        for name, least in TARGETS.items()
    }
    report: dict[str, Any] = {
        "per_second": _spreads(rates),
        "processor_ms": _spreads(processor_ms),
        "ratio": ratios,
        "targets": targets,
    }
    if peak_bytes is not None:
        report["peak_rss_mb"] = round(peak_bytes / 1e6)
        targets[f"below {TARGET_BYTES / 1e6:g} MB"] = peak_bytes < TARGET_BYTES
    return report


def write_slices(folder: Path, series: int, count: int) -> Path:
    """CT slices of 512 KiB as files, in a folder of their own; returns it.

    Args:
        folder: Above it.
        series: Number that tells this series from all others of a run.
        count: How many.
    """
    place = folder / f"series-{series}"
    place.mkdir(parents=True)
    noise = np.random.default_rng(series).integers(-1000, 2000, (2 * _SIDE, _SIDE), dtype=np.int16)
    ds = _ct(series)
    for number in range(count):
        uid = UID(f"{_ROOT}.{series}.1.{number}")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
        ds.InstanceNumber = number + 1
        ds.ImagePositionPatient = [-125.0, -125.0, float(number)]
        ds.SliceLocation = float(number)
        # Another part of the noise for each, so that no two have the same pixels.
        ds.PixelData = noise[number % _SIDE : number % _SIDE + _SIDE].tobytes()
        ds.save_as(place / f"{number:05}.dcm", enforce_file_format=True)
    return place


def _race(
    folder: Path, starts: dict[str, Start], slices: int, repeats: int, words: Status
) -> tuple[Figures, Figures]:
    """Instances a second, and processor time for each."""
    most = max(ASSOCIATIONS)
    loads = [write_slices(folder, number, slices // most) for number in range(most)]
    warm = [write_slices(folder, most + number, _WARM_SLICES) for number in range(most)]
    # What is still on its way to the disk would be charged to whoever syncs first.
    os.sync()
    rates: Figures = {name: {count: [] for count in ASSOCIATIONS} for name in starts}
    costs: Figures = {name: {count: [] for count in ASSOCIATIONS} for name in starts}
    for repeat in range(repeats):
        for count in ASSOCIATIONS:
            for name, start in starts.items():
                words.update(f"{name}, {count} associations, {repeat + 1} of {repeats}")
                place = folder / f"{name}-{count}-{repeat}"
                rate, cost_ms = _measure(place, start, warm, loads, count)
                rates[name][count].append(rate)
                costs[name][count].append(cost_ms)
    return rates, costs


def _measure(
    place: Path, start: Start, warm: Sequence[Path], loads: Sequence[Path], associations: int
) -> tuple[float, float]:
    """Instances a second of one receiver that is fresh but warm, and its processor time for each,
    in milliseconds."""
    with start(place) as rival:
        rivals.send(rival, [[one] for one in warm])
        before, used_s = rival.count(), rival.processor_s()
        took_s = rivals.send(rival, [loads[n::associations] for n in range(associations)])
        used_s = rival.processor_s() - used_s
        held = rival.count() - before
    sent = sum(1 for load in loads for _ in load.iterdir())
    if held != sent:
        raise Stop(f"expected {sent} instances in {place.name}, found {held}")
    return sent / took_s, 1000 * used_s / sent


def _peak(folder: Path, start: Start, slices: int, words: Status) -> int | None:
    """The most memory of a receiving process of ours while four associations stream in."""
    if not slices:
        return None
    most = max(ASSOCIATIONS)
    words.update(f"memory: {most} associations with {slices} slices each")
    loads = [write_slices(folder, 100 + number, slices) for number in range(most)]
    with start(folder / "memory") as rival:
        rivals.send(rival, [[load] for load in loads])
        if rival.count() != most * slices:
            raise Stop(f"expected {most * slices} instances, found {rival.count()}")
        return rival.peak_rss_bytes()


def _spreads(figures: Figures) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {str(count): _spread(values) for count, values in of.items()}
        for name, of in figures.items()
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    figures = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: float(f"{value:.3g}") for name, value in figures.items()}


def _ct(series: int) -> Dataset:
    """A header as scanners write it, of nobody."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "080000"
    ds.AccessionNumber = ds.StudyID = f"BENCH{series}"
    ds.Modality, ds.Manufacturer, ds.StationName = "CT", "pseudomri", "BENCH"
    ds.StudyDescription, ds.SeriesDescription = "Neck", "Neck 1.0 Br40"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Bench", "BENCH", "", "O"
    ds.BodyPartExamined, ds.ProtocolName, ds.PatientPosition = "NECK", "Neck", "HFS"
    ds.SliceThickness, ds.KVP, ds.SpacingBetweenSlices = 1.0, 120, 1.0
    ds.DataCollectionDiameter = ds.ReconstructionDiameter = 250
    ds.GantryDetectorTilt, ds.TableHeight, ds.RotationDirection = 0, 150, "CW"
    ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure = 500, 200, 100
    ds.FilterType, ds.ConvolutionKernel = "FLAT", "Br40f"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{_ROOT}.{series}", f"{_ROOT}.{series}.1"
    ds.FrameOfReferenceUID, ds.SeriesNumber = f"{_ROOT}.{series}.2", 1
    ds.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    ds.PositionReferenceIndicator = ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = _SIDE
    ds.PixelSpacing = [0.488, 0.488]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
    return ds


def _tell(report: dict[str, Any]) -> None:
    rows = table("instances a second", *(f"{count} associations" for count in ASSOCIATIONS))
    for name, of in report["per_second"].items():
        rows.add_row(name, *(_words(figures) for figures in of.values()))
    rows.add_section()
    for name, of in report["ratio"].items():
        rows.add_row(f"ours to {name}", *(_words(figures) for figures in of.values()))
    rows.add_section()
    for name, of in report["processor_ms"].items():
        rows.add_row(f"{name}, ms of processor", *(_words(figures) for figures in of.values()))
    out.print(rows)
    if "peak_rss_mb" in report:
        load = f"{max(ASSOCIATIONS)} associations with {report['memory_slices']} slices each"
        out.print(f"peak memory of a receiver: {report['peak_rss_mb']} MB, {load}", highlight=False)
    out.print(
        f"{report['slices']} slices of 512 KiB, {report['repeats']} repeats,"
        f" {report['processes']} receiving processes, {report['processors']} processors,"
        f" load average {report['load_average']}",
        *(f"{name}: {'yes' if is_met else 'no'}" for name, is_met in report["targets"].items()),
        sep="\n",
        highlight=False,
    )


def _words(figures: dict[str, float]) -> str:
    return f"{figures['median']:g} ({figures['least']:g} to {figures['most']:g})"
