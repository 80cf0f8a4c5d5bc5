"""Which inputs an output can depend on: never fewer than it does, and no more where it matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import BlockChain
from blockframe.domains.exchange import alike
from blockframe.domains.reach import reach, shrunk
from blockframe.problem import Problem

N, T, D, WORDS = 3, 4, 4, 7


class Net(nn.Module):
    """x (N, T, D), through ``steps`` that are functions of (module, x), each with its own parts."""

    def __init__(self, steps: list[Callable[[Any, Tensor], Tensor]], words: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, D) if words else None
        self.steps = steps
        self.parts = nn.ModuleList(Parts() for _ in steps)
        self.end = nn.Parameter(torch.randn(D))

    def forward(self, x: Tensor) -> Tensor:
        if self.table is not None:
            x = self.table(x)
        for step, parts in zip(self.steps, self.parts, strict=True):
            x = step(parts, x)
        return x + self.end


class Parts(nn.Module):
    """What a step may use."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.lstm = nn.LSTM(D, D, batch_first=True)
        self.gru = nn.GRU(D, D, num_layers=2)
        self.conv, self.image = nn.Conv1d(D, D, 3), nn.Conv2d(D, D, 3, padding=1, dilation=1)
        self.spread = nn.Conv1d(D, D, 2, dilation=2, padding=1)
        self.layer, self.group, self.batch = nn.LayerNorm(D), nn.GroupNorm(2, D), nn.BatchNorm1d(D)
        self.gain, self.own = nn.Parameter(torch.randn(D)), nn.Parameter(torch.randn(N, 1, D))
        self.register_buffer("shift", torch.randn(N, 1, 1))
        self.register_buffer("block", torch.eye(2).repeat_interleave(2, 0).repeat_interleave(2, 1))
        self.register_buffer("random", torch.rand(T, T) < 0.5)
        self.register_buffer("drawn", (torch.rand(N, T, T) < 0.5).float() * -1e38)


def attention(mask: Callable[[Parts, Tensor, Tensor], Tensor]) -> Callable[[Parts, Tensor], Tensor]:
    """``mask(parts, x, scores)``: scores, masked."""

    def step(p: Parts, x: Tensor) -> Tensor:
        scores = p.q(x) @ p.k(x).mT / 2.0
        return mask(p, x, scores).softmax(-1) @ p.v(x)

    return step


def causal(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool).tril()


LEAST = torch.finfo(torch.float32).min
STEPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "linear": lambda p, x: p.q(x),
    "tanh": lambda p, x: torch.tanh(x),
    "gated": lambda p, x: F.silu(p.q(x)) * p.k(x),
    "residual mlp": lambda p, x: x + p.v(F.gelu(p.q(x))),
    "layer norm": lambda p, x: p.layer(x),
    "rms norm": lambda p, x: F.rms_norm(x, (D,)) * p.gain,
    "group norm": lambda p, x: p.group(x.mT).mT,
    "batch norm": lambda p, x: p.batch(x.mT).mT,
    "cumsum": lambda p, x: x.cumsum(1),
    "cumsum of features": lambda p, x: x.cumsum(-1),
    "mean of positions": lambda p, x: x + x.mean(1, keepdim=True),
    "mean of samples": lambda p, x: x - x.mean(0),
    "sum of all": lambda p, x: x * torch.sigmoid(x.sum()),
    "softmax of positions": lambda p, x: x.softmax(1),
    "softmax of features": lambda p, x: x.softmax(2),
    "logsumexp": lambda p, x: x + x.logsumexp(2, keepdim=True),
    "variance": lambda p, x: x + x.var(1, keepdim=True),
    "amax": lambda p, x: x + x.amax(1, keepdim=True),
    "sorted": lambda p, x: x.sort(1).values,
    "running maximum": lambda p, x: x.cummax(1).values,
    "roll": lambda p, x: x.roll(1, 1),
    "roll of samples": lambda p, x: x.roll(1, 0),
    "flip": lambda p, x: x.flip(1),
    "flip of features": lambda p, x: x.flip(-1),
    "chunk and cat": lambda p, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split and stack": lambda p, x: torch.stack(x.split(1, 2), 0).sum(0).expand(N, T, D) + x,
    "unbind": lambda p, x: torch.stack(x.unbind(1)[::-1], 1),
    "last position": lambda p, x: x[:, -1:].expand(N, T, D) * x,
    "first sample": lambda p, x: x + x[:1],
    "shift by one": lambda p, x: F.pad(x, (0, 0, 1, 0))[:, :-1],
    "gather": lambda p, x: x[:, torch.tensor([1, 1, 0, 3])],
    "gather by sample": lambda p, x: x[torch.arange(N), torch.tensor([0, 2, 1])][:, None] + x,
    "rows as one batch": lambda p, x: p.q(x.reshape(N * T, D)).view(N, T, D),
    "heads": lambda p, x: x.view(N, T, 2, 2).transpose(1, 2).reshape(N * 2, T, 2).tanh()
    .view(N, 2, T, 2).transpose(1, 2).reshape(N, T, D),
    "samples last": lambda p, x: (p.q.weight @ x.permute(1, 2, 0)).permute(2, 0, 1),
    "tril of positions": lambda p, x: x.mT.tril().mT + x,
    "causal convolution": lambda p, x: p.conv(F.pad(x.mT, (2, 0))).mT,
    "centred convolution": lambda p, x: p.conv(F.pad(x.mT, (1, 1))).mT,
    "dilated convolution": lambda p, x: p.spread(x.mT).mT,
    "convolution of images": lambda p, x: p.image(x.view(N, D, 2, 2)).view(N, T, D),
    "average pooling": lambda p, x: F.avg_pool1d(x.mT, 3, 1, 1).mT,
    "adaptive pooling": lambda p, x: x + F.adaptive_avg_pool1d(x.mT, 2).mT.repeat(1, 2, 1),
    "upsampling": lambda p, x: F.interpolate(x[:, ::2].mT, scale_factor=2).mT,
    "lstm": lambda p, x: p.lstm(x)[0],
    "gru, samples in dimension 1": lambda p, x: p.gru(x.transpose(0, 1))[0].transpose(0, 1),
    "attention": attention(lambda p, x, s: s),
    "causal by masked_fill": attention(lambda p, x, s: s.masked_fill(~causal(s), float("-inf"))),
    "causal by where": attention(lambda p, x, s: torch.where(causal(s), s, -torch.inf)),
    "causal by addition": attention(
        lambda p, x, s: s + torch.zeros(T, T).masked_fill(~causal(s), LEAST)
    ),
    "causal by a finite number": attention(lambda p, x, s: s.masked_fill(~causal(s), LEAST)),
    "causal by multiplication": lambda p, x: (p.q(x) @ p.k(x).mT * causal(x @ x.mT).double()) @ x,
    "blocks": attention(lambda p, x, s: s.masked_fill(p.block == 0, LEAST)),
    "random mask": attention(lambda p, x, s: s.masked_fill(p.random, LEAST)),
    "random mask for each sample": attention(lambda p, x, s: s + p.drawn),
    "mask subtracted": attention(
        lambda p, x, s: s - torch.zeros(T, T).masked_fill(causal(s), LEAST)
    ),
    "mask negated": attention(lambda p, x, s: s + -torch.where(causal(s), LEAST, 0.0)),
    "mask with a factor": attention(
        lambda p, x, s: torch.add(s, torch.where(causal(s), LEAST, 0.0), alpha=-1)
    ),
    "mask from the data": attention(lambda p, x, s: s.masked_fill(x.sum(-1)[:, None] > 0, LEAST)),
    "scaled dot product": lambda p, x: F.scaled_dot_product_attention(x, p.k(x), x, is_causal=True),
    "choice by data": lambda p, x: torch.where(x.flip(1) > 0, x, p.q(x)),
    "choice by a sum": lambda p, x: torch.where(x.sum(1, keepdim=True) > 0, x, p.q(x)),
    "ranks": lambda p, x: x * x.argsort(1),
    "any": lambda p, x: x * (x > 1.0).any(1, keepdim=True) + x,
    "constant for each sample": lambda p, x: x + p.shift,
    "parameter for each sample": lambda p, x: x + p.own,
    "times zero": lambda p, x: x.flip(1) * 0.0 + p.gain,
    "einsum": lambda p, x: torch.einsum("ntd,nsd->nts", x, p.q(x)),
    "bilinear": lambda p, x: torch.bmm(x.mT, x) + x,
    "dropout": lambda p, x: F.dropout(x, 0.5, training=False),
    "prelu": lambda p, x: F.prelu(x.mT, p.gain).mT,
    "embedding of ranks": lambda p, x: F.embedding(x.argsort(1)[..., 0], p.q.weight),
}  # fmt: skip


def followed(net: nn.Module, x: Tensor) -> tuple[Tensor, bool]:
    """The marks of every entry of the output; whether samples are shown to be treated alike."""
    analysis = Analysis(BlockChain.of(Problem(net, (x,)), Catalogue.of()))
    catalogue = analysis.chain.catalogue
    found = reach(analysis.graph, analysis.constants, N, catalogue)[analysis.graph.output]
    return found.marks, alike(analysis.graph, analysis.constants, N, catalogue)


def inputs(seed: int, words: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if words:
        return torch.randint(WORDS, (N, T), generator=generator)
    return torch.randn(N, T, D, generator=generator, dtype=torch.float64)


def check(net: nn.Module, words: bool, seed: int) -> None:
    """No output entry changes with an input that it is said not to see."""
    x = inputs(seed, words)
    marks, same = followed(net, x)
    with torch.no_grad():
        before = net(x)
        assert marks.shape[1:] == before.shape
        for sample in range(N):
            for position in range(T):
                other = x.clone()
                other[sample, position] = inputs(seed + 1, words)[sample, position]
                changed = (net(other) - before).abs() > 1e-11 * before.abs().max()
                allowed = (marks[0] > sample) & (marks[1] >= N - sample) & (marks[2] > position)
                assert not bool((changed & ~allowed).any())
        if same:
            order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
            for value in (x, inputs(seed + 2, words)):
                assert torch.allclose(net(value[order]), net(value)[order], 1e-10, 1e-10)


def made(names: list[str], words: bool, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    net = Net([STEPS[n] for n in names], words).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64) * 0.7)
    return net


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_no_input_is_overlooked_in_one_step(name: str, words: bool) -> None:
    check(made([name], words), words, seed=0)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=4),
    st.booleans(),
    st.integers(0, 1000),
)
def test_no_input_is_overlooked_in_several_steps(names: list[str], words: bool, seed: int) -> None:
    check(made(names, words, seed), words, seed)


CAUSAL = (
    "linear", "gated", "residual mlp", "layer norm", "cumsum", "rows as one batch",
    "heads", "samples last", "causal convolution", "lstm", "gru, samples in dimension 1",
    "causal by masked_fill", "causal by where", "causal by addition", "causal by a finite number",
    "causal by multiplication", "scaled dot product", "dropout", "prelu", "batch norm",
)  # fmt: skip


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("words", [False, True])
def test_what_is_causal_sees_its_prefix_and_no_more(name: str, words: bool) -> None:
    marks, same = followed(made([name, "linear", name], words), inputs(0, words))
    assert same
    seen = shrunk(marks).amax(-1).expand(-1, N, T)
    sample, position = torch.arange(N)[:, None], torch.arange(T).expand(N, T)
    assert bool((seen[0] == sample + 1).all())
    assert bool((seen[1] == N - sample).all())
    assert bool((seen[2] == position + 1).all())


def test_a_shift_sees_what_is_left() -> None:
    marks, same = followed(made(["shift by one"], False), inputs(0, False))
    assert same
    assert marks[2, 1, :, 0].tolist() == [0, 1, 2, 3]


def test_blocks_are_seen_as_a_whole() -> None:
    marks, _ = followed(made(["blocks"], False), inputs(0, False))
    assert marks[2, 0, :, 0].tolist() == [2, 2, 4, 4]


def test_a_row_that_is_masked_throughout_sees_all() -> None:
    """A softmax of equal numbers weighs all alike, however small they are."""
    net = made(["random mask"], False)
    net.parts[0].random[1] = True
    marks, _ = followed(net, inputs(0, False))
    assert bool((marks[2, :, 1] == T).all())


def test_a_convolutional_network_takes_samples_one_by_one() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.GroupNorm(3, 3), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 5),
    ).double().eval()  # fmt: skip
    marks, same = followed(net, torch.randn(N, 2, 6, 6, dtype=torch.float64))
    assert same
    assert bool((marks[0] == torch.arange(N)[:, None] + 1).all())
    assert bool((marks[1] == N - torch.arange(N)[:, None]).all())


def test_what_sees_nothing_is_blank() -> None:
    marks, _ = followed(made(["times zero"], False), inputs(0, False))
    assert not bool(marks.any())
