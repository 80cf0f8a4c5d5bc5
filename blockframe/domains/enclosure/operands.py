"""What the rules of all kinds share: the operands of a node as balls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from blockframe.domains.enclosure.ball import Ball, Op
from blockframe.graph.evaluate import call
from blockframe.graph.graph import Graph, Node, Ref, substitute

Value = Ball | tuple[Ball, ...]
"""Of an op with several values, a tuple; an empty one if nothing is known of them."""
Outcome = Value | str
"""A value, or why there is none."""


class Operands:
    """The values computed so far, and ops run on parts of them.

    Attributes:
        graph: whose nodes are computed.
        device: where.
        values: by node index.
    """

    def __init__(self, graph: Graph, device: torch.device) -> None:
        self.graph = graph
        self.device = device
        self.values: dict[int, Value] = {}

    def ball(self, argument: Any) -> Ball:
        """The ball of an argument, be it another node's value or a number."""
        if isinstance(argument, Ref):
            value = self.values[argument.index]
            return value if isinstance(value, Ball) else Ball.everything((), self.device)
        if isinstance(argument, complex):
            return Ball.everything((), self.device)
        return Ball.exact(argument).to(self.device)

    def real(self, argument: Any) -> Ball:
        """The same, integers as reals."""
        return self.ball(argument).real

    def optional(self, argument: Any) -> Ball | None:
        return None if argument is None else self.real(argument)

    def mid(self, index: int) -> Tensor:
        """The midpoints of a node's value."""
        return self.ball(Ref(index)).mid

    def run(self, node: Node, of: Callable[[int], Any], **more: Any) -> Any:
        """The op itself in float64, each operand being ``of`` its index.

        What the graph knows as a number (the value of ``item``) stays one. ``more``: keyword
        arguments that replace those of the node.
        """

        def operand(index: int) -> Any:
            value = self.values[index]
            number = self.graph[index].dtype is None and isinstance(value, Ball)
            if number and self.mid(index).shape == () and self.ball(Ref(index)).is_exact:
                return self.mid(index).item()
            return of(index)

        args = self._here(substitute(node.args, operand))
        return call(node, args, self._here({**substitute(node.kwargs, operand), **more}))

    def of_first(self, node: Node) -> Op:
        """The op as a function of its first operand, the others being their midpoints."""
        first = node.operands[0]
        return lambda t: self.run(node, lambda i: t if i == first else self.mid(i))

    def _here(self, value: Any) -> Any:
        """With this device, and float64 for every floating dtype."""
        if isinstance(value, torch.device):
            return self.device
        if isinstance(value, torch.dtype) and value.is_floating_point:
            return torch.float64
        if isinstance(value, (tuple, list)):
            return type(value)(self._here(v) for v in value)
        if isinstance(value, Mapping):
            return {k: self._here(v) for k, v in value.items()}
        return value


Rule = Callable[[Operands, Node], Outcome]


def is_known(value: Value) -> bool:
    """Whether no ball of ``value`` is everything."""
    return value.is_known if isinstance(value, Ball) else bool(value)


def exact(value: Any) -> Value:
    """Exact balls of what an op returned."""
    if isinstance(value, (tuple, list)):
        return tuple(Ball.exact(v) for v in value)
    return Ball.exact(value)


def no_rule(node: Node) -> str:
    return f"no rule says how exactly {node.op} is computed"
