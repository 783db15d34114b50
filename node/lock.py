"""One process per role and data folder: an advisory lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.errors import Stop


@contextmanager
def hold(data_folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of this name while the block runs.

    The kernel gives it back when the process ends, however it ends, so there is none to be stale.

    Raises:
        Stop: When another process holds it, with its process id.
    """
    folder = data_folder / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.lock"
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
        yield
