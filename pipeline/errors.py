"""What can go wrong in the pipeline, split by what the caller does about it.

`Declined` is a result, not an accident: the input is refused with a reason that goes on record.
`Corrupt` means the input cannot be read at all; it is refused too, with another status.
Anything else that escapes a stage is our fault and lands on the dead-letter list.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of every error the pipeline raises on purpose."""


class Declined(PipelineError):
    """The input is readable but must not be synthesized. Nothing is sent.

    Args:
        code: Stable machine word, such as ``"slices.uneven"`` or ``"canal.short"``.
        found: What was measured, with its unit.
        expected: The limit it broke, with its unit.
        remedy: What a person can do about it.
    """

    def __init__(self, code: str, *, found: str, expected: str, remedy: str) -> None:
        super().__init__(f"{code}: found {found}; expected {expected}. {remedy}")
        self.code = code
        self.found = found
        self.expected = expected
        self.remedy = remedy


class Corrupt(Declined):
    """The input contradicts DICOM or itself: truncated, without pixel data, undecodable."""
