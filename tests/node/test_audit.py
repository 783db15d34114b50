"""The chain shows every change; the ledger's chain cannot fork."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.audit import GENESIS, Event, Kind, canonical, event_hash, verify
from node.clock import utc_now
from node.ledger import open_ledger
from tests.node.samples import Clock

DETAILS = st.dictionaries(
    st.text(max_size=8),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.lists(st.integers(), max_size=3),
    max_size=3,
)  # fmt: skip
CONTENTS = st.tuples(st.sampled_from(Kind), st.text(max_size=8), st.text(max_size=8), DETAILS)


def chain(contents: list[tuple[Kind, str, str, dict[str, Any]]]) -> list[Event]:
    events: list[Event] = []
    previous = GENESIS
    for sequence, (kind, subject, actor, detail) in enumerate(contents, start=1):
        at = f"2026-01-01T00:00:{sequence:02d}.000000+00:00"
        digest = event_hash(previous, sequence, at, kind, subject, actor, detail)
        events.append(Event(sequence, at, kind, subject, actor, detail, previous, digest))
        previous = digest
    return events


@given(st.lists(CONTENTS, max_size=6))
def test_an_untouched_chain_holds(contents: list[Any]) -> None:
    events = chain(contents)
    assert verify(events) is None
    assert verify(events, head=events[-1].hash if events else GENESIS) is None


@given(st.lists(CONTENTS, min_size=1, max_size=6), st.data())
def test_any_single_change_of_a_field_breaks_it(contents: list[Any], data: st.DataObject) -> None:
    events = chain(contents)
    index = data.draw(st.integers(0, len(events) - 1))
    field = data.draw(st.sampled_from([f.name for f in dataclasses.fields(Event)]))
    old = getattr(events[index], field)
    if field == "detail":
        new: Any = data.draw(DETAILS.filter(lambda value: canonical(value) != canonical(old)))
    elif field == "sequence":
        new = data.draw(st.integers().filter(lambda value: value != old))
    else:
        new = data.draw(st.text(max_size=70).filter(lambda value: value != old))
    events[index] = dataclasses.replace(events[index], **{field: new})
    assert verify(events) is not None


@given(st.lists(CONTENTS, min_size=2, max_size=6), st.data())
def test_removing_swapping_or_repeating_events_breaks_it(
    contents: list[Any], data: st.DataObject
) -> None:
    events = chain(contents)
    first = data.draw(st.integers(0, len(events) - 2))
    removed = events[:first] + events[first + 1 :]
    swapped = [*events[:first], events[first + 1], events[first], *events[first + 2 :]]
    repeated = [*events[: first + 1], events[first], *events[first + 1 :]]
    for changed in (removed, swapped, repeated):
        assert verify(changed) is not None


@given(st.lists(CONTENTS, min_size=1, max_size=6))
def test_a_missing_end_is_seen_by_the_noted_head(contents: list[Any]) -> None:
    events = chain(contents)
    broken = verify(events[:-1], head=events[-1].hash)
    assert broken is not None
    assert broken.sequence == len(events)


def test_numbers_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError):
        canonical({"value": float("nan")})


def test_writers_in_threads_and_processes_share_one_chain(database_url: str) -> None:
    first = open_ledger(database_url, Clock())
    # Another connection pool with a lock of its own stands for another process.
    second = open_ledger(database_url, utc_now)

    def write(ledger: Any) -> None:
        for _ in range(20):
            with ledger.database.transaction() as session:
                detail = {"value": 0.1, "list": [1, None, "é"]}
                ledger.database.append_audit(
                    session, Kind.INSTANCE_RECEIVED, "1.2.3", "CT1", detail
                )

    threads = [threading.Thread(target=write, args=(one,)) for one in (first, second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    events = list(first.reports.events())
    assert len(events) == 60
    assert verify(events) is None
    first.close()
    second.close()
