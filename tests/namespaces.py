"""A second host, as far as one machine goes: a network namespace with an address of its own, whose
link can be cut, and a host name of its own. For root; where it is not allowed the test is skipped.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Host:
    """The other host.

    Args:
        name: Of its namespace and, once somebody enters it, of the host.
        ours: The address under which it knows this machine.
        address: Its own.
    """

    name: str
    ours: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with to run there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """No packet comes through any more, and nobody is told."""
        _ip("link", "set", self.name, "down")

    def mend(self) -> None:
        """As before."""
        _ip("link", "set", self.name, "up")


@contextlib.contextmanager
def second_host() -> Iterator[Host]:
    """One for as long as the block runs."""
    # Of a range that is for measurements (RFC 2544) and so nobody's; names have 15 characters.
    number = os.getpid() % 250 + 1
    host = Host(f"psm{os.getpid()}", f"198.18.{number}.1", f"198.18.{number}.2")
    try:
        _ip("netns", "add", host.name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        # The other end has the same name on its own side; it goes with the namespace.
        peer = ("peer", "name", host.name, "netns", host.name)
        _ip("link", "add", host.name, "type", "veth", *peer)
        _ip("address", "add", f"{host.ours}/30", "dev", host.name)
        _ip("-n", host.name, "address", "add", f"{host.address}/30", "dev", host.name)
        for device in ("lo", host.name):
            _ip("-n", host.name, "link", "set", device, "up")
        host.mend()
        yield host
    finally:
        _ip("netns", "delete", host.name)


def enter(name: str) -> None:
    """Be on that host from now on; in a process that has one thread yet.

    Raises:
        OSError: When it may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", name).open() as namespace:
        for call, *arguments in (
            (libc.setns, namespace.fileno(), CLONE_NEWNET),
            (libc.unshare, CLONE_NEWUTS),
        ):
            if call(*arguments):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    socket.sethostname(name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
