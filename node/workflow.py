"""The durable workflows: read, synthesize, package, deliver, commit.

A step that ended is never run again; a step that was cut off is, so each of them writes the same
thing twice without harm. No exception leaves a step: what went wrong goes to the ledger, in words
that are safe to show, and the engine only hears how the run ended.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from dbos import DBOS
from pydicom import dcmread

from config.settings import Settings
from node import engine
from node.archive import Archive, output_name
from node.clock import Clock
from node.committer import Committer
from node.engine import DELIVERY_WORKFLOW, SYNTHESIS_WORKFLOW, Ticket
from node.errors import Fenced, LostRace, NodeError, NoSpace, Refuse, Retry
from node.faults import Point, reach
from node.heartbeat import Heartbeat
from node.intact import intact_output, intact_source
from node.ledger import Ledger
from node.ledger.entries import Output, Packaged, SynthesisEntry
from node.logs import describe
from node.parts import process_name
from node.shipping import Shipping
from node.stages import Order, PackagedInstance, Stages
from node.states import SynthesisState
from node.waking import Waker
from node.workfiles import Made, Prepared, WorkFiles
from pipeline.contrast import Contrast
from pipeline.errors import Declined
from pipeline.provenance import JobIdentity, software_versions

# A crash that takes the process with it (accelerator, memory) is tried this often, then it is a
# dead letter: a fourth try would most likely take the process down again.
MAXIMUM_CRASHES: Final = 3

Result = TypeVar("Result")
log = structlog.get_logger()


class Worker:
    """The process that computes and delivers.

    Args:
        settings: Of the node.
        ledger: Every database verb.
        archive: The files of instances.
        stages: What the workflow calls.
        clock: Tells UTC moments.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, archive: Archive, stages: Stages, clock: Clock
    ) -> None:
        self._settings: Final = settings
        self._ledger: Final = ledger
        self._archive: Final = archive
        self._stages: Final = stages
        self._clock: Final = clock
        self._work: Final = settings.node.data_folder / "work"
        self.actor: Final = process_name(settings, "work")
        self._shipping: Final = Shipping(settings, ledger, archive, stages.send, clock, self.actor)
        self._at_work: Final[set[str]] = set()

    def launch(self, on_fenced: Callable[[], None] = lambda: None) -> None:
        """Begin a life: take up what earlier ones left, then take from the queues, in threads.

        Args:
            on_fenced: Called when another worker has declared this life over; the process must
                end then, and can write nothing to the ledger any more.
        """
        self._life = self._ledger.workers.begin(
            self.actor, socket.gethostname(), os.getpid(), engine.WORKFLOW_VERSION
        )
        self._ledger.database.fence(self._life.id)
        url = engine.engine_url(self._settings)
        DBOS(config=engine.engine_config(url, self._life.executor_id))
        self._register()
        DBOS.launch()
        engine.register_queues()
        self._heartbeat = Heartbeat(
            self._ledger.workers, self._life, self._settings.work, engine.recover, on_fenced
        )
        self._heartbeat.start()

    def committer(self) -> Committer:
        """What closes the syntheses of this worker."""
        return Committer(
            self._settings,
            self._ledger,
            self._shipping.commit,
            engine.enqueue_delivery,
            self._clock,
            self.actor,
        )

    def waker(self) -> Waker:
        """What wakes workflows of this life whose thread is gone."""
        return Waker(self._life.executor_id, self.is_running)

    def if_eldest(self, turn: Callable[[], object]) -> Callable[[], object]:
        """A turn that is left to the eldest of the living workers: one is enough for all."""
        return lambda: turn() if self._ledger.workers.is_eldest(self._life) else None

    def stop(self, grace_s: int) -> None:
        """Take nothing more; wait for running workflows at most this long, leave the rest to
        whoever comes first: another worker, or the next life of this one."""
        DBOS.destroy(workflow_completion_timeout_sec=grace_s)
        self._heartbeat.stop()
        try:
            self._ledger.workers.end(self._life)
        except NodeError as error:
            log.warning("others will find this worker silent", reason=str(error))

    def _register(self) -> None:
        # Functions of their own, since the engine marks what it is given.
        @DBOS.workflow(name=SYNTHESIS_WORKFLOW, max_recovery_attempts=MAXIMUM_CRASHES)
        def synthesis(job_id: str, run: int) -> str:
            with self._running():
                return self._synthesis(job_id, run)

        @DBOS.workflow(name=DELIVERY_WORKFLOW, max_recovery_attempts=MAXIMUM_CRASHES)
        def delivery(ticket: dict[str, Any]) -> str:
            with self._running():
                return self._shipping.delivery(Ticket(**ticket))

    def is_running(self, workflow_id: str) -> bool:
        """Whether a thread of this process is at work on a workflow."""
        return workflow_id in self._at_work

    @contextmanager
    def _running(self) -> Iterator[None]:
        workflow_id = str(DBOS.workflow_id)
        self._at_work.add(workflow_id)
        try:
            yield
        finally:
            self._at_work.discard(workflow_id)

    def _synthesis(self, job_id: str, run: int) -> str:
        """One run, from the archive's files to deliveries in the queue; tells how it ended."""
        for name, step in (
            ("read", self.read),
            ("synthesize", self.synthesize),
            ("package", self.package),
        ):
            ended = engine.run_step(name, self._guard, step, job_id, run)
            if ended is not None:
                return ended
        tickets = engine.run_step("deliver", self._guard, self._shipping.begin, job_id, run)
        if isinstance(tickets, str):
            return tickets
        for ticket in tickets:
            engine.enqueue_delivery(ticket)
        reach(Point.DELIVERY_ENQUEUED)
        if not tickets:
            engine.run_step("commit", self._shipping.commit, job_id)
        return "delivering"

    def _guard(self, step: Callable[[str, int], Result], job_id: str, run: int) -> Result | str:
        """Run a step; when it cannot go on, write down why and tell how the run ended.

        Raises:
            Retry: Left to the engine, which runs the step again.
            Fenced: Left to the engine, which no longer takes this process's word.
        """
        with structlog.contextvars.bound_contextvars(job=job_id[:12], run=run):
            try:
                return self._accounted(step, job_id, run)
            except LostRace as stale:
                # A later run has begun; it is the one that counts.
                log.warning("run is stale", reason=str(stale))
                return "stale"

    def _accounted(self, step: Callable[[str, int], Result], job_id: str, run: int) -> Result | str:
        try:
            return step(job_id, run)
        except Declined as declined:
            log.info("synthesis declined", code=declined.code)
            code, reason = declined.code, str(declined)
            self._ledger.syntheses.decline(job_id, run, code, reason, [], self.actor)
            ended = "declined"
        except NoSpace as full:
            log.warning("synthesis waits for disk space", reason=str(full))
            following = self._ledger.syntheses.postpone(job_id, run, str(full), self.actor)
            self._work_files(job_id, run).hand_on(self._work_files(job_id, following))
            return "postponed"
        except (Retry, Fenced, LostRace):
            raise
        except Exception as error:
            reason = describe(error)
            log.error("synthesis failed", reason=reason)
            self._ledger.syntheses.fail(job_id, run, reason, self.actor)
            ended = "failed"
        self._work_files(job_id, run).remove()
        return ended

    def read(self, job_id: str, run: int) -> None:
        """Check the CT's files against the record, pass the gate, keep the sagittal stack."""
        entry = self._ledger.syntheses.get(job_id)
        if entry.state == SynthesisState.PACKAGED and entry.run == run:
            # An earlier life of this step went on with kept outputs, and died then.
            return
        entry = self._ledger.syntheses.start(job_id, run, self.actor)
        log.info("synthesis started", series=entry.series_uid)
        if self._has_outputs(job_id):
            # A later run of a job that was packaged: its objects may be at a destination already,
            # and a UID never gets other pixels.
            self._ledger.syntheses.package_again(job_id, run, self.actor)
            return
        if entry.model_digest != self._stages.model_digest:
            raise Refuse(
                f"expected model {entry.model_digest[:12]}, which this job was created for; this"
                f" worker runs {self._stages.model_digest[:12]}. Start it with the other model, or"
                " send the CT again to have it made with this one"
            )
        files = self._work_files(job_id, run)
        if files.load_prepared() is None:
            files.save_prepared(self._stages.prepare(self._sources(entry)))

    def synthesize(self, job_id: str, run: int) -> None:
        """Run the model on the stack and keep what it made."""
        entry = self._current(job_id, run)
        files = self._work_files(job_id, run)
        if entry.state == SynthesisState.PACKAGED or files.load_made() is not None:
            return
        made = self._stages.synthesize(self._prepared(files, entry), order_of(entry))
        log.info("synthesized", **{f"{name}_s": s for name, s in made.timings_s.items()})
        files.save_made(made)

    def package(self, job_id: str, run: int) -> None:
        """Write the labelled instances into the archive, then on record."""
        entry = self._current(job_id, run)
        if entry.state == SynthesisState.PACKAGED:
            return
        began = time.perf_counter()
        files = self._work_files(job_id, run)
        prepared = self._prepared(files, entry)
        made = files.load_made()
        if made is None:
            raise Refuse("the result of the model is gone from the work folder; retry the job")
        paths = dict(zip(entry.sources, self._sources(entry), strict=True))
        headers = [dcmread(paths[uid], stop_before_pixels=True) for uid in prepared.header_uids]
        known = {one.sop_instance_uid: one for one in self._ledger.syntheses.outputs(job_id)}
        outputs = [
            self._store(job_id, instance, known.get(instance.sop_instance_uid))
            for instance in self._stages.package(made, prepared, headers, order_of(entry))
        ]
        elapsed_s = time.perf_counter() - began
        self._ledger.syntheses.package(
            job_id, run, _packaged(outputs, prepared, made, elapsed_s), self.actor
        )
        log.info("packaged", instances=len(outputs))

    def _current(self, job_id: str, run: int) -> SynthesisEntry:
        entry = self._ledger.syntheses.get(job_id)
        if entry.run != run:
            raise LostRace(f"expected run {run}, found run {entry.run}")
        return entry

    def _store(self, job_id: str, instance: PackagedInstance, known: Output | None) -> Output:
        """Keep one instance; in the place that is on record, if these very bytes are.

        Raises:
            Refuse: When other bytes are on record: those are never overwritten.
        """
        uid, content = instance.sop_instance_uid, instance.content
        if known and known.digest != hashlib.sha256(content).hexdigest():
            raise Refuse(
                f"output {uid}: expected the bytes on record again, found others; they were made"
                " on another device or by another program version"
            )
        place = Path(known.path).name if known else output_name(uid, content)
        archived = self._archive.store_output(job_id, place, content)
        return Output(
            instance.sop_instance_uid,
            instance.series_uid,
            instance.contrast,
            instance.slice_index,
            instance.pixel_digest,
            archived.digest,
            archived.path,
        )

    def _prepared(self, files: WorkFiles, entry: SynthesisEntry) -> Prepared:
        """The stack that `read` kept, made again if somebody emptied the work folder."""
        prepared = files.load_prepared()
        if prepared is None:
            prepared = self._stages.prepare(self._sources(entry))
            files.save_prepared(prepared)
        return prepared

    def _sources(self, entry: SynthesisEntry) -> list[Path]:
        """The archive's files of the CT, each checked against its digest, in the entry's order.

        Raises:
            Refuse: When a file is gone or has changed since it was received.
        """
        series = self._ledger.series.get(entry.series_uid)
        held = {one.sop_instance_uid: one for one in series.instances} if series else {}
        paths = []
        for uid, digest in entry.sources.items():
            if uid not in held:
                raise Refuse(f"instance {uid} is not on record any more")
            paths.append(intact_source(self._archive, held[uid], digest))
        return paths

    def _has_outputs(self, job_id: str) -> bool:
        outputs = self._ledger.syntheses.outputs(job_id)
        try:
            for output in outputs:
                intact_output(self._archive, output.path, output.digest)
        except Refuse:
            return False
        return bool(outputs)

    def _work_files(self, job_id: str, run: int) -> WorkFiles:
        return WorkFiles(self._work, job_id, run)


def order_of(entry: SynthesisEntry) -> Order:
    """A job on record as the pipeline needs to know it."""
    identity = JobIdentity(
        job_id=entry.job_id,
        contrasts=tuple(Contrast(name) for name in entry.contrasts),
        seed=entry.seed,
        model_name=entry.model_name,
        model_version=entry.model_version,
        model_digest=entry.model_digest,
        parameters=entry.parameters,
    )
    return Order(identity, entry.created_at, int(entry.parameters["samples"]))


def _packaged(outputs: list[Output], prepared: Prepared, made: Made, package_s: float) -> Packaged:
    return Packaged(
        outputs=outputs,
        software=software_versions(),
        device="{device} {dtype}, {threads} threads".format_map(made.facts),
        timings_s={**prepared.timings_s, **made.timings_s, "package": round(package_s, 3)},
        measurements={**prepared.measurements, "synthesis": dict(made.facts)},
        warnings=(*prepared.warnings, *made.warnings),
    )
