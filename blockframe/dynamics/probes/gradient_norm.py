from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe.dynamics.probes.probe import Probe

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class GradientNorm(Probe):
    """‖∇L(θ_k)‖."""

    name, unit = "gradient_norm", "L/θ"

    def observe(self, it: Iterate) -> float:
        return it.gradient_norm
