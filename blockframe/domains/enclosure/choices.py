"""Rules for ops that choose among operands or entries."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from blockframe.atoms.facts import Selection, argument
from blockframe.domains.enclosure import functions
from blockframe.domains.enclosure.ball import Ball, broadcast, neg, pick
from blockframe.domains.enclosure.operands import Operands, Outcome, Rule, exact, no_rule
from blockframe.graph.graph import Node


def decided(a: Ball) -> tuple[Tensor, Tensor]:
    """Where the entries are surely not zero, and where they surely are."""
    low, high = a.real.ends
    return (low > 0.0) | (high < 0.0), (low == 0.0) & (high == 0.0)


def truth(true: Tensor, false: Tensor) -> Ball:
    """Truth values; where neither is sure, the ball of 0 and 1."""
    if bool((true | false).all()):
        return Ball.exact(true)
    half = torch.where(true | false, 0.0, 0.5).to(torch.float64)
    return Ball(torch.where(true, 1.0, half), half)


def choose(condition: Ball, a: Ball, b: Ball) -> Ball:
    """a where the condition is true, b where it is not, both where that is not sure."""
    shape = broadcast(condition, a, b)
    a, b = a.expand(shape), b.expand(shape)
    if condition.is_whole:
        return pick(condition.mid.bool(), a, b)
    true, false = decided(condition)
    return pick(true, a, pick(false, b, a.hull(b)))


def _where(operands: Operands, node: Node) -> Outcome:
    condition, a, b = node.args[:3]
    return choose(operands.ball(condition), operands.real(a), operands.real(b))


def _masked_fill(operands: Operands, node: Node) -> Outcome:
    a, mask, value = node.args[:3]
    return choose(operands.ball(mask), operands.real(value), operands.real(a))


def _extremum(operands: Operands, node: Node) -> Outcome:
    a, b = operands.real(node.args[0]), operands.real(node.args[1])
    least = node.op in ("aten::minimum", "aten::min.other", "aten::fmin")
    return functions.minimum(a, b) if least else functions.maximum(a, b)


def _clamp_by_tensors(operands: Operands, node: Node) -> Outcome:
    low, high = argument(node, 1, "min"), argument(node, 2, "max")
    if node.short == "clamp_max":
        low, high = None, argument(node, 1, "max")
    a = operands.real(node.args[0])
    a = a if low is None else functions.maximum(a, operands.real(low))
    return a if high is None else functions.minimum(a, operands.real(high))


_PROPAGATE = (
    "amax", "amin", "max", "min", "aminmax", "cummax", "cummin", "max_pool1d", "max_pool2d",
    "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool1d",
    "adaptive_max_pool2d",
)  # fmt: skip
"""Choices whose value is NaN where an entry that they choose from is."""
_ORDERED = ("topk", "sort", "kthvalue", "median")


def _order_statistic(operands: Operands, node: Node) -> Outcome:
    """What chooses by size never falls when an entry grows."""
    a = operands.real(node.args[0])
    if not a.is_known and node.short in _ORDERED:
        return () if node.shape is None else Ball.everything(node.shape, operands.device)
    op = operands.of_first(node)
    if a.is_exact and a.is_known:
        return exact(op(a.mid))
    low, high = (op(e) for e in a.ends)
    if isinstance(low, Tensor):
        return Ball.between(low, high)
    if node.short == "aminmax":
        return tuple(Ball.between(x, y) for x, y in zip(low, high, strict=True))
    return Ball.between(low[0], high[0]), _positions(node, a, low[1])


def _positions(node: Node, a: Ball, like: Tensor) -> Ball:
    """Which entries were chosen, if that is sure; ``like``: a tensor of the value's shape."""
    unsure = Ball.everything(like.shape, a.mid.device)
    names = {x.name: p for p, x in enumerate(node.target._schema.arguments)}
    if node.short not in ("max", "min", "topk", "sort") or not a.is_known or a.mid.dim() == 0:
        return unsure
    default = {"dim": -1, "descending": False, "largest": True}
    dim, descending, largest = (
        argument(node, names[n], n, default[n]) if n in names else default[n] for n in default
    )
    falling = {"max": True, "min": False, "sort": descending}.get(node.short, largest)
    return ranked(a, int(dim), bool(falling), like.shape) or unsure


def ranked(a: Ball, dim: int, falling: bool, shape: torch.Size) -> Ball | None:
    """Positions along ``dim`` in order of size, as many as ``shape`` has; None if not sure."""
    count = math.prod(shape) * a.shape[dim] // max(1, a.mid.numel())
    low, high = a.ends if falling else neg(a).ends
    order = torch.argsort((a if falling else neg(a)).mid, dim, descending=True)
    low, high = low.gather(dim, order), high.gather(dim, order)
    rest = high.flip(dim).cummax(dim).values.flip(dim)  # the greatest from here on
    compared = min(count, a.shape[dim] - 1)
    if bool((low.narrow(dim, 0, compared) <= rest.narrow(dim, 1, compared)).any()):
        return None
    return Ball.exact(order.narrow(dim, 0, count).reshape(shape))


SELECTIONS: Mapping[str, Rule] = {
    "where": _where, "masked_fill": _masked_fill, "maximum": _extremum, "minimum": _extremum,
    "fmax": _extremum, "fmin": _extremum,
    **dict.fromkeys((*_PROPAGATE, *_ORDERED), _order_statistic),
}  # fmt: skip


def select(operands: Operands, node: Node, atom: Selection) -> Outcome:
    if node.op in ("aten::max.other", "aten::min.other"):
        return _extremum(operands, node)
    if node.op in ("aten::clamp.Tensor", "aten::clamp_min.Tensor", "aten::clamp_max.Tensor"):
        return _clamp_by_tensors(operands, node)
    rule = SELECTIONS.get(node.short)
    return no_rule(node) if rule is None else rule(operands, node)
