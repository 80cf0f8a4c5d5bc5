"""The inequalities of docs/theory section 6, from the numbers of the iterates alone.

Rounding. A computed loss differs from the real one. ``Point.noise`` bounds the difference by a
backward error of `UNITS` units of roundoff u in the loss and in every parameter:
|δL| ≤ `UNITS`·u·(|L| + ‖θ‖·‖∇L‖), the second term being the first-order effect of a relative change
of every parameter. It is an estimate, not a proof: the inequalities are measured. Where the two
sides differ by less than the noise of the losses in them, ``holds`` is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from attrs import frozen

from blockframe.certificate.model import Inequality

UNITS = 64
STABILITY = "stability"
MONOTONE = "monotone decrease"
DESCENT = "descent lemma"
NORMS = "norm recursion"
NEIGHBOURHOOD = "neighbourhood"
BALL = "ball"
RATE = "rate"

PER_STEP = (MONOTONE, STABILITY, DESCENT, NORMS)
PER_RUN = (NEIGHBOURHOOD, BALL, RATE)


@frozen
class Point:
    """The numbers of one iterate.

    Attributes:
        sharpness, residual: λ_max(∇²L) and how far a true eigenvalue may be; None, 0: not measured.
        noise: what rounding may have changed the loss by.
    """

    step: int
    loss: float
    gradient_norm: float
    norm: float
    pairing: float
    noise: float
    sharpness: float | None = None
    residual: float = 0.0

    @classmethod
    def of(
        cls,
        step: int,
        *,
        loss: float,
        gradient_norm: float,
        norm: float,
        pairing: float,
        roundoff: float,
        sharpness: tuple[float, float] | None = None,
    ) -> Point:
        value, residual = sharpness or (None, 0.0)
        noise = UNITS * roundoff * (abs(loss) + norm * gradient_norm)
        return cls(step, loss, gradient_norm, norm, pairing, noise, value, residual)

    @property
    def slope(self) -> float:
        """‖∇L‖²; infinite where it overflows."""
        return self.gradient_norm * self.gradient_norm


@frozen
class StepCurvature:
    """Λ_k: the curvature that the descent lemma is stated with on the step θ_k → θ_{k+1}.

    The largest that was measured: the sharpness at both ends, and the directional smoothness M_k
    between them, each with its own error added. Where the sharpness is above 2/η, M_k alone: the
    lemma holds with M_k exactly, so with every Λ_k ≥ M_k, and M_k is enough for this step, though
    it says nothing about another direction. Λ_k is no bound of the Hessian over the segment.

    Attributes:
        value: Λ_k.
        least: the same with the errors subtracted.
        directional: whether it is M_k because the sharpness is above 2/η.
        peak: whether M_k is above the sharpness at both ends, beyond the errors: the curvature is
            larger somewhere in between.
    """

    value: float
    least: float
    directional: bool = False
    peak: bool = False

    @classmethod
    def between(cls, lr: float, a: Point, b: Point) -> StepCurvature | None:
        """None where nothing was measured that could be below 2/η on a step of length 0."""
        ends = [(p.sharpness, p.residual) for p in (a, b) if p.sharpness is not None]
        sharpest = max((s + r for s, r in ends), default=-math.inf)
        surely = max((s - r for s, r in ends), default=-math.inf)
        along = directional_smoothness(lr, a.loss, a.gradient_norm, b.loss)
        if along is None:
            return cls(sharpest, surely) if ends and lr * sharpest < 2 else None
        noise = 2 / (lr * lr * a.slope) * _noise(lr, a, b)
        above = along + 2 * noise  # twice: the descent lemma then holds beyond the noise
        below = along - noise
        if not math.isfinite(above) or not math.isfinite(below):
            return None
        if lr * sharpest >= 2:
            return cls(above, below, directional=True)
        return cls(max(above, sharpest), max(below, surely), peak=bool(ends) and below > sharpest)


def directional_smoothness(
    lr: float, loss: float, gradient_norm: float, next_loss: float
) -> float | None:
    """M_k with L_{k+1} = L_k − η‖∇L_k‖² + η²M_k/2·‖∇L_k‖²; None if the step has length 0."""
    decrease = lr * gradient_norm * gradient_norm
    if not lr * decrease > 0 or not math.isfinite(lr * decrease):
        return None
    # (L_{k+1} − L_k)/(η‖∇L_k‖²) = −1 + ηM_k/2, in this order so that nothing cancels twice.
    return 2 / lr * ((next_loss - loss) / decrease + 1)


def of_step(lr: float, a: Point, b: Point) -> list[Inequality]:
    """What must hold of the step from ``a`` to ``b``, as far as both sides are finite numbers."""
    rows = []
    still = lr * a.slope == 0
    curvature = StepCurvature.between(lr, a, b)
    if curvature is not None:
        stable, surely = lr * curvature.value / 2, lr * curvature.least / 2
        undecided = surely <= 1 <= stable
        rows.append(Inequality(STABILITY, a.step, stable, 1.0, None if undecided else stable < 1))
        right = a.loss - lr * (1 - stable) * a.slope
        rows.append(_compare(DESCENT, a.step, b.loss, right, _noise(lr, a, b), equal=still))
    rows.append(_compare(MONOTONE, a.step, b.loss, a.loss, a.noise + b.noise, equal=still))
    # The update itself is made in float64, whatever the network is evaluated in.
    expected = a.norm * a.norm - 2 * lr * a.pairing + lr * lr * a.slope
    scale = a.norm * a.norm + b.norm * b.norm
    scale += 2 * lr * a.norm * a.gradient_norm + lr * lr * a.slope
    difference, allowance = abs(b.norm * b.norm - expected), UNITS * 2.0**-53 * scale
    rows.append(Inequality(NORMS, a.step, difference, allowance, difference <= allowance))
    return [r for r in rows if math.isfinite(r.left) and math.isfinite(r.right)]


def of_run(lr: float, points: Sequence[Point], infimum: float) -> list[Inequality]:
    """What follows for the whole run, when every step was stable; else nothing follows.

    With Λ the largest Λ_k, b the smallest with ⟨θ_k, ∇L_k⟩ ≥ −b, μ_k the PL ratio:
    min‖∇L_k‖² ≤ 2(L_0 − L_inf)/(ηK(2 − ηΛ));
    ‖θ_K‖² ≤ ‖θ_0‖² + 2ηbK + 2η/(2 − ηΛ)·(L_0 − L_inf);
    L_K − L_inf ≤ ∏(1 − ημ_k(2 − ηΛ_k))·(L_0 − L_inf).
    """
    steps = len(points) - 1
    found = [StepCurvature.between(lr, *points[k : k + 2]) for k in range(steps)]
    curvatures = [c.value for c in found if c is not None]
    if steps < 1 or len(curvatures) < steps or lr * max(curvatures) >= 2:
        return []
    first, last = points[0], points[-1]
    excess, slack = first.loss - infimum, 2 - lr * max(curvatures)
    noise = first.noise + last.noise
    least = min(p.slope for p in points[:-1])
    b = smallest_b(p.pairing for p in points[:-1])
    radius = first.norm * first.norm + 2 * lr * b * steps + 2 * lr / slack * excess
    left = last.loss - infimum
    rate, relative = excess, 0.0
    for p, curvature in zip(points, curvatures, strict=False):
        gap = p.loss - infimum
        if gap > 0:  # at the infimum the gradient is 0, and the factor 1
            rate *= 1 - lr * (2 - lr * curvature) * p.slope / (2 * gap)
            relative += p.noise / gap
    rounding = UNITS * 2.0**-53 * steps
    norm = last.norm * last.norm
    rows = [
        _compare(NEIGHBOURHOOD, steps, least, 2 * excess / (lr * steps * slack),
                 2 * noise / (lr * steps * slack)),
        _compare(BALL, steps, norm, radius, rounding * (norm + radius) + 2 * lr / slack * noise),
        _compare(RATE, steps, left, rate, last.noise + relative * abs(rate)),
    ]  # fmt: skip
    return [r for r in rows if math.isfinite(r.left) and math.isfinite(r.right)]


def smallest_b(pairings: Iterable[float]) -> float:
    """The least b ≥ 0 with ⟨θ, ∇L⟩ ≥ −b at all of them: dissipativity with a = 0."""
    return max(0.0, *(-p for p in pairings), 0.0)


def _noise(lr: float, a: Point, b: Point) -> float:
    """Of L_{k+1} − L_k + η‖∇L_k‖²."""
    return a.noise + b.noise + UNITS * 2.0**-53 * lr * a.slope


def _compare(
    name: str, step: int, left: float, right: float, noise: float, *, equal: bool = False
) -> Inequality:
    """``equal``: equality is certain (the iterate did not move), so rounding decides nothing."""
    holds = None
    if (equal and left == right) or left <= right - noise:
        holds = True
    elif left > right + noise:
        holds = False
    return Inequality(name, step, left, right, holds)
