"""The derivative of a graph is another graph: PyTorch's own rules, written in known ops.

The graph is evaluated under ``torch.func`` on tensors without numbers and the calls that this makes
are recorded, so a derivative has any size, needs no backward rules of ours, and any domain
interprets it (docs/theory section 3).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import Composite
from blockframe.errors import CaptureError
from blockframe.foreign import foreign
from blockframe.graph.capture import of_shape_alone, pruned
from blockframe.graph.evaluate import as_function, evaluate
from blockframe.graph.expand import example, transcribe
from blockframe.graph.graph import Graph, Node, NodeKind, Ref
from blockframe.graph.plain import DEFINITIONS, backward_rules

_vjp: Any = torch.func.vjp  # typed as if it always returned auxiliary values


@frozen(eq=False)
class Derivative:
    """A value of a graph and its derivative, in one graph.

    Attributes:
        graph: its leaves are those of the given graph that matter, under the same names, and
            ``seeds``; its ``output`` is the value that is differentiated.
        wrt: for every node that was differentiated by, the leaf of ``graph`` that stands for it.
        seeds: the leaves that say which derivative is meant, INPUTs whose target is their name;
            of `gradient` one, the cotangent; of `directional` one tangent per ``wrt``.
        outputs: the derivatives: of `gradient` one per ``wrt``, of `directional` one.
    """

    graph: Graph
    wrt: tuple[int, ...]
    seeds: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def seeded(self) -> tuple[int, ...]:
        """The CALL nodes that depend on a seed, in order: what changes from row to row."""
        moving = set(self.seeds)
        for node in self.graph:
            if not moving.isdisjoint(node.operands):
                moving.add(node.index)
        return tuple(i for i in sorted(moving) if self.graph[i].kind is NodeKind.CALL)

    @cached_property
    def fixed(self) -> tuple[int, ...]:
        """The CALL nodes that depend on no seed, in order: to be computed once."""
        seeded = set(self.seeded)
        return tuple(
            n.index for n in self.graph if n.kind is NodeKind.CALL and n.index not in seeded
        )

    def units(self, start: int, device: torch.device) -> Tensor:
        """The seed of a `gradient` whose derivatives are rows of a Jacobian: the unit cotangents of
        entries ``start``, ``start + 1``, … of the flattened output, zeros beyond its last."""
        seed = self.graph[self.seeds[0]]
        rows, *shape = seed.shape or ()
        size = math.prod(shape)
        units = torch.zeros(rows, size, dtype=seed.dtype, device=device)
        count = max(0, min(rows, size - start))
        units[range(count), range(start, start + count)] = 1.0
        return units.reshape(rows, *shape)


def gradient(
    graph: Graph,
    wrt: Sequence[int],
    catalogue: Catalogue,
    device: torch.device,
    *,
    output: int | None = None,
    rows: int | None = None,
) -> Derivative:
    """u ↦ uᵀ ∂(output)/∂(wrt), reverse mode.

    Args:
        wrt: nodes of ``graph``; a CALL among them is cut off from what it was made of and becomes
            an INPUT under its own name, so that a block's state can be differentiated by.
        device: where the tensors of ``graph`` live.
        output: the node that is differentiated; default: the graph's output.
        rows: how many cotangents at once. The seed then has the shape (rows, *shape of output)
            and every gradient (rows, *shape of its node); what does not depend on the seed is
            in the graph once. None: one cotangent, without that dimension.

    Raises:
        CaptureError: PyTorch does not differentiate an op of the graph.
    """
    node = graph[graph.output if output is None else output]
    seed = _seed("cotangent", node, rows)

    def pulled_back(value: Callable[..., Tensor], at: list[Tensor], seeds: list[Tensor]) -> Any:
        y, pullback = _vjp(value, *at)
        if rows is not None:
            pullback = torch.func.vmap(pullback)
        return [y, *pullback(seeds[0])]

    return _traced(graph, node.index, wrt, [seed], pulled_back, catalogue, device)


def directional(
    graph: Graph,
    wrt: Sequence[int],
    catalogue: Catalogue,
    device: torch.device,
    *,
    output: int | None = None,
    columns: int | None = None,
) -> Derivative:
    """v ↦ ∂(output)/∂(wrt) v; arguments as for `gradient`.

    A gradient is linear in its cotangent; the gradient of that is this derivative. (PyTorch's
    forward mode has rules that choose among entries where this has none.)
    ``columns``: how many tangents at once, in a first dimension of every seed and of the output.

    Raises:
        CaptureError: PyTorch does not differentiate an op of the graph.
    """
    last = graph.output if output is None else output
    seeds = [_seed(f"tangent.{graph[i].name}", graph[i], columns) for i in wrt]

    def pushed_forward(value: Callable[..., Tensor], at: list[Tensor], seeds: list[Tensor]) -> Any:
        y, pullback = _vjp(value, *at)
        _, transposed = _vjp(pullback, torch.zeros_like(y))

        def push(*tangents: Tensor) -> Any:
            return transposed(tangents)[0]

        return [y, (push if columns is None else torch.func.vmap(push))(*seeds)]

    return _traced(graph, last, wrt, seeds, pushed_forward, catalogue, device)


def _seed(name: str, like: Node, count: int | None) -> Node:
    if like.shape is None:
        raise ValueError(f"{like.name} is not one tensor")
    shape = like.shape if count is None else (count, *like.shape)
    return Node(0, NodeKind.INPUT, name, name, shape=shape, dtype=like.dtype)


def _traced(
    graph: Graph,
    output: int,
    wrt: Sequence[int],
    seeds: Sequence[Node],
    transform: Callable[..., Any],
    catalogue: Catalogue,
    device: torch.device,
) -> Derivative:
    """Record ``transform(value, at, seeds)`` -> [value, *derivatives]."""
    nodes, given = _needed(graph, output, wrt)
    leaves = [*seeds, *(_as_leaf(graph[i]) for i in given)]

    def run(*tensors: Tensor) -> Any:
        values = dict(zip(given, tensors[len(seeds) :], strict=True))

        def value(*at: Tensor) -> Tensor:
            there = values | dict(zip(wrt, at, strict=True))
            y: Tensor = evaluate(graph, there, nodes, _rule(catalogue))[output]
            return y

        return transform(value, [values[i] for i in wrt], list(tensors[: len(seeds)]))

    # Functionalized, since PyTorch's rules may write in place to what they have just made. It warns
    # of ops that are traced once for every row: that is slow, and not wrong.
    examples = [example(leaf, device) for leaf in leaves]
    with foreign(_refusal), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functional = torch.func.functionalize(run, remove="mutations")
        module = make_fx(functional, _table(catalogue), tracing_mode="fake")(*examples)
    for fx in module.graph.nodes:
        if fx.op == "call_function":
            fx.target, fx.args, fx.kwargs = of_shape_alone(fx, fx.args, fx.kwargs)

    made: list[Node] = []
    tensors = dict(graph.tensors)

    def append(node: Node) -> Ref:
        made.append(evolve(node, index=len(made)))
        return Ref(len(made) - 1)

    references = [append(leaf) for leaf in leaves]
    like = Node(0, NodeKind.CALL, "derivative", None)
    value, *derivatives = transcribe(module, references, append, tensors, like)
    at = {i: r.index for i, r in zip(given, references[len(seeds) :], strict=True)}
    kept = [*range(len(seeds)), *(at[i] for i in wrt), *(d.index for d in derivatives)]
    result, new = pruned(made, value.index, tensors, kept)
    return Derivative(
        result,
        wrt=tuple(new[at[i]] for i in wrt),
        seeds=tuple(new[i] for i in range(len(seeds))),
        outputs=tuple(new[d.index] for d in derivatives),
    )


def _needed(graph: Graph, output: int, wrt: Sequence[int]) -> tuple[list[int], list[int]]:
    """The CALL nodes between the leaves or ``wrt`` and ``output``, and the leaves with ``wrt``."""
    live = {output}
    for node in reversed(graph.nodes):
        if node.index in live and node.index not in wrt:
            live.update(node.operands)
    leaves = {i for i in live if graph[i].kind is not NodeKind.CALL}.union(wrt)
    return sorted(live - leaves), sorted(leaves)


def _as_leaf(node: Node) -> Node:
    if node.shape is None:
        raise ValueError(f"{node.name} is not one tensor")
    if node.kind is not NodeKind.CALL:
        return node
    return Node(0, NodeKind.INPUT, node.name, node.name, shape=node.shape, dtype=node.dtype)


def _rule(catalogue: Catalogue) -> Callable[..., Any]:
    def rule(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        atom = catalogue.lookup(node)
        if isinstance(atom, Composite):
            return atom.definition(*args, **kwargs)
        if node.op in DEFINITIONS:
            return DEFINITIONS[node.op](*args, **kwargs)
        return as_function(node, args, kwargs)

    return rule


def _table(catalogue: Catalogue) -> dict[Any, Callable[..., Any]]:
    """How to write out the ops that the catalogue does not know."""
    core = {
        op: rule
        for op, rule in _core()
        if Node(0, NodeKind.CALL, "", op).op not in catalogue.records
    }
    return core | backward_rules()


@cache
def _core() -> tuple[tuple[Any, Callable[..., Any]], ...]:
    decompositions: Any = torch._decomp.core_aten_decompositions()
    return tuple(decompositions.items())


def _refusal(why: str) -> CaptureError:
    return CaptureError(
        f"the derivative of the traced graph could not be traced ({why})",
        "Write the model with operations that PyTorch differentiates, forward and backward.",
    )
