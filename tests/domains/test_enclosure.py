"""Enclosures of graphs: every rule against Arb, at points of random balls.

Every example of `test_rules` draws some thirty balls, and takes four points of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blockframe.atoms.catalogue import Catalogue
from blockframe.domains.enclosure import Ball, Enclosed, enclose
from blockframe.errors import InputError
from blockframe.graph.capture import capture
from blockframe.graph.derivative import gradient
from blockframe.graph.graph import Graph, Node, NodeKind, Ref
from blockframe.graph.synthetic import NORMALIZE, ROTARY, SWISH
from blockframe.problem import Problem

CATALOGUE = Catalogue.of()
SEEDS = st.integers(0, 2**32 - 1)
aten = torch.ops.aten
INF = math.inf
Array = Any
"""Of Arb's numbers."""


# --- one op as a graph ----------------------------------------------------------------------------


def graph_of(
    op: Any, args: Sequence[Any], kwargs: dict[str, Any], inputs: Sequence[Tensor]
) -> Graph:
    """``op`` of inputs, which stand in ``args`` as `Ref`; its first value where it has several."""

    def filled(value: Any) -> Any:
        if isinstance(value, Ref):
            return inputs[value.index]
        return [filled(v) for v in value] if isinstance(value, list) else value

    nodes = [
        Node(i, NodeKind.INPUT, f"x{i}", i, shape=tuple(x.shape), dtype=x.dtype)
        for i, x in enumerate(inputs)
    ]
    value = op(*filled(list(args)), **kwargs)
    tensor = isinstance(value, Tensor)
    shape, dtype = (tuple(value.shape), value.dtype) if tensor else (None, None)
    nodes.append(
        Node(len(nodes), NodeKind.CALL, "y", op, tuple(args), kwargs, shape=shape, dtype=dtype)
    )
    for position, part in enumerate(() if tensor else value):
        args = (Ref(len(inputs)), position)
        like: dict[str, Any] = {"shape": tuple(part.shape), "dtype": part.dtype}
        nodes.append(Node(len(nodes), NodeKind.CALL, f"y{position}", getitem, args, **like))
    return Graph(tuple(nodes), len(inputs) + (0 if tensor else 1))


def getitem(value: Any, position: int) -> Any:
    return value[position]


def run(
    op: Any,
    args: Sequence[Any],
    inputs: Sequence[Ball | Tensor],
    like: Sequence[Tensor] | None = None,
    **kwargs: Any,
) -> Enclosed:
    """``like``: what the graph was traced with; default: the midpoints."""
    mids = [x.mid if isinstance(x, Ball) else x for x in inputs]
    graph = graph_of(op, args, kwargs, like or mids)
    return enclose(graph, dict(enumerate(inputs)), CATALOGUE)


def value_of(op: Any, args: Sequence[Any], inputs: Sequence[Ball | Tensor], **options: Any) -> Ball:
    """The op's first value."""
    found = run(op, args, inputs, **options)
    several = isinstance(found.values[len(inputs)], tuple)
    return found[len(inputs) + 1 if several else len(inputs)]


# --- what the ops are, in Arb ---------------------------------------------------------------------


def of_entries(f: Callable[[Any], Any]) -> Callable[..., Array]:
    return np.frompyfunc(f, 1, 1)


def method(name: str) -> Callable[..., Array]:
    return of_entries(lambda t: getattr(t, name)())


exp, log, sqrt, tanh, erf = (method(n) for n in ("exp", "log", "sqrt", "tanh", "erf"))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + exp(-x))


def softplus(x: Array) -> Array:
    return method("log1p")(exp(x))


def gelu(x: Array) -> Array:
    return x * (1 + erf(x / sqrt(x * 0 + 2))) / 2


def gelu_tanh(x: Array) -> Array:
    pi = of_entries(lambda t: t * 0 + t.pi())(x)
    return x * (1 + tanh(sqrt(2 / pi) * (x + 44715 * (x * x * x) / 10**6))) / 2


def softmax(x: Array) -> Array:
    e = exp(x)
    return e / e.sum(-1, keepdims=True)


def log_softmax(x: Array) -> Array:
    return x - log(exp(x).sum(-1, keepdims=True))


def normalized(x: Array, eps: float, *, centre: bool = True) -> Array:
    x = x - x.mean(-1, keepdims=True) if centre else x
    return x / sqrt((x * x).mean(-1, keepdims=True) + eps)


def positive_part(x: Array) -> Array:
    return of_entries(lambda t: t if t > 0 else t * 0)(x)


def absolute(x: Array) -> Array:
    return of_entries(abs)(x)


def clip(x: Array, low: float, high: float) -> Array:
    return of_entries(lambda t: t * 0 + low if t < low else t * 0 + high if t > high else t)(x)


def power(p: float) -> Callable[[Array], Array]:
    return of_entries(lambda t: t ** int(p) if p == int(p) else t ** (t * 0 + p))


def variance(x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return (x * x).sum(-1) / (x.shape[-1] - 1)


def convolve(x: Array, w: Array, b: Array) -> Array:
    """conv1d with padding 1."""
    padded = np.concatenate([x[..., :1] * 0, x, x[..., :1] * 0], -1)
    k = w.shape[-1]
    windows = np.stack([padded[..., i : i + k] for i in range(padded.shape[-1] - k + 1)], 2)
    return np.stack([(windows * w[o][None, :, None]).sum((1, 3)) + b[o] for o in range(len(w))], 1)


def turned(x: Array, cos: Array, sin: Array) -> Array:
    """Entries i and i + 3 as a pair."""
    c, s = (np.concatenate([t, t], -1) for t in (cos, sin))
    return x * c + np.concatenate([-x[..., 3:], x[..., :3]], -1) * s


def upsampled(x: Array, w: Array) -> Array:
    """conv_transpose1d with stride 2."""
    out = np.zeros((len(x), w.shape[1], 2 * x.shape[-1] + w.shape[-1] - 2), dtype=object)
    out = out + x.flat[0] * 0
    for i in range(x.shape[-1]):
        for k in range(w.shape[-1]):
            out[..., 2 * i + k] = out[..., 2 * i + k] + x[..., i] @ w[..., k]
    return out


def written(x: Array, y: Array) -> Array:
    x = x.copy()
    x[[3, 0, 1]] = y
    return x


def scattered(x: Array, y: Array) -> Array:
    x = x.copy()
    for row, target in enumerate((2, 0, 2)):
        x[target] = x[target] + y[row]
    return x


R0, R1, R2 = Ref(0), Ref(1), Ref(2)
INDEX = torch.tensor([2, 0, 2])
MASK = torch.tensor([True, False, True, True, False, False])


@frozen
class Case:
    """``op(*args, **kwargs)`` of inputs of these shapes with midpoints in a range."""

    name: str
    op: Any
    reference: Callable[..., Array]
    args: tuple[Any, ...] = (R0,)
    shapes: tuple[tuple[int, ...], ...] = ((30,),)
    low: float = -20.0
    high: float = 20.0
    kwargs: dict[str, Any] = field(factory=dict)
    tight: float = 1e-11
    """Greatest radius for exact inputs, relative to 1 + |value|."""


ROW, PAIR = ((5, 6),), ((5, 6), (5, 6))
CASES = [
    *(
        Case(name, getattr(aten, name).default, method(name))
        for name in ("tanh", "erf", "erfc", "sin", "cos", "atan", "asinh", "sinh", "cosh", "exp",
                     "expm1")
    ),
    *(
        Case(name, getattr(aten, name).default, method(name), low=1e-9, high=50.0)
        for name in ("log", "sqrt", "rsqrt")
    ),
    Case("log1p", aten.log1p.default, method("log1p"), low=-0.999),
    *(
        Case(name, getattr(aten, name).default, method(name), low=-0.999, high=0.999)
        for name in ("asin", "acos", "atanh")
    ),
    Case("acosh", aten.acosh.default, method("acosh"), low=1.001),
    Case("exp2", aten.exp2.default, of_entries(lambda t: (t * 0 + 2) ** t)),
    Case("log2", aten.log2.default, lambda x: log(x) / log(x * 0 + 2), low=1e-9),
    Case("log10", aten.log10.default, lambda x: log(x) / log(x * 0 + 10), low=1e-9),
    Case("pow.Scalar", aten.pow.Scalar, of_entries(lambda t: (t * 0 + 0.3) ** t), (0.3, R0)),
    Case("sigmoid", aten.sigmoid.default, sigmoid),
    Case("log_sigmoid", aten.log_sigmoid.default, lambda x: -softplus(-x)),
    Case("softplus", aten.softplus.default, softplus, tight=3e-9),
    Case("softplus(2)", aten.softplus.default, lambda x: softplus(2 * x) / 2, (R0, 2.0),
         tight=3e-9),
    Case("silu", aten.silu.default, lambda x: x * sigmoid(x)),
    Case("swish", SWISH, lambda x: x * sigmoid(1.702 * x), (R0, 1.702)),
    Case("mish", aten.mish.default, lambda x: x * tanh(softplus(x))),
    Case("gelu", aten.gelu.default, gelu),
    Case("gelu(tanh)", aten.gelu.default, gelu_tanh, kwargs={"approximate": "tanh"}),
    Case("relu", aten.relu.default, positive_part),
    Case("abs", aten.abs.default, absolute),
    Case("leaky_relu", aten.leaky_relu.default,
         lambda x: positive_part(x) - 0.25 * positive_part(-x), (R0, 0.25)),
    Case("elu", aten.elu.default,
         lambda x: positive_part(x) + 2 * method("expm1")(-positive_part(-x)), (R0, 2.0)),
    Case("celu", aten.celu.default,
         lambda x: positive_part(x) + method("expm1")(-2 * positive_part(-x)) / 2, (R0, 0.5)),
    Case("hardswish", aten.hardswish.default, lambda x: x * clip(x + 3, 0.0, 6.0) / 6),
    Case("hardsigmoid", aten.hardsigmoid.default, lambda x: clip(x + 3, 0.0, 6.0) / 6),
    Case("hardshrink", aten.hardshrink.default,
         of_entries(lambda t: t if abs(t) > 0.5 else t * 0)),
    Case("softshrink", aten.softshrink.default,
         lambda x: positive_part(x - 0.5) - positive_part(-x - 0.5)),
    Case("threshold", aten.threshold.default,
         of_entries(lambda t: t if t > 1 else t * 0 + 7), (R0, 1.0, 7.0)),
    Case("clamp", aten.clamp.default, lambda x: clip(x, -0.5, 2.0), (R0, -0.5, 2.0)),
    Case("clamp_min", aten.clamp_min.default, lambda x: clip(x, 1.5, INF), (R0, 1.5)),
    Case("clamp_max", aten.clamp_max.default, lambda x: clip(x, -INF, 1.5), (R0, 1.5)),
    Case("relu6", aten.relu6.default, lambda x: clip(x, 0.0, 6.0)),
    Case("hardtanh", aten.hardtanh.default, lambda x: clip(x, -1.0, 1.0)),
    Case("reciprocal", aten.reciprocal.default, lambda x: 1 / x),
    Case("square", aten.square.default, lambda x: x * x),
    *(
        Case(f"pow({p})", aten.pow.Tensor_Scalar, power(p), (R0, p), low=low)
        for p, low in ((2, -20.0), (3, -20.0), (4, -20.0), (-1, -20.0), (-2, -20.0), (0.5, 0.0),
                       (1.7, 0.0), (-0.5, 0.01), (1, -20.0), (7, -3.0))
    ),
    Case("prelu", aten.prelu.default,
         lambda x, w: positive_part(x) - w * positive_part(-x), (R0, R1), ((5, 6), (1,))),
    Case("pow.Tensor_Tensor", aten.pow.Tensor_Tensor, lambda x, y: exp(y * log(x)), (R0, R1), PAIR,
         low=0.01, high=3.0),
    # linear
    Case("add", aten.add.Tensor, lambda x, y: x + 3 * y, (R0, R1), PAIR, kwargs={"alpha": 3}),
    Case("add.Scalar", aten.add.Scalar, lambda x: x + 0.1, (R0, 0.1)),
    Case("sub", aten.sub.Tensor, lambda x, y: x - y, (R0, R1), ((5, 6), (6,))),
    Case("rsub", aten.rsub.Scalar, lambda x: 0.7 - x, (R0, 0.7)),
    Case("neg", aten.neg.default, lambda x: -x),
    Case("sum", aten.sum.default, lambda x: x.sum()),
    Case("sum.dim", aten.sum.dim_IntList, lambda x: x.sum(0), (R0, [0]), ROW),
    Case("mean", aten.mean.dim, lambda x: x.mean(-1, keepdims=True), (R0, [-1], True), ROW),
    Case("cumsum", aten.cumsum.default, lambda x: x.cumsum(1), (R0, 1), ROW),
    Case("diff", aten.diff.default, lambda x: x[:, 1:] - x[:, :-1], (R0,), ROW),
    Case("avg_pool1d", aten.avg_pool1d.default,
         lambda x: (x[..., :-2:2] + x[..., 1:-1:2] + x[..., 2::2]) / 3, (R0, [3], [2]), ((2, 7),)),
    # products
    Case("mul", aten.mul.Tensor, lambda x, y: x * y, (R0, R1), ((5, 6), (5, 1))),
    Case("mul(x, x)", aten.mul.Tensor, lambda x: x * x, (R0, R0)),
    Case("div", aten.div.Tensor, lambda x, y: x / y, (R0, R1), PAIR),
    Case("div.Scalar", aten.div.Scalar, lambda x: x / 3, (R0, 3)),
    Case("matmul", aten.matmul.default, lambda x, y: x @ y, (R0, R1), ((2, 3, 4), (4, 2))),
    Case("mm", aten.mm.default, lambda x, y: x @ y, (R0, R1), ((3, 4), (4, 2))),
    Case("bmm", aten.bmm.default, lambda x, y: x @ y, (R0, R1), ((2, 3, 4), (2, 4, 2))),
    Case("mv", aten.mv.default, lambda x, y: x @ y, (R0, R1), ((3, 4), (4,))),
    Case("dot", aten.dot.default, lambda x, y: (x * y).sum(), (R0, R1), ((9,), (9,))),
    Case("outer", aten.outer.default, lambda x, y: x[:, None] * y, (R0, R1), ((5,), (4,))),
    Case("linear", aten.linear.default, lambda x, w, b: x @ w.T + b, (R0, R1, R2),
         ((4, 3), (2, 3), (2,))),
    Case("addmm", aten.addmm.default, lambda b, x, y: b + x @ y, (R0, R1, R2),
         ((2,), (3, 4), (4, 2))),
    Case("addmm(2, 0.3)", aten.addmm.default, lambda b, x, y: 2 * b + 0.3 * (x @ y), (R0, R1, R2),
         ((2,), (3, 4), (4, 2)), kwargs={"beta": 2, "alpha": 0.3}),
    Case("baddbmm", aten.baddbmm.default, lambda b, x, y: b + x @ y, (R0, R1, R2),
         ((2, 3, 2), (2, 3, 4), (2, 4, 2))),
    Case("addcmul", aten.addcmul.default, lambda a, b, c: a + 0.3 * b * c, (R0, R1, R2),
         ((6,), (5, 6), (5, 6)), kwargs={"value": 0.3}),
    Case("addcdiv", aten.addcdiv.default, lambda a, b, c: a + b / c, (R0, R1, R2), ((6,), *PAIR)),
    Case("lerp", aten.lerp.Scalar, lambda a, b: a + 0.3 * (b - a), (R0, R1, 0.3), PAIR),
    Case("einsum", aten.einsum.default, lambda x, y: x @ y,
         ("bij,bjk->bik", [R0, R1]), ((2, 3, 4), (2, 4, 2))),
    Case("conv1d", aten.conv1d.default, convolve, (R0, R1, R2, [1], [1]),
         ((2, 3, 5), (2, 3, 3), (2,))),
    Case("conv_transpose1d", aten.conv_transpose1d.default, upsampled, (R0, R1, None, [2]),
         ((2, 3, 4), (3, 2, 3))),
    Case("conv2d", aten.conv2d.default,
         lambda x, w: convolve(x[:, :, 0], w[:, :, 0], w[:, 0, 0, 0] * 0)[:, :, None, 1:-1:2],
         (R0, R1, None, [1, 2]), ((2, 3, 1, 6), (2, 3, 1, 3))),
    Case("rotary", ROTARY, turned, (R0, R1, R2, "halves", 2.0), ((4, 6), (4, 3), (4, 3))),
    Case("index_add", aten.index_add.default, scattered, (R0, 0, INDEX, R1), ((4, 3), (3, 3))),
    Case("tensordot", aten.tensordot.default, lambda x, y: x @ y, (R0, R1, [1], [0]),
         ((3, 4), (4, 2))),
    # rows
    Case("normalize", NORMALIZE,
         lambda x: x / sqrt(0.5 * (x * x).sum(-1, keepdims=True) + 0.001), (R0, [-1], 0.5, 0.001),
         ROW),
    Case("softmax", aten._softmax.default, softmax, (R0, -1, False), ROW),
    Case("log_softmax", aten._log_softmax.default, log_softmax, (R0, -1, False), ROW),
    Case("logsumexp", aten.logsumexp.default, lambda x: log(exp(x).sum(-1)), (R0, [-1]), ROW),
    Case("logaddexp", aten.logaddexp.default, lambda x, y: log(exp(x) + exp(y)), (R0, R1), PAIR),
    Case("layer_norm", aten.layer_norm.default, lambda x, w, b: normalized(x, 1e-5) * w + b,
         (R0, [6], R1, R2), ((5, 6), (6,), (6,))),
    Case("native_layer_norm", aten.native_layer_norm.default, lambda x: normalized(x, 0.1),
         (R0, [6], None, None, 0.1), ROW),
    Case("rms_norm", aten.rms_norm.default,
         lambda x, w: normalized(x, 1e-3, centre=False) * w, (R0, [6], R1, 1e-3), ((5, 6), (6,))),
    Case("group_norm", aten.group_norm.default,
         lambda x: normalized(x.reshape(2, 2, -1), 1e-5).reshape(x.shape), (R0, 2), ((2, 4, 3),)),
    Case("var", aten.var.correction, variance, (R0, [-1]), ROW),
    Case("std", aten.std.correction, lambda x: sqrt(variance(x)), (R0, [-1]), ROW),
    Case("norm", aten.linalg_vector_norm.default, lambda x: sqrt((x * x).sum(-1)), (R0, 2, [-1]),
         ROW),
    Case("norm 1", aten.linalg_vector_norm.default, lambda x: absolute(x).sum(-1), (R0, 1, [-1]),
         ROW),
    Case("norm inf", aten.linalg_vector_norm.default, lambda x: absolute(x).max(-1),
         (R0, INF, [-1]), ROW),
    Case("prod", aten.prod.dim_int, lambda x: x.prod(-1), (R0, -1), ROW, low=-3.0, high=3.0),
    Case("cumprod", aten.cumprod.default, lambda x: x.cumprod(-1), (R0, -1), ROW, low=-3.0,
         high=3.0),
    # choices
    Case("maximum", aten.maximum.default, np.maximum, (R0, R1), PAIR),
    Case("minimum", aten.minimum.default, np.minimum, (R0, R1), PAIR),
    Case("amax", aten.amax.default, lambda x: x.max(-1), (R0, [-1]), ROW),
    Case("max.dim", aten.max.dim, lambda x: x.max(-1), (R0, -1), ROW),
    Case("topk", aten.topk.default, lambda x: np.sort(x, -1)[:, :-3:-1], (R0, 2), ROW),
    Case("sort", aten.sort.default, lambda x: np.sort(x, -1), (R0,), ROW),
    Case("where", aten.where.self, lambda x, y: np.where(MASK, x, y), (MASK, R0, R1), PAIR),
    Case("masked_fill", aten.masked_fill.Scalar, lambda x: np.where(MASK, x * 0 + 2, x),
         (R0, MASK, 2.0), ROW),
    # layout
    Case("t", aten.t.default, lambda x: x.T, (R0,), ROW),
    Case("slice", aten.slice.Tensor, lambda x: x[:, 1:4], (R0, 1, 1, 4), ROW),
    Case("cat", aten.cat.default, lambda x, y: np.concatenate([x, y], 1), ([R0, R1], 1), PAIR),
    Case("expand", aten.expand.default, lambda x: np.broadcast_to(x, (4, 6)), (R0, [4, 6]),
         ((1, 6),)),
    Case("pad", aten.constant_pad_nd.default,
         lambda x: np.pad(x, 1, constant_values=x.flat[0] * 0 + 3), (R0, [1, 1, 1, 1], 3.0), ROW),
    Case("tril", aten.tril.default, lambda x: np.where(np.tri(5, 6, dtype=bool), x, x * 0), (R0,),
         ROW),
    Case("embedding", aten.embedding.default, lambda x: x[INDEX.numpy()], (R0, INDEX), ROW),
    Case("index_put(+)", aten.index_put.default, scattered, (R0, [INDEX], R1, True),
         ((4, 3), (3, 3))),
    Case("index_put", aten.index_put.default, written, (R0, [torch.tensor([3, 0, 1])], R1),
         ((4, 3), (3, 3))),
    Case("index", aten.index.Tensor, lambda x: x[:, INDEX.numpy()], (R0, [None, INDEX]), ROW),
    Case("gather", aten.gather.default, lambda x: x[np.arange(3), INDEX.numpy()][:, None],
         (R0, 1, INDEX[:, None]), ((3, 4),)),
    Case("index_fill", aten.index_fill.int_Scalar,
         lambda x: np.where(np.arange(6) % 3 == 0, x * 0 + 2, x),
         (R0, 1, torch.tensor([0, 3]), 2.0), ROW),
    Case("slice_scatter", aten.slice_scatter.default,
         lambda x, y: np.concatenate([x[:, :1], y, x[:, 3:]], 1), (R0, R1, 1, 1, 3),
         ((5, 6), (5, 2))),
]  # fmt: skip


def as_leaves(case: Case) -> tuple[tuple[Any, ...], list[Tensor]]:
    """Constant tensors among the arguments become inputs, since a graph's arguments are."""
    extra: list[Tensor] = []

    def replaced(value: Any) -> Any:
        if isinstance(value, Tensor):
            extra.append(value)
            return Ref(len(case.shapes) + len(extra) - 1)
        return [replaced(v) for v in value] if isinstance(value, list) else value

    return tuple(replaced(a) for a in case.args), extra


def drawn(case: Case, g: torch.Generator) -> list[Ball]:
    """Balls of all sizes, some of radius zero, midpoints in the case's range."""
    found = []
    for shape in case.shapes:
        t = torch.rand(shape, generator=g, dtype=torch.float64)
        mid = case.low + (case.high - case.low) * t
        small = mid * 10.0 ** -torch.randint(0, 9, shape, generator=g)
        mid = torch.where((small >= case.low) & (small <= case.high), small, mid)
        if case.low <= 0.0:
            mid = torch.where(torch.rand(shape, generator=g) < 0.05, torch.zeros_like(mid), mid)
        rad = mid.abs() * 10.0 ** torch.randint(-17, 0, shape, generator=g)
        wide = torch.rand(shape, generator=g, dtype=torch.float64) * 3
        rad = torch.where(torch.rand(shape, generator=g) < 0.2, wide, rad)
        exact = torch.rand(shape, generator=g) < 0.3
        found.append(Ball(mid, torch.where(exact, torch.zeros_like(rad), rad)))
    return found


def points(balls: Sequence[Ball], g: torch.Generator) -> list[list[Tensor]]:
    """Ends, midpoints, and something between: four points of each."""
    at = []
    for k in range(4):
        point = []
        for b in balls:
            t = 2 * torch.rand(b.shape, generator=g, dtype=torch.float64) - 1
            x = b.mid + (t.sign(), torch.zeros_like(t), t, -t.sign())[k] * b.rad
            point.append(torch.where(b.contains(x), x, b.mid))
        at.append(point)
    return at


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@settings(deadline=None, max_examples=5)
@given(seed=SEEDS)
def test_rules(case: Case, arb: Any, outside: Any, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    args, extra = as_leaves(case)
    balls = drawn(case, g)
    value = value_of(case.op, args, [*balls, *extra], **case.kwargs)
    assert bool((value.rad >= 0.0).all())
    for point in points(balls, g):
        assert outside(value, case.reference(*map(arb, point))) == []


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_rules_of_exact_numbers_are_tight(case: Case) -> None:
    """No rule is sound merely because it says nothing."""
    g = torch.Generator().manual_seed(5)
    args, extra = as_leaves(case)
    exact = [Ball.exact(torch.where(b.mid == 0.0, 0.5, b.mid)) for b in drawn(case, g)]
    value = value_of(case.op, args, [*exact, *extra], **case.kwargs)
    assert bool((value.rad <= case.tight * (1.0 + value.mid.abs())).all())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@settings(deadline=None, max_examples=3)
@given(seed=SEEDS)
def test_smaller_balls_give_smaller_results(case: Case, seed: int) -> None:
    """But for the rounding of the bounds, which is relative to the size of all terms and values."""
    g = torch.Generator().manual_seed(seed)
    args, extra = as_leaves(case)
    outer = drawn(case, g)
    inner = []
    for b in outer:
        share = torch.rand(b.shape, generator=g, dtype=torch.float64) * 0.99
        inner.append(Ball(b.mid + (0.99 - share) * 0.9 * b.rad, share * b.rad))
    a, b = (value_of(case.op, args, [*x, *extra], **case.kwargs) for x in (outer, inner))
    size = max(float(m[torch.isfinite(m)].sum()) for m in (a.magnitude, b.magnitude))
    terms = max(float(x.magnitude.max()) for x in outer) ** 2
    slack = 1e-12 * (1.0 + size) * (1.0 + terms)
    assert bool((b.lower >= a.lower - slack).all())
    assert bool((b.upper <= a.upper + slack).all())


# --- choices, comparisons, what is not known ------------------------------------------------------


def test_comparisons_say_only_what_is_sure() -> None:
    x = Ball(torch.tensor([1.0, -1.0, 0.1, 0.0]), torch.tensor([0.5, 0.5, 0.5, 0.0])).move(
        torch.Tensor.double
    )
    found = value_of(aten.gt.Scalar, (R0, 0.0), [x])
    assert found.contains(1.0).tolist() == [True, False, True, False]
    assert found.contains(0.0).tolist() == [False, True, True, True]
    sure = value_of(aten.gt.Scalar, (R0, -3.0), [x])
    assert sure.is_whole
    y = Ball.exact(torch.full((4,), 9.0, dtype=torch.float64))
    like = [x.mid, x.mid > 0, y.mid]
    chosen = value_of(aten.where.self, (R1, R0, R2), [x, found, y], like=like)
    assert chosen.contains(9.0).tolist() == [False, True, True, True]
    assert chosen.contains(x.mid).tolist() == [True, False, True, False]
    negated = value_of(aten.logical_not.default, (R0,), [found], like=[x.mid > 0])
    assert negated.contains(1.0).tolist() == [False, True, True, True]


def test_positions_are_known_only_where_they_are_sure() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]], dtype=torch.float64)
    apart, touching = Ball(x, torch.full_like(x, 0.4)), Ball(x, torch.full_like(x, 0.5))
    for op, args in (
        (aten.max.dim, (R0, 1)),
        (aten.topk.default, (R0, 2)),
        (aten.sort.default, (R0,)),
    ):
        expected = op(*[x if a is R0 else a for a in args])[1]
        sure = run(op, args, [apart])
        assert torch.equal(sure[3].mid, expected)
        unsure = run(op, args, [touching])
        assert not unsure[3].is_known
    assert torch.equal(run(aten.argmax.default, (R0, 1), [apart])[1].mid, x.argmax(1))
    hidden = run(aten.argmax.default, (R0, 1), [touching])
    assert not hidden[1].is_known
    assert hidden.reasons == ((1, "its operands do not decide it"),)
    unknown = hidden[1].move(lambda t: t[:, None])
    like = [x, torch.zeros(2, 1, dtype=torch.long)]
    moved = value_of(aten.gather.default, (R0, 1, R1), [apart, unknown], like=like)
    assert not moved.is_known


def test_masks_of_minus_infinity() -> None:
    scores = Ball(torch.zeros(2, 3, dtype=torch.float64), torch.full((2, 3), 0.1).double())
    mask = torch.tensor([[0.0, -INF, -INF], [0.0, 0.0, -INF]], dtype=torch.float64)
    masked = value_of(aten.add.Tensor, (R0, R1), [scores, mask])
    value = value_of(aten._softmax.default, (R0, -1, False), [masked])
    assert value.mid[mask == -INF].tolist() == [0.0] * 3
    assert value.rad[mask == -INF].tolist() == [0.0] * 3
    assert bool(value.contains(torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]])).all())
    assert value.rad[1, 0] < 0.06
    spelled = value_of(aten.exp.default, (R0,), [masked])
    assert spelled.mid[mask == -INF].tolist() == [0.0] * 3
    hidden = torch.full((1, 3), -INF, dtype=torch.float64)
    assert not value_of(aten._softmax.default, (R0, -1, False), [hidden]).is_known
    assert value_of(aten._safe_softmax.default, (R0, -1), [hidden]).is_zero
    assert not value_of(aten.tanh.default, (R0,), [masked]).is_known


def test_softmax_of_huge_balls_stays_between_0_and_1() -> None:
    x = Ball(torch.tensor([[0.0, 1.0, 900.0]]).double(), torch.tensor([[1e3, 0.0, 1e3]]).double())
    value = value_of(aten._softmax.default, (R0, -1, False), [x])
    assert bool((value.lower >= -1e-15).all())
    assert bool((value.upper <= 1 + 1e-15).all())


def test_reasons_name_the_first_node_only() -> None:
    inputs = [torch.ones(3, dtype=torch.float64)]
    nodes = [
        Node(0, NodeKind.INPUT, "x", 0, shape=(3,), dtype=torch.float64),
        *(
            Node(i, NodeKind.CALL, op.__name__, op, args, shape=(3,), dtype=torch.float64)
            for i, op, args in (
                (1, aten.lgamma.default, (R0,)),
                (2, aten.exp.default, (R1,)),
                (3, aten.rand_like.default, (R0,)),
                (4, aten.special_zeta.default, (R0, R0)),
                (5, aten.sub.Tensor, (R0, R0)),
                (6, aten.log.default, (Ref(5),)),
            )
        ),
    ]
    found = enclose(Graph(tuple(nodes), 6), dict(enumerate(inputs)), CATALOGUE)
    assert dict(found.reasons) == {
        1: "no rule says how exactly aten::lgamma is computed",
        3: "it draws numbers",
        4: "aten::special_zeta is not in the catalogue",
        6: "log is singular or overflows there",
    }
    assert not any(found[i].is_known for i in (1, 2, 3, 4, 6))


def test_a_leaf_without_a_value_is_refused() -> None:
    graph = graph_of(aten.exp.default, (R0,), {}, [torch.ones(2)])
    with pytest.raises(InputError, match="no value to enclose"):
        enclose(graph, {}, CATALOGUE)


def test_flushing_subnormal_numbers_is_refused() -> None:
    graph = graph_of(aten.exp.default, (R0,), {}, [torch.ones(2)])
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    try:
        with pytest.raises(InputError, match="set_flush_denormal"):
            enclose(graph, {0: torch.ones(2)}, CATALOGUE)
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (aten.arange.start_step, (0, 1, 0.1)),
        (aten.linspace.default, (-1.0, 3.0, 7)),
        (aten.full.default, ([3], 0.1)),
        (aten.arange.default, (5,)),
        (aten.eye.default, (3,)),
    ],
)
def test_constants_are_made_in_double_precision(op: Any, args: tuple[Any, ...], arb: Any) -> None:
    """Of a graph in single precision: casts are the identity."""
    made = op(*args, dtype=torch.float32)
    node = Node(0, NodeKind.CALL, "c", op, args, {"dtype": torch.float32},
                shape=tuple(made.shape), dtype=torch.float32)  # fmt: skip
    value = enclose(Graph((node,), 0), {}, CATALOGUE)[0]
    assert bool(value.contains(op(*args, dtype=torch.float64)).all())
    assert float(value.rad.max()) < 1e-14
    if op is aten.arange.start_step:  # 0.1 is the double next to it, of which multiples are taken
        exact = np.arange(10) * arb(torch.tensor([0.1], dtype=torch.float64))[0]
        assert all(
            abs(e - m) <= r
            for e, m, r in zip(exact, value.mid.tolist(), value.rad.tolist(), strict=True)
        )


def test_casts() -> None:
    half = torch.tensor([0.5, -1.5, 3.0, 0.0], dtype=torch.float64)
    exact, ball = Ball.exact(half), Ball(half, torch.full_like(half, 0.25))
    assert value_of(aten._to_copy.default, (R0,), [ball], dtype=torch.float32).rad is ball.rad
    whole = value_of(aten._to_copy.default, (R0,), [exact], dtype=torch.int64)
    assert whole.mid.tolist() == [0, -1, 3, 0]
    assert whole.mid.dtype is torch.int64
    inside = Ball(half + 0.5, torch.full_like(half, 0.25))
    assert value_of(aten._to_copy.default, (R0,), [inside], dtype=torch.int64).is_known is False
    truth = value_of(aten._to_copy.default, (R0,), [ball], dtype=torch.bool)
    assert truth.contains(0.0).tolist() == [False, False, False, True]
    assert truth.contains(1.0).tolist() == [True] * 4
    rounded = value_of(aten.floor.default, (R0,), [ball])
    assert rounded.contains(torch.floor(half)).all()
    assert rounded.rad.tolist()[:2] == [0.0, 0.0]
    counts = run(aten.sum.default, (R0,), [torch.tensor([1, 2, 2**62])])
    assert counts[1].mid.item() == 3 + 2**62


def test_dropout_that_does_nothing_passes_and_one_that_drops_is_unknown() -> None:
    x = Ball.exact(torch.ones(3, dtype=torch.float64))
    assert value_of(aten.dropout.default, (R0, 0.5, False), [x]).mid is x.mid
    assert not value_of(aten.dropout.default, (R0, 0.5, True), [x]).is_known


# --- networks and their derivatives ---------------------------------------------------------------


class Jet:
    """A number of Arb's and its derivative along a line."""

    def __init__(self, value: Any, slope: Any) -> None:
        self.value, self.slope = value, slope

    def __add__(self, other: Any) -> Jet:
        other = jet(other)
        return Jet(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other: Any) -> Jet:
        other = jet(other)
        slope = self.slope * other.value + self.value * other.slope
        return Jet(self.value * other.value, slope)

    def __truediv__(self, other: Any) -> Jet:
        other = jet(other)
        value = self.value / other.value
        return Jet(value, (self.slope - value * other.slope) / other.value)

    def __neg__(self) -> Jet:
        return Jet(-self.value, -self.slope)

    def __sub__(self, other: Any) -> Jet:
        return self + (-jet(other))

    def __rsub__(self, other: Any) -> Jet:
        return jet(other) - self

    def __rtruediv__(self, other: Any) -> Jet:
        return jet(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def exp(self) -> Jet:
        value = self.value.exp()
        return Jet(value, value * self.slope)

    def log(self) -> Jet:
        return Jet(self.value.log(), self.slope / self.value)

    def log1p(self) -> Jet:
        return Jet(self.value.log1p(), self.slope / (1 + self.value))

    def sqrt(self) -> Jet:
        value = self.value.sqrt()
        return Jet(value, self.slope / (2 * value))

    def tanh(self) -> Jet:
        value = self.value.tanh()
        return Jet(value, (1 - value * value) * self.slope)

    def erf(self) -> Jet:
        x = self.value
        return Jet(x.erf(), 2 / x.pi().sqrt() * (-x * x).exp() * self.slope)

    def pi(self) -> Jet:
        return Jet(self.value.pi(), self.value * 0)


def jet(x: Any) -> Jet:
    return x if isinstance(x, Jet) else Jet(x, 0)


F = nn.functional
PIECES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Array], Array]]] = {
    "tanh": (torch.tanh, tanh),
    "gelu": (F.gelu, gelu),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), gelu_tanh),
    "silu": (F.silu, lambda x: x * sigmoid(x)),
    "sigmoid": (torch.sigmoid, sigmoid),
    "softplus": (F.softplus, softplus),
    "softmax": (lambda x: x.softmax(-1), softmax),
    "log_softmax": (lambda x: x.log_softmax(-1), log_softmax),
    "layer_norm": (lambda x: F.layer_norm(x, x.shape[-1:]), lambda x: normalized(x, 1e-5)),
    "rms_norm": (
        lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-3).rsqrt(),
        lambda x: normalized(x, 1e-3, centre=False),
    ),
    "attention": (
        lambda x: (x @ x.transpose(-1, -2) * 0.5).softmax(-1) @ x,
        lambda x: softmax(x @ x.T * 0.5) @ x,
    ),
    "gate": (lambda x: x * torch.exp(-x * x), lambda x: x * exp(-(x * x))),
    "quotient": (lambda x: x / (1 + x * x), lambda x: x / (1 + x * x)),
    "residual": (lambda x: x + torch.erf(x), lambda x: x + erf(x)),
    "mean": (lambda x: x - x.mean(0, keepdim=True), lambda x: x - x.mean(0, keepdims=True)),
    "log": (lambda x: (1 + x * x).log(), lambda x: log(1 + x * x)),
    "norm": (lambda x: x / x.norm(dim=-1, keepdim=True),
             lambda x: x / sqrt((x * x).sum(-1, keepdims=True))),
}  # fmt: skip


class Net(nn.Module):
    """Rows through linear maps with pieces between them."""

    def __init__(self, pieces: Sequence[str], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.pieces = pieces
        self.maps = nn.ModuleList(nn.Linear(3, 3) for _ in pieces)

    def forward(self, x: Tensor) -> Tensor:
        for name, linear in zip(self.pieces, self.maps, strict=True):
            x = PIECES[name][0](linear(x))
        return x


def reference(pieces: Sequence[str], parameters: Sequence[Array], x: Array) -> Array:
    for name, w, b in zip(pieces, parameters[::2], parameters[1::2], strict=True):
        x = PIECES[name][1](x @ w.T + b)
    return x


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[str], int]:
    names = draw(st.lists(st.sampled_from(sorted(PIECES)), min_size=1, max_size=3))
    return names, draw(SEEDS)


@settings(deadline=None, max_examples=25)
@given(network=networks())
def test_values_and_derivatives_of_networks(
    arb: Any, outside: Any, network: tuple[list[str], int]
) -> None:
    """At a point of the balls around all parameters, against Arb with forward differentiation."""
    names, seed = network
    module = Net(names, seed).double()
    g = torch.Generator().manual_seed(seed)
    problem = Problem(module, (torch.randn(2, 3, generator=g, dtype=torch.float64),))
    graph = capture(problem)
    leaves = [n.index for n in graph if n.kind is NodeKind.PARAMETER]
    (data,) = (n.index for n in graph if n.kind is NodeKind.INPUT)
    named = dict(module.named_parameters())
    radius = 10.0 ** float(torch.randint(-14, -3, (), generator=g))
    balls = {
        i: Ball(p, radius * p.abs() * torch.rand(p.shape, generator=g).double())
        for i in leaves
        for p in [named[graph[i].target].detach()]
    }
    (at,) = points([balls[i] for i in leaves], g)[2:3]
    x, values = arb(problem.inputs[0]), [arb(t) for t in at]
    order = [[graph[i].target for i in leaves].index(name) for name in named]
    in_order = [values[k] for k in order]

    value = enclose(graph, {**balls, data: problem.inputs[0]}, CATALOGUE)[graph.output]
    assert outside(value, reference(names, in_order, x)) == []
    assert radius > 1e-9 or bool((value.rad < 1e3 * radius + 1e-6).all())

    derivative = gradient(graph, leaves, CATALOGUE, torch.device("cpu"))
    cotangent = torch.randn(2, 3, generator=g, dtype=torch.float64)
    given_at = {derivative.seeds[0]: cotangent}
    given_at |= {new: balls[old] for new, old in zip(derivative.wrt, leaves, strict=True)}
    for node in derivative.graph:
        if node.kind is NodeKind.INPUT and node.index not in given_at:
            given_at[node.index] = problem.inputs[0]
    found = enclose(derivative.graph, given_at, CATALOGUE)
    assert found.reasons == () or radius > 1e-6

    place = int(torch.randint(len(leaves), (), generator=g))
    entry = int(torch.randint(values[place].size, (), generator=g))
    moving = [np.vectorize(jet, otypes=[object])(v) for v in values]
    flat = moving[place].reshape(-1)
    flat[entry] = Jet(flat[entry].value, arb(torch.ones(1))[0])
    moving[place] = flat.reshape(moving[place].shape)
    slopes = reference(names, [moving[k] for k in order], x)
    exact = sum(
        (c * jet(s).slope for c, s in zip(arb(cotangent).flat, slopes.flat, strict=True)),
        arb(torch.zeros(1))[0],
    )
    part = found[derivative.outputs[place]].move(lambda t: t.reshape(-1)[entry : entry + 1])
    assert outside(part, np.array([exact], dtype=object)) == []
