"""Clause S: every block and its first two derivatives grow at most polynomially."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from blockframe.contract.claim import Claim, Evidence, Finding, Verdict
from blockframe.contract.codes import AS_IN_A
from blockframe.contract.finding import declared, doubts, finding, plural

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.blocks import Block
    from blockframe.domains.growth import Jet
    from blockframe.domains.polynomial import Polynomial

REGION = (
    "all parameters with |θ_l| <= s, all states that the chain reaches with |z| <= r; "
    "the data given; evaluation mode"
)


@frozen
class Envelope:
    """The jet bound of one block, and what kept it from being found.

    ``branch``: bounds the residual branch by itself; None where the block has no residual form.
    """

    block: Block
    jet: Jet[Polynomial]
    reasons: tuple[tuple[int, str], ...]
    branch: Jet[Polynomial] | None = None

    @property
    def additive(self) -> bool:
        """Whether the branch is bounded independently of its input (docs/theory section 2)."""
        branch = self.branch
        return branch is not None and branch.value.bounded and branch.value.degree[1] == 0


def envelope(analysis: Analysis, block: Block) -> Envelope:
    """Jet bounds of ``block`` in the norms of its parameters and of its input."""
    from blockframe.domains.growth import STATE, SYMBOLS, Growth
    from blockframe.domains.interpreter import interpret_some

    graph = analysis.graph
    domain = Growth(
        graph, analysis.varies, analysis.ranges, analysis.constants,
        not_twice_differentiable(analysis), SYMBOLS,
    )  # fmt: skip
    given = dict.fromkeys(analysis.entries(block), STATE)
    domain.jets.update(given)
    mine = set(analysis.owned(block))
    # Constants and parameters that the block uses, then its own nodes.
    used = {i for n in mine for i in graph[n].operands if i not in mine and i not in given}
    constant = {i: domain.settle(graph[i], domain.leaf(graph[i])) for i in sorted(used)}
    jets = interpret_some(graph, sorted(mine), domain, analysis.chain.catalogue, given | constant)
    total: Jet[Polynomial] | None = None
    for i in analysis.exits(block):
        if i in mine:  # what only passes through is part of z
            total = jets[i] if total is None else total + jets[i]
    branch = _branch(analysis, block, jets)
    return Envelope(block, total or STATE, tuple(domain.reasons), branch)


def not_twice_differentiable(analysis: Analysis) -> dict[int, str]:
    """The nodes from which on there is no jet, and why."""
    return {
        issue.node: issue.message
        for issue in analysis.analyticity.issues
        if issue.branches or issue.code in ("A104", "A201", "A900")
    }


def _branch(analysis: Analysis, block: Block, jets: Any) -> Jet[Polynomial] | None:
    if block.residual is None:
        return None
    places = [p for b in block.residual.branches for p in analysis.chain.expanded.places[b]]
    found = [jets[p] for p in places if p in jets]
    total: Jet[Polynomial] | None = None
    for jet in found:
        total = jet if total is None else total + jet
    return total


class SmoothnessClause:
    """Decides clause S (docs/theory sections 1 and 2)."""

    name = "smoothness"

    def decide(self, analysis: Analysis) -> Sequence[Claim]:
        """One claim about the chain, one per block."""
        found = doubts(analysis)
        envelopes = [envelope(analysis, b) for b in analysis.chain.blocks]
        blocks = [self._block(analysis, e, found) for e in envelopes]
        return [self._chain(envelopes, blocks, found), *blocks]

    def _block(self, analysis: Analysis, e: Envelope, found: list[Finding]) -> Claim:
        holds = e.jet.bounded and not found
        findings = [] if e.jet.bounded else [_unbounded(analysis, e)]
        numbers: dict[str, Any] = {}
        if e.jet.bounded:
            numbers = {
                "value": str(e.jet.value),
                "first derivative": str(e.jet.first),
                "second derivative": str(e.jet.second),
                "degrees in s and r": [list(p.degree) for p in _parts(e.jet)],
            }
        if e.additive and e.branch is not None:
            numbers["branch"] = str(e.branch.value)
        return Claim(
            self.name,
            Verdict.HOLDS if holds else Verdict.UNKNOWN,
            _statement(e) if holds else _why_not(e),
            evidence=_evidence(declared(analysis, e.block)) if holds else None,
            subject="block",
            block=e.block.name,
            region=REGION,
            numbers=numbers,
            findings=tuple(findings),
        )

    def _chain(self, envelopes: list[Envelope], blocks: list[Claim], found: list[Finding]) -> Claim:
        holds = all(c.verdict is Verdict.HOLDS for c in blocks) and not found
        branches = [e for e in envelopes if e.branch is not None]
        additive = [e for e in branches if e.additive]
        if holds:
            why = f"{plural(len(blocks), 'block')}, each polynomial in |θ_l| and |z|"
            if branches and len(additive) == len(branches):
                why += (
                    "; every residual branch bounded independently of its input: additive in depth"
                )
            elif additive:
                why += f"; {len(additive)} of {len(branches)} residual branches bounded "
                why += "independently of their input"
        else:
            bad = [e for e in envelopes if not e.jet.bounded]
            why = f"no polynomial bound found for {len(bad)} of {plural(len(blocks), 'block')}"
            if not bad:
                why = _NOT_THE_MODULE
        proved = not any(c.evidence is Evidence.DECLARED for c in blocks)
        kept = {(f.code, f.op, f.location, f.message): f for c in blocks for f in c.findings}
        return Claim(
            self.name,
            Verdict.HOLDS if holds else Verdict.UNKNOWN,
            why,
            evidence=_evidence(not proved) if holds else None,
            region=REGION,
            numbers={"blocks": len(blocks), "additive branches": len(additive)},
            findings=(*kept.values(), *found),
        )


def _parts(jet: Jet[Polynomial]) -> tuple[Any, Any, Any]:
    return jet.value, jet.first, jet.second


def _evidence(by_word: bool) -> Evidence:
    return Evidence.DECLARED if by_word else Evidence.PROVED


_NOT_THE_MODULE = (
    "bounded as traced, but it is not shown that the traced graph stands for the module"
)


def _why_not(e: Envelope) -> str:
    return _NOT_THE_MODULE if e.jet.bounded else "no polynomial bound was found"


def _statement(e: Envelope) -> str:
    (s, r), (s1, r1), (s2, r2) = (p.degree for p in _parts(e.jet))
    text = f"value of degree {s} in s and {r} in r; derivatives ({s1}, {r1}) and ({s2}, {r2})"
    return text + ("; the branch is bounded independently of its input" if e.additive else "")


def _unbounded(analysis: Analysis, e: Envelope) -> Finding:
    unknown = (analysis.exits(e.block)[0], "the size of a constant that it uses is not known")
    return no_bound(analysis, *next(iter(e.reasons), unknown))


def no_bound(analysis: Analysis, index: int, why: str) -> Finding:
    """S101 at node ``index``."""
    case = AS_IN_A if index in not_twice_differentiable(analysis) else ""
    return finding(analysis, index, "S101", f"no bound: {why}", None, case)
