"""Weak nondegeneracy: one entry of ∇L that is not zero at one point (docs/theory section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from blockframe.domains.enclosure import Ball, enclose
from blockframe.errors import CaptureError, PluginError
from blockframe.foreign import foreign
from blockframe.graph.derivative import gradient
from blockframe.graph.evaluate import leaves
from blockframe.graph.expand import example, transcribe
from blockframe.graph.graph import Graph, Node, NodeKind, Ref

if TYPE_CHECKING:
    from blockframe.analysis import Analysis
    from blockframe.dynamics.losses import Loss

LARGEST = 1_000_000
"""Parameters of a network whose gradient is enclosed."""


def weak(analysis: Analysis) -> dict[str, Any] | None:
    """A parameter and a proved lower bound of the largest size of ∇L's entries by it, at the given
    parameters; None where there are none, or no entry is proved not to be 0."""
    problem, loss = analysis.chain.problem, analysis.loss
    if not problem.has_weights or problem.targets is None or loss is None:
        return None
    if problem.parameters > LARGEST:
        return None
    try:
        graph = _with_loss(analysis.graph, loss, problem.targets)
        trained = [n.index for n in graph if n.kind is NodeKind.PARAMETER and n.index in graph.live]
        derivative = gradient(graph, trained, analysis.chain.catalogue, problem.device)
    except (CaptureError, PluginError):
        return None
    made = derivative.graph
    given: dict[int, Ball | Tensor] = {
        i: v for i, v in leaves(made, problem).items() if made[i].kind is not NodeKind.CONSTANT
    }
    (seed,) = derivative.seeds
    given[seed] = torch.ones((), dtype=torch.float64)
    values = enclose(made, given, analysis.chain.catalogue).values
    best: tuple[float, str] = (0.0, "")
    for leaf, output in zip(derivative.wrt, derivative.outputs, strict=True):
        ball = values[output]
        if isinstance(ball, Ball) and ball.is_finite and ball.mid.numel():
            # One rounding of a difference of doubles: a part in 2^52 less is below it.
            least = float((ball.mid.abs() - ball.rad).max()) * (1.0 - 2.0**-50)
            best = max(best, (least, str(made[leaf].target)))
    return {"parameter": best[1], "gradient at least": best[0]} if best[0] > 0.0 else None


def _with_loss(graph: Graph, loss: Loss, targets: Tensor) -> Graph:
    """``graph`` with the loss of its output as its output.

    Raises:
        PluginError: a contributed loss cannot be traced.
    """
    output = graph[graph.output]

    def scalar(outputs: Tensor) -> Tensor:
        return loss(outputs, targets)

    with foreign(lambda what: PluginError(f"the loss {loss.name!r} failed: {what}")):
        module = make_fx(scalar, tracing_mode="fake", _allow_non_fake_inputs=True)(
            example(output, targets.device)
        )
    nodes, tensors = list(graph.nodes), dict(graph.tensors)

    def append(node: Node) -> Ref:
        nodes.append(evolve(node, index=len(nodes)))
        return Ref(len(nodes) - 1)

    like = evolve(output, name="loss", module="", location=None)
    value = transcribe(module, [Ref(output.index)], append, tensors, like)
    return Graph(tuple(nodes), value.index, tensors)
