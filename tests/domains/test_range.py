"""Ranges hold for every sample of every network that is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.graph.evaluate import evaluate, leaves
from blockframe.problem import Problem

CATALOGUE = Catalogue.of()


class Net(nn.Module):
    def __init__(self, g: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.g = nn.Linear(4, 4), g

    def forward(self, x: Tensor) -> Tensor:
        return self.g(self.linear(x))


def analysed(g: Callable[[Tensor], Tensor]) -> Analysis:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    return Analysis.of(Problem(Net(g), (x,)), CATALOGUE)


def final(g: Callable[[Tensor], Tensor]) -> Any:
    """The range of what ``g`` returns."""
    analysis = analysed(g)
    return analysis.ranges[analysis.graph.output].whole


UNARY = [
    torch.tanh, torch.sigmoid, torch.exp, torch.abs, torch.square, torch.relu, torch.neg, torch.cos,
    torch.erf, torch.atan, torch.expm1, nn.functional.softplus, nn.functional.gelu, torch.floor,
    nn.functional.silu, lambda x: x.softmax(-1), lambda x: x.sum(-1, keepdim=True) + 0 * x,
    lambda x: x.mean(0, keepdim=True) + 0 * x, lambda x: x.clamp(-0.5, 2.0), lambda x: x**3,
    lambda x: x**4, lambda x: 1.0 - x, lambda x: x.cumsum(-1),
    lambda x: x.amax(-1, keepdim=True) + 0 * x,
    lambda x: x / (x.square() + 0.5), lambda x: (x.square() + 0.1).rsqrt(),
    lambda x: (x.square() + 1.0).log(), lambda x: x.flip(0) * 0.3, lambda x: x.tril(),
    lambda x: torch.where(torch.arange(4) > 1, x, 2.5), lambda x: (x > 0.2) * x,
]  # fmt: skip
BINARY = [
    torch.add,
    torch.mul,
    torch.sub,
    torch.maximum,
    lambda a, b: a @ b.T @ a,
    lambda a, b: a * a + b,
]


@st.composite
def functions(draw: st.DrawFn) -> Callable[[Tensor], Tensor]:
    steps = draw(st.lists(st.integers(0, len(UNARY) - 1), min_size=1, max_size=4))
    joint = draw(st.integers(0, len(BINARY) - 1))
    second = draw(st.lists(st.integers(0, len(UNARY) - 1), max_size=2))

    def g(x: Tensor) -> Tensor:
        a = b = x
        for i in steps:
            a = UNARY[i](a)
        for i in second:
            b = UNARY[i](b)
        return BINARY[joint](a, b)

    return g


@settings(max_examples=60, deadline=None)
@given(functions(), st.integers(0, 3), st.floats(0.1, 30.0))
def test_every_value_lies_in_its_range(
    g: Callable[[Tensor], Tensor], seed: int, scale: float
) -> None:
    analysis = analysed(g)
    generator = torch.Generator().manual_seed(seed)
    values = leaves(analysis.graph, analysis.chain.problem)
    for i, v in values.items():
        if analysis.varies[i]:
            values[i] = scale * torch.randn(v.shape, generator=generator, dtype=v.dtype)
    with torch.no_grad():
        evaluate(analysis.graph, values)
    for node in analysis.graph:
        value, found = values[node.index], analysis.ranges[node.index]
        if isinstance(value, Tensor) and value.is_floating_point() and torch.isfinite(value).all():
            lo, hi = float(value.min()), float(value.max())
            slack = 1e-9 * (1 + max(abs(lo), abs(hi)))  # rounding of the samples themselves
            assert found.whole.lo <= lo + slack, node.op
            assert hi - slack <= found.whole.hi, node.op


@pytest.mark.parametrize(
    "g",
    [
        lambda x: x * x,
        lambda x: x.pow(2).mean(-1, keepdim=True),
        lambda x: x.exp().sum(-1),
        lambda x: x.softmax(-1).cumsum(-1),
        lambda x: x.sigmoid() * x.square(),
        lambda x: nn.functional.softplus(x) + x.abs(),
        lambda x: (x - x.mean(-1, keepdim=True)).square().sum(-1),
    ],
)
def test_what_cannot_be_negative(g: Callable[[Tensor], Tensor]) -> None:
    assert final(g).lo >= 0.0


@pytest.mark.parametrize(
    "g",
    [
        lambda x: x.square() + 1e-6,
        lambda x: x.exp().sum(-1),
        lambda x: x.softmax(-1),
        lambda x: 1.0 + x.sigmoid(),
        lambda x: 1.0 - x.tanh().square() + 1e-3,
        lambda x: 2.0 + x.cos(),
        lambda x: nn.functional.softplus(x) * x.exp(),
    ],
)
def test_what_cannot_be_zero(g: Callable[[Tensor], Tensor]) -> None:
    assert 0.0 not in final(g)
    assert final(g).finite


@pytest.mark.parametrize(
    "g",
    [
        lambda x: x.square(),
        lambda x: x * x.flip(0),
        lambda x: x.exp() - 1.0,
        lambda x: x.tanh() + 1.0 - x.sigmoid(),
        lambda x: x.exp()[:, :0].sum(-1),  # a sum of nothing
        lambda x: x.exp().tril(),
        lambda x: nn.functional.pad(x.exp(), (1, 0)),
        lambda x: x.exp().masked_fill(torch.arange(4) > 1, 0.0),
    ],
)
def test_what_can_be_zero(g: Callable[[Tensor], Tensor]) -> None:
    assert 0.0 in final(g)


CAUSAL = torch.ones(4, 4, dtype=torch.bool).tril()


def scores(x: Tensor) -> Tensor:
    return x.T @ x


@pytest.mark.parametrize(
    "g",
    [
        lambda x: scores(x).masked_fill(~CAUSAL, float("-inf")).softmax(-1),
        lambda x: (scores(x) + torch.zeros(4, 4).masked_fill(~CAUSAL, float("-inf"))).softmax(-1),
        lambda x: torch.where(CAUSAL, scores(x), float("-inf")).softmax(-1),
        lambda x: (
            torch.where(CAUSAL, scores(x), torch.tensor(float("-inf"))).contiguous().softmax(-1)
        ),
        lambda x: scores(x).masked_fill(~CAUSAL, float("-inf")).unsqueeze(0).softmax(-1),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda x: scores(x).masked_fill(~CAUSAL, float("-inf")).logsumexp(-1),
    ],
)
def test_a_mask_that_leaves_an_entry_in_every_row(g: Callable[[Tensor], Tensor]) -> None:
    analysis = analysed(g)
    assert analysis.ranges[analysis.graph.output].whole.finite
    assert not list(analysis.analyticity.reaching(analysis.graph.output))


def test_a_row_that_is_masked_entirely_is_not_overlooked() -> None:
    mask = CAUSAL.clone()
    mask[2] = False
    for g in (
        lambda x: scores(x).masked_fill(~mask, float("-inf")).softmax(-1),
        lambda x: (scores(x) * torch.zeros(4, 4).masked_fill(~mask, float("-inf"))).softmax(-1),
        lambda x: scores(x).masked_fill(~CAUSAL, float("-inf")).exp(),
        lambda x: scores(x).masked_fill(~CAUSAL, float("-inf")).log_softmax(-1),
    ):
        analysis = analysed(g)
        codes = {i.code for i in analysis.analyticity.reaching(analysis.graph.output)}
        assert codes == {"A104"}
