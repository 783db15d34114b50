"""The others on the network: a scripted SCP of ours, Orthanc, DCMTK's tools, and nginx.

Everything listens on the loopback interface. Ports are asked of the system; a peer that cannot be
told port 0 gets a free one and is started again when somebody else was faster.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt

LOOPBACK = "127.0.0.1"
# Without it DCMTK and Orthanc wait for a delayed ACK after each message.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
START_S = 20.0
PLUGINS = Path("/usr/share/orthanc/plugins")


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], Any], deadline_s: float = 30.0, what: str = "", pause_s: float = 0.02
) -> Any:
    """The first true value of `condition`, asked until the deadline, with pauses in between."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s in vain for {what or condition}")
        time.sleep(pause_s)


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) == 0


@dataclass
class ScriptedPeer:
    """A Storage SCP that answers as it is told and counts what it hears.

    Args:
        answer: Given the SOP Instance UID and how often it came (from 1), the status, or None to
            abort the association instead.
        folder: When given, accepted data sets are written there byte for byte.
    """

    answer: Callable[[str, int], int | None] = lambda uid, times: 0x0000
    contexts: Sequence[Any] = ()
    syntaxes: Sequence[str] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    ae_title: str = "PEER"
    require_called: bool = False
    port: int = 0
    handlers: Sequence[tuple[Any, Any]] = ()
    heard: list[tuple[str, str, int | None]] = field(default_factory=list)
    associations: int = 0

    def start(self) -> ScriptedPeer:
        ae = AE(ae_title=self.ae_title)
        ae.require_called_aet = self.require_called
        ae.maximum_pdu_size = 0
        for context in self.contexts or AllStoragePresentationContexts:
            abstract = getattr(context, "abstract_syntax", context)
            ae.add_supported_context(abstract, list(self.syntaxes))
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        handlers += self.handlers
        self._server = ae.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)
        self.port = self._server.socket.getsockname()[1]
        return self

    def stop(self) -> None:
        self._server.shutdown()

    def __enter__(self) -> ScriptedPeer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def times(self, uid: str) -> int:
        """How often an instance came."""
        return sum(1 for heard, _, _ in self.heard if heard == uid)

    def accepted(self) -> dict[str, set[str]]:
        """Digests of the data sets that were answered with success, by instance."""
        kept: dict[str, set[str]] = {}
        for uid, digest, status in self.heard:
            if status == 0x0000:
                kept.setdefault(uid, set()).add(digest)
        return kept

    def _accepted(self, event: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.answer(uid, self.times(uid) + 1)
        digest = hashlib.sha256(event.request.DataSet.getvalue()).hexdigest()
        self.heard.append((uid, digest, status))
        if status is None:
            event.assoc.abort()
            return 0xC001
        return status


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    http_port: int
    dicom_port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}"

    def get(self, path: str) -> Any:
        """The JSON under a path of its REST interface."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: Any) -> Any:
        content = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=content, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def delete(self, path: str) -> None:
        """Make it forget what lies under a path."""
        request = urllib.request.Request(self.url + path, method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()

    def file(self, instance: str) -> bytes:
        """The DICOM file of an instance, by Orthanc's own id."""
        with urllib.request.urlopen(f"{self.url}/instances/{instance}/file", timeout=10) as answer:
            content: bytes = answer.read()
            return content


@contextlib.contextmanager
def start_orthanc(
    folder: Path, modalities: Mapping[str, tuple[str, str, int]] | None = None, **options: Any
) -> Iterator[Orthanc]:
    """Orthanc with its data in `folder`; fails the test where it is not installed.

    Args:
        modalities: Its peers: name to AE title, host, port.
        options: Of its configuration.
    """
    program = _found("Orthanc")
    for _ in range(3):
        orthanc = Orthanc(free_port(), free_port(), folder)
        configuration = {
            "Name": "tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": orthanc.http_port,
            "DicomPort": orthanc.dicom_port,
            "DicomAet": "ORTHANC",
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DefaultEncoding": "Utf8",
            "Plugins": sorted(str(one) for one in PLUGINS.glob("libOrthancDicomWeb.so")),
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "DicomModalities": {name: list(peer) for name, peer in (modalities or {}).items()},
            **options,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        with _process([program, str(folder / "orthanc.json")], folder / "orthanc.log") as running:
            if _comes_up(running, lambda peer=orthanc: _answers(peer)):
                yield orthanc
                return
    raise AssertionError(f"Orthanc did not start: {(folder / 'orthanc.log').read_text()[-2000:]}")


@contextlib.contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """DCMTK's receiver, writing what it gets into `folder`; yields its port."""
    program = _found("storescp")
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(3):
        port = free_port()
        command = [program, "--fork", "-od", str(folder), *options, str(port)]
        with _process(command, folder.parent / "storescp.log") as running:
            if _comes_up(running, lambda port=port: is_listening(port)):
                yield port
                return
    raise AssertionError("storescp did not start")


@contextlib.contextmanager
def dcmqrscp(folder: Path, peers: Mapping[str, tuple[str, int]] | None = None) -> Iterator[int]:
    """DCMTK's archive, AE title QRSCP, which anybody may store with and ask; yields its port.

    Args:
        peers: Where it may move to: AE title to host and port.
    """
    program = _found("dcmqrscp")
    (folder / "store").mkdir(parents=True, exist_ok=True)
    hosts = [f"{ae.lower()} = ({ae}, {host}, {port})" for ae, (host, port) in (peers or {}).items()]
    lines = [
        *("MaxPDUSize = 131072", "MaxAssociations = 16"),
        *("HostTable BEGIN", *hosts, "HostTable END", "VendorTable BEGIN", "VendorTable END"),
        *("AETable BEGIN", f"QRSCP {folder / 'store'} RW (200, 1024mb) ANY", "AETable END"),
    ]
    for _ in range(3):
        port = free_port()
        (folder / "dcmqrscp.cfg").write_text("\n".join([f"NetworkTCPPort = {port}", *lines]) + "\n")
        command = [program, "-c", str(folder / "dcmqrscp.cfg")]
        with _process(command, folder / "dcmqrscp.log") as running:
            if _comes_up(running, lambda port=port: is_listening(port)):
                yield port
                return
    raise AssertionError(f"dcmqrscp did not start: {(folder / 'dcmqrscp.log').read_text()}")


@dataclass(frozen=True)
class Gateway:
    """A running nginx, over TLS: `token_port` wants a bearer token, `certificate_port` ours."""

    token_port: int
    certificate_port: int
    folder: Path

    def answers(self) -> set[tuple[int, int]]:
        """Port and HTTP status of what it answered."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return {(int(port), int(status)) for port, status in map(str.split, lines)}


NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  log_format answers "$server_port $status"; access_log {folder}/access.log answers;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_max_body_size 64m;
  ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
  map $http_authorization $is_known {{ default 0; "Bearer {token}" 1; }}
  server {{
    listen {host}:{token_port} ssl;
    location / {{ if ($is_known = 0) {{ return 401; }} proxy_pass {upstream}; }}
  }}
  server {{
    listen {host}:{certificate_port} ssl;
    ssl_client_certificate {ca}; ssl_verify_client on;
    location / {{ proxy_pass {upstream}; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(
    folder: Path, upstream: str, certificate: Path, key: Path, ca: Path, token: str
) -> Iterator[Gateway]:
    """nginx as a site puts it before a web service.

    Args:
        folder: For its files.
        upstream: URL of the service.
        certificate: Of nginx.
        key: Likewise.
        ca: Of the certificates of clients.
        token: What the others show.
    """
    program = _found("nginx")
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(3):
        gateway = Gateway(free_port(), free_port(), folder)
        text = NGINX.format(
            **vars(gateway),
            host=LOOPBACK,
            upstream=upstream,
            certificate=certificate,
            key=key,
            ca=ca,
            token=token,
        )
        (folder / "nginx.conf").write_text(text)
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        with _process(command, folder / "nginx.log") as running:
            if _comes_up(running, lambda port=gateway.certificate_port: is_listening(port)):
                yield gateway
                return
    raise AssertionError(f"nginx did not start: {(folder / 'nginx.log').read_text()}")


def dcmsend(
    folder: Path, port: int, called: str = "PSEUDOMRI", calling: str = "DCMSEND"
) -> subprocess.CompletedProcess[str]:
    """Send all files of a folder with DCMTK's sender."""
    command = [_found("dcmsend"), "-aet", calling, "-aec", called, "+sd", "+r", "-v"]
    return subprocess.run(
        [*command, LOOPBACK, str(port), str(folder)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _found(program: str) -> str:
    # Debian puts daemons where users do not look.
    for folder in (*os.environ["PATH"].split(":"), "/usr/sbin", "/usr/local/sbin"):
        if os.access(Path(folder, program), os.X_OK):
            return str(Path(folder, program))
    # A peer that is missing is a broken set-up, not a reason to look away.
    pytest.fail(f"{program} is not installed; `make peers` installs it")


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        running = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def _comes_up(running: subprocess.Popen[bytes], is_up: Callable[[], bool]) -> bool:
    """Whether a peer came up; False when it ended, as it does when its port was taken."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if running.poll() is not None:
            return False
        if is_up():
            return True
        time.sleep(0.05)
    return False


def _answers(orthanc: Orthanc) -> bool:
    try:
        return bool(orthanc.get("/system")) and is_listening(orthanc.dicom_port)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
