"""The searches find what can be computed otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.problem import Problem
from blockframe.testing.hessian import sampled_hessian_norm
from blockframe.testing.sampling import STARTS, BlockMap, climb, directional

# the first forward-mode derivative of a process warns about something inside of torch
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


class Sphere:
    """A function on spheres about 0."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f = f

    def __call__(self, x: Tensor) -> Tensor:
        return self.f(x)

    def norms(self, x: Tensor) -> tuple[float, float]:
        return float(x.norm()), 0.0

    def onto(self, x: Tensor, s: float, r: float) -> Tensor:
        return x * (s / float(x.norm()))


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_norms_of_a_linear_map() -> None:
    m = drawn(4, 5)
    f, norm = Sphere(lambda x: m @ x), float(torch.linalg.matrix_norm(m, 2))
    assert climb(f, drawn(5), 1, turns=40).size == pytest.approx(norm)
    value = climb(f, drawn(5), 0, steps=60)
    assert value.size == pytest.approx(norm * float(drawn(5).norm()), rel=1e-2)


def test_curvature_of_a_quadratic_map() -> None:
    m = drawn(5, 5)
    m = m + m.T
    f = Sphere(lambda x: torch.stack([x @ m @ x, 0.0 * x[0]]))
    largest = 2.0 * float(torch.linalg.eigvalsh(m).abs().max())
    assert climb(f, drawn(5), 2, turns=60, steps=0).size == pytest.approx(largest, rel=1e-3)
    v = drawn(5)
    assert float(directional(f, drawn(5), v, 2)) == pytest.approx(2.0 * float((v @ m @ v).abs()))


def test_the_slope_of_a_bump_is_found_where_it_is() -> None:
    f = Sphere(lambda x: torch.tanh(5.0 * (x - 1.0)))
    start = torch.tensor([0.3, 1.4], dtype=torch.float64)  # on the sphere through (1, 1)
    start = start * (2.0**0.5 / start.norm())
    assert climb(f, start, 1, steps=40).size == pytest.approx(5.0, rel=1e-2)


def test_points_have_the_norms_that_are_asked_for() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
    inputs = torch.randn(2, 3)
    analysis = Analysis.of(Problem(module, (inputs,)), Catalogue.of())
    f = BlockMap(analysis, analysis.chain.blocks[-1])
    for start in STARTS:
        x = f.draw(3.0, 1.5, start, seed=4)
        assert f.norms(x)[0] == pytest.approx(3.0)
        assert f.norms(x)[1] <= 1.5 + 1e-12
        assert f(x).shape == (4,)
        (state,) = f.split(x)[f.count :]
        assert 0.0 <= float(state.min()) <= float(state.max()) <= 1.0  # a sigmoid made it
    with torch.no_grad():
        assert torch.allclose(f(f.start), module.double()(inputs.double()).flatten())


def test_the_largest_hessian_eigenvalue() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x, y = drawn(5, 2), drawn(5, 1)
    problem = Problem(module, (x,), y)
    theta = nn.utils.parameters_to_vector(module.parameters()).detach()
    names, sizes = zip(*((n, p.numel()) for n, p in module.named_parameters()), strict=True)

    def loss(theta: Tensor) -> Tensor:
        parts = zip(names, theta.split(list(sizes)), strict=True)
        state = {n: p.view_as(module.get_parameter(n)) for n, p in parts}
        return (functional_call(module, state, (x,)) - y).square().sum() / 10

    exact = float(torch.linalg.eigvalsh(hessian(loss)(theta)).abs().max())
    at_start = sampled_hessian_norm(problem, 0.0, samples=2, about_start=True, turns=60)
    assert at_start == pytest.approx(exact, rel=1e-3)
    assert at_start <= exact * (1 + 1e-9)
    norm = float(theta.norm())
    assert sampled_hessian_norm(problem, 2.0 * norm) > 1.5 * exact
    assert sampled_hessian_norm(problem, 1.0, about_start=True) > exact
