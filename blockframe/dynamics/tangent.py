"""The tangent Gram matrix K = DF DFᵀ at one θ (docs/theory sections 1 and 4).

DF, (Nc, P), is never held. What one backward of the outputs gives is the cotangents at every
operation that uses a parameter; where samples do not mix, one backward serves all N of them, so
that Nc/N are enough instead of Nc. From there on:

- the weight and bias of a linear layer are contracted: with h the layer's inputs and δ the
  cotangents of its outputs, K_W = Σ_ts ⟨δ_t, δ'_s⟩⟨h_t, h'_s⟩ over positions t, s of two samples;
- other parameters (shared ones, embeddings, norms, convolutions) get their columns of DF, block
  by block, by differentiating the operations that use them, each on its own;
- what cannot be had so gets its columns by backward passes through the whole network.

Nothing here is trusted: that samples do not mix, and that the uses that were seen are all and
compute what they did, is tested at this θ with random cotangents, which a difference of the two
linear maps escapes with probability 0. What fails goes the last way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from blockframe.dynamics.arithmetic import IdentityCasts
from blockframe.dynamics.probes.probe import Unavailable

if TYPE_CHECKING:
    from blockframe.dynamics.objective import Objective

LARGEST = 4096
"""Rows of K at most: its eigenvalues then take a minute or so."""
BUDGET = 2**28
"""Bytes that a block of columns of DF, and one of cotangents, may take each. K is held beside."""
PASSES = 64
"""Blocks of columns at most; each takes a backward pass of its own."""


class TangentTooLarge(Unavailable):
    """The tangent Gram matrix of this network on these data is too large."""


@frozen(eq=False)
class Spectrum:
    """The eigenvalues of a Gram matrix.

    Attributes:
        values: ascending.
        error: n·ε·λ_max, ε of the arithmetic that the matrix was made in: what rounding may have
            moved an eigenvalue by. The usual size of a backward error, no proof.
    """

    values: NDArray[np.float64]
    error: float

    @classmethod
    def of(cls, gram: Tensor, unit_roundoff: float) -> Spectrum:
        """By dense eigenvalues in float64; NaN where an entry is not finite."""
        if not bool(torch.isfinite(gram).all()):
            return cls(np.full(len(gram), np.nan), float("nan"))
        values: NDArray[np.float64] = torch.linalg.eigvalsh(gram.double()).cpu().numpy()
        eps = 2 * max(unit_roundoff, 2.0**-53)
        return cls(values, len(values) * eps * float(np.abs(values).max()))

    @property
    def least(self) -> float:
        """λ_min as computed; it may be below 0 by the error."""
        return float(self.values[0])

    @property
    def surely(self) -> float:
        """λ_min less its error, and at least 0: what may decide something."""
        return float(np.maximum(0.0, self.values[0] - self.error))  # a NaN stays one

    @property
    def effective_rank(self) -> float:
        """(Σλ)²/Σλ²: n for equal eigenvalues, 1 if one dominates; NaN for the zero matrix."""
        squares = float(self.values @ self.values)
        total = float(self.values.sum())
        return total * total / squares if squares else float("nan")


def tangent_gram(objective: Objective, theta: Tensor, *, budget: int = BUDGET) -> Tensor:
    """K = DF DFᵀ at θ (P,): (Nc, Nc), float64, rows as in ``outputs.flatten()``.

    The derivatives are taken in the objective's arithmetic and contracted in float64.

    Raises:
        TangentTooLarge: more than `LARGEST` rows, or more than `PASSES` blocks of columns that fit
            ``budget``.
        NetworkError: forward or backward raise.
    """
    leaves = {n: p.clone().requires_grad_() for n, p in objective.parameters(theta).items()}
    targets = objective.targets
    seen = _Uses(leaves, targets.shape[0] if targets.ndim else 1)
    with objective.arithmetic.kernels(), seen:
        outputs = objective.outputs(leaves)
    _check_size(outputs.numel())
    if not outputs.requires_grad:
        return torch.zeros(2 * (outputs.numel(),), dtype=torch.float64, device=outputs.device)
    return _Contraction(objective, leaves, outputs, seen, budget).gram()


@frozen(eq=False)
class _Use:
    """One call of a torch function with parameters, or what is made of parameters only.

    Attributes:
        edge: where its output stands in the graph; a later in-place operation does not change it.
        sources: the parameters, or tensors made of parameters.
        versions: of the tensors among its arguments, before the call.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    edge: GradientEdge
    shape: torch.Size
    sources: tuple[Tensor, ...]
    versions: tuple[int, ...]

    @property
    def tensors(self) -> list[Tensor]:
        return _tensors((self.arguments, self.keywords))

    @property
    def unchanged(self) -> bool:
        return tuple(t._version for t in self.tensors) == self.versions

    @property
    def linear(self) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """(inputs, weight, bias) if it is xW, xWᵀ or that plus a bias; W is a matrix."""
        if self.keywords:
            return None
        f, a = self.function, self.arguments
        x, weight, bias = None, None, None
        if f is functional.linear:
            x, weight, bias = (*a, None)[:3]
        elif f is torch.addmm and len(a) == 3:
            bias, x, weight = a
        elif f in _PRODUCTS and len(a) == 2:
            x, weight = a
        if not isinstance(x, Tensor) or not isinstance(weight, Tensor) or weight.ndim != 2:
            return None
        if bias is not None and bias.shape != self.shape[-1:]:
            return None
        return (x, weight, bias) if x.ndim > 1 else None

    def replay(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Its output, made again from its arguments as they were, and the leaves in place of the
        sources. A graph of this one operation."""
        fresh = {id(s): s.detach().clone().requires_grad_() for s in self.sources}

        def put(x: Any) -> Any:
            return fresh.get(id(x), x.detach()) if isinstance(x, Tensor) else x

        arguments, keywords = pytree.tree_map(put, (self.arguments, dict(self.keywords)))
        return self.function(*arguments, **keywords), tuple(fresh[id(s)] for s in self.sources)


_PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)


class _Uses(TorchFunctionMode):
    """Watches a forward for its uses of parameters.

    A call without an argument that has a number for every sample gives again something that is
    made of parameters only (a transpose, a cast, a table of positions): what counts is its use.

    Attributes:
        size: numbers in all values together, about what a backward holds for one cotangent.
    """

    def __init__(self, leaves: Mapping[str, Tensor], samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.uses: list[_Use] = []
        self.size = 0
        self._sources = {id(p): p for p in leaves.values()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        versions = tuple(t._version for t in tensors)
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor):
            return out
        self.size += out.numel()
        sources = {id(t): t for t in tensors if id(t) in self._sources}
        if sources and out.requires_grad and id(out) not in sources:
            others = [t for t in tensors if id(t) not in sources]
            if any(self._of_samples(t.shape) for t in others) and self._of_samples(out.shape):
                edge = get_gradient_edge(out)
                use = _Use(func, args, kwargs, edge, out.shape, tuple(sources.values()), versions)
                self.uses.append(use)
                if use.linear and out._is_view():
                    # An in-place operation on a view would take its edge out of the graph.
                    return out.clone()
            else:
                self._sources[id(out)] = out
        return out

    def _of_samples(self, shape: Sequence[int]) -> bool:
        return len(shape) > 0 and shape[0] > 0 and shape[0] % self.samples == 0


class _Contraction:
    """One graph of the outputs, and K from it."""

    def __init__(
        self,
        objective: Objective,
        leaves: Mapping[str, Tensor],
        outputs: Tensor,
        seen: _Uses,
        budget: int,
    ) -> None:
        self._objective = objective
        self._leaves = leaves
        self._outputs = outputs
        self._budget = budget
        self._size = 8 * max(1, seen.size)  # bytes that one cotangent takes in a backward
        fits = outputs.ndim > 0 and outputs.shape[0] == seen.samples
        self._samples = seen.samples if fits else 1
        self._each = outputs.numel() // self._samples  # rows of one sample
        self._uses = self._separate([u for u in seen.uses if u.unchanged]) if fits else []
        self._held: dict[int, Tensor] = {}  # cotangents of all rows, where they all fit
        self._replays: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}
        self._users: dict[str, list[_Use]] = {n: [] for n in leaves}
        for use in self._uses:
            for name in self._differentiated(use):
                self._users[name].append(use)

    def gram(self) -> Tensor:
        """K, (Nc, Nc), float64."""
        rows = self._outputs.numel()
        gram = torch.zeros(rows, rows, dtype=torch.float64, device=self._outputs.device)
        complete = self._complete()
        if sum(self._cotangent_bytes(u) for u in self._uses) <= self._budget:
            found = self._cotangents(self._uses)
            self._held = {id(u): d for u, d in zip(self._uses, found, strict=True)}
        done = self._add_linear(gram, complete)
        local = [n for n in complete if n not in done and self._users[n]]
        whole = [n for n in self._leaves if n not in complete]
        _check_columns(rows, sum(self._leaves[n].numel() for n in (*local, *whole)), self._budget)
        self._add_columns(gram, local, self._local_rows)
        self._add_columns(gram, whole, self._whole_rows)
        return gram

    # --- what may be relied on ------------------------------------------------------------------

    def _separate(self, uses: list[_Use]) -> list[_Use]:
        """The uses at which an output of a sample has cotangents in the rows of this sample only.

        Every two samples differ in a binary digit of their numbers: one is in a set of samples on
        which a random cotangent lives, and the other, where nothing must arrive, is not.
        """
        if not uses:
            return []
        n = self._samples
        numbers = torch.arange(n, device=self._outputs.device)
        digits = [(numbers >> b) & 1 == 1 for b in range(max(1, (n - 1).bit_length()))]
        inside = torch.stack([s for d in digits for s in (d, ~d)])
        alone = [True] * len(uses)
        for some in torch.split(inside, self._chunk(self._size)):
            random = self._random(len(some)).view(len(some), n, -1) * some[:, :, None]
            for i, d in enumerate(self._at_uses(uses, random)):
                outside = d.reshape(len(some), n, -1)[~some]
                alone[i] = alone[i] and bool((outside == 0).all())
        return [u for u, yes in zip(uses, alone, strict=True) if yes]

    def _complete(self) -> list[str]:
        """The parameters whose gradient, of a random combination of outputs, is what their uses
        give together, as far as rounding allows."""
        if not self._uses:
            return []
        u, names = self._random(1), list(self._leaves)
        true = self._through_all(u, names)
        given = self._through_uses(self._uses, self._at_uses(self._uses, u), names)
        allowed = 1e3 * torch.finfo(u.dtype).eps * float(true.norm())
        sizes = [self._leaves[n].numel() for n in names]
        differences = torch.split((true - given)[0], sizes)
        return [n for n, d in zip(names, differences, strict=True) if float(d.norm()) <= allowed]

    def _differentiated(self, use: _Use) -> list[str]:
        """The parameters that the sources of a use are, or are made of."""
        leaves = list(self._leaves.values())
        total = sum((s.sum() for s in use.sources), torch.zeros(()))
        found = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
        return [n for n, g in zip(self._leaves, found, strict=True) if g is not None]

    # --- linear layers --------------------------------------------------------------------------

    def _add_linear(self, gram: Tensor, complete: Sequence[str]) -> set[str]:
        """Adds the share of the matrices and biases of linear layers that are used once; their
        names."""
        layers: list[tuple[_Use, Tensor, set[str]]] = []
        done: set[str] = set()
        for use in self._uses:
            linear = use.linear
            if linear is None or self._cotangent_bytes(use) > self._budget:
                continue
            x, weight, bias = linear
            mine = {
                n
                for n in complete
                if self._users[n] == [use] and any(self._leaves[n] is p for p in (weight, bias))
            }
            if mine and not any(x is s for s in use.sources):
                layers.append((use, x, mine))
        while layers:
            fit = _prefix([self._cotangent_bytes(use) for use, _, _ in layers], self._budget)
            group, layers = layers[:fit], layers[fit:]
            uses = [use for use, _, _ in group]
            for (use, x, mine), d in zip(group, self._cotangents(uses), strict=True):
                width = use.shape[-1]
                delta = d.view(self._each, self._samples, -1, width).transpose(0, 1).double()
                matrix = [n for n in mine if self._leaves[n].ndim == 2]
                if matrix:
                    h = x.detach().reshape(self._samples, -1, x.shape[-1]).double()
                    _add_matrix(gram, delta, h, self._budget)
                if len(mine) > len(matrix):
                    bias = delta.sum(2).flatten(0, 1)
                    gram.addmm_(bias, bias.T)
                done |= mine
        return done

    def _cotangent_bytes(self, use: _Use) -> int:
        """Of the cotangents of all rows at a use."""
        return 8 * self._each * use.shape.numel()

    # --- columns of DF --------------------------------------------------------------------------

    def _add_columns(
        self,
        gram: Tensor,
        names: Sequence[str],
        rows: Callable[[Sequence[str]], Iterator[tuple[Tensor | slice, Tensor]]],
    ) -> None:
        """Adds the share of whole parameters, as many at a time as fit; a large one in parts.

        ``rows`` gives the rows of DF in the columns of some parameters, bit by bit.
        """
        count, left = len(gram), list(names)
        while left:
            fit = _prefix([8 * count * self._leaves[n].numel() for n in left], self._budget)
            group, left = left[:fit], left[fit:]
            width = sum(self._leaves[n].numel() for n in group)
            for columns in _ranges(width, max(1, self._budget // (8 * count))):
                part = gram.new_zeros(count, columns.stop - columns.start)
                for index, found in rows(group):
                    part[index] = found[:, columns].double()
                gram.addmm_(part, part.T)

    def _whole_rows(self, names: Sequence[str]) -> Iterator[tuple[slice, Tensor]]:
        width = sum(self._leaves[n].numel() for n in names)
        count = self._outputs.numel()
        for rows in _ranges(count, self._chunk(self._size + 8 * width)):
            unit = self._outputs.new_zeros(rows.stop - rows.start, count)
            unit[:, rows].fill_diagonal_(1)
            yield rows, self._through_all(unit, names)

    def _local_rows(self, names: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        uses = [u for u in self._uses if any(u in self._users[n] for n in names)]
        width = sum(self._leaves[n].numel() for n in names)
        values = sum(u.shape.numel() for u in uses)
        room = self._chunk(8 * (width + 3 * values))  # a cotangent, its product, and a copy
        device = self._outputs.device
        for rows, found in self._output_by_output(uses, room):
            count = rows.stop - rows.start
            for some in _ranges(self._samples, max(1, room // count)):
                samples = torch.arange(some.start, some.stop, device=device)
                each = torch.arange(len(samples), device=device)
                alone = []
                for use, d in zip(uses, found, strict=True):
                    parts = d.view(count, self._samples, -1)
                    only = d.new_zeros(count, len(samples), *parts.shape[1:])
                    only[:, each, samples] = parts[:, some]
                    alone.append(only.view(-1, *use.shape))
                output = torch.arange(rows.start, rows.stop, device=device)
                index = output[:, None] + self._each * samples
                yield index.flatten(), self._through_uses(uses, alone, names)

    # --- products with transposed Jacobians -----------------------------------------------------

    def _cotangents(self, uses: Sequence[_Use]) -> list[Tensor]:
        """The cotangents of all rows at some uses, (outputs of a sample, *shape)."""
        if all(id(u) in self._held for u in uses):
            return [self._held[id(u)] for u in uses]
        whole = [self._outputs.new_empty(self._each, *u.shape) for u in uses]
        for rows, found in self._output_by_output(uses, self._each):
            for place, d in zip(whole, found, strict=True):
                place[rows] = d
        return whole

    def _output_by_output(
        self, uses: Sequence[_Use], at_most: int
    ) -> Iterator[tuple[slice, list[Tensor]]]:
        """Some outputs of each sample, and the cotangents at the uses of their sums over the
        samples, (outputs, *shape): of each sample in its own rows."""
        if all(id(u) in self._held for u in uses):
            for rows in _ranges(self._each, at_most):
                yield rows, [self._held[id(u)][rows] for u in uses]
            return
        for rows in _ranges(self._each, min(self._chunk(self._size), at_most)):
            count = rows.stop - rows.start
            unit = self._outputs.new_zeros(count, self._samples, self._each)
            unit[:, :, rows] = torch.eye(count).to(unit)[:, None]
            yield rows, self._at_uses(uses, unit)

    def _at_uses(self, uses: Sequence[_Use], cotangents: Tensor) -> list[Tensor]:
        """For ``cotangents`` of the outputs, (k, …): those of the output of each use, (k, *shape);
        differentiated once more only by the use itself."""
        edges = [u.edge for u in uses]
        found = self._pull(self._outputs, edges, cotangents)
        shapes = [(len(cotangents), *u.shape) for u in uses]
        return [
            cotangents.new_zeros(s) if d is None else d for s, d in zip(shapes, found, strict=True)
        ]

    def _through_uses(
        self, uses: Sequence[_Use], cotangents: Sequence[Tensor], names: Sequence[str]
    ) -> Tensor:
        """For cotangents of the outputs of the uses: those of the parameters, (k, P of names)."""
        count, leaves = len(cotangents[0]), [self._leaves[n] for n in names]
        parts = [cotangents[0].new_zeros(count, p.numel()) for p in leaves]
        for use, d in zip(uses, cotangents, strict=True):
            out, fresh = self._replayed(use)
            for source, grads in zip(use.sources, self._pull(out, fresh, d), strict=True):
                if grads is None:
                    continue
                made = source.grad_fn is not None
                through = (
                    self._pull(source, leaves, grads)
                    if made
                    else [grads if p is source else None for p in leaves]
                )
                for part, g in zip(parts, through, strict=True):
                    if g is not None:
                        part += g.reshape(count, -1)
        return torch.cat(parts, 1)

    def _through_all(self, cotangents: Tensor, names: Sequence[str]) -> Tensor:
        """For cotangents of the outputs: those of the parameters, through the whole network."""
        leaves = [self._leaves[n] for n in names]
        found = self._pull(self._outputs, leaves, cotangents)
        count = len(cotangents)
        return torch.cat([
            cotangents.new_zeros(count, p.numel()) if g is None else g.reshape(count, -1)
            for p, g in zip(leaves, found, strict=True)
        ], 1)  # fmt: skip

    def _pull(
        self, of: Tensor, by: Sequence[Tensor | GradientEdge], cotangents: Tensor
    ) -> tuple[Tensor | None, ...]:
        return self._objective.pull_back(of, by, cotangents.view(-1, *of.shape))

    def _replayed(self, use: _Use) -> tuple[Tensor, tuple[Tensor, ...]]:
        if id(use) not in self._replays:
            arithmetic = self._objective.arithmetic
            with arithmetic.kernels(), IdentityCasts(arithmetic.dtype):
                self._replays[id(use)] = use.replay()
        return self._replays[id(use)]

    def _random(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._objective.seed)
        drawn = torch.randn(count, self._outputs.numel(), generator=generator, dtype=torch.float64)
        return drawn.to(self._outputs)

    def _chunk(self, size: int) -> int:
        """How many things of ``size`` bytes fit."""
        return max(1, self._budget // size)


def _add_matrix(gram: Tensor, delta: Tensor, h: Tensor, budget: int) -> None:
    """Adds the share of the matrix of a linear layer: of rows Σ_t δ_t h_tᵀ of DF.

    Args:
        delta: cotangents, (samples, outputs of each, positions, m).
        h: inputs, (samples, positions, n).

    By ⟨δ_t, δ'_s⟩⟨h_t, h'_s⟩ for each two samples if there are fewer positions than n, else by
    the rows themselves, some of the m at a time.
    """
    samples, each, positions, width = delta.shape
    if positions > h.shape[2]:
        step = max(1, budget // (8 * len(gram) * h.shape[2]))
        for columns in _ranges(width, step):
            part = torch.einsum("aqtm,ati->aqmi", delta[..., columns], h).reshape(len(gram), -1)
            gram.addmm_(part, part.T)
        return
    rows = delta.reshape(samples * each, positions * width)
    step = max(1, 256 // each) if positions == 1 else 1
    for some in _ranges(samples, step):
        first, last = some.start * each, some.stop * each
        if positions == 1:
            inner = h[some, 0] @ h[some.start :, 0].T
            block = rows[first:last] @ rows[first:].T
            block.view(len(inner), each, -1, each).mul_(inner[:, None, :, None])
        else:
            inner = torch.einsum("ti,bsi->bts", h[some.start], h[some.start :])
            weighted = inner[:, None] @ delta[some.start :]
            block = rows[first:last] @ weighted.reshape(-1, positions * width).T
        gram[first:last, first:] += block
        gram[last:, first:last] += block[:, last - first :].T


def _check_size(rows: int) -> None:
    if rows > LARGEST:
        raise TangentTooLarge(
            f"the tangent Gram matrix of {rows} outputs (samples × outputs of each) is too large, "
            f"{LARGEST} rows at most; the measured PL ratio (pl) stands in its place, and "
            "tangent_bound bounds λ_min from above",
            "Take fewer samples (--samples).",
        )


def _check_columns(rows: int, columns: int, budget: int) -> None:
    if 8 * rows * columns > PASSES * budget:
        raise TangentTooLarge(
            f"the tangent Gram matrix needs {rows} × {columns} derivatives of parameters that are "
            f"not those of a linear layer, more than {PASSES} blocks of {budget >> 20} MiB; the "
            "measured PL ratio (pl) stands in its place, and tangent_bound bounds λ_min from above",
            "Take fewer samples (--samples).",
        )


def _prefix(sizes: Sequence[int], budget: int) -> int:
    """How many from the front fit the budget together; at least one."""
    total = 0
    for i, size in enumerate(sizes):
        total += size
        if total > budget:
            return max(1, i)
    return len(sizes)


def _ranges(count: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]
