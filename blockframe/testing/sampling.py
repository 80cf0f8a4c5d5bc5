"""Lower bounds of what clause S bounds from above, found by sampling and by ascent.

``violations(analysis)`` is what a test of an envelope (or of an op's record) calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from attrs import field, frozen
from torch import Tensor
from torch.func import jvp

from blockframe.contract.smoothness import envelope
from blockframe.graph.evaluate import evaluate, leaves
from blockframe.graph.graph import NodeKind

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.blocks import Block

QUANTITIES = ("value", "first", "second")
"""The parts of a jet, by order of the derivative."""

STARTS = ("normal", "uneven", "spiked", "flat")
"""Kinds of starting points: all entries alike, some tensors much larger, one entry large in each,
all entries of a tensor equal (rows without variance)."""


class Searched(Protocol):
    """A smooth function of one flat vector, and where it is searched."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def norms(self, x: Tensor) -> tuple[float, float]:
        """The two norms on which its bounds depend."""
        ...

    def onto(self, x: Tensor, s: float, r: float) -> Tensor:
        """A point near ``x`` at which these norms are (at most) s and r."""
        ...


class BlockMap:
    """(theta_l, z) -> the exits of a block, as a function of one flat vector, in float64.

    ``exits``: nodes of the analysed graph that are returned; default: those that the block makes.

    Raises:
        KeyError: the parameters of the problem hold no numbers.
    """

    def __init__(self, analysis: Analysis, block: Block, exits: Sequence[int] | None = None):
        graph = self.graph = analysis.graph
        self.nodes = analysis.owned(block)
        made = set(self.nodes)
        self.exits = tuple(i for i in (exits or analysis.exits(block)) if i in made)
        entries = analysis.entries(block)
        used = {i for n in self.nodes for i in graph[n].operands}
        parameters = [
            i
            for i in sorted(used)
            if graph[i].kind is NodeKind.PARAMETER and analysis.varies[i] and i not in entries
        ]
        self.leaves = (*parameters, *entries)
        self.count = len(parameters)
        values = leaves(graph, analysis.chain.problem)
        with torch.no_grad():
            evaluate(graph, values)
        self.fixed = {i: v for i, v in values.items() if not analysis.varies[i]}
        self.ranges = [analysis.ranges[i].whole for i in entries]
        self.shapes = [values[i].shape for i in self.leaves]
        self.start = self.join([values[i].detach().to(torch.float64) for i in self.leaves])

    def __call__(self, x: Tensor) -> Tensor:
        known = dict(self.fixed) | dict(zip(self.leaves, self.split(x), strict=True))
        values = evaluate(self.graph, known, self.nodes)
        return self.join([values[i] for i in self.exits])

    def join(self, parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([p.flatten() for p in parts])

    def split(self, x: Tensor) -> list[Tensor]:
        """Every parameter, then every tensor of the state, in its own shape."""
        parts = torch.split(x, [s.numel() for s in self.shapes])
        return [p.reshape(s) for p, s in zip(parts, self.shapes, strict=True)]

    def norms(self, x: Tensor) -> tuple[float, float]:
        """|theta_l|, and |z| of the largest tensor of the state."""
        parts = self.split(x)
        theta = math.hypot(*(float(p.norm()) for p in parts[: self.count]))
        return theta, max((float(p.norm()) for p in parts[self.count :]), default=0.0)

    def onto(self, x: Tensor, s: float, r: float) -> Tensor:
        """``x`` scaled to |theta_l| = s and |z| = r; then z into the ranges that the chain reaches,
        where it is no longer than r, if they hold 0, but may be shorter."""
        parts = self.split(x)
        theta = math.hypot(*(float(p.norm()) for p in parts[: self.count])) or 1.0
        parts = [
            p * (s / theta) if i < self.count else p * (r / (float(p.norm()) or 1.0))
            for i, p in enumerate(parts)
        ]
        state = zip(parts[self.count :], self.ranges, strict=True)
        parts[self.count :] = [p.clamp(u.lo, u.hi) for p, u in state]
        return self.join(parts)

    def drawn(self, a: float, b: float, start: str, seed: int) -> Tensor:
        """A point whose parameters and states have entries of root mean square a and b."""
        sizes = [s.numel() for s in self.shapes]
        r = b * math.sqrt(max(sizes[self.count :], default=0))
        return self.draw(a * math.sqrt(sum(sizes[: self.count])), r, start, seed)

    def draw(self, s: float, r: float, start: str, seed: int) -> Tensor:
        """A point with |theta_l| = s and |z| = r, of a kind named in `STARTS`."""
        g = torch.Generator().manual_seed(seed)
        parts = [torch.randn(n, generator=g, dtype=torch.float64) for n in self.shapes]
        if start == "uneven":
            weights = (1.5 * torch.randn(len(parts), generator=g, dtype=torch.float64)).exp()
            parts = [p * w for p, w in zip(parts, weights, strict=True)]
        elif start == "spiked":
            for p in parts:
                p.flatten()[int(torch.randint(p.numel(), (1,), generator=g))] *= 30.0
        elif start == "flat":
            parts = [torch.ones_like(p) + 1e-3 * p for p in parts]
        return self.onto(self.join(parts), s, r)


def directional(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int) -> Tensor:
    """|D^k f(x)[v, ..., v]|, k = ``order``: at most |D^k f(x)| for a unit v.

    (For k = 2 the operator norm is attained on the diagonal: w D^2 f is a symmetric matrix for
    every w.)
    """
    for _ in range(order):
        f = _along(f, v)
    size: Tensor = torch.linalg.vector_norm(f(x))
    return size


def _along(f: Callable[[Tensor], Tensor], v: Tensor) -> Callable[[Tensor], Tensor]:
    def derivative(x: Tensor) -> Tensor:
        image: Tensor = jvp(f, (x,), (v,))[1]
        return image

    return derivative


@frozen
class Peak:
    """The largest size found of a value or a derivative, and the norms of the point where.

    Attributes:
        size: |D^k B(x)[v, ..., v]|.
        s, r: |theta_l| and |z| at x.
        x, v: the point and the unit direction, flat.
        uphill: unit vector along which the size grows fastest with x.
        turned: unit direction that the next power iteration takes.
    """

    size: float
    s: float
    r: float
    x: Tensor = field(eq=False, repr=False)
    v: Tensor = field(eq=False, repr=False)
    uphill: Tensor = field(eq=False, repr=False)
    turned: Tensor = field(eq=False, repr=False)


def _look(f: Searched, x: Tensor, v: Tensor, order: int) -> Peak:
    x, v = x.detach().requires_grad_(), v.detach().requires_grad_()
    size = directional(f, x, v, order)
    by_x = by_v = torch.zeros_like(x)
    if size.requires_grad:  # the second derivative of a lookup is no longer a function of x
        by_x, by_v = torch.autograd.grad(size, (x, v), allow_unused=True, materialize_grads=True)
    # Shifted for the second derivative: a plain power iteration of a trilinear form may cycle.
    turned = by_v.detach() + max(0, order - 1) * size.detach() * v.detach()
    return Peak(
        float(size.detach()), *f.norms(x.detach()), x.detach(), v.detach(), _unit(by_x.detach()),
        _unit(turned) if bool(turned.any()) else v.detach(),
    )  # fmt: skip


def climb(f: Searched, x: Tensor, order: int, *, turns: int = 4, steps: int = 6) -> Peak:
    """A local maximum of |D^k f|, k = ``order``, over the points of the norms of ``x``.

    First ``turns`` power iterations for the direction at ``x``, then ``steps`` of ascent in the
    point with the direction following: one that helps makes the next longer, others are undone.
    """
    s, r = f.norms(x)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(x.numel()), dtype=x.dtype)
    here, rate = _look(f, x, _unit(v), order), 0.3
    turns = turns if order else 0
    for turn in range(turns + steps):
        moves = turn >= turns
        x = f.onto(here.x + rate * here.x.norm() * here.uphill, s, r) if moves else here.x
        there = _look(f, x, here.turned, order)
        if there.size > here.size:
            here, rate = there, 1.5 * rate if moves else rate
        elif moves:
            rate /= 3.0
    return here


def _unit(g: Tensor) -> Tensor:
    size = g.norm()
    return g / size if bool(size > 0) else g


def peaks(f: Searched, x: Tensor, **search: int) -> dict[str, Peak]:
    """The largest value, first and second derivative found from ``x``; see `climb`."""
    return {what: climb(f, x, order, **search) for order, what in enumerate(QUANTITIES)}


def violations(
    analysis: Analysis,
    scales: Sequence[tuple[float, float]] = ((0.1, 0.1), (2.0, 2.0)),
    starts: Sequence[str] = STARTS[:1],
    seed: int = 0,
    **search: int,
) -> list[str]:
    """Where a block of ``analysis``, or its residual branch, exceeds its envelope, in words.

    Args:
        scales: pairs (a, b): points whose parameters have entries of root mean square a, and whose
            states have entries of root mean square b.
        starts: kinds of points to start from, of `STARTS`.
        seed: of the starting points.
        search: ``turns`` and ``steps`` of `climb`.

    A block without a finite envelope exceeds nothing. A size that is NaN counts as a violation.
    """
    found = []
    for block in analysis.chain.blocks:
        e = envelope(analysis, block)
        if not e.jet.bounded:
            continue
        places = analysis.chain.expanded.places
        branches = () if block.residual is None else block.residual.branches
        exits = [p for b in branches for p in places[b]]
        for name, jet, f in (
            (block.name, e.jet, BlockMap(analysis, block)),
            (f"{block.name} (branch)", e.branch, BlockMap(analysis, block, exits)),
        ):
            if jet is None or not f.exits:
                continue
            for a, b in scales:
                for start in starts:
                    for what, peak in peaks(f, f.drawn(a, b, start, seed), **search).items():
                        bound = getattr(jet, what)(peak.s, peak.r)
                        if not peak.size <= bound * (1 + 1e-9) + 1e-13:
                            found.append(
                                f"{name}: {what} {peak.size:.6g} > {bound:.6g} at s = {peak.s:.4g},"
                                f" r = {peak.r:.4g} ({start})"
                            )
    return found
