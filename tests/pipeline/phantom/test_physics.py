"""Disturbed scans: where the disturbance is, how large, and that nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.geometry import Float32
from pipeline.phantom import Artifact, Kernel, Variation, ct_series, patient
from pipeline.phantom.person import Patient

COARSE_MM = (6.0, 2.0, 2.0)
TOUCHED_HU = 25.0
"""More than what a change of one slice's density does to the noise of all."""


@pytest.fixture(scope="module")
def person() -> Patient:
    return patient(5, (), Variation(is_face_blanked=False))


@pytest.fixture(scope="module")
def undisturbed(person: Patient) -> Float32:
    return ct_series(person, spacing_mm=COARSE_MM).values


def _difference(person: Patient, undisturbed: Float32, artifact: Artifact) -> Float32:
    return ct_series(person, spacing_mm=COARSE_MM, artifacts=(artifact,)).values - undisturbed


def _touched(change: Float32) -> NDArray[np.int64]:
    return np.flatnonzero(np.abs(change).max(axis=(1, 2)) > TOUCHED_HU)


def test_screws_are_metal_with_dark_and_bright_around_it(
    person: Patient, undisturbed: Float32
) -> None:
    change = _difference(person, undisturbed, Artifact.SCREWS)
    touched = _touched(change)
    volume = ct_series(person, spacing_mm=COARSE_MM)
    heights = volume.grid.origin_mm[2] + touched * volume.grid.steps_mm[0, 2]
    ends = [person.frame.position_mm(person.spine.levels[i].middle)[2] for i in (1, 3)]
    assert heights.max() < max(ends) + 12
    assert heights.min() > min(ends) - 12
    assert (change + undisturbed).max() > 2500
    assert change.min() < -100


def test_fillings_streak_their_slices_far_from_the_metal(
    person: Patient, undisturbed: Float32
) -> None:
    change = _difference(person, undisturbed, Artifact.DENTAL)
    worst = change[np.abs(change).sum(axis=(1, 2)).argmax()]
    rows, columns = np.nonzero((undisturbed[0] > -2000) & (worst > 2000))
    away = np.hypot(
        *(np.indices(worst.shape) - np.array([rows.mean(), columns.mean()])[:, None, None])
    )
    assert np.abs(worst)[away > 30].std() > 30


def test_no_fillings_in_a_removed_face() -> None:
    faceless = patient(5, (), Variation(is_face_blanked=True))
    with pytest.raises(ValueError, match="removed"):
        ct_series(faceless, spacing_mm=COARSE_MM, artifacts=(Artifact.DENTAL,))


def test_arms_streak_from_side_to_side_below_the_shoulders(
    person: Patient, undisturbed: Float32
) -> None:
    change = _difference(person, undisturbed, Artifact.ARMS)
    touched = _touched(change)
    assert touched[0] > len(change) // 3
    assert touched[-1] == len(change) - 1
    streaks = change[touched]
    middle = streaks[:, 30:-30, 20:-20]
    along, across = (np.abs(np.diff(middle, axis=axis)).mean() for axis in (2, 1))
    assert along < 0.8 * across
    assert middle.std() > 5


def test_a_movement_leaves_what_was_scanned_before_it(
    person: Patient, undisturbed: Float32
) -> None:
    change = _difference(person, undisturbed, Artifact.MOTION)
    touched = _touched(change)
    assert 5 < touched[0] < len(change) - 2
    assert np.array_equal(touched, np.arange(touched[0], len(change)))


def test_a_bone_kernel_is_noisier(person: Patient, undisturbed: Float32) -> None:
    sharp = ct_series(person, spacing_mm=COARSE_MM, kernel=Kernel.BONE).values
    muscle = (undisturbed > 20) & (undisturbed < 90)
    assert sharp[muscle].std() > 1.5 * undisturbed[muscle].std()


def test_the_same_seed_is_disturbed_in_the_same_way(person: Patient) -> None:
    both = [
        ct_series(person, spacing_mm=COARSE_MM, artifacts=(Artifact.ARMS,)).values for _ in "ab"
    ]
    assert np.array_equal(*both)
