"""One graph, many domains: a domain says what each kind of op does, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import (
    Atom,
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
from blockframe.graph.graph import Graph, Node, NodeKind

V = TypeVar("V")


class Domain(ABC, Generic[V]):
    """What the value of a tensor is, and one rule per kind of op.

    A rule is given the node, its record and the values of its operands in argument order.
    """

    @abstractmethod
    def leaf(self, node: Node) -> V:
        """The value of a parameter, buffer, constant or input."""

    @abstractmethod
    def source(self, node: Node, atom: Source, operands: list[V]) -> V: ...

    @abstractmethod
    def layout(self, node: Node, atom: Layout, operands: list[V]) -> V: ...

    @abstractmethod
    def linear(self, node: Node, atom: Linear, operands: list[V]) -> V: ...

    @abstractmethod
    def bilinear(self, node: Node, atom: Bilinear, operands: list[V]) -> V: ...

    @abstractmethod
    def pointwise(self, node: Node, atom: Pointwise, operands: list[V]) -> V: ...

    @abstractmethod
    def rowwise(self, node: Node, atom: Rowwise, operands: list[V]) -> V: ...

    @abstractmethod
    def selection(self, node: Node, atom: Selection, operands: list[V]) -> V: ...

    @abstractmethod
    def discrete(self, node: Node, atom: Discrete, operands: list[V]) -> V: ...

    @abstractmethod
    def random(self, node: Node, atom: Random, operands: list[V]) -> V: ...

    @abstractmethod
    def detached(self, node: Node, atom: Detached, operands: list[V]) -> V: ...

    @abstractmethod
    def unknown(self, node: Node, operands: list[V]) -> V:
        """The value of an op that no record describes."""

    def item(self, node: Node, value: V) -> V:
        """One part of an op's tuple of values: what holds of all parts holds of one."""
        return value

    def settle(self, node: Node, value: V) -> V:
        """The last word on a node's value, whatever rule gave it."""
        return value


def interpret(graph: Graph, domain: Domain[V], catalogue: Catalogue) -> list[V]:
    """The value of every node of ``graph`` in ``domain``."""
    return list(interpret_some(graph, range(len(graph)), domain, catalogue, {}).values())


def interpret_some(
    graph: Graph,
    nodes: Iterable[int],
    domain: Domain[V],
    catalogue: Catalogue,
    given: Mapping[int, V],
) -> dict[int, V]:
    """The values of ``nodes``, in their order, where those of ``given`` are known."""
    values = dict(given)
    for index in nodes:
        node = graph[index]
        operands = [values[i] for i in node.operands]
        if node.kind is not NodeKind.CALL:
            value = domain.leaf(node)
        elif node.op == "getitem":
            value = domain.item(node, operands[0])
        else:
            value = _apply(domain, node, catalogue.lookup(node), operands)
        values[index] = domain.settle(node, value)
    return values


def _apply(domain: Domain[V], node: Node, atom: Atom | None, operands: list[V]) -> V:
    rule: Any
    match atom:
        case Source():
            rule = domain.source
        case Layout():
            rule = domain.layout
        case Linear():
            rule = domain.linear
        case Bilinear():
            rule = domain.bilinear
        case Pointwise():
            rule = domain.pointwise
        case Rowwise():
            rule = domain.rowwise
        case Selection():
            rule = domain.selection
        case Discrete():
            rule = domain.discrete
        case Random():
            rule = domain.random
        case Detached():
            rule = domain.detached
        case _:
            return domain.unknown(node, operands)
    return rule(node, atom, operands)  # type: ignore[no-any-return]
