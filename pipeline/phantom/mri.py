"""What an MR scanner adds to the clean signal: water-fat shift, ringing, ghosts, coils, noise.

Used by `pipeline.phantom.acquisition.truth`, so that the phantom's DICOM MRI looks like an MRI.
**Training targets and the evaluation's truth stay clean**: a model that learned these effects would
draw them, and an artifact that nobody acquired has no place in a synthesis.

The effects of encoding act where they arise, in k-space, slice by slice. "Brown" is Brown et al.,
Magnetic Resonance Imaging: Physical Principles and Sequence Design, 2nd ed. 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.contrast import Contrast
from pipeline.geometry import Float32, Float64
from pipeline.phantom.tissues import TABLE, Tissue

Complex = NDArray[np.complex128]

FIELD_T = 1.5
GYROMAGNETIC_MHZ_PER_T = 42.577
FAT_SHIFT_PPM = 3.4
"""Methylene against water: 217 Hz at 1.5 T (Brown ch. 17)."""

FAT_FRACTION: dict[Tissue, float] = {
    Tissue.FAT: 0.95,
    Tissue.EPIDURAL_FAT: 0.85,
    Tissue.MARROW: 0.45,
    Tissue.SKULL_MARROW: 0.60,
    Tissue.INTERSPINOUS: 0.45,
    Tissue.SKIN: 0.25,
    Tissue.GLAND: 0.20,
    Tissue.TONGUE: 0.12,
    Tissue.MARROW_OEDEMA: 0.25,
    Tissue.MUSCLE: 0.05,
}
"""Share of fat by volume; what is not named has none. Marrow is that of middle age."""

PULSATING = (Tissue.CSF, Tissue.ARTERY, Tissue.VEIN)
"""What moves with the pulse and leaves ghosts along the phase-encoding direction."""

PARTIAL_VOLUME_PX = 0.6
"""Standard deviation that gives a border of labels the width of a border of signal."""

PADDING_PX = 32
"""Mirrored beyond the picture, as oversampling: the neck goes on where the picture ends."""


@dataclass(frozen=True)
class Acquisition:
    """How one series was acquired, and how badly.

    Args:
        frequency_axis: 1 when rows are the frequency-encoding direction, 2 when columns are.
        bandwidth_hz: Per pixel, with its sign the direction of the fat's shift.
        kept: Share of k-space that was acquired, of rows and of columns.
        rolloff: Outer share of that which the raw-data filter fades out; 0 rings by all of Gibbs.
        shading: Exponent of the coil's sensitivity that prescan correction left, 0 to 1.
        coil_mm: Radius of the coil behind the neck.
        drift: Relative change of sensitivity from the middle to the upper and lower border.
        ghost: Amplitude of the pulse's modulation of what moves.
        ghost_px: How far the ghosts lie from what moves: cycles of the pulse in all of k-space.
        ghost_phase: Of the pulse, radians.
        noise: Standard deviation of each of both channels, CSF = 1.
    """

    frequency_axis: int
    bandwidth_hz: float
    kept: tuple[float, float]
    rolloff: float
    shading: float
    coil_mm: float
    drift: float
    ghost: float
    ghost_px: float
    ghost_phase: float
    noise: float

    @classmethod
    def draw(cls, rng: np.random.Generator, contrast: Contrast) -> Acquisition:
        """Draw a series of a 1.5 T scanner; STIR has less signal to begin with and more noise."""
        uniform = rng.uniform
        columns_read = bool(rng.random() < 0.6)
        phase_kept, frequency_kept = uniform(0.75, 1.0), uniform(0.9, 1.0)
        noisier = 1.6 if contrast is Contrast.STIR else 1.0
        return cls(
            frequency_axis=2 if columns_read else 1,
            bandwidth_hz=float(uniform(150, 450) * rng.choice((-1, 1))),
            kept=(phase_kept, frequency_kept) if columns_read else (frequency_kept, phase_kept),
            rolloff=float(uniform(0.25, 0.6)),
            shading=float(uniform(0.0, 0.35)),
            coil_mm=float(uniform(90, 150)),
            drift=float(uniform(-0.12, 0.05)),
            ghost=float(uniform(0.0, 0.05)),
            ghost_px=float(uniform(8, 60)),
            ghost_phase=float(uniform(0, 2 * np.pi)),
            noise=float(uniform(0.008, 0.022) * noisier),
        )

    @property
    def fat_shift_px(self) -> float:
        """``delta f / bandwidth``: how far fat lies from where it is (Brown ch. 17)."""
        return FAT_SHIFT_PPM * GYROMAGNETIC_MHZ_PER_T * FIELD_T / self.bandwidth_hz


def acquire(
    signal: Float32,
    labels: NDArray[np.uint8],
    contrast: Contrast,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> Float32:
    """Scan a clean sagittal stack.

    Args:
        signal: Relative to CSF, ``(slice, row, column)``: rows to the feet, columns to posterior.
        labels: `Tissue` of the voxels, the same shape: they tell fat and what moves.
        contrast: Which sequence made the signal.
        spacing_mm: Of slices, rows and columns.
        rng: The patient's MR stream; the same state gives the same picture.

    Returns:
        Magnitude in the same unit and shape; noise makes air brighter than nothing.

    Raises:
        ValueError: When shapes differ.
    """
    if signal.shape != labels.shape:
        raise ValueError(f"signal {signal.shape} and labels {labels.shape} must have one shape")
    how = Acquisition.draw(rng, contrast)
    out = np.empty(signal.shape, np.float32)
    coil = sensitivity(signal.shape[1:], spacing_mm[1:], how)
    for number, plane in enumerate(signal):
        fat, moving = _fat(plane, labels[number], contrast), _moving(plane, labels[number])
        image = scan_plane(plane * coil, fat * coil, moving * coil, how)
        noise = rng.standard_normal((2, *plane.shape)) * how.noise
        # magnitude of two noisy channels: Rice's distribution (Gudbjartsson and Patz 1995, eq. 1)
        out[number] = np.hypot(image.real + noise[0], image.imag + noise[1])
    return out


def scan_plane(signal: Float64, fat: Float64, moving: Float64, how: Acquisition) -> Complex:
    """One slice through k-space, without noise; complex ``(row, column)``.

    Args:
        signal: All of it, fat included.
        fat: The part of it that precesses as fat.
        moving: The part of it that pulsates.
        how: The acquisition.
    """
    total, shifted, pulsed = (_to_k(part) for part in (signal - fat, fat, moving))
    rows, columns = total.shape
    k = np.meshgrid(np.fft.fftfreq(rows), np.fft.fftfreq(columns), indexing="ij")
    # the shift theorem: rho(x - d) <-> exp(-2 pi i k d) S(k) (Brown ch. 11)
    phase = np.exp(-2j * np.pi * k[how.frequency_axis - 1] * how.fat_shift_px)
    total += shifted * phase
    # lines are acquired one heartbeat's phase after the other, so what pulsates is modulated
    # along k: a copy of half the amplitude at +-ghost_px (Wood and Henkelman, Med Phys 1985)
    lines = k[2 - how.frequency_axis]
    total += pulsed * how.ghost * np.cos(2 * np.pi * lines * how.ghost_px + how.ghost_phase)
    # k-space ends: the picture is convolved with a sinc and rings (Gibbs; Brown ch. 13)
    for axis, share in zip(k, how.kept, strict=True):
        total *= _window(np.abs(axis) / (0.5 * share), how.rolloff)
    image: Complex = np.fft.ifft2(total)
    return image[PADDING_PX:-PADDING_PX, PADDING_PX:-PADDING_PX]


def sensitivity(
    shape: tuple[int, ...], in_plane_mm: tuple[float, ...], how: Acquisition
) -> Float64:
    """Receive sensitivity ``(row, column)``, mean 1; falls from behind the neck to the front.

    On the axis of a loop of radius a, ``B1 ~ (1 + (z / a)^2)^(-3/2)`` (Biot-Savart), which is
    what it receives (reciprocity, Hoult and Richards 1976); `Acquisition.shading` is the power of
    it that prescan correction has left.
    """
    rows, columns = shape
    depth = (columns - 1 - np.arange(columns)) * in_plane_mm[1] / how.coil_mm
    loop = (1 + depth**2) ** (-1.5 * how.shading)
    height = np.linspace(-1, 1, rows)
    field = loop[None, :] * (1 + how.drift * height**2)[:, None]
    scaled: Float64 = field / field.mean()
    return scaled


def _window(radius: Float64, rolloff: float) -> Float64:
    """Tukey's window: 1 inside, a cosine over the outer share, 0 beyond radius 1."""
    outer = np.clip((radius - 1 + rolloff) / max(rolloff, 1e-9), 0, 1)
    window: Float64 = 0.5 * (1 + np.cos(np.pi * outer)) * (radius <= 1)
    return window


def _to_k(plane: Float64) -> Complex:
    """K-space of a plane mirrored beyond its borders."""
    spectrum: Complex = np.fft.fft2(np.pad(plane, PADDING_PX, mode="symmetric"))
    return spectrum


def _fat(plane: Float32, labels: NDArray[np.uint8], contrast: Contrast) -> Float64:
    """Fat's own signal: its share of the volume at fat's own level, which STIR has nulled."""
    fraction = np.zeros(len(Tissue))
    for tissue, share in FAT_FRACTION.items():
        fraction[tissue] = share
    row = TABLE[Tissue.FAT]
    level = row.stir if contrast is Contrast.STIR else row.t2
    # a label has no partial volume, the signal has
    soft = gaussian_filter(fraction[labels], PARTIAL_VOLUME_PX)
    signal: Float64 = np.minimum(plane, soft * level)
    return signal


def _moving(plane: Float32, labels: NDArray[np.uint8]) -> Float64:
    """The signal of what pulsates."""
    kept: Float64 = np.where(np.isin(labels, PULSATING), plane, 0.0)
    return kept
