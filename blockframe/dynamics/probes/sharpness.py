from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, Unavailable, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class Sharpness(Probe):
    """λ_max(∇²L(θ_k)), the largest algebraic eigenvalue (`Iterate.curvature`).

    ``residual``: a bound: an eigenvalue is within it;
    ``stability``: ηλ/2, which is below 1 where the step is stable;
    ``cold``: 1 if a random vector was searched from, so that no larger eigenvalue was missed as far
        as such a search can tell; 0 if only what was found at the iterate before was followed.
    """

    name, unit = "sharpness", "L/θ²"
    curvature = True
    reads = ("lr",)

    def observe(self, it: Iterate) -> Observation:
        pair = it.curvature
        if it.step == 0 and it.finite and not math.isfinite(pair.value):
            raise Unavailable(
                "a product of the Hessian with a vector is not finite at θ_0, though the loss is",
                it.objective.arithmetic.wider,
            )
        return {
            "": pair.value,
            "residual": pair.residual,
            "stability": it.lr * pair.value / 2,
            "cold": float(pair.cold),
        }

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        stability = series["stability"]
        if ".lr" in series:  # the last rate is that of no step
            stability = stability[:-1]
        return {
            "max": max(existing(series[""]), default=None),
            "max_stability": max(existing(stability), default=None),
            "worst_residual": max(existing(series["residual"]), default=None),
        }
