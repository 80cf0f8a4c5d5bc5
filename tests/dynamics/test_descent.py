from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blockframe.dynamics.descent import FRACTION, descend
from blockframe.dynamics.losses import Loss, MeanSquaredError
from blockframe.dynamics.probes import PROBES
from blockframe.errors import BlockframeError, InputError, PluginError
from blockframe.problem import Problem

ALL = [p.name for p in PROBES]


class Line(nn.Module):
    """f = w·x with one weight: with x = 1, y = 0 the loss is w²/2."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def line(start: float = 1.0) -> Problem:
    return Problem(Line(start), (torch.ones(1, 1),), torch.zeros(1, 1))


def test_it_is_gradient_descent() -> None:
    run = list(descend(line(), lr=0.25, steps=3, device="cpu"))
    assert [float(it.theta) for it in run] == [1.0, 0.75, 0.5625, 0.421875]
    assert [it.step for it in run] == [0, 1, 2, 3]
    assert run[2].loss == 0.5625**2 / 2


def test_the_probes_agree_with_their_formulas_on_a_quadratic() -> None:
    run = list(descend(line(), lr=0.25, steps=2, probes=ALL, device="cpu"))
    assert run[0]["directional_smoothness"] is None
    for it in run[1:]:
        assert it["directional_smoothness"] == pytest.approx(1.0, rel=1e-12)
        # M is λ exactly: the margin is what the allowance for rounding adds.
        margin = it["descent.margin"]
        assert isinstance(margin, float)
        assert 0 <= margin < 1e-12
    for it in run:
        w = float(it.theta)
        assert it["sharpness"] == 1.0
        assert it["sharpness.stability"] == 0.125
        assert it["pl"] == pytest.approx(1.0, rel=1e-12)
        assert it["gradient_norm"] == w
        assert it["dissipativity"] == pytest.approx(w * w, rel=1e-12)


def test_directional_smoothness_and_pl_agree_with_direct_formulas(mlp: Problem) -> None:
    lr = 0.05
    run = list(descend(mlp, lr=lr, steps=3, probes=ALL, device="cpu"))
    for a, b in pairwise(run):
        slope = float(a.gradient @ a.gradient)
        expected = (b.loss - a.loss + lr * slope) / (lr**2 / 2 * slope)
        assert b["directional_smoothness"] == pytest.approx(expected, rel=1e-9)
        assert a["pl"] == pytest.approx(slope / (2 * a.loss), rel=1e-12)
        assert a["dissipativity"] == pytest.approx(float(a.theta @ a.gradient), rel=1e-12)


def test_auto_is_a_fraction_of_the_stability_limit(mlp: Problem) -> None:
    run = descend(mlp, steps=0, probes=["sharpness"], device="cpu")
    it = next(run)
    assert run.lr == FRACTION * 2 / it.top_hessian_eigenvalue
    assert run.lr_rule == f"{FRACTION} × 2/λ_max(θ_0)"
    assert it["sharpness.stability"] == pytest.approx(FRACTION)


class Dip(nn.Module):
    """A loss that is concave where it starts: ½(sin w + 2)², at w = 1/2 with L'' < 0."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start]))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.w.sin() + 2)


def test_auto_falls_back_where_the_curvature_is_negative() -> None:
    run = descend(Problem(Dip(1.0), (torch.ones(1, 1),), torch.zeros(1, 1)), steps=0, device="cpu")
    it = next(run)
    assert it.top_hessian_eigenvalue < 0
    assert run.lr == pytest.approx(FRACTION * it.loss / it.gradient_norm**2)
    assert "because λ_max(θ_0) = -" in run.lr_rule


def test_auto_falls_back_where_the_gradient_is_zero() -> None:
    run = descend(Problem(Line(), (torch.zeros(1, 1),), torch.ones(1, 1)), steps=1, device="cpu")
    assert run.lr == 1.0
    assert [it.loss for it in run] == [0.5, 0.5]
    assert "gradient is 0" in run.lr_rule


def test_auto_has_nothing_to_choose_where_the_loss_is_not_finite() -> None:
    run = descend(line(math.nan), steps=1, device="cpu")
    assert [it.step for it in run] == [0]
    assert run.ended == "the loss is not finite at step 0"
    assert "not finite" in run.lr_rule


def test_the_module_is_not_changed(gpt2: Problem) -> None:
    module = gpt2.module.train()
    module.get_parameter("transformer.wte.weight").grad = torch.ones(17, 16)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    for _ in descend(gpt2, lr=0.1, steps=2, probes=ALL, device="cpu"):
        pass
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert all(m.training for m in module.modules())
    grads = {n for n, p in module.named_parameters() if p.grad is not None}
    assert grads == {"transformer.wte.weight"}
    assert all(p.dtype == torch.float32 and p.requires_grad for p in module.parameters())


class Counting(nn.Module):
    """Changes a buffer and an attribute in its forward, and draws random numbers."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros(()))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.inner(x) * self.calls + torch.rand(())
        return self.last


def test_a_forward_with_side_effects_is_one_function() -> None:
    problem = Problem(Counting(), (torch.ones(3, 2),), torch.zeros(3, 1))
    state = torch.get_rng_state()
    first, second = descend(problem, lr=1e-12, steps=1, device="cpu")
    assert second.loss == pytest.approx(first.loss, rel=1e-10)
    assert torch.equal(torch.get_rng_state(), state)
    module = problem.module
    assert isinstance(module, Counting)
    assert module.calls.item() == 0
    assert module.last is None


def test_dropout_is_off() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9))
    problem = Problem(module.train(), (torch.ones(2, 4),), torch.zeros(2, 4))
    it = next(descend(problem, lr=0.1, steps=0, device="cpu"))
    assert torch.equal(it.outputs, module[0].double()(torch.ones(2, 4).double()).detach())


def test_the_process_settings_come_back(mlp: Problem) -> None:
    def now() -> tuple[Any, ...]:
        cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
        flags = (cudnn.enabled, cudnn.allow_tf32, cuda.matmul.fp32_precision)
        return (
            *flags,
            torch._C._get_flash_sdp_enabled(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )

    before = now()
    next(descend(mlp, steps=0, device="cpu"))
    assert now() == before


@pytest.mark.parametrize(
    "module", [nn.LSTM(3, 2, batch_first=True), nn.GRU(3, 2, batch_first=True)]
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_recurrent_networks_have_curvature(module: nn.Module, dtype: str) -> None:
    problem = Problem(module, (torch.randn(2, 4, 3),), torch.zeros(2, 4, 2), output=0)
    it = next(descend(problem, lr=0.1, steps=0, device="cpu", dtype=dtype))
    assert it.gradient_norm > 0
    assert it.curvature.converged
    assert it.top_hessian_eigenvalue > 0


def test_convolutions_have_curvature() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten())
    problem = Problem(module, (torch.randn(2, 1, 5, 5),), torch.zeros(2, 18))
    it = next(descend(problem, lr=0.1, steps=0, device="cpu"))
    assert it.top_hessian_eigenvalue > 0


def test_float32_follows_float64(mlp: Problem) -> None:
    runs = [
        [it["sharpness"] for it in descend(mlp, lr=0.1, steps=3, probes=["sharpness"],
                                           device="cpu", dtype=dtype)]
        for dtype in ("float32", "float64")
    ]  # fmt: skip
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)
    assert runs[0] != runs[1]


def test_the_same_seed_gives_the_same_numbers(gpt2: Problem) -> None:
    def numbers(seed: int) -> list[dict[str, float | None]]:
        run = descend(gpt2, steps=2, probes=ALL, device="cpu", seed=seed)
        return [it.observe_all() for it in run]

    assert numbers(0) == numbers(0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": 0.0}, "lr cannot be 0.0: it must be positive and finite"),
        ({"lr": -1.0}, "lr cannot be -1.0"),
        ({"lr": math.inf}, "lr cannot be inf: it must be positive and finite"),
        ({"lr": math.nan}, "not nan"),
        ({"lr": "fast"}, "lr cannot be 'fast': it must be a number"),
        ({"steps": -1}, "steps must be a whole number from 0 on, not -1"),
        ({"steps": 1.5}, "not 1.5"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"device": "meta"}, "device 'meta'"),
        ({"device": "cuda:99"}, "'cuda:99' is not there"),
        ({"dtype": "float8"}, "dtype 'float8'"),
        ({"dtype": "float8"}, "float64, float32, bfloat16, float16"),
        ({"probes": ["sharpnes"]}, "no probe 'sharpnes'. Did you mean sharpness"),
        ({"probes": [3]}, "3 is not a probe"),
        ({"blocks": {"a": ["nosuch"]}}, "'a' has a parameter 'nosuch'"),
        ({"blocks": {"a": ["0.bias"], "b": ["0.bias"]}}, "in block 'a' and in block 'b'"),
    ],
)
def test_bad_options_are_refused_at_once(mlp: Problem, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        descend(mlp, **{"lr": 0.1, "steps": 1, "device": "cpu", **options})


class Returning(nn.Module):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.w, self.what = nn.Parameter(torch.ones(3)), what

    def forward(self, x: Tensor) -> Any:
        return self.what(x * self.w)


@pytest.mark.parametrize(
    ("what", "output"),
    [
        (lambda f: f, None),
        (lambda f: (0, f), 1),
        (lambda f: {"logits": f}, "logits"),
        (lambda f: type("Out", (), {"logits": f})(), "logits"),
    ],
)
def test_the_output_is_chosen_from_what_forward_returns(what: Any, output: str | int) -> None:
    problem = Problem(Returning(what), (torch.ones(2, 3),), torch.zeros(2, 3), output=output)
    assert next(descend(problem, lr=0.1, steps=0, device="cpu")).loss == 1.5


def bad(module: nn.Module, shape: tuple[int, ...] = (2, 3), **options: Any) -> Problem:
    return Problem(module, (torch.ones(shape),), torch.zeros(2, 3), **options)


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (Problem(nn.Linear(3, 3), (torch.ones(2, 3),)), "has no targets"),
        (bad(nn.Linear(3, 3).requires_grad_(False)), "no parameter of the module requires"),
        (bad(nn.Linear(3, 3, device="meta")), "hold no numbers"),
        (bad(nn.Linear(3, 3), (2, 4)), r"Linear failed on inputs of shape \(2, 4\): RuntimeError"),
        (bad(nn.Linear(3, 4)), r"outputs of shape \(2, 4\) with targets of shape \(2, 3\)"),
        (bad(nn.Linear(3, 3), loss="hinge"), "no loss 'hinge'. There are: ce, mse"),
        (bad(Returning(lambda f: (f, f))), "the module is a tuple, not a tensor"),
        (bad(Returning(lambda f: (f, f)), output=5), "output 5 of the module is a NoneType"),
        (bad(Returning(lambda f: f), output="logits"), "'logits' of the module is a NoneType"),
        (bad(Returning(lambda f: f > 0)), "returned torch.bool"),
        (bad(Returning(lambda f: f), keywords={"no": 1}), "unexpected keyword argument 'no'"),
        (bad(Returning(lambda f: {"y": f}["x"])), "KeyError"),
    ],
)  # fmt: skip
def test_problems_that_cannot_be_descended_on_say_why(problem: Problem, said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(descend(problem, lr=0.1, steps=1, device="cpu"))


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    module = nn.Linear(3, 3)
    module.handle = (n for n in range(3))  # type: ignore[assignment]
    with pytest.raises(InputError, match="Linear cannot be copied"):
        descend(bad(module), lr=0.1, steps=1, device="cpu")


class Cubed:
    """A loss of a stranger's."""

    name = "cubed"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().pow(3).mean()

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        MeanSquaredError().check(outputs, targets)

    def infimum(self, targets: Tensor) -> float:
        return 0.0


class Wrong(Cubed):
    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs - targets


def test_a_contributed_loss_is_used() -> None:
    losses: dict[str, Loss] = {"cubed": Cubed(), "wrong": Wrong()}
    problem = bad(Returning(lambda f: f), loss="cubed")
    assert next(descend(problem, lr=0.1, steps=0, losses=losses, device="cpu")).loss == 1.0
    wrong = bad(Returning(lambda f: f), loss="wrong")
    with pytest.raises(PluginError, match=r"'cubed' returned shape \(2, 3\)"):
        _ = next(descend(wrong, lr=0.1, steps=0, losses=losses, device="cpu")).loss


def test_errors_are_for_users(mlp: Problem) -> None:
    with pytest.raises(BlockframeError) as caught:
        descend(mlp, steps=-1)
    assert caught.value.exit_code == 2
    assert caught.value.remedy


def test_it_stops_where_the_loss_is_not_finite() -> None:
    run = descend(line(), lr=1e200, steps=10, device="cpu")
    losses = [it.loss for it in run]
    assert len(losses) == 2
    assert not math.isfinite(losses[-1])
    assert run.ended == "the loss is not finite at step 1"


def test_it_stops_where_it_diverges() -> None:
    run = descend(line(), lr=100.0, steps=50, device="cpu")
    losses = [it.loss for it in run]
    assert len(losses) == 3
    assert losses[-2] < 1e6 < losses[-1]
    assert run.ended == "diverged at step 2: the loss reached 4.8e+07"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(gpt2: Problem) -> None:
    cpu = list(descend(gpt2, lr=0.1, steps=2, probes=["sharpness"], device="cpu"))
    gpu = list(descend(gpt2, lr=0.1, steps=2, probes=["sharpness"], device="cuda"))
    assert gpu[0].outputs.dtype == torch.float32
    for a, b in zip(cpu, gpu, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-4)
        assert b["sharpness"] == pytest.approx(a["sharpness"], rel=1e-2)
