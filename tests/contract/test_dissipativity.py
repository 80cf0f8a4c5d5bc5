"""Clause D: what is proved holds everywhere, what is measured is the smallest that does."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import lambertw
from torch import Tensor, nn

import blockframe
from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.certificate.model import Certificate, Trajectory
from blockframe.contract.claim import Claim, Evidence, Verdict
from blockframe.contract.dissipativity import DissipativityClause, horizon, smallest_b
from blockframe.dynamics.inequalities import ROUNDOFF, UNITS
from blockframe.dynamics.losses import CrossEntropy, MeanSquaredError, PairingBound, lambert_bound
from blockframe.plugins import Registry, load_plugins
from blockframe.problem import Problem

CLAUSE = "dissipativity"


def of_clause(certificate: Certificate) -> tuple[Claim, dict[str, Claim]]:
    """The claim about the chain, of which there is one, and those about blocks."""
    claims = [c for c in certificate.claims if c.clause == CLAUSE]
    (chain,) = (c for c in claims if c.block is None)
    blocks = {c.block: c for c in claims if c.block is not None}
    assert len(blocks) == len(claims) - 1
    return chain, blocks


def net(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3, bias=bias))


def data() -> tuple[tuple[Tensor, ...], Tensor]:
    g = torch.Generator().manual_seed(1)
    return (torch.randn(10, 6, generator=g),), torch.randn(10, 3, generator=g)


# --- the constants of section 5 -------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 1000, 50257, 10**9])
def test_the_constant_of_cross_entropy_is_lamberts_rounded_up(classes: int) -> None:
    exact = float(lambertw((classes - 1) / math.e).real)
    bound = lambert_bound(classes)
    assert exact <= bound <= exact * (1 + 1e-11)
    assert (bound == 0.0) == (classes == 1)
    assert bound * math.exp(bound + 1) >= classes - 1


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_constant_of_cross_entropy_is_what_optimisation_finds(classes: int) -> None:
    target = torch.tensor([0])

    def pairing(logits: Any) -> tuple[float, Any]:
        f = torch.tensor(logits[None], requires_grad=True)
        (slope,) = torch.autograd.grad(CrossEntropy()(f, target), f, create_graph=True)
        value = (f * slope).sum()
        (gradient,) = torch.autograd.grad(value, f)
        return float(value.detach()), gradient.numpy().ravel()

    starts = np.random.default_rng(0).normal(size=(4, classes)) * 2
    found = min(minimize(pairing, s, jac=True, tol=1e-14).fun for s in starts)
    bound = CrossEntropy().pairing_bound((1, classes), target)
    assert -bound.value <= found <= -bound.value * (1 - 1e-8)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-50, 50), st.floats(0, 1)), min_size=2, max_size=12
    )
)  # fmt: skip
def test_soft_targets_satisfy_the_constant_of_cross_entropy(
    rows: list[tuple[float, float]],
) -> None:
    f = torch.tensor([a for a, _ in rows], dtype=torch.float64)
    weights = torch.tensor([b for _, b in rows], dtype=torch.float64) + 1e-9
    pairing = float((f * (f.softmax(-1) - weights / weights.sum())).sum())
    assert pairing >= -lambert_bound(len(rows)) - 1e-12


def test_the_constant_of_the_mean_squared_error_is_attained_at_half_the_targets() -> None:
    (_,), y = data()
    bound = MeanSquaredError().pairing_bound((10, 3), y)
    assert bound is not None
    assert bound.basis["samples"] == 10
    y = y.double()
    assert bound.value == pytest.approx(float(y.square().sum()) / 40, rel=1e-12)

    def pairing(f: Tensor) -> float:
        return float((f * (f - y)).sum() / 10)

    assert pairing(y / 2) == pytest.approx(-bound.value, rel=1e-12)
    g = torch.Generator().manual_seed(2)
    nearby = (y / 2 + 0.1 * torch.randn(10, 3, generator=g) for _ in range(50))
    assert all(pairing(f) > -bound.value for f in nearby)


def test_where_the_mean_squared_error_knows_no_bound() -> None:
    mse = MeanSquaredError()
    assert mse.pairing_bound((10, 3), None) is None
    assert mse.pairing_bound((10, 3), torch.empty(10, 3, device="meta")) is None
    assert mse.pairing_bound((10, 2), torch.zeros(10, 3)) is None
    assert mse.pairing_bound((1, 1), torch.full((1, 1), 1e200, dtype=torch.float64)) is None


# --- the smallest b -------------------------------------------------------------------------------

finite = st.floats(-1e12, 1e12, allow_subnormal=False)
positive = st.floats(0, 1e12, allow_subnormal=False)


def suffices(b: float, a: float, u: float, rows: list[tuple[float, float, float]]) -> bool:
    """p − e >= a‖θ‖² − b for all rows (‖θ‖, ‖∇L‖, p), in exact arithmetic."""
    return all(
        Fraction(p) - UNITS * Fraction(u) * Fraction(n) * Fraction(g)
        >= Fraction(a) * Fraction(n) ** 2 - Fraction(b)
        for n, g, p in rows
    )


@given(
    st.sampled_from([0.0, 0.1, 3.0]),
    st.sampled_from([0.0, *ROUNDOFF.values()]),
    st.lists(st.tuples(positive, positive, finite), min_size=1, max_size=6),
)
def test_the_smallest_b_is_the_smallest(
    a: float, u: float, rows: list[tuple[float, float, float]]
) -> None:
    norms, slopes, pairings = (list(column) for column in zip(*rows, strict=True))
    b = smallest_b(a, u, norms, slopes, pairings)
    assert b >= 0.0
    assert suffices(b, a, u, rows)
    if b > 0.0:
        assert not suffices(math.nextafter(b, -math.inf), a, u, rows)


def test_a_b_that_overflows_is_none() -> None:
    assert smallest_b(1.0, 0.0, [1e200], [1.0], [0.0]) == math.inf


# --- runs of five models --------------------------------------------------------------------------

TARGETS: Mapping[str, dict[str, Any]] = {
    "mlp": {"settings": {"activation": "tanh"}, "samples": 16},
    "cnn": {"samples": 16},
    "transformer": {"samples": 8},
    "gpt2": {"samples": 2},
    "llama": {"samples": 2},
}


@cache
def certified(spec: str) -> Certificate:
    return blockframe.certify(spec, steps=3, **TARGETS[spec])


@pytest.mark.parametrize("spec", TARGETS)
def test_the_claims_hold_on_the_run(spec: str) -> None:
    certificate = certified(spec)
    chain, blocks = of_clause(certificate)
    assert (chain.verdict, chain.evidence) == (Verdict.HOLDS, Evidence.MEASURED)
    assert all(c.verdict is Verdict.HOLDS for c in blocks.values())
    run = certificate.trajectory
    assert run is not None
    numbers, series = chain.numbers, run.series
    assert numbers["steps"] == 3
    assert numbers["largest_norm"] == max(x for x in series["block_norms"] if x is not None)
    assert numbers["R"] == 2 * (series["block_norms"][0] or math.nan)
    assert numbers["horizon"] == horizon(run, numbers["R"], numbers["b"])
    split = {n.partition(".")[2] for n in series if n.startswith("dissipativity.")}
    assert numbers["blocks"].keys() == split
    for name, b in [("", numbers["b"]), *numbers["blocks"].items()]:
        end = f".{name}" if name else ""
        columns = (
            series[f"block_norms{end}"],
            series["gradient_norm"],
            series[f"dissipativity{end}"],
        )
        rows = [(x, y, z) for x, y, z in zip(*columns, strict=True) if x and y and z is not None]
        assert len(rows) == 4
        assert suffices(b, 0.0, numbers["roundoff"], rows)
        assert b == 0.0 or not suffices(math.nextafter(b, 0.0), 0.0, numbers["roundoff"], rows)
        claim = blocks.get(name)
        if claim is not None and claim.evidence is Evidence.MEASURED:
            assert claim.numbers == {"a": 0.0, "b": b}


@pytest.mark.parametrize("spec", TARGETS)
def test_what_is_proved_holds_on_the_run_and_by_eulers_identity(spec: str) -> None:
    certificate = certified(spec)
    chain, blocks = of_clause(certificate)
    run = certificate.trajectory
    assert run is not None
    series = {name: np.array(values, float) for name, values in run.series.items()}
    ours = chain.numbers.get("proxy", chain.numbers)  # of the network that was run
    assert min(series["output_pairing"]) >= -ours["output_bound"]
    assert ours["degrees"]
    for name, degree in ours["degrees"].items():
        proved = blocks[name]
        assert (proved.verdict, proved.evidence) == (Verdict.HOLDS, Evidence.PROVED)
        assert proved.region.startswith("all parameters")
        assert proved.numbers["b"] >= degree * proved.numbers["output_bound"]
        expected = degree * series["output_pairing"]
        assert series[f"dissipativity.{name}"] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_tied_head_has_its_share_proved_and_the_embedding_measured() -> None:
    chain, blocks = of_clause(certified("gpt2"))
    head = {"weight": "transformer.wte.weight", "bias": None, "tied": True}
    assert chain.numbers["head"] == head
    assert "proved for transformer.ln_f and the tied head's share" in chain.statement
    assert "on the proxy" in chain.statement
    assert "on the proxy" in chain.region
    assert chain.numbers["output_bound"] == lambert_bound(50257)
    assert chain.numbers["proxy"]["output_bound"] == lambert_bound(256)
    assert blocks["lm_head"].numbers["share"] == lambert_bound(50257)
    assert blocks["embed"].evidence is Evidence.MEASURED
    assert "transformer.h.11.mlp" not in blocks  # the proxy has no such block
    chain, blocks = of_clause(certified("llama"))
    assert chain.numbers["head"]["tied"] is False
    assert "proved for model.norm and lm_head" in chain.statement
    assert "share" not in blocks["lm_head"].numbers


def test_without_a_run_the_chain_is_unknown_and_says_what_is_proved() -> None:
    certificate = blockframe.certify("gpt2", static_only=True)
    chain, blocks = of_clause(certificate)
    assert (chain.verdict, chain.evidence) == (Verdict.UNKNOWN, None)
    assert chain.statement.startswith("b ≤ 7.774 proved for transformer.ln_f and the tied head's")
    assert "b" not in chain.numbers
    assert blocks["transformer.ln_f"].evidence is Evidence.PROVED
    assert blocks["transformer.h.11.mlp"].verdict is Verdict.UNKNOWN
    assert len(blocks) == len(certificate.subject.blocks)


def test_certificates_with_an_infinite_horizon_can_be_read_back() -> None:
    certificate = certified("mlp")
    endless = [evolve(c, numbers={**c.numbers, "horizon": math.inf}) for c in certificate.claims]
    again = Certificate.from_json(evolve(certificate, claims=tuple(endless)).to_json())
    assert again.claim(CLAUSE).numbers["horizon"] == math.inf


# --- proofs of everything -------------------------------------------------------------------------


def test_a_network_that_is_homogeneous_in_all_its_parameters_is_proved_without_a_run() -> None:
    inputs, targets = data()
    linear = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(2)), nn.Linear(6, 3, False))
    for static_only in (True, False):
        certificate = blockframe.certify(
            (linear, inputs, targets), steps=2, static_only=static_only
        )
        chain, blocks = of_clause(certificate)
        assert (chain.verdict, chain.evidence) == (Verdict.HOLDS, Evidence.PROVED)
        assert chain.region.startswith("all parameters")
        bound = MeanSquaredError().pairing_bound((10, 3), targets)
        assert bound is not None
        assert chain.numbers["b"] >= 3 * bound.value
        assert chain.numbers["b"] == pytest.approx(3 * bound.value)
        assert {c.evidence for c in blocks.values()} == {Evidence.PROVED}
    run = certificate.trajectory
    assert run is not None
    sums = np.array(run.series["dissipativity"], float)
    assert sums == pytest.approx(3 * np.array(run.series["output_pairing"], float), rel=1e-9)


@pytest.mark.parametrize(("bias", "proved"), [(False, {"0": None, "2": 1}), (True, {"2": 1})])
def test_the_head_is_proved_with_and_without_bias(bias: bool, proved: dict[str, Any]) -> None:
    inputs, targets = data()
    _, blocks = of_clause(blockframe.certify((net(bias=bias), inputs, targets), static_only=True))
    (name,) = (n for n, c in blocks.items() if c.verdict is Verdict.HOLDS)
    assert blocks[name].numbers["degree"] == 1
    assert blocks[name].numbers["loss"] == "mse"


def test_nothing_is_proved_of_a_for_which_it_is_not_true() -> None:
    inputs, targets = data()
    analysis = Analysis.of(Problem(net(), inputs, targets), Catalogue.of())
    claims = DissipativityClause(a=0.5).decide(analysis)
    assert {c.verdict for c in claims} == {Verdict.UNKNOWN}


# --- where it stays unknown -----------------------------------------------------------------------


def test_a_run_that_ends_in_nan_decides_nothing_but_what_is_proved() -> None:
    inputs, targets = data()
    certificate = blockframe.certify((net(), inputs, targets), lr=1e200, steps=3)
    assert certificate.trajectory is not None
    assert certificate.trajectory.ended != "completed"
    chain, blocks = of_clause(certificate)
    assert (chain.verdict, chain.evidence) == (Verdict.UNKNOWN, None)
    assert "not concluded from the run: " in chain.statement
    assert "b" not in chain.numbers
    assert {c.evidence for c in blocks.values()} == {None, Evidence.PROVED}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: evolve(r, ended="diverged at step 2: the loss reached 1"), "diverged"),
        (lambda r: _missing(r, "dissipativity"), "missing or not finite"),
        (lambda r: _missing(r, "gradient_norm"), "missing or not finite"),
        (lambda r: _missing(r, "block_norms.head"), "missing or not finite"),
        (lambda r: evolve(r, summary={**r.summary, "dtype": "float8"}), "missing or not finite"),
        (lambda r: _first(r), "no step was taken"),
        (lambda r: _without(r), "not measured"),
    ],
)
def test_a_run_with_a_number_missing_decides_nothing(change: Any, why: str) -> None:
    run = certified("mlp").trajectory
    assert run is not None
    problem = blockframe.load("mlp", **TARGETS["mlp"])
    analysis = Analysis.of(problem, Catalogue.of())
    clause = DissipativityClause()
    static = clause.decide(analysis)
    assert clause.observe(analysis, static, run)[0].verdict is Verdict.HOLDS
    chain, *blocks = clause.observe(analysis, static, change(run))
    assert chain.verdict is Verdict.UNKNOWN
    assert why in chain.statement
    assert blocks == list(static[1:])


def _missing(run: Trajectory, name: str) -> Trajectory:
    values = [*run.series[name][:2], None, *run.series[name][3:]]
    return evolve(run, series={**run.series, name: values})


def _first(run: Trajectory) -> Trajectory:
    return evolve(run, series={name: values[:1] for name, values in run.series.items()})


def _without(run: Trajectory) -> Trajectory:
    kept = {n: v for n, v in run.series.items() if not n.startswith("dissipativity")}
    return evolve(run, series=kept)


class Stopped(nn.Module):
    """The gradient that is followed is not that of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.last(h * h.detach())


def test_a_gradient_that_is_not_that_of_the_loss_measures_nothing() -> None:
    inputs, targets = data()
    chain, _ = of_clause(blockframe.certify((Stopped(), inputs, targets), steps=2))
    assert chain.verdict is Verdict.UNKNOWN


def test_where_the_graph_does_not_stand_for_the_module_nothing_holds() -> None:
    class Hooked(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            h = self[0](x)
            if h.requires_grad:
                h.register_hook(lambda gradient: 2 * gradient)
            return self[2](torch.tanh(h))

    inputs, targets = data()
    chain, blocks = of_clause(blockframe.certify((Hooked(*net()), inputs, targets), steps=2))
    assert {chain.verdict, *(c.verdict for c in blocks.values())} == {Verdict.UNKNOWN}
    assert chain.findings


# --- losses of plugins ----------------------------------------------------------------------------


@frozen
class Quartic:
    """¼ of the mean of f⁴: ⟨F, ∇_F L⟩ >= 0."""

    name: str = "quartic"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.pow(4).mean() / 4 - self.slope * outputs.mean()

    slope: float = 0.0

    def check(self, outputs: Tensor, targets: Tensor) -> None: ...

    def infimum(self, targets: Tensor) -> float:
        return -math.inf if self.slope else 0.0


@frozen
class Knowing(Quartic):
    """One that says that its pairing is not negative; which is false where ``slope`` is not 0."""

    def pairing_bound(
        self, outputs: tuple[int, ...], targets: Tensor | None
    ) -> PairingBound | None:
        return PairingBound(0.0, {})


def with_loss(loss: Quartic) -> Registry:
    class Plugin:
        @blockframe.hookimpl
        def blockframe_losses(self) -> Any:
            return [loss]

    registry = load_plugins()
    registry.add("quartic", Plugin())
    return registry


def test_a_loss_without_a_bound_proves_nothing_and_one_with_a_bound_declares() -> None:
    inputs, targets = data()
    problem = Problem(net(), inputs, targets, loss="quartic")
    chain, blocks = of_clause(blockframe.certify(problem, steps=2, registry=with_loss(Quartic())))
    assert (chain.verdict, chain.evidence) == (Verdict.HOLDS, Evidence.MEASURED)
    assert "nothing proved for the loss quartic" in chain.statement
    assert {c.evidence for c in blocks.values()} == {Evidence.MEASURED}
    _, blocks = of_clause(blockframe.certify(problem, steps=2, registry=with_loss(Knowing())))
    assert [c.evidence for c in blocks.values()] == [Evidence.MEASURED, Evidence.DECLARED]


def test_a_bound_that_the_run_contradicts_is_withdrawn() -> None:
    inputs, targets = data()
    problem = Problem(net(), inputs, targets, loss="quartic")
    registry = with_loss(Knowing(slope=5.0))
    chain, blocks = of_clause(blockframe.certify(problem, lr=0.01, steps=3, registry=registry))
    assert {chain.verdict, *(c.verdict for c in blocks.values())} == {Verdict.UNKNOWN}
    (finding,) = chain.findings
    assert finding.code == "D101"
    assert finding.witness is not None
    assert finding.witness["pairing"] < finding.witness["bound"] == 0.0


def test_the_horizon_is_said_to_be_that_of_the_first_rate() -> None:
    inputs, targets = data()
    for lr, rate in ((0.01, ""), ("0.01,0.02", " at the rate of the first step")):
        chain, _ = of_clause(blockframe.certify((net(), inputs, targets), lr=lr, steps=2))
        assert re.search(
            rf"would stay in ‖θ‖ ≤ 2‖θ₀‖ for (\S+ steps|ever){rate} if b and Λ held in all of it$",
            chain.statement,
        )


# --- the ball -------------------------------------------------------------------------------------


def test_the_horizon_is_that_of_section_6() -> None:
    run = Trajectory(
        lr=0.1, steps=1, scale="full", loss="mse", data="", ended="completed",
        series={"loss": [2.0, 1.0], "block_norms": [3.0, 3.0]},
        summary={"curvature": 10.0, "loss_infimum": 0.0},
    )  # fmt: skip
    # R² − ‖θ_0‖² − 2η/(2 − ηΛ)·(L_0 − L_inf) = 36 − 9 − 0.2·2 = 26.6, over 2ηb = 0.1
    assert horizon(run, 6.0, 0.5) == math.floor(26.6 / 0.1)
    assert horizon(run, 6.0, 0.0) == math.inf
    assert horizon(run, 3.0, 0.5) == 0  # the first term alone may leave the ball
    for summary in (
        {"curvature": 20.0, "loss_infimum": 0.0},
        {"loss_infimum": 0.0},
        {"curvature": 10.0, "loss_infimum": -math.inf},
    ):
        assert horizon(evolve(run, summary=summary), 6.0, 0.5) is None


# --- notes ----------------------------------------------------------------------------------------


def test_weights_in_front_of_a_norm_are_noted_with_the_pairing_of_their_block() -> None:
    torch.manual_seed(0)
    inputs, targets = data()
    normed = nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.LayerNorm(8, eps=1e-10), nn.Tanh(), nn.Linear(8, 3)
    )
    certificate = blockframe.certify((normed, inputs, targets), steps=3)
    _, blocks = of_clause(certificate)
    (first,) = (c for c in blocks.values() if c.findings)
    (note,) = first.findings
    assert note.code == "D102"
    assert note.message.startswith("0.weight: ")
    run = certificate.trajectory
    assert note.witness is not None
    assert run is not None
    values = [x for x in run.series[f"dissipativity.{first.block}"] if x is not None]
    assert note.witness["least_pairing"] == min(values)
    assert first.verdict is Verdict.HOLDS
    assert first.block == "0"  # the weight alone
    assert max(map(abs, values)) < 1e-8
