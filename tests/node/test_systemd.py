"""The units are what systemd understands, and the node tells systemd what it waits for."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from node.notify import notify
from node.supervisor import START_S as START_DEADLINE_S
from node.supervisor import STOP_DEADLINE_S
from tests.peers import LOOPBACK, _found

ROOT = Path(__file__).resolve().parents[2]
UNITS = {
    "pseudomri.service": "pseudomri.service",
    "pseudomri@.service": "pseudomri@receive.service",
}
START_S = 120.0
# systemd's own word for it is OK; an unhardened service has 9.6.
MOST_EXPOSED = "20"


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
