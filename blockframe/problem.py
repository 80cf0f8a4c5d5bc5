"""What a spec resolves to: a module, its inputs, targets and loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from blockframe import checks
from blockframe.errors import InputError
from blockframe.initialize import Scheme

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
        init: ``default``, ``xavier``, ``he``, ``lecun`` or ``orthogonal``, and a scale if there
            is one (``xavier:0.5``, `blockframe.initialize.Scheme`).
        samples: how many samples (sequences, images, rows) to use, or None for the default.
        seed: seeds weights, random data and everything else drawn at random.
        full: build real weights at full size (``--full``); otherwise a large model is returned
            on the meta device with a small real ``proxy``.

    Raises:
        InputError: a value is not of its type; whether names exist, and whether there are as many
            samples, is for what reads them.
    """

    settings: Mapping[str, Any] = field(factory=dict)
    data: str | None = field(default=None, converter=checks.file_name)
    loss: str | None = None
    init: str = "default"
    samples: int | None = field(default=None, converter=checks.count)
    seed: int = field(default=0, converter=checks.seed)
    full: bool = False
    datasets: Mapping[str, Dataset] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        checks.named("settings", self.settings, "Give a dict of names and values.")
        if self.data is not None:
            checks.text("data", self.data, "Give the name of a data set, a file, or random.")
        if self.loss is not None:
            checks.text("loss", self.loss, "Give the name of a loss: mse or ce.")
        checks.text("init", self.init, "Give default, or xavier.")
        Scheme.of(self.init)
        checks.flag("full", self.full)


@frozen(eq=False)
class Problem:
    """A network and the data it is trained on.

    Attributes:
        module: the network, in any mode; it is analysed in evaluation mode and never changed.
            Parameters may live on the meta device if a ``proxy`` with real ones is given.
        inputs: positional tensors of ``module.forward``; the first dimension is the sample. They
            may hold numbers where the parameters do not.
        targets: what the loss compares the outputs with; None where no trajectory is wanted.
            ``mse``: the shape of the outputs. ``ce``: class indices, the shape of the outputs
            without its last dimension.
        loss: name of a loss, ``mse`` or ``ce`` or one that a plugin contributes.
        keywords: keyword arguments of ``forward``: dense tensors, or constants without tensors
            in them.
        output: which part of what ``forward`` returns is the network's output f, a key, an
            attribute or an index; None if it returns one tensor.
        spec: the name under which a certificate speaks of it.
        data: what the data is, in words.
        note: how a proxy was reduced, in words.
        proxy: the same architecture, reduced, with real weights (docs/proxy).
        buffers: values of buffers for which the module holds no numbers, by name.

    Raises:
        InputError: something is not what it is said to be here; a parameter is uninitialized, a
            tensor sparse or nested, or without numbers where the parameters have some.
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
    buffers: Mapping[str, Tensor] = field(factory=dict)

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
        checks.named("keywords", self.keywords, "Give a dict of forward's keyword arguments.")
        _check_plain(self.keywords)
        checks.text("loss", self.loss, "Give the name of a loss: mse or ce.")
        if isinstance(self.output, bool) or not isinstance(self.output, (str, int, type(None))):
            raise InputError(
                f"output must be a key, an index or None, not {self.output!r}",
                "Say which part of what forward returns is the network's output.",
            )
        if self.proxy is not None and not isinstance(self.proxy, Problem):
            raise InputError(f"proxy is {_describe(self.proxy)}", "Give a Problem, or None.")
        _check_initialized(self.module)
        given = {f"input {i}": x for i, x in enumerate(self.inputs)} | self._data()
        given |= {f"parameter {name}": p for name, p in self.module.named_parameters()}
        given |= {f"buffer {name}": b for name, b in self.module.named_buffers()}
        _check_dense(given)
        _check_memory(self.module)
        if self.has_weights:
            _check_numbers(self._data())

    def _data(self) -> dict[str, Tensor]:
        """Targets and tensors among the keywords, each with what an error calls it."""
        import torch

        targets = {} if self.targets is None else {"the targets tensor": self.targets}
        return targets | {
            f"keyword {name!r}": value
            for name, value in self.keywords.items()
            if isinstance(value, torch.Tensor)
        }

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
        """Where the parameters live; the inputs where there are none."""
        import torch

        tensors = [*self.module.parameters(), *self.inputs]
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def arguments(self) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """What the module is called with: inputs and keywords, without their numbers where the
        parameters have none."""
        import torch

        def placed(value: Any) -> Any:
            return value.to("meta") if isinstance(value, torch.Tensor) else value

        if not any(p.is_meta for p in self.module.parameters()):
            return self.inputs, dict(self.keywords)
        inputs = tuple(placed(x) for x in self.inputs)
        return inputs, {name: placed(value) for name, value in self.keywords.items()}

    @property
    def runnable(self) -> Problem | None:
        """The problem that numbers can be measured on: itself, its proxy, or None."""
        return self if self.has_weights else self.proxy


def _check_plain(keywords: Mapping[str, Any]) -> None:
    """The graph numbers the tensors among the keywords; it does not look into containers."""
    import torch
    from torch.utils._pytree import tree_leaves

    for name, value in keywords.items():
        if isinstance(value, torch.Tensor):
            continue
        if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value)):
            raise InputError(
                f"keyword {name!r} holds tensors inside a {type(value).__name__}",
                "Wrap the module in one whose forward takes each tensor as an argument of its own.",
            )


def _check_memory(module: nn.Module) -> None:
    """An optimiser cannot move the entries of a parameter that repeats itself one by one."""
    for name, parameter in module.named_parameters():
        repeated = zip(parameter.shape, parameter.stride(), strict=True)
        if any(size > 1 and stride == 0 for size, stride in repeated):
            raise InputError(
                f"entries of parameter {name} share memory (it is an expanded tensor)",
                "Make it a tensor of its own: parameter.data.clone().",
            )


def _check_initialized(module: nn.Module) -> None:
    from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise InputError(
                f"{name} of the {type(module).__name__} is not initialized: a lazy layer has no "
                "shape before its first call",
                "Call the module once on its inputs, then give it here.",
            )


def _check_dense(tensors: Mapping[str, Tensor]) -> None:
    import torch

    for name, tensor in tensors.items():
        if tensor.is_nested:
            raise InputError(f"{name} is a nested tensor", "Pad it to one shape.")
        if tensor.layout != torch.strided:
            form = str(tensor.layout).removeprefix("torch.")
            raise InputError(f"{name} is not dense but {form}", "Give tensor.to_dense().")


def _check_numbers(data: Mapping[str, Tensor]) -> None:
    for name, tensor in data.items():
        if tensor.is_meta:
            raise InputError(
                f"{name} is on the meta device and holds no numbers, unlike the parameters",
                "Give a tensor with numbers.",
            )


def _describe(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return (
            f"{type(value).__name__} of {', '.join(type(v).__name__ for v in value) or 'nothing'}"
        )
    return type(value).__name__
