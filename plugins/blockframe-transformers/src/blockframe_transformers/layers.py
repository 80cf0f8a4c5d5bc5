"""Which layers a small model keeps: the first of every kind that the large one has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LAYERS = 2
"""As many are kept at least."""
MOST = 6
"""Of a model with more kinds of layers than that, the first so many kinds are kept."""

DEPTH = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "encoder_layers",
    "decoder_layers", "num_encoder_layers", "num_decoder_layers",
)  # fmt: skip
POSITIONS = re.compile(r"(\w+_)?(layers|layer_ids|idxs|indices|indexes)")
"""Names of lists that hold numbers of layers."""
DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
"""Names of numbers k such that the layers before the k-th are of another kind."""


class Choice:
    """The layers that are kept of those that ``values``, a configuration's entries, describe.

    ``copies``: how many of every kind.
    """

    def __init__(self, values: Mapping[str, Any], copies: int = 1) -> None:
        self.values = values
        self.depth = next((d for n in DEPTH if isinstance(d := values.get(n), int)), 0)
        kinds = [self._kind(layer) for layer in range(self.depth)]
        firsts = [i for i, kind in enumerate(kinds) if kinds[:i].count(kind) < copies]
        firsts = firsts[: max(copies, MOST)]
        others = [layer for layer in range(self.depth) if layer not in firsts]
        self.kept = sorted(firsts + others[: max(0, LAYERS - len(firsts))])

    def entry(self, name: str) -> Any:
        """``values[name]`` as it must be for the layers that are kept."""
        value = self.values[name]
        if name == "per_layer_config" and isinstance(value, dict):
            own = {new: self._own(old) for new, old in enumerate(self.kept)}
            return {str(layer): entries for layer, entries in own.items() if entries}
        if name in DEPTH and isinstance(value, int):
            return len(self.kept) if value == self.depth else min(value, LAYERS)
        if name == "attention_types" and "attention_layers" in self.values:  # [[[kinds], repeats]]
            return [[[self.values["attention_layers"][layer] for layer in self.kept], 1]]
        if name in DENSE_FIRST and isinstance(value, int):
            return sum(layer < value for layer in self.kept)
        if self._lists_layers(name):
            return [new for new, old in enumerate(self.kept) if old in value]
        if self._is_per_layer(name):
            return [value[layer] for layer in self.kept]
        if self._is_cycle(name):
            return [value[layer % len(value)] for layer in self.kept]
        if (period := self._period(name)) is not None:
            return period[name.endswith("_offset")]
        return value

    def _kind(self, layer: int) -> tuple[Any, ...]:
        """Everything that the entries say about one layer."""
        said: list[Any] = [str(self._own(layer))]
        for name, value in self.values.items():
            if self._lists_layers(name):
                said.append(layer in value)
            elif self._is_per_layer(name):
                said.append(str(value[layer]))
            elif self._is_cycle(name):
                said.append(value[layer % len(value)])
            elif name in DENSE_FIRST and isinstance(value, int):
                said.append(layer < value)
            elif name.endswith("_period") and (pair := self._pair(name)):
                said.append(layer % pair[0] == pair[1])
        return tuple(said)

    def _own(self, layer: int) -> dict[str, Any]:
        """What a layer has that the others have not."""
        own = self.values.get("per_layer_config") or {}
        return next((entries for key, entries in own.items() if int(key) == layer), {})

    def _lists_layers(self, name: str) -> bool:
        value = self.values[name]
        return (
            isinstance(value, Sequence)
            and bool(POSITIONS.fullmatch(name))
            and all(type(v) is int and 0 <= v < self.depth for v in value)
            and list(value) == sorted(set(value))
            and (len(value) != self.depth or list(value) == list(range(self.depth)))
        )

    def _is_per_layer(self, name: str) -> bool:
        value = self.values[name]
        return isinstance(value, (list, tuple)) and len(value) == self.depth > 0

    def _is_cycle(self, name: str) -> bool:
        """Whether a short list of kinds is repeated over the layers."""
        value = self.values[name]
        return (
            name.endswith(("block_types", "_pattern"))
            and isinstance(value, (list, tuple))
            and 0 < len(value) < self.depth
            and all(isinstance(v, str) for v in value)
        )

    def _pair(self, name: str) -> tuple[int, int] | None:
        """The entries ``*_period`` and ``*_offset``, where both are numbers."""
        stem = name.rpartition("_")[0]
        period, offset = self.values.get(f"{stem}_period"), self.values.get(f"{stem}_offset")
        return (period, offset) if isinstance(period, int) and isinstance(offset, int) else None

    def _period(self, name: str) -> tuple[int, int] | None:
        """The period and offset that pick the same of the layers that are kept."""
        if not name.endswith(("_period", "_offset")) or not (pair := self._pair(name)):
            return None
        wanted = [layer % pair[0] == pair[1] for layer in self.kept]
        candidates = ((p, o) for p in range(1, len(wanted) + 2) for o in range(p))
        return next(
            (c for c in candidates if [i % c[0] == c[1] for i in range(len(wanted))] == wanted),
            pair,
        )
