from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.dynamics.probes.probe import Observation, Probe, existing

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class TangentBound(Probe):
    """An upper bound of λ_min(K_k), K = DF DFᵀ of all rows: docs/theory section 4.

    For outputs too many for the probe ``tangent``. By Lanczos: a Rayleigh quotient, never below
    λ_min, up to ``rounding``. Where it is small the PL ratio has no bound from K; where it is not,
    nothing is shown, since λ_min may be smaller.

    ``residual``: an eigenvalue of K is within it, be it the least or not.
    """

    name, unit = "tangent_bound", "F²/θ²"

    def observe(self, it: Iterate) -> Observation:
        from blockframe.dynamics.tangent_bound import least_from_above

        found = least_from_above(it.objective, it.theta)
        return {"": found.value, "residual": found.residual, "rounding": found.rounding}

    def summary(self, series: Mapping[str, Sequence[float | None]]) -> Mapping[str, Any]:
        return {"min": min(existing(series[""]), default=None)}
