"""Clause D: ⟨θ, ∇L⟩ >= a‖θ‖² − b, proved where it can be and measured along the run.

docs/theory sections 1, 5 and 6. With a = 0, the relaxed case, every finite run has such a b, so the
clause cannot fail; it is the size of b that says how long descent stays in a ball.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from blockframe.atoms.interval import up
from blockframe.contract.claim import Claim, Evidence, Finding, Verdict
from blockframe.contract.codes import CODES
from blockframe.contract.finding import doubts, finding, plural
from blockframe.contract.homogeneous import Invariant, Proved, scale_invariant
from blockframe.dynamics.ending import COMPLETED
from blockframe.dynamics.inequalities import ROUNDOFF, UNITS

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.blocks import Block
    from blockframe.certificate.model import Trajectory

EVERYWHERE = "all parameters; the loss and the data given; evaluation mode"
CONTRADICTED = "D101"
INVARIANT = "D102"


# --- the numbers of a run -------------------------------------------------------------------------


def smallest_b(
    a: float, roundoff: float, norms: Sequence[float], slopes: Sequence[float],
    pairings: Sequence[float],
) -> float:  # fmt: skip
    """The least double b >= 0 with p_k − e_k >= a‖θ_k‖² − b for all k, exactly; inf if none is.

    e_k = `UNITS` · ``roundoff`` · ‖θ_k‖ · ‖∇L_k‖ is what rounding may have added to a pairing p_k.
    No operation on the given doubles is rounded but the last, upwards.
    """
    exact, unit = Fraction(0), UNITS * Fraction(roundoff)
    for norm, slope, pairing in zip(map(Fraction, norms), slopes, pairings, strict=True):
        noise = unit * norm * Fraction(slope)
        exact = max(exact, Fraction(a) * norm * norm - Fraction(pairing) + noise)
    try:
        nearest = float(exact)
    except OverflowError:
        return math.inf
    return nearest if Fraction(nearest) >= exact else math.nextafter(nearest, math.inf)


def horizon(trajectory: Trajectory, radius: float, b: float) -> float | None:
    """T(R) of docs/theory section 6: how many steps stay in ‖θ‖ <= R, if b and Λ hold in there.

    Λ is the largest curvature that was measured. Infinite if b = 0; None if ηΛ is not below 2, or
    L_inf is not known.
    """
    summary, series = trajectory.summary, trajectory.series
    curvature, infimum = summary.get("curvature"), summary.get("loss_infimum")
    loss, norm = series["loss"][0], series["block_norms"][0]
    if curvature is None or infimum is None or loss is None or norm is None:
        return None
    slack = 2 - trajectory.lr * curvature
    if not slack > 0:
        return None
    room = radius * radius - norm * norm - 2 * trajectory.lr / slack * (loss - infimum)
    if not math.isfinite(room):
        return None
    if room < 0:
        return 0
    steps = room / (2 * trajectory.lr * b) if b > 0 else math.inf
    return math.floor(steps) if steps < 2.0**53 else steps  # a larger double is whole


# --- the clause -----------------------------------------------------------------------------------


@frozen
class DissipativityClause:
    """Decides clause D for a given a >= 0; what is proved is for a = 0."""

    a: float = 0.0
    name: str = "dissipativity"

    def decide(self, analysis: Analysis) -> Sequence[Claim]:
        """What is proved for all parameters; the rest waits for a run."""
        found, proved = doubts(analysis), Proved.of(analysis)
        unknown = Claim(self.name, Verdict.UNKNOWN, "", numbers={"a": self.a})
        if found:
            chain = evolve(unknown, statement=_NOT_THE_MODULE, findings=tuple(found))
            why = evolve(unknown, statement=_NOT_THE_MODULE, subject="block")
            return [chain, *(evolve(why, block=b.name) for b in analysis.chain.blocks)]
        blocks = [self._block(b, proved, analysis) for b in analysis.chain.blocks]
        chain = evolve(
            unknown,
            statement=f"{proved}; the rest is measured along a run, and there was none",
            numbers={"a": self.a, **proved.of_chain},
        )
        if all(c.verdict is Verdict.HOLDS for c in blocks):
            chain = self._sum(chain, blocks)
        return [chain, *blocks]

    def _block(self, block: Block, proved: Proved, analysis: Analysis) -> Claim:
        unknown = Claim(
            self.name, Verdict.UNKNOWN, "measured along a run only", subject="block",
            block=block.name, numbers={"a": self.a},
        )  # fmt: skip
        b = proved.least(block.name)
        if b is None or (self.a > 0.0 and block.parameter_names):
            return unknown
        degree, numbers = proved.degrees[block.name], {"a": self.a, "b": b}
        evidence = Evidence.PROVED
        if not block.parameter_names:
            statement = "no parameters of its own"
        elif degree == 0:
            statement = "the output does not depend on its parameters"
        else:
            factor = "" if degree == 1 else f"{degree}·"
            statement = f"b ≤ {b:.4g}, as ⟨θ_l, ∇L⟩ = {factor}⟨F, ∇_F L⟩"
            evidence, numbers = proved.evidence, numbers | {"degree": degree} | proved.of_output
        head = proved.tied_head
        if head is not None and proved.bound is not None and analysis.owns(block, head.node):
            statement += f"; its share of the tied {head.weight_name}: b ≤ {proved.bound.value:.4g}"
            evidence = proved.evidence
            numbers = {**numbers, "share": proved.bound.value, **proved.of_output}
        return evolve(
            unknown, verdict=Verdict.HOLDS, statement=statement, evidence=evidence,
            region=EVERYWHERE, numbers=numbers,
        )  # fmt: skip

    def _sum(self, chain: Claim, blocks: Sequence[Claim]) -> Claim:
        """The pairing of θ is the sum of those of the blocks."""
        parts = [b for c in blocks if (b := c.numbers["b"]) > 0.0]
        b = up(math.fsum(parts)) if len(parts) > 1 else sum(parts)
        return evolve(
            chain,
            verdict=Verdict.HOLDS,
            statement=f"{_case(self.a)}: b ≤ {b:.4g} for all parameters",
            evidence=Evidence.weakest(c.evidence for c in blocks if c.evidence is not None),
            region=EVERYWHERE,
            numbers={**chain.numbers, "b": b},
        )

    # --- along the run ----------------------------------------------------------------------------

    def observe(
        self, analysis: Analysis, claims: Sequence[Claim], trajectory: Trajectory
    ) -> Sequence[Claim]:
        """The claims with what the run shows. A block of a reduced network speaks for itself; of
        the others only what is proved is claimed.

        Args:
            claims: of `decide`.
        """
        chain, *blocks = claims
        measured = analysis.measured
        if chain.findings or measured is None:
            return claims
        proved = Proved.of(analysis)
        run = _Run.of(measured, trajectory, self.a)
        if isinstance(run, str):
            if chain.verdict is not Verdict.HOLDS:
                chain = evolve(chain, statement=f"{proved}; not concluded from the run: {run}")
            return [chain, *blocks]
        contradiction = run.contradiction
        if contradiction is not None:
            return [
                evolve(
                    c, verdict=Verdict.UNKNOWN, statement="the bound of the loss is wrong",
                    evidence=None, region="", numbers={"a": self.a},
                    findings=(contradiction,) if c is chain else (),
                )
                for c in claims
            ]  # fmt: skip
        if chain.verdict is not Verdict.HOLDS:
            chain = self._measured(chain, proved, run)
        return [chain, *self._measured_blocks(blocks, run)]

    def _measured(self, chain: Claim, proved: Proved, run: _Run) -> Claim:
        numbers = {**chain.numbers, **run.numbers}
        where = " on the proxy" if run.on_proxy else ""
        steps = plural(run.trajectory.completed, "step")
        statement = f"{_case(self.a)}: {proved}; measured b ≤ {run.b:.4g} over {steps}{where}"
        stay = numbers["horizon"]
        if stay is not None:
            count = f"{stay:,}" if isinstance(stay, int) else f"{stay:.3g}"
            long = "for ever" if math.isinf(stay) else f"for {count} steps"
            rate = " at the rate of the first step" if "lr" in run.trajectory.series else ""
            statement += f"; would stay in ‖θ‖ ≤ 2‖θ₀‖ {long}{rate} if b and Λ held in all of it"
        return evolve(
            chain, verdict=Verdict.HOLDS, statement=statement, evidence=Evidence.MEASURED,
            region=run.region, numbers=numbers,
        )  # fmt: skip

    def _measured_blocks(self, blocks: Iterable[Claim], run: _Run) -> Iterator[Claim]:
        for claim in blocks:
            name = claim.block or ""
            if claim.verdict is Verdict.HOLDS:
                yield claim
            elif name in run.blocks:
                b = run.blocks[name]
                yield evolve(
                    claim, verdict=Verdict.HOLDS, statement=f"measured b ≤ {b:.4g}",
                    evidence=Evidence.MEASURED, region=run.region, numbers={"a": self.a, "b": b},
                    findings=run.notes(name),
                )  # fmt: skip


_NOT_THE_MODULE = "it is not shown that the traced graph stands for the module"


def _case(a: float) -> str:
    return "relaxed (a = 0)" if a == 0.0 else f"a = {a:g}"


@frozen(eq=False)
class _Run:
    """What a completed run shows.

    Attributes:
        analysis, proved: of the network that was run.
        b, blocks: the smallest b, in all and by block.
    """

    analysis: Analysis
    trajectory: Trajectory
    proved: Proved
    roundoff: float
    b: float
    blocks: Mapping[str, float]

    @classmethod
    def of(cls, analysis: Analysis, trajectory: Trajectory, a: float) -> _Run | str:
        """What it shows, or why it shows nothing."""
        if trajectory.ended != COMPLETED:
            return trajectory.ended
        if trajectory.completed < 1:
            return "no step was taken"
        issues = analysis.analyticity.reaching(analysis.graph.output)
        if any(issue.code == "A301" for issue in issues):
            return "the gradient that was followed is stopped on its way"
        roundoff = ROUNDOFF.get(str(trajectory.summary.get("dtype")))
        slopes = _numbers(trajectory, "gradient_norm")
        pairings = {
            name: _numbers(trajectory, name)
            for name in trajectory.series
            if name.partition(".")[0] == "dissipativity"
        }
        found = {}
        for name, values in pairings.items():
            norms = _numbers(trajectory, name.replace("dissipativity", "block_norms", 1))
            if roundoff is None or not slopes or not values or not norms:
                return "a number of the run is missing or not finite"
            found[name.partition(".")[2]] = smallest_b(a, roundoff, norms, slopes, values)
        if "" not in found or roundoff is None:
            return "the pairings were not measured"
        if not all(map(math.isfinite, found.values())):
            return "a number of the run is too large"
        total = found.pop("")
        return cls(analysis, trajectory, Proved.of(analysis), roundoff, total, found)

    @property
    def on_proxy(self) -> bool:
        return self.trajectory.scale == "proxy"

    @property
    def region(self) -> str:
        return f"the iterates of this run{', on the proxy' if self.on_proxy else ''}; its data"

    @property
    def numbers(self) -> dict[str, Any]:
        norms = _numbers(self.trajectory, "block_norms")
        radius = 2 * norms[0]
        of_proxy = {"proxy": self.proved.of_chain} if self.on_proxy else {}
        return {
            "b": self.b,
            "blocks": dict(self.blocks),
            "roundoff": self.roundoff,
            "steps": self.trajectory.completed,
            "largest_norm": max(norms),
            "R": radius,
            "horizon": horizon(self.trajectory, radius, self.b),
            **of_proxy,
        }

    @property
    def contradiction(self) -> Finding | None:
        """The first iterate whose output is beyond the bound of the loss, more than rounding."""
        if self.proved.bound is None:
            return None
        least = -self.proved.bound.value
        columns = (
            _numbers(self.trajectory, name)
            for name in ("output_pairing", "block_norms", "gradient_norm")
        )
        for k, (pairing, norm, slope) in enumerate(zip(*columns, strict=False)):
            if pairing < least - UNITS * self.roundoff * (norm * slope + abs(pairing)):
                message = f"⟨F, ∇_F L⟩ = {pairing:.6g} at step {k}; the loss {self.proved.loss} "
                return Finding(
                    CONTRADICTED, message + f"is said to keep it above {least:.6g}",
                    witness={"step": k, "pairing": pairing, "bound": least},
                    help=CODES[CONTRADICTED].advice(),
                )  # fmt: skip
        return None

    @cached_property
    def invariant(self) -> Mapping[str, Invariant]:
        return scale_invariant(self.analysis)

    def notes(self, block: str) -> tuple[Finding, ...]:
        """On weights whose size does not matter."""
        found = self.invariant.get(block)
        if found is None:
            return ()
        values = _numbers(self.trajectory, f"dissipativity.{block}")
        message = (
            f"{', '.join(found.names)}: a norm follows, so that the output feels the size through "
            "its eps only and the pairing of these weights is nearly 0"
        )
        witness = {"block": block, "least_pairing": min(values), "largest_pairing": max(values)}
        return (finding(self.analysis, found.node, INVARIANT, message, witness),)


def _numbers(trajectory: Trajectory, name: str) -> list[float]:
    """A series, if it has a number at every iterate; else nothing."""
    values = [x for x in trajectory.series.get(name, []) if x is not None]
    return values if len(values) == trajectory.completed + 1 else []
