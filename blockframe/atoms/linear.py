"""Ops that are linear in all their operands jointly."""

from __future__ import annotations

from blockframe.atoms.facts import Linear, Ranges, argument
from blockframe.atoms.interval import REALS, Interval
from blockframe.graph.graph import Node


def _add(node: Node, of: Ranges) -> Interval:
    return of(node.args[0]) + of(node.args[1]) * of(node.kwargs.get("alpha", 1))


def _sub(node: Node, of: Ranges) -> Interval:
    return of(node.args[0]) - of(node.args[1]) * of(node.kwargs.get("alpha", 1))


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
    # Padding counts as zeros.
    return of(node.args[0]).hull(Interval.point(0.0))


def _reals(node: Node, of: Ranges) -> Interval:
    return REALS


LINEARS = (
    Linear(("aten::add.Tensor", "aten::add.Scalar"), range=_add),
    Linear(("aten::sub.Tensor", "aten::sub.Scalar"), range=_sub),
    Linear(("aten::rsub.Scalar", "aten::rsub.Tensor"), range=_rsub),
    Linear("aten::neg", range=lambda node, of: -of(node.args[0])),
    Linear("aten::positive", range=lambda node, of: of(node.args[0])),
    Linear(("aten::sum", "aten::sum.dim_IntList"), range=_sum),
    Linear("aten::cumsum", range=_cumsum),
    Linear(("aten::mean", "aten::mean.dim"), range=_mean),
    Linear(
        (
            "aten::avg_pool1d", "aten::avg_pool2d", "aten::avg_pool3d",
            "aten::adaptive_avg_pool1d", "aten::adaptive_avg_pool2d",
            "aten::adaptive_avg_pool3d", "aten::_adaptive_avg_pool2d",
        ),
        range=_average,
    ),
    Linear(
        (
            "aten::diff", "aten::trace", "aten::upsample_bilinear2d.vec",
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
