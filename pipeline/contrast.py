"""The MRI contrasts that are imitated, and what each is called on the way out."""

from __future__ import annotations

from enum import StrEnum


class Contrast(StrEnum):
    """A contrast of the pseudo-MRI. The value is what appears in Image Type (0008,0008)."""

    T2 = "T2"
    STIR = "STIR"

    @property
    def series_number(self) -> int:
        """Series Number (0020,0011): high, so that it lists after the scanner's own series."""
        return {Contrast.T2: 9001, Contrast.STIR: 9002}[self]


ALL_CONTRASTS: tuple[Contrast, ...] = (Contrast.T2, Contrast.STIR)
