"""Derivatives of graphs: the values of autograd, in ops that the catalogue knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import blockframe
from blockframe.analysis import precise
from blockframe.atoms.catalogue import Catalogue
from blockframe.errors import CaptureError
from blockframe.graph.capture import capture
from blockframe.graph.derivative import Derivative, directional, gradient
from blockframe.graph.evaluate import as_function, evaluate, leaves
from blockframe.graph.expand import expand
from blockframe.graph.graph import Graph, Node, NodeKind
from blockframe.problem import Problem

CATALOGUE = Catalogue.of()
CPU = torch.device("cpu")


class Net(nn.Module):
    """g(w x + b) for a tensor w of any shape: every entry of g's argument varies by itself."""

    def __init__(self, g: Callable[[Tensor], Tensor], shape: Sequence[int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.w = nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(1, generator=generator, dtype=torch.float64))
        self.g = g

    def forward(self, x: Tensor) -> Tensor:
        return self.g(self.w * x + self.b)


def problem(g: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Problem:
    return Problem(Net(g, shape), (torch.ones(1, dtype=torch.float64),))


def graph_of(p: Problem) -> Graph:
    return expand(capture(p), CATALOGUE, p.device).graph


def parameters(graph: Graph) -> list[int]:
    return [n.index for n in graph if n.kind is NodeKind.PARAMETER]


def in_double(node: Node, args: tuple[Any, ...], kwargs: Any) -> Any:
    """The op with casts as the identity: models ask for float32 in places."""

    def double(value: Any) -> Any:
        floats = isinstance(value, torch.dtype) and value.is_floating_point
        return torch.float64 if floats else value

    return as_function(node, tuple(map(double, args)), {k: double(v) for k, v in kwargs.items()})


def unknown(graph: Graph) -> list[str]:
    calls = (n for n in graph if n.kind is NodeKind.CALL and n.op != "getitem")
    return sorted({n.op for n in calls if CATALOGUE.lookup(n) is None})


def check(p: Problem, *, rows: int | None = None) -> None:
    """`gradient` and `directional` by all parameters, against autograd through the graph."""
    graph = graph_of(p)
    wrt = parameters(graph)
    own = {i: t.detach().requires_grad_(i in wrt) for i, t in leaves(graph, p).items()}
    output = evaluate(graph, dict(own), rule=in_double)[graph.output]

    backward = gradient(graph, wrt, CATALOGUE, p.device, rows=rows)
    forward = directional(graph, wrt, CATALOGUE, p.device, columns=rows)
    for d in (backward, forward):
        assert unknown(d.graph) == []
        assert [d.graph[i].target for i in d.wrt] == [graph[i].target for i in wrt]

    values, seeds = evaluated(backward, p)
    torch.testing.assert_close(values[backward.graph.output], output.detach())
    got = [values[i] for i in backward.outputs]
    pushed, tangents = evaluated(forward, p)
    torch.testing.assert_close(pushed[forward.graph.output], output.detach())
    for row in range(rows or 1):
        u = seeds[0] if rows is None else seeds[0][row]
        expected = torch.autograd.grad(
            output, [own[i] for i in wrt], u, retain_graph=True, materialize_grads=True
        )
        size = max(float(e.abs().max()) for e in expected)
        for ours, theirs in zip(got, expected, strict=True):
            ours = ours if rows is None else ours[row]
            assert float((ours - theirs).abs().max()) <= 1e-10 * size
        # <u, J v> = <J'u, v>
        derivative = pushed[forward.outputs[0]]
        v = tangents if rows is None else [t[row] for t in tangents]
        ours = float(((derivative if rows is None else derivative[row]) * u).sum())
        terms = [float((e * t).sum()) for e, t in zip(expected, v, strict=True)]
        assert abs(ours - sum(terms)) <= 1e-10 * max(1e-300, *map(abs, terms))


def evaluated(d: Derivative, p: Problem, seed: int = 0) -> tuple[dict[int, Any], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    values = {i: t.detach() for i, t in leaves(d.graph, p).items()}
    for i in d.seeds:
        shape = d.graph[i].shape or ()
        values[i] = torch.randn(shape, generator=generator, dtype=torch.float64)
    seeds = [values[i] for i in d.seeds]
    return evaluate(d.graph, values, rule=in_double), seeds


# --- op by op -----------------------------------------------------------------------------------

I = torch.tensor([2, 0, 1])  # noqa: E741
DOUBLE = {"dtype": torch.float64}
Table = dict[str, Callable[[Tensor], Tensor]]

MATRICES: Table = {
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu, mish, softplus": lambda x: F.silu(x) + F.mish(x) * F.softplus(x),
    "elu, selu, celu": lambda x: F.elu(x) + F.selu(x) * F.celu(x),
    "logsigmoid": F.logsigmoid,
    "relu and its kin": lambda x: F.relu(x) + F.leaky_relu(x) * F.relu6(x) + F.hardtanh(x),
    "hardswish": F.hardswish,
    "shrink": lambda x: F.softshrink(x, 0.3) + F.hardshrink(x),
    "threshold, prelu": lambda x: F.threshold(x, 0.1, 0.2) + F.prelu(x, x[0, :1]),
    "exponentials": lambda x: x.exp() + x.exp2() * x.expm1() + 2.0**x,
    "logarithms": lambda x: (x * x + 1).log() + (x * x + 2).log2() * (x * x).log1p(),
    "roots": lambda x: (x * x + 1).sqrt() * (x * x + 2).rsqrt() + (x * x + 1).reciprocal(),
    "circular": lambda x: x.sin() + x.cos() * x.atan() + (x.tanh() * 0.9).asin(),
    "hyperbolic": lambda x: x.sinh() + x.cosh() * x.asinh() + (x.tanh() * 0.9).atanh(),
    "error functions": lambda x: x.erf() + x.erfc() * (x.tanh() * 0.9).erfinv(),
    "powers": lambda x: x**3 + (x * x + 1) ** 1.5 + (x * x + 1) ** x + x.square(),
    "gamma": lambda x: (x * x + 1).lgamma(),
    "clamp": lambda x: x.clamp(-0.5, 0.5) + x.clamp_min(0.1) * x.abs(),
    "softmax": lambda x: x.softmax(-1) + x.log_softmax(0),
    "logsumexp": lambda x: x.logsumexp(1) + torch.logaddexp(x, x.flip(0)).sum(1),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "layer_norm, affine": lambda x: F.layer_norm(x, (4,), x[0], x[1]),
    "rms_norm": lambda x: F.rms_norm(x, (4,), x[1], 1e-6) + F.rms_norm(x, (4,)),
    "norms": lambda x: x.norm(dim=-1) + torch.linalg.vector_norm(x, ord=3),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "std, var": lambda x: x.std(-1) + x.var(-1, unbiased=False) * torch.var_mean(x, -1)[1],
    "prod": lambda x: x.prod(-1) + x.prod() + x.cumprod(-1).sum(),
    "glu": lambda x: F.glu(x, -1),
    "sums": lambda x: x.sum(0) + x.mean() + x.cumsum(0)[1] + x.diff(dim=0)[0] + x[:3, :3].trace(),
    "products": lambda x: x @ x.T @ x / (x * x + 1) + torch.outer(x[:, 0], x[0]) * x[0].dot(x[1]),
    "addmm and its kin": lambda x: (
        torch.addmm(x.T @ x, x.T, x, beta=0.5, alpha=2) @ torch.addmv(x[0], x.T, x[:, 0])
        + torch.addcmul(x, x, x, value=2).sum() + torch.addcdiv(x, x, x * x + 1).sum()
        + torch.baddbmm(x[None], x[None] @ x.T, x[None]).sum()
    ),
    "einsum, tensordot": lambda x: (
        torch.einsum("ij,kj->ik", x, x) @ x * torch.tensordot(x, x, ([0], [0])).sum()
    ),
    "bilinear": lambda x: F.bilinear(x, x, torch.stack([x.T @ x, x.T @ x @ x.T @ x])),
    "lerp, kron": lambda x: torch.kron(torch.lerp(x, x.flip(0), 0.3), torch.lerp(x, x, x)),
    "index": lambda x: x[I] + x.gather(1, I.repeat(3, 1))[:, :1] + x.index_select(0, I),
    "index twice": lambda x: x[torch.tensor([0, 2, 2])] * x[:, [0, 0, 1, 3]],
    "embedding": lambda x: F.embedding(torch.tensor([[0, 2], [2, 2]]), x, padding_idx=2),
    "writes": lambda x: (
        torch.index_put(x, [I[:2]], x[:2] * 2) + x.scatter(0, I[None], x[:1, :3] * 3)
        + x.scatter_add(0, I[None], x[:1, :3]) * x.index_add(0, I, x) + x.index_copy(0, I, x * x)
    ),
    "writes to slices": lambda x: (
        torch.slice_scatter(x, x[:, 1:] * 2, 1, 1, 2**63 - 1)
        + torch.select_scatter(x, x[0] * x[1], 0, 2) * torch.diagonal_scatter(x, x[:, 0] ** 2)
    ),
    "cat, stack, split": lambda x: (
        torch.cat([x, x * x])[1:4] + torch.stack([x, x * x], 1).sum(1) * sum(x.split(2, -1)).sum()
        + sum(x.unbind(0)) * sum(x.chunk(2, -1)).mean()
    ),
    "slice": lambda x: x[:, ::2] * x[1:, -2:].sum() + x[-1, 1:3],
    "moves": lambda x: (
        x.roll(1, 0) + x.flip(1) * x.T.reshape(3, 4) + x.tril() + x.triu() * x.diagonal().sum()
        + torch.rot90(x).movedim(0, 1) + torch.diag_embed(x).sum(1)[:, :4]
    ),
    "pad, unfold": lambda x: F.pad(x, (1, 2)).unfold(1, 2, 1).sum(-1) * x.unfold(1, 2, 2).sum(),
    "pad, other modes": lambda x: (
        F.pad(x[None], (1, 2), mode="circular") + F.pad(x[None], (1, 2), mode="replicate")
        + F.pad(x[None], (1, 2), mode="reflect")
    ),
    "copies": lambda x: x.repeat(2, 3) * x.tile(2, 3) + x.repeat_interleave(2, 0).repeat(1, 3),
    "where": lambda x: torch.where(torch.arange(4) > 1, x, 2.0) + x.masked_fill(x[0] > 9, -1.0),
    "max and min": lambda x: (
        x.max() + x.max(-1, True).values * x.amin() + torch.maximum(x, x.flip(0)) * x.amax(0)
    ),
    "order": lambda x: (
        x.topk(2).values[:, :1] * x.sort().values + x.kthvalue(2, keepdim=True).values
        + x.median(-1, keepdim=True).values * x.cummax(-1).values
    ),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "attention, causal": lambda x: (
        F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True)
    ),
    "piecewise constant": lambda x: x * x.sign() + x.floor() * x + x.remainder(0.7) * x.frac(),
    "detach": lambda x: x * x.detach(),
    "constants": lambda x: x * torch.zeros_like(x) + torch.ones_like(x) * torch.full_like(x, 3.0),
}  # fmt: skip
LINES: Table = {
    "conv1d": lambda x: F.conv1d(x, x[:, :, :3]),
    "conv1d, same": lambda x: F.conv1d(x, x[:, :, :3], padding="same"),
    "conv1d, strides": lambda x: F.conv1d(x, x[:, :, :2], x[0, :2, 0], 2, 1, 2),
    "conv1d, groups": lambda x: F.conv1d(x, x.reshape(4, 2, 6)[..., :3], groups=2, stride=3),
    "transposed": lambda x: F.conv_transpose1d(
        x, x[0, :, None, :3], x[0, :1, 0], stride=2, padding=1, output_padding=1
    ),
    "transposed, groups": lambda x: F.conv_transpose1d(
        x, x[0, :, None, :3], stride=2, groups=2, dilation=2
    ),
    "group_norm": lambda x: F.group_norm(x, 2, x[0, :, 0], x[1, :, 1]),
    "instance_norm": F.instance_norm,
    "batch_norm": lambda x: F.batch_norm(
        x, torch.zeros(4, **DOUBLE), torch.full((4,), 2.0, **DOUBLE), x[0, :, 0], x[1, :, 1]
    ),
    "means": lambda x: F.avg_pool1d(x, 3, 2, 1) * F.adaptive_avg_pool1d(x, 3),
    "means at the edges": lambda x: F.avg_pool1d(x, 4, 3, 1, True, False),
    "maxima": lambda x: F.max_pool1d(x, 2) * F.adaptive_max_pool1d(x, 3),
    "interpolation": lambda x: (
        F.interpolate(x, scale_factor=2, mode="linear") + F.interpolate(x, scale_factor=2)
    ),
}
PLANES: Table = {
    "conv2d": lambda x: F.conv2d(
        x, x[:, :, :3, :2], stride=(2, 1), padding=(1, 0), dilation=(1, 2)
    ),
    "conv2d, groups": lambda x: F.conv2d(x, x.reshape(4, 2, 6, 5)[..., :3, :3], groups=2),
    "conv2d, depthwise": lambda x: F.conv2d(x, x[0, :, None, :3, :3], groups=4, padding=1),
    "transposed": lambda x: F.conv_transpose2d(
        x, x[0, :, None, :3, :3], stride=2, padding=1, output_padding=1
    ),
    "means": lambda x: F.avg_pool2d(x, 2) * F.adaptive_avg_pool2d(x, 1),
    "means at the edges": lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 1), True, False),
    "means with padding": lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 1), True, True),
    "means, divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3, ceil_mode=True),
    "adaptive means": lambda x: F.adaptive_avg_pool2d(x, (4, None)),
    "maxima": lambda x: F.max_pool2d(x, 3, 2, 1) + F.adaptive_max_pool2d(x, (3, 3)),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, corners": lambda x: F.interpolate(
        x, size=(9, 7), mode="bilinear", align_corners=True
    ),
    "nearest": lambda x: F.interpolate(x, size=(9, 7)),
    "borders": lambda x: F.pad(x, (1, 2, 1, 0), mode="replicate"),
    "im2col, col2im": lambda x: F.fold(F.unfold(x, (2, 3)), (6, 5), (2, 3)),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2).sum() * F.pixel_unshuffle(x[..., :4], 2),
}
SOLIDS: Table = {
    "conv3d": lambda x: F.conv3d(x, x[..., :2, :2, :2]),
    "transposed": lambda x: F.conv_transpose3d(x, x[0, :, None, :2, :2, :2], stride=2),
    "means": lambda x: F.avg_pool3d(x, 2) + F.adaptive_avg_pool3d(x, (2, 2, 1)),
    "maxima": lambda x: F.max_pool3d(x, 2),
}


@pytest.mark.parametrize(
    ("shape", "g"),
    [
        pytest.param(shape, g, id=f"{len(shape)}d-{name}".replace(" ", "_"))
        for shape, table in (
            ((3, 4), MATRICES), ((2, 4, 6), LINES), ((2, 4, 6, 5), PLANES),
            ((1, 2, 4, 4, 4), SOLIDS),
        )
        for name, g in table.items()
    ],
)  # fmt: skip
def test_op(shape: Sequence[int], g: Callable[[Tensor], Tensor]) -> None:
    check(problem(g, shape), rows=2)


# --- models -------------------------------------------------------------------------------------

MODELS = ["mlp", "cnn", "lstm", "transformer", "gpt2", "llama", "bert"]


@pytest.mark.parametrize("spec", MODELS)
def test_model(spec: str) -> None:
    loaded = blockframe.load(spec).runnable
    assert loaded is not None
    check(precise(loaded)[0], rows=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "spec",
    ["gru", "rnn", "opt", "bloom", "gemma2", "mixtral", "mamba", "t5", "vit", "resnet", "gpt_oss"],
)
def test_more_models(spec: str) -> None:
    loaded = blockframe.load(spec).runnable
    assert loaded is not None
    check(precise(loaded)[0], rows=2)


def test_full_size_without_numbers() -> None:
    """124 million parameters on the meta device."""
    p = blockframe.load("gpt2")
    assert not p.has_weights
    graph = graph_of(p)
    d = gradient(graph, parameters(graph), CATALOGUE, p.device, rows=64)
    assert unknown(d.graph) == []
    for i, leaf in zip(d.outputs, d.wrt, strict=True):
        assert d.graph[i].shape == (64, *(d.graph[leaf].shape or ()))


UNARY: list[Callable[[Tensor], Tensor]] = [
    torch.tanh, torch.sigmoid, torch.exp, torch.sin, torch.erf, F.softplus, F.gelu, F.silu,
    lambda x: x.softmax(-1), lambda x: F.layer_norm(x, (4,)), lambda x: F.rms_norm(x, (4,)),
    lambda x: x - x.mean(0), lambda x: x.cumsum(-1) * 0.3, lambda x: x / (x.square() + 0.5),
    lambda x: (x.square() + 0.1).rsqrt(), lambda x: x.flip(0) * 0.3, lambda x: x.tril(),
    lambda x: x[[0, 0, 2]], lambda x: torch.where(torch.arange(4) > 1, x, 2.5), lambda x: x**3,
    lambda x: torch.cat([x[:, 1:], x[:, :1]], 1), lambda x: F.normalize(x + 3, dim=-1),
]  # fmt: skip
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add, torch.mul, torch.sub, lambda a, b: a @ b.T @ a, lambda a, b: a / (b * b + 1),
    lambda a, b: F.scaled_dot_product_attention(a[None], b[None], a[None])[0],
]  # fmt: skip


@given(
    st.lists(st.sampled_from(UNARY), min_size=1, max_size=4),
    st.lists(st.sampled_from(UNARY), max_size=3),
    st.sampled_from(BINARY),
    st.sampled_from([None, 1, 3]),
)
@settings(max_examples=20, deadline=None)
def test_random_graphs(
    first: list[Callable[[Tensor], Tensor]],
    second: list[Callable[[Tensor], Tensor]],
    joint: Callable[[Tensor, Tensor], Tensor],
    rows: int | None,
) -> None:
    def g(x: Tensor) -> Tensor:
        a = b = x.tanh()
        for f in first:
            a = f(a).clamp(-50.0, 50.0)
        for f in second:
            b = f(b).clamp(-50.0, 50.0)
        return joint(a, b)

    check(problem(g, (3, 4)), rows=rows)


# --- what is asked for --------------------------------------------------------------------------


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.idle = nn.Linear(2, 2)
        self.second.weight = nn.Parameter(self.first.weight[:2, [0, 1, 2, 0]].detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        return self.second(hidden) + hidden @ self.first.weight[:, :2]


def chain() -> tuple[Problem, Graph]:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    p = Problem(Chain().double(), (x,))
    return p, graph_of(p)


def test_a_shared_parameter_is_one_leaf_with_the_sum() -> None:
    p, graph = chain()
    shared = [n.index for n in graph if n.target == "first.weight"]
    assert len(shared) == 1
    check(p)
    check(p, rows=3)


def test_rows_of_the_jacobian_by_chunks() -> None:
    """What depends on no seed is computed once; the last chunk is filled with zeros."""
    p, graph = chain()
    wrt = parameters(graph)
    d = gradient(graph, wrt, CATALOGUE, CPU, rows=4)
    known = {i: t.detach() for i, t in leaves(d.graph, p).items()}
    evaluate(d.graph, known, d.fixed)
    assert d.graph.output in known
    chunks = []
    for start in range(0, 12, 4):
        values = evaluate(d.graph, known | {d.seeds[0]: d.units(start, CPU)}, d.seeded)
        chunks.append(torch.cat([values[i].reshape(4, -1) for i in d.outputs], 1))
    jacobian = torch.cat(chunks)

    named = dict(p.module.named_parameters())
    names = [graph[i].target for i in wrt]

    def function(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(p.module, values, p.inputs).flatten()

    expected = torch.func.jacrev(function)({n: named[n] for n in names})
    expected = torch.cat([expected[n].reshape(10, -1) for n in names], 1)
    torch.testing.assert_close(jacobian[:10], expected, rtol=1e-12, atol=1e-14)
    assert bool((jacobian[10:] == 0).all())
    assert set(d.fixed).isdisjoint(d.seeded)
    calls = [n.index for n in d.graph if n.kind is NodeKind.CALL]
    assert sorted([*d.fixed, *d.seeded]) == calls


def test_by_a_state_that_is_cut_off_and_of_an_inner_value() -> None:
    p, graph = chain()
    (state,) = [n.index for n in graph if n.op == "aten::tanh"]
    d = gradient(graph, [state], CATALOGUE, CPU, rows=10)
    assert {d.graph[i].kind for i in d.wrt} == {NodeKind.INPUT}
    assert "first.bias" not in {n.target for n in d.graph}  # what it was made of is not needed
    hidden = torch.randn(5, 4, **DOUBLE)
    values = {i: t.detach() for i, t in leaves(d.graph, p).items()}
    values |= {d.wrt[0]: hidden, d.seeds[0]: d.units(0, CPU)}
    (found,) = (evaluate(d.graph, values)[i] for i in d.outputs)
    weight = p.module.second.weight + p.module.first.weight[:, :2].T
    expected = torch.einsum("ij,kl->ikjl", torch.eye(5, **DOUBLE), weight).reshape(10, 5, 4)
    torch.testing.assert_close(found, expected.detach())

    wrt = parameters(graph)
    inner = gradient(graph, wrt, CATALOGUE, CPU, output=state)
    values, _ = evaluated(inner, p)
    named = {
        inner.graph[i].target: values[o] for i, o in zip(inner.wrt, inner.outputs, strict=True)
    }
    assert bool((named["second.weight"] == 0).all())
    assert bool((named["first.weight"] != 0).any())


def test_seeds_are_kept_apart_from_the_inputs() -> None:
    p, graph = chain()
    d = directional(graph, parameters(graph), CATALOGUE, CPU)
    assert len(d.seeds) == len(d.wrt)
    assert set(leaves(d.graph, p)).isdisjoint(d.seeds)
    assert {d.graph[i].kind for i in d.seeds} == {NodeKind.INPUT}
    inputs = [n for n in d.graph if n.kind is NodeKind.INPUT and n.index not in d.seeds]
    assert [n.target for n in inputs] == [0]


def test_an_output_that_does_not_depend_on_a_parameter() -> None:
    check(problem(lambda x: x.detach() * 0 + torch.ones(3, 4, **DOUBLE), (3, 4)))
    _, graph = chain()
    source = next(n.index for n in graph if n.kind is NodeKind.INPUT)
    first = next(n.index for n in graph if n.target == "first.bias")
    d = gradient(graph, [first], CATALOGUE, CPU, output=source)
    assert d.graph[d.outputs[0]].op == "aten::zeros"


def test_what_pytorch_does_not_differentiate_is_refused() -> None:
    p = problem(lambda x: torch.special.zeta(x.exp() + 2, x.exp() + 1), (3, 4))
    graph = graph_of(p)
    with pytest.raises(CaptureError, match=r"could not be traced .*zeta"):
        gradient(graph, parameters(graph), CATALOGUE, CPU)


def test_a_node_of_several_tensors_is_refused() -> None:
    graph = graph_of(problem(lambda x: x.max(-1).values, (3, 4)))
    (pair,) = [n.index for n in graph if n.op == "aten::max.dim"]
    with pytest.raises(ValueError, match="not one tensor"):
        gradient(graph, [pair], CATALOGUE, CPU)
    with pytest.raises(ValueError, match="not one tensor"):
        gradient(graph, parameters(graph), CATALOGUE, CPU, output=pair)
