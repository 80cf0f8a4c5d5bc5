"""The same architecture, small: what the numbers of a certificate are measured on (docs/proxy).

Configurations name their sizes in many ways, but the ways are few and regular, so a size shrinks
by what its name means; a size whose name means nothing here stays as it is. Layers are chosen so
that every kind of layer that the model has occurs, in the model's order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

WIDTH, HEADS, LAYERS, VOCABULARY = 64, 4, 2, 256
MOST_LAYERS = 6
"""Where a model has many kinds of layers, the first so many occur."""

CONTROL = [i for i in range(32) if chr(i) not in "\t\n\r"]
"""Token ids that the bytes of a text do not use; special tokens move there."""

DEPTH = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "encoder_layers",
    "decoder_layers", "num_encoder_layers", "num_decoder_layers",
)  # fmt: skip
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "embed_dim")
MAIN_HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
)  # fmt: skip


def reduce(values: Mapping[str, Any], outer: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The entries of a configuration like ``values``, small.

    Args:
        values: the entries of a configuration, or of a part of one.
        outer: those of the configuration around it, for what the part does not say itself.
    """
    sizes = {**(outer or {}), **values}
    tokens = _special_tokens(values)
    layers = _layers(values)
    small = {}
    for name, value in values.items():
        rule = next((r for pattern, r in MEANINGS if pattern.fullmatch(name)), None)
        if name in tokens:
            small[name] = tokens[name]
        elif isinstance(value, Mapping):
            small[name] = _scaled_rope(value, sizes) if "rope" in name else reduce(value, sizes)
        elif name in DEPTH and isinstance(value, int):
            small[name] = len(layers) or min(value, LAYERS)
        else:
            value = _of_layers(name, value, layers, values)
            small[name] = _apply(rule, name, value, sizes)
    return small
