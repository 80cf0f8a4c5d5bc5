from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe.dynamics.probes.probe import Observation, Probe

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class BlockNorms(Probe):
    """‖θ_k‖, and ‖θ_l‖ for each block l."""

    name, unit = "block_norms", "θ"

    def observe(self, it: Iterate) -> Observation:
        return {"": it.theta_norm, **it.block_norms}
