"""Receivers to measure side by side: ours, Orthanc, DCMTK's storescp; and the one sender, dcmsend.

Each runs as its makers ship it, in processes of its own, on loopback, with its data in a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from node.errors import Refuse, Stop
from node.loopback import LOOPBACK, local_node

START_S: Final = 30.0
STOP_S: Final = 20.0
# Without it DCMTK and Orthanc wait for a delayed ACK in each message: 20 to 90 instances a second.
ENVIRONMENT: Final = {**os.environ, "TCP_NODELAY": "1"}
# Debian puts daemons where users do not look.
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_PACKAGES: Final = {"Orthanc": "orthanc", "storescp": "dcmtk", "dcmsend": "dcmtk"}


@dataclass(frozen=True)
class Rival:
    """A running receiver.

    Args:
        port: On loopback.
        ae_title: To call.
        count: How many instances it holds.
        processor_s: What its processes have used, user and system time together.
        peak_rss_bytes: The most memory that a receiving process ever held; 0 when nobody asks.
    """

    port: int
    ae_title: str
    count: Callable[[], int]
    processor_s: Callable[[], float]
    peak_rss_bytes: Callable[[], int] = int


def require() -> None:
    """Refuse before anything is begun.

    Raises:
        Refuse: When a program is not installed, with its package.
    """
    for program in _PACKAGES:
        _program(program)


@contextmanager
def ours(folder: Path, processes: int) -> Iterator[Rival]:
    """This node's receive role, durable as always."""
    changes = {"receive": {"processes": processes}}
    with local_node(folder, [], changes, role="receive") as node:
        yield Rival(
            node.service.port,
            node.service.ae_title,
            lambda: int(node.ledger.reports.status()["instances"]),
            partial(_processor_s, node.service.process.pid),
            lambda: node.peak_rss_bytes()["receive"],
        )


@contextmanager
def orthanc(folder: Path) -> Iterator[Rival]:
    """Orthanc, which syncs each file but not the index that names it."""
    http, dicom = _free_ports(2)
    folder.mkdir(parents=True)
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "SyncStorageArea": True,
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowStore": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings))

    def statistics() -> Any:
        url = f"http://{LOOPBACK}:{http}/statistics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)

    with _running([_program("Orthanc"), str(configuration)], folder / "log", dicom) as process:
        yield Rival(
            dicom,
            "ORTHANC",
            lambda: int(statistics()["CountInstances"]),
            partial(_processor_s, process),
        )


@contextmanager
def storescp(folder: Path) -> Iterator[Rival]:
    """DCMTK's receiver, a process an association; it syncs nothing."""
    (port,) = _free_ports(1)
    held = folder / "held"
    held.mkdir(parents=True)
    command = [_program("storescp"), "--fork", "--output-directory", str(held), str(port)]
    with _running(command, folder / "log", port) as process:
        yield Rival(
            port,
            "STORESCP",
            lambda: sum(1 for _ in held.iterdir()),
            partial(_processor_s, process),
        )


def send(rival: Rival, loads: Sequence[Sequence[Path]]) -> float:
    """Send each load (folders) over an association of its own, all at once; seconds until the end.

    Raises:
        Stop: When a sender was not told success for all it sent.
    """
    command = [_program("dcmsend"), "--scan-directories", "--call", rival.ae_title]
    began = time.perf_counter()
    senders = [
        subprocess.Popen(
            [*command, LOOPBACK, str(rival.port), *map(str, load)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for load in loads
    ]
    try:
        told = [sender.communicate()[0] for sender in senders]
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()
    took_s = time.perf_counter() - began
    for sender, text in zip(senders, told, strict=True):
        if sender.returncode:
            raise Stop(f"expected success from {rival.ae_title}, dcmsend told: {text[-300:]!r}")
    return took_s


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise Refuse(
            f"expected {name} on this machine, found none; install it with"
            f" `apt-get install {_PACKAGES[name]}`"
        )
    return found


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago: these programs cannot be told port 0."""
    probes = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def _running(command: Sequence[str], log: Path, port: int) -> Iterator[int]:
    """Yields the process id once it listens."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_S
        while not _is_listening(port):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-500:]
                raise Stop(f"expected {command[0]} to listen on port {port}, it did not: {tail}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _processor_s(root: int) -> float:
    """Of a process, its children, and those of them that have ended."""
    parent, used_s = psutil.Process(root), 0.0
    for child in parent.children(recursive=True):
        # One that has just ended is counted by its parent, which is asked last.
        with contextlib.suppress(psutil.NoSuchProcess):
            used_s += sum(child.cpu_times()[:4])
    return used_s + sum(parent.cpu_times()[:4])


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
