"""Points at which a rank is verified, chosen so that little has to be computed (theory section 3).

A parameter of a point is zero, or drawn from a seed and its own name, so that it can be made again
one by one and a large network needs no memory for what is not used.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from torch import Tensor

from blockframe.atoms.facts import (
    Bilinear,
    Detached,
    Layout,
    Linear,
    Random,
    Rowwise,
    argument,
)
from blockframe.atoms.linear import shift
from blockframe.graph.graph import Graph, Node, NodeKind, Ref, refs
from blockframe.graph.match import ADD
from blockframe.graph.scope import CASTS, is_real
from blockframe.graph.synthetic import NORMALIZE

if TYPE_CHECKING:
    from blockframe.atoms.catalogue import Catalogue

SPARSE = 8
"""Entries of a row of a drawn matrix that are not 0. The fewer there are, the less an error grows:
its bound by the sum of the row's sizes, a value as the root of the sum of squares."""


@frozen
class Fill:
    """Entries of one parameter along its dimension ``dim``: those below ``border`` (``first``) or
    the others are ``value``."""

    dim: int
    border: int
    first: bool
    value: float = 0.0


@frozen(eq=False)
class Point:
    """θ*, one parameter after the other.

    Attributes:
        seed: of what is drawn: normal numbers, in a vector of mean 1 and deviation 1/8 (a gain that
            is near 1 amplifies no error), of mean 0 and deviation 1/2 if it is called a bias; in a
            matrix of variance 1 / `SPARSE`, at `SPARSE` places of every row; else of variance 1.
        zero: parameters that are 0.
        fills: entries of parameters that are set otherwise.
        rows: of a table the rows that are looked up; its other rows are 0.
        given: parameters with numbers of their own, which are taken (docs: the given parameters).
    """

    seed: int = 0
    zero: frozenset[str] = frozenset()
    fills: Mapping[str, Fill] = field(factory=dict)
    rows: Mapping[str, Sequence[int]] = field(factory=dict)
    given: Mapping[str, Tensor] = field(factory=dict)

    def value(self, node: Node) -> Tensor:
        """The parameter of ``node``, float64."""
        name, shape = str(node.target), node.shape or ()
        if name in self.given:
            return self.given[name].detach().to(torch.float64)
        if name in self.zero:
            return torch.zeros((), dtype=torch.float64).expand(shape)
        if name not in self.rows:
            return self._filled(name, self._drawn(name, shape))
        value = torch.zeros(tuple(shape), dtype=torch.float64)
        value[sorted(self.rows[name])] = self._table(name, shape)
        return self._filled(name, value)

    def looked_up(self, table: Node, places: Tensor) -> Tensor:
        """Rows of the parameter of ``table``, (*places, width): no more of it is made."""
        name, shape = str(table.target), table.shape or ()
        fill = self.fills.get(name)
        by_row = fill is not None and fill.dim == 0
        if name in self.given or name in self.zero or name not in self.rows or by_row:
            return self.value(table)[places]
        rows = torch.tensor(sorted(self.rows[name]))
        found = self._filled(name, self._table(name, shape))
        return found[torch.searchsorted(rows, places.contiguous())]

    def _table(self, name: str, shape: Sequence[int]) -> Tensor:
        """The rows that are looked up."""
        size = (len(self.rows[name]), *shape[1:])
        return torch.randn(size, generator=self._generator(name), dtype=torch.float64)

    def _filled(self, name: str, value: Tensor) -> Tensor:
        fill = self.fills.get(name)
        if fill is not None:
            length = value.shape[fill.dim] - fill.border
            start, count = (0, fill.border) if fill.first else (fill.border, length)
            value.narrow(fill.dim, start, count).fill_(fill.value)
        return value

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def _drawn(self, name: str, shape: Sequence[int]) -> Tensor:
        generator = self._generator(name)
        if len(shape) != 2 or shape[1] <= SPARSE:
            value = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
            if len(shape) != 1:
                return value
            return value / 2.0 if name.endswith("bias") else 1.0 + value / 8.0
        size = (shape[0], SPARSE)
        columns = torch.randint(shape[1], size, generator=generator)
        entries = torch.randn(size, generator=generator, dtype=torch.float64)
        matrix = torch.zeros(tuple(shape), dtype=torch.float64)
        return matrix.scatter_(1, columns, entries / math.sqrt(SPARSE))


def zeros(
    graph: Graph, zero: Container[Any], catalogue: Catalogue, nodes: Iterable[int] | None = None
) -> set[int]:
    """The nodes of ``graph`` that are zero, entirely and exactly, where the parameters named in
    ``zero`` are. ``nodes``: in which to look, in order, beside the parameters; default: all."""
    found = {n.index for n in graph if n.kind is NodeKind.PARAMETER and n.target in zero}
    for index in range(len(graph)) if nodes is None else nodes:
        node = graph[index]
        if node.kind is not NodeKind.CALL or found.isdisjoint(node.operands):
            continue
        # What a plugin says of an op is its word, and linear can mean affine.
        if node.op not in catalogue.declared and _vanishes(graph, node, catalogue, found):
            found.add(index)
    return found


def _vanishes(graph: Graph, node: Node, catalogue: Catalogue, zero: set[int]) -> bool:
    def is_zero(argument: Any) -> bool:
        if isinstance(argument, Ref):
            return argument.index in zero
        return isinstance(argument, (int, float)) and argument == 0

    match atom := catalogue.lookup(node):
        case Layout():
            index = {r.index for p in atom.index if p < len(node.args) for r in refs(node.args[p])}
            moved = [i for i in node.operands if i not in index]
            return not atom.fill(node) and all(i in zero for i in moved)
        case Linear():
            return all(i in zero for i in node.operands) and not (atom.adds and shift(node))
        case Bilinear():
            return _multiplies_zero(graph, node, atom, is_zero)
        case Rowwise():
            names = (atom.weight, "weight"), (atom.bias, "bias")
            weight, bias = (None if p is None else argument(node, p, n) for p, n in names)
            scaled = weight is not None and is_zero(weight)
            normed = node.op in NORMS and is_zero(node.args[0])
            return (scaled or normed) and (bias is None or is_zero(bias))
        case Random():
            return not atom.active(node)
        case Detached():
            return True
    return node.op == "getitem"


NORMS = ("aten::layer_norm", "aten::rms_norm", NORMALIZE.__name__)
"""Of rows of zeros: zeros, times the gain plus the bias (eps is positive: clause A)."""


def _multiplies_zero(
    graph: Graph, node: Node, atom: Bilinear, is_zero: Callable[[Any], bool]
) -> bool:
    """Whether the op is a product, as its record says by a bound |uv| <= c |u| |v|, with a factor
    that is zero."""
    factors = [node.args[p] for p in atom.factors if p < len(node.args)]
    plain = (Ref, int, float)
    if len(factors) < 2 or not all(isinstance(f, plain) for f in factors):
        return False
    sizes = [(graph[f.index].shape or ()) if isinstance(f, Ref) else () for f in factors]
    if atom.norm(node, *sizes) is None:
        return False
    plus = None if atom.plus is None else argument(node, atom.plus, "bias")
    above = [f for p, f in zip(atom.factors, factors, strict=True) if p != atom.divides]
    return (plus is None or is_zero(plus)) and any(map(is_zero, above))


def same(
    graph: Graph, index: int, zero: Container[int], catalogue: Catalogue, until: int = -1
) -> int:
    """The first node, or ``until``, whose value node ``index`` has, entry by entry, where the nodes
    ``zero`` are 0: behind casts, idle dropout, and sums with zero."""
    while index != until:
        before = _same(graph, graph[index], zero, catalogue)
        if before is None:
            break
        index = before
    return index


def _same(graph: Graph, node: Node, zero: Container[int], catalogue: Catalogue) -> int | None:
    if node.kind is not NodeKind.CALL or not node.operands:
        return None
    atom, found = catalogue.lookup(node), node.operands[0]
    if node.op in ADD:
        terms = [a for a in node.args[:2] if not (isinstance(a, Ref) and a.index in zero)]
        if len(terms) != 1 or not isinstance(terms[0], Ref) or argument(node, 2, "alpha", 1) != 1:
            return None
        found = terms[0].index
    elif not (node.op in CASTS or (isinstance(atom, Random) and not atom.active(node))):
        return None
    real = is_real(node) and is_real(graph[found])
    return found if real and graph[found].shape == node.shape else None


def needed(graph: Graph, targets: Iterable[int], known: Container[int]) -> list[int]:
    """The nodes that ``targets`` are computed from, in order, where ``known`` need nothing."""
    found: set[int] = set()
    pending = list(targets)
    while pending:
        index = pending.pop()
        if index in found:
            continue
        found.add(index)
        if index not in known:
            pending.extend(graph[index].operands)
    return sorted(found)
