from __future__ import annotations

import itertools
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blockframe
from blockframe.certificate.model import Trajectory
from blockframe.contract.claim import Verdict
from blockframe.contract.descent import descent_claim
from blockframe.dynamics.descent import start
from blockframe.dynamics.ending import was_final, was_no_function
from blockframe.dynamics.inequalities import IN_HALF, UNITS
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.journal import Row
from blockframe.dynamics.place import Place
from blockframe.dynamics.probes import Probe
from blockframe.dynamics.record import Record
from blockframe.dynamics.rounding import rounding_units
from blockframe.dynamics.run import observe, run_options, trajectory
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


class Headless(nn.Module):
    """Pre-norm, on data with an offset, a head of zeros: at θ_0 no digit is lost."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.norm, self.head = nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 1)
        self.offset = offset
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(x + self.inner(x - self.offset)))
        return out


def headless(offset: float) -> Problem:
    torch.manual_seed(0)
    x = torch.randn(5, 3)
    return Problem(Headless(offset), (x + offset,), x[:, :1] / 2)


def test_digits_that_are_lost_later_are_seen_where_it_matters() -> None:
    run = trajectory(headless(1e4), lr=0.05, steps=300, dtype="float32")
    losses = [x for x in run.series["loss"] if x is not None]
    assert any(b > a for a, b in itertools.pairwise(losses))
    assert run.summary["rounding_units"] > UNITS
    assert not [i for i in run.inequalities if i.holds is False]
    assert descent_claim(run).verdict is Verdict.UNKNOWN


def test_weights_of_zeros_hide_nothing() -> None:
    module = Cancelling(6)
    for p in module.parameters():
        nn.init.zeros_(p)
    torch.manual_seed(1)
    zeros = Problem(module, (torch.randn(16, 3),), torch.randn(16, 2))
    options = run_options(lr=0.1, steps=1, device="cpu", dtype="float64")
    assert rounding_units(start(zeros, options)) > 1e4


CALLS = [0]


class Outside(nn.Module):
    """Its state is outside of it: from some call on the outputs are 0."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.calls = nn.Linear(3, 2), calls

    def forward(self, x: Tensor) -> Tensor:
        CALLS[0] += 1
        out: Tensor = self.linear(x)
        return out if CALLS[0] < self.calls else out * 0


@pytest.mark.parametrize("calls", [14, 20, 28])
def test_a_network_that_changes_on_the_way_is_not_said_to_descend(calls: int) -> None:
    CALLS[0] = 0
    torch.manual_seed(1)
    problem = Problem(Outside(calls), (torch.randn(6, 3),), torch.randn(6, 2))
    run = trajectory(problem, lr=0.1, steps=20)
    assert run.completed == 20
    assert was_no_function(run.ended)
    assert was_final(run.ended)
    claim = descent_claim(run)
    assert claim.verdict is Verdict.UNKNOWN
    assert claim.statement.startswith("the network gives two losses at one θ")


class Drift(nn.Module):
    """It comes to lose digits as it is trained, none at θ_0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.b = nn.Linear(4, 1), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        c = torch.exp(30 * self.b)
        out: Tensor = (self.linear(x) + c) - c + 3 * self.b
        return out


def drift() -> Problem:
    torch.manual_seed(1)
    x = torch.randn(16, 4)
    return Problem(Drift(), (x,), x[:, :1] + 3)


def test_a_run_whose_units_rise_stands() -> None:
    certificate = blockframe.certify(
        drift(), lr=0.01, steps=30, dtype="float32", probes=["tangent_bound", "tangent"],
        device="cpu",
    )  # fmt: skip
    assert certificate.trajectory is not None
    summary = certificate.trajectory.summary
    assert summary["rounding_units"] > summary["rounding_units_at_start"] == UNITS
    assert [str(c) for c in blockframe.check(certificate).rejected] == []


def test_a_run_whose_units_rise_goes_on_the_same(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lr": 0.01, "steps": 30, "dtype": "float32", "device": "cpu"}
    whole = trajectory(drift(), **options)

    def observed(at: int, *, resume: bool = False) -> Trajectory:
        place = Place.of(tmp_path, "drift", {}, resume=resume)
        found = run_options(**options, probes=[Breaking(at)])
        return observe(drift(), found, place=place)

    assert whole.summary["rounding_units"] > UNITS
    observed(29)
    again = observed(99, resume=True)
    assert again.summary == whole.summary
    assert again.inequalities == whole.inequalities


class Caching(nn.Module):
    """Keeps a table in the dtype of its input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.table = nn.Linear(4, 2), torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.table.numel():
            self.table = torch.sin(torch.arange(4).to(x.dtype))
        elif self.table.dtype != x.dtype:
            self.table = self.table.to(x.dtype)
        out: Tensor = self.linear(x + self.table)
        return out


def test_another_arithmetic_leaves_the_network_as_it_is() -> None:
    torch.manual_seed(1)
    problem = Problem(Caching(), (torch.randn(6, 4),), torch.randn(6, 2))
    assert trajectory(problem, lr=0.1, steps=3, dtype="float64").ended == "completed"


def test_what_differs_is_shown() -> None:
    class Nearly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.calls = nn.Parameter(torch.ones(1)), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.w * x * (1 + 1e-10 * self.calls)

    run = trajectory(Problem(Nearly(), (torch.ones(2, 1),), torch.zeros(2, 1)), lr=0.1, steps=1)
    found = re.fullmatch(
        r"the network gives two losses at one θ, (\S+) and (\S+), at step 0", run.ended
    )
    assert found is not None
    assert found[1] != found[2]


class Breaking(Probe):
    name = "breaking"

    def __init__(self, at: int) -> None:
        self.at = at

    def observe(self, it: Iterate) -> None:
        if it.step == self.at:
            raise KeyboardInterrupt


def test_an_interrupt_after_the_last_row_leaves_the_ending(
    mlp: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Record.add

    def late(self: Record, it: Iterate, row: Row) -> None:
        add(self, it, row)
        if it.loss > 1e6 or not it.finite:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Record, "add", late)
    certificate = blockframe.certify(mlp, lr=50.0, steps=40, device="cpu")
    assert certificate.trajectory is not None
    assert re.match("diverged|the (loss|gradient) is not finite", certificate.trajectory.ended)
    assert blockframe.check(certificate).rejected == ()
