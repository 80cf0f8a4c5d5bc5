"""Folding and words of findings."""

from __future__ import annotations

from attrs import evolve

from blockframe.contract.claim import Finding
from blockframe.report.findings import folded, seen

KINK = Finding("A101", "relu has a kink", "aten::relu", "h.0.act", "net.py:17", witness={"t": 0.5})


def layers(count: int) -> list[Finding]:
    return [evolve(KINK, module=f"h.{i}.act", witness={"t": 0.5 + i}) for i in range(count)]


def test_layers_fold_and_one_witness_stays() -> None:
    (fold,) = folded(layers(3))
    assert fold.modules == ("h.0.act", "h.1.act", "h.2.act")
    assert fold.finding.witness == {"t": 0.5}


def test_the_one_with_a_witness_speaks() -> None:
    without = evolve(KINK, witness=None)
    (fold,) = folded([without, *layers(2)])
    assert fold.finding.witness == {"t": 0.5}
    assert fold.modules == ("h.0.act", "h.1.act")


def test_repetition_by_the_chain_counts_once() -> None:
    (fold,) = folded([*layers(2), *layers(2)])
    assert len(fold.modules) == 2


def test_what_differs_is_told_apart() -> None:
    others = [
        evolve(KINK, code="A102"),
        evolve(KINK, message="other"),
        evolve(KINK, location="net.py:18"),
        evolve(KINK, module="h.0.other"),
        evolve(KINK, op="aten::abs"),
    ]
    assert len(folded([KINK, *others])) == 6


def test_seen() -> None:
    witness = {"least_value": 0.0, "at": [1.0, 2, 3, 4, 5, 6, 7], "of": {"x": None}, "by": "sign"}
    assert seen(witness) == "least value 0, at [1, 2, 3, 4, 5, 6, …], of {x –}, by sign"


def test_seen_on_both_sides() -> None:
    witness = {
        "line": "seed 0",
        "t": 0.31792123,
        "order": 2,
        "left": 0.0,
        "right": 0.5,
        "spread": 1e-9,
    }
    assert seen(witness) == (
        "left second derivative 0, right second derivative 0.5 at t = 0.317921 (line seed 0)"
    )
