"""A run within a budget of memory: samples in chunks.

Where the loss is a mean over samples and the network treats every sample by itself,
L = Σ_c (n_c/N) L_c over chunks c of n_c samples, and so are ∇L and ∇²L v: only the graph of one
chunk is there at a time. A Hessian product builds the graphs anew, chunk by chunk, which takes
about 3.3 gradients instead of 1.9. Where one of the two does not hold
(`blockframe.dynamics.separation`), the budget is refused unless all samples fit at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, frozen
from torch import Tensor
from torch.autograd.function import once_differentiable

from blockframe.dynamics.footprint import Footprint, spelled
from blockframe.dynamics.probes.probe import Unavailable
from blockframe.dynamics.separation import inseparable, mixes, no_mean, part
from blockframe.errors import InputError

if TYPE_CHECKING:
    from blockframe.dynamics.objective import Objective

TRAIL = 8
"""Vectors beside the basis of a search for an eigenvalue: the three that stay from one search to
the next, what this one and the one before found, those it starts from, and a product."""
LEAST_BASIS = 4
"""Vectors without which Lanczos is not begun."""
MOST_BASIS = 200
"""Vectors beyond which more bring nothing: as many as there are products."""


@frozen(eq=False)
class Budget:
    """What a run may take, and what it needs, in bytes.

    Attributes:
        memory: the limit that was given.
        base: for vectors of the size of θ, data and outputs.
        graph: for the gradient's graph of the largest chunk, or of all samples.
        parts: the objective on each chunk; empty if all samples fit at once.
        shares: n_c/N.
    """

    memory: int
    base: int
    graph: int
    parts: tuple[Objective, ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def whole(self) -> int:
        """For the gradient's graph of all samples at once."""
        return round(self.graph / self.shares[0]) if self.parts else self.graph

    def basis(self, vector: int) -> int:
        """How many vectors of so many bytes a Krylov basis may have beside everything else.

        Raises:
            Unavailable: fewer than `LEAST_BASIS`.
        """
        room = self.memory - self.base - self.graph - TRAIL * vector
        if room < LEAST_BASIS * vector:
            lacking = self.memory - room + LEAST_BASIS * vector
            raise Unavailable(
                f"the sharpness needs {TRAIL + LEAST_BASIS} vectors of the size of θ, "
                f"{spelled(lacking)} in all, and memory is {spelled(self.memory)}",
                "Give more --memory, and a number with --lr; or rest on the directional "
                "smoothness, which needs none.",
            )
        return min(room // vector, MOST_BASIS)

    def admit_gram(self, rows: int) -> None:
        """
        Raises:
            Unavailable: the tangent Gram matrix, a copy and its eigenvectors do not fit beside the
                graph of all samples.
        """
        size = self.base + self.whole + 3 * 8 * rows * rows
        if size > self.memory:
            raise Unavailable(
                f"the tangent Gram matrix of {rows} outputs takes {spelled(size)}, and memory is "
                f"{spelled(self.memory)}",
                "Give fewer --samples; the measured PL ratio (probe pl) needs no such matrix.",
            )

    def admit_whole(self, what: str) -> None:
        """
        Raises:
            Unavailable: ``what`` needs all samples at once, and they do not fit.
        """
        if self.parts:
            size = self.base + self.whole
            raise Unavailable(
                f"{what} needs all samples at once, which take {spelled(size)}, and memory is "
                f"{spelled(self.memory)}",
                "Give fewer --samples, or more --memory.",
            )

    def evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (without a graph) and loss, which has a gradient, and that one too."""
        outputs, loss = _Loss.apply(theta, self)  # type: ignore[no-untyped-call]
        return outputs, loss

    def split(self, outputs: Tensor) -> Iterator[tuple[Objective, float, Tensor]]:
        """The outputs of each chunk, with its objective and share."""
        pieces = torch.split(outputs, [len(chunk.targets) for chunk in self.parts])
        return zip(self.parts, self.shares, pieces, strict=True)

    def product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """∇²L(θ) v."""
        from blockframe.dynamics.iterate import check_twice_differentiable

        total = torch.zeros_like(theta, dtype=torch.float64)
        for chunk, share in zip(self.parts, self.shares, strict=True):
            leaf, gradient = _gradient(chunk, theta, graph=True)
            if gradient.requires_grad:
                check_twice_differentiable(gradient)
                total += share * chunk.differentiate(gradient, leaf, vector).detach()
        return total.to(theta)


class _Loss(torch.autograd.Function):
    """θ ↦ outputs, L(θ). The gradient is made along with the value: its graph is there."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, budget: Budget) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(theta, dtype=torch.float64) if wanted else None
        outputs: list[Tensor] = []
        value = torch.zeros((), dtype=torch.float64, device=theta.device)
        for chunk, share in zip(budget.parts, budget.shares, strict=True):
            leaf = theta.detach().requires_grad_(wanted)
            with chunk.arithmetic.kernels(), torch.set_grad_enabled(wanted):
                found, loss = chunk(leaf)
            outputs.append(found.detach())
            value += share * loss.detach()
            if gradient is not None and loss.requires_grad:
                gradient += share * chunk.differentiate(loss, leaf)
        ctx.save_for_backward(theta)
        ctx.budget, ctx.gradient = budget, None if gradient is None else gradient.to(theta)
        everything = torch.cat(outputs)
        ctx.mark_non_differentiable(everything)
        return everything, value

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        gradient = ctx.gradient
        if torch.is_grad_enabled():
            (theta,) = ctx.saved_tensors
            gradient = _Gradient.apply(theta, ctx.budget, gradient)  # type: ignore[no-untyped-call]
        return cotangents[1] * gradient, None


class _Gradient(torch.autograd.Function):
    """θ ↦ ∇L(θ), whose value is known already."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, budget: Budget, value: Tensor) -> Tensor:
        ctx.save_for_backward(theta)
        ctx.budget = budget
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, vector: Tensor) -> tuple[Tensor, None, None]:
        (theta,) = ctx.saved_tensors
        with torch.enable_grad():
            return ctx.budget.product(theta, vector), None, None


def within(objective: Objective, memory: int) -> Objective:
    """``objective``, in chunks if its gradient and Hessian products would take more than ``memory``
    bytes at once.

    Raises:
        InputError: not even one sample fits, or not all samples do and they cannot be separated.
        NetworkError: the network raises.
    """
    need = Footprint(objective)
    base = need.base
    samples = need.samples
    room = memory - base
    basis = (TRAIL + LEAST_BASIS) * 8 * objective.start.numel()  # at most
    if samples * need.sample <= room:
        count = samples
    else:  # room for a small basis, too, if one sample leaves it
        count = min(samples, max(0, (room - basis) // need.sample) or room // need.sample)
    if count < 1:
        raise InputError(
            f"a run on this network takes about {spelled(base)} and {spelled(need.sample)} for "
            f"each sample, and memory is {spelled(memory)}",
            f"Give --memory {spelled(base + need.sample)} or more"
            + ("." if objective.arithmetic.dtype.itemsize <= 4 else ", or --dtype float32."),
        )
    if count == samples:
        return evolve(objective, budget=Budget(memory, base, samples * need.sample))
    starts = range(0, samples, count)
    shares = tuple(min(count, samples - s) / samples for s in starts)
    why_not = inseparable(objective)
    if why_not is None:
        parts = tuple(part(objective, s, s + count) for s in starts)
        why_not = mixes(objective, parts) or no_mean(objective, parts, shares)
    if why_not is not None:
        whole = base + samples * need.sample
        raise InputError(
            f"a gradient over all {samples} samples takes about {spelled(whole)}, memory is "
            f"{spelled(memory)}, and the samples cannot be taken in chunks: {why_not}",
            f"Give fewer --samples, or --memory {spelled(whole)}.",
        )
    return evolve(objective, budget=Budget(memory, base, count * need.sample, parts, shares))


def _gradient(objective: Objective, theta: Tensor, *, graph: bool) -> tuple[Tensor, Tensor]:
    """A leaf at θ and the gradient there."""
    leaf = theta.detach().clone().requires_grad_()
    with objective.arithmetic.kernels():
        _, loss = objective(leaf)
    if not loss.requires_grad:
        return leaf, torch.zeros_like(leaf)
    return leaf, objective.differentiate(loss, leaf, create_graph=graph)
