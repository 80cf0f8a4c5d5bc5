"""From a spec and ``--set`` to a configuration."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers import __version__ as version
from transformers.activations import ACT2FN

from blockframe.errors import SpecError
from blockframe.foreign import foreign
from blockframe.naming import suggestion

OURS = frozenset(
    {
        "architectures", "attn_implementation", "auto_map", "chunk_size_feed_forward", "dtype",
        "experts_implementation", "model_type", "name_or_path", "output_attentions",
        "output_hidden_states", "quantization_config", "return_dict", "torch_dtype",
        "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Attributes that say how a model is run, stored or fetched, not what function it is."""

FOREIGN = ("auto_map", "quantization_config", "attn_implementation", "experts_implementation")
"""Keys of a file that would bring in code, kernels or number formats of their own."""


def configuration(spec: str, settings: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration that ``spec``, a model type or a directory, stands for.

    Args:
        settings: attribute → value; ``text_config.hidden_size`` reaches into a part.

    Raises:
        SpecError: no such model type, an unreadable file, an unknown setting, a wrong value.
    """
    directory = Path(spec)
    values: dict[str, Any] = {}
    if (directory / "config.json").is_file():
        values = {"model_type": None, **_read(directory / "config.json")}
    model_type = str(values.get("model_type", spec))
    if model_type not in CONFIG_MAPPING:
        raise SpecError(
            f"{spec} is of model type '{model_type}', which transformers {version} does not know",
            "Code of a directory is never run; use a release of transformers that has the type.",
        )
    kind = CONFIG_MAPPING[model_type]
    plain = _make(kind, values, spec)
    if not settings:
        return plain
    for name, value in settings.items():
        _check(plain, name, value, spec)
        _put(values, kind.attribute_map.get(name, name).split("."), value)
    return _make(kind, values, spec)


def parts(config: PreTrainedConfig) -> dict[str, PreTrainedConfig]:
    """The configurations inside ``config``, by attribute."""
    return {k: v for k, v in vars(config).items() if isinstance(v, PreTrainedConfig)}


def attributes(config: PreTrainedConfig) -> list[str]:
    """What can be set, parts with a dot."""
    own = {f.name for f in fields(type(config))} | vars(config).keys() | config.attribute_map.keys()
    own |= {"num_labels"}
    names = [n for n in own if not n.startswith("_") and n not in OURS]
    for part, inner in parts(config).items():
        names.remove(part)
        names += [f"{part}.{name}" for name in attributes(inner)]
    return sorted(names)


def _check(config: PreTrainedConfig, name: str, value: Any, spec: str) -> None:
    known = attributes(config)
    if name not in known:
        remedy = suggestion(name, known)
        # Someone who writes hidden_size should learn of text_config.hidden_size.
        inner = [k for k in known if k.endswith(f".{name}")]
        if inner:
            remedy = f"Did you mean {', '.join(inner)}?"
        raise SpecError(f"{spec} has no setting '{name}'", remedy)
    default = vars(config).get(config.attribute_map.get(name, name))
    if isinstance(default, str) and default in ACT2FN and str(value) not in ACT2FN:
        raise SpecError(f"there is no activation '{value}'", suggestion(str(value), ACT2FN))
    if type(default) is int and default > 0 and type(value) is int and value < 0:
        raise SpecError(f"{spec}: {name} cannot be {value}", f"It is {default} by default.")


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def _make(kind: type[PreTrainedConfig], values: Mapping[str, Any], spec: str) -> PreTrainedConfig:
    with foreign(lambda why: SpecError(f"{spec} cannot be configured ({why})", _VALUES)):
        config = kind.from_dict(copy.deepcopy(dict(values)))
        # Some types leave these to checkpoints; what they then mean is the same everywhere.
        if vars(config).get("num_key_value_heads", 0) is None:
            config.num_key_value_heads = config.num_attention_heads
        if vars(config).get("head_dim", 0) is None:
            config.head_dim = config.hidden_size // config.num_attention_heads
        return config


_FILE = "It must be a configuration of transformers."
_VALUES = "Look at the values given with --set, or in config.json."


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{file} cannot be read ({error})", "It must hold one JSON object."
        ) from error
    if not isinstance(values, dict):
        raise SpecError(
            f"{file} holds no JSON object", "It must be a configuration of transformers."
        )
    return {k: v for k, v in values.items() if k not in FOREIGN}
