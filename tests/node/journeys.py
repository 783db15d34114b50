"""What the workflow tests share: a CT on record, fast stages, a worker in its own process.

The stages here compute nothing worth seeing, but what they give has the real shape, and they count
how often they were called by leaving a mark in a folder, which survives the death of a process.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from config.settings import Settings, load
from node.archive import Archive, Encoding
from node.clock import utc_now
from node.deliver import Answer, OutgoingInstance, send
from node.engine import engine_url, prepare_engine
from node.ledger import Ledger, migrate, open_ledger
from node.ledger.entries import Destination, NewSynthesis
from node.ledger.receiving import Arrival, Ending, Received
from node.parts import ledger_url
from node.stages import Order, PackagedInstance, Stages
from node.summary import Pixels, summarize
from node.workfiles import Made, Prepared
from node.workflow import Worker
from pipeline.course import Course
from pipeline.geometry import Grid, Volume
from pipeline.places import Places
from pipeline.provenance import derive_uid, job_id, pixel_digest, seed_of
from tests.namespaces import enter
from tests.node.samples import store
from tests.peers import wait_until

SERIES_UID = "2.25.1000"
STUDY_UID = "2.25.2000"
MODEL_DIGEST = "ab" * 32
SLICES = 4
KILLED = -signal.SIGKILL
FENCED = 44


def settings_for(
    folder: Path,
    destinations: Sequence[Mapping[str, Any]],
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    **delivery: Any,
) -> Settings:
    """Settings of a node in `folder`, quick to retry."""
    base = load()
    changes = {
        "destinations": list(destinations),
        "first_retry_s": 0.05,
        "longest_retry_s": 0.2,
        "network_timeout_s": 5.0,
        **delivery,
    }
    document = base.model_dump(mode="json", exclude_none=True)
    document["node"] |= {"data_folder": str(folder), "port": 0, "bind_address": "127.0.0.1"}
    document["delivery"] |= changes
    for name, values in (sections or {}).items():
        document[name] |= values
    return Settings(**document)


def prepare_node(settings: Settings) -> None:
    """Bring ledger and engine into being."""
    settings.node.data_folder.mkdir(parents=True, exist_ok=True)
    migrate(ledger_url(settings))
    prepare_engine(engine_url(settings))


def open_parts(settings: Settings, owner: str = "tests") -> tuple[Ledger, Archive]:
    return (
        open_ledger(ledger_url(settings), utc_now),
        Archive(settings.node.data_folder / "archive", owner),
    )


def ct_slice(number: int) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"2.25.{3000 + number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY_UID, SERIES_UID
    ds.FrameOfReferenceUID = "2.25.4000"
    ds.PatientName = "Phantom^Secret"
    ds.PatientID = "PHI-7"
    ds.Modality = "CT"
    ds.InstanceNumber = number
    ds.Rows = ds.Columns = 8
    ds.PixelData = np.full((8, 8), number, dtype="<i2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def put_ct_on_record(ledger: Ledger, archive: Archive) -> None:
    """A CT series, as the receiver would have left it."""
    association = ledger.receiving.open_association("tests", "CT1", "PSEUDOMRI", "127.0.0.1")
    for number in range(SLICES):
        ds = ct_slice(number)
        stream = DicomBytesIO()
        stream.is_little_endian, stream.is_implicit_VR = True, False
        write_dataset(stream, ds)
        encoding = Encoding(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian, "CT1")
        archived = store(archive, SERIES_UID, encoding, stream.getvalue())
        summary = summarize(ds, Pixels.PRESENT, ())
        received = Received(
            ds.SOPInstanceUID,
            ds.SOPClassUID,
            ExplicitVRLittleEndian,
            STUDY_UID,
            SERIES_UID,
            "CT",
            archived.digest,
            archived.size_bytes,
            archived.path,
            summary.to_json(),
        )
        arrival = Arrival(received, association, "CT1", "127.0.0.1")
        ledger.receiving.record_instances([arrival])
    ledger.receiving.close_association(association, Ending.RELEASED)


def new_synthesis(ledger: Ledger, version: int = 1, samples: int = 2) -> NewSynthesis:
    return new_synthesis_of(ledger, SERIES_UID, version, samples)


def new_synthesis_of(
    ledger: Ledger, series_uid: str, version: int = 1, samples: int = 2
) -> NewSynthesis:
    """A synthesis of a series on record."""
    series = ledger.series.get(series_uid)
    assert series is not None
    parameters = {"samples": samples}
    contrasts = ("T2", "STIR")
    job = job_id(series_uid, version, series.sources, MODEL_DIGEST, contrasts, parameters)
    return NewSynthesis(
        job_id=job,
        series_uid=series_uid,
        series_version=version,
        study_uid=series.study_uid,
        priority=5,
        contrasts=contrasts,
        sources=series.sources,
        seed=seed_of(job),
        model_name="none",
        model_version="0",
        model_digest=MODEL_DIGEST,
        parameters=parameters,
    )


def prepare(paths: Sequence[Path]) -> Prepared:
    slices = [dcmread(path) for path in paths]
    stack = np.stack(
        [np.frombuffer(ds.PixelData, dtype="<i2").reshape(ds.Rows, -1) for ds in slices]
    ).astype(np.float32)
    uids = tuple(str(ds.SOPInstanceUID) for ds in slices)
    volume = Volume(stack, Grid(stack.shape, np.eye(4)), "2.25.4000")
    nowhere = np.zeros(stack.shape, dtype=np.uint8)
    return Prepared(
        volume,
        Places(nowhere, nowhere, ()),
        Course(np.empty((0, 3)), np.empty((0, 2)), np.empty(0), np.empty((0, 3))),
        uids,
        {"width_mm": 3.5},
        ("a warning",),
        ((4, "C2/3"),),
        {"read": 0.1},
    )


def synthesize(prepared: Prepared, order: Order) -> Made:
    generator = np.random.default_rng(order.identity.seed)
    noise = generator.normal(size=prepared.stack.values.shape).astype(np.float32)
    images = np.stack([prepared.stack.values + noise * k for k in range(2)])
    return Made(
        images,
        np.zeros_like(images),
        None,
        None,
        ("T2", "STIR"),
        prepared.stack.grid,
        prepared.stack.frame_of_reference_uid,
        ("SUPPORT BY THE CT NOT KNOWN",),
        ("another warning",),
        {"device": "none", "dtype": "float32", "threads": 1, "seed": order.identity.seed},
        {"image": 0.2},
    )


def package(
    made: Made, prepared: Prepared, headers: Sequence[Dataset], order: Order
) -> Iterator[PackagedInstance]:
    for number, contrast in enumerate(made.contrasts):
        for index in range(made.grid.shape[0]):
            ds = Dataset()
            ds.SOPClassUID = SecondaryCaptureImageStorage
            ds.SOPInstanceUID = derive_uid(order.identity.job_id, contrast, index)
            ds.SeriesInstanceUID = derive_uid(order.identity.job_id, contrast)
            ds.StudyInstanceUID = headers[0].StudyInstanceUID
            ds.PatientName = headers[0].PatientName
            ds.SeriesDate = datetime.fromisoformat(order.created_at).strftime("%Y%m%d")
            ds.PixelData = made.images[number, index].tobytes()
            ds["PixelData"].VR = "OW"
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            content = io.BytesIO()
            ds.save_as(content, enforce_file_format=True)
            yield PackagedInstance(
                str(ds.SOPInstanceUID),
                str(ds.SeriesInstanceUID),
                contrast,
                index,
                pixel_digest(ds.PixelData),
                content.getvalue(),
            )


class Marks:
    """How often each stage was called, by all processes together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def leave(self, stage: str) -> int:
        """Count a call; which one it is, from 1."""
        (self.folder / f"{stage}.{uuid.uuid4()}").touch()
        return self.count(stage)

    def count(self, stage: str) -> int:
        return len(list(self.folder.glob(f"{stage}.*")))


def fast_stages(marks: Marks, model_digest: str = MODEL_DIGEST) -> Stages:
    def counted(name: str, stage: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            marks.leave(name)
            return stage(*args)

        return call

    return Stages(
        model_digest=model_digest,
        prepare=counted("prepare", prepare),
        synthesize=counted("synthesize", synthesize),
        package=counted("package", package),
        send=send,
    )


def stall(marks: Marks, point: str) -> None:
    """Say which process this is, and wait until the test lets it go on."""
    (marks.folder / f"pid-{point}").write_text(str(os.getpid()))
    wait_until((marks.folder / "go-on").exists, 300)
    marks.leave("ended-stalling")


def dying_stages(marks: Marks, where: str, model_digest: str = MODEL_DIGEST) -> Stages:
    """Stages that take the process with them, the first time they come to `where`, or stall."""

    def die_once(point: str) -> None:
        if where == f"stall-{point}" and marks.leave(f"stalled-{point}") == 1:
            stall(marks, point)
        is_first = point == where and marks.leave(f"death-{point}") == 1
        if is_first or (where == "always" and point == "before-synthesize"):
            os.kill(os.getpid(), signal.SIGKILL)

    fast = fast_stages(marks)

    def around(name: str, stage: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            die_once(f"before-{name}")
            result = stage(*args)
            die_once(f"after-{name}")
            return result

        return call

    def write(*args: Any) -> Iterator[PackagedInstance]:
        for number, instance in enumerate(fast.package(*args)):
            if number == 3:
                die_once("within-package")
            yield instance

    def ship(
        instances: Sequence[OutgoingInstance], to: Destination, ae: str, timeout_s: float
    ) -> Iterator[Answer]:
        die_once("before-send")
        for number, answer in enumerate(send(instances, to, ae, timeout_s)):
            if number == 3:
                die_once("within-send")
            yield answer
        die_once("after-send")

    return Stages(
        model_digest,
        around("prepare", fast.prepare),
        around("synthesize", fast.synthesize),
        write,
        ship,
    )


def die_after(step: Callable[..., Any], point: str, marks: Marks, where: str) -> Callable[..., Any]:
    """A step whose work is done and whose process dies before the engine hears of it."""

    def call(*args: Any) -> Any:
        result = step(*args)
        if point == where and marks.leave(f"death-{point}") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def work(
    settings: Settings, marks: Marks, where: str, model_digest: str, is_stubborn: bool, host: str
) -> None:
    """What a worker process does, until it dies."""
    if host:
        enter(host)
    ledger, archive = open_parts(settings, "work")
    stages = dying_stages(marks, where, model_digest)
    worker = Worker(settings, ledger, archive, stages, utc_now)
    for owner, name in (
        (worker, "read"),
        (worker, "synthesize"),
        (worker, "package"),
        (worker._shipping, "begin"),
        (worker._shipping, "_attempt_step"),
        (worker._shipping, "commit"),
    ):
        setattr(owner, name, die_after(getattr(owner, name), f"step-{name}", marks, where))
    worker.launch(lambda: marks.leave("fenced") if is_stubborn else os._exit(FENCED))
    signal.pause()


class WorkerProcess:
    """A worker in a process of its own.

    It is forked from a server that has imported this module and done nothing else, since the
    imports would take longer than what it does.

    Args:
        settings: Of its node.
        marks: Where it counts.
        where: It dies, or stalls.
        model_digest: Of the model it says it has.
        is_stubborn: Whether it goes on when it was declared dead.
        host: It runs on, of `tests.namespaces`; this one without.
    """

    def __init__(
        self,
        settings: Settings,
        marks: Marks,
        where: str,
        model_digest: str = MODEL_DIGEST,
        is_stubborn: bool = False,
        host: str = "",
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        arguments = (settings, marks, where, model_digest, is_stubborn, host)
        self._process = context.Process(target=work, args=arguments, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, minus the signal that killed it; None while it runs."""
        return self._process.exitcode

    def wait(self, deadline_s: float) -> int:
        """Its exit code, once it has ended."""
        self._process.join(deadline_s)
        assert self._process.exitcode is not None, f"it still runs after {deadline_s} s"
        return self._process.exitcode

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
