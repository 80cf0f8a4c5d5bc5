"""Clause S on this plugin's networks: every block stays below its envelope."""

import pytest
import torch
from torch import nn

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.contract.claim import Verdict
from blockframe.contract.smoothness import SmoothnessClause
from blockframe.problem import Problem
from blockframe.testing.sampling import violations
from blockframe_nn import networks
from blockframe_nn.settings import CNN, MLP, Elman, Recurrent, Transformer

# the first forward-mode derivative of a process warns about something inside of torch
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

SMALL = {"width": 4, "depth": 1}
NETWORKS = {
    "mlp": (networks.MLP, (3,), MLP(width=4, depth=2)),
    "residual mlp": (networks.MLP, (3,), MLP(**SMALL, activation="silu", residual=True)),
    "pre-norm mlp": (
        networks.MLP,
        (3,),
        MLP(**SMALL, activation="gelu", residual=True, norm="layer"),
    ),
    "cnn": (networks.CNN, (1, 4, 4), CNN(channels=2, depth=2, activation="softplus")),
    "rnn": (networks.Recurrent, (3, 2), Elman(**SMALL), nn.RNN),
    "lstm": (networks.Recurrent, (3, 2), Recurrent(**SMALL), nn.LSTM),
    "gru": (networks.Recurrent, (3, 2), Recurrent(**SMALL), nn.GRU),
    "transformer": (networks.Transformer, (2, 3), Transformer(**SMALL, norm="pre")),
    "post-norm transformer": (networks.Transformer, (2, 3), Transformer(**SMALL, norm="post")),
}


@pytest.mark.parametrize(
    ("network", "shape", "chosen", "cell"),
    [(*case, None)[:4] for case in NETWORKS.values()],
    ids=NETWORKS.keys(),
)
def test_every_block_stays_below_its_envelope(network, shape, chosen, cell):
    torch.manual_seed(0)
    module = network(*([] if cell is None else [cell]), shape, 2, chosen)
    analysis = Analysis.of(Problem(module, (torch.randn(2, *shape),)), Catalogue.of())
    assert {c.verdict for c in SmoothnessClause().decide(analysis)} == {Verdict.HOLDS}
    points = [(0.3, 1.0), (2.0, 0.02), (0.02, 30.0)]
    for scale, start in zip(points, ("normal", "flat", "uneven"), strict=True):
        assert violations(analysis, [scale], [start], turns=3, steps=4) == []
