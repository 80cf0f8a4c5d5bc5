"""Whether a run of gradient descent satisfies docs/theory section 6, step by step."""

from __future__ import annotations

from typing import Any

from blockframe.certificate.model import Inequality, Trajectory
from blockframe.contract.claim import Claim, Evidence, Finding, Verdict
from blockframe.dynamics.ending import COMPLETED, was_not_finite
from blockframe.dynamics.inequalities import DESCENT, MONOTONE, NORMS, PER_STEP, STABILITY

VIOLATED = "D401"
NOT_FINITE = "D402"
ROUNDING = "D403"

_CLAUSE, _SUBJECT = "descent", "trajectory"
_REGION = "the iterates of this run"


def descent_claim(trajectory: Trajectory) -> Claim:
    """Clause ``descent`` about the run.

    FAILS at the first violated inequality, or where a number was not finite. UNKNOWN where no step
    was taken, the run was interrupted, or rounding decides. Else HOLDS, MEASURED.
    """
    violated = [i for i in trajectory.inequalities if i.holds is False]
    first = min(violated, key=_order, default=None)
    findings = [_violation(trajectory, first)] if first else []
    if was_not_finite(trajectory.ended):
        findings.append(_not_finite(trajectory))
    if findings:
        return _claim(trajectory, Verdict.FAILS, findings[0].message, findings)
    taken = trajectory.completed
    if trajectory.ended != COMPLETED:
        return _claim(
            trajectory,
            Verdict.UNKNOWN,
            f"the run ended early ({trajectory.ended}); no inequality was violated up to then",
        )
    if taken < 1:
        return _claim(trajectory, Verdict.UNKNOWN, "no step was taken, so nothing was measured")
    undecided = min(
        (i for i in trajectory.inequalities if i.holds is None), key=_order, default=None
    )
    if undecided:
        finding = _undecided(undecided)
        return _claim(trajectory, Verdict.UNKNOWN, finding.message, [finding])
    missing = _missing(trajectory)
    if missing:
        return _claim(trajectory, Verdict.UNKNOWN, f"not measured: {missing}")
    return _claim(trajectory, Verdict.HOLDS, _holds(trajectory))


def _claim(
    trajectory: Trajectory, verdict: Verdict, statement: str, findings: list[Finding] | None = None
) -> Claim:
    numbers: dict[str, Any] = {"lr": trajectory.lr, "steps": trajectory.completed}
    margins = [i.margin for i in trajectory.inequalities if i.name == DESCENT]
    if margins:
        numbers["least_descent_margin"] = min(margins)
    stability = [i.left for i in trajectory.inequalities if i.name == STABILITY]
    if stability:
        numbers["max_stability"] = max(stability)
    return Claim(
        clause=_CLAUSE,
        verdict=verdict,
        statement=statement,
        evidence=None if verdict is Verdict.UNKNOWN else Evidence.MEASURED,
        subject=_SUBJECT,
        region=_REGION,
        numbers=numbers,
        findings=tuple(findings or ()),
    )


def _holds(trajectory: Trajectory) -> str:
    measured = "sharpness at both ends and directional smoothness between them"
    if not any(x is not None for x in trajectory.series.get("sharpness", [])):
        measured = "directional smoothness; the network has no second derivative"
    return (
        f"along {_steps(trajectory.completed)} from this start the loss fell at every step and "
        f"L_(k+1) ≤ L_k − η(1 − ηΛ_k/2)‖∇L_k‖² with ηΛ_k < 2, Λ_k the largest curvature measured "
        f"on the step ({measured}); no bound over the whole segment"
    )


def _violation(trajectory: Trajectory, i: Inequality) -> Finding:
    witness: dict[str, Any] = {
        "inequality": i.name,
        "step": i.step,
        "left": i.left,
        "right": i.right,
        "lr": trajectory.lr,
    }
    sides = f"{i.left:.4g} > {i.right:.4g} at step {i.step}"
    if i.name == STABILITY:
        message = f"η·Λ/2 = {sides}: the step is longer than the curvature allows"
    elif i.name == MONOTONE:
        message = f"the loss rose on the step to {i.step + 1}: {sides}"
    elif i.name == NORMS:
        message = f"the norm recursion is off by {sides}: the update was not gradient descent's"
    else:
        message = f"{i.name}: {sides}"
    return Finding(VIOLATED, message, witness=witness, help=_help(trajectory, i))


def _help(trajectory: Trajectory, i: Inequality) -> str:
    if i.name == NORMS:
        return "a fault of the program, not of the network: please report it"
    stability = [
        j.left for j in trajectory.inequalities if j.name == STABILITY and j.step == i.step
    ]
    if stability and stability[0] >= 1:
        bound = trajectory.lr / stability[0]
        return f"lower --lr below 2/Λ = {bound:.3g} (or take --lr auto)"
    return "lower --lr (or take --lr auto)"


def _not_finite(trajectory: Trajectory) -> Finding:
    losses = trajectory.series.get("loss", [])
    finite = [x for x in losses if x is not None]
    step = len(losses) - 1
    before = f"; the loss was {finite[-1]:.4g} before" if step > 0 and finite else ""
    return Finding(
        NOT_FINITE,
        trajectory.ended + before,
        witness={
            "step": step,
            "last_finite_loss": finite[-1] if finite else None,
            "lr": trajectory.lr,
        },
        help="lower --lr (or take --lr auto)"
        if step > 0
        else "look at the weights and the data: the run starts there",
    )


def _undecided(i: Inequality) -> Finding:
    return Finding(
        ROUNDING,
        f"rounding decides from step {i.step} on: {i.name} has sides {i.left:.6g} and "
        f"{i.right:.6g}",
        help="take --dtype float64, or fewer steps: the loss no longer changes measurably",
    )


def _missing(trajectory: Trajectory) -> str:
    """The first step and inequality that the certificate does not speak of; "" if none."""
    there = {(i.step, i.name) for i in trajectory.inequalities}
    for step in range(trajectory.completed):
        for name in PER_STEP:
            if (step, name) not in there:
                return f"{name} at step {step}"
    return ""


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _order(i: Inequality) -> tuple[int, int]:
    """By step; on one step in the order of `PER_STEP`."""
    return i.step, PER_STEP.index(i.name) if i.name in PER_STEP else len(PER_STEP)
