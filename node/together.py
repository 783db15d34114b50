"""Work that costs as much for many as for one, done at once for all who wait for it (group commit).

A sync of a folder and the commit of a transaction take the disk milliseconds, whatever they hold.
Nobody waits for company: who comes while nothing is being done, does his own at once; those who
come meanwhile are next, all together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Ticket(Generic[Item, Result]):
    """One item and its waiting thread, which is woken with a result, an error, or to lead."""

    def __init__(self, item: Item) -> None:
        self.item: Final = item
        # Held until somebody wakes the waiting thread; an Event would cost three times as much.
        self.gate: threading.Lock | None = None
        self.results: list[Result] = []
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return bool(self.results) or self.error is not None


class Together(Generic[Item, Result]):
    """Does the work of many threads in one of them at a time.

    Args:
        work: Given items in the order they came, returns one result for each, or raises having done
            nothing.
        common: An error that is no single item's fault: all of them get it. After any other, each
            item is tried alone, so that none suffers from another.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        common: type[Exception],
    ) -> None:
        self._work: Final = work
        self._common: Final = common
        self._lock: Final = threading.Lock()
        self._waiting: list[_Ticket[Item, Result]] = []
        self._is_led = False

    def do(self, item: Item) -> Result:
        """Have the work done for `item`, alone or with others.

        Raises:
            BaseException: What the work raised for this item.
        """
        ticket: _Ticket[Item, Result] = _Ticket(item)
        with self._lock:
            self._waiting.append(ticket)
            if self._is_led:
                ticket.gate = threading.Lock()
                ticket.gate.acquire()
            self._is_led = True
        if ticket.gate is not None:
            ticket.gate.acquire()
        if not ticket.is_done:
            self._lead()
        if ticket.error is not None:
            raise ticket.error
        return ticket.results[0]

    def _lead(self) -> None:
        """Do the work of all who wait, then hand over to the first of those who came meanwhile."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        self._do_all(batch)
        with self._lock:
            self._is_led = bool(self._waiting)
            heir = self._waiting[0] if self._waiting else None
        for ticket in batch if heir is None else [*batch, heir]:
            if ticket.gate is not None:
                ticket.gate.release()

    def _do_all(self, batch: Sequence[_Ticket[Item, Result]]) -> None:
        try:
            results = self._work([ticket.item for ticket in batch])
            for ticket, result in zip(batch, results, strict=True):
                ticket.results.append(result)
        except BaseException as error:
            if isinstance(error, self._common) or len(batch) == 1:
                for ticket in batch:
                    ticket.error = error
            else:
                for ticket in batch:
                    self._do_all([ticket])
