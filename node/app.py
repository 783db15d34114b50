"""Builds the node and runs its roles: `receive` takes CT in, `work` computes and delivers, `web`
tells how things are.

Each role is a process of its own, so that receiving starts and goes on when the accelerator's stack
is broken. They meet in the data folder: ledger, archive, workflow engine.
"""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from config.settings import MOST_ACCEPTORS, Settings
from node import faults, logs, tls
from node.archive import Archive
from node.audit import Kind
from node.clock import utc_now
from node.completion import CompletionLoop
from node.counting import archive_count
from node.engine import Dispatcher, engine_url, prepare_engine
from node.errors import Fenced, Retry, Stop
from node.ledger import Ledger, migrate, open_ledger
from node.ledger.entries import NewSynthesis
from node.ledger.series import HeldSeries
from node.lock import forget_why, hold, names, tell_why
from node.model_folder import ModelIdentity, model_identity
from node.parts import ledger_url, open_parts, process_name
from node.program import program_digest
from node.reader import HeaderReader
from node.selection import Selected, Selector
from pipeline.provenance import job_id, seed_of, synthesis_parameters

# A release takes milliseconds; a slice on its way may take seconds on a bad line.
RECEIVE_GRACE_S: Final = 8.0
# A step of the model takes seconds, a synthesis minutes: what is not done then is taken up again.
WORK_GRACE_S: Final = 8
RECONCILE_S: Final = 30.0
# Often enough for a warning that counts in days.
DAY_S: Final = 86_400.0
# How long an announced series waits to be fetched.
FETCH_S: Final = 2.0
# How long a delivered synthesis waits to be asked about; the cost is one indexed query.
COMMIT_S: Final = 2.0
# An hour of a database that is away fills no disk with messages.
TROUBLE_PAUSE_S: Final = 5.0
# How often a role tells that it lives, between its turns.
BEAT_S: Final = 1.0
# After every patient.
PROOF_PRIORITY: Final = 100
# How often the web role reads on in the audit chain.
WEB_TURN_S: Final = 2.0

OnReady = Callable[[str], None]
"""Told one line when the role does its work."""

OnTurn = Callable[[], None]
"""Told between two turns, about once a second, however they went."""

log = structlog.get_logger()


class Role(StrEnum):
    """What a process of the node does."""

    RECEIVE = "receive"
    WORK = "work"
    WEB = "web"


def prepare(settings: Settings) -> None:
    """Bring data folder, ledger and engine to what this program needs; harmless when they are.

    Raises:
        Stop: When the folder cannot be written or the ledger is of a newer program.
        Retry: When the database does not answer, or the shared folder is not mounted.
    """
    try:
        settings.node.data_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Stop(
            f"node.data_folder: expected a folder to write to, {settings.node.data_folder} is"
            f" none: {error.strerror}"
        ) from error
    migrate(ledger_url(settings))
    _expect_archive(settings)
    prepare_engine(engine_url(settings))


def _expect_archive(settings: Settings) -> None:
    """Begin on no folder that is empty because it is not mounted: what were stored there would be
    under the mount later, and the other hosts would never see it.

    Raises:
        Retry: When there is no archive, and the ledger in PostgreSQL names files of it.
    """
    folder = settings.node.data_folder
    if not settings.node.database_url or (folder / "archive").exists():
        return
    ledger = open_ledger(ledger_url(settings), utc_now)
    try:
        with closing(ledger.holdings.files()) as files:
            held = next(files, None)
    finally:
        ledger.close()
    if held is not None:
        raise Retry(
            f"expected the archive of this database in {folder}, found none. Is the shared folder"
            " mounted, and does node.data_folder name it?"
        )


@dataclass(frozen=True)
class Place:
    """Which process of the node this one is.

    Args:
        role: What it does.
        number: Among the acceptors, from 0; the first looks after the series as well.
        port: The listening socket that the acceptors share; None for one of its own.
    """

    role: Role
    number: int = 0
    port: socket.socket | None = None

    @property
    def name(self) -> str:
        """Its stable name: of its lock, its leftovers and its open associations."""
        return f"{self.role}-{self.number}" if self.role is Role.RECEIVE else str(self.role)


def run_role(
    place: Place, settings: Settings, stop: threading.Event, on_ready: OnReady, on_turn: OnTurn
) -> None:
    """Run a role in this process until `stop` is set.

    Raises:
        Stop: When it cannot run: a lock, a port, a model, a schema.
        Retry: When it may run later: an accelerator, a database that is away.
    """
    logs.configure(settings.logging, place.name)
    faults.identify(str(place.role))
    prepare(settings)
    name, folder = process_name(settings, place.name), settings.node.data_folder

    def say_ready(line: str) -> None:
        forget_why(folder, name)
        on_ready(line)

    with hold(folder, name) as beat, _why_told(folder, name), _on_record(name, settings):
        turns = Turns(stop, beat, on_turn)
        if place.role is Role.RECEIVE:
            _receive(settings, place, turns, say_ready)
        elif place.role is Role.WORK:
            _work(settings, turns, say_ready)
        else:
            _web(settings, turns, say_ready)


def new_synthesis(
    held: HeldSeries, selected: Selected, settings: Settings, model: ModelIdentity
) -> NewSynthesis:
    """The synthesis of a selected series, from exactly the instances it has."""
    parameters = synthesis_parameters(settings.synthesis.samples, program_digest())
    job = job_id(
        held.series_uid, held.version, held.sources, model.digest, selected.contrasts, parameters
    )
    return NewSynthesis(
        job_id=job,
        series_uid=held.series_uid,
        series_version=held.version,
        study_uid=held.study_uid,
        priority=selected.priority,
        contrasts=selected.contrasts,
        sources=held.sources,
        seed=seed_of(job),
        model_name=model.name,
        model_version=model.version,
        model_digest=model.digest,
        parameters=parameters,
    )


class Turns:
    """The main loop of a role: turn after turn until it is told to stop, beating while all is well.

    Args:
        stop: Set to end the loop.
        beat: Called when a turn went well and at least every `BEAT_S` of the rest after it.
        on_turn: Called as often, and when it did not go well too: this loop does not stand still.
    """

    def __init__(
        self, stop: threading.Event, beat: Callable[[], None], on_turn: OnTurn = lambda: None
    ) -> None:
        self._stop: Final = stop
        self._beat: Final = beat
        self._on_turn: Final = on_turn

    def stop(self) -> None:
        """End the loop, from another thread."""
        self._stop.set()

    def repeat(self, turn: Callable[[], object], pause_s: float) -> None:
        """Take a turn, rest; trouble makes for a longer rest, not for an end."""
        while not self._stop.is_set():
            is_well, rest_s = False, max(pause_s, TROUBLE_PAUSE_S)
            try:
                turn()
                is_well, rest_s = True, pause_s
            except Retry as error:
                log.warning("the next turn may do better", reason=str(error))
            except Exception as error:
                log.error("turn failed", reason=logs.describe(error))
            self._rest(rest_s, is_well)

    def beside(self, turn: Callable[[], object], pause_s: float, name: str) -> None:
        """Repeat something in a thread of its own, which may take its time and does not beat."""
        quiet = Turns(self._stop, lambda: None)
        threading.Thread(target=quiet.repeat, args=(turn, pause_s), name=name, daemon=True).start()

    def _rest(self, rest_s: float, is_well: bool) -> None:
        end = time.monotonic() + rest_s
        while True:
            self._on_turn()
            if is_well:
                self._beat()
            left_s = end - time.monotonic()
            if left_s <= 0 or self._stop.wait(min(left_s, BEAT_S)):
                return


@contextmanager
def _why_told(folder: Path, name: str) -> Iterator[None]:
    """Whoever looks at the node learns why a role is not there."""
    try:
        yield
    except Exception as error:
        # A full disk, perhaps; the log has it.
        with suppress(OSError):
            tell_why(folder, name, logs.describe(error))
        raise


@contextmanager
def _on_record(name: str, settings: Settings) -> Iterator[None]:
    """Put start and orderly end of a role on record; a start after no end was a crash."""
    ledger, _ = open_parts(settings, name)

    def note(kind: Kind) -> None:
        try:
            ledger.outbox.note(kind, name, name, {})
        except Retry as error:
            log.error("start or end is not on record", reason=str(error))

    try:
        note(Kind.APPLICATION_STARTED)
        yield
        note(Kind.APPLICATION_STOPPED)
    finally:
        ledger.close()


def _receive(settings: Settings, place: Place, turns: Turns, on_ready: OnReady) -> None:
    from node.receive import Receiver  # noqa: PLC0415  the other role has no use for it

    name = process_name(settings, place.name)
    ledger, archive = open_parts(settings, name)
    receiver = Receiver(settings, ledger, archive, name, place.port)
    if place.number == 0:
        _tidy_up_after_former_acceptors(settings, ledger)
    receiver.start()
    # What is loaded stays: to look through it for garbage took a fifth of each instance's time.
    gc.collect()
    gc.freeze()
    try:
        on_ready(f"port={receiver.port} ae={settings.node.ae_title}")
        turns.beside(receiver.close_gone, BEAT_S, "gone")
        if place.number == 0:
            _look_after_series(settings, ledger, archive, turns)
        else:
            turns.repeat(lambda: None, BEAT_S)
    finally:
        receiver.stop(RECEIVE_GRACE_S)
        ledger.close()


def _tidy_up_after_former_acceptors(settings: Settings, ledger: Ledger) -> None:
    """What acceptors left behind that have no next life, since `receive.processes` was lowered."""
    folder = settings.node.data_folder.absolute()
    former = {
        process_name(settings, Place(Role.RECEIVE, number).name)
        for number in range(settings.receive.processes, MOST_ACCEPTORS)
    }
    for name in former.intersection(names(folder)):
        try:
            with hold(folder, name):
                swept = Archive(folder / "archive", name).sweep()
                orphans = ledger.receiving.close_orphans(name)
        except Stop:
            # It still ends; whoever starts next tidies up.
            continue
        log.info("former acceptor", of=name, swept_files=swept, orphans=orphans)


def _look_after_series(settings: Settings, ledger: Ledger, archive: Archive, turns: Turns) -> None:
    """Complete, select and dispatch what all acceptors took, and fetch what was announced."""
    from node.announced import AnnouncedSeries  # noqa: PLC0415  the other roles have no use for it
    from node.fetching import PROCESS  # noqa: PLC0415

    model = model_identity(settings.synthesis.model_folder)

    def create(held: HeldSeries, selected: Selected) -> None:
        if ledger.proofs.sink_of(held.study_uid):
            selected = replace(selected, priority=PROOF_PRIORITY)
        ledger.syntheses.create(new_synthesis(held, selected, settings, model), "selection")

    limit = settings.synthesis.maximum_waiting
    selector = Selector(ledger, settings.selection, settings.synthesis.contrasts, create, limit)
    reader = HeaderReader(ledger, archive, settings.selection.trauma_words)
    count = archive_count(settings, ledger)
    completion = CompletionLoop(ledger, settings.completion, selector.decide, count, reader.read)
    dispatcher = Dispatcher(
        ledger.syntheses,
        engine_url(settings),
        lambda: archive.free_bytes() >= settings.synthesis.minimum_free_bytes,
    )
    if not settings.delivery.names and not settings.delivery.back_to_sender:
        log.warning("no destination is configured: results stay in the archive")

    def turn() -> None:
        completion.run_once(utc_now())
        dispatcher.run_once()

    def warn() -> None:
        tls.warn_of_expiry(settings.tls, settings.delivery.web_destinations, utc_now())

    try:
        announced = AnnouncedSeries(settings, *open_parts(settings, PROCESS), utc_now)
        turns.beside(announced.run_once, FETCH_S, "announced")
        turns.beside(warn, DAY_S, "certificates")
        turns.repeat(turn, settings.completion.poll_s)
    finally:
        dispatcher.close()


def _work(settings: Settings, turns: Turns, on_ready: OnReady) -> None:
    # torch comes in here and nowhere else in the node.
    from node.computing import load, real_stages  # noqa: PLC0415
    from node.pruning import Pruner  # noqa: PLC0415
    from node.reconcile import Reconciler  # noqa: PLC0415
    from node.retention import Keeper  # noqa: PLC0415
    from node.workflow import Worker  # noqa: PLC0415

    ledger, archive = open_parts(settings, process_name(settings, "work"))
    archive.sweep()
    model = load(settings.synthesis)
    worker = Worker(settings, ledger, archive, real_stages(model, settings.node.zone), utc_now)
    reconciler = Reconciler(ledger, engine_url(settings), settings.delivery.give_up_s, worker.actor)
    fenced = threading.Event()

    def on_fenced() -> None:
        fenced.set()
        turns.stop()

    worker.launch(on_fenced)
    committer = worker.committer()
    turns.beside(worker.if_eldest(committer.run_once), COMMIT_S, "commitment")
    on_ready(f"device={model.device} model={model.digest[:12]}")
    keeper = Keeper(settings, ledger, archive)

    def keep() -> None:
        if files := keeper.run_once(utc_now()):
            log.info("deleted by retention", files=files)

    turns.beside(worker.if_eldest(keep), settings.retention.poll_s, "retention")
    pruner = Pruner(ledger, engine_url(settings), timedelta(days=settings.retention.workflows_days))

    def prune() -> None:
        if workflows := pruner.run_once(utc_now()):
            log.info("forgotten by the engine", workflows=workflows)

    if settings.retention.workflows_days:
        turns.beside(worker.if_eldest(prune), settings.retention.poll_s, "pruning")
    waker, reconcile = worker.waker(), worker.if_eldest(reconciler.run_once)

    def turn() -> None:
        waker.run_once()
        reconcile()

    turns.repeat(turn, RECONCILE_S)
    if fenced.is_set():
        # Whoever ended this life has the work; a process that waits for its own might still send.
        raise Fenced("this worker was declared dead while it stood still; start it again")
    reconciler.close()
    pruner.close()
    # What computes longer than this is left to the next start. Its threads cannot be stopped:
    # whoever runs this role ends the process.
    worker.stop(WORK_GRACE_S)


def _web(settings: Settings, turns: Turns, on_ready: OnReady) -> None:
    from node.atna.spool import Sender, Spool  # noqa: PLC0415
    from node.web.server import Pages  # noqa: PLC0415  FastAPI, which nobody else needs

    ledger, archive = open_parts(settings, "web")
    pages = Pages(settings, ledger, archive)
    sender = Sender(
        Spool(settings, ledger, archive), settings.node.data_folder, settings.atna.poll_s
    )
    try:
        pages.start()
        if settings.atna.host:
            sender.start()
        turns.beside(pages.verify, WEB_TURN_S, "chain")
        on_ready(f"web_port={pages.port}")
        turns.repeat(pages.turn, WEB_TURN_S)
    finally:
        pages.stop()
        sender.stop()
        ledger.close()
