"""Expressions of rows: sums, means, variances, maxima, and one number for each row beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from attrs import frozen

from blockframe.atoms.facts import argument as argument_of
from blockframe.graph.graph import Node, Ref
from blockframe.graph.match import OPENED, Expression, Found, bind, pieces
from blockframe.graph.scope import CASTS, RESHAPES, Scope

SUMS = ("aten::sum.dim_IntList", "aten::sum")
MEANS = ("aten::mean.dim", "aten::mean")
VARIANCES = {
    "aten::var": (1, "unbiased"),
    "aten::var.dim": (2, "unbiased"),
    "aten::var.correction": (2, "correction"),
}
"""Where the argument stands that makes one unbiased."""

Dims = frozenset[int]
"""Dimensions, counted from the front."""


@frozen
class Rows(Expression):
    """One number for each row, which may be reshaped on the way; ``shape``: a name for its final
    shape. See `along`."""

    of: Expression
    shape: str = "rows"

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        bound = {**found, self.shape: scope.shape(argument)}
        yield from self.of.match(scope, argument, bound, CASTS | RESHAPES)

    def inverse(self) -> Expression | None:
        inner = self.of.inverse()
        return None if inner is None else Rows(inner, self.shape)


def along(shape: tuple[int, ...], dims: Dims, rows: tuple[int, ...] | None) -> bool:
    """Whether a tensor of shape ``rows``, beside one of shape ``shape``, has one entry for each
    of the latter's rows along ``dims``, at the right place."""
    kept = tuple(1 if d in dims else n for d, n in enumerate(shape))
    return rows == kept or (rows == () and len(dims) == len(shape))


@frozen
class Total(Expression):
    """A number times the sum of ``of`` along dimensions; or, with ``mean``, times its mean.

    ``dims``: a name for the dimensions; ``times``: the number, or a name for it.
    """

    of: Expression
    times: float | str = 1.0
    mean: bool = False
    dims: str = "dims"

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        for number, parts in pieces(scope, argument, through, OPENED):
            if len(parts) != 1 or parts[0][1] != 1:
                continue
            node = scope.node(parts[0][0], through)
            if node is None or node.op not in (*SUMS, *MEANS):
                continue
            dims = reduced(scope, node)
            count = math.prod((scope.shape(node.args[0]) or ())[d] for d in dims)
            if not count or found.get(self.dims, dims) != dims:
                continue
            scale = 1.0 if (node.op in MEANS) == self.mean else 1 / count
            number *= 1 / scale if self.mean else scale
            for bound in bind(self.times, number, {**found, self.dims: dims}):
                yield from self.of.match(scope, node.args[0], bound)


@frozen
class Variance(Expression):
    """The biased variance of ``of`` by the op of that name; ``dims``: a name for the dimensions."""

    of: Expression
    dims: str = "dims"

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        node = scope.node(argument, through)
        if node is None or node.op not in VARIANCES:
            return
        position, name = VARIANCES[node.op]
        dims = reduced(scope, node)
        if argument_of(node, position, name, 1) == 0 and found.get(self.dims, dims) == dims:
            yield from self.of.match(scope, node.args[0], {**found, self.dims: dims})


@frozen
class Largest(Expression):
    """The largest entry of ``of`` along dimensions, or the logarithm of the sum of exponentials:
    a real number as soon as one entry is. Looks through ``detach``: to be used where the value is
    the same whatever stands here. ``dims``: a name for the dimensions."""

    of: Expression
    dims: str = "along"

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        node = scope.node(argument, through | {"aten::detach"})
        if node is not None and node.op == "getitem" and node.args[1] == 0:
            whole = scope.nodes[node.args[0].index]
            node = whole if whole.op == "aten::max.dim" else None
        if node is not None and node.op in (
            "aten::max.dim", "aten::amax", "aten::max", "aten::logsumexp"
        ):  # fmt: skip
            bound = {**found, self.dims: reduced(scope, node)}
            yield from self.of.match(scope, node.args[0], bound)


def reduced(scope: Scope, node: Node) -> Dims:
    """The dimensions along which ``node`` reduces its first operand, counted from the front."""
    shape = scope.shape(node.args[0]) or ()
    whole = node.op in ("aten::sum", "aten::mean", "aten::max", "aten::var")
    given = () if whole else argument_of(node, 1, "dim", ())
    listed = [given] if isinstance(given, int) else list(given or range(len(shape)))
    return frozenset(d % len(shape) for d in listed) if shape else frozenset()


@frozen
class Filled(Expression):
    """A tensor of constants, all of it written over, slice by slice along one dimension.

    ``parts``: a name for what was written, in order; ``dim``: one for the dimension.
    """

    parts: str = "parts"
    dim: str = "dim"

    def match(
        self, scope: Scope, argument: Any, found: Found, through: frozenset[str] = CASTS
    ) -> Iterator[Found]:
        written: dict[tuple[int, int], Any] = {}
        along_dim: int | None = None
        base = argument
        while (node := scope.node(base, through)) is not None and node.op == "aten::slice_scatter":
            shape = scope.shape(base) or ()
            base, part = node.args[:2]
            start, end, step = (
                argument_of(node, k, name, default)
                for k, name, default in ((3, "start", 0), (4, "end", None), (5, "step", 1))
            )
            dim = argument_of(node, 2, "dim", 0) % len(shape)
            size = shape[dim]
            place = (start or 0, size if end is None else min(end, size))
            if step != 1 or place[0] < 0 or along_dim not in (None, dim):
                return
            along_dim = dim
            written.setdefault(place, part)
        if along_dim is None or not isinstance(base, Ref) or scope.varies[base.index]:
            return
        places = sorted(written)
        ends = [0, *(end for _, end in places)]
        if ends[:-1] == [start for start, _ in places] and ends[-1] == size:
            yield {**found, self.parts: [written[p] for p in places], self.dim: along_dim}
