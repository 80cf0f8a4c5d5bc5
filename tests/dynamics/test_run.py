from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

import blockframe
from blockframe.contract.claim import Verdict
from blockframe.contract.descent import descent_claim
from blockframe.dynamics.descent import descend
from blockframe.dynamics.ending import was_interrupted
from blockframe.dynamics.inequalities import PER_RUN, PER_STEP
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.probes import Probe
from blockframe.dynamics.run import trajectory
from blockframe.errors import InputError, PluginError
from blockframe.problem import Problem

CORE = {
    "loss", "gradient_norm", "sharpness", "sharpness.residual", "sharpness.stability",
    "sharpness.cold", "directional_smoothness", "pl", "block_norms", "block_norms.rest",
    "dissipativity", "dissipativity.rest", "output_pairing", "output_pairing.size",
    "descent.curvature", "descent.margin",
    "gradient_lipschitz", "update_size", "update_size.rest", "distance", "distance.rest",
    "loss_floor", "loss_floor.square",
}  # fmt: skip


class Recorder:
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def step(self, done: int, total: int, detail: str) -> None:
        assert detail.startswith("loss ")
        self.steps.append((done, total))


class Interrupting(Probe):
    name = "interrupting"

    def observe(self, it: Iterate) -> float:
        if it.step == 2:
            raise KeyboardInterrupt
        return 1.0


class Width(Probe):
    name, unit = "width", "1"

    def observe(self, it: Iterate) -> dict[str, float | None]:
        return {"": float(it.theta.numel()), "half": it.theta.numel() / 2}

    def summary(self, series: Any) -> dict[str, Any]:
        return {"keys": sorted(series)}


class Gradient(Probe):
    name, unit = "gradient", "L/θ"

    def observe(self, it: Iterate) -> float:
        return it.gradient_norm


def test_a_probe_of_a_plugin_tells_its_unit(mlp: Problem) -> None:
    run = trajectory(mlp, lr=0.05, steps=0, device="cpu", probes=[Width, Gradient, "kinks"])
    assert run.summary["units"] == {"gradient": "L/θ"}
    assert "units" not in trajectory(mlp, lr=0.05, steps=0, device="cpu", probes=[Width]).summary


def test_every_series_has_one_entry_per_iterate(mlp: Problem) -> None:
    run = trajectory(mlp, lr=0.05, steps=3, device="cpu", scale="proxy")
    assert set(run.series) == CORE
    assert all(len(values) == 4 for values in run.series.values())
    first = {"directional_smoothness", "descent.curvature", "descent.margin", "gradient_lipschitz",
             "update_size", "update_size.rest"}  # fmt: skip
    for name, values in run.series.items():
        assert (values[0] is None) == (name in first)
        assert None not in values[1:]
    assert (run.completed, run.ended, run.scale, run.lr) == (3, "completed", "proxy", 0.05)
    names = [(i.step, i.name) for i in run.inequalities]
    assert sorted(names) == sorted(
        [(k, n) for k in range(3) for n in PER_STEP] + [(3, n) for n in PER_RUN]
    )
    assert all(i.holds for i in run.inequalities)


def test_the_summary_says_what_was_measured(mlp: Problem) -> None:
    blocks = {"first": ["0.weight", "0.bias"]}
    run = trajectory(mlp, blocks, lr=0.05, steps=3, device="cpu")
    s, series = run.summary, run.series
    assert (s["device"], s["dtype"], s["parameters"]) == ("cpu", "float64", 57)
    assert s["loss"] == {"first": series["loss"][0], "last": series["loss"][-1]}
    numbers = {k: [x for x in v if x is not None] for k, v in series.items()}
    assert s["pl"]["min"] == min(numbers["pl"])
    assert s["sharpness"]["max_stability"] == max(numbers["sharpness.stability"])
    assert s["sharpness"]["worst_residual"] == max(numbers["sharpness.residual"])
    assert s["dissipativity"]["b"] == max(0.0, -min(numbers["dissipativity"]))
    assert set(s["dissipativity"]["blocks"]) == {"first", "rest"}
    assert s["curvature"] == s["descent"]["max_curvature"] == max(numbers["descent.curvature"])
    assert s["neighbourhood_bound"] > min(g * g for g in numbers["gradient_norm"])


def test_the_same_seed_gives_the_same_trajectory(gpt2: Problem) -> None:
    first, second = (trajectory(gpt2, steps=2, device="cpu", seed=7) for _ in range(2))
    assert first == second


def test_another_probe_adds_its_series_and_its_summary(mlp: Problem) -> None:
    for probes in ([Width], [Width()], ["width"]):
        run = trajectory(mlp, lr=0.05, steps=1, device="cpu", probes=probes, known={"width": Width})
        assert run.series["width"] == [57.0, 57.0]
        assert run.series["width.half"] == [28.5, 28.5]
        assert run.summary["width"] == {"keys": ["", "half"]}


def test_progress_is_told(mlp: Problem) -> None:
    recorder = Recorder()
    trajectory(mlp, lr=0.05, steps=2, device="cpu", progress=recorder)
    assert recorder.stages == ["gradient descent"]
    assert recorder.steps == [(0, 2), (1, 2), (2, 2)]


def test_an_interrupt_keeps_what_was_measured(mlp: Problem) -> None:
    run = trajectory(mlp, lr=0.05, steps=5, device="cpu", probes=[Interrupting])
    assert run.ended == "interrupted at step 2 by the user"
    assert run.completed == 1
    assert all(len(values) == 2 for values in run.series.values())
    assert {i.step for i in run.inequalities if i.name in PER_STEP} == {0}


def test_an_interrupt_before_anything_was_measured(mlp: Problem) -> None:
    class AtOnce(Interrupting):
        def observe(self, it: Iterate) -> float:
            raise KeyboardInterrupt

    run = trajectory(mlp, lr=0.05, steps=5, device="cpu", probes=[AtOnce])
    assert run.ended == "interrupted at step 0 by the user"
    assert (run.completed, run.series, run.inequalities) == (0, {}, ())


def test_no_step_is_one_iterate(mlp: Problem) -> None:
    run = trajectory(mlp, steps=0, device="cpu")
    assert (run.completed, run.ended, run.inequalities) == (0, "completed", ())
    assert all(len(values) == 1 for values in run.series.values())
    assert run.series["sharpness"][0] is not None


class Exploding(nn.Module):
    """exp(w): finite where it starts, infinite after a long step."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.w * x).exp()


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    problem = Problem(Exploding(), (torch.ones(1, 1),), torch.full((1, 1), 10.0))
    run = trajectory(problem, lr=100.0, steps=5, device="cpu")
    assert run.ended == "the loss is not finite at step 1"
    assert run.completed == 1
    assert run.series["loss"] == [pytest.approx((math.e - 10) ** 2 / 2), None]
    assert all(len(values) == 2 and values[1] is None for values in run.series.values())
    assert run.inequalities == ()


def test_a_start_that_is_not_finite_is_measured_as_such() -> None:
    problem = Problem(Exploding(), (torch.full((1, 1), math.nan),), torch.ones(1, 1))
    run = trajectory(problem, lr=0.1, steps=5, device="cpu")
    assert run.ended == "the loss is not finite at step 0"
    assert run.series == {"loss": [None]}
    assert trajectory(problem, lr="auto", steps=5, device="cpu").ended == run.ended


def test_ctrl_c_while_the_learning_rate_is_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("blockframe.dynamics.descent.automatic_lr", interrupt)
    problem = Problem(Exploding(), (torch.ones(1, 1),), torch.ones(1, 1))
    run = trajectory(problem, steps=5, device="cpu")
    assert run.ended == "interrupted at step 0 by the user"
    assert run.completed == 0
    assert descent_claim(run).verdict is Verdict.UNKNOWN


def test_a_run_that_diverges_keeps_its_numbers(gpt2: Problem) -> None:
    run = trajectory(gpt2, lr=1e9, steps=20, device="cpu")
    assert run.ended.startswith("diverged at step ")
    assert 1 <= run.completed < 20
    assert all(len(v) == run.completed + 1 for v in run.series.values())
    assert any(i.holds is False for i in run.inequalities)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 2


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(self.inner(x))  # type: ignore[no-any-return, no-untyped-call]


def test_without_second_derivatives_the_rest_is_measured() -> None:
    problem = Problem(Doubled(), (torch.ones(3, 2),), torch.zeros(3, 1))
    run = trajectory(problem, lr=0.01, steps=2, device="cpu")
    assert run.completed == 2
    assert "sharpness" not in run.series
    assert "once_differentiable" in run.summary["unavailable"]["sharpness"]
    assert {i.name for i in run.inequalities} == {*PER_STEP, *PER_RUN}
    run = trajectory(problem, steps=2, device="cpu")
    assert run.ended.startswith("it had no learning rate: the Hessian of this network cannot be")
    assert "Give a learning rate (--lr)" in run.ended
    assert descent_claim(run).verdict is Verdict.UNKNOWN
    with pytest.raises(InputError, match="Give a learning rate"):
        descend(problem, steps=2, device="cpu")


class Failing(nn.Module):
    """x·w, until its forward or backward has been run at ``calls`` iterates: at the first the
    forward is run twice; what rounding does is looked at on copies."""

    def __init__(self, error: BaseException, calls: int, *, backward: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 1)
        self.error, self.backward = error, backward
        self.calls = calls + 1 if calls and not backward else calls

    def fail(self) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise self.error

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        if not self.backward:
            self.fail()
        elif y.requires_grad:
            y.register_hook(lambda _: self.fail())
        return y


def failing(error: BaseException, calls: int, **options: Any) -> Problem:
    torch.manual_seed(0)
    module = Failing(error, calls, **options)
    return Problem(module, (torch.eye(2),), torch.ones(2, 1))


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (RuntimeError("no\nluck"), r"the forward raised RuntimeError: no luck, at test_run.py:\d+"),
        (SystemExit(0), r"the forward raised SystemExit: 0, at test_run.py:\d+"),
        (RuntimeError("the loss is not finite at step 2"), "the forward raised RuntimeError: .*"),
        (RuntimeError("interrupted at step 2 by me"), "the forward raised RuntimeError: .*"),
    ],
)
def test_a_forward_that_raises_late_keeps_what_was_measured(
    error: BaseException, ended: str
) -> None:
    run = trajectory(failing(error, 3), lr=0.01, steps=9, device="cpu")
    assert re.fullmatch(ended + ", at step 3", run.ended)
    assert run.completed == 2
    assert all(len(values) == 3 for values in run.series.values())
    claim = descent_claim(run)
    assert claim.verdict is Verdict.UNKNOWN
    assert run.ended in claim.statement
    assert not was_interrupted(run.ended)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize("calls", [0, 2])
def test_out_of_memory_keeps_what_was_measured(error: Exception, calls: int) -> None:
    for lr in (0.01, "auto"):
        run = trajectory(failing(error, calls), lr=lr, steps=9, device="cpu")
        assert run.ended.startswith(f"out of memory at step {calls}. Try fewer --samples")
        assert len(run.series.get("loss", [])) == calls
        assert descent_claim(run).verdict is Verdict.UNKNOWN


def test_memory_that_ends_in_the_hessian_is_no_lack_of_a_derivative() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    run = trajectory(failing(error, 1, backward=True), lr=0.01, steps=9, device="cpu")
    assert run.ended.startswith("out of memory at step 0. Try fewer --samples")


def test_a_backward_that_raises_late() -> None:
    once = trajectory(failing(ValueError("no"), 10**6, backward=True), lr=0.01, steps=0)
    assert once.ended == "completed"
    run = trajectory(failing(ValueError("no"), 0, backward=True), lr=0.01, steps=9)
    assert re.fullmatch(r"the backward raised ValueError: no, at .*, at step 0", run.ended)


def test_a_forward_that_raises_at_once() -> None:
    for lr in (0.01, "auto"):
        run = trajectory(failing(ValueError("no"), 0), lr=lr, steps=9, device="cpu")
        assert re.fullmatch(r"the forward raised ValueError: no, at .*, at step 0", run.ended)
        assert (run.completed, run.series) == (0, {})


def test_an_error_of_this_program_is_no_ending(
    mlp: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Iterate, "observe_all", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        trajectory(mlp, lr=0.01, steps=1, device="cpu")


class Tiring(Probe):
    name = "tiring"

    def observe(self, it: Iterate) -> float:
        if it.step == 2:
            raise KeyError("gone")
        return 1.0

    def summary(self, series: Any) -> dict[str, Any]:
        raise SystemExit(1)


def test_a_probe_that_fails_keeps_what_was_measured(mlp: Problem) -> None:
    run = trajectory(mlp, lr=0.01, steps=9, device="cpu", probes=[Tiring])
    assert run.ended.startswith("stopped at step 2: probe 'tiring' failed: KeyError")
    assert run.series["tiring"] == [1.0, 1.0]
    assert "SystemExit: 1" in run.summary["unavailable"]["summary of tiring"]
    assert run.summary["loss"]["last"] == run.series["loss"][-1]


class Bounded:
    """A loss whose bound is what it is made with."""

    name = "bounded"

    def __init__(self, bound: Any) -> None:
        self.bound = bound

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().mean()

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if self.bound == 1:
            raise ValueError("check")

    def infimum(self, targets: Tensor) -> float:
        return float(self.bound)


@pytest.mark.parametrize(
    ("bound", "says"), [("x", "infimum of loss"), (math.nan, "is NaN"), (1, "ValueError: check")]
)
def test_a_contributed_loss_that_fails_is_named(mlp: Problem, bound: Any, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        trajectory(
            evolve(mlp, loss="bounded"), lr=0.1, steps=1, device="cpu",
            losses={"bounded": Bounded(bound)},
        )  # fmt: skip


def test_a_network_that_counts_its_calls_is_not_said_to_descend() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.calls = nn.Parameter(torch.ones(1)), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.w * x * 0.7**self.calls

    run = trajectory(Problem(Counting(), (torch.ones(2, 1),), torch.zeros(2, 1)), lr=4.0, steps=1)
    assert re.fullmatch(r"the network gives two losses at one θ, .* and .*, at step 0", run.ended)
    assert descent_claim(run).verdict is Verdict.UNKNOWN


def test_a_run_that_underflows_is_that_of_gradient_descent() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    problem = Problem(module, (torch.ones(1, 1),), torch.zeros(1, 1))
    run = trajectory(problem, lr=0.9, steps=330)
    assert not [i for i in run.inequalities if i.name == "norm recursion" and not i.holds]


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.w, self.scale = nn.Parameter(torch.zeros(1, dtype=torch.float64)), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x * self.w


def test_a_gradient_whose_square_underflows_is_one() -> None:
    x = torch.ones(2, 1, dtype=torch.float64)
    run = trajectory(Problem(Scaled(1e-110), (x,), 1e-50 * x), lr=1e150, steps=3)
    assert run.series["gradient_norm"][0] == pytest.approx(2e-160)
    assert not [i for i in run.inequalities if i.holds is False]
    run = trajectory(Problem(Scaled(1e-170), (x,), x), lr=1e150, steps=3)
    assert run.series["gradient_norm"][0] == pytest.approx(2e-170)


@pytest.mark.parametrize(
    "lr", ["step:0.1:4:6", "step:auto:0.1:3", [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 9.0]]
)
def test_the_rate_after_the_last_step_counts_nowhere(lr: str | list[float], mlp: Problem) -> None:
    run = trajectory(mlp, lr=lr, steps=6, device="cpu")
    stability = [x for x in run.series["sharpness.stability"] if x is not None]
    assert run.summary["sharpness"]["max_stability"] == max(stability[:-1])
    assert "edge_of_stability" not in run.summary
    claim = descent_claim(run)
    assert claim.numbers["max_stability"] == max(stability[:-1])
    assert claim.findings == ()


class Stopping(Probe):
    name = "stopping"

    def observe(self, it: Iterate) -> float:
        raise KeyboardInterrupt


def test_a_run_that_ends_in_its_first_iterate_asserts_nothing(mlp: Problem) -> None:
    run = trajectory(mlp, lr=0.1, steps=3, probes=[Stopping])
    assert run.ended == "interrupted at step 0 by the user"
    assert (run.series, run.inequalities, run.summary) == ({}, (), {})
    certificate = blockframe.certify(mlp, lr=0.1, steps=3, probes=[Stopping])
    assert certificate.trajectory is not None
    assert blockframe.check(certificate).rejected == ()


@pytest.mark.parametrize("lr", ["step:auto:1e-100:1", "step:auto:1e100:1", 1e-310])
def test_a_rate_that_is_no_number_is_refused(lr: str | float, mlp: Problem) -> None:
    with pytest.raises(InputError, match=r"the learning rate .* comes to .* in 4 steps"):
        trajectory(mlp, lr=lr, steps=4)
