"""Storage commitment against a scripted destination and Orthanc: asked, reported, acted upon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from dbos import DBOSClient
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.dul import DULServiceProvider

from config.settings import DeliverySettings, load
from node import commitment, engine
from node.committer import Ask, Expire, GiveUp, SendAgain, Wait, next_step
from node.engine import delivery_id, delivery_options, engine_url
from node.errors import Retry
from node.ledger.commitments import Awaited, Transaction
from node.ledger.deliveries import Deliveries
from node.ledger.entries import DeliveryEntry, Destination, Output
from node.receive import Receiver
from node.states import CommitmentState, DeliveryState, SynthesisState
from tests.node.test_reconcile import attempts, end_workflow, reconcile
from tests.node.test_workflow import OUTPUTS, Node
from tests.peers import LOOPBACK, ScriptedPeer, start_orthanc, wait_until

INSTANCE = "1.2.840.10008.1.20.1.1"


class Archive:
    """A destination with storage commitment; what it reports is scripted.

    Args:
        fails: Of the instances it was asked about the n-th time, from 1, those it does not commit
            to; None to report nothing.
        port: Of ours to report to; None to report on the association of the request.
        is_mute: Leave out of the report what it does not commit to.
    """

    def __init__(
        self,
        fails: Callable[[list[str], int], list[str] | None],
        port: int | None = None,
        is_mute: bool = False,
    ):
        self.fails, self.port, self.is_mute = fails, port, is_mute
        self.asked: list[str] = []
        self.statuses: list[int] = []
        self.answered = threading.Event()
        self.peer = ScriptedPeer(
            contexts=[SecondaryCaptureImageStorage, commitment.SOP_CLASS],
            handlers=[
                (evt.EVT_N_ACTION, self._action),
                (evt.EVT_PDU_SENT, lambda event: self.answered.set()),
            ],
        )

    def _action(self, event: evt.Event) -> tuple[int, None]:
        wanted = event.action_information
        uids = [str(item.ReferencedSOPInstanceUID) for item in wanted.ReferencedSOPSequence]
        self.asked.append(str(wanted.TransactionUID))
        failed = self.fails(uids, len(self.asked))
        self.answered.clear()
        if failed is not None:
            told = [uid for uid in uids if uid not in failed] if self.is_mute else uids
            ds = report(str(wanted.TransactionUID), told, [] if self.is_mute else failed)
            threading.Thread(target=self._report, args=(event.assoc, ds)).start()
        return 0x0000, None

    def _report(self, assoc: Any, ds: Dataset) -> None:
        if self.port is not None:
            self.statuses.append(send_report(self.port, ds))
        else:
            # The response to the request is on its way: the next message is the report.
            assert self.answered.wait(30)
            self.statuses.append(report_on(assoc, ds))


def report(transaction_uid: str, uids: list[str], failed: list[str]) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    good, bad = [uid for uid in uids if uid not in failed], failed
    for keyword, some in (("ReferencedSOPSequence", good), ("FailedSOPSequence", bad)):
        items = []
        for uid in some:
            item = Dataset()
            item.ReferencedSOPClassUID = SecondaryCaptureImageStorage
            item.ReferencedSOPInstanceUID = uid
            if keyword == "FailedSOPSequence":
                item.FailureReason = 0x0112
            items.append(item)
        if items:
            setattr(ds, keyword, items)
    return ds


def report_on(assoc: Any, ds: Dataset, event_type: int | None = None) -> int:
    kind = event_type or (2 if "FailedSOPSequence" in ds else 1)
    status, _ = assoc.send_n_event_report(ds, kind, commitment.SOP_CLASS, INSTANCE)
    return int(status.Status)


def send_report(
    port: int, ds: Dataset, event_type: int | None = None, selects_role: bool = True
) -> int:
    """Report on an association that the destination opens, as its SCP."""
    ae = AE(ae_title="PEER")
    ae.add_requested_context(commitment.SOP_CLASS, ImplicitVRLittleEndian)
    roles = [build_role(commitment.SOP_CLASS, scp_role=True)] if selects_role else []
    assoc = ae.associate(LOOPBACK, port, ae_title="PSEUDOMRI", ext_neg=roles)
    assert assoc.is_established
    try:
        return report_on(assoc, ds, event_type)
    finally:
        assoc.release()


@contextmanager
def receiving(node: Node) -> Iterator[int]:
    """Our Storage SCP beside the worker, open to any peer; its port."""
    section = node.settings.receive.model_copy(update={"allow_any_peer": True})
    settings = node.settings.model_copy(update={"receive": section})
    receiver = Receiver(settings, node.ledger, node.archive)
    receiver.start()
    try:
        yield receiver.port
    finally:
        receiver.stop(5)


@contextmanager
def committing(node: Node) -> Iterator[None]:
    """A worker and its committer, taking turns without rest."""
    stop = threading.Event()
    with node.worker() as worker:
        committer = worker.committer()

        def turns() -> None:
            while not stop.wait(0.05):
                committer.run_once()

        thread = threading.Thread(target=turns)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def destination(port: int) -> dict[str, Any]:
    return {
        "name": "pacs",
        "ae_title": "PEER",
        "host": LOOPBACK,
        "port": port,
        "storage_commitment": True,
    }


@pytest.mark.parametrize("is_same_association", [True, False])
def test_a_synthesis_is_committed_when_its_destination_commits(
    tmp_path: Path, is_same_association: bool
) -> None:
    archive = Archive(lambda uids, times: [])
    with archive.peer:
        stay_s = 5.0 if is_same_association else 0.0
        node = Node(tmp_path, [destination(archive.peer.port)], commitment_stay_s=stay_s)
        with receiving(node) as port:
            archive.port = None if is_same_association else port
            node.dispatch()
            with committing(node):
                node.wait_for(SynthesisState.COMMITTED)
    assert archive.statuses == [0x0000]
    (line,) = node.ledger.reports.jobs()
    assert line["deliveries"][0]["state"] == DeliveryState.COMMITTED
    events = node.ledger.reports.events()
    kinds = [event.kind for event in events if not event.kind.startswith("worker.")]
    told = ["synthesis.delivered", "commitment.requested", "commitment.committed"]
    assert kinds[-4:] == [*told, "synthesis.committed"]
    node.check_audit()


@pytest.mark.parametrize("is_late", [False, True])
def test_our_answer_to_a_report_goes_before_the_release(
    monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """However long pynetdicom takes to send it, and though our stay may end meanwhile."""
    send_pdu, me = DULServiceProvider.send_pdu, threading.get_ident()

    def slow(provider: DULServiceProvider, primitive: Any) -> None:
        if provider.assoc.is_requestor and threading.get_ident() != me:
            sleep(0.3)
        send_pdu(provider, primitive)

    monkeypatch.setattr(DULServiceProvider, "send_pdu", slow)
    archive, heard = Archive(lambda uids, times: []), []

    def note(one: commitment.Report, sender: str) -> None:
        sleep(0.2 if is_late else 0)
        heard.append(one.committed)

    with archive.peer:
        peer = Destination("pacs", "PEER", LOOPBACK, archive.peer.port)
        stay_s = 0.1 if is_late else 5.0
        commitment.request(["1.2.3"], peer, "PSEUDOMRI", "2.25.1", 10.0, stay_s, note)
        wait_until(lambda: archive.statuses, 20, "an answer to the report")
    assert archive.statuses == [0x0000]
    assert heard == [{"1.2.3"}]


def test_without_a_report_nothing_is_committed(tmp_path: Path) -> None:
    archive = Archive(lambda uids, times: None)
    with archive.peer:
        node = Node(
            tmp_path,
            [destination(archive.peer.port)],
            commitment_stay_s=0.0,
            commitment_timeout_s=0.3,
            commitment_tries=2,
        )
        node.dispatch()
        with committing(node):
            node.wait_for(SynthesisState.FAILED)
        assert len(archive.asked) == 2
        reason = str(node.ledger.syntheses.get(node.job_id).reason)
        assert reason == "pacs did not commit: no report came in time"
        assert len(archive.peer.heard) == OUTPUTS
        # An operator mends the archive: what it has is not sent twice, it is asked anew.
        archive.fails = lambda uids, times: []
        node.settings = with_stay(node, 5.0)
        node.ledger.syntheses.retry(node.job_id, "operator")
        node.dispatch()
        with committing(node):
            node.wait_for(SynthesisState.COMMITTED)
    assert len(archive.peer.heard) == OUTPUTS
    node.check_audit()


def with_stay(node: Node, stay_s: float) -> Any:
    changes = {"commitment_stay_s": stay_s, "commitment_timeout_s": 30.0}
    delivery = node.settings.delivery.model_copy(update=changes)
    return node.settings.model_copy(update={"delivery": delivery})


@pytest.mark.parametrize("is_mute", [False, True])
def test_what_is_refused_or_forgotten_is_sent_again(tmp_path: Path, is_mute: bool) -> None:
    archive = Archive(lambda uids, times: uids[:2] if times == 1 else [], is_mute=is_mute)
    with archive.peer:
        node = Node(tmp_path, [destination(archive.peer.port)], commitment_stay_s=5.0)
        node.dispatch()
        with committing(node):
            node.wait_for(SynthesisState.COMMITTED)
        times = sorted(archive.peer.times(uid) for uid in archive.peer.accepted())
    assert times == [1] * (OUTPUTS - 2) + [2, 2]
    assert len(archive.asked) == len(set(archive.asked)) == 2
    assert "commitment.refused" in [event.kind for event in node.ledger.reports.events()]
    node.check_audit()


def test_a_destination_that_never_commits_is_a_dead_letter(tmp_path: Path) -> None:
    archive = Archive(lambda uids, times: uids[:1])
    with archive.peer:
        node = Node(tmp_path, [destination(archive.peer.port)], commitment_stay_s=5.0)
        node.dispatch()
        with committing(node):
            node.wait_for(SynthesisState.FAILED)
        assert len(archive.asked) == 3
    reason = str(node.ledger.syntheses.get(node.job_id).reason)
    assert reason == "pacs did not commit: refused 1 with 0x0112"


def test_a_destination_without_storage_commitment_is_told_of(tmp_path: Path) -> None:
    with ScriptedPeer(contexts=[SecondaryCaptureImageStorage]) as peer:
        node = Node(tmp_path, [destination(peer.port)])
        node.dispatch()
        with committing(node):
            node.wait_for(SynthesisState.FAILED)
    reason = str(node.ledger.syntheses.get(node.job_id).reason)
    assert "accepts no presentation context for Storage Commitment Push Model" in reason


def refused(node: Node, uid: str) -> None:
    """The destination has everything and stands for all but one instance."""
    (seen,) = node.ledger.commitments.awaited(node.job_id, {"pacs"})
    assert node.ledger.commitments.request(seen, uid, "tests")
    first, *others = [output.sop_instance_uid for output in seen.outputs]
    node.ledger.commitments.report(uid, others, {first: 0x0112}, "PEER")


def reconciling(node: Node, state: SynthesisState) -> None:
    """Let the committer and the reconciler take turns until the synthesis is in this state."""
    with committing(node):
        wait_until(lambda: reconcile(node) * 0 + (node.state == state), 40, state)


def test_a_lost_send_again_is_sent_again_under_a_new_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is away when the workflow would begin, for longer than the engine tries."""
    monkeypatch.setattr(engine, "LEDGER_TRIES", 1)
    begin, lost = Deliveries.begin_attempt, []

    def begin_attempt(deliveries: Deliveries, delivery: int, actor: str) -> Any:
        if deliveries.get(delivery).state == DeliveryState.DELIVERED and len(lost) < 2:
            lost.append(delivery)
            raise Retry("the ledger was away")
        return begin(deliveries, delivery, actor)

    monkeypatch.setattr(Deliveries, "begin_attempt", begin_attempt)
    archive = Archive(lambda uids, times: uids[:1] if times == 1 else [])
    with archive.peer:
        node = Node(tmp_path, [destination(archive.peer.port)], commitment_stay_s=5.0)
        node.dispatch()
        reconciling(node, SynthesisState.COMMITTED)
        assert sorted(map(archive.peer.times, archive.peer.accepted()))[-2:] == [1, 2]
    assert len(lost) == 2
    assert attempts(node) == ["delivered", "interrupted", "interrupted", "delivered"]
    node.check_audit()


def test_a_send_again_that_the_engine_gave_up_is_a_dead_letter(tmp_path: Path) -> None:
    """And a retry is not offered under the id of what was given up."""
    with ScriptedPeer() as peer:
        plain = destination(peer.port) | {"storage_commitment": False}
        node = Node(tmp_path, [destination(peer.port)], commitment_stay_s=0.0)
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.DELIVERED)
        # The worker may have ended before the engine heard how the first attempt did.
        end_workflow(node, delivery_id(1, 1), "SUCCESS")
        refused(node, "2.25.501")
        gone = delivery_options({"delivery": 1, "number": 2, "priority": 5, "destination": "pacs"})
        client = DBOSClient(system_database_url=engine_url(node.settings))
        client.enqueue(gone, {})
        client.destroy()
        end_workflow(node, gone["workflow_id"], "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
        reconcile(node)
        assert node.state == SynthesisState.FAILED
        assert "too often" in str(node.ledger.syntheses.get(node.job_id).reason)
        node.settings = with_destinations(node, [plain])
        node.ledger.syntheses.retry(node.job_id, "operator")
        node.dispatch()
        reconciling(node, SynthesisState.COMMITTED)
        assert sorted(map(peer.times, peer.accepted()))[-2:] == [1, 2]
    node.check_audit()


def test_what_was_refused_is_sent_though_commitment_is_switched_off(tmp_path: Path) -> None:
    with ScriptedPeer() as peer:
        node = Node(tmp_path, [destination(peer.port)])
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.DELIVERED)
        # As often as makes it a dead letter where commitment is wanted.
        for number in range(node.settings.delivery.commitment_tries):
            refused(node, f"2.25.50{number}")
        node.settings = with_destinations(
            node, [destination(peer.port) | {"storage_commitment": False}]
        )
        with committing(node):
            node.wait_for(SynthesisState.COMMITTED)
        assert sorted(map(peer.times, peer.accepted()))[-2:] == [1, 2]
    node.check_audit()


def with_destinations(node: Node, destinations: list[dict[str, Any]]) -> Any:
    delivery = node.settings.delivery.model_dump() | {"destinations": destinations}
    section = DeliverySettings.model_validate(delivery)
    return node.settings.model_copy(update={"delivery": section})


def test_two_workers_ask_once(tmp_path: Path) -> None:
    with ScriptedPeer() as peer:
        node = Node(tmp_path, [destination(peer.port)])
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.DELIVERED)
    commitments = node.ledger.commitments
    (seen,) = commitments.awaited(node.job_id, {"pacs"})
    assert commitments.request(seen, "1.2.1", "one")
    assert not commitments.request(seen, "1.2.2", "another")
    (again,) = commitments.awaited(node.job_id, {"pacs"})
    assert [one.uid for one in again.transactions] == ["1.2.1"]


@pytest.mark.parametrize("selects_role", [True, False])
def test_reports_of_others_are_refused(tmp_path: Path, selects_role: bool) -> None:
    node = Node(tmp_path, [])
    with receiving(node) as port:
        stranger = report("1.2.3", ["1.2.4"], [])
        # PS3.7 10.1.1.1.8: 0x0115 is an invalid argument value, 0x0113 no such event type.
        assert send_report(port, stranger, selects_role=selects_role) == 0x0115
        assert send_report(port, stranger, event_type=7, selects_role=selects_role) == 0x0113
        del stranger.TransactionUID
        assert send_report(port, stranger, selects_role=selects_role) == 0x0115


def test_orthanc_commits_to_what_it_has_and_gets_again_what_it_lost(tmp_path: Path) -> None:
    node = Node(tmp_path, [])
    with (
        receiving(node) as port,
        start_orthanc(tmp_path / "orthanc", {"us": ("PSEUDOMRI", LOOPBACK, port)}) as orthanc,
    ):
        pacs = destination(orthanc.dicom_port) | {"ae_title": "ORTHANC"}
        delivery = node.settings.delivery.model_dump() | {"destinations": [pacs]}
        section = DeliverySettings.model_validate(delivery | {"commitment_stay_s": 0.0})
        node.settings = node.settings.model_copy(update={"delivery": section})
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.DELIVERED)
        orthanc.delete(f"/instances/{orthanc.get('/instances')[0]}")
        with committing(node):
            node.wait_for(SynthesisState.COMMITTED)
        assert len(orthanc.get("/instances")) == OUTPUTS
    events = list(node.ledger.reports.events())
    told = [(one.kind, one.actor) for one in events if "ORTHANC" in one.actor]
    assert told == [("commitment.refused", "ORTHANC"), ("commitment.committed", "ORTHANC")]


NOW = datetime(2026, 3, 1, tzinfo=UTC)
OUTPUT = Output("1.2", "1", "T2", 0, "p", "d", "path")


def awaited(
    *states: tuple[CommitmentState, float], remaining: bool = False, is_asked: bool = True
) -> Awaited:
    """A delivery with requests in these states, each made and ended so many seconds ago."""
    entry = DeliveryEntry(
        1, "job", Destination("pacs", "PEER", "h", 1), DeliveryState.DELIVERED, 1, 1, ""
    )
    transactions = tuple(
        Transaction(
            str(n),
            state,
            NOW - timedelta(seconds=ago),
            None if state is REQUESTED else NOW - timedelta(seconds=ago),
            "why",
        )
        for n, (state, ago) in enumerate(states)
    )
    left = (OUTPUT,) if remaining else ()
    return Awaited(entry, NOW - timedelta(seconds=10), (OUTPUT,), left, transactions, is_asked)


REQUESTED, REFUSED = CommitmentState.REQUESTED, CommitmentState.REFUSED
UNANSWERED, UNSENT = CommitmentState.UNANSWERED, CommitmentState.UNSENT


def test_the_rule() -> None:
    settings = load().delivery.model_copy(
        update={"commitment_timeout_s": 60.0, "commitment_tries": 2, "first_retry_s": 2.0}
    )

    def step(*states: tuple[CommitmentState, float], **how: bool) -> object:
        return next_step(awaited(*states, **how), NOW, settings)

    assert step() == Ask()
    assert step((REQUESTED, 59)) == Wait()
    late = awaited((REQUESTED, 60))
    assert next_step(late, NOW, settings) == Expire(late.transactions[0])
    until = NOW + timedelta(seconds=settings.give_up_s)
    assert step((REFUSED, 5), remaining=True) == SendAgain(until - timedelta(seconds=5))
    # It was to be sent again for that long, and no attempt ever began.
    assert step((REFUSED, settings.give_up_s), remaining=True) == GiveUp("why")
    # The settings want no commitment any more: all is sent, nothing is asked.
    unasked = {"remaining": True, "is_asked": False}
    assert step((REFUSED, 5), (REQUESTED, 1), **unasked) == SendAgain(until - timedelta(seconds=5))
    assert step(**unasked) == SendAgain(until - timedelta(seconds=10))
    assert step((REFUSED, 5)) == Ask()
    assert step((REFUSED, 1)) == Wait()
    assert step((REFUSED, 5), (UNANSWERED, 5)) == GiveUp("why")
    assert step((UNSENT, 100), (UNSENT, 80), (UNSENT, 60), (UNSENT, 17)) == Ask()
    assert step((UNSENT, 100), (UNSENT, 80), (UNSENT, 60), (UNSENT, 15)) == Wait()
    old = replace(awaited((UNSENT, 15)), delivered_at=NOW - timedelta(days=4))
    assert next_step(old, NOW, settings) == GiveUp("why")
