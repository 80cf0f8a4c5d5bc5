"""A run on CUDA: the numbers of the CPU, the same each time, and no traceback without memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blockframe
from blockframe.dynamics.iterate import Iterate
from blockframe.dynamics.options import Options
from blockframe.dynamics.run import trajectory
from blockframe.errors import OutOfMemory
from blockframe.problem import Problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "float16": 3e-2, "bfloat16": 0.2}
"""Relative, of what is one evaluation of the network; an eigenvalue is asked for to 1e-6."""


def cnn() -> Problem:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(),
                           nn.Linear(36, 3))  # fmt: skip
    return Problem(module, (torch.randn(12, 1, 8, 8),), torch.randint(3, (12,)), loss="ce")


def problem(name: str, request: pytest.FixtureRequest) -> Problem:
    found: Problem = cnn() if name == "cnn" else request.getfixturevalue(name)
    return found


def at_start(problem: Problem, device: str, dtype: str) -> Iterate:
    objective = Options.of(device=device, dtype=dtype).objective(problem)
    return Iterate(objective, objective.start)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt2"])
def test_cpu_and_gpu_agree(name: str, dtype: str, request: pytest.FixtureRequest) -> None:
    cpu, gpu = (at_start(problem(name, request), d, dtype) for d in ("cpu", "cuda"))
    close = TOLERANCE[dtype]
    assert gpu.objective.arithmetic.device_name.startswith("cuda")
    assert gpu.loss == pytest.approx(cpu.loss, rel=close)
    assert gpu.gradient_norm == pytest.approx(cpu.gradient_norm, rel=close)
    assert float((gpu.gradient.cpu() - cpu.gradient).norm()) <= close * cpu.gradient_norm
    vector = torch.randn(len(cpu.theta), dtype=torch.float64, generator=torch.manual_seed(0))
    product = cpu.hvp(vector)
    assert float((gpu.hvp(vector.cuda()).cpu() - product).norm()) <= close * float(product.norm())
    sharp = cpu.top_hessian_eigenvalue
    assert gpu.top_hessian_eigenvalue == pytest.approx(sharp, rel=max(close, 1e-5))
    gram = cpu.tangent_gram
    assert float((gpu.tangent_gram.cpu() - gram).norm()) <= close * float(gram.norm())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt2"])
def test_half_precision_is_near_the_exact(
    name: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    exact = at_start(problem(name, request), "cpu", "float64")
    half = at_start(problem(name, request), "cuda", dtype)
    assert half.loss == pytest.approx(exact.loss, rel=TOLERANCE[dtype])
    off = float((half.gradient.cpu() - exact.gradient).norm())
    assert off <= TOLERANCE[dtype] * exact.gradient_norm


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt2"])
def test_the_same_seed_gives_the_same_numbers(
    name: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    def run() -> dict[str, list[float | None]]:
        found = trajectory(
            problem(name, request), lr=0.05, steps=4, device="cuda", dtype=dtype, probes=["tangent"]
        )
        return found.series

    assert run() == run()


def test_float32_products_are_not_tf32() -> None:
    # 1 + 2^-12 is no number of TF32
    module = nn.Linear(256, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1 + 2.0**-12)
    problem = Problem(module, (torch.ones(256, 256),), torch.zeros(256, 1))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        it = at_start(problem, "cuda", "float32")
        assert torch.equal(it.outputs, torch.full_like(it.outputs, 256 * (1 + 2.0**-12)))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


class Hungry(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.empty(2**44, dtype=torch.uint8, device=x.device)
        found: torch.Tensor = self.linear(x)
        return found


def test_no_memory_on_the_device_is_one_message() -> None:
    problem = Problem(Hungry(), (torch.ones(4, 3),), torch.zeros(4, 2))
    with pytest.raises(OutOfMemory, match=r"CUDA out of memory.*--samples, --memory"):
        list(blockframe.descend(problem, lr=0.1, steps=1, device="cuda"))
    run = trajectory(problem, lr=0.1, steps=1, device="cuda")
    assert run.ended.startswith("out of memory at step 0. Try fewer --samples")


def test_chunks_on_the_device_are_the_same_run(mlp: Problem) -> None:
    from blockframe.dynamics.chunks import within
    from blockframe.dynamics.footprint import Footprint

    full = Options.of(device="cuda", dtype="float64").objective(mlp)
    need = Footprint(full)
    parts = within(full, need.base + 3 * need.sample)
    assert parts.budget is not None
    assert parts.budget.parts
    a, b = Iterate(full, full.start), Iterate(parts, parts.start)
    assert torch.allclose(a.gradient, b.gradient, rtol=1e-12, atol=1e-14)
    vector = torch.ones_like(full.start)
    assert torch.allclose(a.hvp(vector), b.hvp(vector), rtol=1e-10, atol=1e-12)
