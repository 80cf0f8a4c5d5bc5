"""Norms of tensors, rounded up: what computing them in floating point may have lost is added.

Trusted is IEEE double precision, sums taken in any order (docs/theory, Rigorous arithmetic).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blockframe.atoms.interval import up

_ROUNDOFF = 2.0**-53
_SQUARINGS = 8
"""Of a matrix of rank k, its operator norm then comes out at most k^(1/512) times too large."""


def largest(tensor: Tensor) -> float:
    """max |t|; infinity where an entry is not a finite number."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.detach().resolve_conj())
    size = float(tensor.detach().to(torch.float64).abs().max()) if tensor.numel() else 0.0
    return size if math.isfinite(size) else math.inf


def frobenius(tensor: Tensor) -> float:
    """An upper bound of the Frobenius norm of a real tensor; infinity where it overflows, or where
    an entry is not a finite number."""
    size = largest(tensor)
    if not 0.0 < size < math.inf:
        return size
    # By a power of two, which is exact: no square overflows, and none that counts underflows.
    exponent = max(math.frexp(size)[1], -1000)
    scaled = tensor.detach().to(torch.float64) * 2.0**-exponent
    square = float(scaled.square().sum())
    try:
        bound = up(math.sqrt(square) * (1.0 + _lost(tensor.numel())))
        return up(math.ldexp(bound, exponent))  # rounded where the result is subnormal
    except OverflowError:
        return math.inf


def spectral(matrix: Tensor) -> float:
    """An upper bound of the operator norm of a real matrix (m, n), at most ``min(m, n)^(1/512)``
    times the norm itself; infinity as of `frobenius`."""
    size = frobenius(matrix)
    if not 0.0 < size < math.inf:
        return size
    wide = matrix.detach().to(torch.float64)
    return _operator(wide if wide.shape[0] <= wide.shape[1] else wide.T, size, _SQUARINGS)


def _operator(a: Tensor, size: float, squarings: int) -> float:
    """|A|_2 from |A|_2^2 = |A A^T|_2, again and again, and |.|_2 <= |.|_F in the end.

    ``size`` >= |A|_F, > 0.
    """
    if not squarings:
        return size
    a = a / size
    square = a @ a.T
    inner = _operator(square, frobenius(square), squarings - 1) if bool(square.any()) else 0.0
    # The product is off by at most |A|_F^2 <= 1 times this, the quotient by two units of roundoff.
    root = up(math.sqrt(up(inner + _lost(a.shape[1]))))
    return min(size, up(size * up(root + 4 * _ROUNDOFF)))


def _lost(n: int) -> float:
    """Relative error of a sum of n products, or of the norm of n entries."""
    return 2.0 * (n + 8) * _ROUNDOFF


__all__ = ["frobenius", "largest", "spectral"]
