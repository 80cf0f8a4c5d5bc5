"""How far the envelopes of clause S lie above what blocks attain.

For every block of a few small networks: the bound, over the largest value, first and second
derivative that a search finds in the region of the bound: |theta_l| <= s, |z| <= r, with s and r
the norms at the initialization, and with both doubled. ``python benchmarks/tightness.py`` prints
the table of docs/envelopes.md; everything is seeded, and nothing is timed.
"""

import math
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import Block
from blockframe.contract.smoothness import envelope
from blockframe.initialize import initialize
from blockframe.problem import Problem
from blockframe.testing.sampling import QUANTITIES, STARTS, BlockMap, peaks
from blockframe_nn import networks
from blockframe_nn.settings import CNN, MLP, Recurrent, Transformer

SEARCH = {"turns": 8, "steps": 16}
SMALL = {"width": 4, "depth": 1}
NETWORKS = {
    "MLP": (networks.MLP, (3,), MLP(width=4, depth=2)),
    "pre-norm MLP": (networks.MLP, (3,), MLP(**SMALL, residual=True, norm="layer")),
    "CNN": (networks.CNN, (1, 4, 4), CNN(channels=2, depth=2)),
    "LSTM": (networks.Recurrent, (3, 2), Recurrent(**SMALL), nn.LSTM),
    "pre-norm transformer": (networks.Transformer, (2, 3), Transformer(**SMALL, norm="pre")),
    "post-norm transformer": (networks.Transformer, (2, 3), Transformer(**SMALL, norm="post")),
}


def analysed(network: type, shape: tuple[int, ...], chosen: object, *cell: type) -> Analysis:
    """With Xavier weights, on two samples."""
    torch.manual_seed(0)
    module = network(*cell, shape, 2, chosen)
    initialize(module, "xavier", 0)
    return Analysis.of(Problem(module, (torch.randn(2, *shape),)), Catalogue.of())


def ratios(analysis: Analysis, block: Block, scale: float) -> tuple[float, float, list[float]]:
    """s, r, and bound / largest found for value, first and second derivative."""
    f, jet = BlockMap(analysis, block), envelope(analysis, block).jet
    s, r = (scale * norm for norm in f.norms(f.start))
    points = [f.onto(f.start, s, r), *(f.draw(s, r, start, seed=0) for start in STARTS)]
    found = [peaks(f, x, **SEARCH) for x in points]
    # A state that an earlier block bounds may be shorter than r, never longer.
    assert all(p.s <= s * 1.001 and p.r <= r * 1.001 for some in found for p in some.values())
    bounds = [(getattr(jet, what)(s, r), max(p[what].size for p in found)) for what in QUANTITIES]
    return s, r, [bound / size if size else math.nan for bound, size in bounds]


def rows() -> Iterator[str]:
    yield "| network | block | s | r | value | first | second |"
    yield "|---|---|---|---|---|---|---|"
    for name, case in NETWORKS.items():
        analysis = analysed(*case)
        for block in analysis.chain.blocks:
            for scale in (1.0, 2.0):
                s, r, found = ratios(analysis, block, scale)
                cells = " | ".join([_norm(s), _norm(r), *map(_ratio, found)])
                yield f"| {name} | {block.name} | {cells} |"


def _norm(x: float) -> str:
    return f"{x:.2f}" if x else "–"


def _ratio(x: float) -> str:
    if math.isnan(x):
        return "–"
    assert x > 1.0 - 1e-9, "a bound is exceeded"
    return f"{x:.1f}" if x < 100.0 else f"{x:.0f}" if x < 1e3 else f"10^{math.log10(x):.1f}"


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch, inside forward mode
    torch.set_num_threads(1)
    for row in rows():
        print(row, flush=True)
