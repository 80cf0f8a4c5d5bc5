"""Whether the samples of a problem can be taken apart: by the network, and by the loss.

Neither is believed; both are tested, at θ_0 and at a point near it that is drawn at random, since
mixing that is multiplied by 0 at θ_0 does not show there. Outputs of two chunks that are evaluated
together must be those of each, up to rounding, and the loss of all outputs the mean of those of the
chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve
from torch import Tensor

from blockframe.dynamics.arithmetic import Arithmetic
from blockframe.dynamics.ending import NetworkError
from blockframe.dynamics.losses import LOSSES

if TYPE_CHECKING:
    from blockframe.dynamics.objective import Objective

ROUNDOFFS = 2**10
"""Units of roundoff by which outputs may differ with the number of samples beside them, relative to
the largest."""


def inseparable(objective: Objective) -> str | None:
    """Why there are no chunks, as far as shapes show."""
    samples = len(objective.targets) if objective.targets.ndim else 1
    if samples < 2:
        return "there is one"
    if not objective.inputs:
        return "the network takes no positional input"
    shapes = [tuple(x.shape) for x in objective.inputs]
    for shape in shapes:
        if not shape or shape[0] != samples:
            return f"an input of shape {shape} has not one row for each"
    return None


def part(objective: Objective, first: int, end: int) -> Objective:
    """The objective on samples ``first`` to ``end``: of inputs, targets and those keywords that
    have one entry for each sample."""
    samples = len(objective.targets)

    def cut(value: Any) -> Any:
        per_sample = isinstance(value, Tensor) and value.ndim > 0 and len(value) == samples
        return value[first:end] if per_sample else value

    return evolve(
        objective,
        inputs=tuple(x[first:end] for x in objective.inputs),
        keywords={k: cut(v) for k, v in objective.keywords.items()},
        targets=objective.targets[first:end],
        analysis=None,
        budget=None,
    )


def mixes(objective: Objective, parts: Sequence[Objective]) -> str | None:
    """Why the outputs of two chunks in a row are not those of each; None if they are.

    In float64, where the network runs in that, else in its own arithmetic: rounding would hide
    what many samples have to say to one.
    """
    exact, pieces = objective.in_dtype(torch.float64), [p.in_dtype(torch.float64) for p in parts]
    try:
        _outputs(pieces[0], objective.start)
    except NetworkError:
        exact, pieces = objective, [*parts]
    try:
        near = objective.beside(objective.start, 0.1, torch.Generator().manual_seed(objective.seed))
        return _mixes(exact, pieces, objective.start) or _mixes(exact, pieces, near)
    except NetworkError as error:
        return f"on fewer samples {error.reason}"


def _mixes(objective: Objective, parts: Sequence[Objective], theta: Tensor) -> str | None:
    begin = 0
    previous: tuple[Tensor, int] | None = None
    for chunk in parts:
        count = len(chunk.targets)
        alone = _outputs(chunk, theta)
        if alone.ndim == 0 or len(alone) != count:
            return f"for {count} samples it has outputs of shape {tuple(alone.shape)}"
        if previous is not None:
            before, start = previous
            together = _outputs(part(objective, start, begin + count), theta)
            apart = torch.cat([before, alone])
            if together.shape != apart.shape or not _same(together, apart, objective.arithmetic):
                return "the outputs of one depend on which others are beside it"
        previous = alone, begin
        begin += count
    return None


def _outputs(objective: Objective, theta: Tensor) -> Tensor:
    with torch.no_grad(), objective.arithmetic.kernels():
        return objective.outputs(objective.parameters(theta))


def _same(a: Tensor, b: Tensor, arithmetic: Arithmetic) -> bool:
    unit = arithmetic.unit_roundoff
    a, b = a.double(), b.double()
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite):
        return False
    a, b = a[finite], b[finite]
    if not b.numel():
        return True
    return float((a - b).abs().max()) <= ROUNDOFFS * unit * float(b.abs().max())


def no_mean(
    objective: Objective, parts: Sequence[Objective], shares: Sequence[float]
) -> str | None:
    """Why the loss is not the mean of those of chunks; None if it is, at random outputs.

    The core's own are means over samples, or over rows of which every sample has equally many.
    """
    if any(type(objective.loss) is type(known) for known in LOSSES):
        return None
    shape = (len(objective.targets), *_outputs(parts[0], objective.start).shape[1:])
    generator = torch.Generator().manual_seed(objective.seed)
    for scale in (1.0, 8.0):
        drawn = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        whole = _value(objective, drawn)
        pieces = torch.split(drawn, [len(chunk.targets) for chunk in parts])
        mean = math.fsum(
            share * _value(chunk, piece)
            for chunk, share, piece in zip(parts, shares, pieces, strict=True)
        )
        if not abs(whole - mean) <= 1e-9 * abs(whole):
            return f"loss {objective.loss.name} is not a mean over them"
    return None


def _value(objective: Objective, outputs: Tensor) -> float:
    with torch.no_grad():
        return float(objective.value(outputs.to(objective.arithmetic.device)))
