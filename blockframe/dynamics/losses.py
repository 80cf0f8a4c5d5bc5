"""What is minimised: L(θ) = mean over samples of ℓ(f(θ; x), y)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import frozen

from blockframe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


_ROUNDED = 1.0 + 1e-12
"""Covers the rounding of the few operations of a constant."""


@frozen
class Smoothness:
    """|∇_F L| <= slope[0] + slope[1] |F| and |∇²_F L| <= curvature for all outputs F.

    Frobenius and operator norms; F holds the outputs of all samples.
    """

    slope: tuple[float, float]
    curvature: float


@runtime_checkable
class SmoothLoss(Protocol):
    """A loss that knows how its derivatives grow: what a guaranteed learning rate needs."""

    def smoothness(self, targets: Tensor) -> Smoothness: ...


@frozen
class PairingBound:
    """⟨F, ∇_F L⟩ >= -value for all outputs F (docs/theory section 5), rounded up.

    ``basis``: the numbers that it follows from, for who checks it again.
    """

    value: float
    basis: Mapping[str, float]


@runtime_checkable
class DissipativeLoss(Protocol):
    """A loss that knows how negative ⟨F, ∇_F L⟩ can be: what a proof of clause D needs."""

    def pairing_bound(
        self, outputs: tuple[int, ...], targets: Tensor | None
    ) -> PairingBound | None:
        """For outputs of this shape; None where there is no bound, or none without targets."""
        ...


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

    def smoothness(self, targets: Tensor) -> Smoothness:
        """∇ = (F − Y)/N, ∇² = I/N."""
        from blockframe.domains.norms import frobenius

        n = targets.shape[0]
        return Smoothness((frobenius(targets) / n * _ROUNDED, _ROUNDED / n), _ROUNDED / n)

    def pairing_bound(
        self, outputs: tuple[int, ...], targets: Tensor | None
    ) -> PairingBound | None:
        """⟨f, f − y⟩ >= −¼‖y‖²."""
        if targets is None or targets.is_meta or tuple(targets.shape) != outputs:
            return None
        n = targets.shape[0]
        slack = 1.0 + (targets.numel() + 8) * 2.0**-52  # in whatever order they are summed
        square = float(targets.double().square().sum()) * slack
        value = math.nextafter(square / (4 * n), math.inf)
        basis = {"samples": n, "targets_square": square}
        return PairingBound(value, basis) if math.isfinite(value) else None


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

    def smoothness(self, targets: Tensor) -> Smoothness:
        """Of M rows: |p − e_y| <= √2 and |diag p − p pᵀ| <= ½ for each, over M."""
        rows = targets.numel()
        return Smoothness((math.sqrt(2.0 / rows) * _ROUNDED, 0.0), 0.5 / rows * _ROUNDED)

    def pairing_bound(self, outputs: tuple[int, ...], targets: Tensor | None) -> PairingBound:
        """−W₀((C − 1)/e) for each row, whatever its class; so for soft targets too."""
        classes = outputs[-1]
        return PairingBound(lambert_bound(classes), {"classes": classes})


def lambert_bound(classes: int) -> float:
    """The least w found with w·e^(w+1) >= C − 1: W₀((C − 1)/e) of the Lambert function, rounded up.

    By bisection. The product is computed with an error of some (w + 4) units of roundoff, and w is
    below 50 for any C; the excess that is asked for is more.
    """
    least, most = 0.0, 1.0 + math.log(max(1, classes))
    enough = (classes - 1) * _ROUNDED
    if enough <= 0.0:
        return 0.0
    while least < (middle := (least + most) / 2) < most:
        if middle * math.exp(middle + 1.0) >= enough:
            most = middle
        else:
            least = middle
    return most


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
