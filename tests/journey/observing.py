"""Looking at a running node from outside: its ledger, its processes, its PACS."""

from __future__ import annotations

import importlib.resources
import io
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.audit import verify
from node.journey import Journey, look
from node.ledger import Ledger
from node.loopback import LOOPBACK, LocalNode
from pipeline.contrast import SeriesKind
from pipeline.support import Calibration
from pipeline.synthesis import BUILT_IN
from tests.peers import Orthanc, wait_until

# A synthesis takes seconds; a machine that also runs other tests may need minutes.
ARRIVAL_S = 300.0
# To look at a whole journey takes longer than the usual pause, and the node needs the processor.
PAUSE_S = 1.0


@dataclass(frozen=True)
class Arrived:
    """A series as the PACS gives it back."""

    datasets: list[Dataset]
    tags: list[dict[str, Any]]
    description: str


def expected_kinds() -> list[str]:
    """Of the series that the built-in model makes: a support map when it is calibrated."""
    with importlib.resources.as_file(importlib.resources.files("pipeline")) as package:
        is_calibrated = Calibration.load(package / BUILT_IN) is not None
    return [kind for kind in SeriesKind if is_calibrated or kind is not SeriesKind.SUPPORT]


def destination(port: int, name: str = "pacs", ae_title: str = "ORTHANC") -> dict[str, Any]:
    return {"name": name, "ae_title": ae_title, "host": LOOPBACK, "port": port}


def series_uids(folder: Path) -> set[str]:
    """The series in a folder of DICOM."""
    paths = sorted(folder.rglob("*.dcm"))
    return {str(dcmread(p, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID) for p in paths}


def headers(folder: Path) -> list[Dataset]:
    """The headers of a folder, without pixels."""
    return [dcmread(path, stop_before_pixels=True) for path in sorted(folder.rglob("*.dcm"))]


def wait_until_over(node: LocalNode, uids: Iterable[str]) -> dict[str, Journey]:
    """The journeys of these series, once nothing more will happen by itself."""
    wanted = list(uids)

    def over() -> dict[str, Journey] | None:
        seen = {uid: look(node.ledger, uid) for uid in wanted}
        if all(journey is not None and journey.is_over for journey in seen.values()):
            return {uid: journey for uid, journey in seen.items() if journey is not None}
        return None

    journeys: dict[str, Journey] = wait_until(over, ARRIVAL_S, f"the end of {wanted}", PAUSE_S)
    return journeys


def story(ledger: Ledger, uid: str) -> dict[str, Any]:
    """What is on record about a UID."""
    return dict(ledger.reports.show(uid))


def outputs(ledger: Ledger, job_id: str) -> dict[str, str]:
    """Pixel digests by SOP Instance UID."""
    return {one.sop_instance_uid: one.pixel_digest for one in ledger.syntheses.outputs(job_id)}


def role_process(node: LocalNode, role: str) -> psutil.Process | None:
    """The process that runs a role now, if there is one."""
    for child in psutil.Process(node.service.process.pid).children(recursive=True):
        try:
            command = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "--role" in command and command[command.index("--role") + 1] == role:
            return child
    return None


def kill(node: LocalNode, role: str) -> int:
    """kill -9 a role; returns its process id."""
    process = wait_until(lambda: role_process(node, role), 30, f"the {role} role")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    return int(process.pid)


def arrived(orthanc: Orthanc, study_uid: str) -> dict[str, Arrived]:
    """The pseudo-MRI series of a study, by contrast, as the PACS gives them back."""
    found = {}
    for study in orthanc.get("/studies"):
        if orthanc.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"] != study_uid:
            continue
        for series in orthanc.get(f"/studies/{study}/series"):
            if series["MainDicomTags"].get("Modality") != "OT":
                continue
            pairs = []
            for instance in series["Instances"]:
                ds = dcmread(io.BytesIO(orthanc.file(instance)))
                pairs.append((ds, orthanc.get(f"/instances/{instance}/simplified-tags")))
            pairs.sort(key=lambda pair: int(pair[0].InstanceNumber))
            contrast = str(pairs[0][0].ImageType[-1])
            found[contrast] = Arrived(
                [ds for ds, _ in pairs],
                [tags for _, tags in pairs],
                series["MainDicomTags"].get("SeriesDescription", ""),
            )
    return found


def chain_is_whole(ledger: Ledger) -> bool:
    """Whether the audit chain verifies."""
    return verify(ledger.reports.events()) is None
