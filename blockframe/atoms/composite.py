"""Ops that are analysed through a definition in other ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blockframe.atoms.facts import Composite

if TYPE_CHECKING:
    from torch import Tensor


def _pytorch(name: str) -> Callable[..., Any]:
    """PyTorch's own decomposition, loaded when it is first needed."""

    def definition(*args: Any, **kwargs: Any) -> Any:
        from torch._decomp import decompositions

        return getattr(decompositions, name)(*args, **kwargs)

    return definition


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` as its documentation defines it."""
    import torch

    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(seen.logical_not(), float("-inf"))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.dropout(scores.softmax(-1), dropout_p, dropout_p > 0) @ value


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *unused: Any,
) -> Tensor:
    """Normalisation by stored statistics, or by those of the batch where none are stored."""
    shape = [1, -1] + [1] * (x.dim() - 2)
    if training or mean is None or variance is None:
        dims = [d for d in range(x.dim()) if d != 1]
        mean = x.mean(dims)
        variance = (x - mean.reshape(shape)).square().mean(dims)
    y = (x - mean.reshape(shape)) * (variance + eps).rsqrt().reshape(shape)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _batch_norm_and_statistics(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``batch_norm`` by stored statistics becomes in a graph without in-place writes."""
    empty = x.new_zeros(0)
    y = _batch_norm(x, weight, bias, mean, variance, False, momentum, eps)
    return y, empty, empty


def _frac(x: Tensor) -> Tensor:
    return x - x.trunc()


def _remainder(x: Tensor, y: Tensor | float) -> Tensor:
    return x - y * (x.div(y, rounding_mode="floor") if _whole(x, y) else (x / y).floor())


def _fmod(x: Tensor, y: Tensor | float) -> Tensor:
    return x - y * (x.div(y, rounding_mode="trunc") if _whole(x, y) else (x / y).trunc())


def _whole(*operands: Tensor | float) -> bool:
    """Whether all are integers, so that the value is one, too."""
    return not any(
        isinstance(x, float) or (not isinstance(x, int) and x.is_floating_point()) for x in operands
    )


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * gate.sigmoid()


COMPOSITES = (
    Composite("aten::lstm.input", definition=_pytorch("lstm_impl")),
    Composite("aten::gru.input", definition=_pytorch("gru_impl")),
    Composite("aten::rnn_tanh.input", definition=_pytorch("rnn_tanh_input")),
    Composite("aten::rnn_relu.input", definition=_pytorch("rnn_relu_input")),
    Composite(
        "aten::scaled_dot_product_attention",
        definition=_attention,
        source="documentation of torch.nn.functional.scaled_dot_product_attention",
    ),
    Composite("aten::batch_norm", definition=_batch_norm),
    Composite("aten::_native_batch_norm_legit_no_training", definition=_batch_norm_and_statistics),
    Composite("aten::glu", definition=_glu),
    Composite("aten::frac", definition=_frac),
    Composite(("aten::remainder.Scalar", "aten::remainder.Tensor"), definition=_remainder),
    Composite(("aten::fmod.Scalar", "aten::fmod.Tensor"), definition=_fmod),
)
