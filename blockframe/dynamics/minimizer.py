"""A minimizer with zero loss, and how many directions leave it one (docs/theory section 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from attrs import evolve, frozen
from torch import Tensor

from blockframe.dynamics.ending import NetworkError
from blockframe.dynamics.losses import MeanSquaredError

if TYPE_CHECKING:
    from blockframe.dynamics.objective import Objective

LARGEST = 400
"""Parameters of a network whose Hessian is made as a whole."""
STEPS = 50
"""Of Levenberg and Marquardt at most."""
ZERO = 1e-24
"""Loss below which the outputs are taken to equal the targets."""
_FLOOR = 1e-16  # eigenvalues are no more exact than this share of the largest


@frozen
class Minimizer:
    """θ* with L(θ*) = 0, as far as rounding lets it be.

    Attributes:
        loss: L(θ*).
        predicted: P − Nc, the dimension of the set of minimizers near θ* if DF has full rank.
        nullity: eigenvalues of ∇²L(θ*) on the small side of the widest gap.
        gap: the ratio of the two eigenvalues (absolute values) around that gap.
    """

    loss: float
    predicted: int
    nullity: int
    gap: float


def find(objective: Objective) -> Minimizer | None:
    """From θ_0 by Levenberg and Marquardt's method.

    None where the loss is not the mean squared error, the network has more than `LARGEST`
    parameters or fewer than outputs or cannot be differentiated twice, or no minimizer with zero
    loss was found.
    """
    objective = evolve(objective, budget=None)  # so small a network needs none
    count, outputs = objective.start.numel(), objective.targets.numel()
    squares = isinstance(objective.loss, MeanSquaredError)
    if not squares or not 1 < count <= LARGEST or count < outputs:
        return None
    try:
        theta = _interpolated(objective)
        if theta is None:
            return None
        at = theta.clone().requires_grad_()
        loss = objective(at)[1]
        curvature = _rows(objective, objective.differentiate(loss, at, create_graph=True), at)
    except NetworkError:
        return None
    if not bool(torch.isfinite(curvature).all()):
        return None
    sizes = torch.linalg.eigvalsh(curvature).abs().sort().values
    sizes = sizes.clamp_min(_FLOOR * float(sizes[-1]))
    ratios = sizes[1:] / sizes[:-1]
    if not bool(torch.isfinite(ratios).all()):
        return None
    widest = int(ratios.argmax())
    return Minimizer(float(loss.detach()), count - outputs, widest + 1, float(ratios[widest]))


def _rows(objective: Objective, values: Tensor, at: Tensor) -> Tensor:
    """The Jacobian of ``values``, flat, by ``at``."""
    each = values.flatten()
    return torch.stack([objective.differentiate(v, at, retain_graph=True).detach() for v in each])


def _interpolated(objective: Objective) -> Tensor | None:
    """θ with L(θ) <= `ZERO`: steps Jᵀ(JJᵀ + μI)⁻¹ r, μ halved where the loss fell."""

    def residual(at: Tensor) -> Tensor:
        return (objective(at)[0] - objective.targets).flatten().to(at.dtype)

    theta, damping = objective.start.clone(), 1e-2
    r = residual(theta).detach()
    identity = torch.eye(len(r), dtype=r.dtype)
    for _ in range(STEPS):
        if float(objective(theta)[1]) <= ZERO:
            return theta
        at = theta.clone().requires_grad_()
        j = _rows(objective, residual(at), at)
        while damping < 1e12:
            solution, broken = torch.linalg.solve_ex(j @ j.T + damping * identity, r)
            step = j.T @ solution
            moved = residual(theta - step).detach()
            if not int(broken) and float(moved.square().sum()) < float(r.square().sum()):
                theta, r, damping = theta - step, moved, damping / 4
                break
            damping *= 4
        else:
            return None
    return None
