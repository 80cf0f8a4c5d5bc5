"""Clause A: every block is a real-analytic map of its parameters and state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.contract.claim import Claim, Evidence, Finding, Verdict
from blockframe.contract.finding import declared, doubts, finding, plural

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.blocks import Block
    from blockframe.domains.analyticity import Issue

PIECEWISE = "; analytic inside each piece that these cut"
"""Where every op that breaks analyticity is one of several analytic functions, by its argument."""
REGION = "all parameters, all states that the chain reaches; the data given; evaluation mode"


class AnalyticityClause:
    """Decides clause A (docs/theory section 1)."""

    name = "analyticity"

    def decide(self, analysis: Analysis) -> Sequence[Claim]:
        """One claim about the chain, one per block."""
        found = _Witnesses(analysis)
        against = doubts(analysis)
        blocks = [self._block(analysis, b, found, against) for b in analysis.chain.blocks]
        return [self._chain(blocks, against), *blocks]

    def _block(
        self, analysis: Analysis, block: Block, found: _Witnesses, against: list[Finding]
    ) -> Claim:
        issues = analysis.issues(block)
        findings = [found.finding(analysis, issue) for issue in issues]
        notes = _notes(analysis, block)
        ops = len(analysis.owned(block))
        verdict = Verdict.HOLDS
        if any(f.witness for f in findings):
            verdict = Verdict.FAILS
        elif findings or against:
            verdict = Verdict.UNKNOWN
        numbers: dict[str, Any] = {"ops": ops}
        unreachable = _unreachable(analysis, block)
        if unreachable:
            numbers["kinks out of reach"] = unreachable
        return Claim(
            self.name,
            verdict,
            _statement(verdict, ops, findings or against, unreachable)
            + (PIECEWISE if issues and all(i.branches for i in issues) else ""),
            evidence=_evidence(verdict, declared(analysis, block)),
            subject="block",
            block=block.name,
            region=REGION,
            numbers=numbers,
            findings=(*findings, *notes),
        )

    def _chain(self, blocks: list[Claim], against: list[Finding]) -> Claim:
        verdicts = [c.verdict for c in blocks]
        verdict = Verdict.HOLDS
        if Verdict.FAILS in verdicts:
            verdict = Verdict.FAILS
        elif Verdict.UNKNOWN in verdicts or against:
            verdict = Verdict.UNKNOWN
        findings = _folded(f for c in blocks for f in c.findings)
        ops = sum(c.numbers["ops"] for c in blocks)
        unreachable = sum(c.numbers.get("kinks out of reach", 0) for c in blocks)
        if verdict is Verdict.HOLDS:
            why = f"{plural(len(blocks), 'block')}, {plural(ops, 'op')}, " + _reach(unreachable)
        else:
            bad = [c for c in blocks if c.verdict is verdict]
            what = ", ".join(
                dict.fromkeys(_what(f) for c in bad for f in c.findings if _counts(f, verdict))
            )
            what = what or ", ".join(dict.fromkeys(_what(d) for d in against))
            why = f"{what} in {len(bad)} of {plural(len(blocks), 'block')}"
            broken = [c for c in blocks if c.verdict is not Verdict.HOLDS]
            if broken and all(c.statement.endswith(PIECEWISE) for c in broken):
                why += PIECEWISE
        return Claim(
            self.name,
            verdict,
            why,
            evidence=_evidence(verdict, any(c.evidence is Evidence.DECLARED for c in blocks)),
            region=REGION,
            numbers={
                "blocks": len(blocks),
                "ops": ops,
                "blocks that hold": verdicts.count(Verdict.HOLDS),
            }
            | ({"kinks out of reach": unreachable} if unreachable else {}),
            findings=(*findings, *against),
        )


def _evidence(verdict: Verdict, declared: bool) -> Evidence | None:
    """What a conclusion rests on: a plugin's word where it used one of its records."""
    proof = Evidence.DECLARED if declared else Evidence.PROVED
    return {Verdict.HOLDS: proof, Verdict.FAILS: Evidence.MEASURED}.get(verdict)


def _statement(verdict: Verdict, ops: int, findings: Sequence[Finding], unreachable: int) -> str:
    if verdict is Verdict.HOLDS:
        return f"analytic: {plural(ops, 'op')}, " + _reach(unreachable)
    what = ", ".join(dict.fromkeys(_what(f) for f in findings if _counts(f, verdict)))
    return f"not analytic: {what}" if verdict is Verdict.FAILS else f"not decided: {what}"


def _reach(unreachable: int) -> str:
    return f"{plural(unreachable, 'kink')} out of reach" if unreachable else "no kink reachable"


def _counts(finding: Finding, verdict: Verdict) -> bool:
    """Whether a finding speaks for ``verdict``: no note does, and for FAILS only a witness."""
    return finding.code != "A105" and (verdict is not Verdict.FAILS or finding.witness is not None)


def _what(finding: Finding) -> str:
    return finding.op.removeprefix("aten::").partition(".")[0] or finding.code


def _unreachable(analysis: Analysis, block: Block) -> int:
    return sum(analysis.owns(block, i) for i, _ in analysis.analyticity.unreachable)


def _notes(analysis: Analysis, block: Block) -> list[Finding]:
    return [
        finding(analysis, index, "A105", text, None)
        for index, text in analysis.analyticity.notes
        if analysis.owns(block, index)
    ]


class _Witnesses:
    """Witnesses for issues: at the block itself, or at the block of the proxy that has the same op
    at the same place of the same code."""

    def __init__(self, analysis: Analysis) -> None:
        from blockframe.contract.witness import witnesses

        self.exact: dict[int, Mapping[str, Any]] = {}
        self.alike: dict[tuple[str, ...], Mapping[str, Any]] = {}
        measured = analysis.measured
        if measured is None:
            return
        scale = "full" if measured is analysis else "proxy"
        for block in measured.chain.blocks:
            wanted = [_key(measured, i.node) for i in measured.issues(block)]
            if measured is not analysis and all(k in self.alike for k in wanted):
                continue
            for node, witness in witnesses(measured, block).items():
                numbers = {"scale": scale, **witness.numbers}
                self.exact[node] = numbers
                self.alike.setdefault(_key(measured, node), numbers)

    def finding(self, analysis: Analysis, issue: Issue) -> Finding:
        if analysis.measured is analysis:
            numbers = self.exact.get(issue.node)
        else:
            numbers = self.alike.get(_key(analysis, issue.node))
        witness = dict(numbers) if numbers else None
        return finding(analysis, issue.node, issue.code, issue.message, witness)


def _key(analysis: Analysis, index: int) -> tuple[str, ...]:
    """Op, module path without layer numbers, and line: the same code at another size."""
    node = analysis.graph[index]
    return node.op, re.sub(r"\d+", "*", node.module), str(node.location)


def _folded(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for the same op at the same line of repeated layers, the one with a witness."""
    kept: dict[tuple[str, ...], Finding] = {}
    for f in findings:
        key = (f.code, f.op, re.sub(r"\d+", "*", f.module), f.location, f.message)
        if key not in kept or (f.witness and not kept[key].witness):
            kept[key] = f
    return list(kept.values())
