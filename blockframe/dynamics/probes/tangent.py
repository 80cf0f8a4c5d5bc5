from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from torch import Tensor

    from blockframe.dynamics.iterate import Iterate
    from blockframe.dynamics.merging import Groups


class Tangent(Probe):
    """λ_min(K_k) of the tangent Gram matrix K = DF DFᵀ: docs/theory sections 3 and 4.

    K is over merged rows, where rows of a sequence model are the same function of θ.

    ``error``: what rounding may have moved λ_min by; λ_min ± error decides nothing about its sign;
    ``pl_bound``: λ_min‖g‖²/(2(L_k − L_inf)) <= μ_k with g = ∇_F L, added up over merged rows and
        λ_min less its error: μ_k is the probe ``pl``. λ_min/N for the mean squared error without
        merged rows. None where L is at L_inf;
    ``effective_rank``: (Σλ)²/Σλ²;
    ``change``: ‖K_k − K_0‖/‖K_0‖ (Frobenius): 0 in the lazy regime. None where the run is not
        observed from θ_0 on.
    """

    name, unit = "tangent", "F²/θ²"

    def __init__(self) -> None:
        self._first: tuple[object, Tensor] | None = None  # the objective of the run, and K at θ_0
        self._groups: Groups = []

    def observe(self, it: Iterate) -> Observation:
        from blockframe.dynamics.merging import groups, merged
        from blockframe.dynamics.tangent import Spectrum

        gram = it.tangent_gram
        if it.step == 0:
            self._first = it.objective, gram
        same = self._first is not None and self._first[0] is it.objective
        if it.step == 0 or not same:
            self._groups = groups(it)
        least, g = gram, it.objective.output_gradient(it.outputs).double().flatten()
        if self._groups:
            least, g = merged(gram, g, self._groups)
        spectrum = Spectrum.of(least, it.objective.arithmetic.unit_roundoff)
        excess = it.loss - it.objective.infimum
        change = None
        if same and self._first is not None:
            start = self._first[1]
            change = float((gram - start).norm() / start.norm())
        return {
            "": spectrum.least,
            "error": spectrum.error,
            "pl_bound": spectrum.surely * float(g @ g) / (2 * excess) if excess > 0 else None,
            "effective_rank": spectrum.effective_rank,
            "change": change,
        }

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {
            "min": min(existing(series[""]), default=None),
            "min_pl_bound": min(existing(series["pl_bound"]), default=None),
            "max_change": max(existing(series["change"]), default=None),
        }
