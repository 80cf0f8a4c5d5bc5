"""Functions that are spelled out are recognised, and what only looks like one is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.contract.analyticity import AnalyticityClause
from blockframe.contract.claim import Verdict
from blockframe.contract.smoothness import envelope
from blockframe.graph.evaluate import call, evaluate, leaves
from blockframe.graph.graph import Node, NodeKind
from blockframe.graph.patterns import PATTERNS, Pattern, recognise
from blockframe.problem import Problem
from blockframe.testing.sampling import violations

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

Function = Callable[[Tensor], Tensor]
SHAPE = (2, 3, 6)
LAST = {"dim": -1, "keepdim": True}


class Net(nn.Module):
    """x -> g(linear(x))."""

    def __init__(self, g: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.g = nn.Linear(SHAPE[-1], SHAPE[-1]), g

    def forward(self, x: Tensor) -> Tensor:
        return self.g(self.linear(x))


def analysed(module: nn.Module | Function, shape: tuple[int, ...] = SHAPE) -> Analysis:
    net = module if isinstance(module, nn.Module) else Net(module)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return Analysis.of(Problem(net, (x,)), Catalogue.of())


def ops(analysis: Analysis) -> list[str]:
    """Of the nodes that the output depends on."""
    graph = analysis.graph
    return [n.op for n in graph if n.kind is NodeKind.CALL and n.index in graph.live]


def exact(node: Node, args: Any, kwargs: Any) -> Any:
    """The op in real arithmetic: casts between floating types are the identity."""

    def wide(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value

    return call(node, tuple(map(wide, args)), {k: wide(v) for k, v in kwargs.items()})


def difference(analysis: Analysis) -> float:
    """Largest relative difference between the graph and the one that is spelled out, in values and
    in the gradient of a random functional."""
    values = []
    for graph in (analysis.chain.expanded.graph, analysis.graph):
        known = leaves(graph, analysis.chain.problem)
        parameters = [known[n.index] for n in graph if n.kind is NodeKind.PARAMETER]
        output = evaluate(graph, known, rule=exact)[graph.output]
        assert output.dtype is torch.float64
        weights = torch.randn(
            output.shape, generator=torch.Generator().manual_seed(2), dtype=output.dtype
        )
        gradients = torch.autograd.grad((output * weights).sum(), parameters)
        values.append([output.detach(), *gradients])
    return max(  # some gradients are exactly zero
        float((a - b).abs().max() / a.abs().max().clamp_min(1.0))
        for a, b in zip(*values, strict=True)
    )


K = math.sqrt(2.0 / math.pi)


def largest(x: Tensor) -> Tensor:
    return x.amax(**LAST)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(**LAST)


def shifted_lse(x: Tensor, m: Tensor) -> Tensor:
    return m + (x - m).exp().sum(**LAST).log()


def no_grad_largest(x: Tensor) -> Tensor:
    with torch.no_grad():
        m = x.max(-1, keepdim=True)[0]
    e = (x - m).exp()
    return e / e.sum(**LAST)


def with_sink(x: Tensor) -> Tensor:
    """A logit more, whose share is dropped."""
    e = torch.cat((x, torch.ones(*SHAPE[:-1], 1)), -1)
    e = e - largest(e)
    return (e.exp() / e.exp().sum(**LAST))[..., :-1]


MASK = torch.zeros(SHAPE[-1]).masked_fill(torch.arange(SHAPE[-1]) > 3, float("-inf"))

RMS, LAYER, NORMALIZE = "aten::rms_norm", "aten::layer_norm", "blockframe::normalize"
SOFTMAX, LOG_SOFTMAX, LSE = "aten::softmax.int", "aten::log_softmax.int", "aten::logsumexp"
SWISH, ROTARY = "blockframe::swish", "blockframe::rotary"

FORMS: dict[str, tuple[str, Function]] = {
    "rms": (RMS, lambda x: x * torch.rsqrt(x.pow(2).mean(**LAST) + 1e-6)),
    "rms, cast": (
        RMS,
        lambda x: (x.float() * torch.rsqrt(x.float().pow(2).mean(**LAST) + 1e-6)).to(x.dtype),
    ),
    "rms by sqrt": (RMS, lambda x: x / torch.sqrt(1e-6 + (x * x).mean(**LAST))),
    "rms by powers": (RMS, lambda x: x * ((x**2).sum(**LAST) / 6 + 1e-6) ** -0.5),
    "rms, rows reshaped": (RMS, lambda x: x.square().mean(-1).add(1e-6).rsqrt()[..., None] * x),
    "rms of a reciprocal": (RMS, lambda x: x * (1 / (x.square().mean(**LAST) + 1e-6).sqrt())),
    "rms, eps a tensor": (
        RMS, lambda x: x * torch.rsqrt(x.square().mean(**LAST) + torch.tensor(1e-3))
    ),
    "rms of two dimensions": (RMS, lambda x: x / (x.square().mean((1, 2), True) + 0.1).sqrt()),
    "rms of a product": (
        RMS, lambda x: (x * x.tanh()) * ((x * x.tanh()).square().mean(**LAST) + 0.1).rsqrt()
    ),
    "l2": (NORMALIZE, lambda x: x * torch.rsqrt((x * x).sum(**LAST) + 1e-3)),
    "rms along another dimension": (
        NORMALIZE, lambda x: x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-3)
    ),
    "layer": (
        LAYER, lambda x: centred(x) / torch.sqrt(x.var(**LAST, unbiased=False) + 1e-5)
    ),
    "layer, corrected by nothing": (
        LAYER, lambda x: centred(x) * (x.var(**LAST, correction=0) + 1e-5).rsqrt()
    ),
    "layer by squares": (
        LAYER, lambda x: centred(x) * (centred(x).pow(2).mean(**LAST) + 1e-5).rsqrt()
    ),
    "layer by moments": (
        LAYER,
        lambda x: centred(x)
        / torch.sqrt(x.square().mean(**LAST) - x.mean(**LAST).square() + 1e-2),
    ),
    "layer along another dimension": (
        NORMALIZE,
        lambda x: (x - x.mean(1, keepdim=True))
        / (x.var(1, keepdim=True, correction=0) + 1e-2).sqrt(),
    ),
    "softmax": (SOFTMAX, lambda x: x.exp() / x.exp().sum(**LAST)),
    "softmax by a reciprocal": (SOFTMAX, lambda x: x.exp() * (1.0 / x.exp().sum(**LAST))),
    "softmax, rows reshaped": (SOFTMAX, lambda x: x.exp() / x.exp().sum(-1).unsqueeze(-1)),
    "softmax along another dimension": (SOFTMAX, lambda x: x.exp() / x.exp().sum(1, True)),
    "softmax, shifted": (
        SOFTMAX,
        lambda x: (x - largest(x)).exp() / (x - largest(x)).exp().sum(**LAST),
    ),
    "softmax, shift without gradient": (SOFTMAX, no_grad_largest),
    "softmax, masked and shifted": (SOFTMAX, lambda x: (x + MASK - largest(x + MASK)).softmax(-1)),
    "softmax, shifted twice": (
        SOFTMAX, lambda x: (x - x.max(-1, keepdim=True).values.detach()).softmax(-1)
    ),
    "softmax, shifted by the largest of all": (SOFTMAX, lambda x: (x - x.max()).softmax(-1)),
    "softmax, cast": (
        SOFTMAX,
        lambda x: (x.float().exp() / x.float().exp().sum(**LAST)).to(x.dtype),
    ),
    "softmax with a sink": (SOFTMAX, with_sink),
    "softmax by its logarithm": (SOFTMAX, lambda x: x.log_softmax(-1).exp()),
    "log_softmax": (LOG_SOFTMAX, lambda x: x - x.exp().sum(**LAST).log()),
    "log_softmax, shifted": (
        LOG_SOFTMAX,
        lambda x: (x - largest(x)) - (x - largest(x)).exp().sum(**LAST).log(),
    ),
    "log_softmax by softmax": (LOG_SOFTMAX, lambda x: x.softmax(-1).log()),
    "logsumexp": (LSE, lambda x: x.exp().sum(-1).log()),
    "logsumexp of two dimensions": (LSE, lambda x: x.exp().sum((0, 2)).log()),
    "logsumexp, shifted": (LSE, lambda x: shifted_lse(x, largest(x))),
    "logsumexp, shift detached": (LSE, lambda x: shifted_lse(x, largest(x).detach())),
    "logsumexp, shift reshaped": (
        LSE,
        lambda x: (x - largest(x)).exp().sum(-1).log() + largest(x).squeeze(-1),
    ),
    "sigmoid": ("aten::sigmoid", lambda x: 1 / (1 + torch.exp(-x))),
    "sigmoid by exp(x)": ("aten::sigmoid", lambda x: x.exp() / (x.exp() + 1)),
    "tanh": ("aten::tanh", lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())),
    "tanh by exp(2x)": ("aten::tanh", lambda x: ((2 * x).exp() - 1) / (1 + (2 * x).exp())),
    "silu": ("aten::silu", lambda x: x * torch.sigmoid(x)),
    "silu, spelled out to the end": ("aten::silu", lambda x: x * (1 / (1 + torch.exp(-x)))),
    "silu by a quotient": ("aten::silu", lambda x: x / (1 + (-x).exp())),
    "silu by tanh": ("aten::silu", lambda x: 0.5 * x * (1 + torch.tanh(x / 2))),
    "swish": (SWISH, lambda x: x * torch.sigmoid(1.702 * x)),
    "swish by a quotient": (SWISH, lambda x: x / (1 + (-1.702 * x).exp())),
    "gelu": ("aten::gelu", lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    "gelu by erfc": ("aten::gelu", lambda x: x * torch.erfc(-x * math.sqrt(0.5)) / 2),
    "gelu by tanh": (
        "aten::gelu", lambda x: 0.5 * x * (1 + torch.tanh(K * (x + 0.044715 * x**3)))
    ),
    "gelu by tanh, expanded": (
        "aten::gelu",
        lambda x: x * (0.5 + 0.5 * torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    ),
    "softplus": ("aten::softplus", lambda x: (1 + x.exp()).log()),
    "softplus by log1p": ("aten::softplus", lambda x: x.exp().log1p()),
    "log_sigmoid": ("aten::log_sigmoid", lambda x: torch.sigmoid(x).log()),
}  # fmt: skip


def filled(x: Tensor, first: int, second: int, base: float | None = None) -> Tensor:
    out = x.new_empty(SHAPE) if base is None else x.new_full(SHAPE, base)
    out[..., :first] = x[..., :first]
    out[..., second:] = x[..., second:].tanh()
    return out


FORMS |= {
    "parts written into an empty tensor": ("aten::cat", lambda x: filled(x, 2, 2)),
    "parts written along another dimension": (
        "aten::cat",
        lambda x: x.new_zeros(SHAPE).slice_scatter(x[:, 1:], 1, 1).slice_scatter(x[:, :1], 1, 0, 1),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_recognised_and_is_the_same_function(name: str) -> None:
    op, g = FORMS[name]
    analysis = analysed(g)
    assert op in ops(analysis)
    lone = [
        "aten::exp", "aten::rsqrt", "aten::sqrt", "aten::amax", "aten::max.dim", "aten::max",
        "aten::var.correction", "aten::var.dim", "aten::erf", "aten::erfc", "aten::log1p",
    ]  # fmt: skip
    assert not set(lone).intersection(ops(analysis))
    assert difference(analysis) < 1e-10


def test_every_record_is_needed_by_a_form_above() -> None:
    forms = [analysed(g) for _, g in (FORMS | ROTARIES).values()]
    for pattern in PATTERNS:
        others = [p for p in PATTERNS if p is not pattern]
        assert any(ops_with(others, a) != sorted(ops(a)) for a in forms), pattern


def ops_with(patterns: Sequence[Pattern], analysis: Analysis) -> list[str]:
    graph = recognise(
        analysis.chain.expanded.graph, analysis.varies, analysis.constants,
        analysis.chain.owners, patterns,
    )  # fmt: skip
    return sorted(graph[i].op for i in graph.live if graph[i].kind is NodeKind.CALL)


NEAR: dict[str, Function] = {
    "rms with an eps that rounding alone makes positive": lambda x: (
        x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) - 1.0 + 1e17 - 1e17 + 1e-3)
    ),
    "sigmoid but for a one that rounding swallows": lambda x: (
        1 / (torch.exp(-x) - 1 + 1e17 - 1e17 + 1)
    ),
    "divided by hardly anything": lambda x: torch.tanh(x) / 1e-320,
    "parts that leave a gap": lambda x: filled(x, 2, 3, 1.0),
    "parts that overlap": lambda x: filled(x, 3, 2, 1.0),
    "parts with a stride": lambda x: (
        torch.ones(SHAPE)
        .slice_scatter(x[..., :3], 2, 0, 6, 2)
        .slice_scatter(x[..., :3], 2, 1, 6, 2)
    ),
    "parts along two dimensions": lambda x: (
        torch.ones(SHAPE).slice_scatter(x[..., :3], 2, 0, 3).slice_scatter(x[:, 1:], 1, 1)
    ),
    "parts over what varies": lambda x: x.slice_scatter(x[..., :3].tanh(), 2, 0, 6, 2),
    "rms of another": lambda x: x.tanh() * torch.rsqrt(x.pow(2).mean(**LAST) + 1e-6),
    "rms, eps negative": lambda x: x * torch.rsqrt(x.pow(2).mean(**LAST) - 1e-6),
    "rms without eps": lambda x: x * torch.rsqrt(x.pow(2).mean(**LAST)),
    "rms, eps outside of the root": lambda x: x / (x.pow(2).mean(**LAST).sqrt() + 1e-6),
    "rms, square root forgotten": lambda x: x / (x.pow(2).mean(**LAST) + 1e-6),
    "rms multiplied by the root": lambda x: x * torch.sqrt(x.pow(2).mean(**LAST) + 1e-6),
    "rms of the third power": lambda x: x / torch.sqrt(x.pow(3).mean(**LAST) + 1e-6),
    "rms of one row for all": lambda x: x[0] * (x.pow(2).mean(**LAST) + 1e-6).rsqrt(),
    "rms, gradient stopped": lambda x: x * (x.pow(2).mean(**LAST) + 1e-6).rsqrt().detach(),
    "rms, gradient of one stopped": lambda x: x * (x.detach().pow(2).mean(**LAST) + 1).rsqrt(),
    "layer, unbiased": lambda x: centred(x) / torch.sqrt(x.var(**LAST) + 1e-5),
    "layer, std + eps": lambda x: centred(x) / (x.std(**LAST, unbiased=False) + 1e-5),
    "layer, not centred": lambda x: x / torch.sqrt(x.var(**LAST, unbiased=False) + 1e-5),
    "layer, centred along another": lambda x: (
        (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(**LAST, unbiased=False) + 1e-5)
    ),
    "layer, variance along another": lambda x: (
        centred(x) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
    ),
    "layer, moments of another": lambda x: (
        centred(x) / torch.sqrt(x.square().mean(**LAST) - x.tanh().mean(**LAST).square() + 1e-2)
    ),
    "softmax of another": lambda x: x.exp() / (2 * x).exp().sum(**LAST),
    "softmax of another row": lambda x: x.exp() / x.flip(1).exp().sum(**LAST),
    "softmax to another base": lambda x: x.exp2() / x.exp().sum(**LAST),
    "softmax, eps added": lambda x: x.exp() / (x.exp().sum(**LAST) + 1e-6),
    "softmax, one added": lambda x: x.exp() / (1 + x.exp().sum(**LAST)),
    "softmax by a mean": lambda x: x.exp() / x.exp().mean(**LAST),
    "softmax of two dimensions": lambda x: x.exp() / x.exp().sum((1, 2), keepdim=True),
    "softmax, gradient stopped": lambda x: x.exp() / x.exp().sum(**LAST).detach(),
    "softmax, shifts differ": lambda x: (
        (x - largest(x)).exp() / (x - x.amin(**LAST)).exp().sum(**LAST)
    ),
    "softmax, one shift without gradient": lambda x: (
        (x - largest(x)).exp() / (x - largest(x).detach()).exp().sum(**LAST)
    ),
    "softmax inverted": lambda x: x.exp().sum(**LAST) / x.exp(),
    "logsumexp by another base": lambda x: x.exp().sum(**LAST).log2(),
    "logsumexp of a mean": lambda x: x.exp().mean(**LAST).log(),
    "sigmoid of exp(x)": lambda x: 1 / (1.5 + torch.exp(-x)),
    "tanh of two": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-2 * x).exp()),
    "tanh by exp(3x)": lambda x: ((2 * x).exp() - 1) / (1 + (3 * x).exp()),
    "silu of another": lambda x: x * torch.sigmoid(x.flip(-1)),
    "silu, shifted": lambda x: x * torch.sigmoid(x + 1),
    "swish, falling": lambda x: x * torch.sigmoid(-1.702 * x),
    "gelu of half": lambda x: 0.5 * x * (1 + torch.erf(x / 2)),
    "gelu of two": lambda x: x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu, minus": lambda x: 0.5 * x * (1 - torch.erf(x / math.sqrt(2))),
    "gelu, other coefficient": lambda x: 0.5 * x * (1 + torch.tanh(K * (x + 0.0447 * x**3))),
    "gelu of a square": lambda x: 0.5 * x * (1 + torch.tanh(K * (x + 0.044715 * x**2))),
    "gelu, few digits": lambda x: 0.5 * x * (1 + torch.erf(x * 0.70711)),
    "softplus of two": lambda x: (2 + x.exp()).log(),
    "softplus to another base": lambda x: (1 + x.exp2()).log(),
}

MADE = {
    RMS, LAYER, NORMALIZE, SOFTMAX, LOG_SOFTMAX, LSE, SWISH, "aten::sigmoid", "aten::tanh",
    "aten::silu", "aten::gelu", "aten::softplus", "aten::log_sigmoid", "aten::cat",
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR)
def test_a_near_miss_is_not_recognised(name: str) -> None:
    analysis = analysed(NEAR[name])
    spelled = {n.op for n in analysis.chain.expanded.graph}
    assert not MADE.intersection(ops(analysis)) - spelled


@pytest.mark.parametrize(
    "g",
    [
        lambda x: x[:, :, :3] * (x[:, :, :3].pow(2).mean(-1) + 1e-6).rsqrt(),  # 3 rows of 3
        lambda x: x[:, :, :3].exp() / x[:, :, :3].exp().sum(-1),
        lambda x: x[0, :, :3] - x[0, :, :3].exp().sum(-1).log(),
    ],
)
def test_a_number_for_each_row_must_stand_beside_its_row(g: Function) -> None:
    """Without keepdim it broadcasts along the wrong dimension where sizes allow it."""
    analysis = analysed(g, (3, 3, 6))
    assert not {RMS, NORMALIZE, SOFTMAX, LOG_SOFTMAX}.intersection(ops(analysis))


def test_a_part_can_be_recognised_where_the_whole_is_not() -> None:
    other = analysed(lambda x: x - x.tanh().exp().sum(**LAST).log())
    assert LSE in ops(other)
    assert LOG_SOFTMAX not in ops(other)
    shifts = analysed(
        lambda x: largest(x) + (x - largest(x).detach()).exp().sum(**LAST).log()
    )  # the gradient of the outer maximum is followed, that of the inner one is not
    assert {LSE, "aten::add.Tensor", "aten::sub.Tensor", "aten::detach"} <= set(ops(shifts))


def test_integers_between_are_no_cast() -> None:
    analysis = analysed(lambda x: x * (x.long().double().square().mean(**LAST) + 1).rsqrt())
    assert RMS not in ops(analysis)


KEEP_SHAPE = sorted(n for n, (_, g) in FORMS.items() if g(torch.ones(SHAPE)).shape == SHAPE)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(KEEP_SHAPE), min_size=2, max_size=4), st.booleans())
def test_compositions_are_the_same_function(names: list[str], gated: bool) -> None:
    def g(x: Tensor) -> Tensor:
        for name in names:
            y = FORMS[name][1](x.tanh())
            x = y * x + y if gated else y + 0.1 * x
        return x

    assert difference(analysed(g)) < 1e-10


# --- what is left behind ------------------------------------------------------------------------


def verdict(analysis: Analysis) -> tuple[Verdict, list[str]]:
    claim = AnalyticityClause().decide(analysis)[0]
    return claim.verdict, [f.code for f in claim.findings]


@pytest.mark.parametrize(
    "name", [n for n in FORMS if "shift" in n or n in ("softplus", "softmax with a sink")]
)
def test_what_only_the_spelling_used_is_in_no_block(name: str) -> None:
    analysis = analysed(FORMS[name][1])
    assert verdict(analysis) == (Verdict.HOLDS, [])
    (block,) = analysis.chain.blocks
    assert set(analysis.owned(block)) <= analysis.graph.live
    assert envelope(analysis, block).jet.bounded


def test_the_maximum_itself_is_still_a_kink() -> None:
    assert "A101" in verdict(analysed(lambda x: (x - largest(x)).softmax(-1) + largest(x)))[1]


def test_a_gradient_that_is_stopped_elsewhere_is_still_found() -> None:
    def g(x: Tensor) -> Tensor:
        p = (x - largest(x).detach()).softmax(-1)
        return p * x.tanh().detach()

    found, codes = verdict(analysed(g))
    assert found is Verdict.UNKNOWN
    assert "A301" in codes


def test_gradients_stopped_in_two_lines_are_told_apart() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            p = (x - x.amax(-1, keepdim=True).detach()).softmax(-1)
            return p * x.detach()

    codes = [o.code for o in analysed(Two()).objections or ()]
    assert codes.count("A301") == 1


# --- blocks -------------------------------------------------------------------------------------


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x)
        return y, y.square().mean(-1, keepdim=True)


class Second(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        x, square = state
        return self.linear(x * (square + 1e-6).rsqrt())


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt())


def test_nothing_is_recognised_across_the_border_of_a_block() -> None:
    """The mean square is part of the second block's state: there it is not that of x."""
    analysis = analysed(nn.Sequential(First(), Second()))
    assert [len(b.entry) for b in analysis.chain.blocks] == [0, 2]
    assert RMS not in ops(analysis)
    inside = analysed(nn.Sequential(nn.Linear(6, 6), Whole()))
    assert len(inside.chain.blocks) == 2
    assert RMS in ops(inside)


def test_two_computations_of_one_state_are_one_in_a_block_only() -> None:
    class Twice(First):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.linear(x)
            return y + 1, y + 1

    class Norm(Second):
        def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
            a, b = state
            return self.linear(a * (b.square().mean(-1, keepdim=True) + 1e-6).rsqrt())

    analysis = analysed(nn.Sequential(Twice(), Norm()))
    assert [len(b.entry) for b in analysis.chain.blocks] == [0, 2]
    assert RMS not in ops(analysis)


# --- rotary embeddings --------------------------------------------------------------------------

ANGLES = torch.arange(3.0)[:, None] * torch.tensor([1.0, 0.1, 0.01])


def rotated(x: Tensor) -> Tensor:
    return torch.cat((-x[..., 3:], x[..., :3]), -1)


def swapped(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def by_halves(x: Tensor, angles: Tensor = ANGLES, scale: float = 1.0) -> Tensor:
    both = torch.cat((angles, angles), -1)
    return x * (both.cos() * scale) + rotated(x) * (both.sin() * scale)


def by_neighbours(x: Tensor, angles: Tensor = ANGLES) -> Tensor:
    both = angles.repeat_interleave(2, -1)
    return x * both.cos() + swapped(x) * both.sin()


def in_parts(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    c, s = ANGLES.cos(), ANGLES.sin()
    return torch.cat((a * c - b * s, b * c + a * s), -1)


def interleaved_parts(x: Tensor) -> Tensor:
    a, b = x[..., ::2], x[..., 1::2]
    c, s = ANGLES.cos(), ANGLES.sin()
    return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)


ROTARIES: dict[str, tuple[str, Function]] = {
    "rotary, halves": (ROTARY, by_halves),
    "rotary, neighbours": (ROTARY, by_neighbours),
    "rotary in parts": (ROTARY, in_parts),
    "rotary in interleaved parts": (ROTARY, interleaved_parts),
}


def turn(analysis: Analysis) -> Any:
    (node,) = [n for n in analysis.graph if n.op == ROTARY and n.index in analysis.graph.live]
    return node


@pytest.mark.parametrize("name", ROTARIES)
def test_a_rotary_embedding_has_norm_one(name: str) -> None:
    analysis = analysed(ROTARIES[name][1])
    assert turn(analysis).args[4] == pytest.approx(1.0, abs=1e-7)  # angles in float32
    assert turn(analysis).args[4] >= 1.0
    assert difference(analysis) < 1e-10
    assert violations(analysis) == []
    bounds = [
        envelope(a, a.chain.blocks[0]).jet.first(1.0, 1.0)
        for a in (analysis, analysed(torch.clone))
    ]
    assert bounds[0] <= bounds[1] * 1.001


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["halves", "neighbours"]))
def test_the_norm_of_a_rotary_embedding_is_that_of_the_map(seed: int, paired: str) -> None:
    """Also where cos and sin are no cosines and sines and differ within a pair."""
    g = torch.Generator().manual_seed(seed)
    cos, sin = torch.randn(2, *SHAPE[1:], generator=g, dtype=torch.float64)
    other = rotated if paired == "halves" else swapped
    analysis = analysed(lambda x: x * cos + other(x) * sin)
    x = torch.eye(6, dtype=torch.float64)[:, None, :].expand(6, 3, 6)
    maps = (x * cos + other(x) * sin).movedim(1, 0)
    exact = float(torch.linalg.matrix_norm(maps, ord=2).max())
    assert turn(analysis).args[4] == pytest.approx(exact, rel=1e-9)
    assert turn(analysis).args[4] >= exact * (1 - 1e-13)


class OnMeta(nn.Module):
    """A layer and a rotary embedding whose frequencies are a buffer without numbers."""

    def __init__(self, g: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.g = nn.Linear(6, 6, device="meta"), g
        self.register_buffer("frequencies", torch.empty(3, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(3, device=x.device)[:, None] * self.frequencies
        return self.g(self.linear(x), angles)


def on_meta(g: Callable[[Tensor, Tensor], Tensor]) -> Analysis:
    return Analysis.of(Problem(OnMeta(g), (torch.empty(SHAPE, device="meta"),)), Catalogue.of())


@pytest.mark.parametrize(
    ("g", "norm"),
    [
        (by_halves, 1.0),
        (by_neighbours, 1.0),
        (lambda x, a: by_halves(x, a, 1.25), 1.25),
        (lambda x, a: by_halves(x[:, None], a[None, None]), 1.0),
        (
            lambda x, a: (
                x * a.cos().repeat_interleave(2, -1) + swapped(x) * a.sin().repeat_interleave(2, -1)
            ),
            1.0,
        ),
    ],
)
def test_the_norm_is_known_without_the_angles(g: Any, norm: float) -> None:
    assert turn(on_meta(g)).args[4] == pytest.approx(norm)


@pytest.mark.parametrize(
    "g",
    [
        lambda x, a: x * torch.cat((a, a), -1).cos() + rotated(x) * torch.cat((a, 2 * a), -1).sin(),
        lambda x, a: (
            x * torch.cat((a, 2 * a), -1).cos() + rotated(x) * torch.cat((a, 2 * a), -1).sin()
        ),
        lambda x, a: x * torch.cat((a, a), -1).cos() + swapped(x) * torch.cat((a, a), -1).sin(),
        lambda x, a: x * torch.cat((a, a), -1).cos() + rotated(x) * torch.cat((a, a), -1).cos(),
        lambda x, a: (
            x * (2 * torch.cat((a, a), -1).cos()) + rotated(x) * torch.cat((a, a), -1).sin()
        ),
        lambda x, a: x * torch.cat((a, a), -1) + rotated(x) * torch.cat((a, a), -1),
        lambda x, a: (
            x * a.repeat_interleave(2, -1).cos() + rotated(x) * a.repeat_interleave(2, -1).sin()
        ),
        lambda x, a: x * torch.cat((a, a), -1).cos() + x.flip(-1) * torch.cat((a, a), -1).sin(),
    ],
)
def test_what_is_no_rotary_embedding_without_the_angles(g: Any) -> None:
    assert ROTARY not in ops(on_meta(g))


def test_angles_that_are_trained_are_no_constants() -> None:
    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.frequencies = nn.Linear(6, 6), nn.Parameter(torch.rand(3))

        def forward(self, x: Tensor) -> Tensor:
            return by_halves(self.linear(x), torch.arange(3)[:, None] * self.frequencies)

    assert ROTARY not in ops(analysed(Trained()))


# --- what the bounds gain -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["rms along another dimension", "l2", "swish", "layer", "softmax, shifted", "gelu by tanh"],
)
def test_samples_stay_below_the_envelopes(name: str) -> None:
    assert violations(analysed(FORMS[name][1])) == []


@pytest.mark.parametrize("name", [n for n, (op, _) in FORMS.items() if op in (RMS, LAYER, SOFTMAX)])
def test_a_normalised_value_is_bounded_independently_of_its_input(name: str) -> None:
    analysis = analysed(FORMS[name][1])
    (block,) = analysis.chain.blocks
    assert envelope(analysis, block).jet.value.degree == (0, 0)


def test_a_repeated_head_counts_as_often_as_it_is_repeated() -> None:
    """Grouped queries: keys and values repeated n times have sqrt(n) times the norm."""

    def repeated(x: Tensor, n: int) -> Tensor:
        b, t, d = x.shape
        return x[:, :, None, :].expand(b, t, n, d).reshape(b, t * n, d)

    bounds = [
        envelope(a, a.chain.blocks[0]).jet.first(1.0, 1.0)
        for a in (analysed(lambda x, n=n: repeated(x, n)) for n in (1, 4))
    ]
    assert bounds[1] == pytest.approx(2.0 * bounds[0], rel=1e-6)


class Gated(nn.Module):
    def __init__(self, act: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.down = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("act", [F.silu, F.gelu, torch.sigmoid, FORMS["swish"][1]])
def test_a_gated_mlp_grows_with_the_square_of_its_input(act: Function) -> None:
    analysis = analysed(nn.Sequential(nn.Linear(6, 6), Gated(act)))
    jet = envelope(analysis, analysis.chain.blocks[1]).jet
    bounded_gate = act is torch.sigmoid
    assert jet.bounded
    assert jet.value.degree == ((2, 1) if bounded_gate else (3, 2))
    assert violations(analysis) == []
