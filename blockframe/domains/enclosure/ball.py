"""Balls: midpoint and radius of every entry of a tensor, with outward rounding.

The arithmetic that is relied upon (docs/theory, "Rigorous arithmetic"):

- float64 is IEEE 754 double precision, rounded to nearest, with gradual underflow; products may be
  fused with sums or not;
- a sum, and with it a product of matrices, adds the products of its entries one by one in any
  order: no reduced precision, no emulation, no fast (Strassen, Winograd) algorithm;
- a quotient is within two roundings (a kernel may multiply by a reciprocal).

A sum of n products is then within ``gamma(n)`` times the sum of their absolute values (N. Higham,
*Accuracy and Stability of Numerical Algorithms*, section 3.1). Radii are computed in the same
arithmetic; being sums of products of non-negative numbers they are relatively exact, and
`inflate` makes up for their rounding. Underflow cannot occur in them, since `lift` raises what is
not zero above the square root of the least normal number; so an exact zero stays one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from attrs import frozen
from torch import Tensor

from blockframe.domains.enclosure.blocks import in_blocks

U = 2.0**-53
"""Unit roundoff: the greatest relative error of one operation."""
ULP = 2.0**-52
"""Two neighbouring doubles x < y have y - x <= ULP * |x|, or they are subnormal."""
TINY = 2.0**-1074
"""The least positive double."""
LIFT = 2.0**-480
"""Products of two numbers above it, scaled by 2**-60, do not underflow."""
UNDERFLOW = 2.0**-500
"""Its square is far more than any underflow can be off."""
INF = math.inf
NAN = math.nan

Op = Callable[..., Tensor]


def gamma(n: int) -> float:
    """n U / (1 - n U), rounded up: the relative error of n operations."""
    if n >= 1 << 50:
        raise ValueError(f"a sum of {n} terms is beyond the error analysis")
    return n * U / (1.0 - n * U) * (1.0 + 4.0 * ULP)


def inflate(r: Tensor, roundings: int) -> Tensor:
    """``r``, computed without underflow in so many roundings, raised (in place) above the exact
    value."""
    return r.mul_(1.0 + (roundings + 2) * 2.0 * U)


def lift(r: Tensor, support: Tensor) -> Tensor:
    """``r >= 0`` raised by `LIFT` wherever ``support >= 0`` is not zero; in place, both."""
    return r.add_(presence(support, LIFT))


def presence(support: Tensor, value: float) -> Tensor:
    """``value <= LIFT`` wherever ``support >= 0``, which it overwrites, is not zero."""
    return support.mul_(2.0**600).clamp_max_(value)


@frozen(eq=False)
class Ball:
    """For every entry, a set of numbers that the true real value is in.

    - ``mid``, ``rad`` finite: the reals within ``rad`` of ``mid``;
    - ``mid`` NaN, ``rad`` infinite: everything, numbers or not;
    - ``mid`` infinite, ``rad`` zero: that infinity (attention masks hold it).

    Attributes:
        mid: float64; integers and truth values, which are exact, keep their own dtype.
        rad: float64, of the same shape.
    """

    mid: Tensor
    rad: Tensor

    # --- making balls -----------------------------------------------------------------------------

    @classmethod
    def exact(cls, value: Tensor | float | bool) -> Ball:
        """The balls of radius zero. What is not a number is everything."""
        t = torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
        t = t.detach()
        if not t.is_floating_point():
            return cls(t, _zeros(t.shape, t.device))
        t = t.to(torch.float64)
        rad = _zeros(t.shape, t.device)
        nan = torch.isnan(t)
        return cls(t, torch.where(nan, INF, rad) if bool(nan.any()) else rad)

    @classmethod
    def of(cls, mid: Tensor, rad: Tensor) -> Ball:
        """From what was computed: where either is not finite the ball is everything."""
        if not _is_finite(mid, rad):
            bad = ~(torch.isfinite(mid) & torch.isfinite(rad))
            mid, rad = mid.masked_fill(bad, NAN), rad.masked_fill(bad, INF)
        return cls(mid, rad)

    @classmethod
    def between(cls, lower: Tensor, upper: Tensor) -> Ball:
        """The least balls, up to rounding, that reach from ``lower`` to ``upper``."""
        mid = (0.5 * lower).add_(upper, alpha=0.5)
        rad = upper - mid  # exact where subnormal
        torch.maximum(rad, mid - lower, out=rad)
        return cls.of(mid, inflate(rad, 1))

    @classmethod
    def everything(cls, shape: Sequence[int], device: torch.device | None = None) -> Ball:
        """Balls of which nothing is known."""
        mid = torch.full((), NAN, dtype=torch.float64, device=device).expand(tuple(shape))
        return cls(mid, torch.full_like(mid, INF))

    # --- what they are ----------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        return self.mid.shape

    @property
    def is_whole(self) -> bool:
        """Whether these are integers or truth values, which are exact."""
        return not self.mid.is_floating_point()

    @cached_property
    def is_exact(self) -> bool:
        """Whether every radius is zero."""
        rad = self.rad
        if self.is_whole or rad.numel() == 0:
            return True
        return float(rad.sum() if any(rad.stride()) else rad.as_strided((), ())) == 0.0

    @cached_property
    def is_zero(self) -> bool:
        """Whether every entry is exactly zero."""
        return self.is_exact and float(self.mid.abs().sum()) == 0.0

    @cached_property
    def is_finite(self) -> bool:
        """Whether every ball is one of reals (False also where their sum overflows)."""
        return self.is_whole or _is_finite(self.mid, self.rad)

    @property
    def is_real(self) -> Tensor:
        """For every entry whether its ball is one of reals."""
        return torch.isfinite(self.mid) & torch.isfinite(self.rad)

    @cached_property
    def is_known(self) -> bool:
        """Whether no ball is everything."""
        return self.is_finite or not bool(torch.isnan(self.mid).any())

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Lower and upper ends, rounded outwards; NaN where the ball is everything."""
        if self.is_exact:
            return self.mid, self.mid
        inexact = self.rad.sign()
        low, high = self.mid - self.rad, self.mid + self.rad
        low.sub_(low.abs().mul_(ULP).add_(TINY).mul_(inexact))
        high.add_(high.abs().mul_(ULP).add_(TINY).mul_(inexact))
        if not self.is_finite:
            infinite = torch.isinf(self.mid)
            low, high = (torch.where(infinite, self.mid, e) for e in (low, high))
        return low, high

    @property
    def lower(self) -> Tensor:
        """A lower bound of every entry; minus infinity where nothing is known."""
        low = self.ends[0]
        return low if self.is_known else torch.where(torch.isnan(low), -INF, low)

    @property
    def upper(self) -> Tensor:
        """An upper bound of every entry; infinity where nothing is known."""
        high = self.ends[1]
        return high if self.is_known else torch.where(torch.isnan(high), INF, high)

    @property
    def magnitude(self) -> Tensor:
        """An upper bound of every entry's absolute value; infinity where nothing is known."""
        return torch.maximum(-self.lower, self.upper)

    def contains(self, value: Tensor | float) -> Tensor:
        """For every entry whether ``value`` is in its ball; no rounding blurs the answer."""
        x = torch.as_tensor(value, dtype=torch.float64, device=self.mid.device)
        mid = self.real.mid
        d = x - mid
        virtual = d - x
        e = (x - (d - virtual)) - (mid + virtual)  # x - mid = d + e without error (Knuth)
        within = e * d.sign() <= self.rad - d.abs()
        far = ~torch.isfinite(d)  # overflow, or not finite to begin with
        huge = (self.lower <= x) & (x <= self.upper) & (self.rad > 0.0)
        return torch.where(far, torch.isnan(mid) | (x == mid) | huge, within)

    def hull(self, other: Ball) -> Ball:
        """The least balls, up to rounding, that contain both."""
        (a, b), (c, d) = self.real.ends, other.real.ends
        same = (self.mid == other.mid) & (self.rad == other.rad)
        union = Ball.between(torch.minimum(a, c), torch.maximum(b, d))
        return pick(same, self.real.expand(union.shape), union)

    @cached_property
    def real(self) -> Ball:
        """The same numbers as reals: integers as doubles, which are exact up to 2**53."""
        if not self.is_whole:
            return self
        mid = self.mid.to(torch.float64)
        large = mid.abs() > 2.0**53
        return Ball(
            mid, torch.where(large, mid.abs() * (2.0 * U), 0.0) if large.any() else self.rad
        )

    # --- moving them ------------------------------------------------------------------------------

    def move(self, op: Op) -> Ball:
        """The same entries elsewhere: ``op`` moves midpoints and radii alike."""
        return Ball(op(self.mid), op(self.rad))

    def expand(self, shape: Sequence[int]) -> Ball:
        if self.shape == torch.Size(shape):
            return self
        return self.move(lambda t: t.expand(tuple(shape)))

    def to(self, device: torch.device | None) -> Ball:
        return self if device is None else self.move(lambda t: t.to(device))

    def within(self, low: float, high: float) -> Ball:
        """Cut down to what lies in [low, high], which is known to hold the value."""
        if self.mid.numel() == 0:
            return self
        least, greatest, widest = (float(x) for x in (*self.mid.aminmax(), self.rad.amax()))
        if least - widest >= low and greatest + widest <= high:
            return self
        a, b = self.ends
        cut = Ball.between(a.clamp(low, high), b.clamp(low, high))
        return pick((a >= low) & (b <= high), self, cut)


def _zeros(shape: Sequence[int], device: torch.device) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=device).expand(tuple(shape))


def _is_finite(mid: Tensor, rad: Tensor) -> bool:
    return math.isfinite(float(mid.sum() + rad.sum()))


def broadcast(*balls: Ball) -> torch.Size:
    """The shape that all of ``balls`` can be expanded to."""
    return torch.broadcast_shapes(*(b.shape for b in balls))  # type: ignore[no-untyped-call, no-any-return, unused-ignore]


def pick(condition: Tensor, a: Ball, b: Ball) -> Ball:
    """``a`` where the condition is true, ``b`` elsewhere."""
    return Ball(torch.where(condition, a.mid, b.mid), torch.where(condition, a.rad, b.rad))


def entrywise(rule: Callable[..., Ball], *balls: Ball, rows: Sequence[int] = ()) -> Ball:
    """``rule(*balls)``, each entry (or each row along ``rows``) being on its own, in blocks."""

    def of_parts(*parts: Tensor) -> tuple[Tensor, ...]:
        value = rule(*(Ball(m, r) for m, r in zip(parts[::2], parts[1::2], strict=True)))
        return value.mid, value.rad

    return Ball(*in_blocks(of_parts, [t for b in balls for t in (b.mid, b.rad)], rows))


# --- arithmetic -----------------------------------------------------------------------------------


def neg(a: Ball) -> Ball:
    return Ball(-a.mid, a.rad)


def add(a: Ball, b: Ball) -> Ball:
    """a + b. An infinity (a mask) plus a real number is that infinity."""
    if a.is_zero or b.is_zero:
        kept = b if a.is_zero else a
        return kept.expand(broadcast(a, b))
    return entrywise(_sum, a, b)


def _sum(a: Ball, b: Ball) -> Ball:
    mid = a.mid + b.mid
    total = Ball.of(mid, inflate(mid.abs().mul_(U).add_(a.rad).add_(b.rad), 3))
    if a.is_finite and b.is_finite:
        return total
    infinite = (torch.isinf(a.mid) | torch.isinf(b.mid)) & torch.isinf(mid)
    known = ~(torch.isnan(a.mid) | torch.isnan(b.mid))
    return pick(infinite & known, Ball(mid, torch.zeros_like(mid)), total)


def sub(a: Ball, b: Ball) -> Ball:
    return add(a, neg(b))


def mul(a: Ball, b: Ball) -> Ball:
    return entrywise(_product, a, b)


def _product(a: Ball, b: Ball) -> Ball:
    """|ab - mid| <= ra |b| + (|a| + ra) rb + U |mid|, and a little for underflow unless one of the
    factors is an exact zero."""
    mid = a.mid * b.mid
    rad = mid.abs().mul_(U)
    size_a, size_b = a.mid.abs(), b.mid.abs()
    if not a.is_exact:
        rad.add_(a.rad * size_b)
        size_a.add_(a.rad)
    if not b.is_exact:
        rad.add_(size_a * b.rad)
        size_b.add_(b.rad)
    inflate(rad, 6).add_(presence(size_a, UNDERFLOW) * presence(size_b, UNDERFLOW))
    return Ball.of(mid, rad)


def square(a: Ball) -> Ball:
    """Squares lie between (|mid| - rad)^2 and (|mid| + rad)^2, or 0 and that."""
    return entrywise(_square, a)


def _square(a: Ball) -> Ball:
    mid, size = a.mid * a.mid, a.mid.abs()
    rad = torch.zeros_like(mid)
    if not a.is_exact:
        mid.addcmul_(a.rad, a.rad)
        torch.mul(size, a.rad, out=rad).mul_(2.0)
        around_zero = a.rad > size
        size.add_(a.rad)
        if bool(around_zero.any()):
            half = 0.5 * size * size
            mid, rad = (torch.where(around_zero, half, t) for t in (mid, rad))
    inflate(rad.add_(mid, alpha=4.0 * U), 6)
    rad.add_(presence(size, UNDERFLOW), alpha=UNDERFLOW)
    return Ball.of(mid, rad).within(0.0, INF)


def product(op: Op, a: Ball, b: Ball, terms: int, plus: Ball | None = None) -> Ball:
    """``op(a, b)``, or ``op(a, b, plus)``: entries are sums of at most ``terms`` products.

    ``op`` is linear in each of a and b, the coefficients being numbers >= 0, and adds ``plus``.
    With x in a, y in b: |xy - mid| <= |a| rb + ra (|b| + rb) + gamma |a| |b|, which is

        |a| (rb + gamma |b|) + ra (|b| + rb):

    beside the product of midpoints at most two products, one where either operand is exact.
    """

    def rule(a: Ball, b: Ball, *plus: Ball) -> Ball:
        mid = op(a.mid, b.mid, *(p.mid for p in plus))
        added = [_error(p, terms) for p in plus]
        if b.is_exact:
            rad = op(_error(a, terms), _size(b.mid), *added)
        else:
            rad = op(_size(a.mid), _error(b, terms), *added)
            if not a.is_exact:
                rad += op(_size(a.rad), _size(b.mid, b.rad), *map(torch.zeros_like, added))
        return Ball.of(mid, inflate(rad, terms + 8))

    def reach(a: Tensor, b: Tensor, *plus: Tensor) -> Tensor:
        into = op(a, torch.ones_like(b), *plus)
        return into + op(torch.ones_like(a), b, *map(torch.zeros_like, plus))

    return _of_reals(rule, reach, (a, b) if plus is None else (a, b, plus))


def linear(op: Op, operands: Sequence[Ball], terms: int) -> Ball:
    """``op`` of all operands, linear in them jointly with coefficients >= 0 and no more than
    ``terms`` operations for each entry."""

    def rule(*balls: Ball) -> Ball:
        rad = op(*(_error(o, terms) for o in balls))
        return Ball.of(op(*(o.mid for o in balls)), inflate(rad, terms + 3))

    return _of_reals(rule, op, operands)


def _error(a: Ball, terms: int) -> Tensor:
    """rad + gamma |mid|, lifted wherever the ball is not an exact zero."""
    g = gamma(terms)

    def rule(mid: Tensor, rad: Tensor) -> tuple[Tensor, ...]:
        size = mid.abs()
        error = torch.add(rad, size, alpha=g)
        return (lift(error, size.add_(rad)),)

    return in_blocks(rule, [a.mid, a.rad])[0]


def _size(*parts: Tensor) -> Tensor:
    """The sum of absolute values, lifted."""

    def rule(first: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        size = first.abs()
        for t in rest:
            size.add_(t.abs())
        return (lift(size, size.clone()),)

    return in_blocks(rule, parts)[0]


def _of_reals(rule: Callable[..., Ball], reach: Op, operands: Sequence[Ball]) -> Ball:
    """``rule`` where the operands are real numbers; everything where others get in.

    ``reach``: ones where these are, zeros elsewhere -> more than zero where they get in. (NaN
    need not be contagious: a product may skip what is multiplied by zero.)
    """
    if all(o.is_finite for o in operands):
        return rule(*operands)
    bad = [~o.is_real for o in operands]
    clean = [
        Ball(o.mid.masked_fill(b, 0.0), o.rad.masked_fill(b, 0.0))
        for o, b in zip(operands, bad, strict=True)
    ]
    value = rule(*clean)
    reached = reach(*(b.to(torch.float64) for b in bad)) > 0.0
    return Ball(value.mid.masked_fill(reached, NAN), value.rad.masked_fill(reached, INF))
