"""Expressions that can be looked for in a graph: what patterns are written in.

An expression is matched against an argument of a node. It binds names to what it finds and yields
every way to match, so that a record can try them. Casts between floating types are looked through
(docs/theory section 1), a ``detach`` is not: it is another function to the gradient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, ClassVar

from attrs import frozen

from blockframe.atoms.facts import argument as argument_of
from blockframe.graph.graph import Node, Ref
from blockframe.graph.scope import CASTS, Scope, is_real

MUL = ("aten::mul.Tensor", "aten::mul.Scalar", "aten::multiply.Tensor")
DIV = ("aten::div.Tensor", "aten::div.Scalar", "aten::true_divide.Tensor", "aten::divide.Tensor")
ADD = ("aten::add.Tensor", "aten::add.Scalar")
SUB = ("aten::sub.Tensor", "aten::sub.Scalar")
RSUB = ("aten::rsub.Tensor", "aten::rsub.Scalar")
PRODUCTS = (*MUL, *DIV, "aten::reciprocal")
DIFFERENCES = (*SUB, *ADD, *RSUB)

Found = Mapping[str, Any]

OPENED = 3
"""So many products are opened inside of each other."""
DEGREE = 3
"""Polynomials of higher degree are not followed."""
TOLERANCE = 1e-11
"""Relative. Models write irrational constants with ten digits (0.7978845608 for sqrt(2/pi)); the
constants of the records are rounded up at the sixth."""


@frozen(eq=False)
class Application:
    """An op applied: what a node is rewritten to."""

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, target: Any, *args: Any, **kwargs: Any) -> Application:
        return cls(target, args, kwargs)


apply = Application.of


def close(a: float, b: float) -> bool:
    """Whether two numbers of a formula are meant to be the same."""
    return math.isclose(a, b, rel_tol=TOLERANCE)


# --- expressions ---------------------------------------------------------------------------------


class Expression(ABC):
    """Something to look for."""

    @abstractmethod
    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        """Every way in which ``argument`` is this, with what it binds added to ``found``.

        ``through``: the ops that are looked through.
        """

    def inverse(self) -> Expression | None:
        """The expression of 1/this, if it can be told."""
        return None


@frozen
class Variable(Expression):
    """Any real tensor, the same one wherever the name stands."""

    name: str

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        if not isinstance(argument, Ref) or not is_real(scope.nodes[argument.index]):
            return
        seen = argument if through is CASTS else scope.behind(argument, through)
        if self.name not in found:
            yield {**found, self.name: seen}
        elif scope.same(seen, found[self.name]):
            yield found


@frozen
class Call(Expression):
    """One of several ops, of an expression. ``also``: what else it binds of the node."""

    ops: tuple[str, ...]
    of: Expression
    also: Callable[[Node], Found] = lambda node: {}

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        node = scope.node(argument, through)
        if node is None or node.op not in self.ops:
            return
        more = self.also(node)
        if all(found.get(name, value) == value for name, value in more.items()):
            yield from self.of.match(scope, node.args[0], {**found, **more})


@frozen
class Power(Expression):
    """``of`` to the power ``exponent``; 1/2 and -1/2 also as a root of an inverse and such, which
    are the same where the argument is positive."""

    of: Expression
    exponent: float

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        for exponent, base in _powers(scope, argument, through):
            if exponent == self.exponent:
                yield from self.of.match(scope, base, found, through)

    def inverse(self) -> Expression:
        return Power(self.of, -self.exponent)


def _powers(
    scope: Scope, argument: Any, through: frozenset[str], depth: int = 1
) -> Iterator[tuple[float, Any]]:
    node = scope.node(argument, through)
    if node is None:
        return
    exponent: float | None = {
        "aten::square": 2.0, "aten::sqrt": 0.5, "aten::rsqrt": -0.5, "aten::reciprocal": -1.0
    }.get(node.op)  # fmt: skip
    base = node.args[0]
    if node.op == "aten::pow.Tensor_Scalar":
        exponent = scope.number(node.args[1])
    elif node.op in MUL and scope.same(*node.args[:2]) and isinstance(base, Ref):
        exponent = 2.0
    elif node.op in DIV and scope.number(base) == 1.0:
        exponent, base = -1.0, node.args[1]
    elif node.op in MUL and 1.0 in (one := [scope.number(a) for a in node.args[:2]]):
        yield from _powers(scope, node.args[1 - one.index(1.0)], through, depth)
    if exponent is None:
        return
    yield exponent, base
    if depth and abs(exponent) in (0.5, 1.0):
        for inner, deeper in _powers(scope, base, through, depth - 1):
            if {abs(inner), abs(exponent)} == {0.5, 1.0}:
                yield exponent * inner, deeper


@frozen
class Product(Expression):
    """A number times the ``factors``, divided by those ``over``, in any order and nesting.

    ``times``: the number, or a name for it.
    """

    factors: tuple[Expression, ...]
    over: tuple[Expression, ...] = ()
    times: float | str = 1.0

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        wanted = [(e, 1) for e in self.factors] + [(e, -1) for e in self.over]
        for number, parts in pieces(scope, argument, through, OPENED):
            if len(parts) == len(wanted):
                for bound in bind(self.times, number, found):
                    yield from _assigned(scope, wanted, parts, bound, through)


Parts = tuple[tuple[Any, int], ...]
"""Arguments with the exponent 1 or -1."""


def pieces(
    scope: Scope, argument: Any, through: frozenset[str], depth: int
) -> Iterator[tuple[float, Parts]]:
    """``argument`` as a number times factors, in every nesting that can be opened."""
    number = scope.number(argument)
    if number is not None:
        yield number, ()
        return
    yield 1.0, ((argument, 1),)
    node = scope.node(argument, through)
    if node is None or depth == 0:
        return
    if node.op == "aten::neg":
        for c, parts in pieces(scope, node.args[0], through, depth):
            yield -c, parts
    elif node.op == "aten::reciprocal":
        for c, parts in pieces(scope, node.args[0], through, depth - 1):
            if c and math.isfinite(1.0 / c):
                yield 1.0 / c, _inverted(parts)
    elif node.op in PRODUCTS:
        sign = 1 if node.op in MUL else -1
        tensors = sum(isinstance(a, Ref) for a in node.args[:2])
        a, b = (pieces(scope, x, through, depth - tensors + 1) for x in node.args[:2])
        right = list(b)
        for c, left in a:
            for d, parts in right:
                if sign == 1:
                    yield c * d, left + parts
                elif d and math.isfinite(c / d):
                    yield c / d, left + _inverted(parts)


def _inverted(parts: Parts) -> Parts:
    return tuple((a, -sign) for a, sign in parts)


def _assigned(
    scope: Scope,
    wanted: list[tuple[Expression, int]],
    parts: Parts,
    found: Found,
    through: frozenset[str],
) -> Iterator[Found]:
    """Every way to give each expression a part of its own."""
    if not wanted:
        yield found
        return
    (expression, sign), *rest = wanted
    for k, (argument, exponent) in enumerate(parts):
        sought = expression if exponent == sign else expression.inverse()
        if sought is not None:
            for bound in sought.match(scope, argument, found, through):
                yield from _assigned(scope, rest, parts[:k] + parts[k + 1 :], bound, through)


@frozen
class Affine(Expression):
    """``slope * of + shift``; each a number, or a name for one."""

    of: Expression
    slope: float | str = 1.0
    shift: float | str = 0.0

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        for a, inner, b in _affine(scope, argument, through):
            for sloped in bind(self.slope, float(a), found):
                for bound in bind(self.shift, float(b), sloped):
                    yield from self.of.match(scope, inner, bound, through)


def _affine(
    scope: Scope, argument: Any, through: frozenset[str]
) -> Iterator[tuple[Fraction, Any, Fraction]]:
    """(a, u, b) with ``argument`` = a * u + b, for every u on the way in. The numbers are exact:
    of 1e17 + 1 - 1e17 the 1 is left."""
    yield Fraction(1), argument, Fraction(0)
    node = scope.node(argument, through)
    if node is None:
        return
    step = _step(scope, node)
    if step is not None:
        slope, inner, shift = step
        for a, deeper, b in _affine(scope, inner, through):
            yield slope * a, deeper, slope * b + shift


def _step(scope: Scope, node: Node) -> tuple[Fraction, Any, Fraction] | None:
    """(a, u, b) if ``node`` is a * u + b for one operand u."""
    zero = Fraction(0)
    if node.op == "aten::neg":
        return Fraction(-1), node.args[0], zero
    if len(node.args) < 2 or node.op not in (*MUL, *DIV, *DIFFERENCES):
        return None
    left, right = node.args[:2]
    a, b = scope.number(left), scope.number(right)
    if (a is None) == (b is None):
        return None
    inner = left if a is None else right
    given = exact(b if b is not None else a)
    alpha = exact(argument_of(node, 2, "alpha", 1))
    if given is None or alpha is None:
        return None
    number = given
    if node.op in MUL:
        return number, inner, zero
    if node.op in DIV:
        return (1 / number, inner, zero) if b else None
    first, second = (Fraction(sign) for sign in _SIGNS[node.op])
    first, second = (first * alpha, second) if node.op in RSUB else (first, second * alpha)
    return (first, inner, second * number) if a is None else (second, inner, first * number)


_SIGNS = {
    **dict.fromkeys(ADD, (1, 1)),
    **dict.fromkeys(SUB, (1, -1)),
    **dict.fromkeys(RSUB, (-1, 1)),
}
"""Of the two operands of a sum or difference."""


def exact(number: Any) -> Fraction | None:
    """``number`` as it is; None where it is none, or not finite."""
    if not isinstance(number, (int, float)) or not math.isfinite(number):
        return None
    return Fraction(number)


def bind(wanted: float | str, number: float, found: Found) -> Iterator[Found]:
    """``number`` where a number is wanted, or under the name that it shall have."""
    if isinstance(wanted, str):
        if wanted not in found:
            yield {**found, wanted: number}
        elif close(found[wanted], number):
            yield found
    elif wanted == number or close(wanted, number):
        yield found


@frozen
class Difference(Expression):
    """``left - right`` of two tensors."""

    sign: ClassVar[int] = -1
    left: Expression
    right: Expression

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        for (a, first), (b, second) in _terms(scope, argument, through):
            if (first, second) == (1, self.sign):
                for bound in self.left.match(scope, a, found, through):
                    yield from self.right.match(scope, b, bound, through)


@frozen
class Sum(Difference):
    """``left + right`` of two tensors, in either order."""

    sign: ClassVar[int] = 1


def _terms(
    scope: Scope, argument: Any, through: frozenset[str]
) -> Iterator[tuple[tuple[Any, float], tuple[Any, float]]]:
    """Two tensors and their signs, in both orders."""
    node = scope.node(argument, through)
    if node is None or node.op not in DIFFERENCES or argument_of(node, 2, "alpha", 1) != 1:
        return
    pair = list(zip(node.args[:2], _SIGNS[node.op], strict=True))
    if not all(isinstance(a, Ref) for a, _ in pair):
        return
    for a, b in (pair, pair[::-1]):
        yield a, b
        negated = scope.node(b[0])
        if negated is not None and negated.op == "aten::neg":
            yield a, (negated.args[0], -b[1])


@frozen
class Polynomial(Expression):
    """A polynomial, with numbers as coefficients, in a variable that is bound already.

    Binds ``name`` to the tuple of its coefficients, from the constant one up.
    """

    variable: str
    name: str

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        coefficients = _polynomial(scope, argument, found[self.variable])
        if coefficients is not None:
            yield {**found, self.name: tuple(map(float, coefficients))}


Coefficients = tuple[Fraction, ...]


def _polynomial(scope: Scope, argument: Any, x: Any) -> Coefficients | None:
    if scope.number(argument) is not None:
        number = exact(scope.number(argument))
        return None if number is None else (number,)
    if scope.same(argument, x):
        return (Fraction(0), Fraction(1))
    node = scope.node(argument)
    if node is None:
        return None
    if node.op == "aten::neg":
        return _combined(_polynomial(scope, node.args[0], x), Fraction(-1), (Fraction(0),))
    if node.op in ("aten::pow.Tensor_Scalar", "aten::square"):
        exponent = 2.0 if node.op == "aten::square" else scope.number(node.args[1])
        base = _polynomial(scope, node.args[0], x)
        if exponent not in (1.0, 2.0, 3.0):
            return None
        return _multiplied(*[base] * int(exponent))
    if len(node.args) < 2 or node.op not in (*MUL, *DIV, *DIFFERENCES):
        return None
    if node.op in DIV:
        divisor = exact(scope.number(node.args[1]))
        top = _polynomial(scope, node.args[0], x)
        return _combined(top, 1 / divisor, (Fraction(0),)) if divisor else None
    a, b = (_polynomial(scope, u, x) for u in node.args[:2])
    if node.op in MUL:
        return _multiplied(a, b)
    alpha = exact(argument_of(node, 2, "alpha", 1))
    if alpha is None:
        return None
    if node.op in RSUB:
        return _combined(a, -alpha, b)
    return _combined(b, alpha if node.op in ADD else -alpha, a)


def _combined(a: Coefficients | None, c: Fraction, b: Coefficients | None) -> Coefficients | None:
    """c * a + b."""
    if a is None or b is None:
        return None
    size = max(len(a), len(b))
    a, b = (p + (Fraction(0),) * (size - len(p)) for p in (a, b))
    return tuple(c * u + v for u, v in zip(a, b, strict=True))


def _multiplied(*factors: Coefficients | None) -> Coefficients | None:
    product: Coefficients = (Fraction(1),)
    for f in factors:
        if f is None or len(product) + len(f) - 1 > DEGREE + 1:
            return None
        grown = [Fraction(0)] * (len(product) + len(f) - 1)
        for i, u in enumerate(product):
            for j, v in enumerate(f):
                grown[i + j] += u * v
        product = tuple(grown)
    return product


@frozen
class Either(Expression):
    """Any of several expressions."""

    options: tuple[Expression, ...]

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        for option in self.options:
            yield from option.match(scope, argument, found, through)


@frozen
class Both(Expression):
    """Two expressions of one thing."""

    first: Expression
    second: Expression

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        for bound in self.first.match(scope, argument, found, through):
            yield from self.second.match(scope, argument, bound, through)
