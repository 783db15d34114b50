"""The SCU against peers that refuse, abort, fall silent or want another encoding."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider

from config.settings import DeliverySettings, load
from node.association import Rejected, Unreachable, associate
from node.deliver import OutgoingInstance, read_header, resolve, send
from node.errors import Refuse
from node.ledger.entries import Destination
from node.status import is_accepted, is_permanent
from tests.peers import LOOPBACK, ScriptedPeer, free_port


def write_instance(folder: Path, number: int) -> Path:
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = f"2.25.{number + 1}"
    ds.PatientName = "Phantom^One"
    ds.Modality = "OT"
    ds.Rows = ds.Columns = 64
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.full((64, 64), number, dtype="<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{number}.dcm"
    dcmwrite(path, ds, enforce_file_format=True)
    return path


@pytest.fixture
def instances(tmp_path: Path) -> list[OutgoingInstance]:
    return [read_header(write_instance(tmp_path, number)) for number in range(3)]


def at(peer: ScriptedPeer, ae_title: str = "PEER") -> Destination:
    return Destination("peer", ae_title, LOOPBACK, peer.port)


def data_set_digest(path: Path) -> str:
    content = path.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    return hashlib.sha256(content[144 + length :]).hexdigest()


def test_every_instance_gets_its_own_status(instances: list[OutgoingInstance]) -> None:
    script = {"2.25.1": 0x0000, "2.25.2": 0xA900, "2.25.3": 0xB000}
    with ScriptedPeer(answer=lambda uid, times: script[uid]) as peer:
        answers = list(send(instances, at(peer), "US", 10))
    assert {answer.sop_instance_uid: answer.status for answer in answers} == script
    assert peer.associations == 1


def test_the_archived_bytes_are_what_is_sent(instances: list[OutgoingInstance]) -> None:
    with ScriptedPeer() as peer:
        list(send(instances, at(peer), "US", 10))
    assert peer.accepted() == {
        one.sop_instance_uid: {data_set_digest(one.path)} for one in instances
    }


def test_a_peer_that_only_knows_implicit_vr_gets_it(instances: list[OutgoingInstance]) -> None:
    with ScriptedPeer(syntaxes=[ImplicitVRLittleEndian]) as peer:
        answers = list(send(instances, at(peer), "US", 10))
    assert [answer.status for answer in answers] == [0, 0, 0]


def test_an_abort_ends_the_attempt_and_keeps_the_answers(
    instances: list[OutgoingInstance],
) -> None:
    heard = []
    with ScriptedPeer(answer=lambda uid, times: None if uid == "2.25.2" else 0) as peer:
        answers = send(instances, at(peer), "US", 10)
        heard.append(next(answers).sop_instance_uid)
        with pytest.raises(Unreachable, match="aborted or fell silent"):
            next(answers)
    assert heard == ["2.25.1"]


def test_stopping_early_releases_the_association(instances: list[OutgoingInstance]) -> None:
    with ScriptedPeer() as peer:
        answers: Iterator[object] = send(instances, at(peer), "US", 10)
        next(answers)
        answers.close()  # type: ignore[attr-defined]
    assert len(peer.heard) == 1


def test_nobody_listening_may_pass(instances: list[OutgoingInstance]) -> None:
    nowhere = Destination("nowhere", "PEER", LOOPBACK, free_port())
    with pytest.raises(Unreachable, match="PEER at"):
        list(send(instances, nowhere, "US", 5))


def test_an_unknown_host_may_pass(instances: list[OutgoingInstance]) -> None:
    nowhere = Destination("nowhere", "PEER", "no-such-host.invalid", 104)
    with pytest.raises(Unreachable):
        list(send(instances, nowhere, "US", 5))


def test_an_unknown_ae_title_is_meant(instances: list[OutgoingInstance]) -> None:
    with (
        ScriptedPeer(require_called=True) as peer,
        pytest.raises(Rejected, match="Called AE title not recognised"),
    ):
        list(send(instances, at(peer, "OTHER"), "US", 5))


def test_a_peer_without_our_sop_class_is_meant(instances: list[OutgoingInstance]) -> None:
    with (
        ScriptedPeer(contexts=[CTImageStorage]) as peer,
        pytest.raises(Rejected, match="Secondary Capture"),
    ):
        list(send(instances, at(peer), "US", 5))


def test_a_compressed_instance_needs_its_own_syntax(instances: list[OutgoingInstance]) -> None:
    compressed = OutgoingInstance(
        SecondaryCaptureImageStorage, "2.25.1", JPEGLSLossless, instances[0].path
    )
    with ScriptedPeer() as peer:
        answers = list(send([compressed, instances[1]], at(peer), "US", 5))
    assert [answer.status for answer in answers] == [0x0122, 0x0000]
    assert len(peer.heard) == 1
    with ScriptedPeer() as peer, pytest.raises(Rejected, match="accepts no presentation context"):
        list(send([compressed], at(peer), "US", 5))


def test_nothing_to_send_opens_no_association() -> None:
    assert list(send([], Destination("nowhere", "PEER", LOOPBACK, 1), "US", 1)) == []


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not DICOM")
    with pytest.raises(Refuse, match=r"notes\.txt"):
        read_header(tmp_path / "notes.txt")


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007, 0x0111])
def test_accepted(status: int) -> None:
    assert is_accepted(status)
    assert not is_permanent(status)


@pytest.mark.parametrize("status", [0xA900, 0xA901, 0xC000, 0xC123, 0x0122, 0x0124])
def test_refused_for_good(status: int) -> None:
    assert not is_accepted(status)
    assert is_permanent(status)


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110, 0xFE00])
def test_refused_for_now(status: int) -> None:
    assert not is_accepted(status)
    assert not is_permanent(status)


def test_the_sender_gets_a_copy_when_wanted() -> None:
    defaults = load().delivery.model_dump()
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "192.0.2.1", "port": 104}
    plain = DeliverySettings(**{**defaults, "destinations": [pacs]})
    assert [d.name for d in resolve(plain, "CT1", "192.0.2.7")] == ["pacs"]
    both = plain.model_copy(update={"back_to_sender": True, "sender_port": 4242})
    sender = resolve(both, "CT1", "192.0.2.7")[1]
    assert sender == Destination("sender", "CT1", "192.0.2.7", 4242)


def test_the_instance_written_here_is_readable(tmp_path: Path) -> None:
    assert dcmread(write_instance(tmp_path, 0)).SOPInstanceUID == "2.25.1"


def test_a_rejection_is_heard_though_the_connection_is_closed_by_then() -> None:
    late = [(evt.EVT_REQUESTED, lambda event: time.sleep(0.5))]
    contexts = [(SecondaryCaptureImageStorage, ImplicitVRLittleEndian)]
    with (
        ScriptedPeer(require_called=True) as peer,
        pytest.raises(Rejected, match="Called AE title not recognised"),
    ):
        associate(contexts, at(peer, "WRONG"), "PSEUDOMRI", 5.0, late)


def test_no_answer_is_lost_to_a_reactor_that_goes_on_late(
    instances: list[OutgoingInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system holds its thread between being let go on and saying so, and then the sender's."""
    me, states = threading.get_ident(), {}
    get_msg = DIMSEServiceProvider.get_msg

    def hold_reactor(assoc: Association, is_paused: bool) -> None:
        if not is_paused and assoc.is_requestor and threading.get_ident() != me:
            time.sleep(0.02)
        states[assoc] = is_paused

    def hold_sender(provider: DIMSEServiceProvider, block: bool = False) -> Any:
        time.sleep(0.04 if block else 0)
        return get_msg(provider, block)

    is_paused = property(lambda assoc: states.get(assoc, False), hold_reactor)
    monkeypatch.setattr(Association, "_is_paused", is_paused, raising=False)
    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", hold_sender)
    with ScriptedPeer() as peer:
        answers = list(send(instances * 5, at(peer), "PSEUDOMRI", timeout_s=3))
    assert [answer.status for answer in answers] == [0x0000] * 15
