"""What is said about a block or a chain, how it is known, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from attrs import field, frozen

CLAUSES = ("analyticity", "smoothness", "dissipativity", "nondegeneracy")
"""The four clauses of the contract, in the order of docs/theory section 1."""


class Verdict(StrEnum):
    """Of one claim."""

    HOLDS = "HOLDS"
    FAILS = "FAILS"
    UNKNOWN = "UNKNOWN"


class Outcome(StrEnum):
    """Of a whole certificate."""

    CERTIFIED = "CERTIFIED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


class Evidence(StrEnum):
    """How a claim is known. Members stand in order of strength, the weakest first."""

    DECLARED = "DECLARED"  # a plugin says so
    MEASURED = "MEASURED"  # floating point, at points
    ENCLOSED = "ENCLOSED"  # rigorous arithmetic, at points or boxes
    PROVED = "PROVED"  # for the whole region, by calculus

    @property
    def strength(self) -> int:
        return list(type(self)).index(self)

    @classmethod
    def weakest(cls, evidence: Iterable[Evidence]) -> Evidence:
        """The evidence of a conclusion that rests on all of ``evidence`` (not empty)."""
        return min(evidence, key=lambda e: e.strength)


@frozen
class Finding:
    """One diagnostic, in the manner of a linter.

    ``witness`` is a mapping of numbers and short strings that a reader can check (docs/findings);
    only a finding with a witness can make a claim FAIL.
    """

    code: str
    message: str
    op: str = ""
    module: str = ""
    location: str = ""
    excerpt: str = ""
    witness: dict[str, Any] | None = None
    help: str = ""


@frozen
class Claim:
    """One clause about one subject over one region.

    ``files``: what its numbers name and are too large for; it is written beside the certificate.
    """

    clause: str
    verdict: Verdict
    statement: str
    evidence: Evidence | None = None  # None: nothing is claimed (UNKNOWN)
    subject: str = "chain"  # "chain", "block" or "trajectory"
    block: str | None = None
    region: str = ""
    numbers: dict[str, Any] = field(factory=dict)
    findings: tuple[Finding, ...] = ()
    files: dict[str, bytes] = field(factory=dict, eq=False, repr=False)  # not in the JSON document

    def __attrs_post_init__(self) -> None:
        if self.verdict is Verdict.HOLDS and self.evidence is None:
            raise ValueError(f"{self.clause}: HOLDS needs evidence")
        if self.verdict is Verdict.FAILS and not any(f.witness for f in self.findings):
            raise ValueError(f"{self.clause}: FAILS needs a finding with a witness")


def overall(claims: Iterable[Claim]) -> Outcome:
    """REFUTED if a claim FAILS, CERTIFIED if all hold and the contract is complete.

    Else INCONCLUSIVE.
    """
    claims = list(claims)
    if any(c.verdict is Verdict.FAILS for c in claims):
        return Outcome.REFUTED
    complete = {c.clause for c in claims if c.subject == "chain"} >= set(CLAUSES)
    if complete and all(c.verdict is Verdict.HOLDS for c in claims):
        return Outcome.CERTIFIED
    return Outcome.INCONCLUSIVE
