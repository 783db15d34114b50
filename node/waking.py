"""Workflows that nobody runs any more, though the engine calls them running: woken, not waited for.

The engine's thread dies when the engine cannot write down what it did, as on a full disk; only the
next start of the worker would take such a workflow up again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog
from dbos import DBOS

# Longer than the engine takes from its launch to the threads of what it recovers.
IDLE_S: Final = 60.0

log = structlog.get_logger()


class Waker:
    """Looks after the workflows of one life of a worker, in its own process.

    Args:
        executor_id: Of that life.
        is_running: Whether a thread of this process is at work on a workflow.
    """

    def __init__(self, executor_id: str, is_running: Callable[[str], bool]) -> None:
        self._executor_id: Final = executor_id
        self._is_running: Final = is_running
        self._idle_since: dict[str, float] = {}

    def run_once(self) -> int:
        """Resume what has been idle for `IDLE_S`; how many those were."""
        now = time.monotonic()
        ours = DBOS.list_workflows(
            status="PENDING",
            executor_id=self._executor_id,
            load_input=False,
            load_output=False,
        )
        idle = {one.workflow_id: one for one in ours if not self._is_running(one.workflow_id)}
        self._idle_since = {name: self._idle_since.get(name, now) for name in idle}
        due = [name for name, since in self._idle_since.items() if now - since >= IDLE_S]
        for name in due:
            DBOS.resume_workflow(name, queue_name=idle[name].queue_name)
            log.warning("workflow resumed", workflow=name)
        return len(due)
