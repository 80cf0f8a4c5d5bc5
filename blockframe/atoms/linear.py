"""Ops that are linear in all their operands jointly."""

from __future__ import annotations

import math
from collections.abc import Sequence

from blockframe.atoms.facts import Linear, Ranges, Shape, argument
from blockframe.atoms.interval import REALS, Interval, up
from blockframe.graph.graph import Node
from blockframe.graph.synthetic import ROTARY


def _add(node: Node, of: Ranges) -> Interval:
    return of(node.args[0]) + of(node.args[1]) * of(argument(node, 2, "alpha", 1))


def _sub(node: Node, of: Ranges) -> Interval:
    return of(node.args[0]) - of(node.args[1]) * of(argument(node, 2, "alpha", 1))


def _rsub(node: Node, of: Ranges) -> Interval:
    return of(node.args[1]) - of(node.args[0]) * of(argument(node, 2, "alpha", 1))


def _mean(node: Node, of: Ranges) -> Interval:
    # A mean of n values between two ends lies between them; an open end stays open.
    return of(node.args[0])


def _sum(node: Node, of: Ranges) -> Interval:
    return of(node.args[0]).sum_of(None)


def _cumsum(node: Node, of: Ranges) -> Interval:
    return of(node.args[0]).sum_of(None)


def _average(node: Node, of: Ranges) -> Interval:
    if argument(node, 6, "divisor_override") is not None:
        return REALS
    # Padding counts as zeros.
    return of(node.args[0]).hull(Interval.point(0.0))


def _reals(node: Node, of: Ranges) -> Interval:
    return REALS


def _spread(node: Node, shape: Shape) -> float:
    """Of a sum: an operand that is broadcast counts once for every copy; alpha scales one."""
    alpha = argument(node, 2, "alpha", 1)
    return ratio(node, shape) * max(1.0, abs(float(alpha)))


def ratio(node: Node, shape: Shape) -> float:
    """sqrt(entries of the value / entries of an operand), rounded up."""
    return up(math.sqrt(math.prod(node.shape or ()) / max(1, math.prod(shape))))


def shift(node: Node) -> float:
    """The size of the plain numbers among the operands of an op that adds."""
    alpha = max(1.0, abs(float(argument(node, 2, "alpha", 1))))
    numbers = [abs(float(a)) for a in node.args[:2] if isinstance(a, (int, float))]
    return up(math.fsum(numbers) * alpha)


def _summed(node: Node, shape: Shape) -> float:
    return up(math.sqrt(math.prod(shape) / max(1, math.prod(node.shape or ()))))


def _along(node: Node, shape: Shape) -> float:
    """A running sum over n entries: a triangle of ones."""
    return float(shape[argument(node, 1, "dim")]) if shape else 1.0


def _averaged(node: Node, shape: Shape) -> float | None:
    """Where every window divides by the same number, rows and columns sum to at most one."""
    padded = any(_listed(argument(node, 3, "padding", 0)))
    uneven = argument(node, 4, "ceil_mode", False) or (
        padded and not argument(node, 5, "count_include_pad", True)
    )
    return None if uneven or argument(node, 6, "divisor_override") is not None else 1.0


def _listed(value: int | Sequence[int]) -> Sequence[int]:
    return [value] if isinstance(value, int) else value


def _adaptive(node: Node, shape: Shape) -> float | None:
    """Windows of one size that do not overlap: plain means."""
    kept = node.shape or ()
    even = all(a % b == 0 for a, b in zip(shape, kept, strict=True) if b)
    return ratio(node, shape) if even else None


def _differenced(node: Node, shape: Shape) -> float | None:
    return 2.0 if len(node.operands) == 1 and argument(node, 1, "n", 1) == 1 else None


def _isometric(node: Node, shape: Shape) -> float:
    return 1.0


def _turned(node: Node, of: Ranges) -> Interval:
    """An entry is the scalar product of a pair with a row of a matrix of norm ``norm``."""
    largest = up(up(float(node.args[4]) * math.sqrt(2.0)) * of(node.args[0]).greatest)
    return Interval(-largest, largest, largest == math.inf, largest == math.inf)


def _turn(node: Node, shape: Shape) -> float:
    """Of the pairs; cos and sin, constants, are the map and not operands of it."""
    return float(node.args[4]) if shape == node.shape else 0.0


LINEARS = (
    Linear(("aten::add.Tensor", "aten::add.Scalar"), range=_add, norm=_spread, adds=True),
    Linear(("aten::sub.Tensor", "aten::sub.Scalar"), range=_sub, norm=_spread, adds=True),
    Linear(
        ("aten::rsub.Scalar", "aten::rsub.Tensor"), range=_rsub, norm=_spread, adds=True
    ),
    Linear(ROTARY.__name__, range=_turned, norm=_turn),
    Linear("aten::neg", range=lambda node, of: -of(node.args[0]), norm=_isometric),
    Linear("aten::positive", range=lambda node, of: of(node.args[0]), norm=_isometric),
    Linear(("aten::sum", "aten::sum.dim_IntList"), range=_sum, norm=_summed),
    Linear("aten::cumsum", range=_cumsum, norm=_along),
    Linear(("aten::mean", "aten::mean.dim"), range=_mean, norm=ratio),
    Linear(
        ("aten::avg_pool1d", "aten::avg_pool2d", "aten::avg_pool3d"), range=_average, norm=_averaged
    ),
    Linear(
        (
            "aten::adaptive_avg_pool1d", "aten::adaptive_avg_pool2d",
            "aten::adaptive_avg_pool3d", "aten::_adaptive_avg_pool2d",
        ),
        range=_average,
        norm=_adaptive,
    ),
    Linear("aten::diff", range=_reals, norm=_differenced),
    Linear(
        (
            "aten::col2im", "aten::trace", "aten::upsample_bilinear2d.vec",
            "aten::upsample_bilinear2d", "aten::upsample_linear1d",
            "aten::upsample_linear1d.vec", "aten::deg2rad", "aten::rad2deg",

        ),
        range=_reals,
    ),
    Linear(
        (
            "aten::upsample_nearest1d", "aten::upsample_nearest1d.vec", "aten::upsample_nearest2d",
            "aten::upsample_nearest2d.vec",
        ),
        range=_mean,
    ),
)  # fmt: skip
