"""Where the CT does not support what is drawn: intervals whose error is controlled, and a mask.

The raw uncertainty of a pixel (learned doubt, spread of the ensemble) is in no unit that can be
promised. Scaled by lambda it becomes a half width, and lambda is chosen on calibration phantoms so
that, with confidence 1 - delta, at most a share alpha of a new phantom's body pixels lies outside
its interval on average (risk-controlling prediction sets, as in Angelopoulos et al. 2022,
arXiv 2202.05265). The promise holds for patients like the calibration phantoms; a real patient is
not one of them.

The bound is that of Waudby-Smith and Ramdas (Bates et al. 2021, arXiv 2101.02703, section 3.1.3):
it learns that phantoms hardly differ in their risk. With 40 of them it lets a mean of 4.5 % pass
where Hoeffding and Bentkus ask for 2.6 % and Hoeffding alone, never below 0.17, allows nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.contrast import Contrast
from pipeline.geometry import Float32, Float64
from pipeline.reference import Reference

Mask = NDArray[np.bool_]

FILE_NAME = "calibration.json"
"""Beside the weights, so that the digest of the model folder covers it."""

ALPHA = 0.10
"""Largest share of body pixels whose truth may lie outside the interval, mean over phantoms."""

DELTA = 0.10
"""Chance, for each contrast, that the calibration phantoms promise too much."""

LIMIT = 0.25
"""Half width beyond which a pixel is unsupported, of CSF = 1. Cord (0.4) and CSF (1.0) are 0.6
apart on T2: with intervals of a quarter on either side they are still told apart, with more not."""

SPREADS = 2.0
"""Standard deviations of the ensemble that stand beside the doubt."""

SMALLEST_HALF_WIDTH = 0.005
"""Raw half widths below this are raised to it; an interval of nothing cannot be scaled."""

HATCH_STEP_PX, HATCH_LINE_PX = 6, 2
"""Lines of 1.5 mm every 4.5 mm: no tissue runs so, and a patch of 3 mm still gets one."""

HATCH_GROUND, HATCH_LINE, HATCH_SHOWN = 0.35, 0.65, 0.2
"""Signal of the gray between the lines and of the lines, and how much of the picture is left."""

LAMBDAS: Float64 = np.geomspace(0.05, 200.0, 600)
"""Tried, steps of 1.4 %. Fixed beforehand: the promise needs that."""


@dataclass(frozen=True)
class Calibration:
    """What makes half widths out of doubt and spread, and how well it did.

    Args:
        seeds: Of the calibration phantoms.
        alpha: As `ALPHA`.
        delta: As `DELTA`.
        limit: As `LIMIT`.
        lambdas: By contrast.
        coverage: Share of calibration pixels inside their interval, by contrast and structure.
            Only the whole body is promised; the structures are reported.
        samples: Of the ensembles it was calibrated with; with fewer the promise does not hold.
        slices: Of each stack, around the canal, that the promise is about; None for all of them.
        reference: What a usual stack and synthesis look like; None when only the intervals were
            calibrated.
    """

    seeds: tuple[int, ...]
    alpha: float
    delta: float
    limit: float
    lambdas: Mapping[Contrast, float]
    coverage: Mapping[Contrast, Mapping[str, float]]
    samples: int = 8
    slices: int | None = None
    reference: Reference | None = None

    def save(self, folder: Path) -> None:
        """Write `FILE_NAME` into a model folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False)
        (folder / FILE_NAME).write_text(text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """The calibration of a model folder; None when its support is not calibrated.

        Raises:
            ValueError: When the file is of another form.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls._from_json(json.loads(path.read_text()))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"expected a calibration in {path}, found another form ({error!r}); write it again"
                " with `python -m pipeline.training.calibrate`"
            ) from error

    @classmethod
    def _from_json(cls, stored: dict[str, Any]) -> Calibration:
        stored["seeds"] = tuple(stored["seeds"])
        for name in ("lambdas", "coverage"):
            stored[name] = {Contrast(contrast): v for contrast, v in stored[name].items()}
        if stored["reference"] is not None:
            stored["reference"] = Reference.from_json(stored["reference"])
        return cls(**stored)


@dataclass(frozen=True, eq=False)
class SupportMap:
    """How far the truth may be from the image, and where that is too far.

    Args:
        half_width: Signal relative to CSF = 1, ``(slice, row, column)``, by contrast.
        unsupported: By these intervals, ``(slice, row, column)``, in any of the contrasts.
        faint: Canal with faint CSF (`pipeline.narrowing`), same shape; None until looked for.
    """

    half_width: Mapping[Contrast, Float32]
    unsupported: Mask
    faint: Mask | None = None

    @property
    def marked(self) -> Mask:
        """All that is hatched."""
        return self.unsupported if self.faint is None else self.unsupported | self.faint


def support_map(
    spread: Mapping[Contrast, Float32],
    doubt: Mapping[Contrast, Float32],
    calibration: Calibration,
) -> SupportMap:
    """The support of a synthesis.

    Args:
        spread: Standard deviation of the ensemble, ``(slice, row, column)``; at least one contrast.
        doubt: Learned quantile of the absolute error; same contrasts and shape.
        calibration: Of the model that made them.

    Raises:
        ValueError: When there is no spread, the contrasts differ or one was not calibrated.
    """
    if (
        not spread
        or spread.keys() != doubt.keys()
        or not spread.keys() <= calibration.lambdas.keys()
    ):
        raise ValueError(
            f"expected spread and doubt of calibrated contrasts, found {sorted(spread)} and"
            f" {sorted(doubt)} of {sorted(calibration.lambdas)}"
        )
    widths = {
        contrast: (
            calibration.lambdas[contrast] * raw_half_width(spread[contrast], doubt[contrast])
        )
        for contrast in spread
    }
    wide = np.any([width > calibration.limit for width in widths.values()], axis=0)
    # In the plane: slices are 3 mm apart, and a single pixel is noise of the ensemble.
    cross = ndimage.generate_binary_structure(2, 1)[np.newaxis]
    return SupportMap(widths, np.asarray(ndimage.binary_opening(wide, cross), dtype=np.bool_))


def raw_half_width(spread: Float32, doubt: Float32) -> Float32:
    """What lambda scales: the larger of doubt and `SPREADS` standard deviations, never nothing."""
    raw: Float32 = np.maximum(np.maximum(doubt, SPREADS * spread), SMALLEST_HALF_WIDTH)
    return raw.astype(np.float32)


def risks(error: Float32, raw: Float32, body: Mask) -> Float64:
    """Share of a phantom's body pixels outside their interval, for each of `LAMBDAS`.

    Args:
        error: Absolute difference of truth and image.
        raw: As `raw_half_width`, same shape.
        body: Which pixels count, at least one.

    Raises:
        ValueError: When no pixel counts.
    """
    if not body.any():
        raise ValueError("a phantom without a body has no risk")
    needed = np.sort(error[body].astype(np.float64) / raw[body])
    outside: Float64 = 1.0 - np.searchsorted(needed, LAMBDAS, side="right") / needed.size
    return outside


def smallest_lambda(
    phantom_risks: Sequence[Float64], alpha: float = ALPHA, delta: float = DELTA
) -> float:
    """The smallest of `LAMBDAS` whose risk is at most alpha with confidence 1 - delta.

    Args:
        phantom_risks: `risks` of each calibration phantom. The phantom is the unit that is drawn
            at random; its pixels are not independent of each other.
        alpha: Largest mean risk.
        delta: Chance of promising too much.

    Raises:
        ValueError: When no lambda will do: too few phantoms, or an error out of all proportion.
    """
    table = np.stack(phantom_risks)
    holds = p_values(table, alpha, delta) <= delta
    if not holds[-1]:
        raise ValueError(
            f"expected a lambda with risk <= {alpha} at confidence {1 - delta:g}, found none among"
            f" {len(table)} phantoms up to {LAMBDAS[-1]:g}; calibrate with more phantoms"
        )
    # All larger ones must hold too, or the promise would be picked from many tries.
    return float(LAMBDAS[len(holds) - int(np.argmin(np.append(holds[::-1], False)))])


def p_values(risk_table: Float64, alpha: float, delta: float) -> Float64:
    """Chance, for each lambda, of risks so low if the true one were above alpha.

    The inverse of the largest fortune of a player who bets on every phantom, one after the other,
    that its risk is below alpha (Bates et al. 2021, eq. 8 to 10, who keep the bet at most 1; up to
    1 / (1 - alpha) nobody can be ruined).

    Args:
        risk_table: ``(phantom, lambda)``, each in 0..1.
        alpha: As `ALPHA`.
        delta: For which the bets are sized.
    """
    count = len(risk_table)
    at = np.arange(1, count + 1)[:, None]
    mean = (0.5 + np.cumsum(risk_table, axis=0)) / (1 + at)
    variance = (0.25 + np.cumsum((risk_table - mean) ** 2, axis=0)) / (1 + at)
    # A bet knows only the phantoms before it.
    before = np.concatenate((np.full((1, risk_table.shape[1]), 0.25), variance[:-1]))
    bet = np.minimum(1 / (1 - alpha), np.sqrt(2 * np.log(1 / delta) / (count * before)))
    fortune = np.cumprod(1 - bet * (risk_table - alpha), axis=0).max(axis=0)
    return np.asarray(1 / np.maximum(fortune, 1.0))


def hatched(signal: Float32, unsupported: Mask) -> Float32:
    """The picture with a hatch over what is unsupported: the support map as it is shown.

    Between the lines the picture is dimmed to a flat gray, enough to see where in the neck one is,
    too little to read a finding. The lines run the same way in every slice, so that scrolling does
    not make them flicker.

    Args:
        signal: Relative to CSF = 1, ``(slice, row, column)``.
        unsupported: As `SupportMap` has it, same shape.
    """
    veiled = HATCH_GROUND + HATCH_SHOWN * (signal - HATCH_GROUND)
    drawn = np.where(hatch_lines(*signal.shape[1:]), HATCH_LINE, veiled)
    out: Float32 = np.where(unsupported, drawn, signal).astype(np.float32)
    return out


def hatch_lines(rows: int, columns: int) -> Mask:
    """Pixels of the lines, ``(row, column)``."""
    along = np.arange(rows)[:, np.newaxis] + np.arange(columns)
    return np.asarray(along % HATCH_STEP_PX < HATCH_LINE_PX)
