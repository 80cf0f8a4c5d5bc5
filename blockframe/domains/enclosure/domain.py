"""Rigorous values: for every entry of every value a ball that contains the true real number.

The graph is interpreted in ball arithmetic, on the device and in float64 whatever dtypes it names:
a cast between floating types is the identity (docs/theory section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

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
from blockframe.domains.enclosure.ball import Ball
from blockframe.domains.enclosure.choices import SELECTIONS, select
from blockframe.domains.enclosure.discrete import DISCRETE, decide
from blockframe.domains.enclosure.functions import MONOTONE
from blockframe.domains.enclosure.linear import LINEAR, combine
from blockframe.domains.enclosure.operands import Operands, Outcome, Value, exact, is_known
from blockframe.domains.enclosure.placement import draw, make, place
from blockframe.domains.enclosure.pointwise import FUNCTIONS, apply
from blockframe.domains.enclosure.products import PRODUCTS, multiply
from blockframe.domains.enclosure.rowwise import ROWS, of_rows
from blockframe.domains.interpreter import Domain, interpret_some
from blockframe.errors import InputError
from blockframe.graph.graph import Graph, Node, NodeKind


@frozen(eq=False)
class Enclosed:
    """The values of a graph's nodes.

    Attributes:
        values: by node index.
        reasons: the nodes at which something stopped being known, and why. What only inherits
            that is not listed.
    """

    values: tuple[Value, ...]
    reasons: tuple[tuple[int, str], ...]

    def __getitem__(self, index: int) -> Ball:
        """The value of a node that is one tensor."""
        value = self.values[index]
        if not isinstance(value, Ball):
            raise TypeError(f"node {index} has several values")
        return value

    def __len__(self) -> int:
        return len(self.values)


def enclose(
    graph: Graph,
    values: Mapping[int, Ball | Tensor],
    catalogue: Catalogue,
    device: torch.device | None = None,
) -> Enclosed:
    """Balls for every node of ``graph``, whose leaves lie in ``values``.

    Args:
        values: for every parameter, buffer and input, by node index: a ball, or a tensor of exact
            numbers (also of integers). Constants of the graph need none.
        device: where to compute; default: the CPU.

    Raises:
        InputError: a leaf has no value, or the device's arithmetic is not the one of
            docs/theory, "Rigorous arithmetic".
    """
    device = torch.device("cpu") if device is None else device
    domain = Enclosure(graph, values, device)
    found = domain.computed(range(len(graph)), catalogue)
    return Enclosed(tuple(found.values()), tuple(domain.reasons))


RULES: Mapping[type[Atom], Container[str]] = {
    Linear: LINEAR, Bilinear: PRODUCTS, Pointwise: {*FUNCTIONS, *MONOTONE}, Rowwise: ROWS,
    Selection: {*SELECTIONS, "clamp", "clamp_min", "clamp_max"}, Discrete: DISCRETE,
}  # fmt: skip
"""By kind, the short names of the ops whose implementation is known well enough. Sources and layout
ops all have a rule."""


def check_arithmetic(device: torch.device) -> None:
    """Refuse a device that rounds results below the normal numbers to zero.

    Raises:
        InputError: it does.
    """
    least = torch.full((8,), 2.0**-1022, dtype=torch.float64, device=device)
    if not bool((least * 0.5 * 2.0 == least).all()):
        raise InputError(
            "the arithmetic rounds subnormal numbers to zero, which the error bounds exclude",
            "Call torch.set_flush_denormal(False).",
        )


class Enclosure(Operands, Domain[Value]):
    """Ball arithmetic. ``reasons`` says at which nodes, and why, something stopped being known.

    Raises:
        InputError: the device's arithmetic is not the one of docs/theory, "Rigorous arithmetic".
    """

    def __init__(
        self, graph: Graph, given: Mapping[int, Ball | Tensor], device: torch.device
    ) -> None:
        check_arithmetic(device)
        super().__init__(graph, device)
        self.given = given
        self.reasons: list[tuple[int, str]] = []

    def computed(
        self,
        nodes: Iterable[int],
        catalogue: Catalogue,
        known: Mapping[int, Value] = MappingProxyType({}),
    ) -> dict[int, Value]:
        """The values of ``nodes``, in their order, and of ``known``, which need nothing."""
        self.values.update(known)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return interpret_some(self.graph, nodes, self, catalogue, known)

    def leaf(self, node: Node) -> Value:
        value = self.given.get(node.index)
        if value is None and node.kind is NodeKind.CONSTANT:
            value = self.graph.tensors[node.target]
        if value is None:
            raise InputError(
                f"the {node.kind} {node.target} has no value to enclose",
                "Give one for every parameter, buffer and input.",
            )
        if isinstance(value, Tensor) and value.is_complex():
            return self._unknown(node, "complex numbers")
        return (Ball.exact(value) if isinstance(value, Tensor) else value).to(self.device)

    def source(self, node: Node, atom: Source, operands: list[Value]) -> Value:
        return self._by(make, node, atom)

    def layout(self, node: Node, atom: Layout, operands: list[Value]) -> Value:
        return self._by(place, node, atom)

    def linear(self, node: Node, atom: Linear, operands: list[Value]) -> Value:
        return self._by(combine, node, atom)

    def bilinear(self, node: Node, atom: Bilinear, operands: list[Value]) -> Value:
        return self._by(multiply, node, atom)

    def pointwise(self, node: Node, atom: Pointwise, operands: list[Value]) -> Value:
        return self._by(apply, node, atom)

    def rowwise(self, node: Node, atom: Rowwise, operands: list[Value]) -> Value:
        return self._by(of_rows, node, atom)

    def selection(self, node: Node, atom: Selection, operands: list[Value]) -> Value:
        return self._by(select, node, atom)

    def discrete(self, node: Node, atom: Discrete, operands: list[Value]) -> Value:
        return self._by(decide, node, atom)

    def random(self, node: Node, atom: Random, operands: list[Value]) -> Value:
        return self._by(draw, node, atom)

    def detached(self, node: Node, atom: Detached, operands: list[Value]) -> Value:
        return operands[0]

    def unknown(self, node: Node, operands: list[Value]) -> Value:
        return self._unknown(node, f"{node.op} is not in the catalogue")

    def item(self, node: Node, value: Value) -> Value:
        position = node.args[1]
        if isinstance(value, tuple) and position < len(value):
            part: Ball = value[position]
            return part
        return Ball.everything(node.shape or (), self.device)

    def settle(self, node: Node, value: Value) -> Value:
        if isinstance(value, Ball) and node.shape not in (None, tuple(value.shape)):
            found = tuple(value.shape)
            value = self._unknown(node, f"its value has shape {found}, not {node.shape}")
        called = node.kind is NodeKind.CALL and node.op != "getitem"
        if called and not is_known(value):
            inherited = any(not is_known(self.values[i]) for i in node.operands)
            listed = bool(self.reasons) and self.reasons[-1][0] == node.index
            if not inherited and not listed:
                self.reasons.append((node.index, f"{node.short} is singular or overflows there"))
        self.values[node.index] = value
        return value

    def _by(self, rule: Callable[[Operands, Node, Any], Outcome], node: Node, atom: Atom) -> Value:
        if node.is_complex or any(self.graph[i].is_complex for i in node.operands):
            return self._unknown(node, "complex numbers")
        if self._of_whole(node, atom):
            return exact(self.run(node, self.mid))
        outcome = rule(self, node, atom)
        return self._unknown(node, outcome) if isinstance(outcome, str) else outcome

    def _of_whole(self, node: Node, atom: Atom) -> bool:
        """Whether the op computes integers or truth values from such, which it does exactly."""
        moves = isinstance(atom, (Layout, Selection, Discrete))
        if isinstance(atom, (Random, Source)) or not node.operands:
            return False
        if not (node.is_whole or (node.dtype is None and moves)):
            return False
        if any(isinstance(a, float) for a in node.args):
            return False
        operands = [self.values[i] for i in node.operands]
        return all(isinstance(o, Ball) and o.is_whole for o in operands)

    def _unknown(self, node: Node, why: str) -> Value:
        self.reasons.append((node.index, why))
        return Ball.everything(node.shape, self.device) if node.shape is not None else ()
