"""A whole node and a destination on this machine, in processes of their own, for as long as needed.

The demo, the benchmark and the journey tests run the real thing: the command `pseudomri serve`,
real associations, real files, ports that the system chose.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from config.settings import Settings, load
from node.clock import utc_now
from node.errors import Stop
from node.ledger import Ledger, open_ledger
from node.parts import ledger_url
from node.supervisor import READY

LOOPBACK: Final = "127.0.0.1"
# torch is imported and the model read; on two busy cores that takes a while.
START_S: Final = 120.0
_STOP_S: Final = 40.0


@dataclass(frozen=True)
class Service:
    """A process that said it is ready.

    Args:
        process: Its handle.
        facts: What it said: ``port``, ``ae`` and more.
    """

    process: subprocess.Popen[str]
    facts: Mapping[str, str]

    @property
    def port(self) -> int:
        """Its DICOM port on the loopback interface."""
        return int(self.facts["port"])

    @property
    def ae_title(self) -> str:
        """Its AE title."""
        return self.facts["ae"]


@dataclass(frozen=True)
class LocalNode:
    """A running node.

    Args:
        service: The process of `pseudomri serve`.
        settings: It runs with.
        ledger: For looking at what it does.
    """

    service: Service
    settings: Settings
    ledger: Ledger

    def peak_rss_bytes(self) -> dict[str, int]:
        """The most memory that a process of each role ever held."""
        peaks: dict[str, int] = {}
        for child in psutil.Process(self.service.process.pid).children(recursive=True):
            command = child.cmdline()
            if "--role" in command:
                role = command[command.index("--role") + 1]
                peaks[role] = max(peaks.get(role, 0), _peak_rss_bytes(child.pid))
        return peaks


@contextmanager
def local_node(
    folder: Path,
    destinations: list[Mapping[str, Any]],
    changes: Mapping[str, Any] | None = None,
    role: str | None = None,
) -> Iterator[LocalNode]:
    """A node with its data in `folder`, open to any peer on the loopback interface.

    Args:
        folder: Of data, settings and log; made when missing.
        destinations: As in the settings.
        changes: Section to keys, laid over the settings of the node.
        role: That one alone.

    Raises:
        Stop: When it does not get ready, with the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    site: dict[str, dict[str, Any]] = {
        "node": {
            "bind_address": LOOPBACK,
            "port": 0,
            "data_folder": str((folder / "data").absolute()),
        },
        "web": {"port": 0},
        # A demonstration should not fail on a small disk, and one sender needs one acceptor.
        "receive": {"allow_any_peer": True, "processes": 1, "minimum_free_bytes": 100_000_000},
        "synthesis": {"minimum_free_bytes": 100_000_000},
        "delivery": {"destinations": [dict(one) for one in destinations]},
        "logging": {"format": "json"},
    }
    for section, values in (changes or {}).items():
        site.setdefault(section, {}).update(values)
    config = folder / "site.toml"
    config.write_text(_toml(site))
    command = [sys.executable, "-m", "node", "serve", "--config", str(config)]
    command += [] if role is None else ["--role", role]
    with _service(command, folder / "node.log") as service:
        settings = load(config)
        ledger = open_ledger(ledger_url(settings), utc_now)
        try:
            yield LocalNode(service, settings, ledger)
        finally:
            ledger.close()


@contextmanager
def local_destination(folder: Path, log: Path) -> Iterator[Service]:
    """A destination that writes what it gets into `folder`.

    Raises:
        Stop: When it does not get ready.
    """
    command = [sys.executable, "-m", "node.destination", str(folder)]
    with _service(command, log) as service:
        yield service


@contextmanager
def _service(command: list[str], log: Path) -> Iterator[Service]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True
        )
        try:
            yield Service(process, _ready_line(process, " ".join(command[1:5]), log))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready_line(process: subprocess.Popen[str], name: str, log: Path) -> dict[str, str]:
    """The facts of the line by which a process says that it is ready."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        while line := lines.get(timeout=START_S):
            word, _, rest = line.strip().partition(" ")
            if word == READY:
                return dict(fact.split("=", 1) for fact in rest.split())
    except queue.Empty:
        pass
    tail = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-10:])
    raise Stop(f"expected {name} to get ready, it did not:\n{tail}")


def _peak_rss_bytes(pid: int) -> int:
    # VmHWM of proc(5), in KiB: the peak, which psutil does not tell on Linux.
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return psutil.Process(pid).memory_info().rss


def _toml(site: Mapping[str, Mapping[str, Any]]) -> str:
    """TOML of plain sections; JSON's strings, numbers and booleans are TOML's too."""
    lines = []
    for section, values in site.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} = {_toml_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return json.dumps(value)
