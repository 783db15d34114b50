"""Workers on one queue in PostgreSQL, with one archive: real processes die, or stand still."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node import audit
from node.clock import utc_now
from node.engine import Dispatcher, engine_url
from node.ledger import open_ledger
from node.model_folder import model_identity
from node.states import SynthesisState
from tests.node.journeys import (
    FENCED,
    MODEL_DIGEST,
    SLICES,
    Marks,
    WorkerProcess,
    new_synthesis,
    open_parts,
    prepare_node,
    put_ct_on_record,
    settings_for,
)
from tests.node.samples import ct, with_meta
from tests.peers import LOOPBACK, ScriptedPeer, dcmsend, wait_until
from tests.postgresql import PostgreSQL

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = 2 * SLICES
# Often enough for a test, and patient with a machine that has other things to do.
QUICK = {"beat_s": 0.2, "silent_s": 4.0}
DEADLINE_S = 120.0
FEW = 6


class Site:
    """Nodes that share a database and a folder.

    Args:
        folder: Of the data, the marks, the settings.
        url: Of the database.
        pacs: Where results go.
    """

    def __init__(self, folder: Path, url: str, pacs: ScriptedPeer) -> None:
        self.folder, self.url, self.pacs = folder, url, pacs
        self.marks = Marks(folder / "marks")
        self.settings = self.settings_of("tests")
        prepare_node(self.settings)
        self.ledger = open_ledger(url, utc_now)

    def settings_of(self, name: str) -> Any:
        to = {"name": "pacs", "ae_title": "PEER", "host": LOOPBACK, "port": self.pacs.port}
        sections = {
            "node": {"database_url": self.url, "name": name},
            "work": QUICK,
            "receive": {"allow_any_peer": True, "minimum_free_bytes": 0},
            "completion": {"quiet_s": 0.5, "poll_s": 0.2},
            "selection": {"minimum_slices": FEW, "minimum_coverage_mm": 5.0},
        }
        return settings_for(self.folder / "data", [to], sections)

    def queue(self, jobs: int) -> list[str]:
        """Put a CT on record and queue so many syntheses of it."""
        ledger, archive = open_parts(self.settings)
        put_ct_on_record(ledger, archive)
        made = [new_synthesis(ledger, version) for version in range(1, jobs + 1)]
        for one in made:
            ledger.syntheses.create(one, "tests")
        dispatcher = Dispatcher(ledger.syntheses, engine_url(self.settings))
        dispatcher.run_once()
        dispatcher.close()
        ledger.close()
        return [one.job_id for one in made]

    def worker(
        self, name: str, where: str, model: str = MODEL_DIGEST, is_stubborn: bool = False
    ) -> WorkerProcess:
        """A worker process under this name."""
        return WorkerProcess(self.settings_of(name), self.marks, where, model, is_stubborn)

    @contextlib.contextmanager
    def receiver(self, name: str) -> Iterator[int]:
        """The receive role of this node, as it is started by hand; yields its port."""
        settings = self.settings_of(name).model_dump(mode="json", exclude_none=True)
        environment = {
            f"PSEUDOMRI_{key.upper()}": json.dumps(value) for key, value in settings.items()
        }
        command = [sys.executable, "-m", "node", "serve", "--role", "receive"]
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            ready = next(line for line in process.stdout if line.startswith("ready "))
            yield int(ready.split("port=")[1].split()[0])
        finally:
            process.kill()
            process.wait()

    def stalled(self, point: str) -> int:
        """The process id of the worker that stands at this point."""
        path = self.marks.folder / f"pid-{point}"
        text: str = wait_until(lambda: path.exists() and path.read_text(), DEADLINE_S, point)
        return int(text)

    def wait_for_all(self, jobs: int) -> list[str]:
        """Until so many syntheses are committed; their ids."""

        def done() -> list[str]:
            lines = self.ledger.reports.jobs((SynthesisState.COMMITTED,), 100)
            return [line["job_id"] for line in lines] if len(lines) == jobs else []

        found: list[str] = wait_until(done, DEADLINE_S, f"{jobs} committed")
        return found

    def check(self, job_ids: list[str], repeated: int = 0) -> None:
        """Nothing twice, nothing missing, the chain whole."""
        events = list(self.ledger.reports.events())
        assert audit.verify(events) is None
        per_job = Counter((event.kind, event.subject) for event in events)
        for job_id in job_ids:
            for kind in ("synthesis.packaged", "delivery.delivered", "synthesis.committed"):
                assert per_job[kind, job_id] == 1, kind
            assert per_job["synthesis.failed", job_id] == 0
        outputs = [o for job_id in job_ids for o in self.ledger.syntheses.outputs(job_id)]
        accepted = self.pacs.accepted()
        assert set(accepted) == {one.sop_instance_uid for one in outputs}
        assert all(len(digests) == 1 for digests in accepted.values())
        assert sum(self.pacs.times(uid) - 1 for uid in accepted) <= repeated


@pytest.fixture
def site(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[Site]:
    with ScriptedPeer() as pacs:
        made = Site(tmp_path, postgresql.new_database(), pacs)
        yield made
        made.ledger.close()


def write_study(folder: Path, number: int) -> Path:
    """A CT of few slices that selection takes under the settings here."""
    folder.mkdir()
    for index in range(FEW):
        uid = f"2.25.{number}"
        ds = ct(index, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1")
        ds.SOPInstanceUID = f"{uid}.1.{index}"
        ds.ImagePositionPatient = [-4.0, -4.0, 2.0 * index]
        with_meta(ds).save_as(folder / f"{index}.dcm", enforce_file_format=True)
    return folder


def test_three_nodes_one_of_whose_workers_is_killed_in_a_synthesis(site: Site) -> None:
    """A receiver beside each worker; the slices of one study come through two of them."""
    model = model_identity(None).digest
    studies = [write_study(site.folder / f"study-{n}", 1000 + n) for n in range(3)]
    half = site.folder / "half"
    half.mkdir()
    for path in sorted(studies[0].iterdir())[::2]:
        path.rename(half / path.name)
    with contextlib.ExitStack() as nodes:
        ports = [nodes.enter_context(site.receiver(name)) for name in "abc"]
        workers = [
            nodes.enter_context(site.worker(name, "stall-before-synthesize", model))
            for name in "abc"
        ]
        for folder, port in zip((*studies, half), (*ports, ports[1]), strict=True):
            assert dcmsend(folder, port).returncode == 0
        victim = site.stalled("before-synthesize")
        os.kill(victim, signal.SIGKILL)
        jobs = site.wait_for_all(3)
        assert [worker.pid for worker in workers if worker.poll() is not None] == [victim]
    site.check(jobs)
    assert site.marks.count("synthesize") == 3
    assert site.marks.count("prepare") == 3


@pytest.mark.parametrize(
    ("point", "is_stubborn"),
    [("before-synthesize", False), ("before-synthesize", True), ("within-send", True)],
)
def test_a_worker_that_stood_still_comes_back_to_find_its_work_taken(
    site: Site, point: str, is_stubborn: bool
) -> None:
    """Stubborn: it does not even end, and what it goes on doing comes to nothing."""
    jobs = site.queue(2)
    with site.worker("a", f"stall-{point}", is_stubborn=is_stubborn) as slow:
        assert site.stalled(point) == slow.pid
        os.kill(slow.pid, signal.SIGSTOP)
        with site.worker("b", f"stall-{point}") as other:
            assert site.wait_for_all(2)
            (site.marks.folder / "go-on").touch()
            os.kill(slow.pid, signal.SIGCONT)
            if is_stubborn:
                wait_until(lambda: site.marks.count("fenced"), DEADLINE_S)
                wait_until(lambda: site.marks.count("ended-stalling"), DEADLINE_S)
            else:
                assert slow.wait(DEADLINE_S) == FENCED
            assert other.poll() is None
            # Work that comes now is done by the living.
            site.check(jobs, repeated=2 if point == "within-send" else 0)
