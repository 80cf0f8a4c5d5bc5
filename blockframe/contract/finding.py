"""Findings of the static clauses: where in the model's source, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blockframe.contract.claim import Finding

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.blocks import Block
    from blockframe.graph.guard import Objection

HELP = {
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
    "A903": "keep counters, caches and other state out of the forward",
    "A904": "write that line in ordinary tensor operations",
    "A905": "check the parameters for NaN or inf, and the data",
    "A906": "give the problem real weights, or a proxy that has them (docs/proxy)",
    "S101": "keep what is exponentiated or divided within bounds (softmax, a norm, a sigmoid), or "
    "state the op's constants in a record (docs/atoms)",
}


def plural(count: int, noun: str) -> str:
    """``1 block``, ``2 blocks``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def finding(
    analysis: Analysis, index: int, code: str, message: str, witness: dict[str, Any] | None
) -> Finding:
    """A diagnostic about node ``index`` of the analysed graph."""
    node = analysis.graph[index]
    return Finding(
        code,
        message,
        op=analysis.chain.graph[node.origin].op,
        module=node.module,
        location=str(node.location or ""),
        excerpt=node.location.text if node.location else "",
        witness=witness,
        help=HELP.get(code, ""),
    )


def doubts(analysis: Analysis) -> list[Finding]:
    """What speaks against the graph standing for the module: while there is any, nothing HOLDS."""
    if analysis.objections is None:
        return [
            Finding(
                "A906",
                "the module's own gradient was not compared with the graph's: "
                "there are no numbers to run it on",
                help=HELP["A906"],
            )
        ]
    return [_doubt(o) for o in analysis.objections]


def _doubt(objection: Objection) -> Finding:
    numbers = "; ".join(f"{k} {v}" for k, v in (objection.numbers or {}).items())
    message = f"{objection.message} ({numbers})" if numbers else objection.message
    return Finding(objection.code, message, module=objection.module, help=HELP[objection.code])


def declared(analysis: Analysis, block: Block) -> bool:
    """Whether a plugin's record was used in ``block``."""
    known = analysis.chain.catalogue.declared
    return any(analysis.graph[i].op in known for i in analysis.owned(block))
