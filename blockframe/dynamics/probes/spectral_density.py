from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe.dynamics.probes.probe import Observation, Probe

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class SpectralDensity(Probe):
    """How the eigenvalues of ∇²L(θ_k) lie (`blockframe.dynamics.density`, with the sources).

    All eigenvalues of up to 512 parameters, from as many Hessian products. Of more parameters an
    estimate from random vectors, which takes 168 products.

    ``trace``: Σλ;
    ``rms``: (Σλ²/P)^½;
    ``negative``: the share of eigenvalues that are below 0 by more than rounding (unit 1);
    ``lower``, ``median``, ``upper``: the quantiles 1 %, 50 %, 99 %.

    Each has a ``…_error``, of the same unit: rounding; of an estimate also what the number stays
    within in 95 of 100 draws of the vectors. None where that is not known.
    """

    name, unit = "spectral_density", "L/θ²"
    curvature = True

    def observe(self, it: Iterate) -> Observation:
        found = it.spectral_density
        seen = {
            "trace": found.trace,
            "rms": found.rms,
            "negative": found.negative,
            "lower": found.quantile(0.01),
            "median": found.quantile(0.5),
            "upper": found.quantile(0.99),
        }
        values = {name: value for name, (value, _) in seen.items()}
        return values | {f"{name}_error": error for name, (_, error) in seen.items()}
