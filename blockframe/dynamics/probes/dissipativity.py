from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.inequalities import smallest_b
from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class Dissipativity(Probe):
    """⟨θ_k, ∇L(θ_k)⟩, and ⟨θ_l, ∇_{θ_l}L⟩ for each block l: docs/theory section 1, clause D.

    Summary: the smallest b ≥ 0 with ⟨θ, ∇L⟩ ≥ −b at every iterate (a = 0), total and by block; and
    pairs (a, b), for that b, twice and four times as much: the largest a ≥ 0 with
    ⟨θ, ∇L⟩ ≥ a‖θ‖² − b at every iterate. Where the smallest b is above 0, its a is 0.
    """

    name, unit = "dissipativity", "L"
    reads = ("block_norms",)

    def observe(self, it: Iterate) -> Observation:
        return {"": it.pairing, **it.block_pairings}

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        others = tuple(f".{name}" for name in self.reads)
        own = {key: values for key, values in series.items() if key not in others}
        b = {key: smallest_b(existing(values)) for key, values in own.items()}
        total = b.pop("")
        norms = series.get(".block_norms", ())
        pairs = trade_off(total, list(zip(series[""], norms, strict=False)))
        return {"b": total, "blocks": b, "pairs": pairs}


def trade_off(
    smallest: float, iterates: Sequence[tuple[float | None, float | None]]
) -> list[dict[str, float]]:
    """The largest a ≥ 0 for the smallest b, twice and four times as much (once where it is 0).

    Args:
        iterates: ⟨θ_k, ∇L_k⟩ and ‖θ_k‖; where one is missing, or ‖θ_k‖² is 0, it bounds no a.
    """
    known = [(p, n * n) for p, n in iterates if p is not None and n is not None and n * n > 0]
    if not known:
        return []
    bounds = [smallest, 2 * smallest, 4 * smallest] if smallest > 0 else [0.0]
    return [{"a": max(0.0, min((p + b) / square for p, square in known)), "b": b} for b in bounds]
