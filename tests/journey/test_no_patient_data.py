"""One patient with unmistakable values goes everywhere, also where it hurts; nobody says the name.

Every identifying attribute holds a value of its own. What the node prints, records, serves and
keeps is then searched for all of them: only the objects in the archive may name the patient.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLosslessSV1

from node.commands import asking
from node.loopback import LocalNode, local_node
from pipeline.provenance import derive_uid
from tests.journey import observing
from tests.journey.conftest import ImagesOnly, PhantomFolder
from tests.node.samples import ct, encapsulated, encode
from tests.node.scu import associated, store_bytes
from tests.peers import ScriptedPeer, dcmsend, wait_until

pytestmark = pytest.mark.journey

STEM = "Zqxjvk"
# As dates and numbers; no study of ours has them.
BIRTH_DATE, ACCESSION = "18870923", "7741009283"
TEXTS = """
    PatientID OtherPatientIDs PatientAddress PatientTelephoneNumbers PatientComments
    PatientMotherBirthName EthnicGroup Occupation AdmissionID StudyID StudyDescription
    SeriesDescription ProtocolName ImageComments InstitutionName InstitutionAddress
    InstitutionalDepartmentName StationName DeviceSerialNumber RequestedProcedureDescription
    PerformedProcedureStepDescription AdmittingDiagnosesDescription AdditionalPatientHistory
    """
NAMES = """
    PatientName OtherPatientNames PatientBirthName ReferringPhysicianName PerformingPhysicianName
    OperatorsName NameOfPhysiciansReadingStudy RequestingPhysician PhysiciansOfRecord
    """
MARKS = re.compile(rf"{STEM}|{BIRTH_DATE}|{ACCESSION}".encode(), re.IGNORECASE)


def named(ds: Dataset) -> Dataset:
    """The same images, of our patient."""
    for number, keyword in enumerate(TEXTS.split()):
        setattr(ds, keyword, f"{STEM}{number:02d}")
    for number, keyword in enumerate(NAMES.split()):
        setattr(ds, keyword, f"{STEM}N{number}^Wanda")
    ds.PatientBirthDate, ds.AccessionNumber = BIRTH_DATE, ACCESSION
    item = Dataset()
    item.ScheduledProcedureStepDescription = f"{STEM}S"
    ds.RequestAttributesSequence = Sequence([item])
    block = ds.private_block(0x0009, f"{STEM} PRIVATE", create=True)
    block.add_new(1, "LO", f"{STEM}P")
    return ds


def small(series: int, number: int, **changes: Any) -> Dataset:
    """One slice of a small series of the same patient."""
    ds = named(ct(number))
    ds.StudyInstanceUID = f"1.2.826.0.1.99.{series}"
    ds.SeriesInstanceUID = f"1.2.826.0.1.99.{series}.1"
    ds.SOPInstanceUID = f"1.2.826.0.1.99.{series}.1.{number}"
    ds.ImagePositionPatient = [-4.0, -4.0, 3.0 * number]
    ds.SliceThickness = 3.0
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def raw(ds: Dataset, keyword: str, vr: str, content: bytes) -> Dataset:
    """An element with bytes that its VR does not allow."""
    tag = Tag(keyword)
    ds[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)
    return ds


def hostile() -> Iterator[tuple[Dataset, str | None]]:
    """Slices that our code stumbles over, each in another place, and a wrong UID to announce."""
    name = STEM.encode() + b"BAD"
    words = (
        ("Modality", "CS"),
        ("BodyPartExamined", "CS"),
        ("ImageType", "CS"),
        ("ConvolutionKernel", "SH"),
        ("PhotometricInterpretation", "CS"),
        ("RescaleType", "LO"),
        ("SpecificCharacterSet", "CS"),
        ("FrameOfReferenceUID", "UI"),
    )
    numbers = (
        ("PixelSpacing", "DS"),
        ("ImagePositionPatient", "DS"),
        ("ImageOrientationPatient", "DS"),
        ("SliceThickness", "DS"),
        ("RescaleSlope", "DS"),
        ("NumberOfFrames", "IS"),
        ("SamplesPerPixel", "LO"),
        ("Rows", "LO"),
        ("BitsAllocated", "LO"),
        ("PixelPaddingValue", "LO"),
    )
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    broken = [*words, *numbers, *((keyword, "UI") for keyword in uids)]
    for series, (keyword, vr) in enumerate(broken, start=100):
        yield raw(small(series, 1), keyword, vr, name + b" " * (len(name) % 2)), None
    # One that is no UID, and one that is another's.
    yield small(90, 1), f"{STEM}.1"
    yield small(91, 1), "1.2.826.0.1.99.91.2"


@dataclass
class Journeys:
    """What is left after all of it."""

    folder: Path
    pages: dict[str, bytes]
    states: dict[str, str]
    statuses: set[int]


@pytest.fixture(scope="module")
def journeys(
    phantom_ct: PhantomFolder, images_only: ImagesOnly, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Journeys]:
    folder = tmp_path_factory.mktemp("named")
    good = folder / "good"
    good.mkdir()
    for path in sorted(phantom_ct(1).glob("*.dcm")):
        ds = named(dcmread(path))
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            ds[keyword].value = derive_uid(ds[keyword].value, "named")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(good / path.name)

    def answer(uid: str, times: int) -> Any:
        said = Dataset()
        said.Status = 0xA700 if times == 1 else 0x0000
        said.ErrorComment = f"no room for {STEM}^Wanda"
        return said

    changes = {
        **images_only,
        "completion": {"quiet_s": 0.5, "gap_patience_s": 1.0},
        "delivery": {"first_retry_s": 0.2},
        "logging": {"format": "json", "level": "DEBUG"},
    }
    with ScriptedPeer(answer=answer) as pacs:
        target = [observing.destination(pacs.port, ae_title="PEER")]
        with local_node(folder / "node", target, changes) as node:
            statuses = _send_all(node, good)
            (uid,) = observing.series_uids(good)
            wanted = [uid, "1.2.826.0.1.99.1.1", "1.2.826.0.1.99.100.1"]
            over = observing.wait_until_over(node, wanted)
            wait_until(lambda: _is_decided(node), 60, "a decision about every series")
            yield Journeys(
                folder / "node",
                _pages(node, folder),
                {series: journey.state for series, journey in over.items()},
                statuses,
            )


def _send_all(node: LocalNode, good: Path) -> set[int]:
    port = node.service.port
    statuses = set()
    with associated(port, syntaxes=[JPEGLosslessSV1]) as association:
        # A whole series that no decoder can read: the worker's gate meets it.
        for number in range(60):
            ds = encapsulated(small(1, number))
            statuses.add(_store(association, ds, encode(ds)))
    with associated(port, syntaxes=[ExplicitVRLittleEndian]) as association:
        for ds, announced in hostile():
            statuses.add(_store(association, ds, encode(ds), announced))
        whole = encode(small(2, 1))
        statuses.add(_store(association, small(2, 1), whole))
        # Another content under the same UID, a data set cut in a name, and no data set at all.
        statuses.add(_store(association, small(2, 1), whole[:-2] + b"zz"))
        cut = whole.index(STEM.encode()) + 3
        statuses.add(_store(association, small(3, 1), whole[:cut]))
        statuses.add(_store(association, small(4, 1), STEM.encode() * 40))
    assert dcmsend(good, port).returncode == 0
    return statuses


def _store(association: Any, ds: Dataset, content: bytes, announced: str | None = None) -> int:
    uid = announced or str(ds.SOPInstanceUID)
    status, comment = store_bytes(association, content, CTImageStorage, uid)
    assert STEM.lower() not in comment.lower()
    return status


def _is_decided(node: LocalNode) -> bool:
    states = node.ledger.reports.status()["series"]
    return not {"receiving", "complete"} & set(states)


def _pages(node: LocalNode, folder: Path) -> dict[str, bytes]:
    base = f"http://127.0.0.1:{node.service.facts['web_port']}"
    pages = {}
    for page in ("/health", "/metrics", f"/{STEM}", "/health?x=y"):
        try:
            with urllib.request.urlopen(base + page, timeout=20) as answer:
                pages[page] = answer.read()
        except urllib.error.HTTPError as error:
            pages[page] = error.read()
    assert json.loads(pages["/health"])["status"] == "ok"
    return pages


def test_the_journeys_went_where_they_should(journeys: Journeys) -> None:
    """The search below is worth something: each way through our code was taken."""
    assert list(journeys.states.values()) == ["committed", "declined", "declined"]
    assert journeys.statuses >= {0x0000, 0xA900, 0xC001, 0xC002, 0xC003}
    archived = list((journeys.folder / "data" / "archive").rglob("*.dcm"))
    assert any(MARKS.search(path.read_bytes()) for path in archived)


def test_no_log_and_no_page_names_the_patient(journeys: Journeys) -> None:
    log = (journeys.folder / "node.log").read_bytes()
    assert b"instance refused" in log
    assert b"delivery postponed" in log
    assert MARKS.findall(log) == []
    for page, content in journeys.pages.items():
        assert MARKS.findall(content) == [], page


def test_no_database_and_no_file_but_the_objects_names_the_patient(journeys: Journeys) -> None:
    named_files = [
        path.relative_to(journeys.folder)
        for path in sorted(journeys.folder.rglob("*"))
        if MARKS.search(str(path).encode())
        or (path.is_file() and path.suffix != ".dcm" and MARKS.search(path.read_bytes()))
    ]
    assert named_files == []


def test_no_command_names_the_patient(
    journeys: Journeys, capsys: pytest.CaptureFixture[str]
) -> None:
    config = journeys.folder / "site.toml"
    asking.export(config)
    asking.status(config, True)
    asking.jobs(config, False, 50, True)
    for uid in journeys.states:
        asking.show(config, uid)
    said = capsys.readouterr()
    assert "instance.refused" in said.out
    assert MARKS.findall((said.out + said.err).encode()) == []
