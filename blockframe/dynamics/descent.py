"""Gradient descent, one iterate after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from blockframe.dynamics.ending import COMPLETED, NoRate, diverged, not_finite
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.losses import Loss
from blockframe.dynamics.options import Options, Probes
from blockframe.dynamics.probes import Probe, Unavailable
from blockframe.dynamics.schedule import AUTO, Schedule, reach
from blockframe.problem import Problem

FRACTION = 0.1
"""Of 2/λ_max(θ_0), the learning rate that ``auto`` takes."""

DIVERGED = 1e6
"""A run is stopped when its loss exceeds this many times the larger of L(θ_0) and 1."""

_FLAT = 1e-6  # λ_max at or below this share of the PL ratio says nothing about a step size


class Descent(Iterator[Iterate]):
    """θ_{k+1} = θ_k − η_k∇L(θ_k), as an iterator over k = 0 … steps; `descend` makes it.

    Before it moves on from an iterate, its probes have observed it and its graph is freed.
    It stops early at the first iterate whose loss or gradient is not finite, and when the run has
    diverged (`DIVERGED`); that iterate is the last one that it yields.

    Attributes:
        start: θ_0; once the run has moved on from it, without what was computed there.
        lr, lr_rule: η_0, and how it was chosen, in words.
        schedule: how η_k goes on from there.
        ended: "" while it runs, then "completed", or why not (`blockframe.dynamics.ending`).
    """

    def __init__(
        self,
        start: Iterate,
        *,
        lr: float,
        lr_rule: str,
        steps: int,
        probes: dict[str, Probe],
        schedule: Schedule | None = None,
    ) -> None:
        self.start = start
        self.lr = lr
        self.lr_rule = lr_rule
        self.schedule = schedule or Schedule()
        self.steps = steps
        self.probes = probes
        self.ended = ""
        self._goal: Iterate | None = None
        self._iterates = self._run()

    def __iter__(self) -> Iterator[Iterate]:
        return self

    def __next__(self) -> Iterate:
        return next(self._iterates)

    def rate(self, step: int) -> float:
        """η of ``step``, which leads from iterate ``step`` to the next."""
        return self.schedule.rate(self.lr, step, self.steps)

    def go_on_from(self, it: Iterate) -> None:
        """The next iterate is the one that follows ``it``, a later one of this run, which has been
        observed."""
        self._goal = it

    def _run(self) -> Iterator[Iterate]:
        it = self.start
        it.lr, it.probes = self.rate(0), self.probes
        bound = DIVERGED * max(it.loss, 1.0)
        while True:
            self.ended = self._verdict(it, bound)
            yield it
            if it.finite:
                it.observe_all()
            it.previous = None
            if self._goal is not None:
                it.release()
                it, self._goal = self._goal, None
                self.ended = self._verdict(it, bound)
            if self.ended:
                it.release()
                return
            theta = it.theta - it.lr * it.gradient
            it.release()
            if it is self.start:
                self.start = Iterate(
                    it.objective, it.theta, lr=it.lr, probes=it.probes,
                    curvature_expected=it.curvature_expected, accuracy=it.accuracy,
                    rounding_units=it.rounding_units,
                )  # fmt: skip
            it = Iterate(
                it.objective,
                theta,
                step=it.step + 1,
                lr=self.rate(it.step + 1),
                previous=it,
                probes=self.probes,
                curvature_expected=it.curvature_expected,
            )

    def _verdict(self, it: Iterate, bound: float) -> str:
        if not math.isfinite(it.loss):
            return not_finite("loss", it.step)
        if not math.isfinite(it.gradient_norm):
            return not_finite("gradient", it.step)
        if it.loss > bound:
            return diverged(it.loss, it.step)
        return COMPLETED if it.step >= self.steps else ""


def descend(
    problem: Problem,
    *,
    lr: float | str | Sequence[float] = AUTO,
    steps: int,
    probes: Probes = (),
    known: Mapping[str, type[Probe]] | None = None,
    losses: Mapping[str, Loss] | None = None,
    blocks: Mapping[str, Sequence[str]] | None = None,
    device: str | None = AUTO,
    dtype: str | None = None,
    seed: int = 0,
    memory: int | str | None = None,
) -> Descent:
    """Full-batch gradient descent on a problem; the problem and its module are not changed.

    Args:
        lr: η > 0, or ``auto``: `FRACTION` of 2/λ_max(θ_0); where λ_max(θ_0) is not positive,
            `FRACTION` of the Polyak step (L − L_inf)/‖∇L‖² (`automatic_lr`). Or a list of rates,
            the last of which stays, or the text of a rule (`blockframe.dynamics.schedule`).
        steps: how many steps are taken; ``steps + 1`` iterates are yielded.
        probes: what to observe, as names of ``known``, classes or instances.
        known: the probes that may be named, by name; the core's own by default.
        losses: the losses that ``problem.loss`` may name; the core's own by default.
        blocks: block name → names of its parameters. The others make up the block ``rest``.
        device: ``auto`` (or None), ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: of the network: ``float64``, ``float32``, ``bfloat16``, ``float16``, or None: the
            first on CPU, the second on CUDA.
        seed: of what Lanczos draws, and of a network that draws random numbers.
        memory: what the run may take, in bytes or as ``4GiB``; samples are then taken in chunks
            (`blockframe.dynamics.chunks`).

    Raises:
        InputError: an option that has no meaning, or a problem that cannot be descended on.
        PluginError: a contributed loss fails.
    """
    options = Options.of(
        lr=lr, steps=steps, probes=probes, known=known, losses=losses, device=device, dtype=dtype,
        seed=seed, memory=memory,
    )  # fmt: skip
    return begin(start(problem, options, blocks), options)


def start(
    problem: Problem, options: Options, blocks: Mapping[str, Sequence[str]] | None = None
) -> Iterate:
    """θ_0; nothing is computed at it yet."""
    curvature = options.lr is None or any(p.curvature for p in options.probes.values())
    objective = options.objective(problem, blocks)
    return Iterate(objective, objective.start, curvature_expected=curvature)


def begin(it: Iterate, options: Options) -> Descent:
    """The run from ``it`` on, its learning rate chosen.

    Raises:
        InputError: it comes to 0, or to more than a number holds; see `automatic_lr`.
    """
    rate, rule = (options.lr, "as given") if options.lr is not None else automatic_lr(it)
    reach(options.schedule, rate, options.steps)
    return Descent(
        it, lr=rate, lr_rule=rule, steps=options.steps, probes=options.probes,
        schedule=options.schedule,
    )  # fmt: skip


def automatic_lr(it: Iterate) -> tuple[float, str]:
    """A learning rate from the curvature at ``it``, and the rule in words.

    `FRACTION` × 2/λ_max. Where the loss is not finite, so that the run ends at once: 1. Where λ_max
    is not positive, or vanishes against the PL ratio, so that it
    bounds no step: `FRACTION` × the Polyak step (L − L_inf)/‖∇L‖². Where the gradient is 0: 1.

    Raises:
        NoRate: the curvature is not finite, or there is none: the network is differentiable once.
    """
    if not it.finite:
        return 1.0, "1, because loss or gradient are not finite at θ_0"
    try:
        value = it.curvature.value
    except Unavailable as error:
        raise NoRate(error.message, error.remedy) from error
    if not math.isfinite(value):
        raise NoRate(
            f"the loss is {it.loss:.6g} and its largest Hessian eigenvalue {value}",
            f"Give a number with --lr. {it.objective.arithmetic.wider}",
        )
    excess = it.loss - it.objective.infimum
    slope = it.gradient_norm * it.gradient_norm
    if value > 0 and value * 2 * excess > _FLAT * slope and math.isfinite(2 / value):
        return FRACTION * 2 / value, f"{FRACTION} × 2/λ_max(θ_0)"
    if slope > 0 and excess > 0 and math.isfinite(excess / slope):
        why = f"λ_max(θ_0) = {value:.3g} bounds no step"
        return FRACTION * excess / slope, f"{FRACTION} × (L − L_inf)/‖∇L‖² at θ_0, because {why}"
    return 1.0, "1, because the gradient is 0 at θ_0"
