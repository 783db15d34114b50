"""Do ledger and workflow engine still agree? Where they do not, the ledger gets a way back.

The engine gives up on a run that took its process down too often. Its database may be lost, or new:
after a restore from a backup, and after a move to another database. Neither reaches the ledger by
itself; without this, such a run would stay `running` for ever.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog
from dbos import DBOSClient, WorkflowStatus

from node.clock import Clock, utc_now
from node.engine import (
    APPLICATION,
    adopt_older,
    attempt_number,
    delivery_options,
    delivery_prefix,
    first_ticket,
    synthesis_id,
)
from node.ledger import Ledger
from node.ledger.entries import SynthesisEntry
from node.states import SynthesisState

LIVE: Final = frozenset({"PENDING", "ENQUEUED", "DELAYED"})
LOST: Final = "LOST"
# No other exception leaves a workflow than that the ledger did not answer for long.
LEDGER_AWAY: Final = "ERROR"
_WORDS: Final = {
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "it took the worker down too often",
    LEDGER_AWAY: "the ledger was away for too long",
    "CANCELLED": "it was canceled in the workflow engine",
    "SUCCESS": "it ended without a result",
    LOST: "the workflow engine does not know it any more",
}

log = structlog.get_logger()


class Reconciler:
    """Compares what the ledger calls unfinished with what the engine still works on.

    Args:
        ledger: Every database verb.
        url: Of the engine.
        give_up_s: How long a delivery that never began is tried from now on.
        actor: Whose name the corrections carry.
        clock: Tells the present moment.
    """

    def __init__(
        self, ledger: Ledger, url: str, give_up_s: float, actor: str, clock: Clock = utc_now
    ) -> None:
        self._ledger: Final = ledger
        self._give_up: Final = timedelta(seconds=give_up_s)
        self._actor: Final = actor
        self._clock: Final = clock
        self._client: Final = DBOSClient(system_database_url=url, application_name=APPLICATION)

    def close(self) -> None:
        """Give the connections back."""
        self._client.destroy()

    def run_once(self) -> int:
        """Correct what has come apart; how many corrections that took."""
        # Before all else: what is being adopted looks as if it had been canceled.
        if adopted := adopt_older(self._client, self._ledger.workers.versions()):
            log.info("work of an older version begins again", workflows=adopted)
        return sum(self._check(entry) for entry in self._ledger.syntheses.unfinished()) + sum(
            self._check_refused(delivery)
            for delivery in self._ledger.commitments.refused_deliveries()
        )

    def _check(self, entry: SynthesisEntry) -> int:
        status = self._status(synthesis_id(entry.job_id, entry.run))
        if status in LIVE:
            return 0
        if status != LOST and entry.state == SynthesisState.DELIVERING:
            return sum(
                self._check_delivery(d) for d in self._ledger.deliveries.open_of(entry.job_id)
            )
        # The run may have moved on between the two questions.
        if self._ledger.syntheses.get(entry.job_id) != entry:
            return 0
        if status == LOST:
            self._begin_again(entry)
        elif status == LEDGER_AWAY:
            self._ledger.syntheses.postpone(entry.job_id, entry.run, _WORDS[status], self._actor)
        else:
            reason = f"the run was given up: {_WORDS.get(status, status)}; `pseudomri retry` it"
            self._ledger.syntheses.fail(entry.job_id, entry.run, reason, self._actor)
        log.warning("run corrected", job=entry.job_id[:12], run=entry.run, engine=status)
        return 1

    def _begin_again(self, entry: SynthesisEntry) -> None:
        """Have a run that the engine does not know done as the next one: what is packaged stays,
        and what a destination has answered for is not sent again."""
        if entry.state == SynthesisState.QUEUED:
            self._ledger.syntheses.mark_lost(entry.job_id, entry.run)
            return
        reason = _WORDS[LOST]
        for delivery in self._ledger.deliveries.open_of(entry.job_id):
            self._ledger.deliveries.abandon(delivery, reason, self._actor)
        self._ledger.syntheses.fail(entry.job_id, entry.run, reason, self._actor)
        self._ledger.syntheses.retry(entry.job_id, self._actor)

    def _check_delivery(self, delivery: int) -> int:
        # Asked first: an attempt that begins after this has a workflow that is found below.
        was_tried = self._ledger.deliveries.get(delivery).attempts > 0
        found = self._attempts(delivery)
        if _is_live(found) or not self._ledger.deliveries.wants_attempt(delivery):
            return 0
        last = str(found[-1].status) if found else LOST
        if not found and not was_tried:
            # The run made it and ended before its first attempt was in the queue.
            entry = self._ledger.deliveries.get(delivery)
            first = first_ticket(entry, self._clock() + self._give_up)
            self._client.enqueue(delivery_options(first), first)
        # An attempt ends by putting the next one into the queue: the engine lost both.
        elif last == LEDGER_AWAY:
            self._offer_again(delivery, found[-1])
        else:
            self._abandon(delivery, found)
        log.warning("delivery corrected", delivery=delivery, engine=last)
        return 1

    def _check_refused(self, delivery: int) -> int:
        """A delivery that the committer wants sent again, under an id that may be dead."""
        found = self._attempts(delivery)
        begun = self._ledger.deliveries.get(delivery).attempts
        if not found or _is_live(found) or attempt_number(found[-1].workflow_id) <= begun:
            # Not offered yet: the committer will, until it gives up.
            return 0
        if not self._ledger.deliveries.wants_attempt(delivery):
            return 0
        last = str(found[-1].status)
        if last == LEDGER_AWAY:
            self._note_lost(delivery, found[-1])
        else:
            self._abandon(delivery, found)
        log.warning("delivery corrected", delivery=delivery, engine=last)
        return 1

    def _attempts(self, delivery: int) -> list[WorkflowStatus]:
        """The workflows of a delivery, by the number of the attempt."""
        found = self._client.list_workflows(
            workflow_id_prefix=delivery_prefix(delivery), load_output=False
        )
        return sorted(found, key=lambda one: attempt_number(one.workflow_id))

    def _offer_again(self, delivery: int, attempt: WorkflowStatus) -> None:
        """Put the attempt that an absent ledger ended into the queue once more."""
        (ticket,) = attempt.input["args"] if attempt.input else ({},)
        following = {**ticket, "number": self._note_lost(delivery, attempt) + 1}
        self._client.enqueue(delivery_options(following), following)

    def _abandon(self, delivery: int, attempts: list[WorkflowStatus]) -> None:
        last = str(attempts[-1].status) if attempts else LOST
        if attempts:
            self._note_lost(delivery, attempts[-1])
        reason = f"the delivery was given up: {_WORDS.get(last, last)}"
        self._ledger.deliveries.abandon(delivery, reason, self._actor)

    def _note_lost(self, delivery: int, attempt: WorkflowStatus) -> int:
        """Use up the number of an attempt that is dead; how many there have been."""
        number, status = attempt_number(attempt.workflow_id), str(attempt.status)
        return self._ledger.deliveries.note_lost_attempt(
            delivery, number, _WORDS.get(status, status)
        )

    def _status(self, workflow_id: str) -> str:
        found = self._client.list_workflows(
            workflow_ids=[workflow_id], load_input=False, load_output=False
        )
        return str(found[0].status) if found else LOST


def _is_live(attempts: list[WorkflowStatus]) -> bool:
    return any(str(one.status) in LIVE for one in attempts)
