"""Rules for piecewise constant ops: comparisons, rounding, logic."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from blockframe.atoms.facts import Discrete, argument
from blockframe.domains.enclosure import functions
from blockframe.domains.enclosure.ball import Ball
from blockframe.domains.enclosure.choices import decided, ranked, truth
from blockframe.domains.enclosure.operands import Operands, Outcome, Rule, exact, no_rule
from blockframe.graph.graph import Node, Ref

_MIRRORED = {"gt": "lt", "ge": "le", "greater": "lt", "less": "lt"}


def compared(name: str, a: Ball, b: Ball) -> Ball:
    (a_low, a_high), (b_low, b_high) = a.ends, b.ends
    if name in ("gt", "ge", "greater"):
        (a_low, a_high), (b_low, b_high) = b.ends, a.ends
    name = _MIRRORED.get(name, name)
    if name == "lt":
        return truth(a_high < b_low, a_low >= b_high)
    if name == "le":
        return truth(a_high <= b_low, a_low > b_high)
    equal = (a_low == a_high) & (b_low == b_high) & (a_low == b_low)
    different = (a_high < b_low) | (b_high < a_low)
    return truth(equal, different) if name == "eq" else truth(different, equal)


def _comparison(operands: Operands, node: Node) -> Outcome:
    return compared(node.short, operands.real(node.args[0]), operands.real(node.args[1]))


def _connective(operands: Operands, node: Node) -> Outcome:
    if node.dtype is not torch.bool:
        return _exactly(operands, node)
    (true, false), *second = (decided(operands.ball(x)) for x in node.args[:2])
    if not second:
        return truth(false, true)
    also_true, also_false = second[0]
    if "and" in node.short:
        return truth(true & also_true, false | also_false)
    if "xor" in node.short:
        sure = (true | false) & (also_true | also_false)
        return truth(sure & (true != also_true), sure & (true == also_true))
    return truth(true | also_true, false & also_false)


def _step(operands: Operands, node: Node) -> Outcome:
    return functions.step(operands.of_first(node), operands.real(node.args[0]))


def _rounded_quotient(operands: Operands, node: Node) -> Outcome:
    mode = argument(node, 2, "rounding_mode") if node.short == "div" else "floor"
    quotient = functions.div(operands.real(node.args[0]), operands.real(node.args[1]))
    rounded = {"floor": torch.floor, "trunc": torch.trunc}.get(mode)
    return quotient if rounded is None else functions.step(rounded, quotient)


def _infinite(operands: Operands, node: Node) -> Outcome:
    """Of what is known to be a number, or a certain infinity, these have one answer."""
    a = operands.real(node.args[0])
    if not a.is_known:
        return "nothing is known of its operand"
    return exact(operands.of_first(node)(a.mid))


def _arg(operands: Operands, node: Node) -> Outcome:
    a, dim = operands.real(node.args[0]), argument(node, 1, "dim")
    if a.is_exact and a.is_known:
        return _exactly(operands, node)
    if a.is_known and a.mid.dim():
        flat = a.move(torch.flatten) if dim is None else a
        shape = torch.Size(node.shape or ())
        found = ranked(flat, 0 if dim is None else dim, node.short == "argmax", shape)
        if found is not None:
            return found
    return "its operands do not decide it"


def _exactly(operands: Operands, node: Node) -> Outcome:
    """The op itself, on operands that are exact, where it computes no new reals."""
    if not node.is_whole and node.short != "heaviside":
        return no_rule(node)
    found = [operands.ball(Ref(i)) for i in node.operands]
    if not all(b.is_exact and b.is_known for b in found):
        return "its operands do not decide it"
    return exact(operands.run(node, operands.mid))


DISCRETE: Mapping[str, Rule] = {
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "greater", "less"), _comparison),
    **dict.fromkeys(("floor", "ceil", "round", "trunc", "fix", "sign", "sgn"), _step),
    **dict.fromkeys(
        ("logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and", "bitwise_or",
         "bitwise_xor", "bitwise_not", "__and__", "__or__", "__xor__"), _connective,
    ),
    **dict.fromkeys(("isnan", "isinf", "isfinite"), _infinite),
    **dict.fromkeys(("argmax", "argmin"), _arg),
    **dict.fromkeys(
        ("all", "any", "argsort", "bincount", "bucketize", "count_nonzero", "heaviside",
         "one_hot", "searchsorted", "signbit"), _exactly,
    ),
    "div": _rounded_quotient, "floor_divide": _rounded_quotient,
}  # fmt: skip


def decide(operands: Operands, node: Node, atom: Discrete) -> Outcome:
    rule = DISCRETE.get(node.short)
    if rule is None or node.op == "aten::round.decimals":
        return no_rule(node)
    return rule(operands, node)
