from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockframe.certificate.run_check import _first_rate, _scheduled
from blockframe.dynamics.descent import descend
from blockframe.dynamics.schedule import Schedule, parse
from blockframe.errors import InputError
from blockframe.problem import Problem

RULES = ["0.4,0.2,0.1", "linear:0.4:0.1", "cosine:0.4:0.1", "step:0.4:0.5:2"]


def rates(text: str, steps: int) -> list[float]:
    first, schedule = parse(text)
    assert first is not None
    return [schedule.rate(first, k, steps) for k in range(steps + 1)]


def test_by_hand() -> None:
    assert rates("0.4,0.2,0.1", 4) == [0.4, 0.2, 0.1, 0.1, 0.1]
    assert rates("linear:1:2", 5) == [1, 1.25, 1.5, 1.75, 2, 2]
    assert rates("cosine:3:1", 3) == pytest.approx([3, 2, 1, 1])
    assert rates("step:1:0.5:2", 5) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert rates("0.3", 2) == [0.3] * 3


@pytest.mark.parametrize("text", [*RULES, "step:auto:2:1", "linear:auto:1e-3", "cosine:1:2"])
def test_the_spelling_is_read_back_as_the_same(text: str) -> None:
    first, schedule = parse(text)
    assert parse(schedule.text) == (first, schedule)


def test_a_list_in_python_is_what_its_text_says() -> None:
    assert parse([0.4, 0.2]) == parse("0.4,0.2")
    assert parse((0.1,)) == (0.1, Schedule())
    assert parse("auto") == (None, Schedule())
    assert parse("cosine:auto:0.1")[0] is None


@pytest.mark.parametrize(
    ("lr", "why"),
    [
        ("", "it must be a number, not ''"),
        ("abc", "it must be a number, not 'abc'"),
        ("0", "it must be positive and finite, not 0.0"),
        ("0.1,", "number 2 must be a number, not ''"),
        ("0.1,-1", "number 2 must be positive and finite, not -1.0"),
        ("0.1,nan", "number 2 must be positive and finite, not nan"),
        ("auto,0.1", "number 1 must be a number, not 'auto'"),
        ("linear:0.1", "linear takes A:B, 2 values"),
        ("linear:0.1:0", "B must be positive and finite, not 0.0"),
        ("cosine:0.1:0.2:3", "cosine takes A:B, 2 values"),
        ("cosine:x:1", "A must be a number, not 'x'"),
        ("cosine:auto:auto", "B must be a number, not 'auto'"),
        ("step:0.1:0.5", "step takes A:F:N, 3 values"),
        ("step:0.1:-1:3", "F must be positive and finite, not -1.0"),
        ("step:0.1:0.5:1.5", "N must be a whole number, not '1.5'"),
        ("step:0.1:0.5:0", "N must be positive and finite, not 0.0"),
        ("cubic:1:2", "there is no rule 'cubic'"),
        ([], "it is empty"),
        ([0.1, 0], "number 2 must be positive and finite, not 0"),
        ([[0.1]], r"number 1 must be positive and finite, not \[0.1\]"),
        (None, "it must be positive and finite, not None"),
        (True, "it must be positive and finite, not True"),
        (0, "it must be positive and finite, not 0"),
        (math.inf, "it must be positive and finite, not inf"),
    ],
)
def test_what_is_no_rate_is_refused_with_the_reason(lr: object, why: str) -> None:
    with pytest.raises(InputError, match=f"^lr cannot be .*: {why}\\. Give auto, a number"):
        parse(lr)


@given(st.sampled_from(RULES), st.integers(0, 12), st.integers(0, 12))
def test_the_checker_has_the_same_rates(text: str, k: int, steps: int) -> None:
    """It has a copy of its own; nothing but the text goes between them."""
    first, schedule = parse(text)
    assert first is not None
    assert _first_rate(schedule.text) == first
    assert _scheduled(schedule.text, first, k, steps) == schedule.rate(first, k, steps)


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.integers(1, 50))
def test_rates_stay_between_their_ends(a: float, b: float, steps: int) -> None:
    for kind in ("linear", "cosine"):
        for rate in rates(f"{kind}:{a!r}:{b!r}", steps):
            assert min(a, b) * (1 - 1e-12) <= rate <= max(a, b) * (1 + 1e-12)


def test_each_step_is_taken_with_its_rate(mlp: Problem) -> None:
    run = descend(mlp, lr=[0.1, 0.02, 0.05], steps=3)
    theta, gradient, before = None, None, 0.0
    for it, rate in zip(run, [0.1, 0.02, 0.05, 0.05], strict=True):
        assert it.lr == rate
        if theta is not None and gradient is not None:
            assert (it.theta == theta - before * gradient).all()
        theta, gradient, before = it.theta, it.gradient, rate


@pytest.mark.parametrize("lr", ["step:0.1:1e300:1", "step:auto:1e-300:1"])
def test_a_rate_that_leaves_the_floats_is_refused_at_once(lr: str, mlp: Problem) -> None:
    with pytest.raises(InputError, match="in 5 steps"):
        descend(mlp, lr=lr, steps=5)
