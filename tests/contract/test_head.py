"""The linear head, found from the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blockframe
from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.contract.head import Head, linear_head
from blockframe.graph.evaluate import evaluate, leaves
from blockframe.problem import Problem


def analysed(module: nn.Module, *inputs: Tensor) -> Analysis:
    return Analysis.of(Problem(module, inputs), Catalogue.of())


def check(analysis: Analysis, head: Head) -> None:
    """The record says what the graph computes."""
    problem, graph = analysis.chain.problem, analysis.graph
    with torch.no_grad():
        values = evaluate(graph, leaves(graph, problem))
    weight = values[head.weight]
    assert graph[head.weight].target == head.weight_name
    rows = values[head.hidden].double() @ (weight if head.transposed else weight.T)
    if head.bias is not None:
        assert graph[head.bias].target == head.bias_name
        rows = rows + values[head.bias]
    expected = values[graph.output]
    assert torch.allclose(head.scale * rows.reshape(expected.shape), expected, 1e-4, 1e-5)
    assert rows.shape[-1] == head.outputs


class Net(nn.Module):
    """f(x) with a linear layer of 3 × 8 in front and parameters W (5, 8), V (8, 5), b, c to use."""

    def __init__(self, f: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 8)
        self.W, self.V = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(8, 5))
        self.b, self.one = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(1, 8))
        self.register_buffer("scale", torch.tensor(0.25))
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self, torch.tanh(self.first(x)))


HEADS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, Any]]] = {
    "matmul by W^T": (lambda n, h: h @ n.W.T, {"weight_name": "W", "transposed": False}),
    "matmul by V": (lambda n, h: h @ n.V, {"weight_name": "V", "transposed": True}),
    "two transposes": (lambda n, h: h @ n.V.mT.permute(1, 0), {"transposed": True}),
    "linear of V^T": (lambda n, h: nn.functional.linear(h, n.V.T), {"transposed": True}),
    "bias added": (lambda n, h: h @ n.V + n.b, {"bias_name": "b"}),
    "bias first": (lambda n, h: n.b + h @ n.V, {"bias_name": "b"}),
    "addmm": (lambda n, h: torch.addmm(n.b, h, n.V), {"bias_name": "b", "transposed": True}),
    "scaled": (lambda n, h: -2 * (h @ n.V + n.b) / 8, {"scale": -0.25, "bias_name": "b"}),
    "scaled by a buffer": (lambda n, h: n.scale * (h @ n.V), {"scale": 0.25}),
    "features scaled": (lambda n, h: (3 * h) @ n.V, {"scale": 1.0}),
    "cast": (lambda n, h: (h.float() @ n.V.float()).double(), {"weight_name": "V"}),
    "rows in a grid": (lambda n, h: (h @ n.V).view(2, 3, 5), {"outputs": 5}),
    "one output": (lambda n, h: (h @ n.one.T).squeeze(-1), {"outputs": 1}),
    "idle dropout": (
        lambda n, h: nn.functional.dropout(h @ n.V, 0.5, n.training), {"tied": False},
    ),
    "tied to the features": (
        lambda n, h: (h @ n.V @ n.W) @ n.W.T, {"weight_name": "W", "tied": True},
    ),
    "tied bias": (lambda n, h: (h + (n.b**2).sum()) @ n.V + n.b, {"tied": True}),
    "its own transpose": (
        lambda n, h: n.V.T @ n.V, {"tied": True, "weight_name": "V"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_found_and_is_what_the_graph_computes(name: str) -> None:
    f, expected = HEADS[name]
    analysis = analysed(Net(f), torch.randn(6, 3))
    head = linear_head(analysis)
    assert head is not None
    check(analysis, head)
    assert {key: getattr(head, key) for key in expected} == expected


NONE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a function follows": lambda n, h: torch.tanh(h @ n.V),
    "a constant is added": lambda n, h: h @ n.V + 1.0,
    "a buffer is added": lambda n, h: h @ n.V + n.scale,
    "bias of one number": lambda n, h: h @ n.V + n.b.sum(),
    "bias for every row": lambda n, h: h[:5] @ n.V + n.b.unsqueeze(-1),
    "zero": lambda n, h: 0.0 * (h @ n.V),
    "mean over rows": lambda n, h: (h @ n.V).mean(0),
    "last row": lambda n, h: (h @ n.V)[-1:],
    "rows and columns exchanged": lambda n, h: (h[:5] @ n.V).T,
    "columns in other rows": lambda n, h: (h @ n.V).reshape(5, 6),
    "weight made of weights": lambda n, h: h @ (2 * n.V),
    "weight in front": lambda n, h: n.W @ h.T,
    "detached": lambda n, h: (h @ n.V).detach() + 0 * h.sum(),
    "frozen": lambda n, h: h @ n.first.weight.detach().new_ones(8, 5),
    "scaled by a parameter": lambda n, h: (h @ n.V) * n.b,
    "two heads": lambda n, h: h @ n.V + h @ n.W.T,
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_head(name: str) -> None:
    assert linear_head(analysed(Net(NONE[name]), torch.randn(6, 3))) is None


def test_a_frozen_weight_is_no_head_and_a_shared_module_is_tied() -> None:
    frozen = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    frozen[2].weight.requires_grad_(False)
    assert linear_head(analysed(frozen, torch.randn(4, 3))) is None
    shared = nn.Linear(3, 3)
    head = linear_head(analysed(nn.Sequential(shared, nn.Tanh(), shared), torch.randn(4, 3)))
    assert head is not None
    assert len(head.weight_users) == len(head.bias_users) == 1


@pytest.mark.parametrize(
    ("spec", "weight", "bias", "tied", "outputs"),
    [
        ("gpt2", "transformer.wte.weight", None, 1, 50257),
        ("llama", "lm_head.weight", None, 0, 32000),
        ("bert", "bert.embeddings.word_embeddings.weight", "cls.predictions.bias", 1, 30522),
        ("t5", "shared.weight", None, 2, 32128),  # encoder and decoder embed with it
        ("mlp", "head.weight", "head.bias", 0, 10),
        ("cnn", "head.weight", "head.bias", 0, 10),
    ],
)
def test_heads_of_architectures(
    spec: str, weight: str, bias: str | None, tied: int, outputs: int
) -> None:
    analysis = Analysis.of(blockframe.load(spec), Catalogue.of())
    head = linear_head(analysis)
    assert head is not None
    assert (head.weight_name, head.bias_name, head.outputs) == (weight, bias, outputs)
    assert len(head.weight_users) == tied
    assert head.scale == 1.0
    measured = analysis.measured
    assert measured is not None
    small = linear_head(measured)
    assert small is not None
    check(measured, small)
