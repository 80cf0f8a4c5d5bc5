"""What a spec resolves to: a module, its inputs, targets and loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from blockframe.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from blockframe.data import Dataset


@frozen(eq=False)
class Request:
    """What the user asked of a resolver, beside the spec itself.

    Attributes:
        settings: ``--set key=value`` pairs, values parsed as JSON where they can be, else strings.
            A resolver refuses a key it does not know (`SpecError`).
        data: ``--data``: a dataset name, a file, ``random``, or None for the resolver's default.
        datasets: what plugins contribute for ``data`` to name (`blockframe.data.find`).
        loss: ``--loss``: a loss name, or None for the resolver's default.
        init: ``default``, ``xavier``, ``he`` or ``lecun``.
        samples: how many samples (sequences, images, rows) to use, or None for the default.
        seed: seeds weights, random data and everything else drawn at random.
        full: build real weights at full size (``--full``); otherwise a large model is returned
            on the meta device with a small real ``proxy``.
    """

    settings: Mapping[str, Any] = field(factory=dict)
    data: str | None = None
    loss: str | None = None
    init: str = "default"
    samples: int | None = None
    seed: int = 0
    full: bool = False
    datasets: Mapping[str, Dataset] = field(factory=dict)


@frozen(eq=False)
class Problem:
    """A network and the data it is trained on.

    Attributes:
        module: the network, in any mode; it is analysed in evaluation mode and never changed.
            Parameters may live on the meta device if a ``proxy`` with real ones is given.
        inputs: positional tensors of ``module.forward``; the first dimension is the sample.
        targets: what the loss compares the outputs with; None where no trajectory is wanted.
            ``mse``: the shape of the outputs. ``ce``: class indices, the shape of the outputs
            without its last dimension.
        loss: name of a loss, ``mse`` or ``ce`` or one that a plugin contributes.
        keywords: keyword arguments of ``forward`` (tensors or plain constants).
        output: which part of what ``forward`` returns is the network's output f, a key, an
            attribute or an index; None if it returns one tensor.
        spec: the name under which a certificate speaks of it.
        data: what the data is, in words.
        note: how a proxy was reduced, in words.
        proxy: the same architecture, reduced, with real weights (docs/proxy).
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    targets: Tensor | None = None
    loss: str = "mse"
    keywords: Mapping[str, Any] = field(factory=dict)
    output: str | int | None = None
    spec: str = ""
    data: str = ""
    note: str = ""
    proxy: Problem | None = None

    def __attrs_post_init__(self) -> None:
        import torch

        if not isinstance(self.module, torch.nn.Module):
            raise InputError(
                f"a {type(self.module).__name__} is not a torch.nn.Module",
                "Give (module, inputs), or (module, inputs, targets).",
            )
        if not isinstance(self.inputs, tuple) or not all(
            isinstance(x, torch.Tensor) for x in self.inputs
        ):
            raise InputError(
                "inputs must be a tuple of tensors",
                f"Write (x,) for one input; got {_describe(self.inputs)}.",
            )
        if self.targets is not None and not isinstance(self.targets, torch.Tensor):
            raise InputError("targets must be a tensor or None", f"Got {_describe(self.targets)}.")

    @property
    def parameters(self) -> int:
        """Number of parameters, a shared one counted once."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def has_weights(self) -> bool:
        """Whether the parameters and buffers hold numbers (are not on the meta device)."""
        tensors = [*self.module.parameters(), *self.module.buffers(), *self.inputs]
        return not any(t.is_meta for t in tensors)

    @property
    def device(self) -> torch.device:
        """Where the inputs live; the parameters where there are none."""
        import torch

        tensors = [*self.inputs, *self.module.parameters()]
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def runnable(self) -> Problem | None:
        """The problem that numbers can be measured on: itself, its proxy, or None."""
        return self if self.has_weights else self.proxy


def _describe(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return (
            f"{type(value).__name__} of {', '.join(type(v).__name__ for v in value) or 'nothing'}"
        )
    return type(value).__name__
