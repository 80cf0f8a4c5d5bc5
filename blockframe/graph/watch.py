"""What a forward does that its traced graph does not show, seen by running it.

A mode that sees every call of the torch API follows which values depend on parameters, and
reports where their gradient is stopped, a number is taken out of them, or a hook is set.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from blockframe.graph.graph import Location
from blockframe.graph.location import from_stack

_HOOKS = {"register_hook", "register_post_accumulate_grad_hook"}
_TAKEN_OUT = {
    "__bool__", "__float__", "__int__", "__index__", "__complex__", "item", "tolist", "numpy",
    "is_nonzero", "equal", "allclose", "__contains__",
}  # fmt: skip
_ONE_BY_ONE = {"broadcast_tensors", "meshgrid", "atleast_1d", "atleast_2d", "atleast_3d"}
"""Their i-th value is made from the i-th operand alone."""
_OF_SHAPE = {
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like",
    "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided",
}  # fmt: skip


class Watch(TorchFunctionMode):
    """Records, by name of the torch function: gradients that stop, numbers that are taken out of
    varying values, and hooks that are registered. Works where gradients are recorded."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        # Kept alive, so that no id is used twice while the forward runs.
        self.varying: dict[int, Tensor] = {id(p): p for p in parameters if p.requires_grad}
        self.chosen: dict[int, Tensor] = {}  # piecewise constant: masks, positions
        # with the model's line, and the custom autograd.Function in whose forward, or ""
        self.stopped: dict[tuple[str, Location | None, str], None] = {}
        self.taken: dict[str, None] = {}
        self.hooks: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _name(func)
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        varying = any(id(t) in self.varying or t.requires_grad for t in tensors)
        if name in _HOOKS:
            self.hooks[name] = None
        chosen = any(id(t) in self.chosen for t in tensors)
        if (varying or chosen) and name in _TAKEN_OUT:
            self.taken[name] = None
        followed = [t.requires_grad for t in tensors]  # before the call, which can stop it in place
        result = func(*args, **(kwargs or {}))
        paired = name in _ONE_BY_ONE and not isinstance(result, Tensor)
        if varying and paired and len(tensors) == len(result):
            for source, value, one in zip(tensors, result, followed, strict=True):
                if id(source) in self.varying or source.requires_grad:
                    self._follow(name, (), value, one)
        elif varying and name not in _OF_SHAPE:
            self._follow(name, args, result, any(followed))
        elif chosen:
            values = pytree.tree_leaves(result)
            self.chosen |= {id(v): v for v in values if isinstance(v, Tensor)}
        return result

    def _follow(self, name: str, args: Any, result: Any, followed: bool) -> None:
        """``followed``: whether a gradient reached the operands; else it was stopped before."""
        values = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        if (name.endswith("_") and not name.endswith("__")) or name == "__setitem__":
            written = args[0] if args and isinstance(args[0], Tensor) else None
            if written is not None:
                values.append(written)
                if not torch.is_grad_enabled():
                    self._stop(f"{name} where gradients are off")
        for value in values:
            if value.dtype.is_floating_point or value.dtype.is_complex:
                self.varying[id(value)] = value
                if followed and not value.requires_grad:
                    self._stop(name)
            else:
                self.chosen[id(value)] = value

    def _stop(self, name: str) -> None:
        self.stopped[name, from_stack(), _custom_function()] = None


def _custom_function() -> str:
    """The name of the custom autograd.Function whose forward is running; "" if none is."""
    frame, apply = sys._getframe(), torch.autograd.Function.apply
    while frame is not None:
        if frame.f_code is apply.__func__.__code__:  # type: ignore[attr-defined]
            return str(frame.f_locals["cls"].__name__)
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _name(func: Any) -> str:
    """``exp``; of an attribute's getter (``Tensor.data.__get__``) the attribute."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name


@contextmanager
def saved_tensor_hooks() -> Iterator[list[str]]:
    """The names of saved-tensor hooks that are entered; those of activation checkpoints, which
    recompute and change nothing, do not count."""
    seen: list[str] = []
    hooks = torch.autograd.graph.saved_tensors_hooks
    enter = hooks.__enter__

    def watched(self: Any) -> Any:
        if type(self).__module__ != "torch.utils.checkpoint":
            seen.append(type(self).__name__)
        return enter(self)

    hooks.__enter__ = watched  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        hooks.__enter__ = enter  # type: ignore[method-assign]


def state(module: torch.nn.Module) -> dict[str, object]:
    """What a forward could change of a module: plain attributes, and which tensors it holds."""
    found: dict[str, object] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        found[name] = id(tensor)
    for path, part in module.named_modules():
        for key, value in vars(part).items():
            name = f"{path}.{key}" if path else key
            if isinstance(value, (bool, int, float, str)) or value is None:
                found[name] = value
            elif key not in _MACHINERY:
                found[name] = _outline(value, 3)
    return found


_MACHINERY = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}


def _outline(value: object, depth: int) -> object:
    """What can be compared of a value: plain ones, tensors by identity, containers item by item."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, Mapping) and depth and len(value) <= 1000:
        return {str(k): _outline(v, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, deque)) and depth and len(value) <= 1000:
        return [_outline(v, depth - 1) for v in value]
    return id(value)


def changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """The attributes that differ."""
    names = before.keys() | after.keys()
    return sorted(n for n in names if before.get(n, changed) != after.get(n, changed))
