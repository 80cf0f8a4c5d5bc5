"""Clause A: every block is a real-analytic map of its parameters and state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockframe.contract.claim import Claim, Evidence, Finding, Verdict

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.blocks import Block
    from blockframe.domains.analyticity import Issue
    from blockframe.graph.guard import Objection

REGION = "all parameters, all states; the data given"

_HELP = {
    "A101": "the theory needs an analytic function here: gelu, silu or tanh instead of relu, "
    "average instead of maximum",
    "A102": "replace the hard choice by an analytic one (sigmoid, softmax), or compute it from "
    "constants only",
    "A103": "keep the argument away from the singularity: add eps > 0 under a root or to a "
    "denominator, or use softplus/exp for what must be positive",
    "A104": "make sure that no row is masked entirely, and use a large negative number for a mask",
    "A201": "remove the noise, or draw it once as a buffer; dropout is off in evaluation mode",
    "A301": "remove detach, .item() or no_grad on this path, or make it constant",
    "A302": "write the forward in ordinary tensor operations and let autograd differentiate it",
    "A303": "remove the hook",
    "A304": "look for a custom backward, a hook or .data on the way to this parameter",
    "A900": "teach it in three lines (docs/atoms), or install a plugin that does",
    "A902": "look for random numbers, counters or other state in the forward",
    "A904": "write that line in ordinary tensor operations",
    "A905": "check the parameters for NaN or inf, and the data",
    "A906": "give the problem real weights, or a proxy that has them (docs/proxy)",
}


class AnalyticityClause:
    """Decides clause A (docs/theory section 1)."""

    name = "analyticity"

    def decide(self, analysis: Analysis) -> Sequence[Claim]:
        """One claim about the chain, one per block."""
        found = _Witnesses(analysis)
        doubts = [_doubt(o) for o in _objections(analysis)]
        blocks = [self._block(analysis, b, found, doubts) for b in analysis.chain.blocks]
        return [self._chain(analysis, blocks, doubts), *blocks]

    def _block(
        self, analysis: Analysis, block: Block, found: _Witnesses, doubts: list[Finding]
    ) -> Claim:
        issues = analysis.issues(block)
        findings = [found.finding(analysis, block, issue) for issue in issues]
        notes = _notes(analysis, block)
        ops = sum(
            analysis.varies[n.index] and _owned(analysis, n.index, block) for n in analysis.graph
        )
        verdict = Verdict.HOLDS
        if any(f.witness for f in findings):
            verdict = Verdict.FAILS
        elif findings or doubts:
            verdict = Verdict.UNKNOWN
        numbers: dict[str, Any] = {"ops": ops}
        unreachable = _unreachable(analysis, block)
        if unreachable:
            numbers["kinks out of reach"] = unreachable
        return Claim(
            self.name,
            verdict,
            _statement(verdict, ops, findings or doubts, unreachable),
            evidence=_evidence(verdict, _declared(analysis, block)),
            subject="block",
            block=block.name,
            region=REGION,
            numbers=numbers,
            findings=(*findings, *notes),
        )

    def _chain(self, analysis: Analysis, blocks: list[Claim], doubts: list[Finding]) -> Claim:
        verdicts = [c.verdict for c in blocks]
        verdict = Verdict.HOLDS
        if Verdict.FAILS in verdicts:
            verdict = Verdict.FAILS
        elif Verdict.UNKNOWN in verdicts or doubts:
            verdict = Verdict.UNKNOWN
        findings = _folded(f for c in blocks for f in c.findings)
        ops = sum(c.numbers["ops"] for c in blocks)
        unreachable = sum(c.numbers.get("kinks out of reach", 0) for c in blocks)
        if verdict is Verdict.HOLDS:
            why = f"{len(blocks)} blocks, {ops} ops, " + _reach(unreachable)
        else:
            bad = [c for c in blocks if c.verdict is verdict]
            what = ", ".join(
                dict.fromkeys(_what(f) for c in bad for f in c.findings if _counts(f, verdict))
            )
            what = what or ", ".join(dict.fromkeys(_what(d) for d in doubts))
            why = f"{what} in {len(bad)} of {len(blocks)} blocks"
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
            findings=(*findings, *doubts),
        )


def _evidence(verdict: Verdict, declared: bool) -> Evidence | None:
    """What a conclusion rests on: a plugin's word where it used one of its records."""
    proof = Evidence.DECLARED if declared else Evidence.PROVED
    return {Verdict.HOLDS: proof, Verdict.FAILS: Evidence.MEASURED}.get(verdict)


def _declared(analysis: Analysis, block: Block) -> bool:
    return any(
        node.op in analysis.chain.catalogue.declared
        for node in analysis.graph
        if analysis.varies[node.index] and _owned(analysis, node.index, block)
    )


def _statement(verdict: Verdict, ops: int, findings: Sequence[Finding], unreachable: int) -> str:
    if verdict is Verdict.HOLDS:
        return f"analytic: {ops} ops, " + _reach(unreachable)
    what = ", ".join(dict.fromkeys(_what(f) for f in findings if _counts(f, verdict)))
    return f"not analytic: {what}" if verdict is Verdict.FAILS else f"not decided: {what}"


def _reach(unreachable: int) -> str:
    return f"{unreachable} kinks, all out of reach" if unreachable else "no kink reachable"


def _counts(finding: Finding, verdict: Verdict) -> bool:
    """Whether a finding speaks for ``verdict``: no note does, and for FAILS only a witness."""
    return finding.code != "A105" and (verdict is not Verdict.FAILS or finding.witness is not None)


def _what(finding: Finding) -> str:
    return finding.op.removeprefix("aten::").partition(".")[0] or finding.code


def _owned(analysis: Analysis, index: int, block: Block) -> bool:
    return analysis.chain.owners.get(analysis.graph[index].origin) is block


def _unreachable(analysis: Analysis, block: Block) -> int:
    return sum(_owned(analysis, i, block) for i, _ in analysis.analyticity.unreachable)


def _notes(analysis: Analysis, block: Block) -> list[Finding]:
    return [
        _finding(analysis, index, "A105", text, None)
        for index, text in analysis.analyticity.notes
        if _owned(analysis, index, block)
    ]


def _objections(analysis: Analysis) -> list[Objection]:
    from blockframe.graph.guard import Objection

    if analysis.objections is None:
        return [
            Objection("A906", "the module's own gradient was not compared with the graph's: "
                              "there are no numbers to run it on")
        ]  # fmt: skip
    return list(analysis.objections)


def _doubt(objection: Objection) -> Finding:
    numbers = "; ".join(f"{k} {v}" for k, v in (objection.numbers or {}).items())
    message = f"{objection.message} ({numbers})" if numbers else objection.message
    return Finding(objection.code, message, module=objection.module, help=_HELP[objection.code])


def _finding(
    analysis: Analysis, index: int, code: str, message: str, witness: dict[str, Any] | None
) -> Finding:
    node = analysis.graph[index]
    return Finding(
        code,
        message,
        op=analysis.chain.graph[node.origin].op
        if node.origin < len(analysis.chain.graph)
        else node.op,
        module=node.module,
        location=str(node.location or ""),
        excerpt=node.location.text if node.location else "",
        witness=witness,
        help=_HELP.get(code, ""),
    )


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
        self.measured = measured

    def finding(self, analysis: Analysis, block: Block, issue: Issue) -> Finding:
        if analysis.measured is analysis:
            numbers = self.exact.get(issue.node)
        else:
            numbers = self.alike.get(_key(analysis, issue.node))
        witness = dict(numbers) if numbers else None
        return _finding(analysis, issue.node, issue.code, issue.message, witness)


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
