"""One process per role and data folder: an advisory lock that dies with its holder.

The lock's file also tells others how its holder is: it beats by touching it, and empties it when it
ends in order. A file with a holder in it and an old beat is a role that died or hangs.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from node.errors import Stop

_FOLDER = "locks"
_SUFFIX = ".lock"


@contextmanager
def hold(data_folder: Path, name: str) -> Iterator[Callable[[], None]]:
    """Hold the lock of this name while the block runs; yields the function that beats.

    The kernel gives it back when the process ends, however it ends, so there is none to be stale.

    Raises:
        Stop: When another process holds it, with its process id.
    """
    folder = data_folder / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{_SUFFIX}"
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise Stop(
                f"expected the data folder {data_folder} to be free, but process {holder} runs the"
                f" {name} role on it; stop it, or give this node a folder of its own"
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield lambda: os.utime(path)
        stream.truncate(0)


@contextmanager
def alone(data_folder: Path, name: str) -> Iterator[None]:
    """Do something that only one process at a time may; nobody looks whether it beats.

    Raises:
        Stop: When another process is at it.
    """
    folder = data_folder / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Stop(f"expected no other {name} on {data_folder}, another one runs") from error
        yield


def names(data_folder: Path) -> list[str]:
    """Of all locks that anybody ever held here."""
    return sorted(
        path.name.removesuffix(_SUFFIX) for path in (data_folder / _FOLDER).glob(f"*{_SUFFIX}")
    )


def beats(data_folder: Path) -> dict[str, float]:
    """When each holder that has not ended in order last beat: lock name to POSIX time."""
    found = {}
    for path in sorted((data_folder / _FOLDER).glob(f"*{_SUFFIX}")):
        state = path.stat()
        if state.st_size:
            found[path.name.removesuffix(_SUFFIX)] = state.st_mtime
    return found
