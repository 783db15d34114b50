"""Every setting of the node: loaded once, checked, frozen, passed in.

The defaults live in `default.toml` alone, each with its reason. A site's file is laid over it and
`PSEUDOMRI_`-prefixed environment variables over both (``PSEUDOMRI_NODE__PORT=11113``). Unknown
keys and variables are refused, units are in the names.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    IPvAnyNetwork,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

DEFAULT_FILE = Path(__file__).with_name("default.toml")

# PS3.5 table 6.2-1, AE: at most 16 characters of the default repertoire, no backslash, no control
# characters, not only spaces.
AETitle = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$"),
]
Port = Annotated[int, Field(ge=0, le=65535)]
# Destinations that the node makes itself, by these names.
SENDER: Final = "sender"  # whoever sent the CT
PROOF_SINK: Final = "(proof)"  # the prover's own, for its phantom
PositiveSeconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    # Errors quote no input: it may hold the password of a URL.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class NodeSettings(_Section):
    """Who we are and where our data lies."""

    ae_title: AETitle
    bind_address: str
    port: Port
    data_folder: Path
    database_url: str
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,32}$")]
    hung_s: Annotated[float, Field(ge=0)]
    time_zone: str

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name and name not in available_timezones():
            raise ValueError("must name a time zone, such as Asia/Tokyo, or be empty")
        return name

    @property
    def zone(self) -> ZoneInfo | None:
        """Of the clock on the site's wall; None for that of this host."""
        return ZoneInfo(self.time_zone) if self.time_zone else None


class Peer(_Section):
    """One sender that may open an association: who it says it is, and from where.

    An AE title alone proves nothing, so the address has no default: an address, a network such as
    10.0.0.0/8, or "any" for a site that means it.
    """

    ae_title: AETitle
    address: IPvAnyNetwork | Literal["any"]


class TlsSettings(_Section):
    """Our certificate, its key, and the CAs whose certificates we take; all PEM."""

    certificate_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    # The revocation lists of these CAs; without it revoked certificates are taken.
    crl_file: Path | None = None
    profile: Literal["bcp195", "bcp195-modified"]
    warn_before_expiry_days: Annotated[int, Field(ge=0)]

    @property
    def is_complete(self) -> bool:
        """Whether all three files are named."""
        return None not in (self.certificate_file, self.key_file, self.ca_file)


MOST_ACCEPTORS = 64


class ReceiveSettings(_Section):
    """The Storage SCP."""

    allow_any_peer: bool
    peers: tuple[Peer, ...]
    tls: bool
    processes: Annotated[int, Field(ge=1, le=MOST_ACCEPTORS)]
    maximum_associations: Annotated[int, Field(ge=1)]
    maximum_associations_per_peer: Annotated[int, Field(ge=1)]
    maximum_dataset_bytes: Annotated[int, Field(ge=1)]
    maximum_pdu_bytes: Annotated[int, Field(ge=0)]
    network_timeout_s: PositiveSeconds
    minimum_free_bytes: Annotated[int, Field(ge=0)]


class CompletionSettings(_Section):
    """When a series counts as complete."""

    quiet_s: PositiveSeconds
    gap_patience_s: PositiveSeconds
    abandoned_s: PositiveSeconds
    poll_s: PositiveSeconds


class SelectionSettings(_Section):
    """Which series is worth a synthesis, before its pixels are read."""

    minimum_slices: Annotated[int, Field(ge=2)]
    maximum_slice_step_mm: Annotated[float, Field(gt=0)]
    maximum_pixel_mm: Annotated[float, Field(gt=0)]
    minimum_coverage_mm: Annotated[float, Field(gt=0)]
    trauma_words: tuple[str, ...]
    trauma_peers: tuple[str, ...]


class SynthesisSettings(_Section):
    """The model and how it is run."""

    contrasts: tuple[Literal["T2", "STIR"], ...]
    samples: Annotated[int, Field(ge=0, le=64)]
    device: Literal["auto", "cpu", "cuda"]
    model_folder: Path | None = None
    threads: Annotated[int, Field(ge=0)]
    minimum_free_bytes: Annotated[int, Field(ge=0)]
    maximum_waiting: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _contrasts_once(self) -> SynthesisSettings:
        if not self.contrasts or len(set(self.contrasts)) != len(self.contrasts):
            raise ValueError("contrasts must name T2, STIR or both, each once")
        if self.samples == 1:
            raise ValueError("samples must be 0 (no spread) or at least 2: one has no spread")
        return self


class CalledPeer(_Section):
    """One application entity that we call."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    ae_title: AETitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: bool = False
    # The name its certificate carries, where that is not `host`; "any" takes every name.
    tls_name: str | None = None


class Destination(CalledPeer):
    """One PACS that receives the result by C-STORE."""

    # Whether it is asked to take responsibility before a synthesis is committed.
    storage_commitment: bool = False
    # Whether it is outside the site's security domain: audit messages then call it an export.
    outside: bool = False


class Source(CalledPeer):
    """One PACS that studies are fetched from."""

    # C-GET brings instances on our own association; C-MOVE has them sent to our port, so the
    # source must know our AE title and be in `receive.peers`.
    method: Literal["get", "move"] = "get"


class WebDestination(_Section):
    """One archive that receives the result by STOW-RS (PS3.18 10.5)."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    # Up to and without `/studies`; who we are is told by a token or a certificate, never in here.
    url: HttpUrl
    # A bearer token, read anew for each delivery so that it may be renewed.
    token_file: Path | None = None
    # Whether our certificate of [tls] is shown to it.
    client_certificate: bool = False
    # The CAs of its certificate; the ones that the system knows when left out.
    ca_file: Path | None = None
    # Revocation lists of these CAs.
    crl_file: Path | None = None
    # As of a destination by C-STORE.
    outside: bool = False

    @model_validator(mode="after")
    def _keeps_secrets(self) -> WebDestination:
        if self.url.username or self.url.password:
            raise ValueError("url must not hold a name or password; use token_file")
        if self.url.scheme != "https" and (self.token_file or self.client_certificate):
            raise ValueError("url must begin with https where a token or certificate is shown")
        if self.crl_file is not None and self.ca_file is None:
            raise ValueError("crl_file holds the revocation lists of ca_file, which is missing")
        return self


class WorkSettings(_Section):
    """How workers know of each other."""

    beat_s: PositiveSeconds
    silent_s: PositiveSeconds

    @model_validator(mode="after")
    def _several_beats(self) -> WorkSettings:
        if self.silent_s < 4 * self.beat_s:
            raise ValueError("silent_s must be at least 4 beat_s: a beat may be late")
        return self


class DeliverySettings(_Section):
    """Where results go and how stubbornly."""

    destinations: tuple[Destination, ...]
    web_destinations: tuple[WebDestination, ...]
    back_to_sender: bool
    sender_port: Annotated[int, Field(ge=1, le=65535)]
    sender_tls: bool
    first_retry_s: PositiveSeconds
    longest_retry_s: PositiveSeconds
    give_up_s: PositiveSeconds
    network_timeout_s: PositiveSeconds
    commitment_timeout_s: PositiveSeconds
    commitment_stay_s: Annotated[float, Field(ge=0)]
    commitment_tries: Annotated[int, Field(ge=1)]

    @property
    def names(self) -> frozenset[str]:
        """Names of all destinations."""
        web = frozenset(one.name for one in self.web_destinations)
        return web | {one.name for one in self.destinations}

    @property
    def outside(self) -> frozenset[str]:
        """Names of the destinations outside the site's security domain."""
        web = frozenset(one.name for one in self.web_destinations if one.outside)
        return web | {one.name for one in self.destinations if one.outside}

    @property
    def committing(self) -> frozenset[str]:
        """Names of the destinations that are asked for storage commitment."""
        return frozenset(one.name for one in self.destinations if one.storage_commitment)

    @model_validator(mode="after")
    def _names_once(self) -> DeliverySettings:
        names = [one.name for one in self.destinations]
        names += [one.name for one in self.web_destinations]
        if len(set(names)) != len(names):
            raise ValueError(f"destination names must differ, found {sorted(names)}")
        for name in names:
            if name in (SENDER, PROOF_SINK):
                raise ValueError(
                    f"expected destination names other than {SENDER!r} and {PROOF_SINK!r}, which"
                    f" the node gives to its own, found {name!r}; choose another one"
                )
        return self


class WebSettings(_Section):
    """Health and metrics: where they are served, and from when on something is wrong."""

    bind_address: str
    port: Port
    token_file: Path | None = None
    role_silent_s: PositiveSeconds
    queue_limit_s: PositiveSeconds
    running_limit_s: PositiveSeconds
    delivery_limit_s: PositiveSeconds
    verify_chain_s: PositiveSeconds


class RetentionSettings(_Section):
    """What is deleted, and when. 0 switches a rule off."""

    received_days: Annotated[float, Field(ge=0)]
    outputs_days: Annotated[float, Field(ge=0)]
    quarantine_days: Annotated[float, Field(ge=0)]
    archive_maximum_bytes: Annotated[int, Field(ge=0)]
    leftover_hours: Annotated[float, Field(gt=0)]
    workflows_days: Annotated[float, Field(ge=0)]
    poll_s: PositiveSeconds


class RetrieveSettings(_Section):
    """Where studies are looked for and fetched from."""

    sources: tuple[Source, ...]
    network_timeout_s: PositiveSeconds
    count_source: str
    count_timeout_s: PositiveSeconds
    fetch_announced: bool
    fetch_tries: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _names_fit(self) -> RetrieveSettings:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"source names must differ, found {sorted(names)}")
        if self.count_source and self.count_source not in names:
            raise ValueError(f"count_source must be one of the sources, found {self.count_source}")
        return self


class AtnaSettings(_Section):
    """Audit messages to the hospital's audit repository (IHE ATNA)."""

    host: str
    port: Port
    transport: Literal["tls", "tcp", "udp"]
    # The name its certificate carries, where that is not `host`; "any" takes every name.
    tls_name: str | None = None
    patient: Literal["digest", "id", "none"]
    site_id: str
    poll_s: PositiveSeconds
    timeout_s: PositiveSeconds


class LoggingSettings(_Section):
    """What the process prints. Identifiers of patients are never among it."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    format: Literal["console", "json"]


class WrongVariable(Exception):
    """A `PSEUDOMRI_` variable that sets nothing. The message names it, without its value."""


# What is read elsewhere: by `node.faults` and by the tests.
_NO_SETTINGS: Final = ("pseudomri_faults", "pseudomri_test_data")


class _Environment(EnvSettingsSource):
    """The environment, where no variable of ours is passed over."""

    def __call__(self) -> dict[str, Any]:
        prefix, delimiter = self.env_prefix.lower(), str(self.env_nested_delimiter)
        for name in self.env_vars:
            section = name.removeprefix(prefix).split(delimiter)[0]
            is_known = section in self.settings_cls.model_fields or name in _NO_SETTINGS
            if name.startswith(prefix) and not is_known:
                raise WrongVariable(
                    f"{name.upper()}: expected SECTION__KEY after the prefix, such as"
                    " PSEUDOMRI_NODE__PORT, found no such section; correct or unset it"
                )
        return super().__call__()

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """As the parent's; what is no JSON is told by the name of its variable."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError as error:
            # We are only told the last part of it.
            names = [name for name, text in self.env_vars.items() if text is value]
            raise WrongVariable(f"{names[0].upper()}: expected JSON: {error}") from error


class Settings(BaseSettings):
    """All sections; built by `load`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix="PSEUDOMRI_",
        env_nested_delimiter="__",
    )

    node: NodeSettings
    tls: TlsSettings
    receive: ReceiveSettings
    completion: CompletionSettings
    selection: SelectionSettings
    synthesis: SynthesisSettings
    work: WorkSettings
    delivery: DeliverySettings
    retrieve: RetrieveSettings
    web: WebSettings
    retention: RetentionSettings
    atna: AtnaSettings
    logging: LoggingSettings

    @model_validator(mode="after")
    def _tls_has_its_files(self) -> Settings:
        uses = [f"delivery.destinations.{d.name}" for d in self.delivery.destinations if d.tls]
        uses += [
            f"delivery.web_destinations.{one.name}"
            for one in self.delivery.web_destinations
            if one.client_certificate
        ]
        uses += [f"retrieve.sources.{one.name}" for one in self.retrieve.sources if one.tls]
        uses += ["delivery.sender_tls"] if self.delivery.sender_tls else []
        uses += ["receive.tls"] if self.receive.tls else []
        uses += ["atna.transport"] if self.atna.host and self.atna.transport == "tls" else []
        if uses and not self.tls.is_complete:
            raise ValueError(f"{uses[0]} needs tls.certificate_file, tls.key_file and tls.ca_file")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then arguments, which are the site's file, then the defaults."""
        del env_settings, dotenv_settings, file_secret_settings
        return (
            _Environment(settings_cls),
            init_settings,
            TomlConfigSettingsSource(settings_cls, toml_file=DEFAULT_FILE),
        )


def load(site_file: Path | None = None) -> Settings:
    """The frozen settings of this process.

    Args:
        site_file: A TOML file laid over the defaults; every key in it must be known.

    Raises:
        OSError: When `site_file` cannot be read.
        tomllib.TOMLDecodeError, UnicodeDecodeError: When it is no TOML.
        WrongVariable: When an environment variable of ours names no section or is no JSON.
        pydantic.ValidationError: With the key, what was expected and what was found.
    """
    site: dict[str, object] = {}
    if site_file is not None:
        with site_file.open("rb") as stream:
            site = tomllib.load(stream)
    return Settings(**site)  # type: ignore[arg-type]
