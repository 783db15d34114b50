"""TLS in both directions against DCMTK's tools and OpenSSL: who gets in, who does not, and why."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from config.settings import TlsSettings, WebDestination, load
from node import tls
from node.association import Unreachable
from node.audit import Kind
from node.clock import utc_now
from node.deliver import echo
from node.errors import Retry, Stop
from node.ledger.entries import Destination
from tests.node.certificates import Authority, Pair
from tests.node.samples import SERIES_UID, ct, with_meta
from tests.node.scu import associated, dcmtk, write_file
from tests.node.test_receive import Station
from tests.peers import LOOPBACK, storescp, wait_until

PAST = {"begin": timedelta(days=-2), "end": timedelta(days=-1)}
FUTURE = {"begin": timedelta(days=1), "end": timedelta(days=2)}


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "Other CA")


@pytest.fixture(scope="module")
def ours(ca: Authority) -> Pair:
    return ca.issue("pseudomri")


@pytest.fixture(scope="module")
def theirs(ca: Authority) -> Pair:
    return ca.issue("scanner")


def tls_settings(ca: Authority, pair: Pair, **changes: Any) -> TlsSettings:
    defaults = load().tls.model_dump()
    return TlsSettings.model_validate(defaults | ca.settings(pair, **changes))


@pytest.fixture
def station(
    request: pytest.FixtureRequest, tmp_path: Path, ca: Authority, ours: Pair
) -> Iterator[Station]:
    section = ca.settings(ours, profile=getattr(request, "param", "bcp195"))
    running = Station(tmp_path, section, tls=True, network_timeout_s=1.5)
    yield running
    running.stop()


def options_of(ca: Authority, pair: Pair) -> list[object]:
    return ["+tls", pair.key, pair.certificate, "+cf", ca.file]


@pytest.mark.parametrize("station", tls.PROFILES, indirect=True)
def test_dcmtk_stores_over_tls(
    station: Station, tmp_path: Path, ca: Authority, theirs: Pair
) -> None:
    file = write_file(with_meta(ct(1)), tmp_path / "1.dcm")
    peer = ["-aet", "CT1", "-aec", "PSEUDOMRI", *options_of(ca, theirs), LOOPBACK, station.port]
    dcmtk("echoscu", *peer)
    dcmtk("storescu", *peer, file)
    assert list(station.held()) == [f"{SERIES_UID}.1"]


def shake(port: int, context: ssl.SSLContext) -> str:
    """Connect as `context` says and read until the end; the version that was agreed on."""
    with (
        socket.create_connection((LOOPBACK, port), timeout=10) as plain,
        context.wrap_socket(plain) as secured,
    ):
        version = str(secured.version())
        # In TLS 1.3 a client hears of its refusal only when it reads. This is no PDU.
        secured.sendall(b"\xff" + bytes(5))
        while secured.recv(100):
            pass
        return version


def client(ca: Authority, pair: Pair | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(ca.file)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def of_version(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


def with_ciphers(context: ssl.SSLContext, ciphers: str) -> ssl.SSLContext:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    return context


REFUSED: dict[str, tuple[Callable[[Authority, Authority], ssl.SSLContext], str]] = {
    "no certificate": (lambda ca, other: client(ca, None), "it showed no certificate"),
    "expired": (lambda ca, other: client(ca, ca.issue("old", **PAST)), "has expired"),
    "not yet": (lambda ca, other: client(ca, ca.issue("new", **FUTURE)), "is not valid yet"),
    "other CA": (lambda ca, other: client(ca, other.issue("stranger")), "another CA"),
    "TLS 1.1": (
        lambda ca, other: of_version(client(ca, ca.issue("slow")), ssl.TLSVersion.TLSv1_1),
        "older than 1.2",
    ),
    "CBC": (
        lambda ca, other: with_ciphers(client(ca, ca.issue("cbc")), "ECDHE-ECDSA-AES128-SHA256"),
        "no cipher suite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_does_not_fit_the_profile_is_refused_and_on_record(
    station: Station, ca: Authority, other_ca: Authority, theirs: Pair, case: str
) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(OSError):
        shake(station.port, make(ca, other_ca))
    (event,) = wait_until(lambda: list(station.ledger.reports.events()))
    assert event.kind == Kind.ASSOCIATION_REFUSED
    assert reason in event.detail["reason"]
    assert (event.subject, event.detail["peer_address"]) == ("unknown", "127.0.0.1")
    # The port is none the worse for it.
    dcmtk("echoscu", "-aec", "PSEUDOMRI", *options_of(ca, theirs), LOOPBACK, station.port)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(
    station: Station, ca: Authority, theirs: Pair, version: ssl.TLSVersion
) -> None:
    context = client(ca, theirs)
    context.minimum_version = context.maximum_version = version
    assert shake(station.port, context) == version.name.replace("_", ".")


def test_a_plain_sender_is_refused(station: Station) -> None:
    with associated(station.port) as association:
        assert not association.is_established
    (event,) = wait_until(lambda: list(station.ledger.reports.events()))
    assert event.detail["reason"] == "it does not speak TLS"


def test_who_connects_and_says_nothing_leaves_no_record(
    station: Station, ca: Authority, theirs: Pair
) -> None:
    """A look whether the port is open is no attempt to come in."""
    for _ in range(3):
        socket.create_connection((LOOPBACK, station.port)).close()
    # The first thing on record is what came after them.
    with socket.create_connection((LOOPBACK, station.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        (event,) = wait_until(lambda: list(station.ledger.reports.events()))
    assert event.detail["reason"] == "it does not speak TLS"
    dcmtk("echoscu", "-aec", "PSEUDOMRI", *options_of(ca, theirs), LOOPBACK, station.port)
    assert len(station.kinds()) == 1


def test_the_allow_list_holds_behind_tls(
    tmp_path: Path, ca: Authority, ours: Pair, theirs: Pair
) -> None:
    peers = [
        {"ae_title": "CT1", "address": "127.0.0.1"},
        {"ae_title": "CT2", "address": "10.0.0.0/8"},
    ]
    receive = {"tls": True, "allow_any_peer": False, "peers": peers}
    station = Station(tmp_path, ca.settings(ours), **receive)
    try:
        rest = ["-aec", "PSEUDOMRI", *options_of(ca, theirs), LOOPBACK, station.port]
        dcmtk("echoscu", "-aet", "CT1", *rest)
        for stranger in ("CT2", "CT3"):
            with pytest.raises(AssertionError, match="Calling AE Title Not Recognized"):
                dcmtk("echoscu", "-aet", stranger, *rest)
    finally:
        station.stop()


def test_a_slow_handshake_keeps_nobody_waiting(
    station: Station, ca: Authority, theirs: Pair
) -> None:
    rest = ["-aec", "PSEUDOMRI", *options_of(ca, theirs), LOOPBACK, station.port]
    slow = [socket.create_connection((LOOPBACK, station.port)) for _ in range(5)]
    try:
        dcmtk("echoscu", "-to", "1", "-ta", "1", *rest)
        # They are let go at network_timeout_s.
        slow[0].settimeout(20)
        assert slow[0].recv(1) == b""
    finally:
        for one in slow:
            one.close()


def at(port: int, settings: TlsSettings, name: str | None = LOOPBACK) -> Destination:
    return Destination("pacs", "STORESCP", LOOPBACK, port, settings, name)


def test_we_call_dcmtk_over_tls(tmp_path: Path, ca: Authority, ours: Pair, theirs: Pair) -> None:
    options = [str(one) for one in options_of(ca, theirs)]
    with storescp(tmp_path / "pacs", *options) as port:
        for profile in tls.PROFILES:
            echo(at(port, tls_settings(ca, ours, profile=profile)), "US", 5)
        echo(at(port, tls_settings(ca, ours), name="scanner"), "US", 5)
        echo(at(port, tls_settings(ca, ours), name=None), "US", 5)
        with pytest.raises(Unreachable, match="for another name"):
            echo(at(port, tls_settings(ca, ours), name="other"), "US", 5)


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (lambda ca, other: ca.issue("late", **PAST), "its certificate has expired"),
        (lambda ca, other: other.issue("false"), "from another CA"),
    ],
)
def test_a_destination_with_a_wrong_certificate_gets_nothing(
    tmp_path: Path,
    ca: Authority,
    other_ca: Authority,
    ours: Pair,
    server: Callable[[Authority, Authority], Pair],
    reason: str,
) -> None:
    options = [str(one) for one in options_of(ca, server(ca, other_ca))]
    with (
        storescp(tmp_path / "pacs", *options) as port,
        pytest.raises(Unreachable, match=reason),
    ):
        echo(at(port, tls_settings(ca, ours)), "US", 5)


def test_a_destination_that_refuses_our_certificate_is_told_of(
    tmp_path: Path, ca: Authority, other_ca: Authority, theirs: Pair
) -> None:
    mine = tls_settings(ca, other_ca.issue("mine"))
    options = [str(one) for one in options_of(ca, theirs)]
    with (
        storescp(tmp_path / "pacs", *options) as port,
        pytest.raises(Unreachable, match="does not know the CA of our certificate"),
    ):
        echo(at(port, mine), "US", 5)


def test_a_plain_destination_is_told_from_one_with_tls(
    tmp_path: Path, ca: Authority, ours: Pair
) -> None:
    with storescp(tmp_path / "pacs") as port, pytest.raises(Unreachable):
        echo(at(port, tls_settings(ca, ours)), "US", 5)


Broken = Callable[[Authority, Pair, Path], dict[str, Any]]


def missing(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    return {"key_file": folder / "gone.key"}


def folder_instead(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    return {"certificate_file": folder}


def no_pem(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    (folder / "text.pem").write_text("certificate to follow")
    return {"ca_file": folder / "text.pem"}


def no_key(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    return {"key_file": ours.certificate}


def other_key(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    return {"key_file": ca.issue("another").key}


def encrypted(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    pair = ca.issue("locked", passphrase=b"secret")
    return {"certificate_file": pair.certificate, "key_file": pair.key}


def expired(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    pair = ca.issue("over", **PAST)
    return {"certificate_file": pair.certificate, "key_file": pair.key}


def old_list(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    return {"crl_file": ca.revoke(name="old.crl", begin=PAST["begin"], end=PAST["end"])}


def early_list(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    return {"crl_file": ca.revoke(name="early.crl", begin=FUTURE["begin"], end=FUTURE["end"])}


def false_list(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    return {"crl_file": Authority(folder / "false").revoke()}


def no_list(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    return {"crl_file": ca.file}


def broken_list(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    damaged = folder / "broken.crl"
    damaged.write_bytes(ca.revoke(name="whole.crl").read_bytes().replace(b"M", b"N"))
    return {"crl_file": damaged}


def lost_list(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    return {"crl_file": folder / "gone.crl"}


def too_early(ca: Authority, ours: Pair, folder: Path) -> dict[str, Any]:
    pair = ca.issue("early", **FUTURE)
    return {"certificate_file": pair.certificate, "key_file": pair.key}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (missing, r"tls\.key_file: expected a file to read, .*gone\.key: No such file"),
        (folder_instead, r"tls\.certificate_file: expected a file to read, .*Is a directory"),
        (no_pem, r"tls\.ca_file: expected certificates in PEM, found none in .*text\.pem"),
        (no_key, r"tls\.key_file: expected a private key in PEM, found none"),
        (other_key, r"tls\.key_file: expected the key of tls\.certificate_file"),
        (encrypted, r"tls\.key_file: expected a key without a passphrase"),
        (expired, r"tls\.certificate_file: expected a valid certificate, .* expired on"),
        (too_early, r"tls\.certificate_file: expected a valid certificate, .* not valid before"),
        (old_list, r"tls\.crl_file: expected current .* CN=Test CA .*old\.crl expired on"),
        (early_list, r"tls\.crl_file: expected current .*early\.crl is not valid before"),
        (false_list, r"tls\.crl_file: expected a revocation list that CN=Test CA signed"),
        (no_list, r"tls\.crl_file: expected revocation lists in PEM, found none in .*ca\.pem"),
        (broken_list, r"tls\.crl_file: expected revocation lists in PEM, .*broken\.crl is damaged"),
        (lost_list, r"tls\.crl_file: expected a file to read, .*gone\.crl: No such file"),
    ],
)
def test_a_wrong_file_stops_the_start_by_name(
    tmp_path: Path, ca: Authority, ours: Pair, broken: Broken, message: str
) -> None:
    settings = tls_settings(ca, ours, **broken(ca, ours, tmp_path))
    with pytest.raises(Stop, match=message):
        tls.server_context(settings, utc_now())
    # Whoever waits for a renewal does not give up its deliveries.
    with pytest.raises(Retry, match=message):
        tls.client_context(settings, checks_name=True, now=utc_now())


def test_a_renewed_certificate_needs_no_restart(tmp_path: Path, ca: Authority) -> None:
    own = Authority(tmp_path, "Own CA")
    first, second = own.issue("first"), own.issue("second")
    files = Pair(tmp_path / "node.pem", tmp_path / "node.key")

    def install(pair: Pair) -> None:
        for source, target in ((pair.certificate, files.certificate), (pair.key, files.key)):
            target.with_suffix(".new").write_bytes(source.read_bytes())
            target.with_suffix(".new").rename(target)

    def shown(port: int) -> str:
        context = client(own, first)
        with (
            socket.create_connection((LOOPBACK, port), timeout=10) as plain,
            context.wrap_socket(plain) as secured,
        ):
            return str(dict(one[0] for one in secured.getpeercert()["subject"])["commonName"])

    install(first)
    station = Station(tmp_path, own.settings(files), tls=True, network_timeout_s=1.5)
    try:
        assert shown(station.port) == "first"
        install(second)
        assert shown(station.port) == "second"
        # Half of a renewal: the old one goes on.
        files.key.write_bytes(first.key.read_bytes())
        with capture_logs() as logs:
            assert shown(station.port) == "second"
        assert "tls.key_file" in logs[0]["reason"]
    finally:
        station.stop()


def test_a_revoked_sender_is_refused_from_the_next_connection_on(
    tmp_path: Path, ca: Authority, ours: Pair, theirs: Pair
) -> None:
    """The list is replaced under the running port, as by whatever fetches it each night."""
    gone = ca.issue("gone")
    lists = ca.revoke(name="running.crl")
    station = Station(tmp_path, ca.settings(ours, crl_file=lists), tls=True, network_timeout_s=1.5)
    try:
        rest = ["-aec", "PSEUDOMRI", LOOPBACK, station.port]
        dcmtk("echoscu", *options_of(ca, gone), *rest)
        assert list(station.ledger.reports.events()) == []
        ca.revoke(gone, name="running.crl")
        with pytest.raises(OSError):
            shake(station.port, client(ca, gone))
        (event,) = wait_until(lambda: list(station.ledger.reports.events()))
        assert event.kind == Kind.ASSOCIATION_REFUSED
        assert event.detail["reason"] == "its certificate has been revoked"
        dcmtk("echoscu", *options_of(ca, theirs), *rest)
        # A list that is of no use leaves the one before in force.
        ca.revoke(name="running.crl", begin=PAST["begin"], end=PAST["end"])
        with capture_logs() as logs, pytest.raises(OSError):
            shake(station.port, client(ca, gone))
        assert "tls.crl_file" in logs[0]["reason"]
    finally:
        station.stop()


def test_a_revoked_destination_gets_nothing(
    tmp_path: Path, ca: Authority, ours: Pair, theirs: Pair
) -> None:
    lists = ca.revoke(theirs, name="destination.crl")
    options = [str(one) for one in options_of(ca, theirs)]
    with storescp(tmp_path / "pacs", *options) as port:
        echo(at(port, tls_settings(ca, ours)), "US", 5)
        with pytest.raises(Unreachable, match="its certificate has been revoked"):
            echo(at(port, tls_settings(ca, ours, crl_file=lists)), "US", 5)


def test_a_peer_whose_ca_has_no_list_is_refused(
    tmp_path: Path, ca: Authority, other_ca: Authority, ours: Pair
) -> None:
    """Two CAs are trusted, and one sends its lists."""
    both = tmp_path / "both.pem"
    both.write_bytes(ca.file.read_bytes() + other_ca.file.read_bytes())
    lists = ca.revoke(name="one.crl")
    options = [str(one) for one in options_of(ca, other_ca.issue("scanner"))]
    mine = tls_settings(ca, ours, ca_file=both, crl_file=lists)
    with storescp(tmp_path / "pacs", *options) as port:
        with pytest.raises(Unreachable, match="has no revocation list of the CA"):
            echo(at(port, mine), "US", 5)
        lists.write_bytes(lists.read_bytes() + other_ca.revoke().read_bytes())
        echo(at(port, mine), "US", 5)


def test_a_list_is_due_on_its_last_day(ca: Authority, ours: Pair) -> None:
    lists = ca.revoke(name="due.crl", end=timedelta(days=3))
    settings = tls_settings(ca, ours, crl_file=lists, warn_before_expiry_days=10)
    now = datetime.now(UTC)
    (first, *_) = tls.expiries(settings, (), now)
    assert (first.setting, first.days_left, first.is_due) == ("tls.crl_file", 2, False)
    assert [one.setting for one in tls.warn_of_expiry(settings, (), now + timedelta(days=2))] == [
        "tls.crl_file"
    ]


def test_the_files_of_a_web_destination_are_due_as_well(ca: Authority) -> None:
    lists = ca.revoke(name="web.crl", end=timedelta(days=3))
    cloud = WebDestination(name="cloud", url="https://pacs/", ca_file=ca.file, crl_file=lists)
    now, none, cloud_key = datetime.now(UTC), load().tls, "delivery.web_destinations.cloud"
    found = {one.setting: one.days_left for one in tls.expiries(none, (cloud,), now)}
    assert found == {f"{cloud_key}.crl_file": 2, f"{cloud_key}.ca_file": 3649}
    due = tls.warn_of_expiry(none, (cloud,), now + timedelta(days=2))
    assert [one.setting for one in due] == [f"{cloud_key}.crl_file"]


def test_an_end_that_is_near_is_told(ca: Authority) -> None:
    soon = ca.issue("soon", end=timedelta(days=10, hours=1))
    settings = tls_settings(ca, soon, warn_before_expiry_days=10)
    with capture_logs() as logs:
        (expiry,) = tls.warn_of_expiry(settings, (), datetime.now(UTC))
    assert (expiry.setting, expiry.days_left) == ("tls.certificate_file", 10)
    assert [(one["log_level"], one["days_left"]) for one in logs] == [("warning", 10)]
    assert tls.warn_of_expiry(settings, (), datetime.now(UTC) - timedelta(days=1)) == ()


def test_the_command_line_speaks_tls(
    tmp_path: Path, ca: Authority, ours: Pair, theirs: Pair
) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        f'[tls]\ncertificate_file = "{ours.certificate}"\nkey_file = "{ours.key}"\n'
        f'ca_file = "{ca.file}"\n'
    )
    options = [str(one) for one in options_of(ca, theirs)]
    command = ["python", "-m", "node", "echo", "--called", "STORESCP"]
    with storescp(tmp_path / "pacs", *options) as port:
        address = f"{LOOPBACK}:{port}"
        secure = run([*command, address, "--tls", "--config", str(site)])
        assert secure.returncode == 0, secure.stderr
        assert "--config" in run([*command, address, "--tls"]).stderr


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command[1:]], capture_output=True, text=True, timeout=60, check=False
    )
