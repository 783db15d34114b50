"""`serve`: the node, or one role of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from node import logs
from node.app import Role, prepare, run_role
from node.commands.common import Exit, settings_of
from node.supervisor import READY, Supervisor


def serve(config: Path | None, role: Role | None, is_supervised: bool) -> None:
    """Run until SIGTERM or Ctrl-C."""
    stop = _stop_on_signals()
    settings = settings_of(config)
    if role is not None:
        if is_supervised:
            threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
        run_role(role, settings, stop, _say_ready)
        _end_process()
    logs.configure(settings.logging, "serve")
    prepare(settings)
    arguments = [] if config is None else ["--config", str(config.absolute())]
    Supervisor(list(Role), arguments, lambda lines: _say_ready(" ".join(lines.values()))).run(stop)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


def _stop_at_end_of_input(stop: threading.Event) -> None:
    # Our supervisor holds the other end; when it is gone, however it went, we go too.
    while sys.stdin.readline():
        pass
    stop.set()


def _say_ready(line: str) -> None:
    print(READY, line, flush=True)


def _end_process() -> None:
    """End at once: a synthesis in a thread would hold up an ordinary exit until it is done."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(Exit.DONE)
