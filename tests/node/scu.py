"""Storage SCUs for the tests: one of pynetdicom's that sends any bytes at all, and DCMTK's."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from node.association import Checkpoint, hear_rejection
from tests.node.samples import encode
from tests.peers import ENVIRONMENT

HOST = "127.0.0.1"
ANSWER_S = 30.0


@contextmanager
def associated(
    port: int,
    syntaxes: Sequence[str] = (ExplicitVRLittleEndian,),
    classes: Sequence[str] = (CTImageStorage,),
    calling_ae: str = "CT1",
    called_ae: str = "PSEUDOMRI",
    host: str = HOST,
) -> Iterator[Association]:
    """An association with one context per SOP class; released at the end if it still stands."""
    ae = AE(ae_title=calling_ae)
    ae.dimse_timeout = ae.network_timeout = ae.acse_timeout = ANSWER_S
    for sop_class in classes:
        ae.add_requested_context(sop_class, list(syntaxes))
    # With pynetdicom's own reactor an answer is lost now and then.
    careful = (evt.EVT_CONN_OPEN, _pause_under_a_lock)
    association = ae.associate(host, port, ae_title=called_ae, evt_handlers=[careful])
    if not association.is_established:
        hear_rejection(association)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _pause_under_a_lock(event: evt.Event) -> None:
    event.assoc._reactor_checkpoint = Checkpoint(event.assoc)


def store_bytes(
    association: Association, content: bytes, sop_class_uid: str, sop_instance_uid: str
) -> tuple[int, str]:
    """C-STORE exactly these bytes; returns Status and Error Comment.

    Raises:
        ConnectionError: When no answer came.
    """
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class_uid
    request.AffectedSOPInstanceUID = sop_instance_uid
    request.Priority = 2
    request.DataSet = BytesIO(content)
    context = association.accepted_contexts[0]
    # As pynetdicom's own senders do: its reactor would take the answer away.
    association._reactor_checkpoint.clear()
    deadline = time.monotonic() + ANSWER_S
    while not association._is_paused and association.is_alive():
        if time.monotonic() > deadline:
            raise ConnectionError("the association does not pause")
        time.sleep(0.0001)
    try:
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
    finally:
        association._reactor_checkpoint.set()
    if not isinstance(answer, C_STORE) or answer.Status is None:
        raise ConnectionError("no answer to the C-STORE request")
    return int(answer.Status), str(answer.ErrorComment or "")


def store(association: Association, ds: Dataset) -> tuple[int, str]:
    """C-STORE a data set in Explicit VR Little Endian."""
    return store_bytes(association, encode(ds), str(ds.SOPClassUID), str(ds.SOPInstanceUID))


def dcmtk(tool: str, *arguments: object) -> str:
    """What a tool of DCMTK prints; it must be installed and succeed."""
    path = shutil.which(tool)
    assert path, f"{tool} is missing: run `make peers` (Debian package dcmtk)"
    done = subprocess.run(
        [path, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_file(ds: Dataset, path: Path) -> Path:
    """A data set with file meta information, as a file for DCMTK."""
    ds.save_as(path, enforce_file_format=True)
    return path
