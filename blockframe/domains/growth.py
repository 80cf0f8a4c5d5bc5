"""Jet bounds of every value: clause S (docs/theory section 2).

The value of a tensor is a bound of its Frobenius norm, and of the operator norms of its first and
second derivative in all that varies jointly. What a bound is made of is left open: `SYMBOLS` makes
polynomials in s >= |theta_l| and r >= |z|, `scaling/rates` numbers at given norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from attrs import evolve, frozen
from torch import Tensor

from blockframe.atoms.facts import (
    Bilinear,
    Bounds,
    Detached,
    Discrete,
    Layout,
    Linear,
    Pairs,
    Pointwise,
    Random,
    Rowwise,
    Selection,
    Source,
)
from blockframe.atoms.interval import Interval, up
from blockframe.atoms.layout import accumulates
from blockframe.atoms.linear import shift
from blockframe.domains.interpreter import Domain
from blockframe.domains.norms import frobenius, largest
from blockframe.domains.polynomial import Polynomial
from blockframe.domains.range import Range
from blockframe.graph.graph import Graph, Node, NodeKind, Ref, refs


class Size(Protocol):
    """An upper bound of a norm; every operation rounds up."""

    @property
    def bounded(self) -> bool: ...

    def __add__(self, other: Self, /) -> Self: ...

    def __mul__(self, other: Self, /) -> Self: ...

    def times(self, c: float) -> Self: ...

    def power(self, n: int) -> Self: ...

    def tighter(self, other: Self) -> Self: ...


S = TypeVar("S", bound=Size)


@frozen
class Jet(Generic[S]):
    """Bounds of value, first and second derivative.

    ``largest`` bounds every entry's size, ``spectral`` the operator norm of every matrix (the last
    two dimensions), where that is known to be less than the Frobenius norm ``value``.
    """

    value: S
    first: S
    second: S
    largest: float = math.inf
    spectral: S | None = None

    @property
    def bounded(self) -> bool:
        return self.value.bounded and self.first.bounded and self.second.bounded

    def __add__(self, other: Jet[S]) -> Jet[S]:
        return Jet(self.value + other.value, self.first + other.first, self.second + other.second)

    def times(self, c: float) -> Jet[S]:
        """Through a linear map of norm c."""
        return Jet(self.value.times(c), self.first.times(c), self.second.times(c))

    def through(self, value: S, slope: float, curvature: float) -> Jet[S]:
        """Through an outer function with |Dg| <= slope, |D^2 g| <= curvature."""
        return Jet(
            value,
            self.first.times(slope),
            self.first.power(2).times(curvature) + self.second.times(slope),
        )


class Leaves(Protocol[S]):
    """What bounds are made of, and the bounds at the leaves of a graph."""

    def constant(self, c: float) -> S:
        """The number c >= 0."""
        ...

    def number(self, size: S) -> float:
        """``size``, if it is one number; else infinity."""
        ...

    def parameter(self, node: Node) -> Jet[S]: ...

    def data(self, node: Node) -> S | None:
        """Of an input, buffer or constant that is not among the folded ones; None: not known."""
        ...


class _Symbols:
    """Polynomials in s and r."""

    def constant(self, c: float) -> Polynomial:
        return Polynomial.constant(c)

    def number(self, size: Polynomial) -> float:
        return math.inf if any(size.degree) else size(1.0, 1.0)

    def parameter(self, node: Node) -> Jet[Polynomial]:
        return Jet(Polynomial({(1, 0): 1.0}), Polynomial.constant(1.0), Polynomial())

    def data(self, node: Node) -> Polynomial | None:
        return STATE.value if node.kind is NodeKind.INPUT else None  # the data is z_0


SYMBOLS = _Symbols()
STATE = Jet(Polynomial({(0, 1): 1.0}), Polynomial.constant(1.0), Polynomial())
"""What a block is given: |z| <= r."""


class Growth(Domain[Jet[S]], Generic[S]):
    """See the module. ``reasons``: the nodes at which a bound was lost, and why."""

    def __init__(
        self,
        graph: Graph,
        varies: Sequence[bool],
        ranges: Sequence[Range],
        constants: Mapping[int, Any],
        kinks: Mapping[int, str],
        leaves: Leaves[S],
    ) -> None:
        self.leaves = leaves
        self.nothing = leaves.constant(0.0)
        self.graph = graph
        self.varies = varies
        self.ranges = ranges
        self.constants = constants
        self.kinks = kinks  # nodes that are not twice differentiable, and why
        self.reasons: list[tuple[int, str]] = []
        self.jets: dict[int, Jet[S]] = {}

    def settle(self, node: Node, value: Jet[S]) -> Jet[S]:
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

    def _within_range(self, node: Node, jet: Jet[S]) -> Jet[S]:
        most = self.ranges[node.index].whole.greatest
        if math.isinf(most) or node.shape is None:
            return jet
        value = self._uniform(node.shape, most).tighter(jet.value)
        return evolve(jet, value=value, largest=min(most, jet.largest))

    def _constant(self, node: Node) -> Jet[S]:
        known = self.constants.get(node.index)
        if known is None and node.kind is not NodeKind.CALL and not _not_real(node):
            size = self.leaves.data(node)
            if size is not None:
                return self._fixed(size)
        if isinstance(known, Tensor) and known.numel() and not known.is_complex():
            return self._fixed(self.leaves.constant(frobenius(known)), largest(known))
        most = self.ranges[node.index].whole.greatest
        return self._fixed(self._uniform(node.shape or (), most), most)

    def _fixed(self, value: S, largest: float = math.inf) -> Jet[S]:
        """What does not vary."""
        return Jet(value, self.nothing, self.nothing, largest)

    def _uniform(self, shape: tuple[int, ...], c: float) -> S:
        """The norm of a tensor whose entries have at most size c >= 0."""
        return self.leaves.constant(up(up(math.sqrt(math.prod(shape))) * c) if c else 0.0)

    # --- leaves ----------------------------------------------------------------------------------

    def leaf(self, node: Node) -> Jet[S]:
        if node.kind is NodeKind.PARAMETER:
            return self.leaves.parameter(node)
        return self._constant(node)

    def source(self, node: Node, atom: Source, operands: list[Jet[S]]) -> Jet[S]:
        return self._lost(node, "a size that depends on values")

    # --- linear ----------------------------------------------------------------------------------

    def layout(self, node: Node, atom: Layout, operands: list[Jet[S]]) -> Jet[S]:
        indices = {r.index for p in atom.index if p < len(node.args) for r in refs(node.args[p])}
        if accumulates(node):  # many entries may be added in one place
            return self._unknown_constant(node)
        if atom.cast:
            return operands[0]
        total = self._fixed(self.nothing)
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

    def linear(self, node: Node, atom: Linear, operands: list[Jet[S]]) -> Jet[S]:
        total = self._fixed(self.nothing)
        for operand, jet in zip(node.operands, operands, strict=True):
            shape = self.graph[operand].shape
            norm = None if shape is None else atom.norm(node, shape)
            if norm is None:
                return self._unknown_constant(node)
            total = total + jet.times(norm)
        return total + self._number(node, shift(node) if atom.adds else 0.0)

    def _number(self, node: Node, c: float) -> Jet[S]:
        """A number that stands in every entry of the value."""
        return self._fixed(self._uniform(node.shape or (), abs(c)))

    # --- products --------------------------------------------------------------------------------

    def bilinear(self, node: Node, atom: Bilinear, operands: list[Jet[S]]) -> Jet[S]:
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
        product = self._product(node, u, v, atom.pairs).times(norm)
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

    def _factor(self, part: Any) -> tuple[Jet[S], tuple[int, ...]] | None:
        if isinstance(part, Ref):
            shape = self.graph[part.index].shape
            return None if shape is None else (self.jets[part.index], shape)
        if isinstance(part, (int, float)):
            size = abs(float(part))
            return self._fixed(self.leaves.constant(size), size), ()
        return None

    def _product(self, node: Node, u: Any, v: Any, pairs: Pairs) -> Jet[S]:
        (a, a_shape), (b, b_shape) = u, v

        def size(jet: Jet[S], mine: tuple[int, ...], other: tuple[int, ...]) -> S:
            """A bound of multiplication by the value: by its largest entry where entries are
            multiplied one by one, by its operator norm where matrices are."""
            if pairs is Pairs.ENTRIES and math.isfinite(jet.largest):
                copies = math.prod(node.shape or ()) / max(1, math.prod(other))
                return self.leaves.constant(up(jet.largest * up(math.sqrt(copies))))
            if pairs is Pairs.MATRICES and jet.spectral is not None:
                # Of the other factor: a vector beside a stack of matrices counts as one matrix.
                stacked = np.broadcast_shapes(mine[:-2], other[:-2])
                copies = math.prod(stacked) / max(1, math.prod(other[:-2]))
                return jet.spectral.times(up(math.sqrt(copies)))
            return jet.value

        by_a, by_b = size(a, a_shape, b_shape), size(b, b_shape, a_shape)
        return Jet(
            (a.value * by_b).tighter(by_a * b.value),
            a.first * by_b + by_a * b.first,
            a.second * by_b + (a.first * b.first).times(2.0) + by_a * b.second,
        )

    def _inverse(self, node: Node, divisor: Any) -> Jet[S] | None:
        """The jet of 1 / divisor."""
        jet, shape = divisor
        part = node.args[1]
        if isinstance(part, (int, float)):
            c = up(1.0 / abs(float(part))) if part else math.inf
            return self._fixed(self.leaves.constant(c), c)
        m = self.ranges[part.index].whole.least
        if m <= 0.0:
            return None
        c = up(1.0 / m)
        value = self._uniform(shape, c)
        if not self.varies[part.index]:
            return self._fixed(value, c)
        through: Jet[S] = jet.through(value, up(c * c), up(up(2.0 * c) * up(c * c)))
        return Jet(through.value, through.first, through.second, c)

    # --- functions -------------------------------------------------------------------------------

    def pointwise(self, node: Node, atom: Pointwise, operands: list[Jet[S]]) -> Jet[S]:
        u = operands[0]
        if len(operands) > 1:
            return self._unknown_constant(node)
        if atom.power is not None:
            return self._power(node, u, atom.power)
        where = self._within(node.operands[0])
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

    def _within(self, index: int) -> Interval:
        """Where the entries lie: by the range for all arguments, and by the bound here."""
        range_, jet = self.ranges[index].whole, self.jets[index]
        entry = min(jet.largest, self.leaves.number(jet.value))
        return range_ if entry == math.inf else range_.meet(Interval(-entry, entry, False, False))

    def _power(self, node: Node, u: Jet[S], n: int) -> Jet[S]:
        """Entry by entry; a Frobenius norm bounds the largest entry."""
        if n == 0:
            return self._number(node, 1.0)
        size = u.value if math.isinf(u.largest) else self.leaves.constant(u.largest)
        slope = size.power(n - 1).times(float(n))
        curvature = size.power(max(0, n - 2)).times(float(n * (n - 1)))
        return Jet(
            u.value * size.power(n - 1),
            slope * u.first,
            curvature * u.first.power(2) + slope * u.second,
        )

    def rowwise(self, node: Node, atom: Rowwise, operands: list[Jet[S]]) -> Jet[S]:
        u, shape = operands[0], self.graph[node.operands[0]].shape
        if shape is None:
            return self._unknown_constant(node)
        growth, slope = atom.growth(node, shape), atom.lipschitz(node, shape)
        curvature = atom.curvature(node, shape)
        if growth is None or slope is None or curvature is None:
            return self._unknown_constant(node)
        value = u.value.times(growth[1]) + self.leaves.constant(growth[0])
        rows = u.through(value, slope, curvature)
        last = atom.dim(node) in ((-1,), (len(shape) - 1,))
        if not growth[1] and last and node.shape == shape:
            # Rows of bounded norm: so many of them make a matrix.
            matrices = max(1, math.prod(shape[:-2]))
            rows = evolve(rows, spectral=rows.value.times(up(1.0 / math.sqrt(matrices))))
        weight, bias = (self._extra(node, p) for p in (atom.weight, atom.bias))
        if weight is not None:
            rows = self._product(node, (rows, node.shape or ()), weight, Pairs.ENTRIES)
        if bias is not None:
            copies = math.prod(node.shape or ()) / max(1, math.prod(bias[1]))
            rows = rows + bias[0].times(up(math.sqrt(copies)))
        return rows

    def _extra(self, node: Node, position: int | None) -> tuple[Jet[S], tuple[int, ...]] | None:
        if position is None or len(node.args) <= position or node.args[position] is None:
            return None
        return self._factor(node.args[position])

    # --- what has no envelope --------------------------------------------------------------------

    def selection(self, node: Node, atom: Selection, operands: list[Jet[S]]) -> Jet[S]:
        if atom.chooser is None:
            return self._lost(node, f"{node.short} is not twice differentiable")
        total = self._fixed(self.nothing)
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

    def discrete(self, node: Node, atom: Discrete, operands: list[Jet[S]]) -> Jet[S]:
        return self._lost(node, f"{node.short} jumps")

    def random(self, node: Node, atom: Random, operands: list[Jet[S]]) -> Jet[S]:
        return self._lost(node, f"{node.short} draws") if atom.active(node) else operands[0]

    def detached(self, node: Node, atom: Detached, operands: list[Jet[S]]) -> Jet[S]:
        return operands[0]

    def unknown(self, node: Node, operands: list[Jet[S]]) -> Jet[S]:
        return self._lost(node, f"{node.op} is not in the catalogue")

    def _unknown_constant(self, node: Node) -> Jet[S]:
        return self._lost(node, f"the record of {node.op} states no constants for this use")

    def _lost(self, node: Node, why: str) -> Jet[S]:
        if self.varies[node.index]:
            self.reasons.append((node.index, why))
        no_bound = self.leaves.constant(math.inf)
        return Jet(no_bound, no_bound, no_bound)


def _bounds(on: Callable[[Interval], Bounds | None], where: Interval) -> Bounds | None:
    """Bounds on an interval; None where they are beyond the numbers of a float."""
    try:
        return on(where)
    except ArithmeticError:
        return None


def _not_real(node: Node) -> bool:
    return node.is_whole or node.is_complex
