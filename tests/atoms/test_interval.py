"""Interval arithmetic contains the exact results, of real ends open and closed."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockframe.atoms.interval import (
    ANYTHING,
    INF,
    NON_NEGATIVE,
    POSITIVE,
    REALS,
    Interval,
    hull,
)  # fmt: skip

numbers = st.floats(-1e12, 1e12, allow_nan=False)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    a, b = sorted((draw(numbers), draw(numbers)))
    lo = draw(st.sampled_from([a, -INF]))
    hi = draw(st.sampled_from([b, INF]))
    opened = lo == -INF or (lo < hi and draw(st.booleans()))
    return Interval(lo, hi, opened, hi == INF or (lo < hi and draw(st.booleans())))


@st.composite
def with_member(draw: st.DrawFn) -> tuple[Interval, float]:
    interval = draw(intervals())
    x = draw(st.floats(max(interval.lo, -1e12), min(interval.hi, 1e12)))
    if x not in interval:
        x = (interval.lo + interval.hi) / 2 if math.isfinite(interval.lo + interval.hi) else x
    return (interval, x) if x in interval else (Interval.point(x), x)


def holds(interval: Interval, exact: Fraction) -> bool:
    """Whether the exact number is in the interval."""
    above = (
        interval.lo == -INF
        or Fraction(interval.lo) < exact
        or (Fraction(interval.lo) == exact and not interval.lo_open)
    )
    below = (
        interval.hi == INF
        or exact < Fraction(interval.hi)
        or (exact == Fraction(interval.hi) and not interval.hi_open)
    )
    return above and below


@given(with_member(), with_member())
def test_operations_contain_the_exact_result(
    a: tuple[Interval, float], b: tuple[Interval, float]
) -> None:
    (u, x), (v, y) = a, b
    p, q = Fraction(x), Fraction(y)
    assert holds(u + v, p + q)
    assert holds(u - v, p - q)
    assert holds(u * v, p * q)
    assert holds(-u, -p)
    assert holds(u.square(), p * p)
    assert holds(u.even_power(4), p**4)
    assert holds(u.times(y), p * q)
    assert x in u.hull(v)
    assert y in u.hull(v)


@given(with_member(), st.integers(1, 9))
def test_sums_of_many(a: tuple[Interval, float], n: int) -> None:
    u, x = a
    assert holds(u.sum_of(n), n * Fraction(x))
    assert holds(u.sum_of(None), n * Fraction(x))


@given(with_member())
def test_images_of_monotone_functions(a: tuple[Interval, float]) -> None:
    u, x = a
    assert math.tanh(x) in u.image(math.tanh, 1)
    assert math.atan(x) in u.image(math.atan, 1)
    assert -math.tanh(x) in u.image(lambda t: -math.tanh(t), -1)


@given(intervals(), intervals())
def test_within_is_inclusion(u: Interval, v: Interval) -> None:
    if u.within(v):
        assert all(x in v for x in (u.lo, u.hi, (u.lo + u.hi) / 2) if x in u)
        assert u.hull(v) == v


def test_open_ends_keep_a_value_off_zero() -> None:
    assert 0.0 not in POSITIVE + NON_NEGATIVE
    assert 0.0 not in POSITIVE * POSITIVE
    assert 0.0 not in NON_NEGATIVE + Interval.point(1e-6)
    assert 0.0 in NON_NEGATIVE * POSITIVE
    assert 0.0 in REALS.square()
    assert 0.0 not in POSITIVE.sum_of(None)


def test_rounding_moves_ends_outwards() -> None:
    third = Interval.point(0.1) + Interval.point(0.2)
    assert third.lo < 0.1 + 0.2 or third.lo_open
    difference = third - Interval.point(0.3)
    assert holds(difference, Fraction(0.1) + Fraction(0.2) - Fraction(0.3))


def test_infinity_that_is_attained_is_never_lost() -> None:
    masked = Interval(-INF, 0.0, False, False)
    assert not masked.finite
    assert not (masked + Interval.point(3.0)).finite
    assert not (masked * Interval.point(0.0)).finite
    assert masked + Interval(0.0, INF, False, False) == ANYTHING
    assert not hull([REALS, masked]).finite


def test_nan_is_anything() -> None:
    assert Interval.point(math.nan) == ANYTHING
    with pytest.raises(ValueError, match="not an interval"):
        Interval(1.0, 0.0)
