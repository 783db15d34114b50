"""`bench ingest` with a few slices: every receiver takes all, the figures hang together, nothing is
left. No speeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import dcmread

from node.commands.ingesting import report_of, write_slices

ROOT = Path(__file__).resolve().parents[2]
BENCH = [sys.executable, "-m", "node", "bench", "ingest", "--slices", "8", "--repeats", "1"]


def bench(*options: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *map(str, options)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=900,  # on a busy machine each receiver takes a minute to start
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    done = bench("--memory-slices", 2, "--processes", 2, "--folder", folder, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_receiver_is_measured(report: dict[str, Any]) -> None:
    for figures in ("per_second", "processor_ms"):
        assert set(report[figures]) == {"ours", "orthanc", "storescp"}
        for of in report[figures].values():
            assert set(of) == {"1", "4"}
            # Of so few slices the system's clock may count no tick.
            least = 0 if figures == "processor_ms" else 1
            assert all(spread["least"] >= least for spread in of.values())
    assert (report["slices"], report["repeats"], report["processes"]) == (8, 1, 2)


def test_ratios_and_targets_follow_from_the_rates(report: dict[str, Any]) -> None:
    for name, least in (("orthanc", 1.5), ("storescp", 0.5)):
        for count in ("1", "4"):
            ours, theirs = (report["per_second"][n][count]["median"] for n in ("ours", name))
            # Each is told in three digits.
            assert report["ratio"][name][count]["median"] == pytest.approx(ours / theirs, rel=0.02)
        is_met = report["ratio"][name]["4"]["median"] >= least
        assert report["targets"][f"{least:g} times {name}"] == is_met


def test_a_receiver_that_holds_a_few_slices_is_well_below_its_limit(
    report: dict[str, Any],
) -> None:
    assert 50 < report["peak_rss_mb"] < 200
    assert report["targets"]["below 250 MB"]


def test_nothing_is_left(report: dict[str, Any], folder: Path) -> None:
    assert report["slices"] == 8
    assert list(folder.iterdir()) == []
    there = [
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    ]
    assert [command for command in there if str(folder) in command] == []


def test_ratios_are_of_repeats_not_of_medians() -> None:
    rates = {
        "ours": {1: [100.0], 4: [100.0, 300.0, 200.0]},
        "orthanc": {1: [50.0], 4: [100.0, 100.0, 400.0]},
        "storescp": {1: [400.0], 4: [400.0, 600.0, 400.0]},
    }
    report = report_of(rates, rates, 250_000_000)
    assert report["ratio"]["orthanc"]["4"] == {"median": 1.0, "least": 0.5, "most": 3.0}
    assert report["ratio"]["storescp"]["4"]["median"] == 0.5
    assert report["targets"] == {
        "1.5 times orthanc": False,
        "0.5 times storescp": True,
        "below 250 MB": False,
    }
    assert "below 250 MB" not in report_of(rates, rates, None)["targets"]


def test_slices_differ_and_belong_together(tmp_path: Path) -> None:
    slices = [dcmread(path) for path in sorted(write_slices(tmp_path, 3, 4).iterdir())]
    assert len({one.SeriesInstanceUID for one in slices}) == 1
    assert len({one.SOPInstanceUID for one in slices}) == 4
    assert len({one.PixelData for one in slices}) == 4
    assert all(len(one.PixelData) == 512 * 1024 for one in slices)


def test_a_peer_that_is_missing_is_told_with_its_package(tmp_path: Path) -> None:
    """Debian's places for daemons are looked at anyway, so it is dcmtk that is not found."""
    done = bench("--folder", tmp_path, PATH=str(tmp_path))
    assert done.returncode == 2
    assert "apt-get install dcmtk" in done.stderr
    assert list(tmp_path.iterdir()) == []
