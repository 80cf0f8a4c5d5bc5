"""Clause N: HOLDS only where DF has full row rank somewhere, FAILS only where it has nowhere."""

from __future__ import annotations

import base64
import importlib.util
import itertools
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.atoms.facts import Pointwise
from blockframe.contract.claim import CLAUSES, Claim, Evidence, Verdict
from blockframe.contract.contract import Contract
from blockframe.contract.nondegeneracy import NondegeneracyClause
from blockframe.contract.point import Point
from blockframe.contract.rows import rows
from blockframe.errors import CaptureError
from blockframe.graph.graph import NodeKind
from blockframe.problem import Problem

HOLDS, FAILS, UNKNOWN = Verdict.HOLDS, Verdict.FAILS, Verdict.UNKNOWN


def analysed(module: nn.Module, *inputs: Tensor, atoms: Any = (), **more: Any) -> Analysis:
    return Analysis.of(Problem(module, inputs, **more), Catalogue.of(atoms))


def decide(module: nn.Module, *inputs: Tensor, **more: Any) -> Claim:
    return NondegeneracyClause().decide(analysed(module, *inputs, **more))[0]


def jacobian(analysis: Analysis, point: Mapping[str, Tensor]) -> Tensor:
    """DF at a point, of the rows that are counted, by PyTorch alone."""
    problem, counted = analysis.chain.problem, rows(analysis)
    assert counted is not None
    keywords = dict(problem.keywords)

    def f(values: dict[str, Tensor]) -> Tensor:
        output = torch.func.functional_call(problem.module, values, problem.inputs, keywords)
        return output.reshape(counted.total, counted.outputs)[list(counted.kept)].reshape(-1)

    parts = torch.func.jacrev(f)(dict(point))
    return torch.cat([part.reshape(len(part), -1) for part in parts.values()], 1)


def trained(analysis: Analysis) -> dict[str, Tensor]:
    module = analysis.chain.problem.module
    return {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}


def at_random(analysis: Analysis, seed: int, scale: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        n: p + scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for n, p in trained(analysis).items()
    }


def of_claim(analysis: Analysis, claim: Claim) -> dict[str, Tensor]:
    """The point that a claim names, where nothing was set to be zero."""
    drawn = re.fullmatch(r"drawn \(seed (\d+)\)(, 0 of 0 branches zero)?", claim.numbers["point"])
    if drawn is None:
        return trained(analysis)
    point = Point(seed=int(drawn[1]))
    leaves = [n for n in analysis.graph if n.kind is NodeKind.PARAMETER]
    return trained(analysis) | {str(n.target): point.value(n) for n in leaves}


def is_full(j: Tensor) -> bool:
    """Numerically, rows and then columns scaled to one size."""
    if len(j) > j.shape[1] or not bool((j != 0).any(1).all()):
        return False
    for dim in (1, 0):
        size = j.norm(dim=dim, keepdim=True)
        j = j / torch.where(size > 0, size, 1.0)
    values = torch.linalg.svdvals(j)
    return bool(values[-1] > 1e-13 * values[0])


def agrees(claim: Claim, analysis: Analysis) -> None:
    """What PyTorch's own Jacobians say of a verdict."""
    near = [jacobian(analysis, at_random(analysis, seed, 0.5)) for seed in range(3)]
    if claim.verdict is HOLDS:
        assert any(map(is_full, [*near, jacobian(analysis, of_claim(analysis, claim))]))
    if claim.verdict is FAILS:
        assert not any(map(is_full, near))


# --- networks -------------------------------------------------------------------------------------


class Net(nn.Module):
    """``f`` of (module, inputs), with parts."""

    def __init__(self, f: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.f = f
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *x: Tensor, **more: Tensor) -> Tensor:
        return self.f(self, *x, **more)


@frozen
class Case:
    """``build``: a network and its inputs, after seeding; ``verdicts``: those that it may get."""

    build: Callable[[], tuple[nn.Module, Tensor]]
    verdicts: tuple[Verdict, ...]


def lin(i: int, o: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(i, o, bias)


def data(n: int = 5, d: int = 6) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def case(*verdicts: Verdict, x: Tensor | None = None, **parts: Callable[[], Any]) -> Any:
    """A decorator: the function is the network."""

    def make(f: Callable[..., Tensor]) -> Case:
        def build() -> tuple[nn.Module, Tensor]:
            torch.manual_seed(0)
            net = Net(f, **{name: part() for name, part in parts.items()})
            return net.double().eval(), data() if x is None else x

        return Case(build, verdicts)

    return make


def layers(d: int = 6, h: int = 24, c: int = 3) -> dict[str, Callable[[], Any]]:
    return {"a": lambda: lin(d, h), "h": lambda: lin(h, c)}


def tied(n: int = 7, d: int = 12) -> dict[str, Callable[[], Any]]:
    """An embedding, positions, a layer and a norm; the table is the head."""
    return {
        "E": lambda: nn.Embedding(n, d), "P": lambda: nn.Embedding(4, d), "a": lambda: lin(d, d),
        "n": lambda: nn.LayerNorm(d), "r": lambda: nn.RMSNorm(d),
    }  # fmt: skip


def frozen_layer(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


def parameter(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.randn(*shape))


X = data()
EVEN = torch.cat([X[:2], -X[:2]])
WORDS = torch.tensor([[1, 2, 3], [1, 2, 4], [5, 2, 3], [6, 4, 1]])
PERMUTED = torch.tensor([[1, 2, 3], [2, 1, 3]])
FIRST = torch.tensor([[0], [1], [2], [3]])

DEGENERATE = (UNKNOWN, FAILS)
CASES: dict[str, Case] = {
    # degenerate for all θ: never HOLDS
    "a feature twice": case(*DEGENERATE, a=lambda: lin(6, 2), h=lambda: lin(8, 3, False))(
        lambda n, x: n.h(torch.tanh(n.a(x)).repeat(1, 4))
    ),
    "a narrow linear layer": case(
        *DEGENERATE, a=lambda: lin(6, 2), b=lambda: lin(2, 9), h=lambda: lin(9, 3)
    )(lambda n, x: n.h(n.b(n.a(x)))),
    "more samples than a linear map has inputs": case(*DEGENERATE, x=data(9), h=lambda: lin(6, 2))(
        lambda n, x: n.h(x)
    ),
    "too few parameters": case(FAILS, x=data(40), a=lambda: lin(6, 1), h=lambda: lin(1, 3))(
        lambda n, x: n.h(torch.tanh(n.a(x)))
    ),
    "outputs that sum to zero": case(*DEGENERATE, **layers())(
        lambda n, x: (lambda y: y - y.mean(-1, keepdim=True))(n.h(torch.tanh(n.a(x))))
    ),
    "one output twice": case(*DEGENERATE, **layers())(
        lambda n, x: n.h(torch.tanh(n.a(x)))[:, [0, 1, 0]]
    ),
    "one column for all outputs": case(*DEGENERATE, a=lambda: lin(6, 24), w=parameter(1, 24))(
        lambda n, x: F.linear(torch.tanh(n.a(x)), n.w.expand(3, 24))
    ),
    "softmax": case(FAILS, **layers())(lambda n, x: n.h(torch.tanh(n.a(x))).softmax(-1)),
    "log-softmax": case(FAILS, **layers())(lambda n, x: F.log_softmax(n.h(x @ n.a.weight.T), 1)),
    "softmax, then a cast": case(FAILS, **layers())(
        lambda n, x: n.h(torch.tanh(n.a(x))).softmax(-1).float()
    ),
    "softmax spelled out": case(*DEGENERATE, **layers())(
        lambda n, x: (lambda e: e / e.sum(-1, keepdim=True))(n.h(torch.tanh(n.a(x))).exp())
    ),
    "sigmoid of a softmax": case(*DEGENERATE, **layers())(
        lambda n, x: torch.sigmoid(n.h(torch.tanh(n.a(x))).softmax(-1))
    ),
    "layer norm without gain": case(FAILS, **layers())(
        lambda n, x: F.layer_norm(n.h(torch.tanh(n.a(x))), (3,))
    ),
    "an even network": case(*DEGENERATE, x=EVEN, a=lambda: lin(6, 40, False), h=lambda: lin(40, 2))(
        lambda n, x: n.h(torch.cos(n.a(x)))
    ),
    "an odd network": case(
        *DEGENERATE, x=EVEN, a=lambda: lin(6, 40, False), h=lambda: lin(40, 2, False)
    )(lambda n, x: n.h(torch.tanh(n.a(x)))),
    "positions that are not told apart": case(
        *DEGENERATE,
        x=torch.tensor([[1, 1], [2, 2]]),
        E=lambda: nn.Embedding(7, 24),
        h=lambda: lin(24, 2),
    )(lambda n, x: n.h(n.E(x))),
    "bags of words": case(
        *DEGENERATE, x=PERMUTED, E=lambda: nn.Embedding(7, 24), h=lambda: lin(24, 2)
    )(lambda n, x: n.h(torch.tanh(n.E(x).cumsum(1)))),
    "words without a first letter": case(
        *DEGENERATE, x=torch.tensor([[[1.0, 2.0]], [[1.0, 3.0]]]).double(), h=lambda: lin(1, 2)
    )(lambda n, x: n.h(x[..., :1])),
    "the word that a table does not know of itself": case(
        *DEGENERATE, x=FIRST, E=lambda: nn.Embedding(6, 6), h=lambda: lin(6, 2)
    )(lambda n, x: n.h(n.E(x) - F.one_hot(x, 6).to(n.E.weight.dtype) @ n.E.weight)),
    "a frozen network": case(
        *DEGENERATE, x=data(9), a=lambda: frozen_layer(lin(6, 4)), h=lambda: lin(4, 3)
    )(lambda n, x: n.h(torch.tanh(n.a(x)))),
    "a frozen head of low rank": case(
        *DEGENERATE,
        a=lambda: lin(6, 24),
        h=lambda: frozen_layer(lin(24, 1)),
        g=lambda: frozen_layer(lin(1, 3)),
    )(lambda n, x: n.g(n.h(torch.tanh(n.a(x))))),
    "no input": case(FAILS, a=lambda: lin(6, 24), h=lambda: lin(24, 3))(
        lambda n, x: n.h(torch.tanh(n.a(x)) * 0.0 + 1.0)
    ),
    "twins": case(FAILS, x=X[[0, 1, 2, 0]], **layers())(lambda n, x: n.h(torch.tanh(n.a(x)))),
    "twins in a network that mixes samples": case(FAILS, x=X[[0, 1, 2, 0]], **layers())(
        lambda n, x: n.h(torch.tanh(n.a(x - x.mean(0))))
    ),
    "centred outputs": case(*DEGENERATE, **layers())(
        lambda n, x: (lambda y: y - y.mean(0))(n.h(torch.tanh(n.a(x))))
    ),
    "infinitely small outputs": case(*DEGENERATE, **layers())(
        lambda n, x: n.h(torch.tanh(n.a(x))) / math.inf
    ),
    "a head times zero": case(*DEGENERATE, **layers())(
        lambda n, x: n.h(torch.tanh(n.a(x))) * 0.0 + n.h.bias
    ),
    "a head whose weight is its own mirror": case(*DEGENERATE, x=X[:, :3], w=parameter(3, 3))(
        lambda n, x: F.linear(x, n.w - n.w.T)[:, :3] * 1.0
    ),
    "a product of two heads that share a direction": case(
        *DEGENERATE, a=lambda: lin(6, 1), h=lambda: lin(6, 3)
    )(lambda n, x: n.a(x) * n.h(x).sum(-1, keepdim=True).expand(-1, 3)),
    "relu": case(UNKNOWN, **layers())(lambda n, x: n.h(torch.relu(n.a(x)))),
    "kinks in a wide network": case(UNKNOWN, **layers(h=64))(lambda n, x: n.h(n.a(x).abs())),
    # nondegenerate: HOLDS
    "a linear map": case(HOLDS, h=lambda: lin(6, 3))(lambda n, x: n.h(x)),
    "without bias": case(HOLDS, h=lambda: lin(6, 3, False))(lambda n, x: n.h(x)),
    "as many samples as features and one": case(HOLDS, x=data(7), h=lambda: lin(6, 3))(
        lambda n, x: n.h(x)
    ),
    "a wide network": case(HOLDS, **layers())(lambda n, x: n.h(torch.tanh(n.a(x)))),
    "a narrow layer that bends": case(
        HOLDS, a=lambda: lin(6, 1), b=lambda: lin(1, 9), h=lambda: lin(9, 3)
    )(lambda n, x: n.h(torch.tanh(n.b(torch.tanh(n.a(x)))))),
    "more samples than features": case(HOLDS, a=lambda: lin(6, 3), h=lambda: lin(3, 2))(
        lambda n, x: n.h(torch.tanh(n.a(x)))
    ),
    "a scaled head": case(HOLDS, **layers())(lambda n, x: -n.h(torch.tanh(n.a(x))) / 7.0),
    "a soft cap": case(HOLDS, **layers())(
        lambda n, x: 30.0 * torch.tanh(n.h(torch.tanh(n.a(x))) / 30.0)
    ),
    "sigmoid outputs": case(HOLDS, **layers())(lambda n, x: torch.sigmoid(n.h(torch.tanh(n.a(x))))),
    "one output": case(HOLDS, **layers(c=1))(lambda n, x: n.h(torch.tanh(n.a(x))).squeeze(-1)),
    "an output by a vector": case(HOLDS, a=lambda: lin(6, 9), w=parameter(9))(
        lambda n, x: torch.tanh(n.a(x)) @ n.w
    ),
    "a frozen head": case(HOLDS, a=lambda: lin(6, 24), h=lambda: frozen_layer(lin(24, 3)))(
        lambda n, x: n.h(torch.tanh(n.a(x)))
    ),
    "a frozen first layer": case(HOLDS, a=lambda: frozen_layer(lin(6, 24)), h=lambda: lin(24, 3))(
        lambda n, x: n.h(torch.tanh(n.a(x)))
    ),
    "an even network with a bias": case(HOLDS, x=EVEN, a=lambda: lin(6, 40), h=lambda: lin(40, 2))(
        lambda n, x: n.h(torch.cos(n.a(x)))
    ),
    "a head bias that is used elsewhere": case(HOLDS, **layers())(
        lambda n, x: n.h(torch.tanh(n.a(x) + n.h.bias.sum()))
    ),
    "a head weight that is used elsewhere": case(HOLDS, **layers(h=6, c=6))(
        lambda n, x: n.h(torch.tanh(n.a(x)) + x @ n.h.weight)
    ),
    "a transposed autoencoder": case(HOLDS, x=data(3, 8), w=parameter(8, 20), b=parameter(20))(
        lambda n, x: torch.tanh(x @ n.w + n.b) @ n.w.T
    ),
    "a parameter for each sample": case(HOLDS, p=parameter(5, 3))(
        lambda n, x: n.p + 0.0 * x[:, :3]
    ),
    "twins with parameters of their own": case(
        HOLDS, x=X[[0, 0, 1, 2, 3]], p=lambda: nn.Parameter(torch.zeros(5, 3)), **layers()
    )(lambda n, x: n.h(torch.tanh(n.a(x))) + n.p),
    "a convolutional network": case(
        HOLDS,
        x=data(4, 36).view(4, 1, 6, 6),
        a=lambda: nn.Conv2d(1, 4, 3),
        n=lambda: nn.BatchNorm2d(4),
        h=lambda: lin(16, 2),
    )(lambda n, x: n.h(F.avg_pool2d(torch.tanh(n.n(n.a(x))), 2).flatten(1))),
    "a recurrent network": case(
        HOLDS,
        x=data(3, 12).view(3, 4, 3),
        a=lambda: nn.LSTM(3, 16, batch_first=True),
        h=lambda: lin(16, 2),
    )(lambda n, x: n.h(n.a(x)[0])),
    "deep, with branches": case(
        HOLDS, b=lambda: nn.ModuleList(Branch(6) for _ in range(12)), h=lambda: lin(6, 3)
    )(lambda n, x: n.h(chained(n.b, x))),
    "a tied table before a layer norm": case(HOLDS, x=WORDS, **tied())(
        lambda n, x: F.linear(n.n(n.E(x).cumsum(1) + torch.tanh(n.a(n.E(x).cumsum(1)))), n.E.weight)
    ),
    "a tied table before a norm without shift": case(HOLDS, x=WORDS, **tied())(
        lambda n, x: F.linear(n.r(torch.tanh(n.a(n.E(x).cumsum(1)))), n.E.weight)
    ),
    "a tied table behind a scale and a cap": case(HOLDS, x=WORDS, **tied())(
        lambda n, x: torch.tanh(F.linear(n.r(torch.tanh(n.a(n.E(x).cumsum(1)))) * 0.5, n.E.weight))
    ),
    "a tied table without a norm": case(HOLDS, x=WORDS, **tied())(
        lambda n, x: F.linear(torch.tanh(n.a(n.E(x).cumsum(1))), n.E.weight)
    ),
    "a layer that is used twice": case(HOLDS, a=lambda: lin(6, 6), h=lambda: lin(6, 3))(
        lambda n, x: n.h(torch.tanh(n.a(torch.tanh(n.a(x)))))
    ),
    # what is decided as UNKNOWN for now may become HOLDS, never FAILS
    "positions alone": case(
        HOLDS,
        UNKNOWN,
        x=FIRST.repeat(1, 3),
        E=lambda: nn.Embedding(4, 24),
        P=parameter(3, 24),
        h=lambda: lin(24, 2),
    )(lambda n, x: n.h(torch.tanh(n.E(x) + n.P))),
    "many rows": case(HOLDS, UNKNOWN, x=data(30), a=lambda: lin(6, 20), h=lambda: lin(20, 2))(
        lambda n, x: n.h(torch.tanh(n.a(x)))
    ),
}


class Branch(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.n, self.up, self.down = nn.LayerNorm(d), lin(d, 2 * d), lin(2 * d, d)

    def forward(self, z: Tensor) -> Tensor:
        return z + self.down(F.gelu(self.up(self.n(z))))


def chained(blocks: nn.ModuleList, z: Tensor) -> Tensor:
    for block in blocks:
        z = block(z)
    return z


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name: str) -> None:
    module, x = CASES[name].build()
    analysis = analysed(module, x)
    claim = NondegeneracyClause().decide(analysis)[0]
    assert claim.verdict in CASES[name].verdicts, claim.statement
    agrees(claim, analysis)
    if claim.verdict is HOLDS:
        assert claim.evidence is Evidence.ENCLOSED
        checked(claim)
    elif claim.verdict is FAILS:
        assert claim.evidence is Evidence.PROVED


def checked(claim: Claim) -> None:
    """The matrix recorded is what the numbers say, and is nonsingular."""
    numbers = claim.numbers
    record = numbers["matrix"]
    size = record["size"]
    assert size == (numbers["rows"] if numbers["argument"] == "linear head" else numbers["rank"])
    raw = np.frombuffer(base64.b64decode(record["data"]), record["dtype"])
    values = np.linalg.svd(raw.reshape(size, size).astype(np.float64), compute_uv=False)
    assert numbers["least singular value"] <= values[-1] * (1 + 1e-9)
    assert 0 <= record["radius"] < values[-1]
    assert numbers["residual"] < 1


def test_the_shared_corpus() -> None:
    path = Path(__file__).parents[3] / "shared" / "corpus" / "soundness.py"
    if not path.exists():
        pytest.skip("the shared corpus is not beside this checkout")
    spec = importlib.util.spec_from_file_location("soundness", path)
    assert spec is not None
    assert spec.loader is not None
    corpus = importlib.util.module_from_spec(spec)
    sys.modules["soundness"] = corpus
    spec.loader.exec_module(corpus)
    wrong = {}
    for entry in corpus.CASES:
        if "nondegeneracy" not in entry.expect:
            continue
        module, inputs = entry.build()
        try:
            got = decide(module, *inputs).verdict
        except CaptureError:
            got = UNKNOWN
        if got not in entry.expect["nondegeneracy"]:
            wrong[entry.name] = got
    assert wrong == {}


ACTIVATIONS = {"tanh": torch.tanh, "gelu": F.gelu, "cos": torch.cos, "none": lambda t: t,
               "square": torch.square, "softplus": F.softplus}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    samples=st.integers(1, 8),
    outputs=st.integers(1, 3),
    bias=st.booleans(),
    shared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_networks_at_random(
    widths: list[int], activation: str, samples: int, outputs: int, bias: bool, shared: bool,
    seed: int,
) -> None:  # fmt: skip
    """Right at the edge of degeneracy, where a wrong verdict would show."""
    torch.manual_seed(seed)
    sizes = [3, *widths, outputs]
    maps = [lin(i, o, bias) for i, o in itertools.pairwise(sizes)]
    if shared and len(maps) > 2 and maps[0].weight.shape == maps[1].weight.shape:
        maps[1].weight = maps[0].weight
    g = ACTIVATIONS[activation]

    def f(n: Any, x: Tensor) -> Tensor:
        for layer in n.maps[:-1]:
            x = g(layer(x))
        return n.maps[-1](x)

    analysis = analysed(Net(f, maps=nn.ModuleList(maps)).double(), data(samples, 3))
    claim = NondegeneracyClause().decide(analysis)[0]
    agrees(claim, analysis)


# --- what a verdict says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [("too few parameters", "N101"), ("twins", "N102"), ("softmax", "N103"), ("no input", "N104"),
     ("layer norm without gain", "N103"), ("a narrow linear layer", "N105")],
)  # fmt: skip
def test_findings(name: str, code: str) -> None:
    module, x = CASES[name].build()
    claim = decide(module, x)
    assert [f.code for f in claim.findings] == [code]
    assert claim.findings[0].help
    assert (claim.verdict is FAILS) == (claim.findings[0].witness is not None)


def test_samples_elsewhere() -> None:
    claim = decide(Net(lambda n, x: n.h(x).T, h=lin(6, 3)).double(), X)
    assert claim.verdict is UNKNOWN
    assert [f.code for f in claim.findings] == ["N106"]


def test_objections_come_first() -> None:
    stopped = Net(lambda n, x: n.h(x) + n.h(x).detach(), h=lin(6, 3)).double()
    assert decide(stopped, X).verdict is UNKNOWN
    shared = Net(lambda n, x: n.h(torch.tanh(n.a(x))), a=lin(6, 6), h=lin(6, 6)).double()
    shared.h.weight.data = shared.a.weight.data  # one memory for two parameters
    claim = decide(shared, X)
    assert claim.verdict is UNKNOWN
    assert [f.code for f in claim.findings] == ["A304"]


def test_a_plugin_s_word() -> None:
    """What a contributed record says of an op is DECLARED, and an op is not zero by it."""
    with torch.library._scoped_library("tested", "FRAGMENT") as library:
        library.define("lifted(Tensor x) -> Tensor")
        library.impl("lifted", lambda x: torch.tanh(x) + 1.0, "CompositeExplicitAutograd")
        library.impl("lifted", lambda x: torch.empty_like(x), "Meta")
        torch.library.register_autograd(
            "tested::lifted",
            lambda ctx, g: g * (1.0 - torch.tanh(ctx.saved_tensors[0]) ** 2),
            setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
            lib=library,
        )
        record = Pointwise("tested::lifted", lipschitz=1.0)
        net = Net(lambda n, x: n.h(torch.ops.tested.lifted(n.a(x))), a=lin(6, 24), h=lin(24, 3))
        claim = decide(net.double(), X, atoms=(record,))
    assert claim.verdict is not FAILS
    assert claim.evidence in (None, Evidence.DECLARED)


def test_equal_rows_are_counted_once() -> None:
    module, x = CASES["a tied table before a layer norm"].build()
    claim = decide(module, x)
    prefixes = {tuple(line[:k]) for line in x.tolist() for k in (1, 2, 3)}
    assert claim.numbers["rows"] == len(prefixes)
    assert claim.numbers["unmerged rows"] == 12
    assert "equal ones merged" in claim.statement


def test_what_follows_for_descent_needs_an_analytic_loss() -> None:
    module, x = CASES["a wide network"].build()
    assert "gradient descent" in decide(module, x).numbers
    assert "gradient descent" not in decide(module, x, loss="absolute").numbers


def test_a_clause_without_a_decider_is_unknown() -> None:
    analysis = analysed(*CASES["a linear map"].build())
    claims = Contract.of([NondegeneracyClause()]).decide(analysis)
    verdicts = {c.clause: c.verdict for c in claims}
    assert list(verdicts) == list(CLAUSES)
    assert verdicts.pop("nondegeneracy") is HOLDS
    assert set(verdicts.values()) == {UNKNOWN}


# --- blocks ---------------------------------------------------------------------------------------


class Stack(nn.Module):
    """Residual layers whose sum is made by ``join`` of (z, branch, layer)."""

    def __init__(self, join: Callable[[Tensor, Tensor, Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer(join) for _ in range(2))
        self.head = lin(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Layer(nn.Module):
    def __init__(self, join: Callable[[Tensor, Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), lin(6, 12), lin(12, 6)
        self.end, self.gain = nn.RMSNorm(6), nn.Parameter(torch.ones(6))
        self.shifted = nn.LayerNorm(6)
        self.join = join

    def forward(self, z: Tensor) -> Tensor:
        return self.join(z, self.down(torch.tanh(self.up(self.norm(z)))), self)


MASK = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]).double()
JOINS: dict[str, tuple[Callable[[Tensor, Tensor, Any], Tensor], bool]] = {
    "a sum": (lambda z, b, m: z + b, True),
    "the other way": (lambda z, b, m: b + z, True),
    "a scaled branch": (lambda z, b, m: z + 0.5 * b, True),
    "a norm at the end of the branch": (lambda z, b, m: z + m.end(b), True),
    "a norm with a shift there": (lambda z, b, m: z + m.shifted(b), False),
    "a learned gain": (lambda z, b, m: z + m.gain * b, False),
    "a norm of the sum": (lambda z, b, m: m.norm(z + b), False),
    "z times zero": (lambda z, b, m: 0.0 * z + b, False),
    "z masked": (lambda z, b, m: MASK * z + b, False),
    "the sum masked": (lambda z, b, m: MASK * (z + b), False),
    "z without weight": (lambda z, b, m: torch.add(b, z, alpha=0), False),
    "z over a shared branch": (lambda z, b, m: z + b + m.down.weight.sum(), False),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINS)
def test_blocks_that_can_be_the_identity(name: str) -> None:
    join, expected = JOINS[name]
    net = Stack(join).double().eval()
    analysis = analysed(net, X)
    _, *blocks = NondegeneracyClause().decide(analysis)
    assert bool(blocks) is expected
    for claim in blocks:
        assert claim.verdict is HOLDS
        index = int(str(claim.block).split(".")[1])
        layer = net.layers[index]
        with torch.no_grad():
            for parameter_name in claim.numbers["zero"]:
                net.get_parameter(parameter_name).zero_()
        z = data(1)[0]
        assert torch.equal(torch.func.jacrev(layer)(z), torch.eye(6, dtype=torch.float64))
