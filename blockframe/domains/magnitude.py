"""Norms far beyond floating point: non-negative numbers by their logarithms, rounded up."""

from __future__ import annotations

import math
import sys

from attrs import frozen

from blockframe.atoms.interval import up

_LN10 = math.log(10.0)
_SLACK = 1e-14
"""Relative error granted to one ``log``, ``exp`` or ``log1p`` of the C library (a few ulp)."""


def _raised(log: float) -> float:
    """At least ``log``, whatever the last operations rounded away."""
    return up(log + _SLACK * (1.0 + abs(log))) if math.isfinite(log) else log


@frozen(order=True)
class Magnitude:
    """An upper bound e^log; log = -inf: zero, log = inf: no bound."""

    log: float

    @classmethod
    def constant(cls, c: float) -> Magnitude:
        """The number c >= 0; of what is no such number there is no bound."""
        if not c >= 0.0:
            return cls(math.inf)
        return cls(_raised(math.log(c))) if c else cls(-math.inf)

    @property
    def bounded(self) -> bool:
        return self.log < math.inf

    def __add__(self, other: Magnitude) -> Magnitude:
        low, high = sorted((self.log, other.log))
        if math.isinf(low) or math.isinf(high):
            return Magnitude(high)
        return Magnitude(_raised(high + math.log1p(math.exp(low - high))))

    def __mul__(self, other: Magnitude) -> Magnitude:
        if -math.inf in (self.log, other.log):  # a value that is zero, times anything
            return Magnitude(-math.inf)
        return Magnitude(_raised(_not_zero(self.log + other.log)))

    def times(self, c: float) -> Magnitude:
        """Multiplied by a number c >= 0."""
        return self * Magnitude.constant(c)

    def power(self, n: int) -> Magnitude:
        if not n or self.log == -math.inf:
            return self if n else Magnitude(0.0)
        return Magnitude(_raised(_not_zero(n * self.log)))

    def root(self) -> Magnitude:
        """The square root."""
        return Magnitude(_raised(0.5 * self.log))

    def tighter(self, other: Magnitude) -> Magnitude:
        """The better of two bounds of one thing."""
        return min(self, other)

    @property
    def log10(self) -> float:
        """Rounded up."""
        return _raised(self.log / _LN10)

    def __float__(self) -> float:
        """Rounded up; inf where it overflows."""
        if self.log == -math.inf:
            return 0.0
        if self.log >= 709.0:
            return math.inf
        return math.nextafter(math.exp(self.log) * (1.0 + _SLACK), math.inf)


def _not_zero(log: float) -> float:
    """A logarithm that overflows downwards is still not that of zero."""
    return max(log, -sys.float_info.max)
