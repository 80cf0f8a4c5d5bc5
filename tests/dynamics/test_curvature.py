from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockframe.dynamics.curvature import Accuracy, Eigenpair, random_start, top_eigenpair

TIGHT = Accuracy(relative=1e-6, residual=1e-5)


def symmetric(spectrum: list[float], seed: int) -> Tensor:
    """A random symmetric matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    n = len(spectrum)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    matrix: Tensor = q @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ q.T
    return (matrix + matrix.T) / 2


def top(matrix: Tensor, *, seed: int = 0, accuracy: Accuracy = TIGHT, **options: int) -> Eigenpair:
    start = random_start(matrix[0], seed)
    return top_eigenpair(lambda v: matrix @ v, [start], accuracy, **options).pair


def plain(x: float) -> float:
    """Squares of numbers below 1e-150 underflow; a norm of them is 0."""
    return x if abs(x) > 1e-100 else 0.0


spectra = st.lists(st.floats(-100, 100).map(plain), min_size=1, max_size=12)


@given(spectra, st.integers(0, 1000))
@settings(deadline=None, max_examples=100)
def test_finds_the_largest_algebraic_eigenvalue(spectrum: list[float], seed: int) -> None:
    matrix = symmetric(spectrum, seed)
    pair = top(matrix, seed=seed)
    exact = float(torch.linalg.eigvalsh(matrix)[-1])
    scale = max(map(abs, spectrum))
    assert pair.converged
    assert abs(pair.value - exact) <= 1e-5 * abs(exact) + 1e-12 * scale


@given(st.floats(1e-3, 1.0), st.integers(0, 1000), st.integers(2, 30))
@settings(deadline=None, max_examples=50)
def test_a_dominant_negative_end_does_not_attract(largest: float, seed: int, size: int) -> None:
    spectrum = [largest, *np.linspace(-1000.0, -1.0, size)]
    pair = top(symmetric(spectrum, seed), seed=seed)
    assert pair.value == pytest.approx(largest, abs=1e-5 * largest + 1e-10)


@given(st.integers(0, 1000), st.integers(3, 6))
@settings(deadline=None, max_examples=30)
def test_restarts_with_a_small_basis(seed: int, basis: int) -> None:
    matrix = symmetric([float(k) for k in range(-20, 21)], seed)
    pair = top(matrix, seed=seed, basis=basis, products=2000)
    assert pair.converged
    assert pair.products > basis
    assert pair.value == pytest.approx(20.0, rel=1e-5)


@given(spectra, st.integers(0, 1000), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_the_residual_is_the_residual(spectrum: list[float], seed: int, products: int) -> None:
    matrix = symmetric(spectrum, seed)
    pair = top(matrix, seed=seed, products=products)
    residual = float((matrix @ pair.vector - pair.value * pair.vector).norm())
    noise = 1e-12 * max(map(abs, spectrum))
    assert pair.residual == pytest.approx(residual, rel=1e-6, abs=noise)
    assert float(pair.vector.norm()) == pytest.approx(1.0)
    nearest = (torch.linalg.eigvalsh(matrix) - pair.value).abs().min()
    assert float(nearest) <= pair.residual + noise


def test_one_dimension() -> None:
    pair = top(torch.tensor([[-3.0]], dtype=torch.float64))
    assert (pair.value, pair.residual, pair.products) == (-3.0, 0.0, 1)
    assert pair.converged


def test_zero_matrix() -> None:
    pair = top(torch.zeros(7, 7, dtype=torch.float64))
    assert (pair.value, pair.residual, pair.converged) == (0.0, 0.0, True)


def test_an_invariant_space_ends_the_search() -> None:
    """Two distinct eigenvalues: the Krylov space has two dimensions."""
    pair = top(symmetric([2.0] * 5 + [-1.0] * 5, 0))
    assert pair.products <= 3
    assert pair.value == pytest.approx(2.0, rel=1e-12)


def test_a_warm_start_is_faster() -> None:
    matrix = torch.diag(torch.tensor([*np.linspace(-1, 1, 200), 3.0, 2.9], dtype=torch.float64))
    found = top_eigenpair(lambda v: matrix @ v, [random_start(matrix[0], 0)], TIGHT)
    near = found.ahead + 1e-3 * random_start(matrix[0], 1)
    warm = top_eigenpair(lambda v: matrix @ v, [near], TIGHT, cold=False, second=lambda _: 2.9)
    assert warm.pair.value == pytest.approx(3.0, rel=1e-6)
    assert not warm.pair.cold
    assert warm.pair.products < found.pair.products / 2


@given(st.integers(0, 1000), st.floats(0.01, 1.0))
@settings(deadline=None, max_examples=30)
def test_a_random_start_beside_a_wrong_eigenvector_finds_the_right_one(
    seed: int, gap: float
) -> None:
    """Exactly an eigenvector, so that its residual is 0: only the random start knows better."""
    matrix = torch.diag(torch.tensor([*np.linspace(-1, 2, 60), 3.0 + gap, 3.0]).double())
    wrong = torch.eye(62, dtype=torch.float64)[-1]
    starts = [wrong, random_start(wrong, seed)]
    alone = top_eigenpair(lambda v: matrix @ v, [wrong], Accuracy(), cold=False)
    assert alone.pair.value == 3.0
    both = top_eigenpair(lambda v: matrix @ v, starts, Accuracy())
    assert both.pair.value == pytest.approx(3.0 + gap, rel=1e-3)
    assert both.pair.cold


@given(spectra, st.integers(0, 1000), st.integers(1, 3))
@settings(deadline=None, max_examples=50)
def test_the_residual_is_one_with_several_starts(
    spectrum: list[float], seed: int, count: int
) -> None:
    matrix = symmetric(spectrum, seed)
    starts = [random_start(matrix[0], seed + k) for k in range(count)]
    pair = top_eigenpair(lambda v: matrix @ v, starts, Accuracy(), products=count + 2).pair
    residual = float((matrix @ pair.vector - pair.value * pair.vector).norm())
    assert pair.residual == pytest.approx(residual, rel=1e-6, abs=1e-12 * max(map(abs, spectrum)))


@given(st.integers(0, 200), st.integers(4, 7))
@settings(deadline=None, max_examples=20)
def test_restarts_with_several_starts_and_a_small_basis(seed: int, basis: int) -> None:
    matrix = symmetric([float(k) for k in range(-20, 21)], seed)
    starts = [random_start(matrix[0], seed + k) for k in range(2)]
    pair = top_eigenpair(
        lambda v: matrix @ v, starts, TIGHT, cold=False, products=4000, basis=basis
    ).pair
    assert pair.converged
    assert pair.products > basis
    assert pair.value == pytest.approx(20.0, rel=1e-5)
    assert float((matrix @ pair.vector - 20.0 * pair.vector).norm()) < 1e-3


def test_a_start_that_is_there_already_adds_nothing() -> None:
    matrix = symmetric([float(k) for k in range(9)], 0)
    start = random_start(matrix[0], 0)
    once = top_eigenpair(lambda v: matrix @ v, [start], TIGHT).pair
    twice = top_eigenpair(lambda v: matrix @ v, [start, start.clone()], TIGHT, cold=False).pair
    assert twice.value == pytest.approx(once.value, rel=1e-9)


def test_the_error_is_within_its_estimate() -> None:
    """Of cold searches for an eigenvalue with a close neighbour.

    A random start with next to nothing of the first stops at the second: rarely, and no residual
    can tell.
    """
    matrix = torch.diag(torch.tensor([*np.linspace(-1, 1.9, 300), 2.0, 2.05]).double())
    early = 0
    for seed in range(100):
        pair = top(matrix, seed=seed, accuracy=Accuracy())
        assert pair.converged
        assert pair.error <= 1e-3 * pair.value
        assert pair.residual <= 1e-3 * pair.value
        missing = 2.05 - pair.value
        assert missing >= -1e-12
        early += missing > pair.error + 1e-12
    assert early <= 2


def test_an_eigenvalue_close_to_a_threshold_is_found_more_closely() -> None:
    matrix = symmetric([*np.linspace(-1, 1, 100), 2.0], 3)
    coarse = top(matrix, accuracy=Accuracy())
    fine = top(matrix, accuracy=Accuracy(threshold=2.001))
    assert coarse.residual > 5e-4
    assert fine.residual < 5e-4
    assert fine.products > coarse.products
    on = top(matrix, accuracy=Accuracy(threshold=2.0))
    assert on.converged
    assert on.residual <= 2e-5


def test_single_precision() -> None:
    matrix = symmetric([*np.linspace(-5, 1, 100), 2.0], 3).float()
    pair = top(matrix)
    assert pair.vector.dtype == torch.float32
    assert pair.converged
    assert pair.value == pytest.approx(2.0, rel=1e-5)


def test_the_basis_keeps_to_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, shapes = symmetric([float(k) for k in range(-20, 21)], 0), []
    empty = torch.empty

    def spied(shape: tuple[int, int], **options: Any) -> Tensor:
        shapes.append(shape)
        return empty(shape, **options)

    monkeypatch.setattr(torch, "empty", spied)
    start = random_start(matrix[0], 0)
    pair = top_eigenpair(lambda v: matrix @ v, [start], TIGHT, basis_bytes=6 * 41 * 8).pair
    assert pair.products > 6
    assert shapes == [(6, 41)]


def test_too_few_products_are_not_called_converged() -> None:
    pair = top(symmetric([float(k) for k in range(50)], 0), products=3)
    assert not pair.converged
    assert pair.products == 3
    assert pair.value < 49.0
    assert pair.value + pair.residual > pair.value


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_products_that_are_not_finite_end_the_search(bad: float) -> None:
    start = random_start(torch.empty(4), 0)
    pair = top_eigenpair(lambda v: v * bad, [start], TIGHT).pair
    assert math.isnan(pair.value)
    assert not pair.converged
    assert pair.products == 1


def test_the_start_is_the_same_for_the_same_seed() -> None:
    like = torch.empty(5, dtype=torch.float64)
    assert torch.equal(random_start(like, 3), random_start(like, 3))
    assert not torch.equal(random_start(like, 3), random_start(like, 4))
