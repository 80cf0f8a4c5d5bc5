"""Points at which ranks are verified: one parameter has one value, and what is called 0 is 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import BlockChain
from blockframe.contract.norms import Chained, followers, without_gain
from blockframe.contract.point import SPARSE, Fill, Point, needed, same, zeros
from blockframe.domains.enclosure import Ball, enclose
from blockframe.domains.interpreter import interpret_some
from blockframe.graph.evaluate import evaluate, leaves
from blockframe.graph.graph import Node, NodeKind
from blockframe.problem import Problem

F64 = torch.float64


def leaf(name: str, *shape: int) -> Node:
    return Node(0, NodeKind.PARAMETER, name, name, shape=shape, dtype=F64)


def analysed(module: nn.Module, *inputs: Tensor) -> Analysis:
    return Analysis(BlockChain.of(Problem(module, inputs), Catalogue.of()))


# --- values ---------------------------------------------------------------------------------------


def test_a_parameter_is_the_same_each_time_and_another_by_name_and_seed() -> None:
    a = Point(seed=1).value(leaf("a", 5, 20))
    assert torch.equal(a, Point(seed=1).value(leaf("a", 5, 20)))
    assert not torch.equal(a, Point(seed=2).value(leaf("a", 5, 20)))
    assert not torch.equal(a, Point(seed=1).value(leaf("b", 5, 20)))
    assert a.dtype is F64


def test_matrices_are_sparse_and_gains_near_one() -> None:
    assert bool(((Point().value(leaf("w", 50, 99)) != 0).sum(1) <= SPARSE).all())
    gain = Point().value(leaf("norm.weight", 2000))
    assert abs(float(gain.mean()) - 1.0) < 0.02
    assert float(gain.std()) < 0.2
    assert abs(float(Point().value(leaf("norm.bias", 2000)).mean())) < 0.1


def test_zero_and_given_parameters() -> None:
    numbers = torch.arange(6.0).reshape(2, 3)
    point = Point(zero=frozenset({"a"}), given={"b": numbers})
    assert not bool(point.value(leaf("a", 2, 3)).any())
    assert torch.equal(point.value(leaf("b", 2, 3)), numbers.to(F64))


@pytest.mark.parametrize(
    "fill",
    [
        Fill(1, 2, first=False),
        Fill(1, 3, first=True, value=-1.0),
        Fill(0, 4, first=True, value=7.0),
        Fill(0, 4, first=False),
    ],
)
@pytest.mark.parametrize("rows", [True, False])
def test_a_table_is_one_table_however_it_is_asked(fill: Fill, rows: bool) -> None:
    """Looked up at some places, or taken as a whole."""
    places = torch.tensor([[5, 1], [1, 8]])
    point = Point(seed=3, fills={"t": fill}, rows={"t": (8, 1, 5)} if rows else {})
    whole = point.value(leaf("t", 9, 6))
    assert torch.equal(point.looked_up(leaf("t", 9, 6), places), whole[places])
    length = whole.shape[fill.dim] - fill.border
    start, count = (0, fill.border) if fill.first else (fill.border, length)
    assert bool((whole.narrow(fill.dim, start, count) == fill.value).all())
    assert bool((whole[[1, 5, 8]].narrow(1, 0, 2) != 0).any())


# --- zeros ----------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, f: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
        self.v = nn.Parameter(torch.randn(4, 4))
        self.kernel, self.table = (
            nn.Parameter(torch.randn(3, 1, 3)),
            nn.Parameter(torch.randn(9, 4)),
        )
        self.c = nn.Parameter(torch.randn(3))
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self, x)


ZEROS: dict[str, tuple[Callable[[Any, Tensor], Tensor], bool]] = {
    "a product": (lambda n, x: x @ n.w, True),
    "a linear map": (lambda n, x: F.linear(x, n.w), True),
    "with a bias": (lambda n, x: F.linear(x, n.w, n.b), False),
    "entries": (lambda n, x: n.w * x, True),
    "over something": (lambda n, x: n.w / (1.0 + n.v.square()), True),
    "moved": (lambda n, x: torch.cat([n.w.T.flip(0), (n.w * 2.0).reshape(4, 4)], 1)[:, :4], True),
    "beside something": (lambda n, x: torch.cat([n.w, n.v], 1)[:, 4:], False),
    "padded": (lambda n, x: F.pad(n.w, (1, 1)), True),
    "padded with ones": (lambda n, x: F.pad(n.w, (1, 1), value=1.0), False),
    "a sum": (lambda n, x: n.w + n.w.T, True),
    "a sum with something": (lambda n, x: n.w + n.v, False),
    "a sum with a number": (lambda n, x: n.w + 1.0, False),
    "a number without it": (lambda n, x: 1.0 - n.w, False),
    "a mean": (lambda n, x: n.w.mean(0), True),
    "a norm's gain": (lambda n, x: F.layer_norm(x, (4,), n.w[0]), True),
    "a norm's gain, shifted": (lambda n, x: F.layer_norm(x, (4,), n.w[0], n.b), False),
    "a norm of it": (lambda n, x: F.rms_norm(n.w, (4,), n.b), True),
    "a norm of it, shifted": (lambda n, x: F.layer_norm(n.w, (4,), n.b, n.b), False),
    "looked up": (lambda n, x: F.embedding(torch.tensor([1, 2]), n.w), True),
    "addmm": (lambda n, x: torch.addmm(n.b, x, n.w), False),
    "addmm with nothing": (lambda n, x: torch.addmm(n.w[0], x, n.w), True),
    "addcmul": (lambda n, x: torch.addcmul(n.w, n.v, n.v), False),
    "addcdiv": (lambda n, x: torch.addcdiv(n.w, n.v, 1.0 + n.v.square()), False),
    "lerp": (lambda n, x: torch.lerp(n.w, n.v, 0.5), False),
    "addbmm": (lambda n, x: torch.addbmm(n.w, n.v[None], n.v[None]), False),
    "index_add": (lambda n, x: torch.index_add(n.w, 0, torch.tensor([0, 1, 2, 3]), n.v), False),
    "a convolution's bias": (
        lambda n, x: F.conv1d(x[:, None], n.w[:3, None, :3], n.c, padding="same"), False,
    ),
    "a convolution": (lambda n, x: F.conv1d(x[:, None], n.w[:3, None, :3]), True),
    "a bilinear map": (lambda n, x: F.bilinear(n.w, n.v, n.w[None].expand(4, 4, 4), n.b), False),
    "a function": (lambda n, x: torch.cos(n.w), False),
    "a softmax": (lambda n, x: n.w.softmax(-1), False),
    "a detached value": (lambda n, x: n.w.detach() * n.v, True),
    "dropout": (lambda n, x: F.dropout(n.w, 0.5, training=False), True),
}  # fmt: skip


@pytest.mark.parametrize("name", ZEROS)
def test_what_is_called_zero_is_zero(name: str) -> None:
    f, expected = ZEROS[name]
    net = Net(lambda n, x: f(n, x).sum() + n.v.sum()).double().eval()
    x = torch.randn(4, 4, dtype=F64)
    analysis = analysed(net, x)
    graph, catalogue = analysis.graph, analysis.chain.catalogue
    found = zeros(graph, {"w"}, catalogue)
    with torch.no_grad():
        net.w.zero_()
        values = evaluate(graph, leaves(graph, analysis.chain.problem))
        assert all(not bool(values[i].any()) for i in found if isinstance(values[i], Tensor))
        assert bool(f(net, x).any()) is not expected
    total = next(n for n in graph if n.op == "aten::sum")
    assert (total.operands[0] in found) is expected


def test_zeros_are_looked_for_where_asked() -> None:
    analysis = analysed(Net(lambda n, x: x @ n.w @ n.v).double(), torch.randn(4, 4, dtype=F64))
    graph, catalogue = analysis.graph, analysis.chain.catalogue
    calls = [n.index for n in graph if n.kind is NodeKind.CALL]
    assert set(calls) <= zeros(graph, {"w"}, catalogue)
    assert zeros(graph, {"w"}, catalogue, calls[:1]) & set(calls) == set(calls[:1])


def test_needed_nodes() -> None:
    analysis = analysed(Net(lambda n, x: torch.tanh(x @ n.w) @ n.v).double(), torch.randn(4, 4))
    graph = analysis.graph
    assert needed(graph, [graph.output], ()) == sorted(graph.live)
    (tanh,) = (n.index for n in graph if n.op == "aten::tanh")
    assert all(i not in needed(graph, [graph.output], {tanh}) for i in graph[tanh].operands)


def test_the_same_value() -> None:
    def f(n: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        return F.dropout(y + F.linear(y, n.w), 0.5, training=False).clone() + n.v

    analysis = analysed(Net(f).double().eval(), torch.randn(4, 4, dtype=F64))
    graph, catalogue = analysis.graph, analysis.chain.catalogue
    (tanh,) = (n.index for n in graph if n.op == "aten::tanh")
    zero = zeros(graph, {"w", "v"}, catalogue)
    assert same(graph, graph.output, zero, catalogue) == tanh
    partly = zeros(graph, {"v"}, catalogue)
    assert graph[same(graph, graph.output, partly, catalogue)].op == "aten::add.Tensor"
    (copied,) = (n.index for n in graph if n.op == "aten::clone")
    assert same(graph, graph.output, zero, catalogue, copied) == copied


@pytest.mark.parametrize(
    "f",
    [
        lambda n, x: torch.add(n.w, n.v, alpha=2),
        lambda n, x: n.v - n.w,
        lambda n, x: n.w + n.v[:1],
        lambda n, x: (n.v + n.w).half().to(F64) * 1.0,
    ],
)
def test_what_is_not_the_same_value(f: Callable[[Any, Tensor], Tensor]) -> None:
    analysis = analysed(Net(f).double(), torch.randn(4, 4, dtype=F64))
    graph, catalogue = analysis.graph, analysis.chain.catalogue
    (v,) = (n.index for n in graph if n.target == "v")
    assert same(graph, graph.output, zeros(graph, {"w"}, catalogue), catalogue) != v


# --- norms of norms -------------------------------------------------------------------------------


class Post(nn.Module):
    """Layer norms after sums, as many as ``depth``, whose branches can be zero."""

    def __init__(self, depth: int, eps: float = 1e-5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.ModuleList(nn.Linear(6, 6) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(6, eps) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for f, norm in zip(self.maps, self.norms, strict=True):
            x = norm(x + f(x))
        return x


def chained(depth: int, x: Tensor, eps: float, gain: bool) -> tuple[Ball, Ball, Any]:
    """The output by norms of norms, by plain balls, and the graph's values for Arb."""
    analysis = analysed(Post(depth, eps).double(), x)
    graph, catalogue = analysis.graph, analysis.chain.catalogue
    names = {f"maps.{i}.{part}" for i in range(depth) for part in ("weight", "bias")}
    zero = zeros(graph, names, catalogue)
    follows = followers(graph, zero, catalogue)
    assert len(follows) == depth - 1
    point = Point(
        zero=frozenset(names), fills=without_gain(graph, set(follows.values())) if gain else {}
    )
    given = leaves(graph, analysis.chain.problem)
    given |= {n.index: point.value(n) for n in graph if n.kind is NodeKind.PARAMETER}
    domain = Chained(graph, given, torch.device("cpu"), follows)
    with torch.no_grad():
        found = interpret_some(graph, range(len(graph)), domain, catalogue, {})[graph.output]
    assert isinstance(found, Ball)
    return found, enclose(graph, given, catalogue)[graph.output], (point, graph)


@pytest.mark.parametrize("eps", [1e-5, 1.0])
@pytest.mark.parametrize("gain", [True, False])
def test_norms_of_norms_hold_the_value(eps: float, gain: bool) -> None:
    """By the definition, in two hundred bits."""
    flint = pytest.importorskip("flint")
    flint.ctx.prec, arb = 200, flint.arb
    x = torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    depth = 5
    ball, plain, (point, graph) = chained(depth, x, eps, gain)
    value = [[arb(float(t)) for t in row] for row in x]
    for i in range(depth):
        weight, bias = (
            point.value(next(n for n in graph if n.target == f"norms.{i}.{part}"))
            for part in ("weight", "bias")
        )
        for r, row in enumerate(value):
            middle = sum(row, arb(0)) / 6
            spread = sum(((t - middle) ** 2 for t in row), arb(0)) / 6
            root = (spread + arb(eps)).sqrt()
            value[r] = [
                (t - middle) / root * arb(float(w)) + arb(float(b))
                for t, w, b in zip(row, weight, bias, strict=True)
            ]
    for found in (ball, plain):
        for row, mids, rads in zip(value, found.mid.tolist(), found.rad.tolist(), strict=True):
            for t, m, r in zip(row, mids, rads, strict=True):
                assert not abs(t - m) > r


def test_their_error_does_not_grow() -> None:
    x = torch.randn(3, 6, dtype=F64)
    few, many = (chained(depth, x, 1e-5, True) for depth in (2, 30))
    assert float(many[0].rad.max()) < 30.0 * float(few[0].rad.max())  # a little for each norm
    assert float(many[1].rad.max()) > 1e3 * float(few[1].rad.max())  # by plain balls it does


def test_a_norm_of_another_size_or_with_a_gain_follows_none() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.LayerNorm(6), nn.LayerNorm((3, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    analysis = analysed(Other().double(), torch.randn(2, 3, 6, dtype=F64))
    assert followers(analysis.graph, (), analysis.chain.catalogue) == {}
