"""Places, bone edges, CT features, limits: what a synthesis is judged by without a truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import pipeline
from pipeline import fidelity, labeling
from pipeline.bone_edges import edge_agreement
from pipeline.contrast import ALL_CONTRASTS, Contrast, SeriesKind
from pipeline.ct_features import ct_features
from pipeline.errors import Declined
from pipeline.fidelity import CORD, NARROWED, OUTLINED, Fidelity, foot_notes, measure_fidelity
from pipeline.geometry import Float32, Grid, Volume
from pipeline.phantom import Tissue, patient, render
from pipeline.places import Region
from pipeline.reference import Limit, Reference
from pipeline.reformat import STACK_SHAPE
from pipeline.support import Calibration, support_map
from pipeline.synthesis import BUILT_IN, Synthesis
from pipeline.training.calibrate import phantom_places
from pipeline.training.data import pair_grid
from tests.pipeline.test_support import calibration
from tests.pipeline.toy_spine import (
    BODY_COLUMNS,
    CANAL_COLUMN,
    FIRST_DISC,
    LEVEL_ROWS,
    SHAPE,
    toy_spine,
)

TOY = toy_spine()
FEATURES = ct_features(TOY.stack.values[1:4])
FAR = Limit(1e3, 1e4, 0, 1e4)
"""Of the distance: not in question."""


def synthesis(doubt: float = 0.1, t2: Float32 | None = None) -> Synthesis:
    """The toy's own truth as the image, with the same doubt everywhere."""
    wide = np.full(SHAPE, doubt, dtype=np.float32)
    spread, doubts = (dict.fromkeys(ALL_CONTRASTS, v) for v in (wide / 4, wide))
    return Synthesis(
        images={Contrast.T2: TOY.pair.t2 if t2 is None else t2, Contrast.STIR: TOY.pair.stir},
        spread=spread,
        doubt=doubts,
        support=support_map(spread, doubts, calibration()),
        grid=TOY.stack.grid,
        frame_of_reference_uid="2.25.7",
        seed=0,
        samples=8,
        device="cpu",
        dtype="float32",
        model_name="toy",
        model_version="0",
        model_digest="a" * 64,
        timings_s={},
    )


def reference(**limits: Limit) -> Reference:
    """Usual is what the toy is."""
    rng = np.random.default_rng(0)
    rows = [
        {name: value + rng.normal(0, 1) for name, value in FEATURES.items()} for _ in range(200)
    ]
    usual = {"edge_dice": Limit(0.95, 0.9, 0.85, 1.0), "unsupported.canal": Limit(0.1, 0.3, 0, 1)}
    found = Reference.measured(rows, dict.fromkeys(FEATURES, 0.1), {**usual, **limits}, 20)
    distances = [found.distance(row) for row in rows]
    own = {"distance": Limit.of(distances, is_low_bad=False)} | dict(found.limits)
    return dataclasses.replace(found, limits=own)


def measured(synthetic: Synthesis, usual: Reference | None = None) -> Fidelity:
    return measure_fidelity(TOY.stack, synthetic, TOY.places, usual)


# --- places ----------------------------------------------------------------------------------


def test_regions_lie_where_the_toy_has_them() -> None:
    places, labels = TOY.places, TOY.pair.labels
    columns = {region: np.nonzero(places.region(region))[2] for region in Region}
    assert np.isin(labels[places.region(Region.CANAL)], (Tissue.CSF, Tissue.CORD)).all()
    assert (labels[places.region(Region.DISCS)] == Tissue.ANNULUS).mean() > 0.9
    assert (columns[Region.PREVERTEBRAL] < BODY_COLUMNS[0]).all()
    assert (columns[Region.PREVERTEBRAL] > BODY_COLUMNS[0] - 10).all()
    assert (columns[Region.INTERSPINOUS] > CANAL_COLUMN + 10).all()
    assert (labels[places.region(Region.INTERSPINOUS)] == Tissue.MUSCLE).mean() > 0.9


def test_vertebrae_are_named_from_the_discs_around_them() -> None:
    assert TOY.places.names == ("C3", "C4", "C5", "C6", "C7", "T1")
    for number, name in enumerate(TOY.places.names):
        rows = np.nonzero(TOY.places.vertebra(name))[1]
        middle = FIRST_DISC + (number + 0.5) * LEVEL_ROWS
        assert abs(rows.mean() - middle) < 1


# --- bone edges ------------------------------------------------------------------------------


def test_edges_agree_where_the_rim_lies_on_the_cortex_and_not_when_it_is_moved() -> None:
    def dice(t2: Float32) -> float:
        found = edge_agreement(TOY.stack.values, t2, TOY.places, 0.75)
        assert set(found) == set(TOY.places.names)
        return float(np.median([one.dice for one in found.values()]))

    assert dice(TOY.pair.t2) > 0.9
    assert dice(np.roll(TOY.pair.t2, 4, axis=1)) < 0.7
    assert dice(np.full(SHAPE, 0.5, dtype=np.float32)) < 0.1


def test_edges_of_another_picture_agree_no_better_than_by_chance() -> None:
    own, moved = (
        edge_agreement(TOY.stack.values, t2, TOY.places, 0.75)
        for t2 in (TOY.pair.t2, np.roll(TOY.pair.t2, 5, axis=1))
    )
    assert min(one.gain for one in own.values()) > 1.5
    assert max(one.gain for one in moved.values()) < 1.2


def test_a_vertebra_without_bone_is_left_out() -> None:
    ct = TOY.stack.values.copy()
    ct[TOY.places.vertebra("C5")] = 50
    found = edge_agreement(ct, TOY.pair.t2, TOY.places, 0.75)
    assert set(found) == {"C3", "C4", "C6", "C7", "T1"}


# --- features and limits ---------------------------------------------------------------------


def test_features_tell_noise_blur_offset_and_metal() -> None:
    plain = TOY.stack.values[1:4]
    assert 10 ** FEATURES["log_noise_hu"] == pytest.approx(8, rel=0.1)
    blurred = ct_features(ndimage.gaussian_filter(plain, (0, 2, 2)))
    assert blurred["log_edge_hu"] < FEATURES["log_edge_hu"] - 0.2
    assert ct_features(plain + 10)["soft_hu"] == pytest.approx(FEATURES["soft_hu"] + 10, abs=2)
    metal = plain.copy()
    metal[1, 50:60, 50:60] = 3071
    assert ct_features(metal)["log_metal_share"] > FEATURES["log_metal_share"] + 0.5
    air = np.full_like(plain, -1000)
    assert all(np.isfinite(value) for value in ct_features(air).values())


def test_the_distance_is_about_the_root_of_the_number_of_features() -> None:
    usual = reference()
    assert usual.distance(dict(zip(usual.features, usual.mean, strict=True))) < 1e-6
    assert usual.limits["distance"].median == pytest.approx(len(FEATURES) ** 0.5, rel=0.15)


def test_a_limit_lies_on_the_bad_side() -> None:
    values = np.linspace(1, 2, 101)
    high = Limit.of(list(values), is_low_bad=False)
    low = Limit.of(list(values), is_low_bad=True)
    assert low.decline < low.warning < 1.5 < high.warning < high.decline
    assert high.is_beyond(3, high.warning)
    assert low.is_beyond(0, low.warning)
    assert not high.is_beyond(0, high.warning)


def test_few_normal_stacks_give_nearly_the_limit_of_many() -> None:
    """Twenty at a time, the true 99th percentile is 2.33; the largest of twenty is 1.87."""
    rng = np.random.default_rng(5)
    limits = [Limit.of(list(rng.normal(size=20)), is_low_bad=False).warning for _ in range(300)]
    assert 2.0 < np.mean(limits) < 2.6
    low = [Limit.of(list(rng.normal(size=20)), is_low_bad=True).warning for _ in range(300)]
    assert -2.6 < np.mean(low) < -2.0


# --- the record ------------------------------------------------------------------------------


def test_what_is_usual_is_accepted() -> None:
    found = measured(synthesis(), reference())
    assert found.verdict == "accepted"
    assert found.warnings == ()
    found.check()
    assert set(found.regions) == {*Region, CORD}
    canal = found.regions[Region.CANAL]
    assert canal.half_width[Contrast.T2] == pytest.approx(0.1)
    assert canal.unsupported == 0
    assert foot_notes(found) == ("UNSUPPORTED (9003): canal 0%, discs 0%, ligaments 0%", NARROWED)


def test_an_uncalibrated_model_is_not_judged() -> None:
    bare = dataclasses.replace(synthesis(), support=None)
    found = measured(bare)
    assert found.verdict.startswith("not judged")
    assert foot_notes(found) == ("SUPPORT BY THE CT NOT KNOWN", NARROWED)


def test_a_doubtful_canal_is_a_warning_with_value_limit_and_remedy() -> None:
    found = measured(synthesis(doubt=0.3), reference())
    assert found.verdict.startswith("warning: unsupported share of canal 1; expected at most 0.3")
    assert "series 9003" in found.verdict
    found.check()
    assert foot_notes(found, has_outlines=True)[2] == OUTLINED
    assert foot_notes(found)[2] == "WARNING canal unsupported: share 1 > 0.3"
    # it fits into the margin
    pixels = np.zeros(SHAPE, dtype=np.uint16)
    labeling.mark(pixels, SeriesKind.T2, (), foot_notes(found, has_outlines=True))


def test_stretches_of_faint_csf_are_named_as_far_as_the_margin_holds_them() -> None:
    found = measured(synthesis(doubt=0.3), reference())
    long = ("C2/3 to C3/4", "C4/5 to C5/6", "C7/T1")
    beyond = ("above C2/3", "C2/3 to C7/T1", "below T1/2")
    for narrowed, said in (
        ((), NARROWED),
        (("",), NARROWED),
        (("C5/6",), f"{NARROWED}, MOST AT C5/6"),
        (beyond, f"{NARROWED}, MOST AT above C2/3, C2/3 to C7/T1 (+1)"),
        (long, f"{NARROWED}, MOST AT C2/3 to C3/4, C4/5 to C5/6 (+1)"),
    ):
        notes = foot_notes(found, narrowed=narrowed)
        assert notes[1] == said
        labeling.mark(np.zeros(STACK_SHAPE, dtype=np.uint16), SeriesKind.T2, (), notes)


def test_the_cord_is_what_the_picture_shows_dark_in_the_canal() -> None:
    found = measured(synthesis(), reference())
    cord, canal = found.regions[CORD], found.regions[Region.CANAL]
    drawn = np.isin(TOY.pair.labels[TOY.places.region(Region.CANAL)], Tissue.CORD).sum()
    assert 0 < cord.pixels < canal.pixels
    assert cord.pixels == drawn
    assert {"half_width.cord", "unsupported.cord"} <= found.figures.keys()


WRONG = {
    "flat": np.full(SHAPE, 0.5, dtype=np.float32),
    "noise": np.random.default_rng(1).uniform(0, 1, SHAPE).astype(np.float32),
    "moved": np.roll(TOY.pair.t2, 5, axis=1),
}


@pytest.mark.parametrize("picture", WRONG)
def test_a_picture_that_is_not_of_this_ct_is_declined(picture: str) -> None:
    found = measured(synthesis(t2=WRONG[picture]), reference())
    assert found.verdict.startswith("declined: agreement of bone edges")
    with pytest.raises(Declined) as declined:
        found.check()
    assert declined.value.code == "fidelity.edge_gain"
    assert "at least" in declined.value.expected


def test_the_shipped_limits_decline_another_patients_picture_and_take_his_own() -> None:
    shipped = Calibration.load(Path(pipeline.__file__).parent / BUILT_IN)
    assert shipped is not None
    people = [patient(seed, []) for seed in (100_000, 100_001)]
    grids = [_middle(pair_grid(person)) for person in people]
    pairs = [
        render(person, grid, supersample=1) for person, grid in zip(people, grids, strict=True)
    ]
    stack = Volume(pairs[0].ct, grids[0], "2.25.1")
    places = phantom_places(people[0], stack)
    wide = np.full(stack.values.shape, 0.1, dtype=np.float32)
    own, other = (
        dataclasses.replace(
            synthesis(),
            images={Contrast.T2: pair.t2, Contrast.STIR: pair.stir},
            grid=stack.grid,
            spread=dict.fromkeys(ALL_CONTRASTS, wide),
            doubt=dict.fromkeys(ALL_CONTRASTS, wide),
            support=None,
        )
        for pair in pairs
    )
    measure_fidelity(stack, own, places, shipped.reference).check()
    with pytest.raises(Declined) as declined:
        measure_fidelity(stack, other, places, shipped.reference).check()
    assert declined.value.code == "fidelity.edge_gain"


def _middle(grid: Grid) -> Grid:
    """Five slices through the canal."""
    first = grid.shape[0] // 2 - 2
    return Grid.from_steps((5, *grid.shape[1:]), grid.image_position(first), grid.steps_mm)


def test_where_no_vertebra_shows_its_cortex_that_is_warned_of() -> None:
    boneless = dataclasses.replace(TOY.stack, values=np.minimum(TOY.stack.values, 100))
    found = measure_fidelity(boneless, synthesis(), TOY.places, reference(distance=FAR))
    assert found.edges == {}
    assert found.verdict.startswith("warning: vertebrae whose bone edges could be compared")
    assert "bone edges not compared: vertebrae 0 < 1" in foot_notes(found)[-1]


def test_a_ct_unlike_any_is_declined_and_comes_first() -> None:
    usual = reference()
    far = {name: value + 60 for name, value in FEATURES.items()}
    assert usual.distance(far) > usual.limits["distance"].decline
    moved = dataclasses.replace(usual, mean=tuple(far[name] for name in usual.features))
    with pytest.raises(Declined) as declined:
        measured(synthesis(doubt=0.3), moved).check()
    assert declined.value.code == "fidelity.distance"


def test_every_figure_has_words_and_the_longest_warning_fits_the_margin() -> None:
    found = measured(synthesis(), reference())
    pixels = np.zeros(SHAPE, dtype=np.uint16)
    assert len(found.figures) == 4 + 2 * len({*Region, CORD})
    for name in (*found.figures, "edge_count"):
        excess = fidelity.Excess(name, 0.8765, 0.1234, False)
        assert excess.short.isascii()
        worst = dataclasses.replace(found, excesses=(excess,) * 11)
        labeling.mark(pixels, SeriesKind.T2, (), foot_notes(worst))
