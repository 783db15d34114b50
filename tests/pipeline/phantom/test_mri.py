"""Each effect of the scanner does what its equation says, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.contrast import Contrast
from pipeline.geometry import Float64
from pipeline.phantom.mri import Acquisition, acquire, scan_plane, sensitivity
from pipeline.phantom.person import Stream, stream
from pipeline.phantom.tissues import Tissue

PERFECT = Acquisition(
    frequency_axis=2,
    bandwidth_hz=1e9,
    kept=(1.0, 1.0),
    rolloff=0.0,
    shading=0.0,
    coil_mm=100.0,
    drift=0.0,
    ghost=0.0,
    ghost_px=12.0,
    ghost_phase=0.0,
    noise=0.0,
)
NOTHING = np.zeros((96, 80))


def blob(row: float, column: float, shape: tuple[int, int] = (96, 80)) -> Float64:
    """A smooth spot, so that sub-pixel positions can be read from its centroid."""
    r, c = np.indices(shape)
    spot: Float64 = np.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * 2.0**2))
    return spot


def centroid(plane: Float64) -> tuple[float, float]:
    r, c = np.indices(plane.shape)
    return float((r * plane).sum() / plane.sum()), float((c * plane).sum() / plane.sum())


def test_a_perfect_scanner_gives_back_what_it_scanned() -> None:
    plane = blob(40, 30)
    image = scan_plane(plane, 0.4 * plane, 0.3 * plane, PERFECT)
    assert np.abs(image - plane).max() < 1e-6


@pytest.mark.parametrize(("axis", "bandwidth_hz"), [(1, 300.0), (2, 300.0), (2, -160.0)])
def test_fat_moves_by_its_frequency_over_the_bandwidth_and_water_stays(
    axis: int, bandwidth_hz: float
) -> None:
    how = replace(PERFECT, frequency_axis=axis, bandwidth_hz=bandwidth_hz)
    spot = blob(48, 40)
    shift = 3.4 * 42.577 * 1.5 / bandwidth_hz
    expected = (48 + shift, 40) if axis == 1 else (48, 40 + shift)
    assert centroid(np.abs(scan_plane(spot, spot, NOTHING, how))) == pytest.approx(
        expected, abs=0.02
    )
    assert centroid(np.abs(scan_plane(spot, NOTHING, NOTHING, how))) == pytest.approx(
        (48, 40), abs=0.02
    )


def test_truncation_rings_beside_an_edge_by_gibbs_nine_percent() -> None:
    plane = np.zeros((96, 80))
    plane[:, 40:] = 1.0
    image = scan_plane(plane, NOTHING, NOTHING, replace(PERFECT, kept=(1.0, 0.5))).real
    # a sampled edge overshoots by at most the continuous 9 %, and by some of it
    assert 0.03 < image.max() - 1 < 0.12
    assert -0.12 < image.min() < -0.03
    assert np.allclose(image, image[:1], atol=1e-9)
    filter_on = replace(PERFECT, kept=(1.0, 0.5), rolloff=0.6)
    filtered = scan_plane(plane, NOTHING, NOTHING, filter_on).real
    far = (0, slice(52, 68))
    assert np.abs(filtered[far] - 1).max() < 0.25 * np.abs(image[far] - 1).max()


def test_pulsation_leaves_ghosts_along_phase_encoding_only() -> None:
    spot = blob(48, 40)
    how = replace(PERFECT, frequency_axis=2, ghost=0.1, ghost_px=20.0)
    image = scan_plane(spot, NOTHING, spot, how).real
    assert image[28, 40] == pytest.approx(0.05, abs=0.005)
    assert image[68, 40] == pytest.approx(0.05, abs=0.005)
    assert abs(image[48, 20]) < 0.001
    still = scan_plane(spot, NOTHING, NOTHING, how).real
    assert abs(still[28, 40]) < 0.001


def test_sensitivity_is_smooth_has_mean_one_and_is_higher_behind() -> None:
    field = sensitivity((96, 80), (0.75, 0.75), replace(PERFECT, shading=0.3, drift=-0.1))
    assert field.mean() == pytest.approx(1.0)
    assert (np.diff(field, axis=1) > 0).all()
    assert np.abs(np.diff(field, axis=1)).max() < 0.02


def test_noise_is_rician() -> None:
    """In air a Rayleigh mean of ``sigma sqrt(pi / 2)``; far above it the signal itself."""
    labels = np.full((2, 96, 80), Tissue.AIR, np.uint8)
    signal = np.zeros(labels.shape, np.float32)
    signal[:, 48:] = 1.0
    seed = 5
    how = Acquisition.draw(stream(seed, Stream.MR), Contrast.T2)
    out = acquire(signal, labels, Contrast.T2, (3.0, 0.75, 0.75), stream(seed, Stream.MR))
    # away from the edge, which rings
    assert out[:, :24].mean() == pytest.approx(how.noise * (np.pi / 2) ** 0.5, rel=0.1)
    coil = sensitivity((96, 80), (0.75, 0.75), how)
    assert (out[:, 72:] / coil[72:]).mean() == pytest.approx(1.0, abs=0.02)


def test_stir_has_lost_the_fat_that_could_shift() -> None:
    """The same fat, scanned twice: on STIR next to nothing lies beside its place."""
    labels = np.full((1, 96, 80), Tissue.MUSCLE, np.uint8)
    labels[:, 40:60, 30:50] = Tissue.FAT
    signal = np.where(labels == Tissue.FAT, 0.7, 0.2).astype(np.float32)
    nulled = np.where(labels == Tissue.FAT, 0.07, 0.2).astype(np.float32)
    moved = []
    for contrast, clean in ((Contrast.T2, signal), (Contrast.STIR, nulled)):
        scans = [
            acquire(clean, labels, contrast, (3.0, 0.75, 0.75), stream(seed, Stream.MR))
            for seed in range(4)
        ]
        moved.append(max(float(np.abs(scan - clean)[0, 36:64, 26:54].max()) for scan in scans))
    assert moved[0] > 2 * moved[1]


def test_the_same_seed_is_the_same_scan_and_another_is_not() -> None:
    labels = np.full((2, 64, 64), Tissue.CSF, np.uint8)
    signal = np.ones(labels.shape, np.float32)
    one, same, other = (
        acquire(signal, labels, Contrast.STIR, (3.0, 0.75, 0.75), stream(seed, Stream.MR))
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.allclose(one, other, atol=1e-3)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        acquire(
            np.ones((1, 8, 8), np.float32),
            np.zeros((1, 8, 9), np.uint8),
            Contrast.T2,
            (3.0, 0.75, 0.75),
            stream(0, Stream.MR),
        )
