"""The claims of a certificate, by what they are about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import frozen

from blockframe.certificate.ledger import quoted
from blockframe.certificate.model import BlockSummary, Certificate, Claim, Finding

DOUBTS = re.compile(r"A[39]\d\d")
"""Findings that doubt that the graph stands for the module: while there is one, nothing HOLDS."""

OTHER_RUN = re.compile(r"A(3\d\d|90[2-6])")
"""Those that doubt that a run follows the gradient of one function of θ: A3 that it is the
gradient, A9 that there is one function."""

IN_GRAPH = "A301"
"""The one of them that a graph itself can show, in a block."""


@frozen
class Index:
    """Look-ups in one certificate.

    Attributes:
        places: what messages call each claim, in their order.
        chain: by clause, the claim about the chain.
        blocks: by clause, those about blocks, in their order.
        followed: what clause A finds against a run's following the gradient of one function.
        doubts: the same of the whole graph, which speaks against every clause.
        doubted: clauses whose claim about the chain has a doubt that no block's claim has.
        parts: the subject's blocks by name.
    """

    certificate: Certificate
    places: Sequence[str]
    chain: Mapping[str, Claim]
    blocks: Mapping[str, Sequence[Claim]]
    followed: Sequence[Finding]
    doubts: frozenset[str]
    doubted: frozenset[str]
    parts: Mapping[str, BlockSummary]

    @classmethod
    def of(cls, certificate: Certificate) -> Index:
        places, chain, blocks = [], dict[str, Claim](), dict[str, list[Claim]]()
        for i, claim in enumerate(certificate.claims):
            of = f", block {quoted(claim.block)}" if claim.block is not None else ""
            places.append(f"claims[{i}] ({quoted(claim.clause)}{of})")
            if claim.subject == "chain":
                chain.setdefault(claim.clause, claim)
            elif claim.subject == "block":
                blocks.setdefault(claim.clause, []).append(claim)
        own = {c: {key(f) for b in found for f in b.findings} for c, found in blocks.items()}
        analytic = chain.get("analyticity")
        followed = [f for f in analytic.findings if other_run(f)] if analytic is not None else []
        of_blocks = own.get("analyticity", set())
        doubts = frozenset(
            key(f) for f in followed if f.code != IN_GRAPH or key(f) not in of_blocks
        )
        doubted = frozenset(
            clause
            for clause, claim in chain.items()
            for f in claim.findings
            if DOUBTS.fullmatch(f.code) and key(f) not in own.get(clause, ())
        )
        parts = {b.name: b for b in certificate.subject.blocks}
        return cls(certificate, places, chain, blocks, followed, doubts, doubted, parts)


def other_run(finding: Finding) -> bool:
    """Whether it doubts that a run follows the gradient of one function (`OTHER_RUN`)."""
    return OTHER_RUN.fullmatch(finding.code) is not None


def key(finding: Finding) -> str:
    """What is equal where findings are."""
    return repr(finding)
