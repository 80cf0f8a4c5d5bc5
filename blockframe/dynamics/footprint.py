"""How much memory a run takes.

It is not guessed from the architecture: what autograd keeps for the gradient of one sample and of
two, and for the gradient's own gradient, is counted. Beside it stand the vectors of the size of θ
that a run holds. The sum is an estimate of the run's own tensors; PyTorch itself, the module and
what the allocator does not give back come on top.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from blockframe.dynamics.ending import NetworkError
from blockframe.dynamics.separation import inseparable, part

if TYPE_CHECKING:
    from blockframe.dynamics.objective import Objective

VECTORS = 6
"""Vectors like θ, in float64: θ_0, θ_k, ∇L_k, its sum over chunks, and θ and ∇L of the iterate
before."""
CASTS = 5
"""The same in the dtype of the network: θ; ∇L, and a Hessian product, before and after their parts
are put together."""


@frozen(eq=False)
class Footprint:
    """What a run on all samples of ``objective`` takes, in bytes."""

    objective: Objective

    @property
    def samples(self) -> int:
        return len(self.objective.targets) if self.objective.targets.ndim else 1

    @cached_property
    def _counted(self) -> tuple[int, int, int]:
        """Bytes that do not depend on the number of samples, bytes per sample, outputs' bytes."""
        objective = self.objective
        pair = None if inseparable(objective) is not None else _one_and_two(objective)
        if pair is None:
            kept, outputs = _kept(objective)
            return 0, kept // self.samples, outputs
        (one, outputs), (two, _) = pair
        each = max(two - one, one // 2)
        return max(one - each, 0), each, outputs * self.samples

    @property
    def sample(self) -> int:
        return max(self._counted[1], 1)

    @property
    def base(self) -> int:
        objective = self.objective
        size, dtype = objective.start.numel(), objective.arithmetic.dtype
        vectors = size * 8 * VECTORS
        casts = size * dtype.itemsize * CASTS
        data = sum(x.nbytes for x in _data(objective))
        constant, _, outputs = self._counted
        return vectors + casts + data + constant + 2 * outputs


def _one_and_two(objective: Objective) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """`_kept` on one sample and on two; None where the network does not run on so few."""
    try:
        return _kept(part(objective, 0, 1)), _kept(part(objective, 0, 2))
    except NetworkError:
        return None


def _kept(objective: Objective) -> tuple[int, int]:
    """Bytes that autograd keeps for a gradient that is differentiated once more (or for the
    gradient alone, where it cannot be), with what passes through; and bytes of the outputs."""
    counted = _Counter(_data(objective))
    with counted.hooks():
        dtype = objective.arithmetic.dtype
        leaf = objective.start.detach().to(dtype, copy=True).requires_grad_()
        with objective.arithmetic.kernels():
            outputs, loss = objective(leaf)
        size = outputs.nbytes
        if loss.requires_grad:
            graph = _differentiated(objective, loss, leaf)
            del graph
    return counted.total, size


def _differentiated(objective: Objective, loss: Tensor, leaf: Tensor) -> Tensor | None:
    try:
        return objective.differentiate(loss, leaf, create_graph=True)
    except NetworkError:  # the run will say so; the forward was counted
        return None


def _data(objective: Objective) -> list[Tensor]:
    """Tensors that are there in any case."""
    held = [*objective.inputs, objective.targets, *objective.keywords.values()]
    return [x for x in (*held, *objective.constants.values()) if isinstance(x, Tensor)]


class _Counter:
    """Sizes of the different storages that are saved for a backward pass, beside ``data``."""

    def __init__(self, data: Sequence[Tensor]) -> None:
        self._there = {x.untyped_storage().data_ptr() for x in data}
        self._sizes: dict[int, int] = {}

    @contextmanager
    def hooks(self) -> Iterator[None]:
        def pack(saved: Tensor) -> Tensor:
            if saved.layout is torch.strided:
                storage = saved.untyped_storage()
                if storage.data_ptr() not in self._there:
                    self._sizes[storage.data_ptr()] = storage.nbytes()
            return saved

        with saved_tensors_hooks(pack, lambda saved: saved):
            yield

    @property
    def total(self) -> int:
        """What is kept, and as much as the largest of it twice, for results on their way."""
        return sum(self._sizes.values()) + 2 * max(self._sizes.values(), default=0)


def spelled(size: int) -> str:
    """``1.5GiB``, rounded up to two digits after the point, as ``--memory`` takes it."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{math.ceil(100 * size / factor) / 100:.2f}".rstrip("0").rstrip(".") + unit
    return f"{size}B"
