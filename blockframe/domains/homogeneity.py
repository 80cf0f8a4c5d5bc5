"""By which power a value scales when parameters are scaled (docs/theory section 5).

The value of a tensor is, for every group of parameters, the degree d with
value(t θ_group) = t^d value(θ_group) for all t while everything else is kept, or `UNKNOWN`. Where
the network's output F has degree d, Euler's identity says ⟨θ_group, ∇L⟩ = d ⟨F, ∇_F L⟩. Only sums,
products and powers have degrees above 0, so that the output is smooth in the group.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
    argument,
)
from blockframe.atoms.layout import accumulates
from blockframe.atoms.linear import shift
from blockframe.domains.interpreter import Domain, interpret
from blockframe.graph.graph import Graph, Node, NodeKind, Ref, refs
from blockframe.graph.synthetic import NORMALIZE

Degrees: TypeAlias = NDArray[np.int64]
"""One degree for each group."""

UNKNOWN = -1

_NORMALISATIONS = {
    "aten::layer_norm", "aten::rms_norm", "aten::_fused_rms_norm", "aten::group_norm",
    NORMALIZE.__name__,
}  # fmt: skip


def degrees(
    graph: Graph,
    groups: Sequence[Collection[str]],
    catalogue: Catalogue,
    captured: Graph,
    *,
    up_to_eps: bool = False,
) -> list[int | None]:
    """The degree of the network's output in each group of parameters; None: not known to have one.

    Nothing is concluded from records that are a plugin's word. ``captured``: what ``graph`` was
    written out from. For the other arguments see `Homogeneity`.
    """
    declared = {n.index for n in graph if {n.op, captured[n.origin].op} & catalogue.declared}
    domain = Homogeneity(graph, groups, declared, up_to_eps=up_to_eps)
    found = interpret(graph, domain, catalogue)[graph.output]
    return [None if d == UNKNOWN else int(d) for d in found]


class Homogeneity(Domain[Degrees]):
    """See the module.

    Args:
        groups: for each group the names of its parameters.
        declared: nodes that are described by a plugin's word; nothing is concluded from those.
        up_to_eps: take a normalisation of rows as if its eps were 0, so that it forgets how long
            its input is. What follows then holds approximately, and only approximately.
    """

    def __init__(
        self,
        graph: Graph,
        groups: Sequence[Collection[str]],
        declared: Collection[int] = (),
        *,
        up_to_eps: bool = False,
    ) -> None:
        self.graph = graph
        self.groups = groups
        self.declared = declared
        self.up_to_eps = up_to_eps
        self.zero: Degrees = np.zeros(len(groups), np.int64)
        self.values: dict[int, Degrees] = {}

    def settle(self, node: Node, value: Degrees) -> Degrees:
        if node.index in self.declared or node.is_whole or node.is_complex:
            value = self._constant([value])
        self.values[node.index] = value
        return value

    # --- rules ------------------------------------------------------------------------------------

    def leaf(self, node: Node) -> Degrees:
        if node.kind is not NodeKind.PARAMETER:
            return self.zero
        return np.array([node.target in group for group in self.groups], np.int64)

    def source(self, node: Node, atom: Source, operands: list[Degrees]) -> Degrees:
        return self._constant(operands)

    def layout(self, node: Node, atom: Layout, operands: list[Degrees]) -> Degrees:
        if atom.cast:  # of another operand only the dtype is used
            return operands[0]
        indices = {r.index for p in atom.index if p < len(node.args) for r in refs(node.args[p])}
        chosen = self._constant([self.values[i] for i in indices])
        moved = [v for i, v in zip(node.operands, operands, strict=True) if i not in indices]
        if atom.writes or accumulates(node) or atom.fill(node):
            return self._constant(operands)
        return np.where(chosen == 0, self._same(moved), UNKNOWN)

    def linear(self, node: Node, atom: Linear, operands: list[Degrees]) -> Degrees:
        shifted = atom.adds and shift(node) != 0.0
        return self._constant(operands) if shifted else self._same(operands)

    def bilinear(self, node: Node, atom: Bilinear, operands: list[Degrees]) -> Degrees:
        parts = [node.args[p] for p in atom.factors if p < len(node.args)]
        if node.op == "aten::einsum":
            parts = list(node.args[1])
        shapes = [s for part in parts if (s := self._shape(part)) is not None]
        if len(parts) != 2 or len(shapes) != 2 or atom.norm(node, *shapes) is None:
            return self._constant(operands)  # not known to be a product of two
        u, v = (self._of(part) for part in parts)
        if atom.divides is not None:
            v = self._constant([v])
        product = self._product(u, v)
        bias = None if atom.plus is None else argument(node, atom.plus, "bias")
        return product if bias is None else self._same([product, self._of(bias)])

    def pointwise(self, node: Node, atom: Pointwise, operands: list[Degrees]) -> Degrees:
        if atom.power is None or len(operands) != 1:
            return self._constant(operands)
        u = operands[0]
        return np.where(u < 0, UNKNOWN, atom.power * u)

    def rowwise(self, node: Node, atom: Rowwise, operands: list[Degrees]) -> Degrees:
        u = operands[0]
        if self.up_to_eps and node.op in _NORMALISATIONS:
            u = np.where(u < 0, UNKNOWN, 0)
        value = self._constant([u])
        for position in filter(None, (atom.weight, atom.bias)):
            part = argument(node, position, "weight" if position == atom.weight else "bias")
            if part is not None:
                v = self._of(part)
                product = position == atom.weight
                value = self._product(value, v) if product else self._same([value, v])
        return value

    def selection(self, node: Node, atom: Selection, operands: list[Degrees]) -> Degrees:
        return self._constant(operands)

    def discrete(self, node: Node, atom: Discrete, operands: list[Degrees]) -> Degrees:
        return self._constant(operands)

    def random(self, node: Node, atom: Random, operands: list[Degrees]) -> Degrees:
        return self._constant(operands) if atom.active(node) else operands[0]

    def detached(self, node: Node, atom: Detached, operands: list[Degrees]) -> Degrees:
        return self._constant(operands)

    def unknown(self, node: Node, operands: list[Degrees]) -> Degrees:
        return self._constant(operands)

    # ----------------------------------------------------------------------------------------------

    def _of(self, part: Any) -> Degrees:
        """The degree of an argument; a number has degree 0."""
        return self.values[part.index] if isinstance(part, Ref) else self.zero

    def _shape(self, part: Any) -> tuple[int, ...] | None:
        return self.graph[part.index].shape if isinstance(part, Ref) else ()

    def _product(self, u: Degrees, v: Degrees) -> Degrees:
        return np.where((u < 0) | (v < 0), UNKNOWN, u + v)

    def _same(self, operands: Sequence[Degrees]) -> Degrees:
        """The degree of a sum: that of all summands."""
        if not operands:
            return self.zero
        stacked = np.stack(operands)
        return np.where((stacked == stacked[0]).all(0), stacked[0], UNKNOWN)

    def _constant(self, operands: Sequence[Degrees]) -> Degrees:
        """0 where no operand scales: of a function of which nothing else is known."""
        if not operands:
            return self.zero
        return np.where((np.stack(operands) == 0).all(0), 0, UNKNOWN)
