"""`python -m tests.faults`: the faults that tests provoke, each with what was seen in this run.

Prints the tables "Full disk" and "Unkind peers" of docs/faults.md. Exit code 0 when all passed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

FILES = ("tests/node/test_full_disk.py", "tests/node/test_unkind_peers.py")
PROPERTY = "fault"

Tried = Callable[[str, str], None]
"""Told the fault and what came of it, as measured."""


def counted(statuses: Iterable[int]) -> str:
    """DIMSE statuses: ``"3 x 0x0000, 1 x 0xA700"``."""
    return ", ".join(f"{n} x 0x{status:04X}" for status, n in sorted(Counter(statuses).items()))


class Table:
    """A plugin of pytest that collects what the fixture `tried` was told."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[str, str]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        told = [value for name, value in report.user_properties if name == PROPERTY]
        if report.outcome != "passed":
            told.append((report.nodeid.split("::")[-1], f"**{report.outcome}**"))
        self._rows.setdefault(report.nodeid.split("::")[0], []).extend(told)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = []
        for file, rows in self._rows.items():
            lines = [f"`{file}`", "", "| fault | what happened |", "|---|---|"]
            parts.append("\n".join([*lines, *(f"| {fault} | {found} |" for fault, found in rows)]))
        return "\n\n".join(parts)


def main() -> int:
    table = Table()
    code = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *FILES], [table])
    print(table)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
