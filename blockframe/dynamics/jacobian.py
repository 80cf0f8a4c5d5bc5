"""Singular values of the input Jacobians of blocks at the data (docs/theory sections 1 and 3).

J = ∂z_l/∂z_{l-1} of the whole batch, (entries after, entries before). Where the rows of a state
(entries, positions, samples) do not mix in a block, J is block diagonal, and its singular values
are those of one small matrix for each row. That rows do not mix is tested at this θ with random
cotangents, which a difference escapes with probability 0; nothing is assumed of the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch import Tensor

from blockframe.dynamics.curvature import Accuracy, random_start, top_eigenpair
from blockframe.dynamics.ending import NetworkError
from blockframe.dynamics.iterate import NoSecondDerivative, check_twice_differentiable
from blockframe.graph.evaluate import as_function, evaluate

if TYPE_CHECKING:
    from blockframe.blocks import Block
    from blockframe.dynamics.objective import Objective
    from blockframe.dynamics.traced import Traced

ENTRIES = 2**27
"""Of the small matrices of a block together, at most: 1 GiB."""
WORK = 2**33
"""Rows × sides × the smaller side of these matrices, at most: some seconds."""
BUDGET = 2**28
"""Bytes of the cotangents that one backward takes."""
PRODUCTS = 200
"""With JᵀJ at most, where the matrices are too large."""
ACCURACY = Accuracy(relative=1e-8, residual=1e-6)
"""Of ‖J‖²; the bound adds the residual."""


@frozen
class Singular:
    """The range of the singular values of one block's input Jacobian.

    Attributes:
        least: of the min(rows, columns) singular values; None where the matrices are too large.
        largest: None where it was not found.
        excess: ‖J − I‖, of a residual block; None likewise. It is ‖DF‖ where the block is z + F(z).
    """

    least: float | None
    largest: float | None
    excess: float | None = None

    @property
    def bound(self) -> float | None:
        """1 − ‖J − I‖, at most the least singular value (docs/theory section 3)."""
        return None if self.excess is None else 1 - self.excess


def block_jacobians(traced: Traced, theta: Tensor) -> dict[str, Singular]:
    """The singular range of every block that a state enters, at θ (P,), by the block's name.

    Raises:
        NetworkError: the backward of a block raises.
    """
    return {
        block.name: _Map(traced.objective, before, after, block.residual is not None).singular()
        for block, before, after in _through(traced, theta)
    }


def _through(
    traced: Traced, theta: Tensor
) -> Iterator[tuple[Block, tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Every block with a state before it: that state, and the state after, with a graph."""
    chain = traced.analysis.chain
    with torch.no_grad(), traced.evaluating():
        fixed = traced.leaves(chain.graph, theta)
        still = [n.index for n in chain.graph if not chain.varies[n.index]]
        evaluate(chain.graph, fixed, still, as_function)
    state: dict[int, Any] = {}
    for block in chain.blocks:
        before = {i: _leaf(state[i]) for i in block.entry}
        with torch.enable_grad(), traced.evaluating():
            values = evaluate(chain.graph, fixed | before, block.nodes, as_function)
        after = {i: values[i] for i in block.exit}
        state = {i: v.detach() if isinstance(v, Tensor) else v for i, v in after.items()}
        ins, outs = (
            tuple(v for v in s.values() if isinstance(v, Tensor) and v.is_floating_point())
            for s in (before, after)
        )
        if ins and outs:
            yield block, ins, outs


def _leaf(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_()
    return value


class _Map:
    """One block as a map of its state, differentiable at one point."""

    def __init__(
        self,
        objective: Objective,
        before: tuple[Tensor, ...],
        after: tuple[Tensor, ...],
        residual: bool,
    ) -> None:
        self._objective = objective
        self._before = before
        # One vector, as the state before is taken as one: what is split is split from it.
        single = len(before) == len(after) == 1
        self._after = after[0] if single else torch.cat([z.flatten() for z in after])
        self._size = sum(z.numel() for z in before)
        self._ins: tuple[int, ...] = tuple(before[0].shape) if single else (self._size,)
        self._outs: tuple[int, ...] = tuple(self._after.shape)
        self._residual = residual and self._ins == self._outs

    def singular(self) -> Singular:
        if not self._after.requires_grad:  # it does not depend on the state
            return Singular(0.0, 0.0, 1.0 if self._residual else None)
        depth = self._depth()
        rows, n, m = (prod(s) for s in (self._ins[:depth], self._ins[depth:], self._outs[depth:]))
        if rows * m * n <= ENTRIES and rows * m * n * min(m, n) <= WORK:
            return self._dense(rows, m, n)
        return self._iterated()

    def _pull(self, cotangents: Tensor) -> Tensor:
        """Products with Jᵀ of cotangents (k, entries after): (k, entries before)."""
        k = len(cotangents)
        shaped = cotangents.view(k, *self._after.shape)
        found = self._objective.pull_back(self._after, self._before, shaped)
        parts = zip(self._before, found, strict=True)
        return torch.cat(
            [shaped.new_zeros(k, z.numel()) if d is None else d.reshape(k, -1) for z, d in parts], 1
        )

    def _chunks(self, count: int) -> list[range]:
        each = 8 * max(self._size, prod(self._outs))
        step = max(1, BUDGET // each)
        return [range(i, min(i + step, count)) for i in range(0, count, step)]

    def _depth(self) -> int:
        """How many leading dimensions of the state do not mix."""
        pairs = zip(self._ins, self._outs, strict=False)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        most = min(len(self._ins), len(self._outs)) if shared is None else shared
        return next(d for d in range(most, -1, -1) if d == 0 or self._separate(d))

    def _separate(self, depth: int) -> bool:
        """Whether outputs of a row have cotangents in that row only.

        Every two rows differ in a binary digit of their numbers: one is in a set of rows on which
        a random cotangent lives, and the other, where nothing must arrive, is not.
        """
        rows = prod(self._ins[:depth])
        numbers = torch.arange(rows, device=self._after.device)
        digits = [(numbers >> b) & 1 == 1 for b in range(max(1, (rows - 1).bit_length()))]
        inside = torch.stack([s for d in digits for s in (d, ~d)])
        generator = torch.Generator().manual_seed(self._objective.seed)
        for some in self._chunks(len(inside)):
            chosen = inside[some.start : some.stop]
            shape = (len(some), rows, prod(self._outs[depth:]))
            random = torch.randn(shape, generator=generator, dtype=torch.float64).to(self._after)
            found = self._pull((random * chosen[:, :, None]).view(len(some), -1))
            if bool((found.view(len(some), rows, -1)[~chosen] != 0).any()):
                return False
        return True

    def _dense(self, rows: int, m: int, n: int) -> Singular:
        """From the matrices themselves, by m backwards for all rows together."""
        jacobian = self._after.new_empty(rows, m, n)
        for some in self._chunks(m):
            unit = self._after.new_zeros(len(some), rows, m)
            unit[:, :, some.start : some.stop] = torch.eye(len(some)).to(unit)[:, None]
            found = self._pull(unit.view(len(some), -1)).view(len(some), rows, n)
            jacobian[:, some.start : some.stop] = found.transpose(0, 1)
        if bool((jacobian == jacobian[:1]).all()):  # a linear map: one matrix for all rows
            jacobian = jacobian[:1]
        values = _singular_values(jacobian)
        excess = None
        if self._residual:
            excess = float(_singular_values(jacobian - torch.eye(m).to(jacobian)).max())
        return Singular(float(values.min()), float(values.max()), excess)

    def _iterated(self) -> Singular:
        """The largest alone: by Lanczos with JᵀJ, whose values come from below."""
        try:
            largest = self._norm(0.0)
            excess = self._norm(1.0) if self._residual else None
        except (NetworkError, NoSecondDerivative):  # no product with J
            return Singular(None, None)
        return Singular(None, largest, excess)

    def _norm(self, shift: float) -> float | None:
        """‖J − shift·I‖ and the residual that Lanczos left; None if it did not converge."""
        cotangent = torch.zeros_like(self._after, requires_grad=True)
        differentiated = torch.cat([
            self._objective.differentiate(self._after, z, cotangent, create_graph=True).flatten()
            for z in self._before
        ])  # fmt: skip
        check_twice_differentiable(differentiated)

        def square(v: Tensor) -> Tensor:
            jv = torch.zeros_like(self._after)
            if differentiated.requires_grad:
                jv = self._objective.differentiate(
                    differentiated, cotangent, v, retain_graph=True
                ).detach()
            w = jv.flatten() - shift * v if shift else jv.flatten()
            found = self._pull(w[None])[0].detach()
            return found - shift * w if shift else found

        start = random_start(self._after.new_empty(self._size), self._objective.seed)
        pair = top_eigenpair(square, [start], ACCURACY, products=PRODUCTS).pair
        if not pair.converged:
            return None
        return sqrt(max(pair.value, 0.0) + (pair.residual if shift else 0.0))


def _singular_values(matrices: Tensor) -> Tensor:
    """Of (rows, m, n), in float64."""
    if matrices.shape[1:] == (1, 1):
        return matrices.double().abs()
    values: Tensor = torch.linalg.svdvals(matrices.double())
    return values
