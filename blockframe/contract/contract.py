"""The contract: four clauses, each with something that decides it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from attrs import frozen

from blockframe.contract.claim import CLAUSES, Claim, Finding, Verdict
from blockframe.contract.clause import ObservingClause

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.certificate.model import Trajectory
    from blockframe.contract.clause import Clause
    from blockframe.errors import CaptureError


@frozen
class _Undecided:
    """A clause that nothing decides: said, never passed over."""

    name: str

    def decide(self, analysis: Analysis) -> Sequence[Claim]:
        return [Claim(self.name, Verdict.UNKNOWN, "nothing decides this clause")]


@frozen
class Contract:
    """The clauses that are decided, in the order of docs/theory section 1, further ones last."""

    clauses: tuple[Clause, ...]

    @classmethod
    def of(cls, clauses: Iterable[Clause]) -> Contract:
        """The contract with these deciders; a clause that none of them decides stays UNKNOWN."""
        named: dict[str, Clause] = {name: _Undecided(name) for name in CLAUSES}
        named |= {c.name: c for c in clauses}
        order = {name: i for i, name in enumerate(CLAUSES)}
        return cls(tuple(sorted(named.values(), key=lambda c: order.get(c.name, len(order)))))

    def decide(self, analysis: Analysis) -> list[Claim]:
        """Every clause's claims about the chain and its blocks."""
        return [claim for clause in self.clauses for claim in clause.decide(analysis)]

    def observe(
        self, analysis: Analysis, claims: Iterable[Claim], trajectory: Trajectory
    ) -> list[Claim]:
        """``claims``, those of `decide`, with what the run adds to them."""
        observing = {c.name: c for c in self.clauses if isinstance(c, ObservingClause)}
        found: list[Claim] = []
        for name, group in groupby(claims, lambda claim: claim.clause):
            own = list(group)
            clause = observing.get(name)
            found += own if clause is None else clause.observe(analysis, own, trajectory)
        return found

    def refused(self, refusal: CaptureError) -> list[Claim]:
        """The claims about a network that is not one traced function: nothing is known of it."""
        finding = Finding(
            refusal.code,
            refusal.message,
            location=refusal.location,
            excerpt=refusal.excerpt,
            help=refusal.remedy,
        )
        return [
            Claim(c.name, Verdict.UNKNOWN, "the network could not be traced",
                  findings=(finding,) if c.name == CLAUSES[0] else ())
            for c in self.clauses
        ]  # fmt: skip
