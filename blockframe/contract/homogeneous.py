"""What Euler's identity proves of pairings, for all parameters: docs/theory section 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from blockframe.atoms.interval import up
from blockframe.contract.claim import Evidence
from blockframe.contract.head import Head, linear_head, linear_map
from blockframe.graph.graph import NodeKind

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.dynamics.losses import PairingBound


@frozen
class Proved:
    """What is known of the pairings ⟨θ_l, ∇L⟩ for all parameters.

    Attributes:
        loss: the loss' name.
        bound: of ⟨F, ∇_F L⟩ from below; None where the loss knows none.
        evidence: of ``bound``.
        degrees: for every block that has one, the degree of F in the parameters that it owns.
        head: the linear head, or None.
    """

    loss: str
    bound: PairingBound | None
    evidence: Evidence
    degrees: Mapping[str, int]
    head: Head | None

    @classmethod
    def of(cls, analysis: Analysis) -> Proved:
        from blockframe.domains.homogeneity import degrees
        from blockframe.dynamics.losses import LOSSES, DissipativeLoss

        chain, graph, loss = analysis.chain, analysis.graph, analysis.loss
        bound, shape = None, graph[graph.output].shape
        if isinstance(loss, DissipativeLoss) and shape is not None:
            bound = loss.pairing_bound(shape, chain.problem.targets)
        groups = [b.parameter_names for b in chain.blocks]
        found = degrees(graph, groups, chain.catalogue, chain.graph)
        known = {b.name: d for b, d in zip(chain.blocks, found, strict=True) if d is not None}
        evidence = Evidence.PROVED if loss in LOSSES else Evidence.DECLARED
        return cls(chain.problem.loss, bound, evidence, known, linear_head(analysis))

    def least(self, block: str) -> float | None:
        """The b that is proved for a block, or None."""
        degree = self.degrees.get(block)
        if degree == 0:
            return 0.0  # F does not depend on its parameters
        if degree is None or self.bound is None:
            return None
        return self.bound.value if degree == 1 else up(degree * self.bound.value)

    @property
    def tied_head(self) -> Head | None:
        """The head where its weight is used elsewhere too and the loss has a bound."""
        head = self.head
        return head if head is not None and head.tied and self.bound is not None else None

    @property
    def of_output(self) -> dict[str, Any]:
        """The bound, and the numbers that it follows from; empty where there is none."""
        if self.bound is None:
            return {}
        return {"loss": self.loss, "output_bound": self.bound.value, **self.bound.basis}

    @property
    def of_chain(self) -> dict[str, Any]:
        """The same, with what it is good for: degrees of blocks, and the head."""
        scaling = {name: degree for name, degree in self.degrees.items() if degree}
        if self.bound is None or not (scaling or self.head):
            return {}
        numbers = {**self.of_output, "degrees": scaling}
        if self.head is not None:
            parts = {"weight": self.head.weight_name, "bias": self.head.bias_name}
            numbers["head"] = {**parts, "tied": self.head.tied}
        return numbers

    def __str__(self) -> str:
        if self.bound is None:
            return f"nothing proved for the loss {self.loss}"
        of = [name for name, degree in self.degrees.items() if degree]
        of += ["the tied head's share"] if self.tied_head else []
        if not of:
            return "nothing proved"
        more = f"{len(of) - 2} more, " if len(of) > 2 else ""
        return f"b ≤ {self.bound.value:.4g} proved for {more}{' and '.join(of[-2:])}"


@frozen
class Invariant:
    """Weights of a block whose size the output feels through the eps of a norm only.

    ``node``: where the first of them multiplies.
    """

    node: int
    names: tuple[str, ...]


def scale_invariant(analysis: Analysis) -> dict[str, Invariant]:
    """By block, the weights of linear maps (each with its bias) of which the output has degree 0
    once the eps of all norms is taken for 0."""
    from blockframe.domains.homogeneity import degrees

    graph, chain = analysis.graph, analysis.chain
    maps = [
        found
        for node in graph
        if node.kind is NodeKind.CALL and node.index in graph.live
        if (found := linear_map(analysis, node.index)) is not None and found.node == node.index
    ]
    groups = [{name for name in (m.weight_name, m.bias_name) if name} for m in maps]
    scaling = degrees(graph, groups, chain.catalogue, chain.graph, up_to_eps=True)
    owner = {name: b.name for b in chain.blocks for name in b.parameter_names}
    invariant: dict[str, Invariant] = {}
    for m, degree in zip(maps, scaling, strict=True):
        if degree == 0:
            block = owner[m.weight_name]
            before = invariant.get(block, Invariant(m.node, ()))
            names = dict.fromkeys((*before.names, m.weight_name))
            invariant[block] = Invariant(before.node, tuple(names))
    return invariant
