"""From a spec and what the user asked to a problem."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch import Tensor, nn

from blockframe.data import RANDOM, Samples, find, random_samples
from blockframe.errors import InputError
from blockframe.initialize import drawn, initialize
from blockframe.problem import Problem, Request
from blockframe_nn import networks, settings
from blockframe_nn.datasets import DATASETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 128
CLASSES = 10
"""Of random data."""


@frozen
class Kind:
    """One spec: its default settings, how it reads x, and network(shape, outputs, settings)."""

    defaults: settings.Settings
    reads: Callable[[str, Tensor], Tensor]
    network: Callable[..., nn.Module]


def build(spec: str, request: Request) -> Problem:
    """The network ``spec`` with random weights, on its data.

    Raises:
        SpecError: a setting that there is not, or a value that it cannot have.
        InputError: the data does not fit the network, or the loss the data.
    """
    kind = KINDS[spec]
    chosen = settings.read(kind.defaults, request.settings, spec)
    samples, words = _data(request)
    outputs = samples.classes or samples.y.shape[-1]
    if request.samples is not None or len(samples.x) > SAMPLES:
        count = SAMPLES if request.samples is None else request.samples
        words = f"{words}, {count:,} of {len(samples.x):,} samples"
        samples = samples.first(count)
    x = kind.reads(spec, torch.from_numpy(samples.x).float())
    loss, targets = _targets(samples.y, outputs, request.loss)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(request.seed)
        network = kind.network(tuple(x.shape[1:]), outputs, chosen).eval()
    initialize(network, request.init, request.seed)
    words = f"{words}; {drawn(request.init, request.seed)}"
    return Problem(network, (x,), targets, loss=loss, spec=spec, data=words)


def _data(request: Request) -> tuple[Samples, str]:
    """All there is of the data, and what it is in words."""
    if request.data == RANDOM:
        count = max(SAMPLES, request.samples or 0)  # enough of them to meet every class
        return random_samples((8, 8), count, CLASSES, request.seed), "random, normal, ten classes"
    dataset = find(request.data or "digits", {**DATASETS, **request.datasets})
    return dataset.samples(), dataset.words


def _targets(y: NDArray[Any], outputs: int, loss: str | None) -> tuple[str, Tensor]:
    """The loss, and the targets in the form that it compares with."""
    targets = torch.from_numpy(y)
    if targets.is_floating_point():
        if loss == "ce":
            raise InputError(
                "cross-entropy needs classes, and this data has real targets",
                "Use --loss mse, or data whose y holds class numbers.",
            )
        return loss or "mse", targets.float()
    if loss == "mse":
        return loss, nn.functional.one_hot(targets, outputs).float()
    return loss or "ce", targets


def _flat(spec: str, x: Tensor) -> Tensor:
    return x.flatten(1)


def _images(spec: str, x: Tensor) -> Tensor:
    if x.dim() not in (3, 4):
        raise _unfit(spec, x, "images, x of shape (N, H, W) or (N, C, H, W)")
    return x.unsqueeze(1) if x.dim() == 3 else x


def _steps(spec: str, x: Tensor) -> Tensor:
    if x.dim() not in (2, 3):
        raise _unfit(spec, x, "sequences, x of shape (N, T) or (N, T, F)")
    return x.unsqueeze(-1) if x.dim() == 2 else x


def _unfit(spec: str, x: Tensor, wanted: str) -> InputError:
    return InputError(
        f"{spec} needs {wanted}; this data has shape {tuple(x.shape)}", "Use --data digits."
    )


KINDS = {
    "mlp": Kind(settings.MLP(), _flat, networks.MLP),
    "cnn": Kind(settings.CNN(), _images, networks.CNN),
    "rnn": Kind(settings.Elman(), _steps, partial(networks.Recurrent, nn.RNN)),
    "lstm": Kind(settings.Recurrent(), _steps, partial(networks.Recurrent, nn.LSTM)),
    "gru": Kind(settings.Recurrent(), _steps, partial(networks.Recurrent, nn.GRU)),
    "transformer": Kind(settings.Transformer(), _steps, networks.Transformer),
}
