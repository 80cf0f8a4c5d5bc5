"""What is minimised: L(θ) = mean over samples of ℓ(f(θ; x), y)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from blockframe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """A loss that ``--loss NAME`` can name; a plugin contributes one by ``blockframe_losses``.

    It is written in twice differentiable operations of its first argument, and is pure.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar with a gradient, of outputs that ``check`` has passed."""
        ...

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raises:
        InputError: the targets do not fit the outputs; the message gives both shapes.
        """
        ...

    def infimum(self, targets: Tensor) -> float:
        """L_inf, a known lower bound of the loss over all outputs (docs/theory section 4)."""
        ...


@frozen
class MeanSquaredError:
    """(1/N) Σ_i ½‖f_i − y_i‖², N the size of the first dimension (docs/theory section 4).

    Outputs and targets: one shape, (N, …).
    """

    name: str = "mse"

    # Written out: torch.nn.MSELoss has no forward-over-reverse derivative in some releases.
    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        difference = outputs - targets.to(outputs.dtype)
        return difference.square().sum() / (2 * outputs.shape[0])

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.is_complex():
            raise InputError("mse needs real targets", "Give a floating point tensor.")
        if outputs.shape != targets.shape:
            raise InputError(
                f"mse compares outputs of shape {_shape(outputs)} "
                f"with targets of shape {_shape(targets)}",
                "Give targets of the outputs' shape.",
            )
        _not_empty(outputs)

    def infimum(self, targets: Tensor) -> float:
        return 0.0


@frozen
class CrossEntropy:
    """Mean over rows of −log softmax(f)[y] (docs/theory section 4).

    Outputs: (…, C), C classes; targets: class indices 0 … C − 1 of shape (…).
    """

    name: str = "ce"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        chosen = outputs.log_softmax(-1).gather(-1, targets.long().unsqueeze(-1))
        return -chosen.mean()

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.is_floating_point() or targets.is_complex():
            raise InputError(
                f"ce needs class indices, and the targets are {targets.dtype}",
                'Give integers, or take loss="mse".',
            )
        if outputs.ndim == 0 or outputs.shape[:-1] != targets.shape:
            raise InputError(
                f"ce compares outputs of shape {_shape(outputs)} "
                f"with targets of shape {_shape(targets)}",
                "Give one class index per row: the outputs' shape without its last dimension.",
            )
        _not_empty(outputs)
        least, most = int(targets.min()), int(targets.max())
        classes = outputs.shape[-1]
        if least < 0 or most >= classes:
            raise InputError(
                f"the targets reach from {least} to {most}, and there are {classes} classes",
                f"Class indices run from 0 to {classes - 1}.",
            )

    def infimum(self, targets: Tensor) -> float:
        return 0.0


LOSSES: tuple[Loss, ...] = (MeanSquaredError(), CrossEntropy())
"""The core's own; they come in through ``blockframe_losses`` like anyone's."""


def default_loss(targets: Tensor) -> str:
    """The name of the loss that targets of this type suggest: ``ce`` for integers, else ``mse``."""
    real = targets.is_floating_point() or targets.is_complex()
    return "mse" if real else "ce"


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _not_empty(outputs: Tensor) -> None:
    if math.prod(outputs.shape) == 0:
        raise InputError(f"outputs of shape {_shape(outputs)} are empty", "Give a sample.")
