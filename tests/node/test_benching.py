"""`bench synthesis` with models of a few channels: figures that hang together, no speeds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from node.commands.benching import apart, report_of
from pipeline.timing import (
    SD_1_5,
    BuiltIn,
    OneSlice,
    Seconds,
    Sizes,
    build_networks,
    built_in,
    processor,
    stable_diffusion,
)
from tests.pipeline.models import save_tiny

TINY = Sizes(unet=(8, 16), vae=(8, 8), layers=1, cross=8, heads=2, groups=4)


def _numbers(figures: dict[str, Any]) -> Iterator[float]:
    for one in figures.values():
        yield from one.values() if isinstance(one, dict) else (one,)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[BuiltIn, OneSlice]:
    folder = save_tiny(tmp_path_factory.mktemp("model"))
    shape = (3, 32, 32)
    return built_in(folder, shape, 2, "cpu"), stable_diffusion(TINY, shape, 2, "cpu")


def test_each_is_measured_in_another_process() -> None:
    assert apart(os.getpid) not in (os.getpid(), apart(os.getpid))


def test_every_figure_is_there_and_positive(measured: tuple[BuiltIn, OneSlice]) -> None:
    for one in measured:
        figures = dataclasses.asdict(one)
        machine = figures.pop("machine")
        assert machine.pop("device_bytes") == 0
        assert all(number > 0 for number in _numbers(figures))
        assert min(machine[name] for name in ("threads", "peak_flops", "rss_bytes")) > 0
        assert (machine["device"], bool(machine["name"])) == ("cpu", True)
        assert one.share_of_peak > 0


def test_measured_and_extrapolated_are_told_apart(measured: tuple[BuiltIn, OneSlice]) -> None:
    took = {"image_s": Seconds(2.0, 1.0), "study_s": Seconds(12.0, 8.0)}
    ours = dataclasses.replace(measured[0], slices=15, samples=8, **took)
    theirs = dataclasses.replace(
        measured[1], encode_s=Seconds(4, 2), step_s=Seconds(2, 1), decode_s=Seconds(3, 1.5)
    )
    report = report_of(ours, theirs)
    # 15 slices of one encoding and two contrasts of 25 steps and a decoding
    assert report["stable_diffusion"]["extrapolated"]["image_s"]["wall"] == 15 * (4 + 2 * (50 + 3))
    assert report["stable_diffusion"]["measured"]["step_s"] == {"wall": 2.0, "processor": 1.0}
    assert report["ratio"]["image"] == {"wall": 825.0, "processor": 825.0}
    assert report["ratio"]["image_and_samples"] == {"wall": 1237.5, "processor": 928.1}
    assert report["targets"]["within_15_s"]
    assert report["targets"]["100_times_faster"]
    slow = report_of(dataclasses.replace(ours, study_s=Seconds(200.0, 100.0)), theirs)
    assert not slow["targets"]["within_15_s"]
    assert not slow["targets"]["100_times_faster"]


def test_stable_diffusion_has_the_size_of_version_1_5() -> None:
    with torch.device("meta"):
        vae, unet = build_networks(SD_1_5)
    # 859,520,964 of the text-to-image network, and the CT's four channels of the first convolution
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964 + 4 * 320 * 9
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


def test_a_processor_without_a_name_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name\t: A Processor\n")
    assert processor(tmp_path / "cpuinfo") == "A Processor"
    assert processor(tmp_path / "nothing") == "unknown"
