"""Files and names that outlive a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, content: bytes | memoryview, mode: int = 0o666) -> None:
    """Write a file anew, whole and durable when this returns; its name is not durable yet.

    Args:
        path: Of a file that nobody reads meanwhile.
        content: All of it.
        mode: Of the file when it is new, less the process's mask.

    Raises:
        OSError: When the disk does not take it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path | str) -> None:
    """Make new, renamed and deleted names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
