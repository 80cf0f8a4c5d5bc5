"""From modules to graphs: exact, functional, and clear about what cannot be one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blockframe.errors import CaptureError, InputError
from blockframe.graph.capture import capture
from blockframe.graph.evaluate import evaluate, leaves
from blockframe.graph.graph import Graph, NodeKind
from blockframe.problem import Problem


class Net(nn.Module):
    """x -> g(self, linear(x))."""

    def __init__(self, g: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3)
        self.register_buffer("shift", torch.ones(3))
        self.count = 0
        self.g = g

    def forward(self, x: Tensor) -> Any:
        return self.g(self, self.linear(x))


def problem(g: Callable[[Any, Tensor], Any], **options: Any) -> Problem:
    module = Net(g)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    return Problem(module, (x,), **options)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph if n.kind is NodeKind.CALL]


def replayed(p: Problem) -> Tensor:
    graph = capture(p)
    value: Tensor = evaluate(graph, leaves(graph, p))[graph.output]
    return value


def test_leaves_calls_and_where_they_come_from() -> None:
    graph = capture(problem(lambda m, y: torch.tanh(y) + m.shift))
    assert ops(graph) == ["aten::linear", "aten::tanh", "aten::add.Tensor"]
    assert [n.target for n in graph if n.kind is NodeKind.PARAMETER] == [
        "linear.weight",
        "linear.bias",
    ]
    assert [n.target for n in graph if n.kind is NodeKind.BUFFER] == ["shift"]
    linear = next(n for n in graph if n.op == "aten::linear")
    assert linear.module == "linear"
    assert linear.shape == (2, 3)
    tanh = next(n for n in graph if n.op == "aten::tanh")
    assert tanh.location is not None
    assert str(tanh.location).startswith("test_capture.py:")
    assert tanh.location.text == "return self.g(self, self.linear(x))"
    assert all(node.index == i for i, node in enumerate(graph))


@pytest.mark.parametrize(
    "g",
    [
        lambda m, y: y.add_(1.0).mul_(m.shift),
        lambda m, y: torch.zeros(2, 3).index_copy_(1, torch.tensor([2, 0, 1]), y),
        lambda m, y: y.masked_fill_(torch.tensor([True, False, True]), 0.0) * 2,
        lambda m, y: torch.stack(y.unbind(1), 1).flip(0),
        lambda m, y: y.split([1, 2], 1)[1].sum(0),
    ],
)
def test_replay_is_bit_equal_also_with_in_place_ops(g: Callable[[Any, Tensor], Tensor]) -> None:
    p = problem(g)
    with torch.no_grad():
        assert torch.equal(replayed(p), p.module(*p.inputs))


def test_writing_into_a_slice_is_made_functional() -> None:
    def g(m: Any, y: Tensor) -> Tensor:
        out = torch.zeros(2, 3)
        out[:, 0] = y[:, 1]
        return out + y

    p = problem(g)
    with torch.no_grad():
        assert torch.equal(replayed(p), p.module(*p.inputs))


def test_no_grad_regions_are_inlined_and_what_leaves_them_is_detached() -> None:
    def g(m: Any, y: Tensor) -> Tensor:
        with torch.no_grad():
            z = y * 2
            with torch.enable_grad():
                w = y * 3
        return y + z + w

    p = problem(g)
    graph = capture(p)
    assert ops(graph).count("aten::detach") == 1
    params = dict(p.module.named_parameters())
    ours = torch.autograd.grad(
        evaluate(graph, leaves(graph, p))[graph.output].sum(), list(params.values())
    )
    theirs = torch.autograd.grad(p.module(*p.inputs).sum(), list(params.values()))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_shared_parameters_are_one_leaf_and_frozen_ones_are_buffers() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.b.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    graph = capture(Problem(Tied(), (torch.randn(2, 3),)))
    assert sorted(n.target for n in graph if n.kind is NodeKind.PARAMETER) == ["a.bias", "a.weight"]
    assert [n.target for n in graph if n.kind is NodeKind.BUFFER] == ["b.bias"]


def test_the_modules_mode_is_restored() -> None:
    p = problem(lambda m, y: nn.functional.dropout(y, 0.5, m.training))
    p.module.train()
    p.module.linear.eval()
    capture(p)
    assert p.module.training
    assert not p.module.linear.training


def test_shape_only_uses_have_no_operand() -> None:
    graph = capture(problem(lambda m, y: y + torch.zeros_like(y) + y.new_full((3,), 2.0)))
    made = [n for n in graph if n.op in ("aten::zeros", "aten::full")]
    assert len(made) == 2
    assert all(not n.operands for n in made)


def test_the_output_is_chosen_by_key_or_index() -> None:
    p = problem(lambda m, y: {"logits": y, "hidden": (y * 2,)}, output="logits")
    assert ops(capture(p)) == ["aten::linear"]
    assert capture(problem(lambda m, y: (y, y * 2), output=1))


@pytest.mark.parametrize(
    ("g", "options", "words"),
    [
        (lambda m, y: (y, y), {}, "not one tensor"),
        (lambda m, y: {"logits": y}, {}, "keys logits"),
        (lambda m, y: {"logits": y}, {"output": "loss"}, "no part 'loss'"),
        (lambda m, y: None, {}, "not a tensor"),
        (lambda m, y: y @ torch.zeros(5, 5), {}, "does not run on inputs of shape"),
        (lambda m, y: y.nonsense(), {}, "AttributeError"),
    ],
)
def test_what_the_user_can_put_right(
    g: Callable[[Any, Tensor], Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        capture(problem(g, **options))


def _counting(m: Any, y: Tensor) -> Tensor:
    m.shift.add_(1.0)
    return y * m.shift


@pytest.mark.parametrize(
    ("g", "code", "words"),
    [
        (lambda m, y: y if y.sum() > 0 else -y, "A901", "branches on the value"),
        (lambda m, y: y * y.data, "A901", "leaves the graph"),
        (_counting, "A903", "changes shift"),
    ],
)
def test_what_is_not_one_function_is_refused(
    g: Callable[[Any, Tensor], Any], code: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError, match=words) as caught:
        capture(problem(g))
    assert caught.value.code == code
    if code == "A901" and "branches" in words:
        assert caught.value.location.startswith("test_capture.py:")
        assert "y.sum() > 0" in caught.value.excerpt


def test_autocast_is_refused() -> None:
    def g(m: Any, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return y @ y.T

    with pytest.raises(CaptureError, match="autocast"):
        capture(problem(g))


def test_a_model_on_meta_needs_no_weights() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(10_000, 10_000), nn.Tanh(), nn.Linear(10_000, 7))
    graph = capture(Problem(module, (torch.zeros(2, 10_000, device="meta"),)))
    assert graph[graph.output].shape == (2, 7)


def test_a_cache_among_the_outputs_is_told_with_its_remedy() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        vocab_size=8, max_position_embeddings=8,
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config)
    inputs = (torch.zeros(2, 3, dtype=torch.long),)
    with pytest.raises(CaptureError, match="returns a DynamicCache") as refused:
        capture(Problem(module, inputs, output="logits"))
    assert "use_cache" in refused.value.remedy
    capture(Problem(module, inputs, output="logits", keywords={"use_cache": False}))
