from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class Sharpness(Probe):
    """λ_max(∇²L(θ_k)), its residual bound, and ηλ/2, which is below 1 where the step is stable."""

    name = "sharpness"
    curvature = True

    def observe(self, it: Iterate) -> Observation:
        pair = it.curvature
        return {
            "": pair.value,
            "residual": pair.residual,
            "stability": it.lr * pair.value / 2,
        }

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {
            "max": max(existing(series[""]), default=None),
            "max_stability": max(existing(series["stability"]), default=None),
            "worst_residual": max(existing(series["residual"]), default=None),
        }
