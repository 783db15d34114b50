"""Patients to send, and a node that delivers to a real PACS.

A phantom is drawn once for all that run these tests, on a coarse grid: the journey is what is
tested here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.phantom import Finding, Variant, patient
from pipeline.phantom.dicom import write

COARSE_MM = (1.5, 0.9, 0.9)
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
# Without a support map, where nobody looks at the result.
IMAGES_ONLY = {"synthesis": {"samples": 0}}

PhantomFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def neck_ct() -> Path:
    """The folder of the real neck CT."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("PSEUDOMRI_TEST_DATA") or root.parent / "shared/data") / "neck-ct"
    if not folder.is_dir():
        pytest.skip("no neck-ct: set PSEUDOMRI_TEST_DATA to the folder of the reference data")
    return folder


@pytest.fixture(scope="session")
def phantom_ct(tmp_path_factory: pytest.TempPathFactory) -> PhantomFolder:
    """Draws the CT of a phantom into a folder; the same arguments give the same folder."""
    base = tmp_path_factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own in one that they share.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @cache
    def draw(seed: int, variant: Variant | None = None) -> Path:
        folder = shared / f"phantom-{seed}-{variant or 'ct'}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                person = patient(seed, (Finding.PREVERTEBRAL_HAEMATOMA,))
                spacing_mm = COARSEST_MM if variant in BY_HEADER else COARSE_MM
                write(person, Path(f"{folder}.new"), spacing_mm=spacing_mm, variant=variant)
                Path(f"{folder}.new").rename(folder)
        return folder / "CT"

    return draw
