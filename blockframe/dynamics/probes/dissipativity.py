from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.inequalities import smallest_b
from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class Dissipativity(Probe):
    """⟨θ_k, ∇L(θ_k)⟩, and ⟨θ_l, ∇_{θ_l}L⟩ for each block l: docs/theory section 1, clause D.

    Summary: the smallest b ≥ 0 with ⟨θ, ∇L⟩ ≥ −b at every iterate (a = 0), total and by block.
    """

    name = "dissipativity"

    def observe(self, it: Iterate) -> Observation:
        return {"": it.pairing, **it.block_pairings}

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        b = {key: smallest_b(existing(values)) for key, values in series.items()}
        return {"b": b.pop(""), "blocks": b}
