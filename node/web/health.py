"""Is the node well? Each check says what it found and, when something is wrong, what to do.

Wrong is what keeps the node from its work or will soon; a failed job is not, it waits for a person
and is told apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from config.settings import Settings
from node import tls
from node.archive import Archive
from node.clock import Clock, from_text, to_text
from node.ledger import Ledger
from node.ledger.figures import DestinationFigures
from node.lock import beats, whys
from node.logs import describe
from node.states import DeliveryState, SynthesisState
from node.web.tally import Chain


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        found: JSON: the figures.
        wrong: What is wrong, in words; empty when nothing is.
        remedy: What to do about it.
    """

    found: Mapping[str, Any]
    wrong: str = ""
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the page shows it."""
        story: dict[str, Any] = {"ok": not self.wrong, **self.found}
        return story | ({"wrong": self.wrong, "what_to_do": self.remedy} if self.wrong else {})


class Health:
    """What the health page says.

    Args:
        settings: Of the node.
        ledger: Asked anew every time.
        archive: Whose disk is looked at.
        chain: The audit chain, followed.
        clock: Tells UTC moments.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, archive: Archive, chain: Chain, clock: Clock
    ) -> None:
        self._settings: Final = settings
        self._ledger: Final = ledger
        self._archive: Final = archive
        self._chain: Final = chain
        self._clock: Final = clock
        self._checks: Final[dict[str, Callable[[], Check]]] = {
            "roles": self._roles,
            "ledger": self._ledger_answers,
            "disk": self._disk,
            "queue": self._queue,
            "destinations": self._destinations,
            "certificates": self._certificates,
            "audit": self._audit,
        }

    def look(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and the page as JSON. Never raises."""
        checks = {name: self._try(check) for name, check in self._checks.items()}
        is_well = not any(check.wrong for check in checks.values())
        return is_well, {
            "status": "ok" if is_well else "wrong",
            "at": to_text(self._clock()),
            "checks": {name: check.to_json() for name, check in checks.items()},
        }

    def _try(self, check: Callable[[], Check]) -> Check:
        try:
            return check()
        except Exception as error:
            return Check(
                {},
                f"it could not be looked at: {describe(error)}",
                "the `ledger` and `disk` checks and the node's log tell more",
            )

    def _roles(self) -> Check:
        silent_s = {
            role: round(max(0.0, self._clock().timestamp() - at), 1)
            for role, at in beats(self._settings.node.data_folder).items()
        }
        limit_s = self._settings.web.role_silent_s
        down = [role for role, seconds in silent_s.items() if seconds > limit_s]
        # With PostgreSQL the other roles may run on other hosts.
        expected = () if self._settings.node.database_url else ("receive-0", "work")
        down += [role for role in expected if role not in silent_s]
        ended = whys(self._settings.node.data_folder)
        wrong = [f"no good turn within {limit_s:g} s: {', '.join(sorted(down))}"] if down else []
        wrong += [f"{role} ended: {why}" for role, why in ended.items()]
        return Check(
            {"seconds_since_last_turn": silent_s, "ended": ended},
            "; ".join(wrong),
            "see why in the node's log; `pseudomri serve` runs all roles and restarts a dead one",
        )

    def _ledger_answers(self) -> Check:
        began = time.perf_counter()
        status = self._ledger.reports.status()
        elapsed_ms = round(1000 * (time.perf_counter() - began), 1)
        failed = status["syntheses"].get(str(SynthesisState.FAILED), 0)
        return Check(
            {
                "answered_in_ms": elapsed_ms,
                "last_event_at": status["last_event_at"],
                # Not wrong: they wait for a person, and nothing else waits for them.
                "failed_jobs": failed,
                "quarantined": status["quarantined"],
            }
        )

    def _disk(self) -> Check:
        free, reserved = self._archive.free_bytes(), self._settings.receive.minimum_free_bytes
        return Check(
            {"free_bytes": free, "reserved_bytes": reserved},
            f"expected {reserved} bytes free, found {free}: instances are refused with 0xA700"
            if free < reserved
            else "",
            "free space on the disk of node.data_folder; receiving goes on by itself",
        )

    def _queue(self) -> Check:
        queue, now = self._ledger.figures.queue(), self._clock()
        waits_s, runs_s = _age_s(queue.oldest_at, now), _age_s(queue.longest_running_at, now)
        web = self._settings.web
        ages = (("waited", waits_s, web.queue_limit_s), ("run", runs_s, web.running_limit_s))
        wrong = [
            f"a synthesis has {what} for {age_s} s, expected at most {limit_s:g} s"
            for what, age_s, limit_s in ages
            if age_s > limit_s
        ]
        return Check(
            {
                "depth": queue.depth,
                "oldest_age_s": waits_s,
                "running": queue.running,
                "longest_running_s": runs_s,
            },
            "; ".join(wrong),
            "is the work role well? `pseudomri jobs` shows what it is at. One that hangs: kill the"
            " worker's process, it goes on from its last finished step",
        )

    def _destinations(self) -> Check:
        now, limit_s = self._clock(), self._settings.web.delivery_limit_s
        figures = self._ledger.figures.destinations()
        configured = self._settings.delivery.names
        found = {
            name: _destination(figures.get(name), now) for name in sorted(configured | set(figures))
        }
        late = [name for name, one in found.items() if one["oldest_open_s"] > limit_s]
        return Check(
            {"by_name": found},
            f"deliveries wait longer than {limit_s:g} s: {', '.join(late)}" if late else "",
            "`pseudomri jobs` and `pseudomri audit show JOB` tell why each attempt failed; they"
            " go on by themselves when the destination answers",
        )

    def _certificates(self) -> Check:
        web = self._settings.delivery.web_destinations
        ends = tls.expiries(self._settings.tls, web, self._clock())
        due = [f"{one.setting} ends in {one.days_left} days" for one in ends if one.is_due]
        return Check(
            {"days_left": {one.setting: one.days_left for one in reversed(ends)}},
            "; ".join(due),
            "renew it; docs/operations.md, TLS",
        )

    def _audit(self) -> Check:
        if self._chain.was_read:
            self._chain.read_on()
        broken, verified_at = self._chain.broken, self._chain.verified_at
        return Check(
            {
                "events": self._chain.events,
                "head": self._chain.head,
                "verified_at": None if verified_at is None else to_text(verified_at),
            },
            "" if broken is None else f"event {broken.sequence}: {broken.reason}",
            "keep the data folder as it is and find out who changed it; `pseudomri audit verify`",
        )


def _destination(figures: DestinationFigures | None, now: datetime) -> dict[str, Any]:
    states = figures.states if figures else {}
    waiting = (str(DeliveryState.PENDING), str(DeliveryState.SENDING))
    return {
        "open": sum(states.get(state, 0) for state in waiting),
        "failed": states.get(str(DeliveryState.FAILED), 0),
        "oldest_open_s": _age_s(figures.waiting_since if figures else None, now),
        "last_delivered_at": figures.last_delivered_at if figures else None,
    }


def _age_s(at: str | None, now: datetime) -> float:
    return 0.0 if at is None else round(max(0.0, (now - from_text(at)).total_seconds()), 1)
