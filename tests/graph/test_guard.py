"""What a trace cannot show: custom backwards, hooks, hidden state."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blockframe.graph.capture import capture
from blockframe.graph.guard import objections
from blockframe.problem import Problem


class Square(torch.autograd.Function):
    """x*x, with a backward that is right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * g


class Net(nn.Module):
    def __init__(self, g: Any = torch.tanh) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3)
        self.g = g

    def forward(self, x: Tensor) -> Tensor:
        return self.g(self.linear(x))


def codes(module: nn.Module) -> set[str]:
    p = Problem(module.double(), (torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3),))
    return {o.code for o in objections(p, capture(p))}


def test_an_honest_module_has_none() -> None:
    assert codes(Net()) == set()


def test_a_custom_function_is_seen_even_if_its_backward_is_right() -> None:
    assert codes(Net(Square.apply)) == {"A302"}


def test_a_hook_on_a_tensor_is_seen_even_if_it_does_nothing() -> None:
    def g(y: Tensor) -> Tensor:
        z = torch.tanh(y)
        if z.requires_grad:
            z.register_hook(lambda grad: grad)
        return z

    assert codes(Net(g)) == {"A303"}


def test_a_hook_that_changes_the_gradient() -> None:
    def g(y: Tensor) -> Tensor:
        z = torch.tanh(y)
        if z.requires_grad:
            z.register_hook(lambda grad: 2 * grad)
        return z

    assert codes(Net(g)) == {"A303", "A304"}


@pytest.mark.parametrize("kind", ["parameter", "accumulated", "module"])
def test_hooks_that_exist_before_the_forward(kind: str) -> None:
    net = Net().double()
    if kind == "parameter":
        net.linear.weight.register_hook(lambda grad: 2 * grad)
    elif kind == "accumulated":
        net.linear.weight.register_post_accumulate_grad_hook(lambda p: None)
    else:
        net.linear.register_full_backward_hook(lambda m, gi, go: None)
    assert "A303" in codes(net)


@pytest.mark.parametrize(("ids", "expected"), [([1, 2, 3], set()), ([0, 1, 2], {"A304"})])
def test_a_padding_index_stops_the_gradient_where_it_occurs(
    ids: list[int], expected: set[str]
) -> None:
    net = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Linear(3, 2)).double()
    with torch.no_grad():
        net[0].weight.normal_()
    p = Problem(net, (torch.tensor([ids]),))
    assert {o.code for o in objections(p, capture(p))} == expected


def test_a_number_drawn_outside_of_torch() -> None:
    assert "A902" in codes(Net(lambda y: y * random.random()))


def test_a_counter_in_the_forward() -> None:
    class Counting(Net):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.linear(x) * self.calls

    assert "A902" in codes(Counting())


def test_parameters_are_as_they_were() -> None:
    net = Net().double()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    codes(net)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_numbers_that_are_not_finite() -> None:
    net = Net().double()
    with torch.no_grad():
        net.linear.weight[0, 0] = float("nan")
    assert "A905" in codes(net)
