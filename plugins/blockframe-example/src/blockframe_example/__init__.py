"""The smallest plugin: a network, an operation that the core does not know, a quantity to watch."""

from blockframe import Pointwise, Probe, Problem, hookimpl
from blockframe.atoms.interval import INF, Interval


@hookimpl
def blockframe_specs():
    return ["probit"]


@hookimpl
def blockframe_resolve(spec, request):
    if spec != "probit":
        return None
    import torch

    from blockframe_example.network import Probit

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(request.seed)
        x = torch.randn(16, 4)
        return Problem(Probit(), (x,), x.sum(dim=1, keepdim=True), data="sums of four numbers")


@hookimpl
def blockframe_atoms():
    log_ndtr = Pointwise(
        "aten::special_log_ndtr",  # t ↦ log Φ(t), analytic on the whole line
        range=Interval(-INF, 0.0),
        curvature=1.0,
        source="(log Φ)''(t) = Var(Z | Z < t) - 1 for Z standard normal, between -1 and 0",
    )
    return [log_ndtr]


class LargestEntry(Probe):
    """The largest entry of the gradient, in absolute value."""

    name = "largest_entry"

    def observe(self, it):
        return it.gradient.abs().max().item()


@hookimpl
def blockframe_probes():
    return [LargestEntry]
