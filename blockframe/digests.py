"""SHA-256 of what a run starts from, so that a replay can tell whether it starts from the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from blockframe.problem import Problem


def digests(problem: Problem | None) -> dict[str, str]:
    """Of ``data`` (inputs, keyword tensors, targets) and of the ``start`` θ_0; {} without numbers.

    docs/certificate says which bytes.
    """
    import torch

    if problem is None or not problem.has_weights:
        return {}
    data = {f"input {i}": x for i, x in enumerate(problem.inputs)}
    tensors = {k: v for k, v in problem.keywords.items() if isinstance(v, torch.Tensor)}
    data |= {f"keyword {k}": tensors[k] for k in sorted(tensors)}
    if problem.targets is not None:
        data["targets"] = problem.targets
    theta = (p for p in problem.module.parameters() if p.requires_grad)
    return {
        "data": _digest((f"{name} {list(x.shape)}\n", x) for name, x in data.items()),
        "start": _digest(("", p) for p in theta),
    }


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    import torch

    found = hashlib.sha256()
    for title, tensor in tensors:
        plain = tensor.detach()
        if plain.is_complex():
            plain = torch.view_as_real(plain.resolve_conj())
        found.update(title.encode())
        numbers = plain.to("cpu", torch.float64).contiguous().numpy()
        found.update(numbers.astype("<f8", copy=False).tobytes())
    return found.hexdigest()
