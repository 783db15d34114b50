"""The whole journey on this machine: a CT goes in, labelled pseudo-MRI series come out.

A real node and a real destination run on the loopback interface; what is shown is read from the
node's ledger while it happens.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from node.deliver import OutgoingInstance, read_header, send
from node.errors import Refuse, Stop
from node.journey import Journey, look
from node.ledger import Ledger
from node.ledger.entries import Destination
from node.lock import whys
from node.loopback import LOOPBACK, LocalNode, Service, local_destination, local_node
from node.picture import draw
from node.status import is_accepted

SEED: Final = 7
# A synthesis on two busy cores takes about a minute.
DEADLINE_S: Final = 900.0
TIMEOUT_S: Final = 30.0
_OURS: Final = frozenset({"picture.png", "provenance.json", "dicom", "phantom", "node", "pacs.log"})
_POLL_S: Final = 0.15


@dataclass(frozen=True)
class CT:
    """What the demo sends.

    Args:
        files: Of all CT series.
        truth: Name and files of the true MRI; empty for a CT of the user's own.
        caption: What to say about it below the picture.
    """

    files: tuple[Path, ...]
    truth: tuple[tuple[str, tuple[Path, ...]], ...]
    caption: str


@dataclass(frozen=True)
class Sight:
    """What can be seen at a moment of the demo.

    Args:
        step: What is being done.
        sent: Instances that the node has answered with success.
        total: Instances to send.
        journeys: By Series Instance UID; None before its first instance is on record.
    """

    step: str
    sent: int = 0
    total: int = 0
    journeys: Mapping[str, Journey | None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What the demo leaves: journeys of all series, and where things lie."""

    journeys: Mapping[str, Journey | None]
    results: tuple[Path, ...]
    picture: Path | None
    provenance: Path
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether a result arrived."""
        return bool(self.results)

    @property
    def is_declined(self) -> bool:
        """Whether nothing was made because every series was declined."""
        return all(one is not None and one.is_declined for one in self.journeys.values())


def run(ct_folder: Path | None, folder: Path, on_sight: Callable[[Sight], None]) -> Outcome:
    """Run the demo.

    Args:
        ct_folder: DICOM files of a CT; None for a phantom patient.
        folder: Of everything that stays; emptied before.
        on_sight: Told what there is to see, several times a second.

    Raises:
        Refuse: When there is no CT in the CT's folder, when that is in `folder`, or when `folder`
            holds what is not ours.
        Stop: When the node does not start.
    """
    if ct_folder is not None and ct_folder.resolve().is_relative_to(folder.resolve()):
        raise Refuse(
            f"expected a CT outside {folder}, which is emptied; copy {ct_folder} elsewhere"
        )
    # before anything of an earlier run goes
    own = None if ct_folder is None else own_ct(ct_folder)
    _empty(folder)
    with ThreadPoolExecutor(1) as pool:
        on_sight(Sight("starting the node"))
        # on its way while the node starts
        coming = pool.submit(lambda: own or phantom_ct(folder / "phantom"))
        with (
            local_destination(folder / "dicom", folder / "pacs.log") as pacs,
            local_node(folder / "node", [as_destination(pacs)]) as node,
        ):
            ct = _wait(coming, on_sight)
            series = send_ct(ct, node, on_sight)
            journeys = watch(node.ledger, series, on_sight)
            provenance = folder / "provenance.json"
            _write_provenance(node.ledger, journeys, provenance)
    results = tuple(sorted((folder / "dicom").rglob("*.dcm")))
    on_sight(Sight("drawing the picture", journeys=journeys))
    picture = _picture(ct, series, results, folder / "picture.png")
    return Outcome(journeys, results, picture, provenance, folder)


def _empty(folder: Path) -> None:
    """Make room for the result of this run; only what an earlier run left is removed."""
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if strangers := sorted(found - _OURS):
        raise Refuse(f"expected {folder} to be ours, found {strangers[0]} in it; name another")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def phantom_ct(folder: Path) -> CT:
    """A patient with injuries that CT shows."""
    # The phantom is needed by nobody else who imports this module.
    from pipeline.phantom import Finding, patient  # noqa: PLC0415
    from pipeline.phantom.dicom import write  # noqa: PLC0415

    findings = (
        Finding.PREVERTEBRAL_HAEMATOMA,
        Finding.DISC_INJURY,
        Finding.CORD_OEDEMA,
        Finding.CANAL_STENOSIS,
        Finding.INTERSPINOUS_INJURY,
    )
    person = patient(SEED, findings)
    written = write(person, folder)
    caption = f"Phantom {SEED}: injury at {person.injured_level}. Research only, not for diagnosis."
    return CT(written.ct, (("T2", written.t2), ("STIR", written.stir)), caption)


def own_ct(folder: Path) -> CT:
    """The CT instances of a folder of the user's."""
    if not folder.is_dir():
        raise Refuse(f"expected a folder of DICOM files, found none at {folder}")
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = read_header(path)
        except Refuse:
            continue
        if header.sop_class_uid in (CTImageStorage, EnhancedCTImageStorage):
            files.append(path)
    if not files:
        raise Refuse(f"expected CT instances in {folder}, found none")
    return CT(tuple(files), (), "Research only, not for diagnosis.")


def _wait(coming: Future[CT], on_sight: Callable[[Sight], None]) -> CT:
    while not coming.done():
        on_sight(Sight("drawing a phantom patient"))
        time.sleep(_POLL_S)
    return coming.result()


def send_ct(ct: CT, node: LocalNode, on_sight: Callable[[Sight], None]) -> dict[str, list[Path]]:
    """Store the CT with the node; the files by Series Instance UID.

    Raises:
        Refuse: When the node refuses an instance.
        Stop: When a role of the node has ended: nothing would come of it.
    """
    if ended := whys(node.settings.node.data_folder):
        raise Stop("; ".join(f"the {role} role ended: {why}" for role, why in ended.items()))
    instances: list[OutgoingInstance] = []
    series: dict[str, list[Path]] = {}
    for path in ct.files:
        instances.append(read_header(path))
        uid = str(dcmread(path, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID)
        series.setdefault(uid, []).append(path)
    service = node.service
    to = Destination("node", service.ae_title, LOOPBACK, service.port)
    answers = send(instances, to, "DEMO_SCANNER", TIMEOUT_S)
    for sent, answer in enumerate(answers, start=1):
        if not is_accepted(answer.status):
            raise Refuse(
                f"the node refused instance {answer.sop_instance_uid} with 0x{answer.status:04X};"
                f" its log is {node.settings.node.data_folder.parent / 'node.log'}"
            )
        on_sight(Sight("sending the CT", sent, len(instances), dict.fromkeys(series)))
    return series


def watch(
    ledger: Ledger, series: Mapping[str, Sequence[Path]], on_sight: Callable[[Sight], None]
) -> dict[str, Journey | None]:
    """Look on until nothing more will happen by itself."""
    end = time.monotonic() + DEADLINE_S
    total = sum(len(files) for files in series.values())
    while True:
        journeys = {uid: look(ledger, uid) for uid in series}
        on_sight(Sight("on its way", total, total, journeys))
        is_over = all(journey is not None and journey.is_over for journey in journeys.values())
        if is_over or time.monotonic() > end:
            return journeys
        time.sleep(_POLL_S)


def _write_provenance(ledger: Ledger, journeys: Mapping[str, Journey | None], path: Path) -> None:
    stories: list[dict[str, Any]] = [
        ledger.reports.show(uid) for uid, journey in journeys.items() if journey is not None
    ]
    path.write_text(json.dumps(stories, indent=2, default=str) + "\n")


def _picture(
    ct: CT,
    series: Mapping[str, Sequence[Path]],
    results: Sequence[Path],
    path: Path,
) -> Path | None:
    """The picture of the first series that has a result."""
    if not results:
        return None
    source = str(dcmread(results[0]).ReferencedSeriesSequence[0].SeriesInstanceUID)
    made = [
        file
        for file in results
        if str(dcmread(file).ReferencedSeriesSequence[0].SeriesInstanceUID) == source
    ]
    draw(series[source], made, ct.truth, ct.caption, path)
    return path


def as_destination(pacs: Service) -> dict[str, Any]:
    """A local destination as the settings of a node name it."""
    return {"name": "pacs", "ae_title": pacs.ae_title, "host": LOOPBACK, "port": pacs.port}
