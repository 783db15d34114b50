"""The conformance statement says what the code does."""

from __future__ import annotations

from pathlib import Path

from node.conformance import filled, tables

STATEMENT = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


def test_the_tables_are_printed_from_the_code() -> None:
    text = STATEMENT.read_text(encoding="utf-8")
    assert text == filled(text), "run: python -m node.conformance docs/conformance.md"


def test_every_table_has_its_place() -> None:
    text = STATEMENT.read_text(encoding="utf-8")
    assert [name for name in tables() if f"<!-- table: {name} -->" not in text] == []
