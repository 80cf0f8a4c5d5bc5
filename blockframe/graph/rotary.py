"""Rotary embeddings: pairs of entries turned by angles that depend on nothing that varies.

Such a map is linear and of norm 1 (or what the angles' cosines are scaled by), not 2 as the sum of
two products is. The norm is read off the constants' values; where these are not known (a buffer on
the meta device), off how they were made: cosine and sine of one angle, the same for both entries of
a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import frozen

from blockframe.atoms.interval import up
from blockframe.graph.graph import Node, Ref
from blockframe.graph.match import (
    ADD,
    MUL,
    Affine,
    Application,
    Difference,
    Expression,
    Found,
    Product,
    Sum,
    Variable,
    apply,
)
from blockframe.graph.scope import CASTS, Scope
from blockframe.graph.synthetic import ROTARY

HALVES, NEIGHBOURS = "halves", "neighbours"
"""Entry i belongs with i + n/2, or 2i with 2i + 1."""


@frozen
class Constant(Expression):
    """A real tensor that does not vary."""

    name: str

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        if isinstance(argument, Ref) and not scope.varies[argument.index]:
            yield from Variable(self.name).match(scope, argument, found)


@frozen
class Part(Expression):
    """The first (0) or second (1) entries of the pairs of ``of``."""

    of: Expression
    which: int
    paired: str

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        node = scope.node(argument, through)
        if node is None:
            return
        if node.op == "getitem" and node.args[1] == self.which and self.paired == HALVES:
            whole = scope.nodes[node.args[0].index]
            if _in_two(scope, whole):
                yield from self.of.match(scope, whole.args[0], found)
        elif node.op == "aten::slice.Tensor":
            rest = (*node.args[1:], *(0, 0, 2**63 - 1, 1)[len(node.args) - 1 :])
            x, (dim, start, end, step) = node.args[0], rest
            n, last = _last(scope, x)
            half = n // 2
            wanted = {
                HALVES: (half * self.which, half * (self.which + 1), 1),
                NEIGHBOURS: (self.which, n, 2),
            }[self.paired]
            if n % 2 == 0 and dim in (-1, last) and (start, min(end, n), step) == wanted:
                yield from self.of.match(scope, x, found)


def _in_two(scope: Scope, node: Node) -> bool:
    """Whether ``node`` splits its operand in two equal halves along the last dimension."""
    n, last = _last(scope, node.args[0])
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    if n % 2 or dim not in (-1, last):
        return False
    into: Any = node.args[1]
    if node.op == "aten::chunk":
        return bool(into == 2)
    if node.op == "aten::split.Tensor":
        return bool(into == n // 2)
    return node.op.startswith("aten::split") and list(into) == [n // 2, n // 2]


def _last(scope: Scope, argument: Any) -> tuple[int, int]:
    """Size and number of the last dimension."""
    shape = scope.shape(argument) or (1,)
    return shape[-1], len(shape) - 1


@frozen
class Joined(Expression):
    """Pairs made of their first and second entries."""

    first: Expression
    second: Expression
    paired: str

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        node = scope.node(argument, through)
        if node is not None and self.paired == NEIGHBOURS:
            node = _flattened(scope, node)
        op = "aten::cat" if self.paired == HALVES else "aten::stack"
        if node is None or node.op != op or len(node.args[0]) != 2 or node.shape is None:
            return
        dim = node.args[1] if len(node.args) > 1 else 0
        if dim in (-1, len(node.shape) - 1):
            for bound in self.first.match(scope, node.args[0][0], found):
                yield from self.second.match(scope, node.args[0][1], bound)


def _flattened(scope: Scope, node: Node) -> Node | None:
    """What ``node`` flattens the last two dimensions of."""
    inner = scope.node(node.args[0]) if isinstance(node.args[0], Ref) else None
    if node.op not in FLATTENED or inner is None or inner.shape is None or node.shape is None:
        return None
    *rest, a, b = inner.shape
    return inner if node.shape == (*rest, a * b) else None


FLATTENED = ("aten::flatten.using_ints", "aten::view", "aten::reshape")

X, COS, SIN = Variable("x"), Constant("cos"), Constant("sin")


def becomes(paired: str) -> Callable[[Scope, Node, Found], Application | None]:
    """One linear map, if its norm is known."""

    def one_map(scope: Scope, node: Node, m: Found) -> Application | None:
        n, _ = _last(scope, m["x"])
        norm = _by_value(scope, m, n, paired)
        if norm is None:
            norm = _by_making(scope, m, n, paired)
        return None if norm is None else apply(ROTARY, m["x"], m["cos"], m["sin"], paired, norm)

    return one_map


def _by_value(scope: Scope, m: Found, n: int, paired: str) -> float | None:
    """The largest of the norms of the maps [[c_a, -s_a], [s_b, c_b]] of a pair."""
    known = [scope.constants.get(m[name].index) for name in ("cos", "sin")]
    values = [k.to(torch.float64) for k in known if isinstance(k, torch.Tensor) and k.numel()]
    if len(values) < 2:
        return None
    (ca, cb), (sa, sb) = (_pairs(v, n, paired) for v in values)
    turn = torch.hypot(ca + cb, sa + sb) + torch.hypot(ca - cb, sa - sb)
    norm = float(turn.max()) / 2 * (1 + 1e-12)
    return norm if math.isfinite(norm) else None


def _pairs(u: torch.Tensor, n: int, paired: str) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second entries; the same where there is one number for a pair."""
    if u.shape[-1] != n:
        return u, u
    if paired == HALVES:
        return u[..., : n // 2], u[..., n // 2 :]
    return u[..., ::2], u[..., 1::2]


def _by_making(scope: Scope, m: Found, n: int, paired: str) -> float | None:
    """The common factor of cos(angle) and sin(angle), the angle one number for each pair."""
    scale, c, s = 1.0, m["cos"], m["sin"]
    equal = _last(scope, c)[0] != n  # one number for each pair, or for all
    while True:
        cos, sin = scope.node(c), scope.node(s)
        if cos is None or sin is None:
            return None
        first, second = _paired(scope, cos), _paired(scope, sin)
        if first is not None and second is not None:
            if not first[0] == second[0] == paired or equal:
                return None
            equal, c, s = True, first[1], second[1]
        elif (cos.op, sin.op) == ("aten::cos", "aten::sin"):
            angle = scope.node(cos.args[0])
            if not equal and angle is not None:
                equal = (_paired(scope, angle) or ("", None))[0] == paired
            same = scope.same(cos.args[0], sin.args[0])
            return up(scale) if equal and same else None
        elif _keeps_last(scope, cos) and (cos.op, cos.args[1:]) == (sin.op, sin.args[1:]):
            c, s = cos.args[0], sin.args[0]
        elif cos.op in MUL and sin.op in MUL:
            factors = [scope.number(node.args[1]) for node in (cos, sin)]
            if factors[0] is None or factors[0] != factors[1]:
                return None
            scale = up(scale * abs(factors[0]))
            c, s = cos.args[0], sin.args[0]
        else:
            return None


def _paired(scope: Scope, node: Node) -> tuple[str, Any] | None:
    """How ``node`` gives both entries of a pair one value, and what it is made of."""
    _, last = _last(scope, Ref(node.index))
    if node.op == "aten::repeat_interleave.self_int" and node.args[1] == 2:
        dim = node.args[2] if len(node.args) > 2 else None
        return (NEIGHBOURS, node.args[0]) if dim in (-1, last) else None
    both = _flattened(scope, node) or node
    if both.op not in ("aten::cat", "aten::stack") or len(both.args[0]) != 2:
        return None
    a, b = both.args[0]
    dim = both.args[1] if len(both.args) > 1 else 0
    if not scope.same(a, b) or dim not in (-1, len(both.shape or ()) - 1):
        return None
    if both.op == "aten::cat" and both is node:
        return HALVES, a
    return (NEIGHBOURS, a) if both.op == "aten::stack" and both is not node else None


def _keeps_last(scope: Scope, node: Node) -> bool:
    """Whether ``node`` moves, repeats or drops whole rows only."""
    before, last = _last(scope, node.args[0]) if isinstance(node.args[0], Ref) else (0, 0)
    after, rank = _last(scope, Ref(node.index))
    dim = node.args[1] if len(node.args) > 1 else 0
    match node.op:
        case "aten::unsqueeze":
            return after == before and (dim % (rank + 1)) != rank
        case "aten::expand":
            return after == before
        case "aten::slice.Tensor":
            return dim % (last + 1) != last
    return False


def _written(paired: str) -> Iterator[tuple[Expression, tuple[str, ...]]]:
    """x cos + r sin, where r is x with its pairs (a, b) made (-b, a); and the pairs
    (a cos - b sin, b cos + a sin); each with the ops that it can end in."""
    a, b = Part(X, 0, paired), Part(X, 1, paired)
    turned = Joined(Affine(b, -1.0), a, paired)
    yield Sum(Product((X, COS)), Product((turned, SIN))), ADD
    first = Difference(Product((a, COS)), Product((b, SIN)))
    second = Sum(Product((b, COS)), Product((a, SIN)))
    ends = ("aten::cat",) if paired == HALVES else tuple(FLATTENED)
    yield Joined(first, second, paired), ends


FORMS = tuple(
    (expression, ends, becomes(paired))
    for paired in (HALVES, NEIGHBOURS)
    for expression, ends in _written(paired)
)
"""What rotary embeddings look like, the ops they end in, and what they become."""
