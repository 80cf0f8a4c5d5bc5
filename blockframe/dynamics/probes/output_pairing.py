from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe.dynamics.probes.probe import Probe

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class OutputPairing(Probe):
    """⟨F, ∇_F L⟩ at F = F(θ_k): docs/theory section 5.

    The pairing of a linear head, and of any parameters of which F is homogeneous of degree 1.
    """

    name, unit = "output_pairing", "L"

    def observe(self, it: Iterate) -> float:
        return it.output_pairing
