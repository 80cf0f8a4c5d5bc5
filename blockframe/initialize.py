"""Weight matrices drawn anew: Xavier, He or LeCun (``--init``).

A matrix with n inputs and m outputs gets independent normal entries of mean 0 and variance
``2 / (m + n)`` (xavier: Glorot & Bengio 2010), ``2 / n`` (he: He et al. 2015) or ``1 / n``
(lecun: LeCun et al. 1998); docs/theory section 7 says what follows for the learning rate.

* A convolution has n = inputs per group × kernel size, m = outputs per group × kernel size.
* Gates that share one tensor (LSTM, GRU, the q, k, v of ``nn.MultiheadAttention``) are matrices
  of their own.
* A parameter of three or more dimensions that no such layer owns is a stack of matrices
  (outputs, inputs), as in mixtures of experts.
  With a leading dimension of 1 it is a class token or a table of positions, and stays.
* Embeddings, also where a head shares them, biases, norms and other vectors keep the values that
  the module gave them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from blockframe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT = "default"

VARIANCES: dict[str, Callable[[int, int], float]] = {
    "xavier": lambda n, m: 2.0 / (m + n),
    "he": lambda n, m: 2.0 / n,
    "lecun": lambda n, m: 1.0 / n,
}
"""Variance of an entry, given the inputs n and the outputs m of its matrix."""


def initialize(
    module: nn.Module,
    scheme: str,
    seed: int,
    *,
    transposed: tuple[type[nn.Module], ...] = (),
    keep: Collection[str] = (),
) -> tuple[str, ...]:
    """Draws the weight matrices of ``module`` anew, in place.

    Args:
        scheme: ``xavier``, ``he`` or ``lecun``; ``default`` changes nothing.
        transposed: classes of layers whose ``weight`` has shape (inputs, outputs).
        keep: last parts of parameter names that are no weight matrices, whatever their shape.

    Returns:
        The names of the parameters that were drawn.

    Raises:
        InputError: there is no such scheme.
    """
    import torch

    if scheme == DEFAULT:
        return ()
    if scheme not in VARIANCES:
        raise InputError(
            f"there is no initialization '{scheme}'", f"Choose {', '.join([DEFAULT, *VARIANCES])}."
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    with torch.no_grad():
        for name, weight, layer in _weights(module, transposed, keep):
            for part in matrices(weight, layer):
                n, m = _fans(part, layer, transposed)
                deviation = math.sqrt(VARIANCES[scheme](n, m))
                # Drawn on the CPU in float64, so that the device and the dtype change nothing.
                entries = torch.randn(part.shape, generator=generator, dtype=torch.float64)
                part.copy_(entries * deviation)
            drawn.append(name)
    return tuple(drawn)


def _weights(
    module: nn.Module, transposed: tuple[type[nn.Module], ...], keep: Collection[str]
) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Every weight matrix once, with its name and the layer that owns it."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    embeddings = (nn.Embedding, nn.EmbeddingBag)
    layers = (
        nn.Linear, nn.Bilinear, _ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention,
        *transposed,
    )  # fmt: skip
    done = {
        id(p) for e in module.modules() if isinstance(e, embeddings) for p in e.parameters(False)
    }
    for prefix, layer in module.named_modules():
        for name, weight in layer.named_parameters(prefix, recurse=False):
            vector = weight.dim() < 2 or (weight.shape[0] == 1 and not isinstance(layer, layers))
            if id(weight) in done or vector or name.rpartition(".")[2] in keep:
                continue
            done.add(id(weight))
            yield name, weight, layer


def matrices(weight: Tensor, layer: nn.Module) -> tuple[Tensor, ...]:
    """Views of the matrices that share the tensor ``weight``."""
    from torch import nn

    gates = 1
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)) and weight.shape[0] % layer.hidden_size == 0:
        gates = weight.shape[0] // layer.hidden_size
    elif isinstance(layer, nn.MultiheadAttention) and weight is layer.in_proj_weight:
        gates = 3
    return weight.chunk(gates)


def _fans(
    weight: Tensor, layer: nn.Module, transposed: tuple[type[nn.Module], ...]
) -> tuple[int, int]:
    """Inputs and outputs of one matrix, or of each of a stack of matrices."""
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    if isinstance(layer, _ConvNd):
        first, second = weight.shape[:2]
        kernel = math.prod(weight.shape[2:])
        if isinstance(layer, _ConvTransposeNd):
            return first // layer.groups * kernel, second * kernel
        return second * kernel, first // layer.groups * kernel
    inputs, outputs = weight.shape[-1], weight.shape[-2]
    return (outputs, inputs) if isinstance(layer, transposed) else (inputs, outputs)
