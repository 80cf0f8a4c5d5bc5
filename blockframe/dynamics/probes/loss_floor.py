from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class LossFloor(Probe):
    """L_k − L_inf, and ``square``, ‖∇L_k‖² (unit L²/θ²): how near the floor.

    Summary: the least L_k − L_inf, and ε² = min_{k<K} ‖∇L_k‖², the neighbourhood that was reached
    in K steps: docs/theory section 6. It bounds ε² where every step was stable; here it is measured
    on any run.
    """

    name, unit = "loss_floor", "L"

    def observe(self, it: Iterate) -> Observation:
        return {
            "": it.loss - it.objective.infimum,
            "square": it.gradient_norm * it.gradient_norm,
        }

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {
            "least": min(existing(series[""]), default=None),
            "neighbourhood": min(existing(series["square"][:-1]), default=None),
        }
