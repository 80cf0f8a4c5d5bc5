"""A network as a chain of blocks z_l = B_l(theta_l; z_{l-1}) (docs/theory section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from blockframe.atoms.catalogue import Catalogue
from blockframe.domains.dependence import dependence
from blockframe.errors import InputError, PluginError
from blockframe.graph.evaluate import evaluate, leaves
from blockframe.graph.expand import Expanded, expand
from blockframe.graph.graph import Graph, NodeKind
from blockframe.graph.residual import Residual, pieces
from blockframe.graph.segment import Segment, segments, state_after
from blockframe.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor


@frozen(eq=False)
class Block:
    """One map (theta_l; z_{l-1}) -> z_l: consecutive nodes of the graph.

    Attributes:
        name: module path, or one made from it.
        role: embed, attention, mlp, parallel, layer, norm or head.
        nodes: indices into the captured graph.
        entry, exit: indices of the nodes that are the state before and after.
        state: shapes of the tensors that leave; None for a value that is not one tensor.
        parameter_names: trainable parameters that this block is the first to use.
        parameters: how many numbers they hold.
        shared: trainable parameters that it uses and an earlier block owns (tied weights).
        residual: its residual form, or None.
    """

    name: str
    role: str
    nodes: tuple[int, ...]
    entry: tuple[int, ...]
    exit: tuple[int, ...]
    state: tuple[tuple[int, ...] | None, ...]
    parameter_names: tuple[str, ...]
    parameters: int
    shared: tuple[str, ...] = ()
    residual: Residual | None = None


@frozen(eq=False)
class BlockChain:
    """Ordered blocks whose composition is the model.

    ``graph``: as captured; ``expanded``: with composite ops written out; ``varies``: of the
    captured graph's nodes, whether they depend on trainable parameters.
    """

    problem: Problem
    graph: Graph
    expanded: Expanded
    catalogue: Catalogue
    varies: Sequence[bool]
    blocks: tuple[Block, ...] = field(factory=tuple)

    @classmethod
    def of(cls, problem: Problem, catalogue: Catalogue) -> BlockChain:
        """Capture ``problem`` and cut it into blocks.

        Raises:
            InputError: the forward does not run on the problem's inputs.
            CaptureError: it is not one traced function.
        """
        from blockframe.graph.capture import capture

        graph = capture(problem)
        expanded = expand(graph, catalogue, problem.device)
        depends = dependence(expanded.graph, catalogue)
        varies = [any(depends[i] for i in places) for places in expanded.places]
        if not varies[graph.output]:
            raise InputError(
                "the network's output depends on no trainable parameter",
                "Check requires_grad, and which output is meant: Problem(output=...).",
            )
        blocks = _assembled(problem, graph, varies, _parts(problem, graph, varies))
        return cls(problem, graph, expanded, catalogue, varies, blocks)

    def checked_against(self, traced: BlockChain) -> BlockChain:
        """This chain, if it cuts the same nodes as ``traced`` into consecutive blocks.

        What follows from the cuts (states, parameters) is worked out again.

        Raises:
            PluginError: it does not; a plugin may change names, roles and cuts only.
        """
        if self is traced:
            return self
        ours = [i for block in self.blocks for i in block.nodes]
        theirs = [i for block in traced.blocks for i in block.nodes]
        if self.graph is not traced.graph or ours != theirs:
            raise PluginError(
                "a plugin's chain does not hold the traced nodes in their order",
                "Let blockframe_chain change names, roles and cuts only.",
            )
        parts = [_Part(b.name, b.role, b.nodes, b.residual) for b in self.blocks]
        return evolve(self, blocks=_assembled(self.problem, self.graph, self.varies, parts))

    @cached_property
    def owners(self) -> dict[int, Block]:
        """The block of every varying node of the captured graph."""
        return {i: block for block in self.blocks for i in block.nodes}

    def replay(self, *inputs: Tensor) -> Tensor:
        """The model's output, computed block by block; each block sees its state and constants.

        ``inputs``: as for the module's forward (default: the problem's own).

        Raises:
            InputError: the parameters hold no numbers, or an input has another shape.
        """
        import torch

        inputs = inputs or self.problem.inputs
        self._check(inputs)
        with torch.no_grad():
            fixed = leaves(self.graph, self.problem, inputs)
            evaluate(self.graph, fixed, [n.index for n in self.graph if not self.varies[n.index]])
            state: dict[int, Any] = {}
            for block in self.blocks:
                seen = fixed | {i: state[i] for i in block.entry}
                values = evaluate(self.graph, seen, block.nodes)
                state = {i: values[i] for i in block.exit}
            output: Tensor = (fixed | state)[self.graph.output]
        return output

    def _check(self, inputs: tuple[Tensor, ...]) -> None:
        if not self.problem.has_weights:
            raise InputError(
                f"{self.problem.spec or 'the model'} is on the meta device: "
                "its parameters hold no numbers",
                "Replay its proxy: blockframe.chain(problem.proxy).",
            )
        expected = [tuple(x.shape) for x in self.problem.inputs]
        got = [tuple(x.shape) for x in inputs]
        if expected != got:
            raise InputError(
                f"the chain was traced for inputs of shape {expected}, not {got}",
                "Trace it again for these inputs: blockframe.chain((module, inputs)).",
            )

    def replay_difference(self) -> float:
        """Largest absolute difference between replay and model; 0.0 where they are bit-equal."""
        import torch

        from blockframe.graph.capture import run_forward, select

        expected = select(self.problem, run_forward(self.problem))
        got = self.replay()
        if torch.equal(got, expected):
            return 0.0
        if bool(((got == expected) | (got.isnan() & expected.isnan())).all()):
            return 0.0
        return float((got - expected).abs().max())


@frozen
class _Part:
    name: str
    role: str
    nodes: tuple[int, ...]
    residual: Residual | None


def _parts(problem: Problem, graph: Graph, varies: Sequence[bool]) -> list[_Part]:
    """The chain's cuts: segments, and layers cut again at their residual sums."""
    first = segments(graph, problem.module, varies)
    items = [i for i, s in enumerate(first) if s.item]
    parts: list[_Part] = []
    entry: tuple[int, ...] = ()
    for position, segment in enumerate(first):
        if segment.item:
            for piece in pieces(graph, segment, entry, varies):
                nodes = piece.segment.nodes
                parts.append(_Part(piece.segment.name, piece.role, nodes, piece.residual))
        else:
            role = _role(graph, segment, before=bool(items) and position < items[0])
            parts.append(_Part(segment.name, role, segment.nodes, None))
        entry = state_after(graph, varies, segment.end)
    return parts


def _assembled(
    problem: Problem, graph: Graph, varies: Sequence[bool], parts: Sequence[_Part]
) -> tuple[Block, ...]:
    """Blocks of consecutive nodes, with what follows from where they are cut."""
    blocks: list[Block] = []
    owned: set[str] = set()
    sizes = {name: p.numel() for name, p in problem.module.named_parameters()}
    entry: tuple[int, ...] = ()
    for part in parts:
        used = _parameters(graph, part.nodes)
        mine = tuple(n for n in used if n not in owned)
        owned |= set(mine)
        leaving = state_after(graph, varies, part.nodes[-1])
        blocks.append(
            Block(
                name=part.name,
                role=part.role,
                nodes=part.nodes,
                entry=entry,
                exit=leaving,
                state=tuple(graph[i].shape for i in leaving),
                parameter_names=mine,
                parameters=sum(sizes[n] for n in mine),
                shared=tuple(n for n in used if n not in mine),
                residual=part.residual,
            )
        )
        entry = leaving
    return tuple(blocks)


def _parameters(graph: Graph, nodes: Sequence[int]) -> list[str]:
    used = (graph[i] for n in nodes for i in graph[n].operands)
    return list(dict.fromkeys(u.target for u in used if u.kind is NodeKind.PARAMETER))


def _role(graph: Graph, segment: Segment, *, before: bool) -> str:
    """The role of a segment that is no item of a list of modules."""
    nodes = [graph[i] for i in segment.nodes]
    embeds = any(n.op == "aten::embedding" for n in nodes)
    if before or embeds:
        return "embed"
    using = [n for n in nodes if any(graph[i].kind is NodeKind.PARAMETER for i in n.operands)]
    if using and all(any("norm" in c.lower() for c in n.classes[-1:]) for n in using):
        return "norm"
    return "head" if graph.output in segment.nodes else "layer"
