from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blockframe.dynamics import jacobian
from blockframe.dynamics.descent import descend
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.run import trajectory
from blockframe.problem import Problem


def observed(target: Problem, steps: int = 0) -> Iterate:
    it = None
    for it in descend(target, lr=0.1, steps=steps, probes=["block_jacobian"], device="cpu"):
        it.observe_all()
    assert it is not None
    return it


def singular(function: Callable[[Tensor], Tensor], z: Tensor, less: float = 0.0) -> Any:
    """Of ∂function/∂z − less·I over the whole batch, by torch.func and numpy."""
    j = torch.func.jacrev(function)(z).reshape(-1, z.numel()).detach().numpy()
    return np.linalg.svd(j - less * np.eye(*j.shape), compute_uv=False)


class Stack(nn.Module):
    """Blocks of every kind, in a list so that they are cut: rows that do not mix, and that do."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embed, self.layers = nn.Linear(4, 6), nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x)
        for layer in self.layers:
            z = layer(z)
        return z


class Branch(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.scale = scale

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = z + self.scale * self.down(torch.tanh(self.up(self.norm(z))))
        return out


class Entrywise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.weight * z)


class Mixing(nn.Module):
    """Samples depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.linear(z)) + 0.3 * z.mean(0, keepdim=True).sin()
        return out


def stack(*layers: nn.Module, shape: tuple[int, ...] = (5, 4)) -> Problem:
    torch.manual_seed(0)
    for layer in layers:
        for p in layer.parameters():
            nn.init.normal_(p, std=0.5)
    module = Stack(*layers)
    return Problem(module, (torch.randn(shape),), torch.randn(*shape[:-1], 6))


def expected(target: Problem, it: Iterate, index: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Layer ``index`` of a stack and the state before it, at the iterate's parameters."""
    module = target.module.double()
    nn.utils.vector_to_parameters(it.theta.clone(), module.parameters())
    with torch.no_grad():
        z = module.embed(target.inputs[0].double())  # type: ignore[operator]
        layers = list(module.layers)  # type: ignore[arg-type]
        for layer in layers[:index]:
            z = layer(z)
    return layers[index], z


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4)], ids=["samples", "positions"])
@pytest.mark.parametrize("steps", [0, 2])
def test_ranges_are_those_of_the_dense_jacobian_of_the_batch(
    shape: tuple[int, ...], steps: int
) -> None:
    target = stack(nn.Linear(6, 6), Entrywise(), Branch(0.1), Mixing(), shape=shape)
    it = observed(target, steps)
    found = it.block_jacobians
    assert list(found) == ["layers.0", "layers.1", "layers.2", "layers.3"]
    for index, (name, got) in enumerate(found.items()):
        function, z = expected(target, it, index)
        values = singular(function, z)
        assert got.largest == pytest.approx(values.max(), rel=1e-10)
        assert got.least == pytest.approx(values.min(), rel=1e-8)
        assert it[f"block_jacobian.{name}"] == got.least
        assert it[f"block_jacobian.{name}.largest"] == got.largest
    assert it["block_jacobian"] == min(g.least for g in found.values() if g.least is not None)


def test_the_bound_of_a_residual_block_is_below_its_least_singular_value() -> None:
    target = stack(Branch(0.1), Branch(0.01), Branch(3.0))
    it = observed(target)
    for index, (name, got) in enumerate(it.block_jacobians.items()):
        function, z = expected(target, it, index)
        excess = singular(function, z, less=1.0).max()
        assert got.excess == pytest.approx(excess, rel=1e-10)
        bound = it[f"block_jacobian.{name}.bound"]
        assert bound == pytest.approx(1 - excess, rel=1e-9)
        assert got.least is not None
        assert bound <= got.least * (1 + 1e-12)
    bounds = [it[f"block_jacobian.layers.{i}.bound"] for i in range(3)]
    assert 0.5 < bounds[1] < 1
    assert bounds[2] < 0


def test_a_block_without_residual_form_has_no_bound() -> None:
    it = observed(stack(nn.Linear(6, 6), Entrywise()))
    assert not [k for k in it.observe("block_jacobian") if k.endswith(".bound")]


def test_a_degenerate_block_has_a_singular_value_zero() -> None:
    layer = nn.Linear(6, 6)
    target = stack(layer, Branch(0.1))
    with torch.no_grad():
        layer.weight[0] = layer.weight[1]
    it = observed(target)
    largest = it["block_jacobian.layers.0.largest"]
    assert 0 <= it["block_jacobian.layers.0"] < 1e-14 * largest
    assert it["block_jacobian"] == it["block_jacobian.layers.0"]


def test_too_large_for_matrices_the_largest_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    target = stack(nn.Linear(6, 9), nn.Linear(9, 6), Branch(0.1), Mixing())
    exact = observed(target)
    monkeypatch.setattr(jacobian, "WORK", 0)
    rough = observed(target)
    for name, got in exact.block_jacobians.items():
        assert rough[f"block_jacobian.{name}"] is None
        assert rough[f"block_jacobian.{name}.largest"] == pytest.approx(got.largest, rel=1e-6)
    bound = rough["block_jacobian.layers.2.bound"]
    assert bound == pytest.approx(exact["block_jacobian.layers.2.bound"], abs=1e-5)
    assert bound <= exact["block_jacobian.layers.2.bound"] + 1e-12
    assert rough["block_jacobian"] is None


def test_what_does_not_converge_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jacobian, "WORK", 0)
    monkeypatch.setattr(jacobian, "PRODUCTS", 2)
    it = observed(stack(Branch(0.1), Mixing()))
    assert it["block_jacobian.layers.1.largest"] is None
    assert it.block_jacobians["layers.0"].bound is None


def test_blocks_of_a_transformer(gpt2: Problem) -> None:
    it = observed(gpt2)
    model: Any = gpt2.module.double().eval()
    model.set_attn_implementation("eager")
    places = torch.arange(6)
    with torch.no_grad():
        h = model.transformer.wte(gpt2.inputs[0]) + model.transformer.wpe(places)
    layer = model.transformer.h[0]
    # Eager attention of a layer alone has no mask: give it the causal one.
    mask = torch.full((6, 6), -torch.inf, dtype=h.dtype).triu(1)[None, None]

    def attend(z: Tensor) -> Tensor:
        out: Tensor = z + layer.attn(layer.ln_1(z), attention_mask=mask)[0]
        return out

    attention, mlp = list(it.block_jacobians)[:2]
    for name, function in ((attention, attend), (mlp, lambda z: z + layer.mlp(layer.ln_2(z)))):
        got = it.block_jacobians[name]
        values = singular(function, h)
        assert got.largest == pytest.approx(values.max(), rel=1e-9)
        assert got.least == pytest.approx(values.min(), rel=1e-7)
        assert got.excess == pytest.approx(singular(function, h, less=1.0).max(), rel=1e-9)
        with torch.no_grad():
            h = function(h)


def test_the_summary_is_the_least_over_the_run() -> None:
    run = trajectory(
        stack(nn.Linear(6, 6), Branch(0.1)), lr=0.2, steps=3, device="cpu",
        probes=["block_jacobian"],
    )  # fmt: skip
    found, series = run.summary["block_jacobian"], run.series
    names = ["layers.0", "layers.1"]
    assert found["blocks"] == {b: min(series[f"block_jacobian.{b}"]) for b in names}
    assert found["least"] == min(found["blocks"].values()) == min(series["block_jacobian"])
