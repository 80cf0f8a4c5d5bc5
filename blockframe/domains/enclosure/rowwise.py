"""Rules for functions of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from blockframe.atoms.facts import Rowwise, argument
from blockframe.domains.enclosure import functions, rows
from blockframe.domains.enclosure.ball import INF, Ball, add, mul, square
from blockframe.domains.enclosure.operands import Operands, Outcome, Rule, no_rule
from blockframe.graph.graph import Node
from blockframe.graph.synthetic import NORMALIZE


def _dims(given: int | Sequence[int] | None) -> list[int]:
    return [given] if isinstance(given, int) else list(given or ())


def _softmax(operands: Operands, node: Node) -> Outcome:
    rule = {"softmax": rows.softmax, "_softmax": rows.softmax, "_safe_softmax": rows.safe_softmax}
    return rule.get(node.short, rows.log_softmax)(operands.real(node.args[0]), node.args[1])


def _logsumexp(operands: Operands, node: Node) -> Outcome:
    keep = argument(node, 2, "keepdim", False)
    return rows.logsumexp(operands.real(node.args[0]), _dims(node.args[1]), keep)


def _logaddexp(operands: Operands, node: Node) -> Outcome:
    a, b = (operands.real(x).expand(node.shape or ()) for x in node.args[:2])
    both = Ball(torch.stack([a.mid, b.mid]), torch.stack([a.rad, b.rad]))
    return rows.logsumexp(both, [0])


def _layer_norm(operands: Operands, node: Node) -> Outcome:
    dims = list(range(-len(node.args[1]), 0))
    eps = argument(node, 4, "eps", 1e-5)
    weight, bias = argument(node, 2, "weight"), argument(node, 3, "bias")
    scale, shift = operands.optional(weight), operands.optional(bias)
    a = operands.real(node.args[0])
    found = rows.normalize(a, dims, eps, scale, shift, centre=True)
    return found if node.short == "native_layer_norm" else found[0]


def _rms_norm(operands: Operands, node: Node) -> Outcome:
    eps = argument(node, 3, "eps")
    if eps is None:
        wide = node.dtype if node.dtype is torch.float64 else torch.float32
        if node.dtype is None:
            return no_rule(node)
        eps = torch.finfo(wide).eps
    dims = list(range(-len(node.args[1]), 0))
    weight = operands.optional(argument(node, 2, "weight"))
    a = operands.real(node.args[0])
    value, _, root = rows.normalize(a, dims, eps, weight, centre=False)
    return (value, root) if node.short == "_fused_rms_norm" else value


def _normalize(operands: Operands, node: Node) -> Outcome:
    """x / sqrt(scale * sum of squares + eps) (graph/synthetic)."""
    a, dims = operands.real(node.args[0]), _dims(node.args[1])
    scale, eps = operands.real(node.args[2]), operands.real(node.args[3])
    squares = rows.total(square(a), dims, keepdim=True).within(0.0, INF)
    return mul(a, functions.monotone("rsqrt", add(mul(scale, squares), eps)))


def _group_norm(operands: Operands, node: Node) -> Outcome:
    a = operands.real(node.args[0])
    groups, at, eps = argument(node, 1, "num_groups"), 2, argument(node, 4, "eps", 1e-5)
    if node.short == "native_group_norm":
        groups, at, eps = argument(node, 6, "group"), 1, argument(node, 7, "eps")
    elif node.short == "instance_norm":
        if not argument(node, 5, "use_input_stats"):
            return no_rule(node)
        groups, at, eps = a.shape[1], 1, argument(node, 7, "eps")
    weight, bias = argument(node, at, "weight"), argument(node, at + 1, "bias")
    found = rows.group_norm(a, groups, operands.optional(weight), operands.optional(bias), eps)
    return found if node.short == "native_group_norm" else found[0]


def _spread(operands: Operands, node: Node) -> Outcome:
    """var, std and the pairs with the mean, in all their overloads."""
    overload = node.op.partition(".")[2]
    if overload == "correction":
        dims, correction = argument(node, 1, "dim"), argument(node, 2, "correction", 1)
        keep = argument(node, 3, "keepdim", False)
    elif overload == "dim":
        dims, correction = argument(node, 1, "dim"), int(argument(node, 2, "unbiased", True))
        keep = argument(node, 3, "keepdim", False)
    else:
        dims, correction, keep = None, int(argument(node, 1, "unbiased", True)), False
    rule = rows.deviation if node.short.startswith("std") else rows.variance
    correction = 1.0 if correction is None else float(correction)
    found = rule(operands.real(node.args[0]), _dims(dims), correction, keep)
    return found if node.short.endswith("_mean") else found[0]


def _norm(operands: Operands, node: Node) -> Outcome:
    usual = None if node.short == "linalg_norm" else 2
    order = argument(node, 1, "p" if node.short == "norm" else "ord", usual)
    dims = argument(node, 2, "dim")
    if node.short == "linalg_norm" and order is not None and (dims is None or len(_dims(dims)) > 1):
        return no_rule(node)  # norms of matrices
    a, keep = operands.real(node.args[0]), argument(node, 3, "keepdim", False)
    found = rows.vector_norm(a, 2.0 if order is None else float(order), _dims(dims), keep)
    return no_rule(node) if found is None else found


def _prod(operands: Operands, node: Node) -> Outcome:
    a = operands.real(node.args[0])
    if node.op == "aten::prod":
        return rows.multiplied(a.move(torch.flatten), 0)
    return rows.multiplied(a, node.args[1], argument(node, 2, "keepdim", False))


def _cumprod(operands: Operands, node: Node) -> Outcome:
    return rows.running_product(operands.real(node.args[0]), node.args[1])


ROWS: Mapping[str, Rule] = {
    "softmax": _softmax, "_softmax": _softmax, "_safe_softmax": _softmax, "log_softmax": _softmax,
    "_log_softmax": _softmax, "logsumexp": _logsumexp, "logaddexp": _logaddexp,
    "layer_norm": _layer_norm, "native_layer_norm": _layer_norm, "rms_norm": _rms_norm,
    "_fused_rms_norm": _rms_norm, "group_norm": _group_norm, "native_group_norm": _group_norm,
    "instance_norm": _group_norm, "var": _spread, "std": _spread, "var_mean": _spread,
    "std_mean": _spread, "linalg_vector_norm": _norm, "norm": _norm, "linalg_norm": _norm,
    "prod": _prod, "cumprod": _cumprod,
    NORMALIZE.__name__: _normalize,
}  # fmt: skip


def of_rows(operands: Operands, node: Node, atom: Rowwise) -> Outcome:
    rule = ROWS.get(node.short)
    if rule is None or operands.real(node.args[0]).mid.dim() == 0:
        return no_rule(node)
    return rule(operands, node)
