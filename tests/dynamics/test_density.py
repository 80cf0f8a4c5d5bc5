from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blockframe.dynamics.density import EXACT, STEPS, VECTORS, Density, spectral_density
from blockframe.dynamics.descent import descend
from blockframe.problem import Problem

SHARES = {"lower": 0.01, "median": 0.5, "upper": 0.99}


def of(spectrum: list[float], **options: int) -> Density:
    values = torch.tensor(spectrum, dtype=torch.float64)
    return spectral_density(lambda v: values * v, values, **{"seed": 0, "exact": 0, **options})


def found(density: Density) -> dict[str, tuple[float, float]]:
    return {
        "trace": density.trace, "rms": density.rms, "negative": density.negative,
        **{name: density.quantile(share) for name, share in SHARES.items()},
    }  # fmt: skip


def truth(spectrum: list[float]) -> dict[str, float]:
    values = np.sort(np.array(spectrum))
    rounding = 64 * 2.0**-53 * float(np.abs(values).max())
    at = {n: float(values[math.ceil(q * len(values) - 1e-9) - 1]) for n, q in SHARES.items()}
    return {
        "trace": float(values.sum()), "rms": math.sqrt(float((values**2).mean())),
        "negative": float((values < -rounding).mean()), **at,
    }  # fmt: skip


# --- all eigenvalues ----------------------------------------------------------------------------


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40))
@settings(deadline=None, max_examples=40)
def test_up_to_some_size_nothing_is_estimated(spectrum: list[float]) -> None:
    density = of(spectrum, exact=EXACT)
    size, expected = max(map(abs, spectrum)), truth(spectrum)
    for name, (value, error) in found(density).items():
        assert value == pytest.approx(expected[name], rel=1e-12, abs=max(1e-12 * size, 1e-300)), (
            name
        )
        assert error <= 1e-12 * size * len(spectrum), name


def test_as_many_products_as_there_are_parameters() -> None:
    asked = []

    def product(v: Tensor) -> Tensor:
        asked.append(v)
        return 2 * v

    assert spectral_density(product, torch.empty(EXACT), seed=0).exact
    assert len(asked) == EXACT
    asked.clear()
    assert not spectral_density(product, torch.empty(EXACT + 1), seed=0).exact
    assert len(asked) <= (VECTORS + 1) * STEPS


def test_rounding_is_the_error_of_what_is_exact() -> None:
    values = torch.linspace(-1, 1, 9, dtype=torch.float32)
    density = spectral_density(lambda v: values * v, values, seed=0, roundoff=0.25)
    assert density.quantile(0.5)[1] == pytest.approx(0.25)
    assert density.trace[1] == pytest.approx(9 * 0.25)
    assert density.negative == (3 / 9, 0.0)  # −0.25 itself cannot be told from 0


# --- estimates ----------------------------------------------------------------------------------


def outliers(size: int) -> list[float]:
    """Half of them 0, most of the others small, a few large: as of a network."""
    draw = np.random.default_rng(0)
    quarter = size // 4
    bulk = [*draw.normal(0, 1e-3, quarter), *np.exp(draw.normal(-4, 2, quarter))]
    return [*([0.0] * (size - len(bulk))), *bulk]


SPECTRA: dict[str, Callable[[int], list[float]]] = {
    "one large": lambda n: [10.0, *np.random.default_rng(0).normal(0, 0.01, n - 1)],
    "decaying": lambda n: [1 / k**2 for k in range(1, n + 1)],
    "of a network": outliers,
    "few negative": lambda n: [-1.0] * 3 + list(np.linspace(1, 2, n - 3)),
}


def covered(draws: list[Density], expected: dict[str, float]) -> dict[str, float]:
    """In which part of the draws each number is within its error."""
    hits = [
        {name: abs(value - expected[name]) <= error for name, (value, error) in found(d).items()}
        for d in draws
    ]
    return {name: sum(hit[name] for hit in hits) / len(hits) for name in expected}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECTRA)
def test_errors_hold_as_often_as_they_say(kind: str) -> None:
    """95 of 100: fewer than 88 of 100 happen in one of a thousand such tests."""
    spectrum = SPECTRA[kind](600)
    shares = covered([of(spectrum, seed=s) for s in range(100)], truth(spectrum))
    assert min(shares.values()) >= 0.88, shares


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_errors_hold_for_a_network(activation: type[nn.Module]) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Linear(8, 20), activation(), nn.Linear(20, 20), activation(), nn.Linear(20, 3)
    )
    problem = Problem(module, (torch.randn(40, 8),), torch.randn(40, 3))
    *_, it = descend(problem, lr=0.3, steps=20, device="cpu")
    rows = torch.stack([it.hvp(e) for e in torch.eye(it.theta.numel(), dtype=torch.float64)])
    matrix = (rows + rows.mT) / 2
    draws = [spectral_density(lambda v: matrix @ v, it.theta, seed=s, exact=0) for s in range(60)]
    shares = covered(draws, truth(torch.linalg.eigvalsh(matrix).tolist()))
    assert min(shares.values()) >= 0.85, shares


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_trace_and_norm_are_within_their_errors(spectrum: list[float], seed: int) -> None:
    """Three times the error, with forty vectors: six standard errors."""
    density, expected = of(spectrum, seed=seed, vectors=40, steps=6), truth(spectrum)
    for name in ("trace", "rms"):
        value, error = found(density)[name]
        assert abs(value - expected[name]) <= 3 * error + 1e-9, name


def test_what_a_space_shows_is_not_left_to_chance() -> None:
    """One eigenvalue makes the trace, and random vectors have between none and five times of it."""
    trace, error = of([1000.0, *np.linspace(-1, 1, 599)]).trace
    assert error < 30.0
    assert abs(trace - 1000.0) < 60.0  # without it a standard deviation is 580


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=30),
    st.integers(0, 100), st.integers(1, 8), st.floats(-11, 11),
)  # fmt: skip
@settings(deadline=None, max_examples=200)
def test_the_weight_below_a_number_is_between_its_bounds(
    spectrum: list[float], seed: int, steps: int, x: float
) -> None:
    values, starts = torch.tensor(spectrum, dtype=torch.float64), []

    def product(v: Tensor) -> Tensor:
        starts.append(v.clone())
        return values * v

    density = spectral_density(product, values, seed=seed, vectors=1, steps=steps, exact=0)
    rule, first = density.rules[0], starts[len(starts) - len(density.rules[0].nodes)]
    at = float(values.double()[0]) if seed % 2 else x  # at an eigenvalue, too
    least, most = rule.between(at + 1e-9)
    exact = float((first**2)[values <= at + 1e-9].sum())
    assert least - 1e-6 <= exact <= most + 1e-6
    # a Gauss rule is exact for polynomials
    scale = max(1.0, *map(abs, spectrum))
    for degree in range(2 * len(rule.nodes)):
        moment = float((first**2) @ (values / scale) ** degree)
        assert float(rule.weights @ (rule.nodes / scale) ** degree) == pytest.approx(
            moment, abs=1e-8
        )


def test_the_draws_of_two_seeds_share_no_vector() -> None:
    """Those of consecutive iterates would otherwise err alike."""
    spectrum = list(np.linspace(-1, 2, 50))
    weights = [{float(r.weights[0]) for r in of(spectrum, seed=s).rules} for s in (3, 4)]
    assert len(weights[0]) == VECTORS
    assert not weights[0] & weights[1]


def test_zeros_are_not_negative() -> None:
    density = of([0.0] * 900 + [1.0] * 100)
    share, error = density.negative
    assert share == pytest.approx(0.0, abs=0.01)
    assert abs(share) <= error
    value, error = density.quantile(0.5)
    assert value == pytest.approx(0.0, abs=1e-12)
    assert error <= 1e-12  # the space is invariant, and its two nodes are eigenvalues
    assert density.quantile(1.0)[0] == pytest.approx(1.0)


def test_one_vector_has_no_error() -> None:
    density = of([1.0, 2.0, 3.0, 4.0], vectors=1, steps=2)
    assert density.trace[1] == density.rms[1] == math.inf


def test_a_rule_of_one_node_knows_no_quantile() -> None:
    assert of(list(np.linspace(0, 1, 50)), steps=1).quantile(0.01)[1] == math.inf


@pytest.mark.parametrize("exact", [0, EXACT])
def test_products_that_are_not_finite(exact: int) -> None:
    density = spectral_density(lambda v: v * math.nan, torch.empty(5), seed=0, exact=exact)
    assert all(math.isnan(value) for value, _ in found(density).values())
