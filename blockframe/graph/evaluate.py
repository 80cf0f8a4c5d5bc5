"""Running a graph on real tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from blockframe.graph.graph import Graph, Node, NodeKind, substitute
from blockframe.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

Rule = Callable[[Node, tuple[Any, ...], Mapping[str, Any]], Any]
"""Computes the value of a CALL node from its arguments."""


def call(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The op itself; a view as a reshape, since kernels differ in the strides they leave."""
    if node.op == "aten::view":
        return args[0].reshape(args[1])
    return node.target(*args, **kwargs)


def as_function(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The op as a function to differentiate, without what changes its gradient only."""
    if node.op == "aten::embedding":  # padding_idx, scale_grad_by_freq and sparse
        return args[0][args[1]]
    if node.op == "aten::detach":
        return args[0]
    return call(node, args, kwargs)


def evaluate(
    graph: Graph, values: dict[int, Any], indices: Iterable[int] | None = None, rule: Rule = call
) -> dict[int, Any]:
    """Compute the nodes ``indices`` (default: all) in order into ``values``, and return it.

    ``values`` holds what is known before: the leaves at least.
    """
    for i in range(len(graph)) if indices is None else indices:
        node = graph[i]
        if i not in values and node.kind is NodeKind.CALL:
            args = substitute(node.args, values.__getitem__)
            values[i] = rule(node, args, substitute(node.kwargs, values.__getitem__))
    return values


def leaves(
    graph: Graph, problem: Problem, inputs: tuple[Tensor, ...] | None = None
) -> dict[int, Any]:
    """Values of the leaves: parameters, buffers, constants and inputs of ``problem``.

    An input that is none of the problem's (a direction of a derivative) is left out.
    """
    tensors = input_tensors(problem, inputs)
    state = named_tensors(problem.module) | dict(problem.buffers)
    values: dict[int, Any] = {}
    for node in graph:
        match node.kind:
            case NodeKind.PARAMETER | NodeKind.BUFFER:
                values[node.index] = state[node.target]
            case NodeKind.CONSTANT:
                values[node.index] = graph.tensors[node.target]
            case NodeKind.INPUT if isinstance(node.target, int):
                values[node.index] = tensors[node.target]
    return values


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name they have."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return named | dict(module.named_buffers(remove_duplicate=False))


def input_tensors(problem: Problem, inputs: tuple[Tensor, ...] | None = None) -> list[Tensor]:
    """The input tensors, keywords last, in the order in which INPUT nodes number them."""
    import torch

    given = problem.inputs if inputs is None else inputs
    return [*given, *(v for v in problem.keywords.values() if isinstance(v, torch.Tensor))]
