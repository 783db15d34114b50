"""What a PACS says that it has, and what of it is not here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FoundSeries:
    """One CT series that a PACS has.

    Args:
        count: Number of Series Related Instances (0020,1209); None where the PACS does not tell.
    """

    study_uid: str
    series_uid: str
    count: int | None


@dataclass(frozen=True)
class Missing:
    """A series of which the PACS has more than we.

    Args:
        expected: How many instances the PACS has; None where it does not tell.
        found: How many of them are on record here.
    """

    series_uid: str
    expected: int | None
    found: int


@dataclass(frozen=True)
class FoundStudy:
    """What a PACS has of a study, as it lists it and as it counts it.

    Args:
        series: The CT series that it lists, or those that were asked for.
        listed_series: How many series it lists, of any modality.
        listed_instances: The sum of their counts; None where it does not tell one of them.
        counted_series: Number of Study Related Series (0020,1206); None where it does not tell.
        counted_instances: Number of Study Related Instances (0020,1208); likewise.
    """

    study_uid: str
    series: tuple[FoundSeries, ...]
    listed_series: int = 0
    listed_instances: int | None = None
    counted_series: int | None = None
    counted_instances: int | None = None

    def count(self, series_uid: str) -> int | None:
        """How many instances the PACS has of a series; None when that is not known."""
        counts = [one.count for one in self.series if one.series_uid == series_uid]
        return max((one for one in counts if one is not None), default=None)

    def missing(self, held: Mapping[str, int]) -> tuple[Missing, ...]:
        """The CT series that are not here, or not all.

        Args:
            held: Instances on record here, by series. Of a series that the PACS does not count any
                instance will do.
        """
        return tuple(
            Missing(one.series_uid, one.count, held.get(one.series_uid, 0))
            for one in self.series
            if held.get(one.series_uid, 0) < (1 if one.count is None else one.count)
        )

    @property
    def unlisted(self) -> str:
        """What the PACS counts in the study and does not list; empty when there is nothing."""
        pairs = (
            ("series", self.counted_series, self.listed_series),
            ("instances", self.counted_instances, self.listed_instances),
        )
        return " and ".join(
            f"expected {counted} {what} in study {self.study_uid}, found {listed} listed"
            for what, counted, listed in pairs
            if counted is not None and listed is not None and counted > listed
        )
