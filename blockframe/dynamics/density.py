"""The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

For a unit vector v that is uniform on the sphere E[vᵀf(H)v] = tr f(H)/P. Each of ``vectors`` random
ones gives a Gauss rule with nodes t_i and weights w_i (`blockframe.dynamics.curvature.quadrature`),
and the density is estimated by the mean of Σ_i w_i δ(t − t_i): Ubaru, Chen and Saad, SIAM J. Matrix
Anal. Appl. 38 (2017) 1075; for networks Ghorbani, Krishnan and Xiao, ICML 2019.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from attrs import field, frozen
from numpy.typing import NDArray
from torch import Tensor

from blockframe.dynamics.curvature import Product, quadrature, random_start

VECTORS = 6
STEPS = 24
"""Products for each vector."""


@frozen
class Density:
    """Nodes and weights of each random vector's rule, and what follows from them.

    Attributes:
        size: P.
        noise: eigenvalues of this size cannot be told from 0.
        nodes, weights: for each vector, ascending; the weights of each add up to 1.
    """

    size: int
    noise: float
    nodes: tuple[NDArray[np.float64], ...] = field(eq=False, repr=False)
    weights: tuple[NDArray[np.float64], ...] = field(eq=False, repr=False)

    @property
    def trace(self) -> tuple[float, float]:
        """tr H with its standard error over the vectors (Hutchinson's estimate)."""
        mean, error = self._mean([float(w @ t) for t, w in self._rules])
        return self.size * mean, self.size * error

    @property
    def rms(self) -> tuple[float, float]:
        """(Σλ²/P)^½ = ‖H‖_F/√P, and its standard error to first order."""
        mean, error = self._mean([float(w @ (t * t)) for t, w in self._rules])
        root = math.sqrt(max(mean, 0.0))
        return root, error / (2 * root) if root > 0 else error

    @property
    def negative(self) -> tuple[float, float]:
        """The share of eigenvalues below −``noise``, and its error.

        The standard error, and what a rule of so few nodes leaves open: a step function between
        two nodes is off by at most the larger of their weights (Chebyshev, Markov and Stieltjes:
        Szegő, Orthogonal Polynomials, section 3.41).
        """
        mean, error = self._mean([float(w[t < -self.noise].sum()) for t, w in self._rules])
        open_, _ = self._mean([_beside(t, w, -self.noise) for t, w in self._rules])
        return mean, error + open_

    def quantile(self, share: float) -> float:
        """The node at which the weights of all rules, added up from below, reach ``share``."""
        nodes = np.concatenate(self.nodes)
        weights = np.concatenate(self.weights) / len(self.nodes)
        if not np.isfinite(nodes).all():
            return math.nan
        order = np.argsort(nodes, kind="stable")
        reached = np.cumsum(weights[order]) >= share * (1 - 1e-12)
        return float(nodes[order][int(np.argmax(reached))])

    @property
    def _rules(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        return list(zip(self.nodes, self.weights, strict=True))

    def _mean(self, values: list[float]) -> tuple[float, float]:
        """Mean and standard error; the error of a single value is not known: infinite."""
        found = np.array(values, dtype=np.float64)
        if len(found) < 2:
            return float(found.mean()), math.inf
        return float(found.mean()), float(found.std(ddof=1) / math.sqrt(len(found)))


def spectral_density(
    product: Product, like: Tensor, *, seed: int, vectors: int = VECTORS, steps: int = STEPS
) -> Density:
    """The density of the matrix with ``product`` v ↦ H v, from ``vectors`` × ``steps`` products.

    Args:
        like: (P,), of the dtype and on the device that the vectors are to have; ``steps`` + 1 of
            them are held.
        seed: of the random vectors.
    """
    rules = [
        quadrature(product, random_start(like, seed + k), min(steps, like.numel()))
        for k in range(vectors)
    ]
    largest = max(float(np.abs(t).max()) for t, _ in rules)
    noise = 64 * torch.finfo(like.dtype).eps * largest
    return Density(like.numel(), noise, tuple(t for t, _ in rules), tuple(w for _, w in rules))


def _beside(nodes: NDArray[np.float64], weights: NDArray[np.float64], at: float) -> float:
    """The larger of the weights of the nodes on both sides of ``at``."""
    below = int((nodes < at).sum())
    return float(max(weights[max(below - 1, 0) : below + 1], default=0.0))
