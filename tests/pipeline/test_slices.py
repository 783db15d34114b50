"""Properties of the pure slice geometry: order does not matter, gaps are found exactly."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.errors import Corrupt, Declined
from pipeline.slices import (
    COINCIDENT_MM,
    SliceGeometry,
    along_normal_mm,
    arrange,
    check_resolution,
    gaps,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
steps_mm = st.floats(0.2, 10.0)
starts_mm = st.floats(-2000.0, 2000.0)
counts = st.integers(2, 60)


def stack(count: int = 10, step_mm: float = 1.0, tilt_deg: float = 0.0) -> list[SliceGeometry]:
    angle = np.radians(tilt_deg)
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle)))
    return [
        SliceGeometry((-10.0, -20.0, 100.0 + step_mm * k), orientation, (0.7, 0.5), (16, 20), "1.2")
        for k in range(count)
    ]


@given(count=counts, step=steps_mm, start=starts_mm, seed=st.integers(0, 99))
def test_an_even_stack_is_gapless_in_any_order(
    count: int, step: float, start: float, seed: int
) -> None:
    positions = [start + k * step for k in range(count)]
    random.Random(seed).shuffle(positions)
    report = gaps(positions)
    assert report.is_gapless
    assert not report.coincident_mm
    assert report.step_mm == pytest.approx(step, rel=1e-6)


@given(data=st.data(), count=st.integers(4, 60), step=steps_mm, start=starts_mm)
def test_the_absent_slices_are_the_missing_ones(
    data: st.DataObject, count: int, step: float, start: float
) -> None:
    absent = data.draw(st.sets(st.integers(1, count - 2), min_size=1))
    present = [k for k in range(count) if k not in absent]
    # Two neighbors show the step; without any, a coarser stack would look even.
    assume(any(b - a == 1 for a, b in pairwise(present)))
    report = gaps([start + k * step for k in present])
    assert len(report.missing_mm) == len(absent)
    expected = [start + k * step for k in sorted(absent)]
    assert np.allclose(report.missing_mm, expected, atol=1e-3)


@given(count=counts, step=st.floats(0.5, 10.0), seed=st.integers(0, 99))
def test_positions_written_with_one_decimal_are_even(count: int, step: float, seed: int) -> None:
    del seed
    assert gaps([round(k * step, 1) for k in range(count)]).is_gapless


@given(count=st.integers(3, 40), step=st.floats(0.5, 5.0), data=st.data())
def test_a_slice_out_of_step_is_uneven(count: int, step: float, data: st.DataObject) -> None:
    which = data.draw(st.integers(1, count - 1))
    positions = [k * step + (0.4 * step if k >= which else 0.0) for k in range(count)]
    report = gaps(positions)
    assume(count > 3 or which not in (1, 2))
    assert report.uneven_mm
    assert not report.is_gapless


@given(count=counts, step=steps_mm, data=st.data())
def test_repeats_are_coincident_and_no_gap(count: int, step: float, data: st.DataObject) -> None:
    which = data.draw(st.integers(0, count - 1))
    report = gaps([k * step for k in range(count)] + [which * step + COINCIDENT_MM / 3])
    assert report.is_gapless
    assert len(report.coincident_mm) == 1


@pytest.mark.parametrize("positions", [[], [3.0], [3.0, 3.0]])
def test_too_few_positions_have_no_step(positions: list[float]) -> None:
    assert gaps(positions).step_mm == 0


@given(tilt=st.floats(-30, 30), step=st.floats(0.3, 3.0), seed=st.integers(0, 99))
def test_arrange_sorts_and_keeps_the_tilt(tilt: float, step: float, seed: int) -> None:
    slices = stack(8, step, tilt)
    order = list(range(8))
    random.Random(seed).shuffle(order)
    # The step along the normal of a tilted stack is shorter than the table's.
    arrangement = arrange([slices[k] for k in order])
    assert [order[place[0]] for place in arrangement.places] == list(range(8))
    assert np.allclose(arrangement.grid.steps_mm[0], (0, 0, step))
    for k, one in enumerate(slices):
        assert np.allclose(arrangement.grid.image_position(k), one.position_mm, atol=1e-9)


def test_the_key_is_the_projection_on_the_normal() -> None:
    assert along_normal_mm((5.0, 6.0, 7.0), AXIAL) == 7.0
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    assert along_normal_mm((5.0, 6.0, 7.0), sagittal) == -5.0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"position_mm": (-10.0, -20.0, 105.3)}, "slices.uneven"),
        ({"position_mm": (-10.0, -19.0, 105.0)}, "slices.shifted"),
        ({"orientation": (1.0, 0.0, 0.0, 0.0, 0.998, 0.0632)}, "slices.mixed"),
        ({"pixel_mm": (0.7, 0.501)}, "slices.mixed"),
        ({"shape": (16, 21)}, "slices.mixed"),
        ({"frame_of_reference_uid": "1.3"}, "slices.mixed"),
        ({"thickness_mm": 5.0}, "slices.coarse"),
    ],
)
def test_one_odd_slice_declines_the_series(change: dict[str, object], code: str) -> None:
    slices = stack()
    slices[5] = replace(slices[5], **change)  # type: ignore[arg-type]
    with pytest.raises(Declined) as declined:
        arrange(slices)
    assert declined.value.code == code
    assert declined.value.found
    assert declined.value.remedy


def test_a_missing_slice_is_named() -> None:
    slices = stack()
    del slices[4]
    with pytest.raises(Declined) as declined:
        arrange(slices)
    assert declined.value.code == "slices.missing"
    assert "104.0" in declined.value.found


def test_eight_millimeter_slices_are_told_so() -> None:
    with pytest.raises(Declined) as declined:
        arrange(stack(20, 8.0))
    assert declined.value.code == "slices.coarse"
    assert "8.00 mm" in declined.value.found


def test_resolution_limits() -> None:
    check_resolution((3.0, 1.2, 1.2))
    with pytest.raises(Declined) as declined:
        check_resolution((1.0, 1.3, 1.3))
    assert declined.value.code == "pixels.coarse"


def test_a_gantry_beyond_thirty_degrees_is_a_wrong_header() -> None:
    with pytest.raises(Declined) as declined:
        arrange(stack(10, 1.0, 40.0))
    assert declined.value.code == "slices.shifted"


@pytest.mark.parametrize(
    "change",
    [
        {"position_mm": (0.0, 0.0, float("nan"))},
        {"orientation": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)},
        {"orientation": (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)},
        {"pixel_mm": (0.0, 0.5)},
        {"shape": (0, 20)},
        {"shape": (60000, 60000)},
    ],
)
def test_impossible_geometry_is_corrupt(change: dict[str, object]) -> None:
    with pytest.raises(Corrupt):
        replace(stack()[0], **change)  # type: ignore[arg-type]
