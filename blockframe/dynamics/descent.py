"""Gradient descent, one iterate after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from blockframe.dynamics.arithmetic import Arithmetic
from blockframe.dynamics.ending import COMPLETED, diverged, not_finite
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.losses import LOSSES, Loss
from blockframe.dynamics.objective import Objective
from blockframe.dynamics.probes import PROBES, Probe
from blockframe.errors import InputError
from blockframe.naming import lookup
from blockframe.problem import Problem

FRACTION = 0.1
"""Of 2/λ_max(θ_0), the learning rate that ``auto`` takes."""

DIVERGED = 1e6
"""A run is stopped when its loss exceeds this many times the larger of L(θ_0) and 1."""

_FLAT = 1e-6  # λ_max at or below this share of the PL ratio says nothing about a step size


class Descent(Iterator[Iterate]):
    """θ_{k+1} = θ_k − η∇L(θ_k), as an iterator over k = 0 … steps; `descend` makes it.

    Before it moves on from an iterate, its probes have observed it and its graph is freed.
    It stops early at the first iterate whose loss or gradient is not finite, and when the run has
    diverged (`DIVERGED`); that iterate is the last one that it yields.

    Attributes:
        start: θ_0.
        lr, lr_rule: η, and how it was chosen, in words.
        ended: "" while it runs, then "completed", or why not (`blockframe.dynamics.ending`).
    """

    def __init__(
        self, start: Iterate, *, lr: float, lr_rule: str, steps: int, probes: dict[str, Probe]
    ) -> None:
        self.start = start
        self.lr = lr
        self.lr_rule = lr_rule
        self.steps = steps
        self.probes = probes
        self.ended = ""
        self._iterates = self._run()

    def __iter__(self) -> Iterator[Iterate]:
        return self

    def __next__(self) -> Iterate:
        return next(self._iterates)

    def _run(self) -> Iterator[Iterate]:
        it = self.start
        it.lr, it.probes = self.lr, self.probes
        bound = DIVERGED * max(it.loss, 1.0)
        while True:
            self.ended = self._verdict(it, bound)
            yield it
            if it.finite:
                it.observe_all()
            it.previous = None
            if self.ended:
                it.release()
                return
            theta = it.theta - self.lr * it.gradient
            it.release()
            it = Iterate(
                it.objective,
                theta,
                step=it.step + 1,
                lr=self.lr,
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
    lr: float | str = "auto",
    steps: int,
    probes: Iterable[str | Probe | type[Probe]] = (),
    known: Mapping[str, type[Probe]] | None = None,
    losses: Mapping[str, Loss] | None = None,
    blocks: Mapping[str, Sequence[str]] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    seed: int = 0,
) -> Descent:
    """Full-batch gradient descent on a problem; the problem and its module are not changed.

    Args:
        lr: η > 0, or ``auto``: `FRACTION` of 2/λ_max(θ_0); where λ_max(θ_0) is not positive,
            `FRACTION` of the Polyak step (L − L_inf)/‖∇L‖² (`automatic_lr`).
        steps: how many steps are taken; ``steps + 1`` iterates are yielded.
        probes: what to observe, as names of ``known``, classes or instances.
        known: the probes that may be named, by name; the core's own by default.
        losses: the losses that ``problem.loss`` may name; the core's own by default.
        blocks: block name → names of its parameters. The others make up the block ``rest``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``float64``, ``float32``, or None: the first on CPU, the second on CUDA.
        seed: of what Lanczos draws, and of a network that draws random numbers.

    Raises:
        InputError: an option that has no meaning, or a problem that cannot be descended on.
        PluginError: a contributed loss fails.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise InputError(f"steps must be a whole number from 0 on, not {steps!r}", "Try 20.")
    if lr != "auto" and not _positive(lr):
        raise InputError(f"lr must be positive and finite, or 'auto', not {lr!r}", "Try auto.")
    chosen = _probes(probes, known or {p.name: p for p in PROBES})
    losses = losses or {loss.name: loss for loss in LOSSES}
    objective = Objective.of(
        problem,
        lookup("loss", problem.loss, losses),
        Arithmetic.named(device, dtype),
        blocks=blocks,
        seed=seed,
    )
    expected = lr == "auto" or any(p.curvature for p in chosen.values())
    start = Iterate(objective, objective.start, curvature_expected=expected)
    if _positive(lr):
        rate, rule = float(lr), "as given"
    else:
        rate, rule = automatic_lr(start)
    return Descent(start, lr=rate, lr_rule=rule, steps=steps, probes=chosen)


def automatic_lr(it: Iterate) -> tuple[float, str]:
    """A learning rate from the curvature at ``it``, and the rule in words.

    `FRACTION` × 2/λ_max. Where the loss is not finite, so that the run ends at once: 1. Where λ_max
    is not positive, or vanishes against the PL ratio, so that it
    bounds no step: `FRACTION` × the Polyak step (L − L_inf)/‖∇L‖². Where the gradient is 0: 1.

    Raises:
        InputError: loss or curvature are not finite.
        NoSecondDerivative: the network is differentiable once only.
    """
    if not it.finite:
        return 1.0, "1, because loss or gradient are not finite at θ_0"
    value = it.curvature.value
    if not math.isfinite(value):
        raise InputError(
            f"no learning rate follows from a loss of {it.loss} "
            f"with largest Hessian eigenvalue {value}",
            "Look at the weights and the data; they must be finite and of sensible size.",
        )
    excess = it.loss - it.objective.infimum
    slope = it.gradient_norm * it.gradient_norm
    if value > 0 and value * 2 * excess > _FLAT * slope and math.isfinite(2 / value):
        return FRACTION * 2 / value, f"{FRACTION} × 2/λ_max(θ_0)"
    if slope > 0 and excess > 0 and math.isfinite(excess / slope):
        why = f"λ_max(θ_0) = {value:.3g} bounds no step"
        return FRACTION * excess / slope, f"{FRACTION} × (L − L_inf)/‖∇L‖² at θ_0, because {why}"
    return 1.0, "1, because the gradient is 0 at θ_0"


def _positive(lr: object) -> bool:
    number = isinstance(lr, (int, float)) and not isinstance(lr, bool)
    return number and math.isfinite(lr) and lr > 0  # type: ignore[arg-type, operator]


def _probes(
    probes: Iterable[str | Probe | type[Probe]], known: Mapping[str, type[Probe]]
) -> dict[str, Probe]:
    found: dict[str, Probe] = {}
    for item in probes:
        probe = lookup("probe", item, known) if isinstance(item, str) else item
        instance = probe() if isinstance(probe, type) else probe
        if not isinstance(instance, Probe):
            raise InputError(
                f"{instance!r} is not a probe", "Give a name, a Probe class or a Probe."
            )
        found[instance.name] = instance
    return found
