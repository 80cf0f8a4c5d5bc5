"""Intervals of reals with outward rounding: what the range domain computes with.

Ends are floats; every operation returns an interval that contains the exact real result, so an
end that could not be computed exactly is moved outwards (and is then open).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

from attrs import frozen

INF = math.inf
_LARGEST_POWER = 256
"""Beyond it, powers are bounded by 0, 1 and infinity only."""
ULPS = 4
"""libm's elementary functions are trusted to this many units in the last place."""


@frozen
class Interval:
    """A set of reals (or extended reals) between two ends; an open end is not attained.

    ``Interval()`` is the real line. A closed infinite end says that the value infinity itself
    occurs (attention masks do that); both ends closed at infinity: anything, NaN included.
    """

    lo: float = -INF
    hi: float = INF
    lo_open: bool = True
    hi_open: bool = True

    def __attrs_post_init__(self) -> None:
        if not self.lo <= self.hi:
            raise ValueError(f"not an interval: {self.lo}, {self.hi}")

    def __contains__(self, x: float) -> bool:
        above = self.lo < x or (self.lo == x and not self.lo_open)
        below = x < self.hi or (self.hi == x and not self.hi_open)
        return above and below

    def __str__(self) -> str:
        left, right = "(" if self.lo_open else "[", ")" if self.hi_open else "]"
        return f"{left}{self.lo:g}, {self.hi:g}{right}"

    @classmethod
    def point(cls, x: float) -> Interval:
        """The one number ``x``; anything if it is not a number."""
        return ANYTHING if math.isnan(x) else cls(x, x, False, False)

    @property
    def finite(self) -> bool:
        """Whether every value is a real number."""
        return (self.lo > -INF or self.lo_open) and (self.hi < INF or self.hi_open)

    @property
    def closure(self) -> Interval:
        """With its finite ends."""
        return Interval(self.lo, self.hi, self.lo == -INF, self.hi == INF)

    @property
    def least(self) -> float:
        """The least absolute value, or a bound below it."""
        return max(self.lo, -self.hi, 0.0)

    @property
    def greatest(self) -> float:
        """The greatest absolute value, or a bound above it."""
        return max(abs(self.lo), abs(self.hi))

    @property
    def is_point(self) -> bool:
        return self.lo == self.hi

    def within(self, other: Interval) -> bool:
        """Whether every value of ``self`` is one of ``other``."""
        left = other.lo < self.lo or (other.lo == self.lo and (not other.lo_open or self.lo_open))
        right = self.hi < other.hi or (other.hi == self.hi and (not other.hi_open or self.hi_open))
        return left and right

    def hull(self, other: Interval) -> Interval:
        """The least interval that contains both."""
        return _make(
            *min((self.lo, self.lo_open), (other.lo, other.lo_open)),
            *max((self.hi, not self.hi_open), (other.hi, not other.hi_open)),
            flip=True,
        )

    def meet(self, other: Interval) -> Interval:
        """What both contain; ``other`` where they have nothing in common (it is then trusted)."""
        lo, lo_open = max((self.lo, self.lo_open), (other.lo, other.lo_open))
        hi, hi_shut = min((self.hi, not self.hi_open), (other.hi, not other.hi_open))
        return _make(lo, lo_open, hi, hi_shut, flip=True) if lo <= hi else other

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo, self.hi_open, self.lo_open)

    def __add__(self, other: Interval) -> Interval:
        if self.lo == -INF and not self.lo_open and not other.finite:
            return ANYTHING if other.hi == INF and not other.hi_open else self._sum(other)
        if self.hi == INF and not self.hi_open and other.lo == -INF and not other.lo_open:
            return ANYTHING
        return self._sum(other)

    def _sum(self, other: Interval) -> Interval:
        lo, lo_exact = _down(self.lo, other.lo)
        hi, hi_exact = _up(self.hi, other.hi)
        # An infinite end is attained if either operand attains it.
        lo_shut = _attains(self.lo, self.lo_open, other.lo, other.lo_open, lo)
        hi_shut = _attains(self.hi, self.hi_open, other.hi, other.hi_open, hi)
        return Interval(lo, hi, not (lo_shut and lo_exact), not (hi_shut and hi_exact))

    def __sub__(self, other: Interval) -> Interval:
        return self + (-other)

    def __mul__(self, other: Interval) -> Interval:
        if not self.finite or not other.finite:
            return ANYTHING
        corners = [
            _product(a, ao, b, bo)
            for a, ao in ((self.lo, self.lo_open), (self.hi, self.hi_open))
            for b, bo in ((other.lo, other.lo_open), (other.hi, other.hi_open))
        ]
        return _hull_of(corners)

    def times(self, c: float) -> Interval:
        """Every value multiplied by the number ``c``."""
        return self * Interval.point(c)

    def sum_of(self, n: int | None) -> Interval:
        """Sums of ``n`` values (unknown how many, at least one: None; 0: the empty sum)."""
        if n == 0:
            return Interval.point(0.0)
        if n is None:
            lo = self.lo if self.lo >= 0 else -INF
            hi = self.hi if self.hi <= 0 else INF
            return Interval(lo, hi, self.lo_open or lo != self.lo, self.hi_open or hi != self.hi)
        if not self.finite:
            return self.sum_of(None) if self.lo_open or self.hi_open else ANYTHING
        return self.times(float(n))

    def square(self) -> Interval:
        """Squares of the values."""
        return self.even_power(2)

    def even_power(self, n: int) -> Interval:
        """n-th powers of the values, ``n`` even and positive."""
        if not self.finite:
            return Interval(0.0, INF, False, False)
        a, ao = (self.lo, self.lo_open) if abs(self.lo) >= abs(self.hi) else (self.hi, self.hi_open)
        if abs(self.lo) == abs(self.hi):
            ao = self.lo_open and self.hi_open
        hi, hi_shut = power_bound(abs(a), n, up=True), not ao and _exact_power(abs(a), n)
        if 0.0 in self:
            return _make(0.0, False, hi, hi_shut, flip=True)
        b, bo = (self.lo, self.lo_open) if abs(self.lo) < abs(self.hi) else (self.hi, self.hi_open)
        lo = power_bound(abs(b), n, up=False)
        return _make(lo, bo or not _exact_power(abs(b), n), hi, hi_shut, flip=True)

    def image(self, f: Callable[[float], float], monotone: int) -> Interval:
        """The values of a monotone function, known to `ULPS` units in the last place.

        An end where ``f`` is not defined (or overflows) gives no bound on that side.
        """
        a = _value(f, self.lo, up=monotone < 0)
        b = _value(f, self.hi, up=monotone > 0)
        ends = [(a, self.lo_open), (b, self.hi_open)]
        (lo, lo_open), (hi, hi_open) = ends if monotone > 0 else ends[::-1]
        lo = -INF if math.isnan(lo) else lo
        hi = INF if math.isnan(hi) else hi
        if lo > hi or lo == INF or hi == -INF:
            return REALS
        return Interval(lo, hi, lo_open or lo == -INF, hi_open or hi == INF)


def up(x: float) -> float:
    """The next float above; zero, which is exact, stays."""
    return math.nextafter(x, INF) if x else 0.0


def hull(intervals: Iterable[Interval]) -> Interval:
    """The least interval that contains all of ``intervals``; anything where there are none."""
    found: Interval | None = None
    for i in intervals:
        found = i if found is None else found.hull(i)
    return ANYTHING if found is None else found


def _make(lo: float, lo_open: bool, hi: float, hi_shut: bool, *, flip: bool) -> Interval:
    return Interval(lo, hi, lo_open, not hi_shut if flip else hi_shut)


def _attains(a: float, ao: bool, b: float, bo: bool, end: float) -> bool:
    if math.isinf(end):
        return (math.isinf(a) and not ao) or (math.isinf(b) and not bo)
    return not ao and not bo


def _down(a: float, b: float) -> tuple[float, bool]:
    s = a + b
    if math.isinf(a) or math.isinf(b):
        return (-INF, True) if math.isnan(s) else (s, True)
    exact = not math.isinf(s) and Fraction(a) + Fraction(b) == Fraction(s)
    return (s, True) if exact else (math.nextafter(s, -INF), False)


def _up(a: float, b: float) -> tuple[float, bool]:
    s, exact = _down(-a, -b)
    return -s, exact


def _product(a: float, ao: bool, b: float, bo: bool) -> tuple[float, float, bool]:
    """(lower bound, upper bound, attained) of a * b at a corner; 0 * inf is 0 at a corner."""
    if a == 0.0 or b == 0.0:
        attained = (a == 0.0 and not ao) or (b == 0.0 and not bo)
        return 0.0, 0.0, attained
    p = a * b
    if math.isinf(a) or math.isinf(b):
        return p, p, False
    if not math.isinf(p) and Fraction(a) * Fraction(b) == Fraction(p):
        return p, p, not ao and not bo
    return math.nextafter(p, -INF), math.nextafter(p, INF), False


def _hull_of(corners: list[tuple[float, float, bool]]) -> Interval:
    lo = min(c[0] for c in corners)
    hi = max(c[1] for c in corners)
    lo_shut = any(c[0] == lo and c[2] for c in corners)
    hi_shut = any(c[1] == hi and c[2] for c in corners)
    return Interval(lo, hi, not lo_shut, not hi_shut)


def _value(f: Callable[[float], float], x: float, *, up: bool) -> float:
    try:
        y = float(f(x))
    except (ValueError, OverflowError, ZeroDivisionError):
        return math.nan
    if math.isnan(y) or math.isinf(y) or (x == 0.0 and y == 0.0):
        return y  # f(0) = 0 is exact for every function of the catalogue that says so
    for _ in range(ULPS):
        y = math.nextafter(y, INF if up else -INF)
    return y


def power_bound(a: float, n: int, *, up: bool) -> float:
    """A bound of ``a**n`` for ``a >= 0``, exact where the power is a float."""
    if math.isinf(a):
        return INF
    if n > _LARGEST_POWER:
        return (0.0 if a == 0.0 else math.nextafter(1.0, 0.0) if a < 1.0 else INF) if up else 0.0
    exact = Fraction(a) ** n
    try:
        p = float(exact)
    except OverflowError:
        return INF if up else math.nextafter(INF, 0.0)
    if up:
        return p if Fraction(p) >= exact else math.nextafter(p, INF)
    return p if Fraction(p) <= exact else math.nextafter(p, -INF)


def _exact_power(a: float, n: int) -> bool:
    if math.isinf(a) or n > _LARGEST_POWER:
        return False
    try:
        return Fraction(float(Fraction(a) ** n)) == Fraction(a) ** n
    except OverflowError:
        return False


REALS = Interval()
POSITIVE = Interval(0.0, INF)
NON_NEGATIVE = Interval(0.0, INF, lo_open=False)
ANYTHING = Interval(-INF, INF, lo_open=False, hi_open=False)
