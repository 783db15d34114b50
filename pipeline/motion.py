"""Did the patient move during the scan: the neck must not jump from one slice to the next.

A jump of the bones looks like a dislocation, and draws one in the pseudo-MRI. In a dislocation the
spine alone jumps; when the patient moves, muscles and skin jump with it, by the same step.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.geometry import Float32, Float64, Volume
from pipeline.sampling import average_blocks, crop

# The spine and what is beside it ...
SPINE_MM = 40.0
# ... and the rest of the neck: around the spine, out to the skin.
WITHOUT_SPINE_MM = 30.0
NECK_MM = 90.0
PIXEL_MM = 1.0
CLIP_HU = (-200.0, 400.0)
# Cycles per pixel that are compared: finer ones are noise.
FREQUENCY_SIGMA = 0.15
# The spine runs obliquely through the slices; what neighbors share is no jump.
STEADY_SLICES = 9
# Smaller ones are what vertebrae look like from slice to slice.
SMALLEST_JUMP_MM = 1.0
# Between the step of the spine and that of the rest.
AGREEMENT_MM = 1.0


def largest_jump(ct: Volume, point_mm: Float64) -> tuple[float, float]:
    """The largest sideways step of the whole neck between neighboring slices, mm, and where: LPS z.

    Phase correlation of each slice with the next, less the median over the slices around. Only
    steps within the slices are seen: a slow drift, or a nod along the table, is not.

    Args:
        ct: On its own grid: a resampled one would smear the step.
        point_mm: ``(n, 3)`` LPS, the part of the canal to look along.
    """
    part = crop(ct, point_mm, NECK_MM)
    rows, columns = (max(1, round(PIXEL_MM / mm)) for mm in part.grid.spacing_mm[1:])
    part = average_blocks(part, (1, rows, columns))
    narrow = crop(part, point_mm, SPINE_MM)
    first = round(float(part.grid.to_index(narrow.grid.origin_mm)[0]))
    spine_mm = _jumps_mm(narrow.values, narrow.grid.spacing_mm)
    sizes = np.linalg.norm(spine_mm, axis=1)
    weight = _without_spine(part, point_mm)
    for number in np.argsort(sizes)[::-1]:
        if sizes[number] < SMALLEST_JUMP_MM:
            break
        low = max(0, first + int(number) - STEADY_SLICES // 2)
        around = part.values[low : first + int(number) + STEADY_SLICES // 2 + 2]
        rest_mm = _jumps_mm(around, part.grid.spacing_mm, weight)[first + int(number) - low]
        if np.linalg.norm(rest_mm - spine_mm[number]) <= AGREEMENT_MM:
            # In the canal: under a tilted gantry the slice is elsewhere at its edge.
            row, column = (np.array(narrow.grid.shape[1:]) - 1) / 2
            at = narrow.grid.to_mm(np.array([number + 0.5, row, column]))
            return float(sizes[number]), float(at[2])
    return 0.0, float(point_mm[0, 2])


def _jumps_mm(
    values: Float32, spacing_mm: tuple[float, float, float], weight: Float64 | None = None
) -> Float64:
    """Step of each slice to the next, less the usual step around, ``(n - 1, 2)`` row, column."""
    if len(values) < 2:
        return np.zeros((0, 2))
    hu = np.clip(values, *CLIP_HU)
    hu -= hu.mean(axis=(1, 2), keepdims=True)
    hu *= np.hanning(hu.shape[1])[:, None] * np.hanning(hu.shape[2])
    if weight is not None:
        hu *= weight
    spectrum = np.fft.rfft2(hu)
    product = spectrum[1:] * np.conj(spectrum[:-1])
    size = np.abs(product)
    frequency = np.fft.fftfreq(hu.shape[1])[:, None] ** 2 + np.fft.rfftfreq(hu.shape[2]) ** 2
    product *= np.exp(-0.5 * frequency / FREQUENCY_SIGMA**2) / (size + 1e-3 * size.max() + 1e-9)
    match = np.fft.fftshift(np.fft.irfft2(product, s=hu.shape[1:]), axes=(1, 2))
    steps = np.array([_peak(one) for one in match]) * spacing_mm[1:]
    usual = ndimage.median_filter(steps, (STEADY_SLICES, 1), mode="nearest")
    return np.asarray(steps - usual)


def _without_spine(part: Volume, point_mm: Float64) -> Float64:
    """1 away from the canal, 0 on it, ``(row, column)``, for all slices alike."""
    index = part.grid.to_index(point_mm)[:, 1:]
    rows, columns = (np.arange(size, dtype=np.float64) for size in part.grid.shape[1:])
    mm = part.grid.spacing_mm[1:]
    near = [
        np.clip(
            np.maximum(index[:, axis].min() - line, line - index[:, axis].max()) * mm[axis], 0, None
        )
        for axis, line in enumerate((rows, columns))
    ]
    away_mm = np.hypot(near[0][:, None], near[1][None, :])
    return np.asarray(np.clip(away_mm - WITHOUT_SPINE_MM, 0, 10) / 10)


def _peak(match: Float64) -> tuple[float, float]:
    """Where two slices match best, in pixels from the middle of the map ``(row, column)``."""
    row, column = np.unravel_index(int(match.argmax()), match.shape)
    found = []
    for line, at in ((match[:, column], int(row)), (match[row], int(column))):
        inner = min(max(at, 1), line.size - 2)
        before, top, after = line[inner - 1 : inner + 2]
        bend = before - 2 * top + after
        found.append(at - line.size // 2 + (0.5 * (before - after) / bend if bend < 0 else 0.0))
    return found[0], found[1]
