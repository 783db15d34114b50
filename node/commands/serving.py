"""`serve`: the node, or one role of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from config.settings import Settings
from node import logs
from node.app import Role, prepare, run_role
from node.commands.common import Exit, settings_of
from node.supervisor import READY, Supervisor


def serve(config: Path | None, role: Role | None, is_supervised: bool) -> None:
    """Run until SIGTERM or Ctrl-C."""
    settings = settings_of(config)
    if role is not None:
        _run_role(role, settings, is_supervised)
    stop = threading.Event()
    _on_signals(stop.set)
    logs.configure(settings.logging, "serve")
    prepare(settings)
    arguments = [] if config is None else ["--config", str(config.absolute())]
    Supervisor(list(Role), arguments, lambda lines: _say_ready(" ".join(lines.values()))).run(stop)


def _run_role(role: Role, settings: Settings, is_supervised: bool) -> NoReturn:
    stop, ready = threading.Event(), threading.Event()

    def end() -> None:
        stop.set()
        if not ready.is_set():
            # Nothing has begun that could be finished, and importing torch takes a while.
            _end_process()

    def say_ready(line: str) -> None:
        ready.set()
        _say_ready(line)

    _on_signals(end)
    if is_supervised:
        threading.Thread(target=_at_end_of_input, args=(end,), daemon=True).start()
    run_role(role, settings, stop, say_ready)
    _end_process()


def _on_signals(end: Callable[[], None]) -> None:
    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        end()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)


def _at_end_of_input(end: Callable[[], None]) -> None:
    # Our supervisor holds the other end; when it is gone, however it went, we go too.
    while sys.stdin.readline():
        pass
    end()


def _say_ready(line: str) -> None:
    print(READY, line, flush=True)


def _end_process() -> NoReturn:
    """End at once: a synthesis in a thread would hold up an ordinary exit until it is done."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(Exit.DONE)
