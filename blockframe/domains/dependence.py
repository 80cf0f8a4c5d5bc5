"""Which values vary: with the parameters, or by chance."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
from blockframe.domains.interpreter import Domain, interpret
from blockframe.graph.graph import Graph, Node, NodeKind


class Dependence(Domain[bool]):
    """Whether a value depends on trainable parameters (or is drawn at random).

    Data, buffers and what is made of them alone are constants.
    """

    def leaf(self, node: Node) -> bool:
        return node.kind is NodeKind.PARAMETER

    def source(self, node: Node, atom: Source, operands: list[bool]) -> bool:
        # Ops that use only the shape of an operand have none (graph/capture); what is left
        # depends on a size that depends on values.
        return any(operands)

    def layout(self, node: Node, atom: Layout, operands: list[bool]) -> bool:
        return any(operands)

    def linear(self, node: Node, atom: Linear, operands: list[bool]) -> bool:
        return any(operands)

    def bilinear(self, node: Node, atom: Bilinear, operands: list[bool]) -> bool:
        return any(operands)

    def pointwise(self, node: Node, atom: Pointwise, operands: list[bool]) -> bool:
        return any(operands)

    def rowwise(self, node: Node, atom: Rowwise, operands: list[bool]) -> bool:
        return any(operands)

    def selection(self, node: Node, atom: Selection, operands: list[bool]) -> bool:
        return any(operands)

    def discrete(self, node: Node, atom: Discrete, operands: list[bool]) -> bool:
        return any(operands)

    def random(self, node: Node, atom: Random, operands: list[bool]) -> bool:
        return any(operands) or atom.active(node)

    def detached(self, node: Node, atom: Detached, operands: list[bool]) -> bool:
        return any(operands)

    def unknown(self, node: Node, operands: list[bool]) -> bool:
        return any(operands) or not _reproducible(node)


def _reproducible(node: Node) -> bool:
    """Whether an op that no record describes gives the same value for the same constants."""
    tags = getattr(node.target, "tags", None)
    if tags is None or not node.op.startswith("aten::"):
        return False
    return torch.Tag.nondeterministic_seeded not in tags


def dependence(graph: Graph, catalogue: Catalogue) -> Sequence[bool]:
    """For every node whether its value varies."""
    return interpret(graph, Dependence(), catalogue)
