"""Which inputs an entry of a value can depend on: which samples, and how far into each of them.

The first dimension of an input is the sample, the second the position (docs/theory section 3,
"Rows, not samples"). An upper bound: where an op is not followed entry by entry, every entry of
its value is taken to depend on all that its operands do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from attrs import evolve, frozen
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
from blockframe.domains.interpreter import Domain, interpret
from blockframe.graph.evaluate import call
from blockframe.graph.graph import Graph, Node, NodeKind, Ref, refs, substitute
from blockframe.graph.synthetic import ROTARY

MASKING = -1e30
"""A constant at or below this, added to or put in place of a score, counts as minus infinity where
some scores of the row are not so: the weight exp(-1e30) that a softmax then gives is 0 in every
floating-point format (docs/theory section 3, "What is assumed")."""

ORDINARY = 1e10
"""The largest number that may stand beside masked scores."""

_FLAGS = ("masked", "zero")
_ARITHMETIC = ("add", "sub", "rsub", "mul", "div", "pow")
POOLS = ("aten::avg_pool", "aten::adaptive_avg_pool", "aten::_adaptive_avg_pool", "aten::upsample")
_CONVOLUTIONS = ("aten::conv1d", "aten::conv2d", "aten::conv3d")
SLOPES = ("aten::prelu", "aten::_prelu_kernel")


@frozen(eq=False)
class Seen:
    """What the entries of one value depend on.

    Attributes:
        marks: (m, *shape), float32; 0 where an entry depends on no input. ``marks[0]`` is 1 + the
            last sample seen, ``marks[1]`` the number of samples from the first one seen to the end
            of the batch, ``marks[2 + j]`` 1 + the last position seen in input j. The marks of a
            function of two entries are the larger ones.
        masked: where entries are minus infinity, constantly; None: nowhere.
        zero: where entries are zero, constantly; None: nowhere.
        parts: of an op with several values, each of them.
        plain: entries that are not masked come from parameters, inputs and ordinary numbers, so
            that beside them a masked one counts as minus infinity.
    """

    marks: Tensor
    masked: Tensor | None = None
    zero: Tensor | None = None
    parts: tuple[Seen, ...] = ()
    plain: bool = True

    @property
    def blank(self) -> bool:
        """Whether no entry depends on an input."""
        return not bool(shrunk(self.marks).any())


class ReachDomain(Domain[Seen]):
    """See the module. ``samples``: N; ``inputs``: the graph's INPUT nodes, in order."""

    def __init__(self, graph: Graph, constants: Mapping[int, Any], samples: int) -> None:
        self.graph = graph
        self.constants = constants
        self.samples = samples
        self.inputs = [n.index for n in graph if n.kind is NodeKind.INPUT]
        self.values: list[Seen] = []

    def settle(self, node: Node, value: Seen) -> Seen:
        """Constants whose numbers are known say where they mask and where they are zero."""
        known = self.constants.get(node.index)
        if node.dtype is None or not node.dtype.is_floating_point:  # another number, or none
            value = evolve(value, masked=None, zero=None)
        if isinstance(known, Tensor) and known.is_floating_point() and value.blank:
            masked, zero = known <= MASKING, known == 0
            value = evolve(
                value,
                masked=masked if bool(masked.any()) else None,
                zero=zero if bool(zero.any()) else None,
            )
        self.values.append(evolve(value, plain=self._is_plain(node, value, known)))
        return self.values[-1]

    def _is_plain(self, node: Node, value: Seen, known: Any) -> bool:
        if isinstance(known, Tensor):
            if known.is_complex():
                return False
            numbers = known.to(torch.float64)
            return bool(((numbers.abs() <= ORDINARY) | (numbers <= MASKING)).all())
        if node.kind is not NodeKind.CALL:
            return node.kind in (NodeKind.PARAMETER, NodeKind.INPUT)
        operands = [self.values[i] for i in node.operands]
        given = [a for a in node.args if isinstance(a, float)]
        given += [a for a in node.args if isinstance(a, int) and node.short in _ARITHMETIC]
        large = any(not abs(a) <= ORDINARY and not a <= MASKING for a in given)
        lost = value.masked is None and value.zero is None
        return not large and all(s.plain and not (lost and s.masked is not None) for s in operands)

    # --- leaves ----------------------------------------------------------------------------------

    def leaf(self, node: Node) -> Seen:
        shape = node.shape or ()
        if node.kind is not NodeKind.INPUT or not shape or shape[0] != self.samples:
            # A parameter or constant; an input without samples is the same for all of them.
            return self._nothing(node)
        numbers = torch.arange(self.samples, dtype=torch.float32)
        numbers = numbers.reshape(-1, *(1 for _ in shape[1:]))
        positions = torch.arange(shape[1] if shape[1:] else 1, dtype=torch.float32)
        channels = [torch.zeros(()) for _ in range(len(self.inputs) + 2)]
        channels[0] = numbers + 1
        channels[1] = self.samples - numbers
        channels[2 + self.inputs.index(node.index)] = (
            positions.reshape(-1, *(1 for _ in shape[2:])) + 1
        )
        return Seen(_stacked([c.expand(shape) for c in channels]))

    def source(self, node: Node, atom: Source, operands: list[Seen]) -> Seen:
        return self._nothing(node)

    def _nothing(self, node: Node) -> Seen:
        return self._uniform(node, torch.zeros(len(self.inputs) + 2))

    def _uniform(self, node: Node, marks: Tensor) -> Seen:
        """The same marks for every entry."""
        shape = node.shape or ()
        return Seen(marks.reshape(-1, *(1 for _ in shape)).expand(-1, *shape))

    def _anything(self, node: Node, operands: Sequence[Seen]) -> Seen:
        """Every entry may depend on every entry of the operands."""
        marks = torch.zeros(len(self.inputs) + 2)
        for seen in operands:
            if seen.marks[0].numel():
                marks = torch.maximum(marks, shrunk(seen.marks).reshape(len(marks), -1).amax(1))
        return self._uniform(node, marks)

    def _entrywise(self, node: Node, operands: Sequence[Seen]) -> Seen:
        """Operands that are broadcast against each other."""
        shape = node.shape or ()
        marks = torch.zeros(len(self.inputs) + 2, *(1 for _ in shape)).expand(-1, *shape)
        for seen in operands:
            if not broadcasts(seen.marks.shape[1:], shape):
                return self._anything(node, operands)
            marks = torch.maximum(shrunk(marks), shrunk(_lifted(seen.marks, len(shape))))
        return Seen(marks.expand(-1, *shape))

    # --- rules -----------------------------------------------------------------------------------

    def layout(self, node: Node, atom: Layout, operands: list[Seen]) -> Seen:
        index = {r.index for p in atom.index if p < len(node.args) for r in refs(node.args[p])}
        if any(not self.values[i].blank for i in index):
            return self._looked_up(node, operands)
        if atom.cast:
            return operands[0]
        unsure = atom.writes and index  # of two entries in one place it is not said which one stays
        if atom.fill(node) or unsure or any(i not in self.constants for i in index):
            return self._anything(node, operands)

        def moved(channel: Callable[[Seen], Tensor]) -> Any:
            def of(i: int) -> Any:
                return self.constants[i] if i in index else channel(self.values[i])

            return call(node, substitute(node.args, of), substitute(node.kwargs, of))

        try:
            channels = [moved(partial(_mark, k)) for k in range(len(self.inputs) + 2)]
            flags = {
                name: moved(partial(_flag, name))
                for name in _FLAGS
                if any(getattr(seen, name) is not None for seen in operands)
            }
        except (RuntimeError, NotImplementedError, IndexError):  # an op for numbers of one type
            return self._anything(node, operands)
        if not isinstance(channels[0], Tensor):
            parts = tuple(Seen(_stacked(part)) for part in zip(*channels, strict=True))
            return evolve(self._anything(node, operands), parts=parts)
        if channels[0].shape != node.shape or channels[0].is_complex():
            return self._anything(node, operands)
        masked, zero = (f.bool() if f is not None else None for f in map(flags.get, _FLAGS))
        return Seen(_stacked(channels), masked, zero)

    def _looked_up(self, node: Node, operands: list[Seen]) -> Seen:
        """A table looked up at positions that come from the data (an embedding)."""
        table, places = operands[:2]
        if node.op != "aten::embedding" or not table.blank:
            return self._anything(node, operands)
        return Seen(places.marks.unsqueeze(-1).expand(-1, *(node.shape or ())))

    def item(self, node: Node, value: Seen) -> Seen:
        return value.parts[node.args[1]] if value.parts else self._anything(node, [value])

    def linear(self, node: Node, atom: Linear, operands: list[Seen]) -> Seen:
        if atom.adds:
            return self._sum(node, operands)
        if node.op == ROTARY.__name__:
            last = [Seen(self._all_along_the_last(s.marks)) for s in operands]
            return self._entrywise(node, last)
        if len(operands) == 1:
            return self._reduced(node, operands[0])
        return self._anything(node, operands)

    def _sum(self, node: Node, operands: list[Seen]) -> Seen:
        total = self._entrywise(node, operands)
        masked = [s.masked for s in operands if s.masked is not None]
        plain = node.op.startswith("aten::add") and argument(node, 2, "alpha", 1) == 1
        if not masked or not plain:
            return total
        lifted = [m.expand(node.shape or ()) for m in masked]
        return evolve(total, masked=torch.stack(lifted).any(0))

    def _reduced(self, node: Node, seen: Seen) -> Seen:
        """Sums along whole dimensions, running sums, and what acts entry by entry."""
        shape = tuple(seen.marks.shape[1:])
        dims = node.args[1] if len(node.args) > 1 else None
        if node.op == "aten::cumsum" and isinstance(dims, int) and shape:
            return Seen(seen.marks.cummax(dims % len(shape) + 1).values)
        if node.op in ("aten::sum.dim_IntList", "aten::mean.dim") and dims:
            axes = [d % len(shape) + 1 for d in dims]
            return self._within(node, seen.marks, axes)
        if node.op in ("aten::neg", "aten::positive"):
            return Seen(seen.marks, zero=seen.zero)
        if node.op.startswith(POOLS):
            return self._swept(node, seen, lambda places: node.target(places, *node.args[1:]))
        return self._anything(node, [seen])

    def _all_along_the_last(self, marks: Tensor) -> Tensor:
        """One value for each row along the last dimension, which has then size one."""
        return shrunk(marks).amax(-1, keepdim=True) if marks.dim() > 1 else marks

    def _within(self, node: Node, marks: Tensor, axes: Sequence[int]) -> Seen:
        """One value for each row along ``axes``, which are kept with size one, or not."""
        shape = node.shape or ()
        keep = len(shape) == marks.dim() - 1
        return Seen(shrunk(marks).amax(list(axes), keepdim=keep).expand(-1, *shape))

    def bilinear(self, node: Node, atom: Bilinear, operands: list[Seen]) -> Seen:
        if atom.pairs is Pairs.ENTRIES:
            return self._times(node, operands)
        factors = [node.args[p] for p in atom.factors if p < len(node.args)]
        if atom.pairs is not Pairs.MATRICES or not all(isinstance(f, Ref) for f in factors):
            return self._convolved(node, operands) or self._anything(node, operands)
        a, b = (self.values[f.index] for f in factors)
        transposed = node.op == "aten::linear"
        product = self._matrices(node, a, b, transposed=transposed)
        rest = [s for r, s in zip(node.operands, operands, strict=True)
                if r not in {f.index for f in factors}]  # fmt: skip
        return self._entrywise(node, [product, *rest]) if rest else product

    def _times(self, node: Node, operands: list[Seen]) -> Seen:
        if any(
            isinstance(a, (int, float)) and a == 0 for a in node.args[: 1 if _divides(node) else 2]
        ):
            return self._nothing(node)
        product = self._entrywise(node, operands)
        zeros = [s.zero.expand(node.shape or ()) for s in operands if s.zero is not None]
        if not zeros or _divides(node):
            return product
        zero = torch.stack(zeros).any(0)
        return Seen(product.marks.masked_fill(zero, 0.0), zero=zero)

    def _matrices(self, node: Node, a: Seen, b: Seen, *, transposed: bool) -> Seen:
        if a.marks.dim() < 3 or b.marks.dim() < 3:
            return self._anything(node, [a, b])
        left, right = a.marks, b.marks.mT if transposed else b.marks
        batch = node.shape[:-2] if node.shape else ()
        left, right = (_batched(x, batch) for x in (left, right))
        if a.zero is None:
            marks = torch.maximum(
                shrunk(left).amax(-1, keepdim=True), shrunk(right).amax(-2, keepdim=True)
            )
        else:
            through = (
                shrunk(right).amax(-1).unsqueeze(-2).expand(*right.shape[:-2], 1, right.shape[-2])
            )
            pairs = torch.maximum(left, through)  # what entry (m, k) brings in
            zero = a.zero.expand(*batch, *a.zero.shape[-2:])
            marks = pairs.masked_fill(zero, 0.0).amax(-1, keepdim=True)
        return Seen(marks.expand(-1, *(node.shape or ())))

    def _convolved(self, node: Node, operands: list[Seen]) -> Seen | None:
        """A convolution with a kernel that is no data."""
        ranks = {operands[0].marks.dim(), operands[1].marks.dim()}  # one: there is a batch
        blank = all(s.blank for s in operands[1:])
        if not node.op.startswith(_CONVOLUTIONS) or len(ranks) > 1 or not blank:
            return None
        kernel = torch.ones(operands[1].marks.shape[1:])
        options = {k: v for k, v in node.kwargs.items() if k != "bias"}

        def of(places: Tensor) -> Tensor:
            touched: Tensor = node.target(places, kernel, None, *node.args[3:], **options)
            return touched

        return self._swept(node, operands[0], of)

    def _swept(self, node: Node, seen: Seen, of: Callable[[Tensor], Tensor]) -> Seen:
        """Of an op without negative coefficients that takes samples one by one: level by level,
        which places are touched."""
        channels = []
        for channel in seen.marks.unsqueeze(1):
            small = shrunk(channel)[0]
            flat = small.reshape(len(small), -1)
            if bool((flat == flat[:, :1]).all()):  # every sample is marked as a whole
                touched = of(torch.ones(1, *channel.shape[2:])) != 0
                levels = flat[:, 0].reshape(-1, *(1 for _ in touched.shape[1:]))
                channels.append((touched * levels).expand(node.shape or ()))
                continue
            if bool((small == small[:1]).all()):  # all samples are marked alike
                small = small[:1]
            places = small.expand(small.shape[0], *channel.shape[2:])
            out = torch.zeros(small.shape[0], *(node.shape or ())[1:])
            for level in small.unique():  # type: ignore[no-untyped-call]
                if level > 0:
                    out[of((places >= level).float()) != 0] = level
            channels.append(out.expand(node.shape or ()))
        return Seen(_stacked(channels))

    def pointwise(self, node: Node, atom: Pointwise, operands: list[Seen]) -> Seen:
        if node.op in SLOPES and not all(s.blank for s in operands[1:]):
            return self._anything(node, operands)  # one for each entry along dimension 1
        return self._entrywise(node, operands[:1] if node.op in SLOPES else operands)

    def rowwise(self, node: Node, atom: Rowwise, operands: list[Seen]) -> Seen:
        seen, rank = operands[0], len(self.graph[node.operands[0]].shape or ())
        dims = atom.dim(node)
        if dims is None or not rank:
            return self._anything(node, operands)
        axes = [d % rank + 1 for d in dims]
        masked = seen.masked if atom.masked and seen.plain else None
        if masked is not None:  # where all are, they are alike, and none of them is left out
            masked = masked & ~_all(masked, [a - 1 for a in axes])
        marks = seen.marks if masked is None else seen.marks.masked_fill(masked, 0.0)
        shape = tuple(node.shape or ())
        if shape != tuple(seen.marks.shape[1:]):  # one number for each row
            return self._within(node, marks, axes)
        rows = Seen(shrunk(marks).amax(axes, keepdim=True).expand(-1, *shape))
        if not all(s.blank for s in operands[1:]):
            return self._anything(node, operands)
        return rows if masked is None else Seen(rows.marks.masked_fill(masked, 0.0), zero=masked)

    def selection(self, node: Node, atom: Selection, operands: list[Seen]) -> Seen:
        choice = node.args[atom.chooser] if atom.chooser is not None else None
        known = self.constants.get(choice.index) if isinstance(choice, Ref) else None
        if atom.parts is None or not isinstance(choice, Ref):
            return self._anything(node, operands)
        if not isinstance(known, Tensor) or known.dtype is not torch.bool:
            return self._entrywise(node, operands)
        if not self.values[choice.index].blank:  # another choice for other inputs
            return self._entrywise(node, operands)
        shape = node.shape or ()
        where = known.expand(shape)
        marks = self._nothing(node).marks
        flags: dict[str, Tensor] = {}
        for position, mine in zip(atom.parts, (where, ~where), strict=True):
            part = node.args[position]
            if isinstance(part, Ref):
                seen = self.values[part.index]
                if not broadcasts(seen.marks.shape[1:], shape):
                    return self._anything(node, operands)
                marks = torch.where(mine, _lifted(seen.marks, len(shape)), marks)
                found = {"masked": seen.masked, "zero": seen.zero}
            else:
                masks = torch.tensor(float(part) <= MASKING)
                found = {"masked": masks, "zero": torch.tensor(float(part) == 0.0)}
            for name, flag in found.items():
                if flag is not None:
                    own = flag.expand(shape) & mine
                    flags[name] = own | flags[name] if name in flags else own
        masked, zero = (flags.get(name) for name in ("masked", "zero"))
        return Seen(marks, masked, zero)

    def discrete(self, node: Node, atom: Discrete, operands: list[Seen]) -> Seen:
        if not by_entry(node):
            return self._anything(node, operands)
        return self._entrywise(node, operands)

    def random(self, node: Node, atom: Random, operands: list[Seen]) -> Seen:
        return self._anything(node, operands) if atom.active(node) else operands[0]

    def detached(self, node: Node, atom: Detached, operands: list[Seen]) -> Seen:
        return operands[0]

    def unknown(self, node: Node, operands: list[Seen]) -> Seen:
        return self._anything(node, operands)


def reach(
    graph: Graph, constants: Mapping[int, Any], samples: int, catalogue: Catalogue
) -> list[Seen]:
    """What every value of ``graph`` can depend on, for a batch of ``samples``."""
    return interpret(graph, ReachDomain(graph, constants, samples), catalogue)


def _all(flags: Tensor, dims: Sequence[int]) -> Tensor:
    """Whether all are set along ``dims``, which are kept with size one."""
    for d in dims:
        flags = flags.all(d, keepdim=True)
    return flags


def _divides(node: Node) -> bool:
    return "div" in node.op


def _mark(k: int, seen: Seen) -> Tensor:
    return seen.marks[k]


def _flag(name: str, seen: Seen) -> Tensor:
    flag: Tensor | None = getattr(seen, name)
    return torch.zeros(seen.marks.shape[1:]) if flag is None else flag.float()


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether a tensor of ``shape`` can be expanded to the shape ``to``."""
    if len(shape) > len(to):
        return False
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return all(a in (1, b) for a, b in pairs)


def shrunk(marks: Tensor) -> Tensor:
    """With size one for every dimension along which nothing changes because it was expanded."""
    for d in range(1, marks.dim()):
        if marks.stride(d) == 0 and marks.shape[d] > 1:
            marks = marks.narrow(d, 0, 1)
    return marks


def _stacked(channels: Sequence[Tensor]) -> Tensor:
    """One mark after the other; what all of them repeat is not repeated in memory."""
    shape = channels[0].shape
    small = [shrunk(c.unsqueeze(0)) for c in channels]
    widest = [max(c.shape[d] for c in small) for d in range(1, len(shape) + 1)]
    return torch.cat([c.expand(1, *widest) for c in small]).expand(-1, *shape)


def _lifted(marks: Tensor, rank: int) -> Tensor:
    """With dimensions of size one before those of the value."""
    missing = rank - (marks.dim() - 1)
    return marks.reshape(marks.shape[0], *(1 for _ in range(missing)), *marks.shape[1:])


def _batched(marks: Tensor, batch: Sequence[int]) -> Tensor:
    lifted = _lifted(marks, len(batch) + 2)
    return lifted.expand(-1, *batch, *marks.shape[-2:])
