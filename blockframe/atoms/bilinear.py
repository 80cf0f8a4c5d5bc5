"""Ops that are linear in each operand for itself."""

from __future__ import annotations

from blockframe.atoms.facts import Bilinear, Ranges, argument
from blockframe.atoms.interval import REALS, Interval
from blockframe.graph.graph import Node


def _mul(node: Node, of: Ranges) -> Interval:
    a, b = node.args[:2]
    return of(a).square() if a == b else of(a) * of(b)


def _div(node: Node, of: Ranges) -> Interval:
    over = of(node.args[1])
    if over.lo > 0 or (over.lo == 0 and over.lo_open):
        inverse = over.image(lambda t: 1.0 / t if t else float("inf"), -1)
        return of(node.args[0]) * inverse
    if over.is_point and over.lo < 0:
        return of(node.args[0]) * over.image(lambda t: 1.0 / t, -1)
    return REALS


def _matmul(node: Node, of: Ranges) -> Interval:
    a, b = node.args[:2]
    vectors = a == b and node.shape == ()
    return (of(a).square() if vectors else of(a) * of(b)).sum_of(None)


def _linear(node: Node, of: Ranges) -> Interval:
    product = (of(node.args[0]) * of(node.args[1])).sum_of(None)
    bias = argument(node, 2, "bias")
    return product if bias is None else product + of(bias)


def _addmm(node: Node, of: Ranges) -> Interval:
    product = (of(node.args[1]) * of(node.args[2])).sum_of(None)
    return of(node.args[0]) * of(node.kwargs.get("beta", 1)) + product * of(
        node.kwargs.get("alpha", 1)
    )


def _addcmul(node: Node, of: Ranges) -> Interval:
    a, b, c = node.args[:3]
    product = of(b).square() if b == c else of(b) * of(c)
    return of(a) + product * of(node.kwargs.get("value", 1))


BILINEARS = (
    Bilinear(("aten::mul.Tensor", "aten::mul.Scalar", "aten::multiply.Tensor"), range=_mul),
    Bilinear(
        ("aten::div.Tensor", "aten::div.Scalar", "aten::true_divide.Tensor", "aten::divide.Tensor"),
        divides=1,
        range=_div,
    ),
    Bilinear(
        (
            "aten::matmul",
            "aten::mm",
            "aten::bmm",
            "aten::mv",
            "aten::dot",
            "aten::vdot",
            "aten::inner",
        ),
        range=_matmul,
    ),
    Bilinear("aten::outer", range=lambda node, of: of(node.args[0]) * of(node.args[1])),
    Bilinear("aten::linear", range=_linear),
    Bilinear(
        ("aten::addmm", "aten::baddbmm", "aten::addbmm", "aten::addmv", "aten::addr"), range=_addmm
    ),
    Bilinear("aten::addcmul", range=_addcmul),
    Bilinear("aten::addcdiv", divides=2),
    Bilinear(("aten::lerp.Scalar", "aten::lerp.Tensor")),
    Bilinear(
        (
            "aten::einsum",
            "aten::tensordot",
            "aten::bilinear",
            "aten::kron",
            "aten::cross",
            "aten::linalg_cross",
            "aten::linalg_multi_dot",
            "aten::chain_matmul",
            "aten::conv1d",
            "aten::conv2d",
            "aten::conv3d",
            "aten::convolution",
            "aten::conv1d.padding",
            "aten::conv2d.padding",
            "aten::conv3d.padding",
            "aten::conv_transpose1d",
            "aten::conv_transpose2d.input",
            "aten::conv_transpose3d.input",
            "aten::conv_tbc",
            "aten::scatter_add",
            "aten::index_add",
        )
    ),
)
"""Ops of more than two operands are linear in each (multilinear), plus a bias: analytic all the
same. ``scatter_add`` and ``index_add`` are linear; their index must be constant
(domains/analyticity refuses an integer operand that varies)."""
