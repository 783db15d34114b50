"""STOW-RS against Orthanc and a scripted HTTPS server: every instance's answer, and who we are."""

from __future__ import annotations

import json
import logging
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO

from config.settings import TlsSettings, WebDestination, load
from node import stow
from node.association import Rejected, Unreachable
from node.deliver import Answer, OutgoingInstance, read_header
from node.errors import Retry
from node.shipping import MAXIMUM_REFUSALS
from node.states import SynthesisState
from tests.node.certificates import Authority
from tests.node.test_deliver import write_instance
from tests.node.test_workflow import OUTPUTS, Node
from tests.peers import LOOPBACK, free_port, nginx, start_orthanc, wait_until

TOKEN = "eyJhbGciOi.very-secret"


@pytest.fixture
def instances(tmp_path: Path) -> list[OutgoingInstance]:
    return [read_header(write_instance(tmp_path, number)) for number in range(3)]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


Script = Callable[[list[str]], tuple[int, Any]]


class Web:
    """A STOW-RS service over TLS that answers as it is told.

    Args:
        answer: Given the SOP Instance UIDs of a request, HTTP status and JSON body.
        wants_certificate: Of the client.
        ciphers: Of TLS 1.2, and nothing else.
        media_type: Of the body.
        headers: In place of those that are true.
    """

    def __init__(
        self,
        ca: Authority,
        answer: Script,
        wants_certificate: bool = False,
        ciphers: str | None = None,
        media_type: str = "application/dicom+json; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        pair = self.pair = ca.issue("web")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if ciphers is not None:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
        context.load_cert_chain(pair.certificate, pair.key)
        if wants_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(ca.file)
        self.heard: list[tuple[str, dict[str, str], list[str]]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                uids = list(uids_in(read_body(self)))
                web.heard.append((self.path, dict(self.headers), uids))
                status, body = answer(uids)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "https://elsewhere.invalid/studies")
                true = {"Content-Type": media_type, "Content-Length": str(len(content))}
                for name, value in (true | (headers or {})).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://{LOOPBACK}:{self._server.server_address[1]}/dicom-web/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def read_body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers["Content-Length"]))
    parts = []
    while length := int(request.rfile.readline(), 16):
        parts.append(request.rfile.read(length))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(parts)


def uids_in(body: bytes) -> Iterator[str]:
    for found in re.finditer(rb"\r\n\r\n(.{128}DICM.*?)(?=\r\n--)", body, re.DOTALL):
        yield str(dcmread(DicomBytesIO(found[1])).SOPInstanceUID)


def response(stored: dict[str, int], failed: dict[str, int]) -> dict[str, Any]:
    """A Store Instances Response; a stored one with a status other than 0 has a warning."""
    ds = Dataset()
    for keyword, reason, some in (
        ("ReferencedSOPSequence", "WarningReason", stored),
        ("FailedSOPSequence", "FailureReason", failed),
    ):
        items = []
        for uid, status in some.items():
            item = Dataset()
            item.ReferencedSOPInstanceUID = uid
            if status:
                setattr(item, reason, status)
            items.append(item)
        if items:
            setattr(ds, keyword, items)
    return ds.to_json_dict()


def web_destination(url: str, ca: Authority, **fields: Any) -> WebDestination:
    return WebDestination(**{"name": "cloud", "url": url, "ca_file": ca.file, **fields})


def send(
    instances: list[OutgoingInstance], to: WebDestination, tls: TlsSettings | None = None
) -> list[Answer]:
    return list(stow.send(instances, to, tls or load().tls, 10))


def test_orthanc_gets_a_synthesis_over_the_web(tmp_path: Path) -> None:
    with start_orthanc(tmp_path / "orthanc") as orthanc:
        web = {"name": "cloud", "url": f"{orthanc.url}/dicom-web"}
        node = Node(tmp_path, [], web_destinations=[web])
        node.dispatch()
        with node.worker():
            node.wait_for(SynthesisState.COMMITTED)
        stored = {
            orthanc.get(f"/instances/{one}")["MainDicomTags"]["SOPInstanceUID"]
            for one in orthanc.get("/instances")
        }
    outputs = node.ledger.syntheses.outputs(node.job_id)
    assert stored == {output.sop_instance_uid for output in outputs}
    assert len(stored) == OUTPUTS
    node.check_audit()


def test_a_proxy_before_orthanc_wants_to_know_who_we_are(tmp_path: Path, ca: Authority) -> None:
    """nginx: by token and by certificate all arrives; a wrong token and no certificate are told."""
    right, wrong = tmp_path / "token", tmp_path / "wrong"
    right.write_text(TOKEN)
    wrong.write_text("expired")
    pair = ca.issue("proxy")
    with (
        start_orthanc(tmp_path / "orthanc") as orthanc,
        nginx(
            tmp_path / "nginx", orthanc.url, pair.certificate, pair.key, ca.file, TOKEN
        ) as gateway,
    ):

        def web(name: str, port: int, **fields: Any) -> dict[str, Any]:
            url = f"https://{LOOPBACK}:{port}/dicom-web"
            return {"name": name, "url": url, "ca_file": str(ca.file), **fields}

        by_token, by_certificate = gateway.token_port, gateway.certificate_port
        destinations = [
            web("token", by_token, token_file=str(right)),
            web("certificate", by_certificate, client_certificate=True),
            web("wrong-token", by_token, token_file=str(wrong)),
            web("no-certificate", by_certificate),
        ]
        files = {name: str(file) for name, file in ca.settings(ca.issue("pseudomri")).items()}
        node = Node(tmp_path, [], sections={"tls": files}, web_destinations=destinations)

        def attempts() -> dict[str, tuple[str, str]]:
            """State of each delivery, and the reason of its last attempt."""
            deliveries = node.ledger.reports.show(node.job_id)["deliveries"]
            return {
                one["destination"]: (one["state"], str(one["attempts"][-1]["reason"]))
                for one in deliveries
                if one["attempts"]
            }

        def are_told() -> dict[str, tuple[str, str]] | None:
            told = attempts()
            ended = [name for name, (state, _) in told.items() if state in ("delivered", "failed")]
            is_told = len(ended) == 3 and "HTTP 401" in told.get("wrong-token", ("", ""))[1]
            return told if is_told else None

        node.dispatch()
        with node.worker():
            told = wait_until(are_told, 90, "all attempts")
        stored = {
            orthanc.get(f"/instances/{one}")["MainDicomTags"]["SOPInstanceUID"]
            for one in orthanc.get("/instances")
        }
        answers = gateway.answers()
    outputs = node.ledger.syntheses.outputs(node.job_id)
    assert stored == {output.sop_instance_uid for output in outputs}
    assert answers == {
        (by_token, 200),
        (by_token, 401),
        (by_certificate, 200),
        (by_certificate, 400),
    }
    assert (told["token"][0], told["certificate"][0]) == ("delivered", "delivered")
    state, reason = told["wrong-token"]
    # It may be renewed while we try again.
    assert state != "failed"
    assert "it does not know our token" in reason
    state, reason = told["no-certificate"]
    assert state == "failed"
    assert "set client_certificate = true" in reason
    assert TOKEN not in json.dumps(list(map(str, node.ledger.reports.events())))
    node.check_audit()


def test_every_instance_has_its_own_answer(
    ca: Authority, instances: list[OutgoingInstance]
) -> None:
    answer = response({"2.25.1": 0xB000}, {"2.25.2": 0xA700})
    with Web(ca, lambda uids: (202, answer)) as web:
        answers = send(instances, web_destination(web.url, ca))
    told = {"2.25.1": 0xB000, "2.25.2": 0xA700, "2.25.3": 0x0110}
    assert {one.sop_instance_uid: one.status for one in answers} == told
    ((path, headers, uids),) = web.heard
    assert (path, uids) == ("/dicom-web/studies", ["2.25.1", "2.25.2", "2.25.3"])
    assert "Authorization" not in headers


def test_a_conflict_tells_of_instances(ca: Authority, instances: list[OutgoingInstance]) -> None:
    refused = response({}, {one.sop_instance_uid: 0xA900 for one in instances})
    with Web(ca, lambda uids: (409, refused)) as web:
        answers = send(instances, web_destination(web.url, ca))
    assert [one.status for one in answers] == [0xA900] * 3


def test_large_deliveries_go_in_several_requests(
    ca: Authority, instances: list[OutgoingInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "REQUEST_BYTES", 2 * instances[0].path.stat().st_size)
    with Web(ca, lambda uids: (200, response(dict.fromkeys(uids, 0), {}))) as web:
        answers = send(instances, web_destination(web.url, ca))
    assert [one.status for one in answers] == [0, 0, 0]
    assert [uids for _, _, uids in web.heard] == [["2.25.1", "2.25.2"], ["2.25.3"]]


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, Unreachable, "does not know our token"),
        (403, Rejected, "may not store"),
        (404, Rejected, "leads to no STOW-RS service"),
        (307, Rejected, "redirects"),
        (429, Unreachable, "429"),
        (503, Unreachable, "503"),
        (200, Unreachable, "without a DICOM JSON response"),
    ],
)
def test_an_answer_without_instances(
    ca: Authority,
    instances: list[OutgoingInstance],
    status: int,
    error: type[Exception],
    says: str,
) -> None:
    with (
        Web(ca, lambda uids: (status, b"<html>")) as web,
        pytest.raises(error, match=says),
    ):
        send(instances, web_destination(web.url, ca))
    assert len(web.heard) == 1


@pytest.mark.parametrize("media_type", ["application/dicom+json", "application/dicom+xml"])
@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"null",
        b"1",
        b'"DICOM"',
        b"[null]",
        b"[]",
        b'{"00081199": null}',
        b'{"00081199": {"vr": "SQ", "Value": [null]}}',
        b'{"00081199": {"vr": "SQ", "Value": [{}]}}',
        b'{"00081199": {"vr": "LO", "Value": ["1"]}}',
        b'{"00081198": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]},'
        b' "00081197": {"vr": "LO", "Value": ["many"]}}]}}',
    ],
)
def test_an_answer_that_makes_no_sense_is_no_refusal(
    ca: Authority, instances: list[OutgoingInstance], odd: bytes, media_type: str
) -> None:
    """The next one may; nobody meant anything by this one."""
    with (
        Web(ca, lambda uids: (200, odd), media_type=media_type) as web,
        pytest.raises(Unreachable, match="without a DICOM JSON response"),
    ):
        send(instances, web_destination(web.url, ca))


@pytest.mark.parametrize(
    "headers",
    [{"Content-Length": "1000"}, {"Transfer-Encoding": "chunked"}, {"Content-Encoding": "gzip"}],
)
def test_an_answer_that_cannot_be_read_is_no_refusal(
    ca: Authority, instances: list[OutgoingInstance], headers: dict[str, str]
) -> None:
    with (
        Web(ca, lambda uids: (200, response({}, {})), headers=headers) as web,
        pytest.raises(Unreachable, match="cloud: its answer was cut off or cannot be read"),
    ):
        send(instances, web_destination(web.url, ca))


def test_nobody_there(ca: Authority, instances: list[OutgoingInstance]) -> None:
    with pytest.raises(Unreachable, match="nothing listens"):
        send(instances, web_destination(f"https://{LOOPBACK}:{free_port()}/", ca))


def test_a_token_is_shown_and_told_to_nobody(
    ca: Authority,
    instances: list[OutgoingInstance],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with Web(ca, lambda uids: (401, b"")) as web:
        to = web_destination(web.url, ca, token_file=file)
        with pytest.raises(Unreachable) as error:
            send(instances, to)
        # Renewed while the node runs.
        file.write_text("another")
        with pytest.raises(Unreachable):
            send(instances, to)
    shown = [headers["Authorization"] for _, headers, _ in web.heard]
    assert shown == [f"Bearer {TOKEN}", "Bearer another"]
    output = capfd.readouterr()
    told = (
        caplog.text + output.out + output.err + str(error.value) + repr(to) + to.model_dump_json()
    )
    assert caplog.text
    assert TOKEN not in told


@pytest.mark.parametrize("content", [None, "", "two words", "\xff"])
def test_a_token_that_is_none(
    ca: Authority, instances: list[OutgoingInstance], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    with pytest.raises(Retry, match="token_file: expected"):
        send(instances, web_destination("https://localhost/", ca, token_file=file))


@pytest.mark.parametrize("content", [None, "to follow"])
def test_a_file_of_our_cas_that_is_none(
    ca: Authority, instances: list[OutgoingInstance], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Retry, match=r"cloud\.ca_file: expected"):
        send(instances, web_destination("https://localhost/", ca, ca_file=file))


def test_a_token_that_is_late_costs_no_delivery(tmp_path: Path, ca: Authority) -> None:
    token = tmp_path / "token"

    def accept(uids: list[str]) -> tuple[int, Any]:
        return 200, response(dict.fromkeys(uids, 0), {})

    with Web(ca, accept) as web:
        cloud = {"name": "cloud", "url": web.url, "ca_file": str(ca.file), "token_file": str(token)}
        node = Node(tmp_path, [], web_destinations=[cloud])
        node.dispatch()
        with node.worker():
            wait_until(lambda: attempts(node) > MAXIMUM_REFUSALS, 40)
            token.write_text(TOKEN)
            node.wait_for(SynthesisState.COMMITTED)


def attempts(node: Node) -> int:
    open_ones = node.ledger.deliveries.open_of(node.job_id)
    return sum(node.ledger.deliveries.get(one).attempts for one in open_ones)


def test_a_certificate_is_shown(ca: Authority, instances: list[OutgoingInstance]) -> None:
    files = ca.settings(ca.issue("pseudomri"))
    ours = TlsSettings.model_validate(load().tls.model_dump() | files)
    accept: Script = lambda uids: (200, response(dict.fromkeys(uids, 0), {}))  # noqa: E731
    with Web(ca, accept, wants_certificate=True) as web:
        answers = send(instances, web_destination(web.url, ca, client_certificate=True), ours)
        assert [one.status for one in answers] == [0, 0, 0]
        with pytest.raises(Unreachable):
            send(instances, web_destination(web.url, ca), ours)


def test_a_service_of_another_ca_gets_nothing(
    ca: Authority, instances: list[OutgoingInstance], tmp_path: Path
) -> None:
    other = Authority(tmp_path, "Other CA")
    with Web(ca, lambda uids: (200, {})) as web, pytest.raises(Unreachable, match="TLS failed"):
        send(instances, web_destination(web.url, other))
    assert web.heard == []


def test_a_service_whose_certificate_was_revoked_gets_nothing(
    ca: Authority, instances: list[OutgoingInstance]
) -> None:
    accept: Script = lambda uids: (200, response(dict.fromkeys(uids, 0), {}))  # noqa: E731
    with Web(ca, accept) as web:
        clean = ca.revoke(ca.issue("another"), name="clean.crl")
        assert len(send(instances, web_destination(web.url, ca, crl_file=clean))) == 3
        revoked = ca.revoke(web.pair, name="revoked.crl")
        with pytest.raises(Unreachable, match="TLS failed"):
            send(instances, web_destination(web.url, ca, crl_file=revoked))
        old = ca.revoke(name="old.crl", begin=timedelta(days=-9), end=timedelta(days=-2))
        with pytest.raises(Retry, match=r"cloud\.crl_file: expected current .*old\.crl expired"):
            send(instances, web_destination(web.url, ca, crl_file=old))
    assert len(web.heard) == 1


def test_a_service_outside_the_profile_gets_nothing(
    ca: Authority, instances: list[OutgoingInstance]
) -> None:
    with (
        Web(ca, lambda uids: (200, {}), ciphers="ECDHE-ECDSA-AES128-SHA256") as web,
        pytest.raises(Unreachable, match="TLS failed"),
    ):
        send(instances, web_destination(web.url, ca))
    accept: Script = lambda uids: (200, response(dict.fromkeys(uids, 0), {}))  # noqa: E731
    with Web(ca, accept, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256") as web:
        assert len(send(instances, web_destination(web.url, ca))) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://localhost/", "token_file": "t"},
        {"url": "http://localhost/", "client_certificate": True},
        {"url": "https://me:secret@localhost/"},
        {"url": "ftp://localhost/"},
    ],
)
def test_secrets_only_go_over_tls(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WebDestination(**{"name": "cloud", **fields})


def test_revocation_lists_go_with_their_ca() -> None:
    with pytest.raises(ValidationError, match="ca_file, which is missing"):
        WebDestination(name="cloud", url="https://localhost/", crl_file="lists.pem")
