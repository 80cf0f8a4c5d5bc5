"""Cutting a graph into consecutive segments: docs/design of a chain, docs/theory section 1.

Execution order is topological order, so any cut of it gives an exact chain. Cuts are made where
a reader of the model would make them: at the items of its outermost lists of modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from blockframe.graph.graph import Graph, Node, NodeKind

if TYPE_CHECKING:
    from torch import nn


@frozen
class Segment:
    """Consecutive varying nodes of a graph. ``item``: it is an item of a list of modules."""

    name: str
    nodes: tuple[int, ...]
    item: bool = False

    @property
    def end(self) -> int:
        return self.nodes[-1]


def segments(graph: Graph, module: nn.Module, varies: Sequence[bool]) -> list[Segment]:
    """The first cut: by items of the outermost module lists, else by the root's children."""
    nodes = [n for n in graph if varies[n.index] and n.kind is NodeKind.CALL]
    if not nodes:
        return []
    items = _item_paths(module)
    above = _ancestors(items, nodes)
    labels = [_label(n, items, above) for n in nodes]
    runs: list[Segment] = []
    position = 0
    for (label, item), group in groupby(labels):
        indices = tuple(n.index for n in nodes[position : position + len(list(group))])
        position += len(indices)
        if label is None and runs:  # glue code of a parent module belongs to what came before
            runs[-1] = _joined(runs[-1], Segment(runs[-1].name, indices, runs[-1].item))
        elif runs and runs[-1].name == label:
            runs[-1] = _joined(runs[-1], Segment(label or "", indices, item))
        else:
            runs.append(Segment(label or "", indices, item))
    return _named(_without_idle(graph, _prefix_joined(graph, runs)))


def has_parameters(graph: Graph, segment: Segment) -> bool:
    """Whether a parameter is used in ``segment``."""
    return any(
        graph[i].kind is NodeKind.PARAMETER for n in segment.nodes for i in graph[n].operands
    )


def _item_paths(module: nn.Module) -> frozenset[str]:
    from torch.nn import ModuleDict, ModuleList, Sequential

    return frozenset(
        f"{path}.{name}" if path else name
        for path, m in module.named_modules()
        if isinstance(m, (ModuleList, Sequential, ModuleDict))
        for name, _ in m.named_children()
    )


def _clean(path: str) -> str:
    return path.partition("@")[0]


def _ancestors(items: frozenset[str], nodes: Sequence[Node]) -> set[str]:
    """Modules whose own code is only glue: those around the items, or around everything."""
    called = {_clean(p) for n in nodes for p in n.calls}
    above = {""}
    for item in items & called:
        parts = item.split(".")
        above |= {".".join(parts[:i]) for i in range(len(parts))}
    above -= items
    while True:  # a module that merely wraps one other is glue too
        labels = {_label(n, items, above)[0] for n in nodes} - {None}
        (only,) = labels if len(labels) == 1 else (None,)
        if only is None or _clean(only) in items:
            return above
        if not any(
            len(n.calls) and _clean(n.calls[-1]).startswith(_clean(only) + ".") for n in nodes
        ):
            return above
        above.add(_clean(only))


def _label(node: Node, items: frozenset[str], above: set[str]) -> tuple[str | None, bool]:
    """(outermost item the node was called in, True), (child of a glue module, False) or None."""
    for path in node.calls:
        if _clean(path) in items:
            return path, True
    for path in node.calls:
        if _clean(path) not in above:
            return path, False
    return None, False


def _joined(a: Segment, b: Segment) -> Segment:
    return Segment(b.name or a.name, a.nodes + b.nodes, a.item or b.item)


def _prefix_joined(graph: Graph, runs: list[Segment]) -> list[Segment]:
    """What comes before the first item is one segment: the embedding."""
    first = next((i for i, s in enumerate(runs) if s.item), 0)
    if first < 2:
        return runs
    joined = Segment("embed", tuple(n for s in runs[:first] for n in s.nodes))
    return [joined, *runs[first:]]


def _without_idle(graph: Graph, runs: list[Segment]) -> list[Segment]:
    """Segments without parameters joined to the one before, or to the first that has some."""
    kept: list[Segment] = []
    waiting: tuple[int, ...] = ()
    for s in runs:
        if not has_parameters(graph, s):
            if kept:
                kept[-1] = evolve(kept[-1], nodes=kept[-1].nodes + s.nodes)
            else:
                waiting += s.nodes
        else:
            kept.append(evolve(s, nodes=waiting + s.nodes))
            waiting = ()
    return kept if kept else runs[:1] and [evolve(runs[0], nodes=waiting)]


def _named(runs: list[Segment]) -> list[Segment]:
    """Names that are unique, and never empty."""
    seen: dict[str, int] = {}
    named = []
    for s in runs:
        name = s.name or "model"
        seen[name] = seen.get(name, 0) + 1
        named.append(evolve(s, name=name if seen[name] == 1 else f"{name}#{seen[name]}"))
    return named


def state_after(graph: Graph, varies: Sequence[bool], end: int) -> tuple[int, ...]:
    """The varying values made up to node ``end`` that are used after it, or are the output."""
    return tuple(
        n.index
        for n in graph.nodes[: end + 1]
        if n.kind is NodeKind.CALL
        and varies[n.index]
        and (n.index == graph.output or any(u > end for u in graph.users[n.index]))
    )
