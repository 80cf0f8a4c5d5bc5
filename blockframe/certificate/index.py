"""The claims of a certificate, by what they are about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import frozen

from blockframe.certificate.ledger import quoted
from blockframe.certificate.model import BlockSummary, Certificate, Claim, Finding

DOUBTS = re.compile(r"A[39]\d\d")
"""Findings that doubt that the graph stands for the module: while there is one, nothing HOLDS."""


@frozen
class Index:
    """Look-ups in one certificate.

    Attributes:
        places: what messages call each claim, in their order.
        chain: by clause, the claim about the chain.
        blocks: by clause, those about blocks, in their order.
        doubted: clauses whose claim about the chain has a doubt that no block's claim has.
        parts: the subject's blocks by name.
    """

    certificate: Certificate
    places: Sequence[str]
    chain: Mapping[str, Claim]
    blocks: Mapping[str, Sequence[Claim]]
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
        doubted = (
            clause
            for clause, claim in chain.items()
            for f in claim.findings
            if DOUBTS.fullmatch(f.code) and key(f) not in own.get(clause, ())
        )
        parts = {b.name: b for b in certificate.subject.blocks}
        return cls(certificate, places, chain, blocks, frozenset(doubted), parts)


def key(finding: Finding) -> str:
    """What is equal where findings are."""
    return repr(finding)
