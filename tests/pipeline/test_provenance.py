"""Identities follow from the input, from all of it, and from nothing else."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import provenance
from pipeline.contrast import ALL_CONTRASTS, Contrast
from pipeline.provenance import JobIdentity, derive_uid, job_id, seed_of

MODEL = "b" * 64
JOB: dict[str, Any] = {
    "series_uid": "1.2.3",
    "version": 1,
    "instance_digests": {"1.2.3.1": "0" * 64, "1.2.3.2": "1" * 64},
    "model_digest": MODEL,
    "contrasts": ALL_CONTRASTS,
    "parameters": {"samples": 8},
}

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
uids = st.from_regex(r"1\.2(\.[1-9][0-9]{0,4}){1,4}", fullmatch=True)
instances = st.dictionaries(uids, digests, min_size=1, max_size=6)
values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
parameters = st.dictionaries(st.text(max_size=8), values | st.text(max_size=8), max_size=5)


@given(instances=instances, parameters=parameters, seed=st.integers())
def test_job_id_ignores_order(
    instances: dict[str, str], parameters: dict[str, Any], seed: int
) -> None:
    shuffled = list(instances.items())
    random.Random(seed).shuffle(shuffled)
    backwards = dict(reversed(parameters.items()))
    one = job_id("1.2", 1, instances, MODEL, ("T2", "STIR"), parameters)
    other = job_id("1.2", 1, shuffled, MODEL, (Contrast.STIR, Contrast.T2), backwards)
    assert one == other
    assert len(one) == 64


@given(
    field=st.sampled_from(sorted(JOB)),
    series_uid=uids.filter(lambda uid: uid != JOB["series_uid"]),
    version=st.integers(2, 1000),
    instance_digests=instances.filter(lambda given: given != JOB["instance_digests"]),
    model_digest=digests.filter(lambda digest: digest != MODEL),
    contrasts=st.sampled_from([("T2",), ("STIR",)]),
    parameters=parameters.filter(lambda given: given != JOB["parameters"]),
)
def test_job_id_feels_every_field(field: str, **changed: Any) -> None:
    assert job_id(**{**JOB, field: changed[field]}) != job_id(**JOB)


def test_job_id_feels_one_pixel() -> None:
    changed = {**JOB["instance_digests"], "1.2.3.2": "2" * 64}
    assert job_id(**{**JOB, "instance_digests": changed}) != job_id(**JOB)
    assert job_id(**{**JOB, "parameters": {"samples": 8.5}}) != job_id(**JOB)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instance_digests", {}),
        ("instance_digests", {"1.2": "no digest"}),
        ("instance_digests", [("1.2", "0" * 64), ("1.2", "1" * 64)]),
        ("model_digest", "B" * 64),
        ("contrasts", ()),
        ("contrasts", ("T2", "T2")),
        ("parameters", {"guidance": float("nan")}),
    ],
)
def test_job_id_refuses(field: str, value: object) -> None:
    with pytest.raises(ValueError):
        job_id(**{**JOB, field: value})


@pytest.mark.parametrize("wrong", [{1: 2}, {"model": object()}])
def test_job_id_takes_only_json(wrong: dict[Any, Any]) -> None:
    with pytest.raises(TypeError):
        job_id(**{**JOB, "parameters": wrong})


@given(job=digests, parts=st.lists(st.text(max_size=8) | st.integers(0, 500), max_size=3))
def test_derived_uids_are_valid_and_repeat(job: str, parts: list[str | int]) -> None:
    uid = derive_uid(job, *parts)
    assert uid == derive_uid(job, *parts)
    assert len(uid) <= 64
    number = uid.removeprefix("2.25.")
    assert str(int(number)) == number
    derived = uuid.UUID(int=int(number))
    assert (derived.variant, derived.version) == (uuid.RFC_4122, 5)


@given(
    one=st.tuples(digests, st.sampled_from(["T2", "STIR"]), st.integers(0, 99)),
    other=st.tuples(digests, st.sampled_from(["T2", "STIR"]), st.integers(0, 99)),
)
def test_derived_uids_differ(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    assert (derive_uid(*one) == derive_uid(*other)) is (one == other)
    assert derive_uid(*one) != derive_uid(*one[:2])


def test_uids_do_not_change_between_releases() -> None:
    # Objects already in a PACS must be found again: this number may never change.
    assert derive_uid("0" * 64, "T2", 7) == "2.25.139437175013359360560833378556622126842"
    assert job_id(**JOB) == "15d6f467a84b0173dc631020cad18b30341114130d2f53c136bf9aab20b11b3a"


def test_a_joined_part_is_not_two_parts() -> None:
    assert derive_uid("job", "a", "b") != derive_uid("job", "ab")
    assert derive_uid("job", 1) != derive_uid("job", "1")


@given(job=digests)
def test_seeds_fit_everywhere(job: str) -> None:
    assert 0 <= seed_of(job) < 1 << 32
    assert seed_of(job) == seed_of(job)


def test_pixel_digest_is_that_of_the_stored_bytes() -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    stored = pixels.astype("<u2").tobytes()
    expected = hashlib.sha256(stored).hexdigest()
    assert provenance.pixel_digest(stored) == expected
    assert provenance.pixel_digest(pixels) == expected
    assert provenance.pixel_digest(pixels.astype(">u2")) == expected
    assert provenance.pixel_digest(np.asfortranarray(pixels)) == expected


def test_folder_digest(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "denoiser").mkdir(parents=True)
        (folder / "denoiser" / "model.safetensors").write_bytes(b"weights" * 1000)
        (folder / "model_index.json").write_text("{}")
    (other / "README.md").write_text("a model card")
    digest = provenance.digest_folder(one)
    assert provenance.digest_folder(other) == digest
    (other / "denoiser" / "model.safetensors").write_bytes(b"weights" * 1000 + b".")
    assert provenance.digest_folder(other) != digest
    (one / "model_index.json").rename(one / "other_name.json")
    assert provenance.digest_folder(one) != digest


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no safetensors"):
        provenance.digest_folder(tmp_path)


def test_software_versions_do_not_import_what_they_name() -> None:
    code = (
        "import sys; from pipeline import provenance; versions = provenance.software_versions();"
        "assert not {'torch', 'diffusers', 'pynetdicom'} & sys.modules.keys();"
        "print(*sorted(versions))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"pseudomri", "python", "numpy", "pydicom", "torch"} <= set(ran.stdout.split())


@pytest.mark.parametrize(
    "wrong",
    [
        {"job_id": "x"},
        {"model_digest": ""},
        {"contrasts": ()},
        {"contrasts": (Contrast.T2, Contrast.T2)},
        {"seed": -1},
        {"model_name": ""},
        {"model_name": "頸椎"},
        {"model_version": "1\\2"},
    ],
)
def test_identity_is_valid_or_is_not(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {
        "job_id": "a" * 64,
        "contrasts": ALL_CONTRASTS,
        "seed": 1,
        "model_name": "m",
        "model_version": "1",
        "model_digest": MODEL,
        "parameters": {},
    }
    one, other = (
        JobIdentity(**{**right, "contrasts": x}) for x in (ALL_CONTRASTS, ALL_CONTRASTS[::-1])
    )
    assert one == other  # as their job ids are
    with pytest.raises(ValueError):
        JobIdentity(**{**right, **wrong})
