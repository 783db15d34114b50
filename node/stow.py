"""STOW-RS (PS3.18 10.5): instances go to a web archive, and every instance has its own answer.

The transport is dicomweb-client's. Its statuses are those of C-STORE, so that a delivery is judged
the same whichever way it went.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from config.settings import TlsSettings, WebDestination
from node import tls
from node.association import Rejected, Unreachable
from node.clock import utc_now
from node.deliver import Answer, OutgoingInstance
from node.errors import Retry
from node.status import PROCESSING_FAILURE, SUCCESS

# dicomweb-client builds a request in memory, and common archives take at most 16 to 64 MB.
REQUEST_BYTES: Final = 8_000_000
# What pydicom and the client make of JSON or XML that is none, or that says other things than a
# response does.
_NO_RESPONSE: Final = (ValueError, TypeError, AttributeError, LookupError, SyntaxError)
# These say that the request is wrong, not the moment; but 409 tells of instances (PS3.18 10.5.3).
_MEANT: Final = range(300, 500)
_MAY_PASS: Final = (
    # A token that has run out is renewed while we try again.
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)


def send(
    instances: Sequence[OutgoingInstance],
    destination: WebDestination,
    settings: TlsSettings,
    timeout_s: float,
) -> Iterator[Answer]:
    """Store the instances with a web archive, some at a time.

    Args:
        instances: What to send; a file is read when its turn comes.
        destination: The archive.
        settings: The TLS profile, and the certificate to show where the destination wants one.
        timeout_s: Longest wait for the connection and between two signs of life.

    Yields:
        One answer an instance, in order. Failure Reason (0008,1197) and Warning Reason (0008,1196)
        are statuses of C-STORE; an instance that the response does not mention is to be sent again.

    Raises:
        Unreachable: When there is no answer or one that may be another later.
        Rejected: When the archive refuses us or the request; by its HTTP status alone.
        Retry: When the token or our certificate cannot be used now.
    """
    if not instances:
        return
    with requests.Session() as session:
        responses: list[requests.Response] = []
        _prepare(session, destination, settings)
        # The client parses only some of the media types that archives name.
        session.hooks["response"].append(lambda response, **_: responses.append(response))
        client = DICOMwebClient(str(destination.url).rstrip("/"), session, timeout=timeout_s)
        # The delivery queue has its own patience.
        client.set_http_retry_params(retry=False)
        for batch in _batches(instances):
            _post(client, [dcmread(one.path) for one in batch], destination)
            statuses = _statuses(responses[-1], destination)
            for one in batch:
                uid = one.sop_instance_uid
                yield Answer(uid, statuses.get(uid, PROCESSING_FAILURE))


class _Bearer(AuthBase):
    """Authorization by a token (RFC 6750), which `repr` and logs never see."""

    def __init__(self, token: str) -> None:
        self._token: Final = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Profiled(HTTPAdapter):
    """HTTPS within our TLS profile; requests by itself goes by its own."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context: Final = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)


def _prepare(session: requests.Session, destination: WebDestination, settings: TlsSettings) -> None:
    # Neither a proxy nor a password file of whoever started the node.
    session.trust_env = False
    # A redirect would turn the request into another one, to another host.
    session.max_redirects = 0
    session.headers["Accept"] = "application/dicom+json"
    if destination.token_file is not None:
        session.auth = _Bearer(_token(destination.token_file))
    if destination.ca_file is not None:
        session.verify = str(destination.ca_file)
    context = tls.web_context(settings, destination, utc_now())
    session.mount("https://", _Profiled(context))


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no ASCII"
        raise Retry(f"token_file: expected a file with a bearer token, {path}: {reason}") from error
    if not token or not token.isprintable() or " " in token:
        raise Retry(f"token_file: expected one bearer token in {path}, found none or other text")
    return token


def _batches(instances: Sequence[OutgoingInstance]) -> Iterator[list[OutgoingInstance]]:
    batch: list[OutgoingInstance] = []
    size = 0
    for one in instances:
        length = one.path.stat().st_size
        if batch and size + length > REQUEST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += length
    yield batch


def _post(client: DICOMwebClient, datasets: list[Dataset], destination: WebDestination) -> None:
    """One request; returns when there is a response that tells of instances."""
    try:
        client.store_instances(datasets)
    except requests.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        if status == HTTPStatus.CONFLICT:
            return
        message = f"{destination.name} answered with HTTP {status}: {_words(status, destination)}"
        if status in _MEANT and status not in _MAY_PASS:
            raise Rejected(message) from error
        raise Unreachable(message) from error
    except requests.TooManyRedirects as error:
        raise Rejected(
            f"{destination.name} redirects the request; set url to where it leads"
        ) from error
    except _NO_RESPONSE:
        # The client could not read the response; `_statuses` says what is wrong with it.
        return
    except requests.RequestException as error:
        raise Unreachable(f"{destination.name}: {_trouble(error)}") from error


def _words(status: int, destination: WebDestination) -> str:
    # nginx says so when it misses the certificate of a client, or does not accept it.
    doubt = (
        "it may not accept our certificate"
        if destination.client_certificate
        else "if it wants our certificate, set client_certificate = true"
    )
    known = {
        HTTPStatus.BAD_REQUEST: f"it takes the request for none; {doubt}",
        HTTPStatus.UNAUTHORIZED: "it does not know our token or certificate, or no longer",
        HTTPStatus.FORBIDDEN: "our token or certificate may not store",
        HTTPStatus.NOT_FOUND: "url leads to no STOW-RS service",
        HTTPStatus.METHOD_NOT_ALLOWED: "url leads to no STOW-RS service",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the request is too large for it",
    }
    try:
        return known.get(HTTPStatus(status), HTTPStatus(status).phrase)
    except ValueError:
        return "a status that HTTP does not have"


def _trouble(error: Exception) -> str:
    # The library's own text quotes the request.
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS failed: its certificate or ours is not accepted"
    if isinstance(error, requests.Timeout):
        return "it did not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection: nothing listens, or it was cut off"
    return "its answer was cut off or cannot be read"


def _statuses(response: requests.Response, destination: WebDestination) -> dict[str, int]:
    """SOP Instance UID to status, of the Store Instances Response (PS3.18 10.5.3.2).

    Raises:
        Unreachable: When it is none; whatever made it may make a better one next time.
    """
    try:
        told: Any = response.json()
        return _told(Dataset.from_json(told[0] if isinstance(told, list) else told))
    except _NO_RESPONSE as error:
        raise Unreachable(
            f"{destination.name} answered HTTP {response.status_code} without a DICOM JSON response"
        ) from error


def _told(ds: Dataset) -> dict[str, int]:
    stored = {
        str(item.ReferencedSOPInstanceUID): int(item.get("WarningReason") or SUCCESS)
        for item in ds.get("ReferencedSOPSequence", [])
    }
    failed = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or PROCESSING_FAILURE)
        for item in ds.get("FailedSOPSequence", [])
    }
    return stored | failed
