from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockframe.dynamics.inequalities import smallest_b
from blockframe.dynamics.probes.dissipativity import Dissipativity, trade_off
from blockframe.dynamics.run import trajectory
from blockframe.problem import Problem

ITERATES = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=8)


@given(ITERATES)
def test_each_pair_holds_and_no_larger_a_does(iterates: list[tuple[float, float]]) -> None:
    smallest = smallest_b(p for p, _ in iterates)
    pairs = trade_off(smallest, list(iterates))
    assert [p["b"] for p in pairs] == ([smallest, 2 * smallest, 4 * smallest] if smallest else [0])
    for pair in pairs:
        a, b = pair["a"], pair["b"]
        shares = [(Fraction(p) + Fraction(b)) / Fraction(n) ** 2 for p, n in iterates]
        assert a == pytest.approx(float(min(shares)), rel=1e-14)
    assert pairs[0]["a"] == 0 or smallest == 0


def test_what_is_missing_or_zero_bounds_nothing() -> None:
    assert trade_off(0.0, [(0.0, 0.0), (None, 1.0), (2.0, None)]) == []
    assert trade_off(0.0, [(0.0, 0.0), (8.0, 2.0)]) == [{"a": 2.0, "b": 0.0}]


def test_pairs_of_a_run_follow_from_its_series(mlp: Problem) -> None:
    assert mlp.targets is not None
    far = Problem(mlp.module, mlp.inputs, 10 * mlp.targets)  # the norm of θ must grow
    run = trajectory(far, {"first": ["0.weight"]}, lr=0.01, steps=5, device="cpu")
    found = run.summary["dissipativity"]
    pairings, norms = run.series["dissipativity"], run.series["block_norms"]
    assert set(found) == {"b", "blocks", "pairs"}
    assert set(found["blocks"]) == {"first", "rest"}
    assert found["b"] > 0
    for pair in found["pairs"]:
        shares = [
            (p + pair["b"]) / (n * n)
            for p, n in zip(pairings, norms, strict=True)
            if p is not None and n is not None
        ]
        assert pair["a"] == max(0.0, min(shares))
    assert [p["b"] / found["b"] for p in found["pairs"]] == [1.0, 2.0, 4.0]


def test_a_block_of_any_name_keeps_its_own_b() -> None:
    series = {"": [-1.0], "block_norms": [-0.25], ".block_norms": [2.0]}
    found = Dissipativity().summary(series)
    assert (found["b"], found["blocks"]) == (1.0, {"block_norms": 0.25})
    assert found["pairs"][1] == pytest.approx({"a": 0.25, "b": 2.0})
