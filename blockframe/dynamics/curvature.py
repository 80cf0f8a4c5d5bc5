"""The largest eigenvalue of a symmetric matrix that is known only by its products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from attrs import field, frozen
from numpy.typing import NDArray
from torch import Tensor

BASIS_BYTES = 4 * 2**30
"""What the basis of a search may take."""

_MOST, _LEAST = 48, 4  # vectors in a basis; with more of them a restart gains little
_CHUNK = 2**20  # sums over more entries than these are added up in float64

Product = Callable[[Tensor], Tensor]
Floats = NDArray[np.float64]


@frozen
class Eigenpair:
    """The largest algebraic eigenvalue, as far as Lanczos came.

    Attributes:
        value: the Rayleigh quotient of ``vector``; up to rounding no larger than the eigenvalue.
        residual: ‖H v − value·v‖. An eigenvalue lies within it of ``value``.
        error: an estimate of how far, min(residual, residual²/gap) (Parlett, The Symmetric
            Eigenvalue Problem, section 11-7), with the gap to the next eigenvalue as far as it is
            known.
        products: products with the matrix that it took.
        converged: whether it is as close as was asked for.
        cold: whether a random vector was searched from. A residual speaks of *an* eigenvalue; that
            none is larger is known only as far as such a search would have met it.
        vector: (P,), of norm 1.
        scale: the largest norm of a product with a vector of the basis: rounding moves every
            product by some units of roundoff of it.
    """

    value: float
    residual: float
    error: float
    products: int
    converged: bool
    cold: bool
    vector: Tensor = field(eq=False, repr=False)
    scale: float = 0.0


@frozen
class Accuracy:
    """When a Ritz pair is close enough.

    Attributes:
        relative: the estimated error, over |value|.
        residual: the residual, over |value|.
        threshold: a number that a conclusion compares the eigenvalue with: the residual, which
            is a bound, must not leave open on which side of it the eigenvalue is, down to
            `FINEST` × |value|.
    """

    relative: float = 1e-3
    residual: float = math.inf
    threshold: float | None = None

    def met(self, value: float, residual: float, error: float) -> bool:
        size = abs(value)
        if error > self.relative * size or residual > self.residual * size:
            return False
        undecided = self.threshold is not None and abs(value - self.threshold) < 2 * residual
        return not undecided or residual <= FINEST * size


COLD = 1e-3
"""The relative residual that a cold search is asked for. It may come close to the second eigenvalue
first, where its random start has little of the first; the further it goes, the more rarely: of 400
searches among eigenvalues like those of a network one did at 5e-3, and none at 1e-3."""
FINEST = 1e-5
"""A relative residual below which nothing is searched for because of a threshold."""


@frozen
class Found:
    """A pair, and what the next search can begin with.

    Attributes:
        ahead: (P,), ``pair.vector`` after one step of the power method, which costs no product.
        second: the next eigenvalue, rather too large than too small; None if not looked for.
        rival: (P,), a vector for it.
    """

    pair: Eigenpair
    ahead: Tensor = field(eq=False, repr=False)
    second: float | None = None
    rival: Tensor | None = field(default=None, eq=False, repr=False)


def top_eigenpair(
    product: Product,
    starts: Sequence[Tensor],
    accuracy: Accuracy,
    *,
    cold: bool = True,
    second: Callable[[float], float] | None = None,
    products: int = 200,
    basis_bytes: int = BASIS_BYTES,
    basis: int | None = None,
) -> Found:
    """Lanczos with full re-orthogonalisation for the largest *algebraic* eigenvalue.

    The search begins with one product for each of ``starts``, and goes on along the residual of the
    Ritz vector that it wants. What a product adds to the basis is orthogonal to it, so the residual
    is read off the projected matrix whatever the starts are (band Lanczos: Ruhe, Math. Comp. 33
    (1979) 680; with one start it is Lanczos' method). When the basis is full the better half of the
    Ritz vectors is kept: the Krylov–Schur restart of Stewart, SIAM J. Matrix Anal. Appl. 23 (2001)
    601, which for a symmetric matrix is thick-restart Lanczos.

    It stops when ``accuracy`` is met, when the space is invariant (then it holds every eigenvalue
    that a start has a share in), or after ``products`` products. The gap in the error estimate is
    that to the second Ritz value. In a cold search its residual is added to that, because
    early Ritz values are far below what they converge to: without it the search stops now and then
    at the second eigenvalue. In another one half the gap is taken, as the second eigenvalue is
    only followed; and the first is found once the second is not above it.

    Args:
        product: v ↦ H v for vectors (P,), H symmetric.
        starts: vectors (P,), not zero. Their dtype is that of the basis.
        cold: the last start is a random one. With others before it, the search goes on until the
            second Ritz pair has come to an eigenvalue too, so that one that they miss is met.
        second: gives from the largest Ritz value what the second eigenvalue is not above, where
            that is known; otherwise it is looked for among the Ritz values.
        basis_bytes, basis: the most that the basis takes, or vectors in it.

    A product that is not finite ends the search: value and residual NaN, not converged.
    """
    space = Space(starts, _room(starts[0], len(starts), basis_bytes, basis))
    several = len(starts) > 1
    for used in range(1, products + 1):
        if not space.multiply(product):
            nothing = Eigenpair(
                math.nan, math.nan, math.nan, used, False, cold, space.basis[0].clone()
            )
            return Found(nothing, nothing.vector)
        if used < space.begun and used < products:
            continue
        ritz = space.ritz(wary=cold)
        value, residual = float(ritz.values[-1]), float(ritz.residuals[-1])
        known = [ritz.second] * (len(ritz.values) > 1) + ([second(value)] if second else [])
        gap = value - max(known, default=value)
        error = _error(residual, gap if cold else gap / 2)
        enough = accuracy.met(value, residual, error)
        enough = enough and (not cold or residual <= COLD * abs(value))
        met = residual <= ritz.noise or enough
        if several and not cold:
            error = max(error, ritz.second - value)
        done = not space.open or (met and (not several or _settled(ritz, accuracy, cold)))
        if done or used == products:
            pair = Eigenpair(
                value, residual, error, used, done, cold, space.vector(ritz, -1), space.scale
            )
            if len(ritz.values) == 1:
                return Found(pair, space.ahead(ritz, -1))
            return Found(pair, space.ahead(ritz, -1), ritz.second, space.ahead(ritz, -2))
        space.turn(ritz.couplings[:, -2 if met and len(ritz.values) > 1 else -1])
        space.restart_if_full(ritz)
    raise AssertionError("products must be positive")


def random_start(like: Tensor, seed: int) -> Tensor:
    """A random unit vector of the shape, dtype and device of ``like``; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(like.numel(), generator=generator, dtype=like.dtype)
    return noise.div_(_norm(noise)).to(like.device)


@frozen
class Ritz:
    """Of the vectors whose products are known, in ascending order.

    Attributes:
        couplings: (open, m): the residuals, in the vectors whose products are not known.
        second: the second largest value, with what may be missing to its eigenvalue; −∞ if none.
        noise: no residual gets below it.
    """

    values: Floats
    vectors: Floats
    couplings: Floats
    residuals: Floats
    second: float
    noise: float


class Space:
    """An orthonormal basis: ``done`` vectors whose products are known, then the open ones.

    Every known product lies in the span of the basis, so that ``projected``, of which the rows and
    columns of the done vectors are known, says everything about them.
    """

    def __init__(self, starts: Sequence[Tensor], room: int) -> None:
        size = starts[0].numel()
        self.basis = torch.empty((room, size), dtype=starts[0].dtype, device=starts[0].device)
        self.eps = float(torch.finfo(starts[0].dtype).eps)
        self.projected: Floats = np.zeros((room, room))
        self.done = self.held = 0
        for start in starts[:size]:
            direction = start / _norm(start)
            rest, _, norm = _orthogonalise(direction, self.basis[: self.held])
            if norm > 1e-6:
                self.basis[self.held] = rest / norm
                self.held += 1
        self.begun = self.held
        self.scale = 0.0

    @property
    def open(self) -> int:
        return self.held - self.done

    def multiply(self, product: Product) -> bool:
        """Do the first of the open vectors; False if its product is not finite."""
        done, held, t = self.done, self.held, self.projected
        w = product(self.basis[done]).to(self.basis.dtype)
        rest, column, beta = _orthogonalise(w, self.basis[:held])
        if not (np.isfinite(column).all() and math.isfinite(beta)):
            return False
        t[:held, done] = t[done, :held] = column
        self.scale = max(self.scale, float(np.linalg.norm(column)))
        if beta > 8 * self.eps * self.scale and held < self.basis.shape[1]:
            self.basis[held] = rest / beta
            t[held, done] = t[done, held] = beta
            self.held += 1
        self.done += 1
        return True

    def ritz(self, *, wary: bool) -> Ritz:
        done, t = self.done, self.projected
        values, vectors = np.linalg.eigh(t[:done, :done])
        couplings = t[done : self.held, :done] @ vectors
        residuals = np.linalg.norm(couplings, axis=0)
        second = -math.inf
        if done > 1:
            r = float(residuals[-2])
            # Where the vector was followed, the part of the residual along near eigenvectors is
            # small, and the rest, along small eigenvalues, moves the value by about r²/value.
            missing = r if wary else min(r, 4 * r * r / max(abs(float(values[-1])), 1e-300))
            second = float(values[-2]) + missing
        noise = 8 * self.eps * float(np.abs(values).max())
        return Ritz(values, vectors, couplings, residuals, second, noise)

    def turn(self, coupling: Floats) -> None:
        """Turn the open vectors so that the first is along the residual ``coupling``."""
        size = float(np.linalg.norm(coupling))
        if self.open < 2 or size == 0:
            return
        normal = coupling / size
        normal[0] += math.copysign(1.0, normal[0])
        reflection = np.eye(self.open) - 2 * np.outer(normal, normal) / (normal @ normal)
        done, held, t = self.done, self.held, self.projected
        _combine(reflection, self.basis[done:held], self.basis[done:held])
        t[done:held, :done] = reflection @ t[done:held, :done]
        t[:done, done:held] = t[done:held, :done].T

    def restart_if_full(self, ritz: Ritz) -> None:
        """Keep the better half of the Ritz vectors where there is no room for another product."""
        if self.held < len(self.basis):
            return
        done, held, t = self.done, self.held, self.projected
        keep = max(1, done // 2)
        couplings = t[done:held, :done] @ ritz.vectors[:, -keep:]
        moved = np.eye(held)[done:]
        chosen = np.vstack([np.pad(ritz.vectors[:, -keep:].T, ((0, 0), (0, held - done))), moved])
        _combine(chosen, self.basis[:held], self.basis[: len(chosen)])
        t[:] = 0.0
        t[:keep, :keep] = np.diag(ritz.values[-keep:])
        self.done, self.held = keep, len(chosen)
        t[keep : self.held, :keep] = couplings
        t[:keep, keep : self.held] = couplings.T

    def vector(self, ritz: Ritz, index: int) -> Tensor:
        weights = torch.from_numpy(ritz.vectors[:, index].copy()).to(self.basis)
        vector = weights @ self.basis[: self.done]
        return vector.div_(_norm(vector))

    def ahead(self, ritz: Ritz, index: int) -> Tensor:
        """A Ritz vector after a step of the power method: H y = value·y + residual."""
        vector, value = self.vector(ritz, index), float(ritz.values[index])
        if not self.open or value <= ritz.residuals[index]:
            return vector
        weights = torch.from_numpy(ritz.couplings[:, index].copy()).to(self.basis)
        vector = torch.addmv(vector, self.basis[self.done : self.held].T, weights / value)
        return vector.div_(_norm(vector))


def _room(like: Tensor, starts: int, basis_bytes: int, basis: int | None) -> int:
    fitting = basis or min(_MOST, basis_bytes // (like.element_size() * like.numel()))
    return max(_LEAST if basis is None else 1, fitting, starts + 2)


def _error(residual: float, gap: float) -> float:
    return min(residual, residual * residual / gap) if gap > 0 else residual


def _settled(ritz: Ritz, accuracy: Accuracy, cold: bool) -> bool:
    """Whether the second eigenvalue, or what is on the way to it, is not above the first.

    Of a vector that was followed it is enough that its Ritz value is below by what is missing. A
    random one must have come to an eigenvalue: nearly, if that is far below.
    """
    if len(ritz.values) < 2:
        return False
    top, value, residual = (float(x) for x in (*ritz.values[-1:-3:-1], ritz.residuals[-2]))
    if not cold:
        return ritz.second - top <= accuracy.relative * abs(top) or residual <= ritz.noise
    gap = float(ritz.values[-3] + ritz.residuals[-3]) if len(ritz.values) > 2 else value
    error = _error(residual, value - gap)
    coarse = error <= 1e-2 * abs(top) and value + 2 * error < top
    return coarse or error <= max(accuracy.relative * abs(top), ritz.noise)


def _chunks(size: int) -> Iterator[slice]:
    return (slice(a, min(a + _CHUNK, size)) for a in range(0, size, _CHUNK))


def _dots(held: Tensor, w: Tensor) -> Tensor:
    """Inner products of the rows of ``held`` with ``w``, float64."""
    total = torch.zeros(len(held), dtype=torch.float64, device=held.device)
    for part in _chunks(w.numel()):
        total += (held[:, part] @ w[part]).double()
    return total


def _norm(w: Tensor) -> float:
    return math.sqrt(float(_dots(w[None], w)))


def _orthogonalise(w: Tensor, held: Tensor) -> tuple[Tensor, Floats, float]:
    """``w`` less its part in the rows of ``held``, that part's coefficients, and the norm left.

    Twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6-9).
    """
    first = _dots(held, w)
    w = torch.addmv(w, held.T, first.to(w.dtype), alpha=-1)
    second = _dots(held, w)
    w = torch.addmv(w, held.T, second.to(w.dtype), alpha=-1)
    coefficients: Floats = (first + second).cpu().numpy()
    return w, coefficients, _norm(w)


def _combine(weights: Floats, held: Tensor, out: Tensor) -> None:
    """``out`` = ``weights`` @ ``held``, both rows of one basis, part by part."""
    matrix = torch.from_numpy(np.ascontiguousarray(weights)).to(held)
    for part in _chunks(held.shape[1]):
        out[:, part] = matrix @ held[:, part]
