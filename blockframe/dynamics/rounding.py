"""What rounding does to the loss of one network, as far as other arithmetic shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from blockframe.dynamics.ending import NetworkError, NoFunction
from blockframe.dynamics.inequalities import least_units, rounded_by
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.objective import Objective

REPEATED = 2**10
"""Units of roundoff by which loss and gradient may differ when they are computed again at a θ."""
POINTS = 3
"""At and near an iterate, at which the loss is computed in two arithmetics."""
LOST = 2.0**-5
"""Relative difference between the two beyond which the narrower one tells nothing."""
TIMES = 8
"""How many times the largest difference among them rounding is taken to do."""


def check_repeatable(it: Iterate, loss: float | None = None, slope: float | None = None) -> None:
    """Loss and gradient at the same θ are the same again: not so where the forward counts its
    calls, say, in itself or elsewhere.

    Args:
        it: an iterate at which they are to be computed again.
        loss, slope: L and ‖∇L‖ as they were; None: what ``it`` says, of the loss alone.

    Raises:
        NoFunction: they are others, beyond rounding.
    """
    again = Iterate(it.objective, it.theta)
    pairs = {"losses": (it.loss if loss is None else loss, again.loss)}
    if slope is not None:
        pairs["gradients"] = slope, again.gradient_norm
    unit = it.objective.arithmetic.unit_roundoff
    for what, (was, now) in pairs.items():
        if abs(was - now) > REPEATED * unit * max(abs(was), abs(now)):
            of = "" if what == "losses" else " of norm"
            short, other = f"{was:.6g}", f"{now:.6g}"
            two = f"{short} and {other}" if short != other else f"{was!r} and {now!r}"
            reason = f"the network gives two {what} at one θ,{of} {two}"
            raise NoFunction(reason, "Take state out of its forward.", reason=reason)


def rounding_units(it: Iterate) -> float:
    """In how many units of roundoff `Point.noise` is to be counted; `least_units` at least.

    A network that cancels inside, as (f + 10⁶) − 10⁶ does, loses more digits than loss, gradient
    and outputs tell. It loses as many in narrower arithmetic. So the loss is computed in float32
    (in the run's own arithmetic, if that is no wider) and once more in wider arithmetic, of the
    same numbers: the two should differ by a few of ``rounded_by``. Where one of them is not finite
    or cannot be computed, that is not known, and the least units it is. Where float32 gives another
    loss altogether (`LOST`), how many digits of float64 are lost is not known either, and it is all
    of them.
    """
    own, objective = it.objective.arithmetic, it.objective
    units: float = least_units(own.unit_roundoff)
    if not it.finite:
        return units
    narrow = torch.float32 if own.dtype == torch.float64 else own.dtype
    unit = torch.finfo(narrow).eps / 2
    one = rounded_by(it.loss, it.theta_norm, it.gradient_norm, it.output_size, unit)
    try:
        for theta in _points(objective, it.theta):
            low = _loss(objective, theta.to(narrow), narrow)
            high = _loss(objective, theta.to(narrow), narrow, _WIDER[narrow])
            if not (one > 0 and math.isfinite(high - low)):
                continue
            seen = abs(high - low) / one
            lost = narrow != own.dtype and seen * unit > LOST
            units = max(units, 1 / own.unit_roundoff if lost else TIMES * seen)
    except NetworkError:
        pass  # it runs in its own dtype alone
    return units


_WIDER = {
    torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64
}  # fmt: skip


def _points(objective: Objective, theta: Tensor) -> Iterator[Tensor]:
    """``theta``, and others where every operation rounds anew, and no parameter is 0: behind a
    head of zeros nothing shows."""
    yield theta
    generator = torch.Generator().manual_seed(objective.seed)
    for _ in range(POINTS - 1):
        yield objective.beside(theta, 1e-3, generator)


def _loss(objective: Objective, theta: Tensor, *dtypes: torch.dtype) -> float:
    """L(θ) with the data rounded to the ``dtypes`` one after the other, evaluated in the last."""
    budget = objective.budget
    parts = budget.parts if budget is not None else ()
    shares = budget.shares if budget is not None and parts else (1.0,)
    total = 0.0
    for part, share in zip(parts or (objective,), shares, strict=True):
        for dtype in dtypes:
            part = part.in_dtype(dtype)
        with torch.no_grad(), part.arithmetic.kernels():
            total += share * float(part(theta)[1])
    return total
