"""Global minimizers: as many flat directions as docs/theory section 8 says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blockframe
from blockframe.dynamics.minimizer import LARGEST, Minimizer, find
from blockframe.dynamics.options import Options


def _found(module: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: str = "mse") -> object:
    problem = blockframe.Problem(module.double(), (x.double(),), y, loss=loss)
    return find(Options.of().objective(problem))


def _tanh(inputs: int, width: int, outputs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs))


@pytest.mark.parametrize(
    ("samples", "width", "outputs", "seed"), [(8, 12, 2, 0), (5, 9, 1, 1), (6, 10, 3, 2)]
)
def test_the_nullity_at_an_interpolating_minimizer_is_p_minus_nc(
    samples: int, width: int, outputs: int, seed: int
) -> None:
    module = _tanh(3, width, outputs, seed)
    x, y = torch.randn(samples, 3), torch.randn(samples, outputs).double()
    found = _found(module, x, y)
    assert isinstance(found, Minimizer)
    parameters = sum(p.numel() for p in module.parameters())
    assert found.loss < 1e-20
    assert found.nullity == found.predicted == parameters - samples * outputs
    assert found.gap > 1e4


def test_a_deficient_jacobian_leaves_more_flat_directions() -> None:
    """Two samples are equal, so DF has two equal rows for each output."""
    module = _tanh(3, 12, 2, 0)
    x = torch.randn(5, 3)
    x[4] = x[3]
    y = torch.randn(5, 2).double()
    y[4] = y[3]
    found = _found(module, x, y)
    assert isinstance(found, Minimizer)
    assert found.nullity == found.predicted + 2


def test_none_is_looked_for_where_there_may_be_none() -> None:
    x = torch.randn(4, 3)
    assert _found(_tanh(3, 5, 2, 0), x, torch.tensor([0, 1, 0, 1]), loss="ce") is None
    assert _found(_tanh(3, 1, 2, 0), torch.randn(8, 3), torch.randn(8, 2).double()) is None
    wide = _tanh(3, LARGEST, 2, 0)
    assert _found(wide, x, torch.randn(4, 2).double()) is None


def test_no_minimizer_where_the_targets_cannot_be_reached() -> None:
    bounded = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh())
    y = torch.full((4, 2), 3.0).double()
    assert _found(bounded, torch.randn(4, 3), y) is None


def test_a_certificate_of_a_small_network_has_it() -> None:
    module, x, y = _tanh(3, 8, 1, 3), torch.randn(6, 3), torch.randn(6, 1)
    certificate = blockframe.certify((module, (x,), y), steps=2)
    assert certificate.trajectory is not None
    found = certificate.trajectory.summary["minimizer"]
    assert found["nullity"] == found["predicted"] == 41 - 6
