"""What the ledger keeps of associations and instances, and what it leaves untouched."""

from __future__ import annotations

from typing import Any

import pytest

from node.audit import Kind, verify
from node.errors import LostRace, Retry
from node.ledger import Ledger, database, open_ledger
from node.ledger.receiving import Arrival, Conflict, ConflictReason, Duplicate, Ending, Stored
from node.records import AssociationRecord, QuarantineRecord, SelectionRecord
from node.states import SeriesState
from tests.node.samples import SERIES_UID, STUDY_UID, Clock, received


class Desk:
    """A ledger with a clock and one open association."""

    def __init__(self, url: str) -> None:
        self.clock = Clock()
        self.ledger: Ledger = open_ledger(url, self.clock)
        self.association = self.open()

    def open(self) -> int:
        return self.ledger.receiving.open_association("receive-0", "CT1", "US", "10.0.0.5")

    def record(self, number: int, **changes: Any) -> Stored | Duplicate | Conflict:
        self.clock.advance(0.5)
        return self.ledger.receiving.record_instances([self.arrival(number, **changes)])[0]

    def arrival(self, number: int, **changes: Any) -> Arrival:
        return Arrival(received(number, **changes), self.association, "CT1", "10.0.0.5")

    def state(self) -> tuple[SeriesState, int, int]:
        held = self.ledger.series.get(SERIES_UID)
        assert held is not None
        return held.state, held.version, len(held.instances)

    def complete(self) -> None:
        self.ledger.series.complete(self.ledger.series.incoming()[0], "test", "test")

    def decide(self, decision: SeriesState, version: int = 1) -> None:
        self.ledger.series.decide(
            SERIES_UID, version, decision, "test.code", "because", {"step_mm": 1.0}, "test"
        )

    def kinds(self) -> list[str]:
        events = list(self.ledger.reports.events())
        assert verify(events) is None
        return [event.kind for event in events]


@pytest.fixture
def desk(database_url: str) -> Any:
    desk = Desk(database_url)
    yield desk
    desk.ledger.close()


def test_instances_open_and_extend_their_series(desk: Desk) -> None:
    assert desk.record(1) == Stored(version=1, is_reopening=False)
    assert desk.record(2) == Stored(version=1, is_reopening=False)
    assert desk.state() == (SeriesState.RECEIVING, 1, 2)
    (incoming,) = desk.ledger.series.incoming()
    assert incoming.last_instance_at == desk.clock.now
    assert (incoming.open_associations, incoming.was_cut_off) == (1, False)
    assert desk.kinds() == [Kind.INSTANCE_RECEIVED] * 2


def test_the_same_bytes_again_change_nothing(desk: Desk) -> None:
    desk.record(1)
    desk.complete()
    assert desk.record(1) == Duplicate()
    assert desk.state() == (SeriesState.COMPLETE, 1, 1)
    assert desk.kinds()[-1] == Kind.INSTANCE_DUPLICATE


def test_other_bytes_of_a_uid_never_replace_what_is_held(desk: Desk) -> None:
    desk.record(1)
    assert desk.record(1, digest="f" * 64) == Conflict(ConflictReason.OTHER_BYTES)
    held = desk.ledger.series.get(SERIES_UID)
    assert held is not None
    assert held.sources == {f"{SERIES_UID}.1": f"{1:064x}"}
    assert desk.kinds() == [Kind.INSTANCE_RECEIVED]
    rival = received(1, digest="f" * 64, path="quarantine/x")
    desk.ledger.receiving.quarantine(rival, "other bytes", desk.association, "CT1")
    assert desk.kinds()[-1] == Kind.INSTANCE_QUARANTINED
    with desk.ledger.database.reading() as session:
        assert session.query(QuarantineRecord).one().digest == "f" * 64


def test_instances_of_one_transaction_are_decided_one_by_one(desk: Desk) -> None:
    """As if each had come alone, those of the same transaction included."""
    desk.record(1)
    desk.complete()
    other = {"series_uid": "1.8", "study_uid": "1.9"}
    arrivals = [
        desk.arrival(1),
        desk.arrival(2),
        desk.arrival(2),
        desk.arrival(2, digest="f" * 64),
        desk.arrival(3, **other),
        desk.arrival(4, series_uid="1.8"),
        desk.arrival(5),
    ]
    assert desk.ledger.receiving.record_instances(arrivals) == [
        Duplicate(),
        Stored(version=2, is_reopening=True),
        Duplicate(),
        Conflict(ConflictReason.OTHER_BYTES),
        Stored(version=1, is_reopening=False),
        Conflict(ConflictReason.OTHER_STUDY),
        Stored(version=2, is_reopening=False),
    ]
    assert desk.state() == (SeriesState.RECEIVING, 2, 3)
    assert desk.kinds()[2:] == [
        Kind.INSTANCE_DUPLICATE,
        Kind.SERIES_REOPENED,
        Kind.INSTANCE_RECEIVED,
        Kind.INSTANCE_DUPLICATE,
        Kind.INSTANCE_RECEIVED,
        Kind.INSTANCE_RECEIVED,
    ]


def test_a_series_cannot_move_to_another_study(desk: Desk) -> None:
    desk.record(1)
    assert desk.record(2, study_uid="1.9") == Conflict(ConflictReason.OTHER_STUDY)
    assert desk.state() == (SeriesState.RECEIVING, 1, 1)


@pytest.mark.parametrize("decision", [None, SeriesState.SELECTED, SeriesState.DECLINED])
def test_a_late_slice_opens_the_next_version(desk: Desk, decision: SeriesState | None) -> None:
    desk.record(1)
    desk.complete()
    if decision:
        desk.decide(decision)
    assert desk.record(2) == Stored(version=2, is_reopening=True)
    assert desk.state() == (SeriesState.RECEIVING, 2, 2)
    assert desk.kinds()[-2:] == [Kind.SERIES_REOPENED, Kind.INSTANCE_RECEIVED]
    desk.complete()
    desk.decide(SeriesState.SELECTED, version=2)
    assert desk.state() == (SeriesState.SELECTED, 2, 2)


def test_a_slice_that_comes_between_seeing_and_completing_wins(desk: Desk) -> None:
    desk.record(1)
    (seen,) = desk.ledger.series.incoming()
    desk.record(2)
    with pytest.raises(LostRace):
        desk.ledger.series.complete(seen, "test", "test")
    assert desk.state() == (SeriesState.RECEIVING, 1, 2)


def test_a_decision_about_an_older_version_is_lost(desk: Desk) -> None:
    desk.record(1)
    desk.complete()
    desk.record(2)
    desk.complete()
    with pytest.raises(LostRace):
        desk.decide(SeriesState.SELECTED, version=1)
    assert desk.state()[0] == SeriesState.COMPLETE
    with desk.ledger.database.reading() as session:
        assert session.query(SelectionRecord).count() == 0


def test_undecided_studies_are_those_with_a_complete_series(desk: Desk) -> None:
    desk.record(1)
    assert desk.ledger.series.undecided_studies() == ()
    desk.complete()
    assert desk.ledger.series.undecided_studies() == (STUDY_UID,)
    desk.decide(SeriesState.DECLINED)
    assert desk.ledger.series.undecided_studies() == ()


def test_associations_end_once_and_orphans_are_found(desk: Desk) -> None:
    released, lost = desk.association, desk.open()
    other = desk.ledger.receiving.open_association("receive-1", "CT1", "US", "10.0.0.5")
    desk.ledger.receiving.close_association(released, Ending.RELEASED)
    desk.ledger.receiving.close_association(released, Ending.ABORTED)
    assert desk.ledger.receiving.close_orphans("receive-0") == 1
    assert desk.ledger.receiving.close_orphans("receive-0") == 0
    with desk.ledger.database.reading() as session:
        endings = {row.id: row.ending for row in session.query(AssociationRecord)}
    assert endings == {released: "released", lost: "orphaned", other: None}
    assert desk.kinds() == [Kind.ASSOCIATION_ORPHANED]


@pytest.mark.parametrize("ending", Ending)
def test_a_sender_that_did_not_release_was_cut_off(desk: Desk, ending: Ending) -> None:
    desk.record(1)
    desk.ledger.receiving.close_association(desk.association, ending)
    (incoming,) = desk.ledger.series.incoming()
    assert incoming.open_associations == 0
    assert incoming.was_cut_off == (ending is not Ending.RELEASED)


def test_a_sender_that_came_back_was_not_cut_off(desk: Desk) -> None:
    desk.record(1)
    desk.ledger.receiving.close_association(desk.association, Ending.ABORTED)
    desk.association = desk.open()
    desk.record(2)
    desk.ledger.receiving.close_association(desk.association, Ending.RELEASED)
    assert not desk.ledger.series.incoming()[0].was_cut_off


def test_refusals_are_on_record(desk: Desk) -> None:
    desk.ledger.receiving.refuse_association("EVIL", "US", "10.6.6.6", "not among receive.peers")
    desk.ledger.receiving.refuse_instance("1.2", 0xC001, "no data set", desk.association, "CT1")
    first, second = desk.ledger.reports.events()
    assert (first.kind, first.subject) == (Kind.ASSOCIATION_REFUSED, "EVIL")
    assert second.detail["status"] == "0xC001"


def test_a_transaction_that_fails_leaves_nothing(desk: Desk) -> None:
    def fail() -> None:
        with desk.ledger.database.transaction() as session:
            desk.ledger.database.append_audit(session, Kind.INSTANCE_RECEIVED, "1.2", "CT1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert desk.kinds() == []


def test_a_busy_database_asks_for_a_retry_and_tells_no_values(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    desk = Desk(database_url)
    blocker = open_ledger(database_url, desk.clock)
    with blocker.database.transaction(), pytest.raises(Retry) as caught:
        desk.record(1)
    assert SERIES_UID not in str(caught.value)
    with desk.ledger.database.transaction(), pytest.raises(Retry, match="busy"):
        desk.record(1)
    assert desk.record(1) == Stored(version=1, is_reopening=False)
