"""A receiver for `powerloss` to record: `python -m tests.crash.recorded FOLDER [DROPPED]`.

Prints its port, then serves until it is killed. `DROPPED` is the promise to the disk that it breaks
on purpose: `file` or `folder` (no fsync of these) or `ledger` (SQLite's synchronous = NORMAL, which
in WAL mode syncs at checkpoints only).
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.clock import utc_now
from node.ledger import database
from node.logs import configure
from node.receive import Receiver
from tests.node.samples import new_archive, new_ledger, settings_for


def drop_fsync(is_dropped: Callable[[int], bool]) -> None:
    """Leave out the fsync of files whose mode says so."""
    real = os.fsync

    def fsync(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        if not is_dropped(os.fstat(number).st_mode):
            real(number)

    os.fsync = fsync


def drop_sync_of_commits() -> None:
    """Tell SQLite what many tell it for speed."""
    prepare = database._prepare_sqlite

    def faster(connection: Any, record: object) -> None:
        prepare(connection, record)
        connection.execute("PRAGMA synchronous = NORMAL")

    database._prepare_sqlite = faster


def drop(promise: str) -> None:
    """Break one of the promises to the disk; none for an empty text."""
    if promise == "file":
        drop_fsync(stat.S_ISREG)
    elif promise == "folder":
        drop_fsync(stat.S_ISDIR)
    elif promise == "ledger":
        drop_sync_of_commits()


def main() -> None:
    folder, dropped = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    drop(dropped)
    settings = settings_for(folder)
    configure(settings.logging, "receive")
    receiver = Receiver(settings, new_ledger(folder, utc_now), new_archive(folder))
    receiver.start()
    print(receiver.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
