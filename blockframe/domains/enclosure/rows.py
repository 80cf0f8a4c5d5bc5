"""Functions of rows of balls: softmax, norms, products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from blockframe.domains.enclosure.ball import (
    INF,
    ULP,
    Ball,
    U,
    add,
    entrywise,
    gamma,
    linear,
    mul,
    pick,
    square,
    sub,
)
from blockframe.domains.enclosure.blocks import in_blocks
from blockframe.domains.enclosure.functions import (
    EXP,
    FLOOR,
    LIBM,
    LOG,
    RSQRT,
    SQRT,
    absolute,
    div,
    increasing,
)

Dims = Sequence[int]


def total(a: Ball, dims: Dims, keepdim: bool = False) -> Ball:
    """Sums over ``dims`` (none: over all)."""
    return linear(lambda t: t.sum(list(dims), keepdim=keepdim), [a], entries(a, dims))


def mean(a: Ball, dims: Dims, keepdim: bool = False) -> Ball:
    return linear(lambda t: t.mean(list(dims), keepdim=keepdim), [a], entries(a, dims) + 2)


def entries(a: Ball, dims: Dims) -> int:
    """Entries of one row (none: of all)."""
    if not dims or a.mid.dim() == 0:
        return a.mid.numel()
    return math.prod(a.shape[d] for d in dims)


class _Exponentials:
    """exp(x - s) along a dimension, s the greatest midpoint, and sums without one entry.

    ``low``, ``high``: ends of the exponentials; ``others_low``, ``others_high``: of the sum of all
    but the entry itself.
    """

    def __init__(self, a: Ball, dim: int) -> None:
        self.top = a.mid.amax(dim, keepdim=True)
        self.shifted = sub(a, Ball.exact(self.top))
        low, high = self.shifted.ends
        self.low, self.high = EXP.below(low), EXP.above(high)
        if not a.is_finite:
            self.high = self.high.masked_fill(torch.isneginf(high), 0.0)
        slack = gamma(a.shape[dim] if a.mid.dim() else 1) + 8.0 * U
        self.sum_low = self.low.sum(dim, keepdim=True) * (1.0 - slack)
        self.sum_high = self.high.sum(dim, keepdim=True) * (1.0 + slack)
        self.others_low = (self.sum_low - self.low - ULP * self.sum_low).clamp_min(0.0)
        self.others_high = self.sum_high - self.high + ULP * self.sum_high


def softmax(a: Ball, dim: int) -> Ball:
    return entrywise(lambda a: _softmax(a, dim), a, rows=[dim])


def _softmax(a: Ball, dim: int) -> Ball:
    """An entry e_i / (e_i + sum of the others) rises with x_i and falls with the others, so its
    bounds are attained at ends of the balls. Entries of minus infinity give 0."""
    e = _Exponentials(a, dim)
    high = e.high / (e.high + e.others_low) * (1.0 + 8.0 * U) + e.high.clamp_max(FLOOR)
    low = e.low / (e.low + e.others_high) * (1.0 - 8.0 * U) - FLOOR
    if not a.is_finite or bool(torch.isinf(e.sum_high).any()):
        wide = ~torch.isnan(e.sum_high)  # exponentials that overflow: the bounds are 0 and 1
        high = torch.where(wide & torch.isnan(high), 1.0, high)
        low = torch.where(wide & torch.isnan(low), 0.0, low)
    return Ball.between(low.clamp(0.0, 1.0), high.clamp(0.0, 1.0))


def safe_softmax(a: Ball, dim: int) -> Ball:
    """Softmax, and 0 in rows that are minus infinity throughout."""
    gone = torch.isneginf(a.mid).all(dim, keepdim=True).expand(a.shape)
    return pick(gone, Ball.exact(torch.zeros_like(a.mid)), softmax(a, dim))


def log_softmax(a: Ball, dim: int) -> Ball:
    return entrywise(lambda a: _log_softmax(a, dim), a, rows=[dim])


def _log_softmax(a: Ball, dim: int) -> Ball:
    """x_i - s - log(e_i + sum of the others): monotone as softmax is."""
    e = _Exponentials(a, dim)
    low, high = e.shifted.ends
    # The entry's own exponential, at the end in question, from its other side.
    high_from_below = (e.high * (1.0 - 3.0 * LIBM) - 3.0 * FLOOR).clamp_min_(0.0)
    low_from_above = e.low * (1.0 + 3.0 * LIBM) + 3.0 * FLOOR
    least = LOG.below((high_from_below + e.others_low) * (1.0 - 4.0 * U))
    greatest = LOG.above((low_from_above + e.others_high) * (1.0 + 4.0 * U))
    value = Ball.between(_down(low - greatest), _up(high - least).clamp_max(0.0))
    gone = torch.isneginf(e.shifted.mid) & torch.isfinite(least) & torch.isfinite(greatest)
    return value if a.is_finite else pick(gone, Ball.exact(e.shifted.mid), value)


def logsumexp(a: Ball, dims: Dims, keepdim: bool = False) -> Ball:
    rest = [d for d in range(a.mid.dim()) if d not in {d % a.mid.dim() for d in dims}]
    rows = a.move(lambda t: t.permute(*rest, *(d for d in dims)).flatten(len(rest)))
    e = _Exponentials(rows, -1)
    log = Ball.between(LOG.below(e.sum_low), LOG.above(e.sum_high))
    value = add(log, Ball.exact(e.top)).move(lambda t: t.squeeze(-1))
    if not keepdim:
        return value
    kept = [1 if d not in rest else n for d, n in enumerate(a.shape)]
    return value.move(lambda t: t.reshape(kept))


def variance(a: Ball, dims: Dims, correction: float, keepdim: bool = False) -> tuple[Ball, Ball]:
    """Variance and mean; everything where there are not more entries than ``correction``."""
    middle = mean(a, dims, keepdim=True)
    squares = total(square(sub(a, middle)), dims, keepdim=keepdim)
    count = entries(a, dims) - correction
    middle = middle if keepdim else middle.move(lambda t: t.reshape(squares.shape))
    if count <= 0:
        return Ball.everything(squares.shape, a.mid.device), middle
    shared = div(squares, Ball.exact(float(count)).to(a.mid.device))
    return shared.within(0.0, INF), middle


def deviation(a: Ball, dims: Dims, correction: float, keepdim: bool = False) -> tuple[Ball, Ball]:
    spread, middle = variance(a, dims, correction, keepdim)
    return increasing(SQRT, spread), middle


def normalize(
    a: Ball,
    dims: Dims,
    eps: float,
    weight: Ball | None = None,
    bias: Ball | None = None,
    *,
    centre: bool,
) -> tuple[Ball, Ball, Ball]:
    """Rows over the root of their mean square plus eps, after centring if so asked, times
    ``weight`` plus ``bias``; their mean (of no meaning without centring) and the reciprocal root,
    dimensions kept. Before scaling no entry is beyond sqrt(n)."""
    edge = math.sqrt(entries(a, dims)) * (1.0 + 4.0 * ULP)
    given = [b for b in (a, weight, bias) if b is not None]

    def rule(*parts: Tensor) -> tuple[Tensor, ...]:
        rows, *rest = (Ball(m, r) for m, r in zip(parts[::2], parts[1::2], strict=True))
        middle = mean(rows, dims, keepdim=True)
        rows = sub(rows, middle) if centre else rows
        squares = mean(square(rows), dims, keepdim=True).within(0.0, INF)
        low, high = add(squares, Ball.exact(float(eps)).to(a.mid.device)).ends
        root = Ball.between(RSQRT.below(high), RSQRT.above(low.clamp_min(eps)))
        value = mul(rows, root).within(-edge, edge)
        value = value if weight is None else mul(value, rest.pop(0))
        value = value if bias is None else add(value, rest.pop(0))
        return value.mid, value.rad, middle.mid, middle.rad, root.mid, root.rad

    found = in_blocks(rule, [t for b in given for t in (b.mid, b.rad)], dims)
    return Ball(*found[:2]), Ball(*found[2:4]), Ball(*found[4:])


def affine(a: Ball, weight: Ball | None, bias: Ball | None) -> Ball:
    a = a if weight is None else mul(a, weight)
    return a if bias is None else add(a, bias)


def group_norm(
    a: Ball, groups: int, weight: Ball | None, bias: Ball | None, eps: float
) -> tuple[Ball, Ball, Ball]:
    """Channels (dimension 1) normalised in groups; mean and reciprocal root are (N, groups)."""
    count = a.shape[0]
    rows, middle, root = normalize(
        a.move(lambda t: t.reshape(count, groups, -1)), [-1], eps, centre=True
    )
    shape = [1, -1] + [1] * (a.mid.dim() - 2)
    scale, shift = (
        None if b is None else b.move(lambda t: t.reshape(shape)) for b in (weight, bias)
    )
    value = affine(rows.move(lambda t: t.reshape(a.shape)), scale, shift)
    flat = [b.move(lambda t: t.reshape(count, groups)) for b in (middle, root)]
    return value, flat[0], flat[1]


def vector_norm(a: Ball, order: float, dims: Dims, keepdim: bool = False) -> Ball | None:
    """The norms of order 1, 2 and infinity; None for others."""
    if order == 1.0:
        return total(absolute(a), dims, keepdim)
    if order == INF:
        low, high = absolute(a).ends
        rows = list(dims) or list(range(a.mid.dim()))
        return Ball.between(low.amax(rows, keepdim), high.amax(rows, keepdim))
    if order != 2.0:
        return None
    return increasing(SQRT, total(square(a), dims, keepdim).within(0.0, INF))


def multiplied(a: Ball, dim: int, keepdim: bool = False) -> Ball:
    """Products over one dimension, of halves with halves."""
    while a.shape[dim] > 1:
        half = a.shape[dim] // 2
        pairs = mul(_narrow(a, dim, 0, half), _narrow(a, dim, half, half))
        rest = _narrow(a, dim, 2 * half, a.shape[dim] - 2 * half)
        a = _joined(pairs, rest, dim)
    if a.shape[dim] == 0:
        shape = [1 if d == dim % a.mid.dim() else n for d, n in enumerate(a.shape)]
        a = Ball.exact(torch.ones(shape, dtype=torch.float64, device=a.mid.device))
    return a if keepdim else a.move(lambda t: t.squeeze(dim))


def running_product(a: Ball, dim: int) -> Ball:
    """Products of all entries so far, in steps of doubling length."""
    count, length = a.shape[dim], 1
    while length < count:
        rest = count - length
        later = mul(_narrow(a, dim, length, rest), _narrow(a, dim, 0, rest))
        a = _joined(_narrow(a, dim, 0, length), later, dim)
        length *= 2
    return a


def _joined(a: Ball, b: Ball, dim: int) -> Ball:
    return Ball(torch.cat([a.mid, b.mid], dim), torch.cat([a.rad, b.rad], dim))


def _narrow(a: Ball, dim: int, start: int, length: int) -> Ball:
    return a.move(lambda t: t.narrow(dim, start, length))


def _down(t: Tensor) -> Tensor:
    return torch.nextafter(t, t.new_full((), -INF))


def _up(t: Tensor) -> Tensor:
    return torch.nextafter(t, t.new_full((), INF))
