"""Grids against what highdicom and SimpleITK say of the same geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.geometry import Grid, Volume

angles = st.floats(-180, 180)
spacings = st.tuples(*[st.floats(0.2, 5.0)] * 3)
origins = st.tuples(*[st.floats(-1000, 1000)] * 3)


def rotated_grid(
    turns: tuple[float, float, float],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
) -> Grid:
    axes = Rotation.from_euler("xyz", turns, degrees=True).as_matrix()
    return Grid.from_steps((4, 5, 6), np.array(origin), axes * np.array(spacing)[:, None])


def sheared(degrees: float) -> Grid:
    angle = np.radians(degrees)
    steps = np.array([[0, 0, 1.0], [0, np.cos(angle), np.sin(angle)], [1, 0, 0]])
    return Grid.from_steps((3, 4, 5), np.zeros(3), steps)


@given(turns=st.tuples(angles, angles, angles), spacing=spacings, origin=origins)
def test_index_and_position_are_inverse(
    turns: tuple[float, float, float],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
) -> None:
    grid = rotated_grid(turns, spacing, origin)
    index = np.array([[0.0, 0, 0], [3, 4, 5], [1.5, 0.25, 4.75]])
    assert np.allclose(grid.to_index(grid.to_mm(index)), index, atol=1e-6)
    assert np.allclose(grid.spacing_mm, spacing)


@given(turns=st.tuples(angles, angles, angles), spacing=spacings, origin=origins)
def test_simpleitk_places_every_voxel_alike(
    turns: tuple[float, float, float],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
) -> None:
    grid = rotated_grid(turns, spacing, origin)
    values = np.zeros(grid.shape, dtype=np.float32)
    image = Volume(values, grid, "1.2.3").to_sitk()
    for index in ((0, 0, 0), (3, 4, 5), (1, 2, 3)):
        theirs = image.TransformIndexToPhysicalPoint(index[::-1])
        assert np.allclose(grid.to_mm(np.array(index, dtype=float)), theirs, atol=1e-6)


def test_highdicom_places_every_voxel_alike() -> None:
    import highdicom

    axes = Rotation.from_euler("xyz", (5.0, -12.0, 30.0), degrees=True).as_matrix()
    steps = axes * np.array([[1.0], [0.7], [0.5]])
    grid = Grid.from_steps((4, 5, 6), np.array([3.0, -40.0, 900.0]), steps)
    theirs = highdicom.VolumeGeometry.from_attributes(
        image_position=grid.image_position(0).tolist(),
        image_orientation=grid.image_orientation.tolist(),
        rows=5,
        columns=6,
        pixel_spacing=grid.spacing_mm[1:],
        spacing_between_slices=grid.spacing_mm[0],
        number_of_frames=4,
        coordinate_system="PATIENT",
    )
    assert np.allclose(theirs.affine, grid.affine, atol=1e-9)
    # highdicom steps against DICOM's normal: its (slice, row, column) frame is right-handed.
    assert np.allclose(grid.slice_normal, -grid.directions[0])


def test_tilt_is_a_shear_and_refuses_simpleitk() -> None:
    grid = sheared(18.5)
    assert grid.is_sheared
    with pytest.raises(ValueError, match="sheared"):
        Volume(np.zeros(grid.shape, dtype=np.float32), grid, "1.2.3").to_sitk()


def test_unsheared_stays_unsheared_within_a_tenth_of_a_degree() -> None:
    assert not sheared(0.05).is_sheared
    assert sheared(0.2).is_sheared


@pytest.mark.parametrize(
    "affine",
    [np.zeros((4, 4)), np.eye(3), np.diag([1.0, 1, 1, 2]), np.full((4, 4), np.nan)],
)
def test_a_broken_affine_is_no_grid(affine: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError):
        Grid((2, 2, 2), affine)


def test_a_volume_checks_shape_and_type() -> None:
    grid = sheared(0.0)
    with pytest.raises(ValueError, match="values are"):
        Volume(np.zeros((1, 1, 1), dtype=np.float32), grid, "1")
    with pytest.raises(ValueError, match="float32"):
        Volume(np.zeros(grid.shape), grid, "1")  # type: ignore[arg-type]
