"""What keeps a value from being an analytic function of parameters and state.

The value of a tensor is the set of `Issue` that reach it, as a bit mask; 0: analytic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen

from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import (
    Bilinear,
    Detached,
    Discrete,
    Kink,
    Layout,
    Linear,
    Pointwise,
    Random,
    Rowwise,
    Selection,
    Source,
)
from blockframe.atoms.interval import ANYTHING, Interval
from blockframe.atoms.layout import accumulates
from blockframe.domains.interpreter import Domain, interpret
from blockframe.domains.range import Range
from blockframe.graph.graph import Graph, Node, NodeKind, Ref


@frozen
class Issue:
    """One node at which analyticity cannot be concluded. ``order``: the lowest derivative that
    may jump, None where nothing jumps in the forward map."""

    node: int
    code: str
    message: str
    order: int | None = None

    @property
    def branches(self) -> bool:
        """Whether the op has several analytic branches, so that a witness can be sought."""
        return self.order is not None


@frozen
class Analyticity:
    """The result: ``reach[i]`` is the set of issues that reach node i, a bit mask over ``issues``;
    ``notes``: (node, text) said beside the verdict; ``unreachable``: kinks the range excludes."""

    issues: tuple[Issue, ...]
    reach: Sequence[int]
    notes: tuple[tuple[int, str], ...]
    unreachable: tuple[tuple[int, Kink], ...]

    def reaching(self, *nodes: int) -> Iterator[Issue]:
        """The issues that reach any of ``nodes``."""
        mask = 0
        for i in nodes:
            mask |= self.reach[i]
        return (issue for bit, issue in enumerate(self.issues) if mask >> bit & 1)


class AnalyticityDomain(Domain[int]):
    """See the module. Constants have no issues, whatever op made them."""

    def __init__(
        self,
        graph: Graph,
        varies: Sequence[bool],
        ranges: Sequence[Range],
        constants: Mapping[int, Any],
    ) -> None:
        self.graph = graph
        self.constants = constants
        self.varies = varies
        self.ranges = ranges
        self.issues: list[Issue] = []
        self.notes: list[tuple[int, str]] = []
        self.unreachable: list[tuple[int, Kink]] = []
        self.decided: set[int] = set()  # comparisons with one outcome, and what is made of them

    def leaf(self, node: Node) -> int:
        return 0

    def settle(self, node: Node, value: int) -> int:
        if not self.varies[node.index]:
            return 0
        if value == 0 and node.kind is NodeKind.CALL and node.is_whole:
            varying = [i for i in node.operands if self.varies[i]]
            if node.index in self.decided or (varying and self.decided.issuperset(varying)):
                self.decided.add(node.index)
            else:  # integers and truth values cannot vary without a jump, whatever op made them
                value |= self._issue(
                    node, "A102", f"{node.op} turns a varying value into integers", 0
                )
        return value

    def source(self, node: Node, atom: Source, operands: list[int]) -> int:
        return _union(operands)

    def layout(self, node: Node, atom: Layout, operands: list[int]) -> int:
        if node.is_whole and any(self._floats(i) for i in node.operands):
            cast = self._issue(node, "A102", f"{node.op} casts a varying value to integers", 0)
            return cast | _union(operands)
        if atom.writes and not accumulates(node) and not self._unique(node, atom):
            return _union(operands) | self._issue(
                node,
                "A301",
                f"{node.short} may write twice to one place, and the gradient counts both",
            )
        return _union(operands)

    def _unique(self, node: Node, atom: Layout) -> bool:
        """Whether the index is known and names no place twice."""
        (position,) = atom.index
        index = node.args[position]
        parts = index if isinstance(index, (tuple, list)) else [index]
        known = [self.constants.get(r.index) for r in parts if isinstance(r, Ref)]
        tensors = [k for k in known if isinstance(k, torch.Tensor)]
        if not tensors or len(tensors) < len(known):
            return False
        if any(k.dtype is torch.bool for k in tensors):
            return all(k.dtype is torch.bool for k in tensors)
        if node.op == "aten::scatter.src":  # one place for each line along the dimension
            lines = tensors[0].movedim(node.args[1], -1)
            places = lines.reshape(-1, lines.shape[-1]).sort(-1).values
            return not bool((places.diff(dim=-1) == 0).any())
        shape = np.broadcast_shapes(*(tuple(k.shape) for k in tensors))
        rows = torch.stack([k.expand(shape).flatten() for k in tensors], 1)
        return len(set(map(tuple, rows.tolist()))) == len(rows)

    def linear(self, node: Node, atom: Linear, operands: list[int]) -> int:
        return _union(operands)

    def bilinear(self, node: Node, atom: Bilinear, operands: list[int]) -> int:
        found = _union(operands)
        if atom.divides is None:
            return found
        divisor = node.args[atom.divides]
        if not isinstance(divisor, Ref):
            return found
        where = self.ranges[divisor.index].whole
        if where.finite and 0.0 not in where:
            return found
        return found | self._issue(
            node, "A103", f"{node.short} by a value in {where}, not bounded away from 0"
        )

    def pointwise(self, node: Node, atom: Pointwise, operands: list[int]) -> int:
        found = _union(operands)
        if not node.operands:
            return found
        where = self.ranges[node.operands[0]].whole
        if any(self.graph[i].is_complex for i in node.operands):
            return found | self._issue(
                node, "A900", f"{node.op} of complex values is not in the catalogue"
            )
        if atom.note:
            self.notes.append((node.index, atom.note))
        if not all(self.ranges[i].whole.finite for i in node.operands):
            return found | self._issue(node, "A104", f"{node.op} of a value that may be infinite")
        if not any(where.within(part) for part in atom.analytic_on):
            domain = " or ".join(str(part) for part in atom.analytic_on)
            found |= self._issue(
                node,
                "A103",
                f"{node.op} is analytic on {domain}; its argument is known to be in {where}",
            )
        if self.varies[node.operands[0]]:
            found |= self._kinks(node, atom, where)
        return found

    def _kinks(self, node: Node, atom: Pointwise, where: Interval) -> int:
        reached = []
        for kink in atom.kinks:
            # At an end of the range a continuous function stays on one side: one analytic piece.
            if where.lo < kink.at < where.hi or (kink.order == 0 and kink.at in where):
                reached.append(kink)
            else:
                self.unreachable.append((node.index, kink))
        if not reached:
            return 0
        order = min(k.order for k in reached)
        points = " and ".join(f"{k.at:g}" for k in reached)
        what = "jumps" if order == 0 else "has a kink"
        code = "A102" if order == 0 else "A101"
        return self._issue(
            node, code, f"{node.short} {what} where its input crosses {points}", order
        )

    def rowwise(self, node: Node, atom: Rowwise, operands: list[int]) -> int:
        found = _union(operands)
        singular = atom.singular(node)
        if singular is not None:
            found |= self._issue(node, "A103", f"{node.short}: {singular}")
        if any(self.graph[i].is_complex for i in node.operands):
            found |= self._issue(
                node, "A900", f"{node.op} of complex values is not in the catalogue"
            )
        if not self.ranges[node.index].whole.finite:
            what = (
                ": not shown that every row has an entry that is not minus infinity"
                if atom.masked
                else " of a value that may be infinite"
            )
            found |= self._issue(node, "A104", node.short + what)
        return found

    def selection(self, node: Node, atom: Selection, operands: list[int]) -> int:
        found = _union(operands)
        if atom.chooser is not None or self._decided(node):
            return found  # a condition that varies brings its own issue
        what = "chooses by value: a kink where the choice changes"
        return found | self._issue(node, "A101", f"{node.short} {what}", atom.order)

    def _decided(self, node: Node) -> bool:
        """Whether one of two operands is the larger whatever their values."""
        if len(node.operands) != 2 or len(node.args) != 2:
            return False
        a, b = (self.ranges[i].whole for i in node.operands)
        return a.finite and b.finite and (a.hi <= b.lo or b.hi <= a.lo)

    def discrete(self, node: Node, atom: Discrete, operands: list[int]) -> int:
        if atom.constant(node, self._of):
            self.decided.add(node.index)
            return 0
        found = _union(operands)
        if not any(self._floats(i) for i in node.operands):
            return found  # of integers and truth values: what made them vary has its issue
        return found | self._issue(node, "A102", f"{node.short} jumps as its argument varies", 0)

    def random(self, node: Node, atom: Random, operands: list[int]) -> int:
        found = _union(operands)
        if not atom.active(node):
            return found
        return found | self._issue(node, "A201", f"{node.short} draws random numbers")

    def detached(self, node: Node, atom: Detached, operands: list[int]) -> int:
        return _union(operands) | self._issue(
            node,
            "A301",
            "the gradient is stopped here: what descent follows is not the function's derivative",
        )

    def unknown(self, node: Node, operands: list[int]) -> int:
        return _union(operands) | self._issue(node, "A900", f"{node.op} is not in the catalogue")

    # ---------------------------------------------------------------------------------------------

    def _issue(self, node: Node, code: str, message: str, order: int | None = None) -> int:
        """A bit for a new issue at ``node``; none where the node does not vary."""
        if not self.varies[node.index]:
            return 0
        self.issues.append(Issue(node.index, code, message, order))
        return 1 << (len(self.issues) - 1)

    def _complex(self, node: Node) -> int:
        return self._issue(node, "A900", f"{node.op} of complex values is not in the catalogue")

    def _floats(self, index: int) -> bool:
        return self.varies[index] and not self.graph[index].is_whole

    def _of(self, argument: Any) -> Interval:
        if isinstance(argument, Ref):
            return self.ranges[argument.index].whole
        return ANYTHING if isinstance(argument, complex) else Interval.point(float(argument))


def analyticity(
    graph: Graph,
    varies: Sequence[bool],
    ranges: Sequence[Range],
    constants: Mapping[int, Any],
    catalogue: Catalogue,
) -> Analyticity:
    """Which issues there are in ``graph`` and what they reach."""
    domain = AnalyticityDomain(graph, varies, ranges, constants)
    reach = interpret(graph, domain, catalogue)
    return Analyticity(tuple(domain.issues), reach, tuple(domain.notes), tuple(domain.unreachable))


def _union(values: list[int]) -> int:
    mask = 0
    for v in values:
        mask |= v
    return mask
