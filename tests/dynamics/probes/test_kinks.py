from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blockframe
from blockframe.dynamics import traced
from blockframe.dynamics.descent import descend
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.probes import Unavailable
from blockframe.dynamics.run import trajectory
from blockframe.errors import BlockframeError
from blockframe.problem import Problem


class Net(nn.Module):
    """5 → 6, an activation, → 3."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.down, self.activation = nn.Linear(5, 6), nn.Linear(6, 3), activation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.up(x)))
        return out


def problem(activation: Callable[[Tensor], Tensor]) -> Problem:
    torch.manual_seed(0)
    return Problem(Net(activation), (torch.randn(8, 5),), 3 * torch.randn(8, 3))


def hidden(it: Iterate) -> np.ndarray:
    """The arguments of the activation, by numpy."""
    weight, bias = it.theta.numpy()[:30].reshape(6, 5), it.theta.numpy()[30:36]
    found: np.ndarray = it.objective.inputs[0].numpy() @ weight.T + bias
    return found


def observed(target: Problem, lr: float = 0.5, steps: int = 6) -> Iterator[Iterate]:
    for it in descend(target, lr=lr, steps=steps, probes=["kinks"], device="cpu"):
        it.observe_all()
        yield it


PIECES = {
    "relu": (torch.relu, [0.0]),
    "abs": (torch.abs, [0.0]),
    "clamp": (lambda h: h.clamp(-0.5, 0.5), [-0.5, 0.5]),
    "hardswish": (F.hardswish, [-3.0, 3.0]),
    "where": (lambda h: torch.where(h > 0.25, h, 0.5 * h), [0.25]),
    "maximum": (lambda h: torch.maximum(h, 0.3 * h), [0.0]),
}


@pytest.mark.parametrize("name", PIECES)
def test_crossings_are_the_arguments_that_numpy_sees_change_sides(name: str) -> None:
    activation, points = PIECES[name]
    total, before = 0, None
    for it in observed(problem(activation)):
        piece = np.digitize(hidden(it), points)
        if before is None:
            assert it["kinks"] is None
        else:
            count = int((piece != before).sum())
            assert it["kinks"] == count
            total += count
        before = piece
    assert total > 0 or name == "hardswish"


def test_approach_and_margin_are_what_numpy_says() -> None:
    crossed = set()
    before = None
    for it in observed(problem(torch.relu), lr=0.1):
        u = hidden(it)
        margin = np.abs(u).min() / np.sqrt((u**2).mean())
        assert it["kinks.margin"] == pytest.approx(margin, rel=1e-9)
        if before is not None:
            share = ((u - before) / -before).max()
            assert it["kinks.approach"] == pytest.approx(share, rel=1e-9)
            assert (share > 1) == (it["kinks"] > 0)
            crossed.add(share > 1)
        before = u
    assert crossed == {True, False}


def test_the_nearer_of_two_kinks_is_the_margin() -> None:
    it = next(observed(problem(lambda h: h.clamp(-0.5, 0.5))))
    u = hidden(it)
    distance = np.minimum(np.abs(u - 0.5), np.abs(u + 0.5))
    expected = distance.min() / np.sqrt((distance**2).mean())
    assert it["kinks.margin"] == pytest.approx(expected, rel=1e-9)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.max_pool2d(self.conv(x), 3).flatten(1))
        return out


def test_of_a_max_pooling_the_choices_are_counted_and_no_margin_is_given() -> None:
    torch.manual_seed(0)
    target = Problem(Pooled(), (torch.randn(4, 1, 8, 8),), 3 * torch.randn(4, 2))
    total, before = 0, None
    for it in observed(target, lr=0.3):
        theta = it.theta
        images = it.objective.inputs[0]
        h = F.conv2d(images, theta[:18].view(2, 1, 3, 3), theta[18:20])
        _, chosen = F.max_pool2d(h, 3, return_indices=True)
        if before is not None:
            assert it["kinks"] == int((chosen != before).sum())
            total += int(it["kinks"])
        assert it["kinks.margin"] is None
        assert it["kinks.approach"] is None
        before = chosen
    assert total > 0


@pytest.mark.parametrize(
    "activation",
    [torch.tanh, lambda h: torch.relu(h.square()), lambda h: h.clamp(min=torch.finfo(h.dtype).min)],
    ids=["tanh", "relu of a square", "clamp at finfo.min"],
)
def test_without_a_kink_in_reach_nothing_is_crossed(
    activation: Callable[[Tensor], Tensor],
) -> None:
    for it in observed(problem(activation), steps=2):
        assert it["kinks"] == (0.0 if it.step else None)
    if activation is torch.tanh:
        assert it["kinks.margin"] is it["kinks.approach"] is None


def test_attention_under_a_causal_mask_has_no_kinks(gpt2: Problem) -> None:
    *_, last = observed(gpt2, steps=1)
    assert last["kinks"] == 0.0
    assert last["kinks.margin"] is None


@pytest.mark.parametrize(
    ("activation", "op"),
    [
        (lambda h: h - h.median(), "median"),
        (lambda h: h / h.norm(dim=-1, keepdim=True), "norm"),
        (lambda h: (h * h).sqrt(), "sqrt"),  # |h|, whose root only touches 0
        (lambda h: 1 / (h * h), "div|reciprocal"),
    ],
    ids=["median", "norm", "root of a square", "pole"],
)
def test_what_cannot_be_placed_is_not_counted_as_nothing(
    activation: Callable[[Tensor], Tensor], op: str
) -> None:
    target = problem(activation)
    with pytest.raises(Unavailable, match=rf"kink crossings are not covered for .*({op})"):
        next(observed(target))
    run = trajectory(target, lr=1e-9, steps=2, device="cpu", probes=["kinks"])
    assert run.ended == "completed"
    assert not [name for name in run.series if name.startswith("kinks")]
    assert re.search(op, run.summary["unavailable"]["kinks"])


def branching(h: Tensor) -> Tensor:
    return h if float(h.detach().sum()) > 0 else -h


def test_a_network_that_cannot_be_traced_is_not_observed() -> None:
    with pytest.raises(Unavailable, match="the network could not be traced"):
        next(observed(problem(branching)))


def test_a_graph_that_is_not_the_network_is_not_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = descend(problem(torch.tanh), lr=0.1, steps=0, device="cpu").start.objective
    analysis = other.traced.analysis
    monkeypatch.setattr(traced, "_analysed", lambda _: analysis)
    with pytest.raises(Unavailable, match="does not compute what the network computes"):
        next(observed(problem(torch.relu)))


def test_the_summary_adds_up() -> None:
    run = trajectory(problem(torch.relu), lr=0.5, steps=6, device="cpu", probes=["kinks"])
    counts = [x for x in run.series["kinks"] if x is not None]
    assert run.summary["kinks"] == {
        "crossings": sum(counts),
        "crossing_steps": sum(c > 0 for c in counts),
        "least_margin": min(x for x in run.series["kinks.margin"] if x is not None),
    }
    assert run.summary["kinks"]["crossings"] > 0


def test_a_certificate_uses_the_trace_that_was_made_for_the_clauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> None:
        raise BlockframeError("traced once more")

    monkeypatch.setattr(traced, "_analysed", refuse)
    torch.manual_seed(0)
    target = (Net(torch.relu), (torch.randn(8, 5),), torch.randn(8, 3))
    run = blockframe.certify(target, steps=2, probes=["kinks", "block_jacobian"]).trajectory
    assert run is not None
    assert "unavailable" not in run.summary
    assert len(run.series["kinks"]) == 3


def test_a_restored_previous_iterate_gives_the_same_and_nothing_holds_a_graph() -> None:
    for it in observed(problem(torch.relu), steps=2):
        assert not any(s.argument is not None and s.argument.requires_grad for s in it.sides)
        if it.previous is None:
            continue
        before = Iterate(it.objective, it.previous.theta, step=it.step - 1)
        again = Iterate(it.objective, it.theta, step=it.step, previous=before, probes=it.probes)
        assert again.observe_all() == it.observe_all()


def test_in_float32_the_sides_are_those_of_the_real_parameters() -> None:
    run = descend(problem(torch.relu), lr=0.3, steps=3, probes=["kinks"], device="cpu",
                  dtype="float32")  # fmt: skip
    before = None
    for it in run:
        it.observe_all()
        piece = hidden(it) > 0
        if before is not None:
            assert it["kinks"] == int((piece != before).sum())
        before = piece
