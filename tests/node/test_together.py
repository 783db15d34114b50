"""Group commit: nobody waits for company, those who come meanwhile go together, none suffers."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from node.errors import Retry
from node.together import Together
from tests.peers import wait_until


class Desk:
    """Work that can be held up, and notes its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()
        self.together = Together(self.work, common=Retry)
        self.answers: dict[int, object] = {}

    def work(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        assert self.open.wait(30)
        if 13 in items:
            raise ValueError("13")
        if 99 in items:
            raise Retry("busy")
        return [item * 10 for item in items]

    def start(self, item: int) -> threading.Thread:
        def do() -> None:
            try:
                self.answers[item] = self.together.do(item)
            except Exception as error:
                self.answers[item] = type(error)

        thread = threading.Thread(target=do)
        thread.start()
        return thread

    def together_with_first(self, items: Sequence[int]) -> None:
        """One item is being worked on while the others come, one after the other."""
        self.open.clear()
        threads = [self.start(0)]
        wait_until(lambda: self.batches)
        for count, item in enumerate(items, start=1):
            threads.append(self.start(item))
            wait_until(lambda count=count: len(self.together._waiting) == count)
        self.open.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def test_alone_it_is_done_at_once() -> None:
    desk = Desk()
    assert [desk.together.do(item) for item in (1, 2)] == [10, 20]
    assert desk.batches == [[1], [2]]


def test_those_who_come_meanwhile_go_together_in_their_order() -> None:
    desk = Desk()
    desk.together_with_first([3, 1, 2])
    assert desk.batches == [[0], [3, 1, 2]]
    assert desk.answers == {0: 0, 1: 10, 2: 20, 3: 30}
    assert desk.together.do(4) == 40


def test_the_fault_of_one_is_not_that_of_the_others() -> None:
    desk = Desk()
    desk.together_with_first([1, 13, 2])
    assert desk.answers == {0: 0, 1: 10, 13: ValueError, 2: 20}


def test_a_common_fault_is_everybodys_and_is_not_tried_for_each() -> None:
    desk = Desk()
    desk.together_with_first([1, 99, 2])
    assert desk.answers == {0: 0, 1: Retry, 99: Retry, 2: Retry}
    assert desk.batches == [[0], [1, 99, 2]]


def test_many_at_once_all_get_their_own_answer() -> None:
    desk = Desk()
    threads = [desk.start(item) for item in range(200, 300)]
    for thread in threads:
        thread.join(30)
    assert desk.answers == {item: item * 10 for item in range(200, 300)}
    assert sorted(item for batch in desk.batches for item in batch) == list(range(200, 300))


def test_an_error_of_one_alone_is_raised() -> None:
    with pytest.raises(ValueError, match="13"):
        Desk().together.do(13)
