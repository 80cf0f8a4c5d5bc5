from __future__ import annotations

import math

import pytest
import torch

from blockframe.dynamics.losses import LOSSES, CrossEntropy, MeanSquaredError, default_loss
from blockframe.errors import InputError

mse, ce = MeanSquaredError(), CrossEntropy()


def test_mse_is_half_the_mean_squared_norm() -> None:
    outputs = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert mse(outputs, targets).item() == (0.5 * 4 + 0.5 * 25) / 2


def test_mse_divides_by_samples_and_not_by_positions() -> None:
    outputs, targets = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
    assert mse(outputs, targets).item() == 6.0


def test_ce_is_the_mean_negative_log_probability_of_the_class() -> None:
    outputs = torch.log(torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]))
    targets = torch.tensor([[1, 0]])
    expected = -(math.log(0.75) + math.log(0.5)) / 2
    assert ce(outputs, targets).item() == pytest.approx(expected, rel=1e-6)


def test_ce_takes_narrow_integers() -> None:
    targets = torch.tensor([1, 0], dtype=torch.uint8)
    assert ce(torch.zeros(2, 2), targets).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_losses_have_a_second_derivative(loss: MeanSquaredError | CrossEntropy) -> None:
    targets = torch.tensor([0, 1]) if loss.name == "ce" else torch.ones(2, 3, dtype=torch.float64)
    outputs = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda f: loss(f, targets), (outputs,))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_the_infimum_bounds_the_loss(loss: MeanSquaredError | CrossEntropy) -> None:
    targets = torch.tensor([0, 1]) if loss.name == "ce" else torch.zeros(2, 3)
    for scale in (0.0, 1.0, 100.0):
        outputs = scale * torch.eye(2, 3)
        assert loss(outputs, targets).item() >= loss.infimum(targets) == 0.0


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "said"),
    [
        (mse, (2, 1), torch.zeros(2), r"\(2, 1\) with targets of shape \(2,\)"),
        (mse, (2, 3), torch.zeros(2, 4), r"\(2, 3\) with targets of shape \(2, 4\)"),
        (mse, (2, 3), torch.zeros(2, 3, dtype=torch.complex64), "real targets"),
        (mse, (0, 3), torch.zeros(0, 3), r"shape \(0, 3\) are empty"),
        (ce, (2, 3), torch.zeros(3, dtype=torch.long), r"\(2, 3\) with targets of shape \(3,\)"),
        (ce, (2, 3), torch.zeros(2), "torch.float32"),
        (ce, (2, 3), torch.tensor([0, 3]), "from 0 to 3, and there are 3 classes"),
        (ce, (2, 3), torch.tensor([-1, 2]), "from -1 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(
    loss: MeanSquaredError | CrossEntropy,
    outputs: tuple[int, ...],
    targets: torch.Tensor,
    said: str,
) -> None:
    with pytest.raises(InputError, match=said):
        loss.check(torch.zeros(outputs), targets)


def test_targets_suggest_a_loss() -> None:
    assert default_loss(torch.tensor([1, 2])) == "ce"
    assert default_loss(torch.tensor([1.0])) == "mse"
