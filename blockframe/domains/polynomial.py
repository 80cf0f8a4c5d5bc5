"""Polynomials in the norms s (of a block's parameters) and r (of its input), as upper bounds.

Coefficients are non-negative and every operation rounds them up, so that a bound stays one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import field, frozen

from blockframe.atoms.interval import up

Exponents = tuple[int, int]


@frozen
class Polynomial:
    """sum of c_ij s^i r^j, c_ij >= 0, by exponents (i, j). An infinite coefficient: no bound."""

    terms: Mapping[Exponents, float] = field(factory=dict)

    @classmethod
    def constant(cls, c: float) -> Polynomial:
        return cls({(0, 0): c} if c else {})

    @property
    def bounded(self) -> bool:
        return all(math.isfinite(c) for c in self.terms.values())

    @property
    def degree(self) -> Exponents:
        """The highest powers of s and of r, each for itself."""
        return (
            max((i for i, _ in self.terms), default=0),
            max((j for _, j in self.terms), default=0),
        )

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for e, c in other.terms.items():
            terms[e] = up(terms[e] + c) if e in terms else c
        return Polynomial(terms)

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Exponents, float] = {}
        for (i, j), a in self.terms.items():
            for (k, m), b in other.terms.items():
                e = (i + k, j + m)
                terms[e] = up(terms.get(e, 0.0) + up(a * b))
        return Polynomial(terms)

    def times(self, c: float) -> Polynomial:
        """Multiplied by a number c >= 0 (0 times no bound is 0: the value is zero)."""
        if c == 0.0:
            return Polynomial()
        return self if c == 1.0 else Polynomial({e: up(c * x) for e, x in self.terms.items()})

    def power(self, n: int) -> Polynomial:
        result = Polynomial.constant(1.0)
        for _ in range(n):
            result = result * self
        return result

    def tighter(self, other: Polynomial) -> Polynomial:
        """Of two bounds of one thing the one of lower degree, or of fewer terms."""
        return min(self, other, key=lambda p: (sum(p.degree), len(p.terms)))

    def log_at(self, log_s: float, log_r: float) -> float:
        """Logarithm of the value at s = e^log_s, r = e^log_r; -inf for the zero polynomial."""
        logs = [
            math.log(c) + (i * log_s if i else 0.0) + (j * log_r if j else 0.0)
            for (i, j), c in self.terms.items()
        ]
        top = max(logs, default=-math.inf)
        if math.isinf(top):
            return top
        return up(top + math.log(math.fsum(math.exp(x - top) for x in logs)) + 1e-12)

    def __call__(self, s: float, r: float) -> float:
        """The value at s, r >= 0; inf where it overflows."""
        log_s = math.log(s) if s else -math.inf
        log_r = math.log(r) if r else -math.inf
        value = self.log_at(log_s, log_r)
        return math.exp(value) if value < 709.0 else math.inf

    def __str__(self) -> str:
        order = sorted(self.terms, key=lambda e: (-sum(e), -e[0]))
        return " + ".join(_term(self.terms[e], *e) for e in order) or "0"


def _term(c: float, i: int, j: int) -> str:
    powers = [f"{x}^{n}" if n > 1 else x for x, n in (("s", i), ("r", j)) if n]
    return " ".join([*([f"{c:.4g}"] if c != 1.0 or not powers else []), *powers])
