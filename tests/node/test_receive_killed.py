"""A receiver that is killed while instances stream in has kept every one it acknowledged."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node.audit import verify
from node.clock import utc_now
from node.ledger import open_ledger, sqlite_url
from node.records import AssociationRecord
from tests.node.samples import PATIENT, SERIES_UID, ct, encode, new_archive
from tests.node.scu import associated, store
from tests.peers import wait_until

ROOT = Path(__file__).parents[2]
INSTANCES = 60
SENDERS = 2
# Killed once so many have been acknowledged in each life.
LIVES = (1, 7, 20)


@contextmanager
def running(folder: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A receiver in its own process, and its port; killed at the end at the latest."""
    command = [sys.executable, "-m", "tests.node.receiver_process", str(folder)]
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], 60)[0], "the receiver does not start"
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def send(port: int, numbers: range, acknowledged: dict[str, str]) -> None:
    """Send until all are acknowledged or the peer is gone; note what was acknowledged."""
    with associated(port) as association:
        for number in numbers:
            try:
                status, _ = store(association, slice_(number))
            except Exception:
                return  # the peer died in the middle; nothing was promised about this one
            assert status == 0x0000
            digest = hashlib.sha256(encode(slice_(number))).hexdigest()
            acknowledged[f"{SERIES_UID}.{number}"] = digest


def slice_(number: int) -> Any:
    return ct(number, ImageComments="x" * 10_000)


def send_all(port: int, acknowledged: dict[str, str]) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=send, args=(port, range(first, INSTANCES, SENDERS), acknowledged))
        for first in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    return threads


def on_record(folder: Path) -> dict[str, str]:
    """What ledger and archive hold together after a crash; the audit chain must hold too."""
    ledger, archive = open_ledger(sqlite_url(folder / "node.sqlite"), utc_now), new_archive(folder)
    assert verify(ledger.reports.events()) is None
    series = ledger.series.get(SERIES_UID)
    found = {}
    for one in series.instances if series else ():
        content = archive.read_data_set(one.path)
        assert hashlib.sha256(content).hexdigest() == one.digest
        found[one.sop_instance_uid] = one.digest
    ledger.close()
    return found


def test_every_acknowledged_instance_outlives_kill_9(tmp_path: Path) -> None:
    log = tmp_path / "stderr.log"
    folder = tmp_path / "data"
    folder.mkdir()
    promised: dict[str, str] = {}
    for at_least in LIVES:
        fresh: dict[str, str] = {}
        with running(folder, log) as (process, port):
            threads = send_all(port, fresh)
            wait_until(lambda fresh=fresh, count=at_least: len(fresh) >= count)
            os.kill(process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
        promised |= fresh
        held = on_record(folder)
        assert promised.items() <= held.items()
    with running(folder, log) as (_, port):
        # The new life has closed what the old ones left open, and swept what they half wrote.
        ledger = open_ledger(sqlite_url(folder / "node.sqlite"), utc_now)
        with ledger.database.reading() as session:
            endings = [row.ending for row in session.query(AssociationRecord)]
        assert set(endings) == {"orphaned"}
        assert list((folder / "archive" / "incoming").iterdir()) == []
        again: dict[str, str] = {}
        for thread in send_all(port, again):
            thread.join(60)
        assert len(again) == INSTANCES
        assert on_record(folder) == again
        ledger.close()
    text = log.read_text()
    assert "instance received" in text
    assert not [word for word in (*PATIENT, "Zebrowska") if word in text]
