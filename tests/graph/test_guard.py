"""What a trace cannot show: custom backwards, hooks, hidden state."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from blockframe.graph.capture import capture
from blockframe.graph.guard import objections
from blockframe.graph.watch import Watch
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
    assert "A302" in codes(Net(Square.apply))


def test_the_forward_of_a_custom_function_is_no_detached_value() -> None:
    """It runs without gradients whatever it does; what counts there is its backward."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, y: Tensor) -> Tensor:
            return 2 * y

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return 2 * gradient

    class Constant(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, y: Tensor) -> Tensor:
            z = 2 * y
            ctx.mark_non_differentiable(z)
            return z

    assert codes(Net(Once.apply)) == {"A302"}
    assert "A301" in codes(Net(lambda y: Once.apply(y) + y.detach()))
    assert "A301" in codes(Net(lambda y: y + Constant.apply(y)))


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


def big(x: Tensor) -> Tensor:
    """Nothing near the given parameters, enormous elsewhere."""
    return torch.exp(40.0 * (x - 6.0))


def in_place(x: Tensor) -> Tensor:
    z = torch.zeros(2, 3, dtype=x.dtype)
    z += 1.0
    return z


def hidden_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        w = big(x)
    return x * in_place(x) + w


def hidden_write(x: Tensor) -> Tensor:
    y = x.clone()
    with torch.no_grad():
        y.add_(big(x))
    return y


def hidden_inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        w = big(x)
    return x + w


def clipped(x: Tensor) -> Tensor:
    y = torch.tanh(x)
    if y.grad_fn is not None:
        y.grad_fn.register_hook(
            lambda gi, go: tuple(None if g is None else g.clamp(-100, 100) for g in gi)
        )
    return y


def compressed(x: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clamp(-50, 50), lambda t: t):
        return x**2


TRICKS = {
    "no_grad beside an in-place op": hidden_no_grad,
    "a write under no_grad": hidden_write,
    "inference mode": hidden_inference,
    "detach in place": lambda x: x + big(x).clone().detach_() * in_place(x),
    "a part of an op that has no derivative": lambda x: (
        x * torch.native_layer_norm(x, (3,), None, None, 1e-5)[2]
    ),
    "a hook on a node": clipped,
    "hooks on saved tensors": compressed,
    "a branch that the trace does not take": lambda x: (
        torch.tanh(x) if torch.compiler.is_exporting() or x.abs().max() < 50 else torch.relu(x)
    ),
}


@pytest.mark.parametrize("g", TRICKS.values(), ids=TRICKS.keys())
def test_tricks_that_numbers_nearby_do_not_show(g: Any) -> None:
    assert codes(Net(g)) & {"A301", "A302", "A303", "A304", "A902"}


def test_checkpoints_are_not_hooks() -> None:
    from torch.utils.checkpoint import checkpoint

    assert codes(Net(lambda y: checkpoint(torch.tanh, y, use_reentrant=False))) == set()


class Closure(nn.Module):
    """A function that holds the module: its parameters escape a copy of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(3, 3), nn.Parameter(torch.randn(3))
        self.f = lambda x: x * torch.relu(self.gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.linear(x))


class Alias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(3, 3), nn.Parameter(torch.randn(3))
        self.register_buffer("anchor", self.gate.data)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * torch.relu(self.anchor) + self.gate


class View(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.first = self.linear.weight.view(-1)[:3]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * torch.relu(self.first)


@pytest.mark.parametrize("module", [Closure, Alias, View])
def test_a_parameter_that_is_read_as_a_constant_never_holds(module: type[nn.Module]) -> None:
    from blockframe.analysis import Analysis
    from blockframe.atoms.catalogue import Catalogue
    from blockframe.contract.analyticity import AnalyticityClause
    from blockframe.errors import CaptureError

    torch.manual_seed(0)
    try:
        analysis = Analysis.of(Problem(module(), (torch.randn(2, 3),)), Catalogue.of())
    except CaptureError:
        return
    assert AnalyticityClause().decide(analysis)[0].verdict == "UNKNOWN"
    assert {o.code for o in analysis.objections or ()} & {"A301", "A304", "A902"}


def test_a_number_drawn_outside_of_torch() -> None:
    assert "A902" in codes(Net(lambda y: y * random.random()))


def test_a_counter_in_the_forward() -> None:
    class Counting(Net):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return torch.relu(self.linear(x)) if self.calls > 50 else torch.tanh(self.linear(x))

    assert codes(Counting()) == {"A903"}


@pytest.mark.parametrize("store", [dict, list])
def test_a_counter_in_a_container(store: type) -> None:
    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.n = {0: 0} if store is dict else [0]

        def forward(self, x: Tensor) -> Tensor:
            self.n[0] += 1
            return torch.relu(self.linear(x)) if self.n[0] > 50 else torch.tanh(self.linear(x))

    assert codes(Counting()) == {"A903"}


def test_a_constant_beside_a_parameter_is_not_stopped() -> None:
    class Pair(Net):
        def forward(self, x: Tensor) -> Tensor:
            a, b = torch.broadcast_tensors(self.linear.bias, torch.arange(3.0, dtype=x.dtype))
            return torch.tanh(self.linear(x)) * a * b

    assert codes(Pair()) == set()


def test_a_shape_op_of_one_value_is_followed() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    with Watch([weight]) as watch:
        one = torch.atleast_3d(weight)
        first, second = torch.atleast_3d(weight, torch.ones(2))
    assert {id(one), id(first)} <= watch.varying.keys()
    assert id(second) not in watch.varying
    assert not watch.stopped


def test_a_view_after_fused_attention() -> None:
    def g(y: Tensor) -> Tensor:
        q = y.view(1, 2, 1, 3).transpose(1, 2)
        scores = q @ q.transpose(2, 3)
        scores += torch.ones(2, 2, dtype=y.dtype)
        z = torch.nn.functional.scaled_dot_product_attention(q, q, q)
        return z.transpose(1, 2).contiguous().view(2, 3) + 0.0 * scores.sum()

    assert codes(Net(g)) == set()


def test_a_cache_that_the_first_forward_fills() -> None:
    from blockframe.analysis import Analysis
    from blockframe.atoms.catalogue import Catalogue

    class Lazy(Net):
        cache: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.cache is None:
                self.cache = torch.relu(self.linear.bias.detach())
            return torch.tanh(self.linear(x)) * self.cache

    analysis = Analysis.of(Problem(Lazy(), (torch.randn(2, 3),)), Catalogue.of())
    assert "A903" in {o.code for o in analysis.objections or ()}


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
