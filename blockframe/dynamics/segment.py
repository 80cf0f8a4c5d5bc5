"""The Hessian between two iterates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from blockframe.dynamics.curvature import Eigenpair

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate

_OUTER = math.sqrt(0.15)
POINTS = (0.5 - _OUTER, 0.5, 0.5 + _OUTER)
"""Parts of the way at which the Hessian is looked at: the nodes of Gauss' rule on [0, 1], exact for
polynomials of degree 5."""
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


@frozen
class Segment:
    """∇²L between θ_{k−1} and θ_k.

    Attributes:
        along: vᵀ∇²L v at each of `POINTS`, v the unit vector along the step.
        middle: the largest eigenvalue half-way.
    """

    along: tuple[float, ...]
    middle: Eigenpair

    @property
    def mean(self) -> float:
        """2∫(1 − t) vᵀ∇²L v dt, by Gauss' rule: M with L_k = L_{k−1} + ⟨∇L_{k−1}, s⟩ + M‖s‖²/2."""
        terms = zip(POINTS, _WEIGHTS, self.along, strict=True)
        return sum(2 * (1 - t) * w * c for t, w, c in terms)

    @classmethod
    def before(cls, it: Iterate) -> Segment | None:
        """Of the step that leads to ``it``; None at θ_0, and where the iterate did not move."""
        previous = it.previous
        if previous is None:
            return None
        step = it.theta - previous.theta
        length = math.sqrt(float((step * step).sum()))
        if not 0 < length < math.inf:
            return None
        v = step / length
        it.curvature  # noqa: B018 - its vector is where the search half-way begins
        top, trails = it.trails.top, it.trails
        if top is not None:  # half-way back, and a step that the trail itself does not go
            trails = evolve(trails, top=evolve(top, along=-0.5, cold_age=0))
        along, middle = [], None
        for t in POINTS:
            at = type(it)(
                it.objective, previous.theta + t * step, step=it.step, lr=previous.lr,
                curvature_expected=True, accuracy=it.accuracy, trails=trails,
            )  # fmt: skip
            along.append(float((v * at.hvp(v)).sum()))
            if t == 0.5:
                middle = at.curvature
            at.release()
        assert middle is not None
        return cls(tuple(along), middle)
