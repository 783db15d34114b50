"""The short run of the crash suite: every named point once, then everything is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.faults import Point
from tests.crash.harness import as_text, run
from tests.crash.killer import COMMANDS, RECEIVE, TARGETS, WORK
from tests.postgresql import start_postgresql

pytestmark = pytest.mark.journey

# One a target, and a few at random moments.
KILLS = len(TARGETS) + 4
# Where a database is in the middle of something, or has just been told what others have not heard.
ON_POSTGRESQL = (
    (Point.LEDGER_COMMITTING, RECEIVE),
    (Point.LEDGER_COMMITTED, WORK),
    (Point.DISPATCH_OFFERED, RECEIVE),
    (Point.STEP_PACKAGE, WORK),
    (Point.DELIVERY_ANSWERED, WORK),
)


def test_every_point_is_a_target() -> None:
    assert {point for point, _ in TARGETS} | set(COMMANDS) == set(Point)


def test_killed_everywhere_nothing_is_lost_or_left(tmp_path: Path) -> None:
    outcome = run(KILLS, 1, tmp_path / "node", lambda line: None)
    assert outcome.findings == [], as_text(outcome)
    assert outcome.kills.total >= 20
    # A busy machine may pass one or another too late; the full run shows the rest.
    assert sum(outcome.kills.missed.values()) <= 3, as_text(outcome)
    assert outcome.delivered > 0


def test_killed_on_postgresql_nothing_is_lost_or_left(tmp_path: Path) -> None:
    """A few points; `python -m tests.crash --postgresql` has all of them."""
    with start_postgresql() as cluster:
        url = cluster.new_database()
        outcome = run(len(ON_POSTGRESQL) + 1, 1, tmp_path, lambda line: None, ON_POSTGRESQL, url)
    assert outcome.findings == [], as_text(outcome)
    assert outcome.kills.at_points.total() >= len(ON_POSTGRESQL) - 1, as_text(outcome)
    assert outcome.delivered > 0
