"""Ops written in plainer ones, so that their derivatives are made of plain ops too.

The derivative of ``layer_norm`` is an op of its own; that of means, squares and products is made of
means, squares and products, which every domain knows already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

# --- norms --------------------------------------------------------------------------------------


def _scaled(x: Tensor, dims: list[int], eps: float) -> Tensor:
    return x * (x.square().mean(dims, keepdim=True) + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *unused: Any,
) -> Tensor:
    dims = list(range(-len(shape), 0))
    return _affine(_scaled(x - x.mean(dims, keepdim=True), dims, eps), weight, bias)


def _rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    dims = list(range(-len(shape), 0))
    return _affine(_scaled(x, dims, torch.finfo(x.dtype).eps if eps is None else eps), weight)


def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *unused: Any,
) -> Tensor:
    rows = x.reshape(x.shape[0], groups, -1)
    y = _scaled(rows - rows.mean(-1, keepdim=True), [-1], eps).reshape(x.shape)
    channels = [-1] + [1] * (x.dim() - 2)
    parts = (None if p is None else p.reshape(channels) for p in (weight, bias))
    return _affine(y, *parts)


def _instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    own_statistics: bool,
    momentum: float,
    eps: float,
    *unused: Any,
) -> Tensor:
    if own_statistics or mean is None or variance is None:
        return _group_norm(x, x.shape[1], weight, bias, eps)
    channels = [-1] + [1] * (x.dim() - 2)
    y = (x - mean.reshape(channels)) * (variance.reshape(channels) + eps).rsqrt()
    parts = (None if p is None else p.reshape(channels) for p in (weight, bias))
    return _affine(y, *parts)


# --- linear maps of lines: means over windows, interpolation ------------------------------------


def _each(value: Any, count: int) -> list[Any]:
    """One value per dimension; a single one (or none) stands for all of them."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return values * count if len(values) == 1 else values or [None] * count


def _along(x: Tensor, dim: int, line: Callable[..., Tensor], *options: Any) -> Tensor:
    """A linear map of lines, (N, 1, n) -> (N, 1, m), applied along a dimension: a matrix product.

    The matrix is the map of the unit vectors; it stands in the graph as what it is made of.
    """
    unit = torch.eye(x.shape[dim], dtype=x.dtype, device=x.device)
    matrix = line(unit.unsqueeze(1), *options).squeeze(1)
    return (x.movedim(dim, -1) @ matrix).movedim(-1, dim)


def _average_pool(spatial: int) -> Callable[..., Tensor]:
    """A mean over boxes is one over intervals along each dimension in turn."""

    def line(x: Tensor, k: int, s: int, p: int, *options: Any) -> Tensor:
        pooled: Tensor = aten.avg_pool2d(x.unsqueeze(1), [1, k], [1, s], [0, p], *options)
        return pooled.squeeze(1)

    def definition(
        x: Tensor,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        options = (ceil_mode, count_include_pad, None if divisor_override is None else 1)
        windows = (_each(v, spatial) for v in (kernel, stride or kernel, padding))
        for d, (k, s, p) in enumerate(zip(*windows, strict=True)):
            x = _along(x, d - spatial, line, k, s, p, *options)
        return x if divisor_override is None else x / divisor_override

    return definition


def _adaptive_average_pool(spatial: int) -> Callable[..., Tensor]:
    def definition(x: Tensor, size: Any) -> Tensor:
        for d, n in enumerate(_each(size, spatial), -spatial):
            x = _along(x, d, aten.adaptive_avg_pool1d.default, [x.shape[d] if n is None else n])
        return x

    return definition


def _interpolation(line: Any, spatial: int) -> Callable[..., Tensor]:
    """``options``: whether corners are aligned, where ``line`` asks, and the scale factors."""

    def definition(x: Tensor, size: Sequence[int] | None, *options: Any) -> Tensor:
        *how, scales = options
        for d in range(spatial):
            own = None if size is None else [size[d]]
            scale = None if scales is None else [scales[d]]
            x = _along(x, d - spatial, line, own, *how, scale)
        return x

    return definition


# --- padding ------------------------------------------------------------------------------------


def _bordered(x: Tensor, padding: Sequence[int], place: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Entries from ``place`` (positions, entries of a line) for those that lie beyond a line."""
    for d in range(len(padding) // 2):  # the last dimension's come first
        n = x.shape[-1 - d]
        around = torch.arange(-padding[2 * d], n + padding[2 * d + 1], device=x.device)
        x = x.movedim(-1 - d, 0)[place(around, n)].movedim(0, -1 - d)
    return x


def _replication_pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    return _bordered(x, padding, lambda i, n: i.clamp(0, n - 1))


def _pad(
    x: Tensor, padding: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    if mode == "circular":
        return _bordered(x, padding, lambda i, n: i % n)
    if mode == "replicate":
        return _replication_pad(x, padding)
    padded: Tensor = aten.pad.default(x, padding, mode, value)
    return padded


# --- others -------------------------------------------------------------------------------------


def _slice(
    x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """With its ends inside ``x``: PyTorch's rules take an end of 2^63 - 1 at its word."""
    first, last, _ = slice(start, end, step).indices(x.shape[dim])
    part: Tensor = aten.slice.Tensor(x, dim, first, last, step)
    return part


def _slice_scatter(
    x: Tensor,
    source: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:
    first, last, _ = slice(start, end, step).indices(x.shape[dim])
    written: Tensor = aten.slice_scatter.default(x, source, dim, first, last, step)
    return written


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _affine(torch.einsum("...i,kij,...j->...k", x, weight, y), None, bias)


def _hardshrink(x: Tensor, at: float = 0.5) -> Tensor:
    return torch.where(x.abs() <= at, torch.zeros_like(x), x)


def _softshrink(x: Tensor, at: float = 0.5) -> Tensor:
    return _hardshrink(x, at) - torch.where(x.abs() <= at, torch.zeros_like(x), at * x.sign())


def _hardsigmoid(x: Tensor) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


DEFINITIONS: Mapping[str, Callable[..., Any]] = {
    "aten::layer_norm": _layer_norm,
    "aten::rms_norm": _rms_norm,
    "aten::_fused_rms_norm": _rms_norm,
    "aten::group_norm": _group_norm,
    "aten::instance_norm": _instance_norm,
    "aten::avg_pool1d": _average_pool(1),
    "aten::avg_pool2d": _average_pool(2),
    "aten::avg_pool3d": _average_pool(3),
    "aten::adaptive_avg_pool1d": _adaptive_average_pool(1),
    "aten::adaptive_avg_pool2d": _adaptive_average_pool(2),
    "aten::_adaptive_avg_pool2d": _adaptive_average_pool(2),
    "aten::adaptive_avg_pool3d": _adaptive_average_pool(3),
    "aten::upsample_linear1d.vec": _interpolation(aten.upsample_linear1d.vec, 1),
    "aten::upsample_bilinear2d.vec": _interpolation(aten.upsample_linear1d.vec, 2),
    "aten::upsample_nearest1d.vec": _interpolation(aten.upsample_nearest1d.vec, 1),
    "aten::upsample_nearest2d.vec": _interpolation(aten.upsample_nearest1d.vec, 2),
    "aten::replication_pad1d": _replication_pad,
    "aten::replication_pad2d": _replication_pad,
    "aten::pad": _pad,
    "aten::slice.Tensor": _slice,
    "aten::slice_scatter": _slice_scatter,
    "aten::bilinear": _bilinear,
    "aten::hardshrink": _hardshrink,
    "aten::softshrink": _softshrink,
    "aten::hardsigmoid": _hardsigmoid,
}
"""By the op's name: the same function of the same arguments."""


# --- what PyTorch's rules call ------------------------------------------------------------------


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The three derivatives of a convolution, as convolutions."""
    spatial = x.dim() - 2
    stride, padding, dilation = (_each(v, spatial) for v in (stride, padding, dilation))
    zeros = [0] * spatial
    by_input = by_weight = by_bias = None
    if mask[0] and transposed:
        by_input = aten.convolution(
            grad, weight, None, stride, padding, dilation, False, zeros, groups
        )
    elif mask[0]:
        lost = [  # how much of the input's far end no window reached
            n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, s, p, d, k in zip(
                x.shape[2:], grad.shape[2:], stride, padding, dilation, weight.shape[2:],
                strict=True,
            )
        ]  # fmt: skip
        by_input = aten.convolution(
            grad, weight, None, stride, padding, dilation, True, lost, groups
        )
    if mask[1]:
        wide, narrow = (grad, x) if transposed else (x, grad)
        by_weight = _correlation(wide, narrow, weight, stride, padding, dilation, groups)
    if mask[2]:
        by_bias = grad.sum([0, *range(2, grad.dim())])
    return by_input, by_weight, by_bias


def _correlation(
    wide: Tensor,
    narrow: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Sums over n, i of narrow[n, a, i] wide[n, b, stride i + dilation k - padding], of (a, b, k):
    a convolution in which samples and channels, stride and dilation have changed places."""
    samples, channels = wide.shape[:2]
    spatial = [0] * (wide.dim() - 2)
    lines = wide.reshape(samples, groups, channels // groups, *wide.shape[2:])
    lines = lines.transpose(0, 2).reshape(channels // groups, groups * samples, *wide.shape[2:])
    found: Tensor = aten.convolution(
        lines, narrow.transpose(0, 1), None, dilation, padding, stride, False, spatial, groups
    ).transpose(0, 1)
    for d, k in enumerate(weight.shape[2:], 2):  # places beyond the kernel's last
        found = found.narrow(d, 0, k)
    return found


def _max_pool_backward(spatial: int) -> Callable[..., Tensor]:
    def rule(grad: Tensor, x: Tensor, *options: Any) -> Tensor:
        """``options``: how it was pooled, then which entry of its plane every output is."""
        taken: Tensor = options[-1].flatten(-spatial)
        planes = torch.zeros_like(x).flatten(-spatial)
        return planes.scatter_add(-1, taken, grad.flatten(-spatial)).reshape(x.shape)

    return rule


def backward_rules() -> dict[Any, Callable[..., Any]]:
    """How to write out the ops that PyTorch's rules call and its own decompositions leave."""
    return {
        aten.convolution_backward.default: _convolution_backward,
        aten.max_pool2d_with_indices_backward.default: _max_pool_backward(2),
        aten.max_pool3d_with_indices_backward.default: _max_pool_backward(3),
        aten.adaptive_max_pool2d_backward.default: _max_pool_backward(2),
    }
