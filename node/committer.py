"""Has every destination taken responsibility? A pure rule, and the loop that asks and acts.

Everything it goes by is in the ledger, so that a crash at any point costs one question more. A
synthesis is committed when no destination is left that wants asking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from pydicom.uid import generate_uid

from config.settings import DeliverySettings, Settings
from node import commitment
from node.association import Rejected
from node.clock import Clock
from node.commitment import Report
from node.deliver import secured
from node.engine import first_ticket
from node.errors import Refuse, Retry
from node.faults import Point, reach
from node.ledger import Ledger
from node.ledger.commitments import Awaited, Transaction
from node.logs import describe
from node.shipping import backoff_s
from node.states import CommitmentState

_REFUSALS: Final = (CommitmentState.REFUSED, CommitmentState.UNANSWERED)

log = structlog.get_logger()


@dataclass(frozen=True)
class Ask:
    """Ask the destination to commit."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do now."""


@dataclass(frozen=True)
class SendAgain:
    """It would not commit to all: send that again, until then."""

    deadline: datetime


@dataclass(frozen=True)
class Expire:
    """It was asked and never reported."""

    transaction: Transaction


@dataclass(frozen=True)
class GiveUp:
    """It will not commit."""

    reason: str


Step = Ask | Wait | SendAgain | Expire | GiveUp


def next_step(awaited: Awaited, now: datetime, settings: DeliverySettings) -> Step:
    """What is to be done about one delivery.

    A refusal and a silence count against `commitment_tries`; a destination that cannot be reached
    is asked until `give_up_s`, as it is when it is sent to. What it refused is sent again for as
    long, counted from its last refusal, and whether or not it is still to be asked.

    Args:
        awaited: The delivery with its requests so far.
        now: The present moment, UTC.
        settings: How long and how often.
    """
    if not awaited.is_asked:
        return _send_again(awaited, now, settings)
    if not awaited.transactions:
        return Ask()
    last = awaited.transactions[-1]
    if last.state is CommitmentState.REQUESTED:
        due = last.requested_at + timedelta(seconds=settings.commitment_timeout_s)
        return Wait() if now < due else Expire(last)
    refusals = sum(one.state in _REFUSALS for one in awaited.transactions)
    if refusals >= settings.commitment_tries:
        return GiveUp(last.reason or "it never reported")
    if awaited.remaining:
        return _send_again(awaited, now, settings)
    return _ask_again(awaited, last, now, settings)


def _ask_again(
    awaited: Awaited, last: Transaction, now: datetime, settings: DeliverySettings
) -> Step:
    if now > awaited.delivered_at + timedelta(seconds=settings.give_up_s):
        return GiveUp(last.reason or "it could not be asked")
    pause = timedelta(seconds=backoff_s(settings, len(awaited.transactions)))
    return Wait() if now < last.requested_at + pause else Ask()


def _send_again(awaited: Awaited, now: datetime, settings: DeliverySettings) -> Step:
    refusals = [one for one in awaited.transactions if one.state is CommitmentState.REFUSED]
    ends = [one.ended_at for one in refusals if one.ended_at]
    deadline = max(ends, default=awaited.delivered_at) + timedelta(seconds=settings.give_up_s)
    if now < deadline:
        return SendAgain(deadline)
    reason = refusals[-1].reason if refusals else None
    return GiveUp(reason or "what it refused could not be sent again")


class Committer:
    """The part of the worker that closes syntheses.

    Args:
        settings: Of the node.
        ledger: Every database verb.
        close: Commits a job that waits for no destination; harmless when it is committed.
        send_again: Puts a ticket into the delivery queue; the same one twice is one.
        clock: Tells UTC moments.
        actor: Whose name the events carry.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        close: Callable[[str], bool],
        send_again: Callable[[dict[str, Any]], None],
        clock: Clock,
        actor: str,
    ) -> None:
        self._settings: Final = settings
        self._ledger: Final = ledger
        self._close: Final = close
        self._send_again: Final = send_again
        self._clock: Final = clock
        self._actor: Final = actor

    def run_once(self) -> int:
        """One turn; how many steps were taken.

        Raises:
            Retry: When the ledger does not answer.
        """
        silent: set[str] = set()
        return sum(
            self._tend(job_id, silent) for job_id in self._ledger.commitments.delivered_jobs()
        )

    def _tend(self, job_id: str, silent: set[str]) -> int:
        awaited = self._ledger.commitments.awaited(job_id, self._settings.delivery.committing)
        if not awaited:
            return int(self._close(job_id))
        return sum(self._step(one, silent) for one in awaited)

    def _step(self, awaited: Awaited, silent: set[str]) -> int:
        name = awaited.delivery.destination.name
        step = next_step(awaited, self._clock(), self._settings.delivery)
        with structlog.contextvars.bound_contextvars(
            job=awaited.delivery.job_id[:12], destination=name
        ):
            match step:
                case Wait():
                    return 0
                case Ask() if name in silent:
                    # It just kept us waiting; the others need not.
                    return 0
                case Ask():
                    if not self._ask(awaited):
                        silent.add(name)
                case Expire(transaction):
                    log.warning("commitment unanswered", transaction=transaction.uid)
                    state, reason = CommitmentState.UNANSWERED, "no report came in time"
                    self._ledger.commitments.end(transaction.uid, state, reason, self._actor)
                case SendAgain(deadline):
                    log.warning("sent again", instances=len(awaited.remaining))
                    self._send_again(first_ticket(awaited.delivery, deadline))
                case GiveUp(reason):
                    log.error("not committed", reason=reason)
                    self._ledger.commitments.give_up(awaited, reason, self._actor)
        return 1

    def _ask(self, awaited: Awaited) -> bool:
        """Ask, with a transaction that nobody can guess; whether it could be asked."""
        uid = generate_uid(prefix=None)
        delivery = self._settings.delivery
        if not self._ledger.commitments.request(awaited, uid, self._actor):
            return True
        reach(Point.COMMITMENT_REQUESTED)
        try:
            commitment.request(
                [output.sop_instance_uid for output in awaited.outputs],
                secured(awaited.delivery.destination, self._settings),
                self._settings.node.ae_title,
                uid,
                delivery.network_timeout_s,
                delivery.commitment_stay_s,
                self._report,
            )
        except (Rejected, Refuse) as error:
            # A no without instances: asking again may help, sending again would not.
            self._end(uid, CommitmentState.UNANSWERED, describe(error))
            return False
        except Retry as error:
            self._end(uid, CommitmentState.UNSENT, describe(error))
            return False
        log.info("commitment requested", transaction=uid)
        return True

    def _end(self, uid: str, state: CommitmentState, reason: str) -> None:
        log.warning("commitment not requested", reason=reason)
        self._ledger.commitments.end(uid, state, reason, self._actor)

    def _report(self, report: Report, ae_title: str) -> None:
        del ae_title  # on an association of ours the requestor is us
        state = self._ledger.commitments.report(
            report.transaction_uid, report.committed, report.failures, self._actor
        )
        log.info("commitment reported", transaction=report.transaction_uid, state=str(state))
