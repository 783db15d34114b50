"""Wear changes the marrow: fat or dense bone, each with its look on CT and MRI."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.phantom import Finding, Patient, Rendered, Tissue, Variation, patient, render
from pipeline.phantom.degeneration import (
    CHANGED_AT_MOST,
    Degeneration,
    EndPlateChange,
    Island,
)
from tests.pipeline.phantom.grids import sagittal

SEED = 42
NOTHING = Degeneration(change=None, island=None, has_remnant=False)


def _rendered(one: Degeneration) -> tuple[Patient, Rendered]:
    """A worn neck with this at C5 and nothing elsewhere."""
    person = patient(SEED, [], Variation(wear=0.9))
    levels = person.spine.levels
    changed = tuple(one if number == 2 else NOTHING for number in range(len(levels)))
    person = replace(person, spine=replace(person.spine, degeneration=changed))
    return person, render(person, sagittal(person), supersample=1)


def test_young_discs_have_sound_end_plates_and_worn_ones_often_do_not() -> None:
    def share(wear: float) -> float:
        drawn = (Degeneration.draw(np.random.default_rng(n), wear) for n in range(800))
        return float(np.mean([one.change is not None for one in drawn]))

    assert share(0.3) == 0
    assert share(1.0) == pytest.approx(CHANGED_AT_MOST, abs=0.06)


@pytest.mark.parametrize("is_dense", [False, True])
def test_changed_marrow_is_fat_or_dense_on_every_contrast(is_dense: bool) -> None:
    change = EndPlateChange(is_dense=is_dense, depth_mm=(6.0, 6.0), place=0.0, strength=1.0)
    _, before = _rendered(NOTHING)
    _, after = _rendered(replace(NOTHING, change=change))
    # full strength is reached away from the border only
    most = np.abs(after.ct - before.ct) > 0.6 * np.abs(after.ct - before.ct).max()
    assert most.sum() > 10
    assert set(np.unique(before.labels[most])) == {Tissue.MARROW}
    ct, t2, stir = ((getattr(after, p) - getattr(before, p))[most] for p in ("ct", "t2", "stir"))
    if is_dense:
        assert ct.min() > 150
        assert t2.max() < 0
    else:
        assert ct.max() < -40
        assert t2.min() > 0.05
        assert np.median(t2) > 0.15
    assert np.median(stir) < 0.02, "nothing that looks like oedema"


def test_an_island_stays_in_its_body() -> None:
    island = Island(radius_mm=3.0, at=(0.0, 0.0, 0.0), strength=1.0)
    _, before = _rendered(NOTHING)
    _, after = _rendered(replace(NOTHING, island=island))
    changed = after.t2 != before.t2
    assert 5 < changed.sum() < 60
    assert (after.t2[changed] >= before.t2[changed]).all()
    assert np.array_equal(before.labels, after.labels)


def test_a_bridged_disc_has_a_dark_rest() -> None:
    person = patient(SEED, [], Variation(wear=0.9))
    levels = tuple(
        replace(level, is_fused=number == 2) for number, level in enumerate(person.spine.levels)
    )
    gone, left = (
        render(
            replace(
                person,
                spine=replace(
                    person.spine,
                    levels=levels,
                    degeneration=(replace(NOTHING, has_remnant=has),) * len(levels),
                ),
            ),
            sagittal(person, spacing_mm=0.8),
            supersample=1,
        )
        for has in (False, True)
    )
    rest = (left.labels == Tissue.ANNULUS) & (gone.labels != Tissue.ANNULUS)
    assert rest.sum() > 5
    assert left.t2[rest].max() < 0.25
    assert left.stir[rest].max() < 0.25


def test_an_injury_does_not_redraw_degeneration() -> None:
    sound, injured = patient(11, []), patient(11, list(Finding))
    assert sound.spine.degeneration == injured.spine.degeneration
