"""TLS for both directions: contexts after BCP 195, and files that say what is wrong with them.

Two profiles of PS3.15: B.12 ("BCP 195 RFC 8996, 9325", which downgrades to nothing older than TLS
1.2) and B.13 ("Modified BCP 195", whose list of cipher suites is closed). Both sides always show a
certificate: one without a peer's certificate would let anybody in who knows an AE title.

TLS 1.3 takes part in both. Its suites are OpenSSL's own three, since Python 3.11 cannot choose
them; the two CCM suites that B.13 also names are therefore not offered, nor are the Camellia ones,
which OpenSSL does not have.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

from config.settings import TlsSettings, WebDestination
from node.clock import Clock
from node.errors import Retry, Stop

log = structlog.get_logger(__name__)

# RFC 9325 4.2: forward secrecy and authenticated encryption, nothing else.
_RECOMMENDED: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
PROFILES: Final = {
    "bcp195": _RECOMMENDED,
    # B.13 permits ECDHE with AES in GCM and CCM and ChaCha20; of DHE only where its length is set.
    "bcp195-modified": (
        *_RECOMMENDED,
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES256-CCM",
        "ECDHE-ECDSA-AES128-CCM",
        "ECDHE-ECDSA-AES256-CCM8",
        "ECDHE-ECDSA-AES128-CCM8",
    ),
}
"""Cipher suites of TLS 1.2 by profile, OpenSSL's names, the strongest first."""

# X509_V_ERR_* of OpenSSL, in the words of the operations guide.
_VERDICTS: Final = {
    3: "tls.crl_file has no revocation list of the CA of its certificate",
    8: "the revocation list of its CA is not signed by that CA",
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    11: "the revocation list of its CA is not valid yet",
    12: "the revocation list of its CA has expired",
    18: "its certificate is self-signed and not in tls.ca_file",
    19: "its certificate comes from another CA than tls.ca_file",
    20: "its certificate comes from another CA than tls.ca_file",
    21: "its certificate comes from another CA than tls.ca_file",
    23: "its certificate has been revoked",
    62: "its certificate is for another name",
    64: "its certificate is for another address",
    66: "the key of its certificate is too weak",
}
_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "UNSUPPORTED_PROTOCOL": "it wants a TLS older than 1.2",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it wants another version of TLS",
    "NO_SHARED_CIPHER": "it shares no cipher suite with us",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it shares no cipher suite with us, or wants a certificate",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "HTTP_REQUEST": "it does not speak TLS",
    "RECORD_LAYER_FAILURE": "it does not speak TLS",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate from us",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the CA of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it finds our certificate expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it finds our certificate revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it refuses our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it refuses our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it refuses the kind of our certificate",
}


CRL_DUE_DAYS: Final = 1
"""A revocation list is renewed every few days by whatever fetches it: on its last day something is
wrong with that."""


_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True)
class Expiry:
    """The end of the validity of a certificate or a revocation list.

    Args:
        setting: The key of the file it stands in.
        days_left: Whole days; negative when it is over.
        is_due: Whether it is time to do something about it.
    """

    setting: str
    not_after: datetime
    days_left: int
    is_due: bool


class _Telling(ssl.SSLSocket):
    """A socket that leaves word of what went wrong with its context; pynetdicom only logs it."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError as error:
            self._tell(error)
            raise

    def read(self, length: int = 1024, buffer: Any = None) -> Any:
        # In TLS 1.3 a server's verdict on our certificate only comes with the first answer.
        try:
            return super().read(length, buffer)
        except ssl.SSLError as error:
            self._tell(error)
            raise

    def _tell(self, error: OSError) -> None:
        if isinstance(self.context, ClientContext):
            self.context.trouble = reason_of(error)


class ClientContext(ssl.SSLContext):
    """The context of one outgoing association.

    Attributes:
        trouble: What ended it, when TLS did; for the message of whoever called.
    """

    trouble: str | None = None
    sslsocket_class = _Telling


def server_context(settings: TlsSettings, now: datetime) -> ssl.SSLContext:
    """For listening: the peer must show a certificate of `ca_file`.

    Raises:
        Stop: When a file is missing, unreadable, of another kind, or not valid now; by its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    _prepare(context, settings, now)
    return context


class ServerContexts:
    """The context for listening, made anew when one of its files has changed.

    A renewed certificate so needs no restart. When the new files are wrong, the old context goes on
    and the log says why.

    Args:
        settings: Files and profile.
        clock: Tells UTC moments.

    Raises:
        Stop: As `server_context`, when the very first one cannot be made.
    """

    def __init__(self, settings: TlsSettings, clock: Clock) -> None:
        self._settings: Final = settings
        self._clock: Final = clock
        self._lock: Final = threading.Lock()
        self._seen = self._look()
        self._context = server_context(settings, clock())

    def current(self) -> ssl.SSLContext:
        """The context for the next connection; the cost is a look at its files. Never raises."""
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                try:
                    self._context = server_context(self._settings, self._clock())
                    log.info("the certificate files were renewed")
                except Stop as error:
                    log.error("the renewed certificate files are of no use", reason=str(error))
            return self._context

    def _look(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        lists = self._settings.crl_file
        for path in (*_files(self._settings), *((lists,) if lists else ())):
            try:
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_ino))
            except OSError:
                found.append(None)
        return found


def client_context(settings: TlsSettings, checks_name: bool, now: datetime) -> ClientContext:
    """For calling; a new one an association, so that renewed files need no restart.

    Args:
        settings: Files and profile.
        checks_name: Whether the certificate must carry the name that was called.
        now: The present moment, UTC.

    Raises:
        Retry: As `server_context`; whoever calls can wait until somebody has mended the file.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = checks_name
    try:
        _prepare(context, settings, now)
    except Stop as error:
        raise Retry(str(error)) from error
    return context


def web_context(
    settings: TlsSettings, destination: WebDestination, now: datetime
) -> ssl.SSLContext:
    """For HTTPS: the profile's versions and suites; the CAs that are trusted are the caller's.

    Args:
        settings: Profile, and the files of our certificate.
        destination: Whether that is shown to it, the CAs of its certificate, which are only looked
            at, and the revocation lists it has to pass.
        now: The present moment, UTC.

    Raises:
        Retry: When a file is wrong; see `client_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, settings)
    try:
        if destination.client_certificate:
            _show_certificate(context, settings, now)
        if destination.ca_file is not None:
            setting = _key(destination, "ca_file")
            _check_validity(setting, destination.ca_file, now)
            if destination.crl_file is not None:
                authorities = _certificates(setting, destination.ca_file)
                lists = _key(destination, "crl_file")
                _heed_revocation(context, lists, destination.crl_file, authorities, now)
    except Stop as error:
        raise Retry(str(error)) from error
    return context


def expiries(
    settings: TlsSettings, destinations: Iterable[WebDestination], now: datetime
) -> tuple[Expiry, ...]:
    """Each configured certificate and revocation list with its end, the nearest end first.

    Args:
        settings: Our files.
        destinations: Those with CAs and revocation lists of their own.
        now: The present moment, UTC.

    Raises:
        Stop: When a file cannot be read.
    """
    own, limit_days = "tls.certificate_file", settings.warn_before_expiry_days
    files = [(own, settings.certificate_file), ("tls.ca_file", settings.ca_file)]
    lists = [("tls.crl_file", settings.crl_file)]
    for one in destinations:
        files.append((_key(one, "ca_file"), one.ca_file))
        lists.append((_key(one, "crl_file"), one.crl_file))
    found = [
        _expiry(setting, certificate.not_valid_after_utc, now, limit_days)
        for setting, path in files
        if path is not None
        # Of the file with our own only the first is ours; the others lead to its CA.
        for certificate in _certificates(setting, path)[: 1 if setting == own else None]
    ]
    found += [
        _expiry(setting, revoked.next_update_utc, now, CRL_DUE_DAYS)
        for setting, path in lists
        if path is not None
        for revoked in _revocation_lists(setting, path)
        if revoked.next_update_utc is not None
    ]
    return tuple(sorted(found, key=lambda expiry: expiry.not_after))


def warn_of_expiry(
    settings: TlsSettings, destinations: Iterable[WebDestination], now: datetime
) -> tuple[Expiry, ...]:
    """Log every certificate and revocation list that is due; these are returned."""
    soon = tuple(expiry for expiry in expiries(settings, destinations, now) if expiry.is_due)
    for expiry in soon:
        log.warning(
            "a certificate or revocation list is about to expire",
            setting=expiry.setting,
            days_left=expiry.days_left,
            not_after=expiry.not_after.isoformat(),
        )
    return soon


def reason_of(error: OSError) -> str:
    """What went wrong in a handshake, in the words of the operations guide."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERDICTS.get(error.verify_code, f"its certificate: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return _REASONS.get(error.reason or "", f"the TLS handshake failed: {error.reason}")
    if isinstance(error, TimeoutError):
        return "it did not finish the TLS handshake in time"
    return "it broke off the TLS handshake"


def _prepare(context: ssl.SSLContext, settings: TlsSettings, now: datetime) -> None:
    _harden(context, settings)
    _show_certificate(context, settings, now)
    _, _, ca = _files(settings)
    _check_validity("tls.ca_file", ca, now)
    context.load_verify_locations(ca)
    if settings.crl_file is not None:
        authorities = _certificates("tls.ca_file", ca)
        _heed_revocation(context, "tls.crl_file", settings.crl_file, authorities, now)


def _heed_revocation(
    context: ssl.SSLContext,
    setting: str,
    path: Path,
    authorities: list[x509.Certificate],
    now: datetime,
) -> None:
    """Take the lists, unless OpenSSL would refuse every peer by them, or any CA's own."""
    for one in _revocation_lists(setting, path):
        issuer, end = one.issuer.rfc4514_string(), one.next_update_utc
        if one.last_update_utc > now:
            raise Stop(
                f"{setting}: expected current revocation lists, that of {issuer} in {path} is"
                f" not valid before {one.last_update_utc.isoformat()}; check the clock"
            )
        if end is not None and end < now:
            raise Stop(
                f"{setting}: expected current revocation lists, that of {issuer} in {path}"
                f" expired on {end.isoformat()}; get the CA's newest one"
            )
        signers = [ca for ca in authorities if ca.subject == one.issuer]
        keys = [cast(CertificateIssuerPublicKeyTypes, ca.public_key()) for ca in signers]
        if keys and not any(one.is_signature_valid(key) for key in keys):
            raise Stop(
                f"{setting}: expected a revocation list that {issuer} signed, that in {path} is"
                " signed by somebody else"
            )
    context.load_verify_locations(path)
    # Of the peer's own certificate: whoever revokes a CA takes it out of ca_file.
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _revocation_lists(setting: str, path: Path) -> list[x509.CertificateRevocationList]:
    content = _read(setting, path)
    try:
        found = [x509.load_pem_x509_crl(one) for one in _CRL.findall(content)]
    except ValueError as error:
        raise Stop(f"{setting}: expected revocation lists in PEM, {path} is damaged") from error
    if not found:
        raise Stop(f"{setting}: expected revocation lists in PEM, found none in {path}")
    return found


def _harden(context: ssl.SSLContext, settings: TlsSettings) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(":".join(PROFILES[settings.profile]))
    context.verify_mode = ssl.CERT_REQUIRED


def _show_certificate(context: ssl.SSLContext, settings: TlsSettings, now: datetime) -> None:
    certificate, key, _ = _files(settings)
    _check_validity("tls.certificate_file", certificate, now)
    _read("tls.key_file", key)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Stop(
                f"tls.key_file: expected the key of tls.certificate_file, {key} is the key of"
                " another certificate"
            ) from error
        raise Stop(
            f"tls.key_file: expected a private key in PEM, found none in {key}: {error.reason}"
        ) from error


def _key(destination: WebDestination, name: str) -> str:
    return f"delivery.web_destinations.{destination.name}.{name}"


def _files(settings: TlsSettings) -> Iterator[Path]:
    for name in ("certificate_file", "key_file", "ca_file"):
        path = getattr(settings, name)
        if path is None:
            raise Stop(f"tls.{name}: expected a PEM file, since TLS is switched on, found none")
        yield path


def _check_validity(setting: str, path: Path, now: datetime) -> None:
    certificates = _certificates(setting, path)
    if setting == "tls.certificate_file":
        certificates = certificates[:1]
    valid = [one for one in certificates if one.not_valid_before_utc <= now]
    if not valid:
        begin = certificates[0].not_valid_before_utc.isoformat()
        raise Stop(f"{setting}: expected a valid certificate, {path} is not valid before {begin}")
    if all(one.not_valid_after_utc < now for one in valid):
        end = valid[0].not_valid_after_utc.isoformat()
        raise Stop(f"{setting}: expected a valid certificate, {path} expired on {end}; renew it")


def _certificates(setting: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(setting, path))
    except ValueError as error:
        raise Stop(f"{setting}: expected certificates in PEM, found none in {path}") from error


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Stop(f"{setting}: expected a file to read, {path}: {error.strerror}") from error


def _expiry(setting: str, end: datetime, now: datetime, limit_days: int) -> Expiry:
    days_left = (end - now).days
    return Expiry(setting, end, days_left, days_left <= limit_days)


def _refuse_password() -> str:
    # OpenSSL would ask the terminal, which a service does not have.
    raise Stop(
        "tls.key_file: expected a key without a passphrase, found an encrypted one; decrypt it"
        " (`openssl pkey`) and let only the node's user read it"
    )
