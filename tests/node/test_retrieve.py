"""C-GET from a PACS that sends too much: what arrives streams, and nothing has to fit in memory."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE

from config.settings import Source
from node.association import LONGEST_PDU
from node.fetching import Fetched, Fetcher
from node.found import FoundSeries
from node.query import FIND
from node.retrieve import GET
from node.streaming.upper_layer import LONGEST_KEPT
from tests.node.samples import SERIES_UID, STUDY_UID, ct, encode
from tests.node.test_fetching import settings, station
from tests.node.test_receive import Station
from tests.peers import LOOPBACK

UID = f"{SERIES_UID}.1"
MIB = 1024 * 1024
Send = Callable[[evt.Event], None]


@contextmanager
def pacs(send: Send, answers: list[Any], patience_s: float = 20) -> Iterator[int]:
    """A PACS of one instance, which on a C-GET sends what `send` puts on the wire; its port.

    Args:
        send: Before the C-GET is answered.
        answers: Gets the statuses of our responses.
        patience_s: How long it waits for one.
    """

    def found(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        ds = Dataset()
        ds.SOPInstanceUID = UID
        yield 0xFF00, ds

    def got(event: evt.Event) -> Iterator[Any]:
        send(event)
        _, response = event.assoc.dimse.get_msg(block=True)
        answers.append(response and response.Status)
        yield 0

    ae = AE(ae_title="PACS")
    ae.dimse_timeout = patience_s
    ae.add_supported_context(FIND)
    ae.add_supported_context(GET)
    ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
    handlers = [(evt.EVT_C_FIND, found), (evt.EVT_C_GET, got)]
    server = ae.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def fetched(at: Station, folder: Path, port: int, **receive: Any) -> Fetched:
    source = Source(name="pacs", ae_title="PACS", host=LOOPBACK, port=port)
    fetcher = Fetcher(settings(folder, source, **receive), source, at.ledger, at.archive)
    with fetcher.alone():
        result = fetcher.fetch(FoundSeries(STUDY_UID, SERIES_UID, None))
    assert list((at.archive.folder / "incoming").iterdir()) == []
    return result


def values(event: evt.Event, content: bytes, is_command: bool, is_last: bool) -> bytes:
    """A P-DATA-TF PDU of one presentation data value, in the context of CT."""
    number = next(
        one.context_id
        for one in event.assoc.accepted_contexts
        if one.abstract_syntax == CTImageStorage
    )
    length = 2 + len(content)
    head = struct.pack(">BxLLBB", 4, 4 + length, length, number, is_command | is_last << 1)
    return head + content


def put(event: evt.Event, *pdus: bytes) -> None:
    for pdu in pdus:
        event.assoc.dul.socket.socket.sendall(pdu)


def command() -> bytes:
    """A C-STORE request, encoded."""
    request = C_STORE()
    request.MessageID, request.Priority = 7, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, UID
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    message.command_set.CommandDataSetType = 1
    (_, first), *_ = next(iter(message.encode_msg(1, 0))).presentation_data_value_list
    return bytes(first[1:])


def much(event: evt.Event) -> None:
    """A data set of 64 MiB."""
    put(event, values(event, command(), True, True))
    fragment = values(event, bytes(LONGEST_PDU // 2), False, False)
    put(event, *[fragment] * 128, values(event, b"", False, True))


def test_what_is_too_long_is_not_gathered_in_memory(tmp_path: Path) -> None:
    answers: list[Any] = []
    with station(tmp_path) as at, pacs(much, answers) as port:
        tracemalloc.start()
        try:
            result = fetched(at, tmp_path, port, maximum_dataset_bytes=MIB)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # The peer's own fragment and ours, a few times each; not the data set.
    assert peak < 24 * MIB
    assert answers == [0xA701]
    assert (result.wanted, result.held) == (1, 0)


def one_huge_pdu(event: evt.Event) -> None:
    put(event, struct.pack(">BxL", 4, 0x7FFFFFFF))


def half_and_the_end(event: evt.Event) -> None:
    whole = encode(ct(1))
    put(event, values(event, command(), True, True), values(event, whole[:900], False, False))
    event.assoc.abort()


def two_at_once(event: evt.Event) -> None:
    request = values(event, command(), True, True)
    instance = values(event, encode(ct(1)), False, True)
    # In one piece: our answer to the first cannot have come in between.
    put(event, (request + instance) * 8)


def endless_command(event: evt.Event) -> None:
    fragment = values(event, bytes(LONGEST_PDU // 2), True, False)
    put(event, *[fragment] * (2 * LONGEST_KEPT // LONGEST_PDU + 2))


@pytest.mark.parametrize(
    ("send", "trouble"),
    [
        (one_huge_pdu, f"sent a PDU of 2147483647 bytes, where we take {LONGEST_PDU}"),
        (endless_command, f"sent a message of more than {LONGEST_KEPT} bytes"),
        (two_at_once, "sent an instance before the last was answered"),
        (half_and_the_end, "aborted or fell silent during a C-GET"),
    ],
)
def test_what_makes_no_sense_ends_the_association(tmp_path: Path, send: Send, trouble: str) -> None:
    with station(tmp_path) as at, pacs(send, [], patience_s=0.5) as port:
        result = fetched(at, tmp_path, port)
    assert result.trouble == f"PACS at {LOOPBACK}:{port} {trouble}"
    assert at.endings() == ["aborted"]
