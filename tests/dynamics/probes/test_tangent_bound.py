from __future__ import annotations

import pytest
import torch
from torch import nn

from blockframe.dynamics import tangent_bound
from blockframe.dynamics.descent import descend
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.probes import Unavailable
from blockframe.dynamics.run import trajectory
from blockframe.problem import Problem


def observed(problem: Problem, dtype: str = "float64") -> Iterate:
    it = next(descend(problem, lr=0.1, steps=0, probes=["tangent_bound"], device="cpu",
                      dtype=dtype))  # fmt: skip
    it.observe_all()
    return it


@pytest.mark.parametrize("name", ["mlp", "gpt2"])
def test_it_is_not_below_the_least_eigenvalue_and_an_eigenvalue_is_near(
    name: str, request: pytest.FixtureRequest
) -> None:
    it = observed(request.getfixturevalue(name))
    values = torch.linalg.eigvalsh(it.tangent_gram)
    bound, residual = it["tangent_bound"], it["tangent_bound.residual"]
    rounding = it["tangent_bound.rounding"]
    assert 0 < rounding < 1e-10 * float(values[-1])
    assert bound >= float(values[0]) - rounding
    assert float((values - bound).abs().min()) <= residual + rounding


def test_with_products_for_the_whole_space_it_is_the_least_eigenvalue(mlp: Problem) -> None:
    it = observed(mlp)
    least = float(torch.linalg.eigvalsh(it.tangent_gram)[0])
    assert it["tangent_bound"] == pytest.approx(least, rel=1e-3)


def test_broken_off_early_it_is_still_a_bound(
    mlp: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tangent_bound, "PRODUCTS", 4)
    it = observed(mlp)
    values = torch.linalg.eigvalsh(it.tangent_gram)
    assert float(values[0]) < it["tangent_bound"] < float(values.mean())
    assert it["tangent_bound.residual"] > 1e-3 * it["tangent_bound"]


def test_in_float32_rounding_is_said(mlp: Problem) -> None:
    it = observed(mlp, "float32")
    exact = observed(mlp)
    assert it["tangent_bound.rounding"] > 1e6 * exact["tangent_bound.rounding"]
    least = float(torch.linalg.eigvalsh(exact.tangent_gram)[0])
    assert it["tangent_bound"] >= least - it["tangent_bound.rounding"]


def test_more_outputs_than_the_dense_matrix_takes() -> None:
    torch.manual_seed(0)
    problem = Problem(nn.Linear(3, 5), (torch.randn(1000, 3),), torch.randn(1000, 5))
    run = trajectory(problem, lr=0.1, steps=1, device="cpu", probes=["tangent", "tangent_bound"])
    assert "tangent_bound" in run.summary["unavailable"]["tangent"]  # it is named there
    x = torch.cat([problem.inputs[0].double(), torch.ones(1000, 1)], 1)
    top = float(torch.linalg.eigvalsh(x @ x.T)[-1])
    for bound in run.series["tangent_bound"]:  # K has rank 20 of 5000
        assert bound == pytest.approx(0, abs=1e-12 * top)
    assert run.summary["tangent_bound"] == {"min": min(run.series["tangent_bound"])}


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return g * 2


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Once.apply(self.inner(x))  # type: ignore[no-any-return, no-untyped-call]


def test_a_network_that_is_differentiable_once_only_is_not_observed() -> None:
    with pytest.raises(Unavailable, match="once_differentiable"):
        observed(Problem(Doubled(), (torch.ones(3, 2),), torch.zeros(3, 1)))
