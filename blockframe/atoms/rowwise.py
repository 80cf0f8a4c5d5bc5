"""Functions of whole rows."""

from __future__ import annotations

from collections.abc import Callable

from blockframe.atoms.facts import Rowwise, argument
from blockframe.atoms.interval import INF, NON_NEGATIVE, REALS, Interval
from blockframe.graph.graph import Node, Ref

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


ROWWISES = (
    Rowwise(
        ("aten::softmax.int", "aten::_softmax", "aten::_safe_softmax"),
        dim=_dims(1),
        range=lambda node: Interval(0.0, 1.0, True, False),
        growth=(1.0, 0.0),
        lipschitz=0.5,
        curvature=0.70711,
        source=THEORY,
    ),
    Rowwise(
        ("aten::log_softmax.int", "aten::_log_softmax"),
        range=lambda node: Interval(-INF, 0.0, True, False),
        lipschitz=2.0,
    ),
    Rowwise("aten::logsumexp", dim=_dims(1), lipschitz=1.0, curvature=0.5),
    Rowwise(("aten::logaddexp", "aten::logaddexp2", "aten::logcumsumexp")),
    Rowwise(("aten::layer_norm", "aten::native_layer_norm"), singular=_eps(4), source=THEORY),
    Rowwise(("aten::rms_norm", "aten::_fused_rms_norm"), singular=_eps(3), source=THEORY),
    Rowwise("aten::group_norm", singular=_eps(4)),
    Rowwise("aten::native_group_norm", singular=_eps(7)),
    Rowwise("aten::instance_norm", singular=_eps(7)),
    Rowwise(
        (
            "aten::linalg_vector_norm",
            "aten::norm.ScalarOpt_dim",
            "aten::norm.Scalar",
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
    Rowwise("aten::glu", range=lambda node: REALS),
)
