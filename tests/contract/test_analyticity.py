"""Clause A: HOLDS only for what is analytic, FAILS only with a witness."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blockframe
from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import Pointwise
from blockframe.contract.analyticity import AnalyticityClause
from blockframe.contract.claim import Claim, Evidence, Verdict
from blockframe.errors import CaptureError
from blockframe.problem import Problem

HOLDS, FAILS, UNKNOWN = Verdict.HOLDS, Verdict.FAILS, Verdict.UNKNOWN


class Net(nn.Module):
    """x -> b(g(a(x)))."""

    def __init__(self, g: Callable[[Tensor], Tensor], d: int = 6, h: int = 8, c: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.g = nn.Linear(d, h), nn.Linear(h, c), g

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.g(self.a(x)))


def decide(module: nn.Module, *inputs: Tensor, atoms: Any = ()) -> list[Claim]:
    inputs = inputs or (torch.randn(5, 6, generator=torch.Generator().manual_seed(1)),)
    analysis = Analysis.of(Problem(module, inputs), Catalogue.of(atoms))
    return list(AnalyticityClause().decide(analysis))


def verdict(g: Callable[[Tensor], Tensor]) -> Verdict:
    return decide(Net(g))[0].verdict


def test_the_shared_corpus() -> None:
    path = Path(__file__).parents[3] / "shared" / "corpus" / "soundness.py"
    if not path.exists():
        pytest.skip("the shared corpus is not beside this checkout")
    spec = importlib.util.spec_from_file_location("soundness", path)
    assert spec is not None
    assert spec.loader is not None
    corpus = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["soundness"] = corpus
    spec.loader.exec_module(corpus)
    wrong = {}
    for case in corpus.CASES:
        module, inputs = case.build()
        try:
            got = decide(module, *inputs)[0].verdict
        except CaptureError:
            got = UNKNOWN
        if got not in case.expect.get("analyticity", {got}):
            wrong[case.name] = got
    assert wrong == {}


ANALYTIC = {
    "tanh": torch.tanh,
    "gelu spelled with erf": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2.0))),
    "swiglu": lambda x: F.silu(x) * x.flip(-1),
    "softmax": lambda x: x.softmax(-1),
    "log softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1, keepdim=True) * x,
    "rms norm": lambda x: F.rms_norm(x, (8,)),
    "group norm": lambda x: F.group_norm(x, 2),
    "layer norm spelled out": lambda x: (
        (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)
    ),
    "softplus": F.softplus,
    "mish": F.mish,
    "a square root kept away from zero": lambda x: torch.sqrt(x.square() + 1e-3),
    "a log of something positive": lambda x: torch.log(1.0 + x.exp()),
    "a division by something positive": lambda x: x / (1.0 + x.square()),
    "a real power of something positive": lambda x: (x.square() + 0.1) ** 0.75,
    "a relu that never sees a kink": lambda x: torch.relu(x.square() + 1.0),
    "a relu of a square": lambda x: torch.relu(x.square()),
    "an abs of something positive": lambda x: torch.exp(x).abs(),
    "a clamp out of reach": lambda x: torch.sigmoid(x).clamp(-0.5, 1.5),
    "a maximum that is decided": lambda x: torch.maximum(torch.tanh(x), torch.tensor(2.0)) * x,
    "a comparison that is decided": lambda x: torch.where(x.square() + 1.0 > 0.5, x, -x),
    "a constant mask": lambda x: x.masked_fill(torch.arange(8) > 3, 0.0),
    "a constant index": lambda x: x[:, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])],
    "relu of a constant": lambda x: x * torch.relu(torch.linspace(-1, 1, 8)),
    "topk of a constant": lambda x: x[:, torch.linspace(-1, 1, 8).topk(8).indices],
    "a where on data": lambda x: torch.where(torch.linspace(-1, 1, 8) > 0, x, x.square()),
    "dropout in evaluation mode": lambda x: F.dropout(x, 0.5, training=False),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0],
    "isnan, which no real number is": lambda x: torch.where(torch.isnan(x), 0.0, x),
    "an outer product": lambda x: torch.einsum("bi,bj->bj", x, x),
    "rotary embedding": lambda x: (
        x * torch.cos(torch.arange(8.0))
        + torch.cat([-x[:, 4:], x[:, :4]], -1) * torch.sin(torch.arange(8.0))
    ),
}


@pytest.mark.parametrize("g", ANALYTIC.values(), ids=ANALYTIC.keys())
def test_what_is_analytic_holds_by_proof(g: Callable[[Tensor], Tensor]) -> None:
    chain, *blocks = decide(Net(g))
    assert chain.verdict is HOLDS
    assert chain.evidence is Evidence.PROVED
    assert all(b.verdict is HOLDS for b in blocks)


class Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


KINKED = {
    "relu": (torch.relu, 1),
    "relu in place": (lambda x: F.relu_(x * 1.0), 1),
    "relu squared": (lambda x: torch.relu(x) ** 2, 2),
    "relu cubed": (lambda x: torch.relu(x) ** 3, 3),
    "elu": (F.elu, 2),
    "selu": (F.selu, 1),
    "celu": (F.celu, 2),
    "leaky relu": (F.leaky_relu, 1),
    "hardtanh": (F.hardtanh, 1),
    "hardsigmoid": (F.hardsigmoid, 1),
    "hardswish": (F.hardswish, 1),
    "relu6": (F.relu6, 1),
    "softshrink": (F.softshrink, 1),
    "hardshrink": (F.hardshrink, 0),
    "softsign": (F.softsign, 2),
    "threshold": (lambda x: F.threshold(x, 0.1, 3.0), 0),
    "abs": (torch.abs, 1),
    "x times abs x": (lambda x: x * x.abs(), 2),
    "clamp": (lambda x: x.clamp(-0.2, 0.3), 1),
    "clamp on one side": (lambda x: x.clamp(min=0.1), 1),
    "sign": (lambda x: torch.sign(x) * 1.0, 0),
    "round": (torch.round, 0),
    "floor": (lambda x: x - torch.floor(x), 0),
    "remainder": (lambda x: torch.remainder(x, 0.5), 0),
    "max over a row": (lambda x: x.amax(-1, keepdim=True) * torch.ones(8), 1),
    "max of two": (lambda x: torch.maximum(x, x.flip(-1)), 1),
    "sort": (lambda x: x.sort(-1).values, 1),
    "topk": (lambda x: F.pad(x.topk(3, -1).values, (0, 5)), 1),
    "median": (lambda x: x - x.median(-1, keepdim=True).values, 1),
    "max pooling": (lambda x: F.max_pool1d(x[:, None], 2).repeat(1, 1, 2)[:, 0], 1),
    "a mask from a comparison": (lambda x: x * (x > 0), 1),
    "a where on a comparison": (lambda x: torch.where(x > 0, x, x.square()), 1),
    "a cast to integers": (lambda x: (4 * x).to(torch.int64).to(x.dtype), 0),
    "an argmax, one hot": (lambda x: F.one_hot(x.argmax(-1), 8).to(x.dtype) * x, 0),
    "a gather at the argmax": (lambda x: x.flip(-1).gather(-1, x.argmax(-1)[:, None]) + 0 * x, 0),
    "top-1 routing": (lambda x: x.softmax(-1) * (x == x.amax(-1, keepdim=True)), 0),
}  # fmt: skip


@pytest.mark.parametrize(("g", "order"), KINKED.values(), ids=KINKED.keys())
def test_what_is_not_analytic_fails_with_a_witness(
    g: Callable[[Tensor], Tensor], order: int
) -> None:
    chain, first, second = decide(Net(g))
    assert chain.verdict is FAILS
    assert chain.evidence is Evidence.MEASURED
    assert first.verdict is FAILS
    assert second.verdict is HOLDS
    witness = next(f.witness for f in chain.findings if f.witness)
    assert witness["order"] == order
    assert abs(witness["jump"]) > 100 * witness["spread"]
    assert witness["bracket"] < 1e-12
    assert witness["right"] - witness["left"] == pytest.approx(witness["jump"])


def test_a_straight_through_estimate_jumps_and_its_gradient_is_another() -> None:
    chain, first, second = decide(Net(lambda x: x + (torch.round(x) - x).detach()))
    assert chain.verdict is FAILS
    assert first.verdict is FAILS
    assert second.verdict is UNKNOWN  # its gradient is computed through the first
    assert {f.code for f in chain.findings} == {"A102", "A301", "A304"}


HARMLESS = {
    "abs squared": lambda x: x.abs() ** 2,
    "abs to the fourth": lambda x: x.abs() ** 4,
    "relu minus its mirror image": lambda x: torch.relu(x) - torch.relu(-x),
    "abs squared in a steep tanh": lambda x: torch.tanh(1e8 * x) * x.abs() ** 2,
    "max plus min": lambda x: torch.maximum(x, x.flip(-1)) + torch.minimum(x, x.flip(-1)),
    "a softmax made stable": lambda x: (x - x.amax(-1, keepdim=True)).softmax(-1),
    "a sum of what was sorted": lambda x: x.sort(-1).values.sum(-1, keepdim=True) * torch.ones(8),
    "a branch that is multiplied by zero": lambda x: torch.tanh(x) + 0.0 * torch.relu(x),
    "sign squared": lambda x: x * (torch.sign(x) * torch.sign(x) + (x == 0)),
    "floor plus fraction": lambda x: torch.floor(x) + (x - torch.floor(x)),
    "a very steep tanh": lambda x: torch.tanh(1e9 * x),
}


@pytest.mark.parametrize("g", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_is_analytic_in_the_end_never_fails(g: Callable[[Tensor], Tensor]) -> None:
    assert verdict(g) is not FAILS


REACHED = {
    "relu of a negative reciprocal": lambda x: torch.relu(1.0 / (-x.exp()) + 1.0),
    "relu of a reciprocal": lambda x: torch.relu(torch.reciprocal(-x.exp()) + 1.0),
    "relu past an alpha by position": lambda x: torch.relu(
        torch.ops.aten.add.Scalar(x * x, 1.0, -5.0)
    ),
    "relu past a subtracted alpha": lambda x: torch.relu(
        torch.ops.aten.sub.Scalar(x * x, -1.0, -5.0)
    ),
    "relu of an average with a divisor of its own": lambda x: (
        torch.relu(1.5 - F.avg_pool2d(x.sigmoid().reshape(5, 1, 2, 4), 2, divisor_override=1)).sum(
            (1, 2, 3)
        )[:, None]
        * x
    ),
    "relu of overlapping patches": lambda x: (
        torch.relu(1.5 - F.fold(x.sigmoid().reshape(5, 4, 2), (2, 3), (2, 2))).sum((1, 2, 3))[
            :, None
        ]
        * x
    ),
    "a comparison at its edge": lambda x: x + torch.less(-(x * x), 0.0).to(x.dtype),
    "a softplus with a low threshold": lambda x: F.softplus(x, threshold=1.0),
    "a softplus that is the identity at once": lambda x: F.softplus(x, threshold=0.0),
    "a softplus of negative beta": lambda x: torch.relu(F.softplus(x, beta=-1.0) + 1.0),
}


@pytest.mark.parametrize("g", REACHED.values(), ids=REACHED.keys())
def test_kinks_that_are_within_reach(g: Callable[[Tensor], Tensor]) -> None:
    assert verdict(g) is not HOLDS


TWICE = torch.tensor([0, 1, 1, 2, 2, 3, 4, 5])
ONCE = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])


def put(index: Tensor) -> Callable[[Tensor], Tensor]:
    def g(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, index] = x
        return y

    return g


@pytest.mark.parametrize(
    "write",
    [
        put,
        lambda i: lambda x: torch.zeros_like(x).scatter(1, i.expand(5, 8), x),
        lambda i: lambda x: torch.zeros_like(x).index_copy(1, i, x),
    ],
    ids=["index_put", "scatter", "index_copy"],
)
def test_a_write_that_repeats_a_place_has_another_gradient(
    write: Callable[[Tensor], Callable[[Tensor], Tensor]],
) -> None:
    assert verdict(write(ONCE)) is HOLDS
    assert verdict(write(TWICE)) is UNKNOWN


NEVER_FAILS = {
    "a division that does not round": lambda x: torch.div(x, 2.0, rounding_mode=None),
    "an overflow beside a power": lambda x: (
        x.pow(torch.full_like(x, 2.0)) + (30 * x).exp() / (30 * x).exp().sum(-1, keepdim=True)
    ),
    "branches that differ by rounding only": lambda x: torch.where(
        x > 0, (0.1 + 1e-9 * x.tanh() + 1e12) - 1e12, 0.1 + 1e-9 * x.tanh()
    ),
}


@pytest.mark.parametrize("g", NEVER_FAILS.values(), ids=NEVER_FAILS.keys())
def test_what_rounding_and_overflow_do_is_no_witness(g: Callable[[Tensor], Tensor]) -> None:
    assert verdict(g) is not FAILS


STRANGE = {
    "a complex factor": lambda x: (x * 1j).imag,
    "a complex choice": lambda x: torch.where(torch.arange(8) > 3, x + 0j, 1j).real,
    "an enormous power": lambda x: (x.sigmoid() * 0.7) ** 10_000_000 + x,
    "masked scores side by side": lambda x: torch.cat(
        [x.masked_fill(torch.arange(8) > 3, -math.inf)]
    ),
    "masked scores reflected": lambda x: F.pad(
        x.masked_fill(torch.arange(8) > 3, -math.inf)[None], (1, 1), mode="reflect"
    )[0, :, 1:9],
    "a derivative inside": lambda x: torch.func.grad(lambda t: t.tanh().sum())(x),
}


@pytest.mark.parametrize("g", STRANGE.values(), ids=STRANGE.keys())
def test_what_is_strange_gets_an_answer(g: Callable[[Tensor], Tensor]) -> None:
    try:
        got = verdict(g)
    except CaptureError:
        got = UNKNOWN
    assert got in (HOLDS, UNKNOWN)


DOUBTFUL = {
    "a square root at zero": lambda x: torch.sqrt(x.square()),
    "a norm": lambda x: F.normalize(x, dim=-1),
    "a vector norm": lambda x: x / (1.0 + torch.linalg.vector_norm(x, dim=-1, keepdim=True)),
    "a standard deviation": lambda x: x / (1.0 + x.std(-1, keepdim=True)),
    "layer norm without eps": lambda x: F.layer_norm(x, (8,), eps=0.0),
    "random numbers": lambda x: x + torch.randn(8),
    "random numbers like it": lambda x: x + torch.rand_like(x),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "a detached factor": lambda x: x * x.detach(),
    "a number taken out": lambda x: x * x.sum().item(),
    "a data-dependent shape": lambda x: x * x[x > 0].sum(),
    "an op that nobody knows": lambda x: torch.special.i0e(x),
    "a determinant": lambda x: x * torch.linalg.det(x[:5, :5]),
    "complex numbers": lambda x: torch.view_as_complex(x.view(5, 4, 2)).abs().repeat(1, 2),
    "a custom function": Gate.apply,
    "a mask that hides a whole row": lambda x: x
    * (x.T @ x + torch.full((8, 8), float("-inf"))).softmax(-1)[0],
}  # fmt: skip


@pytest.mark.parametrize("g", DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_what_is_not_known_to_be_analytic_never_holds(g: Callable[[Tensor], Tensor]) -> None:
    claims = decide(Net(g))
    assert claims[0].verdict is not HOLDS
    assert claims[1].verdict is not HOLDS
    assert claims[0].findings
    assert all(f.help for f in claims[0].findings)


UNDEFINED = {
    "a log of any number": torch.log,
    "a square root of any number": torch.sqrt,
    "a real power of any number": lambda x: x**0.5,
    "a division by any number": lambda x: 1.0 / x,
    "a reciprocal": torch.reciprocal,
    "a negative power": lambda x: x**-2,
    "tan, spelled out": lambda x: x.sin() / x.cos(),
}


@pytest.mark.parametrize("g", UNDEFINED.values(), ids=UNDEFINED.keys())
def test_what_is_undefined_somewhere_fails_there(g: Callable[[Tensor], Tensor]) -> None:
    chain = decide(Net(g))[0]
    assert chain.verdict is FAILS
    assert chain.findings[0].code == "A103"
    assert chain.findings[0].witness is not None


def test_a_kink_that_reaches_no_output_does_not_count() -> None:
    def g(x: Tensor) -> Tensor:
        torch.relu(x)
        return torch.tanh(x)

    assert verdict(g) is HOLDS


def test_each_block_answers_for_its_own_kinks() -> None:
    net = nn.Sequential(
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.Tanh(),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 2),
    )
    torch.manual_seed(0)
    chain, *blocks = decide(net)
    assert [b.verdict for b in blocks] == [FAILS, HOLDS, FAILS, HOLDS]
    assert chain.statement == "relu in 2 of 4 blocks; analytic inside each piece that these cut"
    assert [
        b.findings[0].witness["block"] for b in blocks if b.findings and b.findings[0].witness
    ] == ["0", "4"]


def test_a_relu_that_sees_positive_states_only() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.ReLU(), nn.Linear(8, 2))
    chain = decide(net)[0]
    assert chain.verdict is HOLDS
    assert chain.numbers["kinks out of reach"] == 1
    assert [f.code for f in chain.findings] == ["A105"]  # the note on softplus


def test_a_recurrent_net_through_its_definition() -> None:
    class Recurrent(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn = nn.RNN(3, 4, batch_first=True, nonlinearity=kind)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    assert decide(Recurrent("tanh"), x)[0].verdict is HOLDS
    failing = decide(Recurrent("relu"), x)[0]
    assert failing.verdict is FAILS
    assert failing.findings[0].op == "aten::rnn_relu.input"


def test_batch_norm_with_stored_statistics() -> None:
    net = nn.Sequential(
        nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 2)
    )
    assert decide(net, torch.randn(4, 1, 8))[0].verdict is HOLDS


def test_an_unknown_op_names_itself_and_can_be_taught() -> None:
    chain, *_ = decide(Net(torch.special.i0e))
    assert chain.verdict is UNKNOWN
    assert chain.findings[0].code == "A900"
    assert chain.findings[0].op == "aten::special_i0e"
    assert chain.findings[0].location.startswith("test_analyticity.py:")
    taught = [Pointwise("aten::special_i0e")]
    assert decide(Net(torch.special.i0e), atoms=taught)[0].verdict is HOLDS


def test_nothing_is_concluded_without_numbers() -> None:
    with torch.device("meta"):
        net = Net(torch.tanh)
    claims = decide(net, torch.zeros(5, 6, device="meta"))
    assert {c.verdict for c in claims} == {UNKNOWN}
    assert claims[0].findings[0].code == "A906"


def test_a_full_size_model_takes_its_witness_from_the_proxy() -> None:
    with torch.device("meta"):
        large = Net(torch.relu, 6, 4096, 3)
    x = torch.randn(5, 6)
    problem = Problem(large, (x.to("meta"),), proxy=Problem(Net(torch.relu), (x,)))
    claims = AnalyticityClause().decide(Analysis.of(problem, Catalogue.of()))
    assert claims[0].verdict is FAILS
    assert claims[0].findings[0].witness is not None
    assert claims[0].findings[0].witness["scale"] == "proxy"


@pytest.mark.parametrize(
    "chosen",
    [
        lambda x: x[:, torch.arange(6) % 3],
        lambda x: x * torch.nn.functional.one_hot(torch.arange(5) % 3, 3),
        lambda x: x[:, torch.arange(3) ** 2 % 3],
        lambda x: x[:, torch.arange(6).fmod(3)],
    ],
)
def test_an_index_that_is_computed_stays_a_whole_number(chosen: Any) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return chosen(self.inner(x))

    certificate = blockframe.certify((Net(), (torch.randn(5, 3),)), static_only=True)
    assert certificate.claim("analyticity").verdict == "HOLDS"


@pytest.mark.parametrize(
    ("broken", "piecewise"),
    [(torch.relu, True), (torch.abs, True), (torch.round, True), (lambda x: x.sqrt(), False)],
)
def test_what_holds_inside_a_piece_is_said(broken: Any, piecewise: bool) -> None:
    """relu, abs and round are analytic where they choose alike; a root of anything is not."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return broken(self.inner(x))

    torch.manual_seed(0)
    certificate = blockframe.certify((Net(), (torch.rand(5, 3),)), static_only=True)
    statement = certificate.claim("analyticity").statement
    assert statement.endswith("; analytic inside each piece that these cut") == piecewise
    assert blockframe.check(certificate).stands
