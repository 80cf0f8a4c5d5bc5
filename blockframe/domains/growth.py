"""Jet bounds of every value: clause S (docs/theory section 2).

The value of a tensor is a bound of its Frobenius norm, and of the operator norms of its first and
second derivative in (theta_l, z) jointly, as polynomials in s >= |theta_l| and r >= |z|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from blockframe.atoms.facts import (
    Bilinear,
    Bounds,
    Detached,
    Discrete,
    Layout,
    Linear,
    Pointwise,
    Random,
    Rowwise,
    Selection,
    Source,
    argument,
)
from blockframe.atoms.interval import Interval, up
from blockframe.atoms.layout import accumulates
from blockframe.domains.interpreter import Domain
from blockframe.domains.polynomial import Polynomial
from blockframe.domains.range import Range
from blockframe.graph.graph import Graph, Node, NodeKind, Ref, refs
from blockframe.graph.patterns import normalised_rows

NOTHING = Polynomial()
UNBOUNDED = Polynomial.constant(math.inf)


@frozen
class Jet:
    """Bounds of value, first and second derivative; ``largest`` bounds every entry's size."""

    value: Polynomial
    first: Polynomial = NOTHING
    second: Polynomial = NOTHING
    largest: float = math.inf

    @property
    def bounded(self) -> bool:
        return self.value.bounded and self.first.bounded and self.second.bounded

    def __add__(self, other: Jet) -> Jet:
        return Jet(self.value + other.value, self.first + other.first, self.second + other.second)

    def times(self, c: float) -> Jet:
        """Through a linear map of norm c."""
        return Jet(self.value.times(c), self.first.times(c), self.second.times(c))

    def through(self, value: Polynomial, slope: float, curvature: float) -> Jet:
        """Through an outer function with |Dg| <= slope, |D^2 g| <= curvature."""
        return Jet(
            value,
            self.first.times(slope),
            self.first.power(2).times(curvature) + self.second.times(slope),
        )


NO_BOUND = Jet(UNBOUNDED, UNBOUNDED, UNBOUNDED)
PARAMETER = Jet(Polynomial({(1, 0): 1.0}), Polynomial.constant(1.0))
STATE = Jet(Polynomial({(0, 1): 1.0}), Polynomial.constant(1.0))


class Growth(Domain[Jet]):
    """See the module. ``reasons``: the nodes at which a bound was lost, and why."""

    def __init__(
        self,
        graph: Graph,
        varies: Sequence[bool],
        ranges: Sequence[Range],
        constants: Mapping[int, Any],
        kinks: Mapping[int, str],
    ) -> None:
        self.graph = graph
        self.varies = varies
        self.ranges = ranges
        self.constants = constants
        self.kinks = kinks  # nodes that are not twice differentiable, and why
        self.reasons: list[tuple[int, str]] = []
        self.jets: dict[int, Jet] = {}

    def settle(self, node: Node, value: Jet) -> Jet:
        """A value that its range bounds is bounded whatever s and r are."""
        if not self.varies[node.index]:
            value = self._constant(node)
        elif node.index in self.kinks:
            value = self._lost(node, self.kinks[node.index])
        elif any(self.varies[i] and _not_real(self.graph[i]) for i in node.operands):
            value = self._lost(node, f"{node.short} chooses by integers or truth values that vary")
        else:
            value = self._within_range(node, value)
        self.jets[node.index] = value
        return value

    def _within_range(self, node: Node, jet: Jet) -> Jet:
        largest = self.ranges[node.index].whole.greatest
        if math.isinf(largest) or node.shape is None:
            return jet
        norm = Polynomial.constant(up(up(math.sqrt(math.prod(node.shape))) * largest))
        return Jet(norm, jet.first, jet.second, largest)

    def _constant(self, node: Node) -> Jet:
        known = self.constants.get(node.index)
        if (
            known is None
            and node.kind is NodeKind.INPUT
            and (node.dtype is None or node.dtype.is_floating_point)
        ):
            return Jet(STATE.value)  # the data is z_0
        if isinstance(known, Tensor) and known.numel() and not known.is_complex():
            flat = known.detach().to(torch.float64)
            norm, largest = float(flat.norm()) * (1 + 1e-12), float(flat.abs().max())
        else:
            largest = self.ranges[node.index].whole.greatest
            norm = up(up(math.sqrt(math.prod(node.shape or ()))) * largest) if largest else 0.0
        if math.isnan(norm):
            norm = largest = math.inf
        return Jet(Polynomial.constant(norm), largest=largest)

    # --- leaves ----------------------------------------------------------------------------------

    def leaf(self, node: Node) -> Jet:
        return PARAMETER if node.kind is NodeKind.PARAMETER else self._constant(node)

    def source(self, node: Node, atom: Source, operands: list[Jet]) -> Jet:
        return self._lost(node, "a size that depends on values")

    # --- linear ----------------------------------------------------------------------------------

    def layout(self, node: Node, atom: Layout, operands: list[Jet]) -> Jet:
        indices = {r.index for p in atom.index if p < len(node.args) for r in refs(node.args[p])}
        if accumulates(node):  # many entries may be added in one place
            return self._unknown_constant(node)
        total = Jet(NOTHING)
        for operand, jet in zip(node.operands, operands, strict=True):
            if operand in indices:
                continue
            shape = self.graph[operand].shape
            if shape is None:
                return self._lost(node, f"{node.op}: its operand has no fixed shape")
            copies = (
                math.prod(node.shape or shape) if atom.copies is None else atom.copies(node, shape)
            )
            total = total + jet.times(up(math.sqrt(max(1, copies))))
        fill = atom.fill(node)
        return total + self._number(node, fill) if fill else total

    def linear(self, node: Node, atom: Linear, operands: list[Jet]) -> Jet:
        total = Jet(NOTHING)
        for operand, jet in zip(node.operands, operands, strict=True):
            shape = self.graph[operand].shape
            norm = None if shape is None else atom.norm(node, shape)
            if norm is None:
                return self._unknown_constant(node)
            total = total + jet.times(norm)
        if node.op.removeprefix("aten::").startswith(("add.", "sub.", "rsub.")):
            alpha = abs(float(argument(node, 2, "alpha", 1)))
            for number in (a for a in node.args[:2] if isinstance(a, (int, float))):
                total = total + self._number(node, abs(number) * max(1.0, alpha))
        return total

    def _number(self, node: Node, c: float) -> Jet:
        """A number that stands in every entry of the value."""
        size = up(math.sqrt(math.prod(node.shape or ())))
        return Jet(Polynomial.constant(up(size * abs(c))))

    # --- products --------------------------------------------------------------------------------

    def bilinear(self, node: Node, atom: Bilinear, operands: list[Jet]) -> Jet:
        rows = normalised_rows(self.graph, node.index)
        if rows is not None:
            return self._normalised(node, *rows)
        u, v = self._factors(node, atom)
        if u is None or v is None:
            return self._unknown_constant(node)
        if atom.divides is not None:
            inverse = self._inverse(node, v)
            if inverse is None:
                return self._lost(node, f"{node.short}: the divisor is not bounded away from 0")
            v = (inverse, v[1])
        norm = atom.norm(node, u[1], v[1])
        if norm is None:
            return self._unknown_constant(node)
        product = self._product(node, u, v, entrywise=atom.entrywise).times(norm)
        if atom.plus is not None:
            bias = node.args[atom.plus] if len(node.args) > atom.plus else node.kwargs.get("bias")
            if isinstance(bias, Ref):
                shape = self.graph[bias.index].shape or ()
                copies = math.prod(node.shape or ()) / max(1, math.prod(shape))
                beta = abs(float(node.kwargs.get("beta", 1)))
                product = product + self.jets[bias.index].times(up(up(math.sqrt(copies)) * beta))
        return product

    def _factors(self, node: Node, atom: Bilinear) -> tuple[Any, Any]:
        """(jet, shape) of both factors; None for what is neither tensor nor number."""
        if node.op == "aten::einsum":
            arguments = tuple(node.args[1]) if len(node.args[1]) == 2 else (None, None)
        else:
            arguments = tuple(node.args[p] for p in atom.factors)
        return tuple(self._factor(a) for a in arguments)  # type: ignore[return-value]

    def _factor(self, part: Any) -> tuple[Jet, tuple[int, ...]] | None:
        if isinstance(part, Ref):
            shape = self.graph[part.index].shape
            return None if shape is None else (self.jets[part.index], shape)
        if isinstance(part, (int, float)):
            size = abs(float(part))
            return Jet(Polynomial.constant(size), largest=size), ()
        return None

    def _product(self, node: Node, u: Any, v: Any, *, entrywise: bool) -> Jet:
        (a, a_shape), (b, b_shape) = u, v

        def size(jet: Jet, other: tuple[int, ...]) -> Polynomial:
            """A bound of multiplication by the value: entry by entry, its largest entry."""
            if not entrywise or math.isinf(jet.largest):
                return jet.value
            copies = math.prod(node.shape or ()) / max(1, math.prod(other))
            return Polynomial.constant(up(jet.largest * up(math.sqrt(copies))))

        by_a, by_b = size(a, b_shape), size(b, a_shape)
        value = min(a.value * by_b, by_a * b.value, key=lambda p: (sum(p.degree), len(p.terms)))
        return Jet(
            value,
            a.first * by_b + by_a * b.first,
            a.second * by_b + (a.first * b.first).times(2.0) + by_a * b.second,
        )

    def _inverse(self, node: Node, divisor: Any) -> Jet | None:
        """The jet of 1 / divisor."""
        jet, shape = divisor
        part = node.args[1]
        if isinstance(part, (int, float)):
            c = up(1.0 / abs(float(part))) if part else math.inf
            return Jet(Polynomial.constant(c), largest=c)
        m = self.ranges[part.index].whole.least
        if m <= 0.0:
            return None
        c = up(1.0 / m)
        if not self.varies[part.index]:
            return Jet(Polynomial.constant(up(up(math.sqrt(math.prod(shape))) * c)), largest=c)
        value = Polynomial.constant(up(up(math.sqrt(math.prod(shape))) * c))
        through: Jet = jet.through(value, up(c * c), up(up(2.0 * c) * up(c * c)))
        return Jet(through.value, through.first, through.second, c)

    def _normalised(self, node: Node, operand: int, count: int, eps: float) -> Jet:
        """u / sqrt(|u|^2 / n + eps), spelled out."""
        size = Polynomial.constant(up(math.sqrt(math.prod(node.shape or ()))))
        slope = up(1.0 / math.sqrt(eps))
        return self.jets[operand].through(size, slope, up(up(1.7125 / eps) / math.sqrt(count)))

    # --- functions -------------------------------------------------------------------------------

    def pointwise(self, node: Node, atom: Pointwise, operands: list[Jet]) -> Jet:
        u = operands[0]
        if len(operands) > 1:
            return self._unknown_constant(node)
        if atom.power is not None:
            return self._power(node, u, atom.power)
        where = self.ranges[node.operands[0]].whole
        bounds = None
        if atom.growth and atom.lipschitz is not None and atom.curvature is not None:
            bounds = (atom.growth, atom.lipschitz, atom.curvature)
        elif atom.on is not None and where.finite:
            bounds = _bounds(atom.on, where)
        if bounds is None:
            return self._lost(node, f"{node.short} of a value in {where} has no polynomial bound")
        (c0, c1), slope, curvature = bounds
        value = u.value.times(c1) + self._number(node, c0).value
        return u.through(value, slope, curvature)

    def _power(self, node: Node, u: Jet, n: int) -> Jet:
        """Entry by entry; a Frobenius norm bounds the largest entry."""
        if n == 0:
            return self._number(node, 1.0)
        size = u.value if math.isinf(u.largest) else Polynomial.constant(u.largest)
        slope = size.power(n - 1).times(float(n))
        curvature = size.power(max(0, n - 2)).times(float(n * (n - 1)))
        return Jet(
            u.value * size.power(n - 1),
            slope * u.first,
            curvature * u.first.power(2) + slope * u.second,
        )

    def rowwise(self, node: Node, atom: Rowwise, operands: list[Jet]) -> Jet:
        u, shape = operands[0], self.graph[node.operands[0]].shape
        if shape is None:
            return self._unknown_constant(node)
        growth, slope = atom.growth(node, shape), atom.lipschitz(node, shape)
        curvature = atom.curvature(node, shape)
        if growth is None or slope is None or curvature is None:
            return self._unknown_constant(node)
        value = u.value.times(growth[1]) if growth[1] else NOTHING
        rows = u.through(value + Polynomial.constant(growth[0]), slope, curvature)
        weight, bias = (self._extra(node, p) for p in (atom.weight, atom.bias))
        if weight is not None:
            rows = self._product(node, (rows, node.shape or ()), weight, entrywise=False)
        if bias is not None:
            copies = math.prod(node.shape or ()) / max(1, math.prod(bias[1]))
            rows = rows + bias[0].times(up(math.sqrt(copies)))
        return rows

    def _extra(self, node: Node, position: int | None) -> tuple[Jet, tuple[int, ...]] | None:
        if position is None or len(node.args) <= position or node.args[position] is None:
            return None
        return self._factor(node.args[position])

    # --- what has no envelope --------------------------------------------------------------------

    def selection(self, node: Node, atom: Selection, operands: list[Jet]) -> Jet:
        if atom.chooser is None:
            return self._lost(node, f"{node.short} is not twice differentiable")
        total = Jet(NOTHING)
        for position, part in enumerate(node.args):
            if position == atom.chooser:
                continue
            if isinstance(part, Ref):
                shape = self.graph[part.index].shape or ()
                copies = math.prod(node.shape or ()) / max(1, math.prod(shape))
                total = total + self.jets[part.index].times(up(math.sqrt(copies)))
            elif isinstance(part, (int, float)):
                total = total + self._number(node, float(part))
        return total

    def discrete(self, node: Node, atom: Discrete, operands: list[Jet]) -> Jet:
        return self._lost(node, f"{node.short} jumps")

    def random(self, node: Node, atom: Random, operands: list[Jet]) -> Jet:
        return self._lost(node, f"{node.short} draws") if atom.active(node) else operands[0]

    def detached(self, node: Node, atom: Detached, operands: list[Jet]) -> Jet:
        return operands[0]

    def unknown(self, node: Node, operands: list[Jet]) -> Jet:
        return self._lost(node, f"{node.op} is not in the catalogue")

    def _unknown_constant(self, node: Node) -> Jet:
        return self._lost(node, f"the record of {node.op} states no constants for this use")

    def _lost(self, node: Node, why: str) -> Jet:
        if self.varies[node.index]:
            self.reasons.append((node.index, why))
        return NO_BOUND


def _bounds(on: Callable[[Interval], Bounds | None], where: Interval) -> Bounds | None:
    """Bounds on an interval; None where they are beyond the numbers of a float."""
    try:
        return on(where)
    except ArithmeticError:
        return None


def _not_real(node: Node) -> bool:
    return node.is_whole or node.is_complex
