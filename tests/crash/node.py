"""The node as `pseudomri serve` runs it, with three things of the tests: stages that compute in
milliseconds, pauses that fit them, and roles that are forked from a parent in which everything is
imported, since a start of Python takes longer than what is to be killed.

`python -m tests.crash.node serve --config FILE`
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from datetime import tzinfo
from types import ModuleType, SimpleNamespace
from typing import Any

import structlog

import node.__main__
import node.app
import node.commands.serving
import node.receive
import node.retention
import node.supervisor
import node.workflow
from config.settings import SynthesisSettings
from node.model_folder import model_identity
from node.stages import Stages
from tests.node import journeys


class Forked:
    """What `node.supervisor` needs of `subprocess.Popen`, for a role that is forked."""

    def __init__(self, command: list[str], **options: Any) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.dup2(theirs_in, 0)
            os.dup2(theirs_out, 1)
            _be_role(command, set(options.get("pass_fds", ())))
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin = os.fdopen(ours_in, "w")
        self.stdout = os.fdopen(ours_out)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or 1e9)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("role", timeout or 0.0)
            time.sleep(0.02)
        return code

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _be_role(command: list[str], kept: set[int]) -> None:
    """The child: as if it had been started with this command; never returns."""
    try:
        # The other roles' standard inputs must end when the parent does.
        for descriptor in range(3, 256):
            if descriptor not in kept:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        # Another thread of the parent may have been printing.
        structlog._output.WRITE_LOCKS.clear()
        sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w", buffering=1)
        sys.argv = ["pseudomri", *command[3:]]
        node.__main__.main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(1)


def fast_computing() -> ModuleType:
    """In the place of `node.computing`."""
    module = ModuleType("node.computing")

    def load(settings: SynthesisSettings) -> SimpleNamespace:
        return SimpleNamespace(device="cpu", digest=model_identity(settings.model_folder).digest)

    def real_stages(model: SimpleNamespace, time_zone: tzinfo | None) -> Stages:
        return Stages(model.digest, journeys.prepare, journeys.synthesize, journeys.package)

    module.load, module.real_stages = load, real_stages  # type: ignore[attr-defined]
    return module


def main() -> None:
    sys.modules["node.computing"] = fast_computing()
    node.app.RECONCILE_S = 1.0
    node.app.COMMIT_S = 0.3
    node.app.TROUBLE_PAUSE_S = 0.5
    node.supervisor.FIRST_RESTART_S = node.supervisor._Child.wait_s = 0.1
    node.supervisor.LONGEST_RESTART_S = 0.4
    node.supervisor.subprocess = SimpleNamespace(
        Popen=Forked, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    node.__main__.main()


if __name__ == "__main__":
    main()
