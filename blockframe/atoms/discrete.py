"""Ops that are piecewise constant."""

from __future__ import annotations

from blockframe.atoms.facts import Discrete, Ranges
from blockframe.graph.graph import Node


def _always(node: Node, of: Ranges) -> bool:
    """Whether a comparison of its two arguments has one outcome whatever the values."""
    a, b = of(node.args[0]), of(node.args[1])
    if a.hi < b.lo or b.hi < a.lo:
        return True
    apart = (a.hi == b.lo and (a.hi_open or b.lo_open)) or (
        b.hi == a.lo and (b.hi_open or a.lo_open)
    )
    if apart:
        return True
    # a <= b where they can only touch: decided, though not for < and ==
    if node.short in ("le", "gt", "greater"):
        return a.hi == b.lo
    return node.short in ("ge", "lt", "less") and b.hi == a.lo


def _real(node: Node, of: Ranges) -> bool:
    return of(node.args[0]).finite


DISCRETES = (
    Discrete(
        (
            "aten::eq.Scalar", "aten::eq.Tensor", "aten::ne.Scalar", "aten::ne.Tensor",
            "aten::lt.Scalar", "aten::lt.Tensor", "aten::le.Scalar", "aten::le.Tensor",
            "aten::gt.Scalar", "aten::gt.Tensor", "aten::ge.Scalar", "aten::ge.Tensor",
            "aten::greater.Tensor", "aten::greater.Scalar", "aten::less.Tensor",
            "aten::less.Scalar",
        ),
        constant=_always,
    ),
    # Of real numbers these have one answer.
    Discrete(("aten::isnan", "aten::isinf", "aten::isfinite"), constant=_real),
    Discrete(
        (
            "aten::__and__.Tensor", "aten::__and__.Scalar", "aten::__or__.Tensor",
            "aten::__or__.Scalar", "aten::__xor__.Tensor", "aten::all", "aten::all.dim",
            "aten::any", "aten::any.dim", "aten::argmax", "aten::argmin", "aten::argsort",
            "aten::argsort.stable", "aten::bincount", "aten::bitwise_and.Scalar",
            "aten::bitwise_and.Tensor", "aten::bitwise_not", "aten::bitwise_or.Scalar",
            "aten::bitwise_or.Tensor", "aten::bitwise_xor.Tensor", "aten::bucketize.Tensor",
            "aten::ceil", "aten::count_nonzero", "aten::count_nonzero.dim_IntList",
            "aten::div.Scalar_mode", "aten::div.Tensor_mode", "aten::fix", "aten::floor",
            "aten::floor_divide", "aten::floor_divide.Scalar", "aten::heaviside", "aten::histc",
            "aten::logical_and", "aten::logical_not", "aten::logical_or", "aten::logical_xor",
            "aten::one_hot", "aten::round", "aten::round.decimals", "aten::searchsorted.Tensor",
            "aten::sgn", "aten::sign", "aten::signbit", "aten::trunc",
        )
    ),
)  # fmt: skip

_UNTAGGED = ("__and__", "__or__", "greater", "less", "fix", "floor_divide")


def by_entry(node: Node) -> bool:
    """Whether an entry of the value is made of one entry of each operand, broadcast."""
    import torch

    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or node.short in _UNTAGGED
