"""Weight matrices drawn anew, or scaled: ``--init NAME`` or ``--init NAME:SCALE``.

A matrix with n inputs and m outputs gets independent normal entries of mean 0 and variance
``2 / (m + n)`` (xavier: Glorot & Bengio 2010), ``2 / n`` (he: He et al. 2015) or ``1 / n``
(lecun: LeCun et al. 1998); docs/theory section 7 says what follows for the learning rate. Or it
becomes semi-orthogonal (orthogonal: Saxe et al. 2014): its singular values are all 1, and it is
drawn uniformly among such matrices. SCALE multiplies all of them; ``default:SCALE`` multiplies the
matrices that the module has.

* A convolution has n = inputs per group × kernel size, m = outputs per group × kernel size. Where
  it is made orthogonal, it is so for each group as the matrix (first dimension, all others), as
  in ``torch.nn.init.orthogonal_``.
* Gates that share one tensor (LSTM, GRU, the q, k, v of ``nn.MultiheadAttention``) are matrices
  of their own.
* A parameter of three or more dimensions that no such layer owns is a stack of matrices
  (outputs, inputs), as in mixtures of experts.
  With a leading dimension of 1 it is a class token or a table of positions, and stays.
* Embeddings, also where a head shares them, biases, norms and other vectors keep the values that
  the module gave them. A parameter whose name has the word ``bias`` in it is a bias, whatever its
  shape: those of a stack of matrices form a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from attrs import frozen

from blockframe import checks
from blockframe.errors import InputError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

DEFAULT = "default"
ORTHOGONAL = "orthogonal"

VARIANCES: dict[str, Callable[[int, int], float]] = {
    "xavier": lambda n, m: 2.0 / (m + n),
    "he": lambda n, m: 2.0 / n,
    "lecun": lambda n, m: 1.0 / n,
}
"""Variance of an entry, given the inputs n and the outputs m of its matrix."""

SCHEMES = (DEFAULT, *VARIANCES, ORTHOGONAL)


@frozen
class Scheme:
    """How matrices are drawn, and what they are multiplied by."""

    name: str
    scale: float = 1.0

    @classmethod
    def of(cls, text: str) -> Scheme:
        """``xavier`` or ``xavier:0.5``.

        Raises:
            InputError: there is no such scheme, or the scale is no positive finite number.
        """
        name, colon, factor = text.partition(":")
        if name not in SCHEMES:
            raise InputError(
                f"there is no initialization '{name}'", f"Choose {', '.join(SCHEMES)}."
            )
        if not colon:
            return cls(name)
        try:
            scale = checks.positive(float(factor))
        except ValueError:
            scale = None
        if scale is None:
            raise InputError(
                f"the scale '{factor}' of initialization '{text}' is not a positive number",
                f"Write, for instance, {name}:0.5.",
            )
        return cls(name, scale)

    @property
    def changes(self) -> bool:
        """Whether it draws or scales anything at all."""
        return self != Scheme(DEFAULT)


def drawn(scheme: str, seed: int) -> str:
    """Where weights are from that a plugin drew, as its `Problem.data` says it at the end."""
    return f"weights drawn at random ({scheme}, seed {seed})"


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
        scheme: one of `SCHEMES`, and its scale if it has one (`Scheme.of`); ``default`` alone
            changes nothing.
        transposed: classes of layers whose matrices have the shape (inputs, outputs), or are
            stacks of such.
        keep: last parts of parameter names that are no weight matrices, whatever their shape.

    Returns:
        The names of the parameters that were drawn or scaled.

    Raises:
        InputError: there is no such scheme.
    """
    import torch
    from torch.nn.modules.conv import _ConvNd

    wanted = Scheme.of(scheme)
    if not wanted.changes:
        return ()
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    with torch.no_grad():
        for name, weight, layer in _weights(module, transposed, keep):
            for part in matrices(weight, layer):
                if wanted.name == DEFAULT:
                    part.mul_(wanted.scale)
                elif wanted.name == ORTHOGONAL:
                    for matrix in part.chunk(layer.groups if isinstance(layer, _ConvNd) else 1):
                        matrix.copy_(_orthogonal(matrix, layer, generator) * wanted.scale)
                else:
                    n, m = _fans(part, layer, transposed)
                    deviation = wanted.scale * math.sqrt(VARIANCES[wanted.name](n, m))
                    part.copy_(_normal(part.shape, generator) * deviation)
            drawn.append(name)
    return tuple(drawn)


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Drawn on the CPU in float64, so that the device and the dtype change nothing."""
    import torch

    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _orthogonal(weight: Tensor, layer: nn.Module, generator: Generator) -> Tensor:
    """A semi-orthogonal matrix, or a stack of them, of the shape of ``weight``, uniformly drawn:
    Q of a QR decomposition with R's diagonal positive (Mezzadri, Notices AMS 54 (2007) 592)."""
    import torch
    from torch.nn.modules.conv import _ConvNd

    flat = weight.flatten(1) if isinstance(layer, _ConvNd) else weight
    *stack, rows, columns = flat.shape
    entries = _normal((*stack, max(rows, columns), min(rows, columns)), generator)
    q, r = torch.linalg.qr(entries)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    matrix: Tensor = q.mT if rows < columns else q
    return matrix.reshape(weight.shape)


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
            last = name.rpartition(".")[2]
            if id(weight) in done or vector or last in keep or "bias" in last.split("_"):
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
