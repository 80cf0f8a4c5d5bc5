"""From a configuration to a module: on the meta device, with random weights, or with a file's."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from attrs import frozen
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from blockframe.errors import InputError, SpecError
from blockframe.foreign import foreign
from blockframe_transformers.configs import parts
from blockframe_transformers.names import TABLES, classes

RUN: dict[str, Any] = {
    "dtype": torch.float32,
    "attn_implementation": "eager",  # matrix products and softmax, every op in the graph
    "experts_implementation": "batched_mm",  # experts by indexing, not by a loop over the data
}
"""How every model is run."""


@frozen
class Architecture:
    """A configuration and the class that is built from it.

    ``remedy``: what to look at where the configuration makes no model.
    """

    task: str
    config: PreTrainedConfig
    kind: type[PreTrainedModel]
    remedy: str = ""


def architecture(config: PreTrainedConfig, spec: str, remedy: str = "") -> Architecture:
    """What is built from ``config``: the class it names if it has a task, else the first task's.

    Of a model that also sees or hears, the language part is taken where that is a model of its own.

    Raises:
        SpecError: no class of this type does one of the tasks, or a package is missing.
    """
    text = config.get_text_config(decoder=True)
    if {config.model_type, text.model_type} <= classes()["causal"].keys():
        config = config if text.model_type == config.model_type else text
    known = {task: classes()[task].get(config.model_type, ()) for task in TABLES}
    named = set(config.architectures or ())
    for task, names in sorted(known.items(), key=lambda item: not named & set(item[1])):
        if names:
            name = next((n for n in names if n in named), names[0])
            with foreign(lambda why: SpecError(f"{spec} cannot be imported ({why})", _INSTALL)):
                kind = getattr(transformers, name)
            # A class can be that of a part: the decoder, the language model.
            inner = [c for c in parts(config).values() if type(c) is kind.config_class]
            return Architecture(task, inner[0] if inner else config, kind, remedy)
    raise SpecError(
        f"{spec} is no language model and no image classifier (model type {config.model_type})",
        "blockframe plugins list shows what can be resolved.",
    )


_INSTALL = "Install the package that it needs."


def on_meta(arch: Architecture, spec: str) -> PreTrainedModel:
    """The module without numbers: shapes only, whatever its size.

    Raises:
        SpecError: the configuration makes no model.
    """
    # Filling weights that hold no numbers is most of the time of building; tying comes with it.
    with _building(arch, spec), torch.device("meta"), no_init_weights():
        model = _construct(arch)
    model.tie_weights()
    return model


def buffers(model: PreTrainedModel) -> dict[str, Tensor]:
    """What the buffers of a module without numbers hold once its class has filled them, by name.

    Those that its class fills elsewhere, or with the numbers of parameters, are left out.
    """
    filled = copy.deepcopy(model)
    for module in filled.modules():
        own = dict(module.named_buffers(recurse=False))
        for name, buffer in own.items():
            mark = torch.iinfo(buffer.dtype).min if _counts(buffer) else math.nan
            module._buffers[name] = torch.full_like(buffer, mark, device="cpu")
        if own:
            try:
                with foreign(SpecError), torch.no_grad():
                    filled._init_weights(module)  # type: ignore[no-untyped-call]
            except SpecError:  # it wants numbers of parameters, or has no such method
                continue
    return {n: b.detach() for n, b in filled.named_buffers() if _is_filled(b)}


def _counts(buffer: Tensor) -> bool:
    return not (buffer.is_floating_point() or buffer.is_complex() or buffer.dtype is torch.bool)


def _is_filled(buffer: Tensor) -> bool:
    if buffer.is_meta or buffer.dtype is torch.bool:
        return False
    mark = buffer == torch.iinfo(buffer.dtype).min if _counts(buffer) else buffer.isnan()
    return not bool(mark.any())


def random(arch: Architecture, seed: int, spec: str) -> PreTrainedModel:
    """The module with the weights that its class draws, in float32.

    Raises:
        SpecError: the configuration makes no model.
    """
    with _building(arch, spec), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return _construct(arch)


def has_safetensors(directory: Path) -> bool:
    """Whether there are weights in ``directory`` that can be read without unpickling."""
    return any(directory.glob("*.safetensors"))


def stored(
    arch: Architecture, directory: Path, spec: str
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The module with the weights in ``directory``, from safetensors only, in float32.

    Returns:
        The module, and the names of weights in the directory that it has no place for.

    Raises:
        InputError: there are none, or they do not fit.
    """
    if not has_safetensors(directory):
        raise InputError(
            f"{spec} holds no weights in safetensors, and nothing else is read",
            "Convert them: load the model with transformers, then model.save_pretrained(DIR).",
        )
    with foreign(lambda why: InputError(f"{spec} cannot be loaded ({why})", _WEIGHTS)):
        loaded: Any = arch.kind.from_pretrained(
            directory,
            config=_prepared(arch.config),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **RUN,
        )
    model, info = loaded
    for name, there, wanted in sorted(info["mismatched_keys"]):
        shapes = f"shape {tuple(there)} and not {tuple(wanted)}"
        raise InputError(f"{name} in {spec} has {shapes}", _WEIGHTS)
    if missing := first(info["missing_keys"]):
        raise InputError(f"the weights in {spec} lack {missing}", _WEIGHTS)
    return cast(PreTrainedModel, model.eval()), tuple(info["unexpected_keys"])


_WEIGHTS = (
    "They must be the complete weights of the model that config.json and --set describe; "
    "a directory with nothing but a config.json starts from random ones."
)


def first(names: Iterable[str]) -> str:
    """``h.0.ln_1.weight and 3 more``; "" of none."""
    names = sorted(names)
    return (names[0] if names else "") + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def check_memory(model: PreTrainedModel, spec: str) -> None:
    """Refuses a model whose weights alone exceed the machine's memory.

    Raises:
        InputError: they do.
    """
    need = 4 * sum(p.numel() for p in model.parameters()) / 1e9
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if need > have:
        raise InputError(
            f"{spec} has weights of {need:.0f} GB, and this machine has {have:.0f} GB of memory",
            "Leave out --full: the structure is analysed at full size, numbers on a proxy.",
        )


def _building(arch: Architecture, spec: str) -> AbstractContextManager[None]:
    return foreign(lambda why: SpecError(f"{spec} cannot be built ({why})", arch.remedy))


def _construct(arch: Architecture) -> PreTrainedModel:
    # _from_config, unlike the class itself, also installs what collects hidden states.
    model = arch.kind._from_config(_prepared(arch.config), **RUN)  # type: ignore[no-untyped-call]
    return cast(PreTrainedModel, model.eval())


def _prepared(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of ``config`` without a cache, in all its parts."""
    config = copy.deepcopy(config)
    for inner in (config, *parts(config).values()):
        if hasattr(inner, "use_cache"):
            inner.use_cache = False
    return config
