"""Functions that PyTorch has no op for and models write out: what patterns make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

if TYPE_CHECKING:
    from torch import Tensor


@frozen(eq=False)
class Synthetic:
    """The target of a node, as an op of PyTorch is. ``__name__`` is what the catalogue knows."""

    __name__: str = field(alias="name")
    definition: Callable[..., Any] = field()
    tags: tuple[Any, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.definition(*args, **kwargs)


def _swish(x: Tensor, beta: float) -> Tensor:
    return x * (beta * x).sigmoid()


def _normalize(x: Tensor, dims: Sequence[int], scale: float, eps: float) -> Tensor:
    return x * (scale * x.square().sum(list(dims), keepdim=True) + eps).rsqrt()


def _rotary(x: Tensor, cos: Tensor, sin: Tensor, paired: str, norm: float) -> Tensor:
    import torch

    if paired == "halves":
        a, b = x.chunk(2, -1)
        turned = torch.cat((-b, a), -1)
        each = [u.repeat(*[1] * (u.dim() - 1), 2) if _half(u, x) else u for u in (cos, sin)]
    else:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        each = [u.repeat_interleave(2, -1) if _half(u, x) else u for u in (cos, sin)]
    return x * each[0] + turned * each[1]


def _half(u: Tensor, x: Tensor) -> bool:
    """Whether ``u`` has one entry for each pair."""
    return 2 * u.shape[-1] == x.shape[-1]


SWISH = Synthetic("blockframe::swish", _swish)
"""x * sigmoid(beta * x), beta > 0."""

NORMALIZE = Synthetic("blockframe::normalize", _normalize)
"""x / sqrt(scale * sum(x^2 along dims) + eps), scale and eps > 0."""

ROTARY = Synthetic("blockframe::rotary", _rotary)
"""Entries in pairs (a, b), turned and scaled: (a cos - b sin, b cos + a sin). cos and sin are
constants with one entry for each of x or for each pair. Paired are entry i and i + n/2
(``"halves"``), or 2i and 2i + 1 (``"neighbours"``). ``norm``: of the whole, a linear map."""

SYNTHETIC = {op.__name__: op for op in (SWISH, NORMALIZE, ROTARY)}
"""By name."""
