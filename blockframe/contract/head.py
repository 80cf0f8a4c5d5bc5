"""The linear head f = s (h Wᵀ + b), found from the graph: docs/theory sections 3 and 5."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, frozen

from blockframe.atoms.facts import Random, argument
from blockframe.graph.graph import Node, NodeKind, Ref
from blockframe.graph.match import DIV, MUL
from blockframe.graph.scope import CASTS, RESHAPES

if TYPE_CHECKING:
    from blockframe.analysis import Analysis

_RESHAPES = RESHAPES | {
    "aten::_reshape_alias", "aten::flatten.using_ints", "aten::unflatten.int", "aten::view_copy",
}  # fmt: skip
_TRANSPOSES = {
    "aten::t", "aten::t_copy", "aten::numpy_T", "aten::mT", "aten::transpose.int",
    "aten::swapaxes", "aten::swapdims", "aten::permute",
}  # fmt: skip


@frozen
class Head:
    """The network's output is ``scale`` · (h Wᵀ + b), row by row, rows in their order.

    Numbers of nodes are those of ``Analysis.graph``; W and b are trainable parameters.

    Attributes:
        node: the value h Wᵀ + b.
        hidden: h, (…, features).
        weight, weight_name: W.
        bias, bias_name: b, (outputs,); None where there is none.
        transposed: W is stored as (features, outputs), else as (outputs, features).
        scale: the constant that multiplies afterwards, not 0.
        outputs: c, the length of an output row.
        weight_users, bias_users: nodes that use W, b beside the head; the output depends on them.
    """

    node: int
    hidden: int
    weight: int
    weight_name: str
    bias: int | None
    bias_name: str | None
    transposed: bool
    scale: float
    outputs: int
    weight_users: tuple[int, ...] = ()
    bias_users: tuple[int, ...] = ()

    @property
    def tied(self) -> bool:
        """Whether W or b is used anywhere else."""
        return bool(self.weight_users or self.bias_users)


def linear_head(analysis: Analysis) -> Head | None:
    """The head of the network; None where its output is not made by one."""
    return linear_map(analysis, analysis.graph.output)


def linear_map(analysis: Analysis, index: int) -> Head | None:
    """How node ``index`` is a linear map, by trainable parameters, of some h; None: it is none."""
    return _Finder(analysis).find(index)


@frozen
class _Product:
    """The arguments h, W, b of a node that multiplies; ``columns``: h W rather than h Wᵀ."""

    node: Node
    hidden: Any
    weight: Any
    bias: Any
    columns: bool


class _Finder:
    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.graph = analysis.graph

    def find(self, index: int) -> Head | None:
        index, scale = self._peel(index)
        node = self.graph[index]
        product = self._product(node)
        if product is None and node.op == "aten::add.Tensor" and _plain_sum(node):
            terms = node.args[:2], node.args[1::-1]
            product = next(filter(None, (self._with_bias(node, *t) for t in terms)), None)
        return self._head(index, product, scale) if product is not None else None

    def _product(self, node: Node) -> _Product | None:
        args = node.args
        if self._declared(node):
            return None
        match node.op:
            case "aten::linear":
                return _Product(node, args[0], args[1], argument(node, 2, "bias"), columns=False)
            case "aten::addmm" if not node.kwargs:
                return _Product(node, args[1], args[2], args[0], columns=True)
            case "aten::matmul" | "aten::mm":
                return _Product(node, args[0], args[1], None, columns=True)
        return None

    def _with_bias(self, node: Node, term: Any, bias: Any) -> _Product | None:
        """A product without bias, and one that is added in a node of its own."""
        if not isinstance(term, Ref) or self.graph[term.index].shape != node.shape:
            return None
        index, scale = self._peel(term.index)
        product = self._product(self.graph[index])
        if product is None or product.bias is not None or scale != 1.0:
            return None
        return evolve(product, bias=bias)

    def _head(self, index: int, product: _Product, scale: float) -> Head | None:
        weight = self._parameter(product.weight)
        bias = self._parameter(product.bias) if product.bias is not None else None
        if weight is None or not isinstance(product.hidden, Ref):
            return None
        transposed = product.columns != self._turned(weight)
        parameter = self.graph[weight[0]]
        shape = parameter.shape or ()
        if len(shape) != 2:
            return None
        outputs = shape[1] if transposed else shape[0]
        if product.bias is not None and (bias is None or self.graph[bias[0]].shape != (outputs,)):
            return None  # added, but not as a parameter of one number for each output
        return Head(
            node=index,
            hidden=product.hidden.index,
            weight=parameter.index,
            weight_name=str(parameter.target),
            bias=bias[0] if bias else None,
            bias_name=str(self.graph[bias[0]].target) if bias else None,
            transposed=transposed,
            scale=scale,
            outputs=outputs,
            weight_users=self._others(weight, product.node),
            bias_users=self._others(bias, self.graph[index]) if bias else (),
        )

    # --- from the output back ---------------------------------------------------------------------

    def _peel(self, index: int) -> tuple[int, float]:
        """The node behind what leaves every row as it is, and the factor that it is scaled by."""
        scale = 1.0
        while (step := self._step(self.graph[index])) is not None:
            if not 0.0 < abs(scale * step[1]) < math.inf:
                break
            index, scale = step[0], scale * step[1]
        return index, scale

    def _step(self, node: Node) -> tuple[int, float] | None:
        """(i, c) where the value is c times that of node i, row by row; else None."""
        if node.kind is not NodeKind.CALL or not node.operands or not _real(node):
            return None
        if self._declared(node):
            return None
        if node.op in MUL or node.op in DIV:
            return self._scaled(node)
        source = self.graph[node.operands[0]]
        if not _real(source) or source.shape is None or node.shape is None:
            return None
        if node.op in _RESHAPES:  # entries keep their order; do they stay in rows?
            in_rows = source.shape[-1:] in (node.shape[-1:], (1,))
            return (source.index, 1.0) if in_rows else None
        if node.op in CASTS:
            return source.index, 1.0
        if node.op == "aten::neg":
            return source.index, -1.0
        atom = self.analysis.chain.catalogue.lookup(node)
        idle = isinstance(atom, Random) and not atom.active(node)
        return (source.index, 1.0) if idle else None

    def _scaled(self, node: Node) -> tuple[int, float] | None:
        orders = [node.args[:2]] if node.op in DIV else [node.args[:2], node.args[1::-1]]
        for value, factor in orders:
            number = self._number(factor)
            if isinstance(value, Ref) and number and self.graph[value.index].shape == node.shape:
                return value.index, 1.0 / number if node.op in DIV else number
        return None

    def _declared(self, node: Node) -> bool:
        """Whether that the op is what it seems is a plugin's word (a `Composite`, written out)."""
        chain = self.analysis.chain
        return bool({node.op, chain.graph[node.origin].op} & chain.catalogue.declared)

    def _number(self, given: Any) -> float | None:
        """The one number that an argument is whatever the parameters are."""
        if isinstance(given, Ref):
            given = self.analysis.constants.get(given.index)
        if isinstance(given, torch.Tensor) and given.numel() == 1 and not given.is_complex():
            given = given.item()
        return float(given) if isinstance(given, (int, float)) else None

    # --- parameters -------------------------------------------------------------------------------

    def _parameter(self, given: Any) -> tuple[int, ...] | None:
        """The nodes from a trainable parameter to where it is used, casts and transpositions."""
        path: list[int] = []
        while isinstance(given, Ref):
            node = self.graph[given.index]
            path.append(node.index)
            if node.kind is NodeKind.PARAMETER:
                return tuple(reversed(path)) if _real(node) else None
            if not _real(node) or not (node.op in CASTS or self._turns(node)):
                return None
            given = node.args[0]
        return None

    def _turns(self, node: Node) -> bool:
        """Whether ``node`` is the transpose of a matrix."""
        if node.op not in _TRANSPOSES:
            return False
        if len(self.graph[node.operands[0]].shape or ()) != 2:
            return False
        if node.op == "aten::permute":
            return [d % 2 for d in node.args[1]] == [1, 0]
        return len(node.args) == 1 or node.args[1] % 2 != node.args[2] % 2

    def _turned(self, path: tuple[int, ...]) -> bool:
        return sum(self._turns(self.graph[i]) for i in path) % 2 == 1

    def _others(self, path: tuple[int, ...], user: Node) -> tuple[int, ...]:
        """The nodes that use a parameter, its casts or its transpose, beside ``user``."""
        found = []
        for i, following in zip(path, (*path[1:], user.index), strict=True):
            found += [u for u in self.graph.users[i] if u in self.graph.live and u != following]
        if user.operands.count(path[-1]) > 1:  # a product with itself
            found.append(user.index)
        return tuple(sorted(set(found)))


def _plain_sum(node: Node) -> bool:
    return bool(argument(node, 2, "alpha", 1) == 1)


def _real(node: Node) -> bool:
    return node.dtype is not None and node.dtype.is_floating_point
