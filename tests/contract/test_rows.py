"""Rows are merged only where they are the same function of θ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import BlockChain
from blockframe.contract.rows import Rows, rows
from blockframe.problem import Problem

WORDS, D, C = 9, 4, 3
TEXT = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6, 4], [7, 2, 3, 4]])
PREFIXES = len({tuple(line[:n]) for line in TEXT.tolist() for n in range(1, 5)})


class Model(nn.Module):
    """A table, ``f`` and a head."""

    def __init__(self, f: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.place = nn.Embedding(WORDS, D), nn.Embedding(4, D)
        self.lstm, self.head = nn.LSTM(D, D, batch_first=True), nn.Linear(D, C)
        self.own = nn.Parameter(torch.zeros(4, 1, D))
        self.register_buffer("tiny", 1e-13 * torch.arange(4.0)[:, None, None])
        self.f = f

    def forward(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        return self.f(self, *inputs, **more)


def counted(f: Callable[..., Tensor], *inputs: Tensor, **keywords: Any) -> Rows | None:
    problem = Problem(Model(f).double().eval(), inputs, keywords=keywords)
    return rows(Analysis(BlockChain.of(problem, Catalogue.of())))


def found(f: Callable[..., Tensor], *inputs: Tensor, **keywords: Any) -> Rows:
    result = counted(f, *inputs, **keywords)
    assert result is not None
    return result


def attended(n: Any, h: Tensor, *, causal: bool = True) -> Tensor:
    return h + F.scaled_dot_product_attention(h, h, h, is_causal=causal)


def test_equal_prefixes_are_one_row() -> None:
    for f in (
        lambda n, x: n.head(attended(n, n.table(x))),
        lambda n, x: n.head(attended(n, n.table(x) + n.place(torch.arange(4)))),
        lambda n, x: n.head(n.lstm(n.table(x))[0]),
        lambda n, x: n.head(n.table(x).cumsum(1)),
    ):
        r = found(f, TEXT)
        assert (r.count, r.total, r.outputs, r.positions) == (PREFIXES, 16, C, 4)
        assert r.merged
        assert sum(r.weights) == 16
        assert r.weights[0] == 3  # the first word of three of the texts
        assert r.twins is None
        assert r.blind is None


def test_the_first_row_of_every_group_is_kept() -> None:
    r = found(lambda n, x: n.head(n.table(x).cumsum(1)), TEXT)
    seen: dict[tuple[int, ...], int] = {}
    for row in range(16):
        seen.setdefault(tuple(TEXT[row // 4, : row % 4 + 1].tolist()), row)
    assert list(r.kept) == sorted(seen.values())


def test_what_sees_everything_is_not_merged() -> None:
    for f in (
        lambda n, x: n.head(attended(n, n.table(x), causal=False)),
        lambda n, x: n.head(n.table(x) + n.table(x).mean(1, keepdim=True)),
        lambda n, x: n.head(n.table(x).flip(1).cumsum(1).flip(1)),
    ):
        assert not found(f, TEXT).merged


def test_rows_of_one_word_are_merged_at_one_position_only() -> None:
    """As functions of θ they are equal at all; that is not looked for."""
    r = found(lambda n, x: n.head(n.table(x)), TEXT)
    assert r.count == PREFIXES


def test_a_mask_that_looks_ahead_is_seen() -> None:
    def f(n: Any, x: Tensor) -> Tensor:
        ends = (x == 4).flip(1).cumsum(1).flip(1) > 0
        return n.head(torch.where(ends[..., None], n.table(x), n.place.weight[0]).cumsum(1))

    assert not found(f, TEXT).merged


def test_ranks_look_ahead() -> None:
    assert not found(lambda n, x: n.head(n.place(x.argsort(1)).cumsum(1)), TEXT).merged


def test_a_constant_or_parameter_for_each_sample() -> None:
    for f in (
        lambda n, x: n.head(n.table(x).cumsum(1) + n.tiny),
        lambda n, x: n.head(n.table(x).cumsum(1) + n.own),
        lambda n, x: n.head(n.table(x).cumsum(1) * torch.exp(n.own)),
    ):
        r = found(f, TEXT[[0, 0, 1, 2]])
        assert not r.merged
        assert r.twins is None


def test_a_network_that_mixes_samples() -> None:
    mixed = found(lambda n, x: n.head(n.table(x).cumsum(1) - n.table(x).mean(0)), TEXT)
    assert not mixed.merged
    ordered = found(lambda n, x: n.head(n.table(x).cumsum(1).cumsum(0)), TEXT[[0, 0, 1, 2]])
    assert not ordered.merged
    assert ordered.twins is None  # the second row is not the first


def test_twins() -> None:
    x = torch.randn(5, D, dtype=torch.float64)
    x[3] = x[1]
    r = found(lambda n, x: n.head(x), x)
    assert r.twins == (1, 3)
    assert (r.count, r.total, r.positions) == (5, 5, 1)
    assert found(lambda n, x: n.head(x - x.mean(0)), x).twins == (1, 3)
    assert found(lambda n, x: n.head(x), x[:3]).twins is None
    assert found(lambda n, x: n.head(attended(n, n.table(x))), TEXT[[0, 1, 0, 2]]).twins == (0, 2)


def test_inputs_that_differ_by_little_are_no_twins() -> None:
    x = torch.ones(2, D, dtype=torch.float64)
    x[1, 2] += 1e-15
    assert found(lambda n, x: n.head(x), x).twins is None


def test_blind_rows() -> None:
    r = found(lambda n, x: n.head(0.0 * n.table(x) + n.place.weight), TEXT)
    assert r.blind == (0, 1, 0)
    shifted = found(lambda n, x: n.head(F.pad(n.table(x), (0, 0, 1, 0))[:, :-1].cumsum(1)), TEXT)
    assert shifted.blind == (0, 1, 0)  # the first row sees no word yet
    own = found(lambda n, x: n.own + 0.0 * n.table(x), TEXT)
    assert own.blind is None  # a parameter for every sample


def test_several_inputs() -> None:
    second = torch.tensor([[1, 1, 1, 1], [1, 1, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    r = found(lambda n, x, y: n.head((n.table(x) + n.place(y)).cumsum(1)), TEXT, second)
    assert r.count == len(
        {(*a[:n], *b[:n]) for a, b in zip(TEXT.tolist(), second.tolist(), strict=True)
         for n in range(1, 5)}
    )  # fmt: skip
    unused = found(lambda n, x, y: n.head(n.table(x).cumsum(1)), TEXT, second)
    assert unused.count == PREFIXES
    whole = found(
        lambda n, x, y: n.head(n.table(x).cumsum(1) + n.place(y).sum(1, True)), TEXT, second
    )
    assert whole.count == PREFIXES + 3  # the second text is another one for its other input


def test_keywords() -> None:
    second = torch.zeros(4, 4, dtype=torch.long)
    second[1, 0] = 1
    r = found(
        lambda n, x, kind=None: n.head((n.table(x) + n.place(kind)).cumsum(1)), TEXT, kind=second
    )
    assert r.count == PREFIXES + 3  # nothing of the second text is merged with the first
    plain = found(lambda n, x, flag=True: n.head(n.table(x).cumsum(1)), TEXT, flag=True)
    assert plain.count == PREFIXES


def test_real_inputs() -> None:
    x = torch.randn(3, 4, D, dtype=torch.float64)
    x[1, :2] = x[0, :2]
    for value in (x, x.bfloat16()):
        r = found(lambda n, x: n.head(x.to(torch.float64).cumsum(1)), value)
        assert (r.count, r.total) == (10, 12)


def test_outputs_of_one_dimension() -> None:
    r = found(lambda n, x: n.head(x)[:, 0], torch.randn(5, D, dtype=torch.float64))
    assert (r.outputs, r.total, r.count, r.positions) == (1, 5, 5, 1)


def test_rows_that_are_not_known() -> None:
    x = torch.randn(5, D, dtype=torch.float64)
    assert counted(lambda n, x: n.head(x).T, x) is None
    assert counted(lambda n, x: n.head(x).sum(), x) is None
    assert counted(lambda n, x: n.head(x)[None], x) is None
    assert counted(lambda n, x, y: n.head(x) + y, x, torch.zeros(1, C)) is None
    assert counted(lambda n, x: n.head(x)[:, :0], x) is None
    with torch.device("meta"):
        shell = Problem(nn.Linear(D, C), (torch.empty(5, D),))
    assert rows(Analysis(BlockChain.of(shell, Catalogue.of()))) is None


def test_samples_in_another_dimension_of_the_same_size() -> None:
    x = torch.randn(4, 4, D, dtype=torch.float64)
    x[1] = x[0]
    r = found(lambda n, x: n.head(x.transpose(0, 1).cumsum(0)), x)
    assert not r.merged
    assert r.twins is None
