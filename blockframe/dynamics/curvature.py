"""The largest eigenvalue of a symmetric matrix that is known only by its products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from numpy.typing import NDArray
from torch import Tensor

_BASIS_BYTES = 4 * 2**30
_EPS = float(np.finfo(np.float64).eps)


@frozen
class Eigenpair:
    """The largest algebraic eigenvalue, as far as Lanczos came.

    Attributes:
        value: the Rayleigh quotient of ``vector``; up to rounding no larger than the eigenvalue.
        residual: ‖H v − value·v‖. An eigenvalue lies within it of ``value``.
        products: products with the matrix that it took.
        converged: whether the residual came below the tolerance.
        vector: (P,), of norm 1.
    """

    value: float
    residual: float
    products: int
    converged: bool
    vector: Tensor = field(eq=False, repr=False)


def top_eigenpair(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    tolerance: float = 1e-5,
    products: int = 200,
    basis: int | None = None,
) -> Eigenpair:
    """Lanczos with full re-orthogonalisation for the largest *algebraic* eigenvalue.

    Stops when the residual bound |β_m s_m| is below ``tolerance`` × |value|, when the Krylov space
    is invariant (then it holds every eigenvalue that ``start`` has a share in), or after
    ``products`` products. When ``basis`` vectors are held (by default as many as 4 GiB take) the
    better half of the Ritz vectors is kept and the iteration goes on: the Krylov–Schur restart of
    Stewart, SIAM J. Matrix Anal. Appl. 23 (2001) 601, which for a symmetric matrix is thick-restart
    Lanczos. Full re-orthogonalisation gives the projected matrix whole, so a restart is free.

    Args:
        product: v ↦ H v for vectors (P,), H symmetric.
        start: (P,), not zero; it should have a share in every eigenvector (`mixed_start`).

    A product that is not finite ends the search: value and residual NaN, not converged.
    """
    size = start.numel()
    room = basis or max(16, min(products, _BASIS_BYTES // (8 * size)))
    room = min(room, size)
    q = torch.empty((min(room, 16), size), dtype=start.dtype, device=start.device)
    q[0] = start / torch.linalg.vector_norm(start)
    t = np.zeros((room, room))
    last = 0  # index of the newest basis vector
    pair = Eigenpair(math.nan, math.nan, 0, False, q[0].clone())
    for used in range(1, products + 1):
        held = q[: last + 1]
        w, column, beta = _orthogonalise(product(held[last]).to(q.dtype), held)
        if not (np.isfinite(column).all() and math.isfinite(beta)):
            return Eigenpair(math.nan, math.nan, used, False, held[0].clone())
        t[: last + 1, last] = t[last, : last + 1] = column
        values, vectors = np.linalg.eigh(t[: last + 1, : last + 1])
        value, residual = float(values[-1]), beta * abs(float(vectors[-1, -1]))
        noise = 8 * _EPS * float(np.abs(values).max())
        invariant = beta <= noise or last + 1 == size
        converged = invariant or residual <= max(tolerance * abs(value), noise)
        if converged or used == products:
            ritz = _combine(vectors[:, -1:], held)[0]
            ritz = ritz / torch.linalg.vector_norm(ritz)
            return Eigenpair(value, residual, used, converged, ritz)
        if last + 1 == room:
            keep = max(1, room // 2)
            q[:keep] = _combine(vectors[:, -keep:], held)
            t[:] = 0.0
            t[:keep, :keep] = np.diag(values[-keep:])
            last = keep - 1
        last += 1
        if last == q.shape[0]:
            q = torch.cat([q, torch.empty_like(q)])[:room]
        q[last] = w / beta
    return pair


def mixed_start(size: int, *, seed: int, warm: Tensor | None = None) -> Tensor:
    """A random unit vector (size,), float64, on CPU; or ``warm`` with a little of it mixed in.

    The random part keeps a share in every eigenvector: when two eigenvalues cross along a
    trajectory, the old Ritz vector alone would hold on to the one that is no longer the largest.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(size, generator=generator, dtype=torch.float64)
    noise /= torch.linalg.vector_norm(noise)
    if warm is None:
        return noise
    direction: Tensor = warm / torch.linalg.vector_norm(warm)
    return direction + 0.1 * noise.to(warm.device)


def _orthogonalise(w: Tensor, held: Tensor) -> tuple[Tensor, NDArray[Any], float]:
    """``w`` less its part in the rows of ``held``, that part's coefficients, and the norm left.

    Twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6-9).
    """
    first = held @ w
    w = w - first @ held
    second = held @ w
    w = w - second @ held
    coefficients: NDArray[Any] = (first + second).double().cpu().numpy()
    return w, coefficients, float(torch.linalg.vector_norm(w))


def _combine(vectors: NDArray[Any], held: Tensor) -> Tensor:
    """Rows: the columns of ``vectors`` (m, k) as combinations of the rows of ``held`` (m, P)."""
    weights = torch.as_tensor(vectors.T.copy(), dtype=held.dtype, device=held.device)
    return torch.mm(weights, held)
