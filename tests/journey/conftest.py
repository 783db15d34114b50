"""Patients to send, and a node that delivers to a real PACS.

A phantom is drawn once for all that run these tests, on a coarse grid: the journey is what is
tested here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipeline.geometry import Volume
from pipeline.phantom import Finding, Patient, Region, Variant, ct_series, patient
from pipeline.phantom.instances import ct_datasets, save
from pipeline.phantom.variants import scan_of, spoiled_datasets, truncate
from tests.pipeline.models import save_tiny

COARSE_MM = (2.0, 1.1, 1.1)
# Enough where a header alone decides.
COARSEST_MM = (2.5, 1.15, 1.15)
BY_HEADER = frozenset(
    {
        Variant.LOCALIZER,
        Variant.THICK_SLICES,
        Variant.MISSING_SLICES,
        Variant.RGB,
        Variant.MR,
        Variant.NO_PIXEL_DATA,
        Variant.TRUNCATED,
    }
)

# Fewer samples than a site would take: the journey is the same.
QUICK = {"synthesis": {"samples": 2}}

PhantomFolder = Callable[..., Path]
ImagesOnly = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def neck_ct() -> Path:
    """The folder of the real neck CT."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("PSEUDOMRI_TEST_DATA") or root.parent / "shared/data") / "neck-ct"
    if not folder.is_dir():
        pytest.skip("no neck-ct: set PSEUDOMRI_TEST_DATA to the folder of the reference data")
    return folder


@pytest.fixture(scope="session")
def images_only(tmp_path_factory: pytest.TempPathFactory) -> ImagesOnly:
    """Settings for where nobody looks at the images: small weights, and no support map."""
    folder = save_tiny(tmp_path_factory.mktemp("tiny"))
    return {"synthesis": {"samples": 0, "model_folder": str(folder)}}


@pytest.fixture(scope="session")
def phantom_ct(tmp_path_factory: pytest.TempPathFactory) -> PhantomFolder:
    """Draws the CT of a phantom into a folder; the same arguments give the same folder."""
    base = tmp_path_factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own in one that they share.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @cache
    def folder_of(seed: int, variant: Variant | None = None) -> Path:
        folder = shared / f"phantom-{seed}-{variant or 'ct'}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                draw(seed, variant, Path(f"{folder}.new"))
                Path(f"{folder}.new").rename(folder)
        return folder

    return folder_of


def draw(seed: int, variant: Variant | None, folder: Path) -> None:
    """Write the CT of a phantom."""
    person = phantom(seed)
    if variant is None:
        volume = scanned(seed, COARSE_MM, Region.NECK)
        save(ct_datasets(person, volume), folder)
        return
    scan = scan_of(variant, COARSEST_MM if variant in BY_HEADER else COARSE_MM)
    paths = save(spoiled_datasets(person, scanned(seed, **scan), variant), folder)
    if variant is Variant.TRUNCATED:
        truncate(paths[len(paths) // 2])


@cache
def phantom(seed: int) -> Patient:
    return patient(seed, (Finding.PREVERTEBRAL_HAEMATOMA,))


@cache
def scanned(seed: int, spacing_mm: tuple[float, float, float], region: Region) -> Volume:
    return ct_series(phantom(seed), spacing_mm=spacing_mm, region=region)
