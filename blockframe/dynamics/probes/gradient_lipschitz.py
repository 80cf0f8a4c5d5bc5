from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Probe, existing, ratio

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class GradientLipschitz(Probe):
    """‖∇L_k − ∇L_{k−1}‖ / ‖θ_k − θ_{k−1}‖ of the step that leads to θ_k. None at θ_0.

    At most sup‖∇²L‖ over the segment: docs/theory section 6. None too where the iterate did not
    move. Near an end of descent both differences cancel: the last digits are rounding.
    """

    name, unit = "gradient_lipschitz", "L/θ²"

    def observe(self, it: Iterate) -> float | None:
        change = it.gradient_change
        return None if change is None else ratio(change, it.update_norms[""])

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {"max": max(existing(series[""]), default=None)}
