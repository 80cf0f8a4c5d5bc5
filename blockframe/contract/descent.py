"""Whether a run of gradient descent satisfies docs/theory section 6, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.certificate.model import Inequality, Trajectory
from blockframe.contract.claim import Claim, Evidence, Finding, Verdict
from blockframe.contract.codes import (
    AT_START,
    BY_AUTO,
    CODES,
    IN_DOUBLE,
    IN_HALF,
    NOT_DESCENT,
)
from blockframe.dynamics.ending import COMPLETED, was_no_function, was_not_finite
from blockframe.dynamics.inequalities import (
    DESCENT,
    MONOTONE,
    NORMS,
    PER_STEP,
    PL,
    ROUNDOFF,
    STABILITY,
    rounded_by,
)

if TYPE_CHECKING:
    from blockframe.problem import Problem

SHARPNESS = "η·λ/2 (sharpness)"
CURVATURE = "η·Λ/2 (largest curvature of the step)"
"""What must stay below 1, as findings and reports call it: λ at an iterate, Λ on a step."""

AS_GIVEN = "as given"
"""``Trajectory.lr_rule`` where the learning rate was not found by ``auto``."""

VIOLATED = "D401"
NOT_FINITE = "D402"
ROUNDING = "D403"
SHARP = "D404"
AT_REST = "D405"

OTHER_GRADIENT = ("A301", "A302", "A303", "A304")
NO_FUNCTION = ("A902", "A903", "A904", "A905", "A906")
"""Findings that doubt that the run follows the gradient of the loss; that there is one loss, a
function of θ."""


def descent_claim(trajectory: Trajectory, known: Iterable[Finding] = ()) -> Claim:
    """Clause ``descent`` about the run.

    FAILS at the first violated inequality, or where a number was not finite. UNKNOWN where no step
    was taken or led away, the run ended early, or rounding decides. Else HOLDS, MEASURED.

    docs/theory section 6 is about a function of θ and its gradient. While that is in doubt nothing
    HOLDS, and of the inequalities only a rising loss tells something: if there is one loss.

    Args:
        known: what clause A found on the network that ran.
    """
    if was_no_function(trajectory.ended):
        return _claim(trajectory, Verdict.UNKNOWN, trajectory.ended)
    doubts = [f for f in known if f.code in OTHER_GRADIENT + NO_FUNCTION]
    violated = _first(i for i in _telling(trajectory, doubts) if i.holds is False)
    findings = [_violation(trajectory, violated)] if violated else []
    if was_not_finite(trajectory.ended):
        findings.append(_not_finite(trajectory))
    if findings:
        return _claim(trajectory, Verdict.FAILS, findings[0].message, findings)
    if doubts:
        return _claim(trajectory, Verdict.UNKNOWN, _in_doubt(trajectory, doubts), doubts)
    if trajectory.ended != COMPLETED:
        if not trajectory.series:
            return _claim(trajectory, Verdict.UNKNOWN, trajectory.ended)
        why = f"{trajectory.ended}; no inequality was violated up to then"
        if any(i.holds is None for i in trajectory.inequalities):
            why += " by more than rounding"
            why += f"; {_beyond_rounding(trajectory)}" if _in_half(trajectory) else ""
        return _claim(trajectory, Verdict.UNKNOWN, why)
    if trajectory.completed < 1:
        return _claim(trajectory, Verdict.UNKNOWN, "no step was taken, so nothing was measured")
    if trajectory.series.get("gradient_norm", [None])[0] == 0:
        finding = _at_rest(trajectory)
        return _claim(trajectory, Verdict.UNKNOWN, finding.message, [finding])
    undecided = _first(i for i in trajectory.inequalities if i.holds is None)
    if undecided:
        finding = _undecided(trajectory, undecided)
        return _claim(trajectory, Verdict.UNKNOWN, finding.message, [finding])
    missing = _missing(trajectory)
    if missing:
        return _claim(trajectory, Verdict.UNKNOWN, f"not measured: {missing}")
    return _claim(trajectory, Verdict.HOLDS, _holds(trajectory), _sharp(trajectory))


def no_descent_claim(problem: Problem, *, refused: bool = False) -> Claim:
    """Clause ``descent`` where there is no gradient descent on ``problem``: UNKNOWN, and why.

    ``refused``: the network could not be traced.
    """
    if refused:
        why = "the network could not be traced, so there is nothing that the run would speak of"
    elif problem.runnable is None:
        why = f"the problem has no weights ({problem.note or 'no proxy'}); give --full"
    else:
        why = "the problem has no targets; return (module, inputs, targets), or give --data random"
    return Claim("descent", Verdict.UNKNOWN, f"no gradient descent: {why}", subject="trajectory")


def _claim(
    trajectory: Trajectory, verdict: Verdict, statement: str, findings: Iterable[Finding] = ()
) -> Claim:
    numbers: dict[str, Any] = {"lr": trajectory.lr, "steps": trajectory.completed}
    margins = [i.margin for i in trajectory.inequalities if i.name == DESCENT]
    if margins:
        numbers["least_descent_margin"] = min(margins)
    stability = [x for x in _stability(trajectory) if x is not None]
    if stability:
        numbers["max_stability"] = max(stability)
    return Claim(
        clause="descent",
        verdict=verdict,
        statement=statement,
        evidence=None if verdict is Verdict.UNKNOWN else Evidence.MEASURED,
        subject="trajectory",
        region="the iterates of this run"
        + (", on the proxy" if trajectory.scale == "proxy" else ""),
        numbers=numbers,
        findings=tuple(findings),
    )


def _telling(trajectory: Trajectory, doubts: Sequence[Finding]) -> Iterable[Inequality]:
    if not doubts:
        return trajectory.inequalities
    if any(f.code in NO_FUNCTION for f in doubts):
        return ()
    return (i for i in trajectory.inequalities if i.name == MONOTONE)


def _in_doubt(trajectory: Trajectory, doubts: Sequence[Finding]) -> str:
    early = "" if trajectory.ended == COMPLETED else f"{trajectory.ended}; "
    function = [f for f in doubts if f.code in NO_FUNCTION]
    what = "its losses may not be those of one function of θ" if function else (
        "what it followed may not be the gradient of its loss"
    )  # fmt: skip
    return f"{early}{what}: {(function or doubts)[0].message}"


def _holds(trajectory: Trajectory) -> str:
    return (
        f"the loss fell on {_steps(trajectory.completed)} as in docs/theory section 6; "
        "Λ measured, no bound over the whole segment"
    )


def _steps(count: int) -> str:
    return f"all {count:,} steps" if count > 1 else "its 1 step"


def _sharp(trajectory: Trajectory) -> list[Finding]:
    """A note where the usual condition, sharpness below 2/η, is not met and the run descends."""
    stability = _stability(trajectory)
    steps = [(k, x) for k, x in enumerate(stability) if x is not None and x >= 1]
    if not steps:
        return []
    step, value = steps[0]
    limit = min(trajectory.rate(k) / x for k, x in steps)
    after = [x for x in stability[step:] if x is not None]
    return [
        Finding(
            SHARP,
            f"{SHARPNESS} = {value:.4g} ≥ 1, first at step {step:,}, in all at {len(steps):,} of "
            f"the {len(stability):,} iterates, between {min(after):.4g} and {max(after):.4g} from "
            "there on: there the descent rests on the directional smoothness",
            witness={"step": step, SHARPNESS: value, "lr": trajectory.rate(step)},
            help=CODES[SHARP].advice(limit=f"{limit:.3g}"),
        )
    ]


def _violation(trajectory: Trajectory, i: Inequality) -> Finding:
    witness: dict[str, Any] = {"inequality": i.name, "step": i.step}
    if i.name == STABILITY:  # its sides are no losses
        message = f"step {i.step} is the first that is not stable"
    else:
        witness |= {"left": i.left, "right": i.right}
        message = f"{i.name} first violated at step {i.step}: {i.left:.6g} > {i.right:.6g}"
    if i.name == MONOTONE:
        message = f"the loss first rose on step {i.step}: {i.left:.6g} > {i.right:.6g}"
    witness["lr"] = lr = trajectory.rate(i.step)
    if i.name in (NORMS, PL):
        what = "update was not that of gradient descent" if i.name == NORMS else "Jacobian is off"
        message += f": the {what}"
        advice = CODES[VIOLATED].advice(NOT_DESCENT)
        return Finding(VIOLATED, message, witness=witness, help=advice)
    limit = f"{lr:.3g}"
    if i.name in (MONOTONE, STABILITY):
        above = _above_one(trajectory, i.step)
        witness |= above
        if above:
            name, value = next(iter(above.items()))
            message += f", with {name} = {value:.4g} > 1"
            limit = f"2/{'λ' if name == SHARPNESS else 'Λ'} = {lr / value:.3g}"
    return Finding(VIOLATED, message, witness=witness, help=_lower(VIOLATED, trajectory, limit))


def _stability(trajectory: Trajectory) -> Sequence[float | None]:
    """ηλ/2 at the iterates; where the rate changes not at the last, whose rate took no step."""
    stability = trajectory.series.get("sharpness.stability", [])
    return stability[:-1] if "lr" in trajectory.series else stability


def _above_one(trajectory: Trajectory, step: int) -> dict[str, float]:
    """Which of ηλ/2 (where the step begins, else where it ends) and ηΛ/2 exceeds 1."""
    rate, ends = trajectory.rate(step), trajectory.series.get("sharpness", [])[step : step + 2]
    sharpness = [rate * x / 2 for x in ends if x is not None]
    above = [(SHARPNESS, x) for x in sharpness if x > 1][:1]
    for i in trajectory.inequalities:
        if (i.name, i.step) == (STABILITY, step) and i.left > 1:
            above.append((CURVATURE, i.left))
    return dict(above)


def _lower(code: str, trajectory: Trajectory, limit: str) -> str:
    """Advice; ``limit``: the learning rate must be below it."""
    return CODES[code].advice("" if trajectory.lr_rule == AS_GIVEN else BY_AUTO, limit=limit)


def _not_finite(trajectory: Trajectory) -> Finding:
    losses = trajectory.series.get("loss", [])
    finite = [x for x in losses if x is not None]
    step = len(losses) - 1
    lr = trajectory.rate(max(step - 1, 0))
    sharpest = trajectory.series.get("sharpness", [None])[0]  # at θ_0
    bound = 2 / sharpest if sharpest is not None and sharpest > 0 else math.inf
    limit = f"2/λ(θ_0) = {bound:.3g}" if bound < lr else f"{lr:.3g}"
    message, advice = trajectory.ended, _lower(NOT_FINITE, trajectory, limit)
    if step == 0:
        advice = CODES[NOT_FINITE].advice(AT_START)
    elif finite:
        message += f"; the last finite loss was {finite[-1]:.6g}"
    last = finite[-1] if finite else None
    witness = {"step": step, "last_finite_loss": last, "lr": lr}
    return Finding(NOT_FINITE, message, witness=witness, help=advice)


def _at_rest(trajectory: Trajectory) -> Finding:
    least = trajectory.series["loss"][0] == trajectory.summary.get("loss_infimum")
    message = "the gradient is 0 at θ_0, so no step leads away from there; the loss is "
    message += "the least there is" if least else "not at its lower bound"
    return Finding(AT_REST, message, help=CODES[AT_REST].advice())


def _undecided(trajectory: Trajectory, i: Inequality) -> Finding:
    return Finding(
        ROUNDING,
        f"rounding decides at step {i.step}: {i.name} has sides {i.left:.6g} and {i.right:.6g}"
        + _allowance(trajectory, i),
        help=_beyond_rounding(trajectory, i.step),
    )


def _allowance(trajectory: Trajectory, i: Inequality) -> str:
    """What rounding is allowed of the two losses of a step, in words; "" where it is not that."""
    known = trajectory.summary
    roundoff, units = ROUNDOFF.get(known.get("dtype", "")), known.get("rounding_units")
    names = ("loss", "block_norms", "gradient_norm", "output_pairing.size")
    ends = [trajectory.series.get(name, [])[i.step : i.step + 2] for name in names]
    numbers = [[x for x in end if x is not None] for end in ends]
    whole = all(len(end) == 2 for end in numbers)
    if i.name not in (MONOTONE, DESCENT) or roundoff is None or units is None or not whole:
        return ""
    noise = sum(
        units * rounded_by(loss, norm, slope, outputs, roundoff)
        for loss, norm, slope, outputs in zip(*numbers, strict=True)
    )
    return f", and rounding may have moved the two losses by {noise:.3g}"


def _beyond_rounding(trajectory: Trajectory, step: int | None = None) -> str:
    """``step``: the first that is undecided."""
    if _in_half(trajectory):
        return CODES[ROUNDING].advice(IN_HALF)
    if trajectory.summary.get("dtype") != "float64":
        return CODES[ROUNDING].advice()
    return CODES[ROUNDING].advice(AT_START if step == 0 else IN_DOUBLE)


def _in_half(trajectory: Trajectory) -> bool:
    """Whether the network was evaluated in half precision."""
    return trajectory.summary.get("dtype") in ("bfloat16", "float16")


def _missing(trajectory: Trajectory) -> str:
    """The first step and inequality that the trajectory does not speak of; "" if none."""
    if trajectory.journal is not None:
        counts = trajectory.journal.counts
        short = [n for n in PER_STEP if sum(counts.get(n, ())) < trajectory.completed]
        return f"{short[0]} on every step" if short else ""
    there = {(i.step, i.name) for i in trajectory.inequalities}
    wanted = ((step, name) for step in range(trajectory.completed) for name in PER_STEP)
    return next(
        (f"{name} at step {step}" for step, name in wanted if (step, name) not in there), ""
    )


def _first(inequalities: Iterable[Inequality]) -> Inequality | None:
    """By step; on one step in the order of `PER_STEP`, before those of the whole run."""
    order = {name: n for n, name in enumerate(PER_STEP)}
    return min(inequalities, key=lambda i: (i.step, order.get(i.name, len(order))), default=None)
