"""Refused associations on their way to the audit chain, of which nothing is ever deleted."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Final

from node.intake import Sender

SUMMED_S: Final = 60.0
"""A person who tries again sees each attempt on record; a machine makes two records a minute."""


@dataclass(frozen=True)
class Refusal:
    """One refusal or several.

    Args:
        sender: Who was refused last.
        count: How often its address was, for this reason.
    """

    sender: Sender
    reason: str
    count: int


class Refusals:
    """Sums up what one address is refused for one reason.

    The first time is due at once; those that follow within `SUMMED_S` are one refusal, due with
    whichever comes after that. So each is counted once.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        # By address and reason: until when it is summed up, and what that is so far.
        self._sums: Final[dict[tuple[str, str], tuple[float, Refusal]]] = {}

    def add(self, sender: Sender, reason: str, now_s: float) -> list[Refusal]:
        """One more; returns what is due to go on record.

        Args:
            now_s: Of a clock that only goes forward.
        """
        key = (sender.address, reason)
        with self._lock:
            due = self._take(now_s)
            if key in self._sums:
                until_s, so_far = self._sums[key]
                self._sums[key] = until_s, Refusal(sender, reason, so_far.count + 1)
            else:
                due.append(Refusal(sender, reason, 1))
                self._sums[key] = now_s + SUMMED_S, Refusal(sender, reason, 0)
            return due

    def rest(self) -> list[Refusal]:
        """What is not on record yet, when nothing more will come."""
        with self._lock:
            return self._take(math.inf)

    def _take(self, now_s: float) -> list[Refusal]:
        over = [key for key, (until_s, _) in self._sums.items() if until_s <= now_s]
        taken = [self._sums.pop(key)[1] for key in over]
        return [one for one in taken if one.count]
