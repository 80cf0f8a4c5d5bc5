"""Clauses that this version does not decide: said, never passed over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from blockframe.contract.claim import Claim, Verdict

if TYPE_CHECKING:
    from blockframe.analysis import Analysis


@frozen
class UndecidedClause:
    """A clause of the contract for which there is no code yet: UNKNOWN, with the reason."""

    name: str
    reason: str

    def decide(self, analysis: Analysis) -> Sequence[Claim]:
        return [Claim(self.name, Verdict.UNKNOWN, f"not decided by this version: {self.reason}")]


UNDECIDED = (
    UndecidedClause(
        "dissipativity", "the pairings of the run are in the trajectory, nothing is proved"
    ),
    UndecidedClause("nondegeneracy", "it has no verified rank of the Jacobian"),
)
