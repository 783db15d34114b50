"""CT instances for the tests of the receiving side: small, valid, and named after a patient whose
name must never be seen in a log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import encaps
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from config.settings import Settings, load
from node.archive import Archive, Archived, Encoding
from node.candidate import SeriesSummary
from node.ledger import Ledger, migrate, open_ledger, sqlite_url
from node.ledger.receiving import Arrival, Received
from node.states import SeriesState
from node.summary import InstanceSummary, Pixels, Refusal
from pipeline.slices import SliceGeometry

# Whoever finds one of these in a log or in the ledger has found a leak.
PATIENT = ("Zebrowska^Wanda", "PAT-4711-X", "19610713", "ACC-0815-Q", "Sturz Zebrowska")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
STUDY_UID = "1.2.826.0.1.77.1"
SERIES_UID = "1.2.826.0.1.77.1.1"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


def settings_for(folder: Path, **sections: dict[str, Any]) -> Settings:
    """Defaults, on loopback and port 0, open to any peer, with room on a small disk."""
    defaults = load()
    node = {"bind_address": "127.0.0.1", "port": 0, "data_folder": folder}
    receive = {"allow_any_peer": True, "minimum_free_bytes": 0, "network_timeout_s": 20.0}
    changes = {"node": node, "receive": receive}
    updated = {}
    for name in ("node", "tls", "receive", "completion", "selection", "retrieve"):
        section = getattr(defaults, name)
        fields = changes.get(name, {}) | sections.get(name, {})
        updated[name] = type(section).model_validate(section.model_dump() | fields)
    return defaults.model_copy(update=updated)


def new_ledger(folder: Path, clock: Any, url: str = "") -> Ledger:
    """A ledger of its own, migrated; on SQLite in `folder` when no URL is given."""
    url = url or sqlite_url(folder / "node.sqlite")
    migrate(url)
    return open_ledger(url, clock)


def new_archive(folder: Path) -> Archive:
    return Archive(folder / "archive", "receive-0")


def store(archive: Archive, series_uid: str, encoding: Encoding, content: bytes) -> Archived:
    """An instance that is in the archive, durably, as if it had come in one piece."""
    incoming = archive.receive(encoding)
    try:
        incoming.write(content)
        return archive.keep(incoming, series_uid)
    finally:
        incoming.discard()


def ct(number: int, **changes: Any) -> Dataset:
    """One axial CT slice of 16 x 16 pixels; `changes` set or, with None, delete attributes."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"{SERIES_UID}.{number}"
    ds.StudyInstanceUID = STUDY_UID
    ds.SeriesInstanceUID = SERIES_UID
    ds.AccessionNumber = PATIENT[3]
    ds.Modality = "CT"
    ds.StudyDescription = f"Polytrauma {PATIENT[4]}"
    ds.SeriesDescription = PATIENT[4]
    ds.PatientName = PATIENT[0]
    ds.PatientID = PATIENT[1]
    ds.PatientBirthDate = PATIENT[2]
    ds.BodyPartExamined = "CSPINE"
    ds.ConvolutionKernel = "Br40f"
    ds.SliceThickness = 1.0
    ds.ImagePositionPatient = [-4.0, -4.0, float(number)]
    ds.ImageOrientationPatient = list(AXIAL)
    ds.FrameOfReferenceUID = "1.2.826.0.1.77.9"
    ds.PixelSpacing = [0.5, 0.5]
    ds.Rows = ds.Columns = 16
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.RescaleSlope = 1
    ds.RescaleIntercept = -1024
    pixels = np.random.default_rng(number).integers(0, 2000, (16, 16), dtype=np.int16)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def enhanced_ct(frames: int) -> Dataset:
    """An Enhanced CT of so many slices, one millimeter apart."""
    ds = ct(1, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=frames)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, keyword)
    del ds.RescaleSlope, ds.RescaleIntercept, ds.SliceThickness
    shared, measures, orientation, transform = (Dataset() for _ in range(4))
    measures.PixelSpacing = [0.5, 0.5]
    measures.SliceThickness = 1.0
    orientation.ImageOrientationPatient = list(AXIAL)
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1, -1024, "HU"
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelValueTransformationSequence = [transform]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = []
    for number in range(frames):
        own, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-4.0, -4.0, float(number)]
        own.PlanePositionSequence = [position]
        ds.PerFrameFunctionalGroupsSequence.append(own)
    ds.PixelData = ds.PixelData * frames
    return ds


def encapsulated(ds: Dataset) -> Dataset:
    """The same with two fragments that claim to be compressed; nobody here decodes them."""
    ds.PixelData = encaps.encapsulate([b"\xff\xd8 not really a codestream \xff\xd9"])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def encode(ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The data set alone, as it goes over the network."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(stream, ds)
    content: bytes = stream.getvalue()
    return content


def with_meta(ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    """Ready for pynetdicom's sender or for a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def geometry(z_mm: float, **changes: Any) -> SliceGeometry:
    fields: dict[str, Any] = {
        "position_mm": (-100.0, -100.0, z_mm),
        "orientation": AXIAL,
        "pixel_mm": (0.5, 0.5),
        "shape": (512, 512),
        "frame_of_reference_uid": "1.2.3",
        "thickness_mm": 1.0,
    }
    return SliceGeometry(**(fields | changes))


def instance(z_mm: float = 0.0, **changes: Any) -> InstanceSummary:
    """The summary of one good axial slice; geometry's own fields may be changed as well."""
    fields: dict[str, Any] = {
        "modality": "CT",
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "kernel": "BR40F",
        "body_part": "CSPINE",
        "is_trauma": False,
        "pixels": Pixels.PRESENT,
        "refusal": None,
    }
    own = {key: changes.pop(key) for key in list(changes) if key in fields}
    slices = () if own.get("refusal") else (geometry(z_mm, **changes),)
    return InstanceSummary(**(fields | own), slices=slices)


def series(
    uid: str = "1.1",
    heights_mm: Sequence[float] = tuple(float(z) for z in range(200)),
    state: SeriesState = SeriesState.COMPLETE,
    calling_ae: str = "CT1",
    **changes: Any,
) -> SeriesSummary:
    """A series of slices at these heights."""
    return SeriesSummary(
        uid, state, calling_ae, tuple(instance(z, **dict(changes)) for z in heights_mm)
    )


REFUSAL = Refusal("series.class", "Modality MR", "Modality CT", "Send the CT.")


def received(number: int, **changes: Any) -> Received:
    """What intake hands to the ledger."""
    fields: dict[str, Any] = {
        "sop_instance_uid": f"{SERIES_UID}.{number}",
        "sop_class_uid": str(CTImageStorage),
        "transfer_syntax_uid": str(ExplicitVRLittleEndian),
        "study_uid": STUDY_UID,
        "series_uid": SERIES_UID,
        "modality": "CT",
        "digest": f"{number:064x}",
        "size_bytes": 1000,
        "path": f"instances/x/{number}.dcm",
        "summary": instance(float(number)).to_json(),
    }
    return Received(**(fields | changes))


def record(ledger: Ledger, number: int, association: int, **changes: Any) -> Any:
    """Put one instance on record, as intake does; what became of it."""
    arrival = Arrival(received(number, **changes), association, "CT1", "127.0.0.1")
    return ledger.receiving.record_instances([arrival])[0]
