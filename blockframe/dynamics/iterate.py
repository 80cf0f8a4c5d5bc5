"""One point of a run of gradient descent, and what can be asked of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING

import torch
from attrs import evolve
from torch import Tensor

from blockframe.dynamics.curvature import FINEST, Accuracy, Eigenpair, Product
from blockframe.dynamics.ending import NetworkError
from blockframe.dynamics.inequalities import UNITS, Point, StepCurvature
from blockframe.dynamics.probes.probe import Unavailable
from blockframe.dynamics.tangent import Spectrum, tangent_gram
from blockframe.dynamics.trail import Trail, Trails, follow
from blockframe.errors import InputError, PluginError
from blockframe.foreign import foreign
from blockframe.heap import LARGE, give_back
from blockframe.naming import suggestion

if TYPE_CHECKING:
    from blockframe.dynamics.density import Density
    from blockframe.dynamics.jacobian import Singular
    from blockframe.dynamics.kinks import Side
    from blockframe.dynamics.objective import Objective
    from blockframe.dynamics.probes import Observation, Probe
    from blockframe.dynamics.segment import Segment


ACCURACY = 1e-3
"""Relative error that is asked for of a Hessian eigenvalue along a run."""


class NoSecondDerivative(Unavailable):
    """An operation of the network has no derivative of its derivative in PyTorch."""


class Iterate:
    """θ_k and the quantities at it. Each is computed when first asked for, and once.

    Loss, gradient and Hessian products share one graph; `release` frees it, and a quantity that
    is asked for later builds it again. Vectors are flat, (P,), in the order of
    ``objective.names``: θ and ∇L in float64, products in the dtype that the network has.

    Attributes:
        step: k.
        lr: η_k, of the step that leads on from here; NaN where none has been chosen.
        theta: θ_k, (P,).
        previous: the iterate before, or None: at k = 0, and after the run has moved on.
        probes: the probes that may be asked for by name.
        curvature_expected: keep the gradient's graph at once, because Hessian products will follow.
        accuracy: relative error that is asked for of a Hessian eigenvalue; that of ``previous``, or
            `ACCURACY`, by default. While no learning rate is chosen it is 1e-6 at most.
        rounding_units: of roundoff, that the noise of the loss is counted in along the run; None:
            the least. By default those of ``previous``.
        trails: where the searches for Hessian eigenvalues begin, by default where those at
            ``previous`` ended; after them, where those at the next iterate begin.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        *,
        step: int = 0,
        lr: float = math.nan,
        previous: Iterate | None = None,
        probes: Mapping[str, Probe] | None = None,
        curvature_expected: bool = False,
        accuracy: float | None = None,
        rounding_units: float | None = None,
        trails: Trails | None = None,
    ) -> None:
        self.objective = objective
        self.theta = theta
        self.step = step
        self.lr = lr
        self.previous = previous
        self.probes = probes or {}
        self.curvature_expected = curvature_expected
        self.accuracy: float = accuracy or (previous.accuracy if previous else ACCURACY)
        self.trails: Trails = trails or (previous.trails if previous else Trails())
        before: float | None = previous.rounding_units if previous else None
        self.rounding_units: float | None = before if rounding_units is None else rounding_units
        self._outputs: Tensor | None = None
        self._value: float | None = None
        self._leaf: Tensor | None = None  # θ_k as the network gets it, at the root of the graph
        self._loss: Tensor | None = None  # with its graph
        self._gradient: Tensor | None = None  # with its graph
        self._twice = False  # that graph was found to be differentiable
        self._observed: dict[str, dict[str, float | None]] = {}

    def __repr__(self) -> str:
        return f"<Iterate {self.step}: loss {self.loss:.6g}>"

    # --- the function and its derivatives -----------------------------------------------------

    @property
    def outputs(self) -> Tensor:
        """f(θ_k; x) for all samples, in the shape and dtype that the network gives."""
        if self._outputs is None:
            self._trace()
        assert self._outputs is not None
        return self._outputs

    @property
    def loss(self) -> float:
        """L(θ_k)."""
        if self._value is None:
            self._trace()
        assert self._value is not None
        return self._value

    @cached_property
    def gradient(self) -> Tensor:
        """∇L(θ_k), (P,); 0 in the entries that the loss does not depend on."""
        if self.curvature_expected:
            return self._gradient_with_graph().detach().to(self.theta)
        gradient = self._differentiate(self._trace(), keep=False)
        self.release()  # the graph is spent
        return gradient.to(self.theta)

    @cached_property
    def gradient_norm(self) -> float:
        """‖∇L(θ_k)‖."""
        return _norm(self.gradient)

    @cached_property
    def block_gradients(self) -> dict[str, Tensor]:
        """∇_{θ_l} L(θ_k), flat, for each block l."""
        return self.objective.by_block(self.gradient)

    def hvp(self, vector: Tensor) -> Tensor:
        """∇²L(θ_k) v, (P,), for v (P,), in the dtype of the network.

        Raises:
            NoSecondDerivative: an operation of the network is differentiable once only.
        """
        gradient = self._gradient_with_graph()
        if not gradient.requires_grad or self._leaf is None:
            return torch.zeros_like(vector)  # L is affine in θ
        if not self._twice:
            check_twice_differentiable(gradient)
            self._twice = True
        try:
            product = self.objective.differentiate(
                gradient, self._leaf, vector.to(gradient), retain_graph=True
            )
        except NetworkError as error:
            raise _no_second_derivative(error.reason) from error
        return product.detach()

    @cached_property
    def curvature(self) -> Eigenpair:
        """λ_max(∇²L(θ_k)) with its residual bound, as close as what is concluded from it needs.

        To `accuracy`, and so that the residual does not leave open on which side of 2/η it is.
        """
        pair, trail = self._end(self.hvp, self.trails.top, threshold=True)
        if self._may_have_lost(pair):
            again, trail = self._end(self.hvp, trail, threshold=True, suspicious=True)
            pair = evolve(again, products=again.products + pair.products)
        self.trails = evolve(self.trails, top=trail)
        return pair

    @cached_property
    def bottom(self) -> Eigenpair:
        """λ_min(∇²L(θ_k)), the least algebraic eigenvalue, with its residual bound."""
        pair, trail = self._end(lambda v: -self.hvp(v), self.trails.bottom)
        self.trails = evolve(self.trails, bottom=trail)
        return evolve(pair, value=-pair.value)

    @cached_property
    def segment(self) -> Segment | None:
        """The Hessian along the step that leads here; None at θ_0."""
        from blockframe.dynamics.segment import Segment

        return Segment.before(self)

    @cached_property
    def spectral_density(self) -> Density:
        """How the eigenvalues of ∇²L(θ_k) lie.

        Raises:
            Unavailable: the vectors do not fit in the memory.
        """
        from blockframe.dynamics.density import STEPS, spectral_density

        steps = STEPS if self._basis is None else min(STEPS, self._basis // 2 - 1)
        return spectral_density(
            self.hvp, self._like, seed=self.objective.seed + self.step, steps=steps,
            roundoff=UNITS * self.objective.arithmetic.unit_roundoff,
        )  # fmt: skip

    @property
    def _basis(self) -> int | None:
        """How many vectors of the size of θ a search may hold, where that is limited.

        Raises:
            Unavailable: too few.
        """
        budget = self.objective.budget
        return None if budget is None else budget.basis(self._like.nbytes)

    @property
    def _like(self) -> Tensor:
        """(P,), of the dtype that eigenvectors have."""
        dtype = torch.promote_types(self.objective.arithmetic.dtype, torch.float32)
        return torch.empty_like(self.theta, dtype=dtype)

    def _end(
        self,
        product: Product,
        trail: Trail | None,
        *,
        threshold: bool = False,
        suspicious: bool = False,
    ) -> tuple[Eigenpair, Trail | None]:
        """The largest eigenvalue of ``product``, and where the search at the next iterate begins.

        Raises:
            Unavailable: the vectors of a search do not fit in the memory.
        """
        accuracy = Accuracy(self.accuracy)
        if math.isnan(self.lr):  # then it is the eigenvalue that a learning rate follows from
            accuracy = Accuracy(min(self.accuracy, 1e-6), residual=FINEST)
        elif threshold and self.lr > 0:
            accuracy = Accuracy(self.accuracy, threshold=2 / self.lr)
        pair, trail = follow(
            product, trail, self._like, accuracy, seed=self.objective.seed + self.step,
            suspicious=suspicious, basis=self._basis,
        )  # fmt: skip
        # What rounding leaves of the products, the recurrence does not see.
        size = max(abs(pair.value), pair.scale)
        rounding = UNITS * self.objective.arithmetic.unit_roundoff * size
        return evolve(pair, residual=pair.residual + rounding), trail

    def _may_have_lost(self, pair: Eigenpair) -> bool:
        """Whether the step that led here met more curvature than ``pair`` and the one before say.

        The curvature may be larger in between; or the searches follow another eigenvector.
        """
        before = self.previous
        if pair.cold or before is None or "curvature" not in before.__dict__ or not self.finite:
            return False
        step = StepCurvature.between(before.lr, before.point, self._point(pair))
        return step is not None and step.peak

    @property
    def top_hessian_eigenvalue(self) -> float:
        """λ_max(∇²L(θ_k)), the largest algebraic eigenvalue: the sharpness."""
        return self.curvature.value

    @cached_property
    def tangent_gram(self) -> Tensor:
        """K = DF DFᵀ at θ_k, (Nc, Nc), float64; rows as in ``outputs.flatten()``.

        Raises:
            TangentTooLarge: see `blockframe.dynamics.tangent.tangent_gram`.
        """
        if self.objective.budget is not None:
            self.objective.budget.admit_gram(self.outputs.numel())
        return tangent_gram(self.objective, self.theta)

    @cached_property
    def tangent_spectrum(self) -> Spectrum:
        """The eigenvalues of K."""
        return Spectrum.of(self.tangent_gram, self.objective.arithmetic.unit_roundoff)

    @property
    def least_tangent_eigenvalue(self) -> float:
        """λ_min(K) as computed; ``tangent_spectrum`` has its error."""
        return self.tangent_spectrum.least

    @cached_property
    def block_jacobians(self) -> dict[str, Singular]:
        """The singular range of the input Jacobian of every block that a state enters.

        Raises:
            Unavailable: see `blockframe.dynamics.traced.Traced.of`.
        """
        from blockframe.dynamics.jacobian import block_jacobians

        return block_jacobians(self.objective.traced, self.theta)

    @cached_property
    def sides(self) -> Sequence[Side]:
        """On which side of their kinks the arguments of all operations lie; empty without kinks.

        Raises:
            Unavailable: see `blockframe.dynamics.traced.Traced.of`; or an operation may have kinks
                where they are not known.
        """
        from blockframe.dynamics.kinks import sides

        return sides(self.objective.traced, self.theta)

    # --- norms and pairings, by block -----------------------------------------------------------

    @cached_property
    def theta_norm(self) -> float:
        """‖θ_k‖."""
        return _norm(self.theta)

    @cached_property
    def block_norms(self) -> dict[str, float]:
        """‖θ_l‖ for each block l."""
        return {b: _norm(part) for b, part in self.objective.by_block(self.theta).items()}

    @cached_property
    def update_norms(self) -> dict[str, float]:
        """‖θ_k − θ_{k−1}‖, at ``""``, and by block; empty where there is no iterate before."""
        before = self.previous
        return {} if before is None else self.objective.norms(self.theta - before.theta)

    @cached_property
    def distance_norms(self) -> dict[str, float]:
        """‖θ_k − θ_0‖, at ``""``, and by block."""
        return self.objective.norms(self.theta - self.objective.start)

    @cached_property
    def gradient_change(self) -> float | None:
        """‖∇L_k − ∇L_{k−1}‖; None where there is no iterate before."""
        return None if self.previous is None else _norm(self.gradient - self.previous.gradient)

    @cached_property
    def pairing(self) -> float:
        """⟨θ_k, ∇L(θ_k)⟩ (docs/theory section 1, clause D)."""
        return _dot(self.theta, self.gradient)

    @cached_property
    def block_pairings(self) -> dict[str, float]:
        """⟨θ_l, ∇_{θ_l} L⟩ for each block l."""
        theta = self.objective.by_block(self.theta)
        return {b: _dot(part, self.block_gradients[b]) for b, part in theta.items()}

    @property
    def output_pairing(self) -> float:
        """⟨F, ∇_F L⟩ at F = F(θ_k) (docs/theory section 5)."""
        return self._output_products[0]

    @property
    def output_size(self) -> float:
        """Σ|F_j ∂L/∂F_j|: what rounding of the outputs may do to the loss, in units of roundoff."""
        return self._output_products[1]

    @cached_property
    def _output_products(self) -> tuple[float, float]:
        return self.objective.output_pairing(self.outputs)

    @cached_property
    def point(self) -> Point:
        """The numbers that the inequalities of docs/theory section 6 speak of.

        Without a sharpness where there is none (`Unavailable`, or not finite).
        """
        try:
            pair: Eigenpair | None = self.curvature
        except Unavailable:
            pair = None
        return self._point(pair)

    def _point(self, pair: Eigenpair | None) -> Point:
        return Point.of(
            self.step,
            loss=self.loss,
            gradient_norm=self.gradient_norm,
            norm=self.theta_norm,
            pairing=self.pairing,
            roundoff=self.objective.arithmetic.unit_roundoff,
            outputs=self.output_size,
            units=self.rounding_units,
            sharpness=(pair.value, pair.residual) if pair and math.isfinite(pair.value) else None,
        )

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are: gradient descent can go on from here."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)

    # --- probes ---------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> float | dict[str, float | None] | None:
        """What a probe observed: its number, or its mapping where it has no number of its own.

        ``it["sharpness"]`` is a number, ``it["sharpness.residual"]`` one entry of the same probe.

        Raises:
            InputError: no such probe was asked for.
        """
        probe, _, key = name.partition(".")
        if probe not in self.probes:
            raise InputError(
                f"no probe {probe!r} observes this run", suggestion(probe, self.probes)
            )
        seen = self.observe(probe)
        if not key and "" not in seen:
            return dict(seen)
        if key not in seen:
            raise InputError(
                f"probe {probe!r} has no entry {key!r}", suggestion(key, filter(None, seen))
            )
        return seen[key]

    def observe(self, probe: str) -> dict[str, float | None]:
        """The entries of one probe; ``""`` is the entry that bears the probe's own name."""
        if probe not in self._observed:
            with foreign(lambda what: PluginError(f"probe {probe!r} failed: {what}")):
                value = self.probes[probe].observe(self)
            self._observed[probe] = _entries(probe, value)
        return self._observed[probe]

    def observe_all(self) -> dict[str, float | None]:
        """Series name → number, for all probes: ``name`` and ``name.key``."""
        return {
            f"{name}.{key}" if key else name: value
            for name in self.probes
            for key, value in self.observe(name).items()
        }

    # --- the graph ------------------------------------------------------------------------------

    def release(self) -> None:
        """Frees the graph; numbers that were computed stay."""
        self._leaf = self._loss = self._gradient = None
        self._twice = False
        if self.theta.nbytes >= LARGE:
            give_back()

    def _trace(self) -> Tensor:
        """The loss with its graph."""
        if self._loss is None:
            dtype = self.objective.arithmetic.dtype
            self._leaf = self.theta.detach().to(dtype, copy=True).requires_grad_()
            with self.objective.arithmetic.kernels():
                outputs, self._loss = self.objective(self._leaf)
            self._outputs, self._value = outputs.detach(), float(self._loss.detach())
        return self._loss

    def _gradient_with_graph(self) -> Tensor:
        if self._gradient is None:
            self.curvature_expected = True
            self._gradient = self._differentiate(self._trace(), keep=True)
        return self._gradient

    def _differentiate(self, loss: Tensor, *, keep: bool) -> Tensor:
        if not loss.requires_grad or self._leaf is None:
            return torch.zeros_like(self.theta)  # nothing that requires a gradient is used
        return self.objective.differentiate(loss, self._leaf, create_graph=keep)


def _dot(a: Tensor, b: Tensor) -> float:
    # `sum` adds pairwise; the kernels of dot and norm lose two digits over a million entries.
    return float((a * b).sum())


def _norm(vector: Tensor) -> float:
    norm = math.sqrt(_dot(vector, vector))
    if 1e-140 < norm < 1e140 or not vector.numel():
        return norm
    most = float(vector.abs().max())  # the squares may be too small, or too large, for a double
    if not 0 < most < math.inf:
        return norm if most == 0 else most
    scaled = vector / most
    return most * math.sqrt(_dot(scaled, scaled))


def _entries(probe: str, value: Observation) -> dict[str, float | None]:
    """A probe's answer as numbers; None for what does not exist or is not finite."""
    entries = value if isinstance(value, Mapping) else {"": value}
    plain: dict[str, float | None] = {}
    for key, number in entries.items():
        if isinstance(number, Tensor) and number.numel() == 1:
            number = float(number.detach())
        if number is not None and not isinstance(number, Real):
            raise PluginError(
                f"probe {probe!r} observed a {type(number).__name__}",
                "A probe returns a number, None, or a mapping of names to numbers.",
            )
        exists = number is not None and math.isfinite(number)
        plain[str(key)] = float(number) if exists and number is not None else None
    return plain


def check_twice_differentiable(gradient: Tensor) -> None:
    """A backward marked ``once_differentiable`` ends its graph in an error that is never reached.

    It would be left out of the Hessian without a word.
    """
    seen, stack = set(), [gradient.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise _no_second_derivative("a custom backward is marked once_differentiable")
        seen.add(node)
        stack.extend(following for following, _ in node.next_functions)


def _no_second_derivative(reason: str) -> NoSecondDerivative:
    return NoSecondDerivative(
        f"the Hessian of this network cannot be multiplied with a vector: {reason.rstrip('.')}",
        "Give a learning rate (--lr), and write the operation in differentiable ones.",
    )
