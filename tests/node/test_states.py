"""The tables of moves are closed, leave no state without a way out, and bind the ledger."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from node.errors import IllegalMove, LostRace
from node.ledger.database import move
from node.records import SeriesRecord
from node.states import (
    DELIVERY_MOVES,
    SERIES_MOVES,
    SYNTHESIS_MOVES,
    WORKER_MOVES,
    DeliveryState,
    SeriesState,
    SynthesisState,
    WorkerState,
)
from tests.node.samples import SERIES_UID, Clock, new_ledger, record

TABLES: list[tuple[Any, Any, set[Any]]] = [
    (SeriesState, SERIES_MOVES, set()),
    (SynthesisState, SYNTHESIS_MOVES, {SynthesisState.COMMITTED, SynthesisState.DECLINED}),
    (DeliveryState, DELIVERY_MOVES, {DeliveryState.COMMITTED}),
    (WorkerState, WORKER_MOVES, {WorkerState.RECOVERED}),
]


@pytest.mark.parametrize(("states", "moves", "final"), TABLES)
def test_every_state_has_a_row_and_only_final_ones_have_no_way_out(
    states: Any, moves: Any, final: set[Any]
) -> None:
    assert set(moves) == set(states)
    assert {state for state, targets in moves.items() if not targets} == final


@pytest.mark.parametrize(("states", "moves", "final"), TABLES)
def test_every_state_can_be_reached(states: Any, moves: Any, final: set[Any]) -> None:
    first = next(iter(states))
    reached, frontier = {first}, [first]
    while frontier:
        new = moves[frontier.pop()] - reached
        reached |= new
        frontier += new
    assert reached == set(states)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(SeriesState, SeriesState)))
def test_an_illegal_move_raises_and_changes_nothing(
    tmp_path: Path, source: SeriesState, target: SeriesState
) -> None:
    ledger = new_ledger(tmp_path, Clock())
    association = ledger.receiving.open_association("receive-0", "CT1", "US", "127.0.0.1")
    record(ledger, 1, association)
    with ledger.database.transaction() as session:
        row = session.get_one(SeriesRecord, SERIES_UID)
        row.state = str(source)

    def attempt(seen: SeriesState) -> None:
        with ledger.database.transaction() as session:
            move(session, SeriesRecord, {"series_uid": SERIES_UID}, SERIES_MOVES, seen, target)

    if target in SERIES_MOVES[source]:
        attempt(source)
        expected = target
    else:
        with pytest.raises(IllegalMove):
            attempt(source)
        expected = source
    held = ledger.series.get(SERIES_UID)
    assert held is not None
    assert held.state == expected
    for stale in set(SeriesState) - {expected}:
        with pytest.raises((LostRace, IllegalMove)):
            attempt(stale)
    ledger.close()
