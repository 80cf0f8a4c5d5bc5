"""Magnitudes are upper bounds, and hardly above what they bound."""

from __future__ import annotations

import math
import sys
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockframe.domains.magnitude import Magnitude

TIGHT = Decimal("1e-9")
sizes = st.floats(5e-324, sys.float_info.max)


def exact(x: float) -> Decimal:
    return Decimal(x)


def holds(bound: Magnitude, value: Decimal) -> bool:
    """Whether ``bound`` is one of ``value``, and a tight one."""
    if value == 0:
        return bound.log == -math.inf
    log = value.ln()
    return log <= Decimal(bound.log) <= log + TIGHT * (1 + abs(log))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Magnitude, Decimal]:
    """A magnitude after some operations, and the number that it should bound."""
    c = draw(st.one_of(st.just(0.0), sizes))
    bound, value = Magnitude.constant(c), exact(c)
    for _ in range(draw(st.integers(0, 6))):
        operation = draw(st.sampled_from(["+", "*", "times", "power", "root", "tighter"]))
        c = draw(st.one_of(st.just(0.0), sizes))
        other, number = Magnitude.constant(c), exact(c)
        if operation == "+":
            bound, value = bound + other, value + number
        elif operation == "*":
            bound, value = bound * other, value * number
        elif operation == "times":
            bound, value = bound.times(c), value * number
        elif operation == "power":
            n = draw(st.integers(0, 3))
            bound, value = bound.power(n), value**n if n else Decimal(1)
        elif operation == "root":
            bound, value = bound.root(), value.sqrt()
        else:
            bound, value = bound.tighter(other), min(value, number)
    return bound, value


@given(st.data())
def test_every_operation_is_an_upper_bound_and_a_tight_one(data: st.DataObject) -> None:
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 60, 10**9, -(10**9)
        bound, value = data.draw(pairs())
        assert holds(bound, value)


@given(sizes)
def test_a_float_is_rounded_up(c: float) -> None:
    back = float(Magnitude.constant(c))
    assert c <= back
    if 1e-300 < c < 1e300:  # below, floats lie far apart; above, it may overflow
        assert back <= c * (1 + 1e-9)


def test_a_float_below_all_floats_is_not_zero() -> None:
    assert float(Magnitude(-1e6)) > 0.0
    assert float(Magnitude(1e6)) == math.inf


@given(st.floats(-1e6, 1e6))
def test_powers_of_ten_are_rounded_up(log: float) -> None:
    with localcontext() as context:
        context.prec = 60
        power = Decimal(log) / Decimal(10).ln()
        assert power <= Decimal(Magnitude(log).log10) <= power + TIGHT * (1 + abs(power))


@pytest.mark.parametrize("c", [-1.0, math.nan, math.inf])
def test_what_is_no_size_has_no_bound(c: float) -> None:
    assert not Magnitude.constant(c).bounded
    assert not (Magnitude.constant(c) + Magnitude.constant(1.0)).bounded
    assert not Magnitude.constant(c).times(2.0).bounded


def test_zero_times_no_bound_is_zero() -> None:
    zero, none = Magnitude.constant(0.0), Magnitude.constant(math.inf)
    assert float(zero * none) == float(none * zero) == float(none.times(0.0)) == 0.0
    assert none.power(0) == zero.power(0) == Magnitude(0.0)


def test_what_underflows_its_logarithm_is_not_zero() -> None:
    least = Magnitude(-sys.float_info.max)
    for product in (least * least, least.power(3)):
        assert math.isfinite(product.log)
