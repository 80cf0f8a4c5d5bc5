"""That every matrix near a given one is nonsingular, proved anew (docs/theory section 3).

Three proofs, each enough by itself:

* Arb (python-flint), where it is installed: an enclosure of the inverse exists.
* Doubles: ‖I - X M‖ < 1 for an approximate inverse X and every M in the ball (Neumann), where what
  rounding can do is bounded: a sum of n products errs by at most γ_n = nu/(1 - nu) times the sum of
  their absolute values, u = 2^-53, in whatever order and fused or not (N. J. Higham, Accuracy and
  Stability of Numerical Algorithms, section 3.1). Underflow, gradual or to zero, vanishes beside
  what is added for rounding, because no number above 2^500 is let in.
* Exactly, for a single matrix: full rank modulo the prime 2^31 - 1. A double is an integer times a
  power of two, so reduction is a ring homomorphism, and a determinant that is not 0 modulo a prime
  is not 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

if TYPE_CHECKING:
    from types import ModuleType

Array = NDArray[np.float64]

UNIT = 2.0**-53
HUGE = 2.0**500
PRIME = 2**31 - 1
LARGEST = 4096
"""Rows of a matrix that is re-checked; its inverse costs n³."""
LARGEST_ARB, LARGEST_EXACT = 300, 512


@frozen
class Nonsingular:
    """That every matrix of a ball is, and by which arithmetic that was proved.

    Attributes:
        least: proved lower bound of all their least singular values; 0: none was found.
        most: upper bound of that of the middle; inf: none was found.
    """

    method: str
    least: float = 0.0
    most: float = math.inf


def prove(middle: Array, radius: float) -> Nonsingular | None:
    """That every matrix whose entries differ by at most ``radius`` from ``middle`` is nonsingular.

    Args:
        middle: (n, n), finite, n at most `LARGEST`.
        radius: finite, at least 0.
    """
    size = len(middle)
    library = _flint() if size <= LARGEST_ARB else None
    by_arb = library is not None and _by_arb(library, middle, radius)
    proof = _by_doubles(middle, radius)
    if proof is not None:
        return evolve(proof, method="Arb") if by_arb else proof
    if by_arb:
        return Nonsingular("Arb")
    if radius == 0.0 and size <= LARGEST_EXACT and _exactly(middle):
        return Nonsingular("exact arithmetic modulo 2^31 - 1")
    return None


def _flint() -> ModuleType | None:
    try:
        import flint
    except ImportError:
        return None
    module: ModuleType = flint
    return module


def _by_arb(flint: Any, middle: Array, radius: float) -> bool:
    size = len(middle)
    with flint.ctx.workprec(128):
        entries = [flint.arb(float(x), radius) for x in middle.ravel()]
        try:
            flint.arb_mat(size, size, entries).inv()
        except ZeroDivisionError:  # Arb's word for "not proved"
            return False
    return True


def _by_doubles(middle: Array, radius: float) -> Nonsingular | None:
    """The proof that ‖I - X M‖ < 1, or None."""
    n = len(middle)
    try:
        with np.errstate(all="ignore"):
            inverse = np.linalg.inv(middle)
    except np.linalg.LinAlgError:
        return None
    size, sizes = np.abs(inverse), np.abs(middle)
    if not (size.max() <= HUGE and sizes.max() <= HUGE and radius <= HUGE):  # nor a NaN
        return None
    # |I - X M| entry by entry: what is computed, what rounding hides, what the ball adds.
    # 2nu exceeds γ_n by enough for the rounding of |X||M|; 2nu more is for I - X M, and underflow.
    rounding = 2 * n * UNIT * (size @ sizes + 1.0)
    bound = np.abs(np.eye(n) - inverse @ middle) + rounding + size.sum(axis=1)[:, None] * radius
    # Sums of non-negative numbers: the computed ones fall short by a factor 1 - γ_3n at most.
    up = 1.0 + 8 * (n + 4) * UNIT
    rows, columns = float(bound.sum(axis=1).max()) * up, float(bound.sum(axis=0).max()) * up
    # ‖.‖_2 is at most the geometric mean of the row and the column norm.
    both = math.sqrt(rows * columns) * up
    norm = math.sqrt(float(size.sum(axis=1).max()) * float(size.sum(axis=0).max())) * up**2
    norm = min(norm, _norm(inverse))
    if not min(rows, columns, both) < 1.0:
        return None
    least = max((1.0 - both) / norm * (1.0 - 16 * UNIT), 0.0)
    return Nonsingular("outward rounded doubles", least, _most(middle, inverse))


def _norm(matrix: NDArray[Any]) -> float:
    """‖A Aᵀ‖_F^½, at least ‖A‖_2, rounded up; inf where squares may have underflowed."""
    n = len(matrix)
    up = 1.0 + 4 * (n * n + 8) * UNIT  # sums of n² squares, in any order
    square = float((matrix * matrix).sum()) * up
    if not square > 2.0**-400:
        return math.inf
    product = matrix @ matrix.T
    with np.errstate(over="ignore"):
        squares = product * product
    return math.sqrt(math.sqrt(float(squares.sum())) * up + 2 * n * UNIT * square) * up


def _most(middle: Array, inverse: NDArray[Any]) -> float:
    """‖M v‖ for a unit vector v, at least σ_min(M): v from some steps of the power method."""
    v = np.linspace(1.0, 2.0, len(middle))
    with np.errstate(all="ignore"):
        for _ in range(50):
            v = inverse @ v
            v = inverse.T @ (v / np.linalg.norm(v))
            v /= np.linalg.norm(v)
        v = inverse @ v
        v /= np.linalg.norm(v)
        rounding = 4 * len(v) * UNIT * float(np.linalg.norm(middle))
        most = float(np.linalg.norm(middle @ v)) + rounding
    return most if math.isfinite(most) else math.inf


def _exactly(middle: Array) -> bool:
    fractions, exponents = np.frexp(middle)
    digits = (fractions * 2.0**53).astype(np.int64) % PRIME
    # 2^31 = 1 modulo 2^31 - 1. Every product of two residues is below 2^62.
    rows = digits * (np.int64(1) << ((exponents.astype(np.int64) - 53) % 31)) % PRIME
    for k in range(len(rows)):
        pivots = np.flatnonzero(rows[k:, k])
        if not len(pivots):
            return False
        rows[[k, k + pivots[0]]] = rows[[k + pivots[0], k]]
        head = rows[k] * pow(int(rows[k, k]), -1, PRIME) % PRIME
        rows[k + 1 :] = (rows[k + 1 :] - np.outer(rows[k + 1 :, k], head)) % PRIME
    return True
