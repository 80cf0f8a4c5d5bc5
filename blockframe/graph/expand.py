"""Composite ops replaced by the ops that define them: the graph that is analysed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from attrs import evolve, frozen
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import Composite
from blockframe.graph.graph import Graph, Node, NodeKind, Ref, substitute


@frozen(eq=False)
class Expanded:
    """``graph``: composite ops written out; a node knows by ``origin`` which captured node it
    came from. ``places``: for every captured node the nodes of ``graph`` that are its value."""

    graph: Graph
    places: tuple[tuple[int, ...], ...]


def expand(graph: Graph, catalogue: Catalogue, device: torch.device) -> Expanded:
    """``graph``, whose tensors live on ``device``, with every `Composite` op written out."""
    nodes: list[Node] = []
    new: dict[int, Any] = {}  # index in `graph` -> Ref, or a structure of them, in the result
    tensors = dict(graph.tensors)

    def append(node: Node) -> Ref:
        nodes.append(evolve(node, index=len(nodes)))
        return Ref(len(nodes) - 1)

    for node in graph:
        args = substitute(node.args, new.__getitem__)
        kwargs = substitute(node.kwargs, new.__getitem__)
        atom = catalogue.lookup(node) if node.kind is NodeKind.CALL else None
        if node.op == "getitem" and not isinstance(args[0], Ref):
            new[node.index] = args[0][args[1]]
        elif isinstance(atom, Composite):
            new[node.index] = _written_out(
                node, atom, (args, kwargs), nodes, append, tensors, device
            )
        else:
            new[node.index] = append(evolve(node, args=args, kwargs=kwargs, origin=node.index))
    places = tuple(
        tuple(leaf.index for leaf in pytree.tree_leaves(new[i]) if isinstance(leaf, Ref))
        for i in range(len(graph))
    )
    return Expanded(Graph(tuple(nodes), new[graph.output].index, tensors), places)


def _written_out(
    node: Node,
    atom: Composite,
    arguments: tuple[Any, Any],
    nodes: list[Node],
    append: Callable[[Node], Ref],
    tensors: dict[str, torch.Tensor],
    device: torch.device,
) -> Any:
    """Append the definition of ``node``; its value, references instead of tensors."""
    flat, spec = pytree.tree_flatten(arguments)
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, Ref)]

    def definition(*operands: Any) -> Any:
        filled = list(flat)
        for place, operand in zip(places, operands, strict=True):
            filled[place] = operand
        a, k = pytree.tree_unflatten(filled, spec)
        return atom.definition(*a, **k)

    examples = [example(nodes[flat[i].index], device) for i in places]
    with torch.no_grad():
        module = make_fx(definition, tracing_mode="fake")(*examples)
    return transcribe(module, (flat[i] for i in places), append, tensors, node)


def transcribe(
    module: torch.fx.GraphModule,
    operands: Iterable[Any],
    append: Callable[[Node], Ref],
    tensors: dict[str, torch.Tensor],
    like: Node,
) -> Any:
    """Append the nodes of a traced ``module`` applied to ``operands``; what it returns, references
    instead of tensors. The nodes are named after ``like`` and stand where it stands."""
    made: dict[Any, Any] = {}
    given = iter(operands)
    for fx in module.graph.nodes:
        if fx.op == "placeholder":
            made[fx] = next(given)
        elif fx.op == "output":
            return torch.fx.map_arg(fx.args[0], made.__getitem__)
        elif fx.op == "get_attr":
            name = f"{like.name}.{fx.target}"
            tensors[name] = getattr(module, str(fx.target))
            made[fx] = append(
                Node(0, NodeKind.CONSTANT, name, name, shape=tuple(tensors[name].shape),
                     dtype=tensors[name].dtype, origin=like.index)
            )  # fmt: skip
        else:
            value = fx.meta.get("val")
            tensor = isinstance(value, torch.Tensor)
            made[fx] = append(
                evolve(
                    like,
                    name=f"{like.name}.{fx.name}",
                    target=fx.target,
                    args=tuple(torch.fx.map_arg(fx.args, made.__getitem__)),
                    kwargs=dict(torch.fx.map_arg(fx.kwargs, made.__getitem__)),
                    shape=tuple(value.shape) if tensor else None,
                    dtype=value.dtype if tensor else None,
                    origin=like.index,
                )
            )
    return None


def example(node: Node, device: torch.device) -> torch.Tensor:
    """A tensor of the shape and dtype of ``node``'s value, to trace with."""
    return torch.empty(node.shape or (), dtype=node.dtype, device=device)
