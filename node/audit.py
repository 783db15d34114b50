"""Audit events: who did what to which object, when, in a chain that shows tampering.

Every event carries the hash of the one before it, so that changing, removing or inserting any event
breaks all that follow. The functions here are pure; the ledger appends in the same transaction as
the change the event describes. Events name UIDs, AE titles and addresses, never a patient.

What a chain cannot show by itself is a missing end. `verify` therefore takes the head that an
operator noted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)

GENESIS = "0" * 64
"""The previous hash of the first event."""


class Kind(StrEnum):
    """What happened. The words are stable: reports and other systems match on them."""

    APPLICATION_STARTED = "application.started"
    APPLICATION_STOPPED = "application.stopped"
    PROOF_BEGUN = "proof.begun"
    PROOF_ENDED = "proof.ended"
    ASSOCIATION_REFUSED = "association.refused"
    ASSOCIATION_ORPHANED = "association.orphaned"
    INSTANCE_RECEIVED = "instance.received"
    INSTANCE_DUPLICATE = "instance.duplicate"
    INSTANCE_QUARANTINED = "instance.quarantined"
    INSTANCE_REFUSED = "instance.refused"
    SERIES_REOPENED = "series.reopened"
    SERIES_COMPLETED = "series.completed"
    SERIES_SELECTED = "series.selected"
    SERIES_DECLINED = "series.declined"
    SYNTHESIS_QUEUED = "synthesis.queued"
    SYNTHESIS_STARTED = "synthesis.started"
    SYNTHESIS_PACKAGED = "synthesis.packaged"
    SYNTHESIS_DECLINED = "synthesis.declined"
    SYNTHESIS_POSTPONED = "synthesis.postponed"
    SYNTHESIS_FAILED = "synthesis.failed"
    SYNTHESIS_DISMISSED = "synthesis.dismissed"
    SYNTHESIS_RETRIED = "synthesis.retried"
    SYNTHESIS_DELIVERED = "synthesis.delivered"
    SYNTHESIS_COMMITTED = "synthesis.committed"
    DELIVERY_CREATED = "delivery.created"
    DELIVERY_ATTEMPTED = "delivery.attempted"
    DELIVERY_DELIVERED = "delivery.delivered"
    DELIVERY_FAILED = "delivery.failed"
    DELIVERY_RETRIED = "delivery.retried"
    HOLD_PLACED = "hold.placed"
    HOLD_RELEASED = "hold.released"
    RETENTION_MARKED = "retention.marked"
    FILE_KEPT = "file.kept"
    FILE_REMOVED = "file.removed"
    FILE_RESTORED = "file.restored"
    RETENTION_REMOVED = "retention.removed"
    QUERY_ISSUED = "query.issued"
    ANNOUNCEMENT_RECEIVED = "announcement.received"
    ANNOUNCEMENT_FETCHED = "announcement.fetched"
    ANNOUNCEMENT_FAILED = "announcement.failed"
    COMMITMENT_REQUESTED = "commitment.requested"
    COMMITMENT_COMMITTED = "commitment.committed"
    COMMITMENT_REFUSED = "commitment.refused"
    COMMITMENT_UNANSWERED = "commitment.unanswered"
    NODE_BACKED_UP = "node.backed_up"
    BACKUP_FAILED = "node.backup_failed"
    NODE_RESTORED = "node.restored"
    NODE_MOVED = "node.moved"
    WORKER_STARTED = "worker.started"
    WORKER_ENDED = "worker.ended"
    WORKER_PRESUMED_DEAD = "worker.presumed_dead"
    WORKER_RECOVERED = "worker.recovered"


@dataclass(frozen=True)
class Event:
    """One event as it stands in the ledger; `at` is the text of `node.clock.to_text`."""

    sequence: int
    at: str
    kind: str
    subject: str
    actor: str
    detail: Mapping[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True)
class Broken:
    """The first place at which a chain does not hold."""

    sequence: int
    reason: str


def canonical(value: object) -> bytes:
    """JSON with sorted keys, no spaces, ASCII only: one text for equal values.

    Raises:
        ValueError: For NaN and infinities, which JSON does not have.
        TypeError: For anything JSON cannot hold.
    """
    return _CANONICAL.encode(value).encode("ascii")


def event_hash(
    previous: str,
    sequence: int,
    at: str,
    kind: str,
    subject: str,
    actor: str,
    detail: Mapping[str, Any],
) -> str:
    """SHA-256, in hex, over the previous hash and this event's canonical JSON."""
    body = canonical([previous, sequence, at, kind, subject, actor, detail])
    return hashlib.sha256(body).hexdigest()


def verify(events: Iterable[Event], head: str | None = None) -> Broken | None:
    """The first break in the whole chain, or None when it holds.

    Args:
        events: All events, by sequence, from the first.
        head: The hash of the last event as noted elsewhere; without it, events cut off at the end
            go unseen.
    """
    walk = Walk()
    for event in events:
        broken = walk.take(event)
        if broken is not None:
            return broken
    if head is not None and head != walk.head:
        return Broken(
            walk.sequence + 1, f"the chain ends with {walk.head[:12]}, expected {head[:12]}"
        )
    return None


class Walk:
    """A walk along the chain that can be gone on with as it grows.

    `sequence` and `head` are those of the last event that held.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.head = GENESIS

    def take(self, event: Event) -> Broken | None:
        """The next event: None when it continues the chain, which then ends with it."""
        if event.sequence != self.sequence + 1:
            return Broken(
                event.sequence, f"expected sequence {self.sequence + 1}, found {event.sequence}"
            )
        if event.previous_hash != self.head:
            return Broken(event.sequence, "does not continue the event before it")
        found = event_hash(
            self.head,
            event.sequence,
            event.at,
            event.kind,
            event.subject,
            event.actor,
            event.detail,
        )
        if found != event.hash:
            return Broken(event.sequence, "its content does not match its hash")
        self.sequence, self.head = event.sequence, event.hash
        return None
