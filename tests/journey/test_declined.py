"""What is not a usable neck CT: a clear reason on record, and nothing is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.filereader import read_partial
from pydicom.uid import CTImageStorage

from node.journey import Journey
from node.loopback import local_node
from pipeline.phantom import Variant
from pipeline.provenance import derive_uid
from tests.journey import observing
from tests.journey.conftest import PhantomFolder
from tests.node.scu import associated, store_bytes
from tests.peers import ScriptedPeer, dcmsend

pytestmark = pytest.mark.journey

SEED = 3
GATE = r"foramen magnum|dens|canal|symmetry|ring|bodies"


@dataclass(frozen=True)
class Case:
    """A series to send, and what a person must be able to read out of the reason.

    Args:
        variant: What is wrong with it.
        reason: Pattern of the recorded reason.
        is_disguised: Whether Body Part Examined says CSPINE all the same, so that only the pixels
            tell.
    """

    variant: Variant
    reason: str
    is_disguised: bool = False

    @property
    def name(self) -> str:
        return f"{self.variant}{'-disguised' if self.is_disguised else ''}"


CASES = (
    Case(Variant.LOCALIZER, r"localizer"),
    Case(Variant.HEAD_ONLY, r"HEAD"),
    Case(Variant.HEAD_ONLY, GATE, is_disguised=True),
    Case(Variant.LUMBAR, r"LSPINE"),
    Case(Variant.LUMBAR, GATE, is_disguised=True),
    Case(Variant.CHEST, r"CHEST"),
    # The phantom's chest is short; its pixels are declined in tests/pipeline/test_anatomy.py.
    Case(Variant.CHEST, r"along the patient", is_disguised=True),
    Case(Variant.THICK_SLICES, r"8(\.0+)? mm"),
    Case(Variant.MISSING_SLICES, r"missing|gap"),
    Case(Variant.RGB, r"colou?r|samples"),
    Case(Variant.NO_PIXEL_DATA, r"pixel data"),
    Case(Variant.TRUNCATED, r"truncated|bytes"),
)


@dataclass(frozen=True)
class Refusals:
    """What came of sending every case to one node."""

    journeys: dict[str, Journey]
    events: dict[str, int]
    sent: int
    chain_is_whole: bool


@pytest.fixture(scope="module")
def refusals(
    phantom_ct: PhantomFolder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Refusals]:
    folders = {}
    for case in CASES:
        folder = phantom_ct(SEED, case.variant)
        folders[case.name] = (
            disguised(folder, tmp_path_factory.mktemp(case.name)) if case.is_disguised else folder
        )
    uids = {name: observing.series_uids(folder).pop() for name, folder in folders.items()}
    patience = {"completion": {"gap_patience_s": 2.0, "quiet_s": 0.5}}
    with ScriptedPeer() as pacs:
        target = [observing.destination(pacs.port, ae_title="PEER")]
        with local_node(tmp_path_factory.mktemp("declined"), target, patience) as node:
            for case in CASES:
                give = as_it_is if case.variant is Variant.TRUNCATED else dcmsend
                give(folders[case.name], node.service.port)
            journeys = observing.wait_until_over(node, uids.values())
            yield Refusals(
                {name: journeys[uid] for name, uid in uids.items()},
                {n: len(observing.story(node.ledger, uid)["events"]) for n, uid in uids.items()},
                len(pacs.heard),
                observing.chain_is_whole(node.ledger),
            )


def as_it_is(folder: Path, port: int) -> None:
    """Send what is in the files, to the last byte that is there; dcmsend would parse them."""
    with associated(port) as association:
        for path in sorted(folder.glob("*.dcm")):
            with path.open("rb") as stream:
                # Reads the file meta information and stops before the first element.
                read_partial(stream, stop_when=lambda *_: True)
                content = stream.read()
            header = dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
            status, comment = store_bytes(
                association, content, CTImageStorage, header.SOPInstanceUID
            )
            assert status == 0x0000, comment


def disguised(folder: Path, into: Path) -> Path:
    """The same pixels as another study that calls itself a neck."""
    for path in sorted(folder.glob("*.dcm")):
        ds = dcmread(path)
        ds.BodyPartExamined = "CSPINE"
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            ds[keyword].value = derive_uid(ds[keyword].value, "disguised")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(into / path.name)
    return into


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_declined_with_a_reason(refusals: Refusals, case: Case) -> None:
    journey = refusals.journeys[case.name]
    assert journey.is_declined, (journey.state, journey.reason)
    assert journey.reason is not None
    assert re.search(case.reason, journey.reason, re.IGNORECASE), journey.reason
    # what was found and what was expected: both are in the sentence
    assert "expected" in journey.reason.lower()
    assert "found" in journey.reason.lower()
    assert refusals.events[case.name] > 0


def test_nothing_was_sent(refusals: Refusals) -> None:
    assert refusals.sent == 0
    assert refusals.chain_is_whole


def test_an_mr_is_refused_in_negotiation(phantom_ct: PhantomFolder, tmp_path: Path) -> None:
    folder = phantom_ct(SEED, Variant.MR)
    with local_node(tmp_path / "node", [], role="receive") as node:
        sent = dcmsend(folder, node.service.port)
        assert "no acceptable pres" in sent.stderr
        assert node.ledger.reports.status()["instances"] == 0


def test_an_mr_that_calls_itself_ct_is_declined(phantom_ct: PhantomFolder, tmp_path: Path) -> None:
    """The SOP class opens the door; Modality still says what it is."""
    folder = tmp_path / "disguised"
    folder.mkdir()
    for path in sorted(phantom_ct(SEED, Variant.MR).glob("*.dcm")):
        ds = dcmread(path)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.save_as(folder / path.name)
    (uid,) = observing.series_uids(folder)
    with local_node(tmp_path / "node", [], role="receive") as node:
        dcmsend(folder, node.service.port)
        journey = observing.wait_until_over(node, [uid])[uid]
        assert journey.is_declined
        assert journey.reason is not None
        assert "MR" in journey.reason
