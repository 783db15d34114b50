"""Data sets on their way from the socket to the archive, cut and broken off in every way."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE

from node import archive
from node.archive import Incoming
from node.clock import utc_now
from node.intake import Answer
from node.ledger import open_ledger, sqlite_url
from node.streaming import upper_layer
from tests.node.samples import SERIES_UID, ct, encode, with_meta
from tests.node.scu import associated, dcmtk, store, store_bytes, write_file
from tests.node.test_receive import Station
from tests.node.test_receive_killed import running
from tests.peers import LOOPBACK, wait_until

COMMAND, DATA = 1, 0
LAST = 2
Value = tuple[int, bytes]
"""Message control, fragment."""


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    running_station = Station(tmp_path_factory.mktemp("station"))
    yield running_station
    running_station.stop()


numbers = itertools.count(1)


def command(number: int, sop_class: str = CTImageStorage) -> bytes:
    """The encoded command set of a C-STORE request."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = f"{SERIES_UID}.{number}"
    request.Priority = 2
    request.DataSet = BytesIO(b"x")
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    first = next(iter(message.encode_msg(1, 0)))
    (value,) = first.presentation_data_value_list
    return bytes(value[1][1:])


def pdu(values: Sequence[Value], context: int = 1) -> bytes:
    body = b"".join(
        struct.pack(">IBB", len(content) + 2, context, control) + content
        for control, content in values
    )
    return struct.pack(">BxI", 4, len(body)) + body


def values_of(kind: int, content: bytes, sizes: Iterator[int]) -> list[Value]:
    """The fragments of a command set or data set; the last one says so."""
    found, start = [], 0
    while True:
        end = start + next(sizes)
        is_last = end >= len(content)
        found.append((kind | (LAST if is_last else 0), content[start:end]))
        if is_last:
            return found
        start = end


def raw(association: Association) -> socket.socket:
    assert association.dul.socket is not None
    assert association.dul.socket.socket is not None
    return association.dul.socket.socket


def answer(association: Association, parts: Sequence[bytes]) -> int:
    """The status after these bytes were sent as they are."""
    association._reactor_checkpoint.clear()
    wait_until(lambda: association._is_paused)
    try:
        for part in parts:
            raw(association).sendall(part)
        _, response = association.dimse.get_msg(block=True)
    finally:
        association._reactor_checkpoint.set()
    assert isinstance(response, C_STORE), "no answer"
    return int(response.Status)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def leftovers(station: Station) -> list[str]:
    return [path.name for path in (station.archive.folder / "incoming").iterdir()]


SIZES = st.lists(st.integers(0, 400), min_size=1, max_size=8).filter(any)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SIZES, st.lists(st.integers(1, 5), min_size=1, max_size=6), SIZES, st.integers(0, 3000))
def test_what_is_on_disk_is_what_was_sent_however_it_is_cut(
    station: Station, fragments: list[int], grouping: list[int], writes: list[int], padding: int
) -> None:
    """Fragments of any size, empty ones too, several values in a PDU, command and data in one,
    bytes in any portions."""
    number = next(numbers)
    content = encode(ct(number, ImageComments="x" * padding))
    sizes = itertools.cycle(fragments)
    values = values_of(COMMAND, command(number), sizes) + values_of(DATA, content, sizes)
    groups, pdus = itertools.cycle(grouping), b""
    while values:
        count = next(groups)
        pdus += pdu(values[:count])
        values = values[count:]
    parts, portions = [], itertools.cycle(writes)
    while pdus:
        count = next(portions)
        parts.append(pdus[:count])
        pdus = pdus[count:]
    with associated(station.port) as association:
        assert answer(association, parts) == 0x0000
    assert station.held()[f"{SERIES_UID}.{number}"] == digest(content)
    assert leftovers(station) == []


@pytest.mark.parametrize("maximum_pdu_bytes", [0, 128, 16_383, 65_537])
def test_pynetdicom_sends_with_odd_pdu_sizes(tmp_path: Path, maximum_pdu_bytes: int) -> None:
    content = encode(ct(1, ImageComments="x" * 10_000, PixelData=bytes(200_000)))
    station = Station(tmp_path, maximum_pdu_bytes=maximum_pdu_bytes)
    with associated(station.port) as association:
        assert store_bytes(association, content, CTImageStorage, f"{SERIES_UID}.1")[0] == 0
    assert station.held() == {f"{SERIES_UID}.1": digest(content)}
    station.stop()


@pytest.mark.parametrize("size", ["4096", "131072"])
@pytest.mark.parametrize("tool", ["dcmsend", "storescu"])
def test_dcmtk_sends_with_small_and_large_pdus(
    station: Station, tmp_path: Path, tool: str, size: str
) -> None:
    number = next(numbers)
    ds = ct(number, PixelData=os.urandom(300_000))
    file = write_file(with_meta(ds), tmp_path / "1.dcm")
    dcmtk(tool, "--max-send-pdu", size, "-aec", "PSEUDOMRI", LOOPBACK, station.port, file)
    assert station.held()[f"{SERIES_UID}.{number}"] == digest(encode(ds))


def test_a_pdu_may_be_as_long_as_we_said_and_no_longer(tmp_path: Path) -> None:
    """PS3.8 D.1.1: what follows the six bytes of a PDU's head counts. DCMTK heeds it too."""
    most = 16_384
    station = Station(tmp_path, maximum_pdu_bytes=most)
    file = write_file(with_meta(ct(1, PixelData=os.urandom(300_000))), tmp_path / "1.dcm")
    peer = ["-aec", "PSEUDOMRI", LOOPBACK, station.port]
    dcmtk("storescu", "--max-send-pdu", "131072", *peer, file)
    content = encode(ct(2, PixelData=bytes(30_000)))
    # A value has six bytes of its own.
    first, rest = content[: most - 6], content[most - 6 :]
    parts = [pdu([(COMMAND | LAST, command(2))]), pdu([(DATA, first)]), pdu([(DATA | LAST, rest)])]
    with associated(station.port) as association:
        assert answer(association, parts) == 0x0000
    with associated(station.port) as association:
        too_long = pdu([(DATA | LAST, encode(ct(3, PixelData=bytes(30_000))))])
        raw(association).sendall(pdu([(COMMAND | LAST, command(3))]) + too_long)
        wait_until(lambda: is_ended_by_us(association))
    wait_until(lambda: not station.receiver.open_associations)
    assert set(station.held()) == {f"{SERIES_UID}.1", f"{SERIES_UID}.2"}
    assert leftovers(station) == []
    station.stop()


def begun(number: int) -> bytes:
    """A C-STORE request whose data set is not complete."""
    return pdu([(COMMAND | LAST, command(number))]) + pdu([(DATA, encode(ct(number))[:200])])


# A fragment of 994 bytes of which only a few are there.
HALF_A_PDU = struct.pack(">BxIIBB", 4, 1000, 996, 1, DATA) + bytes(10)


def is_ended_by_us(association: Association) -> bool:
    return not association.is_established


WRONG = {
    "data in another context": begun(1) + pdu([(DATA | LAST, b"x")], context=3),
    "data without a command": pdu([(DATA | LAST, b"x")]),
    "a command within a data set": begun(1) + pdu([(COMMAND | LAST, command(2))]),
    "a value beyond its PDU": struct.pack(">BxIIBB", 4, 6, 100, 1, 3),
    "two messages in one PDU": pdu(
        [
            (COMMAND | LAST, command(1)),
            (DATA | LAST, encode(ct(1))),
            (COMMAND | LAST, command(2)),
        ]
    ),
    "a context that was not accepted": pdu([(COMMAND | LAST, command(1))], 5)
    + pdu([(DATA | LAST, encode(ct(1)))], 5),
    "a command that is none": pdu([(COMMAND | LAST, b"\xff" * 40)]),
    "an unknown PDU": struct.pack(">BxI", 0x77, 4) + bytes(4),
    "a PDU that would not fit in memory": struct.pack(">BxI", 1, 0xFFFFFFF0),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_protocol_forbids_ends_the_association_and_leaves_nothing(
    tmp_path: Path, case: str
) -> None:
    station = Station(tmp_path)
    with associated(station.port) as association:
        raw(association).sendall(WRONG[case])
        wait_until(lambda: is_ended_by_us(association), what=case)
    wait_until(lambda: not station.receiver.open_associations)
    assert leftovers(station) == []
    assert set(station.held()) <= {f"{SERIES_UID}.1"}
    with associated(station.port) as association:
        assert store(association, ct(9))[0] == 0x0000
    station.stop()


def test_a_command_without_end_is_not_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upper_layer, "LONGEST_KEPT", 10_000)
    station = Station(tmp_path)
    with associated(station.port) as association:
        for _ in range(4):
            raw(association).sendall(pdu([(COMMAND, bytes(4000))]))
        wait_until(lambda: is_ended_by_us(association))
    station.stop()


def test_a_class_other_than_that_of_its_context_is_refused(station: Station) -> None:
    number = next(numbers)
    content = encode(ct(number, SOPClassUID=MRImageStorage))
    values = [(COMMAND | LAST, command(number, MRImageStorage)), (DATA | LAST, content)]
    with associated(station.port) as association:
        assert answer(association, [pdu(values)]) == Answer.MISMATCH.value.code
        assert store(association, ct(number))[0] == 0x0000


def test_an_abort_within_a_data_set_leaves_nothing(tmp_path: Path) -> None:
    station = Station(tmp_path)
    with associated(station.port) as association:
        raw(association).sendall(begun(1))
        wait_until(lambda: leftovers(station))
        association.abort()
    wait_until(lambda: not leftovers(station))
    assert station.held() == {}
    station.stop()


def test_a_peer_that_vanishes_within_a_pdu_leaves_nothing(tmp_path: Path) -> None:
    station = Station(tmp_path)
    with associated(station.port) as association:
        store(association, ct(1))
        raw(association).sendall(begun(2) + HALF_A_PDU)
        wait_until(lambda: leftovers(station))
        raw(association).shutdown(socket.SHUT_RDWR)
        wait_until(lambda: station.endings() == ["aborted"])
    wait_until(lambda: not leftovers(station))
    assert list(station.held()) == [f"{SERIES_UID}.1"]
    station.stop()


def test_a_peer_that_falls_silent_within_a_pdu_is_let_go(tmp_path: Path) -> None:
    station = Station(tmp_path, network_timeout_s=0.5)
    with associated(station.port) as association:
        store(association, ct(1))
        raw(association).sendall(begun(2) + HALF_A_PDU)
        wait_until(lambda: station.endings() == ["timed out"])
    wait_until(lambda: not leftovers(station) and not station.receiver.open_associations)
    station.stop()


def test_a_slow_peer_that_goes_on_is_not_silent(tmp_path: Path) -> None:
    """One PDU may take longer than the time-out, as long as something comes."""
    station = Station(tmp_path, network_timeout_s=2.5)
    ds = ct(1)
    # Long enough not to fall below the slowest rate.
    ds.DataSetTrailingPadding = bytes(500_000)
    content = encode(ds)
    whole = pdu([(COMMAND | LAST, command(1)), (DATA | LAST, content)])
    step = len(whole) // 5
    parts = [whole[n : n + step] for n in range(0, len(whole), step)]

    def slowly() -> Iterator[bytes]:
        for part in parts:
            yield part
            time.sleep(0.7)

    with associated(station.port) as association:
        assert answer(association, slowly()) == 0x0000  # type: ignore[arg-type]
    assert station.held() == {f"{SERIES_UID}.1": digest(content)}
    station.stop()


def test_stopping_does_not_wait_for_a_peer_within_a_pdu(tmp_path: Path) -> None:
    station = Station(tmp_path)
    with associated(station.port) as association:
        raw(association).sendall(begun(1) + HALF_A_PDU)
        wait_until(lambda: leftovers(station))
        stopping = threading.Thread(target=station.receiver.stop, args=(0.1,))
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
    assert leftovers(station) == []
    station.stop()


@pytest.mark.parametrize("verb", ["write", "settle"])
def test_a_disk_that_fails_while_streaming_costs_that_instance_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    station = Station(tmp_path)
    with associated(station.port) as association:
        with monkeypatch.context() as broken:
            broken.setattr(Incoming, verb, fail)
            status, comment = store(association, ct(1))
        assert (status, "No space left" in comment) == (0xA700, True)
        assert leftovers(station) == []
        assert store(association, ct(1))[0] == 0x0000
    station.stop()


def test_no_row_without_a_durable_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(5, "I/O error")

    station = Station(tmp_path)
    with associated(station.port) as association:
        with monkeypatch.context() as broken:
            broken.setattr(archive, "sync_folder", fail)
            assert store(association, ct(1))[0] == 0xA700
        assert station.held() == {}
        assert store(association, ct(1))[0] == 0x0000
    station.stop()


def test_kill_9_within_a_data_set_leaves_a_leftover_and_no_row(tmp_path: Path) -> None:
    folder, incoming = tmp_path / "data", tmp_path / "data" / "archive" / "incoming"
    folder.mkdir()
    with running(folder, tmp_path / "log") as (process, port), associated(port) as association:
        assert store(association, ct(1))[0] == 0x0000
        raw(association).sendall(begun(2))
        wait_until(lambda: list(incoming.iterdir()))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list(incoming.iterdir())) == 1
    with running(folder, tmp_path / "log") as (_, port), associated(port) as association:
        assert list(incoming.iterdir()) == []
        assert store(association, ct(2))[0] == 0x0000
    ledger = open_ledger(sqlite_url(folder / "node.sqlite"), utc_now)
    held = ledger.series.get(SERIES_UID)
    assert held is not None
    assert sorted(held.sources) == [f"{SERIES_UID}.1", f"{SERIES_UID}.2"]
    ledger.close()


def test_many_associations_share_their_commits(tmp_path: Path) -> None:
    """Those that come while another is being written go together."""
    station = Station(tmp_path)
    batches: list[int] = []
    together = station.receiver._intake._together
    record = together._work

    def counted(arrivals: Any) -> Any:
        batches.append(len(arrivals))
        if len(batches) == 1:
            wait_until(lambda: len(together._waiting) > 1)
        return record(arrivals)

    together._work = counted  # type: ignore[misc]

    def send(first: int) -> None:
        with associated(station.port) as association:
            for number in range(first, 48, 6):
                assert store(association, ct(number))[0] == 0x0000

    threads = [threading.Thread(target=send, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(batches) == len(station.held()) == 48
    assert max(batches) > 1
    station.stop()
