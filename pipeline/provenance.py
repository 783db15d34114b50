"""Every identity of a result follows from its input: job id, UIDs, seed, digests.

Nothing here reads a clock, a random number or a setting, so the same input names the same objects
on any host, twice or after a crash. `Canonical JSON` below means: keys sorted, no white space,
ASCII only, no NaN; one value has one spelling.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contrast import ALL_CONTRASTS, Contrast

# Any fixed UUID serves; it keeps our names apart from other users of version 5 UUIDs.
_NAMESPACE = uuid.UUID("6d4b0ab1-3f5c-4c58-9a3e-6c1f1c3b7a90")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# What decides the numbers and the bytes of a result; read from metadata, so torch is not imported.
_PACKAGES = (
    "pseudomri",
    "torch",
    "diffusers",
    "highdicom",
    "pydicom",
    "pynetdicom",
    "SimpleITK",
    "numpy",
    "scipy",
    "Pillow",
)
_MODEL_SUFFIXES = frozenset({".safetensors", ".json"})
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class JobIdentity:
    """What made a result, as it is written into every object of the job.

    Args:
        job_id: As `job_id` gives it.
        contrasts: The contrasts of the job, at least one, none twice; kept in the order of
            `ALL_CONTRASTS`, whatever theirs was.
        seed: Of the generator, at least 0; `seed_of` unless a person chose one, which is then
            among the parameters too.
        model_name: Such as ``"pseudomri-cervical"``; ASCII, at most 64 characters.
        model_version: Such as ``"1.0.0"``; likewise.
        model_digest: SHA-256 of the model folder, as `digest_folder` gives it.
        parameters: Whatever else the pixels depend on: samples, steps, guidance.

    Raises:
        ValueError: When one of them breaks the above.
    """

    job_id: str
    contrasts: tuple[Contrast, ...]
    seed: int
    model_name: str
    model_version: str
    model_digest: str
    parameters: Mapping[str, Any]

    def __post_init__(self) -> None:
        _check_digest("job_id", self.job_id)
        _check_digest("model_digest", self.model_digest)
        if not self.contrasts or len(set(self.contrasts)) != len(self.contrasts):
            raise ValueError(f"a job needs contrasts, each once, not {self.contrasts}")
        # The job id does not know their order, so nothing that is named after it may.
        ordered = tuple(one for one in ALL_CONTRASTS if one in self.contrasts)
        object.__setattr__(self, "contrasts", ordered)
        if self.seed < 0:
            raise ValueError(f"a seed is at least 0, not {self.seed}")
        for name in (self.model_name, self.model_version):
            # They go into DICOM texts, where a backslash would separate values (PS3.5 6.2).
            if not (0 < len(name) <= 64 and name.isascii() and name.isprintable()) or "\\" in name:
                raise ValueError(
                    f"model name and version are 1 to 64 printable ASCII characters: {name!r}"
                )


def job_id(
    series_uid: str,
    version: int,
    instance_digests: Mapping[str, str] | Iterable[tuple[str, str]],
    model_digest: str,
    contrasts: Iterable[str],
    parameters: Mapping[str, Any],
) -> str:
    """The SHA-256 that names a job: 64 lower-case hexadecimal digits.

    Independent of the order of instances, contrasts and parameters; anything else that changes
    changes the id.

    Args:
        series_uid: Series Instance UID (0020,000E) of the CT.
        version: Of the series: 1, and one more with each late slice.
        instance_digests: SOP Instance UID (0008,0018) and SHA-256 of each CT instance.
        model_digest: As `digest_folder` gives it.
        contrasts: What was asked for.
        parameters: Whatever else the pixels depend on, such as the number of samples or a seed
            that a person chose; JSON values only, names are strings.

    Raises:
        ValueError: For a digest that is none, no instance or contrast, or a UID given twice.
        TypeError: For a parameter that JSON does not know.
    """
    digests = (
        instance_digests.items() if isinstance(instance_digests, Mapping) else instance_digests
    )
    instances = sorted((str(uid), digest) for uid, digest in digests)
    wanted = sorted(str(contrast) for contrast in contrasts)
    if not instances or not wanted:
        raise ValueError("a job needs at least one instance and one contrast")
    if len({uid for uid, _ in instances}) != len(instances) or len(set(wanted)) != len(wanted):
        raise ValueError("an instance or a contrast is given twice")
    for _, digest in instances:
        _check_digest("instance digest", digest)
    _check_digest("model_digest", model_digest)
    if any(not isinstance(name, str) for name in parameters):
        raise TypeError("parameter names are strings")
    content = {
        "series_uid": str(series_uid),
        "version": int(version),
        "instances": instances,
        "model_digest": model_digest,
        "contrasts": wanted,
        "parameters": dict(parameters),
    }
    return hashlib.sha256(_canonical_json(content)).hexdigest()


def derive_uid(job_id: str, *parts: str | int) -> str:
    """A UID under ``2.25.`` that follows from a job and what it names (PS3.5 B.2).

    The number is a version 5 UUID (ISO/IEC 9834-8): ``(contrast,)`` names a series,
    ``(contrast, slice index)`` an instance.
    """
    name = _canonical_json([job_id, *parts]).decode("ascii")
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def seed_of(job_id: str) -> int:
    """The seed of a job, 0 to 2**32 - 1: short enough to be typed and for JSON readers."""
    _check_digest("job_id", job_id)
    return int(job_id[:8], 16)


def pixel_digest(pixels: NDArray[np.generic] | bytes) -> str:
    """SHA-256 of pixel values as Explicit VR Little Endian stores them.

    An array and the bytes of its Pixel Data (7FE0,0010) have the same digest.
    """
    if isinstance(pixels, bytes):
        return hashlib.sha256(pixels).hexdigest()
    stored = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    return hashlib.sha256(stored.tobytes()).hexdigest()


def digest_folder(folder: Path) -> str:
    """SHA-256 over a model folder: relative names and contents of its safetensors and JSON.

    Other files (a model card, a license) do not change what the model computes. Where the folder
    lies and in which order the file system lists it do not matter.

    Raises:
        FileNotFoundError: When the folder holds neither.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in _MODEL_SUFFIXES and path.is_file()
    )
    if not names:
        raise FileNotFoundError(f"no safetensors or JSON in the model folder {folder.name}")
    contents = {name: _digest_of(folder / name) for name in names}
    return hashlib.sha256(_canonical_json(contents)).hexdigest()


def synthesis_parameters(samples: int, program: str, seed: int | None = None) -> dict[str, Any]:
    """What the pixels depend on beside the CT and the weights, as it goes into the job id.

    The program is among them: another one draws, cuts or marks differently, and a UID must never
    be used again for other pixels.

    Args:
        samples: Size of the ensemble.
        program: Digest of the sources that draw.
        seed: Only when a person chose one; it then makes another job.
    """
    parameters: dict[str, Any] = {"samples": samples, "program": program}
    return parameters if seed is None else {**parameters, "seed": seed}


def software_versions() -> dict[str, str]:
    """Name and version of what computes and writes a result; what is not installed is left out."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _canonical_json(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def _check_digest(name: str, value: str) -> None:
    if not _DIGEST.fullmatch(value):
        raise ValueError(f"{name} must be 64 lower-case hexadecimal digits (SHA-256)")
