"""What the ledger takes in and hands out about syntheses and deliveries: frozen, no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.settings import TlsSettings
from node.states import DeliveryState, SynthesisState


@dataclass(frozen=True)
class NewSynthesis:
    """What is to be made from what, before anything has been done about it.

    Args:
        job_id: Identity of the whole; every UID and the seed follow from it.
        sources: SOP Instance UID to digest of exactly the instances it is made from.
        priority: Lower runs first; at least 1.
        parameters: JSON; what else the result depends on, such as the number of samples.
    """

    job_id: str
    series_uid: str
    series_version: int
    study_uid: str
    priority: int
    contrasts: tuple[str, ...]
    sources: Mapping[str, str]
    seed: int
    model_name: str
    model_version: str
    model_digest: str
    parameters: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.priority < 1:
            raise ValueError(f"a priority is at least 1, not {self.priority}")
        if not self.contrasts or not self.sources:
            raise ValueError("a synthesis needs a contrast and source instances")


@dataclass(frozen=True)
class SynthesisEntry:
    """One row of the synthesis table as it stood when it was read."""

    job_id: str
    series_uid: str
    series_version: int
    study_uid: str
    state: SynthesisState
    run: int
    priority: int
    contrasts: tuple[str, ...]
    sources: Mapping[str, str]
    seed: int
    model_name: str
    model_version: str
    model_digest: str
    parameters: Mapping[str, Any]
    reason: str | None
    created_at: str
    updated_at: str


@dataclass(frozen=True)
class Output:
    """One secondary capture instance that is durable in the archive.

    Args:
        pixel_digest: Of the stored pixel values alone.
        digest: Of the whole file.
        path: Relative to the data folder's archive, as the archive gave it.
    """

    sop_instance_uid: str
    series_uid: str
    contrast: str
    slice_index: int
    pixel_digest: str
    digest: str
    path: str


@dataclass(frozen=True)
class Packaged:
    """What is known once the outputs are durable; JSON-ready."""

    outputs: Sequence[Output]
    software: Mapping[str, str]
    device: str
    timings_s: Mapping[str, float]
    measurements: Mapping[str, Any]
    warnings: Sequence[str]


@dataclass(frozen=True)
class Dispatch:
    """A run that the workflow engine has not accepted yet."""

    job_id: str
    run: int
    priority: int


@dataclass(frozen=True)
class Destination:
    """Where a delivery goes, its address resolved.

    Args:
        tls: The files and the profile to call it with; None for a plain connection. It is not on
            record: whoever calls takes it from the settings.
        tls_name: The name its certificate must carry; None for any.
    """

    name: str
    ae_title: str
    host: str
    port: int
    tls: TlsSettings | None = None
    tls_name: str | None = None


@dataclass(frozen=True)
class DeliveryEntry:
    """One row of the delivery table as it stood when it was read.

    Args:
        attempts: How often it has been tried so far.
    """

    id: int
    job_id: str
    destination: Destination
    state: DeliveryState
    priority: int
    attempts: int
    created_at: str


@dataclass(frozen=True)
class Attempt:
    """One try that has begun.

    Args:
        remaining: The outputs that this destination has not accepted yet.
    """

    id: int
    delivery_id: int
    destination: Destination
    remaining: tuple[Output, ...]
