"""The record types: one kind per op, one record of facts, from which every domain derives its rule.

An op is named as in PyTorch, ``aten::gelu`` for all its overloads or ``aten::max.dim`` for one.
A record states facts about the *mathematical* function (real arithmetic, evaluation mode).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

if TYPE_CHECKING:
    from blockframe.graph.graph import Node

INF = math.inf


@frozen
class Interval:
    """A set of reals (or extended reals) between two ends; an open end is not attained.

    ``Interval(-INF, INF)`` with both ends open is the real line. A closed infinite end says that
    the value infinity itself occurs (attention masks do that).
    """

    lo: float = -INF
    hi: float = INF
    lo_open: bool = True
    hi_open: bool = True

    def __contains__(self, x: float) -> bool:
        above = self.lo < x or (self.lo == x and not self.lo_open)
        below = x < self.hi or (self.hi == x and not self.hi_open)
        return above and below


REALS = Interval()
POSITIVE = Interval(0.0, INF)
NON_NEGATIVE = Interval(0.0, INF, lo_open=False)


@frozen
class Atom:
    """What all records have: the ops that they describe and where the facts come from."""

    ops: tuple[str, ...] = field(converter=lambda v: (v,) if isinstance(v, str) else tuple(v))
    source: str = field(default="", kw_only=True)


@frozen
class Source(Atom):
    """Makes a tensor from constants: arange, full, zeros_like."""


@frozen
class Layout(Atom):
    """Moves, repeats, drops or casts entries: view, slice, cat, expand, gather by constant index.

    ``index`` names the argument positions (or keywords) that hold index tensors: where one of
    them depends on parameters, the op jumps. ``multiplicity``: how often one entry can occur in
    the value, given the node; None if unbounded by the record.
    """

    index: tuple[int | str, ...] = ()
    multiplicity: Callable[[Node], int] | None = None


@frozen
class Linear(Atom):
    """Linear in all tensor operands jointly: add, sum, mean, cumsum, negation."""


@frozen
class Bilinear(Atom):
    """Linear in each operand for itself: mul, matmul, conv, einsum.

    ``divides``: position of an operand that enters as its reciprocal (division).
    """

    divides: int | None = None


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
        analytic_on: where it is real-analytic, up to the ``kinks`` inside; outside of it the
            function is singular or undefined (sqrt at and below 0).
        kinks: points inside ``analytic_on`` where analyticity fails.
        value: the scalar function on floats, for ranges and tests.
        monotone: +1, -1 or 0 (unknown, or neither); with ``value`` it gives the range.
        range: bound of all values whatever the argument.
        growth: (c0, c1) with |f(t)| <= c0 + c1 |t|, or None.
        lipschitz, curvature: suprema of |f'|, |f''| over ``analytic_on``, rounded up, or None.
        at: for functions with arguments beyond the operand (clamp, pow, leaky_relu): the record
            for one node.
        note: said in every report that contains the op (implementation caveats).
    """

    analytic_on: Interval = REALS
    kinks: tuple[Kink, ...] = ()
    value: Callable[[float], float] | None = None
    monotone: int = 0
    range: Interval = REALS
    growth: tuple[float, float] | None = None
    lipschitz: float | None = None
    curvature: float | None = None
    at: Callable[[Node], Pointwise] | None = None
    note: str = ""


@frozen
class Rowwise(Atom):
    """A function of whole rows: softmax, log_softmax, layer_norm, logsumexp, vector norms.

    Attributes:
        analytic: given the node, None if the op is analytic for all real rows, else in words
            where it is not (``"eps = 0: rows of zero variance"``).
        range: bound of all values, given the node.
        growth, lipschitz, curvature: as for `Pointwise`, for one row, or None.
    """

    analytic: Callable[[Node], str | None] = lambda node: None
    range: Callable[[Node], Interval] = lambda node: REALS
    growth: tuple[float, float] | None = None
    lipschitz: float | None = None
    curvature: float | None = None


@frozen
class Selection(Atom):
    """Chooses among operands or entries: where, masked_fill, max, topk, sort, index_put.

    Attributes:
        chooser: positions (or keywords) of the operands that decide (``where``: 0). Empty: the
            entries themselves decide (max, sort, topk).
        order: lowest derivative that jumps when the choice changes (1 for max, 0 for sort's
            indices and for ``where`` on a parameter-dependent condition).
        indices: which outputs of a tuple are positions, not values (``max.dim``: 1).
    """

    chooser: tuple[int | str, ...] = ()
    order: int = 1
    indices: tuple[int, ...] = ()


@frozen
class Discrete(Atom):
    """Piecewise constant: comparisons, round, sign, argmax, casts to integers."""


@frozen
class Random(Atom):
    """Draws numbers. ``active``: given the node, whether it really draws (dropout in training)."""

    active: Callable[[Node], bool] = lambda node: True


@frozen
class Detached(Atom):
    """Passes the value and stops the gradient: detach, what leaves a no_grad region."""


@frozen
class Composite(Atom):
    """Defined by PyTorch's own decomposition into other ops (lstm, gru); analysed through it."""


KINDS: tuple[type[Atom], ...] = (
    Source, Layout, Linear, Bilinear, Pointwise, Rowwise, Selection, Discrete, Random, Detached, Composite,
)  # fmt: skip


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """The argument of ``node`` given by position or by keyword."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)
