"""The reference data of the tests: read where it lies, never copied."""

from __future__ import annotations

import os
from pathlib import Path

import pydicom
import pytest

from pipeline.volume import CTSeries, read_series

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with `neck-ct` and the other reference data; skips when it is absent."""
    folder = Path(os.environ.get("PSEUDOMRI_TEST_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"reference data absent: no folder {folder}; set PSEUDOMRI_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def neck_series(shared_data: Path) -> CTSeries:
    """The one real neck CT, read once for the session (310 MB)."""
    paths = sorted((shared_data / "neck-ct").glob("*.dcm"))
    if not paths:
        pytest.skip(f"reference data absent: no CT in {shared_data / 'neck-ct'}")
    return read_series([pydicom.dcmread(path) for path in paths])
