"""Layer norms of layer norms, enclosed without loss (docs/theory section 3).

A row y that leaves a layer norm without gain has mean 0 and mean square w / (w + ε), w being the
variance of the row that entered. So the next layer norm only multiplies it, by a number that
follows from w; computed entry by entry, its error would grow about threefold with each norm.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor

from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import Rowwise, argument
from blockframe.contract.point import Fill, same
from blockframe.domains.enclosure import Ball, Enclosure, functions, rows
from blockframe.domains.enclosure.ball import add, mul
from blockframe.domains.enclosure.operands import Value
from blockframe.graph.graph import Graph, Node, NodeKind, Ref

_NORM = "aten::layer_norm"
_AFFINE = ((2, "weight"), (3, "bias"))


def followers(graph: Graph, zero: Container[int], catalogue: Catalogue) -> dict[int, int]:
    """For every layer norm of the value of another, where the nodes ``zero`` are 0, that other."""
    found = {}
    for node in graph:
        if node.op != _NORM or node.index not in graph.live:
            continue
        before = graph[same(graph, node.operands[0], zero, catalogue)]
        if before.op == _NORM and before.args[1] == node.args[1]:
            found[node.index] = before.index
    return found


def without_gain(graph: Graph, norms: Container[int]) -> dict[str, Fill]:
    """What makes the gains of ``norms`` 1 and their shifts 0, as far as they are parameters."""
    fills = {}
    for node in graph:
        if node.index not in norms:
            continue
        for (position, name), value in zip(_AFFINE, (1.0, 0.0), strict=True):
            given = argument(node, position, name)
            if isinstance(given, Ref) and graph[given.index].kind is NodeKind.PARAMETER:
                size = (graph[given.index].shape or (0,))[0]
                fills[str(graph[given.index].target)] = Fill(0, size, first=True, value=value)
    return fills


class Chained(Enclosure):
    """Ball arithmetic in which a norm of a norm without gain is a multiple of it.

    ``follows``: as `followers` gives it.
    """

    def __init__(
        self,
        graph: Graph,
        given: Mapping[int, Ball | Tensor],
        device: torch.device,
        follows: Mapping[int, int],
    ) -> None:
        super().__init__(graph, given, device)
        self.follows = follows
        self.entered: dict[int, Ball] = {}  # variances of the rows that enter a norm

    def rowwise(self, node: Node, atom: Rowwise, operands: list[Value]) -> Value:
        y, eps = operands[0], argument(node, 4, "eps", 1e-5)
        if node.op != _NORM or not isinstance(y, Ball) or not isinstance(eps, float) or eps <= 0:
            return super().rowwise(node, atom, operands)
        before = self.follows.get(node.index)
        if before is None or before not in self.entered or not self._is_plain(self.graph[before]):
            dims = range(-len(node.args[1]), 0)
            self.entered[node.index] = rows.variance(y.real, dims, 0.0, keepdim=True)[0]
            return super().rowwise(node, atom, operands)
        spread = _left(self.entered[before], argument(self.graph[before], 4, "eps", 1e-5))
        self.entered[node.index] = spread
        root = functions.monotone("rsqrt", add(spread, Ball.exact(eps).to(self.device)))
        weight, bias = (self.optional(argument(node, p, n)) for p, n in _AFFINE)
        return rows.affine(mul(y, root), weight, bias)

    def _is_plain(self, norm: Node) -> bool:
        """Whether its gain is 1 and its shift 0, exactly."""
        found = (self.optional(argument(norm, p, n)) for p, n in _AFFINE)
        pairs = zip(found, (1.0, 0.0), strict=True)
        return all(b is None or (b.is_exact and bool((b.mid == t).all())) for b, t in pairs)


def _left(spread: Ball, eps: float) -> Ball:
    """w / (w + ε), which rises with w >= 0."""
    ends = (Ball.exact(e) for e in (spread.lower.clamp_min(0.0), spread.upper))
    low, high = (functions.div(e, add(e, Ball.exact(eps).to(e.mid.device))) for e in ends)
    return Ball.between(low.lower, high.upper).within(0.0, 1.0)
