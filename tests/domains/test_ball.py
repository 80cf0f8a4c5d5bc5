"""Ball arithmetic: what is computed from numbers in balls is in the computed balls."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockframe.domains.enclosure import Ball, ball, blocks, functions, rows

SEEDS = st.integers(0, 2**32 - 1)
INF = math.inf


def spread(g: torch.Generator, *shape: int) -> Tensor:
    """Numbers of very different sizes, zeros and powers of two among them."""
    t = torch.randn(shape, generator=g, dtype=torch.float64)
    t = t * 10.0 ** torch.randint(-12, 13, shape, generator=g)
    t = torch.where(torch.rand(shape, generator=g) < 0.1, torch.zeros_like(t), t)
    powers = torch.ldexp(torch.ones_like(t), torch.randint(-40, 40, shape, generator=g))
    return torch.where(torch.rand(shape, generator=g) < 0.1, powers, t)


def balls(g: torch.Generator, *shape: int) -> Ball:
    """Balls of every relative size, points among them."""
    mid = spread(g, *shape)
    rad = mid.abs() * 10.0 ** torch.randint(-18, 1, shape, generator=g)
    rad = torch.where(torch.rand(shape, generator=g) < 0.2, spread(g, *shape).abs(), rad)
    return Ball(mid, torch.where(torch.rand(shape, generator=g) < 0.3, torch.zeros_like(rad), rad))


def points(g: torch.Generator, b: Ball) -> Tensor:
    """A double in every ball: an end or something between."""
    t = (2 * torch.rand(b.shape, generator=g, dtype=torch.float64) - 1).mul(1.2).clamp(-1, 1)
    x = b.mid + t * b.rad
    return torch.where(b.contains(x), x, b.mid)


BINARY: dict[str, tuple[Callable[[Ball, Ball], Ball], Callable[[Any, Any], Any]]] = {
    "add": (ball.add, lambda a, b: a + b),
    "sub": (ball.sub, lambda a, b: a - b),
    "mul": (ball.mul, lambda a, b: a * b),
    "div": (functions.div, lambda a, b: a / b),
    "maximum": (functions.maximum, lambda a, b: a if a > b else b),
    "minimum": (functions.minimum, lambda a, b: a if a < b else b),
    "hull": (lambda a, b: a.hull(b), lambda a, b: a),
}


@pytest.mark.parametrize("name", BINARY)
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_operations_of_two_balls_hold_the_exact_results(name: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    rule, exactly = BINARY[name]
    a, b = balls(g, 40), balls(g, 40)
    x, y = points(g, a), points(g, b)
    value = rule(a, b)
    for i in range(40):
        if math.isinf(float(value.rad[i])):
            continue
        exact = exactly(Fraction(float(x[i])), Fraction(float(y[i])))
        off = abs(exact - Fraction(float(value.mid[i])))
        assert off <= Fraction(float(value.rad[i])), (a.mid[i], a.rad[i], b.mid[i], b.rad[i])


def exact_products(a: Tensor, b: Tensor) -> list[list[Fraction]]:
    rows_of = [[Fraction(x) for x in row] for row in a.tolist()]
    columns = [[Fraction(x) for x in column] for column in b.T.tolist()]
    return [[sum(map(Fraction.__mul__, r, c), Fraction()) for c in columns] for r in rows_of]


def is_enclosed(value: Ball, exact: list[list[Fraction]]) -> bool:
    return all(
        abs(e - Fraction(m)) <= Fraction(r)
        for mids, rads, line in zip(value.mid.tolist(), value.rad.tolist(), exact, strict=True)
        for m, r, e in zip(mids, rads, line, strict=True)
        if r < INF
    )


def cancelling(g: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Factors whose products are sums of large numbers that cancel but for little."""
    a = torch.randn(6, n, generator=g, dtype=torch.float64)
    b = torch.randn(n, 5, generator=g, dtype=torch.float64) * 1e8
    a = torch.cat([a, -a, torch.randn(6, 2, generator=g, dtype=torch.float64) * 1e-9], 1)
    return a, torch.cat([b, b, torch.randn(2, 5, generator=g, dtype=torch.float64)])


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, n=st.integers(1, 12))
def test_matrix_products_with_cancellation(seed: int, n: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b = cancelling(g, n)
    value = ball.product(torch.matmul, Ball.exact(a), Ball.exact(b), a.shape[1])
    assert is_enclosed(value, exact_products(a, b))


@pytest.mark.parametrize("exact", [(True, False), (False, True), (False, False)])
@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_matrix_products_of_balls(exact: tuple[bool, bool], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b, plus = balls(g, 4, 6), balls(g, 6, 3), balls(g, 3)
    a, b = (Ball.exact(t.mid) if e else t for t, e in zip((a, b), exact, strict=True))
    x, y, z = points(g, a), points(g, b), points(g, plus)

    def op(a: Tensor, b: Tensor, plus: Tensor) -> Tensor:
        return a @ b + plus

    value = ball.product(op, a, b, 7, plus)
    with_plus = exact_products(
        torch.cat([x, torch.ones(4, 1, dtype=torch.float64)], 1), torch.cat([y, z[None]])
    )
    assert is_enclosed(value, with_plus)


def without_rounding_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ball, "U", 0.0)


def test_a_forgotten_rounding_term_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above can fail: they do when the error of summation is left out."""
    without_rounding_terms(monkeypatch)
    g = torch.Generator().manual_seed(0)
    a, b = cancelling(g, 10)
    value = ball.product(torch.matmul, Ball.exact(a), Ball.exact(b), a.shape[1])
    assert not is_enclosed(value, exact_products(a, b))
    x, y = spread(g, 200), spread(g, 200)
    for rule, exactly in ((ball.add, Fraction.__add__), (ball.mul, Fraction.__mul__)):
        pairs = zip(x.tolist(), y.tolist(), strict=True)
        exact = [[exactly(Fraction(p), Fraction(q)) for p, q in pairs]]
        found = rule(Ball.exact(x), Ball.exact(y))
        assert not is_enclosed(Ball(found.mid[None], found.rad[None]), exact)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_sums_and_means(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a = balls(g, 5, 30)
    x = points(g, a)
    sums = [sum(map(Fraction, row), Fraction()) for row in x.tolist()]
    assert is_enclosed(rows.total(a, [1], keepdim=True), [[s] for s in sums])
    assert is_enclosed(rows.mean(a, [1], keepdim=True), [[s / 30] for s in sums])
    running = ball.linear(lambda t: t.cumsum(0), [Ball(a.mid[0], a.rad[0])], 30)
    exact = [sum(map(Fraction, x[0, : i + 1].tolist()), Fraction()) for i in range(30)]
    assert is_enclosed(Ball(running.mid[None], running.rad[None]), [exact])


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_smaller_balls_give_smaller_results(seed: int) -> None:
    """Inclusion is monotone, but for the rounding of bounds (of the size of the terms)."""
    g = torch.Generator().manual_seed(seed)
    shape = (4, 6)
    options: dict[str, Any] = {"generator": g, "dtype": torch.float64}
    wide = [Ball(torch.randn(s, **options), torch.rand(s, **options)) for s in (shape, (6, 3))]
    small = []
    for w in wide:
        s = torch.rand(w.shape, generator=g, dtype=torch.float64)
        mid = w.mid + (1 - s) * w.rad * (2 * torch.rand(w.shape, generator=g) - 1)
        small.append(Ball(mid, 0.99 * s * w.rad))
    outer, inner = (ball.product(torch.matmul, a, b, 6) for a, b in (wide, small))
    slack = 1e-13 * (wide[0].magnitude @ wide[1].magnitude)
    assert bool((inner.lower >= outer.lower - slack).all())
    assert bool((inner.upper <= outer.upper + slack).all())


# --- the ends of the scale ------------------------------------------------------------------------


def test_overflow_is_everything() -> None:
    big = Ball.exact(torch.tensor([1e308, -1e308, 1.0], dtype=torch.float64))
    for value in (
        ball.add(big, big), ball.mul(big, big), ball.product(torch.matmul, big, big, 3),
        functions.monotone("exp", big), rows.total(Ball(big.mid, big.mid.abs()), []),
    ):  # fmt: skip
        assert not value.is_known
        assert bool((torch.isinf(value.rad) == torch.isnan(value.mid)).all())
        assert bool(value.contains(1e300).any())
    assert bool(ball.add(big, big).contains(2.0)[2])
    assert ball.add(big, big).lower[0] == -INF
    assert ball.add(big, big).upper[1] == INF


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_subnormal_numbers(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    n = 40
    scales = [torch.ldexp(torch.randn(n, generator=g, dtype=torch.float64),
                          torch.randint(low, high, (n,), generator=g))
              for low, high in ((-1080, -1000), (-540, 20))]  # fmt: skip
    for x, y in ((scales[0], scales[1]), (scales[1], scales[1]), (scales[0], scales[0])):
        a, b = Ball.exact(x), Ball.exact(y)
        products = [
            [Fraction(p) * Fraction(q) for p, q in zip(x.tolist(), y.tolist(), strict=True)]
        ]
        found = ball.mul(a, b)
        assert is_enclosed(Ball(found.mid[None], found.rad[None]), products)
        dot = ball.product(torch.dot, a, b, n)
        assert is_enclosed(Ball(dot.mid[None, None], dot.rad[None, None]), [[sum(products[0])]])
        quotients = [[Fraction(p) / Fraction(q) if q else Fraction()
                      for p, q in zip(x.tolist(), y.tolist(), strict=True)]]  # fmt: skip
        found = functions.div(a, b)
        assert is_enclosed(Ball(found.mid[None], found.rad[None]), quotients)


def test_exact_zeros_stay() -> None:
    """What is structurally zero is known to be zero: a dead branch adds nothing."""
    zero = Ball.exact(torch.tensor([[0.0, -0.0]], dtype=torch.float64))
    other = Ball(torch.tensor([[3.0], [5e-324]], dtype=torch.float64), torch.full((2, 1), 1e-3))
    for value in (
        ball.mul(zero, Ball.exact(torch.tensor(7.0, dtype=torch.float64))),
        ball.product(torch.matmul, zero, other, 2), rows.total(zero, [1]),
        functions.gelu(zero), functions.silu(zero), functions.monotone("tanh", zero),
        functions.sine(zero), functions.relu(zero), ball.square(zero), functions.power(zero, 3.0),
        functions.div(zero, Ball(other.mid[:1], other.rad[:1])),
    ):  # fmt: skip
        assert value.is_zero
    x = Ball(torch.tensor([[1.0, 0.1]], dtype=torch.float64), torch.full((1, 2), 1e-9))
    assert ball.add(x, zero).mid is x.mid


def test_division_by_a_ball_around_zero_and_logs_that_touch_it() -> None:
    touching = Ball(torch.tensor([1.0, 1e-3, -1.0, 1.0], dtype=torch.float64),
                    torch.tensor([1.0, 1.0, 2.0, 0.5], dtype=torch.float64))  # fmt: skip
    for value in (
        functions.reciprocal(touching), functions.div(touching, touching),
        functions.monotone("log", touching), functions.monotone("rsqrt", touching),
        functions.power(touching, -2.0),
    ):  # fmt: skip
        assert torch.isinf(value.rad).tolist() == [True, True, True, False]


# --- the record itself ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS)
def test_contains_is_exact(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a = balls(g, 30)
    near = torch.where(torch.rand(30, generator=g) < 0.5, a.mid + a.rad, a.mid - a.rad)
    for x in (near, torch.nextafter(near, torch.full_like(near, INF)), spread(g, 30)):
        truth = [
            abs(Fraction(float(p)) - Fraction(float(m))) <= Fraction(float(r))
            for p, m, r in zip(x, a.mid, a.rad, strict=True)
        ]
        assert a.contains(x).tolist() == truth
    ends_hold = [
        Fraction(float(low)) <= Fraction(float(m)) - Fraction(float(r))
        and Fraction(float(m)) + Fraction(float(r)) <= Fraction(float(high))
        for low, high, m, r in zip(a.lower, a.upper, a.mid, a.rad, strict=True)
    ]
    assert all(ends_hold)


def test_special_values() -> None:
    a = Ball.exact(torch.tensor([math.nan, INF, -INF, 1.0], dtype=torch.float64))
    assert a.contains(5.0).tolist() == [True, False, False, False]
    assert a.contains(-INF).tolist() == [True, False, True, False]
    assert not a.is_known
    assert not a.is_exact
    whole = Ball.exact(torch.tensor([1, 2**60 + 1]))
    assert whole.is_exact
    assert whole.is_whole
    assert whole.real.rad.tolist()[0] == 0.0
    assert abs(Fraction(float(whole.real.mid[1])) - (2**60 + 1)) <= Fraction(
        float(whole.real.rad[1])
    )
    assert Ball.exact(2.5).mid.dtype is torch.float64
    masked = ball.add(Ball.exact(torch.tensor([-INF, 0.0], dtype=torch.float64)),
                      Ball(torch.ones(2, dtype=torch.float64), torch.full((2,), 0.5)))  # fmt: skip
    assert masked.mid.tolist()[0] == -INF
    assert masked.rad.tolist()[0] == 0.0
    opposite = ball.sub(a, a)
    assert torch.isnan(opposite.mid).tolist() == [True, True, True, False]


def test_everything_spreads_through_products_that_skip_zeros() -> None:
    a = Ball.exact(torch.tensor([[math.nan, 0.0], [0.0, 1.0]], dtype=torch.float64))
    b = Ball.exact(torch.zeros(2, 2, dtype=torch.float64))
    value = ball.product(torch.matmul, a, b, 2)
    assert torch.isnan(value.mid).tolist() == [[True, True], [False, False]]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(3)
    a, b = balls(g, 7, 3, 11), balls(g, 3, 1)
    rules: tuple[Callable[[], Ball], ...] = (
        lambda: ball.mul(a, b), lambda: ball.add(a, b), lambda: functions.gelu(a),
        lambda: rows.softmax(a, -1), lambda: rows.normalize(a, [-1], 1e-5, centre=True)[2],
    )  # fmt: skip
    whole = [rule() for rule in rules]
    monkeypatch.setattr(blocks, "ENTRIES", 8)
    for rule, expected in zip(rules, whole, strict=True):
        found = rule()
        assert torch.equal(found.mid, expected.mid)
        assert torch.equal(found.rad, expected.rad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    g = torch.Generator().manual_seed(1)
    a, b = balls(g, 30, 40), balls(g, 40, 20)
    x, y = points(g, a), points(g, b)
    there = [Ball(t.mid.cuda(), t.rad.cuda()) for t in (a, b)]
    value = ball.product(torch.matmul, there[0], there[1], 40)
    assert is_enclosed(Ball(value.mid.cpu(), value.rad.cpu()), exact_products(x, y))
