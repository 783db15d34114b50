"""The heartbeat of a worker: it tells that it lives, and takes up the work of those who do not.

Whether another worker is silent is judged by the watcher's own clock, from the moment on that it
saw the last beat: clocks of hosts need not agree. A watcher that could not look for a while, since
the database was away or it stood still itself, begins to count anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from config.settings import WorkSettings
from node.errors import Fenced, NodeError
from node.ledger.workers import Life, Workers
from node.logs import describe

log = structlog.get_logger()


@dataclass(frozen=True)
class _Seen:
    beats: int
    since_s: float


class Watch:
    """Who has been silent for too long.

    Args:
        silent_s: How long that is. Whoever has not looked for half of it cannot tell.
    """

    def __init__(self, silent_s: float) -> None:
        self._silent_s: Final = silent_s
        self._seen: dict[int, _Seen] = {}
        self._looked_s = 0.0

    def silent(self, now_s: float, beats: Mapping[int, int]) -> dict[int, int]:
        """Look once; those that have been silent, with the beats they had.

        Args:
            now_s: On a clock that never jumps.
            beats: Of every living worker, by its id.
        """
        if now_s - self._looked_s > self._silent_s / 2:
            self._seen = {}
        self._looked_s = now_s
        fresh = {worker: _Seen(count, now_s) for worker, count in beats.items()}
        for worker, seen in self._seen.items():
            if worker in fresh and fresh[worker].beats == seen.beats:
                fresh[worker] = seen
        self._seen = fresh
        return {
            worker: seen.beats
            for worker, seen in fresh.items()
            if now_s - seen.since_s >= self._silent_s
        }


class Heartbeat:
    """The thread that beats for one life of a worker, and watches the others.

    Args:
        workers: The ledger's verbs, fenced by this very life.
        life: Whose beats these are.
        settings: How often, and when silence means death.
        recover: Puts what is left under an executor id back into the queue; safe to repeat.
        on_fenced: Called once when another worker has declared this life over.
    """

    def __init__(
        self,
        workers: Workers,
        life: Life,
        settings: WorkSettings,
        recover: Callable[[str], object],
        on_fenced: Callable[[], None],
    ) -> None:
        self._workers: Final = workers
        self._life: Final = life
        self._beat_s: Final = settings.beat_s
        self._watch: Final = Watch(settings.silent_s)
        self._recover: Final = recover
        self._on_fenced: Final = on_fenced
        self._stop: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat, and take up at once what earlier lives have left."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.turn(time.monotonic())
            except Fenced as fenced:
                log.error("declared dead", reason=str(fenced))
                self._on_fenced()
                return
            except NodeError as error:
                log.warning("the next beat may do better", reason=str(error))
            except Exception as error:
                log.error("beat failed", reason=describe(error))
            self._stop.wait(self._beat_s)

    def turn(self, now_s: float) -> None:
        """Beat once, look once, and take up what is there to take.

        Raises:
            Fenced: When this life was declared over.
            Retry: When the ledger does not answer.
        """
        self._workers.beat(self._life)
        for worker, beats in self._watch.silent(now_s, self._workers.beats()).items():
            if worker != self._life.id and self._workers.presume_dead(worker, beats, self._life):
                log.warning("worker presumed dead", worker=worker, beats=beats)
        for dead in self._workers.take(self._life):
            self._recover(dead.executor_id)
            self._workers.recovered(dead, self._life)
            log.info("work taken up", of=dead.executor_id)
