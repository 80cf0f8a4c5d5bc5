"""Ops that are linear in each operand for itself."""

from __future__ import annotations

import math
from collections.abc import Callable

from blockframe.atoms.facts import Bilinear, Pairs, Ranges, Shape, argument
from blockframe.atoms.interval import REALS, Interval, up
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


def _plain(node: Node, u: Shape, v: Shape) -> float:
    """Cauchy-Schwarz: every entry of the value pairs entries that no other pairs."""
    return 1.0


def _scaled(node: Node, u: Shape, v: Shape) -> float:
    return max(1.0, abs(float(node.kwargs.get("alpha", 1))))


def _patches(spatial: int) -> Callable[[Node, Shape, Shape], float | None]:
    """A convolution: an entry of the input is in at most as many patches as a kernel has points."""

    def norm(node: Node, u: Shape, v: Shape) -> float:
        return up(math.sqrt(math.prod(v[-spatial:])))

    return norm


def _einsum(node: Node, u: Shape, v: Shape) -> float | None:
    """1 where every summed index stands in both operands, in one size (1 would be repeated)."""
    equation = str(node.args[0]).replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    if not arrow or len(terms) != 2 or "." in equation:
        return None
    clean = all(len(set(t)) == len(t) for t in terms)
    summed = (set(terms[0]) | set(terms[1])) - set(output)
    if not clean or not summed <= set(terms[0]) & set(terms[1]):
        return None
    sizes = dict(zip(terms[0], u, strict=True)), dict(zip(terms[1], v, strict=True))
    return 1.0 if all(sizes[0][x] == sizes[1][x] for x in summed) else None


_PRODUCTS = (
    "aten::matmul", "aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::vdot",
)  # fmt: skip

BILINEARS = (
    Bilinear(
        ("aten::mul.Tensor", "aten::mul.Scalar", "aten::multiply.Tensor"),
        range=_mul,
        norm=_plain,
        pairs=Pairs.ENTRIES,
    ),
    Bilinear(
        (
            "aten::div.Tensor", "aten::div.Scalar", "aten::true_divide.Tensor",
            "aten::divide.Tensor",
        ),
        divides=1,
        range=_div,
        norm=_plain,
        pairs=Pairs.ENTRIES,
    ),
    Bilinear(_PRODUCTS, range=_matmul, norm=_plain, pairs=Pairs.MATRICES),
    Bilinear("aten::inner", range=_matmul, norm=_plain),
    Bilinear(
        "aten::outer", range=lambda node, of: of(node.args[0]) * of(node.args[1]), norm=_plain
    ),
    Bilinear("aten::linear", range=_linear, norm=_plain, plus=2, pairs=Pairs.MATRICES),
    Bilinear(
        ("aten::addmm", "aten::baddbmm", "aten::addmv", "aten::addr"),
        range=_addmm, norm=_scaled, factors=(1, 2), plus=0, pairs=Pairs.MATRICES,
    ),
    Bilinear("aten::addbmm", range=_addmm),
    Bilinear("aten::addcmul", range=_addcmul),
    Bilinear("aten::addcdiv", divides=2),
    Bilinear(("aten::lerp.Scalar", "aten::lerp.Tensor")),
    Bilinear("aten::einsum", norm=_einsum, factors=(1, 1)),
    Bilinear(("aten::conv1d", "aten::conv1d.padding"), norm=_patches(1), plus=2),
    Bilinear(("aten::conv2d", "aten::conv2d.padding"), norm=_patches(2), plus=2),
    Bilinear(("aten::conv3d", "aten::conv3d.padding"), norm=_patches(3), plus=2),
    Bilinear(
        (
            "aten::tensordot", "aten::bilinear", "aten::kron", "aten::cross",
            "aten::linalg_cross", "aten::linalg_multi_dot", "aten::chain_matmul",
            "aten::convolution",
            "aten::conv_transpose1d", "aten::conv_transpose2d.input",
            "aten::conv_transpose3d.input", "aten::conv_tbc", "aten::scatter_add",
            "aten::index_add",
        )
    ),
)  # fmt: skip
"""Ops of more than two operands are linear in each (multilinear), plus a bias: analytic all the
same. ``scatter_add`` and ``index_add`` are linear; their index must be constant
(domains/analyticity refuses an integer operand that varies)."""
