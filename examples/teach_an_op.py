"""Teach blockframe an operation that its catalogue does not know, from a plugin.

    python examples/teach_an_op.py

The plugin here is this very file. To share one, make it a distribution (docs/plugins.md).
"""

import math
import sys

import torch
from torch import nn

import blockframe
from blockframe.atoms.facts import Pointwise
from blockframe.atoms.interval import Interval
from blockframe.plugins import load_plugins


@blockframe.hookimpl
def blockframe_atoms() -> list[Pointwise]:
    """The normal distribution function: analytic everywhere, increasing from 0 to 1."""
    return [
        Pointwise(
            "aten::special_ndtr",
            value=lambda t: 0.5 * math.erfc(-t / math.sqrt(2.0)),
            monotone=1,
            range=Interval(0.0, 1.0),
            growth=(1.0, 0.0),
            lipschitz=0.39895,  # 1/√(2π), at 0
            curvature=0.24198,  # 1/√(2πe), at ±1
            source="derivative is the density of the normal distribution",
        )
    ]


class Probit(nn.Module):
    """A layer that ends in probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.ndtr(self.linear(x))


def main() -> None:
    torch.manual_seed(0)
    target = (Probit(), (torch.randn(8, 4),), torch.rand(8, 2))
    without = load_plugins()
    taught = load_plugins()
    taught.add("probit", sys.modules[__name__])
    for registry in (without, taught):
        cert = blockframe.certify(target, static_only=True, registry=registry)
        claim = cert.claim("analyticity")
        print(f"analyticity {claim.verdict}: {claim.statement}")
        for finding in claim.findings:
            print(f"  {finding.code} {finding.message}")


if __name__ == "__main__":
    main()
