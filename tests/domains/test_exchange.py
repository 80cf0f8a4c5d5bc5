"""Samples are said to be treated alike only by networks that do so at all parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import BlockChain
from blockframe.domains.exchange import alike
from blockframe.problem import Problem

N, T, D = 3, 4, 6


class Net(nn.Module):
    """Parameters whose given values do not tell samples apart, and some constants."""

    def __init__(self, f: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.a = f, nn.Linear(D, D)
        self.zero, self.one = nn.Parameter(torch.zeros(N, D)), nn.Parameter(torch.ones(N, 1))
        self.slopes, self.row = nn.Parameter(torch.full((N,), 0.5)), nn.Parameter(torch.ones(D))
        self.place = nn.Parameter(torch.zeros(T, D))
        self.table = nn.Parameter(torch.zeros(N + 1, D))
        self.register_buffer("alike", torch.ones(N, 1))
        self.register_buffer("tiny", 1e-14 * torch.arange(1.0, N + 1)[:, None])
        self.register_buffer("mask", torch.eye(N, dtype=torch.bool)[:, :1])

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self, x)


def shown(f: Callable[[Any, Tensor], Tensor], *shape: int) -> bool:
    net = Net(f).double().eval()
    x = torch.randn(*(shape or (N, D)), dtype=torch.float64)
    analysis = Analysis(BlockChain.of(Problem(net, (x,)), Catalogue.of()))
    return alike(analysis.graph, analysis.constants, len(x), analysis.chain.catalogue)


UNLIKE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a parameter for each sample": lambda n, x: n.a(x) + n.zero,
    "a gain for each sample": lambda n, x: n.a(x) * n.one,
    "the same, inside": lambda n, x: n.a(torch.tanh(x + n.zero)),
    "the same, of a hidden layer": lambda n, x: n.a(n.a(x) * torch.exp(n.zero)),
    "a parameter that is returned": lambda n, x: n.zero + 0.0 * x,
    "slopes": lambda n, x: n.a(F.prelu(x.T[None].transpose(1, 2), n.slopes)[0]).reshape(N, D),
    "a constant for each sample": lambda n, x: n.a(x) + n.tiny,
    "a mask for each sample": lambda n, x: n.a(x).masked_fill(n.mask, 0.0),
    "one sample": lambda n, x: n.a(x) * x[:1],
    "the next sample": lambda n, x: n.a(x) + x.roll(1, 0),
    "a running sum": lambda n, x: n.a(x).cumsum(0),
    "two kinds of samples": lambda n, x: torch.cat([n.a(x[:1]), torch.tanh(n.a(x[1:]))]),
    "one sample put first": lambda n, x: torch.cat([n.a(x)[:1], x[1:]]),
    "rows of a table": lambda n, x: n.a(x) + n.table[torch.tensor([0, 0, 1])],
    "other features of other samples": lambda n, x: (
        n.a(x)[torch.arange(N), torch.tensor([0, 1, 1])]
    ),
    "flipped": lambda n, x: n.a(x).flip(0),
    "a matrix of samples": lambda n, x: n.zero[:, :N] @ n.a(x),
    "a triangle of samples": lambda n, x: torch.ones(N, N).tril().to(x) @ n.a(x),
    "samples are features": lambda n, x: n.zero[:, :N] @ x @ n.a.weight,
    "a linear map of samples": lambda n, x: F.linear(x.T, n.zero[:, :N]).T * n.row,
    "a convolution over samples": lambda n, x: F.conv1d(
        n.a(x).T[None], n.row[:3].expand(D, D, 3), padding=1
    )[0].T,
    "a norm over samples": lambda n, x: F.layer_norm(n.a(x).T, (N,), n.zero[:, 0]).T,
    "two parameters, of one shape each": lambda n, x: n.a(x)
    + torch.cat([n.row[None], n.row[None], n.row[None]]) * n.row
    + torch.cat([n.row[None], n.place[:1], n.row[None]]),
}  # fmt: skip


@pytest.mark.parametrize("f", UNLIKE.values(), ids=UNLIKE.keys())
def test_what_tells_samples_apart(f: Callable[[Any, Tensor], Tensor]) -> None:
    """Most of these do at other parameters than the given ones only, or by next to nothing."""
    assert not shown(f)


ALIKE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a layer": lambda n, x: torch.tanh(n.a(x)),
    "a parameter for all": lambda n, x: n.a(x) * n.row,
    "a parameter, expanded": lambda n, x: n.a(x) + n.row.expand(N, D),
    "a parameter, repeated": lambda n, x: n.a(x) + n.row[None].repeat(N, 1),
    "a parameter, stacked": lambda n, x: n.a(x) + torch.stack([n.row] * N),
    "one row of a table": lambda n, x: n.a(x) + n.table[torch.tensor([1, 1, 1])],
    "a constant for all": lambda n, x: n.a(x) * n.alike,
    "the mean of the samples": lambda n, x: n.a(x) - n.a(x).mean(0),
    "the sum of all": lambda n, x: n.a(x) * torch.sigmoid(n.a(x).sum()),
    "a choice by data": lambda n, x: torch.where(x > 0, n.a(x), x),
    "rows": lambda n, x: n.a(x).softmax(-1) + F.layer_norm(x, (D,), n.row),
    "matrices by sample": lambda n, x: (x[:, :, None] @ n.a(x)[:, None]).flatten(1)[:, :D] * n.row,
    "a matrix on the left": lambda n, x: (n.a.weight @ x.T).T,
    "chunks": lambda n, x: torch.cat(n.a(x).chunk(2, -1)[::-1], -1),
    "with a first token": lambda n, x: torch.cat([n.row.expand(N, 1, D), n.a(x)[:, None]], 1),
    "samples in the last dimension": lambda n, x: torch.stack([n.a(x).T] * 2, 1).sum(1).T,
}  # fmt: skip


@pytest.mark.parametrize("f", ALIKE.values(), ids=ALIKE.keys())
def test_what_does_not(f: Callable[[Any, Tensor], Tensor]) -> None:
    assert shown(f)


def test_positions_are_not_samples() -> None:
    assert shown(lambda n, x: n.a(x) + n.place, N, T, D)
    assert shown(lambda n, x: n.a(x) + n.place, T, T, D)  # of one size
    assert not shown(lambda n, x: n.a(x) + n.place[:, None], T, T, D)


def test_one_sample_is_not_compared() -> None:
    assert not shown(lambda n, x: n.a(x), 1, D)
