"""Long chains of simple operations, done in blocks that stay in the processor's cache.

A rule for balls makes some thirty temporaries. Over a whole tensor each is a new piece of memory,
which costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ENTRIES = 1 << 16
"""Entries of a block for each thread."""

Rule = Callable[..., tuple[Tensor, ...]]


def in_blocks(
    rule: Rule, tensors: Sequence[Tensor], rows: Sequence[int] = ()
) -> tuple[Tensor, ...]:
    """``rule(*tensors)``, where every entry (of every dimension but ``rows``) is on its own.

    The tensors are broadcast; every value has their shape, except along ``rows``.
    """
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))  # type: ignore[no-untyped-call]
    limit = ENTRIES * torch.get_num_threads()
    whole = {d % len(shape) for d in rows}
    free = [d for d, n in enumerate(shape) if n > 1 and d not in whole]
    count = shape.numel()
    if count <= limit or not free or tensors[0].device.type != "cpu":
        return rule(*tensors)
    dim, size = free[0], shape[free[0]]
    step = max(1, limit * size // count)
    values: list[Tensor] = []
    for start in range(0, size, step):
        length = min(step, size - start)
        part = in_blocks(rule, [_narrow(t, dim - len(shape), start, length) for t in tensors], rows)
        if not values:
            values = [p.new_empty([*p.shape[:dim], size, *p.shape[dim + 1 :]]) for p in part]
        for value, p in zip(values, part, strict=True):
            value.narrow(dim, start, length).copy_(p)
    return tuple(values)


def _narrow(t: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A part along ``dim``, counted from the last, unless ``t`` is the same all along it."""
    return t if -dim > t.dim() or t.shape[dim] == 1 else t.narrow(dim, start, length)
