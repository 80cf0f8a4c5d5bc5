from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from blockframe.certificate.model import Inequality, Trajectory
from blockframe.contract.claim import Evidence, Verdict
from blockframe.contract.descent import CURVATURE, SHARPNESS, descent_claim, no_descent_claim
from blockframe.dynamics.inequalities import DESCENT, MONOTONE, NORMS, PER_STEP, STABILITY
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.probes import Probe
from blockframe.dynamics.run import trajectory
from blockframe.problem import Problem


class Line(nn.Module):
    """f = w·x: with x = 1, y = 0 the loss is w²/2 and its curvature 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def run(lr: float, steps: int = 3, **options: Any) -> Trajectory:
    problem = Problem(Line(), (torch.ones(1, 1),), torch.zeros(1, 1))
    return trajectory(problem, lr=lr, steps=steps, device="cpu", **options)


def test_a_stable_run_holds_as_measured() -> None:
    claim = descent_claim(run(0.5))
    assert (claim.verdict, claim.evidence) == (Verdict.HOLDS, Evidence.MEASURED)
    assert (claim.clause, claim.subject, claim.block) == ("descent", "trajectory", None)
    assert claim.statement == (
        "the loss fell on all 3 steps as in docs/theory section 6; "
        "Λ measured, no bound over the whole segment"
    )
    assert "on its 1 step as" in descent_claim(run(0.5, steps=1)).statement
    assert claim.numbers["lr"] == 0.5
    assert claim.numbers["steps"] == 3
    assert claim.numbers["max_stability"] == 0.25
    assert claim.findings == ()


def test_a_step_that_is_too_long_fails_with_both_sides() -> None:
    claim = descent_claim(run(4.6))
    assert (claim.verdict, claim.evidence) == (Verdict.FAILS, Evidence.MEASURED)
    (finding,) = claim.findings
    assert finding.code == "D401"
    assert finding.message == (
        "the loss first rose on step 0: 6.48 > 0.5, with η·λ/2 (sharpness) = 2.3 > 1"
    )
    assert finding.help == "lower --lr below 2/λ = 2, or take --lr auto"
    assert finding.witness == {
        "inequality": MONOTONE,
        "step": 0,
        "left": pytest.approx(6.48),
        "right": pytest.approx(0.5),
        "lr": 4.6,
        SHARPNESS: pytest.approx(2.3),
        CURVATURE: pytest.approx(2.3),
    }


def test_a_rate_that_auto_found_is_not_answered_by_auto() -> None:
    found = evolve(run(4.6), lr_rule="0.1 × 2/λ_max(θ_0)")
    assert descent_claim(found).findings[0].help == "lower --lr below 2/λ = 2"
    found = evolve(run(1e200), lr_rule="0.1 × 2/λ_max(θ_0)")
    assert descent_claim(found).findings[0].help == "lower --lr below 1e+200"


def test_an_unstable_step_is_told_by_its_curvature_and_not_by_losses() -> None:
    measured = run(0.5, steps=2)
    kept = [i for i in measured.inequalities if (i.name, i.step) != (STABILITY, 1)]
    unstable = Inequality(STABILITY, 1, 1.25, 1.0, False)
    (finding,) = descent_claim(evolve(measured, inequalities=(*kept, unstable))).findings
    assert finding.message == (
        "step 1 is the first that is not stable, "
        "with η·Λ/2 (largest curvature of the step) = 1.25 > 1"
    )
    assert finding.help == "lower --lr below 2/Λ = 0.4, or take --lr auto"
    assert finding.witness == {"inequality": STABILITY, "step": 1, "lr": 0.5, CURVATURE: 1.25}


@pytest.mark.parametrize(
    ("device", "targets", "says"),
    [
        ("cpu", None, "the problem has no targets; return (module, inputs, targets), or give"),
        ("meta", torch.zeros(1, 1), "the problem has no weights (no proxy: why); give --full"),
    ],
)
def test_without_targets_or_weights_there_is_no_descent(
    device: str, targets: Tensor | None, says: str
) -> None:
    problem = Problem(Line().to(device), (torch.ones(1, 1, device=device),), targets,
                      note="no proxy: why")  # fmt: skip
    claim = no_descent_claim(problem)
    assert (claim.clause, claim.verdict, claim.subject) == (
        "descent", Verdict.UNKNOWN, "trajectory",
    )  # fmt: skip
    assert claim.statement.startswith(f"no gradient descent: {says}")


def test_a_diverging_run_fails_at_a_named_step_and_keeps_its_numbers() -> None:
    measured = run(1e9)
    claim = descent_claim(measured)
    assert claim.verdict is Verdict.FAILS
    assert measured.ended.startswith("diverged at step 1")
    assert [f.code for f in claim.findings] == ["D401"]
    assert claim.findings[0].witness is not None
    assert claim.findings[0].witness["step"] == 0
    assert len(measured.series["sharpness"]) == 2


def test_a_loss_that_is_not_finite_fails_with_the_last_finite_one() -> None:
    claim = descent_claim(run(1e200))
    assert claim.verdict is Verdict.FAILS
    (finding,) = claim.findings
    assert finding.code == "D402"
    assert finding.witness == {"step": 1, "last_finite_loss": 0.5, "lr": 1e200}
    assert finding.message == "the loss is not finite at step 1; the last finite loss was 0.5"


def test_a_start_that_is_not_finite_fails_there() -> None:
    problem = Problem(Line(), (torch.full((1, 1), float("inf")),), torch.zeros(1, 1))
    claim = descent_claim(trajectory(problem, lr=0.1, steps=2, device="cpu"))
    assert claim.verdict is Verdict.FAILS
    assert claim.findings[0].witness == {"step": 0, "last_finite_loss": None, "lr": 0.1}
    assert "the run starts there" in claim.findings[0].help


class Stop(Probe):
    name = "stop"

    def observe(self, it: Iterate) -> float:
        if it.step == 2:
            raise KeyboardInterrupt
        return 0.0


def test_an_interrupted_run_is_unknown() -> None:
    claim = descent_claim(run(0.5, steps=9, probes=[Stop]))
    assert (claim.verdict, claim.evidence) == (Verdict.UNKNOWN, None)
    assert claim.statement.startswith("interrupted at step 2 by the user")


def test_an_interrupted_run_that_rose_before_fails() -> None:
    assert descent_claim(run(2.5, steps=9, probes=[Stop])).verdict is Verdict.FAILS


def test_no_step_is_unknown() -> None:
    claim = descent_claim(run(0.5, steps=0))
    assert claim.verdict is Verdict.UNKNOWN
    assert claim.statement == "no step was taken, so nothing was measured"


def test_where_rounding_decides_nothing_is_claimed() -> None:
    claim = descent_claim(run(2.0, steps=1))
    assert claim.verdict is Verdict.UNKNOWN
    assert claim.findings[0].code == "D403"
    assert "rounding decides at step 0" in claim.statement


@pytest.mark.parametrize("name", PER_STEP)
def test_an_inequality_that_is_missing_is_not_taken_for_granted(name: str) -> None:
    measured = run(0.5, steps=2)
    kept = tuple(i for i in measured.inequalities if (i.name, i.step) != (name, 1))
    claim = descent_claim(evolve(measured, inequalities=kept))
    assert claim.verdict is Verdict.UNKNOWN
    assert claim.statement == f"not measured: {name} at step 1"


@pytest.mark.parametrize("name", [DESCENT, NORMS, "of a plugin"])
def test_any_violated_inequality_fails(name: str) -> None:
    measured = run(0.5, steps=2)
    broken = Inequality(name, 1, 2.0, 1.0, False)
    claim = descent_claim(evolve(measured, inequalities=(*measured.inequalities, broken)))
    assert claim.verdict is Verdict.FAILS
    witness = claim.findings[0].witness
    assert witness is not None
    assert (witness["step"], witness["left"], witness["right"]) == (1, 2.0, 1.0)


class Ravine(nn.Module):
    """L = (100 u² + v²)/2; from u = 0 descent runs along v, whatever the curvature in u."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def test_a_run_that_falls_above_the_usual_limit_holds_with_a_note() -> None:
    problem = Problem(Ravine(), (torch.tensor([[10.0, 1.0]]),), torch.zeros(1, 2))
    measured = trajectory(problem, lr=0.5, steps=2, device="cpu")
    claim = descent_claim(measured)
    assert claim.verdict is Verdict.HOLDS
    (note,) = claim.findings
    assert note.code == "D404"
    assert note.message.startswith(
        "η·λ/2 (sharpness) = 25 ≥ 1, first at step 0, in all at 3 of the 3 iterates"
    )
    assert note.help == "lower --lr below 2/λ = 0.02"
    assert measured.summary["directional_steps"] == 2
