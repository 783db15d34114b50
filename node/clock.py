"""The clock of the node: UTC moments, and how the ledger writes them down.

The clock is passed in wherever time matters, so that a test can move it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Tells the present moment, in UTC."""


def utc_now() -> datetime:
    """The clock of the machine."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds: 32 characters that sort as the moments do.

    Raises:
        ValueError: When `moment` has no time zone; guessing one would be wrong twice a year.
    """
    if moment.tzinfo is None:
        raise ValueError(f"expected a moment with a time zone, found {moment.isoformat()}")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def from_text(text: str) -> datetime:
    """The moment that `to_text` wrote."""
    return datetime.fromisoformat(text)
