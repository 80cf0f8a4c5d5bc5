"""The network of a run as its traced graph: for what is asked of single operations and blocks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch import Tensor

from blockframe.dynamics.arithmetic import IdentityCasts
from blockframe.dynamics.probes.probe import Unavailable
from blockframe.errors import BlockframeError
from blockframe.graph.evaluate import evaluate, leaves
from blockframe.graph.graph import Graph, NodeKind
from blockframe.problem import Problem

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.dynamics.objective import Objective

_UNITS, _MOST = 1e4, 0.05
"""How far graph and network may differ, in units of roundoff (and at most), relative to the largest
output."""


@frozen(eq=False)
class Traced:
    """The graph of an objective's network, to be evaluated at any θ.

    In the precision and on the device of the trace: in float64 wherever the network runs in it.
    """

    objective: Objective
    analysis: Analysis

    @classmethod
    def of(cls, objective: Objective) -> Traced:
        """The trace that the objective was given, or a new one with the core's catalogue.

        Raises:
            Unavailable: the network cannot be traced, or the graph does not compute at θ_0 what the
                network does; or the samples do not fit the memory at once.
            NetworkError: the forward raises.
        """
        if objective.budget is not None:
            objective.budget.admit_whole("the traced graph")
        traced = cls(objective, objective.analysis or _analysed(objective))
        traced._check()
        return traced

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """Every name of a parameter → the one that it has in θ."""
        module = self.analysis.chain.problem.module
        first = {id(p): n for n, p in module.named_parameters()}
        named = module.named_parameters(remove_duplicate=False)
        theta = frozenset(self.objective.names)
        return {n: first[id(p)] for n, p in named if first[id(p)] in theta}

    def leaves(self, graph: Graph, theta: Tensor) -> dict[int, Any]:
        """Values of the leaves of ``graph``, the parameters as θ (P,) has them."""
        values = leaves(graph, self.analysis.chain.problem)
        parts = torch.split(theta.detach(), self.objective.sizes)
        shapes = self.objective.shapes
        views = {n: p.view(s) for n, p, s in zip(self.objective.names, parts, shapes, strict=True)}
        for node in graph:
            name = self._names.get(node.target) if node.kind is NodeKind.PARAMETER else None
            if name is not None:
                values[node.index] = views[name].to(values[node.index])
        return {i: v.detach() if isinstance(v, Tensor) else v for i, v in values.items()}

    def values(self, theta: Tensor) -> dict[int, Any]:
        """Values of all nodes of the expanded graph at θ (P,), without a graph of their own."""
        graph = self.analysis.chain.expanded.graph
        with torch.no_grad(), self.evaluating():
            return evaluate(graph, self.leaves(graph, theta))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Surroundings for the graph like those in which an objective evaluates its network."""
        first = next(self.analysis.chain.problem.module.parameters())
        with self.objective.arithmetic.kernels(), IdentityCasts(first.dtype):
            yield

    def _check(self) -> None:
        objective, graph = self.objective, self.analysis.chain.expanded.graph
        with torch.no_grad(), objective.arithmetic.kernels():
            expected = objective.outputs(objective.parameters(objective.start)).double().cpu()
        found = self.values(objective.start)[graph.output].double().cpu()
        share = min(_UNITS * objective.arithmetic.unit_roundoff, _MOST)
        allowed = share * float(expected.abs().max())
        if found.shape != expected.shape or not bool(((found - expected).abs() <= allowed).all()):
            raise Unavailable(
                "the traced graph of the network does not compute what the network computes",
                "See the findings of clause A.",
            )


def _analysed(objective: Objective) -> Analysis:
    from blockframe.analysis import Analysis
    from blockframe.atoms.catalogue import Catalogue
    from blockframe.blocks import BlockChain

    try:
        return Analysis(BlockChain.of(_problem(objective), Catalogue.of()))
    except BlockframeError as refusal:
        raise Unavailable(
            f"the network could not be traced: {refusal.message}", refusal.remedy
        ) from refusal


def _problem(objective: Objective) -> Problem:
    """The network of an objective and its inputs, on the CPU, without targets."""

    def cpu(x: Any) -> Any:
        return x.cpu() if isinstance(x, Tensor) else x

    return Problem(
        copy.deepcopy(objective.module).to("cpu", torch.float64),
        tuple(_double(cpu(x)) for x in objective.inputs),
        keywords={k: _double(cpu(v)) for k, v in objective.keywords.items()},
        output=objective.output,
    )


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
