"""Functions that models spell out in small ops, recognised so that their bounds are tight.

Recognising is never needed for soundness: what is not recognised is bounded op by op. A record may
rewrite by an identity of real arithmetic only, one that holds wherever the ops are defined; what
it becomes is an op of the catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import evolve, frozen

from blockframe.graph import rotary
from blockframe.graph.graph import Graph, Node, NodeKind, Ref, substitute
from blockframe.graph.match import (
    DIFFERENCES,
    PRODUCTS,
    Affine,
    Application,
    Both,
    Call,
    Difference,
    Either,
    Expression,
    Found,
    Polynomial,
    Power,
    Product,
    Sum,
    Variable,
    apply,
    close,
)
from blockframe.graph.rows import Filled, Largest, Rows, Total, Variance, along
from blockframe.graph.scope import Scope, value_numbers
from blockframe.graph.synthetic import NORMALIZE, SWISH

aten = torch.ops.aten


@frozen
class Pattern:
    """A function that is written out.

    Attributes:
        name: for readers and tests.
        roots: the ops that its last node can be.
        expression: what is looked for.
        becomes: given the block's scope, the last node and what the expression has bound, the op
            that is the same function; None if a condition is not met.
    """

    name: str
    roots: tuple[str, ...]
    expression: Expression
    becomes: Callable[[Scope, Node, Found], Application | None]


def recognise(
    graph: Graph,
    varies: Sequence[bool],
    constants: Mapping[int, Any],
    owners: Mapping[int, object],
    patterns: Iterable[Pattern] | None = None,
) -> Graph:
    """``graph`` with what `PATTERNS` find rewritten: as many nodes at the same places.

    A node that is rewritten keeps its index and its value; those that only it used have no users
    any more. Nothing is recognised across the border of a block.

    Args:
        varies, constants: of the nodes, as in `blockframe.analysis.Analysis`.
        owners: the block of every captured node that varies.
    """
    by_root: dict[str, list[Pattern]] = {}
    for pattern in PATTERNS if patterns is None else patterns:
        for op in pattern.roots:
            by_root.setdefault(op, []).append(pattern)
    nodes = list(graph.nodes)
    numbers = value_numbers(graph, varies, owners)
    for node in graph:
        if not varies[node.index] or node.kind is not NodeKind.CALL:
            continue
        owner = owners.get(node.origin)
        scope = Scope(nodes, varies, constants, numbers, owners, owner)
        while (new := _rewritten(scope, nodes[node.index], by_root)) is not None:
            nodes[node.index] = new
    return Graph(tuple(nodes), graph.output, graph.tensors)


def _rewritten(scope: Scope, node: Node, by_root: Mapping[str, Sequence[Pattern]]) -> Node | None:
    for pattern in by_root.get(node.op, ()):
        for found in pattern.expression.match(scope, Ref(node.index), {}):
            new = pattern.becomes(scope, node, found)
            if new is not None and _shape(scope, new) == node.shape:
                return evolve(node, target=new.target, args=new.args, kwargs=new.kwargs)
    return None


def _shape(scope: Scope, new: Application) -> tuple[int, ...]:
    """Of the value."""

    def example(index: int) -> torch.Tensor:
        shape = scope.nodes[index].shape
        assert shape is not None  # an expression binds tensors only
        return torch.empty(shape, device="meta")

    return tuple(new.target(*substitute(new.args, example), **new.kwargs).shape)


# --- what they become ----------------------------------------------------------------------------


def _plain(target: Any, *more: Any) -> Callable[[Scope, Node, Found], Application]:
    """The op of x, and of fixed arguments."""
    return lambda scope, node, m: apply(target, m["x"], *more)


def _gelu(approximate: str, inner: Sequence[float]) -> Callable[..., Application | None]:
    """x * (1 + f(p(x))) / 2 for an odd f and p = inner[1] x + inner[3] x^3."""

    def becomes(scope: Scope, node: Node, m: Found) -> Application | None:
        p, slope = m["p"], m["times"] * m["slope"]
        if len(p) > 1 and p[1] < 0:
            p, slope = tuple(-c for c in p), -slope
        p += (0.0,) * (len(inner) - len(p))
        half = close(slope, 0.5) and close(m["times"] * m["shift"], 0.5)
        if half and len(p) == len(inner) and all(map(_meant, p, inner)):
            return apply(aten.gelu.default, m["x"], approximate=approximate)
        return None

    return becomes


def _meant(a: float, b: float) -> bool:
    return a == b or close(a, b)


def _swish(scope: Scope, node: Node, m: Found) -> Application | None:
    """x * sigmoid(beta x)."""
    beta = m["beta"] * m.get("twice", 1.0)
    if beta == 1.0:
        return apply(aten.silu.default, m["x"])
    return apply(SWISH, m["x"], beta) if beta > 0 else None


def _swish_by_tanh(scope: Scope, node: Node, m: Found) -> Application | None:
    """x * (1 + tanh(beta x / 2)) / 2."""
    half = close(m["times"] * m["slope"], 0.5) and close(m["times"] * m["shift"], 0.5)
    return _swish(scope, node, {**m, "twice": 2.0}) if half else None


def _dimension(scope: Scope, m: Found, dims: str = "dims") -> int | None:
    """The one dimension of the rows of x, counted from the end."""
    shape = scope.shape(m["x"])
    if shape is None or len(m[dims]) != 1 or not along(shape, m[dims], m["rows"]):
        return None
    (dim,) = m[dims]
    return int(dim) - len(shape)


def _softmax(target: Any) -> Callable[[Scope, Node, Found], Application | None]:
    def becomes(scope: Scope, node: Node, m: Found) -> Application | None:
        dim = _dimension(scope, m)
        return None if dim is None else apply(target, m["x"], dim)

    return becomes


def _along_call(target: Any) -> Callable[[Scope, Node, Found], Application]:
    """Of a softmax or log_softmax of x."""
    return lambda scope, node, m: apply(target, m["x"], m["dim"])


def _unshifted(target: Any) -> Callable[[Scope, Node, Found], Application | None]:
    """A softmax of x less a number for each row."""

    def becomes(scope: Scope, node: Node, m: Found) -> Application | None:
        shape = scope.shape(m["x"]) or ()
        dim = m["dim"] % len(shape) if shape else 0
        constant = dim in m["along"] and along(shape, m["along"], m["rows"])
        return apply(target, m["x"], m["dim"]) if constant else None

    return becomes


def _logsumexp(scope: Scope, node: Node, m: Found) -> Application | None:
    shape = scope.shape(m["x"])
    if shape is None or node.shape is None:
        return None
    dims = sorted(d - len(shape) for d in m["dims"])
    return apply(aten.logsumexp.default, m["x"], dims, len(node.shape) == len(shape))


def _logsumexp_shifted(scope: Scope, node: Node, m: Found) -> Application | None:
    """m + logsumexp(x - m), m the largest of x in each row."""
    shape = scope.shape(m["x"]) or ()
    dims = frozenset(d % len(shape) for d in m["dim"])
    if not dims <= m["along"] or not along(shape, m["along"], m["rows"]):
        return None
    if m["outer"] not in (node.shape, ()):
        return None
    return apply(aten.logsumexp.default, m["x"], m["dim"], m["keepdim"])


def _log_softmax(scope: Scope, node: Node, m: Found) -> Application | None:
    """x - logsumexp(x)."""
    shape = scope.shape(m["x"]) or ()
    dims = {**m, "dims": frozenset(d % len(shape) for d in m["dim"])}
    dim = _dimension(scope, dims)
    return None if dim is None else apply(aten.log_softmax.int, m["x"], dim)


def _sizes(scope: Scope, m: Found) -> list[int] | None:
    """The shape of a row of x, if a row is made of the last dimensions."""
    shape = scope.shape(m["x"]) or ()
    last = frozenset(range(len(shape) - len(m["dims"]), len(shape)))
    return list(shape[len(shape) - len(last) :]) if m["dims"] == last else None


def _rms_norm(scope: Scope, node: Node, m: Found) -> Application | None:
    """x / sqrt(scale * sum(x^2) + eps)."""
    shape, eps, scale = scope.shape(m["x"]) or (), m["eps"], m["scale"]
    if not eps > 0 or not scale > 0 or not along(shape, m["dims"], m["rows"]):
        return None
    sizes = _sizes(scope, m)
    if sizes is not None and close(scale * math.prod(sizes), 1.0):
        return apply(aten.rms_norm.default, m["x"], sizes, None, eps)
    dims = sorted(d - len(shape) for d in m["dims"])
    return apply(NORMALIZE, m["x"], dims, scale, eps)


def _centred(scope: Scope, node: Node, m: Found) -> Application | None:
    """rms_norm(x - mean(x))."""
    if _sizes(scope, m) != m["sizes"] or m["weight"] is not None:
        return None
    if not along(scope.shape(m["x"]) or (), m["dims"], m["rows"]):
        return None
    return apply(aten.layer_norm.default, m["x"], m["sizes"], None, None, m["eps"])


def _layer_norm(scope: Scope, node: Node, m: Found) -> Application | None:
    """(x - mean(x)) / sqrt(var(x) + eps)."""
    shape, eps = scope.shape(m["x"]) or (), m["eps"]
    right = all(along(shape, m["dims"], m[rows]) for rows in ("rows", "inner"))
    if not eps > 0 or not right:
        return None
    sizes = _sizes(scope, m)
    if sizes is not None:
        return apply(aten.layer_norm.default, m["x"], sizes, None, None, eps)
    dims = sorted(d - len(shape) for d in m["dims"])
    return apply(NORMALIZE, m["u"], dims, 1.0 / math.prod(shape[d] for d in dims), eps)


# --- the records ---------------------------------------------------------------------------------

X, U = Variable("x"), Variable("u")
EXP_X = Call(("aten::exp",), X)
SIGMOID, TANH, ERF = ("aten::sigmoid",), ("aten::tanh",), ("aten::erf",)
SOFTMAX, LOG_SOFTMAX = ("aten::softmax.int",), ("aten::log_softmax.int",)
_ROOT_2, _ROOT_2_PI = math.sqrt(0.5), math.sqrt(2.0 / math.pi)


def _also_dim(node: Node) -> Found:
    return {"dim": node.args[1]}


def _also_reduced(node: Node) -> Found:
    dims = [node.args[1]] if isinstance(node.args[1], int) else list(node.args[1])
    return {"dim": dims, "keepdim": node.args[2] if len(node.args) > 2 else False}


def _also_norm(node: Node) -> Found:
    sizes, weight, eps = (*node.args[1:], None, None)[:3]
    return {"sizes": list(sizes), "weight": weight, "eps": eps}


def _tail(f: Expression) -> Expression:
    """1 + f, up to numbers."""
    return Affine(f, "slope", "shift")


ACTIVATIONS = (
    # 1 / (1 + exp(-x)), exp(x) / (1 + exp(x))
    Pattern(
        "sigmoid", PRODUCTS,
        Product((), (Affine(Call(("aten::exp",), Affine(X, -1.0)), 1.0, 1.0),)),
        _plain(aten.sigmoid.default),
    ),
    Pattern(
        "sigmoid", PRODUCTS, Product((EXP_X,), (Affine(EXP_X, 1.0, 1.0),)),
        _plain(aten.sigmoid.default),
    ),
    # (exp(x) - exp(-x)) / (exp(x) + exp(-x)), (exp(2x) - 1) / (exp(2x) + 1)
    Pattern(
        "tanh", PRODUCTS,
        Product(
            (Difference(EXP_X, Call(("aten::exp",), Affine(X, -1.0))),),
            (Sum(EXP_X, Call(("aten::exp",), Affine(X, -1.0))),),
        ),
        _plain(aten.tanh.default),
    ),
    Pattern(
        "tanh", PRODUCTS,
        Product(
            (Affine(Call(("aten::exp",), Affine(X, 2.0)), 1.0, -1.0),),
            (Affine(Call(("aten::exp",), Affine(X, 2.0)), 1.0, 1.0),),
        ),
        _plain(aten.tanh.default),
    ),
    Pattern(
        "silu", PRODUCTS, Product((X, Call(SIGMOID, Affine(X, "beta")))), _swish
    ),
    Pattern(
        "silu", PRODUCTS,
        Product((X,), (Affine(Call(("aten::exp",), Affine(X, "minus")), 1.0, 1.0),)),
        lambda scope, node, m: _swish(scope, node, {**m, "beta": -m["minus"]}),
    ),
    Pattern(
        "silu", PRODUCTS, Product((X, _tail(Call(TANH, Affine(X, "beta")))), times="times"),
        _swish_by_tanh,
    ),
    Pattern(
        "gelu (tanh)", PRODUCTS,
        Product((X, _tail(Call(TANH, Polynomial("x", "p")))), times="times"),
        _gelu("tanh", (0.0, _ROOT_2_PI, 0.0, 0.044715 * _ROOT_2_PI)),
    ),
    Pattern(
        "gelu (erf)", PRODUCTS,
        Product((X, _tail(Call(ERF, Polynomial("x", "p")))), times="times"),
        _gelu("none", (0.0, _ROOT_2)),
    ),
    Pattern(  # erfc(t) = 1 + erf(-t)
        "gelu (erfc)", PRODUCTS,
        Product((X, Call(("aten::erfc",), Polynomial("x", "p"))), times="times"),
        lambda scope, node, m: _gelu("none", (0.0, _ROOT_2))(
            scope, node, {**m, "slope": -1.0, "shift": 1.0}
        ),
    ),
    Pattern(
        "softplus", ("aten::log",), Call(("aten::log",), Affine(EXP_X, 1.0, 1.0)),
        _plain(aten.softplus.default, 1.0, math.inf),
    ),
    Pattern(
        "softplus", ("aten::log1p",), Call(("aten::log1p",), EXP_X),
        _plain(aten.softplus.default, 1.0, math.inf),
    ),
    Pattern(
        "log_sigmoid", ("aten::log",), Call(("aten::log",), Call(SIGMOID, X)),
        _plain(aten.log_sigmoid.default),
    ),
)  # fmt: skip

ROWS = (
    Pattern(
        "softmax", PRODUCTS, Product((EXP_X,), (Rows(Total(EXP_X)),)), _softmax(aten.softmax.int)
    ),
    Pattern(
        "shifted softmax", SOFTMAX,
        Call(SOFTMAX, Difference(X, Rows(Largest(X))), _also_dim), _unshifted(aten.softmax.int),
    ),
    Pattern(
        "shifted log_softmax", LOG_SOFTMAX,
        Call(LOG_SOFTMAX, Difference(X, Rows(Largest(X))), _also_dim),
        _unshifted(aten.log_softmax.int),
    ),
    Pattern(
        "logsumexp", ("aten::log",), Call(("aten::log",), Total(EXP_X)), _logsumexp
    ),
    Pattern(
        "shifted logsumexp", DIFFERENCES,
        Sum(
            Call(
                ("aten::logsumexp",),
                Difference(X, Both(Rows(Largest(X)), Rows(Variable("shift")))),
                _also_reduced,
            ),
            Rows(Variable("shift"), "outer"),
        ),
        _logsumexp_shifted,
    ),
    Pattern(
        "log_softmax", DIFFERENCES,
        Difference(X, Rows(Call(("aten::logsumexp",), X, _also_reduced))), _log_softmax,
    ),
    Pattern(
        "log_softmax", ("aten::log",), Call(("aten::log",), Call(SOFTMAX, X, _also_dim)),
        _along_call(aten.log_softmax.int),
    ),
    Pattern(
        "softmax", ("aten::exp",), Call(("aten::exp",), Call(LOG_SOFTMAX, X, _also_dim)),
        _along_call(aten.softmax.int),
    ),
    Pattern(
        "rms_norm", PRODUCTS,
        Product((X,), (Rows(Power(Affine(Total(Power(X, 2.0), "scale"), 1.0, "eps"), 0.5)),)),
        _rms_norm,
    ),
    Pattern(
        "layer_norm", ("aten::rms_norm",),
        Call(("aten::rms_norm",), Difference(X, Rows(Total(X, mean=True))), _also_norm), _centred,
    ),
    Pattern(
        "layer_norm", PRODUCTS,
        Product(
            (Both(U, Difference(X, Rows(Total(X, mean=True), "inner"))),),
            (
                Rows(
                    Power(
                        Affine(
                            Either((
                                Variance(X),
                                Difference(
                                    Total(Power(X, 2.0), mean=True),
                                    Power(Total(X, mean=True), 2.0),
                                ),
                            )),
                            1.0, "eps",
                        ),
                        0.5,
                    )
                ),
            ),
        ),
        _layer_norm,
    ),
)  # fmt: skip

ROTARY = tuple(
    Pattern("rotary embedding", ends, expression, becomes)
    for expression, ends, becomes in rotary.FORMS
)

WRITTEN = Pattern(
    "parts written into an empty tensor",
    ("aten::slice_scatter",),
    Filled(),
    lambda scope, node, m: apply(aten.cat.default, m["parts"], m["dim"]),
)

PATTERNS = (*ACTIVATIONS, *ROWS, *ROTARY, WRITTEN)
