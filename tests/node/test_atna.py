"""Audit messages: what the standard says, what no one may read, and none is lost on the way."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from pydicom import dcmread

from config.settings import Destination as ConfiguredDestination
from config.settings import Settings
from node import audit
from node.archive import Archive
from node.atna.spool import NAME, Sender, Spool
from node.atna.syslog import Undelivered
from node.atna.telling import KEY_FILE, Telling, _write_once
from node.audit import Kind
from node.backup import backup
from node.errors import Retry
from node.ledger import Ledger
from node.ledger.entries import Destination, Output, Packaged
from node.ledger.figures import Backlog
from node.lock import alone
from node.parts import open_parts
from node.query import on_record
from node.states import SeriesState
from tests.node import journeys
from tests.node.certificates import Authority, Pair
from tests.node.journeys import SERIES_UID, STUDY_UID, put_ct_on_record
from tests.node.samples import PATIENT
from tests.node.syslog_servers import Listener, rsyslog
from tests.peers import LOOPBACK, wait_until

SCHEMA = etree.RelaxNG(etree.parse(str(Path(__file__).with_name("atna.rng"))))
PATIENT_ID = "PHI-7"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def ours(ca: Authority) -> Pair:
    return ca.issue("pseudomri")


@pytest.fixture(scope="module")
def theirs(ca: Authority) -> Pair:
    return ca.issue("audit")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Settings, Ledger, Archive]]:
    """A node with a day on record: a role, a stranger, a series, its synthesis, two attempts."""
    settings = journeys.settings_for(tmp_path / "node", [])
    journeys.prepare_node(settings)
    ledger, archive = open_parts(settings, "tests")
    ledger.outbox.note(Kind.APPLICATION_STARTED, "work", "work", {})
    ledger.receiving.refuse_association("STRANGER", "PSEUDOMRI", "192.0.2.9", "no <certificate>")
    put_ct_on_record(ledger, archive)
    for incoming in ledger.series.incoming():
        ledger.series.complete(incoming, "test", "completion")
    ledger.series.decide(SERIES_UID, 1, SeriesState.SELECTED, "c", "r", {}, "selection")
    waiting, uid = delivery_of(ledger, 1), "2.25.91"
    for status in (0xA700, 0x0000):
        attempt = ledger.deliveries.begin_attempt(waiting, "work")
        assert attempt is not None
        ledger.deliveries.answer(attempt, uid, status)
        if status:
            ledger.deliveries.postpone(attempt, "no room", "work")
        else:
            ledger.deliveries.delivered(attempt, "work")
    ledger.outbox.note(Kind.APPLICATION_STOPPED, "work", "work", {})
    yield settings, ledger, archive
    ledger.close()


def delivery_of(ledger: Ledger, version: int) -> int:
    """A delivery that waits, of a synthesis of this version of the series with one output."""
    new = journeys.new_synthesis(ledger, version)
    ledger.syntheses.create(new, "selection")
    ledger.syntheses.start(new.job_id, 1, "work")
    uid, path = f"2.25.9{version}", f"outputs/x/{version}.dcm"
    output = Output(uid, "2.25.8", "T2", 0, "0" * 64, "1" * 64, path)
    ledger.syntheses.package(new.job_id, 1, Packaged([output], {}, "cpu", {}, {}, ()), "work")
    pacs = Destination("pacs", "PACS", "pacs.example.org", 104)
    (waiting,) = ledger.deliveries.begin(new.job_id, 1, [pacs], "work")
    return waiting.id


def with_server(settings: Settings, port: int, tls: dict[str, Any], **changes: Any) -> Settings:
    atna = settings.atna.model_copy(
        update={"host": LOOPBACK, "port": port, "timeout_s": 10.0, "poll_s": 0.05, **changes}
    )
    section = type(settings.tls).model_validate(settings.tls.model_dump() | tls)
    return settings.model_copy(update={"atna": atna, "tls": section})


def server_context(ca: Authority, pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(ca.file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def xml_of(message: bytes) -> Any:
    """The document of a syslog message."""
    head, _, xml = message.partition(b"\xef\xbb\xbf")
    assert head.startswith(b"<85>1 ")
    assert b" pseudomri " in head
    assert b" DICOM+RFC3881 [meta sequenceId=" in head
    return etree.fromstring(xml)


def codes(message: bytes) -> tuple[str, ...]:
    """Event, type, action and outcome."""
    event = xml_of(message).find("EventIdentification")
    kind = event.find("EventTypeCode")
    return (
        event.find("EventID").get("csd-code"),
        "" if kind is None else kind.get("csd-code"),
        event.get("EventActionCode"),
        event.get("EventOutcomeIndicator"),
    )


THE_DAY = [
    ("110100", "110120", "E", "0"),
    ("110113", "110126", "E", "4"),
    ("110104", "", "C", "0"),
    ("110103", "", "C", "0"),
    ("110104", "", "R", "4"),
    ("110104", "", "R", "0"),
    ("110100", "110121", "E", "0"),
]


def test_every_message_is_valid_and_in_order(
    node: tuple[Settings, Ledger, Archive], ca: Authority, ours: Pair, theirs: Pair
) -> None:
    settings, ledger, archive = node
    server = Listener(server_context(ca, theirs))
    spool = Spool(with_server(settings, server.port, ca.settings(ours)), ledger, archive)
    assert spool.run_once() == len(list(ledger.reports.events()))
    assert spool.run_once() == 0
    wait_until(lambda: server.batches, 10)
    assert [codes(one) for one in server.messages()] == THE_DAY
    for message in server.messages():
        SCHEMA.assertValid(xml_of(message))
    received = xml_of(server.messages()[2])
    ids = [
        one.get("ParticipantObjectID") for one in received.iter("ParticipantObjectIdentification")
    ]
    assert ids[0] == STUDY_UID
    assert ids[1].startswith("pseudonym-")
    assert received.find(".//SOPClass").get("NumberOfInstances") == str(journeys.SLICES)
    assert [one.get("AlternativeUserID") for one in received.iter("ActiveParticipant")] == [
        "AETITLES=CT1",
        "AETITLES=PSEUDOMRI",
    ]
    server.close()


def test_the_schema_of_the_test_refuses_what_is_wrong(
    node: tuple[Settings, Ledger, Archive],
) -> None:
    settings, ledger, archive = node
    telling = Spool(settings, ledger, archive)._telling
    (xml,) = [telling.tell(e) for e in ledger.reports.events() if e.kind == Kind.SERIES_COMPLETED]
    assert xml is not None
    SCHEMA.assertValid(etree.fromstring(xml))
    for right, wrong in (
        (b'EventOutcomeIndicator="0"', b'EventOutcomeIndicator="1"'),
        (b'csd-code="110104"', b'code="110104"'),
        (b"<ParticipantObjectName />", b""),
        (b'UserIsRequestor="true"', b'UserIsRequestor="yes"'),
    ):
        assert right in xml
        assert not SCHEMA.validate(etree.fromstring(xml.replace(right, wrong)))


@pytest.mark.parametrize(
    ("patient", "is_named"), [("digest", False), ("none", False), ("id", True)]
)
def test_the_patient_is_named_only_where_the_site_says_so(
    node: tuple[Settings, Ledger, Archive], patient: str, is_named: bool
) -> None:
    settings, ledger, archive = node
    settings = with_server(settings, 1, {}, patient=patient)
    lines = list(Spool(settings, ledger, archive)._lines(list(ledger.reports.events())))
    assert (PATIENT_ID.encode() in b"".join(lines)) is is_named
    # The same again, after a restart too: whoever reads can follow a patient, not name one.
    assert [xml_of(a).findall(".//*[@ParticipantObjectID]")[-1].attrib for a in lines[2:4]] == [
        xml_of(a).findall(".//*[@ParticipantObjectID]")[-1].attrib
        for a in list(Spool(settings, ledger, archive)._lines(list(ledger.reports.events())))[2:4]
    ]
    key = settings.node.data_folder / "atna.key"
    assert key.exists() is (patient == "digest")
    if key.exists():
        assert key.stat().st_mode & 0o777 == 0o600


def test_the_key_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content is durable before it has its name, and the name when it is used."""
    synced: list[tuple[str, list[str]]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((path, [one.name for one in tmp_path.glob("*.key")]))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    _write_once(tmp_path / KEY_FILE, b"one")
    _write_once(tmp_path / KEY_FILE, b"two")
    assert (tmp_path / KEY_FILE).read_bytes() == b"one"
    assert [path for path, _ in synced[1::2]] == [str(tmp_path)] * 2
    assert [names for _, names in synced[:2]] == [[], [KEY_FILE]]


@pytest.mark.parametrize("transport", ["tls", "tcp"])
def test_what_a_server_did_not_read_is_sent_again(
    node: tuple[Settings, Ledger, Archive],
    ca: Authority,
    ours: Pair,
    theirs: Pair,
    transport: str,
) -> None:
    settings, ledger, archive = node
    context = server_context(ca, theirs) if transport == "tls" else None
    server = Listener(context, broken=2)
    settings = with_server(settings, server.port, ca.settings(ours), transport=transport)
    spool = Spool(settings, ledger, archive)
    for _ in range(2):
        with pytest.raises(Undelivered):
            spool.run_once()
        assert ledger.outbox.position(NAME) == 0
    spool.run_once()
    wait_until(lambda: server.batches, 10)
    assert [codes(one) for one in server.messages()] == THE_DAY
    server.close()


def test_a_sender_killed_before_it_noted_sends_again(
    node: tuple[Settings, Ledger, Archive], ca: Authority, ours: Pair, theirs: Pair, tmp_path: Path
) -> None:
    """kill -9 while the server has the batch and has not confirmed it."""
    settings, ledger, archive = node
    server = Listener(server_context(ca, theirs))
    server.may_close.clear()
    settings = with_server(settings, server.port, ca.settings(ours))
    config = tmp_path / "settings.json"
    config.write_text(settings.model_dump_json(exclude_none=True))
    program = (
        "import json, sys; from config.settings import Settings; from node.parts import open_parts;"
        " from node.atna.spool import Spool; s = Settings(**json.load(open(sys.argv[1])));"
        " Spool(s, *open_parts(s, 'killed')).run_once()"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(config)])
    assert server.has_bytes.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert ledger.outbox.position(NAME) == 0
    server.may_close.set()
    Spool(settings, ledger, archive).run_once()
    wait_until(lambda: len(server.batches) == 2, 10)
    assert [codes(one) for one in server.messages()[-len(THE_DAY) :]] == THE_DAY
    server.close()


def test_a_server_that_was_down_gets_all_when_it_is_back(
    node: tuple[Settings, Ledger, Archive], ca: Authority, ours: Pair, theirs: Pair
) -> None:
    settings, ledger, archive = node
    gone = Listener(None)
    gone.close()
    settings = with_server(settings, gone.port, ca.settings(ours))
    with pytest.raises(Undelivered, match="is away"):
        Spool(settings, ledger, archive).run_once()
    server = Listener(server_context(ca, theirs))
    folder = settings.node.data_folder
    sender = Sender(
        Spool(with_server(settings, server.port, ca.settings(ours)), ledger, archive), folder, 0.05
    )
    sender.start()
    wait_until(lambda: len(server.messages()) == len(THE_DAY), 20)
    ledger.receiving.refuse_association("LATE", "PSEUDOMRI", "192.0.2.9", "not among receive.peers")
    wait_until(lambda: len(server.messages()) == len(THE_DAY) + 1, 20)
    assert codes(server.messages()[-1])[0] == "110113"
    sender.stop()
    server.close()


def test_a_server_of_another_authority_hears_nothing(
    node: tuple[Settings, Ledger, Archive],
    ca: Authority,
    ours: Pair,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings, ledger, archive = node
    other = Authority(tmp_path_factory.mktemp("other"), "Other CA")
    server = Listener(server_context(other, other.issue("audit")))
    settings = with_server(settings, server.port, ca.settings(ours))
    with pytest.raises(Undelivered, match="another CA"):
        Spool(settings, ledger, archive).run_once()
    assert server.batches == []
    without_files = with_server(settings, server.port, {"certificate_file": None})
    with pytest.raises(Retry, match=r"tls\.certificate_file"):
        Spool(without_files, ledger, archive).run_once()
    server.close()


def test_rsyslog_receives_them_over_tls(
    node: tuple[Settings, Ledger, Archive], ca: Authority, ours: Pair, theirs: Pair, tmp_path: Path
) -> None:
    settings, ledger, archive = node
    with rsyslog(tmp_path / "rsyslog", ca, theirs) as (port, log):
        spool = Spool(with_server(settings, port, ca.settings(ours)), ledger, archive)
        spool.run_once()
        assert ledger.outbox.position(NAME) == len(list(ledger.reports.events()))
        wait_until(lambda: log.exists() and log.read_bytes().count(b"</AuditMessage>") == 7, 20)
    assert [codes(one) for one in log.read_bytes().splitlines() if b"<85>" in one] == THE_DAY


def test_the_settings_name_what_tls_needs() -> None:
    from config.settings import load

    fields = load().model_dump(mode="json", exclude_none=True)
    fields["atna"]["host"] = "audit.example.org"
    with pytest.raises(ValueError, match=r"atna\.transport needs tls\.certificate_file"):
        Settings(**json.loads(json.dumps(fields)))


def test_of_several_senders_one_sends_and_another_takes_over(
    node: tuple[Settings, Ledger, Archive], ca: Authority, ours: Pair, theirs: Pair
) -> None:
    """The web roles of two hosts on one data folder."""
    settings, ledger, archive = node
    server = Listener(server_context(ca, theirs))
    settings = with_server(settings, server.port, ca.settings(ours))
    folder = settings.node.data_folder
    with alone(folder, NAME):
        sender = Sender(Spool(settings, ledger, archive), folder, 0.05)
        sender.start()
        # The holder has not sent anything, and this one leaves it to it.
        assert not server.has_bytes.wait(1.0)
        assert ledger.figures.backlog(NAME).events == len(list(ledger.reports.events()))
    wait_until(lambda: len(server.messages()) == len(THE_DAY), 20)
    sender.stop()
    assert ledger.figures.backlog(NAME) == Backlog(0, None)
    with alone(folder, NAME):
        pass
    server.close()


def told(node: tuple[Settings, Ledger, Archive], *kinds: Kind) -> list[Any]:
    """The messages about events of these kinds, valid, as XML."""
    settings, ledger, archive = node
    telling = Telling(settings, ledger.outbox, archive)
    made = [telling.tell(event) for event in ledger.reports.events() if event.kind in kinds]
    found = [etree.fromstring(xml) for xml in made if xml is not None]
    for document in found:
        SCHEMA.assertValid(document)
    return found


def test_a_query_is_told_as_it_was_asked_but_for_the_accession_number(
    node: tuple[Settings, Ledger, Archive],
) -> None:
    _, ledger, _ = node
    note = on_record(ledger, "fetch")
    pacs = Destination("pacs", "PACS", "192.0.2.4", 104)
    note(pacs, "STUDY", {"AccessionNumber": PATIENT[3], "StudyInstanceUID": ""})
    note(pacs, "SERIES", {"StudyInstanceUID": "1.2.3", "Modality": "CT"})
    assert all(PATIENT[3] not in str(event.detail) for event in ledger.reports.events())
    first, second = told(node, Kind.QUERY_ISSUED)
    assert first.find("EventIdentification").get("EventActionCode") == "E"
    assert first.find("EventIdentification/EventID").get("csd-code") == "110112"
    roles = [
        (one.get("AlternativeUserID"), one.find("RoleIDCode").get("csd-code"))
        for one in first.findall("ActiveParticipant")
    ]
    assert roles == [("AETITLES=PSEUDOMRI", "110153"), ("AETITLES=PACS", "110152")]
    asked = [query_of(document) for document in (first, second)]
    assert [ds.QueryRetrieveLevel for ds in asked] == ["STUDY", "SERIES"]
    assert (asked[0].AccessionNumber, asked[0].StudyInstanceUID) == ("not disclosed", "")
    assert (asked[1].StudyInstanceUID, asked[1].Modality) == ("1.2.3", "CT")


def query_of(document: Any) -> Any:
    """The data set of a query message, read by the transfer syntax that it names."""
    asked = document.find("ParticipantObjectIdentification")
    assert asked.get("ParticipantObjectID") == "1.2.840.10008.5.1.4.1.2.2.1"
    assert asked.find("ParticipantObjectIDTypeCode").get("csd-code") == "110181"
    (syntax,) = asked.findall("ParticipantObjectDetail")
    assert syntax.get("type") == "TransferSyntax"
    assert b64decode(syntax.get("value")) == b"1.2.840.10008.1.2"
    content = b64decode(asked.find("ParticipantObjectQuery").text)
    return dcmread(io.BytesIO(content), force=True)


def test_what_leaves_the_site_is_an_export(node: tuple[Settings, Ledger, Archive]) -> None:
    settings, ledger, archive = node
    inside = told(node, Kind.DELIVERY_ATTEMPTED)
    outside = ConfiguredDestination(
        name="pacs", ae_title="PACS", host="pacs.example.org", port=104, outside=True
    )
    delivery = settings.delivery.model_copy(update={"destinations": (outside,)})
    settings = settings.model_copy(update={"delivery": delivery})
    exported = told((settings, ledger, archive), Kind.DELIVERY_ATTEMPTED)
    assert [event_of(one) for one in inside] == [("110104", "R", "4"), ("110104", "R", "0")]
    assert [event_of(one) for one in exported] == [("110106", "R", "4"), ("110106", "R", "0")]
    _, receiver, media = exported[1].findall("ActiveParticipant")
    assert receiver.find("RoleIDCode").get("csd-code") == "110152"
    assert media.get("UserID") == "dicom://PACS@pacs.example.org:104"
    assert media.get("NetworkAccessPointID") == "pacs.example.org"
    assert media.find("RoleIDCode").get("csd-code") == "110154"
    assert media.find("MediaIdentifier/MediaType").get("csd-code") == "110037"


def test_what_moved_before_a_worker_died_is_told_and_told_once(
    node: tuple[Settings, Ledger, Archive],
) -> None:
    _, ledger, _ = node
    before, waiting = len(told(node, Kind.DELIVERY_ATTEMPTED)), delivery_of(ledger, 2)
    cut_off = ledger.deliveries.begin_attempt(waiting, "work")
    assert cut_off is not None
    ledger.deliveries.answer(cut_off, "2.25.92", 0x0000)
    following = ledger.deliveries.begin_attempt(waiting, "work")
    assert following is not None
    ledger.deliveries.delivered(following, "work")
    (one,) = told(node, Kind.DELIVERY_ATTEMPTED)[before:]
    assert one.find(".//SOPClass").get("NumberOfInstances") == "1"
    assert event_of(one) == ("110104", "R", "4")


def test_a_backup_is_an_export_of_all_to_a_medium(
    node: tuple[Settings, Ledger, Archive], tmp_path: Path
) -> None:
    settings, ledger, _ = node
    folder = tmp_path / "mnt back"
    # On record is an output whose file is missing.
    backup(settings, folder)
    # A disk that does not take it.
    (folder / "archive").rename(folder / "away")
    (folder / "archive").write_text("no folder")
    with pytest.raises(OSError):
        backup(settings, folder)
    documents = told(node, Kind.NODE_BACKED_UP, Kind.BACKUP_FAILED)
    assert [event_of(one) for one in documents] == [("110106", "R", "4")] * 2
    for one in documents:
        us, media = one.findall("ActiveParticipant")
        assert us.get("AlternativeUserID") == "AETITLES=PSEUDOMRI"
        assert media.get("UserID") == f"file://{os.uname().nodename}{tmp_path}/mnt%20back"
        assert media.find("MediaIdentifier/MediaType").get("csd-code") == "110037"
        everything = one.find("ParticipantObjectIdentification")
        assert everything.get("ParticipantObjectTypeCodeRole") == "17"
        assert everything.find("ParticipantObjectIDTypeCode").get("csd-code") == "110182"
    path = "EventIdentification/EventOutcomeDescription"
    damaged, failed = (one.find(path).text for one in documents)
    assert damaged == "1 files are missing or damaged, all others were copied"
    assert re.match(r"(NotADirectoryError|FileExistsError) E[A-Z]+ in node/", failed), failed
    # Nothing missing, nothing wrong.
    ledger.outbox.note(Kind.NODE_BACKED_UP, "ledger-1.sqlite", "operator", {"damaged": 0})
    whole = told(node, Kind.NODE_BACKED_UP)[-1]
    assert event_of(whole) == ("110106", "R", "0")
    assert whole.find(path) is None
    assert audit.verify(ledger.reports.events()) is None


def event_of(document: Any) -> tuple[str, str, str]:
    event = document.find("EventIdentification")
    code = event.find("EventID").get("csd-code")
    return code, event.get("EventActionCode"), event.get("EventOutcomeIndicator")
