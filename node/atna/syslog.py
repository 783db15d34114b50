"""Syslog (RFC 5424) over TLS (RFC 5425), or over TCP (RFC 6587) and UDP where a site says so.

Syslog has no answers. Over TLS and TCP a batch counts as received when the server, told that
nothing more comes, closes its side in order: a system that still held unread bytes of ours would
reset the connection instead. What a server has read and loses before it wrote it, nobody can see.
UDP promises nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from config.settings import AtnaSettings, TlsSettings
from node.clock import utc_now
from node.errors import Retry
from node.tls import client_context, reason_of

# Facility 10 (security and authorization), severity 5 (notice): RFC 5424 6.2.1, PS3.15 A.6.
PRIORITY: Final = 10 * 8 + 5
MESSAGE_ID: Final = "DICOM+RFC3881"
APPLICATION: Final = "pseudomri"
# RFC 5424 7.3.1: sequenceId begins again beyond it.
_LARGEST_SEQUENCE: Final = 2_147_483_647
# RFC 5426 3.2 asks for 2048 at least; more than a datagram holds is cut by the network, not by us.
_LARGEST_DATAGRAM: Final = 65_000


class Undelivered(Retry):
    """The server is away or broke off; the batch is to be sent again, as a whole."""


def line(xml: bytes, at: datetime, sequence: int) -> bytes:
    """One syslog message.

    Args:
        xml: UTF-8.
        at: When it happened, UTC.
        sequence: Of the audit event: a server that gets a message twice can tell.
    """
    number = (sequence - 1) % _LARGEST_SEQUENCE + 1
    head = (
        f"<{PRIORITY}>1 {at.isoformat(timespec='milliseconds')} {os.uname().nodename} {APPLICATION}"
        f' {os.getpid()} {MESSAGE_ID} [meta sequenceId="{number}"] '
    )
    return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + xml


def send(lines: Sequence[bytes], settings: AtnaSettings, tls: TlsSettings) -> None:
    """Send a batch over a connection of its own.

    Raises:
        Undelivered: Send all of it again.
        Retry: When our certificates are not in order.
    """
    address = (settings.host, settings.port)
    where = f"the syslog server at {settings.host}:{settings.port}"
    try:
        if settings.transport == "udp":
            _send_datagrams(lines, address)
            return
        # RFC 5425 4.3 and RFC 6587 3.4.1: octet counting.
        stream = b"".join(b"%d %b" % (len(one), one) for one in lines)
        with socket.create_connection(address, settings.timeout_s) as plain:
            if settings.transport == "tcp":
                plain.sendall(stream)
                plain.shutdown(socket.SHUT_WR)
                _await_the_end(plain)
            else:
                context = client_context(tls, settings.tls_name != "any", utc_now())
                name = settings.tls_name or settings.host
                with context.wrap_socket(plain, server_hostname=name) as secured:
                    secured.sendall(stream)
                    _close_in_order(secured)
    except ssl.SSLError as error:
        raise Undelivered(f"{where}: {reason_of(error)}") from error
    except OSError as error:
        raise Undelivered(f"{where} broke off or is away: {error.strerror or error}") from error


def _send_datagrams(lines: Sequence[bytes], address: tuple[str, int]) -> None:
    family, _, _, _, target = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for one in lines:
            sender.sendto(one[:_LARGEST_DATAGRAM], target)


def _close_in_order(secured: ssl.SSLSocket) -> None:
    """Say that this was all (close_notify), and wait for the server to have read it."""
    try:
        plain = secured.unwrap()
    except ssl.SSLEOFError:
        # It closed without a close_notify of its own, as many do, yet in order: with bytes of ours
        # unread there would have been a reset.
        return
    with contextlib.closing(plain):
        plain.shutdown(socket.SHUT_WR)
        _await_the_end(plain)


def _await_the_end(plain: socket.socket) -> None:
    while plain.recv(4096):
        pass
