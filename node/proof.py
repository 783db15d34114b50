"""A proof that the node works: a phantom patient is really sent through it, and timed.

The study is named in the ledger before its first instance is sent. Whoever delivers sees that it is
a proof and sends the result to the prover's own sink on this machine, whatever destinations there
are; only the prover knows the AE title that opens the door for it. When it is done, its files are
marked for deletion; its record stays.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt

from config.settings import Settings
from node.deliver import read_header, send
from node.errors import IllegalMove, NodeError, Refuse, Stop
from node.journey import STAGES, Journey, look
from node.ledger import Ledger
from node.ledger.entries import Destination
from node.ledger.proofs import AE_PREFIX
from node.ledger.retention import Standing, UnitKind
from node.lock import hold
from node.status import is_accepted

SEED: Final = 4_000_001
# Coarse enough to be drawn in seconds, fine enough for the gate.
SPACING_MM: Final = (1.5, 0.9, 0.9)
# A synthesis on two busy cores takes a minute; others may be before it in the queue.
DEADLINE_S: Final = 900.0
TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.2
_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_SINK_AE: Final = "PROOF_SINK"


class Busy(Refuse):
    """Another proof is under way."""


@dataclass
class Sink:
    """Where the result goes: it counts what it gets, keeps nothing, and takes no other study."""

    study_uid: str
    received: set[str] = field(default_factory=set)

    @contextmanager
    def listening(self) -> Iterator[int]:
        """Listen on the loopback interface; yields the port."""
        ae = AE(ae_title=_SINK_AE)
        ae.maximum_pdu_size = 0
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        ae.add_supported_context(SecondaryCaptureImageStorage, syntaxes)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store)]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None  # it is only for a blocking server
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()

    def _store(self, event: evt.Event) -> int:
        ds = event.dataset
        if str(ds.get("StudyInstanceUID", "")) != self.study_uid:
            return 0xA900
        self.received.add(str(ds.SOPInstanceUID))
        return 0x0000


def prove(settings: Settings, ledger: Ledger, port: int | None = None) -> dict[str, Any]:
    """Send the phantom through the running node; the proof as JSON.

    Args:
        settings: Of the node.
        ledger: Of the node.
        port: Where the node really listens, when the settings leave that to the system.

    Raises:
        Busy: When another proof is under way.
        Refuse: When the port is not known.
    """
    target = port or settings.node.port
    if not target:
        raise Refuse("node.port is 0, so the port is not known; name it with --port")
    folder = settings.node.data_folder / "proof"
    folder.mkdir(exist_ok=True)
    try:
        with hold(folder, "prover"):
            return _prove(settings, ledger, target, folder)
    except Stop as error:
        raise Busy("another proof is under way; wait for it") from error


def _prove(settings: Settings, ledger: Ledger, port: int, folder: Path) -> dict[str, Any]:
    study_uid, series_uid = _new_uid(), _new_uid()
    calling_ae = AE_PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(11))
    sink, began = Sink(study_uid), time.monotonic()
    with sink.listening() as sink_port:
        ledger.proofs.begin(study_uid, calling_ae, "127.0.0.1", sink_port)
        journey, trouble = None, ""
        try:
            _send(settings, port, calling_ae, study_uid, series_uid, folder)
            journey = _watch(ledger, series_uid, began + DEADLINE_S)
        except NodeError as error:
            trouble = str(error)
        outcome = _judge(ledger, journey, sink, trouble)
    proof = {
        "study_uid": study_uid,
        "series_uid": series_uid,
        **outcome,
        "stages_s": _stages(journey),
        "elapsed_s": round(time.monotonic() - began, 2),
    }
    ledger.proofs.end(study_uid, proof)
    if outcome["ok"]:
        _let_go(ledger, series_uid, str(outcome["job_id"]))
    for job_id, of_series in ledger.proofs.dead_letters():
        # An earlier proof's too, whose job failed later: their sinks are gone, nobody can mend it.
        with suppress(IllegalMove, Refuse):
            ledger.syntheses.dismiss(job_id, "a proof, whose sink is gone", "proof")
            _let_go(ledger, of_series, job_id)
    return proof


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def _send(
    settings: Settings, port: int, calling_ae: str, study_uid: str, series_uid: str, folder: Path
) -> None:
    host = settings.node.bind_address
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    tls = settings.tls if settings.receive.tls else None
    node = Destination("node", settings.node.ae_title, here, port, tls)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        files = _of_this_proof(_phantom(folder), Path(name), study_uid, series_uid)
        instances = [read_header(path) for path in files]
        for answer in send(instances, node, calling_ae, TIMEOUT_S):
            if not is_accepted(answer.status):
                raise Refuse(f"the node refused an instance with 0x{answer.status:04X}")


def _phantom(folder: Path) -> list[Path]:
    """The CT of the phantom, drawn once."""
    made = folder / "ct"
    if not made.is_dir():
        # Needed by nobody else who imports this module.
        from pipeline.phantom import patient  # noqa: PLC0415
        from pipeline.phantom.acquisition import ct_series  # noqa: PLC0415
        from pipeline.phantom.instances import ct_datasets, save  # noqa: PLC0415

        person = patient(SEED, ())
        drawing = folder / "drawing"
        shutil.rmtree(drawing, ignore_errors=True)
        save(ct_datasets(person, ct_series(person, spacing_mm=SPACING_MM)), drawing)
        drawing.rename(made)
    return sorted(made.glob("*.dcm"))


def _of_this_proof(
    paths: list[Path], into: Path, study_uid: str, series_uid: str
) -> Iterator[Path]:
    """The phantom as a study of its own, which says what it is."""
    for path in paths:
        ds = dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
        ds.SOPInstanceUID = UID(_new_uid())
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.PatientName, ds.PatientID = "PROOF^NO PATIENT", "PSEUDOMRI-PROOF"
        ds.StudyDescription = ds.SeriesDescription = "PROOF OF THE NODE, PHANTOM, NO PATIENT"
        ds.save_as(into / path.name)
        yield into / path.name


def _watch(ledger: Ledger, series_uid: str, deadline: float) -> Journey | None:
    while True:
        journey = look(ledger, series_uid)
        if (journey is not None and journey.is_over) or time.monotonic() > deadline:
            return journey
        time.sleep(_POLL_S)


def _judge(ledger: Ledger, journey: Journey | None, sink: Sink, trouble: str) -> dict[str, Any]:
    job_id = journey.job_id if journey else None
    expected = (
        {one.sop_instance_uid for one in ledger.syntheses.outputs(job_id)} if job_id else set()
    )
    is_done = journey is not None and journey.state == "committed"
    ok = is_done and bool(expected) and sink.received == expected
    if not ok and not trouble:
        state = journey.state if journey else "not received"
        reason = (journey.reason if journey else None) or "no reason on record"
        trouble = f"{state}: {reason}; {len(sink.received)} of {len(expected)} instances arrived"
    return {
        "ok": ok,
        "job_id": job_id,
        "instances": len(sink.received),
        "wrong": "" if ok else trouble,
    }


def _stages(journey: Journey | None) -> dict[str, float]:
    """Seconds from each stage that was reached to the next, and of the pipeline's own."""
    if journey is None:
        return {}
    reached = [stage for stage in STAGES if stage in journey.moments]
    steps = pairwise(reached)
    found = {b: round(journey.seconds_between(a, b) or 0.0, 3) for a, b in steps}
    return found | {f"pipeline.{name}": s for name, s in journey.timings_s.items()}


def _let_go(ledger: Ledger, series_uid: str, job_id: str) -> None:
    """Mark the proof's files for deletion; retention's keeper deletes them at its next turn."""
    for kind, key in ((UnitKind.RECEIVED, series_uid), (UnitKind.OUTPUTS, job_id)):
        ledger.retention.mark(kind, key, "proof", _must_stay, "proof")


def _must_stay(standing: Standing) -> str | None:
    return "it is under audit hold" if standing.is_held else None
