from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe.dynamics.probes.probe import Observation, Probe

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class OutputPairing(Probe):
    """⟨F, ∇_F L⟩ at F = F(θ_k): docs/theory section 5.

    The pairing of a linear head, and of any parameters of which F is homogeneous of degree 1.
    ``size``: Σ|F_j ∂L/∂F_j|, of which rounding of the outputs moves the loss by some units of
    roundoff.
    """

    name, unit = "output_pairing", "L"

    def observe(self, it: Iterate) -> Observation:
        return {"": it.output_pairing, "size": it.output_size}
