from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe.dynamics.inequalities import directional_smoothness
from blockframe.dynamics.probes.probe import Probe

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class DirectionalSmoothness(Probe):
    """M of the step that leads to θ_k, exact: docs/theory section 6. None at θ_0."""

    name, unit = "directional_smoothness", "L/θ²"

    def observe(self, it: Iterate) -> float | None:
        before = it.previous
        if before is None:
            return None
        return directional_smoothness(before.lr, before.loss, before.gradient_norm, it.loss)
