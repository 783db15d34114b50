"""What is bright on STIR without support has a line around it, and nothing else has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.geometry import Float32
from pipeline.hyperintensity import (
    BRIGHT,
    DARK,
    LEAST_UNSUPPORTED,
    LIGHT,
    Areas,
    Mask,
    bright_areas,
    facts_of,
    outline,
    outlined,
    unsupported_areas,
)
from pipeline.places import Region
from tests.pipeline.toy_spine import BODY_COLUMNS, CANAL_COLUMN, SHAPE, ToySpine, toy_spine

# A slice, rows and columns: 6 x 5 pixels of 0.75 mm.
IN_BODY = (slice(2, 3), slice(76, 82), slice(104, 109))
BEFORE_BODY = (slice(2, 3), slice(76, 82), slice(BODY_COLUMNS[0] - 6, BODY_COLUMNS[0] - 1))
BEHIND = (slice(2, 3), slice(86, 92), slice(152, 157))
# CSF before the cord, within reach of the bodies.
IN_CANAL = (slice(2, 3), slice(76, 84), slice(CANAL_COLUMN - 10, CANAL_COLUMN - 6))
IN_FAT = (slice(2, 3), slice(76, 82), slice(205, 210))
Box = tuple[slice, slice, slice]


@pytest.fixture(scope="module")
def toy() -> ToySpine:
    """Three millimeters before the bodies are muscle here, as the longus colli is."""
    return toy_spine()


def stir_with(*boxes: Box, signal: float = 0.6) -> Float32:
    stir = np.full(SHAPE, 0.15, dtype=np.float32)
    for box in boxes:
        stir[box] = signal
    return stir


def where(*boxes: Box) -> Mask:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    for box in boxes:
        mask[box] = True
    return mask


def found(toy: ToySpine, stir: Float32, unsupported: Mask) -> Areas:
    return unsupported_areas(stir, unsupported, toy.places, toy.stack.grid.spacing_mm)


@pytest.mark.parametrize(
    ("box", "region"),
    [
        (IN_BODY, Region.BODIES),
        (BEFORE_BODY, Region.PREVERTEBRAL),
        (BEHIND, Region.INTERSPINOUS),
    ],
)
def test_a_bright_area_of_the_spine_without_support(
    toy: ToySpine, box: Box, region: Region
) -> None:
    assert toy.places.region(region)[box].any()
    areas = found(toy, stir_with(box), where(box))
    assert areas.max() == 1
    assert (areas[box] > 0).mean() > 0.8
    assert not areas[~where(box)].any()


def test_a_bright_area_that_the_ct_supports_is_found_and_not_doubted(toy: ToySpine) -> None:
    stir, spacing_mm = stir_with(IN_BODY), toy.stack.grid.spacing_mm
    assert bright_areas(stir, toy.places, spacing_mm).max() == 1
    assert not found(toy, stir, where()).any()


def test_the_core_is_enough_and_a_corner_is_not(toy: ToySpine) -> None:
    slices, rows, columns = IN_BODY
    core = (
        slices,
        slice(rows.start + 2, rows.stop - 1),
        slice(columns.start + 1, columns.stop - 1),
    )
    corner = (slices, slice(rows.start, rows.start + 2), slice(columns.start, columns.start + 2))
    assert found(toy, stir_with(IN_BODY), where(core)).max() == 1
    assert not found(toy, stir_with(IN_BODY), where(corner)).any()


def test_an_invented_part_of_a_larger_area_is_enough_when_it_is_large_itself(toy: ToySpine) -> None:
    large = (slice(0, 5), slice(76, 84), slice(97, 117))
    core = (slice(1, 4), slice(76, 80), slice(104, 108))
    dot = (slice(2, 3), slice(76, 80), slice(104, 108))
    stir = stir_with(large)
    assert where(core).sum() < LEAST_UNSUPPORTED * where(large).sum()
    assert found(toy, stir, where(core)).max() == 1
    assert not found(toy, stir, where(dot)).any()


@pytest.mark.parametrize("box", [IN_CANAL, IN_FAT])
def test_fluid_in_the_canal_and_what_lies_elsewhere_is_no_finding(toy: ToySpine, box: Box) -> None:
    assert not found(toy, stir_with(box), where(box)).any()


def test_what_is_small_or_dim_is_none_either(toy: ToySpine) -> None:
    dot = (slice(2, 3), slice(78, 80), slice(106, 108))
    assert not found(toy, stir_with(dot), where(dot)).any()
    assert not found(toy, stir_with(IN_BODY, signal=BRIGHT - 0.01), where(IN_BODY)).any()


def test_only_the_doubtful_ones_are_numbered_and_told_of(toy: ToySpine) -> None:
    far = (slice(1, 4), slice(116, 122), slice(104, 109))
    areas = found(toy, stir_with(IN_BODY, far, BEHIND), where(far, BEHIND))
    assert areas.max() == 2
    assert not areas[IN_BODY].any()
    facts = facts_of(areas, toy.stack.grid.spacing_mm)
    assert [(one["first"], one["last"]) for one in facts] in ([(2, 4), (3, 3)], [(3, 3), (2, 4)])
    volumes = sorted(one["volume_mm3"] for one in facts)
    assert volumes[1] == pytest.approx(3 * volumes[0], rel=0.1)


boxes = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 30), st.integers(1, 9)),
    max_size=4,
)


@given(boxes)
def test_the_line_surrounds_every_area_and_touches_none(places: list[tuple[int, ...]]) -> None:
    areas = np.zeros((3, 32, 32), dtype=np.int32)
    for number, (index, row, column, size) in enumerate(places, start=1):
        areas[index, row : row + size, column : column + size] = number
    line = outline(areas)
    assert not (line & (areas > 0)).any()
    # Nothing gets from an area to the line's other side without crossing it, row by column.
    cross = ndimage.generate_binary_structure(2, 1)[np.newaxis]
    reached = ndimage.binary_propagation(areas > 0, cross, mask=~line)
    near = ndimage.binary_dilation(areas > 0, np.ones((1, 3, 3)), iterations=3)
    assert not (reached & ~near & ~ndimage.binary_closing(areas > 0, np.ones((1, 9, 9)))).any()
    assert line.any() == bool(areas.any() and not near.all())


@given(boxes)
def test_only_the_line_is_drawn(places: list[tuple[int, ...]]) -> None:
    areas = np.zeros((3, 32, 32), dtype=np.int32)
    for number, (index, row, column, size) in enumerate(places, start=1):
        areas[index, row : row + size, column : column + size] = number
    signal = np.full(areas.shape, 0.5, dtype=np.float32)
    drawn, line = outlined(signal, areas), outline(areas)
    np.testing.assert_array_equal(drawn != signal, line)
    assert set(np.unique(drawn[line])) <= {np.float32(LIGHT), np.float32(DARK)}


@pytest.mark.parametrize("slope", [(1, 0), (0, 1), (1, 1), (2, -1), (1, -2), (2, 1), (1, 3)])
def test_the_line_is_dashed_whichever_way_it_runs(slope: tuple[int, int]) -> None:
    areas = np.zeros((1, 96, 96), dtype=np.int32)
    for step in np.linspace(-12, 12, 97):
        row, column = round(48 + step * slope[0]), round(48 + step * slope[1])
        areas[0, row : row + 2, column : column + 2] = 1
    line = outline(areas)
    light = outlined(np.full(areas.shape, 0.5, dtype=np.float32), areas)[line] == LIGHT
    assert 0.3 < light.mean() < 0.7
    # no stretch of a single color longer than some dashes
    for color in (LIGHT, DARK):
        drawn = outlined(np.full(areas.shape, 0.5, dtype=np.float32), areas) == np.float32(color)
        _, count = ndimage.label(drawn & line, np.ones((3, 3, 3)))
        assert count > line.sum() / 24
