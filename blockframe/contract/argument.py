"""Ways to prove that DF(θ*) has full row rank at a point (docs/theory section 3).

An argument gives a matrix, enclosed at a point of its choice, whose full row rank is enough.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from attrs import field, frozen
from torch import Tensor

from blockframe.atoms.facts import argument
from blockframe.contract.head import Head, linear_head, linear_map
from blockframe.contract.norms import Chained, followers, without_gain
from blockframe.contract.point import NORMS, Fill, Point, needed, zeros
from blockframe.domains.enclosure import Ball, Enclosure
from blockframe.domains.enclosure.operands import Value
from blockframe.errors import CaptureError
from blockframe.graph.derivative import Derivative, gradient
from blockframe.graph.evaluate import leaves
from blockframe.graph.graph import Graph, Node, NodeKind, Ref
from blockframe.graph.match import ADD, DIV, MUL
from blockframe.graph.scope import CASTS, RESHAPES

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.blocks import Block
    from blockframe.contract.rows import Rows

LARGEST = 2048
"""Rows of a Jacobian that is enclosed as a whole."""
ENTRIES = 1 << 28
"""Entries of a Jacobian that is enclosed as a whole: with radii and a copy, 6 GiB."""
LIVE = (0, 1, 2, 4)
"""How many residual branches are alive: the more, the more is to be computed."""
AT_ONCE = 128
"""Cotangents that are pulled back together, at most."""
MEMORY = 1 << 30
"""Bytes of all values that are computed for the cotangents pulled back together."""
WORK = 1 << 31
"""Entries that are computed for all cotangents: about half a minute."""
_RISING = frozenset({"aten::tanh", "aten::sigmoid", "aten::exp", "aten::softplus", "aten::asinh"})
"""Functions whose derivative is nowhere 0: applied to the outputs they change no rank."""


@frozen(eq=False)
class Enclosed:
    """A matrix in a ball whose full row rank at a point proves strong nondegeneracy.

    ``point``: which, in words.
    """

    mid: Tensor
    rad: Tensor
    point: str


class Argument(Protocol):
    """``name``: as certificates call it."""

    @property
    def name(self) -> str: ...

    def matrices(self, analysis: Analysis, rows: Rows) -> Iterator[Enclosed | str]:
        """Matrices to try, one after the other, or why there is none."""
        ...


@frozen
class LinearHead:
    """F = H Wᵀ (+ b): the derivative by W alone is H ⊗ I, so rank H = N is enough.

    Where W is used in H too, that is left of its derivative where dH Wᵀ = 0: where W is 0, or where
    some features are switched off at the last norm, whatever stands before it, and W is 0 on the
    others (an embedding then still has the first ones). Branches of residual blocks but the first
    few are zero, so that depth costs nothing.
    """

    name: str = "linear head"

    def matrices(self, analysis: Analysis, rows: Rows) -> Iterator[Enclosed | str]:
        head = _head(analysis)
        if head is None or head.outputs != rows.outputs:
            yield "the outputs are not made by one"
            return
        alone = head.bias is not None and not head.bias_users
        tables = _tables(analysis)
        for way in _ways(analysis, head, rows.count):
            if rows.count > way.features + alone:
                yield f"{rows.count} rows are too many for {way.features} features"
                continue
            own = frozenset({head.weight_name, *way.fills})
            branches = _branches(analysis, keep=own)
            for seed, live in enumerate(LIVE):
                zero = way.zero.union(*branches[live:])
                fills = {**_plain_norms(analysis, zero, keep=own), **way.fills}
                point = Point(seed=seed, zero=zero, fills=fills, rows=tables)
                found = _features(analysis, head, point)
                if isinstance(found, str):
                    yield found
                    break
                matrix = _matrix(found, rows, way, alone)
                if matrix is None:
                    break
                idle = f"{len(branches[live:])} of {len(branches)} branches zero"
                yield Enclosed(*matrix, f"drawn (seed {seed}), {idle}{way.words}")
                if live > len(branches):
                    break


def _matrix(features: Ball, rows: Rows, way: _Way, ones: bool) -> tuple[Tensor, Tensor] | None:
    """The features that the head's derivative has, of the rows kept; with a column of ones where
    the bias is the head's own. None where a feature that is to be 0 is not."""
    kept = torch.tensor(rows.kept)
    mid, rad = (t.reshape(rows.total, -1)[kept] for t in (features.mid, features.rad))
    if bool(mid[:, : way.off].any()) or bool(rad[:, : way.off].any()):
        return None
    one = torch.ones(len(kept), int(ones), dtype=torch.float64)
    return torch.cat([mid[:, way.off :], one], 1), torch.cat([rad[:, way.off :], 0 * one], 1)


@frozen
class WholeJacobian:
    """DF itself, enclosed row by row through the graph of its gradient."""

    name: str = "Jacobian"

    def matrices(self, analysis: Analysis, rows: Rows) -> Iterator[Enclosed | str]:
        graph, problem = analysis.graph, analysis.chain.problem
        size = rows.count * rows.outputs
        parameters = trained(analysis)
        count = sum(math.prod(graph[i].shape or ()) for i in parameters)
        if not problem.has_weights or size > LARGEST or size > count or size * count > ENTRIES:
            yield f"{size:,} × {count:,} entries are too many (fewer --samples make them fewer)"
            return
        values = leaves(graph, problem)
        own = {str(graph[i].target): values[i] for i in parameters}
        for point, words in (
            (Point(given=own), "the given parameters"),
            (Point(seed=1), "drawn (seed 1)"),
            (Point(seed=2), "drawn (seed 2)"),
        ):
            enclosed = jacobian(analysis, parameters, point, rows)
            yield f"none at {words}" if enclosed is None else Enclosed(*enclosed, words)


ARGUMENTS: tuple[Argument, ...] = (LinearHead(), WholeJacobian())
"""In the order in which they are tried."""


# --- the linear head ------------------------------------------------------------------------------


def _head(analysis: Analysis) -> Head | None:
    """The head, also behind a function of the outputs that changes no rank (a soft cap)."""
    graph = analysis.graph
    found = linear_head(analysis)
    index = graph.output
    while found is None:
        node = graph[index]
        scaled = node.op in MUL or node.op in DIV
        if not (node.op in _RISING or node.op in CASTS or scaled):
            return None
        first = node.args[0]
        if not isinstance(first, Ref) or graph[first.index].shape != node.shape:
            return None
        if scaled and not _number(node.args[1]):
            return None
        index = first.index
        found = linear_map(analysis, index)
    return found


@frozen
class _Way:
    """To make dH Wᵀ = 0 for what W does inside H.

    Attributes:
        features: how many features are left.
        off: the features that are 0 whatever the rest of the network does.
        zero, fills: of the point.
        words: which way it is.
    """

    features: int
    off: int = 0
    zero: frozenset[str] = frozenset()
    fills: Mapping[str, Fill] = field(factory=dict)
    words: str = ""


def _ways(analysis: Analysis, head: Head, count: int) -> Iterator[_Way]:
    """``count``: how many features are needed."""
    graph = analysis.graph
    width = (graph[head.hidden].shape or (0,))[-1]
    if not head.weight_users:
        yield _Way(width)
        return
    off = min(width // 2, width - count)
    if off > 0 and (gains := _gains(analysis, head.hidden)) is not None:
        weight, bias, value = gains
        fills = {weight: Fill(0, off, first=True, value=value)}
        if bias is not None:
            fills[bias] = Fill(0, off, first=True)
        sizes = {n.shape for n in graph if n.kind is NodeKind.PARAMETER and n.target in fills}
        if head.weight_name not in fills and sizes == {(width,)}:
            fills[head.weight_name] = Fill(0 if head.transposed else 1, off, first=False)
            yield _Way(width - off, off, fills=fills, words=", W untied by the last norm")
    yield _Way(width, zero=frozenset({head.weight_name}), words=", W zero")


def _plain_norms(analysis: Analysis, zero: frozenset[str], keep: frozenset[str]) -> dict[str, Fill]:
    """No gain for norms that other norms follow at once, where ``zero`` is zero."""
    graph, catalogue = analysis.graph, analysis.chain.catalogue
    pairs = followers(graph, zeros(graph, zero, catalogue), catalogue)
    fills = without_gain(graph, frozenset(pairs.values()))
    return {name: fill for name, fill in fills.items() if name not in keep}


def _gains(analysis: Analysis, index: int) -> tuple[str, str | None, float] | None:
    """The names of γ and β if node ``index`` is c (n γ + β) or c (n (1 + γ)), and the value of γ at
    which the gain is 0."""
    graph = analysis.graph

    def behind(given: Any) -> Any:
        while isinstance(given, Ref):
            node = graph[given.index]
            moved = node.op in RESHAPES and _last(node) == _last(graph[node.operands[0]])
            if not (node.op in CASTS or moved):
                return node
            given = node.args[0]
        return given

    def own(given: Any) -> str | None:
        node = behind(given)
        trained = isinstance(node, Node) and node.kind is NodeKind.PARAMETER
        return str(node.target) if trained else None

    node = behind(Ref(index))
    while node.op in (*MUL, *DIV) and isinstance(node.args[0], Ref) and _number(node.args[1]):
        node = behind(node.args[0])
    if node.op in ("aten::layer_norm", "aten::rms_norm"):
        weight = own(argument(node, 2, "weight"))
        given = argument(node, 3, "bias") if node.op == "aten::layer_norm" else None
        bias = own(given)
        return (weight, bias, 0.0) if weight and (given is None or bias) else None
    bias = None
    if node.op == "aten::add.Tensor" and not node.kwargs:
        pairs = [(t, own(b)) for t, b in (node.args[:2], node.args[1::-1])]
        term = next(((t, b) for t, b in pairs if b and isinstance(t, Ref)), None)
        if term is None:
            return None
        node, bias = behind(term[0]), term[1]
    if node.op != "aten::mul.Tensor":
        return None
    for gain in node.args[:2]:
        if (weight := own(gain)) is not None:
            return weight, bias, 0.0
        inner = behind(gain)
        if getattr(inner, "op", "") in ADD and not inner.kwargs:
            terms = [inner.args[:2], inner.args[1::-1]]
            found = [(own(g), one) for g, one in terms if isinstance(one, (int, float))]
            if found and found[0][0] is not None:
                return found[0][0], bias, -float(found[0][1])
    return None


def _last(node: Node) -> int | None:
    return node.shape[-1] if node.shape else None


def _number(given: Any) -> bool:
    """Whether it is a number, neither 0 nor infinite."""
    return isinstance(given, (int, float)) and 0.0 < abs(given) < math.inf


def _branches(analysis: Analysis, keep: frozenset[str]) -> list[tuple[str, ...]]:
    """Of every residual block the parameters that make its branches zero, where there are some."""
    found = (zeroed_by(analysis, block) for block in analysis.chain.blocks)
    return [names for names in found if names and not keep.intersection(names)]


def zeroed_by(analysis: Analysis, block: Block) -> tuple[str, ...]:
    """The parameters, used for nothing else, that make all branches of ``block`` zero where they
    are: of the linear maps that the branches, or sums that these are, end in, or that stand before
    the norms that they end in. None where one ends otherwise."""
    if block.residual is None:
        return ()
    names: set[str] = set()
    places = analysis.chain.expanded.places
    ends = [place for branch in block.residual.branches for place in places[branch]]
    while ends:
        index = _behind(analysis.graph, ends.pop(), CASTS | RESHAPES)
        found = linear_map(analysis, index) or _before_norm(analysis, index)
        if found is not None and not found.tied:
            names |= {n for n in (found.weight_name, found.bias_name) if n is not None}
            continue
        node = analysis.graph[index]
        if node.op != "aten::add.Tensor" or not all(isinstance(a, Ref) for a in node.args[:2]):
            return ()
        ends += node.operands
    return tuple(sorted(names))


def _before_norm(analysis: Analysis, index: int) -> Head | None:
    """The linear map of whose value node ``index`` is a norm without shift, times a gain."""
    graph = analysis.graph
    while graph[index].op not in NORMS:
        node = graph[index]
        factors = [a.index for a in node.args[:2] if isinstance(a, Ref)]
        if node.op in MUL:
            normed = [i for i in factors if graph[_behind(graph, i, CASTS)].op in NORMS]
            factors = normed if len(normed) == 1 else []
        elif node.op not in CASTS:
            return None
        if not factors:
            return None
        index = factors[0]
    shifted = argument(graph[index], 3, "bias") if graph[index].op == "aten::layer_norm" else None
    return None if shifted is not None else linear_map(analysis, graph[index].operands[0])


def _behind(graph: Graph, index: int, through: Container[str]) -> int:
    while graph[index].op in through:
        index = graph[index].operands[0]
    return index


def _lookups(analysis: Analysis, point: Point) -> dict[int, Ball]:
    """The rows of tables that are parameters, looked up at known places."""
    graph = analysis.graph
    found = {}
    for node in graph:
        if node.op == "aten::embedding" and isinstance(node.args[0], Ref):
            table, places = graph[node.args[0].index], _places(analysis, node.args[1])
            if table.kind is NodeKind.PARAMETER and places is not None:
                found[node.index] = Ball.exact(point.looked_up(table, places))
    return found


def _tables(analysis: Analysis) -> dict[str, tuple[int, ...]]:
    """Of every parameter that is looked up at known places, which rows are."""
    graph = analysis.graph
    rows: dict[str, set[int]] = {}
    for node in graph:
        if node.op != "aten::embedding" or not isinstance(node.args[0], Ref):
            continue
        table, places = graph[node.args[0].index], _places(analysis, node.args[1])
        if table.kind is NodeKind.PARAMETER and places is not None:
            rows.setdefault(str(table.target), set()).update(places.flatten().tolist())
    return {name: tuple(sorted(r)) for name, r in rows.items()}


def _places(analysis: Analysis, argument: Any) -> Tensor | None:
    value = analysis.constants.get(argument.index) if isinstance(argument, Ref) else None
    return value if isinstance(value, Tensor) else None


def _features(analysis: Analysis, head: Head, point: Point) -> Ball | str:
    """H at ``point``, computed from what is not zero there; or why there is no bound of it."""
    graph, catalogue = analysis.graph, analysis.chain.catalogue
    zero = zeros(graph, point.zero, catalogue)
    looked_up = _lookups(analysis, point)
    nodes = needed(graph, [head.hidden], zero | looked_up.keys())
    data = leaves(graph, analysis.chain.problem)
    given: dict[int, Ball | Tensor] = {}
    known: dict[int, Value] = {}
    for i in nodes:
        node = graph[i]
        if i in zero:
            empty = torch.zeros((), dtype=torch.float64).expand(node.shape or ())
            known[i] = Ball.exact(empty)
        elif i in looked_up:
            known[i] = looked_up[i]
        elif node.kind is NodeKind.PARAMETER:
            given[i] = point.value(node)
        elif node.kind is not NodeKind.CALL:
            if data[i].is_meta:
                return f"the {node.kind} {node.target} holds no numbers"
            given[i] = data[i]
    device = torch.device("cpu")
    domain = Chained(graph, given, device, followers(graph, zero, catalogue))
    value = domain.computed([i for i in nodes if i not in known], catalogue, known)[head.hidden]
    if isinstance(value, Ball) and value.is_finite:
        return value.real
    return "; ".join(f"{graph[i].short}: {why}" for i, why in domain.reasons[:1]) or "no bound"


# --- the whole Jacobian ---------------------------------------------------------------------------


def trained(analysis: Analysis) -> list[int]:
    """The nodes of the parameters that the outputs depend on."""
    graph = analysis.graph
    return [
        n.index
        for n in graph
        if n.kind is NodeKind.PARAMETER and n.index in graph.live and analysis.varies[n.index]
    ]


def jacobian(
    analysis: Analysis, parameters: Sequence[int], point: Point, rows: Rows
) -> tuple[Tensor, Tensor] | None:
    """DF (rows kept × outputs, parameters) in a ball at ``point``."""
    graph, catalogue, problem = analysis.graph, analysis.chain.catalogue, analysis.chain.problem
    device = torch.device("cpu")
    count = rows.count * rows.outputs
    try:
        derivative = gradient(graph, parameters, catalogue, problem.device, rows=1)
        work = _entries(derivative)
        if work * count > WORK:
            return None
        units = max(1, min(AT_ONCE, count, MEMORY // (16 * work)))
        if units > 1:
            derivative = gradient(graph, parameters, catalogue, problem.device, rows=units)
    except CaptureError:
        return None
    made = derivative.graph
    own = {i: v for i, v in leaves(made, problem).items() if made[i].kind is not NodeKind.CONSTANT}
    names = {graph[i].target for i in parameters}
    given: dict[int, Ball | Tensor] = {
        i: point.value(made[i]) if made[i].target in names else v for i, v in own.items()
    }
    domain = Enclosure(made, given, device)
    (seed,) = derivative.seeds
    shape = made[seed].shape or ()
    start = [n.index for n in made if n.kind is not NodeKind.CALL and n.index != seed]
    values = domain.computed([*start, *derivative.fixed], catalogue)
    wanted = [(row, out) for row in rows.kept for out in range(rows.outputs)]
    mids, rads = [], []
    for first in range(0, len(wanted), units):
        part = wanted[first : first + units]
        cotangents = torch.zeros(shape, dtype=torch.float64).reshape(units, -1)
        for k, (row, out) in enumerate(part):
            cotangents[k, row * rows.outputs + out] = 1.0
        domain.given = {**given, seed: cotangents.reshape(shape)}
        found = domain.computed([seed, *derivative.seeded], catalogue, values)
        balls = [found[i] for i in derivative.outputs]
        if not all(isinstance(b, Ball) and b.is_finite for b in balls):
            return None
        mids.append(torch.cat([b.mid.reshape(units, -1) for b in balls], 1)[: len(part)])  # type: ignore[union-attr]
        rads.append(torch.cat([b.rad.reshape(units, -1) for b in balls], 1)[: len(part)])  # type: ignore[union-attr]
    return torch.cat(mids), torch.cat(rads)


def _entries(derivative: Derivative) -> int:
    """Entries of all values that are computed for one cotangent."""
    shapes = (derivative.graph[i].shape for i in derivative.seeded)
    return max(1, sum(math.prod(shape) for shape in shapes if shape is not None))


__all__ = [
    "ARGUMENTS",
    "Argument",
    "Enclosed",
    "LinearHead",
    "WholeJacobian",
    "jacobian",
    "trained",
    "zeroed_by",
]
