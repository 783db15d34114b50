"""The demo as a user runs it, and the proof of what it left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image
from pydicom import dcmread

from tests.journey.conftest import ImagesOnly, PhantomFolder
from tests.journey.observing import expected_kinds

pytestmark = pytest.mark.journey

ROOT = Path(__file__).resolve().parents[2]
FEW_SAMPLES = {"PSEUDOMRI_SYNTHESIS__SAMPLES": "2"}


def pseudomri(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=550,
        check=False,
    )


def test_demo_then_reproduce(phantom_ct: PhantomFolder, tmp_path: Path) -> None:
    folder = tmp_path / "result"
    done = pseudomri("demo", phantom_ct(2), "--out", folder, "--json", **FEW_SAMPLES)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (series,) = report["series"].values()
    assert series["state"] == "committed"

    results = sorted((folder / "dicom").rglob("*.dcm"))
    assert len(results) == report["instances"] == 15 * len(expected_kinds())
    with Image.open(folder / "picture.png") as picture:
        # CT and every series beside each other; there is no truth for a folder of one's own.
        assert picture.width > (1 + len(expected_kinds())) * dcmread(results[0]).Columns
    (story,) = json.loads((folder / "provenance.json").read_text())
    recorded = {one["sop_instance_uid"] for one in story["syntheses"][0]["outputs"]}
    assert recorded == {str(dcmread(path).SOPInstanceUID) for path in results}

    site = folder / "node" / "site.toml"
    uid = dcmread(results[0]).SOPInstanceUID
    again = pseudomri("audit", "reproduce", uid, "--config", site, "--json", **FEW_SAMPLES)
    assert again.returncode == 0, again.stderr
    verdict = json.loads(again.stdout)
    assert verdict["identical_pixels"] == verdict["identical_files"] == len(results)


def test_the_direct_way_makes_the_same_pixels_whatever_the_order(
    phantom_ct: PhantomFolder, images_only: ImagesOnly, tmp_path: Path
) -> None:
    """Without the network, from files under other names: job, UIDs and pixels are the same."""
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(phantom_ct(2).glob("*.dcm"), reverse=True)):
        (renamed / f"{number}.ima").write_bytes(path.read_bytes())
    reports = []
    weights = images_only["synthesis"]["model_folder"]
    for source, name in ((phantom_ct(2), "one"), (renamed, "two")):
        options = ("--samples", 0, "--model", weights, "--json")
        done = pseudomri("synthesize", source, tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    first, second = reports
    assert first["job_id"] == second["job_id"]
    assert first["outputs"] == second["outputs"]


def test_a_wrong_folder_costs_no_earlier_result(tmp_path: Path) -> None:
    result = tmp_path / "result"
    earlier = result / "dicom" / "1.dcm"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    for source, reason in (
        (tmp_path / "nothing", "expected a folder of DICOM files"),
        (result / "dicom", "which is emptied"),
    ):
        done = pseudomri("demo", source, "--out", result)
        assert done.returncode == 2
        assert reason in done.stderr
    assert earlier.read_bytes() == b"earlier"


def test_demo_of_what_is_no_neck_is_declined(tmp_path: Path) -> None:
    """Three slices: too few for anything."""
    from pipeline.phantom import patient
    from pipeline.phantom.acquisition import ct_series
    from pipeline.phantom.dicom import ct_datasets, save

    person = patient(3, ())
    volume = ct_series(person, spacing_mm=(3.0, 2.0, 2.0))
    save(ct_datasets(person, volume)[:3], tmp_path / "ct")
    done = pseudomri("demo", tmp_path / "ct", "--out", tmp_path / "result", "--json")
    assert done.returncode == 3, done.stderr
    (series,) = json.loads(done.stdout)["series"].values()
    assert series["state"] == "declined"
    assert "Traceback" not in done.stderr


def test_a_demo_that_is_ended_takes_its_node_along(
    phantom_ct: PhantomFolder, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "node",
        "demo",
        str(phantom_ct(2)),
        "--out",
        str(tmp_path / "it"),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as demo:
        deadline = time.monotonic() + 120
        # As soon as the node has roles of its own.
        while len(started := psutil.Process(demo.pid).children(recursive=True)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        demo.terminate()
        assert demo.wait(60) == 128 + signal.SIGTERM
    _, left = psutil.wait_procs(started, timeout=1)
    assert not left


def test_bench_tells_where_the_time_goes(
    phantom_ct: PhantomFolder, images_only: ImagesOnly
) -> None:
    weights = {"PSEUDOMRI_SYNTHESIS__MODEL_FOLDER": images_only["synthesis"]["model_folder"]}
    options = ("--ct", phantom_ct(2), "--samples", 0, "--json")
    done = pseudomri("bench", "journey", *options, **weights)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["state"] == "committed"
    # The stages leave nothing out; two clocks (mtime and ledger) may differ by a tick.
    assert abs(sum(report["stages_s"].values()) - report["journey_s"]) < 0.05
    assert set(report["peak_rss_mb"]) == {"receive", "work", "web"}
