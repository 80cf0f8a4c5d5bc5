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
from blockframe.errors import InputError
from blockframe.foreign import foreign
from blockframe.graph.capture import run_forward
from blockframe.graph.graph import Graph
from blockframe.graph.guard import Objection, left_behind, objections
from blockframe.graph.watch import changed, state
from blockframe.problem import Problem


@frozen(eq=False)
class Analysis:
    """One chain in every domain; each interpretation is made when it is first asked for.

    Attributes:
        chain: the chain that is decided about.
        proxy: the analysis of the problem's proxy, where its own parameters hold no numbers.
        objections: what speaks against the graph standing for the module, found by running it;
            None where nothing could be run.
    """

    chain: BlockChain
    proxy: Analysis | None = None
    objections: tuple[Objection, ...] | None = None

    @classmethod
    def of(
        cls,
        problem: Problem,
        catalogue: Catalogue,
        cut: Callable[[BlockChain], BlockChain] = lambda chain: chain,
    ) -> Analysis:
        """Capture ``problem`` (and its proxy, where it has no numbers itself), in float64.

        ``cut``: gives a chain its final blocks.

        Raises:
            InputError, CaptureError: see `BlockChain.of`.
        """
        if problem.has_weights:
            exact, left = precise(problem)
            chain = cut(BlockChain.of(exact, catalogue))
            found = objections(exact, chain.graph, original=problem.module)
            return cls(chain, objections=(*left_behind(left), *found))
        chain = cut(BlockChain.of(problem, catalogue))
        if problem.proxy is None:
            return cls(chain)
        proxy = cls.of(problem.proxy, catalogue, cut)
        return cls(chain, proxy, proxy.objections)

    @property
    def measured(self) -> Analysis | None:
        """The analysis of a problem whose parameters hold numbers: this one or its proxy's."""
        return self if self.chain.problem.has_weights else self.proxy

    @cached_property
    def replay_exact(self) -> bool | None:
        """Whether the chain replays the module bit for bit; None off the CPU."""
        if any(o.code == "A904" for o in self.objections or ()):
            return False
        if any(x.device.type != "cpu" for x in self.chain.problem.inputs):
            return None
        return self.chain.replay_difference() == 0.0

    @property
    def graph(self) -> Graph:
        """The graph that is interpreted: composite ops written out."""
        return self.chain.expanded.graph

    @cached_property
    def varies(self) -> Sequence[bool]:
        return dependence(self.graph, self.chain.catalogue)

    @cached_property
    def constants(self) -> Mapping[int, Any]:
        return fold(self.graph, self.chain.problem, self.varies, self.chain.catalogue)

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
        return [n.index for n in self.graph if self.varies[n.index] and self.owns(block, n.index)]

    def owns(self, block: Block, index: int) -> bool:
        """Whether node ``index`` of `graph` belongs to ``block``."""
        return self.chain.owners.get(self.graph[index].origin) is block

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
