"""Elementary functions of balls.

A kernel computes a function with a stated error. A monotone function is then bounded by its values
at the two ends of a ball, one with a single minimum (gelu, squares) by those and the minimum: tight
for balls of any size. Functions that PyTorch composes from others are composed here too, so that
nothing but the kernels of elementary functions is trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from attrs import frozen
from torch import Tensor

from blockframe.domains.enclosure.ball import (
    INF,
    NAN,
    Ball,
    U,
    add,
    entrywise,
    inflate,
    lift,
    mul,
    neg,
    pick,
    square,
    sub,
)

ULPS = 16
"""Units in the last place to which the elementary functions are trusted. Documented for float64:
SLEEF 1.0 (erfc 1.5), MKL VML in high accuracy 1.0, glibc 2 at most (erfc 5), CUDA 3 at most (erfc
5), each for the functions of `MONOTONE` and sin, cos; at least three times that is allowed for."""
LIBM = (2 * ULPS + 8) * U
"""The same as a relative error, with room for rounding the bounds themselves."""
FLOOR = 2.0**-1000
"""Values below it a kernel may lose: to subnormal numbers, or by an exp that overflows."""
FARTHEST = 1e9
"""Beyond it sin and cos are not asked for."""

Function = Callable[[Ball], Ball]


@frozen
class Kernel:
    """``f`` with |f(t) - exact| <= relative |f(t)| + absolute |t|, and f(0) exact if it is 0.

    ``low``, ``high``: between which all exact values lie.
    """

    f: Callable[[Tensor], Tensor]
    relative: float = LIBM
    absolute: float = 0.0
    low: float = -INF
    high: float = INF

    def below(self, t: Tensor) -> Tensor:
        """A lower bound of the exact value at ``t``."""
        y = self.f(t)
        return self._cut(y.sub_(self._error(t, y)))

    def above(self, t: Tensor) -> Tensor:
        y = self.f(t)
        return self._cut(y.add_(self._error(t, y)))

    def bounds(self, t: Tensor) -> tuple[Tensor, Tensor]:
        y = self.f(t)
        e = self._error(t, y)
        return self._cut(y - e), self._cut(y.add_(e))

    def _cut(self, bound: Tensor) -> Tensor:
        if self.low == -INF and self.high == INF:
            return bound
        return bound.clamp_(self.low, self.high)

    def _error(self, t: Tensor, y: Tensor) -> Tensor:
        size = t.abs()
        e = y.abs().mul_(self.relative)
        if self.absolute:
            e.add_(size, alpha=self.absolute)
        return e.add_(size.mul_(2.0).clamp_max_(FLOOR))


def increasing(k: Kernel, a: Ball) -> Ball:
    return entrywise(lambda a: _increasing(k, a), a)


def _increasing(k: Kernel, a: Ball) -> Ball:
    if a.is_exact:
        return Ball.between(*k.bounds(a.mid))
    low, high = a.ends
    return Ball.between(k.below(low), k.above(high))


def decreasing(k: Kernel, a: Ball) -> Ball:
    return entrywise(lambda a: _decreasing(k, a), a)


def _decreasing(k: Kernel, a: Ball) -> Ball:
    if a.is_exact:
        return Ball.between(*k.bounds(a.mid))
    low, high = a.ends
    return Ball.between(k.below(high), k.above(low))


def valley(k: Kernel, a: Ball, at: float, width: float = 1e-12) -> Ball:
    """A function that falls up to a point within ``width`` of ``at``, rises from there on, and is
    nowhere less than ``k.low``."""
    return entrywise(lambda a: _valley(k, a, at, width), a)


def _valley(k: Kernel, a: Ball, at: float, width: float) -> Ball:
    if a.is_exact:
        return Ball.between(*k.bounds(a.mid))
    low, high = a.ends
    (a_low, a_high), (b_low, b_high) = k.bounds(low), k.bounds(high)
    bottom = (low <= at + width) & (high >= at - width)
    lower = torch.minimum(a_low, b_low, out=a_low)
    if bool(bottom.any()):
        lower = torch.where(bottom, lower.clamp_max(k.low), lower)
    return Ball.between(lower, torch.maximum(a_high, b_high, out=a_high))


def step(f: Callable[[Tensor], Tensor], a: Ball) -> Ball:
    """A function that never falls and is computed without rounding (floor, sign)."""
    low, high = a.ends
    return Ball.between(f(low), f(high))


def bent(f: Callable[[Tensor], Tensor], a: Ball) -> Ball:
    """A function that never falls, is computed without rounding, and is the identity between two
    of its fixed points, or constant (relu, clamp)."""
    low, high = a.ends
    b, c = f(low), f(high)
    return pick((b == low) & (c == high), a, Ball.between(b, c))


# --- kernels --------------------------------------------------------------------------------------


def _rsqrt(t: Tensor) -> Tensor:
    return torch.sqrt(t).reciprocal_()


def _sigmoid(t: Tensor) -> Tensor:
    return torch.neg(t).exp_().add_(1.0).reciprocal_()


def _silu(t: Tensor) -> Tensor:
    below = torch.neg(t).exp_().add_(1.0)
    return torch.div(t, below, out=below)


def _gelu(t: Tensor) -> Tensor:
    return (t * math.sqrt(0.5)).erf_().add_(1.0).mul_(t).mul_(0.5)


def _gelu_tanh(t: Tensor) -> Tensor:
    inner = (t * t).mul_(0.044715).mul_(t).add_(t).mul_(math.sqrt(2.0 / math.pi))
    return inner.tanh_().add_(1.0).mul_(t).mul_(0.5)


def _softplus(t: Tensor) -> Tensor:
    return t.abs().neg_().exp_().log1p_().add_(t.clamp_min(0.0))


def _mish(t: Tensor) -> Tensor:
    """t tanh(log(1 + e^t)) = t n / (n + 2) with n = e^t (e^t + 2), nearly t beyond 40."""
    e = torch.exp(t.clamp_max(40.0))
    n = e * (e + 2.0)
    return t * (n / (n + 2.0))


SQRT = Kernel(torch.sqrt, 8.0 * U, low=0.0)
RSQRT = Kernel(_rsqrt, 8.0 * U, low=0.0)
EXP = Kernel(torch.exp, low=0.0)
LOG = Kernel(torch.log)
SIGMOID = Kernel(_sigmoid, LIBM + 8.0 * U, low=0.0, high=1.0)
SILU = Kernel(_silu, LIBM + 8.0 * U, low=-0.2784645427610738)
# In both gelus the rounding of the inner argument z, a few units U, moves erf and tanh by at most
# so many times |z| erf'(z) <= 0.49 and |z| tanh'(z) <= 0.45. What multiplies t is so within 0.6
# LIBM, and the value within that times |t|.
GELU = Kernel(_gelu, 4.0 * U, LIBM, low=-0.1699712074799037)
GELU_TANH = Kernel(_gelu_tanh, 4.0 * U, LIBM, low=-0.1700407505712541)
# exp enters log1p with a relative error, which log1p does not enlarge.
SOFTPLUS = Kernel(_softplus, 2.0 * LIBM + 4.0 * U, low=0.0)
MISH = Kernel(_mish, 6.0 * LIBM, low=-0.3088434130172505)

MONOTONE: Mapping[str, tuple[int, Kernel]] = {
    "exp": (1, EXP),
    "exp2": (1, Kernel(torch.exp2, low=0.0)),
    "expm1": (1, Kernel(torch.expm1, low=-1.0)),
    "log": (1, LOG),
    "log2": (1, Kernel(torch.log2)),
    "log10": (1, Kernel(torch.log10)),
    "log1p": (1, Kernel(torch.log1p)),
    "tanh": (1, Kernel(torch.tanh, low=-1.0, high=1.0)),
    "erf": (1, Kernel(torch.erf, low=-1.0, high=1.0)),
    "erfc": (-1, Kernel(torch.erfc, low=0.0, high=2.0)),
    "sinh": (1, Kernel(torch.sinh)),
    "asinh": (1, Kernel(torch.asinh)),
    "atan": (1, Kernel(torch.atan)),
    "asin": (1, Kernel(torch.asin)),
    "acos": (-1, Kernel(torch.acos, low=0.0)),
    "atanh": (1, Kernel(torch.atanh)),
    "acosh": (1, Kernel(torch.acosh, low=0.0)),
    "sqrt": (1, SQRT),
    "rsqrt": (-1, RSQRT),
    "sigmoid": (1, SIGMOID),
}
"""Monotone functions: direction and kernel."""


def monotone(name: str, a: Ball) -> Ball:
    direction, kernel = MONOTONE[name]
    value = (increasing if direction > 0 else decreasing)(kernel, a)
    if name != "exp" or a.is_finite:
        return value
    return pick(torch.isneginf(a.mid), Ball.exact(torch.zeros_like(a.mid)), value)


# --- the others -----------------------------------------------------------------------------------


def absolute(a: Ball) -> Ball:
    return entrywise(_absolute, a)


def _absolute(a: Ball) -> Ball:
    low, high = a.ends
    crossing = Ball.between(torch.zeros_like(low), torch.maximum(-low, high))
    return pick((low >= 0.0) | (high <= 0.0), Ball(a.mid.abs(), a.rad), crossing)


def relu(a: Ball) -> Ball:
    return bent(lambda t: t.clamp_min(0.0), a)


def gelu(a: Ball) -> Ball:
    return valley(GELU, a, -0.7517915246935645)


def gelu_tanh(a: Ball) -> Ball:
    return valley(GELU_TANH, a, -0.7524614220710162)


def silu(a: Ball) -> Ball:
    return valley(SILU, a, -1.2784645427610738)


def mish(a: Ball) -> Ball:
    return valley(MISH, a, -1.1924312145154952)


def cosh(a: Ball) -> Ball:
    return valley(Kernel(torch.cosh, low=1.0), a, 0.0)


def softplus(a: Ball, beta: float, threshold: float) -> Ball:
    """log(1 + exp(beta t)) / beta, and t itself where PyTorch switches to it: both are inside."""
    scaled = a if beta == 1.0 else mul(Ball.exact(beta).to(a.mid.device), a)
    value = increasing(SOFTPLUS, scaled)
    high = scaled.ends[1]
    if bool((high > threshold).any()):
        switched = bent(lambda t: t.clamp_min(threshold), scaled)
        value = pick(high > threshold, value.hull(switched), value)
    return value if beta == 1.0 else div(value, Ball.exact(beta).to(a.mid.device))


def sine(a: Ball) -> Ball:
    """Slope 1; the kernel's error is at most LIBM min(1, |t|)."""
    size = a.mid.abs()
    return _wave(torch.sin, a, size.clamp_max(1.0) * LIBM + (2.0 * size).clamp_max(FLOOR))


def cosine(a: Ball) -> Ball:
    return _wave(torch.cos, a, torch.full_like(a.mid, LIBM))


def _wave(f: Callable[[Tensor], Tensor], a: Ball, error: Tensor) -> Ball:
    far = a.is_real & ((a.mid.abs() > FARTHEST) | (a.rad >= 1.0))
    unit = Ball(torch.zeros_like(a.mid), torch.ones_like(a.mid))
    wave = Ball.of(f(a.mid), inflate(a.rad + error, 2))
    return pick(far, unit, wave.within(-1.0, 1.0))


def reciprocal(a: Ball) -> Ball:
    """1/a; everything where a may be 0."""
    low, high = a.ends
    k = Kernel(torch.reciprocal, 8.0 * U)
    one_sign = (low > 0.0) | (high < 0.0)
    lower, upper = k.below(high), k.above(low)
    return Ball.between(lower.masked_fill(~one_sign, NAN), upper)


def div(a: Ball, b: Ball) -> Ball:
    """a / b; everything where b may be 0."""
    if not (b.is_exact and b.is_finite and a.is_finite):
        return mul(a, reciprocal(b))
    size = a.mid.abs()
    error = lift(torch.add(a.rad, size, alpha=4.0 * U), size + a.rad)
    # A huge divisor is taken for a smaller one, lest the bound underflow.
    rad = error / b.mid.abs().clamp_max_(2.0**480)
    return Ball.of(a.mid / b.mid, inflate(rad, 4))


def power(a: Ball, p: float) -> Ball:
    """a**p for a number p: of any a where p is whole, of a >= 0 elsewhere."""
    if p == 0.0:
        return Ball.exact(torch.ones_like(a.mid))
    if p == 1.0:
        return a
    if p == 2.0:
        return square(a)
    if p < 0.0 and p == int(p):
        return reciprocal(power(a, -p))
    if p != int(p) or int(p) % 2:
        return (increasing if p > 0.0 else decreasing)(Kernel(lambda t: torch.pow(t, p)), a)
    return valley(Kernel(lambda t: torch.pow(t, p), low=0.0), a, 0.0)


def exponential(base: float, a: Ball) -> Ball:
    """base**a for a number base > 0."""
    k = Kernel(lambda t: torch.pow(base, t), low=0.0)
    return (increasing if base >= 1.0 else decreasing)(k, a)


def rectified(a: Ball, slope: Ball) -> Ball:
    """a where a > 0, slope * a elsewhere."""
    return sub(relu(a), mul(slope, relu(neg(a))))


def maximum(a: Ball, b: Ball) -> Ball:
    (a_low, a_high), (b_low, b_high) = a.ends, b.ends
    either = Ball.between(torch.maximum(a_low, b_low), torch.maximum(a_high, b_high))
    shape = either.shape
    chosen = pick(a_low >= b_high, a.expand(shape), either)
    return pick(b_low >= a_high, b.expand(shape), chosen)


def minimum(a: Ball, b: Ball) -> Ball:
    return neg(maximum(neg(a), neg(b)))


def lerp(a: Ball, b: Ball, weight: Ball) -> Ball:
    return add(a, mul(weight, sub(b, a)))
