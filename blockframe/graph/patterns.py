"""Functions that models spell out in small ops, recognised so that their bounds are tight.

Recognising is never needed for soundness: what is not recognised is bounded op by op.
"""

from __future__ import annotations

import math

from blockframe.graph.graph import Graph, Node, Ref

_CASTS = {"aten::to.dtype", "aten::to.dtype_layout", "aten::_to_copy", "aten::type_as",
          "aten::alias", "aten::contiguous"}  # fmt: skip


def _peeled(graph: Graph, argument: object) -> Node | None:
    """The node behind casts."""
    if not isinstance(argument, Ref):
        return None
    node = graph[argument.index]
    while node.op in _CASTS:
        node = graph[node.operands[0]]
    return node


def normalised_rows(graph: Graph, index: int) -> tuple[int, int, float] | None:
    """x * rsqrt(mean(x^2) + eps), or x / sqrt(mean(x^2) + eps), in any order of factors.

    Returns the index of x, the entries of a row and eps; None if node ``index`` is nothing like it.
    (LayerNorm spelled out is this, of the centred value.)
    """
    node = graph[index]
    if node.op == "aten::mul.Tensor":
        pairs = [node.args[:2], node.args[1::-1]]
        root = "aten::rsqrt"
    elif node.op == "aten::div.Tensor":
        pairs, root = [node.args[:2]], "aten::sqrt"
    else:
        return None
    for value, factor in pairs:
        x, scale = _peeled(graph, value), _peeled(graph, factor)
        if x is None or scale is None or scale.op != root or x.shape is None:
            continue
        mean_and_eps = _mean_square(graph, scale.args[0], x)
        if mean_and_eps is not None:
            return x.index, *mean_and_eps
    return None


def _mean_square(graph: Graph, argument: object, x: Node) -> tuple[int, float] | None:
    """(entries of a row, eps) if ``argument`` is mean(x^2, dims, keepdim=True) + eps."""
    total = _peeled(graph, argument)
    if total is None or total.op != "aten::add.Tensor":
        return None
    eps = total.args[1]
    mean = _peeled(graph, total.args[0])
    if not isinstance(eps, (int, float)) or not eps > 0 or total.kwargs or mean is None:
        return None
    if mean.op != "aten::mean.dim" or len(mean.args) < 3 or mean.args[2] is not True:
        return None
    square = _peeled(graph, mean.args[0])
    if square is None or not _is_square_of(graph, square, x):
        return None
    assert x.shape is not None
    dims = mean.args[1] or range(len(x.shape))  # none named: all
    return math.prod(x.shape[d] for d in dims), float(eps)


def _is_square_of(graph: Graph, square: Node, x: Node) -> bool:
    operands = [_peeled(graph, a) for a in square.args if isinstance(a, Ref)]
    if any(o is not x for o in operands):
        return False
    if square.op == "aten::pow.Tensor_Scalar":
        return bool(square.args[1] == 2)
    return square.op == "aten::square" or (square.op == "aten::mul.Tensor" and len(operands) == 2)
