"""A lower bound of the largest Hessian norm in a ball, to hold against a guaranteed one."""

from __future__ import annotations

import math

import torch
from attrs import frozen
from torch import Tensor

from blockframe.dynamics.arithmetic import Arithmetic
from blockframe.dynamics.losses import LOSSES, Loss
from blockframe.dynamics.objective import Objective
from blockframe.problem import Problem

SPREADS = (0.3, 0.7, 1.0)
"""How far from the centre starting points lie, in radii."""


def sampled_hessian_norm(
    problem: Problem,
    radius: float,
    samples: int = 6,
    seed: int = 0,
    *,
    about_start: bool = False,
    loss: Loss | None = None,
    turns: int = 8,
    steps: int = 6,
) -> float:
    """The largest eigenvalue, in size, found of the Hessian of the loss in a ball, in float64.

    Args:
        problem: has weights and targets.
        radius: of the ball |theta| <= R, or of |theta - theta_0| <= R with ``about_start``. A
            radius of 0 about the start: at theta_0 alone.
        samples: starting points: theta_0 (if need be, shrunk into the ball), then random ones.
        loss: default: the one that the problem names, if it is built in.
        turns: power iterations at each starting point.
        steps: steps of ascent from there: along the gradient of v^T H v in theta, v following.

    Returns:
        A lower bound of sup |H| over the ball up to rounding: |H v| for a unit v at a point of it.

    Raises:
        InputError: the problem cannot be descended on (`Objective.of`).
    """
    if loss is None:
        loss = next(known for known in LOSSES if known.name == problem.loss)
    objective = Objective.of(problem, loss, Arithmetic.named("cpu", "float64"), seed=seed)
    centre = objective.start if about_start else torch.zeros_like(objective.start)
    g = torch.Generator().manual_seed(seed)
    best = 0.0
    for k in range(samples):
        offset = torch.randn(centre.shape, generator=g, dtype=torch.float64)
        offset *= radius * SPREADS[k % len(SPREADS)] / offset.norm()
        theta = _inside(objective.start if k == 0 else centre + offset, centre, radius)
        v = torch.randn(centre.shape, generator=g, dtype=torch.float64)
        here = _look(objective, theta, v)
        rate = 0.3
        for turn in range(turns + steps):
            moves = turn >= turns
            if moves:
                theta = _inside(here.theta + rate * radius * here.uphill, centre, radius)
            there = _look(objective, theta, here.turned)
            if there.size > here.size:
                here = there
            elif moves:
                rate /= 3.0
            theta = here.theta
        best = max(best, here.size)
    return best


@frozen(eq=False)
class _Look:
    size: float
    theta: Tensor
    turned: Tensor
    uphill: Tensor


def _look(objective: Objective, theta: Tensor, v: Tensor) -> _Look:
    """|H v| for the unit vector along ``v``, the next v, and where v^T H v grows in size."""
    theta = theta.detach().requires_grad_()
    v = v / v.norm()
    with objective.arithmetic.kernels():
        _, loss = objective(theta)
    slope = objective.differentiate(loss, theta, create_graph=True)
    product, uphill = torch.zeros_like(v), torch.zeros_like(v)
    if slope.requires_grad:
        product = objective.differentiate(slope @ v, theta, create_graph=True)
    form = product @ v
    if form.requires_grad:
        uphill = objective.differentiate(form, theta) * form.detach().sign()
    image = product.detach()
    size = float(image.norm())
    known = math.isfinite(size) and size > 0
    return _Look(
        size, theta.detach(), image if known else v, uphill / uphill.norm().clamp_min(1e-300)
    )


def _inside(theta: Tensor, centre: Tensor, radius: float) -> Tensor:
    offset = theta - centre
    return centre + offset * min(1.0, radius / max(float(offset.norm()), 1e-300))
