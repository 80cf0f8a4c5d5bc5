from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockframe.dynamics.density import Density, spectral_density


def of(spectrum: list[float], **options: int) -> Density:
    values = torch.tensor(spectrum, dtype=torch.float64)
    return spectral_density(lambda v: values * v, values, **{"seed": 0, **options})


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_trace_and_norm_are_within_their_errors(spectrum: list[float], seed: int) -> None:
    """Six standard errors of forty vectors; the mean over vectors is exact in expectation."""
    found = of(spectrum, seed=seed, vectors=40, steps=6)
    trace, error = found.trace
    assert abs(trace - sum(spectrum)) <= 6 * error + 1e-9
    rms, error = found.rms
    exact = math.sqrt(sum(x * x for x in spectrum) / len(spectrum))
    assert abs(rms - exact) <= 6 * error + 1e-9


def test_the_share_of_negative_eigenvalues() -> None:
    spectrum = [*np.linspace(-2.0, -0.5, 300), *np.linspace(0.5, 5.0, 700)]
    found = of(spectrum)
    share, error = found.negative
    assert share == pytest.approx(0.3, abs=0.05)
    assert abs(share - 0.3) <= 3 * error
    assert found.quantile(0.01) == pytest.approx(-2.0, abs=0.2)
    assert found.quantile(0.99) == pytest.approx(5.0, abs=0.3)
    assert -2.0 <= found.quantile(0.29) <= 0.8


def test_zeros_are_not_negative() -> None:
    found = of([0.0] * 90 + [1.0] * 10)
    assert found.negative[0] == 0.0
    assert found.quantile(0.5) == pytest.approx(0.0, abs=1e-12)
    assert found.quantile(1.0) == pytest.approx(1.0)


def test_one_vector_has_no_standard_error() -> None:
    assert of([1.0, 2.0, 3.0], vectors=1).trace[1] == math.inf


def test_products_that_are_not_finite() -> None:
    def broken(v: Tensor) -> Tensor:
        return v * math.nan

    found = spectral_density(broken, torch.empty(5), seed=0)
    assert math.isnan(found.trace[0])
    assert math.isnan(found.quantile(0.5))
