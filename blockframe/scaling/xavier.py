"""Weight matrices, their effective bottleneck, and their norms (docs/theory section 7).

What a parameter is as a matrix, the operation says that multiplies by it, through views and casts:
never its name or shape. ``linear`` has the outputs in the rows, ``addmm`` (HuggingFace's
``Conv1D``) in the columns; ``embedding`` is the product with one-hot vectors; a convolution is at
every frequency a matrix (output channels, input channels). A parameter that is only added or
multiplied entry by entry (biases, norms, tables of positions) is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from blockframe.atoms.facts import Layout, argument
from blockframe.graph.graph import Node, NodeKind, refs

if TYPE_CHECKING:
    from torch import Tensor

    from blockframe.blocks import Block, BlockChain
    from blockframe.problem import Problem

SPECTRAL_SIDE = 1024
"""Spectral norms are computed where the smaller side is at most this: eigenvalues of a matrix of
that size take less than a second."""


@frozen
class Matrix:
    """What one parameter is as a linear map.

    Attributes:
        outputs, inputs: the sides m and n of the map: features, or channels of a convolution.
        kernel: how many points a convolution's kernel has.
        groups: a grouped convolution is block diagonal, with so many blocks.
        count: how many such matrices the tensor holds (gates, experts).
    """

    outputs: int
    inputs: int
    kernel: int = 1
    groups: int = 1
    count: int = 1

    @property
    def fans(self) -> tuple[int, int]:
        """fan_in and fan_out in the sense of ``torch.nn.init``, kernel included, of one group."""
        size = self.kernel
        return self.inputs // self.groups * size, self.outputs // self.groups * size

    @property
    def width(self) -> int:
        """The larger side."""
        return max(self.outputs, self.inputs)

    @property
    def bottleneck(self) -> int:
        """The smaller side."""
        return min(self.outputs, self.inputs)

    @property
    def n_eff(self) -> float:
        """The effective bottleneck 2mn / (m + n): between `bottleneck` and its double."""
        m, n = self.outputs, self.inputs
        return 2 * m * n / (m + n)

    @property
    def at_xavier(self) -> float:
        """The tensor's Frobenius norm at Xavier initialization: root of the mean of its square.

        ``outputs * inputs * kernel / groups`` entries of variance ``2 / (fan_in + fan_out)``: the
        kernel and the groups cancel, and `n_eff` is left for every matrix.
        """
        return math.sqrt(self.count * self.n_eff)


@frozen
class Weight:
    """A parameter that a block multiplies by.

    ``op``: the operation, as in ``linear``. ``tied``: an earlier block multiplies by it as well.
    """

    name: str
    matrix: Matrix
    op: str
    tied: bool = False

    @property
    def is_table(self) -> bool:
        """Whether rows are looked up: a product with constant one-hot vectors."""
        return self.op in _LOOKUPS


@frozen
class Other:
    """A parameter of two or more sides that is no matrix; ``op``: what uses it."""

    name: str
    shape: tuple[int, ...]
    op: str


@frozen
class Widths:
    """The matrices of one block. The numbers are None where there are none.

    Tables (embeddings) count for the numbers where a block has no other matrix: they act on
    data, the others on the state.
    """

    block: str
    weights: tuple[Weight, ...]
    others: tuple[Other, ...] = ()

    @property
    def largest(self) -> int | None:
        """The largest side of any matrix."""
        return max((m.width for m in self._counted), default=None)

    @property
    def bottleneck(self) -> int | None:
        """The smallest side of any matrix."""
        return min((m.bottleneck for m in self._counted), default=None)

    @property
    def n_eff(self) -> float | None:
        """The smallest of the matrices' n_eff; between `bottleneck` and its double as well."""
        return min((m.n_eff for m in self._counted), default=None)

    @property
    def _counted(self) -> list[Matrix]:
        products = [w.matrix for w in self.weights if not w.is_table]
        return products or [w.matrix for w in self.weights]


@frozen
class Norms:
    """Measured norms of one parameter, in double precision.

    ``spectral``: the largest of those of the tensor's matrices; a convolution counts as the matrix
    that takes one patch to the outputs at its place. None where it would be expensive.
    """

    frobenius: float
    spectral: float | None


@frozen
class Measured:
    """What the weights of a problem measure.

    Attributes:
        on: "full" or "proxy".
        init: as ``--init`` names how they were drawn.
        blocks: the matrices of the problem that was measured.
        norms: by the name of the parameter.
    """

    on: str
    init: str
    blocks: tuple[Widths, ...]
    norms: Mapping[str, Norms]

    @classmethod
    def of(cls, chain: BlockChain, on: str, init: str) -> Measured:
        """Measures the weights of ``chain``, whose problem's parameters hold numbers."""
        blocks = widths(chain)
        weights = [w for block in blocks for w in block.weights if not w.tied]
        return cls(on, init, blocks, norms(chain.problem, weights))


def widths(chain: BlockChain) -> tuple[Widths, ...]:
    """The weight matrices of every block, from shapes and operations alone."""
    weights: dict[Block, dict[str, Weight]] = {block: {} for block in chain.blocks}
    others: dict[str, tuple[Block, Other]] = {}
    known: set[str] = set()
    for node, parameter, matrix in _uses(chain):
        block, name, shape = chain.owners[node.index], parameter.target, parameter.shape or ()
        if matrix is not None:
            weights[block].setdefault(name, Weight(name, matrix, node.short, name in known))
            known.add(name)
        elif sum(side > 1 for side in shape) > 1:
            others.setdefault(name, (block, Other(name, shape, node.short)))
    return tuple(
        Widths(
            block.name,
            tuple(weights[block].values()),
            tuple(o for where, o in others.values() if where is block and o.name not in known),
        )
        for block in chain.blocks
    )


def norms(problem: Problem, weights: Sequence[Weight]) -> dict[str, Norms]:
    """The norms that ``weights`` have in ``problem``, whose parameters hold numbers."""
    import torch

    parameters = dict(problem.module.named_parameters())
    found = {}
    with torch.no_grad():
        for weight in weights:
            tensor = parameters[weight.name].detach().double().cpu()
            frobenius = float(tensor.norm())
            parts = _matrices(tensor, weight) if math.isfinite(frobenius) else None
            found[weight.name] = Norms(frobenius, None if parts is None else _spectral(parts))
    return found


# --- which operation multiplies by which parameter ---------------------------------------------


def _uses(chain: BlockChain) -> Iterator[tuple[Node, Node, Matrix | None]]:
    """Every operation on a parameter's entries: the node, the parameter, and as what matrix."""
    graph, module = chain.graph, chain.problem.module
    held: dict[int, tuple[Node, ...]] = {}  # the parameters whose entries a node only moves
    for node in graph:
        if node.kind is NodeKind.PARAMETER:
            held[node.index] = (node,)
        if node.kind is not NodeKind.CALL:
            continue
        if (moved := _moved(node, chain)) and all(i in held for i in moved):
            held[node.index] = tuple(dict.fromkeys(p for i in moved for p in held[i]))
            continue
        for slot, operand in _slots(node):
            for parameter in held.get(operand, ()):
                read = READINGS.get(node.short, _none)(node, slot, graph[operand].shape or ())
                whole = read and _whole(read, parameter, _sharing(module, parameter.target))
                yield node, parameter, whole


def _moved(node: Node, chain: BlockChain) -> list[int] | None:
    """The operands whose entries ``node`` moves, drops or repeats; None if it does more."""
    if node.op == "getitem":
        return list(node.operands)
    atom = chain.catalogue.lookup(node)
    if not isinstance(atom, Layout) or node.short in READINGS:
        return None
    values = [a for i, a in enumerate(node.args) if i not in atom.index]
    return [ref.index for ref in refs((values, node.kwargs))]


def _slots(node: Node) -> Iterator[tuple[int, int]]:
    """Pairs of an argument's position (for einsum: in its list) and the node that it uses."""
    for slot, value in enumerate(node.args):
        for place, ref in enumerate(refs(value)):
            yield (place if node.short == "einsum" else slot), ref.index


def _sharing(module: Any, name: str) -> int:
    """How many matrices share a tensor because the layer that owns it says so (gates)."""
    from blockframe.initialize import matrices

    owner, _, leaf = name.rpartition(".")
    layer = module.get_submodule(owner)
    weight = getattr(layer, leaf)
    return len(matrices(weight, layer)) if weight.dim() == 2 else 1


def _whole(read: Matrix, parameter: Node, sharing: int) -> Matrix | None:
    """The whole parameter as matrices, where ``read`` is what one operation uses of it.

    Slices of a matrix are read as one matrix (as ``torch.nn.init`` does), slices of a tensor of
    more dimensions as a stack. None where ``read`` is no even part of it.
    """
    shape = parameter.shape or ()
    entries, per_output = math.prod(shape), read.inputs * read.kernel // read.groups
    if not entries or not per_output:
        return None
    if len(shape) == 2 and read.kernel * read.groups == 1:
        outputs, inputs = shape
        if read.inputs in shape:
            outputs, inputs = entries // read.inputs, read.inputs
        elif read.outputs in shape:
            outputs, inputs = read.outputs, entries // read.outputs
        count = sharing if outputs % sharing == 0 else 1
        return Matrix(outputs // count, inputs, count=count)
    outputs, rest = divmod(entries, per_output)
    if rest:
        return None
    if read.kernel * read.groups > 1:
        return evolve(read, outputs=outputs)
    count, rest = divmod(outputs, read.outputs)
    return None if rest else evolve(read, count=count)


# --- what an operation takes an operand for ----------------------------------------------------

Shape = tuple[int, ...]
Reading = Callable[[Node, int, Shape], Matrix | None]
"""Given the node, the position of an operand among its arguments and the operand's shape."""


def _none(node: Node, slot: int, shape: Shape) -> Matrix | None:
    return None


def _rows(*slots: int) -> Reading:
    """Outputs in the rows: W x."""
    return lambda node, slot, shape: (
        Matrix(shape[-2], shape[-1]) if slot in slots and len(shape) > 1 else None
    )


def _columns(*slots: int) -> Reading:
    """Outputs in the columns: x W."""
    return lambda node, slot, shape: (
        Matrix(shape[-1], shape[-2]) if slot in slots and len(shape) > 1 else None
    )


def _either(left: int) -> Reading:
    """A product of two matrices, the left one at position ``left``."""
    rows, columns = _rows(left), _columns(left + 1)
    return lambda node, slot, shape: rows(node, slot, shape) or columns(node, slot, shape)


def _convolution(node: Node, slot: int, shape: Shape) -> Matrix | None:
    general = node.short == "convolution"
    groups = int(argument(node, 8 if general else 6, "groups", 1))
    transposed = argument(node, 6, "transposed") if general else "transpose" in node.short
    if slot != 1:
        return None
    first, second, kernel = shape[0], shape[1] * groups, math.prod(shape[2:])
    outputs, inputs = (second, first) if transposed else (first, second)
    return Matrix(outputs, inputs, kernel, groups)


def _einsum(node: Node, slot: int, shape: Shape) -> Matrix | None:
    """Inputs: the indices that are summed with another operand; outputs: those of its own."""
    left, arrow, output = str(node.args[0]).replace(" ", "").partition("->")
    terms = left.split(",")
    mine, others = terms[slot], set("".join(terms[:slot] + terms[slot + 1 :]))
    if not arrow or "." in left or len(set(mine)) < len(mine):
        return None
    size = dict(zip(mine, shape, strict=True))
    inputs = [size[i] for i in mine if i in others and i not in output]
    outputs = [size[i] for i in mine if i not in others and i in output]
    return Matrix(math.prod(outputs), math.prod(inputs)) if inputs and outputs else None


def _tensordot(node: Node, slot: int, shape: Shape) -> Matrix | None:
    if slot > 1:
        return None
    inputs = math.prod(shape[d] for d in node.args[2 + slot])
    return Matrix(math.prod(shape) // inputs, inputs) if inputs else None


_LOOKUPS = ("embedding", "embedding_bag")
_CONVOLUTIONS = (
    "convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d",
)  # fmt: skip

READINGS: Mapping[str, Reading] = {
    "linear": _rows(1),
    "inner": _rows(0, 1),
    "mv": _rows(0),
    "addmv": _rows(1),
    **dict.fromkeys(("mm", "bmm", "matmul"), _either(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm"), _either(1)),
    "bilinear": _rows(2),  # a stack: one matrix between its two inputs for every output
    **dict.fromkeys(_LOOKUPS, _columns(0)),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _rows(2)),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _rows(2, 3)),
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    "einsum": _einsum,
    "tensordot": _tensordot,
}
"""By the name of the operation: which of its operands are matrices, and which way round."""


# --- measured ----------------------------------------------------------------------------------


def _matrices(tensor: Tensor, weight: Weight) -> Tensor | None:
    """The matrices in ``tensor``, of shape (how many, rows, columns); None for other layouts."""
    matrix = weight.matrix
    if tensor.dim() == 2 or weight.op in _CONVOLUTIONS:
        return tensor.reshape(matrix.count * matrix.groups, -1, math.prod(tensor.shape[1:]))
    sides = (matrix.outputs, matrix.inputs)
    stacked = tuple(tensor.shape[-2:]) in (sides, sides[::-1])
    return tensor.reshape(-1, *tensor.shape[-2:]) if stacked else None


def _spectral(matrices: Tensor) -> float | None:
    """The largest singular value of any of ``matrices``, by the smaller Gram matrix."""
    import torch

    if min(matrices.shape[1:]) > SPECTRAL_SIDE:
        return None
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    largest = float(torch.linalg.eigvalsh(wide @ wide.mT).max())
    return math.sqrt(max(largest, 0.0))
