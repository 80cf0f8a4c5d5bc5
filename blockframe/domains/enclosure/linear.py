"""Rules for linear ops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from blockframe.atoms.facts import Linear, argument
from blockframe.domains.enclosure.ball import Ball, add, linear, mul, neg, sub
from blockframe.domains.enclosure.operands import Operands, Outcome, Rule, no_rule
from blockframe.graph.graph import Node
from blockframe.graph.synthetic import ROTARY


def _sum_of(operands: Operands, node: Node) -> Outcome:
    alpha = argument(node, 2, "alpha", 1)
    a, b = operands.real(node.args[0]), operands.real(node.args[1])
    first, second = (b, neg(a)) if node.short == "rsub" else (a, neg(b))
    if node.short == "add":
        first, second = a, b
    return add(first, second if alpha == 1 else mul(operands.real(alpha), second))


def _difference(operands: Operands, node: Node) -> Outcome:
    if len(node.operands) != 1 or argument(node, 1, "n", 1) != 1:
        return no_rule(node)
    a, dim = operands.real(node.args[0]), argument(node, 2, "dim", -1)
    count = a.shape[dim] - 1
    return sub(a.move(lambda t: t.narrow(dim, 1, count)), a.move(lambda t: t.narrow(dim, 0, count)))


def _many(node: Node, a: Ball) -> int:
    return a.mid.numel() + 3


def _reduced(node: Node, a: Ball) -> int:
    return a.mid.numel() // max(1, math.prod(node.shape or ())) + 2


def _running(node: Node, a: Ball) -> int:
    return a.shape[argument(node, 1, "dim")] if a.mid.dim() else 1


def _one(node: Node, a: Ball) -> int:
    return 3


def _non_negative(terms: Callable[[Node, Ball], int]) -> Rule:
    """Coefficients are >= 0, and an entry takes so many operations."""

    def rule(operands: Operands, node: Node) -> Outcome:
        if (argument(node, 6, "divisor_override") or 1) < 0:
            return no_rule(node)
        a = operands.real(node.args[0])
        return linear(operands.of_first(node), [a], terms(node, a))

    return rule


def _moved(operands: Operands, node: Node) -> Outcome:
    return operands.real(node.args[0]).move(operands.of_first(node))


def _negated(operands: Operands, node: Node) -> Outcome:
    return neg(operands.real(node.args[0]))


def _rotary(operands: Operands, node: Node) -> Outcome:
    """Pairs of entries turned: x cos + turned x sin (graph/synthetic)."""
    a, cos, sin = (operands.real(x) for x in node.args[:3])
    halves = node.args[3] == "halves"
    count = a.shape[-1]

    def of_each(b: Ball) -> Ball:
        if 2 * b.shape[-1] != count:
            return b
        return b.move(lambda t: torch.cat([t, t], -1) if halves else t.repeat_interleave(2, -1))

    def turned(t: Tensor, sign: float) -> Tensor:
        if halves:
            first, second = t.chunk(2, -1)
            return torch.cat([sign * second, first], -1)
        return torch.stack([sign * t[..., 1::2], t[..., ::2]], -1).flatten(-2)

    across = Ball(turned(a.mid, -1.0), turned(a.rad, 1.0))
    return add(mul(a, of_each(cos)), mul(across, of_each(sin)))


LINEAR: Mapping[str, Rule] = {
    "add": _sum_of, "sub": _sum_of, "rsub": _sum_of, "neg": _negated, "positive": _moved,
    "diff": _difference, ROTARY.__name__: _rotary, "upsample_nearest1d": _moved,
    "upsample_nearest2d": _moved, "sum": _non_negative(_reduced), "mean": _non_negative(_reduced),
    "cumsum": _non_negative(_running), "deg2rad": _non_negative(_one),
    "rad2deg": _non_negative(_one),
    **dict.fromkeys(
        ("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
         "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "col2im", "trace"), _non_negative(_many),
    ),
}  # fmt: skip


def combine(operands: Operands, node: Node, atom: Linear) -> Outcome:
    rule = LINEAR.get(node.short)
    return no_rule(node) if rule is None else rule(operands, node)
