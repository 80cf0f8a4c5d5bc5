"""Values of what does not vary, where they are numbers and not only shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blockframe.atoms.catalogue import Catalogue
from blockframe.graph.evaluate import leaves
from blockframe.graph.graph import Graph, Node, NodeKind, substitute
from blockframe.problem import Problem

LARGEST = 1 << 23
"""Constants of more entries than this are not kept."""


def fold(
    graph: Graph, problem: Problem, varies: Sequence[bool], catalogue: Catalogue
) -> Mapping[int, Any]:
    """The constants of ``graph`` that can be computed, by node index.

    On the meta device inputs and buffers have no values; masks made from ``arange`` have.
    """
    known: dict[int, Any] = {
        i: v for i, v in leaves(graph, problem).items() if not varies[i] and _has_numbers(v)
    }
    for node in graph:
        if node.kind is not NodeKind.CALL or varies[node.index]:
            continue
        if node.op != "getitem" and catalogue.lookup(node) is None:
            continue
        if all(i in known for i in node.operands):
            value = _computed(node, known)
            if value is not None:
                known[node.index] = value
    return known


def _computed(node: Node, known: Mapping[int, Any]) -> Any:
    args = _on_cpu(substitute(node.args, known.__getitem__))
    kwargs = _on_cpu(substitute(node.kwargs, known.__getitem__))
    try:
        with torch.no_grad():
            value = node.target(*args, **kwargs)
    except (RuntimeError, IndexError, ValueError):
        return None  # bad data: the model itself will say so when it runs
    return value if not isinstance(value, Tensor) or _has_numbers(value) else None


def _has_numbers(value: Any) -> bool:
    ordinary = type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided
    return ordinary and not value.is_meta and value.numel() <= LARGEST


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if isinstance(value, (tuple, list)):
        return type(value)(_on_cpu(v) for v in value)
    if isinstance(value, Mapping):
        return {k: _on_cpu(v) for k, v in value.items()}
    return value
