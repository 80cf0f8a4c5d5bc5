"""The smallest plugin: a network, an operation that the core does not know, a quantity to watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockframe import Pointwise, Probe, Problem, Request, hookimpl
from blockframe.atoms.interval import INF, Interval

if TYPE_CHECKING:
    from blockframe.dynamics.iterate import Iterate


@hookimpl
def blockframe_specs() -> list[str]:
    return ["probit"]


@hookimpl
def blockframe_resolve(spec: str, request: Request) -> Problem | None:
    if spec != "probit":
        return None
    import torch

    from blockframe_example.network import Probit

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(request.seed)
        x = torch.randn(16, 4)
        return Problem(Probit(), (x,), x.sum(dim=1, keepdim=True), data="sums of four numbers")


@hookimpl
def blockframe_atoms() -> list[Pointwise]:
    log_ndtr = Pointwise(
        "aten::special_log_ndtr",  # t ↦ log Φ(t), analytic on the whole line
        range=Interval(-INF, 0.0),
        curvature=1.0,
        source="(log Φ)''(t) = Var(Z | Z < t) - 1 for Z standard normal, between -1 and 0",
    )
    return [log_ndtr]


class LargestEntry(Probe):
    """The largest entry of the gradient, in absolute value."""

    name, unit = "largest_entry", "L/θ"

    def observe(self, it: Iterate) -> float:
        return it.gradient.abs().max().item()


@hookimpl
def blockframe_probes() -> list[type[Probe]]:
    return [LargestEntry]
