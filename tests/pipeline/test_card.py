"""The model card says what the run did, in figures that come from the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.provenance import digest_folder
from pipeline.training import card
from pipeline.training.data import HELD_OUT_FROM, NARROWED_FROM, pair_path, store
from pipeline.training.loop import train
from tests.pipeline.test_training import config, fake_pair


@pytest.mark.parametrize("is_plain", [False, True])
def test_the_card_is_written_from_the_run(tmp_path: Path, is_plain: bool) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for seed in (2, 5, *range(HELD_OUT_FROM, HELD_OUT_FROM + card.HELD_OUT)):
        store(pair_path(pool, seed), fake_pair(seed))
    run = config(tmp_path / "run", pool, steps=27, is_plain=is_plain)
    folder = train(run)
    facts = card.write(run)
    text = (folder / card.NAME).read_text()
    losses = [json.loads(x)["loss"] for x in run.losses.read_text().splitlines()]
    assert digest_folder(folder) in text
    assert "A narrowed canal may look wider" in text
    assert "2 phantoms, seeds 2 to 5 (of the pool" in text
    assert "h, from nothing |" in text
    assert "| steps | 27 of 1 crops of 32 x 32, each under 2 noises" in text
    assert f"{losses[0]:.3f} to {losses[-1]:.3f}" in text
    assert facts.parameters > 0
    assert "| csf | T2 | 1.00 |" in text
    assert ("the baseline, not for use" in text) == is_plain
    store(pair_path(pool, NARROWED_FROM), fake_pair(1))
    narrowed = range(NARROWED_FROM, NARROWED_FROM + 9)
    assert "Slices farther apart than 1 mm" in text
    seen = replace(run.augmentation, thick_px=4.0)
    went_on = replace(run, narrowed=narrowed, augmentation=seen)
    text = card.card(card.collect(went_on))
    assert "blur, slices up to 4 px apart, marrow" in text
    assert "Slices farther apart than 1 mm" not in text
    assert f", 1 of them with a narrowed canal ({NARROWED_FROM} to {NARROWED_FROM})" in text
    (folder / "calibration.json").write_text("{}")
    for report in ("first report", "second report"):
        card.sign(folder, report)
    signed = (folder / card.NAME).read_text()
    assert digest_folder(folder) in signed
    assert "second report" in signed
    assert "first report" not in signed
    assert signed.count(card.LIMITS) == 1


def test_a_text_that_is_no_card_is_not_signed(tmp_path: Path) -> None:
    (tmp_path / card.NAME).write_text("hello")
    with pytest.raises(ValueError, match="expected a model card"):
        card.sign(tmp_path, "report")
