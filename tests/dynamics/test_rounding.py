from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from blockframe.contract.claim import Verdict
from blockframe.contract.descent import descent_claim
from blockframe.dynamics.descent import start
from blockframe.dynamics.inequalities import IN_HALF, UNITS
from blockframe.dynamics.rounding import rounding_units
from blockframe.dynamics.run import run_options, trajectory
from blockframe.problem import Problem


class Cancelling(nn.Module):
    """A linear network whose outputs lose ``digits`` digits on their way."""

    def __init__(self, digits: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.offset = nn.Linear(3, 2), 10.0**digits

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.linear(x) + self.offset) - self.offset
        return out


def problem(digits: int) -> Problem:
    torch.manual_seed(1)
    return Problem(Cancelling(digits), (torch.randn(16, 3),), torch.randn(16, 2))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_network_that_loses_no_digits_has_the_least_units(mlp: Problem, dtype: str) -> None:
    run = trajectory(mlp, lr=0.01, steps=1, dtype=dtype)
    assert run.summary["rounding_units"] == (IN_HALF if "16" in dtype else UNITS)


def test_as_many_units_as_digits_are_lost() -> None:
    found = []
    for digits in (0, 4, 6, 9):
        options = run_options(lr=0.1, steps=1, device="cpu", dtype="float64")
        found.append(rounding_units(start(problem(digits), options)))
    assert found[0] == UNITS
    assert found[1] > 1e3
    assert 20 < found[2] / found[1] < 500
    assert found[3] == 2.0**53  # float32 cannot tell


@pytest.mark.parametrize(("dtype", "digits"), [("float64", 8), ("float64", 6), ("float32", 3)])
def test_a_run_that_only_rounding_lets_rise_is_not_refuted(dtype: str, digits: int) -> None:
    run = trajectory(problem(digits), lr=0.1, steps=400, dtype=dtype)
    losses = [x for x in run.series["loss"] if x is not None]
    assert any(b > a for a, b in itertools.pairwise(losses))  # it does rise
    assert run.summary["sharpness"]["max_stability"] < 0.5
    assert not [i for i in run.inequalities if i.holds is False]
    assert descent_claim(run).verdict is Verdict.UNKNOWN


def test_it_is_refuted_where_it_rises_far() -> None:
    run = trajectory(problem(3), lr=10.0, steps=3, dtype="float32")
    assert descent_claim(run).verdict is Verdict.FAILS


def test_chunks_lose_as_many() -> None:
    options = run_options(lr=0.1, steps=1, device="cpu", dtype="float64", memory=2200)
    it = start(problem(6), options)
    budget = it.objective.budget
    assert budget is not None
    assert len(budget.parts) > 1
    assert rounding_units(it) > 1e5


class Double(nn.Module):
    """Runs in float64 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.eye(3, dtype=torch.float64) @ self.w


def test_a_network_of_one_dtype_has_the_least_units() -> None:
    problem = Problem(Double(), (torch.ones(4, 3).double(),), torch.zeros(4, 2).double())
    run = trajectory(problem, lr=0.01, steps=1, dtype="float64")
    assert run.ended == "completed"
    assert run.summary["rounding_units"] == UNITS
