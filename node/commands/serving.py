"""`serve`: the node, or one role of it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from node import logs
from node.app import Place, Role, prepare, run_role
from node.commands.common import Exit, exit_code, settings_of
from node.errors import NodeError
from node.model_folder import model_identity
from node.notify import Watchdog, notify
from node.supervisor import ALIVE, READY, Supervisor, open_port


def serve(config: Path | None, role: Role | None) -> None:
    """Run the node, or the processes of one role, until SIGTERM or Ctrl-C."""
    settings = settings_of(config)
    stop = threading.Event()

    def end() -> None:
        notify("STOPPING=1")
        stop.set()

    _on_signals(end)
    logs.configure(settings.logging, "serve")
    prepare(settings)
    # A wrong folder is told here and now; later it is a role's trouble, and receiving goes on.
    model_identity(settings.synthesis.model_folder)
    arguments = [] if config is None else ["--config", str(config.absolute())]
    with open_port(settings.node.bind_address, settings.node.port) as port:
        acceptors = [Place(Role.RECEIVE, n, port) for n in range(settings.receive.processes)]
        places = [*acceptors, Place(Role.WORK), Place(Role.WEB)]
        wanted = [place for place in places if role in (None, place.role)]
        hung_s, watchdog = settings.node.hung_s, Watchdog()
        Supervisor(wanted, arguments, _say_all_ready, hung_s, watchdog.tell).run(stop)


def serve_place(config: Path | None, role: Role, number: int, listener: int | None) -> NoReturn:
    """Be one process of a node until its supervisor says so or is gone."""
    settings = settings_of(config)
    stop, ready = threading.Event(), threading.Event()

    def end() -> None:
        stop.set()
        if not ready.is_set():
            # Nothing has begun that could be finished, and importing torch takes a while.
            _end_process(Exit.DONE)

    def say_ready(line: str) -> None:
        ready.set()
        _say_ready(line)

    _on_signals(end)
    threading.Thread(target=_at_end_of_input, args=(end,), daemon=True).start()
    port = None if listener is None else socket.socket(fileno=listener)
    try:
        run_role(Place(role, number, port), settings, stop, say_ready, _say_alive)
    except NodeError as error:
        _end_process(exit_code(error))
    _end_process(Exit.DONE)


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


def _say_all_ready(lines: list[str]) -> None:
    notify("READY=1")
    # Each fact once: all acceptors tell the same port.
    _say_ready(" ".join(dict.fromkeys(" ".join(lines).split())))


def _say_ready(line: str) -> None:
    print(READY, line, flush=True)


def _say_alive() -> None:
    # Whoever listened may be gone; the end of our input tells that.
    with suppress(OSError):
        print(ALIVE, flush=True)


def _end_process(code: Exit) -> NoReturn:
    """End at once: a synthesis in a thread would hold up an ordinary exit until it is done."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
