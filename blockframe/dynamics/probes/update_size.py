from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing, ratio

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class UpdateSize(Probe):
    """‖θ_k − θ_{k−1}‖ / ‖θ_{k−1}‖, whole and for each block: docs/theory section 6. None at θ_0.

    Of the iterates as they are: a step that rounding swallows has size 0.
    """

    name = "update_size"

    def observe(self, it: Iterate) -> Observation:
        before = it.previous
        if before is None:
            return dict.fromkeys(("", *it.objective.blocks))
        norms = {"": before.theta_norm, **before.block_norms}
        return {key: ratio(moved, norms[key]) for key, moved in it.update_norms.items()}

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {"max": max(existing(series[""]), default=None)}
