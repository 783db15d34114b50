"""What a model's CT stacks and syntheses usually look like: what a new one is compared with.

Measured once, when the model is calibrated, on phantoms it was never trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.geometry import Float64

WARNING_PERCENTILE, TAIL_PERCENTILE = 99.0, 90.0
"""Of each figure by itself. There are 15, and a stack is warned of for any: more often than one in
a hundred usual ones, as the check of `pipeline.training.calibrate` counts. Of a few dozen stacks
the 99th percentile is hardly less than the largest: the 90th is carried on as in a normal
distribution, and the farther one taken. The distance's is taken on the very stacks that gave mean
and covariance, to which others are a little farther."""

CARRIED_ON = 2.326 / 1.282
"""Quantiles of the normal distribution at both percentiles."""

DECLINE_FACTOR = 4.0
"""A figure this many times as far from the usual median as the warning is declined. Nothing usual
comes near, so it cannot be measured; it is wide, for a decline costs a patient the picture."""


@dataclass(frozen=True)
class Limit:
    """Where a figure stops being usual.

    Args:
        median: Of usual stacks.
        warning: The percentile beyond which there is a warning; above the median when large
            values are bad, below it when small ones are.
        lowest: Smallest value of usual stacks, for the record.
        highest: Largest value.
    """

    median: float
    warning: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float], *, is_low_bad: bool) -> Limit:
        """Measure the limit on usual stacks.

        Raises:
            ValueError: When there is no value.
        """
        if not values:
            raise ValueError("a limit is measured on at least one stack")
        side = -1.0 if is_low_bad else 1.0
        away = side * np.asarray(values, dtype=np.float64)
        median = float(np.median(away))
        carried = median + CARRIED_ON * (float(np.percentile(away, TAIL_PERCENTILE)) - median)
        warning = max(float(np.percentile(away, WARNING_PERCENTILE)), carried)
        found = (side * median, side * warning, min(values), max(values))
        return cls(*(round(float(value), 5) for value in found))

    @property
    def decline(self) -> float:
        """The value beyond which the figure is out of all proportion."""
        return self.median + DECLINE_FACTOR * (self.warning - self.median)

    def is_beyond(self, value: float, limit: float) -> bool:
        """Whether a value lies on the bad side of `warning` or `decline`."""
        return value < limit if self.warning < self.median else value > limit


@dataclass(frozen=True)
class Reference:
    """The usual CT stack and the usual synthesis.

    Args:
        features: Names, in the order of mean and covariance.
        mean: Of the features (`pipeline.ct_features`).
        covariance: One row a feature.
        limits: By name of the figure (`pipeline.fidelity`).
        stacks: How many CT stacks the features were measured on.
        phantoms: How many uninjured phantoms the limits were measured on.

    Raises:
        ValueError: When the covariance does not fit the features or is not positive definite.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    limits: Mapping[str, Limit]
    stacks: int
    phantoms: int

    def __post_init__(self) -> None:
        size = len(self.features)
        matrix = np.array(self.covariance, dtype=np.float64)
        if len(self.mean) != size or matrix.shape != (size, size):
            raise ValueError(f"mean and covariance do not fit {size} features")
        if np.linalg.eigvalsh(matrix).min() <= 0:
            raise ValueError("the covariance of the features is not positive definite")

    @classmethod
    def measured(
        cls,
        rows: Sequence[Mapping[str, float]],
        smallest: Mapping[str, float],
        limits: Mapping[str, Limit],
        phantoms: int,
    ) -> Reference:
        """Mean and covariance of the features of many stacks.

        Args:
            rows: Features of each stack, the same names in each; more stacks than features.
            smallest: By feature, the standard deviation it has at least.
            limits: As above.
            phantoms: As above.
        """
        names = tuple(rows[0])
        table = np.array([[row[name] for name in names] for row in rows], dtype=np.float64)
        covariance = np.atleast_2d(np.cov(table, rowvar=False))
        covariance += np.diag([smallest[name] ** 2 for name in names])
        return cls(
            features=names,
            mean=tuple(round(float(x), 6) for x in table.mean(axis=0)),
            covariance=tuple(tuple(float(f"{x:.8g}") for x in row) for row in covariance),
            limits=dict(limits),
            stacks=len(rows),
            phantoms=phantoms,
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Reference:
        """From what `dataclasses.asdict` and JSON made of it."""
        return cls(
            features=tuple(stored["features"]),
            mean=tuple(stored["mean"]),
            covariance=tuple(tuple(row) for row in stored["covariance"]),
            limits={name: Limit(**limit) for name, limit in stored["limits"].items()},
            stacks=stored["stacks"],
            phantoms=stored["phantoms"],
        )

    def distance(self, features: Mapping[str, float]) -> float:
        """Mahalanobis distance of a stack's features from the usual ones; about the square root
        of their number for a usual stack.

        Raises:
            KeyError: When a feature is missing.
        """
        away: Float64 = np.array([features[name] for name in self.features]) - self.mean
        return float(np.sqrt(away @ np.linalg.solve(np.array(self.covariance), away)))
