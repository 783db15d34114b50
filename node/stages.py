"""The pipeline's stages as the workflow and the direct command call them.

`Stages` is the seam between what is durable (the workflow) and what is computed (the pipeline).
torch is imported by `real_stages` alone, so that only a process that computes carries it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from node.deliver import Answer, OutgoingInstance, send
from node.ledger.entries import Destination
from node.workfiles import Made, Prepared
from pipeline.provenance import JobIdentity

Send = Callable[[Sequence[OutgoingInstance], Destination, str, float], Iterator[Answer]]
"""Stores instances with a destination under our AE title, waiting so many seconds at most."""


@dataclass(frozen=True, eq=False)
class Order:
    """What is to be made, as the pipeline needs to know it.

    Args:
        identity: Of the job; goes into every object.
        created_at: When the job was created, ISO 8601: the date of the objects, so that packaging
            twice gives the same bytes.
        samples: Size of the ensemble.
    """

    identity: JobIdentity
    created_at: str
    samples: int


@dataclass(frozen=True, eq=False)
class PackagedInstance:
    """One secondary capture instance, as the bytes of its file."""

    sop_instance_uid: str
    series_uid: str
    contrast: str
    slice_index: int
    pixel_digest: str
    content: bytes


@dataclass(frozen=True)
class Stages:
    """What the workflow calls.

    Args:
        model_digest: Of the model that `synthesize` runs.
        prepare: CT files to the sagittal stack; raises `Declined`.
        synthesize: The stack to images.
        package: Images and the CT's headers to secondary capture instances.
        send: Instances to one destination.
    """

    model_digest: str
    prepare: Callable[[Sequence[Path]], Prepared]
    synthesize: Callable[[Prepared, Order], Made]
    package: Callable[[Made, Prepared, Sequence[Dataset], Order], Iterator[PackagedInstance]]
    send: Send = send
