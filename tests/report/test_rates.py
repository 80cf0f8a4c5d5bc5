"""The page of ``blockframe lr``: what is proved and what is measured stay apart."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from blockframe.certificate.model import Certificate
from blockframe.contract.claim import Finding
from blockframe.domains.magnitude import Magnitude
from blockframe.report import Page
from blockframe.report.rates import RatesReport, power_of_ten
from blockframe.scaling.rates import Dominant, Guarantee, LearningRates, Measured, Region
from blockframe.scaling.stable import Bracket, Search, Stable, Start

DOMINANT = Dominant("h.0.mlp", Magnitude(math.log(200.0)), "gelu", "h.0.mlp.act", "net.py:17")


@pytest.fixture
def rates(refuted: Certificate) -> LearningRates:
    return LearningRates(
        refuted.subject,
        norm=5.0,
        guarantee=Guarantee(Region(10.0), Magnitude(100.0), DOMINANT),
        at_start=Guarantee(Region(0.0, about_start=True), Magnitude(10.0), DOMINANT),
        measured=Measured(4.0, 1e-3, 12, converged=True),
    )


def text(rates: LearningRates, page: Page | None = None) -> str:
    return " ".join(RatesReport(rates).text(page or Page()).split())


def row(rates: LearningRates, name: str) -> str:
    lines = RatesReport(rates).text(Page(width=150)).splitlines()
    (line,) = (line.strip() for line in lines if line.strip().startswith(name))
    return line


def read(shown: str) -> Decimal:
    base, caret, exponent = shown.replace(",", "").partition("^")
    return Decimal(10) ** Decimal(exponent) if caret else Decimal(base)


@given(st.floats(-400, 400), st.booleans())
def test_a_bound_is_rounded_to_its_safe_side(exponent: float, up: bool) -> None:
    shown, exact = read(power_of_ten(exponent, up=up)), Decimal(10) ** Decimal(exponent)
    assert shown >= exact if up else shown <= exact
    off = abs(shown.ln() - exact.ln())
    assert off <= (Decimal("1.01e-3") if abs(exponent) < 5 else Decimal("0.231"))


def test_what_is_no_number_is_a_dash() -> None:
    assert power_of_ten(None, up=True) == power_of_ten(math.inf, up=False) == "–"


def test_both_rates_and_where_they_are_from(rates: LearningRates) -> None:
    assert row(rates, "measured") == (
        "measured     0.5             λ = 4 ± 1.00e-03 at θ₀ (Lanczos, 12 products); 2/λ"
    ).replace("1.00e-03", "0.001")
    # 2/e^100 = 10^-43.1282, and e^100 = 10^43.4294
    assert row(rates, "guaranteed") == (
        "guaranteed   10^-43.2        ‖∇²L‖ <= Λ = 10^43.5 for all |θ| <= 10 = 2 |θ₀|; 2/Λ"
    )
    shown = text(rates)
    assert "at θ₀ alone it says λ <= 22,030, 4 powers of ten too much" in shown
    assert "the ball adds 39 powers of ten (less: --centre start --radius 0.01)." in shown
    assert "The largest factor in it, 200.1, is that of block h.0.mlp" in shown
    assert "most of it from gelu in h.0.mlp.act (net.py:17)." in shown


def test_the_measured_rate_is_not_said_to_be_what_runs_bear(rates: LearningRates) -> None:
    """Runs of `--stable` may descend above it, and are in the same report."""
    text = " ".join(RatesReport(rates).text(Page()).split())
    assert "The network itself may still descend above it" in text
    assert "unstable" not in text


def test_the_bound_at_the_start_is_no_guaranteed_rate(rates: LearningRates) -> None:
    assert RatesReport(rates).text(Page()).count("guaranteed  ") == 1
    none = evolve(rates, guarantee=Guarantee(Region(10.0), why_not="no reason"))
    assert row(none, "guaranteed").split() == ["guaranteed", "–", "no", "reason"]
    assert "No rate is guaranteed." in text(none)
    assert "proved" not in text(none)
    assert "Λ" not in text(none)


def test_a_ball_about_the_start_is_called_one(rates: LearningRates) -> None:
    about = evolve(rates.guarantee, region=Region(1.25, about_start=True))
    shown = text(evolve(rates, guarantee=about))
    assert "for all |θ − θ₀| <= 1.25 = 0.25 |θ₀|" in shown
    assert "--centre" not in shown


def test_a_radius_is_not_shown_larger_than_it_is(rates: LearningRates) -> None:
    wide = evolve(rates.guarantee, region=Region(12.3459))
    assert "|θ| <= 12.34 =" in text(evolve(rates, guarantee=wide))


def test_a_plugin_s_word_is_called_one(rates: LearningRates) -> None:
    assert "plugin" not in text(rates)
    declared = evolve(rates.guarantee, declared=True)
    assert "a plugin's word is part of it" in text(evolve(rates, guarantee=declared))


@pytest.mark.parametrize(
    ("measured", "shown"),
    [
        (Measured(-1.0, 0.1, 3, converged=True), "λ = -1 ± 0.1 at θ₀ (Lanczos, 3 products)"),
        (Measured(1.0, 0.1, 99), "(Lanczos, 99 products, not converged)"),
        (Measured(why_not="memory ran out"), "memory ran out"),
    ],
)
def test_a_measurement_without_a_rate(rates: LearningRates, measured: Measured, shown: str) -> None:
    rates = evolve(rates, measured=measured)
    assert shown in row(rates, "measured")
    assert ("–" in row(rates, "measured")) == (measured.rate is None)
    assert "10^-43.2" in row(rates, "guaranteed")


STABLE = Stable(
    Bracket(1.0, 1.02, "diverged at step 7: the loss reached 2e+07"),
    Bracket(0.25, 0.255, "step 3 raised the loss"),
    runs=14,
)
MEASURED = Measured(4.0, 1e-3, 12, converged=True)


def searched(rates: LearningRates, *starts: Start) -> LearningRates:
    return evolve(rates, starts=starts, search=Search(50, 0.02))


def test_the_rates_that_runs_bear(rates: LearningRates) -> None:
    found = searched(rates, Start(0, MEASURED, stable=STABLE))
    assert row(found, "stable").split(maxsplit=2)[:2] == ["stable", "1"]
    shown = text(found)
    assert (
        "L after 50 steps <= L at θ₀; stable at 1, not at 1.02: diverged at step 7: the loss "
        "reached 2e+07; 2 × the measured"
    ) in shown
    assert "no step of 50 raises L; stable at 0.25, not at 0.255: step 3 raised the loss" in shown
    assert "of 14 runs of 50 steps; between rates that were run, and beyond, nothing" in shown
    assert "The stable one is 43 powers of ten above the guaranteed." in shown
    document = json.loads(RatesReport(found).json())
    assert document["stable"]["trains"] == {
        "below": 1.0, "above": 1.02, "why": "diverged at step 7: the loss reached 2e+07",
        "to_measured": 2.0,
        "log10_to_guaranteed": pytest.approx(100 / math.log(10.0) - math.log10(2.0)),
    }  # fmt: skip
    assert document["starts"] is None


@pytest.mark.parametrize(
    ("bracket", "shown", "says"),
    [
        (Bracket(None, 1e-9, "it rose"), "–", "none found, down to 1e-09: it rose"),
        (Bracket(8.0, None), "8", "still stable at 8, the largest that was run"),
    ],
)
def test_a_bracket_with_one_end(
    rates: LearningRates, bracket: Bracket, shown: str, says: str
) -> None:
    stable = Stable(bracket, bracket, 60, unstable_below=(0.5, 0.75))
    found = searched(rates, Start(0, MEASURED, stable=stable))
    assert row(found, "stable").split()[1] == shown
    assert says in text(found)
    assert "but unstable at 0.5, 0.75" in text(found)
    assert json.loads(RatesReport(found).json())["stable"]["unstable_below"] == [0.5, 0.75]


def test_no_runs_from_a_start_that_is_not_finite(rates: LearningRates) -> None:
    found = searched(rates, Start(0, Measured(why_not="no"), degenerate="not finite"))
    assert "no run begins where a number is not finite" in text(found)
    assert json.loads(RatesReport(found).json())["stable"]["trains"] is None


def test_starts_without_a_number_have_no_table(rates: LearningRates) -> None:
    starts = [Start(s, Measured(why_not="no"), degenerate="not finite") for s in range(7)]
    shown = text(evolve(rates, starts=tuple(starts)))
    assert "quarter" not in shown
    assert "full rank" not in shown
    assert "7 of 7. seed 0: not finite" in shown
    assert "and 2 more" in shown


@pytest.mark.parametrize("width", [60, 80, 150])
def test_quantiles_over_starts(rates: LearningRates, width: int) -> None:
    starts = [
        Start(seed, Measured(float(seed + 1), 0.0, 3, converged=True), rank=True, stable=STABLE)
        for seed in range(8)
    ]
    starts[3] = evolve(starts[3], undecided="λ_min(K) = 1e-17 ± 1e-15")
    starts += [Start(8, Measured(why_not="no"), degenerate="the gradient is 0")]
    found = searched(rates, *starts)
    shown = text(found, Page(width=width))
    assert "Over 9 starts, seeds 0 to 8:" in shown
    assert "1 2.75 4.5 6.25 8" in shown  # of 1 to 8
    assert "than outputs): 1 of 9. seed 8: the gradient is 0 DF seen to have" in shown
    assert "full rank: at 7 of 8 starts where the rank was looked at; at 1 rounding" in shown
    assert "hides it: seed 3: λ_min(K) = 1e-17 ± 1e-15" in shown
    assert "measured (of 8)" in shown
    document = json.loads(RatesReport(found).json())["starts"]
    assert document["quantiles"]["sharpness"] == [1.0, 2.75, 4.5, 6.25, 8.0]
    assert document["quantiles"]["trains_to_measured"][0] == 0.5
    assert (document["degenerate"], document["rank_undecided"]) == (1, 1)
    assert document["each"][8] == {
        "seed": 8, "sharpness": None, "lr": None, "degenerate": "the gradient is 0",
        "undecided": None,
        "stable": {"steps": 50, "width": 0.02, "runs": 0, "trains": None, "falls": None,
                   "unstable_below": []},
    }  # fmt: skip
    # the guarantee is about the first start only
    assert document["each"][1]["stable"]["trains"]["log10_to_guaranteed"] is None


def test_findings_are_shown_in_full(rates: LearningRates) -> None:
    kink = Finding("A101", "relu has a kink", "aten::relu", "h.0", "net.py:3", help="take gelu")
    shown = text(evolve(rates, guarantee=Guarantee(Region(10.0), findings=(kink,))))
    assert "no bound of the Hessian, see below" in shown
    assert "A101 relu has a kink at h.0 net.py:3 help take gelu" in shown
    assert "blockframe explain A101" in shown


@pytest.mark.parametrize("width", [40, 60, 80, 150])
def test_a_page_of_any_width_in_ascii(rates: LearningRates, width: int) -> None:
    shown = RatesReport(rates).text(Page(width=width, unicode=False))
    assert shown.isascii()
    assert max(map(len, shown.splitlines())) <= width
    assert "10^-43.2" in shown


def test_the_document(rates: LearningRates) -> None:
    document = json.loads(RatesReport(rates).json())
    assert document["measured"] == {
        "lr": 0.5, "sharpness": 4.0, "residual": 1e-3, "products": 12, "converged": True,
        "why_not": None,
    }  # fmt: skip
    found = document["guaranteed"]
    assert found["log10_lr"] == pytest.approx(math.log10(2.0) - 100.0 / math.log(10.0))
    assert found["log10_hessian_bound"] == pytest.approx(100.0 / math.log(10.0))
    assert (found["centre"], found["radius"], found["findings"]) == ("zero", 10.0, [])
    assert found["dominant"] == {
        "block": "h.0.mlp", "log10_factor": pytest.approx(math.log10(200.0)), "op": "gelu",
        "module": "h.0.mlp.act", "location": "net.py:17",
    }  # fmt: skip
    start = document["bound_at_start"]
    assert set(start) == {"log10_hessian_bound", "dominant"}  # and no rate
    assert start["log10_hessian_bound"] == pytest.approx(10.0 / math.log(10.0))


def test_a_document_without_numbers_is_json(rates: LearningRates) -> None:
    nothing = Guarantee(Region(math.inf), why_not="not finite")
    rates = evolve(
        rates, norm=math.inf, guarantee=nothing, at_start=nothing, measured=Measured(why_not="no")
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(RatesReport(rates).json(), parse_constant=refuse)
    assert document["subject"]["norm"] is None
    assert document["guaranteed"]["radius"] is document["guaranteed"]["log10_lr"] is None
    assert document["guaranteed"]["why_not"] == "not finite"
    assert document["measured"]["lr"] is None
    assert document["measured"]["why_not"] == "no"
