"""Whether samples are treated alike: exchanging two of them exchanges entries of a value, no more.

Then the rows of two samples are one function of θ and of what they see of their own inputs
(docs/theory section 3, "Rows, not samples"). It is shown op by op; where it is not, nothing is
known of the value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.discrete import by_entry
from blockframe.atoms.facts import (
    Bilinear,
    Detached,
    Discrete,
    Layout,
    Linear,
    Pairs,
    Pointwise,
    Random,
    Rowwise,
    Selection,
    Source,
    argument,
)
from blockframe.atoms.layout import accumulates
from blockframe.domains.interpreter import Domain, interpret
from blockframe.domains.reach import POOLS, SLOPES, broadcasts
from blockframe.graph.evaluate import call
from blockframe.graph.graph import Graph, Node, NodeKind, Ref, refs, substitute
from blockframe.graph.synthetic import ROTARY

LARGEST = 1 << 25
"""Entries of a value that are followed one by one."""
_CONVOLUTIONS = {"aten::conv1d": 3, "aten::conv2d": 4, "aten::conv3d": 5}


@frozen
class Samples:
    """How one value changes when samples are exchanged.

    Attributes:
        dim: the dimension along which entries belong to samples and move with them; None: the value
            does not change.
        inner: entry j along ``dim`` belongs to sample (j // inner) % N.
        flat: dimensions along which all entries are the same; those of size one are not listed.
        parts: of an op with several values, each of them.
    """

    dim: int | None = None
    inner: int = 1
    flat: frozenset[int] = frozenset()
    parts: tuple[Samples | None, ...] = field(default=())

    @property
    def still(self) -> bool:
        """Whether the value does not change."""
        return self.dim is None and not self.parts


Exchanged = Samples | None
"""None: nothing is known."""
STILL = Samples()


class Exchange(Domain[Exchanged]):
    """See the module. ``samples``: N, at least two."""

    def __init__(
        self, graph: Graph, constants: Mapping[int, Any], samples: int, catalogue: Catalogue
    ) -> None:
        self.graph = graph
        self.constants = constants
        self.samples = samples
        self.catalogue = catalogue
        self.values: list[Exchanged] = []
        self.moves: dict[Any, Exchanged] = {}  # layers repeat themselves, and so do their layouts

    def settle(self, node: Node, value: Exchanged) -> Exchanged:
        if value is not None and value.dim is not None:
            size = (node.shape or ())[value.dim : value.dim + 1]
            if not size or size[0] % (self.samples * value.inner):
                value = None
        self.values.append(value)
        return value

    def item(self, node: Node, value: Exchanged) -> Exchanged:
        if value is None or not value.parts:
            return STILL if value == STILL else None
        position: int = node.args[1]
        return value.parts[position]

    # --- leaves ----------------------------------------------------------------------------------

    def leaf(self, node: Node) -> Exchanged:
        if node.kind is not NodeKind.INPUT:
            return STILL
        if not node.shape or node.shape[0] != self.samples:
            return None  # an input for all samples together
        return Samples(0)

    def source(self, node: Node, atom: Source, operands: list[Exchanged]) -> Exchanged:
        if any(o is None or not o.still for o in operands):
            return None
        even = atom.value(node) is not None
        return Samples(flat=frozenset(range(len(node.shape or ())) if even else ()))

    # --- entries that move -----------------------------------------------------------------------

    def layout(self, node: Node, atom: Layout, operands: list[Exchanged]) -> Exchanged:
        if atom.cast:
            return operands[0]
        if None in operands or accumulates(node) or atom.fill(node):
            return None
        index = {r.index for p in atom.index if p < len(node.args) for r in refs(node.args[p])}
        if node.op == "aten::embedding":
            return self._looked_up(node)
        if any(i not in self.constants or not self._still(i) for i in index):
            return None
        if atom.writes and index:
            return None  # it is not said which of two entries stays where both are written
        moved = [i for i in dict.fromkeys(node.operands) if i not in index]
        if index:
            return self._moved(node, moved)
        if all(self._still(i) for i in moved) and not self._repeats(node, moved):
            return STILL
        order = {i: k for k, i in enumerate(dict.fromkeys(node.operands))}
        states = [(self.graph[i].shape, self.values[i]) for i in order]
        key = (node.op, repr(substitute((node.args, node.kwargs), order.get)), repr(states))
        if key not in self.moves:
            self.moves[key] = self._moved(node, moved)
        return self.moves[key]

    def _still(self, index: int) -> bool:
        value = self.values[index]
        return value is not None and value.still

    def _repeats(self, node: Node, moved: Sequence[int]) -> bool:
        """Whether an entry may stand in several places of the value."""
        if any(value.flat for i in moved if (value := self.values[i]) is not None):
            return True
        if node.shape is None:
            return False  # parts: nothing is said of repetitions inside them
        return math.prod(node.shape) > sum(math.prod(self.graph[i].shape or ()) for i in moved)

    def _looked_up(self, node: Node) -> Exchanged:
        table, places = (a.index for a in node.args[:2])
        where = self.values[places]
        if not self._still(table) or where is None:
            return None
        if where.dim is not None:
            return Samples(where.dim, where.inner)
        known = self.constants.get(places)
        return Samples(flat=_flat(known) if isinstance(known, Tensor) else where.flat)

    def _moved(self, node: Node, moved: Sequence[int]) -> Exchanged:
        """By what the op does to numbers of samples, and to numbers of places within them."""
        sizes = [math.prod(self.graph[i].shape or ()) for i in moved]
        unfollowed = self._mixed([self.values[i] for i in moved])
        if sum(sizes) > LARGEST or math.prod(node.shape or ()) > LARGEST:
            return unfollowed
        numbers: dict[int, Tensor] = {}
        places: dict[int, Tensor] = {}
        start = 1
        for i, size in zip(moved, sizes, strict=True):
            numbers[i], places[i] = self._labels(i, start)
            start += size

        def through(labels: Mapping[int, Tensor]) -> Any:
            def of(i: int) -> Any:
                return labels[i] if i in labels else self.constants[i]

            return call(node, substitute(node.args, of), substitute(node.kwargs, of))

        try:
            found = through(numbers), through(places)
        except (RuntimeError, NotImplementedError, IndexError, TypeError):
            return unfollowed  # an op for numbers of one type
        if not isinstance(found[0], Tensor):
            return Samples(parts=tuple(self._read(n, p) for n, p in zip(*found, strict=True)))
        return unfollowed if found[0].is_complex() else self._read(*found)

    def _labels(self, index: int, start: int) -> tuple[Tensor, Tensor]:
        """For every entry of a value 1 + its sample, or 0; and a number from ``start`` that it
        shares with what is moved here when samples are exchanged, and with equal entries."""
        value, shape = self.values[index], self.graph[index].shape or ()
        assert value is not None
        numbers = torch.zeros((), dtype=torch.float64).expand(shape)
        places = torch.full((), float(start), dtype=torch.float64)
        stride = 1.0
        for d in reversed(range(len(shape))):
            along = torch.arange(shape[d], dtype=torch.float64)
            lift = [-1, *(1 for _ in shape[d + 1 :])]
            if d == value.dim:
                block = self.samples * value.inner
                mine = (along // value.inner) % self.samples + 1.0
                numbers = mine.reshape(lift).expand(shape)
                along = (along // block) * value.inner + along % value.inner
            if d not in value.flat:
                places = places + stride * along.reshape(lift)
            stride *= shape[d]
        return numbers, places.expand(shape)

    def _read(self, numbers: Tensor, places: Tensor) -> Exchanged:
        if not bool(numbers.any()):
            return Samples(flat=_flat(places))
        labelled = numbers > 0
        for d, size in enumerate(numbers.shape):
            rest = [x for x in range(numbers.dim()) if x != d]
            along = numbers.amax(rest) if rest else numbers
            changes = (along != along[0]).nonzero()
            if not len(changes):
                continue
            inner = int(changes[0])
            if size % (self.samples * inner):
                return None
            expected = (torch.arange(size) // inner) % self.samples + 1.0
            shaped = expected.reshape([-1 if x == d else 1 for x in range(numbers.dim())])
            if not bool((numbers == torch.where(labelled, shaped, 0.0)).all()):
                return None
            same = all(_even(t, d, self.samples, inner) for t in (places, labelled))
            return Samples(d, inner) if same else None
        return None  # entries of one sample only

    # --- what is combined entry by entry ----------------------------------------------------------

    def _entrywise(
        self, shape: Sequence[int] | None, operands: Sequence[int], free: int = 0
    ) -> Exchanged:
        """Operands that are broadcast against each other; the last ``free`` dimensions may be of
        any sizes, and mixed."""
        parts = [(self.values[i], self.graph[i].shape or (), i) for i in operands]
        return self._combined(tuple(shape or ()), parts, free)

    def _combined(
        self,
        shape: tuple[int, ...],
        parts: Sequence[tuple[Exchanged, tuple[int, ...], int | None]],
        free: int = 0,
    ) -> Exchanged:
        axes = set()
        for value, own, _ in parts:
            kept = [s[: len(s) - free] for s in (own, shape)]
            if value is None or value.parts or not broadcasts(*kept):
                return None
            if value.dim is not None:
                if own[value.dim] != shape[value.dim + len(shape) - len(own)]:
                    return None
                axes.add((value.dim - len(own), value.inner))
        if len(axes) > 1:
            return None
        if not axes:
            return Samples(flat=frozenset(
                d for d in range(len(shape) - free)
                if all(self._flat_along(v, own, d - len(shape)) for v, own, _ in parts)
            ))  # fmt: skip
        ((dim, inner),) = axes
        if dim >= -free:
            return None
        moving = all(
            v is None or v.dim is not None or self._repeated(v, own, i, dim, inner)
            for v, own, i in parts
        )
        return Samples(dim + len(shape), inner) if moving else None

    def _flat_along(self, value: Exchanged, own: tuple[int, ...], dim: int) -> bool:
        """Whether entries are the same along a dimension, counted from the last."""
        if dim < -len(own) or own[dim] == 1:
            return True
        return value is not None and dim + len(own) in value.flat

    def _repeated(
        self, value: Samples, own: tuple[int, ...], index: int | None, dim: int, inner: int
    ) -> bool:
        """Whether a value that does not change is the same for every sample along ``dim``."""
        if self._flat_along(value, own, dim):
            return True
        known = self.constants.get(index) if index is not None else None
        if not isinstance(known, Tensor) or known.dim() != len(own):
            return False
        return _even(known, dim + len(own), self.samples, inner)

    def _mixed(self, operands: Sequence[Exchanged]) -> Exchanged:
        """Of an op that is not followed: known only where nothing changes."""
        return STILL if all(o is not None and o.still for o in operands) else None

    # --- rules -----------------------------------------------------------------------------------

    def linear(self, node: Node, atom: Linear, operands: list[Exchanged]) -> Exchanged:
        if atom.adds:
            return self._entrywise(node.shape, node.operands)
        if node.op == ROTARY.__name__:
            return self._entrywise(node.shape, node.operands, free=1)
        value = operands[0] if len(operands) == 1 else None
        if value is None or value.still or value.parts:
            return self._mixed(operands)
        dims = node.args[1] if len(node.args) > 1 else None
        rank = len(self.graph[node.operands[0]].shape or ())
        if node.op in ("aten::neg", "aten::positive"):
            return value
        if node.op in ("aten::sum", "aten::mean"):
            return STILL
        if node.op == "aten::cumsum" and isinstance(dims, int):
            return value if dims % rank != value.dim else None
        if node.op in ("aten::sum.dim_IntList", "aten::mean.dim"):
            return self._reduced(node, value, dims or range(rank), rank, symmetric=True)
        return value if node.op.startswith(POOLS) and value.dim == 0 else None

    def _reduced(
        self, node: Node, value: Samples, dims: Sequence[int], rank: int, *, symmetric: bool = False
    ) -> Exchanged:
        """Functions of the entries along ``dims``; ``symmetric``: the same for all their orders."""
        gone = {d % rank for d in dims}
        if value.dim is None or value.dim in gone:
            return STILL if symmetric else None
        kept = len(node.shape or ()) == rank
        return Samples(value.dim - (0 if kept else sum(d < value.dim for d in gone)), value.inner)

    def bilinear(self, node: Node, atom: Bilinear, operands: list[Exchanged]) -> Exchanged:
        if atom.pairs is Pairs.ENTRIES:
            return self._entrywise(node.shape, node.operands)
        factors = [node.args[p] for p in atom.factors if p < len(node.args)]
        if atom.pairs is Pairs.MATRICES and all(isinstance(f, Ref) for f in factors):
            plus = None if atom.plus is None else argument(node, atom.plus, "bias")
            return self._matrices(node, factors[0].index, factors[1].index, plus)
        if all(o is not None and o.still for o in operands):
            return STILL
        rank, first = _CONVOLUTIONS.get(node.op), operands[0]
        by_sample = (
            first is not None
            and first.dim == 0
            and len(self.graph[node.operands[0]].shape or ()) == rank
            and all(o is not None and o.still for o in operands[1:])
        )
        return first if by_sample else None

    def _matrices(self, node: Node, left: int, right: int, plus: Any) -> Exchanged:
        a, b = self.values[left], self.values[right]
        u, v = (self.graph[i].shape or () for i in (left, right))
        shape = tuple(node.shape or ())
        if a is None or b is None or a.parts or b.parts:
            return None
        if len(u) < 2 or len(v) < 2:
            return self._mixed([a, b])
        turned = node.op == "aten::linear"  # the weight is transposed
        row, column = None if a.dim is None else a.dim - len(u), None
        if b.dim is not None:
            column = b.dim - len(v)
            column = -3 - column if turned and column >= -2 else column
        product: Exchanged
        if row is None and column is None:
            product = self._still_product(shape, (a, u), (b, v), -2 if turned else -1)
        elif row == -1 or column == -2:
            return None  # samples are summed over
        elif row == -2 or column == -1:
            if row is not None and column is not None:
                return None
            axis, inner = (-2, a.inner) if row is not None else (-1, b.inner)
            product = Samples(axis + len(shape), inner)
        else:  # matrix by matrix
            product = self._combined(shape, [(a, u, left), (b, v, right)], free=2)
        if not isinstance(plus, Ref):
            return product
        added = self.values[plus.index], self.graph[plus.index].shape or (), plus.index
        return self._combined(shape, [(product, shape, None), added])

    def _still_product(
        self,
        shape: tuple[int, ...],
        left: tuple[Samples, tuple[int, ...]],
        right: tuple[Samples, tuple[int, ...]],
        column: int,
    ) -> Samples:
        """Of matrices that do not change: equal rows, or columns, give equal rows and columns."""
        flat = {
            d + len(shape)
            for d in range(-len(shape), -2)
            if self._flat_along(*left, d) and self._flat_along(*right, d)
        }
        flat |= {len(shape) - 2} if self._flat_along(*left, -2) else set()
        flat |= {len(shape) - 1} if self._flat_along(*right, column) else set()
        return Samples(flat=frozenset(flat))

    def pointwise(self, node: Node, atom: Pointwise, operands: list[Exchanged]) -> Exchanged:
        if node.op in SLOPES:  # one for each entry along dimension 1
            value, slope = operands[:2]
            alike = slope is not None and slope.still and value is not None and value.dim == 0
            return value if alike else self._mixed(operands)
        return self._entrywise(node.shape, node.operands)

    def rowwise(self, node: Node, atom: Rowwise, operands: list[Exchanged]) -> Exchanged:
        value, dims = operands[0], atom.dim(node)
        rank = len(self.graph[node.operands[0]].shape or ())
        if value is None or value.dim is None or dims is None or not rank:
            return self._mixed(operands)
        if any(o is None or not o.still for o in operands[1:]):
            return None
        if node.shape == self.graph[node.operands[0]].shape:
            return None if value.dim in {d % rank for d in dims} else value
        return self._reduced(node, value, dims, rank)

    def selection(self, node: Node, atom: Selection, operands: list[Exchanged]) -> Exchanged:
        if atom.parts is None:
            return self._mixed(operands)
        return self._entrywise(node.shape, node.operands)

    def discrete(self, node: Node, atom: Discrete, operands: list[Exchanged]) -> Exchanged:
        if not by_entry(node):
            return self._mixed(operands)
        return self._entrywise(node.shape, node.operands)

    def random(self, node: Node, atom: Random, operands: list[Exchanged]) -> Exchanged:
        return None if atom.active(node) else operands[0]

    def detached(self, node: Node, atom: Detached, operands: list[Exchanged]) -> Exchanged:
        return operands[0]

    def unknown(self, node: Node, operands: list[Exchanged]) -> Exchanged:
        return None


def alike(graph: Graph, constants: Mapping[int, Any], samples: int, catalogue: Catalogue) -> bool:
    """Whether exchanging two of the ``samples`` is shown to exchange their rows of the output of
    ``graph``, at every θ; the first dimension of inputs and output is the sample.

    Args:
        constants: values of nodes that do not depend on θ.
    """
    shape = graph[graph.output].shape or ()
    if samples < 2 or not shape or shape[0] != samples:
        return False
    domain = Exchange(graph, constants, samples, catalogue)
    value = interpret(graph, domain, catalogue)[graph.output]
    if value is None or value.parts:
        return False
    if value.dim is not None:
        return (value.dim, value.inner) == (0, 1)
    return domain._repeated(value, shape, graph.output, -len(shape), 1)


def _flat(t: Tensor) -> frozenset[int]:
    """The dimensions, of more than size one, along which all entries are the same."""
    dims = (d for d, n in enumerate(t.shape) if n > 1)
    return frozenset(d for d in dims if bool((t == t.narrow(d, 0, 1)).all()))


def _even(t: Tensor, dim: int, samples: int, inner: int) -> bool:
    """Whether the entries are the same for all samples along ``dim``."""
    if t.shape[dim] % (samples * inner):
        return False
    each = t.reshape(*t.shape[:dim], -1, samples, inner, *t.shape[dim + 1 :])
    return bool((each == each.narrow(dim + 1, 0, 1)).all())
