"""Refusals are summed up, and none is forgotten or counted twice."""

from __future__ import annotations

from node.intake import Sender
from node.refusals import SUMMED_S, Refusal, Refusals


def of(calling_ae: str, address: str = "192.0.2.9") -> Sender:
    return Sender(calling_ae, "US", address)


def test_one_that_tries_for_ever_is_summed_up() -> None:
    refusals = Refusals()
    assert refusals.add(of("A"), "a stranger", 0.0) == [Refusal(of("A"), "a stranger", 1)]
    assert [refusals.add(of(f"A{n}"), "a stranger", n / 10) for n in range(100)] == [[]] * 100
    later = refusals.add(of("B"), "a stranger", SUMMED_S)
    assert later == [Refusal(of("A99"), "a stranger", 100), Refusal(of("B"), "a stranger", 1)]
    assert refusals.rest() == []


def test_others_and_other_reasons_are_told_apart() -> None:
    refusals = Refusals()
    refusals.add(of("A"), "a stranger", 0.0)
    assert len(refusals.add(of("A"), "no TLS", 0.0)) == 1
    assert len(refusals.add(of("A", "192.0.2.10"), "a stranger", 0.0)) == 1
    assert refusals.add(of("A"), "no TLS", 1.0) == []
    # With whoever comes next, and in the end.
    assert Refusal(of("A"), "no TLS", 1) in refusals.add(of("C", "::1"), "a stranger", SUMMED_S)
    refusals.add(of("C", "::1"), "a stranger", SUMMED_S)
    assert refusals.rest() == [Refusal(of("C", "::1"), "a stranger", 1)]
