"""Rows, not samples: which rows of the outputs are the same function of θ (docs/theory section 3).

A row is an output without its last dimension: (sample, position, …). Rows at one position of two
samples that see the same part of their inputs are merged, if the data flow shows that they see no
more (domains/reach) and that the network treats samples alike (domains/exchange).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor

from blockframe.domains.exchange import alike
from blockframe.domains.reach import reach, shrunk
from blockframe.graph.evaluate import input_tensors
from blockframe.graph.graph import NodeKind

if TYPE_CHECKING:
    from blockframe.analysis import Analysis


@frozen
class Rows:
    """The rows of the outputs, those that are the same function merged.

    Attributes:
        outputs: c, the length of a row.
        total: how many rows there are before merging.
        kept: of every group of merged rows the first, as positions among all rows.
        weights: how many rows each of them stands for.
        positions: rows of one sample.
        twins: two samples whose inputs are equal, or None.
        blind: two samples and a position at which the output sees nothing of them, or None.

    Merged rows, ``twins`` and ``blind`` are looked for only where samples are treated alike: then
    f(σx) = σf(x) for every exchange σ of samples, and equal samples have equal rows.
    """

    outputs: int
    total: int
    kept: tuple[int, ...]
    weights: tuple[int, ...]
    positions: int
    twins: tuple[int, int] | None = None
    blind: tuple[int, int, int] | None = None

    @property
    def count(self) -> int:
        """How many rows are left, the N of Nc."""
        return len(self.kept)

    @property
    def merged(self) -> bool:
        return self.count < self.total


def rows(analysis: Analysis) -> Rows | None:
    """The rows of the network's output; None where its first dimension is not the sample, or the
    inputs hold no numbers."""
    problem, graph = analysis.chain.problem, analysis.graph
    shape, data = graph[graph.output].shape, input_tensors(problem)
    if not shape or not data or any(x.is_meta for x in data):
        return None
    samples = shape[0]
    if not samples or any(not x.ndim or x.shape[0] != samples for x in data):
        return None
    outputs = shape[-1] if len(shape) > 1 else 1
    total = math.prod(shape[:-1]) if len(shape) > 1 else samples
    if not outputs:
        return None
    marks = _marks(analysis, samples)
    positions = total // samples
    same = alike(graph, analysis.constants, samples, analysis.chain.catalogue)
    mergeable = positions > 1 and same
    groups: dict[tuple[object, ...], list[int]] = {}
    blind: tuple[int, int, int] | None = None
    for row, (sample, position) in enumerate(itertools.product(range(samples), range(positions))):
        seen = marks[:, sample, position].long().tolist()
        alone = seen[:2] == [sample + 1, samples - sample]
        key: tuple[object, ...] = (row,)
        if alone and mergeable:
            parts = (_visible(x[sample], upto) for x, upto in zip(data, seen[2:], strict=True))
            key = (position, *parts)
        if same and not any(seen) and sample and blind is None:
            blind = (0, sample, position)
        groups.setdefault(key, []).append(row)
    return Rows(
        outputs,
        total,
        tuple(g[0] for g in groups.values()),
        tuple(len(g) for g in groups.values()),
        positions,
        _twins(data) if same else None,
        blind,
    )


def _marks(analysis: Analysis, samples: int) -> Tensor:
    """(marks, samples, positions) of the output's rows, one mark for every input tensor.

    The domain numbers the inputs as the graph has them; a tensor that the graph does not use is
    never seen.
    """
    graph = analysis.graph
    seen = reach(graph, analysis.constants, samples, analysis.chain.catalogue)
    marks = seen[graph.output].marks
    if marks.ndim > 2:
        marks = shrunk(marks).amax(-1).expand(-1, *marks.shape[1:-1])
    found = marks.reshape(len(marks), samples, -1)
    places = [n.target for n in graph if n.kind is NodeKind.INPUT]
    count = len(input_tensors(analysis.chain.problem))
    result = torch.zeros(2 + count, *found.shape[1:])
    result[:2] = found[:2]
    for mark, place in zip(found[2:], places, strict=True):
        result[2 + int(place)] = mark
    return result


def _visible(x: Tensor, upto: int) -> tuple[object, ...]:
    part = (x[:upto] if x.ndim else x).detach().cpu()
    numbers = part.double() if part.is_floating_point() else part
    return (tuple(part.shape), numbers.contiguous().numpy().tobytes())


def _twins(data: Sequence[Tensor]) -> tuple[int, int] | None:
    seen: dict[tuple[object, ...], int] = {}
    for sample in range(len(data[0])):
        key = tuple(_visible(x[sample], x.shape[1] if x.ndim > 1 else 0) for x in data)
        if key in seen:
            return seen[key], sample
        seen[key] = sample
    return None
