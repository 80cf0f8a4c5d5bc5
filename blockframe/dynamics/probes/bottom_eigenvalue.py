from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class BottomEigenvalue(Probe):
    """λ_min(∇²L(θ_k)), the least algebraic eigenvalue: below 0 where L is not convex.

    ``residual`` and ``cold``: as of the probe ``sharpness``.
    """

    name, unit = "bottom_eigenvalue", "L/θ²"
    curvature = True

    def observe(self, it: Iterate) -> Observation:
        pair = it.bottom
        return {"": pair.value, "residual": pair.residual, "cold": float(pair.cold)}

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {
            "min": min(existing(series[""]), default=None),
            "worst_residual": max(existing(series["residual"]), default=None),
        }
