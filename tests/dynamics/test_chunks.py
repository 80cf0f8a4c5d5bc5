"""A budget of memory changes nothing but the memory: same numbers, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import blockframe
from blockframe.checks import size
from blockframe.dynamics.chunks import LEAST_BASIS, TRAIL, Budget, within
from blockframe.dynamics.descent import descend
from blockframe.dynamics.footprint import Footprint, spelled
from blockframe.dynamics.iterate import Iterate, NoSecondDerivative
from blockframe.dynamics.losses import LOSSES
from blockframe.dynamics.objective import Objective
from blockframe.dynamics.options import Options
from blockframe.dynamics.probes.probe import Unavailable
from blockframe.errors import InputError
from blockframe.problem import Problem


def problem(module: nn.Module | None = None, samples: int = 40, loss: str = "mse") -> Problem:
    torch.manual_seed(0)
    module = module or nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(),
                                     nn.Linear(32, 3))  # fmt: skip
    x = torch.randn(samples, 5)
    y = torch.randn(samples, 3) if loss == "mse" else torch.randint(3, (samples,))
    return Problem(module, (x,), y, loss=loss)


def whole(problem: Problem, dtype: str = "float64") -> Objective:
    return Options.of(lr=0.1, dtype=dtype).objective(problem)


def in_chunks(objective: Objective, count: int) -> Objective:
    """``objective`` with a budget that ``count`` samples just fit, and a small basis."""
    need = Footprint(objective)
    basis = (TRAIL + LEAST_BASIS) * 8 * objective.start.numel()
    found = within(objective, need.base + count * need.sample + basis)
    assert found.budget is not None
    assert found.budget.parts
    return found


class Mixing(nn.Module):
    """Samples see each other: by their mean, or by who is first."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.linear, self.how = nn.Linear(5, 3), how
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "mean":
            return self.linear(x - 1e-3 * x.mean(0))
        if self.how == "first":
            return self.linear(x + 1e-3 * x[:1])
        if self.how == "gate":
            return self.linear(x) + self.gate * x.mean(0)[:3]
        if self.how == "view":
            return self.linear(x.view(4000, 5))
        if self.how == "count":
            return self.linear(x) / len(x)
        return self.linear(x).sum(0, keepdim=True)


class OnceOnly(nn.Module):
    """Differentiable once."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):  # type: ignore[no-untyped-def]
            (x,) = ctx.saved_tensors
            return 2 * x * g

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.Square.apply(self.linear(x))
        return found


@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("count", [1, 7, 20, 31])
def test_loss_gradient_and_products_are_those_of_all_samples(loss: str, count: int) -> None:
    full = whole(problem(loss=loss))
    parts = in_chunks(full, count)
    assert parts.budget is not None
    sizes = [len(p.targets) for p in parts.budget.parts]
    assert sum(sizes) == 40
    assert max(sizes) == count
    assert math.fsum(parts.budget.shares) == pytest.approx(1.0, rel=1e-15)
    a, b = Iterate(full, full.start), Iterate(parts, parts.start)
    vector = torch.randn(len(full.start), dtype=torch.float64, generator=torch.manual_seed(3))
    assert b.loss == pytest.approx(a.loss, rel=1e-14)
    assert torch.allclose(b.gradient, a.gradient, rtol=1e-12, atol=1e-15)
    assert torch.allclose(b.hvp(vector), a.hvp(vector), rtol=1e-11, atol=1e-13)
    b.release()  # and again, without the graph
    assert torch.allclose(b.hvp(vector), a.hvp(vector), rtol=1e-11, atol=1e-13)
    assert torch.allclose(b.outputs, a.outputs, rtol=1e-13, atol=1e-14)
    assert b.output_pairing == pytest.approx(a.output_pairing, rel=1e-12)
    assert b.top_hessian_eigenvalue == pytest.approx(a.top_hessian_eigenvalue, rel=1e-6)


def test_a_run_in_chunks_is_the_same_run(gpt2: Problem) -> None:
    need = Footprint(whole(gpt2))
    memory = need.base + 2 * need.sample + (TRAIL + 8) * 8 * whole(gpt2).start.numel()

    def run(memory: int | None) -> list[tuple[float, float]]:
        found = descend(gpt2, lr=0.1, steps=3, probes=["sharpness"], memory=memory)
        return [(it.loss, float(it["sharpness"])) for it in found]  # type: ignore[arg-type]

    for (loss, sharpness), (loss_, sharpness_) in zip(run(None), run(memory), strict=True):
        assert loss_ == pytest.approx(loss, rel=1e-12)
        assert sharpness_ == pytest.approx(sharpness, rel=4e-3)  # to 1e-3 each


def test_no_chunks_where_everything_fits() -> None:
    full = whole(problem())
    found = within(full, 2**34)
    assert found.budget is not None
    assert not found.budget.parts
    assert torch.equal(Iterate(found, full.start).gradient, Iterate(full, full.start).gradient)


def test_keywords_with_a_row_for_each_sample_are_cut() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, x: Tensor, mask: Tensor, shift: Tensor) -> Tensor:
            return self.linear(x) * mask + shift

    p = problem(Masked(), samples=4000)
    mask = torch.randn(4000, 1, generator=torch.manual_seed(1))
    p = evolve(p, keywords={"mask": mask, "shift": torch.ones(3)})
    full = whole(p)
    parts = in_chunks(full, 1500)
    a, b = Iterate(full, full.start), Iterate(parts, parts.start)
    assert torch.allclose(a.gradient, b.gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("how", ["mean", "first", "gate", "count", "sum", "view"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_samples_that_see_each_other_are_not_separated(how: str, dtype: str) -> None:
    p = problem(Mixing(how), samples=4000)
    if how == "sum":
        p = evolve(p, targets=torch.randn(1, 3))
    full = whole(p, dtype)
    need = Footprint(full)
    memory = need.base + need.samples * need.sample - 1
    if how == "sum":
        with pytest.raises(InputError, match=r"chunks: there is one|takes about"):
            within(full, memory)
        return
    why = "on fewer samples the forward raised" if how == "view" else "the outputs of one depend"
    with pytest.raises(InputError, match=f"cannot be taken in chunks: {why}"):
        within(full, memory)
    # what is said to suffice does
    fits = within(full, need.base + need.samples * need.sample)
    assert fits.budget is not None
    assert not fits.budget.parts


def test_a_loss_that_is_no_mean_over_samples_is_refused() -> None:
    class Sum:
        name = "sum"

        def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square().sum() ** 0.5

        def check(self, outputs: Tensor, targets: Tensor) -> None:
            pass

        def infimum(self, targets: Tensor) -> float:
            return 0.0

    class Mean(Sum):
        name = "mean"

        def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).abs().pow(3).mean()

    losses = {loss.name: loss for loss in (*LOSSES, Sum(), Mean())}
    for name in ("sum", "mean"):
        options = Options.of(lr=0.1, losses=losses)
        full = options.objective(evolve(problem(samples=4000), loss=name))
        need = Footprint(full)
        memory = need.base + 2000 * need.sample
        if name == "sum":
            with pytest.raises(InputError, match="loss sum is not a mean over them"):
                within(full, memory)
        else:
            parts = within(full, memory)
            assert Iterate(parts, full.start).loss == pytest.approx(
                Iterate(full, full.start).loss, rel=1e-13
            )


def test_a_network_differentiable_once_is_descended_on_and_says_so() -> None:
    full = whole(problem(OnceOnly(), samples=4000))
    need = Footprint(full)
    parts = within(full, need.base + 1000 * need.sample)
    it = Iterate(parts, full.start)
    assert torch.allclose(it.gradient, Iterate(full, full.start).gradient, rtol=1e-12)
    with pytest.raises(NoSecondDerivative):
        it.hvp(full.start)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    full = whole(problem())
    with pytest.raises(InputError, match=r"Give --memory (\S+) or more") as refused:
        within(full, 1000)
    enough = refused.value.remedy.split()[2]
    found = within(full, size("memory", enough))
    assert found.budget is not None
    assert len(found.budget.parts) > 1
    with pytest.raises(InputError, match="Give --memory"):
        within(full, found.budget.base)


def test_a_quantity_that_does_not_fit_names_a_cheaper_one() -> None:
    full = whole(problem())
    need = Footprint(full)
    small = within(full, need.base + need.sample)
    it = Iterate(small, full.start)
    with pytest.raises(Unavailable, match="directional smoothness"):
        it.curvature  # noqa: B018
    with pytest.raises(Unavailable, match="measured PL ratio"):
        it.tangent_gram  # noqa: B018
    with pytest.raises(Unavailable, match="all samples at once"):
        small.traced  # noqa: B018
    assert it.point.sharpness is None
    large = within(full, 2**34)
    assert Iterate(large, full.start).tangent_gram.shape == (120, 120)


def test_a_run_goes_on_without_what_does_not_fit() -> None:
    p = problem()
    need = Footprint(whole(p))
    x, y = p.inputs, p.targets
    cert = blockframe.certify(
        (p.module, x, y), loss="mse", lr=0.01, steps=2, memory=need.base + need.sample
    )
    assert cert.trajectory is not None
    assert cert.trajectory.completed == 2
    assert "sharpness" in cert.trajectory.summary["unavailable"]
    assert cert.subject.recipe is not None
    assert cert.subject.recipe.memory == need.base + need.sample
    again = blockframe.Certificate.from_json(cert.to_json())
    assert again.subject.recipe == cert.subject.recipe


def test_a_basis_is_what_is_left() -> None:
    budget = Budget(memory=1640, base=200, graph=160)
    assert budget.basis(64) == 12
    assert budget.basis(104) == LEAST_BASIS
    with pytest.raises(Unavailable, match=r"12 vectors of the size of θ, 1\.67KiB in all"):
        budget.basis(112)


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("4GiB", 2**32), ("800MB", 8 * 10**8), ("1.5 kib", 1536), ("7", 7), ("2b", 2), (12, 12)],
)
def test_a_size_is_read(text: object, bytes_: int) -> None:
    assert size("memory", text) == bytes_


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1GB", "0", "1e3", "4 pounds", "1.2.3GB", 0, 1.5, True, "9999999999TiB", None],
)
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(InputError, match="memory must be"):
        size("memory", text)


@given(st.integers(1, 2**50))
@settings(max_examples=200)
def test_a_size_is_spelled_no_smaller_than_it_is(count: int) -> None:
    read = size("memory", spelled(count))
    assert count <= read <= 1.02 * count + 11


def saved(make: Callable[[], nn.Module], samples: int) -> int:
    return Footprint(whole(problem(make(), samples))).sample


def test_a_sample_takes_what_its_layers_keep() -> None:
    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))

    small, large = saved(lambda: net(1000), 10), saved(lambda: net(4000), 10)
    assert large == pytest.approx(4 * small, rel=0.1)
    assert small >= 2 * 8 * 1000  # at least tanh's result, for the gradient and for its own
    assert saved(lambda: net(1000), 50) == small
