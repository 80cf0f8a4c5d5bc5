"""What hides a position, and what only looks as if it did: rows are merged where it truly does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import blockframe

MASK = torch.full((2, 2), -torch.inf).triu(1)
Scores = Callable[[Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """One score for each pair of positions; ``scores`` masks them, or not."""

    mask: Tensor

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self.register_buffer("mask", MASK.clone())
        self.weights, self.head = nn.Parameter(torch.randn(2, 2)), nn.Linear(6, 1)
        self.scores = scores

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.scores(self.weights, self.mask), -1).expand(6, 2, 2)
        return self.head(weights @ x)


def _claim(scores: Scores) -> blockframe.Claim:
    """11 parameters; six samples of two positions that begin alike: 12 rows, 7 if merged."""
    torch.manual_seed(1)
    module = Attention(scores).double()
    x = torch.randn(6, 2, 6).double()
    x[:, 0] = x[0, 0]
    certificate = blockframe.certify((module, (x,), torch.randn(6, 2, 1).double()), steps=1)
    return certificate.claim("nondegeneracy")


@pytest.mark.parametrize(
    "scores",
    [
        lambda s, m: s + m,
        lambda s, m: s + m.clamp(min=torch.finfo(torch.float64).min),
        lambda s, m: torch.where(m < 0, -torch.inf, s),
        lambda s, m: s.masked_fill(m < 0, -1e32),
        lambda s, m: (s / 8 + m) + 3.0,
    ],
    ids=["added", "finite", "where", "filled", "shifted"],
)
def test_rows_that_a_mask_makes_equal_are_merged(scores: Scores) -> None:
    claim = _claim(scores)
    assert (claim.numbers["rows"], claim.numbers["unmerged rows"]) == (7, 12)
    assert claim.verdict != "FAILS"  # 7 <= 11


@pytest.mark.parametrize(
    "scores",
    [
        lambda s, m: s + m.to(torch.bool),
        lambda s, m: s + torch.zeros(2, 2, dtype=torch.bool).copy_(m),
        lambda s, m: s + m.bool().flip(0).flip(0),
        lambda s, m: s + (m == 0),
        lambda s, m: torch.where(m < 0, -1e30, s) + torch.where(m < 0, 1e30, 0.0),
        lambda s, m: (s + 1e35) + m.clamp(min=-1e30),
        lambda s, m: s + m.clamp(min=-1e30) * torch.tensor(-1.0, dtype=torch.float64),
        lambda s, m: s + m.clamp(min=-1e30).mul(1e-30),
        lambda s, m: s + torch.full((2, 2), -1e35, dtype=torch.float64),
    ],
    ids=["cast", "copied", "flipped", "compared", "undone", "raised", "turned", "scaled", "all"],
)
def test_rows_that_no_mask_makes_equal_are_not(scores: Scores) -> None:
    claim = _claim(scores)
    assert claim.numbers["rows"] == 12
    assert claim.verdict == "FAILS"  # 11 parameters


def test_a_cast_mask_does_not_hide_the_input() -> None:
    """What is seen nowhere is the same for all samples; here all of it is seen."""

    class Mixed(nn.Module):
        mask: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
            self.first, self.scores = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(2))
            self.value = nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            n = len(x)
            weights = torch.softmax(self.scores + self.mask.to(torch.bool), -1).expand(n, 1, 2)
            values = torch.stack([self.first.expand(n, 1), self.value(x)], 1)
            return (weights @ values).squeeze(-1)

    torch.manual_seed(0)
    claim = blockframe.certify((Mixed().double(), (torch.randn(3, 3).double(),))).claim(
        "nondegeneracy"
    )
    assert claim.verdict != "FAILS"
