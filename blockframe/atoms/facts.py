"""The record types: one kind per op, one record of facts, from which every domain derives its rule.

An op is named as PyTorch's schema names it: ``aten::gelu`` is the default overload and no other,
``aten::max.dim`` the overload ``dim``. (Overloads of one name can be different functions:
``view.dtype`` reinterprets bits, ``div.Tensor_mode`` rounds.) A record states facts about the
*mathematical* function: real arithmetic, evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from blockframe.atoms.interval import REALS, Interval

if TYPE_CHECKING:
    from torch import Tensor

    from blockframe.graph.graph import Node


def _names(ops: str | Iterable[str]) -> tuple[str, ...]:
    return (ops,) if isinstance(ops, str) else tuple(ops)


def _intervals(parts: Interval | Iterable[Interval]) -> tuple[Interval, ...]:
    return (parts,) if isinstance(parts, Interval) else tuple(parts)


@frozen
class Atom:
    """What all records have: the ops that they describe and where the facts come from."""

    ops: tuple[str, ...] = field(converter=_names)
    source: str = field(default="", kw_only=True)


Shape = tuple[int, ...]
Bounds = tuple[tuple[float, float], float, float]
"""Growth (c0, c1), supremum of |f'|, supremum of |f''|."""
Ranges = Callable[[Any], Interval]
"""The range of an argument of a node, be it another node's value or a number."""
RangeRule = Callable[["Node", Ranges], Interval]


@frozen
class Source(Atom):
    """Makes a tensor from constants, or from the shape of another: arange, full, zeros_like.

    ``value``: given the node, the one number that all entries are, or None.
    """

    value: Callable[[Node], float | None] = lambda node: None


@frozen
class Layout(Atom):
    """Moves, repeats, drops or casts entries: view, slice, cat, expand, gather by constant index.

    Attributes:
        index: positions of the operands that say where entries go; they hold no entries of the
            value themselves. Where one of them depends on parameters, the op jumps.
        fill: given the node, a number that stands where no entry does (padding), or None.
        writes: a later entry replaces an earlier one where the index repeats itself; the gradient
            that PyTorch computes does not know that.
        copies: given the node and the shape of an operand, how often one of its entries can occur
            in the value; None: as often as the value has entries.
        cast: every entry stays where it is (a cast, a copy in memory).
    """

    index: tuple[int, ...] = ()
    writes: bool = False
    fill: Callable[[Node], float | None] = lambda node: None
    copies: Callable[[Node, Shape], int] | None = None
    cast: bool = False


@frozen
class Linear(Atom):
    """Linear (affine) in all tensor operands jointly: add, sum, mean, cumsum, negation.

    Attributes:
        range: where the values lie, given the node and the ranges of its arguments.
        norm: operator norm (Frobenius to Frobenius, rounded up) of the map from an operand of a
            given shape to the value; None if the record does not say.
        adds: the value is the sum of the operands, up to signs and ``alpha``, entry by entry.
    """

    range: RangeRule = lambda node, of: REALS
    norm: Callable[[Node, Shape], float | None] = lambda node, shape: None
    adds: bool = False


class Pairs(Enum):
    """What a bilinear op multiplies with what."""

    ENTRIES = "entry by entry: |uv| <= max|u| |v| in Frobenius norms"
    MATRICES = "matrices, of the last two dimensions: |uv| <= |u|_2 |v|"
    ANY = "no better than |uv| <= |u| |v|"


@frozen
class Bilinear(Atom):
    """Linear in each operand for itself: mul, matmul, conv, einsum.

    Attributes:
        divides: position of an operand that enters as its reciprocal (division).
        range: where the values lie, given the node and the ranges of its arguments.
        factors: positions of the two operands that are multiplied.
        plus: position of an operand that is added (a bias), or None.
        norm: given the node and the shapes of the factors, c with |uv| <= c |u| |v| in Frobenius
            norms (the scale of the product included); None if the record does not say.
        pairs: what is multiplied with what, for the tighter of several bounds; what else is true
            of ``norm`` must be true of it.
    """

    divides: int | None = None
    range: RangeRule = lambda node, of: REALS
    factors: tuple[int, int] = (0, 1)
    plus: int | None = None
    norm: Callable[[Node, Shape, Shape], float | None] = lambda node, u, v: None
    pairs: Pairs = Pairs.ANY


@frozen
class Kink:
    """Where a pointwise function is not analytic though it is defined.

    ``order``: the lowest derivative that jumps (0: the value itself).
    """

    at: float
    order: int = 1


@frozen
class Pointwise(Atom):
    """One scalar function applied to every entry of its first operand.

    Attributes:
        analytic_on: where it is real-analytic, up to the ``kinks`` inside: one open interval or
            several; outside of them the function is singular or undefined (sqrt at and below 0).
        kinks: points inside ``analytic_on`` where analyticity fails, in increasing order.
        pieces: the analytic functions between the kinks, from left to right, each taking the
            op's own arguments; ``len(kinks) + 1`` of them, or none (then no witness is sought).
        value: the scalar function on floats, for ranges and tests.
        monotone: +1, -1 or 0 (unknown, or neither); with ``value`` it gives the range.
        even: n where the function is t**n with n even and positive, else 0.
        range: bound of all values whatever the argument.
        growth: (c0, c1) with |f(t)| <= c0 + c1 |t|, or None.
        lipschitz, curvature: suprema of |f'|, |f''| over ``analytic_on``, rounded up, or None.
        power: n where the function is t**n with n >= 0 a whole number, else None.
        on: growth, lipschitz and curvature for arguments in a given interval, of a function that
            has none on the whole of ``analytic_on`` (sqrt, exp); None: none there either.
        at: for functions with arguments beyond the operand (clamp, pow, leaky_relu): the record
            for one node; None from it: not one this record can speak for.
        note: said in every report that contains the op (implementation caveats).
    """

    analytic_on: tuple[Interval, ...] = field(default=(REALS,), converter=_intervals)
    kinks: tuple[Kink, ...] = ()
    pieces: tuple[Callable[..., Tensor], ...] = ()
    value: Callable[[float], float] | None = None
    monotone: int = 0
    even: int = 0
    range: Interval = REALS
    growth: tuple[float, float] | None = None
    lipschitz: float | None = None
    curvature: float | None = None
    power: int | None = None
    on: Callable[[Interval], Bounds | None] | None = None
    at: Callable[[Node], Pointwise | None] | None = None
    note: str = ""

    def __attrs_post_init__(self) -> None:
        if self.pieces and len(self.pieces) != len(self.kinks) + 1:
            raise ValueError(f"{self.ops}: {len(self.kinks)} kinks need one piece more than that")


@frozen
class Rowwise(Atom):
    """A function of whole rows: softmax, log_softmax, layer_norm, logsumexp, vector norms.

    Attributes:
        singular: given the node, where the op is not analytic, in words (``"eps = 0: rows of zero
            variance"``), or None if it is analytic for all real rows.
        range: bound of all values, given the node.
        dim: given the node, the dimensions of a row; None if the record does not say.
        masked: entries of a row may be minus infinity as long as one is not (softmax under a mask):
            it is then the function of the other entries, and 0 at these if it has a value there.
        growth: given the node and the shape of the first operand, (c0, c1) with
            |f(x)| <= c0 + c1 |x| in Frobenius norms of the whole tensors, or None.
        lipschitz, curvature: given the same, suprema of |Df| and |D^2 f| over all rows, rounded
            up, or None.
        weight, bias: positions of operands that multiply and are added to the rows, or None.
    """

    singular: Callable[[Node], str | None] = lambda node: None
    range: Callable[[Node], Interval] = lambda node: REALS
    dim: Callable[[Node], tuple[int, ...] | None] = lambda node: None
    masked: bool = False
    growth: Callable[[Node, Shape], tuple[float, float] | None] = lambda node, shape: None
    lipschitz: Callable[[Node, Shape], float | None] = lambda node, shape: None
    curvature: Callable[[Node, Shape], float | None] = lambda node, shape: None
    weight: int | None = None
    bias: int | None = None


Arguments = tuple[Any, ...]
Keywords = Mapping[str, Any]


@frozen
class Selection(Atom):
    """Chooses among operands or entries: where, masked_fill, max, topk, sort.

    Attributes:
        chooser: position of the operand that decides (``where``: 0); None: the entries
            themselves decide (max, sort, topk).
        order: lowest derivative that jumps when the choice changes.
        choice: of an op whose entries decide: the arguments and the value -> an integer tensor
            that says what was chosen.
        chosen: the arguments with that tensor in front -> the value for a given choice, whatever
            the entries are. Both None: no witness is sought.
        parts: positions of what is taken where the chooser is true, and where it is false.
    """

    chooser: int | None = None
    order: int = 1
    choice: Callable[[Arguments, Keywords, Any], Tensor] | None = None
    chosen: Callable[..., Any] | None = None
    parts: tuple[int, int] | None = None


@frozen
class Discrete(Atom):
    """Piecewise constant: comparisons, round, sign, argmax, casts to integers.

    ``constant``: given the node and the ranges of its arguments, whether the value cannot change
    (``x*x + 1 > 0``).
    """

    constant: Callable[[Node, Ranges], bool] = lambda node, of: False


@frozen
class Random(Atom):
    """Draws numbers. ``active``: given the node, whether it really draws (dropout in training)."""

    active: Callable[[Node], bool] = lambda node: True


@frozen
class Detached(Atom):
    """Passes the value and stops the gradient: detach, item, what leaves a no_grad region."""


@frozen
class Composite(Atom):
    """Defined by other ops (lstm, batch_norm), and analysed through them.

    ``definition``: a function of the op's own arguments, written in known ops, that computes the
    same value. (The replay of a chain runs the op itself.)
    """

    definition: Callable[..., Any] = field(kw_only=True)


KINDS: tuple[type[Atom], ...] = (
    Source, Layout, Linear, Bilinear, Pointwise, Rowwise, Selection, Discrete, Random, Detached,
    Composite,
)  # fmt: skip


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """The argument of ``node`` given by position or by keyword."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)
