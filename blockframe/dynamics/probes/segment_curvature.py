from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class SegmentCurvature(Probe):
    """vᵀ∇²L v between θ_{k−1} and θ_k, v the unit vector along the step; the largest of `POINTS`.

    What the descent lemma needs Λ for (docs/theory section 6), at points between the iterates,
    where the sharpness at the ends says nothing. None at θ_0 and where the iterate did not move.

    ``mean``: 2∫(1 − t) vᵀ∇²L(θ_{k−1} + t(θ_k − θ_{k−1})) v dt by the Gauss rule that the points
        are the nodes of: the directional smoothness M, without its cancellation (Taylor);
    ``sharpness``, ``residual``: λ_max(∇²L) half-way, and its residual bound.
    """

    name, unit = "segment_curvature", "L/θ²"
    curvature = True

    def observe(self, it: Iterate) -> Observation:
        found = it.segment
        if found is None:
            return {"": None, "mean": None, "sharpness": None, "residual": None}
        return {
            "": max(found.along),
            "mean": found.mean,
            "sharpness": found.middle.value,
            "residual": found.middle.residual,
        }

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {
            "max": max(existing(series[""]), default=None),
            "max_sharpness": max(existing(series["sharpness"]), default=None),
        }
