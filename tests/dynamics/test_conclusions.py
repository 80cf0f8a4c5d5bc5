"""What is concluded from whole runs, against plain gradient descent written out here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from blockframe.contract.claim import Verdict
from blockframe.contract.descent import descent_claim
from blockframe.dynamics.inequalities import PER_RUN, PER_STEP, PL
from blockframe.dynamics.run import trajectory
from blockframe.problem import Problem

STEPS = 25

Direct = Callable[[Problem], tuple[Callable[[Tensor], Tensor], Tensor]]


@pytest.fixture
def cnn() -> Problem:
    """Two convolutions and a head, 6 images of 6 × 6, cross-entropy of 3 classes."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.GELU(), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten()]
    module = nn.Sequential(*layers, nn.Linear(16, 3))
    return Problem(module, (torch.randn(6, 1, 6, 6),), torch.tensor([0, 1, 2, 0, 1, 2]), loss="ce")


@pytest.fixture(params=["mlp", "gpt2", "cnn"])
def problem(request: pytest.FixtureRequest) -> Problem:
    found: Problem = request.getfixturevalue(request.param)
    return found


def losses(problem: Problem, direct: Direct, lr: float) -> list[float]:
    loss, theta = direct(problem)
    seen = []
    for _ in range(STEPS + 1):
        theta = theta.detach().requires_grad_()
        value = loss(theta)
        (gradient,) = torch.autograd.grad(value, theta)
        seen.append(float(value.detach()))
        theta = theta - lr * gradient
    return seen


def first_rise(seen: list[float]) -> int | None:
    """The first step on which the loss does not fall."""
    return next((k for k in range(STEPS) if not seen[k + 1] < seen[k]), None)


def limit(problem: Problem, direct: Direct) -> float:
    """The largest rate with which the loss falls on every step, to 2 %."""
    stable, unstable = 1e-4, 1e3
    while unstable / stable > 1.02:
        middle = (stable * unstable) ** 0.5
        if first_rise(losses(problem, direct, middle)) is None:
            stable = middle
        else:
            unstable = middle
    return stable


@pytest.mark.slow
def test_a_stable_run_holds_and_an_unstable_one_is_refuted_at_its_step(
    problem: Problem, direct: Direct
) -> None:
    edge = limit(problem, direct)
    good = trajectory(problem, lr=0.9 * edge, steps=STEPS, probes=["tangent"])
    seen = {i.name for i in good.inequalities}
    assert seen >= {*PER_STEP, *PER_RUN}
    assert all(i.holds for i in good.inequalities)
    assert descent_claim(good).verdict is Verdict.HOLDS

    bad = trajectory(problem, lr=1.5 * edge, steps=STEPS)
    step = first_rise(losses(problem, direct, 1.5 * edge))
    claim = descent_claim(bad)
    assert claim.verdict is Verdict.FAILS
    witness = claim.findings[0].witness
    assert witness is not None
    assert witness["step"] == step
    assert claim.findings[0].message.startswith(f"the loss first rose on step {step}")
    assert not {i.name for i in bad.inequalities} & set(PER_RUN)


def test_the_pl_bound_is_stated_wherever_the_least_eigenvalue_is_positive(mlp: Problem) -> None:
    run = trajectory(mlp, lr=0.05, steps=3, probes=["tangent"])
    rows = [i for i in run.inequalities if i.name == PL]
    assert [i.step for i in rows] == [0, 1, 2, 3]
    assert [i.left for i in rows] == run.series["tangent.pl_bound"]
    assert [i.right for i in rows] == pytest.approx(run.series["pl"])
    assert all(i.holds for i in rows)


def test_the_edge_of_stability_is_reported(mlp: Problem) -> None:
    """A rate well above 2/λ: λη/2 is above 1 from the start on."""
    sharp = trajectory(mlp, lr=1e-3, steps=0).series["sharpness"][0]
    assert sharp is not None
    run = trajectory(mlp, lr=2.2 / sharp, steps=15)
    edge = run.summary["edge_of_stability"]
    stable = [x for x in run.series["sharpness.stability"] if x is not None]
    assert edge["first"] == 0
    assert edge["iterates"] == len(stable) == 16
    assert (edge["least"], edge["most"]) == (min(stable), max(stable))
    assert edge["above"] == sum(x >= 1 for x in stable)
    value = run.series["loss"]
    assert edge["rises"] == sum(b > a for a, b in pairwise(value))  # type: ignore[operator]
    quiet = trajectory(mlp, lr=0.1 / sharp, steps=2)
    assert "edge_of_stability" not in quiet.summary


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_regression_with_an_offset_is_not_refuted_by_rounding(dtype: str) -> None:
    """Exact descent on it is monotone: it is quadratic and ηλ < 2. Near the minimum gradients of
    the samples cancel, and the rounding of outputs of size 1e4 does not."""
    torch.manual_seed(1)
    x, y = torch.randn(20, 2), 1e4 + torch.randn(20, 1)
    run = trajectory(Problem(nn.Linear(2, 1), (x,), y), lr=0.5, steps=120, dtype=dtype)
    stable = [s for s in run.series["sharpness.stability"] if s is not None]
    assert max(stable) < 1
    assert not [i for i in run.inequalities if i.holds is False]
    assert descent_claim(run).verdict is Verdict.UNKNOWN
