"""The units are what systemd understands, and the node tells systemd what it waits for."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from node.notify import notify
from node.supervisor import LONGEST_RESTART_S, STOP_DEADLINE_S
from node.supervisor import START_S as START_DEADLINE_S
from tests.peers import LOOPBACK, _found, wait_until
from tests.systemd_manager import manager

ROOT = Path(__file__).resolve().parents[2]
UNITS = {
    "pseudomri.service": "pseudomri.service",
    "pseudomri@.service": "pseudomri@receive.service",
}
START_S = 120.0
# systemd's own word for it is OK; an unhardened service has 9.6.
MOST_EXPOSED = "20"
# Sections, and how it is started, watched and ended.
_OF_ANY_MANAGER = r"\[|(Type|NotifyAccess|Timeout|Restart|KillMode|Watchdog)"


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_found("systemd-analyze"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )


@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_the_unit(name: str, tmp_path: Path) -> None:
    text = (ROOT / "config" / "systemd" / name).read_text()
    # The program is elsewhere here; that it exists is what systemd checks.
    unit = tmp_path / UNITS[name]
    unit.write_text(text.replace("/opt/pseudomri/.venv/bin/pseudomri", sys.executable))
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("[Service]\n", "[Service]\nProtectSysten=strict\n"))
    assert "ProtectSysten" in analyze("verify", "--man=no", str(unit)).stderr


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_is_hardened(name: str) -> None:
    unit = str(ROOT / "config" / "systemd" / name)
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", unit)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", UNITS)
def test_it_waits_longer_than_the_node_takes(name: str) -> None:
    text = (ROOT / "config" / "systemd" / name).read_text()
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(stop_s) > STOP_DEADLINE_S + 5
    (start_s,) = re.findall(r"^TimeoutStartSec=(\d+)$", text, re.MULTILINE)
    # A worker whose start hangs must not take the acceptors along.
    assert int(start_s) > START_DEADLINE_S + 60


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


@pytest.mark.parametrize("name", UNITS)
def test_it_is_heard_before_it_is_missed(name: str) -> None:
    text = (ROOT / "config" / "systemd" / name).read_text()
    (watchdog_s,) = re.findall(r"^WatchdogSec=(\d+)$", text, re.MULTILINE)
    # Of the whole node an acceptor is there within seconds, and tried again once a minute.
    start_s = 60 if name == "pseudomri.service" else START_DEADLINE_S
    assert int(watchdog_s) > start_s + LONGEST_RESTART_S + 60


def test_systemd_hears_of_a_node_while_its_role_works_and_not_when_it_does_not(
    tmp_path: Path,
) -> None:
    address, site = str(tmp_path / "notify"), tmp_path / "site.toml"
    sound = (
        f'[node]\ndata_folder = "{tmp_path}/data"\nbind_address = "{LOOPBACK}"\nport = 0\n'
        "[web]\nport = 0\n"
    )
    site.write_text(sound)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(START_S)
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "800000"}
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "serve", "--role", "web", "--config", str(site)],
            env={**os.environ, **environment},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert systemd.recv(100) == b"READY=1"
            assert systemd.recv(100) == b"WATCHDOG=1"
            # What it is started again with makes no sense.
            site.write_text("nothing = 1\n")
            (role,) = psutil.Process(process.pid).children()
            role.kill()
            systemd.settimeout(2.0)
            with contextlib.suppress(TimeoutError):
                while systemd.recv(100) == b"WATCHDOG=1":
                    pass
                pytest.fail("it says something else")
            site.write_text(sound)
            systemd.settimeout(START_S)
            assert systemd.recv(100) == b"WATCHDOG=1"
        finally:
            process.terminate()
            process.wait(40)


def test_systemd_starts_a_node_again_that_stands_still(tmp_path: Path) -> None:
    """The unit as it is, less what only root's systemd can do, and with less patience."""
    text = (ROOT / "config" / "systemd" / "pseudomri@.service").read_text()
    kept = [line for line in text.splitlines() if re.match(_OF_ANY_MANAGER, line)]
    unit = "pseudomri@web.service"
    with manager() as systemd:
        settings = {
            "PSEUDOMRI_NODE__DATA_FOLDER": tmp_path / "data",
            "PSEUDOMRI_NODE__BIND_ADDRESS": LOOPBACK,
            "PSEUDOMRI_NODE__PORT": 0,
            "PSEUDOMRI_WEB__PORT": 0,
            "PYTHONPATH": ROOT,
        }
        quick = [
            *("[Service]", "WatchdogSec=5", "RestartSec=0", "ExecStart="),
            f"ExecStart={sys.executable} -m node serve --role %i",
            *(f"Environment={name}={value}" for name, value in settings.items()),
        ]
        (systemd.units / unit).write_text("\n".join([*kept, *quick]) + "\n")
        systemd.control("daemon-reload")
        # Returns when it is ready.
        systemd.control("start", unit)
        first = systemd.property(unit, "MainPID")
        systemd.signal(signal.SIGSTOP, unit)
        wait_until(lambda: systemd.property(unit, "NRestarts") == "1", START_S)
        wait_until(lambda: systemd.property(unit, "ActiveState") == "active", START_S)
        assert systemd.property(unit, "MainPID") != first
        systemd.control("stop", unit)
        assert systemd.property(unit, "Result") == "success"


def test_systemd_hears_when_the_node_is_ready_and_when_it_ends(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(START_S)
        environment = {
            "NOTIFY_SOCKET": address,
            "PSEUDOMRI_NODE__DATA_FOLDER": str(tmp_path / "data"),
            "PSEUDOMRI_NODE__BIND_ADDRESS": LOOPBACK,
            "PSEUDOMRI_NODE__PORT": "0",
            "PSEUDOMRI_WEB__PORT": "0",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "serve", "--role", "web"],
            env={**os.environ, **environment},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert systemd.recv(100) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert systemd.recv(100) == b"STOPPING=1"
            assert process.wait(40) == 0
        finally:
            process.kill()
            process.wait()
