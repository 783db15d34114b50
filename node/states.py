"""The lifecycles, as tables. A move that is not listed is illegal and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class SeriesState(StrEnum):
    """A received series, per version."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    SELECTED = "selected"
    DECLINED = "declined"


class SynthesisState(StrEnum):
    """One synthesis of one version of one series."""

    QUEUED = "queued"
    RUNNING = "running"
    PACKAGED = "packaged"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    COMMITTED = "committed"
    DECLINED = "declined"
    FAILED = "failed"
    DISMISSED = "dismissed"


class DeliveryState(StrEnum):
    """One synthesis on its way to one destination."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    COMMITTED = "committed"
    FAILED = "failed"


class RemovalState(StrEnum):
    """One file that a rule of retention named."""

    MARKED = "marked"
    REMOVED = "removed"
    KEPT = "kept"
    RESTORED = "restored"


class CommitmentState(StrEnum):
    """One request to a destination to take responsibility for what it was sent (PS3.4 annex J)."""

    REQUESTED = "requested"
    COMMITTED = "committed"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    UNSENT = "unsent"


class AnnouncementState(StrEnum):
    """A series that a PACS said it has (PS3.4 annex R)."""

    NOTED = "noted"
    PENDING = "pending"
    FETCHED = "fetched"
    FAILED = "failed"


class WorkerState(StrEnum):
    """One life of a worker process."""

    ALIVE = "alive"
    OVER = "over"
    RECOVERED = "recovered"


SERIES_MOVES: Mapping[SeriesState, frozenset[SeriesState]] = {
    # A late slice leads back to receiving, as the next version.
    SeriesState.RECEIVING: frozenset({SeriesState.COMPLETE}),
    SeriesState.COMPLETE: frozenset(
        {SeriesState.SELECTED, SeriesState.DECLINED, SeriesState.RECEIVING}
    ),
    SeriesState.SELECTED: frozenset({SeriesState.RECEIVING}),
    SeriesState.DECLINED: frozenset({SeriesState.RECEIVING}),
}

SYNTHESIS_MOVES: Mapping[SynthesisState, frozenset[SynthesisState]] = {
    SynthesisState.QUEUED: frozenset(
        {SynthesisState.RUNNING, SynthesisState.FAILED, SynthesisState.QUEUED}
    ),
    # Running again is a worker that died and was resumed; queued again, one that found no room.
    SynthesisState.RUNNING: frozenset(
        {
            SynthesisState.RUNNING,
            SynthesisState.PACKAGED,
            SynthesisState.DECLINED,
            SynthesisState.FAILED,
            SynthesisState.QUEUED,
        }
    ),
    SynthesisState.PACKAGED: frozenset(
        {SynthesisState.DELIVERING, SynthesisState.FAILED, SynthesisState.QUEUED}
    ),
    SynthesisState.DELIVERING: frozenset({SynthesisState.DELIVERED, SynthesisState.FAILED}),
    # Delivering again, or failed: a destination would not take responsibility for what it has.
    SynthesisState.DELIVERED: frozenset(
        {SynthesisState.COMMITTED, SynthesisState.DELIVERING, SynthesisState.FAILED}
    ),
    SynthesisState.COMMITTED: frozenset(),
    SynthesisState.DECLINED: frozenset(),
    # `pseudomri retry` puts it back, `pseudomri dismiss` says that nobody will.
    SynthesisState.FAILED: frozenset({SynthesisState.QUEUED, SynthesisState.DISMISSED}),
    # Retried after all, as long as its files are there.
    SynthesisState.DISMISSED: frozenset({SynthesisState.QUEUED}),
}

DELIVERY_MOVES: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.SENDING, DeliveryState.FAILED}),
    DeliveryState.SENDING: frozenset(
        {
            DeliveryState.SENDING,
            DeliveryState.PENDING,
            DeliveryState.DELIVERED,
            DeliveryState.FAILED,
        }
    ),
    # Sending again what the destination would not commit to.
    DeliveryState.DELIVERED: frozenset(
        {DeliveryState.COMMITTED, DeliveryState.SENDING, DeliveryState.FAILED}
    ),
    DeliveryState.COMMITTED: frozenset(),
    DeliveryState.FAILED: frozenset({DeliveryState.PENDING}),
}

OPEN_DELIVERIES: tuple[str, ...] = (str(DeliveryState.PENDING), str(DeliveryState.SENDING))
"""Something will be sent by itself."""

REMOVAL_MOVES: Mapping[RemovalState, frozenset[RemovalState]] = {
    # Kept: something came up between the mark and the deletion, such as a hold.
    RemovalState.MARKED: frozenset({RemovalState.REMOVED, RemovalState.KEPT}),
    # The same bytes were sent again.
    RemovalState.REMOVED: frozenset({RemovalState.RESTORED}),
    RemovalState.KEPT: frozenset(),
    RemovalState.RESTORED: frozenset(),
}

SETTLED: frozenset[SynthesisState] = frozenset(
    {SynthesisState.COMMITTED, SynthesisState.DECLINED, SynthesisState.DISMISSED}
)
"""Nothing more will be done, unless somebody asks for it: only then may retention have the files.
"""

FINAL: frozenset[SynthesisState] = frozenset(
    state for state, moves in SYNTHESIS_MOVES.items() if not moves
)
"""Nobody can ask for more: what the workflow engine knows of such a synthesis may go."""

COMMITMENT_MOVES: Mapping[CommitmentState, frozenset[CommitmentState]] = {
    CommitmentState.REQUESTED: frozenset(
        {
            CommitmentState.COMMITTED,
            CommitmentState.REFUSED,
            CommitmentState.UNANSWERED,
            CommitmentState.UNSENT,
        }
    ),
    CommitmentState.COMMITTED: frozenset(),
    CommitmentState.REFUSED: frozenset(),
    # A report that comes late is as good as one in time.
    CommitmentState.UNANSWERED: frozenset({CommitmentState.COMMITTED, CommitmentState.REFUSED}),
    CommitmentState.UNSENT: frozenset({CommitmentState.COMMITTED, CommitmentState.REFUSED}),
}

ANNOUNCEMENT_MOVES: Mapping[AnnouncementState, frozenset[AnnouncementState]] = {
    # Only put on record: the settings do not want it fetched.
    AnnouncementState.NOTED: frozenset(),
    AnnouncementState.PENDING: frozenset(
        {AnnouncementState.PENDING, AnnouncementState.FETCHED, AnnouncementState.FAILED}
    ),
    AnnouncementState.FETCHED: frozenset(),
    AnnouncementState.FAILED: frozenset(),
}

WORKER_MOVES: Mapping[WorkerState, frozenset[WorkerState]] = {
    # It ended, or another one found it silent: from here on it writes nothing any more.
    WorkerState.ALIVE: frozenset({WorkerState.OVER}),
    # Over again is another worker that takes its work up, since the one before died over it.
    WorkerState.OVER: frozenset({WorkerState.OVER, WorkerState.RECOVERED}),
    WorkerState.RECOVERED: frozenset(),
}
