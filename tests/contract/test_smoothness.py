"""Clause S: envelopes dominate what is sampled, and optimised for, of blocks of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import Bilinear, Pointwise, Rowwise
from blockframe.contract.claim import Claim, Evidence, Verdict
from blockframe.contract.smoothness import SmoothnessClause, envelope
from blockframe.problem import Problem
from blockframe.testing.sampling import STARTS, violations

# the first forward-mode derivative of a process warns about something inside of torch
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
CATALOGUE = Catalogue.of()
HOLDS, UNKNOWN = Verdict.HOLDS, Verdict.UNKNOWN
SCALES = ((0.3, 0.3), (2.0, 2.0))
SEARCH = {"turns": 3, "steps": 4}


def analysed(
    *layers: nn.Module, shape: tuple[int, ...] = (3, 4), catalogue: Catalogue = CATALOGUE
) -> Analysis:
    torch.manual_seed(0)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    return Analysis.of(Problem(nn.Sequential(*layers), (x,)), catalogue)


def step(g: Callable[..., Tensor], x: Tensor, w: Tensor) -> Tensor:
    """g(x, w) or g(x), as g takes it."""
    code = getattr(g, "__code__", None)
    takes_weights = code is not None and code.co_argcount == 2 and code.co_varnames[1] == "w"
    return g(x, w) if takes_weights else g(x)


class Fn(nn.Module):
    """x -> g(x W): one block with its own parameters."""

    def __init__(self, g: Callable[..., Tensor], d: int = 4) -> None:
        super().__init__()
        self.linear, self.scale, self.g = nn.Linear(d, d), nn.Parameter(torch.ones(d)), g

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return step(self.g, y, self.scale)


STEPS: dict[str, Callable[..., Tensor]] = {
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "softplus": F.softplus,
    "mish": F.mish,
    "sin": torch.sin,
    "atan": torch.atan,
    "gelu of tanh": lambda x: F.gelu(x, approximate="tanh"),
    "log sigmoid": F.logsigmoid,
    "square": lambda x: x * x,
    "cube": lambda x: x**3,
    "scaled": lambda x, w: x * w,
    "scaled and shifted": lambda x, w: 2.0 * x - w + 1.5,
    "product": lambda x: x * x.flip(-1),
    "softmax": lambda x: x.softmax(-1),
    "log softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1, keepdim=True) + x,
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "layer norm with weights": lambda x, w: F.layer_norm(x, (4,), w, w, 1e-3),
    "rms norm": lambda x, w: F.rms_norm(x, (4,), w, 1e-3),
    "rms norm spelled out": lambda x, w: (
        w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3))
    ),
    "rms norm by division": lambda x: x / torch.sqrt((x * x).mean(-1, True) + 1e-3),
    "gram": lambda x: x @ x.T @ x,
    "attention": lambda x: (x @ x.T).softmax(-1) @ x,
    "fused attention": lambda x: F.scaled_dot_product_attention(
        x[None], x[None], x[None], is_causal=True
    )[0],
    "masked attention": lambda x: (
        (x @ x.T).masked_fill(torch.ones(3, 3).triu(1) > 0, -1e9).softmax(-1) @ x
    ),
    "gate": lambda x: F.silu(x) * x.roll(1, -1),
    "gate with sigmoid": lambda x: x.sigmoid() * x,
    "residual": lambda x: x + torch.tanh(x),
    "sum and mean": lambda x: x.sum(-1, keepdim=True) + x.mean(0),
    "running sum": lambda x: x.cumsum(-1),
    "repeat": lambda x: x.repeat(1, 2)[:, 2:6] + x[:1].expand(3, 4),
    "gather": lambda x: x[:, torch.tensor([0, 0, 2, 1])],
    "outer": lambda x: torch.einsum("bi,bj->ij", x, x)[:3],
    "division": lambda x: x / (1.0 + x.square()),
    "inverse root": lambda x: (x.square() + 0.3).rsqrt(),
    "log": lambda x: (x.square() + 0.5).log(),
    "root": lambda x: (x.square() + 0.5).sqrt(),
    "real power": lambda x: (x.square() + 0.5) ** 0.7,
    "exp of something bounded": lambda x: x.tanh().exp(),
    "reciprocal": lambda x: (2.0 + x.sin()).reciprocal(),
    "pad": lambda x: F.pad(x, (1, 1))[:, 1:5],
    "stack": lambda x: torch.stack([x, x.flip(0)]).sum(0),
    "a constant factor": lambda x: x * torch.arange(4.0),
    "a where": lambda x: torch.where(torch.arange(4) > 1, x, 0.3),
    "half": lambda x: x / 2.0,
    "a softmax of one number": lambda x: x * x.sum().softmax(0),
    "rms norm of everything": lambda x: (
        x * torch.rsqrt(torch.mean(x.pow(2), dim=None, keepdim=True) + 1e-3)
    ),
    "rotary": lambda x: (
        x * torch.cos(torch.arange(4.0))
        + torch.cat([-x[:, 2:], x[:, :2]], -1) * torch.sin(torch.arange(4.0))
    ),
}


@pytest.mark.parametrize("g", STEPS.values(), ids=STEPS.keys())
def test_every_step_stays_below_its_envelope(g: Callable[..., Tensor]) -> None:
    analysis = analysed(nn.Linear(4, 4), Fn(g))
    claims = SmoothnessClause().decide(analysis)
    assert claims[0].verdict is HOLDS
    assert claims[0].evidence is Evidence.PROVED
    assert violations(analysis, **SEARCH) == []


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(list(STEPS)), min_size=2, max_size=3), st.integers(0, 99))
def test_compositions_stay_below_their_envelope(names: list[str], seed: int) -> None:
    torch.manual_seed(seed)

    def g(x: Tensor, w: Tensor) -> Tensor:
        for name in names:
            x = step(STEPS[name], x, w)
        return x

    analysis = analysed(nn.Linear(4, 4), Fn(g))
    assert violations(analysis, SCALES, **SEARCH) == []


@pytest.mark.parametrize(
    ("product", "rows", "weights"),
    [
        (lambda p, w: p @ w, (6, 4, 4), (4,)),
        (lambda p, w: w @ p, (6, 4, 4), (4,)),
        (lambda p, w: p @ w, (4,), (6, 4, 4)),
        (lambda p, w: p @ w, (6, 4, 4), (4, 2)),
        (lambda p, w: p @ w, (4, 4), (6, 4, 2)),
        (lambda p, w: p @ w, (2, 1, 4, 4), (3, 4, 2)),
        (F.linear, (6, 4, 4), (2, 4)),
    ],
)
def test_products_of_stacks(
    product: Callable[[Tensor, Tensor], Tensor], rows: tuple[int, ...], weights: tuple[int, ...]
) -> None:
    """The operator norm of the rows of a softmax, times as often as the other factor is used."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(weights))

        def forward(self, x: Tensor) -> Tensor:
            return product(x.softmax(-1), self.weight)

    analysis = analysed(nn.Linear(4, 4), Mixed(), shape=rows)
    assert violations(analysis, ((1.0, 30.0), (0.01, 30.0)), ("spiked",), steps=12) == []


def test_what_crosses_a_cut_is_not_one_function() -> None:
    """An RMS norm of which one half stands before the cut: its halves may be anything there."""

    class Before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.linear(x)
            return y, y.pow(2).mean(-1, keepdim=True) + 1e-3

    class After(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, halves: tuple[Tensor, Tensor]) -> Tensor:
            y, square = halves
            return self.weight * (y * torch.rsqrt(square))

    analysis = analysed(Before(), After())
    assert [len(b.exit) for b in analysis.chain.blocks] == [2, 1]
    assert violations(analysis, ((1.0, 1.0), (1.0, 0.01)), STARTS, **SEARCH) == []


class Wave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(1, 3, 3), nn.AvgPool1d(2), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.norm(self.conv(x))).flatten(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rnn, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Wave(), (2, 1, 8)),
        (Recurrent(nn.LSTM), (2, 3, 3)),
        (Recurrent(nn.GRU), (2, 3, 3)),
        (nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True), (2, 3, 4)),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()), (5, 4)),
    ],
    ids=["convolution", "lstm", "gru", "post-norm encoder layer", "batch norm"],
)
def test_real_layers_stay_below_their_envelope(module: nn.Module, shape: tuple[int, ...]) -> None:
    analysis = analysed(module, shape=shape)
    assert SmoothnessClause().decide(analysis)[0].verdict is HOLDS
    assert violations(analysis, SCALES, **SEARCH) == []


NO_ENVELOPE = {
    "many writes added in one place": lambda x: torch.zeros(2).index_put(
        (torch.zeros(12, dtype=torch.long),), x.flatten(), accumulate=True
    ),
    "a summed dimension that is repeated": lambda x: torch.einsum(
        "bj,kj->bk", x[:, :1], torch.ones(4, 100)
    ),
    "a margin beyond the numbers": lambda x: (x.square() + 5e-324).log(),
    "a root with such a margin": lambda x: (x.square() + 1e-300).rsqrt(),
    "a where on a comparison": lambda x: torch.where(x > 0, x, 2.0 * x.tanh()),
    "a gather at the argmax": lambda x: x.flip(-1).gather(-1, x.argmax(-1, keepdim=True)) * x,
    "an index by the argmax": lambda x: x[:, x[0].argmax()].unsqueeze(1) * x.tanh(),
    "a masked fill by a comparison": lambda x: x.masked_fill(x > 0.3, 0.0),
    "a product with a mask": lambda x: x * (x > 0),
    "one hot": lambda x: F.one_hot(x.argmax(-1), 4).to(x.dtype) * x,
    "averages of uneven windows": lambda x: F.avg_pool1d(x[None], 3, 1, 1, count_include_pad=False)[
        0
    ],
    "exp": torch.exp,
    "relu": torch.relu,
    "max": lambda x: x.amax(-1, keepdim=True) + x,
    "division by what may vanish": lambda x: x / x.flip(-1),
    "sinh": torch.sinh,
    "round": torch.round,
    "noise": lambda x: x + torch.randn(4),
    "an unknown op": torch.special.bessel_j0,
    "exp times exp": lambda x: x.exp() * (-x).exp(),
    "log of a square": lambda x: x.square().log(),
    "relu in a softmax": lambda x: torch.relu(x).softmax(-1),
}


@pytest.mark.parametrize("g", NO_ENVELOPE.values(), ids=NO_ENVELOPE.keys())
def test_what_has_no_envelope_is_unknown_with_the_op_named(g: Callable[..., Tensor]) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return g(self.linear(x))

    chain, *blocks = SmoothnessClause().decide(analysed(nn.Linear(4, 4), Plain()))
    assert chain.verdict is UNKNOWN
    assert blocks[-1].verdict is UNKNOWN
    assert chain.evidence is None
    assert chain.findings
    assert all(f.help for f in chain.findings)


@pytest.mark.parametrize(
    ("name", "says"),
    [("exp times exp", "within bounds"), ("relu in a softmax", "what helps clause A here")],
)
def test_the_help_is_about_what_is_in_the_way(name: str, says: str) -> None:
    class Plain(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return NO_ENVELOPE[name](super().forward(x))

    chain, *_ = SmoothnessClause().decide(analysed(nn.Linear(4, 4), Plain(4, 4)))
    (finding,) = chain.findings
    assert (finding.code, says in finding.help) == ("S101", True)


def decide(*layers: nn.Module) -> list[Claim]:
    return list(SmoothnessClause().decide(analysed(*layers)))


def test_a_pre_norm_branch_is_bounded_independently_of_its_input() -> None:
    class PreNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mlp = nn.LayerNorm(4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tanh(self.mlp(self.norm(x)))

    class NoNorm(PreNorm):
        def forward(self, x: Tensor) -> Tensor:
            return x + self.mlp(x) * 1.0

    chain, _, block = decide(nn.Linear(4, 4), PreNorm())
    assert "additive in depth" in chain.statement
    assert "independently of its input" in block.statement
    chain, _, block = decide(nn.Linear(4, 4), NoNorm())
    assert "independently" not in chain.statement + block.statement


def test_objections_to_the_graph_are_objections_to_its_bounds() -> None:
    with torch.device("meta"):
        module = nn.Linear(4, 4)
    analysis = Analysis.of(Problem(module, (torch.zeros(3, 4, device="meta"),)), CATALOGUE)
    claims = SmoothnessClause().decide(analysis)
    assert {c.verdict for c in claims} == {UNKNOWN}
    assert claims[0].findings[0].code == "A906"


def test_data_on_meta_is_the_first_state() -> None:
    with torch.device("meta"):
        module = nn.Linear(4, 4)
    analysis = Analysis.of(Problem(module, (torch.zeros(3, 4, device="meta"),)), CATALOGUE)
    jet = envelope(analysis, analysis.chain.blocks[0]).jet
    assert jet.value(2.0, 3.0) == pytest.approx(2.0 * 3.0 + math.sqrt(3.0) * 2.0)


def test_wrong_constants_are_caught() -> None:
    """The searches above find a record whose constant is too small."""

    def wrong(op: str, **changes: object) -> Catalogue:
        records = dict(CATALOGUE.records)
        records[op] = evolve(records[op], **changes)
        return Catalogue(records)

    def caught(g: Callable[..., Tensor], catalogue: Catalogue) -> bool:
        return bool(violations(analysed(nn.Linear(4, 4), Fn(g), catalogue=catalogue), SCALES))

    assert isinstance(CATALOGUE.records["aten::tanh"], Pointwise)
    assert isinstance(CATALOGUE.records["aten::layer_norm"], Rowwise)
    assert isinstance(CATALOGUE.records["aten::linear"], Bilinear)
    assert caught(STEPS["gelu"], wrong("aten::gelu", lipschitz=0.2))
    assert caught(
        STEPS["softplus"],
        wrong("aten::softplus", at=None, growth=(0.0, 0.1), lipschitz=0.1, curvature=0.0),
    )
    assert caught(STEPS["scaled"], wrong("aten::linear", norm=lambda node, u, v: 0.05))
    assert caught(
        STEPS["layer norm"], wrong("aten::layer_norm", growth=lambda node, shape: (0.1, 0.0))
    )
    assert caught(
        lambda x: x[:1].expand(30, 4), wrong("aten::expand", copies=lambda node, shape: 0)
    )
    assert not caught(STEPS["gelu"], CATALOGUE)
