"""Whether a run of gradient descent satisfies docs/theory section 6, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from blockframe.certificate.model import Inequality, Trajectory
from blockframe.contract.claim import Claim, Evidence, Finding, Verdict
from blockframe.dynamics.ending import COMPLETED, was_not_finite
from blockframe.dynamics.inequalities import DESCENT, MONOTONE, NORMS, PER_STEP, STABILITY

VIOLATED = "D401"
NOT_FINITE = "D402"
ROUNDING = "D403"
SHARP = "D404"


def descent_claim(trajectory: Trajectory) -> Claim:
    """Clause ``descent`` about the run.

    FAILS at the first violated inequality, or where a number was not finite. UNKNOWN where no step
    was taken, the run ended early, or rounding decides. Else HOLDS, MEASURED.
    """
    violated = _first(i for i in trajectory.inequalities if i.holds is False)
    findings = [_violation(trajectory, violated)] if violated else []
    if was_not_finite(trajectory.ended):
        findings.append(_not_finite(trajectory))
    if findings:
        return _claim(trajectory, Verdict.FAILS, findings[0].message, findings)
    if trajectory.ended != COMPLETED:
        why = f"{trajectory.ended}; no inequality was violated up to then"
        return _claim(trajectory, Verdict.UNKNOWN, why)
    if trajectory.completed < 1:
        return _claim(trajectory, Verdict.UNKNOWN, "no step was taken, so nothing was measured")
    undecided = _first(i for i in trajectory.inequalities if i.holds is None)
    if undecided:
        finding = _undecided(undecided)
        return _claim(trajectory, Verdict.UNKNOWN, finding.message, [finding])
    missing = _missing(trajectory)
    if missing:
        return _claim(trajectory, Verdict.UNKNOWN, f"not measured: {missing}")
    return _claim(trajectory, Verdict.HOLDS, _holds(trajectory), _sharp(trajectory))


def _claim(
    trajectory: Trajectory, verdict: Verdict, statement: str, findings: Iterable[Finding] = ()
) -> Claim:
    numbers: dict[str, Any] = {"lr": trajectory.lr, "steps": trajectory.completed}
    margins = [i.margin for i in trajectory.inequalities if i.name == DESCENT]
    if margins:
        numbers["least_descent_margin"] = min(margins)
    stability = [x for x in trajectory.series.get("sharpness.stability", []) if x is not None]
    if stability:
        numbers["max_stability"] = max(stability)
    return Claim(
        clause="descent",
        verdict=verdict,
        statement=statement,
        evidence=None if verdict is Verdict.UNKNOWN else Evidence.MEASURED,
        subject="trajectory",
        region="the iterates of this run",
        numbers=numbers,
        findings=tuple(findings),
    )


def _holds(trajectory: Trajectory) -> str:
    count = trajectory.completed
    where = "the sharpness at both ends of the step and the directional smoothness along it"
    if _sharp(trajectory):
        where += ", the latter alone where the sharpness exceeds 2/η"
    return (
        f"along {count} step{'s' if count > 1 else ''} from this start the loss fell at every step "
        f"and L_(k+1) ≤ L_k − η(1 − ηΛ_k/2)‖∇L_k‖² with ηΛ_k < 2; Λ_k: {where}, as measured; "
        "no bound of the Hessian over the whole segment"
    )


def _sharp(trajectory: Trajectory) -> list[Finding]:
    """A note where the usual condition, sharpness below 2/η, is not met and the run descends."""
    stability = trajectory.series.get("sharpness.stability", [])
    steps = [(k, x) for k, x in enumerate(stability) if x is not None and x >= 1]
    if not steps:
        return []
    step, value = steps[0]
    return [
        Finding(
            SHARP,
            f"η·λ/2 = {value:.4g} ≥ 1 from step {step} on at {len(steps)} of {len(stability)} "
            "iterates: there the descent rests on the directional smoothness alone",
            witness={"step": step, "stability": value, "lr": trajectory.lr},
            help=f"lower --lr below 2/λ = {trajectory.lr / max(x for _, x in steps):.3g}",
        )
    ]


def _violation(trajectory: Trajectory, i: Inequality) -> Finding:
    witness: dict[str, Any] = {
        "inequality": i.name,
        "step": i.step,
        "left": i.left,
        "right": i.right,
        "lr": trajectory.lr,
    }
    message = f"{i.name}: {i.left:.6g} > {i.right:.6g} at step {i.step}"
    advice = "lower --lr (or take --lr auto)"
    if i.name == NORMS:
        message += ": the update was not that of gradient descent"
        advice = "a fault of this program, not of the network: please report it"
    if i.name in (MONOTONE, STABILITY):
        message = f"the loss rose on step {i.step}: {i.left:.6g} > {i.right:.6g}"
        stability = _stability(trajectory, i.step)
        if stability is not None and stability > 1:
            witness["stability"] = stability
            message += f", with η·λ/2 = {stability:.4g} > 1"
            advice = f"lower --lr below 2/λ = {trajectory.lr / stability:.3g} (or take --lr auto)"
    return Finding(VIOLATED, message, witness=witness, help=advice)


def _stability(trajectory: Trajectory, step: int) -> float | None:
    """ηλ/2 where the step begins; where it ends if only that is above 1."""
    values = trajectory.series.get("sharpness.stability", [])[step : step + 2]
    known = [x for x in values if x is not None]
    return next((x for x in known if x > 1), known[0] if known else None)


def _not_finite(trajectory: Trajectory) -> Finding:
    losses = trajectory.series.get("loss", [])
    finite = [x for x in losses if x is not None]
    step = len(losses) - 1
    message, advice = trajectory.ended, "lower --lr (or take --lr auto)"
    if step == 0:
        advice = "look at the weights and the data: the run starts there"
    elif finite:
        message += f"; the last finite loss was {finite[-1]:.6g}"
    last = finite[-1] if finite else None
    witness = {"step": step, "last_finite_loss": last, "lr": trajectory.lr}
    return Finding(NOT_FINITE, message, witness=witness, help=advice)


def _undecided(i: Inequality) -> Finding:
    return Finding(
        ROUNDING,
        f"rounding decides at step {i.step}: {i.name} has sides {i.left:.6g} and {i.right:.6g}",
        help="take --dtype float64, or fewer steps: the loss hardly changes any more",
    )


def _missing(trajectory: Trajectory) -> str:
    """The first step and inequality that the trajectory does not speak of; "" if none."""
    there = {(i.step, i.name) for i in trajectory.inequalities}
    wanted = ((step, name) for step in range(trajectory.completed) for name in PER_STEP)
    return next(
        (f"{name} at step {step}" for step, name in wanted if (step, name) not in there), ""
    )


def _first(inequalities: Iterable[Inequality]) -> Inequality | None:
    """By step; on one step in the order of `PER_STEP`, before those of the whole run."""
    order = {name: n for n, name in enumerate(PER_STEP)}
    return min(inequalities, key=lambda i: (i.step, order.get(i.name, len(order))), default=None)
