"""On which analytic piece a network is at one θ, and what a step crosses (docs/theory section 1).

A network that fails clause A by kinks or jumps only is analytic inside each of its pieces. The
operations at which the pieces meet are those that the clause names: the issues that reach the
output. Each is asked here on which side its arguments lie. That an argument only touches a kink
changes nothing, as the functions on both sides go on analytically; so it is not with a singularity
(the root of a square is a kink of its own), which therefore is not placed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch import Tensor

from blockframe.atoms.facts import Discrete, Pointwise, Selection
from blockframe.dynamics.probes.probe import Unavailable
from blockframe.graph.graph import substitute

if TYPE_CHECKING:
    from blockframe.domains.analyticity import Issue
    from blockframe.dynamics.traced import Traced

_COMPARISONS = ("gt", "ge", "lt", "le", "greater", "less")
_PLACED = ("A101", "A102")
"""Codes of kinks and jumps."""
_NO_KINK = ("A104", "A301")
"""Codes of issues that no piece ends at: a value that is not shown to be finite, and a stopped
gradient, which leaves the value as it is."""


@frozen(eq=False)
class Side:
    """On which side the arguments of one operation lie.

    Attributes:
        piece: whole numbers; where they differ, another analytic function is taken.
        argument: what is compared with ``points``; None where the operation chooses otherwise.
        points: the kinks. A kink itself counts to the left.
    """

    piece: Tensor
    argument: Tensor | None = None
    points: tuple[float, ...] = ()


def sides(traced: Traced, theta: Tensor) -> list[Side]:
    """The sides of all operations with kinks or jumps at θ (P,), always in the same order.

    Raises:
        Unavailable: an operation may have kinks where they are not known.
    """
    analysis = traced.analysis
    values = traced.values(theta)
    issues = analysis.analyticity.reaching(analysis.graph.output)
    return [_side(traced, i, values) for i in issues if i.code not in _NO_KINK]


def crossings(before: Sequence[Side], now: Sequence[Side]) -> int:
    """How many entries are on another side than before. One that crossed and came back is not."""
    return sum(int((a.piece != b.piece).sum()) for a, b in zip(before, now, strict=True))


def approach(before: Sequence[Side], now: Sequence[Side]) -> float | None:
    """The largest share of its way to a kink that an argument went: (u' − u)/(kink − u).

    Above 1 where one has crossed. None where some operation is not told apart by an argument, or
    there is none; arguments that were at a kink already have no way to go and are left out.
    """
    shares: list[float] = []
    for a, b in zip(before, now, strict=True):
        if a.argument is None or b.argument is None:
            return None
        for point in a.points:
            way = point - a.argument
            share = ((b.argument - a.argument) / way)[way.isfinite() & (way != 0)]
            shares += [float(share.max())] if share.numel() else []
    return max(shares, default=None)


def margin(found: Sequence[Side]) -> float | None:
    """The least distance of an argument from a kink, over the root mean square of these distances
    at the same operation. None as of `approach`."""
    least: list[float] = []
    for side in found:
        if side.argument is None:
            return None
        each = torch.stack([(side.argument - p).abs() for p in side.points])
        distance = each.min(0).values
        distance = distance[distance.isfinite()]
        if distance.numel():
            scale = float(distance.square().mean().sqrt())
            least.append(float(distance.min()) / scale if scale else 0.0)
    return min(least, default=None)


def _side(traced: Traced, issue: Issue, values: Mapping[int, Any]) -> Side:
    side = _sided(traced, issue.node, values) if issue.code in _PLACED else None
    if side is None:
        op = traced.analysis.graph[issue.node].op
        raise Unavailable(
            f"kink crossings are not covered for {op}: {issue.message}",
            "Leave out the probe kinks, or write the operation in ones that the catalogue places.",
        )
    return side


def _sided(traced: Traced, index: int, values: Mapping[int, Any]) -> Side | None:
    """The side of a node with kinks or jumps; None where they are not known."""
    analysis = traced.analysis
    node = analysis.graph[index]
    atom = analysis.chain.catalogue.lookup(node)

    def value(argument: Any) -> Any:
        return substitute(argument, values.__getitem__)

    if isinstance(atom, Discrete) or node.is_whole:  # the value itself says which piece it is
        piece = values[index]
        if not isinstance(piece, Tensor):
            return None
        floats = not any(analysis.graph[i].is_whole for i in node.operands)
        if node.short in _COMPARISONS and floats:
            return Side(piece, (value(node.args[0]) - value(node.args[1])).double(), (0.0,))
        return Side(piece)
    if isinstance(atom, Selection) and atom.choice is not None:
        return Side(atom.choice(value(node.args), value(node.kwargs), values[index]))
    if isinstance(atom, Pointwise):
        out_of_reach = analysis.analyticity.unreachable
        points = tuple(k.at for k in atom.kinks if (index, k) not in out_of_reach)
        return _placed(values[node.operands[0]], points)
    return None


def _placed(argument: Tensor, points: tuple[float, ...]) -> Side:
    argument = argument.double()
    edges = torch.tensor(points, dtype=argument.dtype, device=argument.device)
    return Side(torch.bucketize(argument, edges).to(torch.int8), argument, points)
