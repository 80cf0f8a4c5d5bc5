from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from blockframe.dynamics.descent import descend
from blockframe.dynamics.iterate import ACCURACY, Iterate, NoSecondDerivative
from blockframe.dynamics.losses import Loss
from blockframe.dynamics.probes import Observation, Probe
from blockframe.errors import InputError, PluginError
from blockframe.problem import Problem

Direct = Callable[[Problem], tuple[Callable[[Tensor], Tensor], Tensor]]


def first(problem: Problem, **options: Any) -> Iterate:
    return next(descend(problem, lr=0.1, steps=0, device="cpu", **options))


@pytest.mark.parametrize("name", ["mlp", "gpt2"])
def test_loss_gradient_and_sharpness_are_those_of_the_dense_derivatives(
    name: str, direct: Direct, request: pytest.FixtureRequest
) -> None:
    problem = request.getfixturevalue(name)
    loss, theta = direct(problem)
    it = first(problem)
    assert it.loss == pytest.approx(float(loss(theta)), rel=1e-12)
    theta = theta.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta)
    assert torch.allclose(it.gradient, gradient, rtol=1e-9, atol=1e-12)
    assert it.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-12)


def dense_hessian(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    units = torch.split(torch.eye(theta.numel(), dtype=theta.dtype), 256)
    rows = [
        torch.autograd.grad(gradient, theta, unit, retain_graph=True, is_grads_batched=True)[0]
        for unit in units
    ]
    return torch.cat(rows)


@pytest.mark.parametrize("name", ["mlp", "gpt2"])
def test_the_sharpness_is_the_dense_top_eigenvalue(
    name: str, direct: Direct, request: pytest.FixtureRequest
) -> None:
    problem = request.getfixturevalue(name)
    loss, theta = direct(problem)
    run = descend(problem, lr=0.1, steps=1, probes=["sharpness"], device="cpu")
    for it in run:  # cold at θ_0, warm at θ_1
        dense = dense_hessian(loss, it.theta)
        value = it.top_hessian_eigenvalue
        # Sylvester: c − H is positive definite if and only if every eigenvalue of H is below c.
        for factor, definite in ((1 + ACCURACY, True), (1 - 1e-12, False)):
            shifted = value * factor * torch.eye(theta.numel(), dtype=theta.dtype) - dense
            assert (int(torch.linalg.cholesky_ex(shifted).info) == 0) is definite
        assert it["sharpness"] == value
        assert it["sharpness.residual"] == it.curvature.residual < 0.03 * value
        assert it["sharpness.cold"] == float(it.curvature.cold)
        assert it.curvature.cold or it.step == 1
        assert it["sharpness.stability"] == pytest.approx(0.05 * value)
        vector = torch.linspace(-1, 1, theta.numel(), dtype=torch.float64)
        assert torch.allclose(it.hvp(vector), dense @ vector, rtol=1e-9, atol=1e-9)


def test_one_forward_serves_everything(mlp: Problem) -> None:
    calls = []
    mlp.module.register_forward_hook(lambda *_: calls.append(1))
    for it in descend(mlp, lr=0.1, steps=2, probes=["sharpness", "loss", "pl"], device="cpu"):
        _ = (it.outputs, it.gradient, it.block_gradients, it.curvature)
    assert len(calls) == 3


def test_what_is_asked_late_is_built_again(mlp: Problem) -> None:
    it = first(mlp)
    gradient = it.gradient.clone()
    it.release()
    assert float(it.hvp(gradient).norm()) > 0
    assert torch.equal(it.gradient, gradient)


def test_blocks_partition_the_vector(mlp: Problem) -> None:
    it = first(mlp, blocks={"first": ["0.weight", "0.bias"], "second": ["2.weight"]})
    module = mlp.module.double()
    x, y = mlp.inputs[0].double(), mlp.targets
    assert y is not None
    (0.5 * ((module(x) - y.double()) ** 2).sum() / len(x)).backward()
    named = dict(module.named_parameters())

    def cat(*names: str) -> tuple[Tensor, Tensor]:
        values = torch.cat([named[n].detach().flatten() for n in names])
        grads = [g.flatten() for n in names if (g := named[n].grad) is not None]
        return values, torch.cat(grads)

    expected = {
        "first": cat("0.weight", "0.bias"),
        "second": cat("2.weight"),
        "rest": cat("2.bias"),
    }
    assert set(it.block_norms) == set(it.block_pairings) == set(expected)
    for block, (theta, gradient) in expected.items():
        assert it.block_norms[block] == pytest.approx(float(theta.norm()), rel=1e-12)
        assert it.block_pairings[block] == pytest.approx(float(theta @ gradient), rel=1e-9)
        assert torch.allclose(it.block_gradients[block], gradient, rtol=1e-9)
    assert it.pairing == pytest.approx(sum(it.block_pairings.values()), rel=1e-12)
    assert it.theta_norm**2 == pytest.approx(sum(n**2 for n in it.block_norms.values()), rel=1e-12)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)  # type: ignore[no-any-return]


def test_a_parameter_that_is_not_used_has_gradient_zero() -> None:
    it = first(Problem(Unused(), (torch.ones(3, 2),), torch.zeros(3, 1)))
    assert it.gradient.shape == (6,)
    assert torch.equal(it.gradient[3:], torch.zeros(3, dtype=torch.float64))
    assert float(it.gradient[:3].norm()) > 0
    assert torch.equal(it.hvp(torch.ones(6))[3:], torch.zeros(3, dtype=torch.float64))


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_an_output_without_parameters_has_derivative_zero() -> None:
    it = first(Problem(Constant(), (torch.ones(3, 2),), torch.zeros(3, 2)))
    assert it.loss == 1.0
    assert it.gradient_norm == 0.0
    assert it.top_hessian_eigenvalue == 0.0


def test_frozen_parameters_are_no_part_of_theta(mlp: Problem) -> None:
    mlp.module.get_parameter("0.weight").requires_grad_(False)
    it = first(mlp, blocks={"a": ["0.weight"], "b": ["2.weight"]})
    assert it.theta.numel() == 6 + 18 + 3
    assert list(it.block_norms) == ["b", "rest"]


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


def test_a_network_that_is_differentiable_once_only_says_so() -> None:
    it = first(Problem(Doubled(), (torch.ones(3, 2),), torch.zeros(3, 1)))
    assert it.gradient_norm > 0
    with pytest.raises(NoSecondDerivative, match="once_differentiable"):
        _ = it.curvature


class Casting(nn.Module):
    """Casts inside, as many norms do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x).float().softmax(-1, dtype=torch.float32)
        out: Tensor = h.to(torch.bfloat16).to(x.dtype) * torch.ones(3, dtype=torch.float32)
        return out


def test_casts_between_floating_types_are_the_identity() -> None:
    torch.manual_seed(0)
    problem = Problem(Casting(), (torch.randn(4, 3),), torch.zeros(4, 3))
    inner = problem.module.get_submodule("inner").double()
    exact = inner(problem.inputs[0].double()).softmax(-1)
    it = first(problem)
    assert it.outputs.dtype == torch.float64
    assert torch.allclose(it.outputs, exact.detach(), rtol=1e-15, atol=0)


def test_probes_are_asked_by_name(mlp: Problem) -> None:
    it = first(mlp, probes=["loss", "block_norms", "descent"])
    assert it["loss"] == it.loss
    assert it["block_norms"] == it.theta_norm
    assert it["block_norms.rest"] == it.block_norms["rest"]
    assert it["descent"] == {"curvature": None, "margin": None}
    with pytest.raises(InputError, match=r"no probe 'los' observes this run\. Did you mean loss"):
        _ = it["los"]
    with pytest.raises(InputError, match=r"has no entry 'reste'\. Did you mean rest"):
        _ = it["block_norms.reste"]


class Text(Probe):
    name = "text"

    def observe(self, it: Iterate) -> Observation:
        return "high"  # type: ignore[return-value]


class Broken(Probe):
    name = "broken"

    def observe(self, it: Iterate) -> Observation:
        raise ZeroDivisionError("division by zero")


class Tensors(Probe):
    name = "tensors"

    def observe(self, it: Iterate) -> Observation:
        return {"": it.theta.sum(), "nan": float("nan"), "none": None}  # type: ignore[dict-item]


def test_a_probe_that_answers_nonsense_or_fails_is_named(mlp: Problem) -> None:
    with pytest.raises(PluginError, match="'text' observed a str"):
        _ = first(mlp, probes=[Text])["text"]
    with pytest.raises(PluginError, match=r"'broken' failed: .*test_iterate\.py"):
        _ = first(mlp, probes=[Broken()])["broken"]


def test_a_probe_may_answer_with_tensors_and_what_is_not_finite_is_none(mlp: Problem) -> None:
    it = first(mlp, probes=[Tensors])
    assert it["tensors"] == pytest.approx(float(it.theta.sum()))
    assert it["tensors.nan"] is it["tensors.none"] is None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_residual_holds_where_another_eigenvalue_is_far_larger_in_size(dtype: str) -> None:
    """λ = (1, −1e8): rounding moves every product by some units of roundoff of 1e8."""

    class Saddle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
            values = torch.tensor([1.0, 0.5, 0.1, 0.0, -1.0, -1e8], dtype=torch.float64)
            self.register_buffer("form", (basis * values) @ basis.T / 2)
            self.w = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            form: Tensor = self.form.to(self.w.dtype)  # type: ignore[operator]
            return x[:, :1] * 0 + self.w @ form @ self.w

    class Itself(Loss):
        name = "itself"

        def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.mean()

        def infimum(self, targets: Tensor) -> float:
            return -math.inf

    problem = Problem(Saddle(), (torch.ones(1, 1),), torch.ones(1, 1), loss="itself")
    it = next(descend(problem, lr=1e-9, steps=0, dtype=dtype, losses={"itself": Itself()}))
    assert abs(it.curvature.value - 1.0) <= it.curvature.residual
