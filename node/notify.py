"""Tells systemd how this service is (sd_notify(3)), where systemd has asked to be told."""

from __future__ import annotations

import os
import socket


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
