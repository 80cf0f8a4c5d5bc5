from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockframe.dynamics.curvature import Eigenpair, mixed_start, top_eigenpair


def symmetric(spectrum: list[float], seed: int) -> Tensor:
    """A random symmetric matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    n = len(spectrum)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    matrix: Tensor = q @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ q.T
    return (matrix + matrix.T) / 2


def top(matrix: Tensor, *, seed: int = 0, **options: float | int | None) -> Eigenpair:
    start = mixed_start(matrix.shape[0], seed=seed)
    return top_eigenpair(lambda v: matrix @ v, start, **options)  # type: ignore[arg-type]


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


def test_a_warm_start_is_faster_and_follows_a_crossing() -> None:
    spectrum = [*np.linspace(-1, 1, 200), 3.0, 2.9]
    matrix = torch.diag(torch.tensor(spectrum, dtype=torch.float64))
    size = len(spectrum)
    second = torch.zeros(size, dtype=torch.float64)
    second[-1] = 1.0
    cold = top(matrix)
    crossing = top_eigenpair(lambda v: matrix @ v, mixed_start(size, seed=1, warm=second))
    assert crossing.value == pytest.approx(3.0, rel=1e-6)
    warm = top_eigenpair(lambda v: matrix @ v, mixed_start(size, seed=1, warm=cold.vector))
    assert warm.value == pytest.approx(3.0, rel=1e-6)
    assert warm.products < cold.products


def test_too_few_products_are_not_called_converged() -> None:
    pair = top(symmetric([float(k) for k in range(50)], 0), products=3)
    assert not pair.converged
    assert pair.products == 3
    assert pair.value < 49.0
    assert pair.value + pair.residual > pair.value


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_products_that_are_not_finite_end_the_search(bad: float) -> None:
    pair = top_eigenpair(lambda v: v * bad, mixed_start(4, seed=0))
    assert math.isnan(pair.value)
    assert not pair.converged
    assert pair.products == 1


def test_the_start_is_the_same_for_the_same_seed() -> None:
    assert torch.equal(mixed_start(5, seed=3), mixed_start(5, seed=3))
    assert not torch.equal(mixed_start(5, seed=3), mixed_start(5, seed=4))
