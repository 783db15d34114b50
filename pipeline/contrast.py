"""The MRI contrasts that are imitated, and what each series is called on the way out."""

from __future__ import annotations

from enum import StrEnum


class Contrast(StrEnum):
    """A contrast of the pseudo-MRI."""

    T2 = "T2"
    STIR = "STIR"


ALL_CONTRASTS: tuple[Contrast, ...] = (Contrast.T2, Contrast.STIR)


class SeriesKind(StrEnum):
    """A series of a result: one for each contrast, under its name, and one for their support.

    The value is what appears in Image Type (0008,0008) and in the banner.
    """

    T2 = Contrast.T2.value
    STIR = Contrast.STIR.value
    SUPPORT = "SUPPORT"

    @property
    def series_number(self) -> int:
        """Series Number (0020,0011): high, so that it lists after the scanner's own series."""
        return 9001 + list(SeriesKind).index(self)
