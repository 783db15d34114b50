"""`send` and `echo`: this node as a sender."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from config.settings import TlsSettings
from node.association import Rejected
from node.commands.common import Exit, err, out, print_json, settings_of
from node.deliver import OutgoingInstance, echo, read_header
from node.deliver import send as store
from node.errors import Refuse, Retry
from node.ledger.entries import Destination
from node.status import is_accepted

TIMEOUT_S = 30.0


def destination_of(address: str, called: str, tls: TlsSettings | None = None) -> Destination:
    """The peer of HOST:PORT.

    Args:
        address: As it was typed.
        called: Its AE title.
        tls: How to call it with TLS; None for a plain connection.

    Raises:
        Refuse: When that is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Refuse(f"expected HOST:PORT, such as pacs.local:104, found {address!r}")
    host = host.strip("[]")
    return Destination(address, called, host, int(port), tls, host)


def tls_of(config: Path | None, wants_tls: bool) -> TlsSettings | None:
    """The TLS of these settings, for a call that wants it.

    Raises:
        Refuse: When the settings name no files for it.
    """
    if not wants_tls:
        return None
    settings = settings_of(config)
    if not settings.tls.is_complete:
        raise Refuse(
            "--tls: expected tls.certificate_file, tls.key_file and tls.ca_file in the settings,"
            " found none; name them with --config"
        )
    return settings.tls


def instances_in(folder: Path) -> list[OutgoingInstance]:
    """Every DICOM file under a folder, by name; others are passed over.

    Raises:
        Refuse: When there is none.
    """
    if not folder.is_dir():
        raise Refuse(f"expected a folder of DICOM files, found none at {folder}")
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            found.append(read_header(path))
        except Refuse:
            continue
    if not found:
        raise Refuse(f"expected DICOM files in {folder}, found none")
    return found


def send(
    folder: Path, address: str, called: str, calling: str, tls: TlsSettings | None, as_json: bool
) -> None:
    """Store all DICOM files of a folder with a peer."""
    destination = destination_of(address, called, tls)
    instances = instances_in(folder)
    statuses: dict[str, int] = {}
    began = time.perf_counter()
    trouble = ""
    with typer.progressbar(length=len(instances), label="sending", hidden=as_json) as bar:
        try:
            for answer in store(instances, destination, calling, TIMEOUT_S):
                statuses[answer.sop_instance_uid] = answer.status
                bar.update(1)
        except (Retry, Rejected) as error:
            trouble = str(error)
    refused = {uid: status for uid, status in statuses.items() if not is_accepted(status)}
    accepted = len(statuses) - len(refused)
    if as_json:
        print_json(
            {
                "instances": len(instances),
                "accepted": accepted,
                "refused": {uid: f"0x{status:04X}" for uid, status in refused.items()},
                "error": trouble or None,
                "elapsed_s": round(time.perf_counter() - began, 3),
            }
        )
    else:
        out.print(f"{accepted} of {len(instances)} instances accepted by {called} at {address}")
        for uid, status in list(refused.items())[:10]:
            err.print(f"refused with 0x{status:04X}: {uid}")
        if trouble:
            err.print(trouble)
    if accepted < len(instances):
        raise typer.Exit(Exit.FAILED)


def verify_peer(address: str, called: str, calling: str, tls: TlsSettings | None) -> None:
    """C-ECHO: is somebody there who answers to this AE title?"""
    try:
        elapsed_s = echo(destination_of(address, called, tls), calling, TIMEOUT_S)
    except (Retry, Rejected) as error:
        err.print(str(error))
        raise typer.Exit(Exit.FAILED) from error
    out.print(f"{called} at {address} answered in {1000 * elapsed_s:.0f} ms")
