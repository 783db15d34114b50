"""Is a file in the archive still what the ledger says it is?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from node.archive import Archive
from node.errors import Refuse
from node.ledger.series import HeldInstance


def intact_instance(archive: Archive, path: str, digest: str) -> Path:
    """Where a received instance lies, after its data set was compared with the record.

    Raises:
        Refuse: When the file is gone or has changed.
    """
    try:
        found = archive.read_data_set(path)
    except FileNotFoundError as error:
        raise Refuse(_gone(path)) from error
    _compare(path, found, digest)
    return archive.resolve(path)


def intact_source(archive: Archive, held: HeldInstance, digest: str) -> Path:
    """As `intact_instance`, for an instance that retention may have deleted.

    Raises:
        Refuse: When the file is gone or has changed; naming the moment when retention deleted it.
    """
    if held.removed_at is not None:
        raise Refuse(
            f"the CT was deleted by retention at {held.removed_at}; its digests are on record."
            " Send the very same instances again, and they are put back in their place"
        )
    return intact_instance(archive, held.path, digest)


def intact_output(archive: Archive, path: str, digest: str) -> Path:
    """Where an output lies, after the whole file was compared with the record.

    Raises:
        Refuse: When the file is gone or has changed.
    """
    place = archive.resolve(path)
    try:
        found = place.read_bytes()
    except FileNotFoundError as error:
        raise Refuse(_gone(path)) from error
    _compare(path, found, digest)
    return place


def _compare(path: str, content: bytes, digest: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise Refuse(
            f"{path} in the archive: expected digest {digest[:12]}, found {found[:12]}; the file"
            " has changed since it was written: check the disk, restore the file, then retry"
        )


def _gone(path: str) -> str:
    return f"{path} in the archive: expected the file, found none; restore it, then retry"
