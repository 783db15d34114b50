"""The stack: right-handed, in the middle of the spine, and the CT's own values."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.anatomy import Anatomy, Coverage, find_anatomy
from pipeline.errors import Declined
from pipeline.evaluation import perturbed
from pipeline.geometry import Float64, Grid, Volume
from pipeline.levels import Level
from pipeline.reformat import STACK_SHAPE, STACK_SPACING_MM, sagittal_stack, stack_grid
from pipeline.sampling import average_blocks, sample, upright
from pipeline.symmetry import MidsagittalPlane
from pipeline.volume import CTSeries


def plane(yaw_deg: float = 0.0, roll_deg: float = 0.0) -> MidsagittalPlane:
    yaw, roll = np.radians(yaw_deg), np.radians(roll_deg)
    normal = np.array([-np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
    return MidsagittalPlane(np.zeros(3), normal)


def anatomy(plane: MidsagittalPlane) -> Anatomy:
    """Six discs straight down the z axis."""
    names = ("C2/3", "C3/4", "C4/5", "C5/6", "C6/7", "C7/T1")
    levels = tuple(
        Level(name, np.array([0.0, 0, z]), np.array([0.0, -15, z]), 40.0 - z, 1.0)
        for name, z in zip(names, np.linspace(40, -40, 6), strict=True)
    )
    line: Float64 = np.stack([np.zeros(120), np.zeros(120), np.arange(60.0, -60, -1)], axis=1)
    return Anatomy(line, plane, levels, True, {}, {}, Coverage(120, 120, "dens"), (), {})


def ramp(steps_mm: Float64, shape: tuple[int, int, int] = (120, 130, 130)) -> Volume:
    """A CT whose value is ``x + 2 y + 3 z`` in mm, on any grid around the origin."""
    origin = -(np.array(shape) - 1) / 2 @ steps_mm
    grid = Grid.from_steps(shape, origin, steps_mm)
    index = np.stack(np.indices(shape), axis=-1).astype(np.float64)
    values = grid.to_mm(index) @ np.array([1.0, 2, 3])
    return Volume(values.astype(np.float32), grid, "1.2.3")


AXIAL = np.array([[0, 0, 2.0], [0, 1.5, 0], [1.5, 0, 0]])


def tilted(degrees: float) -> Float64:
    angle = np.radians(degrees)
    down = 1.5 * np.array([0, np.cos(angle), np.sin(angle)])
    return np.array([[0, 0, 2.0], down, [1.5, 0, 0]])


@pytest.mark.parametrize(("yaw", "roll"), [(0, 0), (12, -8), (-15, 15)])
def test_the_frame_is_right_handed_and_follows_the_plane(yaw: float, roll: float) -> None:
    found = anatomy(plane(yaw, roll))
    grid = stack_grid(found)
    assert grid.shape == STACK_SHAPE
    assert np.allclose(grid.spacing_mm, STACK_SPACING_MM)
    right, down, posterior = grid.directions
    assert np.allclose(right, found.plane.normal)
    assert np.allclose(np.cross(posterior, down), right)
    assert down[2] < -0.9
    assert abs(posterior[2]) < 1e-9
    assert np.allclose(grid.slice_normal, right)
    assert not grid.is_sheared


def test_an_upright_patient_has_the_standard_orientation() -> None:
    grid = stack_grid(anatomy(plane()))
    assert np.allclose(grid.image_orientation, (0, 1, 0, 0, 0, -1))
    # The middle of the discs is the middle of the stack.
    assert np.allclose(grid.to_index(np.zeros(3)), (7, 127.5, 127.5))


@pytest.mark.parametrize("steps", [AXIAL, tilted(18.5), tilted(-25)], ids=["axial", "18", "-25"])
@pytest.mark.parametrize(("yaw", "roll"), [(0, 0), (10, 5)])
def test_a_ramp_is_sampled_where_it_is(steps: Float64, yaw: float, roll: float) -> None:
    stack = sagittal_stack(ramp(steps), anatomy(plane(yaw, roll)))
    index = np.stack(np.indices(STACK_SHAPE), axis=-1).astype(np.float64)
    expected = stack.grid.to_mm(index) @ np.array([1.0, 2, 3])
    inside = np.zeros(STACK_SHAPE, dtype=bool)
    inside[2:-2, 60:-60, 60:-60] = True
    assert np.allclose(stack.values[inside], expected[inside], atol=1e-2)


def test_outside_the_ct_is_air() -> None:
    stack = sagittal_stack(ramp(AXIAL, (90, 60, 60)), anatomy(plane()))
    assert (stack.values[:, :, 0] == -1024).all()
    assert stack.values.dtype == np.float32
    assert stack.frame_of_reference_uid == "1.2.3"


def test_a_field_of_view_beside_the_spine_is_declined() -> None:
    ct = ramp(AXIAL)
    aside = ct.grid.origin_mm + np.array([90.0, 0, 0])
    moved = Grid.from_steps(ct.grid.shape, aside, ct.grid.steps_mm)
    with pytest.raises(Declined) as declined:
        sagittal_stack(Volume(ct.values, moved, "1.2.3"), anatomy(plane()))
    assert declined.value.code == "stack.outside"


def test_a_slice_is_the_mean_of_its_slab() -> None:
    # A sheet of 1000 HU, 3 mm thick, centered on the middle slice, at 0.5 mm.
    steps = np.array([[0, 0, 2.0], [0, 1.5, 0], [0.5, 0, 0]])
    ct = ramp(steps, (60, 60, 201))
    x = ct.grid.to_mm(np.stack(np.indices(ct.grid.shape), axis=-1).astype(float))[..., 0]
    sheet = Volume((1000.0 * (abs(x) < 1.5)).astype(np.float32), ct.grid, "1")
    stack = sagittal_stack(sheet, anatomy(plane()))
    middle = stack.values[:, 128, 128]
    assert middle[7] > 850
    assert middle[[5, 9]].max() < 1


@pytest.mark.parametrize("steps", [AXIAL, tilted(20)], ids=["axial", "tilted"])
def test_upright_keeps_values_in_place(steps: Float64) -> None:
    ct = ramp(steps)
    found = upright(ct, 2.5)
    assert not found.grid.is_sheared
    points = np.random.default_rng(3).uniform(-40, 40, (200, 3))
    assert np.allclose(sample(found, points), points @ np.array([1.0, 2, 3]), atol=1e-2)


def test_blocks_are_averaged_about_their_centers() -> None:
    coarse = average_blocks(ramp(AXIAL, (9, 10, 11)), (2, 3, 1))
    assert coarse.grid.shape == (4, 3, 11)
    centers = coarse.grid.to_mm(np.stack(np.indices(coarse.grid.shape), axis=-1).astype(float))
    assert np.allclose(coarse.values, centers @ np.array([1.0, 2, 3]), atol=1e-3)


@pytest.fixture(scope="module")
def found(neck_series: CTSeries) -> Anatomy:
    return find_anatomy(neck_series.volume)


@pytest.mark.data
def test_the_real_neck_is_the_same_stack_from_a_tilted_gantry(
    neck_series: CTSeries, found: Anatomy
) -> None:
    upright_stack = sagittal_stack(neck_series.volume, found)
    tilted_ct = perturbed.gantry_tilted(neck_series.volume, 18.5).volume
    tilted_stack = sagittal_stack(tilted_ct, found)
    middle = (slice(4, 11), slice(40, 200), slice(60, 200))
    one, other = upright_stack.values[middle].ravel(), tilted_stack.values[middle].ravel()
    # Equal but for the blur of one more resampling to 0.8 mm.
    assert np.corrcoef(one, other)[0, 1] > 0.99


@pytest.mark.data
def test_the_midline_slice_shows_the_canal_from_end_to_end(
    neck_series: CTSeries, found: Anatomy
) -> None:
    stack = sagittal_stack(neck_series.volume, found)
    index = stack.grid.to_index(found.centerline_mm)
    in_rows = (index[:, 1] > 0) & (index[:, 1] < 255)
    # The canal is curved a little to the sides; it stays in the middle three slices.
    assert np.abs(index[in_rows, 0] - 7).max() <= 1.5
    assert index[in_rows, 2].min() > 40
    assert index[in_rows, 2].max() < 215
    hu = sample(stack, found.centerline_mm[in_rows])
    assert ((hu > -30) & (hu < 130)).mean() > 0.97
    discs = np.array([level.position_mm for level in found.levels])
    rows = stack.grid.to_index(discs)[:, 1]
    assert rows.min() > 60
    assert rows.max() < 210
