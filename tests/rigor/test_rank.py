"""Full row rank is claimed of no ball that holds a matrix of lower rank, and of all clear ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from blockframe.rigor import rank
from blockframe.rigor.rank import Mixing, RankProof, full_row_rank

BITS = 600


@pytest.fixture
def precision() -> Iterator[Any]:
    flint = pytest.importorskip("flint")
    before, flint.ctx.prec = flint.ctx.prec, BITS
    yield flint
    flint.ctx.prec = before


def arb_full_row_rank(flint: Any, matrix: np.ndarray) -> bool:
    """Whether Arb proves it: the determinant of M Mᵀ is not 0 (Cauchy-Binet)."""
    m = flint.arb_mat([[flint.arb(float(x)) for x in row] for row in matrix])
    return not (m * m.transpose()).det().contains(0)


def proof(mid: np.ndarray, rad: np.ndarray | float = 0.0, **options: Any) -> RankProof | None:
    return full_row_rank(mid, np.broadcast_to(np.float64(rad), mid.shape).copy(), **options)


def with_singular_values(rng: np.random.Generator, values: np.ndarray, columns: int) -> np.ndarray:
    u, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    v, _ = np.linalg.qr(rng.standard_normal((columns, len(values))))
    return (u * values) @ v.T


KINDS = ("generic", "nearly singular", "duplicate rows", "dyadic combination", "low rank")


def drawn(seed: int) -> tuple[str, np.ndarray, float]:
    """(kind, midpoint, smallest singular value over the largest, as far as it is meant)."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    rows = int(rng.integers(2, 8))
    columns = int(rng.integers(rows, 3 * rows) if rng.random() < 0.5 else rng.integers(40, 60))
    if kind == "nearly singular":
        small = 10.0 ** -float(rng.integers(3, 19))
        values = np.geomspace(1.0, 0.1, rows)
        values[-1] = small
        return kind, with_singular_values(rng, values, columns), small
    m = rng.standard_normal((rows, columns))
    if kind == "generic":
        return kind, m, float(np.linalg.svd(m, compute_uv=False)[-1])
    if kind == "duplicate rows":
        m[-1] = m[0] * 2.0 ** int(rng.integers(-3, 4))
    elif kind == "dyadic combination":  # exact in 53 bits
        m = np.round(m * 64.0) / 64.0
        m[-1] = (m[:-1] * 2.0 ** rng.integers(-3, 4, rows - 1)[:, None]).sum(0)
    else:
        left, right = (rng.integers(-9, 10, s) for s in ((rows, rows - 1), (rows - 1, columns)))
        m = (left @ right).astype(float)
    return kind, m, 0.0


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_agrees_with_arb(precision: Any, start: int) -> None:
    for seed in range(start, start + 20):
        kind, mid, small = drawn(seed)
        ours = proof(mid)
        theirs = arb_full_row_rank(precision, mid)
        assert theirs == (kind in ("generic", "nearly singular")), (seed, kind)
        assert ours is None or theirs, (seed, kind)
        if small > 1e-11:
            assert ours is not None, (seed, kind, small)


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_agrees_with_arb_on_balls(precision: Any, start: int) -> None:
    """What is proved of a ball Arb proves at its corners; a ball with room to spare is proved."""
    proved = 0
    for seed in range(start, start + 20):
        kind, mid, small = drawn(seed)
        rng = np.random.default_rng(seed + 1000)
        rad = np.abs(rng.standard_normal(mid.shape)) * 10.0 ** -float(rng.integers(1, 14))
        ours = proof(mid, rad)
        if ours is None:
            roomy = 100.0 * mid.shape[0] * float(np.linalg.norm(rad, 2)) < small
            assert not (roomy and small > 1e-10), (seed, kind)
            continue
        proved += 1
        for _ in range(5):
            corner = mid + rad * rng.choice([-1.0, 1.0], mid.shape) * (1.0 - 1e-15)
            assert arb_full_row_rank(precision, corner), (seed, kind)
    assert proved > 0


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("wide", [False, True])
def test_a_ball_with_a_singular_matrix_in_it_is_never_proved(seed: int, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 12))
    columns = rows * (9 if wide else 1) + int(rng.integers(0, 5))
    # Integers up to 2^20, of lower rank exactly, and a step away from them that is a double too.
    left = rng.integers(-30, 31, (rows, rows - 1))
    singular = (left @ rng.integers(-30, 31, (rows - 1, columns))).astype(float)
    step = rng.standard_normal(singular.shape) * 10.0 ** float(rng.integers(-12, 2))
    mid = singular + step
    assert proof(mid, np.abs(mid - singular) * (1 + 1e-15)) is None
    assert proof(singular) is None
    assert proof(singular, direct=True) is None


@given(
    arrays(np.int64, (4, 3), elements=st.integers(-40, 40)),
    arrays(np.int64, (3, 25), elements=st.integers(-40, 40)),
    arrays(np.int32, 4, elements=st.integers(-400, 400)),
    arrays(np.int32, 25, elements=st.integers(-400, 400)),
    st.integers(5, 25),
)
@settings(max_examples=150, deadline=None)
def test_low_rank_in_any_scale_is_never_proved(
    left: np.ndarray, right: np.ndarray, down: np.ndarray, across: np.ndarray, columns: int
) -> None:
    exact = (left @ right).astype(float)
    m = np.ldexp(exact, down[:, None] + across)[:, :columns]
    assert proof(m) is None


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("direct", [False, True])
def test_least_singular_value_is_a_lower_bound(seed: int, direct: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 7))
    columns = rows + int(rng.integers(0, 40))
    values = np.geomspace(1.0, 10.0 ** -float(rng.integers(0, 10)), rows)
    scales = 10.0 ** rng.integers(-6, 7, rows)[:, None].astype(float)
    mid = with_singular_values(rng, values, columns) * scales
    rad = np.abs(mid) * 1e-3 * float(values[-1])
    found = proof(mid, rad, direct=direct)
    if found is None:
        return
    assert 0.0 < found.residual < 1.0
    with mpmath.workdps(60):
        for sign in (-1.0, 0.0, 1.0):
            m = mpmath.matrix((mid + sign * rad * rng.choice([-1.0, 1.0], mid.shape)).tolist())
            least = min(mpmath.eigsy(m * m.T, eigvals_only=True))
            assert mpmath.mpf(found.least_singular_value) ** 2 <= least


def test_least_singular_value_where_columns_were_scaled() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-18, 1e25):
        m = rng.standard_normal((4, 60))
        m[:, 0] *= scale * 1e18
        m[:, 1:] *= scale
        found = proof(m)
        assert found is not None
        assert found.floor is not None
        with mpmath.workdps(60):
            exact = mpmath.matrix(m.tolist())
            least = min(mpmath.eigsy(exact * exact.T, eigvals_only=True))
            assert mpmath.mpf(found.least_singular_value) ** 2 <= least


def test_columns_of_little_but_radius_do_not_spoil_the_others() -> None:
    rng = np.random.default_rng(0)
    for columns in (12, 200):
        m = rng.standard_normal((6, columns))
        clean = proof(m)
        m = np.hstack([m, rng.standard_normal((6, 5))])
        rad = np.where(np.arange(columns + 5) < columns, 1e-13, 1e3) * np.ones_like(m)
        found = proof(m, rad)
        assert clean is not None
        assert clean.floor is None
        assert found is not None
        assert found.floor == 0
        assert found.least_singular_value > 1e-2 * clean.least_singular_value


def test_least_singular_value_is_not_far_off() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (5, 8), (40, 60), (60, 400)):
        m = rng.standard_normal((rows, columns))
        found = proof(m, direct=True)
        assert found is not None
        true = float(np.linalg.svd(m, compute_uv=False)[-1])
        assert 0.3 * true < found.least_singular_value <= true


def test_the_bound_of_the_residual_covers_every_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a poor inverse the residual is large; it is compared with exact arithmetic, at the
    corner of the ball that makes a row as bad as can be."""
    rng = np.random.default_rng(5)
    rows, columns = 4, 30
    mid, rad = rng.standard_normal((rows, columns)), rng.uniform(0, 2e-3, (rows, columns))
    good = rank._right_inverse

    def poor(a: np.ndarray) -> np.ndarray:
        y = good(a) * (1.0 + 0.01 * rng.standard_normal((a.shape[1], a.shape[0])))
        made.append(y)
        return y

    for radius in (0.0, 1.0):
        made: list[np.ndarray] = []
        monkeypatch.setattr(rank, "_right_inverse", poor)
        found = proof(mid, radius * rad)
        assert found is not None
        assert found.width == 2 * rows
        mixing = Mixing(columns, found.width, found.seed)
        x = mixing.mixed(np.eye(columns)) @ made[-1]  # small sums: exact enough for this
        scale = np.ldexp(1.0, -np.frexp(np.abs(mid).max(1))[1])[:, None]
        a = scale * (mid - radius * rad * np.sign(x[:, 0]))
        e = np.eye(rows) - a @ x
        worst = np.sqrt(np.abs(e).sum(0).max() * np.abs(e).sum(1).max())
        assert np.linalg.norm(e, 2) <= found.residual
        assert found.residual < 5.0 * worst


def exact_residual(a: np.ndarray, x: list[list[Fraction]]) -> Fraction:
    """The square of the bound of ‖I - D a x‖₂ by row and column sums, in rationals."""
    scaled = np.ldexp(a, -np.frexp(np.abs(a).max(1))[1][:, None])
    left = [[Fraction(v) for v in row] for row in scaled.tolist()]
    n = range(len(left))
    e = [[(i == j) - sum(p * r[j] for p, r in zip(left[i], x, strict=True)) for j in n] for i in n]
    by_column = max(sum(abs(row[j]) for row in e) for j in n)
    return max(sum(map(abs, row)) for row in e) * by_column


def in_fractions(a: np.ndarray) -> list[list[Fraction]]:
    return [[Fraction(v) for v in row] for row in a.tolist()]


def test_rounding_of_the_product_is_bounded() -> None:
    """In rationals: a product that rounds to the identity is not the identity."""
    rng = np.random.default_rng(3)
    cases = [np.array([[float(k)]]) for k in range(3, 40, 2)]
    cases += [with_singular_values(rng, np.geomspace(1.0, 1e-9, 5), 5) for _ in range(5)]
    for a in cases:
        found = proof(a)
        assert found is not None
        y = rank._right_inverse(np.ldexp(a, -np.frexp(np.abs(a).max(1))[1][:, None]))
        assert exact_residual(a, in_fractions(y)) <= Fraction(found.residual) ** 2


def test_rounding_while_mixing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In rationals, for rows of which little is left when they are mixed."""
    good = rank._right_inverse
    made: list[np.ndarray] = []

    def kept(a: np.ndarray) -> np.ndarray:
        made.append(good(a))
        return made[-1]

    monkeypatch.setattr(rank, "_right_inverse", kept)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        s = Mixing(40, 2, 0).mixed(np.eye(40))
        a = rng.standard_normal(40)
        a = (a - s @ np.linalg.lstsq(s, a, rcond=None)[0] + 1e-8 * rng.standard_normal(40))[None]
        found = proof(a)
        assert found is not None
        assert found.width == 2
        y = in_fractions(made[-1])
        x = [[sum(Fraction(int(v)) * y[k][0] for k, v in enumerate(row))] for row in s]
        assert exact_residual(a, x) <= Fraction(found.residual) ** 2


@pytest.mark.parametrize("power", [-150.0, 150.0])
@pytest.mark.parametrize("what", ["whole", "rows", "columns"])
@pytest.mark.parametrize("columns", [9, 100])
def test_scales(power: float, what: str, columns: int) -> None:
    rng = np.random.default_rng(1)
    m = rng.standard_normal((6, columns))
    scales = {
        "whole": np.array(10.0**power),
        "rows": 10.0 ** np.linspace(0.0, power, 6)[:, None],
        "columns": 10.0 ** np.linspace(0.0, power, columns),
    }
    m = m * scales[what]
    found = proof(m, np.abs(m) * 1e-12)
    assert found is not None
    assert 0.0 < found.least_singular_value < math.inf
    m[3] = m[1]
    assert proof(m) is None


def test_numbers_at_the_ends_of_the_range() -> None:
    tiny, huge = np.diag([5e-324, 1e-320, 1e-310]), np.diag([1.7e308, 1e308, 1.0])
    for m in (tiny, huge):
        found = proof(m)
        assert found is not None
        assert found.least_singular_value <= np.abs(np.diag(m)).min()
    assert proof(tiny, 5e-324) is None
    assert proof(huge, 1.7e308) is None
    spread = np.array([[1.0, 1e-320, 0.0], [1.0, 0.0, 1e-320]])  # of full rank, far below 53 bits
    assert proof(spread, 1e-320) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("columns", [4, 40])
def test_what_is_not_finite_proves_nothing(bad: float, columns: int) -> None:
    m = np.random.default_rng(0).standard_normal((3, columns))
    assert proof(m) is not None
    assert proof(m, bad) is None
    m[1, 2] = bad
    assert proof(m) is None


def test_shapes() -> None:
    m = np.random.default_rng(0).standard_normal((3, 4))
    assert proof(m.T) is None
    assert proof(np.zeros((0, 4))) is None
    assert proof(np.zeros((0, 0))) is None
    assert proof(np.zeros((3, 0))) is None
    assert proof(m, -1e-300) is None
    assert proof(np.zeros((3, 40))) is None
    for mid, rad in ((m, m[:2]), (m[0], m[0])):
        with pytest.raises(ValueError, match="shape"):
            full_row_rank(mid, rad)


def test_flushing_to_zero_proves_nothing() -> None:
    m = np.random.default_rng(0).standard_normal((3, 4))
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    try:
        assert proof(m) is None
    finally:
        torch.set_flush_denormal(False)
    assert proof(m) is not None


def test_tensors_and_other_dtypes() -> None:
    m = torch.randn(5, 90, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = full_row_rank(m, torch.zeros_like(m))
    assert found == proof(m.detach().double().numpy())
    assert isinstance(found, RankProof)
    assert (found.rows, found.columns, found.width) == (5, 90, 10)
    assert full_row_rank(m.bfloat16(), torch.zeros_like(m)) is not None
    for other in (np.longdouble, np.int64):  # rounded, if they were taken as doubles
        with pytest.raises(ValueError, match="doubles"):
            full_row_rank(np.eye(3, dtype=other), np.zeros((3, 3)))


def test_mixing_is_what_it_is_said_to_be() -> None:
    """The matrix by the words of the docstring, in whole numbers."""
    columns, width, seed = 23, 7, 2**64 - 5

    def numbers() -> Iterator[int]:
        state = seed
        while True:
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
            yield z ^ (z >> 31)

    z = numbers()
    turns = [[next(z) % width for _ in range(8)] for _ in range(4)]
    signs = [[-1 if next(z) & 1 else 1 for _ in range(columns)] for _ in range(8)]
    s = np.zeros((columns, width))
    for j in range(columns):
        for copy in range(8):
            s[j, (j + turns[j // width][copy]) % width] += signs[copy][j]

    mixing = Mixing(columns, width, seed)
    a = np.random.default_rng(0).integers(-9, 10, (3, columns)).astype(float)
    assert np.array_equal(mixing.mixed(a), a @ s)
    assert np.linalg.norm(s, 2) <= mixing.norm
    assert np.abs(s).sum(0).max() <= mixing.summands
    y, v = np.arange(1.0, 8.0), np.arange(1.0, 24.0)
    assert (np.abs(s) @ y <= mixing.after(y)).all()
    assert (v @ np.abs(s) <= mixing.before(v)).all()


def test_seeds_and_mixing_of_matrices_with_few_columns_that_count() -> None:
    """Columns of a few rows alone: mixing must not lose one, whatever the seed."""
    m = np.hstack([np.eye(20), np.zeros((20, 300))])
    for seed in range(10):
        found = proof(m, seed=seed)
        assert found is not None
        assert (found.seed, found.least_singular_value <= 1.0) == (seed, True)
