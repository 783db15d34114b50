"""What is not a usable neck CT: a clear reason on record, and nothing is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from node.journey import Journey
from node.loopback import LocalNode, local_node
from pipeline.phantom import Variant
from tests.journey import observing
from tests.journey.conftest import PhantomFolder
from tests.peers import ScriptedPeer, dcmsend

pytestmark = pytest.mark.journey

SEED = 3
# What a person must be able to read out of the reason.
EXPECTED = {
    Variant.LOCALIZER: r"localizer",
    Variant.HEAD_ONLY: r"canal|foramen|below|coverage",
    Variant.LUMBAR: r"foramen magnum|dens|upper|canal|cervical|symmetry|ring|bodies",
    Variant.CHEST: r"foramen magnum|dens|upper|canal|cervical|symmetry|ring|bodies",
    Variant.THICK_SLICES: r"8(\.0+)? mm",
    Variant.MISSING_SLICES: r"missing|gap",
    Variant.RGB: r"colou?r|samples",
    Variant.NO_PIXEL_DATA: r"pixel data",
    Variant.TRUNCATED: r"truncated|bytes",
}


@dataclass(frozen=True)
class Refusals:
    """What came of sending every variant to one node."""

    journeys: dict[Variant, Journey]
    events: dict[Variant, int]
    sent: int
    chain_is_whole: bool


@pytest.fixture(scope="module")
def refusals(
    phantom_ct: PhantomFolder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Refusals]:
    folders = {variant: phantom_ct(SEED, variant) for variant in EXPECTED}
    uids = {variant: observing.series_uids(folder).pop() for variant, folder in folders.items()}
    patience = {"completion": {"gap_patience_s": 2.0, "quiet_s": 0.5}}
    with ScriptedPeer() as pacs:
        target = [observing.destination(pacs.port, ae_title="PEER")]
        with local_node(tmp_path_factory.mktemp("declined"), target, patience) as node:
            for folder in folders.values():
                dcmsend(folder, node.service.port)
            journeys = observing.wait_until_over(node, uids.values())
            yield Refusals(
                {variant: journeys[uid] for variant, uid in uids.items()},
                {v: len(observing.story(node.ledger, uid)["events"]) for v, uid in uids.items()},
                len(pacs.heard),
                observing.chain_is_whole(node.ledger),
            )


@pytest.mark.parametrize("variant", EXPECTED)
def test_declined_with_a_reason(refusals: Refusals, variant: Variant) -> None:
    journey = refusals.journeys[variant]
    assert journey.is_declined, (journey.state, journey.reason)
    assert journey.reason is not None
    assert re.search(EXPECTED[variant], journey.reason, re.IGNORECASE), journey.reason
    # what was found, what was expected: both are in the sentence
    assert "expected" in journey.reason.lower() or "found" in journey.reason.lower()
    assert refusals.events[variant] > 0


def test_nothing_was_sent(refusals: Refusals) -> None:
    assert refusals.sent == 0
    assert refusals.chain_is_whole


def test_an_mr_is_refused_in_negotiation(phantom_ct: PhantomFolder, tmp_path: Path) -> None:
    folder = phantom_ct(SEED, Variant.MR)
    with local_node(tmp_path / "node", []) as node:
        sent = dcmsend(folder, node.service.port)
        assert sent.returncode != 0 or "No presentation context" in sent.stderr + sent.stdout
        assert observing_nothing(node)


def test_an_mr_that_calls_itself_ct_is_declined(phantom_ct: PhantomFolder, tmp_path: Path) -> None:
    """The SOP class opens the door; Modality still says what it is."""
    folder = tmp_path / "disguised"
    folder.mkdir()
    for path in sorted(phantom_ct(SEED, Variant.MR).glob("*.dcm")):
        ds = dcmread(path)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.save_as(folder / path.name)
    (uid,) = observing.series_uids(folder)
    with local_node(tmp_path / "node", []) as node:
        dcmsend(folder, node.service.port)
        journey = observing.wait_until_over(node, [uid])[uid]
        assert journey.is_declined
        assert journey.reason is not None
        assert "MR" in journey.reason


def observing_nothing(node: LocalNode) -> bool:
    return node.ledger.reports.status()["instances"] == 0
