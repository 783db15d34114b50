"""One process per role and data folder: an advisory lock that dies with its holder.

The lock's file also tells others how its holder is: it beats by touching it, and empties it when it
ends in order. A file with a holder in it and an old beat is a role that died or hangs. Why it ended
stands in a file beside it, until it runs again.
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
_WHY = ".why"


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
        before = os.fstat(stream.fileno())
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        if before.st_size:
            # A start is no beat: who dies at every start would look well between two of them.
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
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


def tell_why(data_folder: Path, name: str, why: str) -> None:
    """Leave word why the holder of a lock ends, for those who look at the node."""
    (data_folder / _FOLDER / f"{name}{_WHY}").write_text(why, encoding="utf-8")


def forget_why(data_folder: Path, name: str) -> None:
    """It runs again."""
    (data_folder / _FOLDER / f"{name}{_WHY}").unlink(missing_ok=True)


def whys(data_folder: Path) -> dict[str, str]:
    """Why each holder ended that has not run again since: lock name to reason."""
    return {
        path.name.removesuffix(_WHY): path.read_text(encoding="utf-8")
        for path in sorted((data_folder / _FOLDER).glob(f"*{_WHY}"))
    }
