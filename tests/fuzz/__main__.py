"""`python -m tests.fuzz --inputs N --seed S`: hostile input in any amount, and a table."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random

import psutil
import structlog

from node.intake import Answer
from node.receive import keep_libraries_quiet
from tests.fuzz import data_sets, messages, pdus
from tests.fuzz.pdus import Connection
from tests.fuzz.talk import talk
from tests.fuzz.target import (
    GROWTH_BYTES,
    InProcess,
    ReceiverProcess,
    assert_nothing_outside,
    randoms,
    scratch,
)

# Of a hundred inputs, how many go over a socket; those cost ten times as much.
OVER_SOCKETS = 0.15
# The longest a single data set may keep a processor busy.
SLOWEST_S = 2.0
AT_A_TIME = 8


@dataclass
class Tally:
    """What came of the inputs, by kind."""

    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    slowest_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, kind: str, answer: str, seconds: float = 0.0) -> None:
        self.answers[kind][answer] += 1
        self.slowest_s[kind] = max(self.slowest_s[kind], seconds)

    @property
    def inputs(self) -> int:
        return sum(sum(counts.values()) for counts in self.answers.values())

    def lines(self) -> Iterator[str]:
        """The rows of a table."""
        for kind, counts in sorted(self.answers.items()):
            said = ", ".join(f"{answer} {count}" for answer, count in counts.most_common())
            yield f"| {kind} | {sum(counts.values())} | {self.slowest_s[kind]:.2f} | {said} |"


def fuzz_data_sets(seed: int, count: int) -> Tally:
    """Offer data sets to the intake; every one gets an answer that is none of an accident."""
    tally = Tally()
    with scratch() as folder:
        target = InProcess(folder)
        before = psutil.Process().memory_info().rss
        for number, random in randoms(seed, count):
            given = data_sets.make(random)
            began = time.process_time()
            response = target.take(given)
            seconds = time.process_time() - began
            name = f"data set {number} of seed {seed} ({given.kind})"
            assert response.answer is not Answer.PROCESSING_FAILURE, f"{name}: {response.comment}"
            assert seconds < SLOWEST_S, f"{name} took {seconds:.1f} s"
            tally.add(f"data set: {given.kind}", f"0x{response.answer.value.code:04X}", seconds)
        assert psutil.Process().memory_info().rss - before < GROWTH_BYTES
        target.assert_a_good_series_is_taken(seed)
        assert_nothing_outside(folder)
        target.close()
    return tally


def fuzz_connections(seed: int, count: int) -> Tally:
    """Talk to a listening receiver in a process of its own; it stays well throughout."""
    tally = Tally()

    def one(makes: Callable[[Random], Connection], prefix: str, random: Random) -> None:
        given = makes(random)
        began = time.monotonic()
        answer = talk(receiver.port, given)
        assert not answer.startswith("0x0110"), f"an accident: {given}"
        tally.add(f"{prefix}: {given.kind}", answer, time.monotonic() - began)

    with scratch() as folder:
        receiver = ReceiverProcess(folder)
        try:
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                pending = [
                    pool.submit(one, *source, random)
                    for number, random in randoms(seed, count)
                    for source in [((pdus.make, "PDU"), (messages.make, "message"))[number % 2]]
                ]
                for done in pending:
                    done.result()
            receiver.assert_well()
            receiver.assert_a_good_series_is_taken(seed + 1)
            assert "Traceback" not in receiver.log()
        finally:
            receiver.close()
        assert_nothing_outside(folder)
    return tally


def quiet() -> None:
    """No lines about what is refused: it is all there is here."""
    keep_libraries_quiet()
    warnings.simplefilter("ignore")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    quiet()
    over_sockets = int(options.inputs * OVER_SOCKETS)
    began = time.monotonic()
    tallies = (
        fuzz_data_sets(options.seed, options.inputs - over_sockets),
        fuzz_connections(options.seed, over_sockets),
    )
    print("| input | count | slowest, s | answers |\n|---|---|---|---|")
    for tally in tallies:
        print(*tally.lines(), sep="\n")
    total = sum(tally.inputs for tally in tallies)
    print(f"{total} inputs with seed {options.seed} in {time.monotonic() - began:.0f} s: all held")


if __name__ == "__main__":
    main()
