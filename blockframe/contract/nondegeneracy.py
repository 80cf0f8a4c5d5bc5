"""Clause N: the Jacobian DF of all outputs by θ has full row rank for almost every θ.

One point where it provably has is enough, if clause A holds (docs/theory section 3, the witness
theorem). Where it is shown not to have it at any θ, strong nondegeneracy FAILS.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from blockframe.atoms import facts
from blockframe.contract.argument import ARGUMENTS, Argument, Enclosed, zeroed_by
from blockframe.contract.claim import Claim, Evidence, Finding, Verdict
from blockframe.contract.codes import CODES
from blockframe.contract.finding import declared, doubts, finding, plural
from blockframe.contract.point import same, zeros
from blockframe.contract.rows import Rows, rows
from blockframe.contract.weak import weak
from blockframe.dynamics.losses import LOSSES
from blockframe.graph.graph import Node
from blockframe.graph.residual import Placement
from blockframe.graph.scope import CASTS, RESHAPES
from blockframe.rigor.rank import RankProof, full_row_rank

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.blocks import Block

INSIDE = 256
"""Rows of the largest matrix that stands in the certificate itself, not in a file beside it."""
REGION = "almost every θ; the data given; evaluation mode"
_WEAK = "; weak: the gradient is not 0 at the given parameters, so for almost every θ"
_TYING = ("softmax", "log_softmax", "_softmax", "_log_softmax")


@frozen
class NondegeneracyClause:
    """Decides clause N, strong; ``arguments`` are tried in their order."""

    arguments: tuple[Argument, ...] = ARGUMENTS
    name: str = "nondegeneracy"

    def decide(self, analysis: Analysis) -> Sequence[Claim]:
        """One claim about the chain, one about every residual block that can be the identity."""
        return [self._chain(analysis), *self._blocks(analysis)]

    def _chain(self, analysis: Analysis) -> Claim:
        against = doubts(analysis)
        if against:
            why = "it is not shown that the traced graph stands for the module"
            return self._unknown(why, against)
        counted = rows(analysis)
        if counted is None:
            why = "the inputs hold no numbers, or the outputs' first dimension is not the sample"
            return self._unknown(why, [Finding("N106", why, help=CODES["N106"].advice())])
        numbers = _counts(analysis, counted)
        issues = analysis.analyticity.reaching(analysis.graph.output)
        analytic = not (any(issues) or any(analysis.issues(b) for b in analysis.chain.blocks))
        refuted = next(_refutations(analysis, counted), None)
        if refuted is not None:
            numbers |= _weakly(analysis) if analytic else {}
            return Claim(
                self.name,
                Verdict.FAILS,
                f"strong: {refuted.message}{_WEAK if 'weak' in numbers else ''}",
                Evidence.PROVED,
                region="every θ; the data given; evaluation mode",
                numbers=numbers,
                findings=(refuted,),
            )
        if not analytic:
            return self._unknown(
                "clause A does not hold, so a rank at one point says nothing of another",
                (),
                numbers,
            )
        return self._verified(analysis, counted, numbers)

    def _verified(self, analysis: Analysis, counted: Rows, numbers: dict[str, Any]) -> Claim:
        tried: list[str] = []
        for argument in self.arguments:
            for matrix in argument.matrices(analysis, counted):
                if isinstance(matrix, str):
                    tried.append(f"{argument.name}: {matrix}")
                    continue
                found = _proved(matrix)
                if found is not None:
                    return self._holds(analysis, counted, argument, matrix, found, numbers)
                tried.append(f"{argument.name} at {matrix.point}")
        why = f"no full rank was verified ({'; '.join(tried)})"
        numbers |= _weakly(analysis)
        why += _WEAK if "weak" in numbers else ""
        return self._unknown(why, [Finding("N105", why, help=CODES["N105"].advice())], numbers)

    def _holds(
        self,
        analysis: Analysis,
        counted: Rows,
        argument: Argument,
        matrix: Enclosed,
        found: tuple[RankProof, dict[str, Any], bytes],
        numbers: dict[str, Any],
    ) -> Claim:
        proof, record, raw = found
        by_word = any(declared(analysis, b) for b in analysis.chain.blocks)
        merged = f" of {counted.total:,}, equal ones merged" if counted.merged else ""
        return Claim(
            self.name,
            Verdict.HOLDS,
            f"rank {numbers['rank']:,} = Nc at a verified point ({argument.name}; "
            f"{plural(counted.count, 'row')}{merged}) ⇒ almost every initialization",
            Evidence.DECLARED if by_word else Evidence.ENCLOSED,
            region=REGION,
            numbers={
                **numbers,
                "argument": argument.name,
                "point": matrix.point,
                "residual": proof.residual,
                "least singular value": proof.least_singular_value,
                "matrix": record,
                **_descent(analysis, numbers["parameters"]),
            },
            files={record["file"]: raw} if record["file"] else {},
        )

    def _unknown(
        self, why: str, findings: Sequence[Finding], numbers: dict[str, Any] | None = None
    ) -> Claim:
        return Claim(
            self.name, Verdict.UNKNOWN, why, numbers=numbers or {}, findings=tuple(findings)
        )

    def _blocks(self, analysis: Analysis) -> Iterator[Claim]:
        """The identity witness: with its last maps zero a block z + F(norm(z)) is the identity."""
        if doubts(analysis):
            return
        for block in analysis.chain.blocks:
            names = zeroed_by(analysis, block)
            if not names or not _returns_z(analysis, block, names) or analysis.issues(block):
                continue
            yield Claim(
                self.name,
                Verdict.HOLDS,
                "its input Jacobian is the identity where its last maps are 0",
                Evidence.DECLARED if declared(analysis, block) else Evidence.PROVED,
                subject="block",
                block=block.name,
                region="almost every θ_l and z; evaluation mode",
                numbers={"zero": list(names)},
            )


def _returns_z(analysis: Analysis, block: Block, names: Sequence[str]) -> bool:
    """Whether the state leaves ``block`` as it entered where the parameters ``names`` are 0."""
    graph, catalogue = analysis.graph, analysis.chain.catalogue
    entry, leaving = analysis.entries(block), analysis.exits(block)
    if block.residual is None or block.residual.placement is Placement.POST:
        return False
    if len(entry) != 1 or len(leaving) != 1 or graph[entry[0]].shape != graph[leaving[0]].shape:
        return False
    zero = zeros(graph, names, catalogue, sorted(analysis.owned(block)))
    index = same(graph, leaving[0], zero, catalogue, entry[0])
    while index != entry[0]:
        if graph[index].op not in RESHAPES:  # these leave entries in their order
            return False
        index = same(graph, graph[index].operands[0], zero, catalogue, entry[0])
    return True


def _descent(analysis: Analysis, parameters: int) -> dict[str, str]:
    """What follows for gradient descent, on a loss that is analytic: the core's own are."""
    if analysis.loss not in LOSSES:
        return {}
    text = "for almost every start and all learning rates but at most "
    return {"gradient descent": f"{text}{parameters:,} no iterate is degenerate"}


def _counts(analysis: Analysis, counted: Rows) -> dict[str, Any]:
    trained = {p for p in analysis.chain.problem.module.parameters() if p.requires_grad}
    return {
        "rows": counted.count,
        "unmerged rows": counted.total,
        "outputs": counted.outputs,
        "parameters": sum(p.numel() for p in trained),
        "rank": counted.count * counted.outputs,
    }


def _weakly(analysis: Analysis) -> dict[str, Any]:
    """What decides weak nondegeneracy where strong is not to be had."""
    found = weak(analysis) if analysis.loss in LOSSES else None  # an analytic loss
    return {} if found is None else {"weak": found}


# --- refutations ----------------------------------------------------------------------------------


def _refutations(analysis: Analysis, counted: Rows) -> Iterator[Finding]:
    """What shows that DF has no full row rank at any θ."""
    numbers = _counts(analysis, counted)
    if counted.twins is not None:
        i, j = counted.twins
        yield Finding(
            "N102", f"samples {i} and {j} have equal inputs, and so equal rows of DF",
            witness={"samples": [i, j]}, help=CODES["N102"].advice(),
        )  # fmt: skip
    if numbers["parameters"] < numbers["rank"]:
        witness = {key: numbers[key] for key in ("parameters", "rows", "outputs")}
        yield Finding(
            "N101",
            f"{plural(numbers['parameters'], 'parameter')} cannot give {numbers['rank']} = "
            f"{counted.count} × {counted.outputs} outputs every direction",
            witness=witness, help=CODES["N101"].advice(),
        )  # fmt: skip
    tied = _tied_outputs(analysis)
    if tied is not None:
        index, why = tied
        yield finding(analysis, index, "N103", why, {"op": analysis.graph[index].short})
    if counted.blind is not None:
        i, j, position = counted.blind
        yield finding(
            analysis, analysis.graph.output, "N104",
            f"the output does not depend on the input: samples {i} and {j} differ, "
            "and their outputs cannot",
            {"samples": [i, j], "position": position},
        )  # fmt: skip


def _tied_outputs(analysis: Analysis) -> tuple[int, str] | None:
    """The last op, if it ties the entries of every row to each other."""
    graph = analysis.graph
    node = graph[graph.output]
    while node.op in CASTS:
        node = graph[node.operands[0]]
    if node.short in _TYING and _last_dimension(node, node.args[1]):
        sums = "logarithms of numbers that sum" if "log" in node.short else "which sum"
        return node.index, f"the outputs are a {node.short}: {sums} to 1, so they are tied"
    affine = [facts.argument(node, 2, "weight"), facts.argument(node, 3, "bias")]
    if node.op == "aten::layer_norm" and affine == [None, None] and len(node.args[1]) == 1:
        return node.index, "the outputs are a layer_norm without gain: they sum to 0, so are tied"
    return None


def _last_dimension(node: Node, dim: Any) -> bool:
    return isinstance(dim, int) and node.shape is not None and dim in (-1, len(node.shape) - 1)


# --- the matrix that is recorded ------------------------------------------------------------------


def _proved(matrix: Enclosed) -> tuple[RankProof, dict[str, Any], bytes] | None:
    """Of n columns of the matrix, with rows and columns scaled by powers of two: a proof that they
    are independent, and the record from which a checker repeats it."""
    size = len(matrix.mid)
    chosen = _columns(matrix.mid)
    if chosen is None:
        return None
    parts = matrix.mid[:, chosen], matrix.rad[:, chosen]
    scales = [_scales(part) for part in parts]  # by radii: one radius is then near to all of them
    for (down, across), kind in itertools.product(scales, ("<f4", "<f8")):
        mid, rad = (torch.ldexp(torch.ldexp(part, down), across) for part in parts)
        stored = mid.numpy().astype(kind)
        back = torch.from_numpy(stored.astype(np.float64))
        # 1e-15 covers the roundings of differences and sums; 2^-600 what fell below the normal
        # numbers in scaling, by less than 2^-1073, and was then multiplied by up to 2^400.
        radius = float((rad + (mid - back).abs()).max()) * (1 + 1e-15) + 2.0**-600
        proof = full_row_rank(back, torch.full_like(back, radius))
        if proof is not None and proof.least_singular_value > 0:
            raw = stored.tobytes()
            digest, inside = hashlib.sha256(raw).hexdigest(), size <= INSIDE
            record = {
                "size": size,
                "radius": radius,
                "data": base64.b64encode(raw).decode("ascii") if inside else None,
                "dtype": kind,
                "file": None if inside else f"matrix-{digest[:16]}.bin",
                "sha256": digest,
            }
            return proof, record, raw
    return None


def _columns(mid: Tensor) -> Tensor | None:
    """As many columns as rows, by the pivots of an LU decomposition; None if it breaks down."""
    size = len(mid)
    if not bool(torch.isfinite(mid).all()) or not 0 < size <= mid.shape[1]:
        return None
    scaled = mid / mid.abs().amax(1, keepdim=True).clamp_min(2.0**-1000)
    _, pivots, broken = torch.linalg.lu_factor_ex(scaled.T.contiguous())
    if int(broken):
        return None
    order = list(range(mid.shape[1]))
    for i, pivot in enumerate(pivots.tolist()):
        order[i], order[pivot - 1] = order[pivot - 1], order[i]
    return torch.tensor(order[:size])


def _scales(part: Tensor) -> tuple[Tensor, Tensor]:
    """Exponents of two for rows, then columns, that bring their largest entries just below 1."""
    exponents = []
    for dim in (1, 0):
        largest = part.abs().amax(dim, keepdim=True)
        exponent = torch.where(largest > 0, -torch.frexp(largest).exponent, 0).clamp(-400, 400)
        part = torch.ldexp(part, exponent)
        exponents.append(exponent)
    return exponents[0], exponents[1]
