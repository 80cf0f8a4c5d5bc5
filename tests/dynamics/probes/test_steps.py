"""gradient_lipschitz, update_size, distance, loss_floor: against numpy on the iterates' vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blockframe.dynamics.descent import Descent, descend
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.run import trajectory
from blockframe.problem import Problem

NAMES = ["gradient_lipschitz", "update_size", "distance", "loss_floor"]
BLOCKS = {"first": ["0.weight", "0.bias"], "second": ["2.weight"]}
WHERE = {"": slice(0, 57), "first": slice(0, 36), "second": slice(36, 54), "rest": slice(54, 57)}


def run(problem: Problem, steps: int = 3, lr: float | list[float] = 0.3) -> Descent:
    return descend(problem, lr=lr, steps=steps, probes=NAMES, blocks=BLOCKS, device="cpu")


def norm(x: Tensor, where: slice = WHERE[""]) -> float:
    return float(np.linalg.norm(x.numpy()[where]))


@pytest.mark.parametrize("lr", [0.3, [0.3, 0.1, 0.7]])
def test_what_a_step_changes_is_what_numpy_says(mlp: Problem, lr: float | list[float]) -> None:
    before: tuple[Tensor, Tensor] | None = None
    start = None
    for it in run(mlp, lr=lr):
        theta, gradient = it.theta.clone(), it.gradient.clone()
        start = theta if start is None else start
        seen = it.observe_all()
        for block, where in WHERE.items():
            key = f".{block}" if block else ""
            moved = norm(theta - start, where) / norm(start, where)
            assert seen[f"distance{key}"] == pytest.approx(moved, rel=1e-12, abs=0)
            if before is None:
                assert seen[f"update_size{key}"] is None
            else:
                size = norm(theta - before[0], where) / norm(before[0], where)
                assert seen[f"update_size{key}"] == pytest.approx(size, rel=1e-12)
        if before is None:
            assert seen["gradient_lipschitz"] is None
        else:
            local = norm(gradient - before[1]) / norm(theta - before[0])
            assert seen["gradient_lipschitz"] == pytest.approx(local, rel=1e-10)
        assert seen["loss_floor"] == it.loss
        assert seen["loss_floor.square"] == pytest.approx(norm(gradient) ** 2, rel=1e-12)
        before = theta, gradient


def test_on_a_quadratic_it_is_a_mean_of_eigenvalues() -> None:
    """L = (θ_1 x_1 − y_1)²/4 + (θ_2 x_2 − y_2)²/4: the Hessian is diag(x²)/2."""
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0]]))
    problem = Problem(module, (torch.diag(torch.tensor([3.0, 1.0])),), torch.tensor([[0.5], [1.0]]))
    _, it = descend(problem, lr=0.05, steps=1, probes=NAMES, device="cpu")
    slope = np.array([(3 * 1.0 - 0.5) * 3 / 2, (-2.0 - 1.0) / 2])
    hessian = np.diag([4.5, 0.5])
    expected = np.linalg.norm(hessian @ slope) / np.linalg.norm(slope)
    assert it["gradient_lipschitz"] == pytest.approx(expected, rel=1e-12)
    assert 0.5 < it["gradient_lipschitz"] < 4.5


def test_it_is_no_more_than_the_largest_curvature_between(mlp: Problem) -> None:
    """‖∇L' − ∇L‖ = ‖∫∇²L (θ' − θ)‖, and here λ_max dominates the spectrum."""
    for it in run(mlp, lr=0.01):
        if it.previous is not None:
            top = max(it.curvature.value, it.previous.curvature.value)
            assert it["gradient_lipschitz"] <= 1.01 * top


def test_where_nothing_moves_there_is_no_quotient() -> None:
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    problem = Problem(module, (torch.ones(3, 2),), torch.zeros(3, 1))
    _, it = descend(problem, lr=0.1, steps=1, probes=NAMES, device="cpu")
    assert it["gradient_lipschitz"] is None  # 0/0
    assert it["update_size"] is it["update_size.rest"] is None
    assert it["distance"] is it["distance.rest"] is None
    assert it["loss_floor"] == it["loss_floor.square"] == 0.0


def test_the_summaries_are_extremes_of_the_series(mlp: Problem) -> None:
    found = trajectory(mlp, BLOCKS, lr=0.6, steps=4, device="cpu")
    series, summary = found.series, found.summary
    for name in ("gradient_lipschitz", "update_size", "distance"):
        values = [x for x in series[name] if x is not None]
        assert summary[name] == {"max": max(values)}
    slopes = series["gradient_norm"][:-1]
    assert summary["loss_floor"] == {
        "least": min(series["loss"]),
        "neighbourhood": min(g * g for g in slopes),
    }
    (row,) = [i for i in found.inequalities if i.name == "neighbourhood"]
    assert row.left == summary["loss_floor"]["neighbourhood"]


def test_a_run_of_no_steps_reached_no_neighbourhood(mlp: Problem) -> None:
    found = trajectory(mlp, lr=0.6, steps=0, device="cpu")
    assert found.summary["loss_floor"]["neighbourhood"] is None
    assert "gradient_lipschitz" not in found.summary  # nothing was measured
    assert found.summary["distance"] == {"max": 0.0}


def test_a_restored_previous_iterate_gives_the_same_numbers(mlp: Problem) -> None:
    """As after a resume: θ_k and θ_{k−1} are there, nothing that was computed at them."""
    last = None
    for last in run(mlp):
        seen = last.observe_all()
        if last.previous is None:
            continue
        before = Iterate(last.objective, last.previous.theta, step=last.step - 1)
        again = Iterate(
            last.objective, last.theta, step=last.step, previous=before, probes=last.probes
        )
        assert again.observe_all() == seen
    assert last is not None
    assert last.step == 3


def test_the_norms_of_blocks_add_up(mlp: Problem) -> None:
    it = next(run(mlp))
    found = it.objective.norms(torch.linspace(-1, 1, 57, dtype=torch.float64))
    assert list(found) == ["", "first", "second", "rest"]
    assert found[""] == pytest.approx(math.hypot(*(found[b] for b in it.objective.blocks)))
