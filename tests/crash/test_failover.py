"""The database fails over, or is started again, under a node at work: it goes on by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.harness import Bench, Watch, as_text, rehearse
from tests.crash.killer import Killer
from tests.crash.scanner import OUT_OF_RESOURCES, Work
from tests.peers import wait_until
from tests.postgresql import start_pair

pytestmark = pytest.mark.journey

DEADLINE_S = 120.0
# So many series come to their end between two troubles, others are under way.
SERIES = 1
REFUSALS = 4


def test_nothing_is_lost_when_the_primary_dies_and_its_standby_takes_over(tmp_path: Path) -> None:
    """Before that the primary is started again twice: once in order, once as after a crash."""
    with start_pair() as pair:

        def trouble(bench: Bench, killer: Killer, watch: Watch) -> None:
            del killer
            roles = _pids(bench)
            _until_through(watch, SERIES)
            for mode in ("fast", "immediate"):
                pair.primary.stop(mode)
                _is_refused(watch.work)
                pair.primary.start()
                _until_through(watch, SERIES)
            pair.primary.kill()
            _is_refused(watch.work)
            pair.standby.promote()
            _until_through(watch, SERIES)
            assert _pids(bench) == roles

        outcome = rehearse(trouble, 1, tmp_path, lambda line: None, pair.url, is_pacs_kind=True)
        assert outcome.findings == [], as_text(outcome)


def _pids(bench: Bench) -> dict[str, str]:
    """Who runs which role; nobody has to be started again."""
    assert bench.service.process.poll() is None
    locks = bench.settings.node.data_folder / "locks"
    return {path.stem: path.read_text() for path in locks.glob("*.lock")}


def _until_through(watch: Watch, series: int) -> None:
    enough = watch.work.finished + series

    def is_through() -> bool:
        watch.look()
        return watch.work.finished >= enough

    wait_until(is_through, DEADLINE_S, f"{series} more series are through")


def _is_refused(work: Work) -> None:
    """What is sent now is answered, and not with success."""
    # What was answered before it went may be on its way yet.
    enough = work.statuses[OUT_OF_RESOURCES] + REFUSALS
    wait_until(lambda: work.statuses[OUT_OF_RESOURCES] >= enough, DEADLINE_S, "refused")
    acknowledged, enough = len(work.acknowledged), enough + REFUSALS
    wait_until(lambda: work.statuses[OUT_OF_RESOURCES] >= enough, DEADLINE_S, "refused")
    assert len(work.acknowledged) == acknowledged
