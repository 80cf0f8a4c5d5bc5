"""Segmentation into blocks, the second cut at residual sums, and exact replay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import BlockChain
from blockframe.errors import InputError
from blockframe.graph.graph import NodeKind
from blockframe.problem import Problem

CATALOGUE = Catalogue.of()


def chain(module: nn.Module, *inputs: Tensor) -> BlockChain:
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    found = BlockChain.of(Problem(module, inputs), CATALOGUE)
    assert found.replay_difference() == 0.0
    used = {n.target for n in found.graph if n.kind is NodeKind.PARAMETER}
    assert sorted(n for b in found.blocks for n in b.parameter_names) == sorted(used)
    return found


class Attention(nn.Module):
    def __init__(self, d: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(d, 3 * d), nn.Linear(d, d), heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, style: str, d: int = 8) -> None:
        super().__init__()
        self.style = style
        self.attn = Attention(d)
        self.mlp = nn.Sequential(nn.Linear(d, 16), nn.GELU(), nn.Linear(16, d))
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.norm3, self.norm4 = (
            (nn.LayerNorm(d), nn.LayerNorm(d)) if style == "sandwich" else (None, None)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "pre":
            x = x + self.attn(self.norm1(x))
            return x + 0.5 * self.mlp(self.norm2(x))
        if self.style == "post":
            x = self.norm1(x + self.attn(x))
            return self.norm2(self.mlp(x) + x)
        if self.style == "sandwich":
            x = x + self.norm3(self.attn(self.norm1(x)))
            return x + self.norm4(self.mlp(self.norm2(x)))
        if self.style == "parallel":
            return x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))
        return (
            x + self.mlp(x + self.attn(x)) if self.style == "nested" else self.mlp(x + self.attn(x))
        )


class Model(nn.Module):
    def __init__(self, style: str) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.layers = nn.ModuleList(Layer(style) for _ in range(2))
        self.final = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.final(x))


IDS = torch.arange(12).reshape(2, 6) % 11


@pytest.mark.parametrize("style", ["pre", "post", "sandwich"])
def test_layers_are_cut_at_their_residual_sums(style: str) -> None:
    blocks = chain(Model(style), IDS).blocks
    assert [b.name for b in blocks] == [
        "embed", "layers.0.attention", "layers.0.mlp", "layers.1.attention", "layers.1.mlp",
        "final", "head",
    ]  # fmt: skip
    assert [b.role for b in blocks] == ["embed", *["attention", "mlp"] * 2, "norm", "head"]
    placements = [b.residual.placement if b.residual else None for b in blocks]
    assert placements == [None, *[style] * 4, None, None]
    assert all(b.state == ((2, 6, 8),) for b in blocks[:-1])
    assert blocks[-1].shared == ("tokens.weight",)
    assert blocks[-1].parameters == 0


def test_parallel_branches_are_one_block() -> None:
    blocks = chain(Model("parallel"), IDS).blocks
    assert [b.role for b in blocks] == ["embed", "parallel", "parallel", "norm", "head"]
    assert blocks[1].residual is not None
    assert blocks[1].residual.placement == "parallel"
    assert len(blocks[1].residual.branches) == 2


def test_a_layer_that_is_no_residual_sum_stays_whole() -> None:
    blocks = chain(Model("none"), IDS).blocks
    assert [b.name for b in blocks] == ["embed", "layers.0", "layers.1", "final", "head"]


def test_a_residual_around_a_residual_is_one_block() -> None:
    blocks = chain(Model("nested"), IDS).blocks
    assert [b.residual.placement for b in blocks[1:3] if b.residual] == ["none", "none"]


def test_items_without_parameters_join_the_one_before() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Softmax(-1))
    blocks = chain(net, torch.randn(2, 2, 2)).blocks
    assert [b.name for b in blocks] == ["1", "3"]
    assert [len(b.nodes) for b in blocks] == [2, 2]


def test_without_lists_the_children_are_the_blocks() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x)))

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Net()

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) * 2

    assert [b.name for b in chain(Net(), torch.randn(2, 4)).blocks] == ["first", "second"]
    assert [b.name for b in chain(Wrapper(), torch.randn(2, 4)).blocks] == [
        "model.first",
        "model.second",
    ]


def test_a_skip_over_blocks_makes_the_state_two_tensors() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            first = torch.tanh(self.a(x))
            return self.c(torch.tanh(self.b(first)) + first)

    blocks = chain(Net(), torch.randn(3, 4)).blocks
    # the sum is glue code after b, so only its value crosses the cut
    assert [b.state for b in blocks] == [((3, 4),), ((3, 4),), ((3, 2),)]


def test_a_layer_that_is_called_again_is_a_block_again() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Linear(4, 4)
            self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh())])

        def forward(self, x: Tensor) -> Tensor:
            x = self.start(x)
            for _ in range(3):
                x = self.layers[0](x)
            return x

    blocks = chain(Net(), torch.randn(2, 4)).blocks
    assert len({b.name for b in blocks}) == len(blocks)
    assert sum(b.parameters for b in blocks) == 40


def test_recurrent_networks_and_convolutions_replay() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 5, num_layers=2, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    assert [b.name for b in chain(Recurrent(), torch.randn(2, 4, 3)).blocks] == ["rnn", "head"]
    conv = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    conv[1].running_var.fill_(2.0)
    assert [b.name for b in chain(conv, torch.randn(2, 1, 8, 8)).blocks] == ["0", "1", "5"]


def test_replay_on_other_inputs_and_its_errors() -> None:
    found = chain(Model("pre"), IDS)
    other = (IDS + 3) % 11
    with torch.no_grad():
        assert torch.equal(found.replay(other), found.problem.module(other))
    with pytest.raises(InputError, match="traced for inputs of shape"):
        found.replay(IDS[:, :3])
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    lifeless = BlockChain.of(Problem(module, (torch.zeros(1, 3, device="meta"),)), CATALOGUE)
    with pytest.raises(InputError, match="meta device"):
        lifeless.replay()
