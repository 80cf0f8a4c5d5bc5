"""The inequalities of docs/theory section 6, from the numbers of the iterates alone.

Rounding. A computed loss differs from the real one. ``Point.noise`` bounds the difference by a
backward error of `UNITS` units of roundoff u in the loss, in every parameter and in every output:
|δL| ≤ `UNITS`·u·(|L| + ‖θ‖·‖∇L‖ + ¼Σ|F_j ∂L/∂F_j|), the last two to first order. The last one stays
where the gradients of the samples cancel, near a minimum. More units are counted where the network
was seen to lose more digits (`blockframe.dynamics.rounding`). It is an estimate, not a proof: the
inequalities are measured. Where the two sides differ by less than the noise of the losses in them,
``holds`` is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from attrs import frozen

from blockframe.certificate.model import Inequality

UNITS = 64
IN_HALF = 8
"""The same in half precision, where PyTorch adds up in float32 and rounds what it stores only: of
the losses of MLPs, CNNs, an LSTM and transformers none was off by more than 0.4 units."""
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff u of the dtypes that a network is evaluated in."""
STABILITY = "stability"
MONOTONE = "monotone decrease"
DESCENT = "descent lemma"
NORMS = "norm recursion"
NEIGHBOURHOOD = "neighbourhood"
BALL = "ball"
RATE = "rate"
PL = "PL bound"

PER_STEP = (MONOTONE, STABILITY, DESCENT, NORMS)
PER_RUN = (NEIGHBOURHOOD, BALL, RATE)
WHOLE = 2000
"""Iterates of the longest run whose series and inequalities are all kept in a certificate."""


@frozen
class Point:
    """The numbers of one iterate.

    Attributes:
        sharpness, residual: λ_max(∇²L) and how far a true eigenvalue may be; None, 0: not measured.
        noise: what rounding may have changed the loss by.
        roundoff: unit roundoff of the arithmetic that the network is evaluated in.
    """

    step: int
    loss: float
    gradient_norm: float
    norm: float
    pairing: float
    noise: float
    sharpness: float | None = None
    residual: float = 0.0
    roundoff: float = 2.0**-53

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
        outputs: float = 0.0,
        units: float | None = None,
    ) -> Point:
        """``outputs``: Σ|F_j ∂L/∂F_j|; ``units``: of roundoff, which the noise is counted in."""
        value, residual = sharpness or (None, 0.0)
        units = least_units(roundoff) if units is None else units
        noise = units * rounded_by(loss, norm, gradient_norm, outputs, roundoff)
        return cls(
            step, loss, gradient_norm, norm, pairing, noise, value, residual, roundoff
        )  # fmt: skip

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
        noise = _over(2, lr * lr * a.slope) * _noise(lr, a, b)
        above = along + 2 * noise  # twice: the descent lemma then holds beyond the noise
        below = along - noise
        if not math.isfinite(above) or not math.isfinite(below):
            return None
        if lr * sharpest >= 2:
            return cls(above, below, directional=True)
        return cls(max(above, sharpest), max(below, surely), peak=bool(ends) and below > sharpest)


def least_units(roundoff: float) -> int:
    """Units of roundoff that the noise of a loss is counted in at least."""
    return IN_HALF if roundoff >= 2.0**-11 else UNITS


def rounded_by(
    loss: float, norm: float, gradient_norm: float, outputs: float, roundoff: float
) -> float:
    """By how much one unit of roundoff in loss, parameters and outputs changes the loss."""
    return roundoff * (abs(loss) + norm * gradient_norm + outputs / 4)


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
    moved = lr * a.gradient_norm
    still = moved == 0
    curvature = StepCurvature.between(lr, a, b)
    if curvature is not None:
        stable, surely = lr * curvature.value / 2, lr * curvature.least / 2
        undecided = surely <= 1 <= stable
        rows.append(Inequality(STABILITY, a.step, stable, 1.0, None if undecided else stable < 1))
        right = a.loss - lr * (1 - stable) * a.slope
        rows.append(_compare(DESCENT, a.step, b.loss, right, _noise(lr, a, b), equal=still))
    rows.append(_compare(MONOTONE, a.step, b.loss, a.loss, a.noise + b.noise, equal=still))
    # The update itself is made in float64, whatever the network is evaluated in.
    expected = a.norm * a.norm - 2 * lr * a.pairing + moved * moved
    scale = a.norm * a.norm + b.norm * b.norm
    scale += 2 * lr * a.norm * a.gradient_norm + moved * moved
    # The least normal number: squares below it have no digits left.
    allowance = UNITS * 2.0**-53 * scale + 2.0**-1022
    difference = abs(b.norm * b.norm - expected)
    rows.append(Inequality(NORMS, a.step, difference, allowance, difference <= allowance))
    return [r for r in rows if math.isfinite(r.left) and math.isfinite(r.right)]


def of_tangent(
    point: Point, excess: float, least: float, error: float, bound: float
) -> list[Inequality]:
    """The PL ratio at ``point`` is at least what follows from λ_min(K): docs/theory section 4.

    Rounding moves ‖∇L‖ = ‖DFᵀg‖ by up to `UNITS` units of roundoff of ‖DF‖‖g‖.

    Args:
        excess: L − L_inf.
        least, error, bound: λ_min(K), its error, and the bound (probe ``tangent``).
    """
    surely = max(0.0, least - error)
    if not (excess > 0 and surely > 0 and bound > 0):
        return []
    u = max(point.roundoff, 2.0**-53)
    g = math.sqrt(bound * 2 * excess / surely)
    noise = 2 * UNITS * u * math.sqrt(error / (2 * u)) * g * point.gradient_norm / (2 * excess)
    ratio = point.slope / (2 * excess)
    row = _compare(PL, point.step, bound, ratio, noise)
    return [row] if math.isfinite(row.left) and math.isfinite(row.right) else []


class Course:
    """What follows from a run, taken up iterate by iterate (docs/theory section 6).

    Every inequality is kept as long as there are no more than ``whole`` iterates; of a longer run
    the first violated one of each name, the first undecided and the one with the least margin, and
    all of the first step on which one is violated.

    Where the rate changes, what it is at the last iterate belongs to no step, and ηλ/2 there counts
    nowhere.

    Attributes:
        counts: of the inequalities of each name, how many hold, are undecided, are violated.
    """

    def __init__(self, infimum: float, whole: float = WHOLE, *, constant: bool = True) -> None:
        self.infimum = infimum
        self.whole = whole
        self.constant = constant
        self.iterates = 0
        self.counts: dict[str, list[int]] = {}
        self._rows: list[Inequality] | None = []
        self._kept: dict[tuple[str, str], Inequality] = {}
        self._violated = False
        self._run = _Run()
        self._edge = _Edge()
        self._last: tuple[float, Point] | None = None

    def add(
        self, lr: float, point: Point, tangent: tuple[float, float, float] | None = None
    ) -> None:
        """The next iterate, and the rate of the step that leads on from it.

        ``tangent``: the last three arguments of `of_tangent`.
        """
        rows = self.of_next(point)
        if self._last is not None:
            self._run.step(*self._last, point, self.infimum)
        if tangent is not None:
            rows += of_tangent(point, point.loss - self.infimum, *tangent)
        if self.constant:
            self._edge.add(lr, point)
        elif self._last is not None:
            self._edge.add(*self._last)
        self._run.first = self._run.first or point
        self._last = lr, point
        self.iterates += 1
        broken = self._violated or any(row.holds is False for row in rows)
        for row in rows:
            self._keep(row)
            if broken and not self._violated:
                self._kept[row.name, "beside"] = row
        self._violated = broken
        if self.iterates > self.whole:
            self._rows = None

    def of_next(self, point: Point) -> list[Inequality]:
        """Those of the step to the next iterate, ``point``."""
        return of_step(*self._last, point) if self._last is not None else []

    @property
    def violated(self) -> bool:
        """Whether an inequality at an iterate was."""
        return self._violated

    def inequalities(self) -> tuple[Inequality, ...]:
        """Those of the steps, then those of the whole run."""
        if self._rows is not None:
            steps = self._rows
        else:
            order = list(self.counts)
            unique = {(i.step, order.index(i.name)): i for i in self._kept.values()}
            steps = [unique[key] for key in sorted(unique)]
        return (*steps, *self.of_run())

    def of_run(self) -> list[Inequality]:
        """Those of the whole run, as far as it has come; none if a step was not stable."""
        return self._run.inequalities(self._last[1] if self._last else None, self.infimum)

    def numbers(self) -> dict[str, Any]:
        """Figures about the whole run, for its summary."""
        run, numbers = self._run, dict[str, Any]()
        if run.steps and run.steps == run.known:
            numbers["curvature"] = run.curvature
            numbers["directional_steps"] = run.directional
            numbers["peaks_between_iterates"] = run.peaks
        for inequality in self.of_run():
            numbers[f"{inequality.name}_bound"] = inequality.right
        if self._edge.first is not None:
            numbers["edge_of_stability"] = self._edge.numbers()
        return numbers

    def _keep(self, row: Inequality) -> None:
        self.counts.setdefault(row.name, [0, 0, 0])[(True, None, False).index(row.holds)] += 1
        if self._rows is not None:
            self._rows.append(row)
        if row.holds is not True:
            self._kept.setdefault((row.name, str(row.holds)), row)
        tightest = self._kept.get((row.name, "tightest"))
        if tightest is None or row.margin < tightest.margin:
            self._kept[row.name, "tightest"] = row


class _Run:
    """Sums over the steps of a run.

    With Λ_k the curvature of step k, b the smallest with ⟨θ_k, ∇L_k⟩ ≥ −b, μ_k the PL ratio, all
    η_kΛ_k < 2: min‖∇L_k‖² ≤ (L_0 − L_inf)/Ση_k(1 − η_kΛ_k/2);
    ‖θ_K‖² ≤ ‖θ_0‖² + 2bΣη_k + max(2η_k/(2 − η_kΛ_k))·(L_0 − L_inf);
    L_K − L_inf ≤ ∏(1 − η_kμ_k(2 − η_kΛ_k))·(L_0 − L_inf).
    """

    def __init__(self) -> None:
        self.first: Point | None = None
        self.steps = self.known = self.directional = self.peaks = 0
        self.curvature = -math.inf
        self.stable = True
        self.time = self.gain = self.worst = self.relative = self.b = 0.0
        self.least = math.inf
        self.product = 1.0

    def step(self, lr: float, a: Point, b: Point, infimum: float) -> None:
        self.steps += 1
        self.least = min(self.least, a.slope)
        self.b = max(self.b, -a.pairing) if a.pairing == a.pairing else math.nan
        found = StepCurvature.between(lr, a, b)
        if found is None or not self.stable:
            self.stable = False
        else:
            self.stable = lr * found.value < 2
        if found is not None:
            self.known += 1
            self.curvature = max(self.curvature, found.value)
            self.directional += found.directional
            self.peaks += found.peak
        if found is None or not self.stable:
            return
        slack = 2 - lr * found.value
        self.time += lr
        self.gain += lr * slack / 2
        self.worst = max(self.worst, 2 * lr / slack)
        gap = a.loss - infimum
        if gap > 0:  # at the infimum the gradient is 0, and the factor 1
            self.product *= 1 - lr * slack * a.slope / (2 * gap)
            self.relative += a.noise / gap

    def inequalities(self, last: Point | None, infimum: float) -> list[Inequality]:
        if self.first is None or last is None or not self.stable or not self.gain > 0:
            return []
        first, steps = self.first, self.steps
        excess, noise = first.loss - infimum, first.noise + last.noise
        square, norm = first.norm * first.norm, last.norm * last.norm
        radius = square + 2 * self.b * self.time + self.worst * excess
        rate, left = excess * self.product, last.loss - infimum
        rounding = UNITS * 2.0**-53 * steps
        rows = [
            _compare(NEIGHBOURHOOD, steps, self.least, excess / self.gain, noise / self.gain),
            _compare(BALL, steps, norm, radius, rounding * (norm + radius) + self.worst * noise),
            _compare(RATE, steps, left, rate, last.noise + self.relative * abs(rate)),
        ]
        return [r for r in rows if math.isfinite(r.left) and math.isfinite(r.right)]


class _Edge:
    """Where the sharpness reaches 2/η, and how it goes on: the edge of stability (Cohen, Kaur, Li,
    Kolter and Talwalkar, ICLR 2021)."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.iterates = self.above = self.rises = 0
        self.least, self.most = math.inf, -math.inf
        self._loss = math.inf

    def add(self, lr: float, point: Point) -> None:
        value = None if point.sharpness is None else lr * point.sharpness / 2
        if self.first is not None:
            self.rises += point.loss > self._loss
        self._loss = point.loss
        if value is None:
            return
        if self.first is None and value >= 1:
            self.first = point.step
        if self.first is not None:
            self.iterates += 1
            self.above += value >= 1
            self.least, self.most = min(self.least, value), max(self.most, value)

    def numbers(self) -> dict[str, Any]:
        return {
            "first": self.first, "iterates": self.iterates, "above": self.above,
            "least": self.least, "most": self.most, "rises": self.rises,
        }  # fmt: skip


def _over(a: float, b: float) -> float:
    return a / b if b else math.inf


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
