"""Guaranteed rates are: no Hessian that a search finds in the region exceeds its bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import blockframe
from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import Bilinear, Pointwise, Rowwise
from blockframe.domains.growth import Growth, Jet
from blockframe.domains.magnitude import Magnitude
from blockframe.domains.norms import frobenius, spectral
from blockframe.dynamics.losses import LOSSES, CrossEntropy, Loss, MeanSquaredError, Smoothness
from blockframe.errors import InputError, PluginError
from blockframe.graph.graph import Graph, Node, NodeKind, Ref
from blockframe.problem import Problem
from blockframe.scaling.rates import Guarantee, Region, _Numbers, guaranteed, start_norm
from blockframe.testing.hessian import sampled_hessian_norm

# the first forward-mode derivative of a process warns about something inside of torch
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


class Attention(nn.Module):
    """A pre-norm block of attention between an embedding and a head."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
        self.qkv, self.project, self.head = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(4, 3)
        self.fused = fused

    def forward(self, tokens: Tensor) -> Tensor:
        z = self.table(tokens)
        parts = self.qkv(self.norm(z)).unflatten(-1, (2, 6)).transpose(1, 2)
        q, k, v = parts.chunk(3, -1)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = (q @ k.mT / 2.0**0.5).softmax(-1) @ v
        return self.head(z + self.project(mixed.transpose(1, 2).flatten(2)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, activation="gelu", batch_first=True)
        self.layer, self.head = layer, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


class Normalised(nn.Module):
    """What a ball treats in ways of its own: gains of norms, products of parameters, roots."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(3, 4), nn.Linear(4, 3), nn.GroupNorm(2, 4, eps=0.1)
        self.scale = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.a(x)) * torch.sigmoid(x.sum(-1, keepdim=True))
        return self.b(h / (1.0 + h.square())) * self.scale.exp() + (1.0 + self.scale**2).sqrt()


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3))


TOKENS = torch.tensor([[0, 3, 3], [1, 3, 4]])
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(3, 3), lambda: torch.randn(4, 3)),
    "mlp": (mlp, lambda: torch.randn(4, 3)),
    "cnn": (cnn, lambda: torch.randn(2, 1, 4, 4)),
    "lstm": (Recurrent, lambda: torch.randn(2, 3, 2)),
    "attention": (lambda: Attention(fused=False), lambda: TOKENS),
    "fused attention": (lambda: Attention(fused=True), lambda: TOKENS),
    "encoder": (Encoder, lambda: torch.randn(2, 3, 4)),
    "normalised": (Normalised, lambda: torch.randn(4, 3)),
}


def problem(name: str, loss: str = "mse", seed: int = 0) -> Problem:
    torch.manual_seed(seed)
    make, inputs = MODELS[name]
    module, x = make(), inputs()
    with torch.no_grad():
        outputs = module.eval()(x)
    targets = torch.randn(outputs.shape) if loss == "mse" else outputs.argmax(-1)
    return Problem(module, (x,), targets, loss=loss)


def analysed(problem: Problem) -> Analysis:
    return Analysis.of(problem, Catalogue.of())


def bound(problem: Problem, region: Region, loss: Loss | None = None) -> Guarantee:
    named = next((known for known in LOSSES if known.name == problem.loss), MeanSquaredError())
    return guaranteed(analysed(problem), loss or named, region)


def size(g: Guarantee) -> float:
    """Λ; the models here are so small that it is a float."""
    assert g.bound.bounded, (g.findings, g.why_not)
    return float(g.bound)


@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("name", MODELS)
def test_no_hessian_in_a_region_exceeds_its_bound(name: str, loss: str) -> None:
    given = problem(name, loss)
    analysis = analysed(given)
    norm = start_norm(analysis)
    facts = next(known for known in LOSSES if known.name == loss)
    for region in (
        Region(0.0, about_start=True),
        Region(0.3 * norm, about_start=True),
        Region(2.0 * norm),
    ):
        found = sampled_hessian_norm(
            given, region.radius, 4, about_start=region.about_start, turns=6, steps=4
        )
        assert 0.0 < found <= size(guaranteed(analysis, facts, region)) * (1 + 1e-9), region


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["mlp", "normalised", "attention"]),
    st.sampled_from(["mse", "ce"]),
    st.floats(0.05, 8.0),
    st.integers(0, 99),
)
def test_no_hessian_in_any_ball_exceeds_its_bound(
    name: str, loss: str, radius: float, seed: int
) -> None:
    given = problem(name, loss, seed)
    found = sampled_hessian_norm(given, radius, 3, seed, turns=4, steps=3)
    assert found <= size(bound(given, Region(radius))) * (1 + 1e-9)


def test_regions_that_hold_one_another_have_bounds_in_that_order() -> None:
    given = problem("mlp")
    norm = start_norm(analysed(given))
    regions = (
        Region(0.0, about_start=True), Region(0.1 * norm, about_start=True),
        Region(0.2 * norm, about_start=True), Region(1.2 * norm), Region(2.0 * norm),
    )  # fmt: skip
    sizes = [size(bound(given, region)) for region in regions]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


# --- where the bound is known -------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_of_one_sample_and_a_linear_map_the_bound_is_the_supremum(loss: str) -> None:
    """f = Wx: ∇²L = ∇²l ⊗ x xᵀ, and ∇²l is 1 (MSE), or at most ½, for two even classes."""
    x = torch.tensor([[1.0, -2.0, 0.5]])
    module = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(module.weight)
    targets = torch.tensor([0]) if loss == "ce" else torch.ones(1, 2)
    given = Problem(module, (x,), targets, loss=loss)
    exact = float(x.square().sum()) * (0.5 if loss == "ce" else 1.0)
    assert size(bound(given, Region(7.0))) == pytest.approx(exact, rel=1e-9)
    assert sampled_hessian_norm(given, 0.0, 1, about_start=True) == pytest.approx(exact, rel=1e-6)


class Square(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w.square()


def test_the_slope_of_the_loss_counts_where_the_network_bends() -> None:
    """L = (w² − 3)²/2 has L'' = (2w)² + 2 (w² − 3), so −6 at 0."""
    given = Problem(Square(), (torch.ones(1, 1),), torch.full((1, 1), 3.0))
    assert size(bound(given, Region(0.0, about_start=True))) == pytest.approx(6.0, rel=1e-9)
    assert size(bound(given, Region(0.5))) == pytest.approx(1.0 + 2.0 * 3.25, rel=1e-9)


@given(st.integers(0, 99), st.floats(0.0, 10.0))
def test_a_parameter_moves_by_the_radius(seed: int, radius: float) -> None:
    tensor_ = tensor((3, 4), seed)
    node = Node(0, NodeKind.PARAMETER, "p", "p", shape=(3, 4))
    jet = _Numbers(Region(radius, about_start=True), {0: tensor_}).parameter(node)
    u, _, v = torch.linalg.svd(tensor_)
    spike = torch.zeros(12, dtype=torch.float64)
    k = int(tensor_.abs().argmax())
    spike[k] = tensor_.flatten()[k].sign()
    for away in (tensor_ / tensor_.norm(), torch.outer(u[:, 0], v[0]), spike.reshape(3, 4)):
        moved = tensor_ + radius * away
        assert float(moved.norm()) <= float(jet.value) * (1 + 1e-12)
        assert float(moved.abs().max()) <= jet.largest * (1 + 1e-12)
        assert float(torch.linalg.matrix_norm(moved, 2)) <= float(jet.spectral) * (1 + 1e-12)


def test_the_rate_is_below_two_over_the_bound() -> None:
    g = Guarantee(Region(1.0), Magnitude.constant(8.0))
    assert g.log10_rate == pytest.approx(math.log10(0.25))
    assert 10.0**g.log10_rate < 0.25
    assert Guarantee(Region(1.0)).log10_rate is None
    assert Guarantee(Region(1.0), Magnitude.constant(0.0)).log10_rate is None


def test_the_norm_of_the_start_counts_what_is_trained_and_what_is_shared_once() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module[2].requires_grad_(False)
    analysis = analysed(Problem(module, (torch.randn(2, 3),), torch.randn(2, 3)))
    parts = module[0].weight.flatten(), module[0].bias, module[1].bias
    exact = torch.cat(parts).detach().double().norm()
    assert float(exact) <= start_norm(analysis) <= float(exact) * (1 + 1e-9)


def test_a_shared_parameter_is_bounded_in_both_places() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False))
    module[2].weight = module[0].weight
    given = Problem(module, (torch.randn(3, 2),), torch.randn(3, 2))
    found = sampled_hessian_norm(given, 2.0, 4)
    assert found <= size(bound(given, Region(2.0)))


@pytest.mark.parametrize("entries", [1 << 22, 4])
def test_a_frozen_parameter_is_a_constant_whatever_the_radius(
    entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is too large for constants to be folded."""
    monkeypatch.setattr("blockframe.domains.constants.LARGEST", entries)
    torch.manual_seed(0)
    first, last, x = nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False), torch.randn(5, 3)
    last.requires_grad_(False).weight.mul_(1e3)
    given = Problem(nn.Sequential(first, nn.Tanh(), last), (x,), torch.randn(5, 2))
    assert 1e4 < sampled_hessian_norm(given, 1e-3, 2) <= size(bound(given, Region(1e-3)))


def test_samples_do_not_count_twice() -> None:
    torch.manual_seed(0)
    module, x, y = nn.Linear(3, 2), torch.randn(4, 3), torch.randn(4, 2)
    one = size(bound(Problem(module, (x,), y), Region(2.0)))
    two = size(bound(Problem(module, (x.repeat(2, 1),), y.repeat(2, 1)), Region(2.0)))
    assert one == pytest.approx(two)


# --- products of matrices ------------------------------------------------------------------------

factors = st.sampled_from([0.0, 1e-3, 1.0, 30.0])
stacks = st.sampled_from(
    [((), ()), ((2,), ()), ((), (3,)), ((2,), (2,)), ((2, 1), (3,)), ((1,), (4,))]
)


def tensor(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@frozen(eq=False)
class Curve:
    """t ↦ x + t y + t² w / 2 at 0."""

    x: Tensor
    y: Tensor
    w: Tensor

    @classmethod
    def drawn(cls, shape: tuple[int, ...], seed: int, weights: tuple[float, ...]) -> Curve:
        return cls(*(tensor(shape, 3 * seed + k) * c for k, c in enumerate(weights)))

    def jet(self, entries: bool, matrices: bool) -> Jet[Magnitude]:
        """Exact norms, and those that are asked for beside the Frobenius norm of the value."""
        value, first, second = (Magnitude.constant(frobenius(t)) for t in (self.x, self.y, self.w))
        operator = None
        if matrices and self.x.ndim > 1:
            operator = Magnitude.constant(
                max(map(spectral, self.x.reshape(-1, *self.x.shape[-2:])))
            )
        most = float(self.x.abs().max()) if entries else math.inf
        return Jet(value, first, second, most, operator)


def product(op: str, u: Curve, v: Curve, jets: tuple[Jet[Magnitude], Jet[Magnitude]]) -> None:
    """The bound of a product of two curves, against what it is."""
    target = getattr(torch.ops.aten, op)
    target = target.default if op != "mul" else target.Tensor
    out = target(u.x, v.x)
    leaves = [
        Node(i, NodeKind.PARAMETER, "p", "p", shape=tuple(c.x.shape)) for i, c in enumerate((u, v))
    ]
    node = Node(2, NodeKind.CALL, "uv", target, (Ref(0), Ref(1)), shape=tuple(out.shape))
    domain = Growth(
        Graph((*leaves, node), 2), [True] * 3, [], {}, {}, _Numbers(Region(1.0), {})
    )  # fmt: skip
    domain.jets.update(enumerate(jets))
    atom = Catalogue.of().lookup(node)
    assert isinstance(atom, Bilinear)
    found = domain.bilinear(node, atom, list(jets))
    first = target(u.y, v.x) + target(u.x, v.y)
    second = target(u.w, v.x) + 2.0 * target(u.y, v.y) + target(u.x, v.w)
    for name, exact in (("value", out), ("first", first), ("second", second)):
        assert float(exact.norm()) <= float(getattr(found, name)) * (1 + 1e-12), name


@settings(deadline=None)
@given(
    stacks, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 999),
    st.tuples(st.booleans(), st.booleans()), st.tuples(*[factors] * 6),
)  # fmt: skip
def test_products_of_stacks_of_matrices(
    stacked: tuple[tuple[int, ...], tuple[int, ...]], m: int, k: int, n: int, seed: int,
    known: tuple[bool, bool], weights: tuple[float, ...],
) -> None:  # fmt: skip
    u = Curve.drawn((*stacked[0], m, k), seed, weights[:3])
    v = Curve.drawn((*stacked[1], k, n), seed + 1, weights[3:])
    product("matmul", u, v, (u.jet(False, known[0]), v.jet(False, known[1])))
    if not stacked[1]:
        w = Curve(v.x.mT.contiguous(), v.y.mT.contiguous(), v.w.mT.contiguous())
        product("linear", u, w, (u.jet(False, known[0]), w.jet(False, known[1])))
        vector = Curve(u.x[..., 0, :], u.y[..., 0, :], u.w[..., 0, :])
        product("matmul", vector, v, (vector.jet(False, False), v.jet(False, known[1])))


@settings(deadline=None)
@given(
    st.sampled_from([((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (4,)), ((2, 3), (2, 1))]),
    st.integers(0, 999), st.tuples(st.booleans(), st.booleans()),
    st.tuples(*[factors] * 6),
)  # fmt: skip
def test_products_entry_by_entry(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int, known: tuple[bool, bool],
    weights: tuple[float, ...],
) -> None:  # fmt: skip
    u = Curve.drawn(shapes[0], seed, weights[:3])
    v = Curve.drawn(shapes[1], seed + 1, weights[3:])
    product("mul", u, v, (u.jet(known[0], False), v.jet(known[1], False)))


def test_an_operator_norm_makes_a_bound_tighter() -> None:
    """Of an orthogonal matrix it is 1, and the Frobenius norm the root of its side."""
    rotation, _ = torch.linalg.qr(tensor((16, 16), 0))
    given = Problem(
        nn.Sequential(nn.Linear(16, 2, bias=False), nn.Linear(2, 2)), (torch.eye(16),),
        torch.randn(16, 2),
    )  # fmt: skip
    narrow = nn.Linear(16, 16, bias=False)
    narrow.weight = nn.Parameter(rotation.float())
    turned = evolve(given, module=nn.Sequential(narrow, *given.module))
    by_value = evolve(given, module=nn.Sequential(Flat(rotation.float()), *given.module))
    at_start = Region(0.0, about_start=True)
    assert size(bound(turned, at_start)) < 0.3 * size(bound(by_value, at_start))


class Flat(nn.Module):
    """A matrix whose operator norm is not looked at: it is stored flat."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.flatten())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.reshape(16, 16))


def test_rows_that_are_reduced_to_numbers_are_no_rows_of_a_matrix() -> None:
    """A record whose value has not the operand's shape: one number for each row."""
    saturated = Rowwise(
        "aten::logsumexp",
        dim=lambda node: (-1,),
        growth=lambda node, shape: (math.sqrt(math.prod(shape[:-1])), 0.0),
        lipschitz=lambda node, shape: 1.0,
        curvature=lambda node, shape: 1.0,
    )
    leaf = Node(0, NodeKind.PARAMETER, "p", "p", shape=(2, 3, 5))
    target = torch.ops.aten.logsumexp.default
    node = Node(1, NodeKind.CALL, "rows", target, (Ref(0), [-1]), shape=(2, 3))
    domain = Growth(Graph((leaf, node), 1), [True] * 2, [], {}, {}, _Numbers(Region(1.0), {}))
    one = Magnitude.constant(1.0)
    assert domain.rowwise(node, saturated, [Jet(one, one, one)]).spectral is None


# --- where there is none -------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.f = nn.Linear(3, 2), nn.Linear(3, 2), f
        self.register_buffer("zero", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.a(x), self.b(x))


def two(f: Callable[[Tensor, Tensor], Tensor]) -> Problem:
    torch.manual_seed(0)
    return Problem(Two(f), (torch.randn(4, 3),), torch.randn(4, 2))


@pytest.mark.parametrize(
    ("f", "code", "op"),
    [
        (lambda a, b: torch.relu(a) * b, "A101", "aten::relu"),
        (lambda a, b: torch.maximum(a, b), "A101", "aten::maximum"),
        (lambda a, b: a * (b > 0), "A102", "aten::gt.Scalar"),
        (lambda a, b: a.round() + b, "A102", "aten::round"),
        (lambda a, b: a * b.detach(), "A301", "aten::detach"),
        (lambda a, b: a + torch.erfinv(b / (1 + b.square())), "S101", "aten::erfinv"),
        (lambda a, b: a / b, "S101", "aten::div.Tensor"),
        (lambda a, b: a + b / (b.square().sum(-1, keepdim=True)).sqrt(), "S101", "aten::sqrt"),
        (lambda a, b: a + 0.0 * torch.erfinv(0.1 * torch.sin(b)), "S101", "aten::erfinv"),
    ],
    ids=[
        "kink",
        "choice",
        "jump",
        "round",
        "detach",
        "no constants",
        "division",
        "root",
        "zero times",
    ],
)
def test_no_rate_where_the_calculus_does_not_reach(
    f: Callable[[Tensor, Tensor], Tensor], code: str, op: str
) -> None:
    g = bound(two(f), Region(3.0))
    assert g.log10_rate is None
    assert not g.bound.bounded
    assert g.dominant is None
    assert (g.findings[0].code, g.findings[0].op) == (code, op)
    assert g.findings[0].location.startswith("test_rates.py:")
    assert g.findings[0].help


def test_what_the_output_does_not_depend_on_is_no_objection() -> None:
    """The maximum that a softmax is shifted by has kinks, and drops out."""
    given = two(lambda a, b: (a - a.amax(-1, keepdim=True)).softmax(-1) + b)
    assert size(bound(given, Region(3.0))) > 0


def test_a_doubt_about_the_graph_is_one_about_the_rate() -> None:
    class Backwards(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.sin()

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            return g

    g = bound(two(lambda a, b: Backwards.apply(a) + b), Region(3.0))
    assert g.log10_rate is None
    assert g.findings


def test_a_loss_that_states_nothing_has_no_rate() -> None:
    class Plain:
        name = "plain"
        __call__, check, infimum = (
            MeanSquaredError.__call__, MeanSquaredError.check, MeanSquaredError.infimum
        )  # fmt: skip

    g = bound(problem("mlp"), Region(1.0), Plain())
    assert g.log10_rate is None
    assert "plain" in g.why_not
    assert not g.findings


@pytest.mark.parametrize(
    "facts",
    [Smoothness((-1.0, 0.0), 1.0), Smoothness((1.0, math.nan), 1.0), Smoothness((1.0,), 1.0), None],
)
def test_a_loss_that_states_nonsense_is_named(facts: Smoothness | None) -> None:
    class Wrong(MeanSquaredError):
        def smoothness(self, targets: Tensor) -> Smoothness:
            return facts  # type: ignore[return-value]

    with pytest.raises(PluginError, match="smoothness of loss 'mse'"):
        bound(problem("mlp"), Region(1.0), Wrong())


def test_a_plugin_s_word_is_called_one() -> None:
    class Own(MeanSquaredError):
        pass

    given = problem("mlp")
    assert bound(given, Region(1.0), Own()).declared
    assert not bound(given, Region(1.0)).declared
    swish = Pointwise(
        "aten::erfinv", growth=(0.0, 1.0), lipschitz=2.0, curvature=2.0
    )  # fmt: skip
    records = {**Catalogue.of().records, "aten::erfinv": swish}
    catalogue = Catalogue(records, frozenset({"aten::erfinv"}))
    analysis = Analysis.of(two(lambda a, b: a + torch.erfinv(0.1 * torch.sin(b))), catalogue)
    assert guaranteed(analysis, MeanSquaredError(), Region(1.0)).declared


def test_without_targets_there_is_nothing_to_bound() -> None:
    given = evolve(problem("mlp"), targets=None)
    with pytest.raises(InputError, match="targets"):
        bound(given, Region(1.0))


# --- numbers at the edge --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_real_targets_of_any_type(dtype: torch.dtype) -> None:
    given = problem("mlp")
    targets = given.targets.abs().mul(3).to(dtype)
    same = evolve(given, targets=targets.double())
    assert size(bound(evolve(given, targets=targets), Region(1.0))) == size(
        bound(same, Region(1.0))
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_classes_of_any_type(dtype: torch.dtype) -> None:
    given = problem("mlp", "ce")
    cast = evolve(given, targets=given.targets.to(dtype))
    assert size(bound(cast, Region(1.0))) == size(bound(given, Region(1.0)))


def scaled(factor: float, data: float = 1.0) -> Problem:
    torch.manual_seed(0)
    module = mlp().double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)
    x = torch.randn(4, 3, dtype=torch.float64) * data
    return Problem(module, (x,), torch.randn(4, 3, dtype=torch.float64))


def test_tiny_weights_have_a_norm_and_a_rate() -> None:
    given = scaled(1e-200)
    norm = start_norm(analysed(given))
    assert 1e-202 < norm < 1e-198
    found = sampled_hessian_norm(given, 0.0, 1, about_start=True)
    assert 0.0 < found <= size(bound(given, Region(2.0 * norm)))


def test_tiny_data_have_a_norm() -> None:
    """Their squares underflow."""
    g = bound(scaled(1.0, 1e-200), Region(1.0))
    assert g.bound.log > -math.inf


@pytest.mark.parametrize("factor", [1e60, 1e150, 1e200])
def test_huge_weights_overflow_nothing(factor: float) -> None:
    given = scaled(factor)
    norm = start_norm(analysed(given))
    g = bound(given, Region(2.0 * norm))
    assert factor < norm < 100.0 * factor
    # MSE of numbers beyond 1e154 is not finite: the guard says so.
    assert g.bound.bounded or {f.code for f in g.findings} == {"A905"}
    if g.bound.bounded:
        assert g.bound.log10 > 3 * math.log10(factor)


def test_targets_of_any_size() -> None:
    given = problem("mlp")
    for factor in (1e-200, 1e200):
        found = bound(evolve(given, targets=given.targets.double() * factor), Region(1.0))
        assert found.bound.bounded
    beyond = torch.full_like(given.targets, 1.7e308, dtype=torch.float64)
    found = bound(evolve(given, targets=beyond), Region(1.0))
    assert found.log10_rate is None
    assert "slope" in found.why_not


def test_a_bound_beyond_floats_is_a_number() -> None:
    g = bound(problem("encoder"), Region(1e150))
    assert math.isfinite(g.bound.log)
    assert g.bound.log10 > 308
    assert g.log10_rate is not None
    assert g.log10_rate < -308


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_weights_that_are_not_finite_have_no_rate(wrong: float) -> None:
    given = problem("mlp")
    with torch.no_grad():
        given.module[0].weight[0, 0] = wrong
    rates = blockframe.learning_rates(given)
    assert rates.norm == math.inf
    assert rates.guarantee.log10_rate is None
    assert "not finite" in rates.guarantee.why_not
    assert rates.at_start.log10_rate is None
    assert rates.measured.rate is None or wrong == math.inf  # a tanh may swallow it


# --- blockframe.learning_rates --------------------------------------------------------------------


def test_measured_and_guaranteed_rate_of_a_model() -> None:
    given = problem("mlp")
    rates = blockframe.learning_rates(given)
    assert rates.guarantee.region == Region(2.0 * rates.norm)
    assert rates.at_start.region == Region(0.0, about_start=True)
    assert rates.measured.converged
    largest = sampled_hessian_norm(given, 0.0, 3, about_start=True, turns=200)
    assert rates.measured.rate == pytest.approx(2.0 / largest, rel=1e-3)
    assert rates.measured.sharpness <= float(rates.at_start.bound) < float(rates.guarantee.bound)
    dominant = rates.guarantee.dominant
    assert dominant.block in {b.name for b in rates.subject.blocks}
    assert float(dominant.factor) > 1


def test_a_ball_about_the_start() -> None:
    rates = blockframe.learning_rates(problem("mlp"), centre="start", radius=0.25)
    assert rates.guarantee.region == Region(0.25 * rates.norm, about_start=True)
    assert rates.guarantee.log10_rate is not None


@pytest.mark.parametrize("radius", [0.0, -1.0, 0.99, math.nan, math.inf, "2", True, None, 10**400])
def test_a_radius_that_is_none(radius: object) -> None:
    with pytest.raises(InputError, match="radius"):
        blockframe.learning_rates(problem("mlp"), radius=radius)


def test_a_centre_that_is_none() -> None:
    with pytest.raises(InputError, match="centre"):
        blockframe.learning_rates(problem("mlp"), centre="middle")


def test_a_ball_about_zero_weights_is_a_point_and_guarantees_nothing() -> None:
    for centre in ("zero", "start"):
        rates = blockframe.learning_rates(scaled(0.0), centre=centre)
        assert rates.guarantee.log10_rate is None
        assert "point" in rates.guarantee.why_not


def test_a_descent_at_the_guaranteed_rate_descends() -> None:
    given = scaled(0.4)
    g = blockframe.learning_rates(given, centre="start", radius=0.1).guarantee
    losses = [it.loss for it in blockframe.descend(given, lr=10.0**g.log10_rate * 0.999, steps=20)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_cross_entropy_states_its_constants() -> None:
    """|p − e_y| comes close to √2, and diag(p) − ppᵀ to ½, in every row at once."""
    logits = torch.tensor([[40.0, -40.0, -80.0]] * 3, dtype=torch.float64)
    y = torch.tensor([1, 1, 1])
    facts = CrossEntropy().smoothness(y)
    slope = torch.func.grad(lambda f: CrossEntropy()(f, y))(logits)
    assert float(slope.norm()) == pytest.approx(facts.slope[0], rel=1e-9)
    assert float(slope.norm()) <= facts.slope[0]
    even = torch.tensor([[0.0, 0.0, -90.0]] * 3, dtype=torch.float64)
    hessian = torch.func.hessian(lambda f: CrossEntropy()(f, y))(even).reshape(9, 9)
    most = float(torch.linalg.eigvalsh(hessian).max())
    assert most == pytest.approx(facts.curvature, rel=1e-9)
    assert most <= facts.curvature


def test_where_there_is_no_room_for_the_sharpness_runs_still_bear_rates() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(50, 60), nn.Tanh(), nn.Linear(60, 3))
    found = blockframe.learning_rates(
        (module, (torch.randn(4, 50),), torch.randn(4, 3)), device="cpu", memory="400KiB",
        stable=True, steps=3,
    )  # fmt: skip
    assert found.measured.rate is None
    assert found.measured.why_not.startswith("the sharpness needs 12 vectors of the size of θ")
    assert found.measured.why_not.endswith("; --stable needs none of that")
    assert found.starts[0].stable is not None
    assert found.starts[0].stable.trains.below is not None
