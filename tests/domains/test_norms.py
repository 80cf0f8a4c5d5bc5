"""Norms are upper bounds, and hardly above what they bound."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockframe.domains.norms import frobenius, largest, spectral

sizes = st.floats(-1e300, 1e300)


def drawn(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(
        rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@given(st.lists(sizes, max_size=20))
def test_the_frobenius_norm_of_any_numbers(entries: list[float]) -> None:
    norm = frobenius(torch.tensor(entries, dtype=torch.float64))
    square = sum((Fraction(x) ** 2 for x in entries), Fraction(0))
    assert math.isinf(norm) or Fraction(norm) ** 2 >= square
    if square > Fraction(1e-290) ** 2:
        assert Fraction(norm) ** 2 <= square * (1 + Fraction(1e-9))


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=9))
def test_the_largest_entry(entries: list[float]) -> None:
    assert largest(torch.tensor(entries, dtype=torch.float64)) == max(map(abs, entries))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.integers(-200, 200))
def test_the_operator_norm_of_a_matrix(m: int, n: int, seed: int, exponent: int) -> None:
    a = drawn(m, n, seed) * 10.0**exponent
    norm = float(torch.linalg.matrix_norm(a / 10.0**exponent, 2)) * 10.0**exponent
    assert norm * (1 - 1e-12) <= spectral(a) <= norm * (1 + 1e-12) * min(m, n) ** (1 / 512)


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 99))
def test_the_operator_norm_of_integers_is_exactly_bounded(k: int, n: int, seed: int) -> None:
    """Of k in every entry of an n x n matrix it is kn."""
    assert Fraction(spectral(torch.full((n, n), float(k)))) >= k * n


def test_the_operator_norm_of_an_isometry() -> None:
    rotation, _ = torch.linalg.qr(drawn(40, 40, 0))
    assert 1.0 - 1e-9 <= spectral(rotation) <= 40 ** (1 / 512) * (1 + 1e-9)


def test_a_norm_in_single_precision_counts_the_numbers_as_they_are() -> None:
    a = drawn(5, 3, 1).float()
    assert spectral(a) == spectral(a.double())
    assert frobenius(a) == frobenius(a.double())


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_norm(wrong: float) -> None:
    a = drawn(3, 2, 0)
    a[1, 1] = wrong
    assert frobenius(a) == spectral(a) == largest(a) == math.inf


def test_nothing_has_the_norm_zero() -> None:
    for a in (torch.zeros(3, 2), torch.zeros(0, 3), torch.zeros(2, 0)):
        assert frobenius(a) == spectral(a) == largest(a) == 0.0


def test_norms_beyond_floats_are_infinite() -> None:
    assert frobenius(torch.full((4,), 1.7e308, dtype=torch.float64)) == math.inf
