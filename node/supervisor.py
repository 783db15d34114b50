"""Runs the roles as processes of their own, starts a dead one again, ends them all in time.

A process tells that it is ready with one line on its standard output, then once a second that it
does not stand still; one that has been silent for too long is killed. It ends when its standard
input does: so it cannot outlive a supervisor that was killed. The acceptors share a listening
socket that is held here: senders who come while one of them is dead are taken by another.

Receiving goes on whatever the other roles do: the node ends by itself only when an acceptor cannot
run, and is ready without a role that failed at its first start.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from node.app import Place, Role
from node.errors import Stop
from node.heartbeat import Watch
from node.logs import describe

READY: Final = "ready"
ALIVE: Final = "alive"
# Doubling from one second: a port that is still in use comes free within seconds; a broken
# accelerator stack does not, and is tried once a minute.
FIRST_RESTART_S: Final = 1.0
LONGEST_RESTART_S: Final = 60.0
# Whoever ran this long has earned a fresh start.
STABLE_S: Final = 60.0
# Longer than any role's own grace; then it is killed and resumed at the next start.
STOP_DEADLINE_S: Final = 25.0
_POLL_S: Final = 0.1
# Importing torch and reading a large model on a cold disk take minutes; beyond that a start hangs.
START_S: Final = 600.0
# Exit code of a role that says it cannot run at all.
CANNOT_RUN: Final = 2

# A storm of senders waits its turn instead of being turned away by the system.
_BACKLOG: Final = 128

log = structlog.get_logger()


def open_port(address: str, port: int) -> socket.socket:
    """The socket that all acceptors take their connections from.

    One socket, not one a process with SO_REUSEPORT: a second node on the port is refused, and who
    waits to be accepted by a process that dies is accepted by another.

    Raises:
        Stop: When the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server(
            (address, port),
            family=family,
            backlog=_BACKLOG,
            # "::" is every address, those of IPv4 too.
            dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise Stop(
            f"node.port: expected a free port, {address}:{port} is not to be had: {error.strerror}"
        ) from error


@dataclass(eq=False)
class _Child:
    place: Place
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    wait_s: float = FIRST_RESTART_S
    # What it said when it was first ready.
    line: str | None = None
    has_died: bool = False
    # Of this process, not of those before it.
    is_ready: bool = False
    is_killed: bool = False
    heard: int = 0
    reader: threading.Thread | None = field(default=None, repr=False)


class Supervisor:
    """The parent of the roles.

    Args:
        places: Which to run.
        arguments: Of the command line, passed on to each.
        on_ready: Told once, with the lines of those that are ready, when all have become so or, the
            acceptors apart, have died once.
        hung_s: A role that has not spoken for so long stands still; 0 for never.
        on_well: Told at each turn, ten a second, in which an acceptor, or a role that runs apart
            from them, does its work.
    """

    def __init__(
        self,
        places: Sequence[Place],
        arguments: Sequence[str],
        on_ready: Callable[[list[str]], None],
        hung_s: float,
        on_well: Callable[[], None] = lambda: None,
    ) -> None:
        self._children: Final = [_Child(place) for place in places]
        self._arguments: Final = list(arguments)
        self._on_ready: Final = on_ready
        self._on_well: Final = on_well
        acceptors = [child for child in self._children if child.place.role is Role.RECEIVE]
        # A role that runs apart from the acceptors has nobody to keep going.
        self._needed: Final = acceptors or self._children
        self._was_told = False
        # It forgives all when we stood still ourselves: a paused container, a sleeping machine.
        self._watch: Final = Watch(hung_s) if hung_s else None
        self._lock: Final = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set, then end all roles.

        Raises:
            Stop: When an acceptor, or a role that runs apart from them, says that it cannot run
                before it ever did.
        """
        try:
            while not stop.is_set():
                for child in self._children:
                    self._tend(child)
                self._kill_hung()
                if any(child.process is not None and child.is_ready for child in self._needed):
                    self._on_well()
                stop.wait(_POLL_S)
        finally:
            self._end()

    def _tend(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.restart_at:
                self._start_if_possible(child, now)
            return
        code = child.process.poll()
        if code is None:
            return
        if code == CANNOT_RUN and child.line is None and child in self._needed:
            raise Stop(f"the {child.place.role} role cannot run; its reason stands above")
        if now - child.started_at > STABLE_S:
            child.wait_s = FIRST_RESTART_S
        log.error("role died", **_named(child.place), code=code, restart_in_s=child.wait_s)
        self._rest(child, now)

    def _start_if_possible(self, child: _Child, now: float) -> None:
        """Start a role; when the system has no room for one more, that is its death and nobody
        else's.

        Raises:
            OSError: When it never ran: then the node does not start.
            RuntimeError: The same, of a thread.
        """
        try:
            self._start(child)
        except (OSError, RuntimeError) as error:
            if not child.has_died:
                raise
            log.error("role cannot be started", **_named(child.place), reason=describe(error))
            if child.process is None:
                self._rest(child, now)
            else:
                # No thread to hear it by: it is found dead at the next turn.
                child.process.kill()

    def _rest(self, child: _Child, now: float) -> None:
        """Leave a role alone for a while, and longer each time."""
        child.process = None
        child.restart_at = now + child.wait_s
        child.wait_s = min(2 * child.wait_s, LONGEST_RESTART_S)
        child.has_died = True
        self._tell_when_settled()

    def _kill_hung(self) -> None:
        """End who stands still, the one way that works; it is started again like any other."""
        if self._watch is None:
            return
        now = time.monotonic()
        running = {
            child.process.pid: child
            for child in self._children
            if child.process is not None and not child.is_killed
        }
        heard = {pid: child.heard for pid, child in running.items() if child.is_ready}
        hung = set(self._watch.silent(now, heard))
        hung |= {
            pid
            for pid, child in running.items()
            if not child.is_ready and now - child.started_at > START_S
        }
        for pid in hung:
            child = running[pid]
            assert child.process is not None
            log.error("role stands still and is killed", **_named(child.place), pid=pid)
            child.is_killed = True
            child.process.kill()

    def _start(self, child: _Child) -> None:
        place, port = child.place, child.place.port
        command = [sys.executable, "-m", "node", "serve", "--supervised"]
        command += ["--role", str(place.role), "--number", str(place.number)]
        if port is not None:
            command += ["--listener", str(port.fileno())]
        child.process = subprocess.Popen(
            [*command, *self._arguments],
            pass_fds=[] if port is None else [port.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A Ctrl-C in the terminal reaches us alone; we pass it on in order.
            start_new_session=True,
        )
        child.started_at = time.monotonic()
        child.is_ready = child.is_killed = False
        child.reader = threading.Thread(target=self._read, args=(child, child.process), daemon=True)
        child.reader.start()

    def _read(self, child: _Child, process: subprocess.Popen[str]) -> None:
        """Hear how a role is; whatever else it prints is passed on."""
        assert process.stdout is not None
        for line in process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == ALIVE:
                child.heard += 1
                continue
            if word != READY:
                print(line, end="", flush=True)
                continue
            log.info("role ready", **_named(child.place), pid=process.pid, detail=rest)
            child.line, child.is_ready = rest, True
            self._tell_when_settled()

    def _tell_when_settled(self) -> None:
        with self._lock:
            waits = any(
                child.line is None and (child in self._needed or not child.has_died)
                for child in self._children
            )
            if waits or self._was_told:
                return
            self._was_told = True
        self._on_ready([child.line for child in self._children if child.line is not None])

    def _end(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_DEADLINE_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("role killed; what it did is resumed at the next start")
                process.kill()
                process.wait()


def _named(place: Place) -> dict[str, object]:
    return {"of": place.name}
