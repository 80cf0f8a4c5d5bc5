"""What rounding does to the loss of one network, as far as other arithmetic shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from blockframe.dynamics.ending import NetworkError
from blockframe.dynamics.inequalities import least_units, rounded_by
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.objective import Objective

REPEATED = 2**10
"""Units of roundoff by which a loss may differ when it is computed again at the same θ."""
POINTS = 3
"""At and near θ_0, at which the loss is computed in two arithmetics."""
LOST = 2.0**-5
"""Relative difference between the two beyond which the narrower one tells nothing."""
TIMES = 8
"""How many times the largest difference among them rounding is taken to do."""


def check_repeatable(first: Iterate) -> None:
    """
    Raises:
        NetworkError: the loss at θ_0 is another one the second time, beyond rounding: a forward
            that counts its calls, say, is no function of θ.
    """
    again = Iterate(first.objective, first.theta)
    losses = again.loss, first.loss
    unit = first.objective.arithmetic.unit_roundoff
    if abs(losses[0] - losses[1]) > REPEATED * unit * max(map(abs, losses)):
        reason = f"the network gives two losses at one θ, {losses[0]:.6g} and {losses[1]:.6g}"
        raise NetworkError(reason, "Take state out of its forward.", reason=reason)


def rounding_units(first: Iterate) -> float:
    """In how many units of roundoff `Point.noise` is to be counted; `least_units` at least.

    A network that cancels inside, as (f + 10⁶) − 10⁶ does, loses more digits than loss, gradient
    and outputs tell. It loses as many in narrower arithmetic. So the loss is computed in float32
    (in the run's own arithmetic, if that is no wider) and once more in wider arithmetic, of the
    same numbers: the two should differ by a few of ``rounded_by``. Where one of them is not finite
    or cannot be computed, that is not known, and the least units it is. Where float32 gives another
    loss altogether (`LOST`), how many digits of float64 are lost is not known either, and it is all
    of them.
    """
    own, objective = first.objective.arithmetic, first.objective
    units: float = least_units(own.unit_roundoff)
    if not first.finite:
        return units
    narrow = torch.float32 if own.dtype == torch.float64 else own.dtype
    unit = torch.finfo(narrow).eps / 2
    one = rounded_by(first.loss, first.theta_norm, first.gradient_norm, first.output_size, unit)
    try:
        for theta in _points(objective):
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


def _points(objective: Objective) -> Iterator[Tensor]:
    """θ_0, and others where every operation rounds anew."""
    theta = objective.start
    yield theta
    generator = torch.Generator().manual_seed(objective.seed)
    for _ in range(POINTS - 1):
        noise = torch.randn(theta.shape, generator=generator, dtype=torch.float32)
        yield theta * (1 + 1e-3 * noise.to(theta))


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
