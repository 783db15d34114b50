"""Peers that are slow, half gone or too many: each meets a limit, and nobody waits for them."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import dcmread
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket

from config.settings import TlsSettings
from node.association import Unreachable
from node.clock import utc_now
from node.deliver import echo, read_header, send
from node.ledger.entries import Destination
from node.query import Query
from node.streaming import upper_layer
from node.tls import server_context
from tests.faults import Tried
from tests.node.certificates import Authority
from tests.node.samples import ct
from tests.node.scu import HOST, associated, store
from tests.node.test_deliver import write_instance
from tests.node.test_receive import Station
from tests.node.test_workflow import Node, to
from tests.peers import LOOPBACK, ScriptedPeer, wait_until

Start = Callable[..., Station]
# PS3.8 9.3.1: types of PDU.
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP = 1, 2, 3, 4, 5, 6
# Linux: a socket in repair mode is closed without a word to the other side.
TCP_REPAIR = 19
STORM = 200
# Of us, with a peer that we call.
PATIENCE_S = 0.3
PLACES = 10  # of one address: receive.maximum_associations_per_peer


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def begin(**receive: Any) -> Station:
            station = Station(tmp_path, **receive)
            stack.callback(station.stop)
            return station

        yield begin


def raw(association: Any) -> socket.socket:
    connection: socket.socket = association.dul.socket.socket
    return connection


def half_a_slice(association: Any) -> bytes:
    """The C-STORE request of a slice and the beginning of its data set, as they go on the wire."""
    sent: list[bytes] = []
    association.dul.socket.send = sent.append
    store_quietly(association)
    wire = b"".join(sent)
    return wire[: len(wire) // 2]


def store_quietly(association: Any) -> None:
    association.dimse_timeout = 0.2
    with pytest.raises(ConnectionError):
        store(association, ct(1))


def others_are_served(station: Station, number: int) -> None:
    with associated(station.port, calling_ae="CT2") as association:
        assert store(association, ct(number))[0] == 0x0000


def test_a_sender_that_trickles_is_cut_off(
    start: Start,
    tried: Tried,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A byte now and then: never silent, never done."""
    monkeypatch.setattr(upper_layer, "SLOWEST_BYTES_PER_S", 200)
    station = start(network_timeout_s=1.0)
    with associated(station.port) as association:
        store(association, ct(5))
        content = half_a_slice(association)
        connection, cut_off = raw(association), threading.Event()

        def trickle() -> None:
            for place in range(len(content)):
                try:
                    connection.sendall(content[place : place + 1])
                except OSError:
                    break
                if cut_off.wait(0.05):
                    break

        thread = threading.Thread(target=trickle)
        thread.start()
        others_are_served(station, 2)
        wait_until(lambda: "timed out" in station.endings(), 20)
        cut_off.set()
        thread.join(10)
        tried("a sender that trickles bytes, beside one that does not", seen(station))


def test_a_sender_that_vanishes_without_a_word_frees_its_place(start: Start, tried: Tried) -> None:
    station = start(network_timeout_s=0.5, maximum_associations=2)
    with associated(station.port) as association:
        store(association, ct(5))
        connection = raw(association)
        connection.sendall(half_a_slice(association))
        try:
            connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except PermissionError:
            pytest.skip("only root may close a connection without a FIN")
        others_are_served(station, 2)
        wait_until(lambda: "timed out" in station.endings(), 20)
    wait_until(lambda: not station.receiver.open_associations, 20)
    tried("a sender that vanishes without a FIN in the middle of a data set", seen(station))


def seen(station: Station) -> str:
    """How associations ended on record, and what is left of what they sent."""
    incoming = list((station.archive.folder / "incoming").iterdir())
    assert not incoming
    endings = Counter(str(one) for one in station.endings())
    told = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
    return f"associations: {told}; {len(station.held())} instances held, {len(incoming)} unfinished"


def test_connections_that_say_nothing_take_no_place(start: Start, tried: Tried) -> None:
    station = start(network_timeout_s=2.0, maximum_associations=2)
    silent = [socket.create_connection((HOST, station.port)) for _ in range(8)]
    try:
        others_are_served(station, 2)
        for one in silent:
            one.settimeout(20)
            assert one.recv(1) == b""
        tried(
            "8 connections that say nothing, where 2 associations may be",
            f"another sender is served, then all are closed; {seen(station)}",
        )
    finally:
        for one in silent:
            one.close()


def a_peer_that_never_answers() -> Iterator[int]:
    """Accepts connections and says nothing."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


silent_port = pytest.fixture(a_peer_that_never_answers)


def test_a_pacs_that_never_answers_holds_up_no_other(
    tmp_path: Path, silent_port: int, tried: Tried
) -> None:
    """One is silent from the connection on, one when it gets an instance."""
    hangs = threading.Event()

    def hang(uid: str, times: int) -> None:
        del uid, times
        hangs.wait(60)

    with (
        ScriptedPeer() as good,
        ScriptedPeer(answer=hang) as hanging,
    ):
        silent = {"name": "silent", "ae_title": "PEER", "host": LOOPBACK, "port": silent_port}
        names = [silent, to(hanging, "hanging"), to(good, "good")]
        node = Node(tmp_path, names, network_timeout_s=1.0)
        node.dispatch()
        with node.worker():

            def states() -> dict[str, str]:
                story = node.ledger.reports.show(node.job_id)
                return {one["destination"]: one["state"] for one in story["deliveries"]}

            wait_until(lambda: states().get("good") == "delivered", 30)

            def reasons(name: str) -> list[str]:
                story = node.ledger.reports.show(node.job_id)
                return [
                    str(attempt["reason"])
                    for one in story["deliveries"]
                    if one["destination"] == name
                    for attempt in one["attempts"]
                    if attempt["outcome"] == "postponed"
                ]

            for name in ("silent", "hanging"):
                wait_until(lambda name=name: reasons(name), 30, f"an attempt at {name} to end")
            for name, when in (("silent", "at once"), ("hanging", "at the first instance")):
                tried(
                    f"a PACS that accepts and never answers, {when}",
                    f"postponed: {without_port(reasons(name)[0])}; the other destination:"
                    f" {states()['good']}",
                )
            hangs.set()
        node.check_audit()


def accept(connection: socket.socket) -> None:
    """Accept the association that we ask for, with all it proposes."""
    request = A_ASSOCIATE_RQ()
    request.decode(read_pdu(connection))
    answer = request.to_primitive()
    answer.result, answer.result_source = 0, 1
    results = []
    for proposed in answer.presentation_context_definition_list:
        context = PresentationContext()
        context.context_id, context.result = proposed.context_id, 0
        context.add_transfer_syntax(proposed.transfer_syntax[0])
        results.append(context)
    answer.presentation_context_definition_results_list = results
    accepted = A_ASSOCIATE_AC()
    accepted.from_primitive(answer)
    connection.sendall(accepted.encode())


def stop_in_the_header(connection: socket.socket, kind: int, over: threading.Event) -> None:
    connection.sendall(bytes([kind, 0, 0]))
    over.wait()


def trickle(connection: socket.socket, kind: int, over: threading.Event) -> None:
    """A PDU that comes byte by byte: never silent, never done."""
    connection.sendall(bytes([kind, 0, 0, 1, 0, 0]))
    while not over.wait(0.02):
        connection.sendall(b"\0")


def do_not_read(connection: socket.socket, kind: int, over: threading.Event) -> None:
    del connection, kind
    over.wait()


def sip(connection: socket.socket, kind: int, over: threading.Event) -> None:
    """Read a little now and then: there is always room for more, soon."""
    del kind
    while not over.wait(0.02):
        connection.recv(8192)


@contextlib.contextmanager
def listening(
    act: Callable[..., None], answers: int, context: ssl.SSLContext | None = None
) -> Iterator[Destination]:
    """A peer for one connection, that acts up instead of giving the PDU `answers`."""
    over = threading.Event()

    def serve() -> None:
        connection = server.accept()[0]
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        with connection, contextlib.suppress(OSError):
            if answers != ASSOCIATE_AC:
                accept(connection)
            act(connection, answers, over)

    with socket.create_server((LOOPBACK, 0)) as server:
        # Little room for what it does not read.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Destination("peer", "PEER", LOOPBACK, server.getsockname()[1])
        finally:
            # Closing its connection also frees whoever still waits for it.
            over.set()
            thread.join()


def a_store(folder: Path, peer: Destination) -> object:
    return list(send([read_header(write_instance(folder, 1))], peer, "US", PATIENCE_S))


def a_large_store(folder: Path, peer: Destination) -> object:
    ds = dcmread(path := write_instance(folder, 1))
    ds.Rows = ds.Columns = 2048
    ds.BitsAllocated, ds.PixelData = 16, bytes(2048 * 2048 * 2)
    ds.save_as(path)
    return list(send([read_header(path)], peer, "US", PATIENCE_S))


def a_find(folder: Path, peer: Destination) -> object:
    del folder
    return Query(peer, "US", PATIENCE_S, lambda *_: None).series("1.2.3", "1.2.3.4")


def an_echo(folder: Path, peer: Destination) -> object:
    del folder
    return echo(peer, "US", PATIENCE_S)


@pytest.mark.parametrize(
    ("request_", "answers", "act"),
    [
        (an_echo, ASSOCIATE_AC, stop_in_the_header),
        (an_echo, ASSOCIATE_AC, trickle),
        (a_store, P_DATA_TF, stop_in_the_header),
        (a_store, P_DATA_TF, trickle),
        (a_find, P_DATA_TF, stop_in_the_header),
        (a_find, P_DATA_TF, trickle),
        (a_large_store, P_DATA_TF, do_not_read),
        (a_large_store, P_DATA_TF, sip),
    ],
)
def test_a_peer_that_we_call_and_that_stops_half_way(
    tmp_path: Path,
    request_: Callable[[Path, Destination], object],
    answers: int,
    act: Callable[..., None],
    tried: Tried,
) -> None:
    """However it stalls, whoever called it hears so in the end, and can call again."""
    with listening(act, answers) as peer:
        told = ends(lambda: request_(tmp_path, peer))
    what, how = (one.__name__.replace("_", " ") for one in (request_, act))
    tried(f"{what}: instead of PDU {answers} the peer does this: {how}", told)


def test_a_peer_that_trickles_behind_tls(tmp_path: Path, tried: Tried) -> None:
    authority = Authority(tmp_path)
    files = authority.settings(authority.issue("peer"))
    settings = TlsSettings(profile="bcp195", warn_before_expiry_days=30, **files)
    with listening(trickle, P_DATA_TF, server_context(settings, utc_now())) as peer:
        secure = replace(peer, tls=settings, tls_name="peer")
        tried("a store: the peer trickles behind TLS", ends(lambda: a_store(tmp_path, secure)))


def ends(call: Callable[[], object]) -> str:
    """A call of ours comes to its end, and that is `Unreachable`; why it was."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call())
        except Unreachable as error:
            found.append(error)

    caller = threading.Thread(target=run, daemon=True)
    caller.start()
    caller.join(10)
    assert not caller.is_alive(), "it still waits"
    assert isinstance(found[0], Unreachable)
    return without_port(f"Unreachable: {found[0]}")


def without_port(reason: str) -> str:
    """It is another one each time."""
    return re.sub(r":[0-9]{4,}", "", reason)


def test_a_storm_of_associations(tmp_path: Path, tried: Tried) -> None:
    """200 at once: those over the limit hear "not now", the others complete, and life goes on."""
    command = [sys.executable, "-m", "tests.node.receiver_process", str(tmp_path / "data")]
    (tmp_path / "data").mkdir()
    with (
        (tmp_path / "stderr.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            before = psutil.Process(process.pid).memory_info().rss
            outcomes = storm(port, *as_sent(port))
            assert outcomes["stored"] == PLACES
            assert outcomes["not now"] == STORM - PLACES, outcomes
            grown = psutil.Process(process.pid).memory_info().rss - before
            assert grown < 100_000_000
            with associated(port) as association:
                assert store(association, ct(STORM + 1))[0] == 0x0000
            told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            tried(
                f"{STORM} associations at once from one address, which may have {PLACES}",
                f"{told}; {grown / 1e6:.0f} MB of memory more; the next sender is served",
            )
        finally:
            process.kill()


def as_sent(port: int) -> tuple[bytes, bytes, bytes]:
    """What a sender puts on the wire: A-ASSOCIATE-RQ, a whole C-STORE request, A-RELEASE-RQ."""
    sent: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        send = AssociationSocket.send

        def keep(self: AssociationSocket, pdu: bytes) -> None:
            sent.append(bytes(pdu))
            send(self, pdu)

        patch.setattr(AssociationSocket, "send", keep)
        with associated(port, calling_ae="STORM") as association:
            assert store(association, ct(1))[0] == 0x0000
    by_kind = {pdu[0]: b"".join(one for one in sent if one[0] == pdu[0]) for pdu in sent}
    return by_kind[ASSOCIATE_RQ], by_kind[P_DATA_TF], by_kind[RELEASE_RQ]


def storm(port: int, request: bytes, slice_: bytes, release: bytes) -> Counter[str]:
    """All ask at once; nobody leaves before all have been answered."""
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection((HOST, port), 60)) for _ in range(STORM)
        ]
        for peer in peers:
            peer.sendall(request)
        answers = [read_pdu(peer) for peer in peers]
        taken = [p for p, answer in zip(peers, answers, strict=True) if answer[0] == ASSOCIATE_AC]
        for peer in taken:
            peer.sendall(slice_)
        for peer in taken:
            # Status (0000,0900) of Success.
            assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00" in read_pdu(peer)
            peer.sendall(release)
            assert read_pdu(peer)[0] == RELEASE_RP
    # PS3.8 9.3.4: rejected, transient, by the presentation service provider, local limit exceeded.
    not_now = sum(answer[0] == ASSOCIATE_RJ and answer[7:10] == b"\2\3\2" for answer in answers)
    return Counter({"stored": len(taken), "not now": not_now})


def read_pdu(peer: socket.socket) -> bytes:
    head = read_exactly(peer, 6)
    return head + read_exactly(peer, int.from_bytes(head[2:], "big"))


def read_exactly(peer: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        received += (more := peer.recv(count - len(received)))
        assert more, "the connection was closed without an answer"
    return received
