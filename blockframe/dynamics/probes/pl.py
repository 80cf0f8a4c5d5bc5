from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class PLRatio(Probe):
    """μ_k = ‖∇L(θ_k)‖² / (2(L(θ_k) − L_inf)): docs/theory section 4. None where L is at L_inf."""

    name, unit = "pl", "L/θ²"

    def observe(self, it: Iterate) -> float | None:
        excess = it.loss - it.objective.infimum
        return it.gradient_norm * it.gradient_norm / (2 * excess) if excess > 0 else None

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {"min": min(existing(series[""]), default=None)}
