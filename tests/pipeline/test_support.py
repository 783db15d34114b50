"""The support map: the risk stays where it was promised, and wide intervals are marked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contrast import ALL_CONTRASTS, Contrast
from pipeline.provenance import digest_folder
from pipeline.reference import Limit, Reference
from pipeline.support import (
    ALPHA,
    DELTA,
    LAMBDAS,
    LIMIT,
    Calibration,
    p_values,
    raw_half_width,
    risks,
    smallest_lambda,
    support_map,
)

SHAPE = (3, 20, 20)


def calibration(scale: float = 1.0) -> Calibration:
    return Calibration(
        seeds=(99_000, 99_001),
        alpha=ALPHA,
        delta=DELTA,
        limit=LIMIT,
        lambdas=dict.fromkeys(ALL_CONTRASTS, scale),
        coverage={contrast: {"CORD": 0.97} for contrast in ALL_CONTRASTS},
    )


def phantom_risks(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Phantoms whose errors differ from their doubt, each by a factor of its own."""
    found = []
    for _ in range(count):
        raw = rng.uniform(0.02, 0.2, 400).astype(np.float32)
        error = np.abs(rng.normal(0, raw * rng.lognormal(0, 0.5))).astype(np.float32)
        found.append(risks(error, raw, np.ones(400, dtype=np.bool_)))
    return found


def test_new_phantoms_stay_within_the_promised_risk() -> None:
    rng = np.random.default_rng(1)
    fresh = np.mean(phantom_risks(rng, 2000), axis=0)
    chosen = [smallest_lambda(phantom_risks(rng, 40)) for _ in range(200)]
    true_risk = np.array([fresh[np.searchsorted(LAMBDAS, value)] for value in chosen])
    assert np.mean(true_risk > ALPHA) <= DELTA
    # not by making every interval huge
    assert np.median(true_risk) > ALPHA / 10


def test_a_lambda_that_is_too_small_breaks_the_promise() -> None:
    rng = np.random.default_rng(2)
    chosen = smallest_lambda(phantom_risks(rng, 40))
    fresh = np.mean(phantom_risks(rng, 500), axis=0)
    assert fresh[np.searchsorted(LAMBDAS, chosen / 3)] > ALPHA


@given(st.floats(0, 0.2), st.floats(0, 0.2), st.integers(5, 200))
def test_the_bound_never_falls_with_the_risk(one: float, other: float, count: int) -> None:
    low, high = sorted((one, other))
    table = np.tile([low, high, max(low, ALPHA)], (count, 1))
    lower, higher, at_alpha = p_values(table, ALPHA, DELTA)
    assert lower <= higher
    assert at_alpha == 1


def test_a_risk_at_alpha_is_rarely_taken_for_a_lower_one() -> None:
    """Phantoms of the worst kind: all right or all wrong, wrong as often as alpha allows."""
    rng = np.random.default_rng(4)
    table = (rng.random((40, 20_000)) < ALPHA).astype(np.float64)
    assert (p_values(table, ALPHA, DELTA) <= DELTA).mean() <= DELTA


def test_only_a_lambda_whose_larger_ones_hold_too_is_chosen() -> None:
    risk = np.zeros((40, len(LAMBDAS)))
    risk[:, 300] = 0.5
    assert smallest_lambda(list(risk)) == LAMBDAS[301]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_risk_never_rises_with_lambda(seed: int) -> None:
    (risk,) = phantom_risks(np.random.default_rng(seed), 1)
    assert (np.diff(risk) <= 0).all()
    assert risk[0] <= 1


def test_too_few_phantoms_promise_nothing() -> None:
    perfect = np.zeros_like(LAMBDAS)
    with pytest.raises(ValueError, match="more phantoms"):
        smallest_lambda([perfect] * 21)
    assert smallest_lambda([perfect] * 24) == LAMBDAS[0]


def test_a_patch_of_doubt_is_unsupported_and_a_lone_pixel_is_not() -> None:
    quiet = {contrast: np.full(SHAPE, 0.01, dtype=np.float32) for contrast in ALL_CONTRASTS}
    stir = quiet[Contrast.STIR].copy()
    stir[1, 5:10, 5:10] = 0.3
    stir[1, 15, 15] = 0.3
    found = support_map(quiet, {**quiet, Contrast.STIR: stir}, calibration())
    assert found.unsupported[1, 7, 7]
    assert not found.unsupported[1, 15, 15]
    assert not found.unsupported[[0, 2]].any()
    assert found.half_width[Contrast.STIR][1, 15, 15] == np.float32(0.3)
    # what is unsupported follows lambda
    assert not support_map(quiet, quiet, calibration(10)).unsupported.any()
    assert support_map(quiet, quiet, calibration(15)).unsupported[1, 7, 7]


def test_spread_counts_where_the_doubt_is_silent() -> None:
    spread = np.full(SHAPE, 0.2, dtype=np.float32)
    doubt = np.zeros(SHAPE, dtype=np.float32)
    np.testing.assert_allclose(raw_half_width(spread, doubt), 0.4, rtol=1e-6)
    assert (raw_half_width(doubt, doubt) > 0).all()


def test_a_contrast_that_was_not_calibrated_has_no_support_map() -> None:
    quiet = {Contrast.T2: np.zeros(SHAPE, dtype=np.float32)}
    with pytest.raises(ValueError, match="calibrated"):
        support_map({}, {}, calibration())
    with pytest.raises(ValueError, match="calibrated"):
        support_map(quiet, {}, calibration())


def test_the_calibration_is_part_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    before = digest_folder(tmp_path)
    assert Calibration.load(tmp_path) is None
    calibration(1.5).save(tmp_path)
    assert Calibration.load(tmp_path) == calibration(1.5)
    usual = Reference(
        ("a", "b"), (1.0, 2.0), ((1.0, 0.1), (0.1, 2.0)), {"x": Limit(1, 2, 0, 3)}, 4, 3
    )
    full = dataclasses.replace(calibration(1.5), reference=usual)
    full.save(tmp_path)
    assert Calibration.load(tmp_path) == full
    assert digest_folder(tmp_path) != before


@pytest.mark.parametrize(
    "content", ["{}", "[]", "not JSON", '{"seeds": [1], "lambdas": {"T1": 1}}']
)
def test_a_file_of_another_form_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(ValueError, match=r"calibration\.json"):
        Calibration.load(tmp_path)
