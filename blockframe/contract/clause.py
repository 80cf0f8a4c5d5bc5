"""What decides a clause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.certificate.model import Trajectory
    from blockframe.contract.claim import Claim


class Clause(Protocol):
    """Decides one clause of the contract for a chain and for each of its blocks."""

    @property
    def name(self) -> str: ...

    def decide(self, analysis: Analysis) -> Sequence[Claim]:
        """One claim about the chain (``block=None``) and one per block, in the chain's order."""
        ...


@runtime_checkable
class ObservingClause(Protocol):
    """A clause that has more to say after a run of gradient descent."""

    def observe(
        self, analysis: Analysis, claims: Sequence[Claim], trajectory: Trajectory
    ) -> Sequence[Claim]:
        """What replaces ``claims``, its own: again exactly one about the chain."""
        ...
