"""The way of one series as it can be watched from outside: which moment came when.

For the demo, the benchmark and the tests; it only reads the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.clock import from_text
from node.errors import Refuse
from node.ledger import Ledger
from node.states import SeriesState, SynthesisState

STAGES = ("received", "complete", "selected", "running", "packaged", "delivered", "committed")
_EVENTS = {
    "running": "synthesis.started",
    "packaged": "synthesis.packaged",
    "delivered": "synthesis.delivered",
    "committed": "synthesis.committed",
}
_POLL_S = 0.1


@dataclass(frozen=True)
class Journey:
    """How far a series has come.

    Args:
        state: Of its synthesis, or of the series before there is one.
        instances: Received so far.
        moments: Stage to when it was reached, as the ledger writes it.
        job_id: Of its latest synthesis, when there is one.
        reason: Why it was declined or failed.
        timings_s: Seconds by stage of the pipeline, once packaged.
    """

    state: str
    instances: int
    moments: Mapping[str, str]
    job_id: str | None
    reason: str | None
    timings_s: Mapping[str, float]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.is_declined or self.state in (
            SynthesisState.COMMITTED,
            SynthesisState.FAILED,
            SynthesisState.DISMISSED,
        )

    @property
    def is_declined(self) -> bool:
        """Whether selection or the gate refused the series."""
        return self.state in (SeriesState.DECLINED, SynthesisState.DECLINED)

    def seconds_between(self, earlier: str, later: str) -> float | None:
        """From one stage to another, when both were reached."""
        if earlier not in self.moments or later not in self.moments:
            return None
        return (from_text(self.moments[later]) - from_text(self.moments[earlier])).total_seconds()


def look(ledger: Ledger, series_uid: str) -> Journey | None:
    """How far a series has come; None before its first instance is on record."""
    try:
        story = ledger.reports.show(series_uid)
    except Refuse:
        return None
    moments = {"received": story["last_instance_at"]}
    if story["completed_at"]:
        moments["complete"] = story["completed_at"]
    state, reason = story["state"], None
    for decision in story["decisions"]:
        if decision["version"] == story["version"]:
            moments["selected"], reason = decision["decided_at"], decision["reason"]
    job = story["syntheses"][-1] if story["syntheses"] else None
    if job is not None and state == SeriesState.SELECTED:
        state, reason = job["state"], job["reason"]
        moments |= _moments(job)
    return Journey(
        state=str(state),
        instances=story["instances"],
        moments=moments,
        job_id=job["job_id"] if job else None,
        reason=reason,
        timings_s=(job or {}).get("timings_s") or {},
    )


def _moments(job: Mapping[str, Any]) -> dict[str, str]:
    """The last time that each stage was reached: a retried job reaches some twice."""
    last = {event["kind"]: event["at"] for event in job["events"]}
    return {stage: last[kind] for stage, kind in _EVENTS.items() if kind in last}
