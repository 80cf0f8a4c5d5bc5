"""Hessian products against two other methods, and eigenvalues against a dense Hessian."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from blockframe.dynamics.curvature import random_start
from blockframe.dynamics.descent import descend
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.options import Options
from blockframe.dynamics.segment import POINTS
from blockframe.problem import Problem

Direct = Callable[[Problem], tuple[Callable[[Tensor], Tensor], Tensor]]


def start(problem: Problem, **options: object) -> Iterate:
    objective = Options.of(device="cpu").objective(problem)
    return Iterate(objective, objective.start, **options)  # type: ignore[arg-type]


@pytest.fixture(params=["mlp", "gpt2"])
def problem(request: pytest.FixtureRequest) -> Problem:
    found: Problem = request.getfixturevalue(request.param)
    return found


def test_products_against_differences_of_gradients(problem: Problem) -> None:
    """Central, with Richardson's extrapolation: error h⁴."""
    it = start(problem)
    v = random_start(it.theta, 1)

    def slope(h: float) -> Tensor:
        ends = [Iterate(it.objective, it.theta + s * h * v).gradient for s in (1, -1)]
        return (ends[0] - ends[1]) / (2 * h)

    by_difference = (4 * slope(5e-3) - slope(1e-2)) / 3
    error = float((it.hvp(v) - by_difference).norm() / by_difference.norm())
    assert error < 1e-7


def test_products_against_the_jvp_of_the_gradient(problem: Problem, direct: Direct) -> None:
    """Forward over reverse, of a loss that is put together without the package."""
    it = start(problem)
    loss, theta = direct(problem)
    assert torch.equal(theta, it.theta)
    for seed in range(3):
        v = random_start(it.theta, seed)
        _, by_jvp = jvp(torch.func.grad(loss), theta, v)
        error = float((it.hvp(v) - by_jvp).norm() / by_jvp.norm())
        assert error < 1e-10


def jvp(function: Callable[[Tensor], Tensor], at: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """PyTorch compiles a script when forward differentiation is first used."""
    with warnings.catch_warnings(), nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        warnings.simplefilter("ignore", DeprecationWarning)
        found: tuple[Tensor, Tensor] = torch.func.jvp(function, (at,), (along,))
    return found


def dense(it: Iterate) -> Tensor:
    eye = torch.eye(it.theta.numel(), dtype=torch.float64)
    matrix = torch.stack([it.hvp(row) for row in eye])
    return (matrix + matrix.T) / 2


def test_both_ends_along_a_run_against_a_dense_hessian(mlp: Problem) -> None:
    for it in descend(mlp, lr=0.5, steps=12, probes=["sharpness", "bottom_eigenvalue"]):
        values = torch.linalg.eigvalsh(dense(it))
        for pair, exact in ((it.curvature, values[-1]), (it.bottom, values[0])):
            assert pair.converged
            assert pair.value == pytest.approx(float(exact), rel=1e-3)
            assert float((values - pair.value).abs().min()) <= pair.residual + 1e-12
        assert it.curvature.value <= float(values[-1]) + 1e-12
        assert it.bottom.value >= float(values[0]) - 1e-12
        assert it["sharpness.cold"] == float(it.curvature.cold)
        assert it["bottom_eigenvalue"] == it.bottom.value < 0


def test_without_a_learning_rate_the_eigenvalue_is_found_more_closely(mlp: Problem) -> None:
    exact = float(torch.linalg.eigvalsh(dense(start(mlp)))[-1])
    assert start(mlp).curvature.value == pytest.approx(exact, rel=1e-6)
    coarse, fine = start(mlp, lr=0.01).curvature, start(mlp).curvature
    assert coarse.products < fine.products
    assert start(mlp, lr=0.01, accuracy=1e-9).curvature.value == pytest.approx(exact, rel=1e-9)


def test_the_residual_decides_about_stability(mlp: Problem) -> None:
    """With 2/η a little above λ the residual is small enough to tell which is larger."""
    exact = float(torch.linalg.eigvalsh(dense(start(mlp)))[-1])
    pair = start(mlp, lr=2 / (exact * 1.0003)).curvature
    assert pair.value + pair.residual < exact * 1.0003
    assert start(mlp, lr=0.01).curvature.residual > exact * 3e-4


def test_what_the_trails_do_not_reach_does_not_change_the_numbers(mlp: Problem) -> None:
    def run(count: int) -> list[float]:
        return [it.curvature.value for it in descend(mlp, lr=0.3, steps=count)]

    assert run(5) == run(8)[:6]


def test_the_curvature_along_a_step_is_its_directional_smoothness(mlp: Problem) -> None:
    probes = ["segment_curvature", "directional_smoothness", "sharpness"]
    for it in descend(mlp, lr=0.1, steps=3, probes=probes):
        found = it.segment
        if it.step == 0:
            assert found is None
            assert it["segment_curvature"] is None
            continue
        smoothness = it["directional_smoothness"]
        assert it["segment_curvature.mean"] == pytest.approx(smoothness, rel=1e-4)
        assert found is not None
        assert it.previous is not None
        step = it.theta - it.previous.theta
        middle = Iterate(it.objective, it.previous.theta + step / 2)
        along = [
            float(step @ Iterate(it.objective, it.previous.theta + t * step).hvp(step))
            for t in POINTS
        ]
        assert it["segment_curvature"] == pytest.approx(max(along) / float(step @ step))
        exact = float(torch.linalg.eigvalsh(dense(middle))[-1])
        assert it["segment_curvature.sharpness"] == pytest.approx(exact, rel=1e-3)
        assert it["segment_curvature.residual"] < 0.1 * exact


def test_the_spectral_density_of_a_small_network_is_exact(mlp: Problem) -> None:
    it = next(iter(descend(mlp, lr=0.3, steps=0, probes=["spectral_density"])))
    values = torch.linalg.eigvalsh(dense(it)).numpy()
    count = len(values)
    expected = {
        "trace": values.sum(),
        "rms": math.sqrt((values**2).mean()),
        "negative": (values < -1e-12).mean(),
        "lower": values[math.ceil(0.01 * count) - 1],
        "median": values[math.ceil(0.5 * count) - 1],
        "upper": values[math.ceil(0.99 * count) - 1],
    }
    for name, value in expected.items():
        found, error = it[f"spectral_density.{name}"], it[f"spectral_density.{name}_error"]
        assert found == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assert isinstance(error, float)
        assert error <= 1e-9 * max(abs(values)), name


def test_single_precision_takes_vectors_of_single_precision(mlp: Problem) -> None:
    objective = Options.of(device="cpu", dtype="float32").objective(mlp)
    exact = float(torch.linalg.eigvalsh(dense(start(mlp)))[-1])
    it = Iterate(objective, objective.start, lr=0.1)
    assert it.curvature.value == pytest.approx(exact, rel=1e-3)
    assert it.curvature.vector.dtype == torch.float32
    assert {x.dtype for x in it.trails.tensors().values()} == {torch.float32}
