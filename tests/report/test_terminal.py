"""The text report as a whole."""

from __future__ import annotations

import re
from typing import Any

import pytest
from attrs import evolve

from blockframe.certificate.model import Certificate, Inequality, Journal, Recipe
from blockframe.contract.claim import Claim, Evidence, Finding, Verdict
from blockframe.report import Page
from blockframe.report.document import JsonRenderer
from blockframe.report.terminal import TextRenderer


def render(certificate: Certificate, **page: object) -> str:
    return TextRenderer().render(certificate, Page(**page))  # type: ignore[arg-type]


REFUTED = """\
toy · ToyModel · 13,824 parameters, full size                                             torch 2.13
chain  embed → 3 × [pre-norm attention, pre-norm MLP] → final norm → head
proxy  3 layers × 16; numbers are measured on it; replay exact

  clause            verdict   evidence   why
  A analyticity     FAILS     measured   relu in 3 of 9 blocks
  S smoothness      UNKNOWN   –          not decided by this version
  D dissipativity   UNKNOWN   –          not decided by this version
  N nondegeneracy   UNKNOWN   –          not decided by this version
    descent         HOLDS     measured   4 steps

  clause    region: what the claim speaks of
  descent   4 iterates

  block                   role        residual   parameters   A
  wte                     embed       –               4,096   HOLDS
  h.0-2.attention   3 ×   attention   pre-norm        1,088   HOLDS
  h.0-2.mlp         3 ×   MLP         pre-norm        2,144   FAILS
  ln_f                    norm        –                  32   HOLDS
  lm_head                 head        –          0 (shared)   HOLDS

  trajectory  measured on the proxy (3 layers × 16) · text, 4 sequences of 8 tokens · loss ce
    lr 0.118 = 0.9 × 2/λ(θ₀) · 4 steps
                               unit   first → last   course   least to greatest
    loss                       L      5.62 → 3.07    █▆▄▂▁    3.07 to 5.62
    directional smoothness M   L/θ²   15.1 → 14.9     ▆█▃▁    14.9 to 15.2
    inequalities that hold  descent lemma 3 of 4 (1 within rounding)

A101 relu has a kink where its input crosses 0   (3 places)
  at    h.0-2.mlp.act     net.py:17
        h = torch.relu(h)
  seen  h.0.mlp.act: left derivative 0, right derivative 0.4187 at t = 0.31792 (block h.0.mlp)
  help  the theory needs an analytic activation: `--set activation=gelu`

what a code means:  blockframe explain A101

REFUTED: analyticity fails: the contract does not hold for this network. Training may still work;
the theorem does not say so.
  nothing was written; --out DIR keeps the certificate
"""


def test_the_whole_page(refuted: Certificate) -> None:
    assert render(refuted) == REFUTED


def test_saved(refuted: Certificate) -> None:
    assert render(refuted, saved="out/toy.cert.json").endswith(
        "\n  certificate: out/toy.cert.json\n"
    )


@pytest.mark.parametrize("width", [40, 45, 50, 55, 60, 80, 100, 160])
@pytest.mark.parametrize("unicode", [True, False])
def test_width_and_character_set(refuted: Certificate, width: int, unicode: bool) -> None:
    text = render(refuted, width=width, unicode=unicode)
    assert max(map(len, text.splitlines())) <= width
    assert text.isascii() is not unicode
    for word in ("REFUTED", "A101", "smoothness", "0.118", "net.py:17"):
        assert word in text
    for number in ("5.62 → 3.07", "15.1 → 14.9", "4,096", "h.0-2.attention", "lm_head"):
        assert (number if unicode else number.replace("→", "->")) in text
    assert "…" not in text


def test_what_is_left_out_on_a_narrow_page(refuted: Certificate) -> None:
    """Whole columns, what is said elsewhere first; the rest of a row goes below its title."""
    assert "14.9 to 15.2" in render(refuted, width=80)
    narrow = render(refuted, width=65)
    assert "14.9 to 15.2" not in narrow
    assert "\n    directional smoothness M   L/θ²   15.1 → 14.9     ▆█▃▁\n" in narrow
    narrower = render(refuted, width=55)
    assert "\n    directional smoothness M   L/θ²   15.1 → 14.9\n" in narrower
    assert "\n    directional smoothness M   15.1 → 14.9\n" in render(refuted, width=46)
    assert "\n  D dissipativity   UNKNOWN   –\n    not decided by this version\n" in (
        render(refuted, width=50)
    )
    assert "\n    directional smoothness M\n      L/θ²   15.1 → 14.9     ▆█▃▁\n" in render(
        refuted, width=40
    )
    assert "\n  h.0-2.attention\n    3 ×   attention        1,088   HOLDS\n" in render(
        refuted, width=40
    )


def test_color_only_where_asked(refuted: Certificate) -> None:
    assert "\x1b" not in render(refuted)
    colored = render(refuted, color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored).replace(" ", "") == REFUTED.replace(" ", "")


def test_certified(certified: Certificate) -> None:
    text = render(certified)
    assert "CERTIFIED: every clause holds" in text
    assert "trajectory" not in text


def test_inconclusive(inconclusive: Certificate) -> None:
    text = " ".join(render(inconclusive).split())
    assert "INCONCLUSIVE: nothing fails; analyticity holds; smoothness, dissipativity and " in text
    assert "nondegeneracy are not decided." in text


def test_a_failure_of_the_run_alone_blames_the_run(refuted: Certificate) -> None:
    witness = Finding("D401", "the loss rose", witness={"step": 2})
    descent = Claim(
        "descent", Verdict.FAILS, "at step 2", Evidence.MEASURED, "trajectory", findings=(witness,)
    )
    assert refuted.trajectory is not None
    run = evolve(
        refuted.trajectory,
        steps=20,
        ended="diverged at step 4: the loss reached 1e+09",
        inequalities=(Inequality("monotone decrease", 2, 5.0, 4.0, False),),
    )
    text = " ".join(render(evolve(refuted, claims=(descent,), trajectory=run)).split())
    assert "REFUTED: descent fails on this run, at this learning rate" in text
    assert "the contract does not hold" not in text
    assert "4 of 20 steps, ended early" in text
    assert "monotone decrease first violated at step 2: 5 > 4" in text
    assert "the run ended early: diverged at step 4" in text


def test_a_failure_of_the_network_and_one_of_the_run_are_two(refuted: Certificate) -> None:
    witness = Finding("D401", "the loss rose", witness={"step": 2})
    descent = Claim(
        "descent", Verdict.FAILS, "at 2", Evidence.MEASURED, "trajectory", findings=(witness,)
    )
    text = " ".join(render(evolve(refuted, claims=(*refuted.claims[:-1], descent))).split())
    assert (
        "REFUTED: analyticity fails: the contract does not hold for this network. Training may "
        "still work; the theorem does not say so. Besides, descent fails on this run, at this "
        "learning rate; a smaller --lr may pass. nothing"
    ) in text


def test_one_quantity_has_one_name(refuted: Certificate) -> None:
    assert refuted.trajectory is not None
    run = evolve(
        refuted.trajectory,
        series={"sharpness.stability": [0.5, 1.5]},
        inequalities=(Inequality("stability", 0, 1.25, 1.0, False),),
    )
    text = render(evolve(refuted, trajectory=run))
    assert re.search(r"\n    η·λ/2 \(sharpness\) +0\.5 → 1\.5", text)
    assert (
        "\n    stability, η·Λ/2 (largest curvature of the step), "
        "first violated at step 0: 1.25 > 1\n"
    ) in text


@pytest.mark.parametrize(
    ("lr", "rule", "says"),
    [
        (100.0, "as given", "lr 100, as given"),
        (0.118, "0.9 × 2/λ", "lr 0.118 = 0.9 × 2/λ"),
        (1.0, "1, because the gradient is 0", "lr 1, because the gradient is 0"),
        (0.0, "not chosen", "lr 0, not chosen"),
        (0.5, "", "lr 0.5"),
    ],
)
def test_the_learning_rate_and_its_rule(
    refuted: Certificate, lr: float, rule: str, says: str
) -> None:
    assert refuted.trajectory is not None
    run = evolve(refuted.trajectory, lr=lr, lr_rule=rule)
    assert f"\n    {says} · 4 steps\n" in render(evolve(refuted, trajectory=run))


def page_of(certificate: Certificate, **changed: object) -> str:
    """The page of ``certificate``, its run changed, without line breaks."""
    assert certificate.trajectory is not None
    run = evolve(certificate.trajectory, **changed)
    return " ".join(render(evolve(certificate, trajectory=run)).split())


HOVERING = {"first": 2, "iterates": 12, "above": 5, "least": 0.97, "most": 1.31, "rises": 1}


def test_a_sharpness_above_two_over_the_rate_is_told_of_any_run(refuted: Certificate) -> None:
    losses = [5.0, 4.0, *(4.0 - 0.1 * k for k in range(12))]
    run: dict[str, Any] = {
        "steps": 13,
        "summary": {"edge_of_stability": HOVERING},
        "inequalities": (Inequality("monotone decrease", 2, 5.0, 4.0, False),),
        "series": {"loss": losses},
    }
    told = (
        "η·λ/2 (sharpness) ≥ 1 first at step 2, in all at 5 of the 12 iterates "
        "from there on, where it lies between 0.97 and 1.31 and the loss rises on 1 step"
    )
    assert f"edge of stability {told}" in page_of(refuted, **run)
    for other in (
        {"ended": "diverged at step 13: the loss reached 9"},
        {"series": {"loss": losses[::-1]}},  # the loss does not fall
        {"series": {"loss": losses, "lr": [0.1] * 14}},  # a rate that may have changed
    ):
        text = page_of(refuted, **run | other)
        assert told in text
        assert "edge of stability" not in text
    assert "(sharpness) ≥ 1" not in page_of(refuted)


@pytest.mark.parametrize(
    "other", [{"most": 2.5}, {"above": 2}, {"iterates": 9}], ids=["far off", "seldom", "short"]
)
def test_what_passes_by_is_no_edge_of_stability(
    refuted: Certificate, other: dict[str, float]
) -> None:
    series = {"loss": [5.0, 4.0, *(4.0 - 0.1 * k for k in range(12))]}
    text = page_of(refuted, series=series, summary={"edge_of_stability": HOVERING | other})
    assert "η·λ/2 (sharpness) ≥ 1 first at step 2" in text
    assert "edge of stability" not in text


def test_one_iterate_has_no_course_of_its_sharpness(refuted: Certificate) -> None:
    edge = {"first": 4, "iterates": 1, "above": 1, "least": 7e15, "most": 7e15, "rises": 0}
    text = page_of(refuted, summary={"edge_of_stability": edge})
    assert "η·λ/2 (sharpness) ≥ 1 first at step 4 inequalities that hold" in text


def test_the_arithmetic_stands_behind_the_rate(refuted: Certificate) -> None:
    text = page_of(refuted, summary={"dtype": "float32", "device": "cpu"})
    assert "· 4 steps · float32 on cpu" in text


def test_why_the_run_ended_is_told_once(refuted: Certificate) -> None:
    ended = "stopped at step 2: probe 'bad' failed: KeyError: 1, at acme.py:7"
    descent = Claim("descent", Verdict.UNKNOWN, f"{ended}; no inequality", subject="trajectory")
    claims = (*refuted.claims[:-1], descent)
    assert page_of(evolve(refuted, claims=claims), ended=ended).count("probe 'bad'") == 1
    assert page_of(refuted, ended=ended).count("probe 'bad'") == 1


def test_what_was_asked_for_and_gave_no_number_is_named(refuted: Certificate) -> None:
    recipe = Recipe("toy", probes=("nan", "kinks", "tangent"))
    asked = evolve(refuted, subject=evolve(refuted.subject, recipe=recipe))
    series = {"loss": [2.0, 1.0], "nan": [None, None], "kinks.margin": [0.5, 0.5]}
    text = page_of(asked, series=series, summary={"unavailable": {"tangent": "too large"}})
    assert "not measured: nan (no number at any iterate)" in text
    assert "kinks (no number" not in text
    assert "tangent (no number" not in text


def test_without_a_run_it_is_said_why(refuted: Certificate) -> None:
    recipe = Recipe("toy", static_only=True)
    static = evolve(refuted, subject=evolve(refuted.subject, recipe=recipe), trajectory=None)
    assert "no run of gradient descent: --static-only" in render(static)
    assert "no run of gradient descent" not in render(refuted)


def test_a_table_of_some_iterates_says_so(refuted: Certificate) -> None:
    journal = Journal(
        file="toy.steps.jsonl", end=0, sha256="0" * 64, iterates=4001, stride=1000, counts={},
        ranges={"loss": [7.125, -3.25, 9.375]},
    )  # fmt: skip
    page = page_of(refuted, journal=journal)
    assert "the courses are of one iterate in 1,000; all 4,001 are in toy.steps.jsonl" in page
    assert re.search(r"loss +L +7\.125 → .* -3\.25 to 9\.375", page)
    assert "the courses are of" not in page_of(refuted)


@pytest.mark.parametrize(
    ("dtype", "least", "says"),
    [
        ("float64", 1e-83, "least σ of block Jacobians 0 → 0.5"),
        ("float64", 1e-12, "least σ of block Jacobians 1e-12 → 0.5"),
        ("float32", 1e-6, "least σ of block Jacobians 0 → 0.5"),
        ("bfloat16", 0.1, "least σ of block Jacobians 0 → 0"),
    ],
)
def test_a_singular_value_that_rounding_may_have_made_is_shown_as_0(
    refuted: Certificate, dtype: str, least: float, says: str
) -> None:
    """A sample's state has at most 8 × 256 entries."""
    series = {
        "block_jacobian": [least, 0.5],
        "block_jacobian.ln_f": [least, 0.5],
        "block_jacobian.ln_f.largest": [1.0, 1.0],
    }
    text = page_of(refuted, series=series, summary={"dtype": dtype})
    assert says in text
    rounding = 8 * 256 * {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}[dtype]
    note = f"a σ below {rounding:.2g} is shown as 0: rounding decides there"
    assert (note in text) == (least <= rounding)


def test_evidence_is_what_the_claim_says_and_nothing_more(refuted: Certificate) -> None:
    for evidence in Evidence:
        claim = Claim("analyticity", Verdict.HOLDS, "s", evidence)
        text = render(evolve(refuted, claims=(claim,), trajectory=None))
        row = next(line for line in text.splitlines() if line.startswith("  A analyticity"))
        shown = [e.value.lower() for e in Evidence if e.value.lower() in row]
        assert shown == [evidence.value.lower()]


def test_hostile_text_is_only_text(refuted: Certificate) -> None:
    claim = Claim("analyticity", Verdict.UNKNOWN, "[bold]x[/bold] :smile: \x1b[31m\r\n[/]")
    text = render(evolve(refuted, claims=(claim,)))
    assert "[bold]x[/bold] :smile:" in text
    assert "\x1b" not in text
    assert "\r" not in text


def test_json(refuted: Certificate) -> None:
    assert JsonRenderer().render(refuted, Page()) == refuted.to_json()
