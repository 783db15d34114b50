"""The Storage SCP against real senders over loopback: what is kept, answered and put on record."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import socket
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
)
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ABORT_RQ

from node.audit import Kind, verify
from node.clock import utc_now
from node.errors import Retry, Stop
from node.intake import STATUSES, Answer
from node.ledger import Ledger, database
from node.reader import HeaderReader
from node.receive import TRANSFER_SYNTAXES, VERIFICATION, Receiver
from node.records import AssociationRecord, InstanceRecord, QuarantineRecord, RemovalRecord
from node.summary import UNREAD, Pixels
from node.supervisor import open_port
from tests.node.samples import (
    PATIENT,
    SERIES_UID,
    ct,
    encapsulated,
    encode,
    enhanced_ct,
    new_archive,
    new_ledger,
    settings_for,
    with_meta,
)
from tests.node.scu import associated, dcmtk, store, store_bytes, write_file
from tests.peers import wait_until

Start = Callable[..., "Station"]


class Station:
    """A receiver on a free port, with its ledger and archive."""

    def __init__(
        self,
        folder: Path,
        security: Mapping[str, Any] | None = None,
        is_fetching: bool = False,
        **receive: Any,
    ) -> None:
        self.ledger: Ledger = new_ledger(folder, utc_now)
        self.archive = new_archive(folder)
        sections = {"receive": receive, "tls": dict(security or {})}
        settings = settings_for(folder, **sections, retrieve={"fetch_announced": is_fetching})
        self.receiver = Receiver(settings, self.ledger, self.archive)
        self.receiver.start()
        self.port = self.receiver.port

    def stop(self) -> None:
        self.receiver.stop(grace_s=5)
        events = list(self.ledger.reports.events())
        self.ledger.close()
        assert verify(events) is None

    def held(self) -> dict[str, str]:
        """SOP Instance UID to digest of all that is on record in the test's series, after checking
        that the archive holds exactly those bytes."""
        series = self.ledger.series.get(SERIES_UID)
        if series is None:
            return {}
        for one in series.instances:
            content = self.archive.read_data_set(one.path)
            assert hashlib.sha256(content).hexdigest() == one.digest
            assert len(content) == one.size_bytes
        return dict(series.sources)

    def read_headers(self) -> None:
        """As the completion loop does when the senders are gone."""
        HeaderReader(self.ledger, self.archive, ["trauma"]).read(SERIES_UID)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.ledger.reports.events()]

    def endings(self) -> list[str | None]:
        with self.ledger.database.reading() as session:
            return [row.ending for row in session.query(AssociationRecord)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    stations: list[Station] = []

    def start(**receive: Any) -> Station:
        stations.append(Station(tmp_path, **receive))
        return stations[-1]

    yield start
    for station in stations:
        station.stop()


def uid_of(number: int) -> str:
    """Of the CT slice of this number."""
    return f"{SERIES_UID}.{number}"


def encoded_as(number: int, syntax: Any) -> bytes:
    """A CT slice in any transfer syntax that we accept."""
    if syntax == DeflatedExplicitVRLittleEndian:
        compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return compressor.compress(encode(ct(number))) + compressor.flush()
    return encode(encapsulated(ct(number)) if syntax.is_encapsulated else ct(number), syntax)


def test_every_transfer_syntax_is_stored_as_it_came(start: Start) -> None:
    station = start()
    sent = {syntax: encoded_as(n, syntax) for n, syntax in enumerate(TRANSFER_SYNTAXES)}
    for number, (syntax, content) in enumerate(sent.items()):
        uid = f"{SERIES_UID}.{number}"
        with associated(station.port, [syntax]) as association:
            assert store_bytes(association, content, CTImageStorage, uid) == (0, ""), syntax.name
        assert station.held()[uid] == hashlib.sha256(content).hexdigest()
    station.read_headers()
    series = station.ledger.series.get(SERIES_UID)
    assert series is not None
    assert len(series.instances) == len(TRANSFER_SYNTAXES)
    for one in series.instances:
        number = int(one.sop_instance_uid.rsplit(".", 1)[1])
        syntax = TRANSFER_SYNTAXES[number]
        assert one.transfer_syntax_uid == syntax
        assert one.summary.pixels is Pixels.PRESENT
        assert one.summary.slices[0].position_mm == (-4.0, -4.0, number)
        file_meta = dcmread(station.archive.resolve(one.path), stop_before_pixels=True).file_meta
        assert file_meta.TransferSyntaxUID == syntax
        assert file_meta.SourceApplicationEntityTitle == "CT1"


def test_enhanced_ct_is_stored(start: Start) -> None:
    station, ds = start(), enhanced_ct(4)
    with associated(station.port, classes=[EnhancedCTImageStorage]) as association:
        assert store(association, ds)[0] == 0x0000
    station.read_headers()
    series = station.ledger.series.get(SERIES_UID)
    assert series is not None
    assert len(series.instances[0].summary.slices) == 4


def test_what_is_no_ct_is_refused_in_negotiation(start: Start) -> None:
    others = [MRImageStorage, SecondaryCaptureImageStorage, XRayRadiationDoseSRStorage]
    with associated(start().port, classes=[CTImageStorage, *others]) as association:
        assert [one.abstract_syntax for one in association.accepted_contexts] == [CTImageStorage]
        # PS3.8 9.3.3.2: 3 is "abstract syntax not supported".
        assert {one.abstract_syntax: one.result for one in association.rejected_contexts} == (
            dict.fromkeys(others, 3)
        )


def test_the_same_bytes_again_are_a_success_that_changes_nothing(start: Start) -> None:
    station = start()
    with associated(station.port) as association:
        assert [store(association, ct(1))[0] for _ in range(3)] == [0, 0, 0]
    assert len(station.held()) == 1
    assert station.kinds().count(Kind.INSTANCE_DUPLICATE) == 2


def test_other_bytes_of_a_uid_are_quarantined_and_refused(start: Start) -> None:
    station = start()
    with associated(station.port) as association:
        assert store(association, ct(1))[0] == 0x0000
        status, comment = store(association, ct(1, KVP="120"))
        assert status == Answer.OTHER_BYTES.value.code
        assert "other bytes" in comment
        # It goes on as if nothing had been.
        assert store(association, ct(2))[0] == 0x0000
    first = hashlib.sha256(encode(ct(1))).hexdigest()
    assert station.held()[f"{SERIES_UID}.1"] == first
    with station.ledger.database.reading() as session:
        (row,) = session.query(QuarantineRecord)
        assert station.archive.read_data_set(row.path) == encode(ct(1, KVP="120"))
    assert len(list((station.archive.folder / "instances").rglob("*.dcm"))) == 2


def test_bytes_that_come_in_another_transfer_syntax_leave_what_is_held(start: Start) -> None:
    """One at a time, and six at once, of which the first is kept."""
    station = start()
    statuses: list[int] = []

    def send(syntax: UID, number: int = 2) -> None:
        with associated(station.port, [syntax]) as association:
            sent = store_bytes(association, encode(ct(number)), CTImageStorage, uid_of(number))
            statuses.append(sent[0])

    for syntax in (ExplicitVRLittleEndian, RLELossless, ExplicitVRLittleEndian):
        send(syntax, 1)
    conflict = Answer.OTHER_BYTES.value.code
    assert statuses == [0x0000, conflict, 0x0000]
    syntaxes = [ExplicitVRLittleEndian, RLELossless, JPEG2000, JPEGLSLossless] * 2
    threads = [threading.Thread(target=send, args=(syntax,)) for syntax in syntaxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses[3:]) == [0x0000] * 2 + [conflict] * 6
    assert station.held().keys() == {uid_of(1), uid_of(2)}
    series = station.ledger.series.get(SERIES_UID)
    assert series is not None
    for one in series.instances:
        meta = dcmread(station.archive.resolve(one.path), stop_before_pixels=True).file_meta
        assert meta.TransferSyntaxUID == one.transfer_syntax_uid
    assert len(list((station.archive.folder / "instances").rglob("*.dcm"))) == 2
    # Of the first one, and the three others of the second.
    assert len(list((station.archive.folder / "quarantine").iterdir())) == 4


def test_an_instance_of_an_archive_with_other_names_stays_where_it_is(start: Start) -> None:
    """As an earlier version called it: the same again replaces it, or restores it when deleted."""
    station = start()
    with associated(station.port) as association:
        store(association, ct(1))
        with station.ledger.database.transaction() as session:
            row = session.query(InstanceRecord).one()
            new, row.path = row.path, f"instances/00/{SERIES_UID}/{uid_of(1)}-old.dcm"
            old = row.path
        place = station.archive.resolve(old)
        place.parent.mkdir(parents=True)
        station.archive.resolve(new).rename(place)
        assert store(association, ct(1))[0] == 0x0000
        mark_removed(station, old)
        place.unlink()
        assert store(association, ct(1))[0] == 0x0000
    assert station.held().keys() == {uid_of(1)}
    assert station.kinds().count(Kind.FILE_RESTORED) == 1
    assert not station.archive.resolve(new).exists()


def mark_removed(station: Station, path: str) -> None:
    """As retention leaves it, whose own way is tested elsewhere."""
    row = {"kind": "received", "unit": SERIES_UID, "subject": uid_of(1), "path": path}
    moments = {"marked_at": utc_now().isoformat(), "ended_at": utc_now().isoformat()}
    with station.ledger.database.transaction() as session:
        session.add(RemovalRecord(**row, rule="test", state="removed", **moments))


def test_two_senders_of_one_uid_at_once_leave_one_whole_instance(start: Start) -> None:
    station = start()
    statuses: list[int] = []

    def send(kvp: str) -> None:
        with associated(station.port) as association:
            statuses.append(store(association, ct(1, KVP=kvp))[0])

    threads = [threading.Thread(target=send, args=(str(kvp),)) for kvp in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses) == [0x0000, *[Answer.OTHER_BYTES.value.code] * 5]
    assert len(station.held()) == 1
    assert len(list((station.archive.folder / "instances").rglob("*.dcm"))) == 1
    assert len(list((station.archive.folder / "quarantine").iterdir())) == 5


def test_a_series_of_another_study_is_quarantined(start: Start) -> None:
    station = start()
    with associated(station.port) as association:
        store(association, ct(1))
        status, comment = store(association, ct(2, StudyInstanceUID="1.2.3"))
    assert status == Answer.OTHER_STUDY.value.code
    assert "another study" in comment


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (bytes(6), Answer.UNREADABLE),
        (b"GIF89a" * 100, Answer.UNREADABLE),
        (encode(ct(1))[:60], Answer.UNIDENTIFIED),
        (encode(ct(1, SeriesInstanceUID=None)), Answer.UNIDENTIFIED),
        (encode(ct(1, SeriesInstanceUID="../../../tmp/x")), Answer.UNIDENTIFIED),
        (encode(ct(2)), Answer.MISMATCH),
        (encode(ct(1, SOPClassUID=MRImageStorage)), Answer.MISMATCH),
    ],
    ids=["short", "foreign", "cut", "no series", "hostile series", "other instance", "other class"],
)
def test_what_cannot_be_understood_has_a_status_of_its_own(
    start: Start, content: bytes, answer: Answer
) -> None:
    station = start()
    with associated(station.port) as association:
        status, comment = store_bytes(association, content, CTImageStorage, f"{SERIES_UID}.1")
        assert (status, bool(comment)) == (answer.value.code, True)
        assert len(comment) <= 64
        assert store(association, ct(3))[0] == 0x0000
    assert station.kinds().count(Kind.INSTANCE_REFUSED) == 1
    assert list(station.held()) == [f"{SERIES_UID}.3"]


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        (encode(ct(1, PixelData=None)), Pixels.ABSENT),
        (encode(ct(1))[:-100], Pixels.TRUNCATED),
        (encode(ct(1, PixelData=bytes(10))), Pixels.TRUNCATED),
    ],
    ids=["absent", "cut off", "too short"],
)
def test_a_readable_instance_without_whole_pixels_is_stored_to_be_declined(
    start: Start, content: bytes, pixels: Pixels
) -> None:
    station = start()
    with associated(station.port) as association:
        assert store_bytes(association, content, CTImageStorage, f"{SERIES_UID}.1")[0] == 0
    assert station.ledger.series.summaries(SERIES_UID) == (UNREAD,)
    station.read_headers()
    assert station.ledger.series.summaries(SERIES_UID)[0].pixels is pixels


def test_a_full_disk_is_refused_before_it_is_full(start: Start) -> None:
    station = start(minimum_free_bytes=2**62)
    with associated(station.port) as association:
        status, comment = store(association, ct(1))
    assert status == 0xA700
    assert "free space" in comment
    assert station.held() == {}
    assert station.kinds() == [Kind.INSTANCE_REFUSED]


def test_a_disk_that_fails_is_out_of_resources(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    station, real = start(), os.replace

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with associated(station.port) as association:
        monkeypatch.setattr(os, "replace", fail)
        status, comment = store(association, ct(1))
        assert (status, "No space left" in comment) == (0xA700, True)
        monkeypatch.setattr(os, "replace", real)
        assert store(association, ct(1))[0] == 0x0000


def test_a_busy_ledger_is_out_of_resources(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    station = start()
    with associated(station.port) as association:
        with station.ledger.database.transaction():
            assert store(association, ct(1))[0] == 0xA700
        assert station.held() == {}
        assert store(association, ct(1))[0] == 0x0000


def test_a_fault_of_ours_is_told_as_such_and_quotes_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError(PATIENT[0])

    station = start()
    monkeypatch.setattr("node.intake.identify", fail)
    with associated(station.port) as association:
        status, comment = store(association, ct(1))
    assert status == Answer.PROCESSING_FAILURE.value.code
    assert PATIENT[0] not in comment
    assert "ValueError" in comment


@contextmanager
def refusing(station: Station, event: str) -> Iterator[None]:
    """The database refuses a statement, as one that is broken does: by no error of its absence."""
    engine = station.ledger.database.engine
    with engine.begin() as connection:
        refuse = "BEGIN SELECT RAISE(ABORT, 'broken'); END"
        connection.exec_driver_sql(f"CREATE TRIGGER refusing BEFORE {event} {refuse}")
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER refusing")


@pytest.mark.parametrize("event", ["INSERT ON audit_event", "INSERT ON association"])
def test_a_ledger_that_is_broken_is_a_fault_of_ours(start: Start, event: str) -> None:
    station = start()
    with associated(station.port) as association:
        with refusing(station, event):
            status, comment = store(association, ct(1))
            assert status == Answer.PROCESSING_FAILURE.value.code
            assert "IntegrityError" in comment
        assert store(association, ct(1))[0] == 0x0000


def test_what_ended_while_the_ledger_was_broken_is_closed_later(start: Start) -> None:
    station = start()
    with associated(station.port) as association:
        assert store(association, ct(1))[0] == 0x0000
        with refusing(station, "UPDATE ON association"):
            association.release()
            wait_until(lambda: not station.receiver.open_associations)
    assert station.endings() == [None]
    assert station.receiver.close_gone() == 1
    assert station.endings() == ["orphaned"]


@pytest.mark.parametrize("looks", [0, 1])
def test_a_disk_that_does_not_tell_its_room_is_out_of_resources(
    start: Start, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """Before a data set, and within one."""
    station, real, seen = start(), os.statvfs, iter(range(looks))

    def fail(path: Any) -> os.statvfs_result:
        if next(seen, None) is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path)

    monkeypatch.setattr("node.intake._LOOK_BYTES", 1000)
    with associated(station.port) as association:
        with monkeypatch.context() as broken:
            broken.setattr(os, "statvfs", fail)
            status, comment = store(association, ct(1))
        assert (status, "Stale" in comment) == (0xA700, True)
        assert list((station.archive.folder / "incoming").iterdir()) == []
        assert store(association, ct(1))[0] == 0x0000


def test_who_gets_no_answer_is_told_that_it_is_over(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("against the contract of a sink")

    station, heard = start(), list[type]()
    monkeypatch.setattr(station.receiver, "_take", fail)
    with associated(station.port) as association:
        association.bind(evt.EVT_PDU_RECV, lambda event: heard.append(type(event.pdu)))
        with pytest.raises(ConnectionError):
            store(association, ct(1))
        wait_until(lambda: association.is_aborted)
    assert heard == [A_ABORT_RQ]
    wait_until(lambda: not station.receiver.open_associations)
    assert list((station.archive.folder / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("receive", "calling", "called", "diagnostic"),
    [
        ({}, "CT1", "OTHER", 0x07),
        ({"allow_any_peer": False}, "CT1", "PSEUDOMRI", 0x03),
        (
            {"allow_any_peer": False, "peers": [{"ae_title": "CT2", "address": "any"}]},
            "CT1",
            "PSEUDOMRI",
            0x03,
        ),
        (
            {"allow_any_peer": False, "peers": [{"ae_title": "CT1", "address": "10.0.0.5"}]},
            "CT1",
            "PSEUDOMRI",
            0x03,
        ),
        (
            {"allow_any_peer": False, "peers": [{"ae_title": "CT1", "address": "128.0.0.0/1"}]},
            "CT1",
            "PSEUDOMRI",
            0x03,
        ),
    ],
)
def test_strangers_are_rejected_and_on_record(
    start: Start, receive: dict[str, Any], calling: str, called: str, diagnostic: int
) -> None:
    station = start(**receive)
    with associated(station.port, calling_ae=calling, called_ae=called) as association:
        assert association.is_rejected
        rejection = association.acceptor.primitive
        assert (rejection.result, rejection.result_source) == (0x01, 0x01)
        assert rejection.diagnostic == diagnostic
    (event,) = wait_until(lambda: list(station.ledger.reports.events()))
    assert event.kind == Kind.ASSOCIATION_REFUSED
    assert (event.subject, event.detail["called_ae"]) == (calling, called)
    assert event.detail["peer_address"] == "127.0.0.1"


def test_a_stranger_that_tries_again_and_again_is_summed_up(start: Start) -> None:
    station = start(allow_any_peer=False)
    for _ in range(5):
        with associated(station.port) as association:
            assert association.is_rejected
    wait_until(lambda: not station.receiver.open_associations)
    assert station.kinds() == [Kind.ASSOCIATION_REFUSED]
    station.receiver.stop(grace_s=5)
    first, rest = station.ledger.reports.events()
    assert (first.detail["count"], rest.detail["count"]) == (1, 4)
    assert (rest.subject, rest.detail["reason"]) == ("CT1", "not among receive.peers")


def test_a_named_peer_at_its_address_is_let_in(start: Start) -> None:
    peers = [
        {"ae_title": "CT1", "address": "127.0.0.1"},
        {"ae_title": "CT2", "address": "127.0.0.0/8"},
        {"ae_title": "CT3", "address": "any"},
    ]
    station = start(allow_any_peer=False, peers=peers)
    for calling in ("CT1", "CT2", "CT3"):
        with associated(station.port, calling_ae=calling) as association:
            assert association.is_established


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the system has no IPv6")
def test_an_address_of_ipv6_takes_both_kinds_of_peer(tmp_path: Path) -> None:
    peers = [{"ae_title": "CT1", "address": "127.0.0.1"}, {"ae_title": "CT6", "address": "::1"}]
    ledger = new_ledger(tmp_path, utc_now)
    node = {"bind_address": "::", "port": 0, "data_folder": tmp_path}
    settings = settings_for(tmp_path, node=node, receive={"allow_any_peer": False, "peers": peers})
    with open_port("::", 0) as port:
        receiver = Receiver(settings, ledger, new_archive(tmp_path), port=port)
        receiver.start()
        try:
            with associated(receiver.port) as association:
                assert association.is_established
            with associated(receiver.port, calling_ae="CT6", host="::1") as association:
                assert association.is_established
        finally:
            receiver.stop(grace_s=5)
            ledger.close()


def test_too_many_associations_are_rejected_for_now(start: Start) -> None:
    station = start(maximum_associations=1)
    with associated(station.port) as first, associated(station.port) as second:
        assert first.is_established
        assert second.is_rejected
        # PS3.8 9.3.4: transient, presentation related, local limit exceeded.
        rejection = second.acceptor.primitive
        assert (rejection.result, rejection.result_source, rejection.diagnostic) == (2, 3, 2)
    wait_until(lambda: station.kinds() == [Kind.ASSOCIATION_REFUSED])


def test_one_peer_cannot_take_all_associations(start: Start) -> None:
    station = start(maximum_associations_per_peer=1)
    with associated(station.port) as first, associated(station.port, calling_ae="CT2") as second:
        assert first.is_established
        rejection = second.acceptor.primitive
        assert (rejection.result, rejection.result_source, rejection.diagnostic) == (2, 3, 2)
    wait_until(lambda: not station.receiver.open_associations)
    with associated(station.port) as third:
        assert third.is_established


@pytest.mark.parametrize(
    ("part", "question", "error"),
    [
        ("_proofs", "is_expected", RuntimeError("no answer")),
        ("_proofs", "is_expected", Retry("the ledger is away")),
        ("_seats", "take", OSError(errno.ENOLCK, "no locks available")),
    ],
)
def test_a_door_that_cannot_tell_who_may_come_in_stays_shut(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    question: str,
    error: Exception,
) -> None:
    """pynetdicom accepts when the handler that should reject raises."""
    peers = [{"ae_title": "CT1", "address": "127.0.0.1"}]
    station = start(allow_any_peer=False, peers=peers)

    def fail(asked: str) -> None:
        del asked
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(getattr(station.receiver, part), question, fail)
        calling = "PROOFX" if part == "_proofs" else "CT1"
        with associated(station.port, calling_ae=calling) as association:
            assert association.is_rejected
            answer = association.acceptor.primitive
            # PS3.8 9.3.4: for now; the provider is congested.
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
    with associated(station.port) as association:
        assert store(association, ct(1))[0] == 0x0000


def test_a_data_set_beyond_the_limit_is_refused_and_leaves_nothing(start: Start) -> None:
    content = encode(ct(1))
    station = start(maximum_dataset_bytes=len(content) - 1)
    with associated(station.port) as association:
        status, comment = store_bytes(association, content, CTImageStorage, f"{SERIES_UID}.1")
        assert status == 0xA701
        assert "receive.maximum_dataset_bytes" in comment
        small = ct(2, PixelData=bytes(256))
        assert store(association, small)[0] == 0x0000
    assert list(station.held()) == [f"{SERIES_UID}.2"]
    assert len(list(station.archive.folder.rglob("*.dcm"))) == 1


def test_an_association_is_on_record_from_its_first_instance(start: Start) -> None:
    station = start()
    with associated(station.port) as association:
        assert station.endings() == []
        store(association, ct(1))
        assert station.endings() == [None]
        assert station.ledger.series.incoming()[0].open_associations == 1
    wait_until(lambda: station.endings() == ["released"])
    with associated(station.port) as association:
        store(association, ct(2))
        association.abort()
    wait_until(lambda: station.endings() == ["released", "aborted"])
    assert station.ledger.series.incoming()[0].was_cut_off


def test_a_silent_sender_is_cut_off(start: Start) -> None:
    station = start(network_timeout_s=0.3)
    with associated(station.port) as association:
        store(association, ct(1))
        wait_until(lambda: station.endings() == ["timed out"])


def test_a_restart_closes_what_was_left_open(start: Start) -> None:
    station = start()
    station.ledger.receiving.open_association("receive-0", "CT1", "PSEUDOMRI", "127.0.0.1")
    (station.archive.folder / "incoming" / "receive-0.1.1.tmp").write_bytes(b"half")
    later = start()
    assert later.endings() == ["orphaned"]
    assert list((station.archive.folder / "incoming").iterdir()) == []


def test_what_ended_while_the_ledger_was_busy_is_closed_later(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    station = start()
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    with associated(station.port) as stays:
        assert store(stays, ct(0))[0] == 0x0000
        with station.ledger.database.transaction(), associated(station.port) as one:
            # It has no place on record, and one that had ends meanwhile.
            assert store(one, ct(1))[0] == 0xA700
        with associated(station.port) as one:
            assert store(one, ct(1))[0] == 0x0000
            busy = station.ledger.database.transaction()
            busy.__enter__()
        wait_until(lambda: station.receiver.open_associations == 1, 10)
        with pytest.raises(Retry):
            station.receiver.close_gone()
        busy.__exit__(None, None, None)
        assert station.endings() == [None, None]
        assert station.receiver.close_gone() == 1
        assert station.receiver.close_gone() == 0
        assert station.endings() == [None, "orphaned"]
    assert station.endings() == ["released", "orphaned"]


def test_stopping_waits_for_senders_and_then_aborts(tmp_path: Path) -> None:
    station = Station(tmp_path)
    with associated(station.port) as association:
        store(association, ct(1))
        stopping = threading.Thread(target=station.receiver.stop, args=(0.5,))
        stopping.start()
        # An open association may go on while no new one is taken.
        assert store(association, ct(2))[0] == 0x0000
        stopping.join(30)
        assert not stopping.is_alive()
        wait_until(lambda: association.is_aborted)
    with associated(station.port) as refused:
        assert not refused.is_established
    assert len(station.held()) == 2
    assert station.endings() == ["aborted"]
    station.stop()


def test_a_port_in_use_stops_with_the_reason(tmp_path: Path, start: Start) -> None:
    taken = start()
    settings = settings_for(tmp_path)
    settings = settings.model_copy(
        update={"node": settings.node.model_copy(update={"port": taken.port})}
    )
    receiver = Receiver(settings, taken.ledger, taken.archive)
    with pytest.raises(Stop, match=r"node\.port"):
        receiver.start()
    with pytest.raises(Stop):
        _ = receiver.port
    receiver.stop(1)


def test_nothing_of_the_patient_is_in_logs_or_ledger(
    start: Start,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as events, warnings.catch_warnings(record=True) as seen:
        station = start()
        with associated(station.port, calling_ae=PATIENT[1]) as association:
            store(association, ct(1))
            store(association, ct(1, PatientID=PATIENT[1] + "b"))
            store(association, ct(2, PatientBirthDate="19610713 " + PATIENT[0]))
            store(association, ct(3, SeriesInstanceUID=None))
            content = encode(ct(4, SeriesInstanceUID=PATIENT[0]))
            store_bytes(association, content, CTImageStorage, f"{SERIES_UID}.4")
    assert {event["event"] for event in events} >= {"instance received", "instance refused"}
    output = capfd.readouterr()
    told = [caplog.text, str(events), output.out, output.err, *(str(one.message) for one in seen)]
    told += [path.read_bytes().decode("latin-1") for path in tmp_path.glob("node.sqlite*")]
    for word in (PATIENT[0], "Zebrowska", PATIENT[2], PATIENT[3], "Sturz"):
        assert not [text for text in told if word in text], word


def test_every_answer_is_in_the_table_once() -> None:
    assert len({status.code for status in STATUSES}) == len(STATUSES) == len(Answer)
    for status in STATUSES:
        assert status.meaning
        assert status.cause


def test_verification_leaves_no_trace(start: Start) -> None:
    station = start()
    ae = AE(ae_title="MONITOR")
    ae.add_requested_context(VERIFICATION)
    association = ae.associate("127.0.0.1", station.port, ae_title="PSEUDOMRI")
    assert association.send_c_echo().Status == 0x0000
    association.release()
    assert station.endings() == []
    assert station.kinds() == []


def test_dcmtk_verifies_and_sends(start: Start, tmp_path: Path) -> None:
    station = start()
    to_us = ("-aec", "PSEUDOMRI", "-aet", "DCMTK", "127.0.0.1", station.port)
    dcmtk("echoscu", *to_us)
    sources = tmp_path / "sources"
    sources.mkdir()
    files = [write_file(with_meta(ct(n)), sources / f"{n}.dcm") for n in range(1, 5)]
    for tool, file in (("dcmcrle", files[1]), ("dcmcjpeg", files[2]), ("dcmcjpls", files[3])):
        dcmtk(tool, "+un", file, file)  # keep the SOP Instance UID
    dcmtk("dcmsend", "--decompress-never", *to_us, *files[1:])
    dcmtk("storescu", *to_us, files[0])
    series = station.ledger.series.get(SERIES_UID)
    assert series is not None
    assert len(station.held()) == 4
    for one in series.instances:
        number = int(one.sop_instance_uid.rsplit(".", 1)[1])
        received = dcmread(station.archive.resolve(one.path))
        sent = dcmread(files[number - 1])
        assert received.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
        assert received.PixelData == sent.PixelData
        original = np.frombuffer(ct(number).PixelData, dtype=np.int16).reshape(16, 16)
        assert (received.pixel_array == original).all()
