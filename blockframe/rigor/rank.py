"""Full row rank of every matrix in a ball, proved in rounded arithmetic (docs/theory section 3).

If ‖I - A X‖ < 1 for some X, whatever it is, A X is nonsingular (Neumann), so A has full row rank.
Only this residual is bounded rigorously; X may be inexact (S. M. Rump, Verification methods, Acta
Numerica 19, 2010). Here A is M with rows (and columns) scaled by powers of two, X = S Y, the sparse
matrix S of signs mixes the many columns of A into few, and Y is an approximate right inverse of
A S. Mixing costs no proof: A S Y nonsingular is all that is asked for.

Assumed of the arithmetic: IEEE double precision with gradual underflow (which is tested), products
of matrices by sums in any order, fused or not. A sum of n products then errs by at most γ_n times
the sum of their absolute values, γ_n = nu / (1 - nu), u = 2⁻⁵³ (N. J. Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1), plus n times the smallest normal number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Exponents = NDArray[np.int32]
V = TypeVar("V", float, Array)

UNIT = 2.0**-53
TINY = 2.0**-1022
COPIES = 8
"""How many columns of A S a column of A takes part in."""
STEADY = 30
"""Scaled columns have radii of at most 2^-STEADY: a column of little but radius stays small."""
LEAST = -2200
"""A floor below every exponent of the radii: as a last resort every column is made as large as the
others, which leaves little of the bound of σ_min."""
CHUNK = 1 << 22
"""Entries of M that are handled at once."""
_DOUBLES = ("float64", "float32", "float16", "bfloat16")


@frozen
class RankProof:
    """That every matrix M in a ball has full row rank, with what repeats the test.

    A = D M C. D: row i times 2^-e, where 2^(e-1) <= max_j |mid_ij| < 2^e. C: the identity if
    ``floor`` is None, else column j times 2^-e, where 2^(e-1) <= max_i max(|a_ij|, 2^30 r_ij) < 2^e
    for the midpoint a and radius r of D M, or e = floor if that is more. S: the identity if
    ``width`` is the number of columns, else `Mixing` of ``columns``, ``width`` and ``seed``. Y: any
    approximate right inverse of A S. (D and C only help: any powers of two prove the same.)

    Attributes:
        rows, columns: of M.
        residual: proved upper bound of ‖I - A S Y‖₂ for every M in the ball, below 1.
        least_singular_value: proved lower bound of σ_min(M) for every M in the ball (0.0 where it
            is below the range of double precision).
    """

    rows: int
    columns: int
    width: int
    floor: int | None
    seed: int
    residual: float
    least_singular_value: float


def full_row_rank(
    mid: Tensor | Array, rad: Tensor | Array, *, seed: int = 0, direct: bool = False
) -> RankProof | None:
    """A proof that every M with |M - mid| <= rad entry by entry has full row rank, or None.

    None says nothing: the ball may hold a matrix of lower rank, or be too wide or too close to one
    (condition numbers up to about 1e12 pass), or hold a number that is not finite; or there are no
    rows, or more rows than columns; or the process flushes subnormal numbers to zero.

    Args:
        mid, rad: (n, p); float64 or a shorter floating type. They are brought to the CPU in pieces
            of some megabytes.
        seed: of the mixing, where there are more than 4 n columns. It takes about 20 n p + 20 n³
            operations; σ_min is bounded within a factor of about (p / n)^½ to n^½ (p / n)^½.
        direct: without mixing. It takes about 10 n² p operations and n p numbers a few times over;
            σ_min is bounded within a factor of about n^½, mostly within 2.

    Raises:
        ValueError: the shapes are not those of one matrix, or the type is another.
    """
    if mid.ndim != 2 or mid.shape != rad.shape:
        raise ValueError(f"mid and rad of one shape (n, p), not {mid.shape} and {rad.shape}")
    for dtype in (mid.dtype, rad.dtype):
        if str(dtype).removeprefix("torch.") not in _DOUBLES:
            raise ValueError(f"entries that are doubles, not {dtype}")
    rows, columns = mid.shape
    if not (0 < rows <= columns and _underflow_is_gradual()):
        return None
    with np.errstate(all="ignore"):  # what overflows fails every comparison
        ball = _Ball.of(mid, rad)
        if ball is None:
            return None
        direct = direct or columns <= 4 * rows
        for floor, width in ((None, 2 * rows), (0, 2 * rows), (LEAST, 4 * rows)):
            mixing = Mixing(columns, columns if direct else width, seed)
            proof = _proof(ball if floor is None else ball.with_columns_scaled(floor), mixing)
            if proof is not None:
                return proof
    return None


@frozen(eq=False)
class Mixing:
    """The matrix S, (columns, width), of 0, ±1 and sums of such; the identity if it is square.

    Row j of S has `COPIES` signs: with k = j // width and i = j % width, copy t stands in column
    (i + turns[k, t]) % width with the sign signs[t, j]. The numbers of the generator splitmix64
    that starts at ``seed`` are taken modulo ``width`` for turns[0, 0], turns[0, 1], …, then their
    lowest bits for signs[0, 0], signs[0, 1], … (1: minus).
    """

    columns: int
    width: int
    seed: int
    turns: Indices = field(init=False)
    signs: Array = field(init=False)

    def __attrs_post_init__(self) -> None:
        chunks = -(-self.columns // self.width)
        count = chunks * COPIES
        z = _splitmix64(self.seed, count + COPIES * self.columns)
        turns = (z[:count] % np.uint64(self.width)).astype(np.int64).reshape(chunks, COPIES)
        signs = 1.0 - 2.0 * (z[count:] & np.uint64(1)).astype(np.float64)
        object.__setattr__(self, "turns", turns)
        object.__setattr__(self, "signs", signs.reshape(COPIES, self.columns))

    @property
    def is_identity(self) -> bool:
        return self.width == self.columns

    @property
    def summands(self) -> int:
        """How many entries of A an entry of A S is made of, at most; the column sums of |S|."""
        return 1 if self.is_identity else self.turns.size

    @property
    def norm(self) -> float:
        """An upper bound of ‖S‖₂: the root of largest row sum times largest column sum."""
        return 1.0 if self.is_identity else _grown(math.sqrt(COPIES * self.summands), 1)

    def mixed(self, a: Array) -> Array:
        """a S."""
        if self.is_identity:
            return a
        result = np.zeros((len(a), self.width))
        for copy, block, place in self._blocks():
            result[:, place] += a[:, block] * self.signs[copy, block]
        return result

    def after(self, y: Array) -> Array:
        """An upper bound of |S| y, for y >= 0 of ``width`` entries."""
        if self.is_identity:
            return y
        result = np.zeros(self.columns)
        for _, block, place in self._blocks():
            result[block] += y[place]
        return _grown(result, COPIES)

    def before(self, v: Array) -> Array:
        """An upper bound of v |S|, for v >= 0 of ``columns`` entries."""
        if self.is_identity:
            return v
        result = np.zeros(self.width)
        for _, block, place in self._blocks():
            result[place] += v[block]
        return _grown(result, self.summands)

    def _blocks(self) -> Iterator[tuple[int, slice, slice]]:
        """(copy, columns of A, columns of A S): runs of columns that stay side by side."""
        for k, turns in enumerate(self.turns.tolist()):
            start, stop = k * self.width, min((k + 1) * self.width, self.columns)
            for copy, turn in enumerate(turns):
                fold = min(start + self.width - turn, stop)  # the first that turns over the end
                yield copy, slice(start, fold), slice(turn, turn + fold - start)
                yield copy, slice(fold, stop), slice(0, stop - fold)


def _splitmix64(seed: int, count: int) -> NDArray[np.uint64]:
    """G. L. Steele, D. Lea, C. H. Flood, Fast splittable pseudorandom number generators, 2014."""
    start = np.uint64(seed % 2**64)
    z = start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


# --- the ball -----------------------------------------------------------------------------------


@frozen(eq=False)
class _Ball:
    """The matrices D M C, by rows; exponents of D and C are minus ``down`` and ``across``."""

    mid: Any
    rad: Any
    down: Exponents
    across: Exponents
    floor: int | None = None

    @classmethod
    def of(cls, mid: Any, rad: Any) -> _Ball | None:
        """With rows scaled; None if a number is not finite or a radius negative."""
        rows, columns = mid.shape
        ball = cls(mid, rad, np.zeros(rows, np.int32), np.zeros(columns, np.int32))
        for part in ball._parts():
            m, r = np.abs(_numpy(mid[part])), _numpy(rad[part])
            if not (np.isfinite(m).all() and np.isfinite(r).all() and (r >= 0).all()):
                return None
            ball.down[part] = np.frexp(m.max(1))[1]
        return ball

    def with_columns_scaled(self, floor: int) -> _Ball:
        largest = np.zeros(len(self.across))
        for _, m, r in self.pieces():
            largest = np.maximum(largest, np.maximum(np.abs(m), np.ldexp(r, STEADY)).max(0))
        across = np.maximum(np.frexp(largest)[1], np.int32(floor))
        return _Ball(self.mid, self.rad, self.down, across, floor)

    def pieces(self) -> Iterator[tuple[slice, Array, Array]]:
        """Rows, their midpoints and their radii (what scaling loses to underflow included)."""
        for part in self._parts():
            shift = -(self.down[part, None] + self.across)
            r = np.ldexp(_numpy(self.rad[part]), shift)
            yield part, np.ldexp(_numpy(self.mid[part]), shift), _grown(r, 1)

    def _parts(self) -> Iterator[slice]:
        rows, columns = self.mid.shape
        step = max(1, CHUNK // columns)
        return (slice(i, min(i + step, rows)) for i in range(0, rows, step))


def _underflow_is_gradual() -> bool:
    least = np.full(8, TINY)
    return bool((least * 0.5 * 2.0 == least).all())


def _numpy(part: Any) -> Array:
    on_cpu = part.detach().double().cpu().numpy() if hasattr(part, "detach") else part
    return np.asarray(on_cpu, dtype=np.float64)


# --- the proof ----------------------------------------------------------------------------------


def _gamma(n: int) -> float:
    """An upper bound of γ_n = nu / (1 - nu), with room for a few more roundings."""
    return 4.0 * (n + 4) * UNIT


def _grown(x: V, n: int) -> V:
    """An upper bound of a sum of n products of numbers >= 0 that was computed as ``x``."""
    return x * (1.0 + _gamma(n)) + (n + 4) * TINY


def _proof(ball: _Ball, mixing: Mixing) -> RankProof | None:
    rows, columns, width = len(ball.down), mixing.columns, mixing.width
    mixed = np.empty((rows, width))
    sizes, radii = np.zeros(columns), np.zeros(columns)
    for part, m, r in ball.pieces():
        mixed[part] = mixing.mixed(m)
        sizes += np.abs(m).sum(0)
        radii += r.sum(0)
    try:
        inverse = _right_inverse(mixed)
    except np.linalg.LinAlgError:
        return None
    difference = np.abs(np.eye(rows) - mixed @ inverse)

    # Entry by entry I - A S Y is at most |difference| + γ |mixed| |Y| + (γ |mid| + rad) |S| |Y|:
    # rounding of the product, rounding while mixing, the ball. Sums over its rows and columns:
    product, mixture = _gamma(width), 0.0 if mixing.is_identity else _gamma(mixing.summands)
    size, distance = np.abs(inverse), np.abs(mixed)
    y = _grown(size.sum(1), rows)
    by_row = _grown(difference.sum(1), rows) + product * _grown(distance @ y, width)
    spread = mixing.after(y)
    for part, m, r in ball.pieces():
        by_row[part] += _grown((mixture * np.abs(m) + r) @ spread, columns)
    totals = _grown(mixture * _grown(sizes, rows) + _grown(radii, rows), 2)
    over = mixing.before(totals) + product * _grown(distance.sum(0), rows)
    by_column = _grown(difference.sum(0), rows) + _grown(over @ size, width)

    flushed = 4 * rows * width  # products inside `mixed @ inverse` that vanished
    residual = _root_of_product(_grown(by_row.max(), flushed), _grown(by_column.max(), flushed))
    if not residual < 1.0:
        return None
    return RankProof(
        rows=rows,
        columns=columns,
        width=width,
        floor=ball.floor,
        seed=mixing.seed,
        residual=residual,
        least_singular_value=_least_singular_value(ball, mixing, inverse, residual),
    )


def _right_inverse(a: Array) -> Array:
    """About the pseudo-inverse of ``a``, by a = Rᵀ Qᵀ."""
    q, r = np.linalg.qr(a.T)
    inverse: Array = q @ np.linalg.inv(r).T
    return inverse


def _root_of_product(a: float, b: float) -> float:
    return float(_grown(math.sqrt(a) * math.sqrt(b), 1))


def _least_singular_value(ball: _Ball, mixing: Mixing, inverse: Array, residual: float) -> float:
    """From A S Y = I - E and A = D M C: x = D (I - Eᵀ)⁻¹ Yᵀ Sᵀ Cᵀ Mᵀ x for every x, so

    |x| <= (‖Y D‖ + ‖D‖ ‖E‖ / (1 - ‖E‖) ‖Y‖) ‖S‖ ‖C‖ |Mᵀx|.
    """
    least = ball.down.min()
    unscaled = np.ldexp(inverse, least - ball.down)  # Y D / ‖D‖, with ‖D‖ = 2^-least
    slack = _grown(residual / (1.0 - residual), 2)
    bound = _grown((_norm(unscaled) + slack * _norm(inverse)) * mixing.norm, 4)
    value = np.ldexp((1.0 - 4.0 * UNIT) / bound, int(least) + int(ball.across.min()))
    return float(min(value, np.finfo(np.float64).max)) if value > 2.0 * TINY else 0.0


def _norm(z: Array) -> float:
    """An upper bound of ‖z‖₂: the root of the largest row sum of |zᵀz|."""
    count, size = len(z), np.abs(z)
    gram = np.abs(z.T @ z).sum(1)
    error = _gamma(count) * _grown(size.T @ _grown(size.sum(1), z.shape[1]), count)
    return float(_grown(math.sqrt(_grown((gram + error).max(), z.size)), 1))
