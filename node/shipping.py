"""The delivery workflow: one attempt each, the next one in the queue after a wait.

A destination that is down costs nobody a place: between attempts there is no workflow running, only
a row in the engine's queue that becomes due. A delivery is delivered when every instance was
accepted, and only those that were not are sent again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any, Final

import structlog

from config.settings import PROOF_SINK, DeliverySettings, Settings
from node import engine, stow
from node.archive import Archive
from node.association import Rejected
from node.clock import Clock, from_text
from node.deliver import Answer, OutgoingInstance, read_header, resolve, secured
from node.engine import Ticket, first_ticket
from node.errors import Refuse, Retry
from node.faults import Point, reach
from node.intact import intact_output
from node.ledger import Ledger
from node.ledger.entries import Attempt, Destination
from node.logs import describe
from node.stages import Send
from node.states import SynthesisState
from node.status import is_accepted, is_permanent
from node.workfiles import WorkFiles

# A peer that says no means it, but it may be in the middle of being set up: not at the first no.
MAXIMUM_REFUSALS: Final = 3
PROOF_GIVE_UP_S: Final = 900.0

log = structlog.get_logger()


class Shipping:
    """The part of the worker that delivers."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        archive: Archive,
        send: Send,
        clock: Clock,
        actor: str,
    ) -> None:
        self._settings: Final = settings
        self._ledger: Final = ledger
        self._archive: Final = archive
        self._send: Final = send
        self._clock: Final = clock
        self._actor: Final = actor

    def begin(self, job_id: str, run: int) -> list[dict[str, Any]]:
        """Make one delivery per destination; the tickets of those that wait for an attempt.

        Raises:
            LostRace: When another run was begun since.
        """
        entry = self._ledger.syntheses.get(job_id)
        series = self._ledger.series.get(entry.series_uid)
        give_up_s = self._settings.delivery.give_up_s
        if sink := self._ledger.proofs.sink_of(entry.study_uid):
            # A phantom: to no PACS, and no longer than its prover waits.
            give_up_s = PROOF_GIVE_UP_S
        destinations = (
            (sink,)
            if sink
            else resolve(
                self._settings.delivery,
                series.calling_ae if series else None,
                series.peer_address if series else None,
            )
        )
        deadline = self._clock() + timedelta(seconds=give_up_s)
        return [
            first_ticket(waiting, deadline)
            for waiting in self._ledger.deliveries.begin(job_id, run, destinations, self._actor)
        ]

    def delivery(self, ticket: Ticket) -> str:
        """One attempt, as a workflow; tells how it ended."""
        result = engine.run_step("attempt", self._attempt_step, asdict(ticket))
        if result["next"] is not None:
            engine.enqueue_delivery(result["next"], result["wait_s"])
        elif result["ended"] == "delivered":
            engine.run_step("commit", self.commit, result["job_id"])
        return str(result["ended"])

    def commit(self, job_id: str) -> bool:
        """Close a synthesis that every destination has, and forget its work files.

        One that waits for a destination's storage commitment is left to the committer.
        """
        entry = self._ledger.syntheses.get(job_id)
        if entry.state not in {SynthesisState.DELIVERED, SynthesisState.COMMITTED}:
            return False
        if self._ledger.commitments.awaited(job_id, self._settings.delivery.committing):
            return False
        self._ledger.syntheses.commit(job_id, self._actor)
        for run in range(1, entry.run + 1):
            WorkFiles(self._settings.node.data_folder / "work", job_id, run).remove()
        log.info("committed", job=job_id[:12])
        return True

    def _attempt_step(self, fields: dict[str, Any]) -> dict[str, Any]:
        ticket = Ticket(**fields)
        delivery = self._ledger.deliveries.get(ticket.delivery)
        ended: dict[str, Any] = {"job_id": delivery.job_id, "next": None, "wait_s": 0.0}
        attempt = self._ledger.deliveries.begin_attempt(ticket.delivery, self._actor)
        reach(Point.DELIVERY_BEGUN)
        if attempt is None:
            # It was ended by a life of this step that died before the engine heard of it, or by
            # somebody else before it began: then this number is used up all the same.
            reason = "the delivery had ended"
            self._ledger.deliveries.note_lost_attempt(ticket.delivery, ticket.number, reason)
            state = self._ledger.deliveries.get(ticket.delivery).state
            return {**ended, "ended": str(state)}
        with structlog.contextvars.bound_contextvars(
            job=delivery.job_id[:12], destination=ticket.destination
        ):
            problem, is_refusal = self._try(attempt)
            reach(Point.DELIVERY_SENT)
            if problem is None:
                self._ledger.deliveries.delivered(attempt, self._actor)
                log.info("delivered", instances=len(attempt.remaining))
                return {**ended, "ended": "delivered"}
            refusals = ticket.refusals + is_refusal
            wait_s = backoff_s(self._settings.delivery, ticket.tries)
            due = self._clock() + timedelta(seconds=wait_s)
            if refusals >= MAXIMUM_REFUSALS or due > from_text(ticket.deadline):
                log.error("delivery failed", reason=problem)
                self._ledger.deliveries.fail(attempt, problem, self._actor)
                return {**ended, "ended": "failed"}
            log.warning("delivery postponed", reason=problem, wait_s=wait_s)
            self._ledger.deliveries.postpone(attempt, problem, self._actor)
        number = self._ledger.deliveries.get(ticket.delivery).attempts + 1
        following = replace(ticket, number=number, tries=ticket.tries + 1, refusals=refusals)
        return {**ended, "ended": "postponed", "next": asdict(following), "wait_s": wait_s}

    def _try(self, attempt: Attempt) -> tuple[str | None, bool]:
        """Send what remains; what went wrong, if anything, and whether the peer meant it."""
        refused: dict[int, int] = {}
        try:
            instances = [
                read_header(intact_output(self._archive, output.path, output.digest))
                for output in attempt.remaining
            ]
            for answer in self._answers(instances, attempt.destination):
                reach(Point.DELIVERY_ANSWERED)
                self._ledger.deliveries.answer(attempt, answer.sop_instance_uid, answer.status)
                if not is_accepted(answer.status):
                    refused[answer.status] = refused.get(answer.status, 0) + 1
        except (Rejected, Refuse) as error:
            return describe(error), True
        except Retry as error:
            return describe(error), False
        except Exception as error:
            # Ours to mend, and it may be a file that cannot be read now: it counts as a no.
            return describe(error), True
        if not refused:
            return None, False
        counts = ", ".join(f"{n} with 0x{status:04X}" for status, n in sorted(refused.items()))
        return f"the peer refused instances: {counts}", any(map(is_permanent, refused))

    def _answers(
        self, instances: Sequence[OutgoingInstance], destination: Destination
    ) -> Iterator[Answer]:
        """Send by whatever way the destination is reached."""
        timeout_s = self._settings.delivery.network_timeout_s
        for web in self._settings.delivery.web_destinations:
            if web.name == destination.name:
                return stow.send(instances, web, self._settings.tls, timeout_s)
        # The sink of a proof is on this machine and in no settings.
        is_sink = destination.name == PROOF_SINK
        called = destination if is_sink else secured(destination, self._settings)
        return self._send(instances, called, self._settings.node.ae_title, timeout_s)


def backoff_s(settings: DeliverySettings, tries: int) -> float:
    """How long to wait after so many tries: doubling, up to the longest wait."""
    # 2.0 ** 60 seconds is beyond any limit; it keeps the power finite.
    return min(settings.first_retry_s * 2.0 ** min(tries - 1, 60), settings.longest_retry_s)
