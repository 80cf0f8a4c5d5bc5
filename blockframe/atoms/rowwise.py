"""Functions of whole rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from blockframe.atoms.facts import Rowwise, Shape, argument
from blockframe.atoms.interval import INF, NON_NEGATIVE, Interval, up
from blockframe.graph.graph import Node, Ref
from blockframe.graph.synthetic import NORMALIZE

THEORY = "docs/theory section 2"


def _dims(position: int, name: str = "dim") -> Callable[[Node], tuple[int, ...] | None]:
    def dims(node: Node) -> tuple[int, ...]:
        dim = argument(node, position, name)
        return (dim,) if isinstance(dim, int) else tuple(dim)

    return dims


def _eps(position: int) -> Callable[[Node], str | None]:
    """Singular where eps is not a positive number; a missing one means the dtype's own."""

    def singular(node: Node) -> str | None:
        eps = argument(node, position, "eps")
        if eps is None or (not isinstance(eps, Ref) and eps > 0):
            return None
        return f"eps = {eps!r}: rows without variance have no normalisation"

    return singular


def _norm(node: Node) -> str | None:
    return "a norm is not analytic at the zero row"


def _deviation(node: Node) -> str | None:
    return "a standard deviation is not analytic at a row without variance"


def _entries(shape: Shape, dims: Sequence[int]) -> int:
    """Entries of one row."""
    return math.prod(shape[d] for d in dims) if shape else 1


def _root(n: float) -> float:
    return up(math.sqrt(n))


def _softmax_growth(node: Node, shape: Shape) -> tuple[float, float]:
    rows = math.prod(shape) / max(1, _entries(shape, _dims(1)(node) or ()))
    return _root(rows), 0.0


def _logsumexp_growth(node: Node, shape: Shape) -> tuple[float, float]:
    """|log sum exp x| <= max|x| + log n."""
    n = max(1, _entries(shape, _dims(1)(node) or ()))
    return up(_root(math.prod(shape) / n) * math.log(n)), 1.0


def _log_softmax_growth(node: Node, shape: Shape) -> tuple[float, float]:
    """Every entry is at most 2 max|x| + log n."""
    n = max(1, _entries(shape, _dims(1)(node) or ()))
    return up(_root(math.prod(shape)) * math.log(n)), 2.0 * _root(n)


def _log_softmax_slope(node: Node, shape: Shape) -> float:
    """D = I - 1 p^T."""
    return up(1.0 + _root(_entries(shape, _dims(1)(node) or ())))


def _log_softmax_curvature(node: Node, shape: Shape) -> float:
    """D^2 = -1 (x) D^2 logsumexp."""
    return up(0.5 * _root(_entries(shape, _dims(1)(node) or ())))


Eps = Callable[[Node], float | None]
Row = Callable[[Node, Shape], int]


def _positive(position: int) -> Eps:
    """eps of a norm; a missing one is that of the dtype; None if it is no positive number."""

    def eps(node: Node) -> float | None:
        import torch

        given = argument(node, position, "eps")
        if given is None and node.dtype is not None:  # half precision is normalised in float32
            wide = node.dtype if node.dtype is torch.float64 else torch.float32
            return float(torch.finfo(wide).eps)
        return float(given) if isinstance(given, (int, float)) and given > 0 else None

    return eps


def _trailing(node: Node) -> tuple[int, ...]:
    return tuple(range(-len(argument(node, 1, "normalized_shape")), 0))


def _samplewise(node: Node) -> tuple[int, ...]:
    """A row lies within one sample."""
    return tuple(range(1, len(node.shape or ())))


def _normalised(node: Node, shape: Shape) -> int:
    return math.prod(argument(node, 1, "normalized_shape"))


def _grouped(node: Node, shape: Shape) -> int:
    """Entries of a group: its channels at all positions of a sample."""
    return math.prod(shape[1:]) // int(argument(node, 1, "num_groups"))


def _norm_facts(eps: Eps, row: Row) -> dict[str, Any]:
    """u / sqrt(|u|^2/n + eps) of rows of n entries (docs/theory section 2)."""

    def growth(node: Node, shape: Shape) -> tuple[float, float] | None:
        return None if eps(node) is None else (_root(math.prod(shape)), 0.0)

    def lipschitz(node: Node, shape: Shape) -> float | None:
        e = eps(node)
        return None if e is None else up(1.0 / math.sqrt(e))

    def curvature(node: Node, shape: Shape) -> float | None:
        e = eps(node)
        return None if e is None else up(up(1.7125 / e) / math.sqrt(row(node, shape)))

    return {"growth": growth, "lipschitz": lipschitz, "curvature": curvature}


def _scaled_norm(node: Node) -> tuple[float, float]:
    """scale and eps of u / sqrt(scale |u|^2 + eps); a mean has 1/n as its scale."""
    return float(node.args[2]), float(node.args[3])


def _scaled_growth(node: Node, shape: Shape) -> tuple[float, float]:
    rows = math.prod(shape) / max(1, _entries(shape, node.args[1]))
    return up(_root(rows) * up(1.0 / math.sqrt(_scaled_norm(node)[0]))), 0.0


def _scaled_curvature(node: Node, shape: Shape) -> float:
    scale, eps = _scaled_norm(node)
    return up(up(1.7125 / eps) * _root(scale))


def _within_norm(node: Node) -> Interval:
    largest = up(1.0 / math.sqrt(_scaled_norm(node)[0]))
    return Interval(-largest, largest)


def _always(c: float) -> Callable[[Node, Shape], float | None]:
    return lambda node, shape: c


ROWWISES = (
    Rowwise(
        ("aten::softmax.int", "aten::_softmax", "aten::_safe_softmax"),
        dim=_dims(1),
        masked=True,
        range=lambda node: Interval(0.0, 1.0, True, False),
        growth=_softmax_growth,
        lipschitz=_always(0.5),
        curvature=_always(0.70711),
        source=THEORY,
    ),
    Rowwise(
        ("aten::log_softmax.int", "aten::_log_softmax"),
        dim=_dims(1),
        range=lambda node: Interval(-INF, 0.0, True, False),
        growth=_log_softmax_growth,
        lipschitz=_log_softmax_slope,
        curvature=_log_softmax_curvature,
    ),
    Rowwise(
        "aten::logsumexp",
        dim=_dims(1),
        masked=True,
        growth=_logsumexp_growth,
        lipschitz=_always(1.0),
        curvature=_always(0.5),
    ),
    Rowwise(("aten::logaddexp", "aten::logaddexp2", "aten::logcumsumexp")),
    Rowwise(
        "aten::layer_norm",
        singular=_eps(4),
        weight=2,
        bias=3,
        dim=_trailing,
        source=THEORY,
        **_norm_facts(_positive(4), _normalised),
    ),
    Rowwise("aten::native_layer_norm", singular=_eps(4)),
    Rowwise(
        "aten::rms_norm",
        singular=_eps(3),
        weight=2,
        dim=_trailing,
        source=THEORY,
        **_norm_facts(_positive(3), _normalised),
    ),
    Rowwise("aten::_fused_rms_norm", singular=_eps(3)),
    Rowwise(
        NORMALIZE.__name__,
        singular=_eps(3),
        dim=_dims(1),
        range=_within_norm,
        growth=_scaled_growth,
        lipschitz=lambda node, shape: up(1.0 / math.sqrt(_scaled_norm(node)[1])),
        curvature=_scaled_curvature,
        source=THEORY,
    ),
    Rowwise(
        "aten::group_norm",
        singular=_eps(4),
        weight=2,
        bias=3,
        dim=_samplewise,
        source=THEORY,
        **_norm_facts(_positive(4), _grouped),
    ),
    Rowwise("aten::native_group_norm", singular=_eps(7)),
    Rowwise("aten::instance_norm", singular=_eps(7)),
    Rowwise(
        (
            "aten::linalg_vector_norm", "aten::norm.ScalarOpt_dim", "aten::norm.Scalar",
            "aten::linalg_norm",
        ),
        singular=_norm,
        range=lambda node: NON_NEGATIVE,
    ),
    Rowwise(
        ("aten::std", "aten::std.dim", "aten::std.correction", "aten::std_mean.correction"),
        singular=_deviation,
    ),
    Rowwise(
        ("aten::var", "aten::var.dim", "aten::var.correction"), range=lambda node: NON_NEGATIVE
    ),
    Rowwise("aten::var_mean.correction"),
    Rowwise(("aten::prod", "aten::prod.dim_int", "aten::cumprod")),
)  # fmt: skip
