"""Rules for ops that are linear in each operand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from blockframe.atoms.facts import Bilinear, argument
from blockframe.domains.enclosure import functions
from blockframe.domains.enclosure.ball import Ball, add, linear, mul, product, square
from blockframe.domains.enclosure.operands import Operands, Outcome, Rule, no_rule
from blockframe.graph.graph import Node, Ref


def _mul(operands: Operands, node: Node) -> Outcome:
    if node.args[0] == node.args[1] and isinstance(node.args[0], Ref):
        return square(operands.real(node.args[0]))
    return mul(operands.real(node.args[0]), operands.real(node.args[1]))


def _div(operands: Operands, node: Node) -> Outcome:
    return functions.div(operands.real(node.args[0]), operands.real(node.args[1]))


def _plain(operands: Operands, node: Node) -> Outcome:
    """Sums over the last dimension of the first factor."""
    a, b = operands.real(node.args[0]), operands.real(node.args[1])
    return product(node.target, a, b, a.shape[-1] if a.mid.dim() else 1)


def _entrywise(operands: Operands, node: Node) -> Outcome:
    return product(node.target, operands.real(node.args[0]), operands.real(node.args[1]), 1)


def _affine(operands: Operands, node: Node) -> Outcome:
    a, b = operands.real(node.args[0]), operands.real(node.args[1])
    bias = operands.optional(argument(node, 2, "bias"))
    return product(node.target, a, b, a.shape[-1] + 1, bias)


def _added(terms: Callable[[Ball, Ball], int]) -> Rule:
    """beta * args[0] + alpha * (the product of args[1] and args[2])."""

    def rule(operands: Operands, node: Node) -> Outcome:
        plus, a, b = (operands.real(x) for x in node.args[:3])
        alpha = node.kwargs.get("value" if node.short == "addcmul" else "alpha", 1)
        beta = node.kwargs.get("beta", 1)

        def op(a: Tensor, b: Tensor, *plus: Tensor) -> Tensor:
            zero = torch.zeros((), dtype=torch.float64, device=a.device)
            result: Tensor = node.target(plus[0] if plus else zero, a, b)
            return result

        count = terms(a, b) + 1
        if alpha == 1 and beta == 1:
            return product(op, a, b, count, plus)
        scaled = mul(operands.real(alpha), product(op, a, b, count))
        return scaled if beta == 0 else add(mul(operands.real(beta), plus), scaled)

    return rule


def _addcdiv(operands: Operands, node: Node) -> Outcome:
    a, b, c = (operands.real(x) for x in node.args[:3])
    return add(a, mul(operands.real(node.kwargs.get("value", 1)), functions.div(b, c)))


def _lerp(operands: Operands, node: Node) -> Outcome:
    return functions.lerp(*(operands.real(x) for x in node.args[:3]))


def _convolution(operands: Operands, node: Node) -> Outcome:
    a, b = operands.real(node.args[0]), operands.real(node.args[1])
    bias = operands.optional(argument(node, 2, "bias"))

    def op(a: Tensor, b: Tensor, *bias: Tensor) -> Tensor:
        # The library's own algorithms may be fast ones; without it the product of matrices is left.
        with torch.backends.cudnn.flags(enabled=False):
            options = {k: v for k, v in node.kwargs.items() if k != "bias"}
            result: Tensor = node.target(a, b, bias[0] if bias else None, *node.args[3:], **options)
            return result

    return product(op, a, b, b.mid.numel() // max(1, min(b.shape[:2])) + 1, bias)


def _einsum(operands: Operands, node: Node) -> Outcome:
    equation = str(node.args[0]).replace(" ", "")
    factors = [operands.real(x) for x in node.args[1]]
    inputs, arrow, output = equation.partition("->")
    if "." in equation or len(factors) > 2:
        return no_rule(node)
    sizes: dict[str, int] = {}
    for term, factor in zip(inputs.split(","), factors, strict=True):
        for label, size in zip(term, factor.shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    kept = output if arrow else "".join(x for x in sizes if inputs.count(x) == 1)
    count = math.prod(n for label, n in sizes.items() if label not in kept) + 3

    def op(*t: Tensor) -> Tensor:
        return torch.einsum(equation, *t)

    if len(factors) == 1:
        return linear(op, factors, count)
    return product(op, factors[0], factors[1], count)


def _tensordot(operands: Operands, node: Node) -> Outcome:
    a, b = operands.real(node.args[0]), operands.real(node.args[1])
    dims = argument(node, 2, "dims_self"), argument(node, 3, "dims_other")
    count = math.prod(a.shape[d] for d in dims[0]) + 1
    return product(lambda x, y: torch.tensordot(x, y, dims), a, b, count)


def _chained(operands: Operands, node: Node) -> Outcome:
    found, *others = (operands.real(x) for x in node.args[0])
    for other in others:
        found = product(torch.matmul, found, other, found.shape[-1])
    return found


def _scattered_sum(operands: Operands, node: Node) -> Outcome:
    """scatter_add, index_add: self, dim, index, source."""
    index = operands.ball(node.args[2])
    if not index.is_whole:
        return "an index that is not constant"
    dim = node.args[1]
    alpha = node.kwargs.get("alpha", 1)
    a, source = operands.real(node.args[0]), operands.real(node.args[3])
    source = source if alpha == 1 else mul(operands.real(alpha), source)
    count = source.shape[dim] if source.mid.dim() else 1
    return linear(lambda s, t: node.target(s, dim, index.mid, t), [a, source], count + 1)


def _contracted(a: Ball, b: Ball) -> int:
    return a.shape[-1]


def _batch_contracted(a: Ball, b: Ball) -> int:
    return a.shape[0] * a.shape[-1]


def _single(a: Ball, b: Ball) -> int:
    return 1


PRODUCTS: Mapping[str, Rule] = {
    "mul": _mul, "multiply": _mul, "div": _div, "true_divide": _div, "divide": _div,
    "matmul": _plain, "mm": _plain, "bmm": _plain, "mv": _plain, "dot": _plain, "vdot": _plain,
    "inner": _plain, "outer": _entrywise, "kron": _entrywise, "linear": _affine,
    "addmm": _added(_contracted), "baddbmm": _added(_contracted), "addmv": _added(_contracted),
    "addbmm": _added(_batch_contracted), "addr": _added(_single), "addcmul": _added(_single),
    "addcdiv": _addcdiv, "lerp": _lerp, "einsum": _einsum, "tensordot": _tensordot,
    "linalg_multi_dot": _chained, "chain_matmul": _chained, "convolution": _convolution,
    "conv1d": _convolution, "conv2d": _convolution, "conv3d": _convolution,
    "conv_transpose1d": _convolution, "conv_transpose2d": _convolution,
    "conv_transpose3d": _convolution,
    "scatter_add": _scattered_sum, "index_add": _scattered_sum,
}  # fmt: skip


def multiply(operands: Operands, node: Node, atom: Bilinear) -> Outcome:
    rule = PRODUCTS.get(node.short)
    return no_rule(node) if rule is None else rule(operands, node)
