"""The printed coupling is the one that patients are drawn with, and the docs print it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.phantom.coupling import coupling_table, couplings
from pipeline.phantom.injuries import Injuries

DRAWN = 6000


def test_patients_are_drawn_with_the_printed_coupling() -> None:
    drawn = [Injuries.draw(np.random.default_rng(n), None) for n in range(DRAWN)]
    for row in couplings():
        occult = [
            one
            for one in drawn
            if (injury := one.get(row.finding)) is not None and not injury.ct_visible
        ]
        assert len(occult) / DRAWN == pytest.approx(row.occult, abs=0.012), row.finding
        if not occult:
            assert row.ct_visible == 1
            continue
        in_company = [any(other.ct_visible for other in one.found) for one in occult]
        assert np.mean(in_company) == pytest.approx(row.company, abs=0.04), row.finding


def test_the_docs_print_the_coupling() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "phantom.md"
    assert coupling_table() in page.read_text(encoding="utf-8")
