"""Tells systemd how this service is (sd_notify(3)), where systemd has asked to be told."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Final

# So often within the time in which systemd wants to hear of us; it recommends twice.
_TIMES: Final = 4


def notify(state: str) -> bool:
    """Send one state, such as ``READY=1`` or ``STOPPING=1``; whether somebody wanted to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    # A leading @ stands for the null byte of Linux's abstract addresses.
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode("ascii"), name)
    return True


class Watchdog:
    """Tells systemd that this service goes on, as often as it wants to hear it (WatchdogSec)."""

    def __init__(self) -> None:
        limit_us = int(os.environ.get("WATCHDOG_USEC", "0"))
        # Meant for us, and not for whoever started us.
        is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._every_s: Final = limit_us / 1e6 / _TIMES if is_ours else 0.0
        self._told_s = 0.0

    def tell(self) -> None:
        """It goes on; call this as often as you like."""
        now_s = time.monotonic()
        if not self._every_s or now_s - self._told_s < self._every_s:
            return
        self._told_s = now_s
        # Who does not listen will not hear, and restarts us or not.
        with suppress(OSError):
            notify("WATCHDOG=1")
