"""C-GET and C-MOVE (PS3.4 C.4.2, C.4.3) in the Study Root model: have a PACS send what it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_role

from node.association import associate, drop_unanswered
from node.ledger.entries import Destination
from node.query import NATIVE, Response, followed
from node.streaming import OpenSink

MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.2.2")
GET: Final = UID("1.2.840.10008.5.1.4.1.2.2.3")


@dataclass(frozen=True)
class Wanted:
    """What is to be sent.

    Args:
        sop_instance_uids: Of one series; empty for all of it.
    """

    study_uid: str
    series_uid: str
    sop_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far a retrieval is, as the PACS counts its sub-operations (PS3.7 9.1.3.1)."""

    completed: int
    failed: int
    remaining: int


def get(
    wanted: Wanted,
    peer: Destination,
    calling_ae: str,
    timeout_s: float,
    storage_contexts: Sequence[tuple[UID, UID]],
    open_sink: OpenSink,
) -> Iterator[Progress]:
    """Have instances sent on our own association.

    Args:
        wanted: Of one series.
        peer: The PACS.
        calling_ae: Our AE title.
        timeout_s: Longest wait for the association and between two messages.
        storage_contexts: Abstract and transfer syntax of what we take.
        open_sink: Where the data set of each instance goes, and who answers.

    Raises:
        Unreachable, Rejected: As `node.query.find`; what was stored stays stored.
    """
    contexts = [*((GET, syntax) for syntax in NATIVE), *storage_contexts]
    # The PACS is the SCU of the sub-operations, on an association that we requested.
    roles = [build_role(uid, scp_role=True) for uid in {uid for uid, _ in storage_contexts}]
    assoc = associate(contexts, peer, calling_ae, timeout_s, roles=roles, open_sink=open_sink)
    try:
        responses = assoc.send_c_get(_identifier(wanted), GET)
        yield from _progress(followed(assoc, responses, peer, "C-GET"))
    finally:
        drop_unanswered(assoc)


def move(
    wanted: Wanted, peer: Destination, calling_ae: str, timeout_s: float
) -> Iterator[Progress]:
    """Have instances sent to the port that the PACS knows for our AE title.

    Raises:
        Unreachable, Rejected: As `node.query.find`.
    """
    assoc = associate([(MOVE, syntax) for syntax in NATIVE], peer, calling_ae, timeout_s)
    responses = assoc.send_c_move(_identifier(wanted), calling_ae, MOVE)
    yield from _progress(followed(assoc, responses, peer, "C-MOVE"))


def _progress(responses: Iterator[Response]) -> Iterator[Progress]:
    for status, _ in responses:
        yield Progress(
            completed=_count(status, "Completed") + _count(status, "Warning"),
            failed=_count(status, "Failed"),
            remaining=_count(status, "Remaining"),
        )


def _count(status: Dataset, which: str) -> int:
    return int(status.get(f"NumberOf{which}Suboperations") or 0)


def _identifier(wanted: Wanted) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "IMAGE" if wanted.sop_instance_uids else "SERIES"
    ds.StudyInstanceUID = wanted.study_uid
    ds.SeriesInstanceUID = wanted.series_uid
    if wanted.sop_instance_uids:
        ds.SOPInstanceUID = list(wanted.sop_instance_uids)
    return ds
