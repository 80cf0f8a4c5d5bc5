"""The traced network: a flat, functional list of tensor operations in execution order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class NodeKind(StrEnum):
    """Where a node's value comes from."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    INPUT = "input"
    CONSTANT = "constant"  # a tensor that the code made from numbers
    CALL = "call"


@frozen
class Ref:
    """An argument that is the value of an earlier node."""

    index: int


@frozen
class Location:
    """A line of the model's own source."""

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        from pathlib import PurePath

        return f"{PurePath(self.file).name}:{self.line}"


@frozen(eq=False)
class Node:
    """One value.

    Attributes:
        index: position in the graph.
        target: the operation (``torch._ops.OpOverload`` or ``operator.getitem``) of a CALL; the
            qualified name of a PARAMETER, BUFFER or CONSTANT; the argument's name of an INPUT.
        args, kwargs: arguments of a CALL; values of other nodes stand as `Ref`.
        shape, dtype: of the value; None where it is a tuple (its items have their own nodes).
        module: qualified name of the innermost module whose forward made the call.
        calls: the stack of module calls around it, outermost first; a module that is called
            again gets a new key (``layers.0@1``).
        classes: class names of those modules.
        location: the model's line that made the call.
        origin: index of the node of the captured graph that this one was expanded from; its own
            index where nothing was expanded.
    """

    index: int
    kind: NodeKind
    name: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(factory=dict)
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    module: str = ""
    calls: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    location: Location | None = None
    origin: int = field(default=attrs.Factory(lambda self: self.index, takes_self=True))

    @cached_property
    def operands(self) -> tuple[int, ...]:
        """Indices of the nodes whose values are used, in argument order, with repetition."""
        return tuple(ref.index for ref in refs((self.args, self.kwargs)))

    @cached_property
    def op(self) -> str:
        """Name of the operation: ``aten::gelu``, ``aten::max.dim``; ``getitem``; or the kind."""
        if self.kind is not NodeKind.CALL:
            return self.kind.value
        schema = getattr(self.target, "_schema", None)
        if schema is None:
            return getattr(self.target, "__name__", str(self.target))
        return f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name

    @property
    def short(self) -> str:
        """The op's name for a reader: ``gelu``, ``max``."""
        return self.op.removeprefix("aten::").partition(".")[0]

    @property
    def is_complex(self) -> bool:
        return self.dtype is not None and self.dtype.is_complex

    @property
    def is_whole(self) -> bool:
        """Whether the value is of integers or truth values (not: a number taken from a tensor)."""
        return self.dtype is not None and not (
            self.dtype.is_floating_point or self.dtype.is_complex
        )


@frozen(eq=False)
class Graph:
    """Nodes in execution order; ``nodes[i].index == i``.

    Attributes:
        output: index of the network's output f.
        tensors: values of the CONSTANT nodes, by name.
    """

    nodes: tuple[Node, ...]
    output: int
    tensors: Mapping[str, Tensor] = field(factory=dict)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    def __len__(self) -> int:
        return len(self.nodes)

    @cached_property
    def live(self) -> frozenset[int]:
        """The nodes that the output depends on."""
        live = {self.output}
        for node in reversed(self.nodes):
            if node.index in live:
                live.update(node.operands)
        return frozenset(live)

    @cached_property
    def users(self) -> tuple[tuple[int, ...], ...]:
        """For every node, the indices of the nodes that use its value."""
        users: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for operand in dict.fromkeys(node.operands):
                users[operand].append(node.index)
        return tuple(map(tuple, users))


def substitute(value: Any, of: Callable[[int], Any]) -> Any:
    """``value`` with every `Ref` inside it replaced by ``of(index)``; containers are rebuilt."""
    if isinstance(value, Ref):
        return of(value.index)
    if isinstance(value, (tuple, list)):
        return type(value)(substitute(v, of) for v in value)
    if isinstance(value, Mapping):
        return {k: substitute(v, of) for k, v in value.items()}
    return value


def refs(value: Any) -> Iterable[Ref]:
    """The references inside an argument, containers included, in order."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from refs(v)
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from refs(v)
