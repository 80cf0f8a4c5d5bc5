"""Clauses A and S: decided by a calculus on the network, block by block.

The network is not in the certificate. What can be checked is that verdicts and evidence are those
that findings, witnesses and envelopes carry, and that the chain's claim is the sum of its blocks'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from blockframe.certificate.index import DOUBTS, Index, key
from blockframe.certificate.ledger import Ledger, quoted, real, same, whole
from blockframe.certificate.model import Claim, Evidence, Finding, Verdict

KINKS, NOTES = {"A101", "A102", "A103", "A104"}, {"A105"}
"""Findings that refute clause A by a witness; that change no verdict."""
KINDS = {
    Verdict.HOLDS: (Evidence.PROVED, Evidence.DECLARED),
    Verdict.FAILS: (Evidence.MEASURED,),
    Verdict.UNKNOWN: (None,),
}
"""Calculus proves, or rests on what a plugin declares; a witness is measured."""
ENVELOPE = ("value", "first derivative", "second derivative")
POLYNOMIAL = re.compile(
    r"(?=[^ ])(?:\d+(?:\.\d+)?(?:e[+-]\d+)?)?"
    r"(?:(?:^| )s(?:\^(?P<s>\d{1,9}))?)?(?:(?:^| )r(?:\^(?P<r>\d{1,9}))?)?"
)
"""One term: ``114.9 s^3 r``, ``s``, ``2``."""


def check_calculus(ledger: Ledger, index: Index, claim: Claim, where: str) -> None:
    """Check one claim on clause ``analyticity`` or ``smoothness``."""
    if claim.subject == "block":
        by_clause = {"analyticity": _analytic, "smoothness": _smooth}
        verdict = by_clause[claim.clause](ledger, index, claim, where)
    elif ledger.expect(f"{where}, subject", claim.subject, "chain"):
        verdict = _chain(ledger, index, claim, where)
    else:
        return
    ledger.expect(f"{where}, verdict", claim.verdict.value, verdict.value)
    fits = claim.evidence in KINDS[claim.verdict]
    what = "calculus proves, a plugin declares, and a witness is measured"
    ledger.demand(fits, where, f"{claim.verdict} by {quoted(str(claim.evidence))} evidence", what)


def _analytic(ledger: Ledger, index: Index, claim: Claim, where: str) -> Verdict:
    for f in claim.findings:
        if f.witness is not None:
            _check_witness(ledger, index, claim, f, f"{where}, witness of {quoted(f.code)}")
    counts, known = claim.numbers, {"ops", "kinks out of reach"}
    sound = "ops" in counts and counts.keys() <= known and None not in map(whole, counts.values())
    what = "it counts ops, and kinks out of reach"
    ledger.demand(sound, f"{where}, numbers", quoted(counts), what)
    serious = [f for f in claim.findings if f.code not in NOTES]
    if any(f.witness for f in serious):
        return Verdict.FAILS
    return Verdict.UNKNOWN if serious or claim.clause in index.doubted else Verdict.HOLDS


def _check_witness(ledger: Ledger, index: Index, claim: Claim, f: Finding, where: str) -> None:
    """A witness shows what it is there for (docs/findings)."""
    w: dict[str, Any] = f.witness or {}
    n = {name: real(value) for name, value in w.items()}
    full = not index.certificate.subject.proxy

    def demand(holds: bool, name: str, follows: str) -> None:
        ledger.demand(holds, f"{where}, {name}", quoted(w.get(name)), follows)

    ledger.demand(f.code in KINKS, where, "a refutation", "such a finding refutes nothing")
    demand(w.get("scale") == ("full" if full else "proxy"), "scale", "the proxy alone is measured")
    named = w.get("block") == claim.block if full else isinstance(w.get("block"), str)
    demand(named, "block", "it is of another block")
    line = re.fullmatch("seed [0-3], scale (1|6|40)", str(w.get("line")))
    demand(line is not None, "line", "no such line is searched")
    t = n.get("t")
    demand(t is not None and -1.0 <= t <= 1.0, "t", "the line ends at -1 and 1")
    left, right, jump, spread = (n.get(name) for name in ("left", "right", "jump", "spread"))
    if left is not None and right is not None and jump is not None and spread is not None:
        # Three fits: of each side, and of their difference.
        off = abs(jump - (right - left)) - 1e-2 * abs(jump) - 1e-6 * (abs(left) + abs(right))
        demand(off <= 0, "jump", f"left and right differ by {right - left!r}")
        demand(abs(right - left) > spread, "left", "left and right differ by less than the spread")
        demand(0 <= spread <= 1e-3 * abs(jump), "spread", "a jump is steady to a thousandth")
        demand(whole(w.get("order")) in range(4), "order", "orders 0 to 3 are compared")
        demand(whole(w.get("entry")) is not None, "entry", "it counts an entry of the output")
        bracket = n.get("bracket")
        demand(bracket is not None and 0 <= bracket <= 1e-9, "bracket", "bisection ends closer")
        demand(n.get("step") in (0.1, 0.025, 0.00625), "step", "windows have other widths")
    elif "largest outputs" in w:
        sizes = w["largest outputs"] if isinstance(w["largest outputs"], list) else []
        grow = len(sizes) == 3 and None not in map(real, sizes)
        grow = grow and sizes[1] > 20 * sizes[0] >= 0 and sizes[2] > 20 * sizes[1]
        demand(grow, "largest outputs", "they do not grow without bound")
        demand(same(w.get("distances"), [1e-3, 1e-5, 1e-7]), "distances", "others are looked at")
    else:
        undefined = w.get("output") == "nan" and n.get("argument") is not None
        demand(undefined, "output", "no jump, pole or undefined value is shown")


def _smooth(ledger: Ledger, index: Index, claim: Claim, where: str) -> Verdict:
    numbers = claim.numbers
    envelope = [exponents(numbers.get(name)) for name in ENVELOPE]
    known = [e for e in envelope if e is not None]
    bounded = len(known) == len(ENVELOPE)
    partial = not bounded and any(name in numbers for name in ENVELOPE)
    ledger.demand(not partial, f"{where}, numbers", quoted(numbers), "an envelope is 3 polynomials")
    degrees = [[max(s for s, _ in e), max(r for _, r in e)] for e in known] if bounded else None
    ledger.expect(f"{where}, degrees", numbers.get("degrees in s and r"), degrees)
    codes = [f.code for f in claim.findings]
    ledger.expect(f"{where}, findings", codes, [] if bounded else ["S101"])
    witness = any(f.witness for f in claim.findings)
    ledger.demand(not witness, where, "a witness", "that no bound was found refutes nothing")
    if "branch" in numbers:
        branch, part = exponents(numbers["branch"]), index.parts.get(claim.block or "")
        free = branch is not None and all(r == 0 for _, r in branch)
        ledger.demand(free, f"{where}, branch", quoted(numbers["branch"]), "it depends on r")
        residual = part is not None and part.residual is not None
        ledger.demand(residual, f"{where}, branch", "a residual branch", "the block has none")
    extra = sorted(numbers.keys() - {*ENVELOPE, "degrees in s and r", "branch"})
    ledger.expect(f"{where}, other numbers", extra, [])
    return Verdict.HOLDS if bounded and claim.clause not in index.doubted else Verdict.UNKNOWN


def exponents(text: Any) -> list[tuple[int, int]] | None:
    """Powers of s and r in each term of a polynomial with non-negative coefficients; else None."""
    if not isinstance(text, str):
        return None
    terms = [POLYNOMIAL.fullmatch(term) for term in text.split(" + ")]
    if None in terms:
        return None
    return [
        (int(m["s"] or "s" in m[0]), int(m["r"] or "r" in m[0])) for m in terms if m is not None
    ]


def _chain(ledger: Ledger, index: Index, claim: Claim, where: str) -> Verdict:
    """The chain's claim on clause A or S is the sum of its blocks'."""
    clause, blocks = claim.clause, index.blocks.get(claim.clause, ())
    names = [b.name for b in index.certificate.subject.blocks]
    if not names and not blocks:
        ledger.unverifiable.append(f"{clause}: the network was not traced, so there is no chain")
        return Verdict.UNKNOWN
    ledger.expect(f"{where}, its blocks", [c.block for c in blocks], names)
    verdicts = {c.verdict for c in blocks}
    verdict = Verdict.UNKNOWN if clause in index.doubted else Verdict.HOLDS
    verdict = next((v for v in (Verdict.FAILS, Verdict.UNKNOWN) if v in verdicts), verdict)
    known = [c.evidence for c in blocks if c.evidence is not None]
    if verdict is Verdict.HOLDS and claim.evidence is not None and known:
        ledger.expect(f"{where}, evidence", claim.evidence.value, Evidence.weakest(known).value)
    own = {key(f): f for c in blocks for f in c.findings}
    strange = [f.code for f in claim.findings if key(f) not in own and not DOUBTS.fullmatch(f.code)]
    ledger.expect(f"{where}, findings that no block has", strange, [])
    lost = {f.code for f in own.values()} - {f.code for f in claim.findings}
    ledger.expect(f"{where}, findings of blocks that it leaves out", sorted(lost), [])
    ledger.expect(f"{where}, numbers", claim.numbers, _counts(clause, blocks))
    ledger.verified.append(f"{clause}: the chain and its {len(blocks)} blocks agree")
    ledger.leave(f"{clause}: rests on the traced graph and the facts of the op catalogue")
    shown = Counter(f.code for f in own.values() if f.witness)
    for code, count in shown.items():
        ledger.leave(f"{clause}: {count} witness{'es' * (count > 1)} of {code}: as measured")
    return verdict


def _counts(clause: str, blocks: Sequence[Claim]) -> dict[str, int]:
    if clause == "smoothness":
        additive = sum("branch" in c.numbers for c in blocks)
        return {"blocks": len(blocks), "additive branches": additive}
    kinks = sum(whole(c.numbers.get("kinks out of reach")) or 0 for c in blocks)
    return {
        "blocks": len(blocks),
        "ops": sum(whole(c.numbers.get("ops")) or 0 for c in blocks),
        "blocks that hold": sum(c.verdict is Verdict.HOLDS for c in blocks),
    } | ({"kinks out of reach": kinks} if kinks else {})
