"""Ops that choose among operands or entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blockframe.atoms.facts import Arguments, Keywords, Selection

if TYPE_CHECKING:
    from torch import Tensor


def _second(args: Arguments, kwargs: Keywords, value: Any) -> Any:
    return value[1]


def _reduced(choice: Tensor, x: Tensor, dim: int, keepdim: bool = False) -> Any:
    index = choice if keepdim or x.dim() == 0 else choice.unsqueeze(dim)
    taken = x.gather(dim, index)
    return (taken if keepdim or x.dim() == 0 else taken.squeeze(dim)), choice


def _kth(choice: Tensor, x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    return _reduced(choice, x, dim, keepdim)


def _topk(choice: Tensor, x: Tensor, k: int, dim: int = -1, *args: Any, **kwargs: Any) -> Any:
    return x.gather(dim, choice), choice


def _sorted(choice: Tensor, x: Tensor, dim: int = -1, *args: Any, **kwargs: Any) -> Any:
    return x.gather(dim, choice), choice


def _stably_sorted(choice: Tensor, x: Tensor, *args: Any, dim: int = -1, **kwargs: Any) -> Any:
    return x.gather(dim, choice), choice


def _flat(largest: bool) -> Any:
    def choice(args: Arguments, kwargs: Keywords, value: Any) -> Any:
        flat = args[0].flatten()
        return flat.argmax() if largest else flat.argmin()

    return choice


def _flat_chosen(choice: Tensor, x: Tensor) -> Tensor:
    return x.flatten()[choice]


def _over(x: Tensor, dim: Any) -> tuple[Tensor, list[int]]:
    """``x`` with the reduced dimensions last and flattened, and which ones they are."""
    given = [dim] if isinstance(dim, int) else list(dim or range(x.dim()))
    dims = sorted(d % x.dim() for d in given) if x.dim() else []
    kept = [d for d in range(x.dim()) if d not in dims]
    return x.permute(*kept, *dims).reshape([x.shape[d] for d in kept] + [-1]), dims


def _extreme(largest: bool) -> Any:
    def choice(args: Arguments, kwargs: Keywords, value: Any) -> Any:
        dim = args[1] if len(args) > 1 else kwargs.get("dim", ())
        flat, _ = _over(args[0], dim)
        return flat.argmax(-1) if largest else flat.argmin(-1)

    return choice


def _extreme_chosen(choice: Tensor, x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    flat, dims = _over(x, dim)
    taken = flat.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
    for d in dims if keepdim else ():
        taken = taken.unsqueeze(d)
    return taken


def _first_is_larger(args: Arguments, kwargs: Keywords, value: Any) -> Any:
    return args[0] > args[1]


def _smaller(choice: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _where(choice, b, a)


def _where(choice: Tensor, a: Tensor, b: Tensor) -> Tensor:
    import torch

    return torch.where(choice, a, b)


def _pool(dims: int, adaptive: bool = False) -> Any:
    """Which entry of its window every output of a max pooling is."""

    def choice(args: Arguments, kwargs: Keywords, value: Any) -> Any:
        from torch.nn import functional as F

        pool = getattr(F, f"{'adaptive_' if adaptive else ''}max_pool{dims}d")
        names = () if adaptive else ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        options = {**dict(zip(names, args[1:], strict=False)), **kwargs}
        if not options.get("stride", True):
            options.pop("stride")  # an empty list: the kernel's size
        found = pool(args[0], *(args[1:] if adaptive else ()), **options, return_indices=True)
        return found[1]

    return choice


def _pooled(dims: int, with_indices: bool = False) -> Any:
    def chosen(choice: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        taken = x.flatten(-dims).gather(-1, choice.flatten(-dims)).reshape(choice.shape)
        return (taken, choice) if with_indices else taken

    return chosen


SELECTIONS = (
    # A choice by a condition is linear in what it chooses from; the condition is where it jumps.
    Selection(
        (
            "aten::where.self",
            "aten::where.ScalarOther",
            "aten::where.ScalarSelf",
            "aten::where.Scalar",
        ),
        chooser=0,
        order=0,
        parts=(1, 2),
    ),
    Selection(
        ("aten::masked_fill.Scalar", "aten::masked_fill.Tensor"), chooser=1, order=0, parts=(2, 0)
    ),
    Selection(
        ("aten::max.dim", "aten::min.dim", "aten::median.dim"), choice=_second, chosen=_reduced
    ),
    Selection("aten::kthvalue", choice=_second, chosen=_kth),
    Selection("aten::max", choice=_flat(True), chosen=_flat_chosen),
    Selection("aten::min", choice=_flat(False), chosen=_flat_chosen),
    Selection("aten::amax", choice=_extreme(True), chosen=_extreme_chosen),
    Selection("aten::amin", choice=_extreme(False), chosen=_extreme_chosen),
    Selection(
        ("aten::maximum", "aten::max.other", "aten::fmax"), choice=_first_is_larger, chosen=_where
    ),
    Selection(
        ("aten::minimum", "aten::min.other", "aten::fmin"), choice=_first_is_larger, chosen=_smaller
    ),
    Selection("aten::topk", choice=_second, chosen=_topk),
    Selection("aten::sort", choice=_second, chosen=_sorted),
    Selection("aten::sort.stable", choice=_second, chosen=_stably_sorted),
    Selection(("aten::cummax", "aten::cummin"), choice=_second, chosen=_sorted),
    Selection("aten::max_pool1d", choice=_pool(1), chosen=_pooled(1)),
    Selection("aten::max_pool2d", choice=_pool(2), chosen=_pooled(2)),
    Selection("aten::max_pool3d", choice=_pool(3), chosen=_pooled(3)),
    Selection("aten::max_pool2d_with_indices", choice=_second, chosen=_pooled(2, True)),
    Selection("aten::max_pool3d_with_indices", choice=_second, chosen=_pooled(3, True)),
    Selection("aten::adaptive_max_pool1d", choice=_second, chosen=_pooled(1, True)),
    Selection("aten::adaptive_max_pool2d", choice=_second, chosen=_pooled(2, True)),
    # no witness is sought for these
    Selection(
        (
            "aten::median",
            "aten::aminmax",
            "aten::clamp.Tensor",
            "aten::clamp_min.Tensor",
            "aten::clamp_max.Tensor",
            "aten::mode",
            "aten::fractional_max_pool2d",
        )
    ),
)
