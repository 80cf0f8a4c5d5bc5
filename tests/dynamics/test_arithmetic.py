"""Where a run is computed, in which numbers, and what that leaves to be concluded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from torch.utils import deterministic

import blockframe
from blockframe.contract.claim import Verdict
from blockframe.contract.descent import descent_claim
from blockframe.dynamics.arithmetic import Arithmetic, IdentityCasts
from blockframe.dynamics.inequalities import UNITS
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.options import Options
from blockframe.dynamics.run import trajectory
from blockframe.errors import InputError
from blockframe.problem import Problem

ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
HALF = ("bfloat16", "float16")


@pytest.mark.parametrize("name", ROUNDOFF)
def test_the_unit_roundoff_bounds_the_rounding_of_one_number(name: str) -> None:
    arithmetic = Arithmetic.named("cpu", name)
    assert arithmetic.dtype_name == name
    assert arithmetic.unit_roundoff == ROUNDOFF[name]
    x = 1 + torch.rand(4000, dtype=torch.float64, generator=torch.manual_seed(0))
    off = float(((x.to(arithmetic.dtype).double() - x) / x).abs().max())
    assert off <= ROUNDOFF[name]
    if name != "float64":
        assert off > ROUNDOFF[name] / 4


def test_names() -> None:
    assert Arithmetic.named("cpu").dtype == torch.float64
    assert Arithmetic.named("cpu", torch.bfloat16).half
    assert not Arithmetic.named("cpu", "float32").half
    with pytest.raises(InputError, match=r"'float8'\. Take float64, float32, bfloat16, float16"):
        Arithmetic.named("cpu", "float8")


def settings() -> tuple[Any, ...]:
    matmul = torch.backends.cuda.matmul
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
        matmul.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
        torch.backends.cudnn.enabled,
    )


@pytest.mark.parametrize("before", [(False, False), (True, False), (True, True)])
def test_kernels_are_deterministic_and_the_process_keeps_its_settings(
    before: tuple[bool, bool],
) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    was = settings()
    try:
        with pytest.raises(KeyError), Arithmetic.named("cpu").kernels():  # noqa: PT012
            assert settings() == (True, True, False, "ieee", "ieee", False, False, False)
            raise KeyError
        assert settings() == was
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", HALF)
def test_theta_and_gradient_stay_in_float64(name: str, mlp: Problem) -> None:
    objective = Options.of(dtype=name).objective(mlp)
    it = Iterate(objective, objective.start)
    assert it.outputs.dtype == getattr(torch, name)
    assert it.theta.dtype == it.gradient.dtype == torch.float64
    exact = Options.of().objective(mlp)
    reference = Iterate(exact, exact.start)
    off = float((it.gradient - reference.gradient).norm() / reference.gradient.norm())
    assert 0 < off < UNITS * ROUNDOFF[name]
    assert abs(it.loss - reference.loss) < UNITS * ROUNDOFF[name] * reference.loss
    assert torch.isfinite(it.hvp(torch.ones_like(it.theta))).all()


@pytest.mark.parametrize("name", HALF)
def test_losses_are_summed_in_float32(name: str) -> None:
    # 3,000 equal terms: bfloat16 would stop at 256 of them, and float16 at 2048
    problem = Problem(nn.Linear(1, 1), (torch.ones(3000, 1),), torch.zeros(3000, 1))
    with torch.no_grad():
        problem.module.weight.fill_(1.0)
        problem.module.bias.zero_()
    objective = Options.of(dtype=name).objective(problem)
    it = Iterate(objective, objective.start)
    assert it.loss == pytest.approx(0.5, rel=1e-6)
    assert it.output_pairing == pytest.approx(1.0, rel=1e-6)


def test_targets_are_not_rounded_to_half_precision() -> None:
    targets = torch.full((2, 1), 1 + 2.0**-12)
    problem = Problem(nn.Linear(1, 1), (torch.ones(2, 1),), targets)
    objective = Options.of(dtype="bfloat16").objective(problem)
    assert torch.equal(objective.targets, targets)


@pytest.mark.parametrize(("name", "lr"), [("bfloat16", 0.05), ("float16", 0.005)])
def test_what_rounding_decides_is_not_known(name: str, lr: float, mlp: Problem) -> None:
    """The same run holds in float64; in half precision nothing is claimed, in either direction."""
    assert descent_claim(trajectory(mlp, lr=lr, steps=4)).verdict is Verdict.HOLDS
    claim = descent_claim(trajectory(mlp, lr=lr, steps=4, dtype=name))
    assert claim.verdict is Verdict.UNKNOWN
    assert "rounding decides" in claim.statement


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("lr", [0.01, 0.1, 0.3])
def test_noise_alone_refutes_nothing(name: str, lr: float, mlp: Problem) -> None:
    exact = trajectory(mlp, lr=lr, steps=6)
    assert not any(i.holds is False for i in exact.inequalities)
    noisy = trajectory(mlp, lr=lr, steps=6, dtype=name)
    assert not any(i.holds is False for i in noisy.inequalities)


@pytest.mark.parametrize("name", HALF)
def test_divergence_is_seen_in_half_precision(name: str, mlp: Problem) -> None:
    claim = descent_claim(trajectory(mlp, lr=50.0, steps=20, dtype=name))
    assert claim.verdict is Verdict.FAILS


@pytest.mark.parametrize("name", HALF)
def test_casts_of_a_network_in_half_precision_are_its_own(name: str) -> None:
    x = torch.ones(2, dtype=getattr(torch, name))
    with IdentityCasts(x.dtype):
        assert x.float().dtype == torch.float32
        assert x.to(torch.bfloat16).dtype == torch.bfloat16
    with IdentityCasts(torch.float64):
        assert torch.ones(2, dtype=torch.float64).float().dtype == torch.float64


def test_the_same_seed_gives_the_same_numbers(gpt2: Problem) -> None:
    runs = [trajectory(gpt2, lr=0.1, steps=3, dtype="float32") for _ in range(2)]
    assert runs[0].series == runs[1].series


class Hungry(nn.Module):
    """Asks the real allocator for more than there is, after three calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 2), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 3:
            torch.empty(2**50, dtype=torch.uint8)
        out: Tensor = self.linear(x)
        return out


def test_the_allocator_of_the_cpu_gives_a_remedy() -> None:
    problem = Problem(Hungry(), (torch.ones(4, 3),), torch.zeros(4, 2))
    run = trajectory(problem, lr=0.1, steps=3)
    assert run.ended.startswith("out of memory at step 2")
    assert "--memory" in run.ended
    said = r"^out of memory \(DefaultCPUAllocator: can't allocate memory: .* bytes\). Try fewer"
    with pytest.raises(blockframe.errors.OutOfMemory, match=said):
        list(blockframe.descend(evolve(problem), lr=0.1, steps=9))


def test_no_device_that_is_not_there(mlp: Problem) -> None:
    found: Callable[..., Any] = Arithmetic.named
    for name in ("cuda:99", "bogus", "mps", 5):
        with pytest.raises(InputError, match="device"):
            found(name)
