from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing, ratio

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class Distance(Probe):
    """‖θ_k − θ_0‖ / ‖θ_0‖, whole and for each block: how far from initialization.

    docs/theory section 6. None where θ_0, or the block's part of it, is 0.
    """

    name = "distance"

    def observe(self, it: Iterate) -> Observation:
        start = it.objective.start_norms
        return {key: ratio(moved, start[key]) for key, moved in it.distance_norms.items()}

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {"max": max(existing(series[""]), default=None)}
