from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe.dynamics.probes.probe import Observation, Probe

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


class SpectralDensity(Probe):
    """How the eigenvalues of ∇²L(θ_k) lie, by stochastic Lanczos quadrature.

    An estimate from random vectors (`blockframe.dynamics.density`, with the formulas and sources);
    it costs some hundred Hessian products.

    ``trace``, ``trace_error``: Σλ and its standard error;
    ``rms``: (Σλ²/P)^½;
    ``negative``, ``negative_error``: the share of eigenvalues below 0 (unit 1), and what randomness
        and the number of nodes leave open;
    ``lower``, ``median``, ``upper``: the quantiles 1 %, 50 %, 99 %, at nodes.
    """

    name, unit = "spectral_density", "L/θ²"
    curvature = True

    def observe(self, it: Iterate) -> Observation:
        found = it.spectral_density
        trace, trace_error = found.trace
        negative, negative_error = found.negative
        return {
            "trace": trace,
            "trace_error": trace_error,
            "rms": found.rms[0],
            "negative": negative,
            "negative_error": negative_error,
            "lower": found.quantile(0.01),
            "median": found.quantile(0.5),
            "upper": found.quantile(0.99),
        }
