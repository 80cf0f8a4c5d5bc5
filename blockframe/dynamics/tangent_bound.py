"""λ_min of the tangent Gram matrix from above, where K itself is too large (docs/theory section 4).

By Lanczos with K v = DF(DFᵀ v), without K or DF. A Ritz value is a Rayleigh quotient, so never
below λ_min, converged or not; its residual says how far from it an eigenvalue is for certain,
though not that this is the least one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor

from blockframe.dynamics.curvature import Accuracy, random_start, top_eigenpair
from blockframe.dynamics.ending import NetworkError
from blockframe.dynamics.inequalities import UNITS
from blockframe.dynamics.iterate import check_twice_differentiable
from blockframe.dynamics.probes.probe import Unavailable

if TYPE_CHECKING:
    from blockframe.dynamics.objective import Objective

PRODUCTS = 100
ACCURACY = Accuracy(relative=1e-3, residual=1e-2)


@frozen
class Above:
    """``value`` >= λ_min(K), up to ``rounding``; an eigenvalue is within ``residual`` of it."""

    value: float
    residual: float
    rounding: float


def least_from_above(objective: Objective, theta: Tensor) -> Above:
    """A bound of λ_min(K) at θ (P,), K of all rows of the outputs, in at most `PRODUCTS` products
    with K and a few for its norm; each is about three gradients.

    Raises:
        Unavailable: an operation is differentiable once only, or the samples do not fit the memory.
        NetworkError: forward or backward raise.
    """
    if objective.budget is not None:
        objective.budget.admit_whole("the bound of the tangent Gram matrix")
    leaf = theta.detach().clone().requires_grad_()
    with objective.arithmetic.kernels():
        outputs = objective.outputs(objective.parameters(leaf))
    if not outputs.requires_grad:
        return Above(0.0, 0.0, 0.0)
    cotangent = torch.zeros_like(outputs, requires_grad=True)
    pulled = objective.differentiate(outputs, leaf, cotangent, create_graph=True)
    check_twice_differentiable(pulled)

    def gram(v: Tensor) -> Tensor:
        """K v, flat."""
        w = objective.differentiate(
            outputs, leaf, v.view_as(outputs).to(outputs), retain_graph=True
        )
        try:
            found = objective.differentiate(pulled, cotangent, w, retain_graph=True)
        except NetworkError as error:
            raise Unavailable(
                f"the tangent Gram matrix cannot be multiplied with a vector: {error.reason}",
                "Write the operation in differentiable ones.",
            ) from error
        return found.detach().flatten()

    start = random_start(outputs.detach().flatten(), objective.seed)
    largest = top_eigenpair(gram, [start], ACCURACY, products=10).pair.value
    pair = top_eigenpair(lambda v: -gram(v), [start], ACCURACY, products=PRODUCTS).pair
    return Above(-pair.value, pair.residual, UNITS * objective.arithmetic.unit_roundoff * largest)
