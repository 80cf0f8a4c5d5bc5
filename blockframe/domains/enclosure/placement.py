"""Rules for what makes, moves, casts and draws entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from blockframe.atoms.facts import Layout, Random, Source, argument
from blockframe.atoms.layout import accumulates
from blockframe.domains.enclosure import functions
from blockframe.domains.enclosure.ball import Ball, U, linear
from blockframe.domains.enclosure.choices import decided, truth
from blockframe.domains.enclosure.operands import Operands, Outcome
from blockframe.graph.graph import Node, Ref, refs

_UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided", "empty_permuted")
_SPACED = ("arange", "linspace")
_FILLED = {"full": 1, "full_like": 1, "new_full": 2, "scalar_tensor": 0}
"""Where the number stands that all entries are."""


def make(operands: Operands, node: Node, atom: Source) -> Outcome:
    if node.short in _UNWRITTEN:
        return Ball.everything(node.shape or (), operands.device)
    if node.short in _FILLED:
        place = _FILLED[node.short]
        number = argument(node, place, "fill_value" if place else "s")
        if isinstance(number, Ref):
            return operands.ball(number).expand(node.shape or ())
    numbers = [operands.ball(a) for a in node.args if isinstance(a, (int, float, Ref))]
    if node.short in _SPACED and not all(n.is_exact and n.is_finite for n in numbers):
        return "steps of numbers that are not exact"
    floating = node.dtype is not None and node.dtype.is_floating_point
    takes = "dtype" in {a.name for a in node.target._schema.arguments}
    more = {"dtype": torch.float64} if floating and takes else {}
    made = Ball.exact(operands.run(node, operands.mid, **more)).to(operands.device)
    if node.short not in _SPACED or made.is_whole:
        return made
    ends = [float(n.mid) for n in numbers]
    if node.short == "arange" and all(e.is_integer() for e in ends):
        return made
    # start + i * step, and the same from the other end
    return Ball(made.mid, torch.full_like(made.mid, 16.0 * U * (abs(ends[0]) + abs(ends[1]))))


_CASTS = ("to", "_to_copy", "type_as")


def place(operands: Operands, node: Node, atom: Layout) -> Outcome:
    if node.short in _CASTS:
        return _cast(operands, node)
    index = {r.index for p in atom.index for r in refs(node.args[p : p + 1])}
    if not all(operands.ball(Ref(i)).is_whole for i in index):
        return "an index that is not constant"
    if not all(operands.ball(Ref(i)).is_exact for i in node.operands if _is_number(operands, i)):
        return "a number that is not exact"
    moved = {i: operands.real(Ref(i)) for i in node.operands if i not in index}

    def among(part: Mapping[int, Tensor], other: Node = node) -> Any:
        return operands.run(other, lambda i: part[i] if i in part else operands.mid(i))

    if accumulates(node):
        keys = list(moved)
        count = max(operands.ball(Ref(i)).mid.numel() for i in index)
        return linear(
            lambda *t: among(dict(zip(keys, t, strict=True))), list(moved.values()), count + 1
        )
    mids, rads = ({i: getattr(b, part) for i, b in moved.items()} for part in ("mid", "rad"))
    if atom.writes:  # where an index repeats itself, both must come from one entry
        return _written(moved, among)
    mid = among(mids)
    rad = among(rads, _unfilled(node) if atom.fill(node) else node)
    if isinstance(mid, (tuple, list)):
        return tuple(Ball(m, r) for m, r in zip(mid, rad, strict=True))
    return Ball(mid, rad)


def _is_number(operands: Operands, index: int) -> bool:
    return operands.graph[index].dtype is None and isinstance(operands.values[index], Ball)


def _written(moved: Mapping[int, Ball], among: Callable[[Mapping[int, Tensor]], Any]) -> Ball:
    """Entries by the numbers of the places that they come from."""
    numbers, start = {}, 0
    for i, b in moved.items():
        count = b.mid.numel()
        numbers[i] = torch.arange(
            start, start + count, dtype=torch.float64, device=b.mid.device
        ).reshape(b.shape)
        start += count
    places = among(numbers).long()
    mid = torch.cat([b.mid.reshape(-1) for b in moved.values()])
    rad = torch.cat([b.rad.reshape(-1) for b in moved.values()])
    return Ball(mid[places], rad[places])


def _unfilled(node: Node) -> Node:
    """The op with zero for its fill value."""
    names = [a.name for a in node.target._schema.arguments]
    place = names.index("value")
    args = tuple(0.0 if p == place else a for p, a in enumerate(node.args))
    kwargs = {k: 0.0 if k == "value" else v for k, v in node.kwargs.items()}
    return evolve(node, args=args, kwargs=kwargs)


def _cast(operands: Operands, node: Node) -> Outcome:
    a = operands.ball(node.args[0])
    if not node.is_whole:
        return a.real
    if a.is_whole:
        return Ball.exact(a.mid.to(node.dtype))
    if node.dtype is torch.bool:
        return truth(*decided(a))
    whole = functions.step(torch.trunc, a)
    if not (whole.is_exact and whole.is_finite and bool((whole.mid.abs() < 2.0**53).all())):
        return "a cast to integers of a value that is not exact"
    return Ball.exact(whole.mid.to(node.dtype))


def draw(operands: Operands, node: Node, atom: Random) -> Outcome:
    if atom.active(node) or not node.operands or node.dtype is None:
        return "it draws numbers"
    return operands.real(node.args[0])
