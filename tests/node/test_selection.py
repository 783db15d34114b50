"""Which series is chosen, and every reason for which one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.settings import SelectionSettings, load
from node import selection
from node.candidate import SeriesSummary
from node.completion import CompletionLoop
from node.kernel import Sharpness, sharpness
from node.ledger.entries import NewSynthesis
from node.ledger.receiving import Ending
from node.ledger.series import HeldSeries
from node.records import SelectionRecord
from node.selection import (
    ROUTINE_PRIORITY,
    TRAUMA_PRIORITY,
    Declined,
    Selected,
    Selector,
    select,
)
from node.states import SeriesState
from node.summary import InstanceSummary, Pixels, Refusal
from tests.node.samples import (
    REFUSAL,
    SERIES_UID,
    STUDY_UID,
    Clock,
    instance,
    new_ledger,
    record,
    series,
)

SETTINGS = load().selection
CONTRASTS = ("T2", "STIR")
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
# A gantry tilted by 25 degrees about x.
TILTED = (1.0, 0.0, 0.0, 0.0, 0.906307787, 0.422618262)


def heights(count: int, step_mm: float = 1.0, start_mm: float = 0.0) -> list[float]:
    return [start_mm + step_mm * index for index in range(count)]


def mixed(*instances: InstanceSummary) -> SeriesSummary:
    return SeriesSummary("1.1", SeriesState.COMPLETE, "CT1", instances)


def decide(*study: SeriesSummary, **changes: Any) -> dict[str, Selected | Declined]:
    settings = SelectionSettings(**(SETTINGS.model_dump() | changes))
    return select(study, settings, CONTRASTS)


def refusal(code: str) -> Refusal:
    return Refusal(code, "this", "that", "Do something.")


SPIRAL = [instance(z) for z in heights(199)]
DECLINED: list[tuple[str, str, SeriesSummary]] = [
    ("localizer", "series.localizer", series(refusal=refusal("series.localizer"))),
    ("MR modality", "series.class", series(refusal=REFUSAL)),
    ("color", "pixels.color", series(refusal=refusal("pixels.color"))),
    ("no HU", "pixels.units", series(refusal=refusal("pixels.units"))),
    ("bad geometry", "slices.geometry", series(refusal=refusal("slices.geometry"))),
    ("no pixels", "pixels.absent", series(pixels=Pixels.ABSENT)),
    ("truncated", "pixels.truncated", series(pixels=Pixels.TRUNCATED)),
    (
        "one truncated and therefore unreadable",
        "pixels.truncated",
        mixed(
            *SPIRAL,
            instance(pixels=Pixels.TRUNCATED, refusal=refusal("slices.geometry")),
        ),
    ),
    ("reformat", "series.derived", series(image_type=("DERIVED", "SECONDARY", "REFORMATTED"))),
    ("MIP", "series.derived", series(image_type=("DERIVED", "PRIMARY", "AXIAL", "MIP"))),
    ("sagittal", "series.orientation", series(orientation=SAGITTAL)),
    ("coronal", "series.orientation", series(orientation=CORONAL)),
    ("few", "slices.few", series(heights_mm=heights(29, 5.0))),
    ("thick", "slices.coarse", series(thickness_mm=5.0)),
    ("wide steps", "slices.coarse", series(heights_mm=heights(60, 4.0))),
    ("coarse pixels", "pixels.coarse", series(pixel_mm=(1.3, 1.3))),
    ("missing", "slices.missing", series(heights_mm=[*heights(100), *heights(100, 1.0, 101.0)])),
    ("uneven", "slices.uneven", series(heights_mm=[*heights(100), *heights(100, 1.0, 100.4)])),
    ("two frames of reference", "slices.mixed", mixed(*SPIRAL, instance(
        199.0, frame_of_reference_uid="1.2.4"))),
    ("short", "slices.short", series(heights_mm=heights(60))),
    ("lumbar", "series.body_part", series(body_part="LSPINE")),
    ("chest", "series.body_part", series(body_part="CHEST")),
    ("head", "series.body_part", series(body_part="HEAD")),
    ("empty", "slices.few", mixed()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "one"), [row[1:] for row in DECLINED], ids=[r[0] for r in DECLINED]
)
def test_a_series_is_declined_with_code_found_expected_and_remedy(
    code: str, one: SeriesSummary
) -> None:
    decision = decide(one)[one.series_uid]
    assert isinstance(decision, Declined)
    assert decision.code == code
    assert all((decision.found, decision.expected, decision.remedy))
    assert decision.found in decision.reason


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"body_part": ""},
        {"body_part": "HEADNECK"},
        {"body_part": "SPINE"},
        {"image_type": ("DERIVED", "PRIMARY", "AXIAL")},
        {"image_type": ("ORIGINAL", "SECONDARY", "AXIAL")},
        {"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 MPR")},
        {"image_type": ()},
        {"kernel": "BR64D"},
        {"orientation": TILTED},
        {"thickness_mm": None},
        {"heights_mm": heights(112)},
        {"heights_mm": heights(60, 3.0), "thickness_mm": 3.0},
        {"heights_mm": heights(60, 3.0), "thickness_mm": 3.0, "pixel_mm": (1.2, 1.2)},
    ],
)
def test_a_usable_series_is_selected(changes: dict[str, Any]) -> None:
    decision = decide(series(**changes))["1.1"]
    assert isinstance(decision, Selected)
    assert decision.contrasts == CONTRASTS
    assert decision.detail["penalty_mm"] > 0


def test_the_best_reconstruction_of_a_scan_is_chosen_and_the_others_name_it() -> None:
    decisions = decide(
        series("1.1", thickness_mm=3.0),
        series("1.2", kernel="BR64D", thickness_mm=0.75),
        series("1.3", kernel="BR40F", thickness_mm=1.0),
        series("1.4", refusal=refusal("series.localizer")),
    )
    assert {uid: decision.code for uid, decision in decisions.items()} == {
        "1.1": "selection.better_series",
        "1.2": "selection.better_series",
        "1.3": "selection.best",
        "1.4": "series.localizer",
    }
    outdone = decisions["1.1"]
    assert isinstance(outdone, Declined)
    assert "1.3" in outdone.found


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"kernel": "BR40F"}, {"kernel": "BR64D"}),
        ({"kernel": "BR40F"}, {"kernel": "SOMETHING"}),
        ({"thickness_mm": 1.0}, {"thickness_mm": 2.0}),
        ({"pixel_mm": (0.4, 0.4)}, {"pixel_mm": (0.9, 0.9)}),
        ({"heights_mm": heights(200)}, {"heights_mm": heights(120)}),
        # A soft kernel is worth one millimeter of slice thickness, no more.
        ({"kernel": "BR40F", "thickness_mm": 1.5}, {"kernel": "BR64D", "thickness_mm": 0.75}),
        ({"kernel": "BR64D", "thickness_mm": 0.75}, {"kernel": "BR40F", "thickness_mm": 2.5}),
    ],
)
@pytest.mark.parametrize("is_swapped", [False, True])
def test_what_makes_a_series_better(
    better: dict[str, Any], worse: dict[str, Any], is_swapped: bool
) -> None:
    study = [series("1.1", **better), series("1.2", **worse)]
    decisions = decide(*reversed(study)) if is_swapped else decide(*study)
    assert decisions["1.1"].code == "selection.best"
    assert decisions["1.2"].code == "selection.better_series"


def test_equal_series_are_decided_the_same_way_every_time() -> None:
    one, two = series("1.1"), series("1.2")
    assert decide(one, two) == decide(two, one)


def test_scans_of_other_regions_do_not_compete() -> None:
    decisions = decide(
        series("1.1", heights_mm=heights(200, 1.0, 0.0), body_part=""),
        series("1.2", heights_mm=heights(160, 1.0, 180.0), body_part="", thickness_mm=0.6),
    )
    assert {decision.code for decision in decisions.values()} == {"selection.best"}


def test_a_later_series_is_synthesized_only_when_clearly_better() -> None:
    bone = series("1.1", kernel="BR64D", state=SeriesState.SELECTED)
    soft, thinner = series("1.2", kernel="BR40F"), series("1.3", kernel="BR64D", thickness_mm=0.8)
    assert decide(bone, soft)["1.2"].code == "selection.best"
    decisions = decide(bone, thinner)
    assert set(decisions) == {"1.3"}
    assert decisions["1.3"].code == "selection.better_series"


def test_a_later_series_is_synthesized_when_none_was_selected() -> None:
    declined = series("1.1", state=SeriesState.DECLINED)
    assert decide(declined, series("1.2", thickness_mm=3.0))["1.2"].code == "selection.best"


@pytest.mark.parametrize("state", [SeriesState.RECEIVING, SeriesState.DECLINED])
def test_only_complete_series_are_decided(state: SeriesState) -> None:
    assert decide(series(state=state)) == {}


def test_trauma_goes_first() -> None:
    def priority(*study: SeriesSummary, **changes: Any) -> int:
        decision = decide(*study, **changes)["1.1"]
        assert isinstance(decision, Selected)
        return decision.priority

    assert priority(series()) == ROUTINE_PRIORITY
    assert priority(series(is_trauma=True)) == TRAUMA_PRIORITY
    assert priority(series(calling_ae="SHOCK1"), trauma_peers=("SHOCK1",)) == TRAUMA_PRIORITY
    # A word in the description of any series of the study counts for all.
    scout = series("1.9", is_trauma=True, refusal=refusal("series.localizer"))
    assert priority(series(), scout) == TRAUMA_PRIORITY


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("BR40F", Sharpness.SOFT), ("BR40D\\3", Sharpness.SOFT), ("I31F\\3", Sharpness.SOFT),
        ("B30S", Sharpness.SOFT), ("H60S", Sharpness.SHARP), ("BR64D\\3", Sharpness.SHARP),
        ("B70F", Sharpness.SHARP), ("STANDARD", Sharpness.SOFT), ("BONEPLUS", Sharpness.SHARP),
        ("LUNG", Sharpness.SHARP), ("SOFT", Sharpness.SOFT), ("FC08", Sharpness.SOFT),
        ("FC30", Sharpness.SHARP), ("FC43", Sharpness.SOFT), ("FC81", Sharpness.SHARP),
        ("B", Sharpness.SOFT), ("YD", Sharpness.SHARP), ("", Sharpness.UNKNOWN),
        ("WHATEVER", Sharpness.UNKNOWN), ("QR69", Sharpness.SHARP),
    ],
)  # fmt: skip
def test_kernels(kernel: str, expected: Sharpness) -> None:
    assert sharpness(kernel) is expected


def test_a_series_that_cannot_be_measured_does_not_strand_its_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.candidate.sharpness", lambda kernel: {}[kernel])
    assert decide(series("1.1"))["1.1"].code == "series.unmeasured"


class Node:
    """Ledger, completion loop and selector, wired as in the real node."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.ledger = new_ledger(folder, self.clock)
        self.created: list[tuple[HeldSeries, Selected]] = []
        settings = load()
        self.selector = Selector(self.ledger, settings.selection, CONTRASTS, self.create, 10)
        self.loop = CompletionLoop(self.ledger, settings.completion, self.selector.decide)

    def create(self, held: HeldSeries, selected: Selected) -> None:
        self.created.append((held, selected))

    def receive(self, numbers: range) -> None:
        association = self.ledger.receiving.open_association("r", "CT1", "US", "10.0.0.5")
        for number in numbers:
            record(self.ledger, number, association)
        self.ledger.receiving.close_association(association, Ending.RELEASED)

    def turn(self) -> None:
        self.loop.run_once(self.clock.advance(5))


def test_a_complete_series_gets_a_synthesis_of_exactly_its_instances(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.receive(range(150))
    node.turn()
    node.turn()
    ((held, selected),) = node.created
    assert held.sources == {f"{SERIES_UID}.{n}": f"{n:064x}" for n in range(150)}
    assert (held.version, held.calling_ae, held.peer_address) == (1, "CT1", "127.0.0.1")
    assert selected.priority == ROUTINE_PRIORITY
    found = node.ledger.series.get(SERIES_UID)
    assert found is not None
    assert found.state == SeriesState.SELECTED
    # A late slice: the second version is judged, chosen and synthesized anew.
    node.receive(range(150, 151))
    node.turn()
    assert [one.version for one, _ in node.created] == [1, 2]
    assert len(node.created[1][0].sources) == 151
    node.ledger.close()


def test_a_declined_series_is_on_record_and_nothing_is_created(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.receive(range(10))
    node.turn()
    assert node.created == []
    with node.ledger.database.reading() as session:
        (row,) = session.query(SelectionRecord)
        assert (row.decision, row.code) == ("declined", "slices.few")
        assert set(row.detail) == {"code", "found", "expected", "remedy"}
        assert "10 slice(s)" in row.reason
    assert list(node.ledger.reports.events())[-1].kind == "series.declined"
    node.ledger.close()


def test_a_crash_between_creating_and_deciding_is_repeated(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.receive(range(150))

    def create_and_die(held: HeldSeries, selected: Selected) -> None:
        node.create(held, selected)
        raise KeyboardInterrupt

    dying = Selector(node.ledger, SETTINGS, CONTRASTS, create_and_die, 10)
    loop = CompletionLoop(node.ledger, load().completion, dying.decide)
    with pytest.raises(KeyboardInterrupt):
        loop.run_once(node.clock.advance(5))
    assert node.ledger.series.undecided_studies() == (STUDY_UID,)
    node.turn()
    first, second = node.created
    assert first == second
    assert node.ledger.series.undecided_studies() == ()
    node.ledger.close()


def queue(node: Node, jobs: range, priority: int) -> None:
    for number in jobs:
        new = NewSynthesis(
            job_id=f"{number:064x}",
            series_uid=SERIES_UID,
            series_version=1,
            study_uid=STUDY_UID,
            priority=priority,
            contrasts=("T2",),
            sources={"1.2": "00"},
            seed=1,
            model_name="none",
            model_version="0",
            model_digest="00",
            parameters={},
        )
        assert node.ledger.syntheses.create(new, "tests")


def test_a_full_queue_leaves_a_series_complete_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "HELD_BACK_S", 0.0)
    node = Node(tmp_path)
    node.receive(range(150))
    queue(node, range(10), ROUTINE_PRIORITY)
    node.turn()
    assert node.created == []
    assert node.ledger.series.undecided_studies() == (STUDY_UID,)
    node.ledger.syntheses.start(f"{3:064x}", 1, "tests")
    node.turn()
    assert len(node.created) == 1
    assert node.ledger.series.undecided_studies() == ()
    node.ledger.close()


def test_trauma_waits_for_trauma_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "HELD_BACK_S", 0.0)
    node = Node(tmp_path)
    node.receive(range(150))
    queue(node, range(10), ROUTINE_PRIORITY)
    queue(node, range(10, 12), TRAUMA_PRIORITY)
    settings = SETTINGS.model_copy(update={"trauma_peers": ("CT1",)})
    Selector(node.ledger, settings, CONTRASTS, node.create, 2).decide(STUDY_UID)
    node.turn()
    assert node.created == []
    Selector(node.ledger, settings, CONTRASTS, node.create, 3).decide(STUDY_UID)
    ((_, selected),) = node.created
    assert selected.priority == TRAUMA_PRIORITY
    node.ledger.close()
