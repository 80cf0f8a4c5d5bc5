"""Scalar functions applied to every entry.

Suprema of first and second derivatives are those of docs/theory section 2, rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import evolve

from blockframe.atoms.facts import Bounds, Kink, Pointwise, argument
from blockframe.atoms.interval import INF, NON_NEGATIVE, POSITIVE, REALS, Interval
from blockframe.graph.graph import Node, Ref
from blockframe.graph.synthetic import SWISH

if TYPE_CHECKING:
    from torch import Tensor

THEORY = "docs/theory section 2"
NON_ZERO = (Interval(-INF, 0.0), POSITIVE)
ABOVE_MINUS_ONE = Interval(-1.0, INF)
UNIT = Interval(-1.0, 1.0)
ZERO_ONE = Interval(0.0, 1.0)


def _identity(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x


def _constant(c: float) -> Callable[..., Tensor]:
    return lambda x, *args, **kwargs: x.new_full(x.shape, c)


def _scaled(c: float) -> Callable[..., Tensor]:
    return lambda x, *args, **kwargs: x * c


def _sigmoid(t: float) -> float:
    return 1.0 / (1.0 + math.exp(-t)) if t >= 0 else math.exp(t) / (1.0 + math.exp(t))


def _softplus(t: float) -> float:
    return max(t, 0.0) + math.log1p(math.exp(-abs(t)))


def _silu(t: float) -> float:
    return t * _sigmoid(t) if math.isfinite(t) else max(t, 0.0)


def _gelu(t: float) -> float:
    return 0.5 * t * (1.0 + math.erf(t / math.sqrt(2.0))) if math.isfinite(t) else max(t, 0.0)


# --- records that depend on a node's arguments -------------------------------------------------


def _margin(*values: float) -> tuple[float, ...]:
    """Values of elementary functions, rounded up beyond their error."""
    return tuple(v * (1.0 + 1e-12) for v in values)


def _on_sqrt(u: Interval) -> Bounds | None:
    m = u.lo
    if m <= 0.0:
        return None
    d1, d2 = _margin(0.5 / math.sqrt(m), 0.25 * m**-1.5)
    return (0.5, 0.5), d1, d2  # sqrt(t) <= (1 + t) / 2


def _on_rsqrt(u: Interval) -> Bounds | None:
    m = u.lo
    if m <= 0.0:
        return None
    c0, d1, d2 = _margin(m**-0.5, 0.5 * m**-1.5, 0.75 * m**-2.5)
    return (c0, 0.0), d1, d2


def _on_reciprocal(u: Interval) -> Bounds | None:
    m = u.least
    if m <= 0.0:
        return None
    c0, d1, d2 = _margin(1.0 / m, m**-2.0, 2.0 * m**-3.0)
    return (c0, 0.0), d1, d2


def _on_log(scale: float, shift: float = 0.0) -> Callable[[Interval], Bounds | None]:
    """scale * log(shift + t): |log t| <= |log m| + t for t >= m."""

    def on(u: Interval) -> Bounds | None:
        m = u.lo + shift
        if m <= 0.0:
            return None
        c0, c1, d1, d2 = _margin(
            scale * (abs(math.log(m)) + shift), scale, scale / m, scale / (m * m)
        )
        return (c0, c1), d1, d2

    return on


def _on_exp(base: float = math.e, below: float = 0.0) -> Callable[[Interval], Bounds | None]:
    """base**t - below."""

    def on(u: Interval) -> Bounds | None:
        rate = abs(math.log(base))
        top = u.hi if base >= 1 else -u.lo
        if top * rate > 700.0:
            return None
        c0, d1, d2 = _margin(*(math.exp(top * rate) * rate**k for k in range(3)))
        return (max(c0, below), 0.0), d1, d2

    return on


def _on_power(p: float) -> Callable[[Interval], Bounds | None]:
    """t**p for t > 0, or for t of one sign where p is a whole number."""

    def largest(q: float, m: float, top: float) -> float:
        if q > 0:
            return math.inf if math.isinf(top) else float(top**q)
        return float(m**q)

    def on(u: Interval) -> Bounds | None:
        m, top = u.least, u.greatest
        if m <= 0.0 or (u.lo < 0.0 and p != int(p)):
            return None
        d1, d2 = (abs(p) * largest(p - 1, m, top), abs(p * (p - 1)) * largest(p - 2, m, top))
        growth = (1.0, 1.0) if 0.0 <= p <= 1.0 else (largest(p, m, top), 0.0)
        found = _margin(*growth, d1, d2)
        return (
            ((found[0], found[1]), found[2], found[3]) if all(map(math.isfinite, found)) else None
        )

    return on


def _number(node: Node, position: int, name: str, default: float | None) -> float | None:
    """A plain number argument; NaN where another node's value stands there."""
    value = argument(node, position, name, default)
    if value is None:
        return None
    return math.nan if isinstance(value, (Ref, complex)) else float(value)


def _between(node: Node, low: float | None, high: float | None) -> Pointwise | None:
    """The clamp to [low, high]."""
    lo, hi = -INF if low is None else low, INF if high is None else high
    if math.isnan(lo) or math.isnan(hi) or lo > hi:
        return None
    ends = [e for e in (lo, hi) if math.isfinite(e)]
    if lo == hi:
        return evolve(CLAMP, kinks=(), pieces=(), range=Interval.point(lo), at=None)
    pieces: list[Callable[..., Tensor]] = [_identity]
    if math.isfinite(lo):
        pieces.insert(0, _constant(lo))
    if math.isfinite(hi):
        pieces.append(_constant(hi))
    return evolve(
        CLAMP,
        kinks=tuple(Kink(e) for e in ends),
        pieces=tuple(pieces),
        value=lambda t: min(max(t, lo), hi),
        monotone=1,
        range=Interval(lo, hi, lo == -INF, hi == INF),
        growth=(max([0.0, *map(abs, ends)]), 1.0),
        at=None,
    )


def _clamp(node: Node) -> Pointwise | None:
    return _between(node, _number(node, 1, "min", None), _number(node, 2, "max", None))


def _clamp_min(node: Node) -> Pointwise | None:
    return _between(node, _number(node, 1, "min", None), None)


def _clamp_max(node: Node) -> Pointwise | None:
    return _between(node, None, _number(node, 1, "max", None))


def _hardtanh(node: Node) -> Pointwise | None:
    return _between(node, _number(node, 1, "min_val", -1.0), _number(node, 2, "max_val", 1.0))


def _leaky(node: Node) -> Pointwise | None:
    slope = _number(node, 1, "negative_slope", 0.01)
    if slope is None or math.isnan(slope):
        return None
    steepest = max(1.0, abs(slope))
    kinks = () if slope == 1.0 else (Kink(0.0),)
    return evolve(
        LEAKY_RELU,
        kinks=kinks,
        pieces=(_scaled(slope), _identity) if kinks else (_identity,),
        growth=(0.0, steepest),
        lipschitz=steepest,
        curvature=0.0,
        value=lambda t: t if t > 0 else slope * t,
        monotone=1 if slope >= 0 else 0,
        range=NON_NEGATIVE if slope <= 0 else REALS,
        at=None,
    )


def _elu(node: Node) -> Pointwise | None:
    alpha = _number(node, 1, "alpha", 1.0)
    scale = _number(node, 2, "scale", 1.0)
    inner = _number(node, 3, "input_scale", 1.0)
    if alpha is None or scale is None or inner is None or math.isnan(alpha + scale + inner):
        return None
    return evolve(
        ELU,
        kinks=(Kink(0.0, 2 if alpha * inner == 1.0 else 1),),
        pieces=(
            lambda x, *a, **k: scale * alpha * (x * inner).expm1(),
            lambda x, *a, **k: scale * x,
        ),
        at=None,
    )


def _celu(node: Node) -> Pointwise | None:
    alpha = _number(node, 1, "alpha", 1.0)
    if alpha is None or math.isnan(alpha) or alpha == 0.0:
        return None
    return evolve(
        ELU,
        kinks=(Kink(0.0, 2),),
        pieces=(lambda x, *a, **k: alpha * (x / alpha).expm1(), _identity),
        at=None,
    )


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _shrink(node: Node, *, soft: bool) -> Pointwise | None:
    width = _number(node, 1, "lambd", 0.5)
    if width is None or math.isnan(width) or width < 0:
        return None
    if width == 0.0:
        return evolve(SHRINK, kinks=(), pieces=(_identity,), at=None)
    off = width if soft else 0.0
    return evolve(
        SHRINK,
        kinks=(Kink(-width, 1 if soft else 0), Kink(width, 1 if soft else 0)),
        pieces=(lambda x, *a, **k: x + off, _constant(0.0), lambda x, *a, **k: x - off),
        at=None,
    )


def _threshold(node: Node) -> Pointwise | None:
    at, value = _number(node, 1, "threshold", 0.0), _number(node, 2, "value", 0.0)
    if at is None or value is None or math.isnan(at + value):
        return None
    return evolve(
        SHRINK,
        kinks=(Kink(at, 1 if at == value else 0),),
        pieces=(_constant(value), _identity),
        at=None,
    )


def _power(node: Node) -> Pointwise | None:
    p = _number(node, 1, "exponent", None)
    if p is None or math.isnan(p):
        return None
    if p != int(p) if math.isfinite(p) else True:
        return evolve(
            POWER,
            analytic_on=POSITIVE,
            range=NON_NEGATIVE,
            at=None,
            value=lambda t: t**p if t >= 0 else math.nan,
            on=_on_power(p),
            monotone=1 if p > 0 else -1,
        )
    n = int(p)
    if n < 0:
        # The range rule speaks for positive arguments only: elsewhere `value` is not defined.
        return evolve(
            POWER,
            analytic_on=NON_ZERO,
            at=None,
            monotone=-1,
            range=Interval(0.0, INF, n % 2 == 1) if n % 2 == 0 else REALS,
            value=lambda t: t**p if t > 0 else math.nan,
            on=_on_power(p),
        )
    if n % 2 == 0:
        return (
            evolve(POWER, at=None, even=n, power=n)
            if n
            else evolve(POWER, range=Interval.point(1.0), at=None, power=0)
        )
    return evolve(POWER, at=None, value=lambda t: t**n, monotone=1, power=n)


def _base(node: Node) -> Pointwise | None:
    base = _number(node, 0, "self", None)
    if base is None or math.isnan(base) or base <= 0.0:
        return None
    return evolve(
        EXP2,
        value=lambda t: base**t,
        monotone=1 if base >= 1 else -1,
        on=_on_exp(base),
        at=None,
    )


def _swish(node: Node) -> Pointwise | None:
    """t sigmoid(beta t): silu(beta t) / beta."""
    beta = _number(node, 1, "beta", None)
    if beta is None or not beta > 0 or not math.isfinite(beta):
        return None
    lowest, curvature = _margin(0.279 / beta, 0.5 * beta)
    return evolve(
        SWISH_RECORD, range=Interval(-lowest, INF), growth=(0.0, 1.0), lipschitz=1.09984,
        curvature=curvature, at=None,
    )  # fmt: skip


def _beta(node: Node) -> Pointwise | None:
    """softplus of beta * t, over beta; above its threshold, as implemented, t itself."""
    beta, threshold = _number(node, 1, "beta", 1.0), _number(node, 2, "threshold", 20.0)
    if beta is None or threshold is None or not beta > 0 or math.isnan(threshold):
        return None
    if threshold < 20.0:
        return Pointwise(
            node.op, range=NON_NEGATIVE, kinks=(Kink(threshold / beta, 0),),
            pieces=(lambda x, *a, **k: (x * beta).exp().log1p() / beta, _identity),
        )  # fmt: skip
    c0, d2 = _margin(0.69315 / beta, 0.25 * beta)
    return Pointwise(
        node.op, range=POSITIVE, growth=(c0, 1.0), lipschitz=1.0, curvature=d2, source=THEORY,
        note=_SOFTPLUS if math.isfinite(threshold) else "",
    )  # fmt: skip


_SOFTPLUS = (
    "softplus as implemented switches to the identity above its threshold: it then deviates from "
    "the analytic function by at most e^-threshold / beta (2.1e-9 by default)"
)

RELU = Pointwise(
    "aten::relu",
    kinks=(Kink(0.0),),
    pieces=(_constant(0.0), _identity),
    value=lambda t: max(t, 0.0),
    monotone=1,
    range=NON_NEGATIVE,
    growth=(0.0, 1.0),
    lipschitz=1.0,
    curvature=0.0,
)
CLAMP = Pointwise("aten::clamp", lipschitz=1.0, curvature=0.0, at=_clamp)
LEAKY_RELU = Pointwise("aten::leaky_relu", at=_leaky)
ELU = Pointwise("aten::elu", at=_elu)
SHRINK = Pointwise("aten::softshrink", at=lambda node: _shrink(node, soft=True))
POWER = Pointwise("aten::pow.Tensor_Scalar", at=_power)
SWISH_RECORD = Pointwise(SWISH.__name__, source=THEORY, at=_swish)
EXP2 = Pointwise("aten::exp2", value=lambda t: 2.0**t, monotone=1, range=POSITIVE, on=_on_exp(2.0))

KINKED = (
    RELU,
    CLAMP,
    LEAKY_RELU,
    ELU,
    SHRINK,
    Pointwise("aten::hardshrink", at=lambda node: _shrink(node, soft=False)),
    Pointwise("aten::threshold", at=_threshold),
    Pointwise("aten::clamp_min", lipschitz=1.0, curvature=0.0, at=_clamp_min),
    Pointwise("aten::clamp_max", lipschitz=1.0, curvature=0.0, at=_clamp_max),
    Pointwise("aten::clip", lipschitz=1.0, curvature=0.0, at=_clamp),
    Pointwise("aten::hardtanh", lipschitz=1.0, curvature=0.0, at=_hardtanh),
    Pointwise("aten::celu", at=_celu),
    Pointwise(
        "aten::relu6",
        kinks=(Kink(0.0), Kink(6.0)),
        pieces=(_constant(0.0), _identity, _constant(6.0)),
        value=lambda t: min(max(t, 0.0), 6.0),
        monotone=1,
        range=Interval(0.0, 6.0, False, False),
        growth=(0.0, 1.0),
        lipschitz=1.0,
    ),
    Pointwise(
        "aten::abs",
        kinks=(Kink(0.0),),
        pieces=(_scaled(-1.0), _identity),
        range=NON_NEGATIVE,
        growth=(0.0, 1.0),
        lipschitz=1.0,
    ),
    Pointwise(
        "aten::selu",
        kinks=(Kink(0.0),),
        pieces=(lambda x: _SELU_SCALE * _SELU_ALPHA * x.expm1(), _scaled(_SELU_SCALE)),
    ),
    Pointwise(
        "aten::hardswish",
        kinks=(Kink(-3.0), Kink(3.0)),
        pieces=(_constant(0.0), lambda x: x * (x + 3.0) / 6.0, _identity),
        growth=(0.0, 1.0),
        lipschitz=1.5,
    ),
    Pointwise(
        "aten::hardsigmoid",
        kinks=(Kink(-3.0), Kink(3.0)),
        pieces=(_constant(0.0), lambda x: (x + 3.0) / 6.0, _constant(1.0)),
        range=Interval(0.0, 1.0, False, False),
        growth=(1.0, 0.0),
        lipschitz=0.16667,
    ),
    Pointwise(
        ("aten::prelu", "aten::_prelu_kernel"),
        kinks=(Kink(0.0),),
        pieces=(lambda x, w: x * _channelwise(x, w), lambda x, w: x),
    ),
)


def _channelwise(x: Tensor, w: Tensor) -> Tensor:
    """The weights of a prelu, shaped so that they stand at dimension 1 of ``x``."""
    if w.numel() == 1 or w.dim() == x.dim():
        return w
    return w.reshape([-1 if d == 1 else 1 for d in range(x.dim())])


SMOOTH = (
    Pointwise(
        "aten::gelu",
        growth=(0.0, 1.0),
        lipschitz=1.12900,
        curvature=0.79789,
        range=Interval(-0.171, INF),
        source=THEORY,
    ),
    Pointwise(
        "aten::silu",
        growth=(0.0, 1.0),
        lipschitz=1.09984,
        curvature=0.5,
        range=Interval(-0.279, INF),
        source=THEORY,
    ),
    SWISH_RECORD,
    Pointwise(
        "aten::mish",
        growth=(0.0, 1.0),
        lipschitz=1.08850,
        curvature=0.64630,
        range=Interval(-0.31, INF),
    ),
    Pointwise(
        "aten::tanh",
        value=math.tanh,
        monotone=1,
        range=UNIT,
        growth=(1.0, 0.0),
        lipschitz=1.0,
        curvature=0.76981,
        source=THEORY,
    ),
    Pointwise(
        "aten::sigmoid",
        value=_sigmoid,
        monotone=1,
        range=ZERO_ONE,
        growth=(1.0, 0.0),
        lipschitz=0.25,
        curvature=0.09623,
        source=THEORY,
    ),
    Pointwise(
        "aten::log_sigmoid",
        value=lambda t: -_softplus(-t),
        monotone=1,
        range=Interval(-INF, 0.0),
        growth=(0.69315, 1.0),
        lipschitz=1.0,
        curvature=0.25,
    ),
    Pointwise(
        "aten::softplus",
        range=POSITIVE,
        at=_beta,
        source=THEORY,
        note=_SOFTPLUS,
    ),
    Pointwise(
        "aten::erf",
        value=math.erf,
        monotone=1,
        range=UNIT,
        growth=(1.0, 0.0),
        lipschitz=1.12838,
        curvature=0.96789,
        source=THEORY,
    ),
    Pointwise(
        "aten::erfc",
        value=math.erfc,
        monotone=-1,
        range=Interval(0.0, 2.0),
        growth=(2.0, 0.0),
        lipschitz=1.12838,
        curvature=0.96789,
    ),
    Pointwise(
        ("aten::sin", "aten::cos"),
        range=Interval(-1.0, 1.0, False, False),
        growth=(1.0, 0.0),
        lipschitz=1.0,
        curvature=1.0,
        source=THEORY,
    ),
    Pointwise(
        "aten::sinc",
        range=Interval(-0.218, 1.0, True, False),
        growth=(1.0, 0.0),
        lipschitz=1.37075,
        curvature=3.28987,
    ),
    Pointwise("aten::exp", value=math.exp, monotone=1, range=POSITIVE, on=_on_exp()),
    EXP2,
    Pointwise("aten::pow.Scalar", at=_base),
    Pointwise(
        "aten::expm1",
        value=math.expm1,
        monotone=1,
        range=Interval(-1.0, INF),
        on=_on_exp(below=1.0),
    ),
    Pointwise("aten::sinh", value=math.sinh, monotone=1),
    Pointwise("aten::cosh", range=Interval(1.0, INF, False)),
    Pointwise(
        "aten::asinh",
        value=math.asinh,
        monotone=1,
        growth=(0.0, 1.0),
        lipschitz=1.0,
        curvature=0.38491,
    ),
    Pointwise(
        "aten::atan",
        value=math.atan,
        monotone=1,
        range=Interval(-1.5708, 1.5708),
        growth=(0.0, 1.0),
        lipschitz=1.0,
        curvature=0.64953,
    ),
    Pointwise("aten::square", even=2, power=2),
    POWER,
    Pointwise("aten::pow.Tensor_Tensor", analytic_on=POSITIVE, range=NON_NEGATIVE),
    # analytic on a part of the line
    Pointwise(
        "aten::sqrt",
        analytic_on=POSITIVE,
        value=math.sqrt,
        monotone=1,
        range=NON_NEGATIVE,
        on=_on_sqrt,
    ),
    Pointwise(
        "aten::rsqrt",
        analytic_on=POSITIVE,
        value=lambda t: 1.0 / math.sqrt(t) if t else INF,
        monotone=-1,
        range=NON_NEGATIVE,
        on=_on_rsqrt,
    ),
    # Between a negative and a positive argument a reciprocal is not monotone: `value` speaks for
    # positive ones only.
    Pointwise(
        "aten::reciprocal",
        analytic_on=NON_ZERO,
        monotone=-1,
        value=lambda t: 1.0 / t if t > 0 else math.nan,
        on=_on_reciprocal,
    ),
    Pointwise("aten::log", analytic_on=POSITIVE, value=math.log, monotone=1, on=_on_log(1.0)),
    Pointwise("aten::log2", analytic_on=POSITIVE, value=math.log2, monotone=1, on=_on_log(1.4427)),
    Pointwise(
        "aten::log10", analytic_on=POSITIVE, value=math.log10, monotone=1, on=_on_log(0.4343)
    ),
    Pointwise(
        "aten::log1p",
        analytic_on=ABOVE_MINUS_ONE,
        value=math.log1p,
        monotone=1,
        on=_on_log(1.0, 1.0),
    ),
    Pointwise(("aten::asin", "aten::acos"), analytic_on=UNIT, range=Interval(-1.571, 3.142)),
    Pointwise("aten::erfinv", analytic_on=UNIT),
    Pointwise(("aten::lgamma", "aten::digamma"), analytic_on=POSITIVE),
    Pointwise("aten::atanh", analytic_on=UNIT, value=math.atanh, monotone=1),
    Pointwise("aten::acosh", analytic_on=Interval(1.0, INF), range=NON_NEGATIVE),
    # On real numbers the identity.
    Pointwise(
        "aten::nan_to_num",
        value=lambda t: t,
        monotone=1,
        growth=(0.0, 1.0),
        lipschitz=1.0,
        curvature=0.0,
    ),
)

POINTWISES = KINKED + SMOOTH
