"""Bounds of every value, valid for all parameters and all states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import (
    Bilinear,
    Detached,
    Discrete,
    Layout,
    Linear,
    Pointwise,
    Random,
    Rowwise,
    Selection,
    Source,
)
from blockframe.atoms.interval import ANYTHING, REALS, Interval, hull
from blockframe.atoms.layout import accumulates
from blockframe.domains.interpreter import Domain, interpret
from blockframe.graph.graph import Graph, Node, Ref, refs, substitute

BOOLEAN = Interval(0.0, 1.0, False, False)


@frozen(eq=False)
class Range:
    """Where the entries of a value lie.

    ``masked``: where entries are minus infinity, constantly (an attention mask); ``interval``
    then speaks of the other entries. None: ``interval`` speaks of all.
    """

    interval: Interval
    masked: Tensor | None = None

    @property
    def whole(self) -> Interval:
        """The range of all entries, masked ones included."""
        return self.interval if self.masked is None else self.interval.hull(_MINUS_INFINITY)


_MINUS_INFINITY = Interval(-float("inf"), -float("inf"), False, False)


class RangeDomain(Domain[Range]):
    """Interval arithmetic. What cannot be bounded is the real line; what need not be real is
    `ANYTHING`."""

    def __init__(self, graph: Graph, constants: Mapping[int, Any]) -> None:
        self.graph = graph
        self.constants = constants
        self.values: list[Range] = []
        self.moved: set[int] = set()  # values of layout ops

    # --- leaves and constants ---------------------------------------------------------------------

    def known(self, node: Node) -> Range | None:
        """The exact range of a folded constant."""
        value = self.constants.get(node.index)
        if isinstance(value, (int, float)):
            return Range(Interval.point(float(value)))
        if not isinstance(value, Tensor) or value.is_complex() or value.numel() == 0:
            return None
        flat = value.detach().to(torch.float64)
        masked = torch.isneginf(flat)
        if bool(torch.isnan(flat).any()) or bool(torch.isposinf(flat).any()):
            return Range(ANYTHING)
        if bool(masked.all()):
            return Range(_MINUS_INFINITY)
        finite = flat[~masked]
        interval = Interval(float(finite.min()), float(finite.max()), False, False)
        return Range(interval, masked if bool(masked.any()) else None)

    def leaf(self, node: Node) -> Range:
        return self.known(node) or Range(REALS)

    def source(self, node: Node, atom: Source, operands: list[Range]) -> Range:
        value = atom.value(node)
        return Range(REALS if value is None else Interval.point(value))

    def settle(self, node: Node, value: Range) -> Range:
        known = self.known(node)
        empty = any(_empty(self.graph[i]) for i in node.operands)
        if known is None and empty and node.index not in self.moved:
            # A sum of nothing is 0, a mean of nothing is not a number: no rule speaks of that.
            known = Range(ANYTHING)
        if known is None and (
            node.is_complex or any(self.graph[i].is_complex for i in node.operands)
        ):
            known = Range(REALS if value.whole.finite else ANYTHING)
        self.values.append(known or value)
        return self.values[-1]

    # --- rules ------------------------------------------------------------------------------------

    def layout(self, node: Node, atom: Layout, operands: list[Range]) -> Range:
        self.moved.add(node.index)
        if atom.cast:
            truncated = node.is_whole and not self.graph[node.operands[0]].is_whole
            return Range(REALS) if truncated else operands[0]
        moved = [
            self.values[r.index]
            for p, a in enumerate(node.args)
            if p not in atom.index
            for r in refs(a)
        ]
        moved += [self.values[r.index] for a in node.kwargs.values() for r in refs(a)]
        if accumulates(node):
            return Range(REALS if all(m.whole.finite for m in moved) else ANYTHING)
        masked = None
        if len(moved) == 1 and moved[0].masked is not None and not atom.index:
            masked = self._relaid(node, moved[0].masked)
        fill = atom.fill(node)
        bounds = [m.interval if masked is not None else m.whole for m in moved]
        return Range(hull([*bounds, *([] if fill is None else [Interval.point(fill)])]), masked)

    def _relaid(self, node: Node, masked: Tensor) -> Tensor | None:
        """The mask moved as the entries are; None for ops that give several tensors."""
        args = substitute(node.args, lambda index: masked)
        try:
            moved = node.target(*args, **node.kwargs)
        except (RuntimeError, NotImplementedError):  # an op that takes no truth values
            return None
        return moved if isinstance(moved, Tensor) and moved.shape == node.shape else None

    def linear(self, node: Node, atom: Linear, operands: list[Range]) -> Range:
        if node.op == "aten::add.Tensor" and any(o.masked is not None for o in operands):
            return self._masked_sum(node)
        return Range(atom.range(node, self._of))

    def _masked_sum(self, node: Node) -> Range:
        parts = [self._part(a) for a in node.args[:2]]
        if node.kwargs.get("alpha", 1) != 1 or not all(p.interval.finite for p in parts):
            return Range(ANYTHING)
        masks = [p.masked for p in parts if p.masked is not None]
        masked = torch.zeros(node.shape or (), dtype=torch.bool)
        for m in masks:
            masked = masked | m
        return Range(parts[0].interval + parts[1].interval, masked)

    def bilinear(self, node: Node, atom: Bilinear, operands: list[Range]) -> Range:
        if not all(o.whole.finite for o in operands):
            return Range(ANYTHING)
        return Range(atom.range(node, self._of))

    def pointwise(self, node: Node, atom: Pointwise, operands: list[Range]) -> Range:
        u = operands[0].whole
        if not all(o.whole.finite for o in operands):
            return Range(ANYTHING)
        if atom.even:
            return Range(u.even_power(atom.even))
        if not any(u.within(part.closure) for part in atom.analytic_on):
            return Range(ANYTHING)  # undefined somewhere
        ends = [e for e in (u.lo, u.hi) if math.isfinite(e)]
        if not any(u.within(part) for part in atom.analytic_on) and not all(
            _finite(atom, e) for e in ends
        ):
            return Range(ANYTHING)  # singular at an end that is reached
        if atom.value is None or not atom.monotone:
            return Range(atom.range)
        return Range(u.image(atom.value, atom.monotone).meet(atom.range))

    def rowwise(self, node: Node, atom: Rowwise, operands: list[Range]) -> Range:
        u = operands[0]
        if not u.interval.finite or not all(o.whole.finite for o in operands[1:]):
            return Range(ANYTHING)
        if u.masked is None:
            return Range(atom.range(node))
        dims = atom.dim(node) if atom.masked else None
        if dims is None or any(bool(row) for row in _rows(u.masked, dims)):
            return Range(ANYTHING)
        return Range(atom.range(node).hull(Interval.point(0.0)))

    def selection(self, node: Node, atom: Selection, operands: list[Range]) -> Range:
        if atom.chooser is None:
            return Range(hull(o.whole for o in operands))
        chooser = node.args[atom.chooser]
        cond = self.constants.get(chooser.index) if isinstance(chooser, Ref) else None
        parts = [self._part(a) for p, a in enumerate(node.args) if p != atom.chooser]
        if isinstance(cond, Tensor) and atom.chooser <= 1 and len(parts) == 2:
            # where(cond, a, b) takes a where true; masked_fill(x, mask, v) takes v where true
            true, false = parts if atom.chooser == 0 else parts[::-1]
            masked = _chosen_mask(cond, true, false, node.shape or ())
            if masked is not None:
                finite = [
                    p.interval for p in parts if not p.interval.lo == p.interval.hi == -float("inf")
                ]
                return Range(hull(finite), masked if bool(masked.any()) else None)
        return Range(hull(p.whole for p in parts))

    def discrete(self, node: Node, atom: Discrete, operands: list[Range]) -> Range:
        if node.dtype is torch.bool:
            return Range(BOOLEAN)
        return Range(REALS if all(o.whole.finite for o in operands) else ANYTHING)

    def random(self, node: Node, atom: Random, operands: list[Range]) -> Range:
        return Range(REALS) if atom.active(node) or not operands else operands[0]

    def detached(self, node: Node, atom: Detached, operands: list[Range]) -> Range:
        return operands[0]

    def unknown(self, node: Node, operands: list[Range]) -> Range:
        return Range(ANYTHING)

    def item(self, node: Node, value: Range) -> Range:
        # Of the parts of a tuple only the floating ones are values; others are positions.
        floating = node.dtype is not None and node.dtype.is_floating_point
        return Range(value.whole) if floating else Range(REALS)

    # --- arguments --------------------------------------------------------------------------------

    def _part(self, argument: Any) -> Range:
        if isinstance(argument, Ref):
            return self.values[argument.index]
        if isinstance(argument, complex):
            return Range(ANYTHING)
        x = float(argument)
        if x == -float("inf"):
            return Range(_MINUS_INFINITY)
        return Range(Interval.point(x))

    def _of(self, argument: Any) -> Interval:
        """The range of an argument, be it a node's value, a number or a list of them."""
        if isinstance(argument, (tuple, list)):
            return hull(self._of(a) for a in argument)
        if isinstance(argument, Ref):
            return self.values[argument.index].whole
        if isinstance(argument, complex):
            return ANYTHING
        return Interval.point(float(argument))


def _chosen_mask(cond: Tensor, true: Range, false: Range, shape: tuple[int, ...]) -> Tensor | None:
    """Where minus infinity is chosen; None unless both parts are real elsewhere."""

    def infinite(part: Range) -> Tensor | None:
        if part.interval.lo == part.interval.hi == -float("inf"):
            return torch.ones((), dtype=torch.bool)
        if not part.interval.finite:
            return None
        return torch.zeros((), dtype=torch.bool) if part.masked is None else part.masked

    a, b = infinite(true), infinite(false)
    if a is None or b is None:
        return None
    return torch.where(cond.bool(), a, b).expand(shape)


def _rows(masked: Tensor, dims: tuple[int, ...]) -> Tensor:
    """For every row whether all of it is masked."""
    gone = masked
    for d in sorted((d % masked.dim() for d in dims), reverse=True):
        gone = gone.all(d)
    return gone.flatten()


def _finite(atom: Pointwise, x: float) -> bool:
    """Whether the function is known to have a finite value at ``x``."""
    if atom.value is None:
        return False
    try:
        return math.isfinite(atom.value(x))
    except (ValueError, OverflowError, ZeroDivisionError):
        return False


def _empty(node: Node) -> bool:
    return node.shape is not None and 0 in node.shape


def ranges(graph: Graph, constants: Mapping[int, Any], catalogue: Catalogue) -> Sequence[Range]:
    """The range of every node's value."""
    return interpret(graph, RangeDomain(graph, constants), catalogue)
