"""What decides a clause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.contract.claim import Claim


class Clause(Protocol):
    """Decides one clause of the contract for a chain and for each of its blocks."""

    @property
    def name(self) -> str: ...

    def decide(self, analysis: Analysis) -> Sequence[Claim]:
        """One claim about the chain (``block=None``) and one per block, in the chain's order."""
        ...
