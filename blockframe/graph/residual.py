"""The second cut: a layer at its residual sums, and where the norms stand (docs/chains)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum

from attrs import evolve, frozen

from blockframe.graph.graph import Graph, Node, NodeKind, Ref
from blockframe.graph.segment import Segment, state_after


class Placement(StrEnum):
    """Where the norms of a residual block z + F(z) stand."""

    PRE = "pre"  # z + F(norm(z))
    POST = "post"  # norm(z + F(z)), or z + norm(F(z))
    SANDWICH = "sandwich"  # z + norm(F(norm(z)))
    PARALLEL = "parallel"  # z + F(norm(z)) + G(norm(z))
    NONE = "none"


@frozen
class Residual:
    """The residual form of a block.

    Attributes:
        placement: where the norms stand.
        skip: index of the node that is z.
        sum: index of the node at which z and the branches are added.
        branches: indices of the nodes that are the values of the branches.
    """

    placement: Placement
    skip: int
    sum: int
    branches: tuple[int, ...]


@frozen
class Piece:
    """A part of a layer that is a block of its own."""

    segment: Segment
    role: str
    residual: Residual | None = None


_IDENTITIES = {
    "aten::alias", "aten::clone", "aten::contiguous", "aten::dropout", "aten::to.dtype",
    "aten::to.dtype_layout", "aten::to.device", "aten::_to_copy", "aten::type_as",
    "aten::view", "aten::reshape", "aten::_unsafe_view",
}  # fmt: skip
_NORM_OPS = {"aten::layer_norm", "aten::rms_norm", "aten::group_norm", "aten::batch_norm",
             "aten::_fused_rms_norm", "aten::instance_norm"}  # fmt: skip
_ATTENTION = re.compile("attn|attention", re.IGNORECASE)


def pieces(
    graph: Graph, segment: Segment, entry: Sequence[int], varies: Sequence[bool]
) -> list[Piece]:
    """``segment`` cut at its residual sums, in order.

    ``entry``: the state that enters it. A layer whose state is not one tensor, or that is no
    residual sum, stays whole.
    """
    return _Cutter(graph, varies, segment, entry).cut()


class _Cutter:
    def __init__(
        self, graph: Graph, varies: Sequence[bool], segment: Segment, entry: Sequence[int]
    ) -> None:
        self.graph = graph
        self.varies = varies
        self.segment = segment
        self.entry = entry[0] if len(entry) == 1 else None

    def cut(self) -> list[Piece]:
        leaving = state_after(self.graph, self.varies, self.segment.end)
        inside = set(self.segment.nodes)
        if self.entry is None or len(leaving) != 1 or leaving[0] not in inside:
            return [self._whole(self.segment.nodes)]
        found: list[Piece] = []
        output, nodes = leaving[0], self.segment.nodes
        while nodes:
            residual = self._residual(output, set(nodes))
            if residual is None:
                found.append(self._whole(nodes))
                break
            mine = tuple(n for n in nodes if n > residual.skip)
            found.append(self._piece(mine, residual))
            nodes = tuple(n for n in nodes if n <= residual.skip)
            output = residual.skip
        return self._settled(found[::-1])

    def _settled(self, found: list[Piece]) -> list[Piece]:
        """Rest without parameters goes to what follows it; names are made unique."""
        from blockframe.graph.segment import has_parameters

        if len(found) > 1 and not has_parameters(self.graph, found[0].segment):
            first, second, *rest = found
            nodes = first.segment.nodes + second.segment.nodes
            found = [evolve(second, segment=evolve(second.segment, nodes=nodes)), *rest]
        if len(found) == 1:
            return [evolve(found[0], segment=evolve(found[0].segment, name=self.segment.name))]
        seen: dict[str, int] = {}
        named = []
        for piece in found:
            seen[piece.role] = count = seen.get(piece.role, 0) + 1
            name = f"{self.segment.name}.{piece.role}" + (f"{count}" if count > 1 else "")
            named.append(evolve(piece, segment=evolve(piece.segment, name=name)))
        return named

    def _whole(self, nodes: tuple[int, ...]) -> Piece:
        return Piece(evolve(self.segment, nodes=nodes), "layer")

    def _piece(self, nodes: tuple[int, ...], residual: Residual) -> Piece:
        role = "parallel" if residual.placement is Placement.PARALLEL else self._role(nodes)
        return Piece(evolve(self.segment, nodes=nodes), role, residual)

    def _role(self, nodes: Collection[int]) -> str:
        prefix = len(self.segment.name.split("."))
        for node in (self.graph[i] for i in nodes):
            inner = [] if self._in_norm(node) else node.module.split(".")[prefix:]
            if any(_ATTENTION.search(part) for part in inner) or "scaled_dot_product" in node.op:
                return "attention"
            if node.op == "aten::softmax.int" and node.shape is not None and len(node.shape) > 3:
                return "attention"
        scans = {"aten::conv1d", "aten::cumsum"} & {self.graph[i].op for i in nodes}
        return "layer" if scans else "mlp"

    # --- the sum --------------------------------------------------------------------------------

    def _residual(self, output: int, nodes: set[int]) -> Residual | None:
        """The residual form of the piece of ``nodes`` that ends in ``output``."""
        top = self._peel(output, nodes)
        inner = self._before_norm(top, nodes)
        on_sum = inner is not None
        total = self._peel(inner, nodes) if inner is not None else top
        terms = self._terms(total)
        while terms:
            for skip_at, term in enumerate(terms):
                skip = self._peel(term, nodes)
                if self._cuts(skip, nodes, output):
                    branches = tuple(t for i, t in enumerate(terms) if i != skip_at)
                    placement = self._placement(skip, branches, nodes, on_sum=on_sum)
                    return Residual(placement, skip, total, branches)
            terms = self._flattened(terms, nodes)
        return None

    def _terms(self, index: int) -> list[int]:
        node = self.graph[index]
        if node.op != "aten::add.Tensor" or node.index not in self.segment.nodes:
            return []
        operands = [a.index for a in node.args[:2] if isinstance(a, Ref)]
        return operands if len(operands) == 2 and all(map(self._state, operands)) else []

    def _flattened(self, terms: list[int], nodes: set[int]) -> list[int]:
        """One level of nested sums opened; empty when there is none."""
        opened: list[int] = []
        for t in terms:
            inner = self._terms(self._peel(t, nodes))
            opened += inner or [t]
        return opened if len(opened) > len(terms) else []

    def _cuts(self, skip: int, nodes: set[int], output: int) -> bool:
        """Whether everything after ``skip`` sees the past through it alone."""
        if skip != self.entry and skip not in nodes:
            return False
        if skip == output:
            return False
        after = [n for n in nodes if n > skip]
        inside = set(after) | {skip}
        return all(i in inside for n in after for i in self._operands(n))

    def _placement(
        self, skip: int, branches: tuple[int, ...], nodes: set[int], *, on_sum: bool
    ) -> Placement:
        if on_sum:
            return Placement.POST
        parts = [b for t in branches for b in (self._terms(self._peel(t, nodes)) or [t])]
        parts = [b for b in parts if self._sees(b, skip)]
        if len(parts) > 1 and self._role(nodes) == "attention":  # not a sum of experts
            return Placement.PARALLEL
        inside = self._between(skip, branches, nodes)
        touching = self._touching(skip, inside)
        pre = bool(touching) and all(self._in_norm(self.graph[n]) for n in touching)
        ends = all(self._in_norm(self.graph[self._peel(b, nodes)]) for b in branches)
        if pre:
            return Placement.SANDWICH if ends else Placement.PRE
        return Placement.POST if ends else Placement.NONE

    def _touching(self, skip: int, inside: set[int]) -> set[int]:
        """The nodes of the branch that see z first, through casts and the like."""
        found: set[int] = set()
        frontier = [skip]
        while frontier:
            current = frontier.pop()
            for user in self.graph.users[current]:
                node = self.graph[user]
                if user not in inside:
                    continue
                if not self._is_identity(node):
                    found.add(user)
                elif node.operands[0] == current:  # not only asked for its dtype
                    frontier.append(user)
        return found

    def _between(self, skip: int, branches: tuple[int, ...], nodes: set[int]) -> set[int]:
        """The nodes of the branches, back to z."""
        found: set[int] = set()
        frontier = list(branches)
        while frontier:
            n = frontier.pop()
            if n in nodes and n > skip and n not in found:
                found.add(n)
                frontier += self._operands(n)
        return found

    def _sees(self, index: int, skip: int) -> bool:
        frontier, seen = [index], set()
        while frontier:
            n = frontier.pop()
            if n == skip:
                return True
            if n > skip and n not in seen:
                seen.add(n)
                frontier += self._operands(n)
        return False

    # --- nodes ----------------------------------------------------------------------------------

    def _operands(self, index: int) -> Iterator[int]:
        return (i for i in self.graph[index].operands if self._state(i))

    def _state(self, index: int) -> bool:
        return self.varies[index] and self.graph[index].kind is NodeKind.CALL

    def _is_identity(self, node: Node) -> bool:
        return node.op in _IDENTITIES

    def _peel(self, index: int, nodes: set[int]) -> int:
        """Back through casts, dropout and constant factors."""
        while index in nodes:
            node = self.graph[index]
            operands = list(dict.fromkeys(self._operands(index)))
            scaled = node.op in ("aten::mul.Tensor", "aten::div.Tensor") and not any(
                self.varies[i] for i in node.operands if i not in operands
            )
            if len(operands) != 1 or node.operands.count(operands[0]) != 1:
                return index
            if not (self._is_identity(node) or (scaled and not self._in_norm(node))):
                return index
            index = operands[0]
        return index

    def _in_norm(self, node: Node) -> bool:
        return node.op in _NORM_OPS or any("norm" in c.lower() for c in node.classes[-1:])

    def _before_norm(self, index: int, nodes: set[int]) -> int | None:
        """What enters the norm that ``index`` leaves; None if it leaves none."""
        node = self.graph[index]
        if index not in nodes or not self._in_norm(node):
            return None
        if node.op in _NORM_OPS:
            inside = {index}
        else:
            inside = {n for n in nodes if self.graph[n].calls == node.calls}
        entering = {i for n in inside for i in self._operands(n) if i not in inside}
        return entering.pop() if len(entering) == 1 else None
