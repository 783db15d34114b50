"""A systemd of the test's own, which runs services as the real one does: its user instance, in
namespaces, with a tree of control groups of its own. For root; elsewhere the test is skipped.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import wait_until

START_S = 30.0

# In a new mount, process and control group namespace. The manager asks whether the machine was
# booted with systemd, and lives in a group that it may divide.
_BEGIN = """
umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup || exit 77
mount -t tmpfs none /run && mkdir -p /run/systemd/system || exit 77
mkdir -p "$GROUP" && echo $$ > "$GROUP/cgroup.procs" || exit 77
# As the first process it would be the system's.
/lib/systemd/systemd --user --unit=default.target & wait
"""


@dataclass(frozen=True)
class Manager:
    """A running systemd.

    Args:
        units: The folder of its units.
        pid: Of the process that holds its namespaces, as we see it.
        environment: Of whoever talks to it.
    """

    units: Path
    pid: int
    environment: dict[str, str]

    def control(self, *arguments: str) -> str:
        """What systemctl tells; fails the test when it fails."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--cgroup"]
        done = subprocess.run(
            [*enter, "systemctl", "--user", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.control("show", "--value", f"--property={name}", unit).strip()

    def signal(self, number: int, unit: str) -> None:
        """To the main process alone."""
        name = signal.Signals(number).name
        self.control("kill", "--kill-whom=main", f"--signal={name}", unit)


@contextlib.contextmanager
def manager() -> Iterator[Manager]:
    """One for as long as the block runs; all that it runs ends with it."""
    # The path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="sd-", dir="/tmp") as folder:
        units = Path(folder, "units")
        units.mkdir()
        (units / "default.target").write_text("[Unit]\nDescription=nothing yet\n")
        environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": folder,
            "SYSTEMD_UNIT_PATH": f"{units}:/usr/lib/systemd/user",
            "SYSTEMD_LOG_TARGET": "console",
        }
        group = f"/sys/fs/cgroup/test-{os.getpid()}"
        script = f"GROUP={shlex.quote(group)}\n{_BEGIN}"
        spaces = ["--mount", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc"]
        with Path(folder, "log").open("wb") as log:
            outside = subprocess.Popen(
                ["unshare", *spaces, "sh", "-c", script],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(
                lambda: Path(folder, "systemd", "private").exists() or outside.poll() is not None,
                START_S,
                "a systemd",
            )
            if outside.poll() is not None:
                pytest.skip(f"no systemd runs here: {Path(folder, 'log').read_text()[-300:]}")
            children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text()
            yield Manager(units, int(children.split()[0]), environment)
        finally:
            # The first process of the namespace takes all others with it.
            outside.kill()
            outside.wait()
