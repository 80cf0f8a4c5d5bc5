"""How the eigenvalues of the Hessian lie.

Where P is small, all of them, from P products. Otherwise stochastic Lanczos quadrature: for a
unit vector v that is uniform on the sphere E[vᵀf(H)v] = tr f(H)/P. Each of `VECTORS` random ones
gives a Gauss rule with nodes t_i and weights w_i, and the density is estimated by the mean of
Σ_i w_i δ(t − t_i): Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38 (2017) 1075; for networks
Ghorbani, Krishnan and Xiao, ICML 2019.

Every number comes with an error that it stays within in 95 of 100 draws of the vectors. Three
things are in it:

* the draw. tr H and ‖H‖_F² of a network rest on a few large eigenvalues, of which a random vector
  has a share that varies as χ². One more vector's Krylov space shows most of them; what the others
  have in it is replaced by what is expected (a control variate), and the rest is nearly normal:
  Student's interval. The share of v in n of the eigenvectors varies as Beta(n/2, (P − n)/2), with
  the variance 2p(1 − p)/(P + 2) at p = n/P: Wilson's interval (JASA 22 (1927) 209).
* Lanczos. A rule is exact for tr H and tr H². How much weight lies below a number it leaves open
  (`Rule.between`).
* rounding of the products, ``noise``.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from blockframe.dynamics.curvature import Floats, Product, Space, random_start

EXACT = 512
"""P up to which all eigenvalues are computed: at most some three times the products of the
estimate (`VECTORS`, `STEPS`)."""
VECTORS = 6
STEPS = 24
"""Products for each vector."""

_NORMAL = 1.959964
_STUDENT = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)
"""Two-sided 95 %, for 1, 2, … degrees of freedom; the last serves for more."""


@frozen
class Rule:
    """Gauss' rule for the spectral measure μ of one vector v, μ(f) = vᵀf(H)v.

    Attributes:
        nodes, weights: (k,): Ritz values t_i, ascending, and w_i = (v·y_i)², y_i the Ritz vector;
            the weights add up to 1.
        residuals: ‖H y_i − t_i y_i‖.
        excess: how much more of tr H/P and of tr H²/P than a random vector v is expected to have
            in the space that is known.
    """

    nodes: Floats = field(eq=False, repr=False)
    weights: Floats = field(eq=False, repr=False)
    residuals: Floats = field(eq=False, repr=False)
    excess: tuple[float, float] = (0.0, 0.0)

    def between(self, x: float) -> tuple[float, float]:
        """Bounds of μ((−∞, x]), with j nodes t <= x, and S = w_1 + … + w_j:

        * S_{j−1} and S_{j+1} (Chebyshev, Markov and Stieltjes: Szegő, Orthogonal Polynomials,
          section 3.41);
        * a y_i with t_i <= x is above x by a part of norm ‖H y_i − t_i y_i‖/(x − t_i) at most, so
          that 1 − μ <= (√(1 − S) + Σ_{i<=j} √w_i ‖H y_i − t_i y_i‖/(x − t_i))²; likewise μ. This
          is better where y_i is nearly an eigenvector.
        """
        below = self.nodes <= x
        sums = np.concatenate([[0.0], np.minimum(np.cumsum(self.weights), 1.0)])
        j, last = int(below.sum()), len(self.nodes)
        with np.errstate(over="ignore"):
            parts = np.sqrt(self.weights) * self.residuals
            parts = parts / np.maximum(np.abs(self.nodes - x), 1e-300)
        least = 1.0 - min(math.sqrt(1.0 - sums[j]) + float(parts[below].sum()), 1.0) ** 2
        most = min(math.sqrt(sums[j]) + float(parts[~below].sum()), 1.0) ** 2
        return max(float(sums[max(j - 1, 0)]), least), min(float(sums[min(j + 1, last)]), most)


@frozen
class Density:
    """Numbers about the eigenvalues, each with its error.

    Attributes:
        size: P.
        noise: what rounding may have moved an eigenvalue by.
        rules: one for each random vector; a single one with P nodes if ``exact``.
        exact: whether all eigenvalues are known, up to ``noise``.
    """

    size: int
    noise: float
    rules: tuple[Rule, ...] = field(eq=False, repr=False)
    exact: bool = False

    @property
    def trace(self) -> tuple[float, float]:
        """tr H (Hutchinson's estimate)."""
        mean, error = self._moment(1)
        return self.size * mean, self.size * (error + self.noise)

    @property
    def rms(self) -> tuple[float, float]:
        """(Σλ²/P)^½ = ‖H‖_F/√P."""
        mean, error = self._moment(2)
        root = math.sqrt(max(mean, 0.0))
        below = root - math.sqrt(max(mean - error, 0.0))
        return root, max(below, math.sqrt(max(mean + error, 0.0)) - root) + self.noise

    @property
    def negative(self) -> tuple[float, float]:
        """The share of eigenvalues below −``noise``: of the others rounding hides the sign."""
        at = -self.noise
        if not math.isfinite(at):
            return math.nan, math.nan
        if self.exact:
            return float((self.rules[0].nodes < at).mean()), 0.0
        least, most = self._share(at)
        return (least + most) / 2, (most - least) / 2

    def quantile(self, share: float) -> tuple[float, float]:
        """The least eigenvalue up to which ``share`` of all of them lie.

        Estimated by the node at which the weights of all rules, added up from below, reach it.
        """
        if not math.isfinite(self.noise):
            return math.nan, math.nan
        nodes = np.concatenate([rule.nodes for rule in self.rules])
        weights = np.concatenate([rule.weights for rule in self.rules]) / len(self.rules)
        order = np.argsort(nodes, kind="stable")
        reached = np.cumsum(weights[order]) >= share * (1 - 1e-12)
        value = float(nodes[order][int(np.argmax(reached))])
        if self.exact:
            return value, self.noise
        lowest, highest = self._ends
        lower = max((x for x, (_, most) in self._shares.items() if most < share), default=lowest)
        upper = min(
            (x for x, (least, _) in self._shares.items() if least >= share), default=highest
        )
        value = min(max(value, lower), upper)
        return value, max(value - lower, upper - value) + self.noise

    def _moment(self, degree: int) -> tuple[float, float]:
        """Σλ^degree/P, and half of Student's interval; of a single vector it is not known."""
        found = [float(r.weights @ r.nodes**degree) - r.excess[degree - 1] for r in self.rules]
        mean, count = float(np.mean(found)), len(found)
        if self.exact:
            return mean, 0.0
        if count < 2:
            return mean, math.inf
        factor = _STUDENT[min(count - 2, len(_STUDENT) - 1)]
        return mean, factor * float(np.std(found, ddof=1)) / math.sqrt(count)

    def _share(self, x: float) -> tuple[float, float]:
        """An interval for the share of eigenvalues up to ``x``."""
        bounds = np.array([rule.between(x) for rule in self.rules])
        count = len(self.rules) * (self.size + 2) / 2
        least, most = (float(b) for b in bounds.mean(axis=0))
        return _wilson(least, count)[0], _wilson(most, count)[1]

    @cached_property
    def _shares(self) -> dict[float, tuple[float, float]]:
        """At every node."""
        return {float(x): self._share(float(x)) for rule in self.rules for x in rule.nodes}

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """Bounds of all eigenvalues that fail in one of a hundred draws.

        The largest Ritz value of k steps from a uniform vector is below λ_max by more than
        ε(λ_max − λ_min) with a probability of at most 1.648 √P exp(−(2k − 1)√ε) (Kuczyński and
        Woźniakowski, SIAM J. Matrix Anal. Appl. 13 (1992) 1094); here in all draws at once.
        """
        lowest = min(float(rule.nodes[0]) for rule in self.rules)
        highest = max(float(rule.nodes[-1]) for rule in self.rules)
        if all(not rule.residuals.any() for rule in self.rules):
            return lowest, highest
        steps = min(len(rule.nodes) for rule in self.rules)
        odds = 0.005 ** (1 / len(self.rules))  # of either end
        epsilon = (math.log(1.648 * math.sqrt(self.size) / odds) / (2 * steps - 1)) ** 2
        if epsilon >= 0.5:
            return -math.inf, math.inf
        beyond = epsilon / (1 - 2 * epsilon) * (highest - lowest)
        return lowest - beyond, highest + beyond


def spectral_density(
    product: Product,
    like: Tensor,
    *,
    seed: int,
    roundoff: float = 0.0,
    vectors: int = VECTORS,
    steps: int = STEPS,
    exact: int = EXACT,
) -> Density:
    """The density of the symmetric matrix with ``product`` v ↦ H v.

    Args:
        like: (P,), of the dtype and on the device that the vectors are to have; 2 ``steps`` + 2 of
            them are held at most, or P.
        seed: of the random vectors.
        roundoff: relative error of a product, where it is more than that of ``like``.
        vectors, steps: (``vectors`` + 1) × ``steps`` products are taken,
        exact: or P, where P is no larger than this.
    """
    size = like.numel()
    relative = max(32 * torch.finfo(like.dtype).eps, roundoff)
    if size <= exact:
        return _dense(product, like, relative)
    draw = torch.Generator().manual_seed(seed)
    known, *starts = torch.randint(2**62, (vectors + 1,), generator=draw).tolist()
    space = _krylov(product, random_start(like, known), steps)
    if space is None:
        return _nothing(size)
    ritz = space.ritz(wary=True)
    rules = []
    for start in starts:
        v = random_start(like, start)
        own = _krylov(product, v, steps)
        if own is None:
            return _nothing(size)
        within = (space.basis[: space.done] @ v).double().cpu().numpy() @ ritz.vectors
        more = within**2 - 1 / size
        found = own.ritz(wary=True)
        rules.append(
            Rule(
                found.values, found.vectors[0] ** 2, found.residuals,
                (float(ritz.values @ more), float(ritz.values**2 @ more)),
            )
        )  # fmt: skip
    largest = max(float(np.abs(rule.nodes).max()) for rule in rules)
    return Density(size, relative * largest, tuple(rules))


def _krylov(product: Product, start: Tensor, steps: int) -> Space | None:
    """After ``steps`` products, or fewer where the space is invariant; None where one of them is
    not finite."""
    space = Space([start], min(steps, start.numel()) + 1)
    while space.open and space.done < steps:
        if not space.multiply(product):
            return None
    return space


def _dense(product: Product, like: Tensor, relative: float) -> Density:
    """All eigenvalues, of the matrix whose rows are products with the unit vectors."""
    size = like.numel()
    matrix = torch.empty((size, size), dtype=torch.float64)
    for i in range(size):
        unit = torch.zeros_like(like)
        unit[i] = 1.0
        matrix[i] = product(unit)
    if not matrix.isfinite().all():
        return _nothing(size)
    values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2).numpy()
    noise = relative * float(np.abs(values).max())
    rule = Rule(values, np.full(size, 1 / size), np.zeros(size))
    return Density(size, noise, (rule,), exact=True)


def _nothing(size: int) -> Density:
    """Of products that are not finite."""
    none = np.full(1, math.nan)
    return Density(size, math.nan, (Rule(none, none, none),))


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's interval for what is ``share`` of ``count`` draws."""
    square = _NORMAL**2 / count
    middle = share + square / 2
    half = math.sqrt(square * (max(share * (1 - share), 0.0) + square / 4))
    return (middle - half) / (1 + square), (middle + half) / (1 + square)
