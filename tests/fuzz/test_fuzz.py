"""Ten thousand hostile inputs: an answer for each, no file outside the archive, a node still well.

More of them on demand: `python -m tests.fuzz --inputs 100000 --seed 7`.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.intake import Answer
from tests.fuzz import data_sets
from tests.fuzz.__main__ import Tally, fuzz_connections, fuzz_data_sets, quiet
from tests.fuzz.target import InProcess, scratch

SEED = 20_261_125
DATA_SETS, CONNECTIONS, SHRINKABLE = 9_000, 800, 200


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    quiet()
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def target() -> Iterator[InProcess]:
    with scratch() as folder:
        target = InProcess(folder)
        yield target
        target.close()


def test_there_are_ten_thousand() -> None:
    assert DATA_SETS + CONNECTIONS + SHRINKABLE >= 10_000


@pytest.mark.filterwarnings("ignore")
def test_data_sets() -> None:
    tally = fuzz_data_sets(SEED, DATA_SETS)
    assert tally.inputs == DATA_SETS
    # Every maker was at work, and the good ones were taken: nothing is refused unseen.
    assert len(tally.answers) == len(data_sets.KINDS)
    assert _answers(tally) >= {"0x0000", "0xA900", "0xC001", "0xC002", "0xC003"}


def test_connections() -> None:
    tally = fuzz_connections(SEED, CONNECTIONS)
    assert tally.inputs == CONNECTIONS
    words = {answer.removesuffix(", waits") for answer in _answers(tally)}
    assert words >= {"aborted", "0x0000", "0xC001"}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=SHRINKABLE, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_data_sets_that_hypothesis_makes_smaller(target: InProcess, random: Random) -> None:
    response = target.take(data_sets.make(random))
    assert response.answer is not Answer.PROCESSING_FAILURE, response.comment


def _answers(tally: Tally) -> set[str]:
    return {answer for counts in tally.answers.values() for answer in counts}
