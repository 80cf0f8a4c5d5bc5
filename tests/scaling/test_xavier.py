"""Which parameters are matrices, their effective bottleneck, and the norms that follow."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import blockframe
from blockframe.atoms.catalogue import Catalogue
from blockframe.blocks import BlockChain
from blockframe.initialize import initialize
from blockframe.problem import Problem
from blockframe.scaling import xavier
from blockframe.scaling.xavier import Matrix, Other, Weight, Widths, norms, widths

CATALOGUE = Catalogue.of()
SIDES = st.integers(1, 60)


class Net(nn.Module):
    """``forward`` as given, with the parameters and layers ``held``."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **held: object) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, nn.Parameter(value) if isinstance(value, Tensor) else value)
        self.f = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self, x)


def chain(module: nn.Module, x: Tensor) -> BlockChain:
    return BlockChain.of(Problem(module, (x,)), CATALOGUE)


def read(module: nn.Module, x: Tensor) -> dict[str, Weight]:
    """The weights of all blocks, by name."""
    return {w.name: w for block in widths(chain(module, x)) for w in block.weights}


def entries(weight: Weight) -> int:
    m = weight.matrix
    return m.count * m.outputs * m.inputs * m.kernel // m.groups


# --- numbers of a matrix -----------------------------------------------------------------------


@given(SIDES, SIDES, st.integers(1, 9), st.integers(1, 5))
def test_n_eff_is_between_the_bottleneck_and_its_double(
    m: int, n: int, kernel: int, g: int
) -> None:
    matrix = Matrix(g * m, g * n, kernel, g)
    assert matrix.bottleneck * (1 - 1e-12) <= matrix.n_eff <= 2 * matrix.bottleneck
    assert matrix.n_eff == pytest.approx(2 / (1 / (g * m) + 1 / (g * n)))
    assert matrix.fans == (kernel * n, kernel * m)


@given(st.lists(st.builds(Matrix, SIDES, SIDES), min_size=1, max_size=5), st.booleans())
def test_so_is_that_of_a_block(matrices: list[Matrix], table: bool) -> None:
    op = "embedding" if table else "linear"
    block = Widths("", tuple(Weight(str(i), m, op) for i, m in enumerate(matrices)))
    assert block.bottleneck is not None
    assert block.n_eff is not None
    assert block.largest == max(max(m.outputs, m.inputs) for m in matrices)
    assert block.bottleneck * (1 - 1e-12) <= block.n_eff <= 2 * block.bottleneck


def test_a_table_counts_only_where_a_block_has_nothing_else() -> None:
    table = Weight("t", Matrix(2, 100), "embedding")
    assert Widths("", (table,)).bottleneck == 2
    assert Widths("", (table, Weight("w", Matrix(7, 7), "linear"))).bottleneck == 7
    assert Widths("", ()).n_eff is None


# --- norms at Xavier initialization ------------------------------------------------------------


def transposed_linear(n: int, m: int) -> Net:
    return Net(lambda s, x: torch.addmm(s.b, x, s.weight), b=torch.ones(m), weight=torch.ones(n, m))


LAYERS: dict[str, Callable[[int, int], tuple[nn.Module, Tensor]]] = {
    "linear": lambda n, m: (nn.Linear(n, m), torch.ones(2, n)),
    "columns": lambda n, m: (transposed_linear(n, m), torch.ones(2, n)),
    "conv1d": lambda n, m: (nn.Conv1d(n, m, 3), torch.ones(1, n, 4)),
    "conv2d": lambda n, m: (nn.Conv2d(n, m, (3, 2)), torch.ones(1, n, 4, 4)),
    "grouped": lambda n, m: (nn.Conv1d(2 * n, 2 * m, 3, groups=2), torch.ones(1, 2 * n, 4)),
    "depthwise": lambda n, m: (nn.Conv1d(n, n, 4, groups=n), torch.ones(1, n, 4)),
    "transposed": lambda n, m: (nn.ConvTranspose1d(n, m, 3), torch.ones(1, n, 4)),
    "lstm": lambda n, m: (Net(lambda s, x: s.r(x)[0], r=nn.LSTM(n, m)), torch.ones(2, 1, n)),
    "gru": lambda n, m: (Net(lambda s, x: s.r(x)[0], r=nn.GRU(n, m)), torch.ones(2, 1, n)),
    "bilinear": lambda n, m: (
        Net(lambda s, x: s.b(x, x[:, :m]), b=nn.Bilinear(n + m, m, 3)), torch.ones(2, n + m),
    ),
    "experts": lambda n, m: (
        Net(lambda s, x: torch.bmm(s.w[torch.tensor([0, 2])], x[..., None])[..., 0],
            w=torch.ones(3, m, n)), torch.ones(2, n),
    ),
    "attention": lambda n, m: (
        Net(lambda s, x: s.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(n, 1)),
        torch.ones(2, 1, n),
    ),
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
@settings(max_examples=5, deadline=None)
@given(SIDES, SIDES, st.integers(0, 10**6))
def test_norms_are_those_predicted(layer: str, n: int, m: int, seed: int) -> None:
    module, x = LAYERS[layer](n, m)
    drawn = initialize(module, "xavier", seed)
    if layer == "columns":
        drawn = initialize(module, "xavier", seed, transposed=(Net,))
    weights = read(module, x)
    assert set(drawn) == set(weights)
    check_norms(Problem(module, (x,)), list(weights.values()))


def check_norms(problem: Problem, weights: list[Weight]) -> None:
    """Norms of Xavier matrices, within bounds that are exceeded once in 10^8 times or more rarely.

    The mean of N squares of normals is below 1 - 2√t or above 1 + 2√t + 2t with probability
    exp(-Nt) each at most (Laurent & Massart 2000). A Gaussian a × b matrix of deviation s has a
    norm above s (√a + √b + t) with probability exp(-t²/2) at most (Davidson & Szarek 2001); with
    the s of Xavier the first two terms are at most 2.
    """
    measured = norms(problem, weights)
    for weight in weights:
        matrix, found = weight.matrix, measured[weight.name]
        t = 20 / entries(weight)
        low, high = 1 - 2 * math.sqrt(t), 1 + 2 * math.sqrt(t) + 2 * t
        assert low <= (found.frobenius / matrix.at_xavier) ** 2 <= high
        n, m = matrix.fans
        deviation = math.sqrt(2 / (m + n))
        sides = sorted((n // matrix.kernel, m // matrix.kernel))
        # One side of the matrix that was measured holds the kernel: the larger bound of the two.
        limit = deviation * (math.sqrt(sides[0]) + math.sqrt(sides[1] * matrix.kernel))
        assert limit <= 2 + 1e-12
        number = math.sqrt(2 * math.log(matrix.count * matrix.groups))
        assert found.spectral is not None
        assert found.spectral <= limit + deviation * (6.1 + number)


@pytest.mark.parametrize("spec", ["gpt2", "llama", "mlp", "cnn"])
def test_models(spec: str) -> None:
    plugin = "blockframe_nn" if spec in ("mlp", "cnn") else "blockframe_transformers"
    pytest.importorskip(plugin)
    problem = blockframe.load(spec, init="xavier").runnable
    assert problem is not None
    found = widths(blockframe.chain(problem))
    tables = {w.name for block in found for w in block.weights if w.is_table}
    weights = [w for block in found for w in block.weights if w.name not in tables]
    assert {w.name for w in weights} == set(initialize(copy.deepcopy(problem.module), "xavier", 0))
    assert all(b.bottleneck <= b.n_eff <= 2 * b.bottleneck for b in found if b.weights)  # type: ignore[operator]
    check_norms(problem, weights)


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_a_convolution_is_at_every_frequency_a_xavier_matrix(seed: int) -> None:
    """docs/theory section 7: why a convolution counts by its channels."""
    length, m, n = 12, 48, 40
    layer = nn.Conv1d(n, m, 5, padding=2, padding_mode="circular", bias=False).double()
    initialize(layer, "xavier", seed)
    generator = torch.Generator().manual_seed(seed)
    frequency = int(torch.randint(length, (), generator=generator))
    channels = torch.randn(n, dtype=torch.cdouble, generator=generator)
    turn = torch.exp(2j * math.pi * frequency * torch.arange(-2.0, length).cdouble() / length)
    phases, wave = turn[:5], turn[2:]  # at the points of the kernel, and of the input
    x = channels[:, None] * wave
    with torch.no_grad():
        y = torch.complex(layer(x.real), layer(x.imag))
        symbol = (layer.weight * phases).sum(-1)
    torch.testing.assert_close(y, (symbol @ channels)[:, None] * wave)
    n_eff = Matrix(m, n, 5).n_eff
    assert float(symbol.norm()) ** 2 == pytest.approx(n_eff, rel=7 * math.sqrt(2 / (m * n)))
    limit = math.sqrt(2 / (m + n)) * (math.sqrt(m) + math.sqrt(n) + 6.5)
    assert float(torch.linalg.matrix_norm(symbol, 2)) <= limit


# --- what is read as which matrix --------------------------------------------------------------


def einsum(equation: str, *shape: int) -> Net:
    return Net(lambda s, x: torch.einsum(equation, x, s.w), w=torch.ones(shape))


READ: dict[str, tuple[nn.Module, Tensor, dict[str, Matrix]]] = {
    "linear": (nn.Linear(3, 5), torch.ones(2, 3), {"weight": Matrix(5, 3)}),
    "columns": (transposed_linear(3, 5), torch.ones(2, 3), {"weight": Matrix(5, 3)}),
    "right of @": (Net(lambda s, x: x @ s.w, w=torch.ones(3, 5)), torch.ones(2, 3),
                   {"w": Matrix(5, 3)}),
    "left of @": (Net(lambda s, x: s.w @ x, w=torch.ones(5, 3)), torch.ones(3, 2),
                  {"w": Matrix(5, 3)}),
    "through views": (
        Net(lambda s, x: x @ s.w.t().to(torch.float64), w=torch.ones(5, 3)),
        torch.ones(2, 3, dtype=torch.float64), {"w": Matrix(5, 3)},
    ),
    "in slices": (
        Net(lambda s, x: torch.cat([F.linear(x, p) for p in s.w.split([2, 3])], 1),
            w=torch.ones(5, 3)),
        torch.ones(2, 3), {"w": Matrix(5, 3)},
    ),
    "in slices along the inputs": (
        Net(lambda s, x: F.linear(x[:, :2], s.w[:, :2]) + F.linear(x[:, 2:], s.w[:, 2:]),
            w=torch.ones(4, 5)),
        torch.ones(2, 5), {"w": Matrix(4, 5)},
    ),
    "joined": (
        Net(lambda s, x: F.linear(x, torch.cat([s.a, s.b])),
            a=torch.ones(2, 3), b=torch.ones(4, 3)),
        torch.ones(2, 3), {"a": Matrix(2, 3), "b": Matrix(4, 3)},
    ),
    "embedding": (nn.Embedding(7, 3), torch.tensor([[1, 2]]), {"weight": Matrix(3, 7)}),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), torch.ones(1, 4, 5, 5),
                {"weight": Matrix(6, 4, 9, 2)}),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), torch.ones(1, 4, 5, 5),
                   {"weight": Matrix(6, 4, 9, 2)}),
    "a convolution's kernel in a table": (
        Net(lambda s, x: F.conv1d(x, s.w[:, None], groups=4), w=torch.ones(4, 3)),
        torch.ones(1, 4, 5), {"w": Matrix(4, 4, 3, 4)},
    ),
    "einsum": (einsum("bi,ohi->boh", 3, 2, 5), torch.ones(2, 5), {"w": Matrix(6, 5)}),
    "einsum of a stack": (einsum("bhi,hoi->bho", 4, 3, 5), torch.ones(2, 4, 5),
                          {"w": Matrix(3, 5, count=4)}),
    "tensordot": (Net(lambda s, x: torch.tensordot(x, s.w, dims=([1], [0])), w=torch.ones(3, 5)),
                  torch.ones(2, 3), {"w": Matrix(5, 3)}),
    "experts, outputs first": (
        Net(lambda s, x: torch.bmm(s.w[torch.tensor([1, 1])], x[..., None]), w=torch.ones(4, 5, 3)),
        torch.ones(2, 3), {"w": Matrix(5, 3, count=4)},
    ),
    "experts, inputs first": (
        Net(lambda s, x: torch.bmm(x[:, None], s.w[torch.tensor([1, 1])]), w=torch.ones(4, 3, 5)),
        torch.ones(2, 3), {"w": Matrix(5, 3, count=4)},
    ),
    "projected lstm": (
        Net(lambda s, x: s.r(x)[0], r=nn.LSTM(3, 5, proj_size=2)), torch.ones(2, 1, 3),
        {"r.weight_ih_l0": Matrix(5, 3, count=4), "r.weight_hh_l0": Matrix(5, 2, count=4),
         "r.weight_hr_l0": Matrix(2, 5)},
    ),
    "cross-attention": (
        Net(lambda s, x: s.a(x, x.flip(0), x.flip(0), need_weights=False)[0],
            a=nn.MultiheadAttention(6, 2)),
        torch.ones(2, 1, 6),
        {"a.in_proj_weight": Matrix(6, 6, count=3), "a.out_proj.weight": Matrix(6, 6)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_the_operation_says_what_is_a_matrix(case: str) -> None:
    module, x, expected = READ[case]
    assert {name: w.matrix for name, w in read(module, x).items()} == expected


def test_what_is_added_or_scaled_is_no_matrix() -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        y = torch.cat([s.token.expand(2, 1, 4), x + s.positions], 1) * s.scale
        return s.norm(y).reshape(6, 4) @ s.rate.exp()  # no view of the parameter: its exp

    module = Net(
        forward, token=torch.ones(1, 1, 4), positions=torch.ones(1, 2, 4), scale=torch.ones(4),
        norm=nn.LayerNorm((3, 4)), rate=torch.ones(4, 3),
    )  # fmt: skip
    blocks = widths(chain(module, torch.ones(2, 2, 4)))
    assert [w for block in blocks for w in block.weights] == []
    assert {o for block in blocks for o in block.others} == {
        Other("positions", (1, 2, 4), "add"),
        Other("norm.weight", (3, 4), "layer_norm"),
        Other("norm.bias", (3, 4), "layer_norm"),
        Other("rate", (4, 3), "exp"),
    }


def test_a_tied_matrix_is_read_in_both_blocks() -> None:
    module = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False))
    module[2].weight = module[0].weight
    blocks = widths(chain(module, torch.tensor([[1, 2, 3]])))
    found = [(w.name, w.matrix, w.op, w.tied) for b in blocks for w in b.weights]
    assert found == [
        ("0.weight", Matrix(4, 7), "embedding", False),
        ("1.weight", Matrix(4, 4), "linear", False),
        ("0.weight", Matrix(7, 4), "linear", True),
    ]


def test_a_frozen_matrix_is_a_constant() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    assert set(read(module, torch.ones(2, 3))) == {"1.weight"}


def test_shapes_are_enough() -> None:
    with torch.device("meta"):
        module, x = nn.Linear(300_000, 500_000), torch.ones(2, 300_000)
    assert read(module, x)["weight"].matrix == Matrix(500_000, 300_000)


# --- measured ----------------------------------------------------------------------------------


def test_norms_of_a_stack_and_of_groups() -> None:
    torch.manual_seed(0)
    x = torch.ones(2, 5)
    stack = Net(
        lambda s, x: torch.bmm(s.w[torch.tensor([0, 1])], x[..., None]), w=torch.randn(3, 4, 5)
    )
    found = norms(Problem(stack, (x,)), list(read(stack, x).values()))["w"]
    assert found.frobenius == pytest.approx(float(stack.w.detach().norm()))
    assert found.spectral == pytest.approx(
        max(float(torch.linalg.matrix_norm(w, 2)) for w in stack.w.detach())
    )
    layer, x = nn.Conv1d(4, 6, 3, groups=2), torch.ones(1, 4, 5)
    found = norms(Problem(layer, (x,)), list(read(layer, x).values()))["weight"]
    per_group = [
        float(torch.linalg.matrix_norm(w.flatten(1), 2)) for w in layer.weight.detach().chunk(2)
    ]
    assert found.spectral == pytest.approx(max(per_group))


def test_no_spectral_norm_where_it_is_expensive(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Linear(9, 8), torch.ones(2, 9)
    weights = list(read(layer, x).values())
    assert norms(Problem(layer, (x,)), weights)["weight"].spectral is not None
    monkeypatch.setattr(xavier, "SPECTRAL_SIDE", 7)
    assert norms(Problem(layer, (x,)), weights)["weight"].spectral is None


def test_a_weight_that_is_no_number_has_no_norm() -> None:
    layer, x = nn.Linear(3, 2), torch.ones(2, 3)
    nn.init.constant_(layer.weight, math.nan)
    found = norms(Problem(layer, (x,)), list(read(layer, x).values()))["weight"]
    assert math.isnan(found.frobenius)
    assert found.spectral is None
