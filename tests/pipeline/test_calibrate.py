"""The command that calibrates, on toys: what it chooses holds on others, and it is all on file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.contrast import ALL_CONTRASTS, Contrast
from pipeline.geometry import Float32
from pipeline.support import ALPHA, Calibration
from pipeline.synthesis import Model, Synthesis, load_model
from pipeline.training import calibrate as module
from pipeline.training.calibrate import (
    BODY,
    Seen,
    Tally,
    Verdict,
    calibrate,
    check,
    false_alarms,
    table,
)
from tests.pipeline.models import save_tiny
from tests.pipeline.toy_spine import ToySpine, toy_spine

SAMPLES = 2
COUNT = 30


def pretended(toy: ToySpine, seed: int) -> Synthesis:
    """The truth with an error that the doubt knows up to a factor of this phantom's own."""
    rng = np.random.default_rng(seed)
    truth = {Contrast.T2: toy.pair.t2, Contrast.STIR: toy.pair.stir}
    doubt = {c: rng.uniform(0.02, 0.1, v.shape).astype(np.float32) for c, v in truth.items()}
    factor = rng.lognormal(0, 0.1)
    images: dict[Contrast, Float32] = {
        c: (v + factor * rng.normal(0, doubt[c])).astype(np.float32) for c, v in truth.items()
    }
    return Synthesis(
        images=images,
        spread={c: v / 10 for c, v in doubt.items()},
        doubt=doubt,
        support=None,
        grid=toy.stack.grid,
        frame_of_reference_uid="2.25.7",
        seed=seed,
        samples=SAMPLES,
        device="cpu",
        dtype="float32",
        model_name="toy",
        model_version="0",
        model_digest="a" * 64,
        timings_s={},
    )


def toys(model: Model, pool: Path, seeds: range, samples: int, *_: object) -> Iterator[Seen]:
    for seed in seeds:
        toy = toy_spine(seed)
        yield Seen(toy.stack, toy.places, toy.course, toy.pair, pretended(toy, seed), seed % 2 == 1)


@dataclass(frozen=True)
class Calibrated:
    """A model folder, its model before, and what calibrating it gave."""

    folder: Path
    model: Model
    calibration: Calibration
    tally: Tally


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calibrated]:
    folder = save_tiny(tmp_path_factory.mktemp("tiny"))
    model = load_model(folder, "cpu")
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(module, "run", toys)
        # thirty scans of four would cost more than they tell
        changed.setattr(module, "SCANS", 1)
        yield Calibrated(folder, model, *calibrate(model, folder, range(COUNT), SAMPLES))


def test_what_is_promised_holds_on_other_phantoms(tiny: Calibrated) -> None:
    calibration, tally = tiny.calibration, tiny.tally
    assert calibration.seeds == tuple(range(COUNT))
    assert calibration.samples == SAMPLES
    others, verdicts = check(tiny.model, calibration, tiny.folder, range(100, 104))
    for contrast in ALL_CONTRASTS:
        scale = calibration.lambdas[contrast]
        assert tally.coverage(contrast, BODY, scale) > 1 - ALPHA
        assert others.coverage(contrast, BODY, scale) > 1 - ALPHA
        # a third of it would not do, so it was not chosen for safety alone
        assert others.coverage(contrast, BODY, scale / 3) < 1 - ALPHA
    assert [str(verdict).split(":")[0] for verdict in verdicts][:2] == [
        "phantom 100 (uninjured)",
        "phantom 101 (injured)",
    ]
    assert "| cord |" in table(calibration, others)


def test_false_alarms_are_warnings_of_the_uninjured_in_whatever_figure() -> None:
    words = ("accepted", "warning: discs", "warning: canal", "accepted")
    verdicts = [Verdict(number, number == 1, said) for number, said in enumerate(words)]
    alarms = false_alarms(verdicts)
    assert (alarms.hits, alarms.of) == (1, 3)


def test_the_file_holds_all_that_a_synthesis_needs(tiny: Calibrated) -> None:
    calibration = tiny.calibration
    calibration.save(tiny.folder)
    loaded = load_model(tiny.folder, "cpu").calibration
    assert loaded == calibration == Calibration.load(tiny.folder)
    assert (tiny.folder / "calibration.json").stat().st_size < 200_000
    usual = calibration.reference
    assert usual is not None
    assert usual.stacks == COUNT
    assert usual.phantoms == COUNT // 2
    assert {"distance", "edge_dice", "unsupported.canal"} <= usual.limits.keys()
    seen = next(iter(toys(tiny.model, tiny.folder, range(200, 201), SAMPLES)))
    (features,) = module.scans(seen, 1)
    assert usual.distance(features) < usual.limits["distance"].decline


def test_scans_differ_and_can_be_drawn_again() -> None:
    toy = toy_spine(3)
    seen = Seen(toy.stack, toy.places, toy.course, toy.pair, pretended(toy, 3), False)
    one, other = module.scans(seen, 2), module.scans(seen, 2)
    assert one == other
    assert one[0] != one[1]


def test_the_slices_around_the_canal_are_cut_out() -> None:
    grid = toy_spine().stack.grid
    line = grid.to_mm(np.array([[3.1, row, 100.0] for row in range(5)]))
    assert module._around(grid, line, None) == slice(0, 5)
    assert module._around(grid, line, 3) == slice(2, 5)
    assert module._around(grid, line, 1) == slice(3, 4)
    assert module._around(grid, line, 9) == slice(0, 5)
