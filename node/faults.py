"""Named points at which a test may have a process killed, one at every step that makes something
durable. Inert unless the environment variable PSEUDOMRI_FAULTS names a folder.

A file in that folder with the name of a point arms it, for any process or, as `POINT@ROLE`, for one
of a role: the first that comes there takes the file away and dies by SIGKILL, as in a power cut
that the disk survives.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from pathlib import Path
from typing import Final

VARIABLE: Final = "PSEUDOMRI_FAULTS"


class Point(StrEnum):
    """Where a process may be told to die, in the order of the journey."""

    ARCHIVE_WRITTEN = "archive.written"
    """A temporary file has its content, which is not durable."""
    ARCHIVE_SYNCED = "archive.synced"
    """Its content is durable, its name is not there."""
    ARCHIVE_RENAMED = "archive.renamed"
    """It has its name, which is not durable."""
    ARCHIVE_DURABLE = "archive.durable"
    """Content and name are durable; no row."""
    LEDGER_COMMITTING = "ledger.committing"
    """All of a write transaction has been said, nothing of it is durable."""
    LEDGER_COMMITTED = "ledger.committed"
    """The transaction is durable; nobody has heard of it."""
    QUARANTINE_MOVED = "quarantine.moved"
    """A contradicting instance lies apart; it is not on record, nor is its new name durable."""
    RECEIVE_ANSWERING = "receive.answering"
    """An instance is on record; its sender has not been answered."""
    SELECTION_QUEUED = "selection.queued"
    """The synthesis of a series is queued; the decision is not on record."""
    DISPATCH_OFFERED = "dispatch.offered"
    """The engine has a run; the ledger does not know it."""
    WORK_WRITTEN = "work.written"
    """A work file has its content, but not its name."""
    WORK_DURABLE = "work.durable"
    """A work file is durable; its step has not ended."""
    STEP_READ = "step.read"
    """The step is done; the engine has not heard of it. So are the next four."""
    STEP_SYNTHESIZE = "step.synthesize"
    STEP_PACKAGE = "step.package"
    STEP_DELIVER = "step.deliver"
    STEP_COMMIT = "step.commit"
    DELIVERY_ENQUEUED = "delivery.enqueued"
    """The first attempt is in the queue; the workflow that put it there has not ended."""
    DELIVERY_BEGUN = "delivery.begun"
    """An attempt is on record; nothing was sent."""
    DELIVERY_ANSWERED = "delivery.answered"
    """The peer has answered for an instance; its answer is not on record."""
    DELIVERY_SENT = "delivery.sent"
    """All answers are on record; the delivery has not ended."""
    STEP_ATTEMPT = "step.attempt"
    """An attempt has ended on record; the engine has not heard of it."""
    COMMITMENT_REQUESTED = "commitment.requested"
    """A request for storage commitment is on record; it was not sent."""
    COMMITMENT_REPORTED = "commitment.reported"
    """A destination's report is on record; the destination has not been answered."""
    RETENTION_MARKED = "retention.marked"
    """Files are to be deleted; they are there."""
    RETENTION_UNLINKED = "retention.unlinked"
    """Files are deleted; the record says that they are to be."""
    BACKUP_COPIED = "backup.copied"
    """All files of a backup are there; its manifest is still that of the one before."""


_folder: Final = os.environ.get(VARIABLE)
_process = [""]


def identify(process: str) -> None:
    """Tell which role this process has, for points that are armed for one."""
    _process[0] = process


def reach(point: Point) -> None:
    """Die here, if a test has armed this point."""
    if _folder is None:
        return
    for name in (str(point), f"{point}@{_process[0]}"):
        try:
            Path(_folder, name).unlink()
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
