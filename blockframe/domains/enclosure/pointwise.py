"""Rules for functions of single entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from blockframe.atoms.facts import Pointwise, argument
from blockframe.domains.enclosure import functions
from blockframe.domains.enclosure.ball import INF, NAN, Ball, add, mul, neg, square, sub
from blockframe.domains.enclosure.choices import choose
from blockframe.domains.enclosure.discrete import compared
from blockframe.domains.enclosure.operands import Operands, Outcome, no_rule
from blockframe.graph.graph import Node, Ref
from blockframe.graph.synthetic import SWISH


def _clamped(low: float | None, high: float | None) -> functions.Function:
    return lambda a: functions.bent(lambda t: t.clamp(low, high), a)


def _clamp(operands: Operands, node: Node, a: Ball) -> Outcome:
    """Also one-sided: ``clamp_max`` has its bound in the place of the other's lower one."""
    ends = {
        "clamp_min": (argument(node, 1, "min"), None),
        "clamp_max": (None, argument(node, 1, "max")),
        "hardtanh": (argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)),
        "relu6": (0.0, 6.0),
    }.get(node.short, (argument(node, 1, "min"), argument(node, 2, "max")))
    if any(isinstance(e, Ref) for e in ends):
        return no_rule(node)
    return _clamped(*ends)(a)


def _gelu(operands: Operands, node: Node, a: Ball) -> Outcome:
    rough = argument(node, 1, "approximate", "none") == "tanh"
    return functions.gelu_tanh(a) if rough else functions.gelu(a)


def _softplus(operands: Operands, node: Node, a: Ball) -> Outcome:
    beta, threshold = argument(node, 1, "beta", 1.0), argument(node, 2, "threshold", 20.0)
    return functions.softplus(a, float(beta), float(threshold))


def _swish(operands: Operands, node: Node, a: Ball) -> Outcome:
    """x sigmoid(beta x) = silu(beta x) / beta."""
    beta = operands.real(float(argument(node, 1, "beta")))
    return functions.div(functions.silu(mul(beta, a)), beta)


def _log_sigmoid(operands: Operands, node: Node, a: Ball) -> Outcome:
    return neg(functions.increasing(functions.SOFTPLUS, neg(a)))


def _power(operands: Operands, node: Node, a: Ball) -> Outcome:
    exponent = operands.real(node.args[1])
    if exponent.is_exact and exponent.mid.numel() == 1 and exponent.is_finite:
        value = functions.power(a, float(exponent.mid))
        return value.expand(node.shape or ())
    log = functions.monotone("log", a)
    return functions.monotone("exp", mul(exponent, log))


def _base(operands: Operands, node: Node, a: Ball) -> Outcome:
    base = node.args[0]
    if isinstance(base, Ref) or not base > 0:
        return no_rule(node)
    return functions.exponential(float(base), a)


def _leaky(operands: Operands, node: Node, a: Ball) -> Outcome:
    return functions.rectified(a, operands.real(float(argument(node, 1, "negative_slope", 0.01))))


def _prelu(operands: Operands, node: Node, a: Ball) -> Outcome:
    slope = operands.real(node.args[1])
    if slope.mid.numel() > 1 and slope.mid.dim() != a.mid.dim():
        slope = slope.move(lambda t: t.reshape([-1 if d == 1 else 1 for d in range(a.mid.dim())]))
    return functions.rectified(a, slope)


def _elu(operands: Operands, node: Node, a: Ball) -> Outcome:
    """scale * t where t > 0, scale * alpha * (exp(inner * t) - 1) elsewhere."""
    alpha, scale, inner = (
        float(argument(node, p, name, 1.0))
        for p, name in ((1, "alpha"), (2, "scale"), (3, "input_scale"))
    )
    if node.short == "celu":
        inner = 1.0 / alpha
        if inner * alpha != 1.0:
            return no_rule(node)
    if node.short == "selu":
        alpha, scale, inner = 1.6732632423543772848, 1.0507009873554804934, 1.0
    below = neg(functions.relu(neg(a)))
    if inner != 1.0:
        below = mul(operands.real(inner), below)
    below = mul(operands.real(alpha), functions.monotone("expm1", below))
    value = add(functions.relu(a), below)
    return value if scale == 1.0 else mul(operands.real(scale), value)


def _hardsigmoid(operands: Operands, node: Node, a: Ball) -> Outcome:
    shifted = add(a, operands.real(3.0))
    return functions.div(_clamped(0.0, 6.0)(shifted), operands.real(6.0))


def _hardswish(operands: Operands, node: Node, a: Ball) -> Outcome:
    gate = _hardsigmoid(operands, node, a)
    return mul(a, gate) if isinstance(gate, Ball) else gate


def _softshrink(operands: Operands, node: Node, a: Ball) -> Outcome:
    width = operands.real(float(argument(node, 1, "lambd", 0.5)))
    return sub(functions.relu(sub(a, width)), functions.relu(sub(neg(a), width)))


def _hardshrink(operands: Operands, node: Node, a: Ball) -> Outcome:
    width = float(argument(node, 1, "lambd", 0.5))
    return functions.bent(lambda t: torch.where((t < -width) | (t > width), t, 0.0), a)


def _threshold(operands: Operands, node: Node, a: Ball) -> Outcome:
    at, value = operands.real(node.args[1]), operands.real(node.args[2])
    return choose(compared("gt", a, at), a, value)


def _ball_function(f: functions.Function) -> Callable[[Operands, Node, Ball], Outcome]:
    return lambda operands, node, a: f(a)


FUNCTIONS: Mapping[str, Callable[[Operands, Node, Ball], Outcome]] = {
    "relu": _ball_function(functions.relu), "abs": _ball_function(functions.absolute),
    "square": _ball_function(square), "silu": _ball_function(functions.silu),
    "mish": _ball_function(functions.mish), "sin": _ball_function(functions.sine),
    "cos": _ball_function(functions.cosine), "cosh": _ball_function(functions.cosh),
    "reciprocal": _ball_function(functions.reciprocal), "nan_to_num": _ball_function(lambda a: a),
    "gelu": _gelu, "softplus": _softplus, "log_sigmoid": _log_sigmoid, "clamp": _clamp,
    "clip": _clamp, "clamp_min": _clamp, "clamp_max": _clamp, "hardtanh": _clamp, "relu6": _clamp,
    "leaky_relu": _leaky, "prelu": _prelu, "_prelu_kernel": _prelu, "elu": _elu, "celu": _elu,
    "selu": _elu, "hardsigmoid": _hardsigmoid, "hardswish": _hardswish, "softshrink": _softshrink,
    "hardshrink": _hardshrink, "threshold": _threshold, "pow": _power,
    SWISH.__name__: _swish,
}  # fmt: skip


def apply(operands: Operands, node: Node, atom: Pointwise) -> Outcome:
    if node.op == "aten::pow.Scalar":
        return _base(operands, node, operands.real(node.args[1]))
    a = operands.real(node.args[0])
    if node.short in functions.MONOTONE:
        value: Outcome = functions.monotone(node.short, a)
    elif node.short in FUNCTIONS:
        value = FUNCTIONS[node.short](operands, node, a)
    else:
        return no_rule(node)
    if a.is_finite or not isinstance(value, Ball) or a.shape != value.shape:
        return value
    # exp(-inf) is 0; no other function is asked for its value at what is not a real number.
    bad = torch.isnan(a.mid) if node.short == "exp" else ~a.is_real
    return Ball(value.mid.masked_fill(bad, NAN), value.rad.masked_fill(bad, INF))
