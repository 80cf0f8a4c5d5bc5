"""Degrees of homogeneity: what is said holds of the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import Composite
from blockframe.domains.homogeneity import degrees
from blockframe.problem import Problem


class Net(nn.Module):
    """A function of the parameters v and w (both 4 × 4) and of x."""

    def __init__(self, f: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.v = nn.Parameter(torch.randn(4, 4, generator=g).double())
        self.w = nn.Parameter(torch.randn(4, 4, generator=g).double())
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.v, self.w, x)


X = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double()


def of(net: nn.Module, groups: list[list[str]], **options: bool) -> list[int | None]:
    analysis = Analysis.of(Problem(net, (X,)), Catalogue.of())
    return degrees(analysis.graph, groups, Catalogue.of(), analysis.chain.graph, **options)


def scales(net: nn.Module, group: list[str], degree: int) -> bool:
    """F(t θ_group) = t^degree F, and Euler's identity for the gradient of a loss."""
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        before = functional_call(net, parameters, (X,))
        for t in (0.5, 3.0):
            scaled = {n: t * p if n in group else p for n, p in parameters.items()}
            after = functional_call(net, scaled, (X,))
            size = max(1.0, t**degree) * (1.0 + float(before.abs().max()))
            if not torch.allclose(after, t**degree * before, rtol=1e-9, atol=1e-9 * size):
                return False
    output = net(X)
    value = output.detach()
    output.sin().sum().backward()
    parts = [parameters[n] for n in group]
    pairing = sum((p * p.grad).sum().item() for p in parts if p.grad is not None)
    euler = degree * float((value * value.cos()).sum())
    net.zero_grad()
    return abs(pairing - euler) <= 1e-8 * (1 + abs(euler))


KNOWN: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], tuple[Any, Any, Any]]] = {
    # degree in v, in w, in both
    "a product": (lambda v, w, x: x @ v @ w, (1, 1, 2)),
    "a sum": (lambda v, w, x: x @ v + 2 * w - v, (None, None, 1)),
    "a power": (lambda v, w, x: (x @ v) ** 3 * w.square(), (3, 2, 5)),
    "of neither": (lambda v, w, x: v.new_ones(4, 4) @ x + 0 * (v - v).sum(), (None, 0, None)),
    "moved entries": (lambda v, w, x: torch.cat([v.T[:2], v.flip(0)[1:3]]) @ w, (1, 1, 2)),
    "a number added": (lambda v, w, x: x @ v + 1.0, (None, 0, None)),
    "divided": (lambda v, w, x: (x @ v) / (1 + w.square()), (1, None, None)),
    "a function": (lambda v, w, x: torch.tanh(x @ v) @ w, (None, 1, None)),
    "features of the other": (lambda v, w, x: torch.relu(x @ v).detach() @ w, (None, 1, None)),
    "stopped": (lambda v, w, x: w.detach() @ x @ v, (1, None, None)),
    "norm with a bias": (
        lambda v, w, x: nn.functional.layer_norm(x @ v, (4,), w[0], w[1]), (None, 1, None),
    ),
    "norm with one of them": (
        lambda v, w, x: nn.functional.layer_norm(x @ v, (4,), w[0], x[1]), (None, None, None),
    ),
    "einsum": (lambda v, w, x: torch.einsum("ij,jk->ik", x @ v, w), (1, 1, 2)),
    "lerp": (lambda v, w, x: torch.lerp(x, v, w), (None, None, None)),
    "chosen": (lambda v, w, x: torch.where(x > 0, v, w), (None, None, None)),
    "written": (
        lambda v, w, x: v.index_put((torch.tensor([0, 0]),), w[:2]), (None, None, None),
    ),
    "filled": (lambda v, w, x: nn.functional.pad(v, (1, 1), value=1.0), (None, 0, None)),
    "padded by zeros": (lambda v, w, x: nn.functional.pad(x @ v, (1, 1)), (1, 0, 1)),
}  # fmt: skip
GROUPS = [["v"], ["w"], ["v", "w"]]


@pytest.mark.parametrize("name", KNOWN)
def test_degrees(name: str) -> None:
    f, expected = KNOWN[name]
    net = Net(f)
    found = of(net, GROUPS)
    assert tuple(found) == expected
    for group, degree in zip(GROUPS, found, strict=True):
        assert degree is None or scales(net, group, degree)


def test_up_to_eps_a_norm_forgets_how_long_its_input_is() -> None:
    def f(v: Tensor, w: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(nn.functional.layer_norm(x @ v, (4,), eps=1e-12)) @ w

    assert of(Net(f), GROUPS) == [None, 1, None]
    assert of(Net(f), GROUPS, up_to_eps=True) == [0, 1, 1]
    assert of(Net(lambda v, w, x: f(v, w, x) + v), GROUPS, up_to_eps=True) == [None, None, 1]


def test_the_word_of_a_plugin_is_not_taken() -> None:
    net = Net(lambda v, w, x: torch.tanh(x @ v) @ w)
    analysis = Analysis.of(Problem(net, (X,)), Catalogue.of())
    records = dict(Catalogue.of().records)
    liar = Catalogue(records, frozenset({"aten::matmul"}))
    assert degrees(analysis.graph, GROUPS, liar, analysis.chain.graph) == [None, None, None]


def test_the_definition_of_a_plugin_is_not_taken() -> None:
    def matmul(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(-1) * b).sum(-2)

    records = {
        **Catalogue.of().records,
        "aten::matmul": Composite("aten::matmul", definition=matmul),
    }
    net = Net(lambda v, w, x: torch.tanh(x @ v) @ w)
    for declared, expected in ((frozenset(), 1), (frozenset({"aten::matmul"}), None)):
        catalogue = Catalogue(records, declared)
        analysis = Analysis.of(Problem(net, (X,)), catalogue)
        captured = analysis.chain.graph
        assert degrees(analysis.graph, GROUPS, catalogue, captured)[1] == expected


# --- random expressions ---------------------------------------------------------------------------

Expression = Callable[[Tensor, Tensor, Tensor], Tensor]
LEAVES: list[Expression] = [lambda v, w, x: v, lambda v, w, x: w, lambda v, w, x: x]
UNARY: list[Callable[[Tensor], Tensor]] = [
    torch.tanh, torch.neg, torch.square, lambda t: t.mT, lambda t: t - 0.5, lambda t: 0.3 * t,
    lambda t: nn.functional.rms_norm(t, (4,)), lambda t: t.softmax(-1), torch.relu,
    lambda t: t.cumsum(0), lambda t: t.mean(0, keepdim=True).expand(4, 4), lambda t: t.pow(3),
]  # fmt: skip
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add, torch.mul, torch.matmul, torch.sub, lambda a, b: a / (1.0 + b.square()),
    nn.functional.linear, lambda a, b: torch.cat([a[:2], b[2:]]), torch.maximum,
]  # fmt: skip


def expressions() -> st.SearchStrategy[Expression]:
    def extend(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        one = st.tuples(st.sampled_from(UNARY), inner).map(
            lambda p: lambda v, w, x: p[0](p[1](v, w, x))
        )
        two = st.tuples(st.sampled_from(BINARY), inner, inner).map(
            lambda p: lambda v, w, x: p[0](p[1](v, w, x), p[2](v, w, x))
        )
        return one | two

    return st.recursive(st.sampled_from(LEAVES), extend, max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(expressions())
def test_a_degree_that_is_said_is_the_degree(f: Expression) -> None:
    net = Net(f)
    output = net(X)
    # Of powers of powers no digits are left to compare.
    assume(output.requires_grad and float(output.detach().abs().max()) < 1e6)
    for group, degree in zip(GROUPS, of(net, GROUPS), strict=True):
        assert degree is None or scales(net, group, degree)
