"""What the clauses decide from: a chain, its interpretations, and the numbers beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from attrs import evolve, frozen

from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import Block, BlockChain
from blockframe.domains.analyticity import Analyticity, Issue, analyticity
from blockframe.domains.constants import fold
from blockframe.domains.dependence import dependence
from blockframe.domains.range import Range, ranges
from blockframe.dynamics.losses import LOSSES, Loss
from blockframe.errors import InputError
from blockframe.foreign import foreign
from blockframe.graph.capture import run_forward
from blockframe.graph.graph import Graph, Location
from blockframe.graph.guard import Objection, left_behind, objections
from blockframe.graph.patterns import recognise
from blockframe.graph.watch import changed, state
from blockframe.problem import Problem

_LOSSES: Mapping[str, Loss] = {loss.name: loss for loss in LOSSES}


@frozen(eq=False)
class Analysis:
    """One chain in every domain; each interpretation is made when it is first asked for.

    Attributes:
        chain: the chain that is decided about.
        proxy: the analysis of the problem's proxy, where its own parameters hold no numbers.
        objections: what speaks against the graph standing for the module, found by running it;
            None where nothing could be run.
        losses: those that a problem may name, by name.
    """

    chain: BlockChain
    proxy: Analysis | None = None
    objections: tuple[Objection, ...] | None = None
    losses: Mapping[str, Loss] = _LOSSES

    @classmethod
    def of(
        cls,
        problem: Problem,
        catalogue: Catalogue,
        cut: Callable[[BlockChain], BlockChain] = lambda chain: chain,
        losses: Mapping[str, Loss] = _LOSSES,
    ) -> Analysis:
        """Capture ``problem`` (and its proxy, where it has no numbers itself), in float64.

        Args:
            cut: gives a chain its final blocks.
            losses: those that the problem may name, by name; by default the core's.

        Raises:
            InputError, CaptureError: see `BlockChain.of`.
        """
        if problem.has_weights:
            exact, left = precise(problem)
            chain = cut(BlockChain.of(exact, catalogue))
            found = objections(exact, chain.graph, original=problem.module)
            stopped = any(o.code == "A301" for o in found)
            harmless = cls(chain)._stopped_without_effect if stopped else ()
            kept = [o for o in found if o.code != "A301" or (o.op, o.location) not in harmless]
            return cls(chain, objections=(*left_behind(left), *kept), losses=losses)
        chain = cut(BlockChain.of(problem, catalogue))
        if problem.proxy is None:
            return cls(chain, losses=losses)
        proxy = cls.of(problem.proxy, catalogue, cut, losses)
        return cls(chain, proxy, proxy.objections, losses)

    @property
    def measured(self) -> Analysis | None:
        """The analysis of a problem whose parameters hold numbers: this one or its proxy's."""
        return self if self.chain.problem.has_weights else self.proxy

    @property
    def loss(self) -> Loss | None:
        """The loss of the problem; None where its name is not known."""
        return self.losses.get(self.chain.problem.loss)

    @cached_property
    def replay_exact(self) -> bool | None:
        """Whether the chain replays the module bit for bit; None off the CPU."""
        if any(o.code == "A904" for o in self.objections or ()):
            return False
        if any(x.device.type != "cpu" for x in self.chain.problem.inputs):
            return None
        return self.chain.replay_difference() == 0.0

    @cached_property
    def graph(self) -> Graph:
        """The graph that is interpreted: composite ops written out, and functions that are spelled
        out recognised. Every node stands where it does in `BlockChain.expanded`; what only a
        recognised function used is in no block."""
        written_out = self.chain.expanded.graph
        return recognise(written_out, self.varies, self.constants, self.chain.owners)

    @property
    def _stopped_without_effect(self) -> frozenset[tuple[str, Location | None]]:
        """Where gradients are stopped only of what a recognised function does not depend on, such
        as the maximum that a softmax is shifted by: names of torch functions, and lines."""
        shown = [n for n in self.graph if n.op == "aten::detach"]
        live = {n.location for n in shown if n.index in self.graph.live}
        names = set()
        for node in shown:
            source = self.graph[node.operands[0]]
            if source.op == "getitem":
                source = self.graph[source.operands[0]]
            if node.location not in live:
                names |= {("detach", node.location), (source.short, node.location)}
        return frozenset(names)

    @cached_property
    def varies(self) -> Sequence[bool]:
        return dependence(self.chain.expanded.graph, self.chain.catalogue)

    @cached_property
    def constants(self) -> Mapping[int, Any]:
        chain = self.chain
        return fold(chain.expanded.graph, chain.problem, self.varies, chain.catalogue)

    @cached_property
    def ranges(self) -> Sequence[Range]:
        return ranges(self.graph, self.constants, self.chain.catalogue)

    @cached_property
    def analyticity(self) -> Analyticity:
        return analyticity(
            self.graph, self.varies, self.ranges, self.constants, self.chain.catalogue
        )

    def entries(self, block: Block) -> tuple[int, ...]:
        """The nodes of `graph` that are the state before ``block``."""
        return tuple(p for i in block.entry for p in self.chain.expanded.places[i])

    def owned(self, block: Block) -> list[int]:
        """The varying nodes of `graph` that belong to ``block``, in order."""
        return list(self._owned.get(id(block), ()))

    @cached_property
    def _owned(self) -> Mapping[int, Sequence[int]]:
        """The same of every block, by its identity."""
        found: dict[int, list[int]] = {}
        for index in sorted(self.graph.live):
            owner = self.chain.owners.get(self.graph[index].origin)
            if owner is not None and self.varies[index]:
                found.setdefault(id(owner), []).append(index)
        return found

    def owns(self, block: Block, index: int) -> bool:
        """Whether node ``index`` of `graph` belongs to ``block``."""
        owner = self.chain.owners.get(self.graph[index].origin)
        return owner is block and index in self.graph.live

    def exits(self, block: Block) -> tuple[int, ...]:
        """The nodes of `graph` that are the state after ``block``."""
        return tuple(p for i in block.exit for p in self.chain.expanded.places[i])

    def issues(self, block: Block) -> list[Issue]:
        """The issues that arise in ``block`` and reach its output."""
        return [
            issue
            for issue in self.analyticity.reaching(*self.exits(block))
            if self.owns(block, issue.node)
        ]


def precise(problem: Problem) -> tuple[Problem, list[str]]:
    """``problem`` in float64, on a copy; itself where that cannot be: the module cannot be copied,
    or it asks for a precision of its own in a way that does not let it run in another.

    Also the attributes of the module that its first forward changed.

    Raises:
        InputError: the forward does not run in its own precision either.
    """
    try:
        with foreign(InputError):
            module = copy.deepcopy(problem.module).double()
    except InputError:
        return problem, _first_run(problem)
    exact = evolve(
        problem,
        module=module,
        inputs=tuple(_double(x) for x in problem.inputs),
        keywords={k: _double(v) for k, v in problem.keywords.items()},
    )
    try:
        return exact, _first_run(exact)
    except InputError:
        return problem, _first_run(problem)


def _first_run(problem: Problem) -> list[str]:
    before = state(problem.module)
    run_forward(problem, grad=True)
    return changed(before, state(problem.module))


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.to(torch.float64)
    return value
