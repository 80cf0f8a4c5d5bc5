"""Numbers that show a block's output not to be analytic (docs/theory section 1, docs/findings).

An op with kinks or jumps has analytic branches. Along a line in parameter space, find where the
choice of branch changes; freeze every choice as it is just left, and just right, of that point.
Both frozen functions are analytic across it. If the block's output were analytic there, they
would be the same function; so a difference between them refutes it, and its lowest derivative
that does not vanish is the one that jumps. ``abs(x)**2`` has two branches and no difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen
from numpy.polynomial import Chebyshev
from torch import Tensor

from blockframe.analysis import Analysis
from blockframe.atoms.facts import Atom, Bilinear, Pointwise, Selection
from blockframe.blocks import Block
from blockframe.domains.analyticity import Issue
from blockframe.errors import InputError
from blockframe.foreign import foreign
from blockframe.graph.evaluate import call, evaluate, leaves
from blockframe.graph.graph import Node, NodeKind, Ref, substitute

LINES = 4
"""Lines that are searched for every issue, each on three scales."""
SCALES = (1.0, 6.0, 40.0)
POINTS = 17
STEPS = (0.4, 0.1, 0.025)
"""Half-widths, in units of the line's parameter, of the windows in which branches are compared."""
ORDERS = range(4)
STABLE = 1e-3
"""Relative change of a jump that is tolerated when its window is halved twice."""
ROUNDING = 1e4 * np.finfo(float).eps
SIGNIFICANCE = 30.0
"""A jump must be this many times larger than the rounding that the op sequence can cause."""

Choices = dict[int, Any]


@frozen
class Witness:
    """A crossing and what jumps there; see `as_mapping` for the meaning of the numbers."""

    issues: tuple[int, ...]
    numbers: dict[str, Any]


def witnesses(analysis: Analysis, block: Block) -> dict[int, Witness]:
    """For issues of ``block`` a witness each, as far as one was found, by the issue's node."""
    issues = analysis.issues(block)
    search = _Search(analysis, block)
    if not issues or not search.exits or search.noisy:
        return {}
    found: dict[int, Witness] = {}
    for issue in issues:
        origin = analysis.graph[issue.node].origin
        if any(analysis.graph[n].origin == origin for n in found):
            continue  # another step of the same op
        witness = search.kink(issue) if issue.branches else search.singularity(issue)
        if witness is not None:
            for node in witness.issues:
                found.setdefault(node, witness)
    return found


class _Search:
    def __init__(self, analysis: Analysis, block: Block) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.block = block
        self.exits = [i for i in analysis.exits(block) if self.graph[i].dtype is not None]
        self.entries = analysis.entries(block)
        self.needed = self._needed()
        self.atoms = {i: analysis.chain.catalogue.lookup(self.graph[i]) for i in self.needed}
        issues = {i.node: i for i in analysis.analyticity.issues}
        self.branching = [
            i for i in self.needed if i in issues and issues[i].branches and self._has_branches(i)
        ]
        self.noisy = any(issues[i].code in ("A201", "A900") for i in self.needed if i in issues)
        self.fixed = self._constants()
        self.parameters = [n for n in self.graph if n.kind is NodeKind.PARAMETER]

    def _needed(self) -> list[int]:
        """The nodes that the block's output depends on, in order."""
        live = set(self.exits)
        for i in range(max(live, default=-1), -1, -1):
            if i in live:
                live.update(self.graph[i].operands)
        return sorted(live)

    def _has_branches(self, index: int) -> bool:
        atom = self.atoms[index]
        if isinstance(atom, Pointwise):
            return bool(atom.pieces)
        if isinstance(atom, Selection):
            return atom.choice is not None and atom.chosen is not None
        return True  # piecewise constant: the value itself is the choice

    def _constants(self) -> dict[int, Any]:
        values = leaves(self.graph, self.analysis.chain.problem)
        constant = [i for i in self.needed if not self.analysis.varies[i]]
        with torch.no_grad():
            evaluate(self.graph, values, constant, _exact)
        return {i: v for i, v in values.items() if not self.analysis.varies[i]}

    # --- lines ------------------------------------------------------------------------------------

    def lines(self) -> Iterator[_Line]:
        for scale in SCALES:
            for seed in range(LINES):
                yield _Line(self, seed, scale)

    def kink(self, issue: Issue) -> Witness | None:
        """A crossing of the op's choice at which the block's output is not analytic."""
        if issue.node not in self.branching:
            return None
        for line in self.lines():
            for a, b in line.crossings(issue.node):
                witness = self._compared(line, a, b)
                if witness is not None:
                    return witness
        return None

    def _compared(self, line: _Line, a: float, b: float) -> Witness | None:
        """The two frozen functions on both sides of [a, b] compared."""
        left, right = line.choices(a), line.choices(b)
        own = [i for i in self.branching if self.analysis.owns(self.block, i)]
        crossed = [i for i in own if not torch.equal(left[i], right[i])]
        after = {**left, **{i: right[i] for i in crossed}}
        at = (a + b) / 2
        for width in STEPS:
            jump = _jump(lambda t: line.output(t, left), lambda t: line.output(t, after), at, width)
            if jump is not None and line.significant(jump, at, (left, after)):
                numbers = {
                    "line": line.name,
                    "t": at,
                    "bracket": b - a,
                    "block": self.block.name,
                } | jump
                return Witness(tuple(crossed), numbers)
        return None

    def singularity(self, issue: Issue) -> Witness | None:
        """A point at which the block's output is undefined, or near which it is unbounded."""
        node, atom = self.graph[issue.node], self.atoms[issue.node]
        operand = _divisor(node, atom)
        if operand is None:
            return None
        for line in self.lines():
            numbers = line.undefined(issue.node, operand) or line.pole(operand)
            if numbers is not None:
                return Witness(
                    (issue.node,), {"line": line.name, "block": self.block.name} | numbers
                )
        return None


class _Line:
    """t -> theta_0 + t * d in parameter space, data fixed."""

    def __init__(self, search: _Search, seed: int, scale: float) -> None:
        self.search = search
        self.name = f"seed {seed}, scale {scale:g}"
        generator = torch.Generator().manual_seed(seed)
        values = leaves(search.graph, search.analysis.chain.problem)
        self.start: dict[int, Tensor] = {}
        self.direction: dict[int, Tensor] = {}
        for node in search.parameters:
            p = values[node.index].detach().to(torch.float64)
            size = float(p.square().mean().sqrt()) if p.numel() else 0.0
            size = size or 1.0 / math.sqrt(max(1, p.shape[-1] if p.dim() > 1 else 1))
            noise = torch.randn(2, *p.shape, generator=generator, dtype=torch.float64).to(p.device)
            self.start[node.index] = p + (0.3 * size * noise[0] if seed else 0.0)
            self.direction[node.index] = scale * size * noise[1]

    def values(self, t: float, choices: Choices | None = None) -> dict[int, Any]:
        """All values at ``t``; with ``choices``, of the function that takes these branches."""
        with torch.no_grad():
            return self._evaluated(self._point(t), choices or {})

    def _point(self, t: float) -> dict[int, Tensor]:
        return {i: p + t * self.direction[i] for i, p in self.start.items()}

    def _evaluated(self, point: Mapping[int, Tensor], choices: Choices) -> dict[int, Any]:
        search = self.search

        def rule(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if node.index in choices:
                return _frozen(search.atoms[node.index], choices[node.index], args, kwargs)
            return _exact(node, args, kwargs)

        return evaluate(search.graph, {**search.fixed, **point}, search.needed, rule)

    def output(self, t: float, choices: Choices) -> np.ndarray:
        """The block's output at ``t``, flat."""
        return self._joined(self.values(t, choices)).cpu().numpy()

    def _joined(self, values: Mapping[int, Any]) -> Tensor:
        """The block's output among ``values``, flat, as real numbers."""
        exits = [values[i] for i in self.search.exits]
        real = [torch.view_as_real(v) if v.is_complex() else v.to(torch.float64) for v in exits]
        return torch.cat([v.flatten() for v in real])

    def significant(self, jump: Mapping[str, Any], t: float, branches: Sequence[Choices]) -> bool:
        """Whether the jump is larger than what rounding in the op sequence can make of nothing.

        First order: the sum over intermediate values v of eps |v| |d output / d v|.
        """
        noise = 0.0
        for choices in branches:
            try:
                with foreign(InputError):
                    noise += self._rounding(t, choices, int(jump["entry"]))
            except InputError:  # an op without derivative: nothing is known of its rounding
                return False
        size = abs(jump["jump"]) * jump["step"] ** jump["order"] / math.factorial(jump["order"])
        return bool(size > SIGNIFICANCE * noise)

    def _rounding(self, t: float, choices: Choices, entry: int) -> float:
        point = {i: p.requires_grad_() for i, p in self._point(t).items()}
        with torch.enable_grad():
            values = self._evaluated(point, choices)
            output = self._joined(values)[entry]
            inner = [
                v for i in self.search.needed
                if isinstance(v := values[i], Tensor) and v.requires_grad
            ]  # fmt: skip
            if not output.requires_grad:
                return 0.0
            adjoints = torch.autograd.grad(output, inner, allow_unused=True)
        terms = [
            float(torch.nan_to_num(v.detach().abs() * a.abs(), nan=0.0).sum())
            for v, a in zip(inner, adjoints, strict=True)
            if a is not None
        ]
        return float(np.finfo(float).eps) * sum(terms)

    def choices(self, t: float) -> Choices:
        """The branch that every entry of every branching op takes at ``t``."""
        values = self.values(t)
        return {i: self._choice(values, i) for i in self.search.branching}

    def _choice(self, values: Mapping[int, Any], index: int) -> Any:
        node, atom = self.search.graph[index], self.search.atoms[index]
        if isinstance(atom, Pointwise):
            kinks = torch.tensor([k.at for k in atom.kinks], dtype=torch.float64)
            operand = values[node.operands[0]].contiguous()
            return torch.bucketize(operand, kinks.to(operand.device))
        if isinstance(atom, Selection):
            assert atom.choice is not None
            args = substitute(node.args, values.__getitem__)
            kwargs = substitute(node.kwargs, values.__getitem__)
            return atom.choice(args, kwargs, values[index])
        return values[index]

    def crossings(self, index: int) -> Iterator[tuple[float, float]]:
        """Short brackets [a, b] in which the choice at ``index`` changes: one per grid cell."""
        grid = np.linspace(-1.0, 1.0, POINTS)
        seen = [self._choice(self.values(t), index) for t in grid]
        found = 0
        for k in range(POINTS - 1):
            if seen[k].shape != seen[k + 1].shape:
                return  # a shape that depends on values: entries cannot be followed
            differ = (seen[k] != seen[k + 1]).flatten()
            if bool(differ.any()) and found < 3:
                found += 1
                entry = int(differ.nonzero()[0])
                yield self._bisected(index, entry, float(grid[k]), float(grid[k + 1]))

    def _bisected(self, index: int, entry: int, a: float, b: float) -> tuple[float, float]:
        before = self._choice(self.values(a), index).flatten()[entry]

        def unchanged(t: float) -> bool:
            return bool(self._choice(self.values(t), index).flatten()[entry] == before)

        return _bisected(unchanged, a, b, 1e-13)

    # --- singular points --------------------------------------------------------------------------

    def undefined(self, index: int, operand: int) -> dict[str, Any] | None:
        """A grid point where the op's argument is outside of its domain and the output is not
        a number."""
        atom = self.search.atoms[index]
        if not isinstance(atom, Pointwise):
            return None
        for t in np.linspace(-1.0, 1.0, POINTS):
            values = self.values(float(t))
            u = values[operand]
            outside = torch.ones_like(u, dtype=torch.bool)
            for part in atom.analytic_on:
                outside &= (u < part.lo) | (u > part.hi)
            entering = [u, *(values[i] for i in self.search.entries)]
            if not bool(outside.any()) or not all(bool(v.isfinite().all()) for v in entering):
                continue
            if self._undefined_here(values, index):
                argument = float(u[outside].flatten()[0])
                return {"t": float(t), "argument": argument, "output": "nan"}
        return None

    def _undefined_here(self, values: Mapping[int, Any], index: int) -> bool:
        """Whether the output is not a number because the op at ``index`` is not, and only it."""
        after = {index}
        for i in self.search.needed:
            if i > index and after.intersection(self.search.graph[i].operands):
                after.add(i)
        others = [values[i] for i in self.search.needed if i not in after]
        clean = all(
            bool(v.isfinite().all())
            for v in others
            if isinstance(v, Tensor) and v.dtype.is_floating_point
        )
        here = bool(torch.isnan(values[index]).any())
        return clean and here and bool(torch.isnan(self._joined(values)).any())

    def pole(self, operand: int) -> dict[str, Any] | None:
        """A zero of the divisor near which the output grows without bound."""
        grid = np.linspace(-1.0, 1.0, POINTS)
        signs = [torch.sign(self.values(float(t))[operand]) for t in grid]
        for k in range(POINTS - 1):
            flipped = (signs[k] * signs[k + 1] < 0).flatten()
            if not bool(flipped.any()):
                continue
            entry = int(flipped.nonzero()[0])
            a, b = float(grid[k]), float(grid[k + 1])
            sign = float(signs[k].flatten()[entry])

            def unchanged(t: float, entry: int = entry, sign: float = sign) -> bool:
                return float(torch.sign(self.values(t)[operand]).flatten()[entry]) == sign

            a, b = _bisected(unchanged, a, b, 1e-14)
            sizes = [float(np.abs(self.output(a - h, {})).max()) for h in (1e-3, 1e-5, 1e-7)]
            if (
                all(math.isfinite(s) for s in sizes)
                and sizes[1] > 20 * sizes[0]
                and sizes[2] > 20 * sizes[1]
            ):
                return {"t": a, "distances": [1e-3, 1e-5, 1e-7], "largest outputs": sizes}
        return None


def _bisected(
    unchanged: Callable[[float], bool], a: float, b: float, tolerance: float
) -> tuple[float, float]:
    """A bracket of the change, ``unchanged`` at its left end and not at its right one."""
    while b - a > tolerance * (1.0 + abs(a)):
        middle = (a + b) / 2
        if middle in (a, b):
            break
        a, b = (middle, b) if unchanged(middle) else (a, middle)
    return a, b


def _divisor(node: Node, atom: Atom | None) -> int | None:
    """The operand that must stay away from the singularity."""
    if isinstance(atom, Pointwise):
        return node.operands[0]
    if isinstance(atom, Bilinear) and atom.divides is not None:
        divisor = node.args[atom.divides]
        return divisor.index if isinstance(divisor, Ref) else None
    return None


def _jump(
    left: Callable[[float], np.ndarray],
    right: Callable[[float], np.ndarray],
    at: float,
    width: float,
) -> dict[str, Any] | None:
    """The lowest derivative at ``at`` in which two analytic functions differ; None: none found.

    The same entry is interpolated in three windows; the jump must not depend on the window.
    """
    nodes = np.cos(np.pi * (np.arange(11) + 0.5) / 11)
    estimates = []
    entry: int | None = None
    for h in (width, width / 2, width / 4):
        points = at + h * nodes
        a = np.stack([left(float(t)) for t in points])
        b = np.stack([right(float(t)) for t in points])
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return None
        difference = np.abs(a - b).max(axis=0)
        if entry is None:
            entry = int(np.argmax(difference / np.maximum(np.abs(a).max(axis=0), 1e-300)))
        size = max(float(np.abs(a[:, entry]).max()), float(np.abs(b[:, entry]).max()))
        if not difference[entry] > ROUNDING * size:
            return None
        domain = [at - h, at + h]
        fits = [Chebyshev.fit(points, y[:, entry], 10, domain=domain) for y in (a, b, b - a)]
        estimates.append([[float(f.deriv(k)(at) if k else f(at)) for k in ORDERS] for f in fits]
                         + [float(difference[entry]), h])  # fmt: skip
    return _lowest(estimates, entry)


def _lowest(estimates: Sequence[Any], entry: int | None) -> dict[str, Any] | None:
    lefts, rights, jumps, size, h = estimates[-1]
    for k in ORDERS:
        if abs(jumps[k]) * h**k / math.factorial(k) < 0.05 * size:
            continue  # this order explains nothing of the difference: it is rounding
        if k == 0 and abs(jumps[0]) < 1e-8 * max(abs(lefts[0]), abs(rights[0])):
            return None  # a continuous value taken for a choice
        values = [e[2][k] for e in estimates]
        spread = max(values) - min(values)
        if spread > STABLE * abs(jumps[k]):
            return None
        return {
            "entry": entry, "order": k, "left": lefts[k], "right": rights[k], "jump": jumps[k],
            "step": h, "spread": spread,
        }  # fmt: skip
    return None


def _exact(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The op in float64 whatever precision the model asks for: casts are the identity."""
    return call(node, _doubled(args), _doubled(kwargs))


def _doubled(value: Any) -> Any:
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.to(torch.float64)
    if isinstance(value, (tuple, list)):
        return type(value)(_doubled(v) for v in value)
    if isinstance(value, Mapping):
        return {k: _doubled(v) for k, v in value.items()}
    return value


def _frozen(
    atom: Atom | None, choice: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """The op's value on the branch ``choice``, whatever its arguments are."""
    if isinstance(atom, Pointwise):
        args, kwargs = _doubled(args), _doubled(kwargs)
        value = atom.pieces[0](*args, **kwargs)
        for k, piece in enumerate(atom.pieces[1:], 1):
            value = torch.where(choice >= k, piece(*args, **kwargs), value)
        return value
    if isinstance(atom, Selection):
        assert atom.chosen is not None
        return atom.chosen(choice, *_doubled(args), **_doubled(kwargs))
    return choice
