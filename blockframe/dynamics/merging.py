"""Rows of the outputs that are the same function of θ, along a run (docs/theory section 3)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from blockframe.errors import BlockframeError
from blockframe.problem import Problem

if TYPE_CHECKING:
    from blockframe.contract.rows import Rows
    from blockframe.dynamics.iterate import Iterate
    from blockframe.dynamics.objective import Objective

Groups = Sequence[Sequence[int]]
"""Rows (outputs without their last dimension, counted through) that are merged into one each."""

_SAME = 1e-10  # ‖DF_r − DF_s‖² below this share of ‖DF_r‖² + ‖DF_s‖², which rounding leaves


def groups(it: Iterate) -> Groups:
    """All rows, those together that are proved to be the same function; empty if none is.

    The proof is that of clause N (`blockframe.contract.rows`), from the traced graph. It says which
    rows stand for how many; which ones these are is read from K, where equal rows are equal. Where
    the two do not agree, or the network cannot be traced, nothing is merged.
    """
    if it.outputs.ndim < 3 or not it.outputs.numel():
        return []
    proved = _proved(it.objective)
    if proved is None or not proved.merged:
        return []
    c, total = proved.outputs, proved.total
    blocks = it.tangent_gram.view(total, c, total, c)
    inner = torch.diagonal(blocks, dim1=1, dim2=3).sum(-1)  # ⟨DF_r, DF_s⟩ for rows r, s
    squares = inner.diagonal()
    scale = squares[:, None] + squares[None, :]
    kept = list(proved.kept)
    place = torch.arange(total, device=inner.device) % proved.positions
    equal = (scale - 2 * inner <= _SAME * scale) & (place[:, None] == place[None, :])
    owners = [[k for k, r in enumerate(kept) if bool(equal[s, r])] for s in range(total)]
    if any(len(found) != 1 for found in owners):
        return []
    members: list[list[int]] = [[] for _ in kept]
    for row, (owner,) in enumerate(owners):
        members[owner].append(row)
    return members if [len(m) for m in members] == list(proved.weights) else []


def merged(gram: Tensor, cotangent: Tensor, members: Groups) -> tuple[Tensor, Tensor]:
    """K over merged rows, and ∇_F L, flat, added up over the rows that are merged."""
    total = sum(len(m) for m in members)
    c = len(gram) // total
    first = torch.tensor([m[0] for m in members], device=gram.device)
    index = (first[:, None] * c + torch.arange(c, device=gram.device)).flatten()
    rows = cotangent.view(total, c)
    g = torch.stack([rows[list(m)].sum(0) for m in members]).flatten()
    return gram[index][:, index], g


def _proved(objective: Objective) -> Rows | None:
    from blockframe.analysis import Analysis
    from blockframe.atoms.catalogue import Catalogue
    from blockframe.blocks import BlockChain
    from blockframe.contract.rows import rows

    def cpu(x: Any) -> Any:
        return x.cpu() if isinstance(x, Tensor) else x

    problem = Problem(
        copy.deepcopy(objective.module).to("cpu", objective.arithmetic.dtype),
        tuple(cpu(x) for x in objective.inputs),
        keywords={k: cpu(v) for k, v in objective.keywords.items()},
        output=objective.output,
    )
    try:
        return rows(Analysis(BlockChain.of(problem, Catalogue.of())))
    except BlockframeError:
        return None
