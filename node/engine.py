"""The durable workflow engine (DBOS): its database, its two queues, and the way into them.

The engine's database says which step of which run is done; the ledger says what is true. Only ids
and counters pass through the engine, nothing of a patient.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, StepOptions

from config.settings import Settings
from node.clock import to_text
from node.errors import Retry
from node.faults import Point, reach
from node.ledger.entries import DeliveryEntry, Dispatch
from node.ledger.patience import with_patience
from node.ledger.syntheses import Syntheses

APPLICATION: Final = "pseudomri"
# Pinned: the engine resumes work only under the version that began it. Count it up when the order
# or the meaning of the workflows' steps changes, not with every release; their arguments stay
# readable for ever. What is in flight then begins again (`adopt_older`).
WORKFLOW_VERSION: Final = "1"
SYNTHESIS_QUEUE: Final = "synthesis"
DELIVERY_QUEUE: Final = "delivery"
SYNTHESIS_WORKFLOW: Final = "synthesis"
DELIVERY_WORKFLOW: Final = "delivery"
# One model, one accelerator: two syntheses at a time would only share it.
SYNTHESES_AT_A_TIME: Final = 1
DELIVERIES_AT_A_TIME: Final = 8
# One association of each worker to a destination at a time: a slow PACS gets no crowd of them, and
# one worker that died in a delivery does not hold up the others'.
ASSOCIATIONS_PER_DESTINATION: Final = 1
# How long a queued run waits to be seen; the cost is one indexed query.
POLL_S: Final = 0.25
# With doubling waits from one second: half a minute of a busy ledger, beyond its own patience.
LEDGER_TRIES: Final = 6

Result = TypeVar("Result")
log = structlog.get_logger()


def engine_url(settings: Settings) -> str:
    """Where the engine keeps its state: beside the ledger's file, or in its PostgreSQL, there in
    the schema `dbos`, so that the names of tables never meet."""
    if settings.node.database_url:
        return with_patience(settings.node.database_url)
    return f"sqlite:///{settings.node.data_folder.absolute() / 'workflows.sqlite'}"


def prepare_engine(url: str) -> None:
    """Bring the engine's database into being; harmless when it is there."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            # The mode stays with the file. Without it a reader blocks the writer.
            connection.execute("PRAGMA journal_mode = WAL")
    DBOS.migrate(url)


def engine_config(url: str, executor_id: str) -> DBOSConfig:
    """The configuration of a process that runs workflows.

    Args:
        url: As `engine_url` gives it.
        executor_id: Of this life alone: what is left under it is taken up by `recover`.
    """
    return DBOSConfig(
        name=APPLICATION,
        system_database_url=url,
        application_version=WORKFLOW_VERSION,
        executor_id=executor_id,
        log_level="WARNING",
        enable_otlp=False,
    )


def register_queues() -> None:
    """Make the queues known; after `DBOS.launch`."""
    DBOS.register_queue(
        SYNTHESIS_QUEUE,
        worker_concurrency=SYNTHESES_AT_A_TIME,
        polling_interval_sec=POLL_S,
        on_conflict="always_update",
    )
    DBOS.register_queue(
        DELIVERY_QUEUE,
        worker_concurrency=DELIVERIES_AT_A_TIME,
        partition_worker_concurrency=ASSOCIATIONS_PER_DESTINATION,
        polling_interval_sec=POLL_S,
        on_conflict="always_update",
    )


def recover(executor_id: str) -> None:
    """Put back into the queues what a life that is over has left; safe to repeat, at any time.

    Inside a process that runs workflows.

    Raises:
        Retry: When something is left; it is to be tried again.
    """
    # The engine has this for its own start and for its makers' paid service, not in its public
    # interface; the version is pinned, and the tests kill workers.
    DBOS._recover_pending_workflows([executor_id])
    left = DBOS.list_workflows(
        executor_id=executor_id,
        app_version=WORKFLOW_VERSION,
        status="PENDING",
        load_input=False,
        load_output=False,
    )
    if left:
        raise Retry(f"{len(left)} workflows of {executor_id} are not back in the queues yet")


def adopt_older(client: DBOSClient, living: Set[str]) -> int:
    """Begin again, as of this version, what an older one has left; how many workflows that are.

    Every step may be repeated, and those that computed find what they had made.

    Args:
        client: Of the engine.
        living: The versions of the workers that are alive: an older one finishes its own work.
    """
    older = [str(version) for version in range(1, int(WORKFLOW_VERSION))]
    if not older or not living.isdisjoint(older):
        return 0
    found = client.list_workflows(
        app_version=older,
        # Canceled by this very function, which then died.
        status=["PENDING", "ENQUEUED", "DELAYED", "CANCELLED"],
        load_input=False,
        load_output=False,
    )
    for workflow in found:
        client.cancel_workflow(workflow.workflow_id)
        client.rewind_workflow(
            workflow.workflow_id,
            application_version=WORKFLOW_VERSION,
            queue_name=workflow.queue_name,
            queue_partition_key=workflow.queue_partition_key,
        )
    return len(found)


def synthesis_id(job_id: str, run: int) -> str:
    """The engine's id of a run; offering it twice is offering it once."""
    return f"{job_id}-{run}"


def job_of(workflow_id: str) -> str:
    """Whose run a workflow is, by its id."""
    return workflow_id.rpartition("-")[0]


def delivery_of(workflow_id: str) -> int | None:
    """Whose attempt a workflow is, by its id; None for a run."""
    kind, _, rest = workflow_id.partition("-")
    return int(rest.partition("-")[0]) if kind == "delivery" else None


def delivery_id(delivery: int, number: int) -> str:
    """The engine's id of one attempt of a delivery."""
    return f"{delivery_prefix(delivery)}{number}"


def attempt_number(workflow_id: str) -> int:
    """Which attempt of its delivery a workflow is, by its id."""
    return int(workflow_id.rpartition("-")[2])


def delivery_prefix(delivery: int) -> str:
    """What the ids of all attempts of a delivery begin with, and no other's."""
    return f"delivery-{delivery}-"


def synthesis_options(dispatch: Dispatch) -> EnqueueOptions:
    """How a run enters the queue."""
    return EnqueueOptions(
        workflow_name=SYNTHESIS_WORKFLOW,
        queue_name=SYNTHESIS_QUEUE,
        workflow_id=synthesis_id(dispatch.job_id, dispatch.run),
        app_version=WORKFLOW_VERSION,
        # Without one it would run before all others.
        priority=dispatch.priority,
    )


@dataclass(frozen=True)
class Ticket:
    """One attempt of a delivery on its way through the queue.

    Args:
        delivery: Its id in the ledger.
        destination: Its name; attempts to one destination queue behind each other.
        priority: Lower goes first.
        number: Counts all attempts, and so names the workflow.
        tries: Counts the attempts since the delivery began or was retried.
        refusals: How many of them ended in a refusal that was meant.
        deadline: When to give up, as `node.clock` writes it.
    """

    delivery: int
    destination: str
    priority: int
    number: int
    tries: int
    refusals: int
    deadline: str


def first_ticket(delivery: DeliveryEntry, deadline: datetime) -> dict[str, Any]:
    """What the queue is given to have a delivery tried, for the first time or anew.

    Args:
        delivery: As the ledger has it now; the attempt's number, and so the workflow's id, follows
            from it: offering it twice is offering it once.
        deadline: After which no further attempt is made.
    """
    ticket = Ticket(
        delivery=delivery.id,
        destination=delivery.destination.name,
        priority=delivery.priority,
        number=delivery.attempts + 1,
        tries=1,
        refusals=0,
        deadline=to_text(deadline),
    )
    return asdict(ticket)


def enqueue_delivery(ticket: Mapping[str, Any], wait_s: float = 0.0) -> None:
    """Put an attempt into the queue, from inside a workflow, now or after a wait.

    The wait belongs to the queue, not to a sleeping workflow: it holds no place that another
    destination could use, and it survives a restart.
    """
    options = delivery_options(ticket)
    if wait_s > 0:
        options["delay_seconds"] = wait_s
    DBOS.enqueue_workflow_with_options(options, dict(ticket))


def delivery_options(ticket: Mapping[str, Any]) -> EnqueueOptions:
    """How an attempt enters the queue."""
    return EnqueueOptions(
        workflow_name=DELIVERY_WORKFLOW,
        queue_name=DELIVERY_QUEUE,
        workflow_id=delivery_id(ticket["delivery"], ticket["number"]),
        app_version=WORKFLOW_VERSION,
        priority=ticket["priority"],
        queue_partition_key=ticket["destination"],
    )


def run_step(name: str, step: Callable[..., Result], *arguments: Any) -> Result:
    """Run a step of a workflow, once the engine has it on record that it did not run before."""

    def run() -> Result:
        result = step(*arguments)
        reach(Point(f"step.{name}"))
        return result

    return DBOS.run_step(step_options(name), run)


def step_options(name: str) -> StepOptions:
    """A step by this name that is run again when the ledger was busy."""
    return StepOptions(
        name=name,
        retries_allowed=True,
        max_attempts=LEDGER_TRIES,
        interval_seconds=1.0,
        should_retry=lambda error: isinstance(error, Retry),
    )


class Dispatcher:
    """Offers queued syntheses to the engine, from any process.

    Args:
        syntheses: The ledger's verbs.
        url: Of the engine, which `prepare_engine` has made ready.
        has_room: Whether the disk has room for a run; while it has none, runs wait in the ledger.
    """

    def __init__(
        self, syntheses: Syntheses, url: str, has_room: Callable[[], bool] = lambda: True
    ) -> None:
        self._syntheses: Final = syntheses
        self._has_room: Final = has_room
        self._client: Final = DBOSClient(system_database_url=url, application_name=APPLICATION)

    def run_once(self) -> int:
        """Offer every run that the engine does not have; how many that were."""
        runs = self._syntheses.undispatched()
        if runs and not self._has_room():
            log.warning("syntheses wait for disk space", waiting=len(runs))
            return 0
        for dispatch in runs:
            self._client.enqueue(synthesis_options(dispatch), dispatch.job_id, dispatch.run)
            reach(Point.DISPATCH_OFFERED)
            self._syntheses.mark_dispatched(dispatch.job_id, dispatch.run)
        return len(runs)

    def close(self) -> None:
        """Give the connections back."""
        self._client.destroy()
