"""The largest stable rate is bracketed by rates that were run."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import blockframe
from blockframe.dynamics.descent import descend
from blockframe.dynamics.objective import Objective
from blockframe.dynamics.options import Options
from blockframe.errors import InputError
from blockframe.problem import Problem
from blockframe.progress import Silence
from blockframe.scaling.stable import (
    LADDER,
    Search,
    Start,
    attempt,
    bracket,
    brackets,
    each,
    look,
    quantiles,
)


def quadratic(*eigenvalues: float) -> Problem:
    """L = ½θᵀHθ with H diagonal and of these eigenvalues, from (1, …, 1): N samples, MSE."""
    n = len(eigenvalues)
    module = nn.Linear(n, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    x = torch.diag(torch.tensor(eigenvalues, dtype=torch.float64).mul(n).sqrt())
    return Problem(module.double(), (x,), torch.zeros(n, 1, dtype=torch.float64))


def mlp() -> Problem:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    return Problem(module, (torch.randn(8, 5),), torch.randn(8, 3))


def objective(problem: Problem) -> Objective:
    return Options.of(lr=0.1, device="cpu").objective(problem)


@pytest.mark.parametrize("largest", [0.01, 1.0, 37.0])
@pytest.mark.parametrize("first", [1e-4, 0.9, 1e3])
def test_the_limit_of_a_quadratic_is_between_the_rates(largest: float, first: float) -> None:
    # both sets are 0 < η <= 2/λ if all eigenvalues are λ, whatever K
    found = brackets(objective(quadratic(largest, largest)), first / largest, Search(7, 0.02))
    for one in (found.trains, found.falls):
        assert one.below is not None
        assert one.above is not None
        assert one.below <= 2 / largest * (1 + 1e-12)
        assert one.above >= 2 / largest * (1 - 1e-12)
        assert one.above <= one.below * 1.02 * (1 + 1e-12)
        assert one.why
    assert not found.unstable_below


def test_two_eigenvalues_and_many_steps() -> None:
    # the smaller one's share has gone after K steps, and the larger one decides
    found = brackets(objective(quadratic(1.0, 4.0)), 0.1, Search(400, 0.01))
    assert found.trains.below is not None
    assert found.trains.above is not None
    assert found.trains.below <= 0.5 * 1.002
    assert found.trains.above >= 0.5


@pytest.mark.parametrize("width", [0.3, 0.02])
def test_both_rates_were_run_and_did_what_is_said(width: float) -> None:
    problem, steps = mlp(), 30
    found = brackets(objective(problem), 0.5, Search(steps, width))

    def losses(rate: float) -> list[float]:
        return [it.loss for it in descend(problem, lr=rate, steps=steps, device="cpu")]

    assert found.trains.below is not None
    assert found.trains.above is not None
    assert found.trains.below < found.trains.above <= found.trains.below * (1 + width) * 1.0000001
    below, above = losses(found.trains.below), losses(found.trains.above)
    assert len(below) == steps + 1
    assert below[-1] <= below[0]
    assert len(above) < steps + 1 or not above[-1] <= above[0]
    assert found.falls.below is not None
    assert found.falls.above is not None
    fall, rise = losses(found.falls.below), losses(found.falls.above)
    assert all(b <= a for a, b in pairwise(fall))
    assert any(b > a for a, b in pairwise(rise))
    assert found.falls.below <= found.trains.below


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(1e-3, 1.0))
@settings(max_examples=200)
def test_a_bracket_closes_in_on_the_limit(limit: float, first: float, width: float) -> None:
    asked = []

    def against(rate: float) -> str:
        asked.append(rate)
        return "too large" if rate > limit else ""

    found = bracket(against, first, width)
    assert found.below is not None
    assert found.above is not None
    assert found.below <= limit < found.above <= found.below * (1 + width)
    assert {found.below, found.above} <= set(asked)
    ladder = abs(math.log2(limit / first)) + 2
    assert len(asked) <= ladder + math.log2(math.log(2) / math.log1p(width)) + 2


def test_a_bracket_where_the_rates_are_no_interval() -> None:
    # unstable from 1 to 1.5, stable again up to 3
    found = bracket(lambda r: "no" if 1 < r < 1.5 or r > 3 else "", 0.9, 0.01)
    assert found.below is not None
    assert found.above is not None
    assert found.above <= found.below * 1.01
    assert (found.below <= 1 < found.above) or (found.below <= 3 < found.above)


def test_rates_below_that_are_unstable_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from blockframe.scaling import stable as room

    def fake(objective: object, rate: float, steps: int, units: object) -> room.Run:
        trains = "no" if 1 < rate < 1.5 or rate > 3 else ""
        return room.Run(rate, trains, trains or ("rises" if rate > 1.3 else ""))

    monkeypatch.setattr(room, "attempt", fake)
    found = brackets(objective(mlp()), 0.8, Search(3, 0.02))
    assert found.trains.below is not None
    assert found.trains.below == pytest.approx(3, rel=0.02)
    assert found.unstable_below
    assert all(1 < r < 1.5 for r in found.unstable_below)


def test_a_bracket_between_neighbouring_doubles_ends() -> None:
    tiny = math.ulp(0.0)
    found = bracket(lambda r: "no" if r > tiny else "", 4 * tiny, 0.02)
    assert (found.below, found.above) == (tiny, 2 * tiny)


@pytest.mark.parametrize("answer", ["", "no"])
def test_a_ladder_has_an_end(answer: str) -> None:
    asked: list[float] = []
    found = bracket(lambda r: asked.append(r) or answer, 1.0, 0.02)  # type: ignore[func-returns-value]
    assert len(asked) == LADDER
    assert (found.below, found.above) == ((max(asked), None) if not answer else (None, min(asked)))
    huge = bracket(lambda r: "", 1e308, 0.02)
    assert (huge.below, huge.above) == (1e308, None)


def test_what_speaks_against_a_rate() -> None:
    at = objective(quadratic(1.0, 1.0))
    assert attempt(at, 1.5, 9).trains == attempt(at, 1.5, 9).falls == ""
    assert attempt(at, 2.5, 9).falls == "step 0 raised the loss"
    assert attempt(at, 2.5, 9).trains.startswith("the loss after 9 steps is 1478")  # 1.5^18
    assert attempt(at, 50.0, 9).trains.startswith("diverged at step")
    assert attempt(at, 1e200, 9).trains == "the loss is not finite at step 1"


def test_a_loss_that_rises_first_trains_but_does_not_fall() -> None:
    # a catapult: two layers, one of them large, of which the first step makes less
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        module[0].weight.fill_(3.0)
        module[1].weight.fill_(0.1)
    problem = Problem(module, (torch.ones(1, 1, dtype=torch.float64),),
                      torch.zeros(1, 1, dtype=torch.float64))  # fmt: skip
    at = objective(problem)  # L = (uv)²/2; λ_max(θ_0) = u² + … about 9
    found = brackets(at, 2 / 9.0, Search(60, 0.02))
    assert found.trains.below is not None
    assert found.falls.below is not None
    assert found.trains.below > 1.3 * found.falls.below
    run = attempt(at, found.trains.below, 60)
    assert run.trains == ""
    assert run.falls.startswith("step")


def test_a_start_says_what_is_wrong_with_it() -> None:
    options = Options.of(lr=0.1, device="cpu")
    fine = look(mlp(), options, 0, None)
    assert (fine.degenerate, fine.rank, fine.stable) == ("", True, None)
    assert fine.measured.rate is not None
    dead = mlp()
    with torch.no_grad():
        for p in dead.module.parameters():
            p.zero_()
    dead = Problem(dead.module, dead.inputs, torch.zeros(8, 3))
    assert look(dead, options, 0, Search(3, 0.1)).degenerate == "the gradient is 0"
    broken = mlp()
    with torch.no_grad():
        next(broken.module.parameters()).fill_(float("nan"))
    found = look(broken, options, 0, Search(3, 0.1))
    assert found.degenerate == "loss or gradient are not finite"
    assert found.stable is None
    # equal samples: two equal rows of DF
    twice = mlp()
    x = twice.inputs[0].clone()
    x[1] = x[0]
    singular = look(Problem(twice.module, (x,), twice.targets), options, 0, None)
    assert singular.undecided.startswith("λ_min(K) = ")  # rounding hides it: it may be 0
    assert (singular.degenerate, singular.rank) == ("", True)
    few = look(Problem(nn.Linear(5, 3), (torch.randn(9, 5),), torch.randn(9, 3)), options, 0, None)
    assert (few.degenerate, few.undecided) == ("18 parameters for 27 outputs", "")
    many = Problem(nn.Linear(5, 3), (torch.randn(500, 5),), torch.randn(500, 3))
    assert not look(many, options, 0, None).rank


def started(seed: int) -> Start:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    problem = Problem(module, (torch.ones(2, 5),), torch.ones(2, 3))
    return look(problem, Options.of(lr=0.1, device="cpu"), seed, None)


def test_every_seed_has_its_start() -> None:
    starts = each(started, range(3, 6), 1, Silence())
    found = starts.found
    assert starts.ended == ""
    assert [s.seed for s in found] == [3, 4, 5]
    assert len({s.measured.sharpness for s in found}) == 3


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (KeyboardInterrupt(), "interrupted by the user after 2 of 4 starts"),
        (KeyboardInterrupt("SIGTERM"), "interrupted by SIGTERM after 2 of 4 starts"),
        (InputError("no luck", "Try"), "after 2 of 4 starts, at seed 5: no luck"),
    ],
)
def test_what_was_found_is_kept(error: BaseException, ended: str) -> None:
    def work(seed: int, last: int = 4) -> Start:
        if seed > last:
            raise error
        return started(seed)

    starts = each(work, range(3, 7), 1, Silence())
    assert [s.seed for s in starts.found] == [3, 4]
    assert starts.ended == ended
    with pytest.raises(type(error)):  # nothing was found
        each(lambda seed: work(seed, 0), range(3, 7), 1, Silence())


def test_a_seed_that_changes_nothing_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"the start is the same for all 2 seeds\. Draw the weights"
    ):
        each(lambda _: started(0), range(2), 1, Silence())


def test_quantiles_are_of_what_exists() -> None:
    assert quantiles([3.0, None, 1.0, 2.0, 5.0, 4.0]) == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert quantiles([None]) is None


MODEL = """
import torch
from torch import nn

def net():
    print("the model prints")
    layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return layers, (torch.ones(6, 3),), torch.zeros(6, 2)

def refusing():
    if torch.initial_seed() == 1:
        raise ValueError("not this one")
    return net()
"""


@pytest.mark.slow
def test_processes_find_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models.py").write_text(MODEL, encoding="utf-8")
    spec = f"{tmp_path / 'models.py'}:net"

    def rates(jobs: int) -> list[Start]:
        found = blockframe.learning_rates(
            spec, init="xavier", seeds=2, jobs=jobs, stable=True, steps=4, device="cpu"
        )
        return list(found.starts)

    alone = rates(1)
    capfd.readouterr()
    assert rates(2) == alone
    assert capfd.readouterr().out.count("the model prints") == 1  # the parent's own


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 on"),
        ({"width": 0.0}, "width must be from 1e-06 to 1, not 0.0"),
        ({"width": 2}, "width must be"),
        ({"seeds": 0}, "seeds must be a whole number from 1 on"),
        ({"seeds": 2, "seed": 2**32 - 1}, "seed must be a whole number"),
        ({"jobs": 0}, "jobs must be"),
        ({"seeds": 2, "jobs": 2}, "several jobs cannot share a target given in Python"),
        ({"stable": 1}, "stable must be True or False"),
        ({"seeds": 2}, "the start is the same for all 2 seeds"),
    ],
)
def test_options(options: dict[str, object], says: str) -> None:
    problem = mlp()
    with pytest.raises(InputError, match=says):
        blockframe.learning_rates((problem.module, problem.inputs, problem.targets), **options)


def test_an_initialization_makes_starts_differ() -> None:
    problem = mlp()
    target: tuple[object, ...] = (problem.module, problem.inputs, problem.targets)
    found = blockframe.learning_rates(target, seeds=3, init="orthogonal:0.5", seed=5)
    assert [s.seed for s in found.starts] == [5, 6, 7]
    assert found.measured == found.starts[0].measured
    assert len({s.digest for s in found.starts}) == 3
    sharpest: Callable[[Tensor], Tensor] = torch.linalg.svdvals  # what was drawn is orthogonal
    weight = blockframe.load(target, init="orthogonal:0.5", seed=5).module[0].weight.detach()
    assert torch.allclose(sharpest(weight), torch.full((5,), 0.5), rtol=1e-5)
