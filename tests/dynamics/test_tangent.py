"""K is the square of the dense Jacobian, however a network uses its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from blockframe import check
from blockframe.certificate.store import read
from blockframe.cli.program import program
from blockframe.dynamics import merging, tangent
from blockframe.dynamics.descent import descend
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.objective import Objective
from blockframe.dynamics.options import Options
from blockframe.dynamics.run import trajectory
from blockframe.dynamics.tangent import Spectrum, TangentTooLarge, tangent_gram
from blockframe.problem import Problem


class Tied(nn.Module):
    """An embedding that is also the head, as a function of its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(7, 4), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(self.table(x))) @ self.table.weight.T


class Twice(nn.Module):
    """One linear layer that is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(4, 2, batch_first=True), nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.attention(x, x, x)[0]))  # type: ignore[no-any-return]


class Spelled(nn.Module):
    """Attention, an RMS norm and positions in plain operations; a key bias without effect."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.gain, self.positions = nn.Parameter(torch.rand(4)), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions
        x = self.gain * x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()
        return (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1) @ self.v(x)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(3, 4, batch_first=batch_first), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0])  # type: ignore[no-any-return]


class Mixing(nn.Module):
    """Samples see one another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.second(h - h.mean(0))  # type: ignore[no-any-return]


class MixingInOneDirection(Mixing):
    """A sample sees the one before."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.second(h * h.roll(1, 0))  # type: ignore[no-any-return]


class Square(torch.autograd.Function):
    """Without a batching rule; no torch function sees its parameter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w**2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return grads[0] * w**2, (2 * grads[0] * x * w).sum(0)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.randn(5)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(Square.apply(x + self.scale, self.scale))  # type: ignore[no-any-return, no-untyped-call]


class Altered(nn.Module):
    """The argument of an operation is overwritten after its use, and its output in place."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)
        self.shift, self.gain = nn.Parameter(torch.randn(5)), nn.Parameter(torch.rand(5))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        h = torch.addcmul(x, x.square(), self.shift).relu_()
        x.mul_(self.gain)
        return self.head(h + x)  # type: ignore[no-any-return]


class Idle(nn.Module):
    """Parameters that are not used, or frozen, or cast; a weight that is made of two."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.frozen = nn.Linear(5, 5), nn.Linear(5, 5).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) @ torch.cat([self.a, self.b], 1).float().to(x.dtype).T  # type: ignore[no-any-return]


def convolutional() -> nn.Module:
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)]
    return nn.Sequential(*layers)


def mlp(n: int = 5, m: int = 3, *, inplace: bool = False) -> nn.Module:
    return nn.Sequential(nn.Linear(n, 6), nn.ReLU(inplace), nn.Linear(6, m))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (8, 5)),
    "in place": (lambda: mlp(inplace=True), (8, 5)),
    "in place, of a view": (lambda: mlp(inplace=True), (3, 2, 5)),
    "one sample": (mlp, (1, 5)),
    "positions fewer than inputs": (mlp, (3, 2, 5)),
    "positions more than inputs": (mlp, (2, 3, 4, 5)),
    "cnn": (convolutional, (5, 2, 6, 6)),
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm1d(5), mlp()), (4, 5)),
    "tied": (Tied, (4, 3)),
    "twice": (Twice, (6, 4)),
    "attention": (Attention, (3, 5, 4)),
    "spelled out": (Spelled, (4, 3, 4)),
    "lstm": (lambda: Recurrent(batch_first=True), (4, 3, 3)),
    "lstm, time first": (lambda: Recurrent(batch_first=False), (3, 4, 3)),
    "mixing": (Mixing, (4, 5)),
    "mixing in one direction": (MixingInOneDirection, (5, 5)),
    "custom": (Custom, (4, 5)),
    "altered": (Altered, (4, 5)),
    "idle": (Idle, (4, 5)),
    "weight norm": (lambda: nn.Sequential(weight_norm(nn.Linear(5, 4)), nn.Linear(4, 2)), (3, 5)),
}


def problem(name: str) -> Problem:
    torch.manual_seed(0)
    build, shape = CASES[name]
    x = torch.randint(0, 7, shape) if name == "tied" else torch.randn(shape)
    module = build()
    return Problem(module, (x,), torch.randn(module.eval()(x).shape))


def objective(of: Problem, dtype: str | None = None) -> Objective:
    return Options.of(device="cpu", dtype=dtype).objective(of)


def dense(of: Objective) -> Tensor:
    """DF, row by row."""
    theta = of.start.clone().requires_grad_()
    outputs = of(theta)[0].flatten()
    rows = [of.differentiate(f, theta, retain_graph=True) for f in outputs]
    return torch.stack(rows)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("budget", [tangent.BUDGET, 6000])
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_square_of_the_dense_jacobian(name: str, budget: int) -> None:
    of = objective(problem(name))
    j = dense(of)
    assert apart(tangent_gram(of, of.start, budget=budget), j @ j.T) < 1e-12


def test_of_gpt2(gpt2: Problem) -> None:
    of = objective(gpt2)
    j = dense(of)
    gram = tangent_gram(of, of.start)
    assert gram.shape == (306, 306)
    assert gram.dtype == torch.float64
    assert apart(gram, j @ j.T) < 1e-12


@settings(max_examples=20, deadline=None)
@given(
    samples=st.integers(1, 9),
    positions=st.integers(1, 5),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 4),
    budget=st.integers(1500, 100_000),
    seed=st.integers(0, 100),
)
def test_of_any_shape_in_any_memory(
    samples: int, positions: int, inputs: int, outputs: int, budget: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(samples, positions, inputs)
    module = nn.Sequential(mlp(inputs, outputs), nn.LayerNorm(outputs))
    of = objective(Problem(module, (x,), torch.randn(samples, positions, outputs)))
    j = dense(of)
    reference = j @ j.T
    found = tangent_gram(of, of.start, budget=budget)
    assert float((found - reference).norm()) <= 1e-11 * (1 + float(reference.norm()))


def test_where_an_output_does_not_depend_on_parameters(mlp: Problem) -> None:
    for p in mlp.module.parameters():
        p.requires_grad_(False)
    mlp.module.register_parameter("idle", nn.Parameter(torch.ones(2)))
    of = objective(mlp)
    assert torch.equal(tangent_gram(of, of.start), torch.zeros(24, 24, dtype=torch.float64))


def test_in_float32_it_is_added_up_in_float64() -> None:
    of, exact = objective(problem("attention"), "float32"), objective(problem("attention"))
    gram, j = tangent_gram(of, of.start), dense(exact)
    assert gram.dtype == torch.float64
    assert 1e-12 < apart(gram, j @ j.T) < 1e-5


# --- cost ---------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most bytes that any tensor has which an operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in pytree.tree_leaves(out):
            if isinstance(t, Tensor):
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return out


def test_the_jacobian_is_never_held() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(10, 100), nn.Tanh(), nn.Linear(100, 100), nn.Linear(100, 4))
    of = objective(Problem(module, (torch.randn(30, 10),), torch.randn(30, 4)))
    whole = 8 * 120 * of.start.numel()
    with Largest() as largest:
        dense(of)
    assert largest.bytes >= whole
    with Largest() as largest:
        tangent_gram(of, of.start)
    assert largest.bytes < whole / 40


@pytest.mark.parametrize("name", ["cnn", "lstm", "mixing"])
def test_columns_are_held_in_blocks_of_the_budget(name: str) -> None:
    of = objective(problem(name))
    gram = tangent_gram(of, of.start)
    budget = 8 * gram.numel()
    assert budget < 8 * len(gram) * of.start.numel()
    with Largest() as largest:
        tangent_gram(of, of.start, budget=budget)
    assert largest.bytes <= 3 * budget  # beside a block, what a backward holds


def test_one_backward_serves_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    pull = Objective.pull_back

    def counted(self: Objective, of: Tensor, by: Any, cotangents: Tensor) -> Any:
        if of.shape == (64, 3):
            asked.append(len(cotangents))
        return pull(self, of, by, cotangents)

    monkeypatch.setattr(Objective, "pull_back", counted)
    torch.manual_seed(0)
    of = objective(Problem(mlp(), (torch.randn(64, 5),), torch.randn(64, 3)))
    tangent_gram(of, of.start)
    # 12 to see that samples do not mix, twice 1 for the uses and their replays, 3 outputs.
    assert sum(asked) < 64


def test_too_many_rows_are_refused_with_what_stands_in_their_place() -> None:
    module = nn.Linear(2, 100)
    large = Problem(module, (torch.randn(50, 2),), torch.randn(50, 100))
    of = objective(large)
    with pytest.raises(TangentTooLarge, match=r"5000 outputs .* PL ratio \(pl\).*--samples"):
        tangent_gram(of, of.start)
    run = trajectory(large, lr=0.1, steps=1, probes=["tangent"], device="cpu")
    assert run.ended == "completed"
    assert "4096 rows" in run.summary["unavailable"]["tangent"]
    assert not any(name.startswith("tangent") for name in run.series)


def test_too_many_columns_are_refused() -> None:
    of = objective(problem("lstm"))
    with pytest.raises(TangentTooLarge, match=r"24 × .* derivatives"):
        tangent_gram(of, of.start, budget=100)


# --- eigenvalues and the PL bound ---------------------------------------------------------------


def first(of: Problem, **options: Any) -> Iterate:
    return next(descend(of, lr=0.1, steps=0, device="cpu", **options))


def test_the_spectrum_is_that_of_the_dense_jacobian() -> None:
    it = first(problem("positions fewer than inputs"))
    singular = np.linalg.svd(dense(it.objective).numpy(), compute_uv=False)
    spectrum = it.tangent_spectrum
    assert np.allclose(spectrum.values, singular[::-1] ** 2, rtol=0, atol=spectrum.error)
    assert it.least_tangent_eigenvalue == spectrum.least
    assert abs(spectrum.least - singular[-1] ** 2) <= spectrum.error < 1e-12 * singular[0] ** 2
    rank = (singular**2).sum() ** 2 / (singular**4).sum()
    assert spectrum.effective_rank == pytest.approx(rank, rel=1e-10)


def test_a_singular_matrix_has_no_least_eigenvalue_beyond_the_error() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5)
    x[5] = x[0]  # the same sample twice
    spectrum = first(Problem(mlp(), (x,), torch.randn(6, 3))).tangent_spectrum
    assert abs(spectrum.least) <= spectrum.error
    assert spectrum.surely == 0.0
    assert Spectrum.of(torch.eye(7).double(), 2.0**-53).effective_rank == pytest.approx(7)
    assert math.isnan(Spectrum.of(torch.full((2, 2), math.nan), 2.0**-53).surely)
    assert math.isnan(Spectrum.of(torch.zeros(2, 2), 2.0**-53).effective_rank)


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention", "lstm", "tied", "spelled out"])
def test_the_bound_lies_below_the_measured_ratio_mse(name: str) -> None:
    of = problem(name)
    for it in descend(of, lr=0.02, steps=4, probes=["pl", "tangent"], device="cpu"):
        seen = it.observe("tangent")
        bound, ratio = seen["pl_bound"], it["pl"]
        assert isinstance(bound, float)
        assert isinstance(ratio, float)
        assert 0 <= bound <= ratio * (1 + 1e-12)
        if not merging.groups(it):  # docs/theory section 4: λ_min/N
            assert bound == pytest.approx(it.tangent_spectrum.surely / it.outputs.shape[0])
    assert seen["change"] is not None
    assert seen["change"] > 0


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_lies_below_the_measured_ratio_ce(seed: int) -> None:
    torch.manual_seed(seed)
    x, y = torch.randn(12, 5), torch.randint(0, 3, (12,))
    of = Problem(nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)), (x,), y, loss="ce")
    for it in descend(of, lr=0.5, steps=6, probes=["pl", "tangent"], device="cpu"):
        bound, ratio = it["tangent.pl_bound"], it["pl"]
        assert isinstance(bound, float)
        assert isinstance(ratio, float)
        assert 0 < bound <= ratio
        losses = nn.functional.cross_entropy(it.outputs, y, reduction="none")
        slope = it.tangent_spectrum.surely * float((1 - (-losses).exp()).square().sum()) / 12**2
        assert slope <= it.gradient_norm**2
        assert slope / (2 * it.loss) <= bound * (1 + 1e-12)  # the gradient itself is sharper


def test_rows_with_equal_prefixes_are_merged(gpt2: Problem) -> None:
    """Without merging K is singular, and its bound says nothing."""
    tokens = gpt2.inputs[0].clone()
    tokens[1, :2] = tokens[0, :2]
    tokens[2, 0] = tokens[0, 0]
    of = Problem(gpt2.module, (tokens,), gpt2.targets, "ce", gpt2.keywords, "logits")
    it = first(of, probes=["pl", "tangent"])
    members = [list(m) for m in merging.groups(it)]
    assert [0, 6, 12] in members
    assert [1, 7] in members
    assert len(members) == 18 - 3
    assert it.tangent_spectrum.surely == 0.0
    bound, ratio = it["tangent.pl_bound"], it["pl"]
    assert isinstance(bound, float)
    assert isinstance(ratio, float)
    assert 0 < bound <= ratio
    # ‖∇_f ℓ‖² ≥ min p_c (e^{ℓ − ℓ_inf} − 1) for each merged row, docs/theory section 4.
    assert of.targets is not None
    p = it.outputs.softmax(-1).flatten(0, 1)
    q = nn.functional.one_hot(of.targets.flatten(), 17).double()
    square = 0.0
    for group in members:
        law, mean = p[group[0]], q[group].mean(0)
        gap = float(torch.xlogy(mean, mean / law).sum())
        square += (len(group) / 18) ** 2 * float(law.min()) * math.expm1(gap)
    least = it["tangent"]
    assert isinstance(least, float)
    assert 0 < least * square <= it.gradient_norm**2
    assert least * square <= bound * 2 * it.loss * (1 + 1e-9)


def test_merged_rows_of_mse_have_the_bound_of_the_least_weight(gpt2: Problem) -> None:
    tokens = gpt2.inputs[0].clone()
    tokens[1, :3] = tokens[0, :3]
    torch.manual_seed(1)
    y = torch.randn(3, 6, 17)
    of = Problem(gpt2.module, (tokens,), y, "mse", gpt2.keywords, "logits")
    it = first(of, probes=["tangent"])
    members = merging.groups(it)
    flat = y.double().flatten(0, 1)
    infimum = sum(float((flat[list(g)] - flat[list(g)].mean(0)).square().sum()) for g in members)
    ratio = it.gradient_norm**2 / (2 * (it.loss - infimum / (2 * 3)))  # over samples, as the loss
    least = it["tangent"]
    assert isinstance(least, float)
    assert 0 < least * min(len(g) for g in members) / 3 <= ratio


def test_nothing_is_merged_where_the_rows_of_k_contradict(
    gpt2: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = first(gpt2)
    it.tangent_gram[:] = 100 * torch.eye(306).double()
    tokens = gpt2.inputs[0].clone()
    tokens[:, 0] = 3
    same = first(Problem(gpt2.module, (tokens,), gpt2.targets, "ce", gpt2.keywords, "logits"))
    proved = merging._proved(same.objective)
    assert proved is not None
    assert proved.merged
    assert merging.groups(same)
    monkeypatch.setattr(merging, "_proved", lambda _: proved)
    assert merging.groups(it) == []


def test_a_probe_that_serves_two_runs_compares_with_the_right_start(mlp: Problem) -> None:
    from blockframe.dynamics.probes import Tangent

    probe = Tangent()
    for _ in range(2):
        run = list(descend(mlp, lr=0.1, steps=2, probes=[probe], device="cpu"))
        changes = [it.observe("tangent")["change"] for it in run]
        assert changes[0] == 0.0
        gap = run[2].tangent_gram - run[0].tangent_gram
        assert changes[2] == pytest.approx(float(gap.norm() / run[0].tangent_gram.norm()))
    late = Iterate(run[0].objective, run[0].theta, step=5)
    assert Tangent().observe(late)["change"] is None  # type: ignore[index]


def test_it_is_observed_where_it_is_asked_for_only(mlp: Problem) -> None:
    run = trajectory(mlp, lr=0.1, steps=2, device="cpu")
    assert not any(name.startswith("tangent") for name in run.series)
    run = trajectory(mlp, lr=0.1, steps=2, probes=["tangent"], device="cpu")
    bounds, ratios = run.series["tangent.pl_bound"], run.series["pl"]
    assert all(b is not None and r is not None and b <= r
               for b, r in zip(bounds, ratios, strict=True))  # fmt: skip
    summary = run.summary["tangent"]
    assert summary["min"] == min(x for x in run.series["tangent"] if x is not None)
    assert summary["max_change"] == run.series["tangent.change"][-1]


def test_on_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("blockframe_nn", reason="blockframe-nn is not installed")
    pytest.importorskip("sklearn", reason="the data of mlp are scikit-learn's")
    arguments = ["certify", "mlp", "--probe", "tangent", "--samples", "20", "--steps", "3"]
    result = CliRunner().invoke(program, [*arguments, "--device", "cpu", "--out", str(tmp_path)])
    assert "tangent" in result.output, result.output
    certificate = read(tmp_path / "mlp.cert.json")
    run = certificate.trajectory
    assert run is not None
    assert run.ended == "completed"
    assert certificate.subject.recipe is not None
    assert certificate.subject.recipe.probes == ("tangent",)
    for bound, ratio in zip(run.series["tangent.pl_bound"], run.series["pl"], strict=True):
        assert bound is not None
        assert ratio is not None
        assert 0 < bound <= ratio
    assert not check(certificate).rejected
