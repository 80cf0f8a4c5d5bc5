from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from blockframe.certificate.model import Inequality, Trajectory
from blockframe.contract.claim import Evidence, Finding, Verdict
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
    assert descent_claim(found).findings[0].help == "lower --lr below 2/λ(θ_0) = 2"


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
    assert claim.findings[0].help.startswith("take another --lr, or start elsewhere")


def test_where_rounding_decides_it_is_said_how_much_it_may() -> None:
    """L = 1/2 and ‖θ‖‖∇L‖ = Σ|F ∂L/∂F| = 1 at both ends: 64 · 2^-53 · 1.75 each."""
    claim = descent_claim(run(2.0, steps=1))
    assert claim.statement.endswith(
        "sides 0.5 and 0.5, and rounding may have moved the two losses by 2.49e-14"
    )


def test_the_remedy_against_rounding_is_none_that_is_there_already() -> None:
    late = Inequality(MONOTONE, 1, 0.5, 0.5, None)
    for dtype, says in (
        ("float64", "take fewer steps"),
        ("float32", "take --dtype float64, or fewer steps"),
    ):
        measured = run(0.5, steps=2, dtype=dtype)
        kept = [i for i in measured.inequalities if (i.name, i.step) != (MONOTONE, 1)]
        claim = descent_claim(evolve(measured, inequalities=(*kept, late)))
        assert claim.findings[0].help.startswith(says), dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_the_remedy_is_another_precision(dtype: str) -> None:
    claim = descent_claim(run(0.01, steps=1, dtype=dtype))
    assert claim.verdict is Verdict.UNKNOWN
    (finding,) = claim.findings
    assert finding.code == "D403"
    assert finding.help.startswith("take --dtype float32 or float64")


def test_a_run_that_diverges_in_half_precision_says_what_decides() -> None:
    measured = evolve(run(0.01, steps=1, dtype="bfloat16"), ended="diverged at step 1: the ...")
    statement = descent_claim(measured).statement
    assert "no inequality was violated up to then by more than rounding; take --dtype" in statement
    whole = evolve(run(0.5, steps=1), ended="interrupted at step 1 by the user")
    assert descent_claim(whole).statement.endswith("; no inequality was violated up to then")


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


def doubt(code: str) -> Finding:
    return Finding(code, f"doubt {code}", help="remove it")


GRADIENT, FUNCTION = ("A301", "A302", "A303", "A304"), ("A902", "A903", "A904", "A905", "A906")


@pytest.mark.parametrize("code", [*GRADIENT, *FUNCTION])
def test_where_it_is_in_doubt_what_was_followed_nothing_holds(code: str) -> None:
    claim = descent_claim(run(0.5), [Finding("A101", "a kink"), doubt(code)])
    assert (claim.verdict, claim.evidence) == (Verdict.UNKNOWN, None)
    assert claim.statement.endswith(f": doubt {code}")
    assert ("gradient" in claim.statement) == (code in GRADIENT)
    assert claim.findings == (doubt(code),)


@pytest.mark.parametrize("code", ["A101", "A105", "A201", "A900"])
def test_findings_about_other_things_do_not_touch_the_run(code: str) -> None:
    assert descent_claim(run(0.5), [doubt(code)]).verdict is Verdict.HOLDS


@pytest.mark.parametrize(("code", "verdict"), [("A302", "FAILS"), ("A903", "UNKNOWN")])
def test_a_loss_that_rises_does_so_whatever_was_followed_if_it_is_one_loss(
    code: str, verdict: str
) -> None:
    rising = run(4.6)
    claim = descent_claim(rising, [doubt(code)])
    assert claim.verdict == verdict
    others = tuple(i for i in rising.inequalities if i.name != MONOTONE)
    assert any(i.holds is False for i in others)
    claim = descent_claim(evolve(rising, inequalities=others), [doubt(code)])
    assert claim.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("code", ["A302", "A903"])
def test_what_is_not_finite_is_not_finite_whatever_was_followed(code: str) -> None:
    assert descent_claim(run(1e200), [doubt(code)]).verdict is Verdict.FAILS


def test_a_doubt_does_not_hide_that_a_run_ended_early() -> None:
    claim = descent_claim(run(0.5, steps=9, probes=[Stop]), [doubt("A902"), doubt("A301")])
    assert claim.statement == (
        "interrupted at step 2 by the user; its losses may not be those of one function of θ: "
        "doubt A902"
    )


@pytest.mark.parametrize("lr", ["auto", 0.5, 5.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_start_at_rest_shows_nothing_of_descent(lr: float | str, target: float) -> None:
    """The gradient is 0 at a minimum, and where the loss does not depend on θ."""
    line = Line()
    nn.init.zeros_(line.w)
    x = torch.ones(1, 1) * (target == 0.0)
    problem = Problem(line, (x,), torch.full((1, 1), target))
    claim = descent_claim(trajectory(problem, lr=lr, steps=2, device="cpu"))
    (finding,) = claim.findings
    assert (claim.verdict, finding.code) == (Verdict.UNKNOWN, "D405")
    where = "not at its lower bound" if target else "the least there is"
    assert claim.statement == (
        f"the gradient is 0 at θ_0, so no step leads away from there; the loss is {where}"
    )


def test_a_run_that_comes_to_rest_at_its_end_holds() -> None:
    claim = descent_claim(run(1.0, steps=3))
    assert run(1.0, steps=3).series["gradient_norm"][1] == 0
    assert claim.verdict is Verdict.HOLDS


def test_where_the_first_step_is_lost_in_rounding_another_start_is_advised() -> None:
    assert "another --lr" in descent_claim(run(1e-17)).findings[0].help


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
