"""Clause S: random blocks never exceed their envelopes, wherever a search goes.

The blocks are drawn from a grammar: a branch (linear, MLP, gate, attention, convolution), with or
without a skip, with a norm before, after, on both sides or nowhere.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import frozen
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import CORE, Catalogue
from blockframe.atoms.facts import Pointwise
from blockframe.contract.smoothness import envelope
from blockframe.problem import Problem
from blockframe.testing.sampling import STARTS, violations

# the first forward-mode derivative of a process warns about something inside of torch
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
WIDTH = 4

SMOOTH = {
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "log_sigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "sin": torch.sin,
    "cos": torch.cos,
    "sinc": torch.sinc,
    "asinh": torch.asinh,
    "atan": torch.atan,
    "square": torch.square,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "softplus of slope 3": lambda x: F.softplus(x, beta=3.0),
    "swish": lambda x: x * torch.sigmoid(1.7 * x),
    "gelu spelled out": lambda x: (
        0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * x.pow(3))))
    ),
    "rational": lambda x: x / (1.0 + x.square()),
    "root": lambda x: (x.square() + 0.25).sqrt(),
}


class RMS(nn.Module):
    """RMS norm as Llama spells it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float64)
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x)


class Spelled(nn.Module):
    """LayerNorm, spelled out."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-3)


class Channels(nn.Module):
    """A layer of (sample, channel, position), applied to (sample, position, channel)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


def batch_norm() -> nn.Module:
    layer = nn.BatchNorm1d(WIDTH)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.01, 2.0)
    return Channels(layer)


NORMS = {
    "layer": lambda: nn.LayerNorm(WIDTH),
    "layer, wide eps": lambda: nn.LayerNorm(WIDTH, eps=0.3),
    "layer, bare": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    "layer, spelled out": Spelled,
    "rms": lambda: nn.RMSNorm(WIDTH, eps=1e-4),
    "rms spelled out": RMS,
    "batch": batch_norm,
    "group": lambda: Channels(nn.GroupNorm(2, WIDTH, eps=1e-3)),
}


class MLP(nn.Module):
    def __init__(self, act: str, hidden: int, bias: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, hidden, bias), nn.Linear(hidden, WIDTH, bias)
        self.act = SMOOTH[act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Gate(MLP):
    """act(g) * u."""

    def __init__(self, act: str, hidden: int, bias: bool) -> None:
        super().__init__(act, hidden, bias)
        self.gate = nn.Linear(WIDTH, hidden, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    def __init__(self, heads: int, groups: int, causal: bool, fused: bool, bias: bool) -> None:
        super().__init__()
        size = WIDTH // heads
        self.heads, self.groups, self.causal, self.fused = heads, groups, causal, fused
        self.query, self.project = nn.Linear(WIDTH, WIDTH, bias), nn.Linear(WIDTH, WIDTH, bias)
        self.key, self.value = (nn.Linear(WIDTH, groups * size, bias) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (
            part(x).unflatten(-1, (self.groups, -1)).transpose(1, 2)
            for part in (self.key, self.value)
        )
        grouped = self.heads != self.groups
        if self.fused:
            mixed = F.scaled_dot_product_attention(
                q, k, v, is_causal=self.causal, enable_gqa=grouped
            )
        else:
            if grouped:
                k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            if self.causal:
                hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
            mixed = scores.softmax(-1) @ v
        return self.project(mixed.transpose(1, 2).flatten(-2))


class Convolution(nn.Module):
    def __init__(self, act: str, kernel: int, groups: int, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Conv1d(WIDTH, WIDTH, kernel, padding=kernel // 2, groups=groups, bias=bias)
        self.act = SMOOTH[act]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layer(x.transpose(1, 2))).transpose(1, 2)


class Placed(nn.Module):
    """A branch with norms and a skip: z + F(norm(z)) and its variants."""

    def __init__(self, branch: nn.Module, norm: str, placement: str, skip: bool) -> None:
        super().__init__()
        self.branch, self.skip = branch, skip
        both = placement == "sandwich"
        self.before = NORMS[norm]() if both or placement == "pre" else nn.Identity()
        self.inside = NORMS[norm]() if both else nn.Identity()
        self.after = NORMS[norm]() if placement == "post" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inside(self.branch(self.before(x)))
        return self.after(x + y if self.skip else y)


@frozen
class Drawn:
    """A description of a block: what hypothesis prints when one fails."""

    branch: type[nn.Module]
    arguments: tuple[Any, ...]
    norm: str
    placement: str
    skip: bool

    def build(self) -> nn.Module:
        return Placed(self.branch(*self.arguments), self.norm, self.placement, self.skip)


acts, hidden, flag = st.sampled_from(list(SMOOTH)), st.integers(2, 5), st.booleans()
branches = st.one_of(
    st.tuples(st.just(nn.Linear), st.tuples(st.just(WIDTH), st.just(WIDTH), flag)),
    st.tuples(st.sampled_from([MLP, Gate]), st.tuples(acts, hidden, flag)),
    st.tuples(
        st.just(Attention),
        st.sampled_from([(1, 1), (2, 2), (2, 1), (4, 2)]).flatmap(
            lambda heads: st.tuples(st.just(heads[0]), st.just(heads[1]), flag, flag, flag)
        ),
    ),
    st.tuples(
        st.just(Convolution), st.tuples(acts, st.sampled_from([1, 3]), st.integers(1, 2), flag)
    ),
)
blocks = st.builds(
    lambda branch, norm, placement, skip: Drawn(*branch, norm, placement, skip),
    branches,
    st.sampled_from(list(NORMS)),
    st.sampled_from(["pre", "post", "sandwich", "none"]),
    st.booleans(),
)
sizes = st.floats(-3.0, 2.0).map(lambda e: 10.0**e)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink one takes minutes
)
@given(
    st.lists(blocks, min_size=1, max_size=2),
    st.sampled_from([(1, 2), (2, 2), (1, 3)]),
    st.tuples(sizes, sizes),
    st.sampled_from(STARTS),
    st.integers(0, 999),
)
def test_random_blocks_stay_below_their_envelopes(
    drawn: list[Drawn], shape: tuple[int, int], scale: tuple[float, float], start: str, seed: int
) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(WIDTH, WIDTH), *(d.build() for d in drawn))
    analysis = Analysis.of(Problem(module, (torch.randn(*shape, WIDTH),)), Catalogue.of())
    assert all(envelope(analysis, b).jet.bounded for b in analysis.chain.blocks)
    assert violations(analysis, [scale], [start], seed) == []


def test_every_smooth_function_of_the_catalogue_is_drawn() -> None:
    used = set()
    for act in SMOOTH.values():
        module = nn.Sequential(nn.Linear(2, 2), Act(act))
        graph = Analysis.of(Problem(module, (torch.ones(1, 2),)), Catalogue.of()).graph
        used |= {node.op for node in graph}
    stated = {
        op
        for atom in CORE
        if isinstance(atom, Pointwise) and not atom.kinks and not atom.at
        for op in atom.ops
        if atom.growth is not None and atom.lipschitz is not None and atom.curvature is not None
    }
    assert stated - {"aten::nan_to_num"} <= used  # the identity


class Act(nn.Module):
    def __init__(self, act: Any) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)
