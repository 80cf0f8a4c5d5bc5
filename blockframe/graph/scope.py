"""A graph as the patterns of one block see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen

from blockframe.graph.graph import Graph, Node, NodeKind, Ref, substitute

CASTS = frozenset(
    {
        "aten::to.dtype", "aten::to.dtype_layout", "aten::to.device", "aten::to.other",
        "aten::_to_copy", "aten::type_as", "aten::alias", "aten::clone", "aten::contiguous",
        "aten::lift_fresh", "aten::lift_fresh_copy",
    }
)  # fmt: skip
RESHAPES = frozenset(
    {
        "aten::view", "aten::reshape", "aten::_unsafe_view", "aten::unsqueeze", "aten::squeeze",
        "aten::squeeze.dim", "aten::squeeze.dims",
    }
)  # fmt: skip
"""Entries keep their order."""


@frozen(eq=False)
class Scope:
    """A graph as one block sees it.

    What lies before the block is its state, and nothing is known of how that was made; so an
    expression can name a node there but not look into it.

    Attributes:
        nodes: of the graph, those that were rewritten already in their new form.
        varies, constants: of the nodes: whether they vary; values of those that do not.
        numbers: equal for two nodes of one block that compute the same value.
        owners: the block of a captured node.
        owner: the block.
    """

    nodes: Sequence[Node]
    varies: Sequence[bool]
    constants: Mapping[int, Any]
    numbers: Sequence[int]
    owners: Mapping[int, object]
    owner: object

    def inside(self, index: int) -> bool:
        """Whether node ``index`` is a constant or of this block."""
        return not self.varies[index] or _owner(self.owners, self.nodes[index]) is self.owner

    def behind(self, argument: Any, through: frozenset[str] = CASTS) -> Any:
        """What ``argument`` is a cast (and the like) of."""
        while isinstance(argument, Ref) and self.inside(argument.index):
            node = self.nodes[argument.index]
            if node.op not in through or not (
                is_real(node) and is_real(self.nodes[node.operands[0]])
            ):
                break
            argument = node.args[0]
        return argument

    def node(self, argument: Any, through: frozenset[str] = CASTS) -> Node | None:
        """The call of this block, of real value, that ``argument`` is, behind casts."""
        found = self.behind(argument, through)
        if not isinstance(found, Ref) or not self.inside(found.index):
            return None
        node = self.nodes[found.index]
        return node if node.kind is NodeKind.CALL and is_real(node) else None

    def number(self, argument: Any) -> float | None:
        """The one number that ``argument`` is whatever the parameters are."""
        if isinstance(argument, (int, float)) and not isinstance(argument, bool):
            return float(argument)
        value = self.constants.get(argument.index) if isinstance(argument, Ref) else None
        if isinstance(value, torch.Tensor) and value.dim() == 0 and not value.is_complex():
            value = value.item()
        return float(value) if isinstance(value, (int, float)) else None

    def shape(self, argument: Any) -> tuple[int, ...] | None:
        """Of a tensor; () of a number."""
        return self.nodes[argument.index].shape if isinstance(argument, Ref) else ()

    def same(self, a: Any, b: Any) -> bool:
        """Whether two arguments are one value, casts aside."""
        if isinstance(a, Ref) and isinstance(b, Ref):
            return self._key(a.index) == self._key(b.index)
        return not isinstance(a, Ref) and not isinstance(b, Ref) and bool(a == b)

    def _key(self, index: int) -> int:
        return self.numbers[index] if self.inside(index) else index


def value_numbers(
    graph: Graph, varies: Sequence[bool], owners: Mapping[int, object]
) -> Sequence[int]:
    """A number for every node; two nodes of one block, or two constants, have the same number only
    if they compute the same value from the same parameters, constants and state of the block."""
    numbers: list[int] = []
    seen: dict[Any, int] = {}
    for node in graph:
        owner = _owner(owners, node) if varies[node.index] else None

        def known(i: int, owner: object = owner) -> Any:
            within = not varies[i] or _owner(owners, graph[i]) is owner
            return ("node", numbers[i] if within else i)

        operands = node.operands
        if node.op in CASTS and is_real(node) and is_real(graph[operands[0]]):
            numbers.append(known(operands[0])[1])
            continue
        parts = (substitute(node.args, known), sorted(substitute(node.kwargs, known).items()))
        key = (id(owner), node.op, repr(parts))
        if node.kind is not NodeKind.CALL or _draws(node):
            numbers.append(node.index)
        else:
            numbers.append(seen.setdefault(key, node.index))
    return numbers


def _owner(owners: Mapping[int, object], node: Node) -> object:
    return owners.get(node.origin)


def _draws(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def is_real(node: Node) -> bool:
    """Whether the value is a tensor of real numbers."""
    return node.dtype is not None and node.dtype.is_floating_point
