"""Findings of the static clauses: where in the model's source, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blockframe.contract.claim import Finding
from blockframe.contract.codes import CODES

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.blocks import Block
    from blockframe.graph.guard import Objection


def plural(count: int, noun: str) -> str:
    """``1 block``, ``2 blocks``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def finding(
    analysis: Analysis,
    index: int,
    code: str,
    message: str,
    witness: dict[str, Any] | None,
    case: str = "",
) -> Finding:
    """A diagnostic about node ``index`` of the analysed graph; ``case``: of its `Code.special`."""
    node = analysis.graph[index]
    return Finding(
        code,
        message,
        op=analysis.chain.graph[node.origin].op,
        module=node.module,
        location=str(node.location or ""),
        excerpt=node.location.text if node.location else "",
        witness=witness,
        help=CODES[code].advice(case),
    )


def doubts(analysis: Analysis) -> list[Finding]:
    """What speaks against the graph standing for the module: while there is any, nothing HOLDS."""
    if analysis.objections is None:
        return [
            Finding(
                "A906",
                "the module's own gradient was not compared with the graph's: "
                "there are no numbers to run it on",
                help=CODES["A906"].advice(),
            )
        ]
    return [_doubt(o) for o in analysis.objections]


def _doubt(objection: Objection) -> Finding:
    numbers = "; ".join(f"{k} {v}" for k, v in (objection.numbers or {}).items())
    message = f"{objection.message} ({numbers})" if numbers else objection.message
    advice = CODES[objection.code].advice()
    where = objection.location
    return Finding(
        objection.code,
        message,
        module=objection.module,
        location=str(where or ""),
        excerpt=where.text if where else "",
        help=advice,
    )


def declared(analysis: Analysis, block: Block) -> bool:
    """Whether a plugin's record was used in ``block``."""
    known = analysis.chain.catalogue.declared
    return any(analysis.graph[i].op in known for i in analysis.owned(block))
